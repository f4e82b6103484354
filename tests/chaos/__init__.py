"""Random faults against live agents; `nox -s chaos`."""
