"""Tests on live containers of a built image."""
