"""A planner without a language model, as a Pydantic AI model: the same loop, approvals and errors, and no network.

It keeps nothing between requests: the last question and the calls made since say all, so it can take over half-way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from anvyl_mcp import text
from anvyl_mcp.errors import NotUnderstood
from anvyl_mcp.orchestrator import phrases
from anvyl_mcp.orchestrator.phrases import meaning, meanings, singular
from anvyl_mcp.peers.listing import ToolListing

Hosts = Callable[[], Sequence[str]]
Objects = Callable[[str], Awaitable[Sequence[str]]]

MOST_CLAUSES = 8
MOST_NAMES = 8
"""In one answer; of more only the numbers are told."""
OUTCOMES = {
    "denied": "not approved, so nothing was changed",
    "interrupted": "interrupted; it may or may not have happened",
}


def rules_model(*, hosts: Hosts, objects: Objects | None = None) -> Model:
    """The rules as a model. `hosts` gives the known host names, `objects` the names of all objects of a kind.

    Its requests raise `NotUnderstood` for what no rule fits, with examples from the tools there are.
    """
    return RulesModel(hosts, objects)


@dataclass(frozen=True)
class Call:
    """One tool call that the rules would make."""

    listing: ToolListing
    arguments: dict[str, Any]

    def __str__(self) -> str:
        """What was asked, in the tool's own phrase: `stop web`."""
        for phrase in self.listing.say:
            if all(self.arguments.get(hole) for hole in phrases.holes(phrase)):
                return phrase.format_map(self.arguments)
        named = [str(value) for key, value in self.arguments.items() if key in self.listing.required]
        return " ".join([self.listing.name.replace("_", " "), *named])


Step = list[Call]
"""Calls that are made together; the next step waits until they have gone well."""


@dataclass
class Turn:
    """The last question, and the calls made for it with their results."""

    question: str = ""
    calls: dict[str, ToolCallPart] = field(default_factory=dict)
    results: dict[str, ToolReturnPart] = field(default_factory=dict)

    @classmethod
    def of(cls, messages: Sequence[ModelMessage]) -> Turn:
        """Read it from the run's history."""
        turn = cls()
        for part in (part for message in messages for part in message.parts):
            match part:
                case UserPromptPart(content=content):
                    said = [content] if isinstance(content, str) else [one for one in content if isinstance(one, str)]
                    turn = cls(" ".join(said))
                case ToolCallPart():
                    turn.calls[part.tool_call_id] = part
                case ToolReturnPart():
                    turn.results[part.tool_call_id] = part
        return turn

    def result_of(self, call: Call) -> ToolReturnPart | None:
        """The result of this call, if it was made, also when a language model worded it differently."""
        keys = call.arguments if call.listing.reads else call.listing.required
        for id, part in self.calls.items():
            made = part.args_as_dict() if part.tool_name == call.listing.name and id in self.results else None
            if made is not None and all(made.get(key) == call.arguments[key] for key in keys):
                return self.results[id]
        return None


