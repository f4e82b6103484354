"""The bridge's protocol, for both ends: frames, their order, errors. No I/O."""
