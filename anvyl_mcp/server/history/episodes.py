"""Turns raw events into episodes: a stop is one entry, not its three events, and twenty crashes are one entry too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from anvyl_mcp.core.values.history_words import OUTSIDE
from anvyl_mcp.server.history.store import MICROSECOND

STOP_SECONDS = 130
"""The longest time between the signal of a stop and the end of the container."""
FOLLOW_SECONDS = 15
"""Events of one action, such as the start after the stop of a restart, come within this time."""
RESTART_SECONDS = 150
"""Docker waits up to a minute, and a slow host longer, before it starts a crashed container again."""
OOM_SECONDS = 15
SEEN_MISSING = "seen missing"
HARMLESS_SIGNALS = (1, 10, 12)
"""Signals that ask programs to reload: HUP, USR1, USR2."""
SIGNAL_CODES = (137, 143)
"""Exit codes of programs that a signal ended: KILL, TERM."""
STOPPING_TOOLS = ("stop_", "restart_", "remove_", "update_", "deploy_", "revert_", "prune_", "undo")
STATE_CHANGES = {"pause": "paused", "unpause": "unpaused", "update": "limits changed", "rename": "renamed"}
OBJECT_ACTIONS = {"pull": "pulled", "delete": "deleted", "load": "loaded", "import": "imported"}


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A row of the history, with what it is about and the change that caused it."""

    number: int
    at: int
    subject: int
    kind: str
    id: str
    name: str
    image: str
    action: str
    code: int | None = None
    detail: str = ""
    who: str = ""
    tool: str = ""
    operation: str = ""


@dataclass(frozen=True, slots=True)
class Episode:
    """What happened to one object. `who`: a caller or `outside Anvyl`; empty if it happened by itself."""

    first: int
    last: int
    kind: str
    id: str
    name: str
    what: str
    who: str = ""
    operation: str = ""
    code: int | None = None
    oom: bool = False
    detail: str = ""
    times: int = 1
    restarts: int = 0
    """How often Docker started it again after this."""
    ended: int | None = None
    """Number of the object, if this is an end of a container, whose last lines may be kept."""
    changed: bool = False
    """Whether somebody did it."""


@dataclass
class _Cursor:
    """The events of one object, oldest first."""

    events: Sequence[RecordedEvent]
    at: int = 0

    def take(self, *actions: str, within: int, after: int) -> RecordedEvent | None:
        """The next event, if it is one of these and soon enough."""
        if self.at < len(self.events):
            event = self.events[self.at]
            if event.action in actions and event.at - after <= within * MICROSECOND:
                self.at += 1
                return event
        return None


@dataclass
class _Life:
    """What the events so far say about one container."""

    killed: RecordedEvent | None = None
    oom: int | None = None
    ended: int | None = None
    found: list[Episode] = field(default_factory=list)


def episodes(events: Iterable[RecordedEvent]) -> list[Episode]:
    """Episodes, the newest first. Repetitions of the same one are counted."""
    by_object: dict[int, list[RecordedEvent]] = defaultdict(list)
    for event in events:
        by_object[event.subject].append(event)
    found: list[Episode] = []
    for own in by_object.values():
        own.sort(key=lambda one: (one.at, one.number))
        found += _merge(_container(own) if own[0].kind == "container" else [_object(one) for one in own])
    return sorted(found, key=lambda one: -one.last)


def _object(event: RecordedEvent) -> Episode:
    """An image, network or volume."""
    what = OBJECT_ACTIONS.get(event.action) or {"create": "created", "destroy": "removed"}.get(
        event.action, event.action
    )
    return _by(event, f"{event.kind} {what}")


def _container(events: Sequence[RecordedEvent]) -> list[Episode]:
    cursor, life = _Cursor(events), _Life()
    while cursor.at < len(events):
        event = events[cursor.at]
        cursor.at += 1
        _one(event, cursor, life)
    return life.found


