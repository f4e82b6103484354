"""How the library reports progress to a person: through a function that its caller gives."""

from __future__ import annotations

import sys
from collections.abc import Callable

Say = Callable[[str], None]
"""Takes one line of progress."""


def say_on_stderr(text: str) -> None:
    """Print one line of progress; standard output stays free for results."""
    print(text, file=sys.stderr, flush=True)
