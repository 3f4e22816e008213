"""What a service manager does for a service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from anvyl_mcp.app.service.definition import MARK, ServiceDefinition

Scope = Literal["user", "system"]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The state of an installed service. `word` is the manager's own, like `active` or `failed`."""

    enabled: bool = False
    running: bool = False
    pid: int = 0
    word: str = "unknown"
    notes: tuple[str, ...] = ()
    """What keeps it from starting at boot or from being seen, each a sentence."""


class ServiceManager(Protocol):
    """systemd, launchd or OpenRC, for the whole system or for a user."""

    name: str
    scope: Scope
    file: Path
    """The file that defines the service."""
    opens_home_folders: bool
    """Whether the service can use a program in a home folder that is closed to its user."""

    @property
    def log(self) -> Path | None:
        """The log file; None if the manager keeps a journal."""

    def render(self, definition: ServiceDefinition) -> str:
        """Return the content of the file."""

    def start(self) -> list[str]:
        """Load the file, start the service now and at every boot; returns notes for the user.

        Raises:
            AnvylError: it does not start.
        """

    def remove(self) -> None:
        """Stop the service, and let the manager forget it. The file still exists."""

    def forget(self) -> None:
        """Called after the file was removed."""

    def restart(self) -> None:
        """Restart the service and wait until it serves.

        Raises:
            AnvylError: it does not start.
        """

    def state(self) -> ServiceState:
        """Return the state of the service."""

    def log_command(self, lines: int, since: str, *, follow: bool) -> list[str]:
        """Return the command that prints the log."""

    def log_environment(self) -> dict[str, str]:
        """Return variables that the command needs."""


def is_installed(manager: ServiceManager) -> bool:
    """Whether the manager has our service."""
    return manager.file.exists()


def is_ours(file: Path) -> bool:
    """Whether we wrote a file."""
    try:
        return MARK in file.read_text(encoding="utf-8", errors="replace")[:400]
    except OSError:
        return False
