"""launchd on macOS: an agent of the user, because Docker there runs in the user's session."""

from __future__ import annotations

import os
import plistlib
import re
import time
from pathlib import Path
from typing import Any

from anvyl_mcp.app.service import programs
from anvyl_mcp.app.service.definition import MARK, ServiceDefinition
from anvyl_mcp.app.service.manager import Scope, ServiceState

LABEL = "io.github.anvyl-mcp"
PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
"""launchd's own PATH has no Homebrew, where `docker` usually is."""
START_SECONDS = 30.0


class Launchd:
    """An agent of this user."""

    name = "launchd agent"
    scope: Scope = "user"
    opens_home_folders = True

    def __init__(self) -> None:
        self.file = Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        self.log = Path.home() / "Library" / "Logs" / "anvyl-mcp.log"

    def render(self, definition: ServiceDefinition) -> str:
        """Return the property list."""
        content: dict[str, Any] = {
            "Label": LABEL,
            "ProgramArguments": definition.command,
            "EnvironmentVariables": {"PATH": PATH, **definition.variables},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 5,
            "ExitTimeOut": 30,
            "ProcessType": "Background",
            "Umask": 0o077,
            "StandardOutPath": str(self.log),
            "StandardErrorPath": str(self.log),
        }
        head, _, rest = plistlib.dumps(content, sort_keys=False).decode().partition("\n")
        return f"{head}\n<!-- {MARK}, which replaces this file. -->\n{rest}"

    def start(self) -> list[str]:
        """Load the agent, which starts it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self._print() is not None:
            self._bootout()
        programs.run_or_fail(["launchctl", "enable", f"{self._domain()}/{LABEL}"])
        programs.run_or_fail(["launchctl", "bootstrap", self._domain(), str(self.file)])
        return ["it starts when you log in, as Docker does; macOS has no start at boot for the programs of a user"]

    def remove(self) -> None:
        """Stop and unload the agent."""
        if self._print() is not None:
            self._bootout()

    def forget(self) -> None:
        """Nothing is left after `remove`."""

    def restart(self) -> None:
        """Restart the agent."""
        programs.run_or_fail(["launchctl", "kickstart", "-k", f"{self._domain()}/{LABEL}"])

    def state(self) -> ServiceState:
        """Return what launchctl says about the agent."""
        printed = self._print()
        if printed is None:
            return ServiceState(word="not loaded")
        fields = dict(re.findall(r"^\t(state|pid) = (.+)$", printed, re.MULTILINE))
        word = fields.get("state", "unknown")
        return ServiceState(True, word == "running", int(fields.get("pid", 0)), word)

    def log_command(self, lines: int, since: str, *, follow: bool) -> list[str]:
        """Return the command that prints the end of the log file, which has no times to choose by."""
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(self.log)]

    def log_environment(self) -> dict[str, str]:
        """Return no variables."""
        return {}

    def _domain(self) -> str:
        # Over ssh there is no graphical session.
        gui = f"gui/{os.getuid()}"
        return gui if programs.run(["launchctl", "print", gui]).code == 0 else f"user/{os.getuid()}"

    def _print(self) -> str | None:
        done = programs.run(["launchctl", "print", f"{self._domain()}/{LABEL}"])
        return done.out if done.code == 0 else None

    def _bootout(self) -> None:
        programs.run_or_fail(["launchctl", "bootout", f"{self._domain()}/{LABEL}"])
        deadline = time.monotonic() + START_SECONDS
        while self._print() is not None and time.monotonic() < deadline:
            time.sleep(0.2)
