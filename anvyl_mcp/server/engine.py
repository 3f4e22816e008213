"""The Docker engine of this host: found when first needed, found again after it went away."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import docker
from docker.api.client import APIClient

from anvyl_mcp.errors import NotFound, did_you_mean
from anvyl_mcp.server.guardrails import check_labels
from anvyl_mcp.server.tool import CALLED, Injected
from anvyl_mcp.server.translate import engine_errors

PING = 3
QUICK = 10
"""Seconds for a list or an inspect: an engine that needs longer hangs."""
SLOW = 130
"""Seconds for stopping, creating and removing."""
PULL = 600


class Engine(Injected):
    """The low-level Docker client behind one door: every error that leaves is ours."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment) if environment is not None else None
        self._clients: dict[int, APIClient] = {}
        self._lock = threading.Lock()

    def client(self, seconds: int = QUICK) -> APIClient:
        """A client whose requests may take `seconds`. Follows `DOCKER_HOST`, then the Docker CLI's context."""
        with self._lock:
            if seconds not in self._clients:
                arguments: dict[str, Any] = {"version": "auto", "timeout": seconds, "max_pool_size": 32}
                if self._environment is not None:
                    arguments["environment"] = self._environment
                self._clients[seconds] = docker.from_env(**arguments).api
            return self._clients[seconds]

    @property
    def socket(self) -> Path | None:
        """Where the engine listens on this machine; None when it is reached another way."""
        environment = os.environ if self._environment is None else self._environment
        url = environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        return Path(url.removeprefix("unix://")) if url.startswith("unix://") else None

    def ping(self) -> None:
        """Return when the engine answers.

        Raises:
            EngineError, Timeout: it does not.
        """
        with engine_errors():
            self.client(PING).ping()

    def version(self) -> dict[str, Any]:
        """`GET /version`."""
        with engine_errors():
            return self.client().version()

    def containers(self, *, all: bool, label: str = "") -> list[dict[str, Any]]:
        """`GET /containers/json`: one request, whatever the number of containers."""
        filters = {"label": label} if label else None
        with engine_errors():
            return cast("list[dict[str, Any]]", self.client().containers(all=all, filters=filters))

    def container(self, name: str) -> dict[str, Any]:
        """The container that a tool was asked for, if its labels leave it to that tool; a miss names what is near.

        Raises:
            NotFound: there is none.
            Denied: a label of the container forbids it.
        """
        found = self.inspect(name)
        if tool := CALLED.get():
            check_labels(tool, found)
        return found

    def inspect(self, name: str) -> dict[str, Any]:
        """`GET /containers/{name}/json`, for a tool's own bookkeeping: what it did to a container it may use."""
        with engine_errors(missing=lambda: self.no_container(name)):
            return cast("dict[str, Any]", self.client().inspect_container(name))

    def no_container(self, name: str) -> NotFound:
        """The error for a container that is not there, with near names."""
        known = [own_name(entry) for entry in self.containers(all=True)]
        hint = did_you_mean(name, known) or "there are no containers on this host"
        return NotFound(f"there is no container `{name}`", hint=hint)

    def has_image(self, image: str) -> bool:
        """Whether an image is on this host."""
        try:
            with engine_errors(missing=lambda: NotFound(f"there is no image `{image}`")):
                self.client().inspect_image(image)  # type: ignore[no-untyped-call]  # the stubs leave it out
        except NotFound:
            return False
        return True

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()


def own_name(entry: Mapping[str, Any]) -> str:
    """A listed container's own name; links of other containers add names with a second slash."""
    names: Iterable[str] = entry.get("Names") or ()
    return next((name[1:] for name in names if name.count("/") == 1), str(entry["Id"])[:12])
