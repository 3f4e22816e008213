"""What happened on this host, and how it was used."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from anvyl_mcp.core.errors import AnvylError, did_you_mean
from anvyl_mcp.core.values.time_phrases import local_zone, parse_since, parse_until
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.history import episodes as grouping
from anvyl_mcp.server.history import queries, recorder, usage, views
from anvyl_mcp.server.history.episodes import Episode
from anvyl_mcp.server.history.queries import Period
from anvyl_mcp.server.history.store import MICROSECOND, HistoryStore
from anvyl_mcp.server.history.views import Gap, History, HistoryEntry, UsageHistory
from anvyl_mcp.server.identity import HostIdentity
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.tool import tool

Since = Annotated[str, Field(description="like 2h, yesterday, 3 am", json_schema_extra={"x-time": "since"})]
Until = Annotated[str, Field(description="end; empty: now", json_schema_extra={"x-time": "until"})]
Kind = Literal["", "changes", "deaths", "events"]
EARLIER_ENTRIES = 3
"""Entries before the period that are shown if it has none."""
LINES_OF_NEWEST, LINES_OF_OTHERS = 50, 5
ENTRIES_WITH_LINES = 4
OUTCOMES = {"ok": "was run", "": "began"}

Answer = TypeVar("Answer", History, UsageHistory)


@tool(
    say=[
        "list history",
        "show history",
        "history of {name}",
        "what happened",
        "what happened lately",
        "what happened to {name}",
        "what happened since {since}",
        "what happened to {name} since {since}",
        "what changed",
        "what changed since {since}",
        "what changed on {name} since {since}",
        "who stopped {name}",
        "who started {name}",
        "who restarted {name}",
        "who removed {name}",
        "who changed {name}",
        "why did {name} restart",
        "why did {name} stop",
        "why did {name} crash",
        "when did {name} last run",
        "when did {name} stop",
        "when did {name} crash",
    ],
    about=(
        "history, happened, happen, changed, who stopped, who started, who removed, who restarted, recreated, ran, "
        "out of memory, oom, down at"
    ),
    untrusted=True,
    seconds=20,
)
def list_history(
    engine: Engine,
    history: HistoryStore,
    name: Annotated[str, Field(description="also of a removed container")] = "",
    since: Since = "24h",
    kind: Kind = "",
    until: Until = "",
    limit: Annotated[int, Field(ge=1, le=1000)] = 20,
) -> History:
    """Show what happened in the past and who did it: starts, stops, crashes and why, changes."""
    now, period = _period(since, until)
    # Events from before the clock was set back may be later than now.
    shown = period if until else replace(period, end=queries.NO_END)
    _catch_up(engine, history)

    def query(db: sqlite3.Connection) -> History:
        subjects = queries.find_subjects(db, name) if name else None
        events = queries.read_events(db, shown, subjects)
        entries = _entries(db, grouping.episodes(events), kind, single=bool(name))
        if kind in ("", "changes"):
            entries += _changes_without_events(db, period, name)
        notes = []
        if name and not entries and subjects:
            earlier = queries.read_events(db, Period(0, period.start), subjects)
            entries = _entries(db, grouping.episodes(earlier)[: EARLIER_ENTRIES * 2], kind, single=True)[
                :EARLIER_ENTRIES
            ]
            if entries:
                notes.append("nothing in that time; these are the last entries before it")
        entries.sort(key=lambda one: one.time, reverse=True)
        notes += queries.former_names(db, subjects, name) if subjects else []
        kept, jump = queries.kept_since(db), queries.last_jump(db, shown)
        state, state_since = queries.running_state(db, subjects or ())
        return History(
            events=entries[:limit],
            total=len(entries),
            more=max(0, len(entries) - limit),
            since=views.to_time(period.start / MICROSECOND),
            until=views.to_time(period.end / MICROSECOND),
            kept_since=views.to_time(None if kept is None else kept / MICROSECOND),
            now=views.to_time(now),
            name=name,
            state=state,
            state_since=views.to_time(None if state_since is None else state_since / MICROSECOND),
            clock_set=views.to_time(None if jump is None else jump.at / MICROSECOND),
            clock_set_by=0 if jump is None else jump.seconds,
            gaps=_gaps(db, period, history),
            note=join_sentences(*notes),
            problem=_problem(history),
        )

    found = history.read(query)
    return found if found.events or not name else _without_entries(found, engine, history, name)


@tool(
    say=[
        "usage history",
        "usage history of {name}",
        "usage of {name} since {since}",
        "memory of {name} since {since}",
        "cpu of {name} since {since}",
        "how much memory did {name} use",
        "how much cpu did {name} use",
        "how much memory did {name} use since {since}",
        "peak memory of {name} since {since}",
        "is the disk filling up",
        "when will the disk be full",
    ],
    about="over time, trend, peak, average, was using, filling up, will be full, forecast, growing, leak, highest",
    seconds=20,
    rare=True,
)
def get_usage_history(
    engine: Engine,
    history: HistoryStore,
    identity: HostIdentity,
    name: Annotated[str, Field(description="container; empty: machine and all")] = "",
    since: Since = "24h",
    until: Until = "",
    points: Annotated[int, Field(description="trend points of each row", ge=0, le=60)] = 0,
) -> UsageHistory:
    """Show cpu and memory over time with peaks, and when disks will be full."""
    now, period = _period(since, until)
    start, end = period.start // MICROSECOND, -(-period.end // MICROSECOND)

    def query(db: sqlite3.Connection) -> UsageHistory:
        names = sorted({name, *_names_of(db, name)}) if name else None
        step = usage.step_of(end - start, points)
        found = usage.read_usage(db, start, end, int(now), names=names, step=step)
        begin = found[0].points[0].at % step if found else 0
        first = start - (start - begin) % step
        trends = range(first, end, step) if points else ()
        kept = queries.kept_since(db)
        return UsageHistory(
            usage=[views.usage_row(one, identity.name, trends) for one in found],
            total=len(found),
            series=views.usage_steps(found[0]) if found and not points else [],
            step_seconds=step,
            disks=[] if name else views.disk_forecasts(usage.forecasts(db, int(now))),
            since=views.to_time(start),
            until=views.to_time(end),
            kept_since=views.to_time(None if kept is None else kept / MICROSECOND),
            now=views.to_time(now),
            problem=_problem(history),
        )

    recorded = history.read(query)
    return recorded if recorded.usage or not name else _without_entries(recorded, engine, history, name)


def _period(since: str, until: str) -> tuple[float, Period]:
    """The present time in seconds, and the period of two arguments, in this host's time zone."""
    now = time.time()
    moment, zone = datetime.fromtimestamp(now, UTC), local_zone()
    start = parse_since(since, moment, zone)
    end = parse_until(until, moment, zone) if until else None
    # An event of this very second belongs to it.
    last = int((now + 1) * MICROSECOND) if end is None else int(end.timestamp() * MICROSECOND)
    return now, Period(int(start.timestamp() * MICROSECOND), last)


