"""Run a program, flush its output and exit."""

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
    """Run a program, flush stdout and stderr, and exit immediately.

    Not `sys.exit`: threads may still wait for an engine or a dead host, and unloading the modules takes 0.4 s.
    """
    streams.configure_streams()
    code: object = 0
    unwritten: OSError | None = None
    try:
        app()
    except SystemExit as end:
        code = end.code
    except OSError as error:
        # Errors of our own files have a file name and are reported where they occur. This one is of stdout.
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
        pass  # The reader, like `head`, has closed the pipe.
    except OSError as error:
        unwritten = error
    if unwritten is not None:
        print(f"error: the output could not be written: {unwritten.strerror}", file=sys.stderr)
        code = code or 1
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    os._exit(code)
