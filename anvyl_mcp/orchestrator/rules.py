"""A planner without a language model, as a Pydantic AI model: the same loop, approvals and errors, and no network.

It keeps nothing between requests: the last question and the calls made since say all, so it can take over half-way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from anvyl_mcp import text
from anvyl_mcp.errors import NotUnderstood
from anvyl_mcp.orchestrator import fitting, phrases, sentences
from anvyl_mcp.orchestrator.answers import Call, Turn, answer, went_wrong
from anvyl_mcp.orchestrator.options import take_options
from anvyl_mcp.orchestrator.placing import ASKING, BOLD, PLAIN, Way, take_first_hosts, take_hosts
from anvyl_mcp.orchestrator.vocabulary import FREE_TEXT, REFUSING, RESERVED, is_name, meaning, meanings
from anvyl_mcp.peers.listing import ToolListing

Hosts = Callable[[], Sequence[str]]
Objects = Callable[[str], Awaitable[Sequence[str]]]

MOST_CLAUSES = 8

Step = list[Call]
"""Calls that are made together; the next step waits until they have gone well."""


def rules_model(*, hosts: Hosts, objects: Objects | None = None) -> Model:
    """The rules as a model. `hosts` gives the known host names, `objects` the names of all objects of a kind.

    Its requests raise `NotUnderstood` for what no rule fits, with examples from the tools there are.
    """
    return RulesModel(hosts, objects)


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
        if later and any(went_wrong(result) for result in results if result):
            return [TextPart(f"{answer(planner.tools, turn)}\nNot tried after that: {text.joined(later)}.")]
    return [TextPart(answer(planner.tools, turn))]


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
        masked, self._quoted = sentences.mask(question)
        sentence, first = take_first_hosts(masked, self._known)
        steps = self._said(sentence) or await self._asked(sentence) or self._one(sentence, BOLD)
        if not steps or not self._share_hosts(steps, first):
            raise NotUnderstood(
                f"no rule fits `{text.clean(question.strip())[:80]}`",
                hint=phrases.examples(self.tools.values(), question),
            )
        return steps

    def _said(self, sentence: str) -> list[Step]:
        """The steps when the whole sentence, or each of its clauses, is a phrase."""
        whole, several = self._one(sentence, PLAIN), self._clauses(sentence)
        if whole and several and any(FREE_TEXT & call.arguments.keys() for call in whole[0]):
            raise NotUnderstood("this can be one command or several requests", hint="put the command in quotes")
        return whole or several

    def _clauses(self, sentence: str) -> list[Step]:
        """The steps of a sentence of several clauses; none unless each of them is a phrase."""
        for separator in islice(sentences.SEPARATOR.finditer(sentence), MOST_CLAUSES):
            rest = sentence[separator.end() :]
            head = self._one(sentence[: separator.start()], PLAIN + BOLD)
            if head and (tail := self._one(rest, PLAIN + BOLD) or self._clauses(rest)):
                return head + tail
        return []

    def _one(self, clause: str, ways: Iterable[Way]) -> list[Step]:
        """One step, when the whole clause is a phrase; none when it is one of several changes alike."""
        said = set(meanings(clause))
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
        free = not FREE_TEXT.isdisjoint(phrases.holes(phrase))
        clause = sentences.free(clause) if free else sentences.plain(clause)
        placed = take_hosts(clause, way, self._known, at_end=free)
        if placed is None or (way.reads_only and not listing.reads):
            return []
        rest, values = placed[0], dict[str, Any]()
        if not free:
            rest, values = take_options(rest, listing.arguments, self._quoted, listing.names)
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
            names = list(dict.fromkeys(phrases.split_names(words, kind))) if kind else [words]
            if hole not in FREE_TEXT and not all(is_name(name, no_names) for name in names):
                return []
            step = [{**call, hole: sentences.unmask(name, self._quoted)} for call in step for name in names]
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
        asked = sentences.plain(sentence)
        if REFUSING.search(asked) or self._verbs & set(meanings(asked)):
            return []
        placed = take_hosts(asked, ASKING, self._known)
        if placed == (asked, ""):
            placed = take_hosts(asked, Way(host_is_unknown=True), self._known) or placed
        rest, selector = placed or ("", "")
        tools = [listing for listing in self.tools.values() if listing.reads and not listing.required]
        named = [listing for listing in tools if "name" in listing.arguments]
        rest, subject = fitting.take_subject(rest, {fitting.noun_of(listing) for listing in named})
        listing = fitting.fitting(named if subject else tools, rest)
        if listing is None and (subject := await self._object_in(rest)):
            tools = [one for one in self.tools.values() if one.reads and list(one.required) == list(one.names) != []]
            listing = fitting.fitting(tools, rest.replace(subject, " "))
        if listing is None:
            return []
        _, values = take_options(rest, listing.arguments, self._quoted)
        if subject:
            values[next(iter(listing.names), "name")] = sentences.unmask(subject, self._quoted)
            values |= {"all": True} if "all" in listing.arguments else {}
        return [[Call(listing, values)]] if self._put_host(values, listing, selector) else []

    async def _object_in(self, words: str) -> str:
        """The one existing object whose name is among the words; asked only for what is understood no other way."""
        kinds = {kind for listing in self.tools.values() if listing.reads for kind in listing.names.values()}
        named = [name for kind in sorted(kinds) if self._objects for name in await self._objects(kind)]
        said = (set(words.split()) & set(named)) - RESERVED
        return said.pop() if len(said) == 1 else ""
