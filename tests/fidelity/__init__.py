"""The oracle: the same CLI in the same project, plain on a host and over the bridge."""
