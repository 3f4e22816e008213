"""The Docker engine of this host: located on first use, and again after the connection was lost."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from docker.constants import MINIMUM_DOCKER_API_VERSION

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict, NotFound, did_you_mean
from anvyl_mcp.core.protocol_keys import STACK_TOOLS
from anvyl_mcp.server.engine import compat, sockets
from anvyl_mcp.server.engine.client import EngineClient, EngineHealth
from anvyl_mcp.server.engine.engine_errors import engine_errors, engine_timeout
from anvyl_mcp.server.engine.sockets import EngineEndpoint
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.guardrails import check_labels
from anvyl_mcp.server.tool import BOUND_IDS, CURRENT_TOOL, Injected

PING_TIMEOUT = 3
READ_TIMEOUT = 4.7
"""Seconds for a list or inspect request: an engine that takes longer hangs, which callers learn within five seconds."""
CHANGE_TIMEOUT = 130
"""Seconds for stopping, creating and removing."""
PULL_TIMEOUT = 600
PROBE_TIMEOUT = 1
"""Seconds for an engine that timed out before to answer again."""
MAX_CONCURRENT_READS = 8
"""Concurrent read calls: limits the threads that wait for an engine that hangs."""
SLOT_CHECK_SECONDS = 2
"""Seconds between checks, while a call waits for a slot, whether the engine still answers."""
COMPOSE_PROJECT = "com.docker.compose.project"
MOST_MEMBERS = 10
"""Containers of a stack that an error names."""


class _Connection:
    """A located engine: its endpoint, API version, and one client per timeout."""

    def __init__(self, endpoint: EngineEndpoint, health: EngineHealth, version: str) -> None:
        self.endpoint, self.version, self._health = endpoint, version, health
        self._clients: dict[float, EngineClient] = {}

    def client(self, seconds: float) -> EngineClient:
        if seconds not in self._clients:
            tls: dict[str, Any] = {"tls": self.endpoint.tls} if self.endpoint.tls else {}
            self._clients[seconds] = EngineClient(
                self._health, base_url=self.endpoint.url, version=self.version, timeout=seconds, max_pool_size=32, **tls
            )
        return self._clients[seconds]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


class Engine(Injected):
    """Access to the Docker engine; every method raises `AnvylError` instead of the SDK's errors."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment
        self._health = EngineHealth()
        self._connection: _Connection | None = None
        self._lock = threading.Lock()
        self._probe_lock = threading.Lock()
        self._limiter: anyio.CapacityLimiter | None = None

    def client(self, seconds: float = READ_TIMEOUT) -> EngineClient:
        """A client whose requests time out after `seconds`. Do not store it: the engine may be replaced.

        Raises:
            EngineMissing: there is no engine.
            Timeout: the engine timed out before and still does not answer.
        """
        connection = self._connection
        if connection is None or self._health.disconnected or self._health.timed_out:
            connection = self._connect()
        with self._lock:
            return connection.client(seconds)

    def _connect(self) -> _Connection:
        """Locate the engine and negotiate the API version, which may have changed."""
        silent = self._health.timed_out
        if silent and not self._probe_lock.acquire(blocking=False):
            raise engine_timeout()
        try:
            endpoint = sockets.locate(os.environ if self._environment is None else self._environment)
            connection = _Connection(
                endpoint,
                self._health,
                _latest_api_version(endpoint, self._health, PROBE_TIMEOUT if silent else READ_TIMEOUT),
            )
        finally:
            if silent:
                self._probe_lock.release()
        self._health.disconnected = False
        known = self._connection
        if known and (known.endpoint.url, known.version) == (connection.endpoint.url, connection.version):
            return known
        self._connection = connection
        return connection

    @property
    def socket(self) -> Path | None:
        """Path of the engine's socket on this machine, or None if it is reached another way."""
        return self.endpoint.path

    @property
    def is_podman(self) -> bool:
        """Whether the last answer came from Podman."""
        return self._health.is_podman

    @property
    def endpoint(self) -> EngineEndpoint:
        """The engine's address and how it was chosen; the default one if no engine is found."""
        if self._connection:
            return self._connection.endpoint
        environment = os.environ if self._environment is None else self._environment
        return sockets.locate_or_default(environment)

    @property
    def is_busy(self) -> bool:
        """Whether a read call would have to wait for a slot."""
        return self._limiter is not None and self._limiter.available_tokens == 0

    @asynccontextmanager
    async def read_slot(self) -> AsyncIterator[None]:
        """Wait for a free slot for a read call.

        Raises:
            Timeout: the engine has stopped answering the calls that hold the slots.
        """
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(MAX_CONCURRENT_READS)
        taken = False
        while not taken:
            began = time.monotonic()
            with anyio.move_on_after(SLOT_CHECK_SECONDS) as waiting:
                await self._limiter.acquire_on_behalf_of(waiting)
                taken, borrower = True, waiting
            if not taken and (self._health.timed_out or self._health.last_answer < began):
                raise engine_timeout()
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(borrower)

    def ping(self) -> None:
        """Return if the engine answers.

        Raises:
            EngineError, Timeout: it does not.
        """
        with engine_errors():
            self.client(PING_TIMEOUT).ping()

    def version(self) -> dict[str, Any]:
        """`GET /version`."""
        with engine_errors():
            return compat.version(self.client().version())

    def info(self) -> dict[str, Any]:
        """`GET /info`."""
        with engine_errors():
            return compat.info(self.client().info())

    def containers(self, *, all: bool, label: str = "") -> list[dict[str, Any]]:
        """`GET /containers/json`: one request for all containers."""
        filters = {"label": label} if label else None
        with engine_errors():
            return compat.parse_list(self.client().containers(all=all, filters=filters), compat.container_entry)

    def images(self, **filters: bool) -> list[dict[str, Any]]:
        """`GET /images/json`."""
        with engine_errors():
            return compat.parse_list(self.client().images(filters=filters or None), compat.image)

    def container(self, name: str) -> dict[str, Any]:
        """The container that a tool call names, if its labels allow that tool.

        Raises:
            NotFound: there is no such container; the hint suggests similar names.
            Denied: a label of the container forbids it.
            Conflict: the name now refers to another container than when the call was allowed.
        """
        found = self.inspect(name)
        check_unchanged("container", name, found["Id"])
        if tool := CURRENT_TOOL.get():
            check_labels(tool, found)
        return found

    def inspect(self, name: str) -> dict[str, Any]:
        """`GET /containers/{name}/json` without checking labels: for containers that the call already may use."""
        with engine_errors(
            missing=lambda: self.missing_container(name), several=lambda: self._ambiguous_container(name)
        ):
            return compat.container_details(self.client().inspect_container(name))

    def missing_container(self, name: str) -> NotFound:
        """The error for a container that does not exist, with similar names."""
        entries = self.containers(all=True)
        hint = did_you_mean(name, map(own_name, entries)) or "there are no containers on this host"
        members = [own_name(one) for one in entries if (one.get("Labels") or {}).get(COMPOSE_PROJECT) == name]
        if members:
            called = CURRENT_TOOL.get()
            whole = STACK_TOOLS.get(called.name, "") if called else ""
            hint = (
                f"`{name}` is a stack: {f'call {whole} with its name, or ' if whole else ''}name one of its containers"
            )
            hint = f"{hint}, {text.join_names(sorted(members)[:MOST_MEMBERS])}"
        return NotFound(f"there is no container `{object_names.shorten(name)}`", hint=hint)

    def _ambiguous_container(self, prefix: str) -> Conflict:
        known = [(own_name(entry), entry["Id"]) for entry in self.containers(all=True)]
        return ambiguous_id("container", prefix, known)

    def image_id(self, image: str) -> str:
        """The id of an image on this host; empty if there is no image of that name."""
        try:
            with engine_errors(missing=lambda: NotFound(f"there is no image `{object_names.shorten(image)}`")):
                found = self.client().inspect_image(image)  # type: ignore[no-untyped-call]  # the stubs leave it out
        except NotFound:
            return ""
        return str(compat.image(found)["Id"])

    def volume(self, name: str) -> dict[str, Any] | None:
        """The volume of exactly this name, or None. Podman alone would also accept the start of a name."""
        try:
            with engine_errors(missing=lambda: NotFound(f"there is no volume `{object_names.shorten(name)}`")):
                found = compat.network_or_volume(self.client().inspect_volume(name))
        except NotFound:
            return None
        return found if found["Name"] == name else None

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            if self._connection:
                self._connection.close()
            self._connection = None


