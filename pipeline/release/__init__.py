"""Publish what was tested: names, push and verification, bills of materials, signatures."""
