"""Turn the echo of typed keys off while lines are redrawn, because an Enter would move the cursor off them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

_saved: list[Any] = []
"""The terminal settings to restore, while the echo is off."""


def off() -> None:
    """Turn the echo off, if this program is in the foreground of the terminal."""
    if _saved:
        return
    with suppress(ImportError, OSError, ValueError, AttributeError):
        import termios

        terminal = sys.stdin.fileno()
        # Setting a terminal from the background would stop the program.
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return
        with suppress(termios.error):
            settings = termios.tcgetattr(terminal)
            quiet = list(settings)
            quiet[3] &= ~termios.ECHO
            termios.tcsetattr(terminal, termios.TCSANOW, quiet)
            _saved.append(settings)
            _restore_on_signal()


def on() -> None:
    """Restore the terminal settings."""
    if not _saved:
        return
    with suppress(ImportError, OSError, ValueError, AttributeError):
        import termios

        with suppress(termios.error):
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, _saved.pop())


def _restore_on_signal() -> None:
    """Restore the terminal on SIGTERM and SIGHUP too."""

    def on_signal(number: int, _: FrameType | None) -> None:
        on()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, on_signal)
