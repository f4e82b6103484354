"""The operator's side: the command, the socket that it speaks to, the doctor."""
