"""Answer sentences of the rules, made from tool results."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.orchestrator.language import phrases, questions
from anvyl_mcp.orchestrator.language.normalize import SEPARATOR, mask, plain
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.language.vocabulary import REFUSING, STATES, meanings, singular
from anvyl_mcp.orchestrator.rules.results import aggregate, past_answers
from anvyl_mcp.orchestrator.rules.results.measures import amounts, measures
from anvyl_mcp.orchestrator.rules.results.past_answers import tells_past
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.connection.listing import ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import Outcome

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage

RULES = "rules"
"""Name of the rules as a model."""
MOST_NAMES = 8
"""Maximum in one answer; of more only the number is given."""
BESIDES = re.compile(r"(?i)\b(?:too|as\s+well|included|including|also|even)\b")
"""Question with several states."""
OUTCOMES = {
    "denied": "you did not approve it",
    "interrupted": "interrupted; it may or may not have happened",
}
CANCELLED = "Cancelled; nothing was changed."


@dataclass(frozen=True)
class Call:
    """One tool call planned by the rules."""

    listing: ToolListing
    arguments: dict[str, Any]

    def in_full(self) -> str:
        """The call with all arguments: `list containers on nas (all=true)`."""
        words, host = str(self), self.arguments.get("host")
        extra = {name: value for name, value in self.arguments.items() if name != "host" and str(value) not in words}
        more = ", ".join(f"{name}={text.format_value(value)}" for name, value in extra.items())
        return f"{words}{f' on {host}' if host else ''}{f' ({more})' if more else ''}"

    def __str__(self) -> str:
        """The call as a phrase of the tool: `stop web`."""
        for phrase in self.listing.say:
            if all(self.arguments.get(hole) for hole in phrases.holes(phrase)):
                return phrase.format_map(self.arguments)
        named = [str(value) for key, value in self.arguments.items() if key in self.listing.required]
        return " ".join([self.listing.name.replace("_", " "), *named])


@dataclass(frozen=True)
class MadeCall:
    """A call that a model or the rules made."""

    tool_name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class CallResult:
    """The result of a call. `outcome`: `success`, or why there is none; `metadata`: see `result_metadata`."""

    tool_name: str
    content: Any = ""
    outcome: str = "success"
    metadata: Any = None


@dataclass
class Turn:
    """The last question with its calls and results."""

    question: str = ""
    calls: dict[str, MadeCall] = field(default_factory=dict)
    results: dict[str, CallResult] = field(default_factory=dict)

    @classmethod
    def of(cls, messages: Sequence[ModelMessage]) -> Turn:
        """Read it from the message history."""
        from pydantic_ai.messages import ToolCallPart, ToolReturnPart, UserPromptPart

        turn = cls()
        for part in (part for message in messages for part in message.parts):
            match part:
                case UserPromptPart(content=content):
                    said = [content] if isinstance(content, str) else [one for one in content if isinstance(one, str)]
                    turn = cls(" ".join(said))
                case ToolCallPart():
                    turn.calls[part.tool_call_id] = MadeCall(part.tool_name, part.args_as_dict())
                case ToolReturnPart():
                    made = CallResult(part.tool_name, part.content, part.outcome, part.metadata)
                    turn.results[part.tool_call_id] = made
        return turn

    def result_of(self, call: Call, taken: set[str]) -> CallResult | None:
        """Result of this call if it was made, also if a model wrote it differently.

        `taken`: ids of changes that stand for other calls of the plan; the one found is added.
        """
        reads, host = call.listing.reads, call.arguments.get("host")
        keys = call.arguments if reads else call.listing.required
        for call_id, part in self.calls.items():
            if part.tool_name != call.listing.name or call_id not in self.results or call_id in taken:
                continue
            elsewhere = bool(host and part.arguments.get("host")) and part.arguments["host"] != host
            if all(part.arguments.get(key) == call.arguments[key] for key in keys) and not elsewhere:
                taken |= set() if reads else {call_id}
                return self.results[call_id]
        return None


def entries(part: CallResult) -> Mapping[str, Any]:
    """Results by host, as attached by the toolset."""
    return part.metadata.get("hosts", {}) if isinstance(part.metadata, dict) else {}


def went_wrong(part: CallResult) -> bool:
    """Whether the call failed on any host or was not made."""
    return part.outcome != "success" or not all(entry["ok"] for entry in entries(part).values())


def answer(tools: Mapping[str, ToolListing], turn: Turn) -> str:
    """Answer from all results: a sentence or the hosts' text per call; similar changes are merged."""
    changes, looks, left = list[Outcome](), list[str](), list[str]()
    for call_id, part in turn.results.items():
        listing = tools.get(part.tool_name) or ToolListing(part.tool_name, "", {})
        call = Call(listing, dict(turn.calls[call_id].arguments) if call_id in turn.calls else {})
        by_host = entries(part)
        if part.outcome == "success" and not by_host:
            left.append(str(part.content))
        elif part.outcome != "success":
            why = OUTCOMES.get(part.outcome)
            left.append(not_done(call, why) if why else f"Could not {call}: {part.content}")
        elif listing.reads:
            new = _without_repeats(by_host, looks)
            looks += sentences_for(turn.question, call, new) if new else []
        else:
            changes += outcomes_of(call, by_host)
    if not changes and turn.results and all(part.outcome == "denied" for part in turn.results.values()):
        left = [CANCELLED]
    return text.clean("\n".join([*wording.report(changes), *looks, *left]))


