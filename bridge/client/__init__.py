"""The part that runs in the container: the client, and the commands that Claude runs there. Standard library only."""
