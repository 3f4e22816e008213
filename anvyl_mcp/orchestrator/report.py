"""Report: what is said about changes and about what is missing comes from results, never from generated text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from anvyl_mcp import text
from anvyl_mcp.orchestrator.answers import Call, told
from anvyl_mcp.orchestrator.question import Question
from anvyl_mcp.peers.fleet import Outcome
from anvyl_mcp.peers.listing import ToolListing

CLAIMS = re.compile(
    r"\b(?:i(?:'ve|\s+have)?|has\s+been|have\s+been|was|were|is\s+now|are\s+now|now|successfully|done|will\s+be|i'll|being)\b"
    r"[^.?!]{0,80}\b(?:stopped|started|restarted|removed|deleted|created|pulled|executed|stopping|starting|restarting"
    r"|removing|deleting|creating|done|stop|start|restart|remove|delete|create)\b"
    r"|^\W*(?:done|ok(?:ay)?)\b|\b(?:stopped|started|restarted|removed|deleted|created|pulled)\s+(?:the|container|image)\b",
    re.IGNORECASE,
)
"""How a sentence says that something was changed."""
UNCHANGED = "Nothing was changed."


def answer(question: Question, tools: Mapping[str, ToolListing], said: str, *, wants_change: bool) -> str:
    """The answer to a question, of which a model said something.

    Its words stand only beside reads: whatever changed something is told from its result.
    """
    changes = [call for call in question.calls if not _reads(tools, call)]
    denied = [proposal for proposal in question.proposals.values() if proposal.decision == "denied"]
    if changes or denied:
        lines = sentences(question, tools, changes)
        lines += [f"{_words(proposal.tool)} was not approved, so it was not done" for proposal in denied]
        lines += [str(error) for error in question.failures[-1:] if question.ended]
    elif question.ended or not said:
        asks = [str(error) for error in question.failures[-1:] if str(error) == question.ended]
        lines = asks or sentences(question, tools, question.calls)
    elif wants_change:
        lines = [UNCHANGED] + ([] if CLAIMS.search(said) else [said])
    else:
        lines = [said]
    return text.clean("\n".join([*(line for line in lines if line), *missing(question, lines)]))


def sentences(question: Question, tools: Mapping[str, ToolListing], calls: Iterable[Outcome]) -> list[str]:
    """What some calls found or did, in words made from their results."""
    groups: dict[tuple[str, str], dict[str, Outcome]] = {}
    for call in calls:
        groups.setdefault((call.tool, str(call.arguments)), {})[call.host] = call
    lines = []
    for (tool, _), by_host in groups.items():
        one = next(iter(by_host.values()))
        listing = tools.get(tool) or ToolListing(tool, "", {})
        entries = {host: _entry(outcome) for host, outcome in by_host.items()}
        lines += told(question.text, Call(listing, dict(one.arguments)), entries)
    return lines


def missing(question: Question, lines: Iterable[str]) -> list[str]:
    """A sentence for each host that did not answer, unless the answer has it already."""
    last = {call.host: call for call in question.calls}
    shown = "\n".join(lines)
    return [
        f"{host} is missing: {call.word}."
        for host, call in last.items()
        if call.host_failed and f"{host} failed" not in shown
    ]


def _entry(outcome: Outcome) -> dict[str, object]:
    error = str(outcome.error) if outcome.error else None
    return {"ok": outcome.ok, "result": outcome.answer.result, "text": outcome.answer.text, "error": error}


def _reads(tools: Mapping[str, ToolListing], call: Outcome) -> bool:
    return call.tool in tools and tools[call.tool].reads


def _words(tool: str) -> str:
    return tool.replace("_", " ")
