"""systemd: of the system, or of a user."""

from __future__ import annotations

import os
import pwd
import time
from datetime import UTC, datetime
from pathlib import Path

from anvyl_mcp.app.service import logs, programs
from anvyl_mcp.app.service.definition import ServiceDefinition
from anvyl_mcp.app.service.manager import Scope, ServiceState
from anvyl_mcp.app.service.systemd_unit import unit_text
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError

UNIT = "anvyl-mcp.service"
RUNNING = Path("/run/systemd/system")
LINGER = Path("/var/lib/systemd/linger")
SESSION_SECONDS = 10.0


class Systemd:
    """A unit of the system, or of this user."""

    log = None
    opens_home_folders = True

    def __init__(self, scope: Scope) -> None:
        self.name = f"systemd {scope} unit"
        self.scope: Scope = scope
        if scope == "system":
            self.file = Path("/etc/systemd/system") / UNIT
        else:
            config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
            self.file = Path(config) / "systemd" / "user" / UNIT

    def render(self, definition: ServiceDefinition) -> str:
        """Return the unit."""
        return unit_text(definition)

    def start(self) -> list[str]:
        """Enable and start the unit; for a user, also without a login session (linger)."""
        notes = self._enable_linger() if self.scope == "user" else []
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--quiet", UNIT)
        self.restart()
        return notes

    def remove(self) -> None:
        """Stop and disable the unit. Linger stays: other units may depend on it."""
        self._systemctl("disable", "--quiet", "--now", UNIT)

    def forget(self) -> None:
        """Reload, and clear a failure of the removed unit."""
        self._systemctl("daemon-reload")
        programs.run([*self._program(), "reset-failed", UNIT], environment=self.log_environment())

    def restart(self) -> None:
        """Restart the unit; systemctl waits until the server says that it is ready."""
        since = datetime.now(UTC)
        done = programs.run([*self._program(), "restart", UNIT], environment=self.log_environment())
        if done.code:
            message, hint = self._last_error(since)
            raise AnvylError(
                f"the service does not start: {message or done.last_words}",
                hint=f"{hint}{'. ' if hint else ''}systemd tries again every 5 s. "
                f"Its log: anvyl-mcp service logs --{self.scope}",
            )

    def state(self) -> ServiceState:
        """Return what systemctl says about the unit."""
        show = ["show", UNIT, "--property=ActiveState,SubState,MainPID,UnitFileState,LoadState,NeedDaemonReload"]
        done = programs.run([*self._program(), *show], environment=self.log_environment())
        if done.code:
            return ServiceState(word="unknown", notes=(f"systemd cannot be asked: {done.last_words}",))
        fields = dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)
        notes = []
        if fields.get("NeedDaemonReload") == "yes":
            notes.append("the unit file was changed since systemd read it")
        if self.scope == "user" and not self.lingers():
            notes.append(f"it ends when you log out, and does not start at boot: {self._linger_command()}")
        active, detail = fields.get("ActiveState", "unknown"), fields.get("SubState", "")
        word = active if detail in ("", active, "running", "dead") else f"{active} ({detail})"
        return ServiceState(
            enabled=fields.get("UnitFileState") == "enabled",
            running=active == "active",
            pid=int(fields.get("MainPID") or 0),
            word=word,
            notes=tuple(notes),
        )

    def log_command(self, lines: int, since: str, *, follow: bool) -> list[str]:
        """Return the journalctl command."""
        user = ["--user"] if self.scope == "user" else []
        seconds = text.parse_duration(since) if since else None
        when = [f"--since=-{seconds}s"] if seconds else [f"--since={since}"] if since else []
        return [
            "journalctl", *user, f"--unit={UNIT}", "--no-pager", "--output=short-iso", f"--lines={lines}",
            *when, *(["--follow"] if follow else []),
        ]  # fmt: skip

    def log_environment(self) -> dict[str, str]:
        """Return where the manager of this user listens, which a shell started by `su` does not know."""
        if self.scope == "system" or os.environ.get("XDG_RUNTIME_DIR"):
            return {}
        return {"XDG_RUNTIME_DIR": f"/run/user/{os.geteuid()}"}

    def lingers(self) -> bool:
        """Whether this user's services run without a login session."""
        return (LINGER / _user_name()).exists()

    def _enable_linger(self) -> list[str]:
        notes = []
        if not self.lingers():
            done = programs.run(["loginctl", "enable-linger", _user_name()])
            if done.code:
                notes.append(
                    f"the server ends when you log out, because linger could not be enabled ({done.last_words}); "
                    f"run: {self._linger_command()}"
                )
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
        deadline = time.monotonic() + (SESSION_SECONDS if not notes else 0)
        # Without a login session, linger starts the user's manager, which takes a moment.
        while not (runtime / "systemd" / "private").exists():
            if time.monotonic() > deadline:
                raise AnvylError(
                    f"systemd has no session of `{_user_name()}`",
                    hint=f"log in as that user, without su or sudo, or first run: {self._linger_command()}",
                )
            time.sleep(0.1)
        return notes

    def _last_error(self, since: datetime) -> tuple[str, str]:
        """Return the last error that the server logged, and its hint."""
        user = ["--user"] if self.scope == "user" else []
        when = f"--since=@{since.timestamp():.0f}"
        command = ["journalctl", *user, f"--unit={UNIT}", "--no-pager", "--output=cat", "--lines=30", when]
        return logs.last_error(programs.run(command, environment=self.log_environment()).out.splitlines())

    def _program(self) -> list[str]:
        return ["systemctl", *(["--user"] if self.scope == "user" else [])]

    def _systemctl(self, *words: str) -> None:
        programs.run_or_fail([*self._program(), *words], environment=self.log_environment())

    def _linger_command(self) -> str:
        return f"sudo loginctl enable-linger {_user_name()}"


def _user_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name
