"""The fleet: this host and its peers. Call a tool on one host, or on several at once."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import anyio

from anvyl_mcp import __version__
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import AnvylError, Denied, InvalidInput, Timeout, Unknown, Unreachable, did_you_mean
from anvyl_mcp.core.values.time_arguments import make_exact
from anvyl_mcp.peers.connection.listing import Connection, ProgressCallback, ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet import unknown_outcome
from anvyl_mcp.peers.fleet.breaker import Breaker
from anvyl_mcp.peers.fleet.down_marks import DownMarks
from anvyl_mcp.peers.fleet.pacing import Pacer
from anvyl_mcp.peers.fleet.result_schema import matches_schema
from anvyl_mcp.peers.fleet.status import StatusWord, call_status, status_text
from anvyl_mcp.peers.fleet.version_skew import compare_tools
from anvyl_mcp.peers.hosts.registry import Peer, Registry, not_paired_error, unknown_host_error

UPDATE = f"this is {__version__}: update the older one"
OTHER_VERSION = "is it the same version of Anvyl? See anvyl hosts check"
NOT_SERVED = "here, not serving"
AT_ONCE = 32
"""Hosts called concurrently; more if these do not finish within `PATIENCE`."""
PATIENCE = 0.1
"""Seconds after which a host is called although `AT_ONCE` calls are under way: those may hang."""
SLACK_SECONDS = 10
"""Extra time for a tool with its own `timeout` argument, to start and clean up."""
RETRY_SECONDS = 0.2
"""Upper limit of the random delay before a read is retried, so that callers do not all retry at the same moment."""

Connect = Callable[[Peer], Connection]


@dataclass(frozen=True, slots=True)
class OnBehalf:
    """The caller that a call is made for, and its scopes; they can only restrict what the connection allows."""

    name: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class ExpectedObjects:
    """The objects of a change when it was approved: the container, and the ids of its images, networks and volumes by
    `KIND NAME`.
    """

    id: str = ""
    state: str = ""
    others: Mapping[str, str] = field(default_factory=dict)

    def as_meta(self) -> dict[str, Any]:
        """Return the request metadata that makes the host reject the change if an object differs."""
        container = {protocol_keys.EXPECT: {"id": self.id, "state": self.state}} if self.id else {}
        return container | ({protocol_keys.OBJECTS: dict(self.others)} if self.others else {})


@dataclass(frozen=True, slots=True)
class Outcome:
    """One call on one host, with its answer or error."""

    host: str
    tool: str
    arguments: Mapping[str, Any]
    answer: ToolAnswer
    seconds: float
    ended: float = field(default_factory=time.time, compare=False)  # when the answer arrived, in Unix time

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.answer.ok

    @property
    def error(self) -> AnvylError | None:
        """The error, if it failed."""
        return self.answer.error

    @property
    def host_failed(self) -> bool:
        """Whether the host failed, as opposed to a healthy host that rejected the call."""
        return self.word not in ("ok", "denied", "failed")

    @property
    def word(self) -> StatusWord:
        """The status word of the call."""
        return call_status(self.error)

    @property
    def status(self) -> str:
        """`ok`, or the status word with the reason: `unreachable: connection refused`."""
        return status_text(self.error, self.word)


class UnexpectedResult(Unreachable):
    """The result of a host does not match the tool's output schema."""


