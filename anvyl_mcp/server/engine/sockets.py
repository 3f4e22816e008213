"""Where this host's Docker engine listens: what was set, else the first known place where something answers."""

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

# Under a user's home, in the order in which they are tried.
IN_HOME = {
    "Docker Desktop": (".docker/run/docker.sock", ".docker/desktop/docker.sock"),
    "OrbStack": (".orbstack/run/docker.sock",),
    "Colima": (".colima/default/docker.sock", ".config/colima/default/docker.sock"),
    "Rancher Desktop": (".rd/docker.sock",),
}


@dataclass(frozen=True)
class EngineEndpoint:
    """An engine's address, and how it was chosen, in words that fit `from …`."""

    url: str
    origin: str
    tls: TLSConfig | None = None

    @property
    def path(self) -> Path | None:
        """The socket's path, where it is one of this machine."""
        return Path(self.url.removeprefix("unix://")) if self.url.startswith("unix://") else None


def locate(environment: Mapping[str, str]) -> EngineEndpoint:
    """The engine that this user's `docker` would use, else the first in a known place that accepts connections.

    What was chosen by name is never replaced by another engine: its containers would be others.

    Raises:
        EngineMissing: nothing accepts connections.
        EngineError: the chosen context cannot be used.
    """
    if chosen := _configured(environment):
        if chosen.path is not None and (refused := _connect_error(chosen.path)):
            raise _engine_missing(refused, f"{chosen.origin} says {chosen.url}")
        return chosen
    denied: OSError | None = None
    tried = []
    for owner, path in candidate_sockets(environment):
        refused = _connect_error(path)
        if refused is None:
            return EngineEndpoint(f"unix://{path}", owner)
        if isinstance(refused, PermissionError):
            denied = denied or refused
        tried.append(owner)
    raise _engine_missing(denied, f"tried the sockets of {', '.join(dict.fromkeys(tried))}")


def locate_or_default(environment: Mapping[str, str]) -> EngineEndpoint:
    """Where an engine is or will be: without one, where it was set to be, else the usual place."""
    usual = EngineEndpoint(f"unix://{DEFAULT_SOCKET}", "Docker")
    try:
        return _configured(environment) or locate(environment)
    except EngineError:
        return usual


def candidate_sockets(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Whose socket, and where: every known place, the likeliest first."""
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
    """What `DOCKER_HOST` or a context of the Docker CLI names; None for the default context."""
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
    """Why nothing accepts a connection there. Existence tells little: a stopped Docker Desktop leaves a symlink."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except (BlockingIOError, TimeoutError):
            # Somebody listens, but has no room now: slow or hung is not absent.
            return None
        except OSError as error:
            return error
    return None


def _engine_missing(error: OSError | None, tried: str) -> EngineMissing:
    if isinstance(error, PermissionError):
        return EngineMissing(
            "Docker is here, but this user may not use it",
            hint="add the user to the `docker` group (sudo usermod -aG docker $USER) and log in again",
        )
    return EngineMissing(
        "no Docker engine is running on this host",
        hint=f"start it (sudo systemctl start docker), or point DOCKER_HOST at it; {tried}",
    )