def _catch_up(engine: Engine, history: HistoryStore) -> None:
    """Without a server in the background, record what the engine still remembers."""
    if not history.recording:
        with suppress(AnvylError):
            recorder.catch_up(engine, history, now=int(time.time() * MICROSECOND))


def _entries(db: sqlite3.Connection, found: Sequence[Episode], kind: Kind, *, single: bool) -> list[HistoryEntry]:
    entries, with_lines = [], 0
    for one in found:
        if (kind == "changes" and not one.changed) or (kind == "deaths" and one.ended is None):
            continue
        lines: list[str] = []
        if one.ended is not None and with_lines < ENTRIES_WITH_LINES and (single or not one.changed):
            most = LINES_OF_NEWEST if single and not with_lines else LINES_OF_OTHERS
            lines = queries.last_lines(db, one)[-most:]
            with_lines += bool(lines)
        entries.append(_entry(one, lines))
    return entries


def _entry(one: Episode, lines: list[str]) -> HistoryEntry:
    ending = [] if one.code is None else [f"exit code {one.code}"]
    if one.oom and "out of memory" not in one.what:
        ending.append("out of memory")
    if one.restarts:
        ending.append(f"restarted by Docker{f' ×{one.restarts}' if one.restarts > 1 else ''}")
    detail = ", ".join([*ending, *([one.detail] if one.detail and one.detail != "out of memory" else [])])
    return HistoryEntry(
        time=views.to_time(one.last / MICROSECOND),
        name=one.name,
        what=one.what,
        who=one.who,
        times=one.times,
        detail=detail,
        exit_code=one.code,
        first=views.to_time(one.first / MICROSECOND) if one.times > 1 else "",
        id=one.id.removeprefix("sha256:")[:12],
        lines=lines,
    )


def _changes_without_events(db: sqlite3.Connection, period: Period, name: str) -> list[HistoryEntry]:
    found = queries.changes_without_events(db, period, [name] if name else None)
    return [
        HistoryEntry(
            time=views.to_time(one.at / MICROSECOND),
            name=one.objects[0] if one.objects else "this host",
            what=f"{one.tool} {OUTCOMES.get(one.outcome) or f'failed: {one.outcome}'}",
            who=one.who,
        )
        for one in found
    ]


def _gaps(db: sqlite3.Connection, period: Period, history: HistoryStore) -> list[Gap]:
    found = queries.gaps(db, period, recording=history.recording)
    return [
        Gap(start=views.to_time(one.start / MICROSECOND), end=views.to_time(one.end / MICROSECOND)) for one in found
    ]


def _problem(history: HistoryStore) -> str:
    if history.trouble:
        return history.trouble
    if history.damaged:
        return f"the earlier history was damaged, and is now {history.damaged}"
    return ""


def _names_of(db: sqlite3.Connection, name: str) -> list[str]:
    """Names of the containers of a name, an id or a Compose project."""
    found = ", ".join(map(str, queries.find_subjects(db, name)))
    rows = db.execute(f"SELECT DISTINCT name FROM subject WHERE kind = 'container' AND n IN ({found})")
    return [one for (one,) in rows]


def _without_entries(found: Answer, engine: Engine, history: HistoryStore, name: str) -> Answer:
    """Add why there is nothing about a name: there is no such container, or nothing happened to it."""
    present: list[str] = []
    with suppress(AnvylError):
        present = [own_name(one) for one in engine.containers(all=True)]
    known = {*history.read(queries.known_names), *present}
    near = did_you_mean(name, known)
    if name in known:
        words = f"nothing about `{name}` was recorded in that time"
    else:
        shown = object_names.shorten(name)
        words = f"no container `{shown}` is known here{f'; {near}' if near.startswith('did') else ''}"
    return found.model_copy(update={"note": join_sentences(words, found.note)})


def join_sentences(*words: str) -> str:
    """Join notes; a question mark needs no full stop."""
    return ". ".join(filter(None, words)).replace("?. ", "? ")