def _one(event: RecordedEvent, cursor: _Cursor, life: _Life) -> None:
    match event.action:
        case "kill" if event.code not in HARMLESS_SIGNALS:
            life.killed = life.killed or event
        case "restart":
            life.killed = event  # Podman reports it before the end and the start, Docker after them
        case "oom":
            life.oom = event.at
        case "die":
            life.found.append(_end(event, cursor, life))
        case "start":
            life.found.append(_start(event, life))
        case "create":
            started = cursor.take("start", within=FOLLOW_SECONDS * 4, after=event.at)
            life.found.append(_by(event, f"{'created and started' if started else 'created'}", image=True))
        case "destroy" if event.detail == SEEN_MISSING:
            life.found.append(replace(_by(event, "removed"), who="", detail="while no history was recorded"))
        case "destroy":
            life.found.append(_by(event, "removed"))
        case "health_status" if event.detail == "unhealthy":
            life.found.append(_plain(event, "became unhealthy"))
        case "health_status" if event.detail == "healthy":
            if any(one.what == "became unhealthy" for one in life.found[-3:]):
                life.found.append(_plain(event, "became healthy again"))
        case action if action in STATE_CHANGES:
            life.found.append(_by(event, STATE_CHANGES[action]))


def _end(event: RecordedEvent, cursor: _Cursor, life: _Life) -> Episode:
    """The end of a container, with what followed at once: a restart or a removal."""
    killed = life.killed
    oom = event.detail == "out of memory" or (life.oom is not None and event.at - life.oom <= OOM_SECONDS * MICROSECOND)
    life.killed, life.oom, life.ended = None, None, event.at
    if killed is not None and event.at - killed.at > STOP_SECONDS * MICROSECOND and event.code not in (137, 143):
        killed = None
    stopped = cursor.take("stop", within=FOLLOW_SECONDS, after=event.at)
    # Podman reports no stop, only that the container ended.
    by_tool = event if event.operation and event.tool.startswith(STOPPING_TOOLS) else None
    origin = killed or stopped or by_tool
    last, what = event.at, "ended"
    if origin is None:
        what = "ended" if event.code == 0 else "ended by a signal" if event.code in SIGNAL_CODES else "crashed"
        what = "was killed: out of memory" if oom else what
        if again := cursor.take("start", within=RESTART_SECONDS, after=event.at):
            if again.operation:
                cursor.at -= 1
            else:
                return replace(_death(event, what, last=again.at, oom=oom), restarts=1)
        return _death(event, what, last=last, oom=oom)
    what = "stopped" if stopped or origin is by_tool or (killed and killed.code == 15) else "killed"
    if started := cursor.take("start", within=FOLLOW_SECONDS, after=(stopped or event).at):
        if restarted := cursor.take("restart", within=FOLLOW_SECONDS, after=started.at):
            last, what = restarted.at, "restarted"
        elif origin.action == "restart" or (
            started.operation and started.operation == (origin.operation or event.operation)
        ):
            last, what = started.at, "restarted"
        else:
            cursor.at -= 1
    elif removed := cursor.take("destroy", within=FOLLOW_SECONDS, after=event.at):
        last, what = removed.at, f"{what} and removed"
    by = next((one for one in (origin, event, stopped) if one is not None and one.operation), origin)
    return replace(_death(event, what, last=last, oom=oom), who=by.who or OUTSIDE, operation=by.operation, changed=True)


def _start(event: RecordedEvent, life: _Life) -> Episode:
    last = life.found[-1] if life.found else None
    soon = life.ended is not None and event.at - life.ended <= RESTART_SECONDS * MICROSECOND
    if not event.operation and soon and last is not None and last.ended is not None and not last.changed:
        return _plain(event, "was restarted by Docker")
    return _by(event, "started")


def _by(event: RecordedEvent, what: str, *, image: bool = False) -> Episode:
    detail = event.detail or (f"from {event.image}" if image and event.image else "")
    return replace(
        _plain(event, what), who=event.who or OUTSIDE, operation=event.operation, detail=detail, changed=True
    )


def _plain(event: RecordedEvent, what: str) -> Episode:
    return Episode(event.at, event.at, event.kind, event.id, event.name, what)


def _death(event: RecordedEvent, what: str, *, last: int, oom: bool) -> Episode:
    return replace(_plain(event, what), last=last, code=event.code, oom=oom, ended=event.subject)


def _merge(found: Sequence[Episode]) -> list[Episode]:
    """Count repetitions: episodes of one object that differ only in time."""
    merged: list[Episode] = []
    for one in found:
        if merged and _same(merged[-1], one):
            before = merged[-1]
            merged[-1] = replace(
                one, first=before.first, times=before.times + 1, restarts=before.restarts + one.restarts
            )
        else:
            merged.append(one)
    return merged


def _same(before: Episode, after: Episode) -> bool:
    fields = ("what", "who", "code", "oom", "detail", "name")
    return all(getattr(before, name) == getattr(after, name) for name in fields) and not after.operation
