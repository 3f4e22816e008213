"""Upgrade this installation with the program that made it, and restart its service."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

from anvyl_mcp.app.installation.detect import Installation
from anvyl_mcp.core.errors import AnvylError, Denied, NotFound


def run_upgrade(installation: Installation, announce: Callable[[str], None]) -> None:
    """Run the commands, whose output the user sees; `announce` gets each before it runs.

    Raises:
        AnvylError: a command failed.
        NotFound: a program is missing; nothing was run.
        Denied: the folder belongs to somebody else.
    """
    if not os.access(installation.place, os.W_OK):
        raise Denied(
            f"{installation.place} may not be changed by this user",
            hint=f"run: sudo {' && sudo '.join(installation.lines)}",
        )
    # A script of the clone may come with the pull.
    programs = [command[0] for command in installation.commands if "/" not in command[0]]
    missing = next((program for program in programs if shutil.which(program) is None), "")
    if missing:
        raise NotFound(f"`{missing}` is not on the PATH", hint=f"run by hand: {' && '.join(installation.lines)}")
    for command, line in zip(installation.commands, installation.lines, strict=True):
        announce(line)
        # Output of other programs is talk, and a JSON document may follow on stdout.
        code = subprocess.run(command, check=False, stdout=2).returncode
        if code:
            raise AnvylError(
                f"`{line}` failed with exit code {code}", hint="its output says why; nothing was restarted"
            )
