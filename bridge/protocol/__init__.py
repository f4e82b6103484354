"""The protocol of the bridge, for both ends: frames, the order of frames, the errors. No I/O."""
