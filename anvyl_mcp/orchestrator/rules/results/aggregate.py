"""Answers aggregated from the results of any tool: the most, the least, where, what is unhealthy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.questions import KINDS, MOST_PERCENT, NOUNS, Query, Wants
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, STANDS_FOR, meaning
from anvyl_mcp.orchestrator.rules.results.measures import Amount, Measure, amounts, measures
from anvyl_mcp.peers.connection.listing import ToolListing

NEARLY_FULL = 85
SHOWN = 5
WELL = frozenset({"running", "created", "up", "ok"})
UP = ("running", "restarting", "paused")
"""States in which a container is not stopped."""
MOST_STOPPED = 8
"""Maximum number of stopped containers to name; of more only the number is given."""
WORDS = {"size": ("is the largest", "is the smallest"), "uptime": ("has been up the longest", "was started last")}
"""Words for the most and the least."""

ORDINARY = EMPTY | STANDS_FOR.keys() | KINDS | NOUNS
"""Words of a question that are not names."""
COMPARING = (Wants.EXTREME, Wants.BEYOND)

Results = Mapping[str, Mapping[str, Any]]
"""Results by host."""


def listed(listing: ToolListing) -> str:
    """Noun for the rows of a tool, like `container`; empty if its result is not a list."""
    return meaning(text.rows_field(text.resolve_schema(listing.output_schema)))


def chosen(query: Query, listings: Iterable[ToolListing], *, of_one: bool = False) -> ToolListing | None:
    """Tool whose results answer the question; `of_one`: about one named object."""
    rated = [(_rate(query, listing, of_one=of_one), listing) for listing in listings]
    best = max((rate for rate, _ in rated), default=0)
    return next((listing for rate, listing in rated if rate == best > 0), None)


def _rate(query: Query, listing: ToolListing, *, of_one: bool) -> int:
    if query.wants in (Wants.TROUBLE, Wants.WHERE):
        return int(listed(listing) == "container" and "all" in listing.arguments)
    if query.wants is Wants.UNUSED:
        return int(listed(listing) == query.noun)
    fitting = _fitting(query, listing, of_one=of_one)
    counted = query.wants is Wants.EXTREME and not fitting and listed(listing) in query.words - {query.noun, "host"}
    whole = query.words <= frozenset(word for measure in fitting for word in measure.words)
    # What is used of a total says more than a number alone.
    of_hosts = query.wants is Wants.AMOUNT or (query.wants is Wants.EXTREME and query.noun == "host")
    roomy = of_hosts and any(measure.room for measure in fitting)
    return 4 * bool(fitting) + 2 * whole + roomy + (2 if counted and "name" in listing.arguments else int(counted))


def _fitting(query: Query, listing: ToolListing, *, of_one: bool = False) -> list[Measure]:
    """Measures that the question is about."""
    found = [measure for measure in measures(listing) if measure.words & query.words]
    if of_one or (not query.noun and not query.free and query.wants in COMPARING and "host" not in query.said):
        found = [measure for measure in found if measure.noun == "container"] or ([] if of_one else found)
    elif query.noun and (query.wants in COMPARING or query.wants is Wants.AMOUNT):
        found = [measure for measure in found if measure.noun == query.noun]
    else:
        found = [measure for measure in found if measure.noun == "host"]
    if query.free or query.wants in (Wants.TIGHT, Wants.ROOM):
        found = [measure for measure in found if measure.room]
    if "many" in query.said:
        found = [measure for measure in found if not measure.format]
    exact = [measure for measure in found if measure.words <= query.words]
    return exact or found


def sentences(
    query: Query, listing: ToolListing, results: Results, *, subject: str = "", failed: Mapping[str, str] | None = None
) -> list[str]:
    """Sentences that answer the question from these results, or none.

    `failed`: the hosts that did not answer, with the reason.
    """
    if query.wants is Wants.TROUBLE:
        field = text.rows_field(text.resolve_schema(listing.output_schema))
        return _troubles(results, field, failed or {}) if field else []
    if query.wants is Wants.WHY:
        return [line for host, result in results.items() for line in _reasons(subject, host, result)]
    if query.wants in ROWS:
        field = text.rows_field(text.resolve_schema(listing.output_schema))
        rows = [(host, row) for host, result in results.items() for row in result.get(field, [])] if field else []
        return ROWS[query.wants](query, rows, list(results)) if field else []
    numbers = [
        (measure, [one for host, result in results.items() for one in amounts(measure, host, result)])
        for measure in _fitting(query, listing, of_one=bool(subject))
    ]
    if not any(found for _, found in numbers):
        return _unmeasured(numbers, results, subject) or _tallied(query, listing, results)
    lines = []
    for measure, found in numbers:
        kept = [one for one in found if not subject or one.label == subject]
        lines += NUMBERS[query.wants](query, measure, kept) if kept else []
        if query.wants is Wants.EXTREME:
            break
    return lines


def _extreme(query: Query, measure: Measure, found: Sequence[Amount]) -> list[str]:
    word = " ".join(sorted(measure.words & query.words))

    def weight(one: Amount) -> float:
        return one.free if query.free else one.percent if measure.label == "mount" and not query.least else one.value

    ranked = sorted(found, key=weight, reverse=not query.least)
    end = "least" if query.least else "most"
    first, rest = ranked[0], ranked[1:SHOWN]
    if query.free:
        head = f"{_where(first)} has the {end} {word} free: {first.shown(first.free)} of {first.shown(first.total)}"
    elif word in WORDS:
        head = f"{_where(first)} {WORDS[word][query.least]}: {first.shown(first.value)}"
    else:
        verb, things = ("uses", word) if first.format else ("has", f"{word}s")
        head = f"{_where(first)} {verb} the {end} {things}: {_used(first)}"
    then = [f"{_where(one)} {one.shown(one.free) if query.free else _used(one)}" for one in rest]
    return [f"{head}{'; then ' + text.join_names(then) if then else ''}."]


def _beyond(query: Query, measure: Measure, found: Sequence[Amount]) -> list[str]:
    share = query.need <= MOST_PERCENT

    def amount(one: Amount) -> float:
        return one.percent if share and one.total else one.free if query.free else one.value

    ranked = sorted(found, key=amount, reverse=True)
    kept = [one for one in ranked if (amount(one) < query.need if query.least else amount(one) > query.need)]
    bound = f"{'less' if query.least else 'more'} than {f'{query.need} %' if share else text.format_size(query.need)}"

    def shown(one: Amount) -> str:
        return one.shown(amount(one)) if not share or not one.total else f"{one.percent:.0f} %"

    word = " ".join(sorted(measure.words & query.words)) + (" free" if query.free else "")
    if not kept:
        best = ranked[-1 if query.least else 0]
        end = "least" if query.least else "most"
        return [f"Nothing has {bound} of {word}; the {end} is {best.place} with {shown(best)}."]
    return [
        f"{text.plural(len(kept), query.noun or measure.noun)} with {bound} of {word}: "
        + text.join_names([f"{one.place} {shown(one)}" for one in kept])
        + "."
    ]


def _tight(query: Query, measure: Measure, found: Sequence[Amount]) -> list[str]:
    word = " ".join(sorted(measure.words & query.words))
    ranked = sorted(found, key=lambda one: -one.percent)
    full = [
        f"{_where(one)} ({one.percent:.0f} %, {one.shown(one.free)} free)"
        for one in ranked
        if one.percent >= NEARLY_FULL
    ]
    if full:
        return [f"Nearly out of {word}: {text.join_names(full)}."]
    return [f"No: of {word}, {_where(ranked[0])} is the fullest with {ranked[0].percent:.0f} % used."]


def _room(query: Query, measure: Measure, found: Sequence[Amount]) -> list[str]:
    word, size = " ".join(sorted(measure.words & query.words)), text.format_size(query.need)
    ranked = sorted(found, key=lambda one: -one.free)
    fits = [f"{_where(one)} has {one.shown(one.free)} free" for one in ranked if one.free >= query.need]
    tight = [f"{_where(one)} has {one.shown(one.free)}" for one in ranked if one.free < query.need]
    head = f"{size} of {word}: {text.join_names(fits[:SHOWN])}" if fits else f"{size} of {word} fits nowhere"
    return [f"{head}{'; too little: ' + text.join_names(tight[:SHOWN]) if tight else ''}."]


def _amount(query: Query, measure: Measure, found: Sequence[Amount]) -> list[str]:
    word = " ".join(sorted(measure.words & query.words)) or "that"
    about = [one for one in found if any(word in one.label for word in query.said - ORDINARY)]
    if measure.noun != "host" and len(found) > 1 and not about:
        return _extreme(query, measure, found)
    lines = []
    for one in about or found:
        if measure.room:
            lines.append(
                f"{_where(one)}: {one.shown(one.value)} of {one.shown(one.total)} {word} used ({one.percent:.0f} %), "
                f"{one.shown(one.free)} free."
            )
        else:
            lines.append(f"{_where(one)}: {word} {one.shown(one.value)}.")
    return lines + (_together(about or found, word) if "together" in query.said else [])


def _together(found: Sequence[Amount], word: str) -> list[str]:
    """The sum of several amounts."""
    value, total = sum(one.value for one in found), sum(one.total for one in found)
    used = f"{found[0].shown(value)} of {found[0].shown(total)} {word} used, " if total else ""
    rest = f"{found[0].shown(sum(one.free for one in found))} free" if total else f"{word} {found[0].shown(value)}"
    return [f"Together: {used}{rest}."] if len(found) > 1 else []


NUMBERS: dict[Wants, Callable[[Query, Measure, Sequence[Amount]], list[str]]] = {
    Wants.BEYOND: _beyond,
    Wants.EXTREME: _extreme,
    Wants.TIGHT: _tight,
    Wants.ROOM: _room,
    Wants.AMOUNT: _amount,
}


def _unmeasured(numbers: Sequence[tuple[Measure, object]], results: Results, subject: str) -> list[str]:
    """Objects that lack the requested numbers."""
    if any("celsius" in measure.words for measure, _ in numbers):
        return [f"The temperature of {text.join_names(list(results))} is not known: no sensor can be read there."]
    rows = {measure.rows for measure, _ in numbers if measure.rows and subject}
    return [
        f"{subject} on {host} is there, but its engine gives no figures for it now."
        for host, result in results.items()
        for name in rows
        if any(isinstance(row, Mapping) and row.get("name") == subject for row in result.get(name) or ())
    ]


def _tallied(query: Query, listing: ToolListing, results: Results) -> list[str]:
    """Host with the most rows."""
    field = text.rows_field(text.resolve_schema(listing.output_schema))
    if query.wants is not Wants.EXTREME or not field or meaning(field) not in query.words:
        return []
    counts = Counter({host: int(result.get("total", len(result.get(field, [])))) for host, result in results.items()})
    ranked = sorted(counts.items(), key=lambda one: one[1], reverse=not query.least)
    (host, number), rest = ranked[0], ranked[1:SHOWN]
    then = text.join_names([f"{other} {count}" for other, count in rest])
    end = "fewest" if query.least else "most"
    return [f"{host} has the {end} {field}: {number}{'; then ' + then if then else ''}."]


Row = tuple[str, Mapping[str, Any]]


def _places(query: Query, rows: Sequence[Row], hosts: Sequence[str]) -> list[str]:
    wanted = query.subject.lower()
    exact = [(host, row) for host, row in rows if str(row.get("name", "")).lower() == wanted]
    if wanted.isdecimal():
        exact = [(host, row) for host, row in rows if re.search(rf"\b{wanted}\b", " ".join(row.get("ports") or []))]
    like = exact or [(host, row) for host, row in rows if wanted in f"{row.get('name')} {row.get('image')}".lower()]
    if not like:
        what = f"No container publishes port {wanted}" if wanted.isdecimal() else f"There is no `{query.subject}`"
        return [f"{what} on {text.join_names(list(hosts))}."]
    lines = [
        f"{row['name']} ({', '.join(str(row[key]) for key in ('image', 'state') if row.get(key))}) on {host}"
        for host, row in like
    ]
    return [f"{text.join_names(lines)}."]


def _unused(query: Query, rows: Sequence[Row], hosts: Sequence[str]) -> list[str]:
    free = [f"{row.get('name')} on {host}" for host, row in rows if row.get("containers") == []]
    if not free:
        return [f"Every {query.noun} on {text.join_names(list(hosts))} is used."]
    return [f"{text.plural(len(free), f'{query.noun}')} that no container uses: {text.join_names(free)}."]


def _troubles(results: Results, field: str, failed: Mapping[str, str]) -> list[str]:
    """Hosts that are down, then problems of containers, then running and stopped ones."""
    rows: list[Row] = [(host, row) for host, result in results.items() for row in result.get(field, [])]
    wrong = sorted(
        (severity(row), f"{row.get('name')} on {host} ({complaint(row)})") for host, row in rows if complaint(row)
    )
    lines = [f"{host} failed: {error}" for host, error in failed.items()]
    if wrong:
        lines.append(f"Not well: {text.join_names([line for _, line in wrong])}.")
    elif not failed:
        lines.append("Nothing looks wrong.")
    return lines + ([_tally(rows, list(results))] if results else [])


def _tally(rows: Sequence[Row], hosts: Sequence[str]) -> str:
    """`6 running, 2 stopped on desk and nas: plex on nas and redis on desk.`"""
    stopped = [f"{row.get('name')} on {host}" for host, row in rows if row.get("state") not in UP]
    states = Counter(state if (state := str(row.get("state"))) in UP else "stopped" for _, row in rows)
    counted = ", ".join(f"{states[state]} {state}" for state in (*UP, "stopped") if states[state]) or "No containers"
    names = f": {text.join_names(stopped)}" if 0 < len(stopped) <= MOST_STOPPED else ""
    return f"{counted} on {text.join_names(list(hosts))}{names}."


SEVERITY = ("unhealthy", "keeps restarting", "killed", "could not start", "exited", "dead", "stopped", "paused")
"""First words of problems, the most urgent first."""


def severity(row: Mapping[str, Any]) -> int:
    """Rank of a row by urgency."""
    found = complaint(row).lower()
    return next((place for place, word in enumerate(SEVERITY) if found.startswith(word)), len(SEVERITY))


def complaint(row: Mapping[str, Any]) -> str:
    """Problem of one row, or empty. Reported by the host, unless it has an older version."""
    if "problem" in row:
        return str(row["problem"] or "")
    if row.get("health") == "unhealthy":
        return "unhealthy"
    state, status = str(row.get("state", "")), str(row.get("status", ""))
    ended_well = state == "exited" and "(0)" in status
    return "" if state in WELL or ended_well else status or state


ROWS: dict[Wants, Callable[[Query, Sequence[Row], Sequence[str]], list[str]]] = {
    Wants.WHERE: _places,
    Wants.UNUSED: _unused,
}


def _reasons(subject: str, host: str, result: Mapping[str, Any]) -> list[str]:
    """State of one object and its last log lines."""
    if isinstance(result.get("lines"), list):
        return (
            [f"{subject} on {host} wrote last:", *(f"  {line}" for line in result["lines"])] if result["lines"] else []
        )
    state = str(result.get("status") or result.get("state") or "")
    if not state:
        return []
    code, health, check = (result.get(name) for name in ("exit_code", "health", "health_output"))
    runs = result.get("state") in ("running", "paused")
    ended = f", exit code {code}" if code and not runs and not re.search(rf"\b{code}\b", state) else ""
    checked = [f"  its health check says: {check}"] if check else []
    return [f"{subject} on {host}: {state}{ended}{f', {health}' if health else ''}.", *checked]


def _where(one: Amount) -> str:
    return one.place


def _used(one: Amount) -> str:
    return (
        f"{one.shown(one.value)} of {one.shown(one.total)} ({one.percent:.0f} %)" if one.total else one.shown(one.value)
    )
