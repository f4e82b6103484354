"""Run agents: Compose projects of compose.yaml, the list of them, their logs, and a check of their life."""
