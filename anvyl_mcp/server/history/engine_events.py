"""The engine's events that history keeps, in one form for Docker and Podman."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import requests
from docker.errors import APIError

from anvyl_mcp.core import text
from anvyl_mcp.server.engine.compat import mapping, number, string
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.history.store import MICROSECOND
from anvyl_mcp.server.policy.guardrails import is_hidden

KINDS = ("container", "image", "network", "volume")
ACTIONS = {
    "container": {
        **{one: one for one in ("create", "start", "stop", "restart", "kill", "die", "oom", "rename", "update")},
        **{one: one for one in ("pause", "unpause", "destroy")},
        "died": "die",
        "remove": "destroy",
    },
    "image": {
        "pull": "pull",
        "delete": "delete",
        "remove": "delete",
        "load": "load",
        "loadfromarchive": "load",
        "import": "import",
    },
    "network": {"create": "create", "destroy": "destroy", "remove": "destroy"},
    "volume": {"create": "create", "destroy": "destroy", "remove": "destroy"},
}
"""Actions that are kept, by kind of object, and Docker's word for those that Podman calls otherwise."""
HEALTH = "health_status"
DOCKER_FILTER = [*ACTIONS["container"], HEALTH, "pull", "delete", "load", "import"]
"""Docker sends no others, such as the three of every health check."""
COMPOSE_PROJECT = "com.docker.compose.project"
STREAM_SECONDS = 60
"""The engine ends a stream after this time, so that one that hangs is noticed."""
SILENCE_SECONDS = 90.0
CONNECT_SECONDS = 5.0
MAX_EVENT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """One event. `at` is in microseconds since 1970; `code` is an exit code or a signal."""

    at: int
    kind: str
    id: str
    name: str
    action: str
    code: int | None = None
    detail: str = ""
    image: str = ""
    project: str = ""


def follow(
    engine: Engine,
    since: int,
    *,
    seconds: int = STREAM_SECONDS,
    opened: Callable[[requests.Response], None] = lambda _: None,
) -> Iterator[EngineEvent]:
    """Events since a time in microseconds: those that the engine remembers, then new ones for some seconds.

    `opened` gets the response, so that another thread can interrupt it. Some events may come twice.

    Raises:
        AnvylError: the engine does not answer, or the connection broke.
    """
    filters: dict[str, list[str]] = {"type": list(KINDS)}
    if not engine.is_podman:
        filters["event"] = DOCKER_FILTER
    parameters = {
        "since": f"{since / MICROSECOND:.6f}",
        "until": f"{time.time() + seconds:.6f}",
        "filters": json.dumps(filters),
    }
    with engine_errors():
        client = engine.client()
        answer = client.get(
            client._url("/events"), params=parameters, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)
        )
        opened(answer)
        with closing(answer):
            if answer.status_code >= 400:
                raise APIError(answer.reason, response=answer, explanation=answer.text[:400])
            for line in _lines(answer):
                if found := parse(line):
                    yield found


def parse(line: bytes) -> EngineEvent | None:
    """One event in JSON; None if it is not kept, or about a container that must not be read."""
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    actor = mapping(mapping(raw).get("Actor"))
    attributes, kind = mapping(actor.get("Attributes")), string(mapping(raw).get("Type"))
    action, _, rest = string(raw.get("Action")).partition(":")
    at = number(raw.get("timeNano")) or (number(raw.get("time")) or 0) * 10**9
    identity = string(actor.get("ID"))
    if not at or not identity or (kind == "container" and is_hidden({"Labels": attributes})):
        return None
    if action == HEALTH:
        action, detail = (
            HEALTH,
            (rest or string(raw.get("HealthStatus")) or string(attributes.get("health_status"))).strip(),
        )
    else:
        action, detail = ACTIONS.get(kind, {}).get(action, ""), _detail(action, attributes)
    if not action:
        return None
    name = string(attributes.get("name")) or identity.removeprefix("sha256:")[:12]
    if kind == "image":
        name = identity if not identity.startswith("sha256:") else name.removeprefix("sha256:")
        name = name[:12] if len(name) == 64 else name
    return EngineEvent(
        at=at // 1000,
        kind=kind,
        id=text.one_line(identity),
        name=text.one_line(name).lstrip("/"),
        action=action,
        code=_code(action, attributes),
        detail=text.one_line(detail)[:200],
        image=text.one_line(string(attributes.get("image"))) if kind == "container" else "",
        project=text.one_line(string(attributes.get(COMPOSE_PROJECT))),
    )


def _code(action: str, attributes: Mapping[str, Any]) -> int | None:
    if action == "die":
        return number(attributes.get("exitCode", attributes.get("containerExitCode")))
    return number(attributes.get("signal")) if action == "kill" else None


def _detail(action: str, attributes: Mapping[str, Any]) -> str:
    before = string(attributes.get("oldName")).lstrip("/")
    return f"was {before}" if action == "rename" and before else ""


def _lines(answer: requests.Response) -> Iterator[bytes]:
    pending = b""
    while piece := answer.raw.read1(64 * 1024):
        *whole, pending = (pending + piece).split(b"\n")
        yield from whole
        if len(pending) > MAX_EVENT_BYTES:
            pending = b""
    if pending:
        yield pending
