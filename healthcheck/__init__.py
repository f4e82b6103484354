"""Health over HTTP: checks, the server, `agent-status`. Imports the bridge's client and nothing of `agent`."""
