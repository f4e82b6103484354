"""The host's side of the bridge: who may call, in what order, as whom, in which confinement, and what is
left.

Linux only: it leans on SO_PEERCRED, pidfds and, unless told otherwise, bubblewrap.
"""
