"""Puts the terminal into raw mode for an interactive session, and restores it."""

from __future__ import annotations

import os
import termios

INPUT = 0

LEAVE = (
    b"\x1b[?1049l"  # alternate screen
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1016l"  # mouse
    b"\x1b[?2004l\x1b[?1004l\x1b[?2031l"  # bracketed paste, focus events, colour scheme events
    b"\x1b[<u\x1b[>4;0m"  # keyboard extensions
    b"\x1b[?25h\x1b[0m\r\n"  # cursor, colours
)
"""Resets every mode that the CLI's interface may have left on, for the case that it could not do so itself."""


class Terminal:
    """The terminal on standard input and output."""

    def __init__(self) -> None:
        self._saved = termios.tcgetattr(INPUT)
        self.is_raw = False

    def take(self, has_signals: bool = False) -> None:
        """Put the terminal into raw mode: each byte is passed on as it is typed. With `has_signals`, Ctrl-C and Ctrl-Z
        send their signals to this process. Raises termios.error."""
        iflag, oflag, cflag, lflag, ispeed, ospeed, chars = termios.tcgetattr(INPUT)
        iflag &= ~(termios.BRKINT | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.INPCK)
        iflag &= ~(termios.ISTRIP | termios.IXON | termios.PARMRK)
        oflag &= ~termios.OPOST
        cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        if has_signals:
            lflag |= termios.ISIG
        chars = [*chars]
        chars[termios.VMIN], chars[termios.VTIME] = 1, 0
        termios.tcsetattr(INPUT, termios.TCSADRAIN, [iflag, oflag, cflag, lflag, ispeed, ospeed, chars])
        self.is_raw = True

    def give_back(self, was_cut_off: bool = False) -> None:
        """Restore the saved mode. `was_cut_off` also resets the modes that the CLI's interface has set."""
        if not self.is_raw:
            return
        self.is_raw = False
        try:
            if was_cut_off:
                os.write(1, LEAVE)
            termios.tcsetattr(INPUT, termios.TCSADRAIN, self._saved)
        except (OSError, termios.error):
            return  # ignored because the terminal itself has gone


def size() -> tuple[int, int]:
    """Return rows and columns; 24 and 80 if the terminal does not know them."""
    try:
        found = os.get_terminal_size(1)
    except OSError:
        return 24, 80
    return found.lines or 24, found.columns or 80
