"""Install, update and remove the service, and describe its state."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import anvyl_mcp
from anvyl_mcp.app.catalogue import all_tools
from anvyl_mcp.app.installation import homes
from anvyl_mcp.app.installation.detect import detect_installation
from anvyl_mcp.app.service import accounts, definition, logs, managers
from anvyl_mcp.app.service.definition import ACCOUNT, ServiceDefinition, ServiceRecord
from anvyl_mcp.app.service.manager import ServiceManager, ServiceState, is_installed, is_ours
from anvyl_mcp.app.service.openrc import OpenRc
from anvyl_mcp.core import serve_lock
from anvyl_mcp.core.errors import AnvylError, Conflict, Denied, InvalidInput
from anvyl_mcp.core.files import SERVICE_RECORD, SYSTEM_HOME, write_atomically
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.core.text import clean
from anvyl_mcp.server.toolsets import offered_tools

START_SECONDS = 60.0
STOPPED = frozenset({"inactive", "stopped", "not loaded", "unknown"})
"""Words of managers for a service that does not try to start."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A service to install: what it runs, and notes for the user."""

    manager: ServiceManager
    definition: ServiceDefinition
    notes: tuple[str, ...]
    closed: Path | None = None
    """A folder that the service would need and cannot enter."""

    @property
    def content(self) -> str:
        """The file that defines the service."""
        return self.manager.render(self.definition)


