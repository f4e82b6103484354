"""Limits for the sizes of the images, in bytes: the one table that tests and bench read."""

MB = 1_000_000
UNCOMPRESSED = {"prod": 740 * MB, "dev": 940 * MB}
COMPRESSED = {"prod": 300 * MB, "dev": 380 * MB}
DEV_ABOVE_PROD = 200 * MB
TASK_MASTER = 30 * MB
