"""Publish what was tested: names, push and its check, bills of materials, signatures."""