def _without_repeats(by_host: Mapping[str, Any], said: Sequence[str]) -> dict[str, Any]:
    """The results but those whose every line was said: the log of what ended, after the history of its end."""
    known = {line.strip() for sentence in said for line in sentence.splitlines()}
    lines = {host: {line.strip() for line in str(entry["text"]).splitlines()} for host, entry in by_host.items()}
    return {host: entry for host, entry in by_host.items() if not lines[host] or lines[host] - known}


def announcement(later: Sequence[Call]) -> str:
    """Text about later steps, so that an approval covers all of them knowingly; empty if there are none."""
    words = [f"{call}{f' on {host}' if (host := call.arguments.get('host')) else ''}" for call in later]
    return f"After that: {text.join_names(words)}." if words else ""


def not_tried(later: Sequence[Call]) -> str:
    """Text about the steps that were given up; empty if there are none."""
    return f"Not tried after that: {text.join_names([str(call) for call in later])}." if later else ""


def not_done(call: Call, why: str) -> str:
    """Text for a call that was not made: `Not done: stop web (you did not approve it).`"""
    return f"Not done: {call} ({why.rstrip('.')})."


def outcomes_of(call: Call, by_host: Mapping[str, Any]) -> list[Outcome]:
    """The outcomes from which entries were made."""
    return [
        Outcome(
            host,
            call.listing.name,
            {name: value for name, value in call.arguments.items() if name != "host"},
            ToolAnswer(entry["result"], str(entry["text"]), None if entry["ok"] else AnvylError(str(entry["error"]))),
            float(entry.get("seconds") or 0.0),
            float(entry.get("arrived") or time.time()),
        )
        for host, entry in by_host.items()
    ]


def sentences_for(question: str, call: Call, by_host: Mapping[str, Any]) -> list[str]:
    """Sentences for the results of one call; `by_host` comes from `entries`."""
    if not call.listing.reads:
        return wording.report(outcomes_of(call, by_host))
    answered = {host: entry for host, entry in by_host.items() if entry["ok"]}
    failed = {host: str(entry["error"]) for host, entry in by_host.items() if not entry["ok"]}
    lines = (
        worked_out(question, call, answered, failed)
        or _rows(question, call, answered)
        or [_one_host(*one) for one in answered.items()]
    )
    failures = [f"{host} failed: {error}" for host, error in failed.items()]
    return lines + [line for line in failures if line not in lines]


