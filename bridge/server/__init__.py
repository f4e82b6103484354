"""The bridge's side on the host: access, queue, confinement of the CLI, and cleaning up after it.

Linux only: it needs SO_PEERCRED, pidfds and (unless the configuration turns it off) bubblewrap.
"""
