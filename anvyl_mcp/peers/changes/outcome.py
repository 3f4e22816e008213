"""Summarize several calls as one exit code, one status per host and one error, the same for the CLI and HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Incomplete
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.fleet.fleet import Outcome

WORST_FIRST = (130, 2, 5, 4, 1, 3, 0)
MOST_REASONS = 20
"""Reasons listed in one error; beyond that only their number is given."""


def worst_exit_code(codes: Iterable[int]) -> int:
    """Return the most severe of several exit codes."""
    every = {0, *codes}
    return next((code for code in WORST_FIRST if code in every), 1)


def last_attempts(done: Iterable[Outcome]) -> list[Outcome]:
    """Keep the last call per tool, host and object, so that a successful retry replaces its failure."""
    last: dict[tuple[object, ...], Outcome] = {}
    for one in done:
        subject = tuple(str(one.arguments.get(name, "")) for name in wording.SUBJECTS)
        last[one.tool, one.host, subject] = one
    return list(last.values())


def exit_code(done: Iterable[Outcome]) -> int:
    """Return 0 if all succeeded, 3 if some failed, the errors' common exit code if all failed alike, else 1."""
    error = failure(done)
    return error.exit_code if error else 0


def failure(done: Iterable[Outcome]) -> AnvylError | None:
    """Combine all failures into one error that names them; None if nothing failed."""
    every = last_attempts(done)
    failed = [one for one in every if one.error is not None]
    errors = [one.error for one in failed if one.error is not None]
    if not failed:
        return None
    reasons = wording.failures(failed)
    shown = "; ".join(reasons[:MOST_REASONS])
    more = f"; and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    hints = list(dict.fromkeys(error.hint for error in errors if error.hint))
    hint = hints[0] if len(hints) == 1 else ""
    if len(failed) < len(every):
        return Incomplete(f"{len(failed)} of {text.plural(len(every), 'call')} failed: {shown}{more}", hint=hint)
    if len(failed) == 1:
        where = f"{failed[0].host}: " if failed[0].host else ""
        return type(errors[0])(f"{where}{errors[0].message}", hint=errors[0].hint)
    alike = len({type(error) if error.exit_code == 1 else error.exit_code for error in errors}) == 1
    kind = type(errors[0]) if alike else AnvylError
    return kind(f"all {len(failed)} calls failed: {shown}{more}", hint=hint)


def host_statuses(done: Iterable[Outcome]) -> dict[str, str]:
    """Return a status for each host: `ok`, or a status word with the reason."""
    calls: dict[str, list[Outcome]] = {}
    for one in last_attempts(done):
        calls.setdefault(one.host, []).append(one)
    return {host: _status(every) for host, every in calls.items()}


def documents(done: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return calls as JSON documents."""
    return [document(one) for one in done]


def document(call: Outcome) -> dict[str, Any]:
    """Return one call on one host as a JSON document, the same for every command and endpoint."""
    return {
        "tool": call.tool,
        "arguments": dict(call.arguments),
        "host": call.host,
        "ok": call.ok,
        "result": call.answer.result,
        "error": str(call.error) if call.error else None,
        "seconds": call.seconds,
    }


def _status(every: list[Outcome]) -> str:
    failed = [one for one in every if not one.ok]
    if not failed:
        return "ok"
    first = next((one for one in failed if one.host_failed), failed[0])
    return first.status if len(failed) == 1 else f"{first.word}: {len(failed)} of {len(every)} calls failed"
