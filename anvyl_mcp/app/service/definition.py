"""What a service runs: program, options, environment, home and user."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, NotFound
from anvyl_mcp.core.files import SERVICE_RECORD, write_atomically
from anvyl_mcp.core.settings import SETTINGS

PROGRAM = "anvyl-mcp"
DESCRIPTION = "Anvyl MCP server"
MARK = f"Written by `{PROGRAM} service install`"
"""In the first lines of every file that we write, to recognise it later."""
ACCOUNT = "anvyl"
"""User and group of a system service."""
OPTIONS = ("host", "port", "agent_port", "name", "toolsets", "tools", "read_only", "watch", "announce")
"""Settings that are options of `serve`."""
ENGINE_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
FOLDER_VARIABLES = ("XDG_CONFIG_HOME", "XDG_STATE_HOME")
SECRETS = frozenset({"llm_api_key", "watch_webhook"})
"""Settings that do not belong into the file of a service, which other users can read."""
HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))
"""Folders that a hardened system service does not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition:
    """The command line, environment and user of a service."""

    program: Path
    options: Mapping[str, str | int | bool] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    home: Path | None = None
    """`ANVYL_HOME`, if it is set."""
    account: str = ""
    """User that a system service runs as; empty for the service of a user."""
    private_paths: tuple[Path, ...] = ()
    """Folders below `HIDDEN` that the program needs."""

    @property
    def command(self) -> list[str]:
        """The command line."""
        words = [str(self.program), "serve"]
        for name, value in self.options.items():
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return words

    @property
    def variables(self) -> dict[str, str]:
        """The environment, with `ANVYL_HOME`."""
        return {**({"ANVYL_HOME": str(self.home)} if self.home else {}), **self.environment}


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """Options and environment of the installed service, so that a later installation keeps them."""

    manager: str
    options: Mapping[str, str | int | bool]
    environment: Mapping[str, str]


def read_record(state_dir: Path) -> ServiceRecord | None:
    """Return the record of the installed service; None if there is none.

    Raises:
        ConfigInvalid: the record is damaged.
    """
    file = state_dir / SERVICE_RECORD
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        options, environment = dict(content["options"]), dict(content["environment"])
        return ServiceRecord(str(content["manager"]), options, environment)
    except (FileNotFoundError, PermissionError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigInvalid(f"{file} cannot be used: {error}", hint=f"remove it: rm {file}") from error


def write_record(state_dir: Path, record: ServiceRecord) -> None:
    """Write the record.

    Raises:
        AnvylError: it cannot be written.
    """
    content = {
        "manager": record.manager,
        "options": dict(record.options),
        "environment": dict(record.environment),
    }
    file = state_dir / SERVICE_RECORD
    try:
        write_atomically(file, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise AnvylError(f"{file} cannot be written: {error.strerror}", hint="check disk and permissions") from error


def program_path(called: str = "") -> Path:
    """Return the path of `anvyl-mcp` in this installation; `called` is how this process was started.

    Raises:
        NotFound: there is no such program.
    """
    scripts = Path(sysconfig.get_path("scripts")) / PROGRAM
    for path in (scripts, Path(sys.prefix) / "bin" / PROGRAM, Path(called or PROGRAM).absolute()):
        if path.name == PROGRAM and path.is_file():
            return path
    raise NotFound(f"the program {PROGRAM} is not in {scripts.parent}", hint="install Anvyl again, then repeat this")


def kept_environment(environ: Mapping[str, str], *, system: bool) -> tuple[dict[str, str], list[str]]:
    """Return the variables of this shell that the service needs too, and the names of those with a secret."""
    own = {setting.env: setting.name for setting in SETTINGS}
    passed = [*own, *ENGINE_VARIABLES, *(() if system else FOLDER_VARIABLES)]
    found = {name: environ[name] for name in passed if environ.get(name)}
    secret = [name for name, value in found.items() if own.get(name) in SECRETS or urlsplit(value).password]
    return {name: value for name, value in found.items() if name not in secret}, secret


def private_program_paths(package: Path) -> tuple[Path, ...]:
    """Return the folders of program, Python and `package` that lie in home folders."""
    executable = Path(sys.executable)
    wanted = [Path(sys.prefix), executable.resolve().parents[1], Path(sys.base_prefix), package.parent]
    # A virtual environment names the Python it was made from by a path that may be a chain of symlinks.
    while executable.is_symlink():
        executable = executable.parent / executable.readlink()
        wanted.append(executable.parents[1])
    hidden = [path for path in dict.fromkeys(wanted) if any(path.is_relative_to(home) for home in HIDDEN)]
    return tuple(path for path in hidden if not any(path != other and path.is_relative_to(other) for other in hidden))


def unreadable_by_others(paths: Sequence[Path], *, home_folders_open: bool) -> Path | None:
    """Return the first of the folders, or of those above it, that another user cannot enter.

    `home_folders_open`: the service manager shows the service these folders, whoever may enter the home folder.
    """
    for path in paths:
        for folder in (path, *path.parents):
            if (
                home_folders_open
                and any(folder == home or home in folder.parents for home in HIDDEN)
                and folder != path
            ):
                break
            if folder.exists() and not folder.stat().st_mode & 0o001:
                return folder
    return None
