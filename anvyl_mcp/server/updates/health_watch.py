"""Watches new containers until they are healthy, or have been up long enough."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled, EngineError, NotFound, Timeout
from anvyl_mcp.core.redaction.redact_text import redact_lines
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.logs import reader
from anvyl_mcp.server.policy.guardrails import is_hidden
from anvyl_mcp.server.progress import Progress

POLL_SECONDS = 0.5
LONGEST_SECONDS = 900.0
"""Time limit for a health check to decide, whatever its settings."""
ENGINE_PATIENCE = 60.0
"""How long an engine may fail to answer before that counts as a failure."""
LAST_LINES = 10
REMOVED_ITSELF = "ended, and removed itself (`--rm`)"
NANOSECONDS = 1_000_000_000


class UnhealthyError(Exception):
    """A new container did not come up: `why` is a predicate, `lines` are the last of its log, without secrets."""

    def __init__(self, name: str, why: str, lines: Sequence[str]) -> None:
        super().__init__(f"`{name}` {why}")
        self.name, self.why, self.lines = name, why, list(lines)


def watch(engine: Engine, containers: Mapping[str, str], seconds: float, progress: Progress) -> None:
    """Return once every container is healthy, or without a health check up for `seconds` and not restarted.

    `containers`: names by id.

    Raises:
        UnhealthyError: one ended, restarted, is unhealthy or did not become healthy in time.
        Cancelled: the caller cancelled.
    """
    pending, began, heard = dict(containers), time.monotonic(), time.monotonic()
    lines: dict[str, list[str]] = {}
    while pending:
        for identifier, name in list(pending.items()):
            try:
                found = engine.inspect(identifier)
                heard = time.monotonic()
            except NotFound:
                raise UnhealthyError(name, REMOVED_ITSELF, lines.get(name, [])) from None
            except (EngineError, Timeout):
                if time.monotonic() - heard > ENGINE_PATIENCE:
                    raise
                continue
            if compat.mapping(found["HostConfig"]).get("AutoRemove"):
                # Its log goes with it when it ends.
                lines[name] = last_lines(engine, found)
            if why := _trouble(found):
                raise UnhealthyError(name, why, last_lines(engine, found) or lines.get(name, []))
            passed = time.monotonic() - began
            if found["State"]["Health"]["Status"] == "healthy" or (not _has_check(found) and passed >= seconds):
                del pending[identifier]
            elif _has_check(found) and passed > (limit := _limit(found, seconds)):
                why = f"was not healthy within {text.format_duration(limit)}"
                raise UnhealthyError(name, why, last_lines(engine, found))
        passed = time.monotonic() - began
        if pending:
            if progress.cancelled:
                raise Cancelled(f"cancelled after {passed:.0f} s of watching")
            waiting = text.join_names(list(pending.values()))
            progress(passed, max(seconds, passed), f"watching {waiting}: {passed:.0f} s")
            time.sleep(min(POLL_SECONDS, max(seconds / 4, 0.05)))


def check_up(engine: Engine, containers: Mapping[str, str]) -> None:
    """Return if none of these containers has failed so far.

    Raises:
        UnhealthyError: one has.
    """
    for identifier, name in containers.items():
        try:
            found = engine.inspect(identifier)
        except NotFound:
            raise UnhealthyError(name, REMOVED_ITSELF, []) from None
        if why := _trouble(found):
            raise UnhealthyError(name, why, last_lines(engine, found))


def last_lines(engine: Engine, container: Mapping[str, Any]) -> list[str]:
    """The last lines that a container logged, without secrets; none if they cannot or must not be read."""
    if is_hidden(container):
        return []
    try:
        return redact_lines(reader.read_log(engine, container, tail=LAST_LINES, since="", grep="").lines)
    except AnvylError:
        return []


def _trouble(found: Mapping[str, Any]) -> str:
    """What is wrong with a new container, as a predicate; empty if nothing is."""
    state = found["State"]
    status, code = state["Status"], state["ExitCode"]
    if found["RestartCount"] or status == "restarting":
        return f"crashed and was restarted (exit code {code})" if code else "ended and was restarted"
    if status not in ("running", "paused"):
        killed = ", out of memory" if state.get("OOMKilled") else ""
        reason = f": {state['Error']}" if state["Error"] else ""
        return f"ended with exit code {code}{killed}{reason}"
    if state["Health"]["Status"] == "unhealthy":
        checks = state["Health"]["Log"]
        # The last line has the reason, also of a traceback.
        lines = text.clean(str(checks[-1].get("Output", ""))).strip().splitlines() if checks else []
        said = " ".join(lines[-1].split())[:200] if lines else ""
        return f"is unhealthy{f': {said}' if said else ''}"
    return ""


def _has_check(found: Mapping[str, Any]) -> bool:
    return found["State"]["Health"]["Status"] not in ("", "none")


def _limit(found: Mapping[str, Any], seconds: float) -> float:
    """Seconds within which a health check must have decided."""
    check = compat.mapping(found["Config"].get("Healthcheck"))
    interval, timeout, start = (compat.number(check.get(key)) or 0 for key in ("Interval", "Timeout", "StartPeriod"))
    retries = compat.number(check.get("Retries")) or 3
    rounds = ((interval or 30 * NANOSECONDS) + (timeout or 30 * NANOSECONDS)) * (retries + 1)
    return min(LONGEST_SECONDS, max(seconds, (start + rounds) / NANOSECONDS) + 5)
