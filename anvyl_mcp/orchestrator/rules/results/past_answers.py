"""Answers about the past, from what the hosts recorded: who did it, why and when it ended, how much was used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.values.day_words import DayWords
from anvyl_mcp.core.values.history_words import NOT_KEPT, OUTSIDE, WHO, clock_words, state_words
from anvyl_mcp.orchestrator.language.questions import says
from anvyl_mcp.orchestrator.language.vocabulary import meaning, meanings
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.history.merged_history import HostClock, moment_of

ENDS = ("stopped", "killed", "ended", "crashed", "restarted")
ASKED = {
    "stop": ENDS,
    "start": ("started", "restarted"),
    "restart": ("restarted", "crashed", "ended", "killed", "stopped", "started"),
    "remove": ("removed", "deleted"),
    "create": ("created",),
    "pull": ("pulled",),
    "crash": ("crashed", "out of memory", "killed", "ended"),
    "die": ENDS,
    "pause": ("paused",),
    "rename": ("renamed",),
    "update": ("updated", "created"),
    "change": ("",),
    "run": ("started", *ENDS),
    "stopped": ENDS,
    "running": ENDS,
    "unhealthy": ("unhealthy",),
}
"""What the entries are called that a question with this verb is about, the best first."""
PLAIN_DEED = re.compile(r"(?:stopped|killed|restarted|started|created|removed|paused|unpaused|renamed)(?: and \w+)?")
"""Deeds that fit between who did it and to what."""
IS_IT_SO = re.compile(r"^\W*(?:did|has|have|was|were)\b", re.IGNORECASE)
DISK = frozenset({"disk", "full", "space", "storage", "filling", "fill"})
LINES = 8
LINES_ALONE = 50
NO_END = "No end of it was recorded in that time."
NOTHING = "Nothing like that was recorded in that time."
SHOWN_HOSTS = 8
MOST_RANKED = 3


@dataclass(frozen=True)
class Entry:
    """One thing that happened, with the host where it did. `at`: on this machine's clock, ISO 8601."""

    host: str
    at: str
    fields: Mapping[str, Any]

    @property
    def what(self) -> str:
        """`stopped`, `created and started`."""
        return str(self.fields.get("what") or "")

    def sentence(self, days: DayWords) -> str:
        """`desk stopped web on nas at 07:48 (exit code 143).`"""
        name, who = str(self.fields.get("name") or "?"), str(self.fields.get("who") or "")
        times = f" {self.fields['times']} times" if self.fields.get("times", 1) > 1 else ""
        detail = f" ({self.fields['detail']})" if self.fields.get("detail") else ""
        place = f"{times} on {self.host} {days.at(self.at)}{detail}."
        if not who:
            return f"{name} {self.what}{place}"
        if not PLAIN_DEED.fullmatch(self.what):
            return f"{name}: {self.what}, {'' if who == OUTSIDE else 'by '}{WHO.get(who, who)}{place}"
        if who == OUTSIDE:
            return f"{name} was {self.what} {OUTSIDE}{place}"
        return f"{WHO.get(who, who)} {self.what} {name}{place}"


def tells_past(listing: ToolListing) -> bool:
    """Whether a tool answers from what its host recorded."""
    return "kept_since" in text.resolve_schema(listing.output_schema).get("properties", {})


def sentences(
    question: str, listing: ToolListing, arguments: Mapping[str, Any], answered: Mapping[str, Any]
) -> list[str]:
    """The answer from the results of one call, which are under `result` for each host."""
    results = {host: _corrected(entry) for host, entry in answered.items() if entry["result"]}
    name = str(arguments.get("name") or "")
    if name and (unknown := _unknown(results)):
        return [*unknown, *_kept_since(results, DayWords())]
    if text.rows_field(text.resolve_schema(listing.output_schema)) == "events":
        lines = _of_events(question, name, results, _entries(results))
    else:
        lines = _of_usage(question, name, results)
    return [*lines, *_limits(results, name)]


