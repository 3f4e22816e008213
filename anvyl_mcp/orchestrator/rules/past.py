"""Questions about the past: answered by tools that reach back, or refused; never with how things are now."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.connection.listing import ToolListing

PAST = re.compile(
    r"(?i)\b(?P<when>yesterday|last\s+(?:night|week|month|year|evening|weekend|(?:mon|tues|wednes|thurs|fri|satur|sun)day)"
    r"|(?:an?|\d+|few|two|three)\s+(?:minutes?|hours?|days?|weeks?|months?)\s+ago|this\s+morning|earlier\s+today"
    r"|(?:at|around)\s+\d{1,2}(?::\d\d)?\s*(?:am|pm|o'clock)\b|at\s+(?:midnight|noon))\b"
)
MADE = re.compile(r"(?i)\b(?:created|built|made|pulled|older|newer|started|since|born|up)\b")
"""Questions about the past that current data answers: creation and start times."""
WHO_DID = re.compile(
    r"(?i)^\W*who(?:\s+has|'s|\s+was\s+it\s+(?:that|who))?\s+"
    r"(?:stopped|started|restarted|removed|deleted|killed|created|changed|updated|rebooted|pulled|paused|renamed)\b"
)
REACH: Mapping[str, str] = {
    "yesterday": "48h",
    "last night": "24h",
    "this morning": "24h",
    "earlier today": "24h",
    "last week": "14d",
    "last month": "60d",
    "last year": "720d",
}


def read(masked: str) -> str:
    """The past time that a question is about, or empty."""
    if WHO_DID.match(masked):
        return "since"
    found = PAST.search(masked)
    return " ".join(found["when"].lower().split()) if found and not MADE.search(masked) else ""


def check_tools(when: str, tools: Sequence[ToolListing]) -> None:
    """Check that some tool reaches back.

    Raises:
        NotUnderstood: none does.
    """
    if when == "since" and not any(tool.toolset == "history" for tool in tools):
        raise NotUnderstood("the audit log of a host shows who made a change", hint="run on that host: anvyl-mcp audit")


def reach_back(when: str, calls: Sequence[Call]) -> None:
    """Extend `since` of the calls to the time that the question is about.

    Raises:
        NotUnderstood: no call reaches back.
    """
    reaching = [call for call in calls if "since" in call.listing.arguments]
    if not reaching:
        raise NotUnderstood(
            f"I can only see how things are now, not how they were `{when}`",
            hint="logs and events reach back: show logs of web since 24h",
        )
    for call in reaching:
        if not call.arguments.get("since"):
            call.arguments["since"] = REACH.get(when, "8d" if "last " in when else "48h")
