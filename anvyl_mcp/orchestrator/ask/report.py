"""Composes answers: statements about changes and missing hosts come from results, never from generated text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.orchestrator.ask.claims import KnownThings, without_claims
from anvyl_mcp.orchestrator.language.intent import Intent
from anvyl_mcp.orchestrator.language.lexicon import is_english, sentence
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.question import Proposal
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.orchestrator.rules.results.answers import (
    CANCELLED,
    OUTCOMES,
    Call,
    not_done,
    outcomes_of,
    result_entry,
    sentences_for,
    worked_out,
)
from anvyl_mcp.orchestrator.run import Run
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Outcome
from anvyl_mcp.peers.history import merged_history

UNCHANGED = "Nothing was changed."
EXPLAIN = re.compile(r"\bwhy\b|\bexplain\b|\bsummar|\bwrong with\b|\bhow come\b", re.IGNORECASE)
"""Questions that results alone do not answer."""
HOW_MANY = re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b", re.IGNORECASE)
FIGURES = re.compile(r"\d+")
FLEET_CLAIM = re.compile(
    r"\d|\b(?:is|are|was|were|has|have|runs?)\b.{0,120}\b(?:running|stopped|exited|healthy|unhealthy|up|down|fine|ok|free|full)\b",
    re.IGNORECASE,
)
"""Claims about the state of a host."""


def compose_answer(
    run: Run, tools: Mapping[str, ToolListing], model_text: str, *, wants_change: bool, known: KnownThings | None
) -> str:
    """The answer of a model as it gave it, followed by facts computed from the results.

    What it says about changes is replaced by their results, and without any text the results are the answer. `known`:
    what there is, for a model that can be trusted with figures; of another, computed facts replace the text.
    """
    changes = [call for call in run.calls if not _reads(tools, call)]
    denied = [proposal for proposal in run.proposals.values() if proposal.decision == "denied"]
    refused = any(not tools[name].reads for name in run.refused_tools if name in tools)
    said = "" if run.stopped else model_text
    about_changes = bool(changes or denied or refused or wants_change)
    kept = without_claims(said, changes, known) if about_changes else said
    english = not said or _is_english(run, said)
    if changes:
        left = [_call(tools, one) for one in denied]
        lines = wording.report(changes) if english else wording.marks(changes)
        lines += [not_done(call, OUTCOMES["denied"]) if english else f"✗ {call}" for call in left]
        lines.append(kept)
    elif denied:
        lines = [_in_language_of(run, said, "cancelled", CANCELLED), kept]
    elif not said:
        lines = [str(error) for error in run.failures[-1:] if str(error) == str(run.end_error)]
        lines = lines or _describe_results(run, tools)
    elif kept != said or (wants_change and "?" not in said):
        lines = [kept, _in_language_of(run, said, "unchanged", UNCHANGED)]
    elif known is not None:
        # What a model has worked out itself is not worked out again, perhaps about more than was asked.
        facts = [] if FIGURES.search(said) or not english else _computed_answer(run, tools)
        lines = [*_checked_text(run, said), *facts]
    else:
        lines = _computed_answer(run, tools) or _checked_text(run, said)
    if (changes or denied) and run.stopped:
        lines += [str(error) for error in run.failures[-1:]]
    return text.clean("\n".join([*(line for line in lines if line), *_describe_missing(run, lines)]))


def with_lists(run: Run, tools: Mapping[str, ToolListing], answer: str) -> str:
    """The answer with the listings that it summarizes, for callers that do not show them as tables."""
    blocks = [answer] if answer else []
    for call, by_host in _grouped(run.calls, tools):
        if call.listing.name == merged_history.TOOL:
            blocks.append(merged_history.merge(outcomes_of(call, by_host)).text())
            continue
        field = text.rows_field(text.resolve_schema(call.listing.output_schema))
        answered = {host: entry for host, entry in by_host.items() if entry["ok"] and entry["result"]}
        if not (call.listing.reads and field) or worked_out(run.question.text, call, answered):
            continue
        for host, entry in answered.items():
            names = [str(row.get("name") or "") for row in entry["result"].get(field, ())]
            if names and not all(name and named(answer, name) for name in names) and entry["text"] not in answer:
                blocks.append(f"{host}:\n{entry['text']}")
    return "\n\n".join(blocks)


def _computed_answer(run: Run, tools: Mapping[str, ToolListing]) -> list[str]:
    """Counts, extremes and the like, computed from the results, because small models miscount."""
    lines: list[str] = []
    if EXPLAIN.search(run.question.text):
        return lines
    for call, by_host in _grouped(run.calls, tools):
        answered = {host: entry for host, entry in by_host.items() if entry["ok"]}
        failed = {host: str(entry["error"]) for host, entry in by_host.items() if not entry["ok"]}
        if found := worked_out(run.question.text, call, answered, failed):
            lines += found
        elif HOW_MANY.search(run.question.text) and text.rows_field(text.resolve_schema(call.listing.output_schema)):
            lines += sentences_for(run.question.text, call, by_host)
    return lines


def _checked_text(run: Run, model_text: str) -> list[str]:
    """The model's text, after a warning if it makes claims about hosts without a call."""
    if run.calls or run.failures or "?" in model_text or not FLEET_CLAIM.search(model_text):
        return [model_text]
    return [_in_language_of(run, model_text, "not_asked", "No host was asked."), model_text]