@dataclass(slots=True)
class Installed:
    """Result of an installation."""

    updated: bool
    changed: bool
    backup: Path | None = None
    copied_from: tuple[Path, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """An installed service: its state, and the server that it runs, if its home can be read."""

    manager: ServiceManager
    state: ServiceState
    home: Path
    server: serve_lock.RunningServer | None
    notes: tuple[str, ...]


def plan(
    manager: ServiceManager, settings: Settings, flags: Mapping[str, str | int | bool | None], *, called: str = ""
) -> Planned:
    """Plan a service with the options of `serve` that were given, and those of an earlier installation.

    Raises:
        InvalidInput: an option cannot be used.
        NotFound: `anvyl-mcp` is not installed in a place that stays.
    """
    system, notes = manager.scope == "system", []
    where = detect_installation()
    if where.temporary:
        raise InvalidInput(
            f"{where.words}, which is deleted at some time", hint="install it first: uv tool install anvyl-mcp"
        )
    home = homes.service_home(system=system, environ=os.environ)
    before = definition.read_record(home or settings.state_dir)
    given = {name: value for name, value in flags.items() if value is not None and name in definition.OPTIONS}
    options = {**(before.options if before else {}), **given}
    kept, secret = definition.kept_environment(os.environ, system=system)
    if system and os.geteuid() != 0:
        kept = {}
    environment = {**(before.environment if before else {}), **kept}
    _check(options, environment)
    notes += [f"{name} contains a secret and was left out; put it into config.toml" for name in secret]
    if before and (rest := [name for name in before.options if name not in given]):
        words = ", ".join(f"--{name.replace('_', '-')}" for name in rest)
        notes.append(
            f"kept from the earlier installation: {words}; without them: anvyl-mcp service uninstall, then install"
        )
    package = Path(anvyl_mcp.__file__).parent
    hidden = definition.private_program_paths(package) if system else ()
    if hidden:
        owner = hidden[0]
        notes.append(f"the program lies in {owner}: a user who can change that folder controls the service")
    folders = [*hidden, Path(sys.prefix), Path(sys.base_prefix), package.parent]
    closed = definition.unreadable_by_others(folders, home_folders_open=manager.opens_home_folders) if system else None
    if closed:
        notes.append(f"{closed} is closed to other users, so the service could not start the program in it")
    return Planned(
        manager,
        ServiceDefinition(
            program=definition.program_path(called),
            options=options,
            environment=environment,
            home=home,
            account=ACCOUNT if system else "",
            private_paths=hidden,
        ),
        tuple(notes),
        closed,
    )


def install(planned: Planned, settings: Settings) -> Installed:
    """Write the service, start it now and at every boot. A repetition updates it, and restarts the server.

    Raises:
        Denied: a system service needs root.
        InvalidInput: the program is in a folder that the service cannot enter.
        Conflict: the server already runs in another way.
        AnvylError: the service does not start.
    """
    manager, service = planned.manager, planned.definition
    _require_root(manager, "install", service.program)
    if planned.closed:
        raise InvalidInput(
            f"{planned.closed} is closed to other users, so the service could not start the program in it",
            hint="install Anvyl for everyone, like: sudo pipx install --global anvyl-mcp",
        )
    record_folder = service.home or settings.state_dir
    sources = homes.homes_to_copy(service.home, settings, os.environ) if service.account else ()
    # A server that was started before the first pairing has nothing to copy, but the same ports.
    others = homes.homes_of_person(os.environ) if service.home == SYSTEM_HOME else ()
    _refuse_second_server(manager, [record_folder, *sources, *others])
    done = Installed(updated=is_installed(manager), changed=True)
    if service.account:
        folder = service.home or record_folder
        accounts.ensure_account(service.account, folder)
        socket = accounts.engine_socket(service.environment.get("DOCKER_HOST", ""))
        if note := accounts.join_engine_group(service.account, socket):
            done.notes.append(note)
        homes.copy_homes(sources, folder)
        done.copied_from = sources
    done.changed, done.backup = _write(manager.file, planned.content, system=bool(service.account))
    definition.write_record(record_folder, ServiceRecord(manager.name, service.options, service.environment))
    if service.account:
        accounts.give_to(service.account, record_folder)
    log_size = logs.size(manager)
    done.notes += manager.start()
    _wait_until_served(manager, record_folder, log_size)
    return done


def restart(manager: ServiceManager, settings: Settings) -> None:
    """Restart an installed service, and wait until it serves.

    Raises:
        AnvylError: it does not start.
    """
    log_size = logs.size(manager)
    manager.restart()
    _wait_until_served(manager, _home_of(manager, settings), log_size)


def uninstall(manager: ServiceManager, settings: Settings) -> Path:
    """Stop and remove the service; the home stays. Returns the home.

    Raises:
        Denied: a system service needs root.
        AnvylError: it cannot be stopped.
    """
    _require_root(manager, "uninstall", definition.program_path())
    home = _home_of(manager, settings)
    manager.remove()
    manager.file.unlink(missing_ok=True)
    manager.forget()
    (home / SERVICE_RECORD).unlink(missing_ok=True)
    return home


def report(manager: ServiceManager, settings: Settings) -> ServiceReport:
    """Return the state of an installed service."""
    home = _home_of(manager, settings)
    state = manager.state()
    server = serve_lock.find_server(home / "run")
    notes = list(state.notes)
    if state.running and server is None and os.access(home / "run", os.R_OK):
        state = replace(state, running=False, word=f"{state.word}, but it does not serve")
    if not state.running and state.word not in STOPPED:
        notes.append(f"{_last_error_of(manager)}; its log: anvyl-mcp service logs --{manager.scope}")
    if server is not None and server.version != anvyl_mcp.__version__:
        notes.append(f"it runs version {server.version}; to use {anvyl_mcp.__version__}: anvyl-mcp service install")
    if server is not None and not state.running:
        notes.append(f"a server that is not the service runs at {server.url} (process {server.pid})")
    if not is_ours(manager.file):
        notes.append(f"{manager.file} was written by hand; anvyl-mcp service install replaces it, and keeps a copy")
    return ServiceReport(manager, state, home, server, tuple(notes))


def _wait_until_served(manager: ServiceManager, home: Path, log_size: int) -> None:
    """Only systemd knows when the server is ready; with other managers its lock shows it."""
    deadline = time.monotonic() + START_SECONDS
    while serve_lock.find_server(home / "run") is None:
        if time.monotonic() > deadline:
            message, hint = logs.last_error(logs.lines_after(manager, log_size))
            raise AnvylError(
                f"the service does not start: {message or f'no answer within {START_SECONDS:.0f} s'}",
                hint=f"{hint}{'. ' if hint else ''}Its log: anvyl-mcp service logs",
            )
        time.sleep(0.1)  # the manager has no event for it


def _last_error_of(manager: ServiceManager) -> str:
    message = ""
    # The log may not be readable for this user, or not be there yet.
    with suppress(AnvylError):
        message, _ = logs.last_error(logs.read_lines(manager, 30, ""))
    return f"its last error: {message}" if message else "a start takes some seconds"


def _home_of(manager: ServiceManager, settings: Settings) -> Path:
    home = homes.service_home(system=manager.scope == "system", environ=os.environ)
    return home or settings.state_dir


def _check(options: Mapping[str, str | int | bool], environment: Mapping[str, str]) -> None:
    for name, value in {**options, **environment}.items():
        if clean(str(value)) != str(value) or "\n" in str(value):
            raise InvalidInput(f"the value of {name} has control characters", hint="remove them")
    offered_tools(
        all_tools(),
        toolsets=str(options.get("toolsets") or environment.get("ANVYL_TOOLSETS") or "all"),
        extra=str(options.get("tools") or environment.get("ANVYL_TOOLS") or ""),
        read_only=False,
    )


def _require_root(manager: ServiceManager, action: str, program: Path) -> None:
    if manager.scope == "system" and os.geteuid() != 0:
        raise Denied(
            f"a service of the system needs root to {action}", hint=f"run: sudo {program} service {action} --system"
        )


def _refuse_second_server(manager: ServiceManager, homes_in_use: list[Path]) -> None:
    """The service cannot take ports and lock of a server that was started in a terminal."""
    for home in homes_in_use:
        server = serve_lock.find_server(home / "run")
        if server is None or (is_installed(manager) and manager.state().pid == server.pid):
            continue
        if isinstance(manager, OpenRc) and is_installed(manager) and manager.state().running:
            continue
        other = next((one for one in managers.managers() if is_installed(one) and one.state().pid == server.pid), None)
        raise Conflict(
            f"anvyl-mcp already runs at {server.url} (process {server.pid}), and not as this service",
            hint=f"it is the {other.name}; remove that first: anvyl-mcp service uninstall --{other.scope}"
            if other
            else f"stop it, then repeat this: kill {server.pid}",
        )


def _write(file: Path, content: str, *, system: bool) -> tuple[bool, Path | None]:
    """Write the file; returns whether it changed, and the copy of a file that we did not write."""
    backup = None
    try:
        if file.exists():
            if file.read_text(encoding="utf-8", errors="replace") == content:
                return False, None
            if not is_ours(file):
                backup = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.bak")
                shutil.copy2(file, backup)
        # Not private: a service manager of the system may run as another user, and the file holds no secrets.
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content, mode=0o644 if system else 0o600)
    except OSError as error:
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint="check its permissions") from error
    return True, backup