def worked_out(
    question: str, call: Call, answered: Mapping[str, Any], failed: Mapping[str, str] | None = None
) -> list[str]:
    """Aggregated answer, if the call was made for such a question.

    `failed`: the hosts that did not answer, with the reason.
    """
    if tells_past(call.listing):
        return past_answers.sentences(question, call.listing, call.arguments, answered) if answered else []
    results = {host: entry["result"] for host, entry in answered.items() if entry["result"]}
    subject = str(call.arguments.get(next(iter(call.listing.names), ""), ""))
    for clause in [question, *SEPARATOR.split(question)]:
        query = questions.read(plain(mask(clause)[0], asks=True))
        if (
            query
            and call.listing.reads
            and (lines := aggregate.sentences(query, call.listing, results, subject=subject, failed=failed))
        ):
            return lines
    return []


def _one_host(host: str, entry: Mapping[str, Any]) -> str:
    """Answer of one host."""
    words = str(entry["text"])
    return f"{host}:\n{words}" if "\n" in words else f"{host}: {words or 'done'}"


def _rows(question: str, call: Call, answered: Mapping[str, Any]) -> list[str]:
    """Sentence for a list result: the state of one object, the objects in a state, or their number."""
    field = text.rows_field(text.resolve_schema(call.listing.output_schema))
    results = {host: entry["result"] for host, entry in answered.items() if field and entry["result"]}
    if not results:
        return []
    noun, said = singular(field), meanings(plain(question))
    rows = [(host, row) for host, result in results.items() for row in result[field]]
    places = text.join_names(list(results))
    if call.listing.toolset == "updates":  # from which version to which says more than their number
        return [] if rows else [f"No {noun}s on {places}.", *_other_lines(noun, answered)]
    at_least = "at least " if any(result.get("more") for result in results.values()) else ""
    if (subject := call.arguments.get("name")) and (not rows or _states(rows[0][1]) - {""}):
        exact = [f"{_name(row)} is {_state(row)} on {host}" for host, row in rows if _name(row) == subject]
        like = [f"{_name(row)} is {_state(row)} on {host}" for host, row in rows]
        return [f"{text.join_names(exact or like)}."] if rows else [f"No {noun} `{subject}` on {places}."]
    if subject:
        return []
    spoken_of = [(host, row) for host, row in rows if named(question, _name(row))]
    if spoken_of and call.listing.toolset != "fleet" and len(spoken_of) <= MOST_NAMES:
        return [_one_row(field, call.listing, *one) for one in spoken_of]
    states = [word for word in dict.fromkeys(said) if word in STATES]
    # With several states, all are reported: `what is up there, anything stopped?`
    mixed = BESIDES.search(question) or REFUSING.search(plain(question))
    asked = states[0] if len(states) == 1 and not mixed else ""
    if asked:
        rows = [(host, row) for host, row in rows if STATES[asked] & _states(row)]
        count = at_least + text.plural(len(rows), f"{asked} {noun}")
        per_host = [f"{number} on {host}" for host, number in Counter(host for host, _ in rows).items()]
        names = [f"{_name(row)} on {host}" for host, row in rows]
        if not rows:
            return [f"No {asked} {noun}s on {places}."]
        return [f"{count}: {text.join_names(per_host if 'many' in said or len(names) > MOST_NAMES else names)}."]
    counts = [f"{_count(noun, result, result[field])} on {host}" for host, result in results.items()]
    if call.listing.toolset == "fleet":
        silent = [f"{_name(row)} ({row.get('status')})" for _, row in rows if row.get("status") != "ok"]
        return [
            f"{text.plural(len(rows), noun)}; "
            + (f"no answer from {text.join_names(silent)}." if silent else "all answer.")
        ]
    if not rows and not any(result.get("total") for result in results.values()):
        return [f"No {noun}s on {places}.", *_other_lines(noun, answered)]
    if rows and "name" not in rows[0][1] and "tags" not in rows[0][1]:
        return _sums(call.listing, results)
    if "many" in said and len(results) > 1:
        whole = sum(int(result.get("total", len(result[field]))) for result in results.values())
        return [f"{at_least}{text.plural(whole, noun)}: {', '.join(counts)}."]
    return [f"{', '.join(counts)}."]


