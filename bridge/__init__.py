"""The Claude Code bridge: host server, container client, protocol, policy."""

__version__ = "0.1.0"
