"""The tasks that `bin/invoke` runs, in one module per noun. They read options, call pipeline/, and print."""
