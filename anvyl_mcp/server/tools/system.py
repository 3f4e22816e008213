"""The engine's disk usage, unused objects and recent events."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import islice
from time import time
from typing import Annotated, Any, Literal

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.server.containers import prune
from anvyl_mcp.server.containers.prune import Pruned, Unused
from anvyl_mcp.server.engine import compat, disk_usage, timestamps
from anvyl_mcp.server.engine.disk_usage import DiskUsageRow
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.tool import Result, Row, Strings, Time, tool

MAX_EVENTS_READ = 50_000
COMMANDS = ("exec_start", "exec")
"""Actions of Docker and Podman when a command starts in a container."""
PARTS_OF_COMMANDS = ("exec_create", "exec_die", "exec_detach", "exec_died")


PruneKind = Literal["containers", "images", "networks", "volumes", "build_cache", "space", "all"]


class DiskUsage(Result):
    """The engine's disk usage by kind of object."""

    usage: list[DiskUsageRow]
    total: int
    more: int = 0


class Event(Row):
    """One event."""

    columns = ("time", "type", "action", "name", "times", "detail")

    time: Time
    type: str
    action: str
    name: str
    id: str
    times: Annotated[int, Field(json_schema_extra={"format": "times"})] = 1
    detail: str = ""


class Events(Result):
    """Events, the latest last."""

    events: list[Event]
    total: int
    more: int = 0


@tool(
    say=[
        "disk usage of docker",
        "how much space does docker use",
        "system df",
        "what eats my disk",
        "what eats my disk space",
        "what is eating my disk",
        "what fills my disk",
        "what takes up my disk space",
    ],
    about=(
        "docker space, docker disk, space docker, disk docker, docker storage, free up, freed, clean up, "
        "cleaned, reclaim, build cache, get back, prune"
    ),
    seconds=CHANGE_TIMEOUT,
)
def get_disk_usage(engine: Engine) -> DiskUsage:
    """Show how much disk images, containers, volumes and build cache take, and how much of it is unused."""
    with engine_errors():
        rows = disk_usage.parse_usage(compat.require_object(engine.client(CHANGE_TIMEOUT).df()))
    return DiskUsage(usage=rows, total=len(rows))


@tool(
    say=[
        "prune {what}",
        "prune unused {what}",
        "remove unused {what}",
        "remove dangling {what}",
        "free up {what}",
        "free up disk {what}",
        "free up some {what}",
        "free up some disk {what}",
        "free some {what}",
        "free some disk {what}",
        "reclaim {what}",
        "reclaim disk {what}",
    ],
    destroys=True,
    scope="exec",
    seconds=300,
    rare=True,
)
def prune_unused(
    what: PruneKind,
    engine: Engine,
    only: Annotated[
        Strings, Field(description="ids from list_unused; empty: all", json_schema_extra={"x-shown": "list_unused"})
    ] = [],  # never modified; the schema needs the default
) -> Pruned:
    """Remove stopped containers, untagged images, empty networks, unnamed volumes or build cache for good.

    `space` means untagged images and build cache.
    """
    return prune.prune(engine, what, only)


@tool(say=["list unused objects of {what}", "what would prune {what} remove"], seconds=CHANGE_TIMEOUT, rare=True)
def list_unused(what: PruneKind, engine: Engine) -> Unused:
    """List what prune_unused would remove, with sizes."""
    return prune.find_unused(engine, what)


@tool(
    say=["list events", "show events", "recent events"],
    about="event, recently",
    untrusted=True,
    seconds=20,
)
def list_events(
    engine: Engine,
    since: Annotated[str, Field(description="like 10m or a time")] = "10m",
    limit: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> Events:
    """List what happened to containers, images, networks and volumes."""
    merged: dict[object, Event] = {}
    with engine_errors():
        stream = engine.client().events(since=_parse_since(since), until=int(time()) + 1, decode=True)
        with closing(stream):
            for number, raw in enumerate(islice(stream, MAX_EVENTS_READ)):
                with suppress(*compat.PARSE_ERRORS):
                    _add_event(merged, number, _event(raw))
    events = list(merged.values())
    return Events(events=events[-limit:], total=len(events), more=max(0, len(events) - limit))


def _add_event(merged: dict[object, Event], number: int, event: Event) -> None:
    """Add an event; repeated commands in one container, like health checks, are merged into the latest."""
    if event.action in PARTS_OF_COMMANDS:
        return
    key: object = number
    if event.action in COMMANDS:
        key = (event.type, event.id)
        if before := merged.pop(key, None):
            event.times += before.times
    merged[key] = event


def _event(raw: Mapping[str, Any]) -> Event:
    """`Actor` and `Action` are in every version; the older `status`, `id` and `from` are gone since API 1.52."""
    actor = compat.mapping(raw.get("Actor"))
    identifier = str(actor.get("ID", "")).removeprefix("sha256:")
    action = str(raw.get("Action", ""))
    if not action.startswith("health_status"):
        # After the colon, an exec event contains the whole command, which may contain secrets.
        action = action.partition(":")[0]
    return Event(
        time=timestamps.to_iso(raw.get("time")),
        type=text.clean(str(raw.get("Type", ""))),
        action=text.clean(action),
        name=text.clean(str(compat.mapping(actor.get("Attributes")).get("name") or identifier[:12])),
        id=text.clean(identifier[:12]),
        detail=_detail(action, actor.get("Attributes") or {}),
    )


def _detail(action: str, attributes: Mapping[str, Any]) -> str:
    """Exit code or signal of an event that ends a container."""
    if action in ("die", "died") and "exitCode" in attributes:
        return f"exit code {text.clean(str(attributes['exitCode']))}"
    if action == "kill" and "signal" in attributes:
        return f"signal {text.clean(str(attributes['signal']))}"
    return ""


def _parse_since(since: str) -> int:
    seconds = text.parse_duration(since)
    if seconds is not None:
        return int(time()) - seconds
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise InvalidInput(f"`{since}` is not a time", hint="write it like 10m, 2h or 2026-11-23T10:00:00Z") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
