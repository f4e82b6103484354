"""Where the CLI of a call runs: its namespace, its process, its pipes and its network."""
