"""The library behind the tasks: bootstrap, build, release, agents, bridge. It does not import Invoke."""
