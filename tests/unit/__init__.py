"""Tests that need no container."""
