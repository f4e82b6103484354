"""What the server knows of its host: configuration, grants, directories, credentials, the CLI, logs."""
