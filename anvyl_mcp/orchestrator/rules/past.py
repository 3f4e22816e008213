"""Questions about the past: answered by tools that reach back, or refused; never with how things are now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil

from anvyl_mcp.core.errors import InvalidInput, NotUnderstood
from anvyl_mcp.core.values.time_phrases import local_zone, read_interval
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.connection.listing import ToolListing

MADE = re.compile(r"(?i)\b(?:created|built|made|pulled|older|newer|started|born|up)\b")
"""Questions about the past that current data answers: creation and start times."""
DID = re.compile(
    r"(?i)\b(?:did|was|were|had|used|crashed|died|stopped|started|restarted|failed|happened|logs?|logged|errors?|history|changed?"
    r"|changes|deployed|events?|went|wrote|said|printed|lines?|who|how\s+(?:much|many|often|busy|full))\b"
)
"""Words of questions about what has been."""
WHO_DID = re.compile(
    r"(?i)^\W*who(?:\s+has|\s+is\s+it\s+that|'s|\s+was\s+it\s+(?:that|who))?\s+"
    r"(?:stopped|started|restarted|removed|deleted|killed|created|changed|updated|rebooted|pulled|paused|renamed|touched)\b"
)
RECENTLY = re.compile(
    r"(?i)^(?:in\s+|over\s+|during\s+|for\s+|within\s+|since\b|from\s+)?(?:the\s+)?(?:last|past|since)\b"
)


@dataclass(frozen=True)
class Past:
    """The time that a question is about. `who`: it asks who did something."""

    words: str = ""
    hours: int = 24
    who: bool = False


def read(masked: str) -> Past | None:
    """The past time that a question is about; None for one about the present.

    Raises:
        NotUnderstood: the time is not clear.
    """
    if WHO_DID.match(masked):
        return _when(masked) or Past(who=True)
    return None if MADE.search(masked) or not DID.search(masked) else _when(masked)


def _when(masked: str) -> Past | None:
    now = datetime.now(UTC)
    try:
        found = read_interval(masked, now, local_zone())
    except InvalidInput as error:
        if WHO_DID.match(masked) or re.search(r"(?i)\b(?:did|was|were)\b", masked):
            raise NotUnderstood(error.message, hint=error.hint) from error
        return None
    if found is None or found.end <= found.start:
        return None
    length = now - min(found.start, found.since)
    words = " ".join(found.words.split())
    return Past(words, max(1, ceil(length / timedelta(hours=1))), WHO_DID.match(masked) is not None)


def tools_for(when: Past, tools: Sequence[ToolListing]) -> list[ToolListing]:
    """The tools that reach back.

    Raises:
        NotUnderstood: none says who made a change.
    """
    history = [tool for tool in tools if tool.toolset == "history" and "since" in tool.arguments]
    if when.who and not history:
        raise NotUnderstood("the audit log of a host shows who made a change", hint="run on that host: anvyl-mcp audit")
    if when.who:
        return history
    return [tool for tool in tools if "since" in tool.arguments]


def reach_back(when: Past, calls: Sequence[Call]) -> None:
    """Extend `since` of the calls to the time that the question is about.

    Raises:
        NotUnderstood: no call reaches back.
    """
    reaching = [call for call in calls if "since" in call.listing.arguments]
    if not reaching:
        raise NotUnderstood(
            f"I can only see how things are now, not how they were `{when.words}`",
            hint="logs and events reach back: show logs of web since 24h",
        )
    for call in reaching:
        if not call.arguments.get("since") and when.words:
            call.arguments["since"] = f"{when.hours}h"
