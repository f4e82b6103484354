"""Run agents: Compose projects made from compose.yaml, their list, their logs, and the lifecycle check."""
