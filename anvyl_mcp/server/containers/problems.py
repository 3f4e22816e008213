"""Detect containers that need attention: for lists, answers and the watcher."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import brief
from anvyl_mcp.server.policy.guardrails import is_hidden

ExpectedState = Literal["", "running", "stopped"]
"""State requested by the last change through this host; empty if there was none recently."""

RECENT = timedelta(minutes=10)
"""A container that its policy restarted this recently counts as restarting, even while it is up."""
LOOP_RESTARTS = 2
"""Restarts by the policy that make a crash loop; a single one may be a hiccup."""
MOST_INSPECTED = 30
"""Containers of one list that are inspected; each costs one request of about a millisecond."""
EXITED = re.compile(r"Exited \((?P<code>\d+)\)")
JUST_STARTED = re.compile(r"Up (?:less than a second|\d+ seconds?|about a minute|\d minutes)\b", re.IGNORECASE)
STOPPED_BY_SIGNAL = (137, 143)
"""Exit codes after SIGKILL and SIGTERM, as when a container is stopped by hand."""
ALWAYS = ("always", "unless-stopped")


def needs_inspection(entry: Mapping[str, Any]) -> bool:
    """Whether the list entry alone is not enough to judge the container's health."""
    state, status = entry.get("State"), str(entry.get("Status", ""))
    if is_hidden(entry) or state == "paused" or _crash_exit_code(status):
        return False
    return state != "running" or JUST_STARTED.match(status) is not None


def _crash_exit_code(status: str) -> int:
    """Exit code in a list entry's status if it shows a crash, otherwise 0."""
    exited = EXITED.match(status)
    code = int(exited["code"]) if exited else 0
    return 0 if code in STOPPED_BY_SIGNAL else code


def find_problems(
    engine: Engine, entries: Sequence[Mapping[str, Any]], expected: Mapping[str, ExpectedState]
) -> dict[str, str]:
    """Problems of the listed containers by full id; healthy containers are left out."""
    found: dict[str, str] = {}
    suspects = [entry for entry in entries if needs_inspection(entry)]
    # Crash loops first, so that the limit does not drop them.
    suspects.sort(key=lambda entry: entry.get("State") not in ("running", "restarting"))
    for entry in suspects[:MOST_INSPECTED]:
        try:
            details = engine.inspect(entry["Id"])
        except AnvylError:
            # Removed since it was listed, or unreadable: the list entry has to do.
            continue
        if what := describe_problem(details, expected.get(entry["Id"], "")):
            found[entry["Id"]] = what
    for entry in entries:
        if "(unhealthy)" in str(entry.get("Status", "")):
            found[entry["Id"]] = "unhealthy"
        elif entry.get("State") == "paused":
            found[entry["Id"]] = "paused"
        elif (code := _crash_exit_code(str(entry.get("Status", "")))) and expected.get(entry["Id"]) != "stopped":
            found[entry["Id"]] = f"exited with code {code}"
    return found


def describe_problem(details: Mapping[str, Any], expected: ExpectedState = "") -> str:
    """The problem of an inspected container in a few words; empty if it has none."""
    state = details.get("State") or {}
    status, code = str(state.get("Status", "")), int(state.get("ExitCode") or 0)
    restarts = int(details.get("RestartCount") or 0)
    if status == "restarting" or (status == "running" and _is_crash_looping(state, restarts)):
        # While a container is up, the engine does not keep the exit code of its previous run.
        last = f", last exit code {code}" if status == "restarting" or code else ""
        return f"keeps restarting: {text.plural(restarts, 'restart')}{last}"
    if status in ("dead", "removing"):
        return status
    if status in ("running", "paused") or expected == "stopped":
        return ""
    return _describe_stopped(details, state, code, expected)


def _describe_stopped(details: Mapping[str, Any], state: Mapping[str, Any], code: int, expected: ExpectedState) -> str:
    policy = str(((details.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no")
    if state.get("OOMKilled"):
        return "killed: out of memory"
    if error := brief(str(state.get("Error") or "")):
        return f"could not start: {error.splitlines()[0]}"
    if state.get("Status") == "created":
        return "never started" if expected == "running" else ""
    if code and code not in STOPPED_BY_SIGNAL:
        return f"exited with code {code}"
    if policy in ALWAYS:
        return f"stopped (exit code {code}) although its restart policy is {policy}"
    return f"stopped (exit code {code}) although it should be running" if expected == "running" else ""


def _is_crash_looping(state: Mapping[str, Any], restarts: int) -> bool:
    """Whether the restart policy restarted the container repeatedly, the last time recently."""
    ended = _parse_time(str(state.get("FinishedAt") or ""))
    return restarts >= LOOP_RESTARTS and ended is not None and datetime.now(UTC) - ended < RECENT


def _parse_time(engine_time: str) -> datetime | None:
    with suppress(ValueError):
        when = datetime.fromisoformat(engine_time)
        return when if when.tzinfo else when.replace(tzinfo=UTC)
    return None
