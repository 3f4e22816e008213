"""How a program ends."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from anvyl_mcp.cli.terminal import echo, streams

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def run_and_exit(app: typer.Typer) -> NoReturn:
    """Run a program to its end. What it says is written out, and nothing else is waited for.

    Threads may still hang on an engine or a dead host, and to take some thousand modules apart lasts 0.4 s.
    """
    streams.configure_streams()
    code: object = 0
    unwritten: OSError | None = None
    try:
        app()
    except SystemExit as end:
        code = end.code
    except OSError as error:
        # A file of ours that cannot be written is told where it is written; this is what was printed.
        if error.errno not in DISK_ERRORS or error.filename is not None:
            raise
        unwritten = error
    finally:
        echo.on()
    code = code if isinstance(code, int) else 1
    try:
        with suppress(AttributeError, ValueError):
            sys.stdout.flush()
    except BrokenPipeError:
        """Whoever reads has seen enough."""
    except OSError as error:
        unwritten = error
    if unwritten is not None:
        print(f"error: the output could not be written: {unwritten.strerror}", file=sys.stderr)
        code = code or 1
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    os._exit(code)