def _other_lines(noun: str, answered: Mapping[str, Any]) -> list[str]:
    """Lines of the hosts' texts apart from the empty list, such as what was not checked."""
    said: dict[str, list[str]] = {}
    for host, entry in answered.items():
        for line in str(entry["text"]).splitlines():
            if not line.startswith(f"no {noun}"):
                said.setdefault(line, []).append(host)
    return [f"{text.join_names(hosts)}: {line}" for line, hosts in said.items()]


def _one_row(field: str, listing: ToolListing, host: str, row: Mapping[str, Any]) -> str:
    """Sentence for one row: `uploads on web1: driver local, containers api`."""
    columns, [cells] = text.table_rows({field: [row]}, text.resolve_schema(listing.output_schema))
    about = [f"{column} {cell}" for column, cell in zip(columns[1:], cells[1:], strict=True) if cell]
    return f"{_name(row)} on {host}: {', '.join(about) or 'there'}."


def _sums(listing: ToolListing, results: Mapping[str, Any]) -> list[str]:
    """Sums of the sizes in rows without names."""
    lines = []
    for host, result in results.items():
        sums: dict[str, float] = {}
        for measure in (one for one in measures(listing) if one.format == "bytes"):
            sums[measure.path[-1]] = sum(one.value for one in amounts(measure, host, result))
        lines.append(f"{host}: {', '.join(f'{name} {text.format_size(size)}' for name, size in sums.items())}.")
    return lines


def _count(noun: str, result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """`3 containers (2 running, 1 exited)`; states only if all rows are present."""
    states = Counter(str(row["state"]) for row in rows if row.get("state") and not result.get("more"))
    counted = ", ".join(f"{number} {state}" for state, number in states.most_common())
    return text.plural(int(result.get("total", len(rows))), noun) + (f" ({counted})" if counted else "")


def _states(row: Mapping[str, Any]) -> set[str]:
    return {str(row.get(key, "")).partition(":")[0].lower() for key in ("state", "status", "health")}


def _state(row: Mapping[str, Any]) -> str:
    state, health = row.get("state") or row.get("status") or "there", row.get("health")
    return f"{state} ({health})" if health else str(state)


def _name(row: Mapping[str, Any]) -> str:
    return str(row.get("name") or ", ".join(row.get("tags") or []) or row.get("id", "?"))


def describe_source(listing: ToolListing, arguments: Mapping[str, Any], hosts: Sequence[str]) -> str:
    """The text that a call read, for messages: `logs of web on nas`."""
    named = {name: value for name, value in arguments.items() if value}
    shows = [one for one in listing.say if one.startswith("show ") and set(phrases.holes(one)) <= named.keys()]
    words = shows[-1].removeprefix("show ").format_map(named) if shows else f"the result of `{Call(listing, named)}`"
    return f"{words} on {', '.join(hosts)}"


def result_metadata(outcomes: Mapping[str, Outcome], listing: ToolListing) -> dict[str, Any]:
    """The result of each host, in the form in which the rules read it from a call's metadata."""
    return {"hosts": {host: result_entry(outcome) for host, outcome in outcomes.items()}, "listing": listing}


def result_entry(outcome: Outcome) -> dict[str, Any]:
    """The result of one host, in the form in which the rules read it."""
    return {
        "ok": outcome.ok,
        "result": outcome.answer.result,
        "text": outcome.answer.text,
        "error": str(outcome.error) if outcome.error else None,
        "arrived": outcome.ended,
        "seconds": outcome.seconds,
    }
