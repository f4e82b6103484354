"""The server's access to its host: configuration, grants, directories, credentials, the CLI, logs."""
