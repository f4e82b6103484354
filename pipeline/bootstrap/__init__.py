"""What a bare machine may lack: a Docker engine and a base image; and a check of what is there."""
