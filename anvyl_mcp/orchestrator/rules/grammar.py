"""Parse sentences into calls: tool phrases, sequences of them, and questions about results.

Changes must match a phrase word for word; reads may be phrased freely.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from pydantic_ai.tools import ToolDefinition

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.language import host_phrases, normalize, phrases, questions, vocabulary
from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.host_phrases import Way, take_first_hosts, take_hosts
from anvyl_mcp.orchestrator.language.intent import read_wish
from anvyl_mcp.orchestrator.language.questions import Query, Wants
from anvyl_mcp.orchestrator.language.stemming import spelled
from anvyl_mcp.orchestrator.language.vocabulary import is_name, meaning, meanings
from anvyl_mcp.orchestrator.reader_thread import ReaderThread, too_long_error
from anvyl_mcp.orchestrator.rules import command_lines, noun_scores, unread_words
from anvyl_mcp.orchestrator.rules.results import aggregate
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.orchestrator.rules.steps import (
    Otherwise,
    Step,
    calls_of,
    host_of,
    implied_values,
    keep_said_hosts,
    names_in,
    only_look,
    placed_at,
    share_hosts,
)
from anvyl_mcp.peers.connection.listing import ToolListing

Hosts = Callable[[], Sequence[str]]  # names, and tags as `@tag`
Objects = Callable[[str], Awaitable[Mapping[str, Sequence[str]]]]
"""Returns the names of all objects of a kind, with their hosts."""


MOST_CLAUSES = 8
LAST_LINES = 20
"""Log lines for `why` questions."""


class Planner:
    """Parses a question into calls, for the given tools and hosts."""

    def __init__(
        self,
        offered: Iterable[ToolDefinition],
        known: tuple[str, ...],
        objects: Objects | None,
        *,
        to_the_last_word: bool = False,
        otherwise: Otherwise | None = None,
        placed: bool = False,
    ) -> None:
        """`to_the_last_word`: accept only complete phrases, not questions that only share words with a tool.

        `otherwise` is asked last. `placed`: the person has named the host apart from the words.
        """
        tools = [tool for tool in offered if tool.metadata and isinstance(tool.metadata.get("listing"), ToolListing)]
        self.tools: dict[str, ToolListing] = {tool.name: tool.metadata["listing"] for tool in tools if tool.metadata}
        self._placeable = {tool.name for tool in tools if "host" in tool.parameters_json_schema.get("properties", {})}
        self._known = known
        self._objects = objects
        self._verbs = {meaning(one.split()[0]) for tool in self.tools.values() if not tool.reads for one in tool.say}
        self._quoted: tuple[str, ...] = ()
        self._strict = to_the_last_word
        self._otherwise = otherwise
        self._placed = placed
        self._reader = ReaderThread()

    async def steps(self, question: str) -> list[Step]:
        """Steps of calls, in order.

        Raises:
            NotUnderstood: no rule fits all of it.
        """
        masked, self._quoted = normalize.mask(question)
        if not normalize.is_short(masked):
            raise too_long_error()
        question = normalize.tidied(question)
        steps = await self._typed(masked)
        if not steps:
            steps = await self._planned(question, masked)
            if option := command_lines.unread_option(masked, calls_of(steps)):
                raise self._refused(question, f"`{option}` is not supported here")
            if only_look(steps) and self._objects:
                check = partial(unread_words.check, masked, calls_of(steps), await self._vocabulary(masked, steps))
                await self._reader.run(check)
        await self._check_commands(steps, masked)
        return steps

    async def _typed(self, masked: str) -> list[Step]:
        """Parse a Docker command line."""
        typed = command_lines.typed(masked, self._quoted, self._known, self.tools)
        if typed is None or not all(self._put_host(call.arguments, call.listing, typed.host) for call in typed.calls):
            return []
        known = not typed.container or self._objects is None or typed.container in await self._things()
        return [typed.calls] if known else []

    async def _vocabulary(self, masked: str, steps: Sequence[Step]) -> unread_words.Vocabulary:
        """Known words; object names are looked up only if needed."""
        known = unread_words.Vocabulary(self.tools.values(), (), self._known)
        doubtful = await self._reader.run(partial(unread_words.is_doubtful, masked, calls_of(steps), known))
        return unread_words.Vocabulary(self.tools.values(), await self._things(), self._known) if doubtful else known

    async def _check_commands(self, steps: Sequence[Step], masked: str) -> None:
        """Check that no command intended for a container runs on a machine.

        Raises:
            NotUnderstood: the words name no machine for it, or may mean a container.
        """
        for call in (call for step in steps for call in step):
            free = vocabulary.FREE_TEXT & set(() if call.listing.names or call.listing.reads else call.listing.required)
            for command in (str(call.arguments[argument]) for argument in free):
                placed = self._placed or "host" in call.arguments or command_lines.names_a_place(masked)
                things = await self._things()
                if not placed or command_lines.may_be_for_a_container(command, masked, self._quoted, things):
                    raise command_lines.unclear_place(command)

    async def _planned(self, question: str, masked: str) -> list[Step]:
        steps = await self._understood(masked, to_the_last_word=self._otherwise is not None)
        orders = read_wish(question, self.tools.values()).intent == "change"
        if steps and not only_look(steps) and normalize.only_wonders(masked):
            raise self._refused(question, f"write it as a command: `{question.strip(' ?')}`")
        if steps and self._otherwise and only_look(steps):
            unknown = unread_words.unknown_subject(masked, calls_of(steps), await self._vocabulary(masked, steps))
            steps = [] if unknown else steps
        if steps and not (self._otherwise and orders and only_look(steps)):
            return steps
        if self._otherwise and (free := await self._otherwise(question, self.tools.values())):
            return free
        steps = await self._understood(masked) if self._otherwise else []
        if steps and not (orders and only_look(steps)):
            return steps
        spelled = masked if self._strict else await self._spelled(masked)
        steps = await self._understood(spelled) if spelled != masked else []
        if steps and only_look(steps):
            return steps
        if steps:
            raise self._refused(question, f"did you mean `{normalize.unmask(spelled, self._quoted)}`?")
        raise self._refused(question, phrases.examples(self.tools.values(), question))

    def _refused(self, question: str, hint: str) -> NotUnderstood:
        return NotUnderstood(f"no rule fits `{text.clean(question.strip())[:80]}`", hint=hint)

    async def _understood(self, masked: str, *, to_the_last_word: bool = False) -> list[Step]:
        loosely, self._strict = self._strict, self._strict or to_the_last_word
        try:
            return await self._read(masked)
        finally:
            self._strict = loosely

    async def _read(self, masked: str) -> list[Step]:
        sentence, first = take_first_hosts(masked, self._known)
        steps = await self._said(sentence) or await self._worked_out(sentence)
        steps = (
            steps
            or await self._asked(sentence)
            or ([] if self._strict else await self._one(sentence, host_phrases.BOLD))
        )
        steps = [[await self._inside(call) for call in step] for step in steps]
        kept = (
            share_hosts(steps, first, self._placeable)
            and await self._find_hosts(steps)
            and keep_said_hosts(steps, masked, self._known, self._placeable)
        )
        return steps if kept else []

    async def _inside(self, call: Call) -> Call:
        """`execute uptime in db` is for the container `db`, if it exists."""
        for argument in vocabulary.FREE_TEXT & set(() if call.listing.names else call.listing.required):
            match = vocabulary.INSIDE.fullmatch(str(call.arguments[argument]))
            if match is None or match["name"] not in await self._things():
                continue
            for listing in self.tools.values():
                kinds = {kind: name for name, kind in listing.names.items()}
                if argument in listing.required and "container" in kinds:
                    named = {argument: match["command"], kinds["container"]: match["name"]}
                    return Call(listing, {**call.arguments, **named})
        return call

    async def _said(self, sentence: str) -> list[Step]:
        """Steps if the sentence, or each of its clauses, is a phrase."""
        whole, several = await self._one(sentence, host_phrases.PLAIN), await self._clauses(sentence)
        if whole and several and any(vocabulary.FREE_TEXT & call.arguments.keys() for call in whole[0]):
            raise NotUnderstood("this can be one command or several requests", hint="put the command in quotes")
        return whole or several

    async def _clauses(self, sentence: str) -> list[Step]:
        """Steps of a sentence with several clauses; empty unless each is understood."""
        for separator in islice(normalize.SEPARATOR.finditer(sentence), MOST_CLAUSES):
            rest = sentence[separator.end() :]
            head = await self._clause(sentence[: separator.start()])
            if not head:
                continue
            resolved, host = normalize.named(rest, names_in(head)), host_of(head)
            if tail := await self._clause(resolved) or await self._clauses(resolved):
                return head + (placed_at(tail, host) if resolved != rest else tail)
        return []

    async def _clause(self, clause: str) -> list[Step]:
        found = await self._one(clause, host_phrases.PLAIN + host_phrases.BOLD) or await self._worked_out(clause)
        return found or (await self._asked(clause) if vocabulary.QUESTION.match(normalize.plain(clause)) else [])

    async def _one(self, clause: str, ways: Iterable[Way]) -> list[Step]:
        return await self._reader.run(partial(self._phrased, clause, ways))

    def _phrased(self, clause: str, ways: Iterable[Way]) -> list[Step]:
        """Step for a clause that is a phrase; empty if several changes match equally."""
        said = set(meanings(normalize.plain(clause)))
        fits = [
            (listing, phrase)
            for listing in self.tools.values()
            for phrase in phrases.spoken(listing)
            if phrases.literals(phrase) <= said
        ]
        for way in ways:
            found = {}
            for listing, phrase in sorted(fits, key=lambda entry: len(phrases.literals(entry[1]))):
                if step := self._match(clause, way, listing, phrase):
                    found[listing.name] = len(phrases.literals(phrase)), step
            best = [step for words, step in found.values() if words == max(words for words, _ in found.values())]
            if best:
                return best[:1] if len(best) == 1 or best[0][0].listing.reads else []
        return []

    def _match(self, clause: str, way: Way, listing: ToolListing, phrase: str) -> Step:
        free = not vocabulary.FREE_TEXT.isdisjoint(phrases.holes(phrase))
        clause = normalize.free(clause) if free else normalize.plain(clause, asks=listing.reads)
        placed = take_hosts(clause, way, self._known, at_end=free)
        if placed is None or (way.reads_only and not listing.reads):
            return []
        rest, values = placed[0], dict[str, Any]()
        if not free:
            rest, values = take_options(rest, listing.arguments, self._quoted, listing.names)
        holes = phrases.fill(phrase, rest, listing, values.keys())
        if (
            holes is None
            or (free and vocabulary.CONDITION.search(rest))
            or not self._put_host(values, listing, placed[1])
        ):
            return []
        return self._calls(listing, values, holes, hosts_are_names=way.hosts_are_names)

    def _put_host(self, values: dict[str, Any], listing: ToolListing, selector: str) -> bool:
        """Add the host selector to the arguments; false if the tool has no `host`."""
        selector = values.pop("host", "") or selector
        if selector and listing.name in self._placeable:
            values["host"] = selector
        return listing.name in self._placeable or selector in ("", "all")

    def _calls(
        self, listing: ToolListing, values: dict[str, Any], holes: Mapping[str, str], *, hosts_are_names: bool
    ) -> Step:
        """One call per name in a placeholder; empty if one is not a valid name."""
        step = [values]
        no_names = self._verbs if hosts_are_names else self._verbs | set(self._known)
        for hole, words in holes.items():
            kind, choices = listing.names.get(hole), listing.arguments[hole].get("enum")
            names = list(dict.fromkeys(phrases.split_names(words, kind))) if kind else [words]
            if choices:
                names = [phrases.choice(words, choices)]
            elif hole not in vocabulary.FREE_TEXT and not all(is_name(name, no_names) for name in names):
                return []
            step = [{**call, hole: normalize.unmask(name, self._quoted)} for call in step for name in names]
        if any(argument not in call for call in step for argument in listing.required):
            return []
        return [Call(listing, call) for call in step]

    async def _find_hosts(self, steps: Sequence[Step]) -> bool:
        """Replace `on all hosts that have it` by host names; false if no host has it."""
        for call in (
            call
            for step in steps
            for call in step
            if call.arguments.get("host") in (host_phrases.HAVING, host_phrases.BOTH)
        ):
            kinds = [(kind, str(call.arguments[name])) for name, kind in call.listing.names.items()]
            having = [(await self._objects(kind)).get(name, ()) for kind, name in kinds] if self._objects else []
            if not having or not having[0] or (call.arguments["host"] == host_phrases.BOTH and len(having[0]) != 2):
                return False
            call.arguments["host"] = ",".join(having[0])
        return True

    async def _worked_out(self, sentence: str) -> list[Step]:
        """Question that needs aggregation: the most of something, where, why."""
        asked = normalize.plain(sentence, asks=True)
        placed = take_hosts(asked, host_phrases.ASKING, self._known)
        rest, selector = placed or (asked, "")
        query = questions.read(rest) or questions.read(asked)
        if placed is None or query is None or not self._only_asks(asked, query):
            return []
        tools = [listing for listing in self.tools.values() if listing.reads]
        if query.wants is Wants.WHY:
            return await self._why(query, tools, selector)
        subject = await self._object_in(rest) if query.wants is Wants.AMOUNT else ""
        fits = [one for one in tools if not one.required or (subject and list(one.required) == list(one.names))]
        fits = [one for one in fits if bool(subject) <= bool(one.names)]
        listing = aggregate.chosen(query, fits, of_one=bool(subject))
        if listing is None:
            return []
        values = implied_values(listing, query)
        if subject:
            values[next(iter(listing.names))] = normalize.unmask(subject, self._quoted)
        return [[Call(listing, values)]] if self._put_host(values, listing, selector) else []

    def _only_asks(self, asked: str, query: Query) -> bool:
        """Whether a sentence only asks: no leading verb of a change, and no negation."""
        lead = asked.split(maxsplit=1)[0] if asked.split() else ""
        denies = vocabulary.REFUSING.search(asked) and query.wants not in (Wants.WHY, Wants.TROUBLE)
        return meaning(lead) not in self._verbs and not denies

    async def _why(self, query: Query, tools: Sequence[ToolListing], selector: str) -> list[Step]:
        """All reads about one object, if it exists."""
        subject = await self._object_in(query.subject)
        reading = [one for one in tools if one.required and list(one.required) == list(one.names)]
        step = []
        for listing in reading if subject else ():
            values: dict[str, Any] = {listing.required[0]: normalize.unmask(subject, self._quoted)}
            values |= {"tail": LAST_LINES} if "tail" in listing.arguments else {}
            if self._put_host(values, listing, selector):
                step.append(Call(listing, values))
        return [step] if step else []

    async def _asked(self, sentence: str) -> list[Step]:
        """Question that is not a phrase: the reading tool with the clearly best word overlap."""
        asked = normalize.plain(sentence, asks=True)
        if vocabulary.REFUSING.search(asked) or self._verbs & set(meanings(asked)):
            return []
        placed = take_hosts(asked, host_phrases.ASKING, self._known)
        if placed == (asked, "") and not self._strict:
            placed = take_hosts(asked, Way(host_is_unknown=True), self._known) or placed
        rest, selector = placed or ("", "")
        tools = [one for one in self.tools.values() if one.reads and one.say and not one.required]
        named = [listing for listing in tools if "name" in listing.arguments]
        rest, subject = noun_scores.take_subject(rest, {noun_scores.noun_of(listing) for listing in named})
        about, found = "", None
        if not subject and (about := await self._object_in(rest)):
            found = self._of_one(rest, about)
        fitted = partial(noun_scores.fitting, named if subject else tools, rest, every_word=self._strict)
        listing = found or await self._reader.run(fitted)
        if listing is None:
            return []
        subject = subject or (about if found else "")
        _, values = take_options(rest, listing.arguments, self._quoted)
        if subject:
            values[next(iter(listing.names), "name")] = normalize.unmask(subject, self._quoted)
        if "all" in listing.arguments and (subject or ("many" in rest.split() and "running" not in meanings(rest))):
            values["all"] = True
        return [[Call(listing, values)]] if self._put_host(values, listing, selector) else []

    def _of_one(self, rest: str, about: str) -> ToolListing | None:
        """Reading tool for the object of a question; the first one if the question is only its name."""
        tools = [one for one in self.tools.values() if one.reads and list(one.required) == list(one.names) != []]
        words = [word for word in rest.lower().split() if word != about]
        if not tools or not self._leads(words, tools):
            return None
        unsaid = {*vocabulary.EMPTY, *unread_words.ASKED_OF_ONE}
        if all({word, meaning(word)} & unsaid for word in words):
            return tools[0]
        return noun_scores.fitting(tools, " ".join(words), named=True, every_word=self._strict)

    def _leads(self, words: Sequence[str], tools: Sequence[ToolListing]) -> bool:
        """Whether the words can begin a question; an unknown first word may be the verb of a change."""
        return (
            not words
            or words[0] in vocabulary.EMPTY
            or any(noun_scores.fits(tool, meaning(words[0])) for tool in tools)
        )

    async def _object_in(self, words: str) -> str:
        """The one existing object named in the words; used only if no phrase matches."""
        said = set(words.split()) - vocabulary.RESERVED
        found = said & await self._things() if said else set[str]()
        return found.pop() if len(found) == 1 else ""

    async def _things(self) -> set[str]:
        """Names of all objects that reading tools accept."""
        kinds = {kind for listing in self.tools.values() if listing.reads for kind in listing.names.values()}
        return {name for kind in sorted(kinds) if self._objects for name in await self._objects(kind)}

    async def _spelled(self, sentence: str) -> str:
        """Correct typos of known words; object names are not changed."""
        things = await self._things()
        ours = {word for listing in self.tools.values() for phrase in listing.say for word in phrase.split()}
        ours = {
            word for word in ours | vocabulary.STANDS_FOR.keys() | questions.KINDS | questions.NOUNS if word.isalpha()
        }
        ours |= {f"{word}s" for word in questions.NOUNS}
        return await self._reader.run(partial(spelled, sentence, ours, things))
