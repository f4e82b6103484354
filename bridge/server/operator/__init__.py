"""For the operator: the command line, its API, the socket to the running server, the doctor."""
