"""What is wrong with a container, judged in one place for lists, answers and the watcher."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.policy.guardrails import is_hidden

ExpectedState = Literal["", "running", "stopped"]
"""What the last change through this host asked for; empty when it is too long ago, or there was none."""

RECENT = timedelta(minutes=10)
"""A container that was restarted by its policy and ended within this time keeps restarting, also while it is up."""
LOOP_RESTARTS = 2
"""Restarts by the policy that make a loop; one may be a hiccup."""
MOST_INSPECTED = 30
"""Containers of one list that are looked at more closely: each is a request to the engine of about a millisecond."""
EXITED = re.compile(r"Exited \((?P<code>\d+)\)")
JUST_STARTED = re.compile(r"Up (?:less than a second|\d+ seconds?|about a minute|\d minutes)\b", re.IGNORECASE)
STOPPED_BY_SIGNAL = (137, 143)
"""Exit codes after SIGKILL and SIGTERM: how a container ends that somebody stopped."""
ALWAYS = ("always", "unless-stopped")


def needs_inspection(entry: Mapping[str, Any]) -> bool:
    """Whether a list entry alone does not say if the container is well."""
    state, status = entry.get("State"), str(entry.get("Status", ""))
    if is_hidden(entry) or state == "paused" or _crash_exit_code(status):
        return False
    return state != "running" or JUST_STARTED.match(status) is not None


def _crash_exit_code(status: str) -> int:
    """The exit code in a list entry's status, when it alone says that the container failed; otherwise 0."""
    exited = EXITED.match(status)
    code = int(exited["code"]) if exited else 0
    return 0 if code in STOPPED_BY_SIGNAL else code


def find_problems(
    engine: Engine, entries: Sequence[Mapping[str, Any]], expected: Mapping[str, ExpectedState]
) -> dict[str, str]:
    """What is wrong with each container of a list, by its full id; a container that is well is left out."""
    found: dict[str, str] = {}
    suspects = [entry for entry in entries if needs_inspection(entry)]
    # A crash loop is what a person must hear of first.
    suspects.sort(key=lambda entry: entry.get("State") not in ("running", "restarting"))
    for entry in suspects[:MOST_INSPECTED]:
        try:
            details = engine.inspect(entry["Id"])
        except AnvylError:
            # Removed since it was listed, or too odd to read: the list says what is known.
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
    """What is wrong with an inspected container, in a few words; empty when nothing is."""
    state = details.get("State") or {}
    status, code = str(state.get("Status", "")), int(state.get("ExitCode") or 0)
    restarts = int(details.get("RestartCount") or 0)
    if status == "restarting" or (status == "running" and _is_crash_looping(state, restarts)):
        # The engine keeps no exit code of the run before while a container is up.
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
    if error := text.clean(str(state.get("Error") or "")):
        return f"could not start: {error.splitlines()[0]}"
    if state.get("Status") == "created":
        return "never started" if expected == "running" else ""
    if code and code not in STOPPED_BY_SIGNAL:
        return f"exited with code {code}"
    if policy in ALWAYS:
        return f"stopped (exit code {code}) although its restart policy is {policy}"
    return f"stopped (exit code {code}) although it was started last" if expected == "running" else ""


def _is_crash_looping(state: Mapping[str, Any], restarts: int) -> bool:
    """Up now, after restarts by its policy of which the last is recent."""
    ended = _parse_time(str(state.get("FinishedAt") or ""))
    return restarts >= LOOP_RESTARTS and ended is not None and datetime.now(UTC) - ended < RECENT


def _parse_time(engine_time: str) -> datetime | None:
    with suppress(ValueError):
        when = datetime.fromisoformat(engine_time)
        return when if when.tzinfo else when.replace(tzinfo=UTC)
    return None