class Fleet:
    """Hosts by name, this one first, each with one long-lived connection that is opened on first use."""

    def __init__(
        self,
        local: Peer,
        registry: Registry,
        catalogue: Mapping[str, ToolListing],
        connect: Connect,
        *,
        marks: DownMarks | None = None,
    ) -> None:
        """`catalogue`: all tools, also hidden ones. `marks`: hosts that other processes found down."""
        self.set_local(local)
        self.registry = registry
        self.call_meta: dict[str, Any] = {}
        """Metadata sent with every call."""
        self.catalogue = {name: tool for name, tool in catalogue.items() if not tool.hidden}
        self._hidden = {name: tool for name, tool in catalogue.items() if tool.hidden}
        self._connect = connect
        self._connections: dict[Peer, Connection] = {}
        self._paces: dict[Peer, Pacer] = {}
        self._breaker = Breaker(marks or DownMarks(None), lambda: self.peers.values())

    def set_local(self, local: Peer) -> None:
        """Replace the entry of this host."""
        self.local = local
        self.served_at = local.url if "://" in local.url else NOT_SERVED
        """The address of this host, as shown to people."""

    @property
    def peers(self) -> dict[str, Peer]:
        """Every host by name, read from the current hosts file; this host first."""
        known = self.registry.peers()
        return {self.local.name: self.local, **{name: peer for name, peer in known.items() if name != self.local.name}}

    @property
    def hosts(self) -> list[str]:
        """The names of all hosts, this one first."""
        return list(self.peers)

    def select(self, selector: str) -> list[str]:
        """Return the hosts of a selector: `nas`, `nas,web1`, `@tag`, `all`, `local`.

        Raises:
            UnknownHost: no host has that name or tag.
            InvalidInput: the selector is empty.
        """
        peers = self.peers
        chosen: list[str] = []
        for part in selector.replace(" and ", ",").split(","):
            if word := part.strip().lower():
                chosen += self._named(word, peers)
        if not chosen:
            raise InvalidInput(
                "no host given", hint=f"use {did_you_mean('', peers).removeprefix('choose from ')} or all"
            )
        return list(dict.fromkeys(chosen))

    def _named(self, word: str, peers: Mapping[str, Peer]) -> Sequence[str]:
        if word in ("all", "*"):
            return list(peers)
        if word == "local":
            return [self.local.name]
        if word.startswith("@"):
            tagged = [name for name, peer in peers.items() if word[1:] in map(str.lower, peer.tags)]
            if not tagged:
                raise unknown_host_error(word, {f"@{tag.lower()}" for peer in peers.values() for tag in peer.tags})
            return tagged
        if word not in peers:
            raise unknown_host_error(word, peers)
        return [word]

    def tool(self, name: str) -> ToolListing:
        """Return a tool of the catalogue.

        Raises:
            InvalidInput: unknown tool.
        """
        if name not in self.catalogue:
            raise InvalidInput(f"there is no tool `{name}`", hint=did_you_mean(name, self.catalogue))
        return self.catalogue[name]

    async def learn_tool(self, name: str) -> None:
        """Add an unknown tool to the catalogue if a host with `trust_tools` offers it."""
        if name in self.catalogue:
            return
        for peer in self.peers.values():
            if peer.trust_tools:
                with suppress(AnvylError):
                    self.catalogue |= {
                        tool.name: tool for tool in await self.list_tools(peer.name) if tool.name == name
                    }

    async def call(
        self,
        host: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        on_behalf: OnBehalf | None = None,
        expected: ExpectedObjects | None = None,
        on_progress: ProgressCallback | None = None,
        operation: str = "",
    ) -> Outcome:
        """Run one tool on one host. Errors are returned in the outcome, never raised.

        `on_behalf`: the caller, if it has fewer rights than this process. `expected`: the objects when the change was
        approved; if they differ by now, the host does nothing. `operation`: the id of the same call made earlier, to
        get its outcome.
        """
        started = time.monotonic()
        try:
            listing = self._hidden.get(tool) or self.tool(tool)
            exact = make_exact(listing.arguments, arguments)
            answer = await self._ask(host, listing, exact, on_behalf, expected, on_progress, operation)
            if answer.ok and not matches_schema(answer.result, listing.output_schema):
                raise UnexpectedResult(f"its answer to `{tool}` does not match the tool's schema", hint=OTHER_VERSION)
        except AnvylError as error:
            answer = ToolAnswer(error=error)
        if isinstance(answer.error, InvalidInput | UnexpectedResult) and tool in self.catalogue:
            answer = replace(answer, error=await self._with_version_reason(host, self.catalogue[tool], answer.error))
        return Outcome(host, tool, arguments, answer, round(time.monotonic() - started, 4))

    async def _with_version_reason(self, host: str, tool: ToolListing, error: AnvylError) -> AnvylError:
        """Add to an error how the host's version of the tool differs, if it does."""
        if host == self.local.name:
            return error
        try:
            offered = compare_tools({tool.name: tool}, await self.list_tools(host))
            version = await self.version(host)
        except AnvylError:
            return error
        if tool.name not in offered.differing:
            return error
        reason = f"it has another version of `{tool.name}`, which {offered.differing[tool.name]}"
        return type(error)(f"{error.message}; {reason}", hint=f"it runs {version or 'another version'}, {UPDATE}")

    async def call_many(
        self,
        hosts: Sequence[str],
        tool: str,
        arguments: Mapping[str, Any],
        *,
        on_behalf: OnBehalf | None = None,
        expected: Mapping[str, ExpectedObjects] | None = None,
        on_outcome: Callable[[Outcome], None] | None = None,
        on_progress: Callable[[str], ProgressCallback] | None = None,
    ) -> dict[str, Outcome]:
        """Run one tool on several hosts at once. Returns one outcome per host, in the order of `hosts`.

        `on_progress` returns the progress callback for a host.
        """
        outcomes: dict[str, Outcome] = {}
        slots = anyio.Semaphore(AT_ONCE)

        async def one(host: str, taken: bool) -> None:
            try:
                outcomes[host] = await self.call(
                    host,
                    tool,
                    arguments,
                    on_behalf=on_behalf,
                    expected=(expected or {}).get(host),
                    on_progress=on_progress(host) if on_progress else None,
                )
            finally:
                if taken:
                    slots.release()
            if on_outcome:
                on_outcome(outcomes[host])

        async with anyio.create_task_group() as group:
            for host in hosts:
                with anyio.move_on_after(PATIENCE) as waiting:
                    await slots.acquire()
                group.start_soon(one, host, not waiting.cancelled_caught)
        return {host: outcomes[host] for host in hosts}

    async def list_tools(self, host: str) -> list[ToolListing]:
        """Return the tools that a host offers.

        Raises:
            AnvylError: the host does not answer.
        """
        peer, connection = self._connection(host)
        return await self._breaker.ask(peer, connection, connection.list_tools)

    async def version(self, host: str, *, force: bool = False) -> str:
        """Return the version that a host reports, also used as a health check. `force`: ask even if it is marked down.

        Raises:
            AnvylError: the host does not answer.
        """
        peer, connection = self._connection(host)
        return await self._breaker.ask(peer, connection, connection.version, force=force)

    @property
    def pending_hosts(self) -> list[str]:
        """The other hosts with a call under way."""
        return [host for host in dict.fromkeys(self._breaker.pending_hosts) if host != self.local.name]

    def is_skipped(self, host: str) -> bool:
        """Whether calls to a host fail at once because it did not answer lately."""
        peer = self.peers.get(host)
        return peer is not None and self._breaker.is_open(peer)

    async def _ask(
        self,
        host: str,
        tool: ToolListing,
        arguments: Mapping[str, Any],
        on_behalf: OnBehalf | None,
        expected: ExpectedObjects | None,
        on_progress: ProgressCallback | None,
        operation: str,
    ) -> ToolAnswer:
        if on_behalf is not None and tool.scope not in on_behalf.scopes:
            # The host would deny it too, but the request would carry this process's token.
            raise Denied(f"`{tool.name}` needs the scope `{tool.scope}`, which `{on_behalf.name}` does not have")
        peer, connection = self._connection(host)
        seconds = time_limit(tool, arguments)
        meta = {protocol_keys.WHOLE: True, **self.call_meta}
        if not tool.reads:
            meta[protocol_keys.OPERATION] = operation or str(uuid.uuid4())
        if expected is not None and not tool.reads:
            meta |= expected.as_meta()
        if on_behalf is not None:
            meta |= {protocol_keys.SCOPES: sorted(on_behalf.scopes), protocol_keys.FOR: on_behalf.name}
        began = time.monotonic()
        call = partial(connection.call, tool.name, arguments, seconds=seconds, meta=meta, on_progress=on_progress)

        async def send() -> ToolAnswer:
            nonlocal began
            began = time.monotonic()
            return await self._breaker.ask(peer, connection, call)

        pace = self._paces.setdefault(peer, Pacer())
        try:
            return await pace.run(tool, send, seconds)
        except (Unknown, Timeout) as error:
            if not tool.reads:
                again = partial(connection.call, tool.name, arguments, meta=meta, on_progress=on_progress)
                left = seconds - (time.monotonic() - began)
                change = unknown_outcome.LostChange(host, tool, arguments, meta[protocol_keys.OPERATION])
                return await unknown_outcome.settle(connection, change, error, again, seconds=left)
            if isinstance(error, Timeout):
                raise
        except Unreachable:
            if not tool.reads or not self._breaker.answered_since(peer, began):
                raise
        # Retry a read once if its connection was lost, since the peer may have restarted, or if it got no connection
        # while other calls were answered.
        await anyio.sleep(random.uniform(0, RETRY_SECONDS))
        try:
            return await pace.run(tool, send)
        except Unknown as error:
            raise Unreachable("the connection was lost before the answer came", hint="ask again") from error

    def _connection(self, host: str) -> tuple[Peer, Connection]:
        peer = self.peers.get(host)
        if peer is None:
            raise unknown_host_error(host, self.hosts)
        if peer != self.local and not peer.paired:
            raise not_paired_error(peer)
        if peer not in self._connections:
            try:
                self._connections[peer] = self._connect(peer)
            except InvalidInput as error:
                raise Unreachable(f"its entry in the hosts file is invalid: {error}") from error
        return peer, self._connections[peer]

    async def aclose(self) -> None:
        """Close every connection, even if the caller is being cancelled."""
        connections = list(self._connections.values())
        self._connections.clear()
        with anyio.CancelScope(shield=True):
            await self._breaker.aclose()
            async with anyio.create_task_group() as group:
                for connection in connections:
                    group.start_soon(connection.close)


def time_limit(tool: ToolListing, arguments: Mapping[str, Any]) -> float:
    """Return the time limit of a call in seconds: the tool's own, or less if its `timeout` argument is shorter."""
    limit = arguments.get("timeout", tool.arguments.get("timeout", {}).get("default"))
    if isinstance(limit, str) and limit.isdecimal():
        limit = int(limit)
    if isinstance(limit, int | float):
        return min(tool.seconds, limit + SLACK_SECONDS)
    return tool.seconds