def _latest_api_version(endpoint: EngineEndpoint, health: EngineHealth, seconds: float) -> str:
    """The newest API version that the engine supports: from a ping, as Podman takes seconds to answer `/version`."""
    probe = _Connection(endpoint, health, MINIMUM_DOCKER_API_VERSION)
    try:
        with engine_errors():
            client = probe.client(seconds)
            answer = client.get(client._url("/_ping", versioned_api=False), timeout=seconds)
            if answer.ok and (found := re.fullmatch(r"\d+\.\d+", answer.headers.get("Api-Version", ""))):
                return found.group()
            return str(compat.version(client.version(api_version=False))["ApiVersion"])
    finally:
        probe.close()


def ambiguous_id(kind: str, prefix: str, known: Iterable[tuple[str, str]]) -> Conflict:
    """The error for an id prefix that matches several objects; `known`: their names and ids."""
    fitting = sorted((name, number) for name, number in known if number.removeprefix("sha256:").startswith(prefix))
    shown = ", ".join(f"`{name}` ({number.removeprefix('sha256:')[:12]})" for name, number in fitting[:8])
    return Conflict(
        f"`{object_names.shorten(prefix)}` matches several {kind} ids",
        hint=f"which one? {shown}" if shown else "give the name, or more of the id",
    )


def check_unchanged(kind: str, name: str, identity: str) -> None:
    """Return if the name still refers to the object that this call was allowed to use.

    Raises:
        Conflict: it refers to another object now.
    """
    if BOUND_IDS.get().get((kind, name), identity) != identity:
        raise Conflict(f"`{name}` now names another {kind}; nothing was done", hint="check it, then try again")


def own_name(entry: Mapping[str, Any]) -> str:
    """Name of a listed container; links of other containers add names with a second slash."""
    names: Iterable[str] = entry.get("Names") or ()
    return next((name[1:] for name in names if name.count("/") == 1), str(entry["Id"])[:12])
