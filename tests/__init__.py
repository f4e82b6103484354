"""Tests; `bin/nox` runs them."""
