"""What a version of the CLI has, compared with the tables of the policy."""
