"""How a program ends."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

import typer


def run(app: typer.Typer) -> NoReturn:
    """Run a program to its end, without waiting for threads that still hang on an engine or a dead host."""
    code: object = 0
    try:
        app()
    except SystemExit as end:
        code = end.code
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    sys.exit(code if isinstance(code, int) else 1)
