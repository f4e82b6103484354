"""How the library reports progress to people: through a function that the caller provides."""

from __future__ import annotations

import sys
from collections.abc import Callable

Say = Callable[[str], None]
"""Takes one line of progress."""


def say_on_stderr(text: str) -> None:
    """Print one line of progress; standard output stays free for results."""
    print(text, file=sys.stderr, flush=True)
