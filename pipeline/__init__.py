"""The library behind the tasks: bootstrap, build, release, agents, bridge. It imports no Invoke."""

__version__ = "0.1.0"
