"""The tasks that `bin/invoke` runs, one module a noun: they read options, call pipeline/, and print."""