def _is_english(run: Run, model_text: str) -> bool:
    return is_english(f"{run.question.text}\n{model_text}")


def _in_language_of(run: Run, model_text: str, key: str, english: str) -> str:
    """One of our own sentences in the language of the model's text, if we speak it."""
    said = f"{run.question.text}\n{model_text}"
    return english if is_english(said) else sentence(key, said, english)


def _describe_results(run: Run, tools: Mapping[str, ToolListing]) -> list[str]:
    """Sentences made from the results of all calls."""
    return [
        line for call, by_host in _grouped(run.calls, tools) for line in sentences_for(run.question.text, call, by_host)
    ]


def _grouped(
    calls: Iterable[Outcome], tools: Mapping[str, ToolListing]
) -> Iterator[tuple[Call, dict[str, dict[str, Any]]]]:
    """Outcomes grouped by tool and arguments, as a call with one entry per host."""
    groups: dict[tuple[str, str], dict[str, Outcome]] = {}
    for call in calls:
        groups.setdefault((call.tool, str(call.arguments)), {})[call.host] = call
    for (tool, _), by_host in groups.items():
        one = next(iter(by_host.values()))
        listing = tools.get(tool) or ToolListing(tool, "", {})
        yield Call(listing, dict(one.arguments)), {host: result_entry(outcome) for host, outcome in by_host.items()}


def _describe_missing(run: Run, lines: Iterable[str]) -> list[str]:
    """A sentence for each host that failed and each truncated result, unless the answer mentions it."""
    last = {call.host: call for call in run.calls}
    shown = "\n".join(lines)
    silent = [
        f"{host} is missing: {call.word}."
        for host, call in last.items()
        if call.host_failed and not any(words in shown for words in (f"{host} failed", f" on {host}: "))
    ]
    cut = [(call, (call.answer.result or {}).get("more")) for call in run.calls]
    return silent + [f"{call.host} has {more} more that are not shown." for call, more in cut if more]


def _reads(tools: Mapping[str, ToolListing], call: Outcome) -> bool:
    return call.tool in tools and tools[call.tool].reads


def _call(tools: Mapping[str, ToolListing], proposal: Proposal) -> Call:
    return Call(tools.get(proposal.tool) or ToolListing(proposal.tool, "", {}), proposal.arguments)


def conclude(reply: Reply) -> None:
    """Set error and notes of a reply from its run, which ends."""
    run = reply.run
    run.finish()
    if run.failures and not reply.calls and not reply.proposals:
        # Our error is more accurate than the model's text.
        reply.error = run.failures[-1]
    reply.notes += run.notes
    for proposal in reply.waiting:
        if proposal.untrusted and not (proposal.unsaid or proposal.doubts or proposal.root):
            reply.notes.append(f"`{proposal.tool}` was {proposal.why}")
        elif not proposal.covered:
            reply.notes.append(f"`{proposal.tool}` needs explicit approval: {proposal.why}")
    if run.interpretation and run.by_rules:
        reply.notes.append(f"read as: {run.interpretation}")
    if run.by_rules and not run.proposals:
        reply.notes += run.remarks
    reply.notes = list(dict.fromkeys(reply.notes))


def fail_if_not_changed(reply: Reply, intent: Intent, tools: Mapping[str, ToolListing]) -> None:
    """Set the error of a reply if the question asks for a change and none was made or proposed, or only a part."""
    run = reply.run
    changed = any(not tools[call.tool].reads for call in run.calls if call.tool in tools)
    not_changed = intent == "change" and not changed and not reply.proposals
    if run.end_error and intent != "read" and not reply.waiting:
        reply.error = run.end_error
    elif not_changed and run.unresolved:
        reply.error = run.unresolved
    elif intent == "change" and not run.by_rules and run.left_out:
        reply.error = run.left_out


def describe_pending(run: Run) -> str:
    """The changes that wait for approval, and those that cannot be made, as sentences."""
    waiting = run.waiting
    orders = text.join_names(wording.describe_all([(one.tool, one.arguments, one.hosts) for one in waiting]))
    if details := [line.strip() for one in waiting for line in one.details]:
        orders += f" ({'; '.join(details)})"
    refused = [f"Not possible: {text.join_names(wording.failures(run.impossible))}."] if run.impossible else []
    if run.question.dry_run:
        return " ".join([f"Dry run: would {orders}. Nothing was changed.", *refused])
    made = any(proposal.decision == "approved" for proposal in run.proposals.values())
    return " ".join([f"Waiting for approval: {orders}.{'' if made else ' Nothing was changed yet.'}", *refused])
