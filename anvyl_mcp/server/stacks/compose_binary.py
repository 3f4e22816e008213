"""Finds Docker Compose on this host: the engine's plugin, the binary of the extra `stacks`, or the one on PATH."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anvyl_mcp.core import extras, text
from anvyl_mcp.core.errors import AnvylError

NAME = "docker-compose"
PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
    "/opt/homebrew/lib/docker/cli-plugins",
    "/Applications/Docker.app/Contents/Resources/cli-plugins",
)
"""Where the Docker CLI looks for plugins, after the user's own folder."""
OLDEST = (2, 20)
"""Compose before 2.20 lacks options that we pass."""
VERSION_SECONDS = 10
VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class ComposeBinary:
    """An executable of Docker Compose. It also runs without the Docker CLI."""

    path: Path
    version: tuple[int, ...]
    origin: str

    def __str__(self) -> str:
        return f"Docker Compose {'.'.join(map(str, self.version))} ({self.origin}, {self.path})"


_known: dict[tuple[Path, int, int], tuple[int, ...] | None] = {}
_mutex = threading.Lock()


def find_compose(environment: Mapping[str, str] | None = None) -> ComposeBinary:
    """The first usable executable.

    Raises:
        AnvylError: there is none, or all are too old.
    """
    too_old = []
    for origin, path in candidates(os.environ if environment is None else environment):
        version = _version(path)
        if version is not None and version >= OLDEST:
            return ComposeBinary(path, version, origin)
        if version is not None:
            too_old.append(f"{path} is {'.'.join(map(str, version))}")
    wanted = ".".join(map(str, OLDEST))
    hint = f"install Docker's plugin docker-compose-plugin, {wanted} or newer, or: {extras.install_command('stacks')}"
    if too_old:
        raise AnvylError(f"Docker Compose on this host is too old: {', '.join(too_old)}", hint=hint)
    raise AnvylError("Docker Compose is not installed on this host", hint=hint)


def candidates(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Origin and path of the executables that exist, the preferred one first, each once."""
    seen = set()
    for origin, path in _places(environment):
        if path not in seen and path.is_file() and os.access(path, os.X_OK):
            seen.add(path)
            yield origin, path


def _places(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    home = Path(environment.get("HOME") or Path.home())
    config = Path(environment.get("DOCKER_CONFIG") or home / ".docker")
    for folder in (config / "cli-plugins", *_extra_folders(config), *map(Path, PLUGIN_FOLDERS)):
        yield "plugin of the Docker CLI", folder / NAME
    yield "extra `stacks`", Path(sysconfig.get_path("scripts")) / NAME
    if found := shutil.which(NAME, path=environment.get("PATH")):
        yield "on PATH", Path(found)


def _extra_folders(config: Path) -> Iterator[Path]:
    """Plugin folders in the configuration of the Docker CLI; Docker Desktop and Homebrew add theirs there."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        added = json.loads((config / "config.json").read_text(encoding="utf-8")).get("cliPluginsExtraDirs") or ()
        yield from (Path(folder) for folder in added if Path(folder).is_absolute())


def _version(path: Path) -> tuple[int, ...] | None:
    """The version that an executable reports; None if it does not run. Cached while the file is unchanged."""
    try:
        found = path.stat()
    except OSError:
        return None
    key = path, found.st_mtime_ns, found.st_size
    with _mutex:
        if key not in _known:
            _known[key] = _ask_version(path)
        return _known[key]


def _ask_version(path: Path) -> tuple[int, ...] | None:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    try:
        answered = subprocess.run(
            [path, "version", "--short"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_SECONDS,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = VERSION.search(text.clean(answered.stdout.decode("utf-8", "replace")))
    return tuple(int(part) for part in match.groups(default="0")) if match and not answered.returncode else None