def _unknown(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why nothing is known about a name, if no host knows anything."""
    if any(result.get("events") or result.get("usage") or result.get("state") for result in results.values()):
        return []
    hosts_of: dict[str, list[str]] = {}
    for host, result in results.items():
        hosts_of.setdefault(str(result.get("note") or "nothing was recorded in that time"), []).append(host)
    return [f"{text.join_names(hosts)}: {note}" for note, hosts in hosts_of.items()]


def _corrected(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A host's result with its times on this machine's clock."""
    result: Mapping[str, Any] = entry["result"]
    clock = HostClock(result, entry["arrived"], entry["seconds"]) if "arrived" in entry else None
    return clock.corrected_result(result) if clock else result


def _entries(results: Mapping[str, Mapping[str, Any]]) -> list[Entry]:
    """The entries of all hosts, newest first on this machine's clock."""
    found = [
        Entry(host, moment.astimezone(UTC).isoformat(timespec="seconds"), event)
        for host, result in results.items()
        for event in result.get("events") or ()
        if (moment := moment_of(event.get("time")))
    ]
    return sorted(found, key=lambda entry: entry.at, reverse=True)


def _of_events(
    question: str, name: str, results: Mapping[str, Mapping[str, Any]], entries: Sequence[Entry]
) -> list[str]:
    days, is_it_so = DayWords(), IS_IT_SO.search(question) is not None
    stems = _stems(question)
    states = [f"{state_words(result, days, host)}." for host, result in results.items() if result.get("state")]
    if name and states and says("last_run", question):
        return states
    if name and says("logs", question):
        return _before_end(name, entries, days, states)
    if stems and says("how_often", question):
        return [_counted(name, stems, entries, days), *states]
    about_one = is_it_so or any(says(form, question) for form in ("who", "when_did", "why", "how_often"))
    if not about_one or not (stems or (name and not is_it_so)):
        if not entries:
            return [f"Nothing was recorded on {text.join_names(list(results))} in that time.", *states]
        if not name:
            return _listed(results, entries, days)
        return [entries[0].sentence(days), *_last_lines(entries[0]), *states]
    matching = _matching(stems or ENDS, entries, exact=not name or (stems is ENDS and is_it_so))
    if not matching:
        nothing = NO_END if name and (stems or ENDS) is ENDS else NOTHING
        return [nothing, *(one.sentence(days) for one in entries[:1] if name), *states]
    lines = [one.sentence(days) for one in matching[: 1 if name or says("why", question) else MOST_RANKED]]
    return [*lines, *(_last_lines(matching[0]) if says("why", question) else ()), *states]


def _listed(results: Mapping[str, Mapping[str, Any]], entries: Sequence[Entry], days: DayWords) -> list[str]:
    """The number of entries, and the newest; the table shows all of them."""
    total = sum(int(result.get("total", 0)) for result in results.values())
    places = text.join_names(list(results))
    return [f"{text.plural(total, 'event')} on {places}; the latest: {entries[0].sentence(days)}"]


def _counted(name: str, stems: Sequence[str], entries: Sequence[Entry], days: DayWords) -> str:
    """`web: 3 times in that time; the latest: web crashed on nas at 03:12.`"""
    matching = _matching(stems, entries, exact=True)
    if stems is ASKED["restart"]:
        # Neither the first start nor the stop before a start is one.
        deeds = [(one, f"{one.what} {one.fields.get('detail') or ''}") for one in matching]
        matching = [one for one, deed in deeds if "started" in deed and "created" not in deed]
    times = sum(int(one.fields.get("times", 1)) for one in matching)
    about = f"{name}: " if name else ""
    return f"{about}{text.plural(times, 'time')}; the latest: {matching[0].sentence(days)}" if matching else NOTHING


def _before_end(name: str, entries: Sequence[Entry], days: DayWords, states: Sequence[str]) -> list[str]:
    """What a container logged last before it ended."""
    ended = [entry for entry in entries if entry.fields.get("lines")]
    if not ended:
        return [f"No last lines of {name} were recorded before an end.", *states]
    lines = [f"  {line}" for line in list(ended[0].fields["lines"])[-LINES_ALONE:]]
    return [f"The last lines of {name} before this: {ended[0].sentence(days)}", *lines]


def _stems(question: str) -> Sequence[str]:
    """What the first verb of a question is about: `stopped` and `killed` like `stop`; empty without one."""
    forms = [one for word in re.findall(r"[a-z]+", question.lower()) for one in (word, word[:-1], word[:-2], word[:-3])]
    return next((ASKED[verb] for one in forms if (verb := meaning(one)) in ASKED), ())


def _matching(stems: Sequence[str], entries: Sequence[Entry], *, exact: bool) -> list[Entry]:
    """The entries that a verb is about, newest first. Not `exact`: of the best kind only."""
    if exact:
        return [entry for entry in entries if any(stem in entry.what for stem in stems)]
    return next((found for stem in stems if (found := [one for one in entries if stem in one.what])), [])


def _last_lines(entry: Entry) -> list[str]:
    lines = entry.fields.get("lines") or ()
    return ["Its last lines:", *(f"  {line}" for line in lines[-LINES:])] if lines else []


def _of_usage(question: str, name: str, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    days, words = DayWords(), set(meanings(question))
    if not name and words & DISK:
        known = [f"{host}: {disk['summary']}" for host, result in results.items() for disk in result.get("disks") or ()]
        if known and re.search(r"(?i)\b(?:was|were|did)\b", question):
            known = ["Of disks, only what they hold now and how they grow is known:", *known]
        return known or [f"No disk was recorded on {text.join_names(list(results))} yet."]
    rows = [(host, row) for host, result in results.items() for row in result.get("usage") or ()]
    if not rows:
        return [f"No usage was recorded on {text.join_names(list(results))} in that time."]
    if not name and says("ran", question) and not words & {"memory", "cpu"}:
        return [_that_ran(host, result) for host, result in results.items()]
    measures = [one for one in ("memory", "cpu") if one in words] or ["memory", "cpu"]
    if not name and ({"container", "which"} <= words or "most" in words):
        # The first row of each host is the machine's own.
        own = {host: (result.get("usage") or [{}])[0].get("name") for host, result in results.items()}
        peak = "memory_peak" if measures[0] == "memory" else "cpu_peak"
        ranked = [(host, row) for host, row in rows if row.get("name") != own[host] and row.get(peak) is not None]
        rows = sorted(ranked, key=lambda one: one[1][peak], reverse=True)[:MOST_RANKED] or rows
    elif not name:
        rows = [(host, row) for host, result in results.items() for row in (result.get("usage") or ())[:1]]
    return [_usage_words(host, row, measures, days) for host, row in rows[:SHOWN_HOSTS]]


def _that_ran(host: str, result: Mapping[str, Any]) -> str:
    """`2 containers ran on nas in that time: db and web.`"""
    names = [str(row.get("name")) for row in (result.get("usage") or ())[1:]]  # the first row is the machine's own
    found = f"{text.plural(len(names), 'container')} ran on {host} in that time"
    return f"{found}{f': {text.join_names(names)}' if names else ''}."


def _usage_words(host: str, row: Mapping[str, Any], measures: Sequence[str], days: DayWords) -> str:
    """`web on nas: memory 120 MiB on average, at most 300 MiB yesterday at 03:12.`"""
    parts = []
    for one in measures:
        mean, peak = row.get("memory" if one == "memory" else "cpu_percent"), row.get(f"{one}_peak")
        if mean is not None:
            when = days.at(str(row.get(f"{one}_peak_time")))
            most = "" if peak is None else f", at most {_amount(one, peak)} {when}".rstrip()
            parts.append(f"{one} {_amount(one, mean)} on average{most}")
    place = str(row.get("name")) if row.get("name") == host else f"{row.get('name')} on {host}"
    return f"{place}: {'; '.join(parts) or 'nothing was recorded'}."


def _amount(measure: str, value: float) -> str:
    return text.format_size(value) if measure == "memory" else f"{value:g} %"


def _kept_since(results: Mapping[str, Mapping[str, Any]], days: DayWords) -> list[str]:
    """Since when history is kept, where that is later than what was asked for."""
    late: dict[str, list[str]] = {}
    for host, result in results.items():
        kept, since = moment_of(result.get("kept_since")), moment_of(result.get("since"))
        if kept and since and kept > since:
            late.setdefault(days.of(str(result["kept_since"])), []).append(host)
    return [f"History is kept since {when} on {text.join_names(hosts)}." for when, hosts in late.items()]


def _limits(results: Mapping[str, Mapping[str, Any]], name: str) -> list[str]:
    """What is not known: the time before the history begins, gaps in it, and why it is not recorded."""
    days = DayWords()
    known = {
        host: result
        for host, result in results.items()
        if not name or result.get("events") or result.get("usage") or result.get("state")
    }
    lines = _kept_since(known, days)
    for host, result in known.items():
        lines += [
            f"Nothing was recorded from {days.of(gap['start'])} to {days.of(gap['end'])} on {host}."
            for gap in (result.get("gaps") or [])[:2]
        ]
        if result.get("clock_set_by"):
            lines.append(f"{host}: {clock_words(result, days)}.")
        if result.get("problem"):
            lines.append(f"{host}: {result['problem']}")
        if not result.get("kept_since"):
            lines.append(f"{host}: {NOT_KEPT}")
        if result.get("note") and not result.get("events"):
            lines.append(f"{host}: {result['note']}")
    return lines
