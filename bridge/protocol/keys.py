"""Tells what a person typed at a terminal from what the terminal itself reports. Without I/O, and without imports of
modules that are slow to load: the client in the container uses it, too."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = "text"
"""Printable text, or a piece of a paste."""
ENTER = "enter"
CANCEL = "cancel"
"""Escape alone, or Ctrl-C."""
KEY = "key"
"""Any other key, or the mouse."""
FOCUS = "focus"
"""The terminal has got the focus, or a client was attached to it."""
REPORT = "report"
"""What the terminal itself says: an answer to a question, or that it has lost the focus."""

BEGIN_PASTE, END_PASTE = b"\x1b[200~", b"\x1b[201~"

MAX_REST = 4096
"""Bytes of a sequence that may wait for their end. A longer one is taken for keys."""

_TOKEN = re.compile(
    rb"(?P<text>[^\x00-\x1f\x7f]+)"
    rb"|(?P<enter>\r)"
    rb"|(?P<paste>\x1b\[200~)"
    rb"|(?P<focus>\x1b\[I)"
    rb"|(?P<report>\x1b\[O|\x1b\[[?>][0-9;]*[cnuy$]+|\x1b\[[0-9;]*(?:[cRtn])|\x1b[P\]_^][^\x07\x1b]*(?:\x07|\x1b\\))"
    rb"|(?P<part>\x1b[P\]_^][^\x07\x1b]*\x1b?\Z|\x1b\[[0-9;?<>$]*\Z|\x1bO\Z)"
    rb"|(?P<key>\x1b\[[0-9;?<>$]*[@-~]|\x1bO.|\x1b[^\x1b\[P\]_^])"
    rb"|(?P<cancel>\x1b|\x03)"
    rb"|(?P<other>.)",
    re.DOTALL,
)


class Keys:
    """Splits what comes from one terminal. The end of a sequence may come later than its beginning."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of a sequence whose end has not come yet."""
        self._is_pasting = False

    def read(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield what the bytes are: a kind, and the bytes of it. A paste is yielded in pieces."""
        data, self.rest = self.rest + data, b""
        at = 0
        while at < len(data):
            if self._is_pasting:
                end = data.find(END_PASTE, at)
                self._is_pasting = end < 0
                stop = len(data) - _begun(data[at:]) if end < 0 else end + len(END_PASTE)
                if stop > at:
                    yield TEXT, data[at:stop]
                if end < 0:
                    self.rest = data[stop:]
                    return
                at = stop
                continue
            found = _TOKEN.match(data, at)
            assert found is not None  # the last alternative matches any byte
            kind, at = found.lastgroup, found.end()
            if kind == "part" and len(found[0]) <= MAX_REST:
                self.rest = found[0]
            elif kind == "paste":
                self._is_pasting = True
                yield TEXT, found[0]
            else:
                yield kind if kind in _NAMED else KEY, found[0]


def _begun(data: bytes) -> int:
    """Return how many bytes at the end may be the beginning of the end of a paste."""
    return next((size for size in range(len(END_PASTE) - 1, 0, -1) if data.endswith(END_PASTE[:size])), 0)


_NAMED = frozenset((TEXT, ENTER, CANCEL, FOCUS, REPORT))
