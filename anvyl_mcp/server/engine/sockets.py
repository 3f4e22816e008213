"""Locate this host's Docker engine: as configured, otherwise the first known socket that accepts connections."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from docker.context import ContextAPI
from docker.errors import DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from anvyl_mcp.core.errors import EngineError, EngineMissing

DEFAULT_SOCKET = Path("/var/run/docker.sock")
CONNECT_SECONDS = 0.2

# In the user's home, in the order in which they are tried.
IN_HOME = {
    "Docker Desktop": (".docker/run/docker.sock", ".docker/desktop/docker.sock"),
    "OrbStack": (".orbstack/run/docker.sock",),
    "Colima": (".colima/default/docker.sock", ".config/colima/default/docker.sock"),
    "Rancher Desktop": (".rd/docker.sock",),
}


@dataclass(frozen=True)
class EngineEndpoint:
    """Address of an engine, and where it came from."""

    url: str
    origin: str
    tls: TLSConfig | None = None

    @property
    def path(self) -> Path | None:
        """Path of a socket on this machine, or None."""
        return Path(self.url.removeprefix("unix://")) if self.url.startswith("unix://") else None


def locate(environment: Mapping[str, str]) -> EngineEndpoint:
    """The engine that this user's `docker` would use, otherwise the first known socket that accepts connections.

    A configured engine is never replaced by another one, which has other containers.

    Raises:
        EngineMissing: no socket accepts connections.
        EngineError: the configured context cannot be used.
    """
    if chosen := _configured(environment):
        if chosen.path is not None and (error := _connect_error(chosen.path)):
            raise _engine_missing(error, f"{chosen.origin} points to {chosen.url}")
        return chosen
    denied: OSError | None = None
    tried = []
    for owner, path in candidate_sockets(environment):
        error = _connect_error(path)
        if error is None:
            return EngineEndpoint(f"unix://{path}", owner)
        if isinstance(error, PermissionError):
            denied = denied or error
        tried.append(owner)
    raise _engine_missing(denied, f"tried the sockets of {', '.join(dict.fromkeys(tried))}")


def locate_or_default(environment: Mapping[str, str]) -> EngineEndpoint:
    """The located engine; without one the configured endpoint, or the default socket."""
    default = EngineEndpoint(f"unix://{DEFAULT_SOCKET}", "Docker")
    try:
        return _configured(environment) or locate(environment)
    except EngineError:
        return default


def candidate_sockets(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Product and path of every known socket, the likeliest first."""
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    home = Path(environment.get("HOME") or Path.home())
    yield "Docker", DEFAULT_SOCKET
    yield "rootless Docker", runtime / "docker.sock"
    for owner, places in IN_HOME.items():
        for place in places:
            yield owner, home / place
    yield "Podman", runtime / "podman/podman.sock"
    yield "Podman", Path("/run/podman/podman.sock")


def _configured(environment: Mapping[str, str]) -> EngineEndpoint | None:
    """The endpoint set by `DOCKER_HOST` or a context of the Docker CLI; None for the default context."""
    try:
        if environment.get("DOCKER_HOST"):
            found = kwargs_from_env(environment=dict(environment))
            return EngineEndpoint(found["base_url"], "DOCKER_HOST", found.get("tls"))
        context = ContextAPI.get_context(environment.get("DOCKER_CONTEXT"))
        if context is None:
            raise EngineError(
                f"there is no Docker context `{environment.get('DOCKER_CONTEXT', '')}`", hint="see: docker context ls"
            )
        if context.name == "default" or not context.Host:
            return None
        return EngineEndpoint(context.Host, f"the Docker context `{context.name}`", context.TLSConfig)
    except (DockerException, OSError, ValueError) as error:
        raise EngineError(
            f"the Docker settings of this user cannot be used: {error}", hint="check DOCKER_HOST and: docker context ls"
        ) from error


def _connect_error(path: Path) -> OSError | None:
    """The error of a connection attempt, or None. The file may exist without an engine: Docker Desktop leaves it."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except (BlockingIOError, TimeoutError):
            # An engine listens, but its backlog is full: it is slow or hangs.
            return None
        except OSError as error:
            return error
    return None


def no_permission() -> EngineMissing:
    """The error for a socket that this user may not open."""
    return EngineMissing(
        "this user may not use the Docker engine",
        hint="add the user to the `docker` group (sudo usermod -aG docker $USER) and log in again",
    )


def _engine_missing(error: OSError | None, tried: str) -> EngineMissing:
    if isinstance(error, PermissionError):
        return no_permission()
    return EngineMissing(
        "no Docker engine is running on this host",
        hint=f"start it (sudo systemctl start docker), or point DOCKER_HOST at it; {tried}",
    )
