"""The library behind the tasks: bootstrap, build, release, agents, bridge. It imports no Invoke."""
