"""Which service managers this machine has, and which of them a command is about."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from anvyl_mcp.app.service import openrc, systemd
from anvyl_mcp.app.service.launchd import Launchd
from anvyl_mcp.app.service.manager import Scope, ServiceManager, is_installed
from anvyl_mcp.app.service.openrc import OpenRc
from anvyl_mcp.app.service.systemd import Systemd
from anvyl_mcp.core.errors import InvalidInput, NotFound


def managers() -> list[ServiceManager]:
    """Return the managers of this machine, the usual one first: as root that of the system, else of the user.

    Raises:
        NotFound: there is none.
    """
    found: list[ServiceManager] = []
    if sys.platform == "darwin":
        found = [Launchd()]
    elif systemd.RUNNING.is_dir():
        found = [Systemd("user"), Systemd("system")]
    elif openrc.RUNNING.is_dir() or Path("/sbin/openrc-run").exists():
        found = [OpenRc()]
    if not found:
        raise NotFound(
            "this machine has no service manager that Anvyl knows: systemd, launchd or OpenRC",
            hint="have your own start `anvyl-mcp serve` at boot; in a container, its restart policy does it",
        )
    return found[::-1] if os.geteuid() == 0 else found


def choose_manager(scope: Scope | None) -> ServiceManager:
    """Return the manager for a new service.

    Raises:
        NotFound: there is none.
        InvalidInput: it has no services of that scope.
    """
    return _of_scope(managers(), scope)


def installed_manager(scope: Scope | None) -> ServiceManager:
    """Return the manager that has our service.

    Raises:
        NotFound: the service is not installed.
    """
    found = managers()
    if scope is not None:
        found = [_of_scope(found, scope)]
    for one in found:
        if is_installed(one):
            return one
    flag = f" --{scope}" if scope else ""
    raise NotFound("Anvyl is not installed as a service here", hint=f"install it: anvyl-mcp service install{flag}")


def named_manager(name: str, scope: Scope | None) -> ServiceManager:
    """Return a manager by its name, whether this machine has it or not: its file can be printed anywhere.

    Raises:
        InvalidInput: the name is unknown, or it has no services of that scope.
    """
    default: Scope = "system" if os.geteuid() == 0 else "user"
    made: dict[str, ServiceManager] = {"systemd": Systemd(scope or default), "launchd": Launchd(), "openrc": OpenRc()}
    if name not in made:
        raise InvalidInput(f"`{name}` is not a service manager that Anvyl knows", hint=f"use {', '.join(made)}")
    return _of_scope([made[name]], scope)


def _of_scope(found: list[ServiceManager], scope: Scope | None) -> ServiceManager:
    for one in found:
        if scope in (None, one.scope):
            return one
    other = found[0]
    reason = (
        "Docker on macOS runs in your session" if isinstance(other, Launchd) else f"{other.name} has none for users"
    )
    raise InvalidInput(f"there is no {scope} service here: {reason}", hint=f"install it with --{other.scope}")
