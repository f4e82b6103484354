"""Runs the CLI of a call: its namespace, its process, its pipes and its network."""
