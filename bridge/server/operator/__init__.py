"""What an operator uses: the command line, its API, the socket to the running server, the doctor."""
