"""The Claude Code bridge: host server, container client, protocol, policy."""
