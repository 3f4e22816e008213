"""Report: what is said about changes and about what is missing comes from results, never from generated text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Denied
from anvyl_mcp.orchestrator.language.grounding import named
from anvyl_mcp.orchestrator.question import Proposal
from anvyl_mcp.orchestrator.rules.results.answers import CANCELLED, OUTCOMES, Call, not_done, told, worked_out
from anvyl_mcp.orchestrator.run import Run
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Outcome

CLAIMS = re.compile(
    r"\b(?:i(?:'ve|\s+have)?|has\s+been|have\s+been|was|were|is\s+now|are\s+now|now|successfully|done|will\s+be|i'll|being)\b"
    r"[^.?!]{0,80}\b(?:stopped|started|restarted|removed|deleted|created|pulled|executed|stopping|starting|restarting"
    r"|removing|deleting|creating|done|stop|start|restart|remove|delete|create)\b"
    r"|^\W*(?:done|ok(?:ay)?)\b|\b(?:stopped|started|restarted|removed|deleted|created|pulled)\s+(?:the|container|image)\b",
    re.IGNORECASE,
)
"""How a sentence says that something was changed."""
BARE_CLAIM = re.compile(r"^\W*(?:all\s+)?(?:stopped|started|restarted|removed|deleted|created|pulled)\b", re.IGNORECASE)
UNCHANGED = "Nothing was changed."
EXPLAIN = re.compile(r"\bwhy\b|\bexplain\b|\bsummar|\bwrong with\b|\bhow come\b", re.IGNORECASE)
"""Asked for words, which results do not have."""
HOW_MANY = re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b", re.IGNORECASE)
OF_THE_FLEET = re.compile(
    r"\d|\b(?:is|are|was|were|has|have|runs?)\b.*\b(?:running|stopped|exited|healthy|unhealthy|up|down|fine|ok|free|full)\b",
    re.IGNORECASE,
)
"""How a sentence says something that only a host can know."""


def answer(run: Run, tools: Mapping[str, ToolListing], said: str, *, wants_change: bool) -> str:
    """The answer to a question, to which a model said something.

    Its words stand only beside reads: whatever changed something is told from its result.
    """
    changes = [call for call in run.calls if not _reads(tools, call)]
    refused = any(isinstance(error, Denied) for error in run.failures)
    denied = [proposal for proposal in run.proposals.values() if proposal.decision == "denied"]
    if changes or denied:
        lines = wording.report(changes)
        lines += (
            [not_done(_call(tools, proposal), OUTCOMES["denied"]) for proposal in denied] if changes else [CANCELLED]
        )
        lines += [str(error) for error in run.failures[-1:] if run.stopped]
    elif run.stopped or not said:
        asks = [str(error) for error in run.failures[-1:] if str(error) == str(run.end_error)]
        lines = asks or sentences(run, tools, run.calls)
    elif wants_change:
        lines = [UNCHANGED] + ([] if CLAIMS.search(said) else [said])
    elif refused and (CLAIMS.search(said) or BARE_CLAIM.search(said)):
        # What it was kept from doing it may well believe done.
        lines = [*sentences(run, tools, run.calls), UNCHANGED]
    else:
        lines = computed(run, tools) or _founded(run, said)
    return text.clean("\n".join([*(line for line in lines if line), *missing(run, lines)]))


def whole(run: Run, tools: Mapping[str, ToolListing], said: str) -> str:
    """An answer with the lists that it sums up: a terminal shows them as tables, a text alone has to hold them."""
    blocks = [said] if said else []
    for call, by_host in _grouped(run.calls, tools):
        field = text.rows_field(text.resolve_schema(call.listing.output_schema))
        answered = {host: entry for host, entry in by_host.items() if entry["ok"] and entry["result"]}
        if not (call.listing.reads and field) or worked_out(run.question.text, call, answered):
            continue
        for host, entry in answered.items():
            names = [str(row.get("name") or "") for row in entry["result"].get(field, ())]
            if names and not all(name and named(said, name) for name in names) and entry["text"] not in said:
                blocks.append(f"{host}:\n{entry['text']}")
    return "\n\n".join(blocks)


def computed(run: Run, tools: Mapping[str, ToolListing]) -> list[str]:
    """Counts, extremes and the like, worked out from the results: a small model miscounts, and needs not."""
    lines: list[str] = []
    if EXPLAIN.search(run.question.text):
        return lines
    for call, by_host in _grouped(run.calls, tools):
        answered = {host: entry for host, entry in by_host.items() if entry["ok"]}
        failed = {host: str(entry["error"]) for host, entry in by_host.items() if not entry["ok"]}
        if found := worked_out(run.question.text, call, answered, failed):
            lines += found
        elif HOW_MANY.search(run.question.text) and text.rows_field(text.resolve_schema(call.listing.output_schema)):
            lines += told(run.question.text, call, by_host)
    return lines


def _founded(run: Run, said: str) -> list[str]:
    """What a model said; that nobody was asked, when it speaks of the fleet all the same."""
    if run.calls or run.failures or "?" in said or not OF_THE_FLEET.search(said):
        return [said]
    return ["No host was asked.", said]


def sentences(run: Run, tools: Mapping[str, ToolListing], calls: Iterable[Outcome]) -> list[str]:
    """What some calls found or did, in words made from their results."""
    return [line for call, by_host in _grouped(calls, tools) for line in told(run.question.text, call, by_host)]


def _grouped(
    calls: Iterable[Outcome], tools: Mapping[str, ToolListing]
) -> Iterator[tuple[Call, dict[str, dict[str, Any]]]]:
    """Calls of one tool with the same arguments are one, with an entry for each host."""
    groups: dict[tuple[str, str], dict[str, Outcome]] = {}
    for call in calls:
        groups.setdefault((call.tool, str(call.arguments)), {})[call.host] = call
    for (tool, _), by_host in groups.items():
        one = next(iter(by_host.values()))
        listing = tools.get(tool) or ToolListing(tool, "", {})
        yield Call(listing, dict(one.arguments)), {host: _entry(outcome) for host, outcome in by_host.items()}


def missing(run: Run, lines: Iterable[str]) -> list[str]:
    """A sentence for each host that did not answer and each result that is not whole, unless the answer says so."""
    last = {call.host: call for call in run.calls}
    shown = "\n".join(lines)
    silent = [
        f"{host} is missing: {call.word}."
        for host, call in last.items()
        if call.host_failed and not any(words in shown for words in (f"{host} failed", f" on {host}: "))
    ]
    cut = [(call, (call.answer.result or {}).get("more")) for call in run.calls]
    return silent + [f"{call.host} has {more} more that are not shown." for call, more in cut if more]


def _entry(outcome: Outcome) -> dict[str, Any]:
    error = str(outcome.error) if outcome.error else None
    return {"ok": outcome.ok, "result": outcome.answer.result, "text": outcome.answer.text, "error": error}


def _reads(tools: Mapping[str, ToolListing], call: Outcome) -> bool:
    return call.tool in tools and tools[call.tool].reads


def _call(tools: Mapping[str, ToolListing], proposal: Proposal) -> Call:
    return Call(tools.get(proposal.tool) or ToolListing(proposal.tool, "", {}), proposal.arguments)
