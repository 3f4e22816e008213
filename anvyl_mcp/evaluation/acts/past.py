"""Simulated history and updates: what agrees with the state of the containers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.values.time_phrases import local_zone, parse_since, parse_until
from anvyl_mcp.evaluation.acts.shared import act, free, rows_of
from anvyl_mcp.evaluation.acts.world import ENDED, STARTED, Container, Host, time_ago

KEPT = 30
"""Days of history."""
NEWER = {"grafana/grafana:12": "grafana/grafana:12.1", "ollama/ollama:0.11": "ollama/ollama:0.12"}
"""Images that the registries have, by those that run."""


def _period(since: str, until: str) -> tuple[datetime, datetime]:
    now, zone = datetime.now(UTC), local_zone()
    return parse_since(since, now, zone), parse_until(until, now, zone) if until else now


def _kept(start: datetime, end: datetime) -> dict[str, Any]:
    since, until = (moment.isoformat(timespec="seconds") for moment in (start, end))
    return {"since": since, "until": until, "kept_since": time_ago(STARTED * 8 * KEPT), "now": time_ago()}


@act
def list_history(host: Host, name: str, since: str, kind: str, until: str, limit: int) -> dict[str, Any]:
    """List the starts and ends that the state of the containers tells of, and the events of the host."""
    start, end = _period(since, until)
    now = datetime.now(UTC)
    said = [(now, {"name": one, "what": action, "who": "outside Anvyl"}) for _, action, one in host.events]
    said += [_start_or_end(one, now) for one in host.containers.values()]
    found = [
        {"time": at.isoformat(timespec="seconds"), **entry}
        for at, entry in sorted(said, key=lambda one: one[0], reverse=True)
        if name in ("", entry["name"]) and start <= at <= end and (kind != "deaths" or "lines" in entry)
    ]
    state: dict[str, Any] = {}
    if one := host.containers.get(name):
        runs = one.state == "running"
        state = {"state": "running" if runs else "ended", "state_since": time_ago(STARTED if runs else ENDED)}
    return {**rows_of("events", found, limit), **_kept(start, end), "name": name, **state}


def _start_or_end(one: Container, now: datetime) -> tuple[datetime, dict[str, Any]]:
    """The last thing that happened to a container."""
    if one.state == "running":
        return now - STARTED, {"name": one.name, "what": "started", "who": "outside Anvyl"}
    what = "crashed" if one.exit_code else "ended"
    return now - ENDED, {
        "name": one.name,
        "what": what,
        "who": "",
        "exit_code": one.exit_code,
        "detail": f"exit code {one.exit_code}",
        "lines": one.logs,
    }


@act
def get_usage_history(host: Host, name: str, since: str, until: str, points: int) -> dict[str, Any]:
    """Show a usage that never changes."""
    rows = [
        {"name": one.name, "cpu_percent": one.cpu, "cpu_peak": one.cpu, "memory": one.memory, "memory_peak": one.memory}
        for one in host.containers.values()
        if name in ("", one.name) and (name or one.state == "running")
    ]
    used = host.memory["used"]
    machine = {"cpu_percent": host.cpu_percent, "cpu_peak": host.cpu_percent, "memory": used, "memory_peak": used}
    disks = [
        {**one, "summary": f"disk {one['mount']} {text.format_size(one['used'])} used: does not grow"}
        for one in host.disks
    ]
    found = rows_of("usage", [*([] if name else [{"name": host.name, **machine}]), *rows], 100)
    return {
        **found,
        "series": [],
        "step_seconds": 3600,
        "disks": [] if name else disks,
        **_kept(*_period(since, until)),
    }


@act
def list_updates(host: Host, name: str) -> dict[str, Any]:
    """List the containers whose image is no longer the newest."""
    running = [one for one in host.containers.values() if name in ("", one.name)]
    rows = [
        {
            "name": one.name,
            "stack": "",
            "image": one.image,
            "current": one.image.rpartition(":")[2],
            "available": NEWER[one.image].rpartition(":")[2],
            "published": time_ago(STARTED * 80),
            "change": "minor",
            "notes": "",
            "digest": "",
        }
        for one in running
        if one.image in NEWER
    ]
    current = [one.name for one in running if one.image not in NEWER]
    return {**rows_of("updates", rows, 100), "current": current, "checked": time_ago()}


@act
def update_container(host: Host, name: str) -> dict[str, Any]:
    """Give a container its newest image."""
    one = free(host, name)
    previous, one.image = one.image, NEWER.get(one.image, one.image)
    host.images.setdefault(one.image, 100 * 1024**2)
    updated = one.image != previous
    return {"name": name, "updated": updated, "state": one.state, "current": one.image, "previous": previous}
