"""What runs inside the container: supervisor, tmux session, volumes, state. Standard library only."""
