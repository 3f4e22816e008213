"""Questions about the past and about what disks are becoming: answered from what hosts recorded, or refused.

They are never answered with how things are now. Words are in the files of the languages; every other language is
translated before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Literal

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput, NotUnderstood
from anvyl_mcp.core.values.time_phrases import Interval, local_zone, read_interval
from anvyl_mcp.core.values.time_words import AWAY
from anvyl_mcp.orchestrator.language.lexicon import words_of_language
from anvyl_mcp.orchestrator.language.questions import past_forms, says
from anvyl_mcp.orchestrator.rules.results.past_answers import tells_past
from anvyl_mcp.peers.connection.listing import ToolListing

ABOUT = re.compile(r"(?i)(?:did|was|were|has|have|had|does|is|of|by|for|to|from|touched)")
LONG_AGO = "30d"
"""How far back `who stopped web` looks."""
LATEST = timedelta(minutes=1)
DISK_TREND = "7d"


@dataclass(frozen=True)
class Past:
    """What a question wants to know about the past: `usage`, `events`, the `ends` of containers, or their `logs`.

    `words`: the time as written; `since` and `until`: arguments for it; `hours`: how long ago it begins; `remark`: how
    it was understood; `deed`: it names what happened; `why`: it asks for a reason; `removal`: what it names may be
    gone; `trend`: it is about what disks are becoming.
    """

    wants: Literal["usage", "events", "ends", "logs"]
    words: str = ""
    since: str = ""
    until: str = ""
    hours: int = 0
    kind: str = ""
    remark: str = ""
    deed: bool = False
    why: bool = False
    removal: bool = False
    trend: bool = False

    def tool(self, tools: Iterable[ToolListing]) -> ToolListing:
        """The tool that answers it.

        Raises:
            NotUnderstood: none of these reaches back.
        """
        wanted = "usage" if self.wants == "usage" else "events"
        for listing in tools:
            if tells_past(listing) and wanted in text.resolve_schema(listing.output_schema).get("properties", {}):
                return listing
        raise only_now(self.words)

    def arguments(self, listing: ToolListing, name: str) -> dict[str, str]:
        """Arguments for a tool about a container, or about all."""
        given = {"name": name, "since": self.since, "until": self.until, "kind": self.kind}
        return {key: value for key, value in given.items() if value and key in listing.arguments}


def only_now(words: str) -> NotUnderstood:
    """Error for a question about the past that no tool reaches."""
    then = f"`{words}`" if words else "before"
    return NotUnderstood(
        f"I can only see how things are now, not how they were {then}",
        hint="the audit log of a host shows who made a change: run on that host: anvyl-mcp audit",
    )


def read(said: str) -> Past | None:
    """What a question in English wants to know about the past; None for one about the present.

    Raises:
        NotUnderstood: the time is not clear.
    """
    if says("becoming", said) and says("disk", said):
        return Past("usage", since=DISK_TREND, trend=True)
    if says("logs", said) and says("before_end", said):
        return Past("ends", since=LONG_AGO, kind="deaths")
    if says("did", said) and (other := past_forms("unrecorded").search(said)):
        raise NotUnderstood(
            f"`{other[0]}` is not recorded over time", hint="what is: memory, cpu, disk, starts, ends, changes"
        )
    if says("may", said) or (says("made", said) and not says("who", said)):
        return None
    deed, why = says("deeds", said), says("why", said)
    asks = deed and ((why and says("did", said)) or any(says(form, said) for form in ("who", "when_did", "how_often")))
    when, remark = _interval(said, past=says("did", said) or asks)
    if when or remark:
        if not asks and not _is_about_past(said, when):
            return None
        found = _in_time(_wants(said), when, remark)
    elif asks or says("last_run", said):
        found = Past("events", since=LONG_AGO)
    else:
        return None
    kinds = [kind for kind, form in (("deaths", "died"), ("changes", "changed")) if says(form, said)]
    kind = kinds[0] if kinds and found.wants == "events" else ""
    return replace(found, kind=kind, deed=deed, why=why, removal=says("removed", said))


def _wants(said: str) -> Literal["usage", "events", "logs"]:
    if says("logs", said):
        return "logs"
    measured = says("measures", said) or (says("ran", said) and says("objects", said))
    return "usage" if measured and not says("who", said) else "events"


def _is_about_past(said: str, when: Interval | None) -> bool:
    """Whether a question with a time is about what has been, not about when what is there now was made."""
    if says("did", said):
        return True
    over = when is None or when.end < datetime.now(UTC) - LATEST
    about = any(says(form, said) for form in ("measures", "deeds", "logs"))
    return about and (over or not says("present", said))


def _in_time(wants: Literal["usage", "events", "logs"], when: Interval | None, remark: str) -> Past:
    if when is None:
        return Past(wants, since="24h", hours=24, remark=remark)
    words = " ".join(when.words.split())
    hours = max(1, ceil((datetime.now(UTC) - min(when.start, when.since)) / timedelta(hours=1)))
    if when.moment:
        start, end = (moment.isoformat(timespec="seconds") for moment in (when.start, when.end))
        return Past(wants, words, start, end, hours, remark=remark)
    until = words if when.end < datetime.now(UTC) - LATEST else ""
    return Past(wants, words, words, until, hours, remark=remark)


def _interval(said: str, *, past: bool) -> tuple[Interval | None, str]:
    """The time in a question, or how the words for one that is not known are taken."""
    if away := AWAY.search(said.lower()) or past_forms("away").search(said):
        return None, f"`{away[0].strip(' ?!.')}` taken as the last 24 hours; say since when, like `since 9 am`"
    try:
        found = read_interval(said, datetime.now(UTC), local_zone())
    except InvalidInput as error:
        if past:
            raise NotUnderstood(error.message, hint=error.hint) from error
        return None, ""
    return (None, "") if found is None or found.end <= found.start else (found, found.remark)


def without_time(said: str, when: Past) -> str:
    """The text without the words of its time."""
    for words in filter(None, (when.words, when.remark.partition("`")[2].partition("`")[0])):
        said = re.sub(
            re.escape(words).replace(r"\ ", r"\s+"), lambda match: " " * len(match[0]), said, flags=re.IGNORECASE
        )
    return said


def without_words(said: str, when: Past) -> str:
    """The text without all words that were read as a question about the past."""
    left = said = without_time(said, when)
    for match in (match for name in words_of_language("en")["past"] for match in past_forms(name).finditer(said)):
        left = f"{left[: match.start()]}{' ' * len(match[0])}{left[match.end() :]}"
    return left


def may_name(word: str, said: str) -> bool:
    """Whether an unknown word stands where the thing that a question is about is named."""
    before = re.search(rf"(?i)(?P<last>\S+)\s+(?:(?:the|my|our|container)\s+)*{re.escape(word)}(?![\w-])", said)
    if before is None:
        return False
    return any(known.fullmatch(before["last"]) for known in (ABOUT, past_forms("deeds")))
