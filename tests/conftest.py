"""For all tests: the programs that they start hear Ctrl-C, also where it is ignored for the tests themselves.

A shell lets a script's background jobs ignore it, and so does `nohup`.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