class RulesModel(Model):
    """Turns the question into the calls of the phrases it matches, and their results into a sentence."""

    def __init__(self, hosts: Hosts, objects: Objects | None) -> None:
        super().__init__()
        self._hosts = hosts
        self._objects = objects

    @property
    def model_name(self) -> str:
        """Always `rules`."""
        return "rules"

    @property
    def system(self) -> str:
        """No provider but ourselves."""
        return "anvyl"

    def prepare_messages(
        self, messages: list[ModelMessage], model_request_parameters: ModelRequestParameters | None = None
    ) -> list[ModelMessage]:
        """The history as it is: remarks for a language model, added as prompts, would hide the question."""
        return messages

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The next calls, or the answer."""
        planner = Planner(model_request_parameters.function_tools, tuple(self._hosts()), self._objects)
        return ModelResponse(parts=await _next(planner, Turn.of(messages)), model_name=self.model_name)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """The same as a stream of one piece."""
        response = await self.request(messages, model_settings, model_request_parameters)
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters, replay_events=True)


async def _next(planner: Planner, turn: Turn) -> list[ModelResponsePart]:
    try:
        steps = await planner.steps(turn.question)
    except NotUnderstood:
        if not turn.results:
            raise
        steps = []
    for index, step in enumerate(steps):
        results = [turn.result_of(call) for call in step]
        missing = [call for call, result in zip(step, results, strict=True) if result is None]
        if missing:
            return [ToolCallPart(call.listing.name, call.arguments) for call in missing]
        later = [str(call) for rest in steps[index + 1 :] for call in rest]
        if later and any(_went_wrong(result) for result in results if result):
            return [TextPart(f"{_answer(planner, turn)}\nNot tried after that: {text.joined(later)}.")]
    return [TextPart(_answer(planner, turn))]


@dataclass(frozen=True)
class Way:
    """One way to read a clause, from the plainest to the boldest."""

    place: phrases.Place = phrases.ON
    reads_only: bool = False
    hosts_are_names: bool = False
    host_is_unknown: bool = False


FIRST = (Way(), Way(phrases.OF), Way(phrases.OF_OR_ALONE, reads_only=True))
LAST = (Way(hosts_are_names=True), Way(host_is_unknown=True))


class Planner:
    """Finds the calls that a question asks for, among some tools and hosts."""

    def __init__(self, offered: Iterable[ToolDefinition], known: tuple[str, ...], objects: Objects | None) -> None:
        told = [tool for tool in offered if tool.metadata and isinstance(tool.metadata.get("listing"), ToolListing)]
        self.tools: dict[str, ToolListing] = {tool.name: tool.metadata["listing"] for tool in told if tool.metadata}
        self._placed = {tool.name for tool in told if "host" in tool.parameters_json_schema.get("properties", {})}
        self._known = known
        self._objects = objects
        changes = [phrase for listing in self.tools.values() if not listing.reads for phrase in listing.say]
        self._verbs = {meaning(phrase.split()[0]) for phrase in changes}
        self._quoted: tuple[str, ...] = ()

    async def steps(self, question: str) -> list[Step]:
        """What to call, in order.

        Raises:
            NotUnderstood: no rule fits all of it.
        """
        masked, self._quoted = phrases.mask(question)
        sentence, first = phrases.take_first_hosts(masked, self._known)
        steps = self._said(sentence) or await self._asked(sentence) or self._one(sentence, LAST)
        if not steps or not self._share_hosts(steps, first):
            raise NotUnderstood(
                f"no rule fits `{text.clean(question.strip())[:80]}`",
                hint=phrases.examples(self.tools.values(), question),
            )
        return steps

    def _said(self, sentence: str) -> list[Step]:
        """The steps when the whole sentence, or each of its clauses, is a phrase."""
        whole, several = self._one(sentence, FIRST), self._clauses(sentence)
        if whole and several and any(phrases.FREE_TEXT & call.arguments.keys() for call in whole[0]):
            raise NotUnderstood("this can be one command or several requests", hint="put the command in quotes")
        return whole or several

    def _clauses(self, sentence: str) -> list[Step]:
        """The steps of a sentence of several clauses; none unless each of them is a phrase."""
        for separator in islice(phrases.SEPARATOR.finditer(sentence), MOST_CLAUSES):
            rest = sentence[separator.end() :]
            head = self._one(sentence[: separator.start()], FIRST + LAST)
            if head and (tail := self._one(rest, FIRST + LAST) or self._clauses(rest)):
                return head + tail
        return []

    def _one(self, clause: str, ways: Iterable[Way]) -> list[Step]:
        """One step, when the whole clause is a phrase; none when it is one of several changes alike."""
        said = phrases.said(clause)
        fitting = [
            (listing, phrase)
            for listing in self.tools.values()
            for phrase in phrases.spoken(listing)
            if phrases.literals(phrase) <= said
        ]
        for way in ways:
            found = {}
            for listing, phrase in sorted(fitting, key=lambda entry: len(phrases.literals(entry[1]))):
                if step := self._match(clause, way, listing, phrase):
                    found[listing.name] = len(phrases.literals(phrase)), step
            best = [step for words, step in found.values() if words == max(words for words, _ in found.values())]
            if best:
                return best[:1] if len(best) == 1 or best[0][0].listing.reads else []
        return []

    def _match(self, clause: str, way: Way, listing: ToolListing, phrase: str) -> Step:
        free = not phrases.FREE_TEXT.isdisjoint(phrases.holes(phrase))
        if way.reads_only and not listing.reads or way.host_is_unknown and free:
            return []
        clause = phrases.free(clause) if free else phrases.plain(clause)
        if way.host_is_unknown:
            placed = phrases.take_unknown_host(clause)
        else:
            placed = phrases.take_hosts(clause, phrases.AT_END if free else way.place, self._known)
        if placed is None:
            return []
        rest, values = placed[0], dict[str, Any]()
        if not free:
            rest, values = phrases.take_options(rest, listing.arguments, self._quoted, listing.names)
        holes = phrases.fill(phrase, rest, listing, values.keys())
        if holes is None or not self._put_host(values, listing, placed[1]):
            return []
        return self._calls(listing, values, holes, hosts_are_names=way.hosts_are_names)

    def _put_host(self, values: dict[str, Any], listing: ToolListing, selector: str) -> bool:
        """Add the selector to the arguments; false when the tool cannot heed it."""
        selector = values.pop("host", "") or selector
        if selector and listing.name in self._placed:
            values["host"] = selector
        return listing.name in self._placed or selector in ("", "all")

    def _calls(
        self, listing: ToolListing, values: dict[str, Any], holes: Mapping[str, str], *, hosts_are_names: bool
    ) -> Step:
        """A call for each of the names in a hole; none when one of them cannot be a name."""
        step = [values]
        no_names = self._verbs if hosts_are_names else self._verbs | set(self._known)
        for hole, words in holes.items():
            kind = listing.names.get(hole)
            names = phrases.split_names(words, kind) if kind else [words]
            if hole not in phrases.FREE_TEXT and not all(phrases.is_name(name, no_names) for name in names):
                return []
            step = [{**call, hole: phrases.unmask(name, self._quoted)} for call in step for name in names]
        if any(argument not in call for call in step for argument in listing.required):
            return []
        return [Call(listing, call) for call in step]

    def _share_hosts(self, steps: Sequence[Step], first: str) -> bool:
        """Hosts named before or after all clauses count for each; false when a clause names its own as well."""
        calls = [call for step in steps for call in step if call.listing.name in self._placed]
        own = [call for call in calls if "host" in call.arguments]
        if not first and own and all(call in steps[-1] for call in own):
            first, own = own[0].arguments["host"], []
        for call in calls if first else []:
            call.arguments["host"] = first
        return not (first and own)

    async def _asked(self, sentence: str) -> list[Step]:
        """A question that is no phrase: the reading tool whose words it shares, when that is clear."""
        asked = phrases.plain(sentence)
        if phrases.REFUSING.search(asked) or self._verbs & set(meanings(asked)):
            return []
        rest, selector = phrases.take_hosts(asked, phrases.OF_OR_ALONE, self._known) or ("", "")
        rest, selector = (not selector and phrases.take_unknown_host(rest)) or (rest, selector)
        tools = [listing for listing in self.tools.values() if listing.reads and not listing.required]
        named = [listing for listing in tools if "name" in listing.arguments]
        rest, subject = phrases.take_subject(rest, {phrases.noun_of(listing) for listing in named})
        listing = phrases.fitting(named if subject else tools, rest)
        if listing is None and (subject := await self._object_in(rest)):
            tools = [one for one in self.tools.values() if one.reads and list(one.required) == list(one.names) != []]
            listing = phrases.fitting(tools, rest.replace(subject, " "))
        if listing is None:
            return []
        _, values = phrases.take_options(rest, listing.arguments, self._quoted)
        if subject:
            values[next(iter(listing.names), "name")] = phrases.unmask(subject, self._quoted)
            values |= {"all": True} if "all" in listing.arguments else {}
        return [[Call(listing, values)]] if self._put_host(values, listing, selector) else []

    async def _object_in(self, words: str) -> str:
        """The one existing object whose name is among the words; asked only for what is understood no other way."""
        kinds = {kind for listing in self.tools.values() if listing.reads for kind in listing.names.values()}
        named = [name for kind in sorted(kinds) if self._objects for name in await self._objects(kind)]
        said = (set(words.split()) & set(named)) - phrases.RESERVED
        return said.pop() if len(said) == 1 else ""


def _entries(part: ToolReturnPart) -> Mapping[str, Any]:
    """What each host answered, as our toolset attaches it."""
    return part.metadata.get("hosts", {}) if isinstance(part.metadata, dict) else {}


def _went_wrong(part: ToolReturnPart) -> bool:
    return part.outcome != "success" or not all(entry["ok"] for entry in _entries(part).values())


def _answer(planner: Planner, turn: Turn) -> str:
    """What the results say: for each call a sentence, or the text that the hosts sent."""
    lines: list[str] = []
    for id, part in turn.results.items():
        listing = planner.tools.get(part.tool_name) or ToolListing(part.tool_name, "", {})
        call = Call(listing, turn.calls[id].args_as_dict() if id in turn.calls else {})
        entries = _entries(part)
        if part.outcome != "success" or not entries:
            lines.append(f"{call}: {OUTCOMES.get(part.outcome, part.content)}")
            continue
        answered = {host: entry for host, entry in entries.items() if entry["ok"]}
        lines += _rows(turn.question, call, answered) or [_one_host(call, *one) for one in answered.items()]
        lines += [f"{host} failed: {entry['error']}" for host, entry in entries.items() if not entry["ok"]]
    return text.clean("\n".join(lines))


def _one_host(call: Call, host: str, entry: Mapping[str, Any]) -> str:
    """What one host did or said."""
    result, words = entry["result"] or {}, str(entry["text"])
    head = host if call.listing.reads else f"{call} on {host}"
    if not call.listing.reads and isinstance(result.get("state"), str):
        name = str(result.get("name", ""))
        return f"{head}: done, {'' if name in call.arguments.values() else name + ' is '}now {result['state']}"
    return f"{head}:\n{words}" if "\n" in words else f"{head}: {words or 'done'}"


def _rows(question: str, call: Call, answered: Mapping[str, Any]) -> list[str]:
    """A list result in one sentence: the state of the one asked for, those in a state, or how many there are."""
    field = text.rows_field(text.resolved(call.listing.output_schema))
    results = {host: entry["result"] for host, entry in answered.items() if field and entry["result"]}
    if not results:
        return []
    noun, said = singular(field), meanings(question)
    rows = [(host, row) for host, result in results.items() for row in result[field]]
    places = text.joined(list(results))
    at_least = "at least " if any(result.get("more") for result in results.values()) else ""
    if subject := call.arguments.get("name"):
        exact = [f"{_name(row)} is {_state(row)} on {host}" for host, row in rows if _name(row) == subject]
        like = [f"{_name(row)} is {_state(row)} on {host}" for host, row in rows]
        return [f"{text.joined(exact or like)}."] if rows else [f"No {noun} `{subject}` on {places}."]
    asked = next((word for word in said if word in phrases.STATES), "")
    if asked:
        rows = [(host, row) for host, row in rows if phrases.STATES[asked] & _states(row)]
        count = at_least + text.plural(len(rows), f"{asked} {noun}")
        per_host = [f"{number} on {host}" for host, number in Counter(host for host, _ in rows).items()]
        names = [f"{_name(row)} on {host}" for host, row in rows]
        if not rows:
            return [f"No {asked} {noun}s on {places}."]
        return [f"{count}: {text.joined(per_host if 'many' in said or len(names) > MOST_NAMES else names)}."]
    return [
        ", ".join(
            f"{_count(noun, field, result)} on {host}{_by_state(result, field)}" for host, result in results.items()
        )
        + "."
    ]


def _count(noun: str, field: str, result: Mapping[str, Any]) -> str:
    return text.plural(int(result.get("total", len(result[field]))), noun)


def _by_state(result: Mapping[str, Any], field: str) -> str:
    """` (2 running, 1 exited)`, when all the rows are there and have a state."""
    states = Counter(row["state"] for row in result[field] if row.get("state"))
    return (
        f" ({', '.join(f'{number} {state}' for state, number in states.items())})"
        if states and not result.get("more")
        else ""
    )


def _states(row: Mapping[str, Any]) -> set[str]:
    return {str(row.get(key, "")).partition(":")[0].lower() for key in ("state", "status", "health")}


def _state(row: Mapping[str, Any]) -> str:
    state, health = row.get("state") or row.get("status") or "there", row.get("health")
    return f"{state} ({health})" if health else str(state)


def _name(row: Mapping[str, Any]) -> str:
    return str(row.get("name") or ", ".join(row.get("tags") or []) or row.get("id", "?"))
