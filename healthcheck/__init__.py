"""Health over HTTP: checks, server, agent-status. Standard library only."""
