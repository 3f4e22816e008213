"""Answers aggregated from the results of any tool: the most, the least, where, what is unhealthy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.language.questions import MOST_PERCENT, ORDINARY, Query, Wants
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, STANDS_FOR, meaning
from anvyl_mcp.orchestrator.rules.results.measures import Amount, Measure, amounts, measures
from anvyl_mcp.peers.connection.listing import ToolListing

SHOWN = 5
WELL = frozenset({"running", "created", "up", "ok"})
UP = ("running", "restarting", "paused")
"""States in which a container is not stopped."""
MOST_STOPPED = 8
"""Maximum number of stopped containers to name; of more only the number is given."""
WORDS = {"size": ("is the largest", "is the smallest"), "uptime": ("has been up the longest", "was started last")}
"""Words for the most and the least."""
COMPARING = (Wants.EXTREME, Wants.BEYOND)

Results = Mapping[str, Mapping[str, Any]]
"""Results by host."""
Row = tuple[str, Mapping[str, Any]]


def listed(listing: ToolListing) -> str:
    """Noun for the rows of a tool, like `container`; empty if its result is not a list."""
    return meaning(text.rows_field(text.resolve_schema(listing.output_schema)))


def chosen(query: Query, listings: Iterable[ToolListing], *, of_one: bool = False) -> ToolListing | None:
    """Tool whose results answer the question; `of_one`: about one named object."""
    rated = [(_rate(query, listing, of_one=of_one), listing) for listing in listings]
    best = max((rate for rate, _ in rated), default=0)
    return next((listing for rate, listing in rated if rate == best > 0), None)


def _rate(query: Query, listing: ToolListing, *, of_one: bool) -> int:
    if query.wants in ROWS:
        noun = query.noun or "container"
        return int(listed(listing) == noun and (noun != "container" or "all" in listing.arguments))
    fitting = _fitting(query, listing, of_one=of_one)
    whole = query.words <= frozenset(word for measure in fitting for word in measure.words)
    # What is used of a total says more than a number alone.
    of_hosts = query.noun == "host" or query.wants is Wants.AMOUNT
    roomy = of_hosts and any(measure.room for measure in fitting)
    return 4 * bool(fitting) + 2 * whole + roomy


def _fitting(query: Query, listing: ToolListing, *, of_one: bool = False) -> list[Measure]:
    """Measures that the question is about."""
    compared = query.wants in COMPARING and "host" not in query.said
    noun = "container" if of_one else "host" if query.free else query.noun or ("container" if compared else "host")
    about = [measure for measure in measures(listing) if measure.words & query.words]
    found = [measure for measure in about if measure.noun == noun and (measure.room or not query.free)]
    if compared and not (found or of_one or query.noun or query.free):
        found = about
    if "many" in query.said and "size" not in query.words:
        found = [measure for measure in found if not measure.format]
    return [measure for measure in found if measure.words <= query.words] or found


def sentences(
    query: Query, listing: ToolListing, results: Results, *, subject: str = "", failed: Mapping[str, str] | None = None
) -> list[str]:
    """Sentences that answer the question from these results, or none.

    `failed`: the hosts that did not answer, with the reason.
    """
    if query.wants is Wants.WHY:
        return [line for host, result in results.items() for line in _reasons(subject, host, result)]
    if query.wants in ROWS:
        field = text.rows_field(text.resolve_schema(listing.output_schema))
        rows = [(host, row) for host, result in results.items() for row in result.get(field, [])] if field else []
        return ROWS[query.wants](query, rows, list(results), failed or {}) if field else []
    fitting = [one for one in _fitting(query, listing, of_one=bool(subject)) if len(results) > 1 or not one.counts]
    lines = []
    for measure in fitting:
        found = [one for host, result in results.items() for one in amounts(measure, host, result)]
        if found := [one for one in found if not subject or one.label == subject]:
            lines += _figures(query, measure, found)
            if query.wants is Wants.EXTREME:
                break
    if fitting and results and not lines and (subject or "celsius" in query.words):
        word = "temperature" if "celsius" in query.words else text.join_names(sorted(query.words))
        place = text.join_names(list(results))
        return [f"The {word} of {f'{subject} on {place}' if subject else place} is not known: there are no figures."]
    return lines


def _figures(query: Query, measure: Measure, found: Sequence[Amount]) -> list[str]:
    """Sentences about the amounts of one measure."""
    word = " ".join(sorted(measure.words & query.words))
    about = [
        one for one in found if any(word in one.label for word in query.said - EMPTY - STANDS_FOR.keys() - ORDINARY)
    ]
    compared = [one for one in found if one.label.lower() in query.said]
    found = compared if query.wants is Wants.EXTREME and len({one.label for one in compared}) > 1 else found
    share = query.wants is Wants.BEYOND and query.bound <= MOST_PERCENT

    def weight(one: Amount) -> float:
        by_percent = share or (measure.label == "mount" and not query.least)
        return one.free if query.free else one.percent if by_percent and one.total else one.value

    ranked = sorted(found, key=weight, reverse=not query.least)
    if query.wants is Wants.BEYOND:
        bound = f"{query.bound} %" if share else text.format_size(query.bound)
        left = " free" if query.free else " used" if measure.room else ""
        noun = "disk" if measure.label == "mount" else query.noun or measure.noun
        beyond = f"{'less' if query.least else 'more'} than {bound}{f' of {word}' * (word != noun)}{left}"
        kept = [one for one in ranked if (weight(one) < query.bound if query.least else weight(one) > query.bound)]
        if not kept:
            end = "least" if query.least else "most"
            return [f"Nothing has {beyond}; the {end} is {ranked[0].place} with {_shown(ranked[0], query)}."]
        others = [one for one in ranked if one not in kept] if query.free and not query.least else []
        rest = f"; too little: {_each(others, query)}" if others else ""
        return [f"{text.plural(len(kept), noun)} with {beyond}: {_each(kept, query)}{rest}."]
    if query.together or (query.wants is Wants.AMOUNT and (about or measure.noun == "host" or len(found) == 1)):
        lines = [_sentence(one, word) for one in about or found if measure.noun == "host" or not query.together]
        return lines + ([_together(about or found, word)] if query.together and len(about or found) > 1 else [])
    first, rest = ranked[0], _each(ranked[1:SHOWN], query)
    end = "least" if query.least else "most"
    counted = f"has the {'fewest' if query.least else end} {text.plural(2, word).removeprefix('2 ')}"
    verb = f"uses the {end} {word}" if first.format else counted
    verb = f"has the {end} {word} free" if query.free else WORDS[word][query.least] if word in WORDS else verb
    return [f"{first.place} {verb}: {_shown(first, query)}{f'; then {rest}' if rest else ''}."]


def _each(found: Sequence[Amount], query: Query) -> str:
    return text.join_names([f"{one.place} {_shown(one, query)}" for one in found])


def _shown(one: Amount, query: Query) -> str:
    """`3 GiB of 16 GiB (19 %)`, or of what is free `13 GiB of 16 GiB`."""
    if not one.total:
        return one.shown(one.value)
    amount = one.free if query.free else one.value
    return f"{one.shown(amount)} of {one.shown(one.total)}{'' if query.free else f' ({one.percent:.0f} %)'}"


def _sentence(one: Amount, word: str) -> str:
    """`nas: 13 GiB of 16 GiB memory used (81 %), 3 GiB free.`"""
    if not one.total:
        return f"{one.place}: {word} {one.shown(one.value)}."
    used = f"{one.shown(one.value)} of {one.shown(one.total)} {word} used ({one.percent:.0f} %)"
    return f"{one.place}: {used}, {one.shown(one.free)} free."


def _together(found: Sequence[Amount], word: str) -> str:
    """The sum of several amounts."""
    value, total, free = (sum(getattr(one, name) for one in found) for name in ("value", "total", "free"))
    sums = Amount("Together", "", value, total, found[0].format, free, 100 * value / total if total else 0)
    return _sentence(sums, word)


def _places(query: Query, rows: Sequence[Row], hosts: Sequence[str], _: Mapping[str, str]) -> list[str]:
    wanted = query.subject.lower()
    if wanted.isdecimal():
        like = [(host, row) for host, row in rows if re.search(rf"\b{wanted}\b", " ".join(row.get("ports") or []))]
    else:
        like = [(host, row) for host, row in rows if str(row.get("name", "")).lower() == wanted]
        like = like or [one for one in rows if wanted in f"{one[1].get('name')} {one[1].get('image')}".lower()]
    if not like:
        what = f"No container publishes port {wanted}" if wanted.isdecimal() else f"There is no `{query.subject}`"
        return [f"{what} on {text.join_names(hosts)}."]
    lines = [
        f"{row['name']} ({', '.join(str(row[key]) for key in ('image', 'state') if row.get(key))}) on {host}"
        for host, row in like
    ]
    return [f"{text.join_names(lines)}."]


def _unused(query: Query, rows: Sequence[Row], hosts: Sequence[str], _: Mapping[str, str]) -> list[str]:
    free = [f"{row.get('name')} on {host}" for host, row in rows if row.get("containers") == []]
    if not free:
        return [f"Every {query.noun} on {text.join_names(hosts)} is used."]
    return [f"{text.plural(len(free), query.noun)} that no container uses: {text.join_names(free)}."]


def _troubles(_: Query, rows: Sequence[Row], hosts: Sequence[str], failed: Mapping[str, str]) -> list[str]:
    """Hosts that are down, then problems of containers, then running and stopped ones."""
    wrong = sorted(
        (severity(row), f"{row.get('name')} on {host} ({complaint(row)})") for host, row in rows if complaint(row)
    )
    lines = [f"{host} failed: {error}" for host, error in failed.items()]
    if wrong:
        lines.append(f"Not well: {text.join_names([line for _, line in wrong])}.")
    elif not failed:
        lines.append("Nothing looks wrong.")
    return lines + ([_tally(rows, hosts)] if hosts else [])


def _tally(rows: Sequence[Row], hosts: Sequence[str]) -> str:
    """`6 running, 2 stopped on desk and nas: plex on nas and redis on desk.`"""
    stopped = [f"{row.get('name')} on {host}" for host, row in rows if row.get("state") not in UP]
    states = Counter(state if (state := str(row.get("state"))) in UP else "stopped" for _, row in rows)
    counted = ", ".join(f"{states[state]} {state}" for state in (*UP, "stopped") if states[state]) or "No containers"
    names = f": {text.join_names(stopped)}" if 0 < len(stopped) <= MOST_STOPPED else ""
    return f"{counted} on {text.join_names(hosts)}{names}."


ROWS: dict[Wants, Callable[[Query, Sequence[Row], Sequence[str], Mapping[str, str]], list[str]]] = {
    Wants.WHERE: _places,
    Wants.UNUSED: _unused,
    Wants.TROUBLE: _troubles,
}
"""Questions that are answered from the rows of a list."""
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


def _reasons(subject: str, host: str, result: Mapping[str, Any]) -> list[str]:
    """State of one object and its last log lines."""
    if isinstance(result.get("lines"), list):
        return (
            [f"{subject} on {host} wrote last:", *(f"  {line}" for line in result["lines"])] if result["lines"] else []
        )
    if not (state := str(result.get("status") or result.get("state") or "")):
        return []
    code, health, check = (result.get(name) for name in ("exit_code", "health", "health_output"))
    runs = result.get("state") in ("running", "paused")
    ended = f", exit code {code}" if code and not runs and not re.search(rf"\b{code}\b", state) else ""
    checked = [f"  its health check says: {check}"] if check else []
    return [f"{subject} on {host}: {state}{ended}{f', {health}' if health else ''}.", *checked]
