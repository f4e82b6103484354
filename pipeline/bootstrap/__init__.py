"""What a bare machine lacks: a Docker engine, a base image, and a look at what is there."""
