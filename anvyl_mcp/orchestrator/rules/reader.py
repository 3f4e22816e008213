"""The reader without a model, as one pipeline: normalize, hosts, clauses, frames, decide, plan.

A plan is made once for a question. It is played without the agent framework, or by the rules as a Pydantic AI
model, where they accompany a language model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NothingToDo, NotUnderstood
from anvyl_mcp.orchestrator.checks.resolve import places_of
from anvyl_mcp.orchestrator.language import phrases
from anvyl_mcp.orchestrator.language.intent import clauses, forms_of, verbs_of
from anvyl_mcp.orchestrator.language.lexicon import translated
from anvyl_mcp.orchestrator.language.normalize import is_short, mask, only_wonders, plainly, unmask
from anvyl_mcp.orchestrator.language.places import Places, named
from anvyl_mcp.orchestrator.language.vocabulary import FREE_TEXT, meaning, without_lead
from anvyl_mcp.orchestrator.reader_thread import ReaderThread, too_long_error
from anvyl_mcp.orchestrator.rules import command_lines, judgement, replicas, unknown_words
from anvyl_mcp.orchestrator.rules.looks import Look, Looks
from anvyl_mcp.orchestrator.rules.orders.scene import Objects, Scene
from anvyl_mcp.orchestrator.rules.results.answers import MOST_NAMES, Call
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts import registry

SPLIT = re.compile(
    r"(?i)\s*[;.]\s+|\s*,?\s+(?:and\s+then|then|and\s+also|and\s+after\s+that|after\s+that)\s+|\s+and\s+(?=(?:list|show|display|print|inspect|tail|logs?|stats?)\b)"
)

UPDATE = "update_container"
HELD = {
    "age": "its update is less than 3 days old",
    "failed": "its update failed before",
    "blocked": "it is protected or paused",
}
"""Why an update of everything leaves a container out, by `held`; a newer host may have further reasons."""


@dataclass(frozen=True)
class Plan:
    """Calls step by step; the next step waits for the success of the one before.

    `read_as`: how a question was understood that is no phrase of a tool; `remarks`: what was set aside or decided, for
    the person who approves.
    """

    steps: tuple[tuple[Call, ...], ...]
    read_as: str = ""
    remarks: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    """Why approval in advance does not cover it."""
    said: str = ""
    """The question in English, if it was translated."""

    @property
    def only_reads(self) -> bool:
        """Whether it changes nothing."""
        return all(call.listing.reads for step in self.steps for call in step)


@dataclass(frozen=True)
class Surroundings:
    """What a reader knows of the fleet. `placed`: the host is known apart from the question."""

    tools: Mapping[str, ToolListing]
    places: Places
    select: Callable[[str], list[str]]
    objects: Objects
    placed: bool = False


def surroundings_of(fleet: Fleet, objects: Objects, home: str = "") -> Surroundings:
    """What a reader knows of a fleet. `home`: the host named apart from the question."""
    return Surroundings(fleet.catalogue, places_of(fleet), fleet.select, objects, placed=bool(home))


class Before(IntEnum):
    """Which model answers what the rules leave: the better it is, the more of a question they have to account for."""

    NO_MODEL = 0
    """They read what they can of a question, and name the words that they left out."""
    SMALL_MODEL = 1
    """The same, but an order with a misspelled word is left."""
    PLANNING_MODEL = 2
    """A question is read to the last word."""
    CAPABLE_MODEL = 3
    """A question is a phrase of a tool or is worked out from results; an order is without a remark."""


@dataclass(frozen=True)
class Sentence:
    """A question in English, with quoted texts masked. `doubts`: corrected typos, `read_from`: what was translated."""

    said: str
    quoted: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    read_from: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """How its words were read, for the person."""
        return (*self.doubts, *self.read_from)


class Reader:
    """Reads one question."""

    def __init__(self, surroundings: Surroundings, *, before: Before = Before.NO_MODEL) -> None:
        self._around = surroundings
        self._before = before
        self._thread = ReaderThread()
        self._plans: dict[str, Plan] = {}

    async def plan(self, question: str, tools: Mapping[str, ToolListing] | None = None) -> Plan:
        """The plan for a question; the same one each time.

        Raises:
            NotUnderstood: the rules do not understand it; the message says which word.
            AnvylError: what it names does not exist or is ambiguous, or nothing has to be done.
        """
        if question not in self._plans:
            around = self._around
            offered = around.tools if tools is None else tools
            scene = Scene(offered, around.places, around.select, around.objects)
            self._plans[question] = await self._read(question, scene)
        return self._plans[question]

    async def _read(self, question: str, scene: Scene) -> Plan:
        masked, quoted = mask(question)
        if not is_short(masked):
            raise too_long_error()
        if plan := await self._typed(masked, quoted, scene):
            return plan
        sentence = await self._sentence(masked, quoted, scene)
        for stage in (self._advice, self._command, self._replicas, self._orders, self._looks):
            if plan := await stage(sentence, scene):
                calls = [call for step in plan.steps for call in step]
                if option := command_lines.unread_option(sentence.said, calls):
                    raise NotUnderstood(f"`{option}` is not supported here", hint="leave it out, or write it in words")
                await self._check_commands(calls, sentence, scene)
                return plan
        raise self._not_understood(sentence.said, quoted, scene)

    async def _typed(self, masked: str, quoted: Sequence[str], scene: Scene) -> Plan | None:
        """A Docker command line."""
        typed = command_lines.typed(masked, quoted, scene.places, scene.tools)
        if typed is None:
            return None
        if typed.container:
            await scene.look_up("container")
        return Plan((tuple(typed.calls),)) if typed.container in ("", *scene.names()) else None

    async def _sentence(self, masked: str, quoted: tuple[str, ...], scene: Scene) -> Sentence:
        """The sentence in English, with typos of known words corrected; a verb that removes is only suggested.

        Raises:
            NotUnderstood: such a verb is misspelled.
        """
        said, language = await self._thread.run(partial(translated, masked))
        said, known = plainly(said), unknown_words.Vocabulary(scene)
        better, typos = await self._thread.run(partial(known.mended, said))
        if typos:
            await scene.look_up("container")
            better, typos = await self._thread.run(partial(known.mended, said))
        destroying = {verb for tool in scene.tools.values() if tool.safety == "destroys" for verb in verbs_of(tool)}
        if any(meaning(word) in destroying - {"run"} for word in typos.values()):
            hint = f"did you mean `{text.clean(better)[:80]}`?"
            raise NotUnderstood(f"no rule fits `{text.clean(said)[:80]}`", hint=hint)
        doubts = tuple(f"read `{typo}` as `{word}`" for typo, word in typos.items())
        read_from = (f"read from {language} as `{text.clean(unmask(better, quoted))[:200]}`",) if language else ()
        return Sentence(better, quoted, doubts, read_from)

    async def _advice(self, sentence: Sentence, scene: Scene) -> Plan | None:
        """Whether to do something: how things are now."""
        subject = await self._thread.run(partial(judgement.subject_of, sentence.said, scene.tools.values()))
        if subject and self._before >= Before.PLANNING_MODEL:
            raise NotUnderstood("advice is left to a language model")
        return await self._looked(subject, sentence, scene, judgement.FACTS) if subject else None

    async def _command(self, sentence: Sentence, scene: Scene) -> Plan | None:
        """A sentence that is one command for a machine or a container."""
        if not command_lines.IN_WORDS.search(sentence.said):
            return None
        await scene.look_up("container")
        call = command_lines.spoken(sentence.said, sentence.quoted, scene.places, scene.tools, {*scene.names()})
        return Plan(((call,),), remarks=sentence.notes) if call else None

    async def _check_commands(self, calls: Sequence[Call], sentence: Sentence, scene: Scene) -> None:
        """Check that no command intended for a container runs on a machine.

        Raises:
            NotUnderstood: the words name no machine for it, or may mean a container.
        """
        said = sentence.said
        for call in calls:
            free = FREE_TEXT & set(() if call.listing.names or call.listing.reads else call.listing.required)
            for command in (str(call.arguments[argument]) for argument in free):
                placed = self._around.placed or "host" in call.arguments
                placed = placed or bool(command_lines.FOR_THE_MACHINE.match(without_lead(said)))
                await scene.look_up("container")
                if not placed or command_lines.may_be_for_a_container(command, said, scene.places, scene.names()):
                    raise command_lines.unclear_place(command)

    async def _replicas(self, sentence: Sentence, scene: Scene) -> Plan | None:
        """An order for a number of containers."""
        call = await replicas.read(sentence.said, scene)
        return Plan(((call,),), remarks=(*sentence.notes, *replicas.remark(call, scene))) if call else None

    async def _orders(self, sentence: Sentence, scene: Scene) -> Plan | None:
        """Changes, each read to the last word."""
        said, quoted = sentence.said, sentence.quoted
        found = await self._thread.run(partial(clauses, said, scene.tools.values()))
        verbs = frozenset[str]().union(*(clause.verbs for clause in found))
        wonders = only_wonders(said)
        if not verbs or (wonders and not any(_is_imperative(said[one.start : one.end], one.verbs) for one in found)):
            return None
        if wonders:
            raise NotUnderstood("this is a question, not an order", hint=f"write it as an order: `{said.strip(' ?')}`")
        for unknown in scene.places.unknown_host(said):
            if not await scene.has_object(unknown):
                raise registry.unknown_host_error(unknown, scene.places.hosts)
        from anvyl_mcp.orchestrator.rules.orders import read_orders  # not needed for questions, which must be quick

        changing = [tool for tool in scene.tools.values() if not tool.reads]
        await scene.prepare(said, [tool for tool in changing if verbs & verbs_of(tool)])
        for index, one in enumerate(quoted):
            if any(one[1:-1] in scene.names(kind) for kind in scene.objects):
                said = said.replace(chr(0xE000 + index), one[1:-1])  # a name in quotes
        try:
            orders = await self._thread.run(partial(read_orders.read, said, quoted, scene))
        except NothingToDo as done:
            if sum(bool(clause.verbs) for clause in found) < 2:
                raise
            raise NotUnderstood(f"{done.message}; nothing was changed", hint="ask for the rest separately") from done
        steps: list[list[Call]] = []
        for step in orders.steps:
            calls = step if isinstance(step, list) else (await Looks(scene, quoted, strict=True).read(step)).calls
            if isinstance(step, str) and not calls:
                raise self._not_understood(step, quoted, scene, hint="ask for it separately")
            steps.append(calls)
        if not steps:
            raise self._not_understood(said, quoted, scene)
        steps, spared = await self._with_an_update(steps, said, scene)
        capable = self._before is Before.CAPABLE_MODEL
        if (orders.ignored and capable) or (sentence.doubts and self._before > Before.NO_MODEL):
            raise NotUnderstood("some words of the order are left to a language model")
        ignored = "; ".join(f"`{unmask(one, quoted)}`" for one in dict.fromkeys(orders.ignored))
        decided = dict.fromkeys(unmask(one, quoted) for one in orders.decided)
        remarks = (*sentence.notes, *([f"ignored: {ignored}"] if ignored else []), *decided, *spared)
        doubts = tuple(dict.fromkeys([*sentence.doubts, *orders.doubts]))
        return Plan(tuple(tuple(step) for step in steps), remarks=remarks, doubts=doubts)

    @staticmethod
    async def _with_an_update(
        steps: Sequence[Sequence[Call]], said: str, scene: Scene
    ) -> tuple[list[list[Call]], list[str]]:
        """`update everything` is about what has an update and is not held back; what is named is tried anyway.

        Raises:
            NothingToDo: nothing of it has an update.
        """
        unnamed = [call for step in steps for call in step if call.listing.name == UPDATE and not _is_named(call, said)]
        if not unnamed:
            return [list(step) for step in steps], []
        found = {(one.host, one.name): str(one.row.get("held") or "") for one in await scene.look_up("update")}
        unlisted = await scene.lookup.errors("update", scene.places.hosts)
        spared, why = [], dict[str, list[str]]()
        for call in unnamed:
            name, host = str(call.arguments["name"]), str(call.arguments.get("host") or "")
            places = [host] if host else [one.host for one in scene.of("container") if one.name == name]
            held = [found[place, name] for place in places if (place, name) in found]
            if not unlisted.keys() & set(places) and (not held or all(held)):
                spared.append(call)
                why.setdefault(HELD.get(held[0], "its update is held back") if held else "no update", []).append(name)
        if len(spared) == len(unnamed):
            reasons = "; ".join(f"{text.join_names(names)}: {reason}" for reason, names in why.items())
            raise NothingToDo(f"nothing to update: {reasons}")
        kept = [[call for call in step if call not in spared] for step in steps]
        remarks = [
            f"left out, {reason}: {', '.join(names) if len(names) <= MOST_NAMES else f'{len(names)} containers'}"
            for reason, names in why.items()
        ]
        return [step for step in kept if step], remarks

    async def _looks(self, sentence: Sentence, scene: Scene) -> Plan:
        """A question; each of several clauses, if all are phrases of a tool."""
        several = [part for part in SPLIT.split(sentence.said) if part and part.strip()]
        looks = self._reader_of_questions(sentence, scene)
        if len(several) > 1 and (found := await self._each(looks, several)):
            plan = Plan(tuple(tuple(look.calls) for look in found), remarks=sentence.notes)
        else:
            plan = await self._looked(sentence.said, sentence, scene)
        return replace(plan, said=unmask(sentence.said, sentence.quoted)) if sentence.read_from else plan

    async def _looked(self, said: str, sentence: Sentence, scene: Scene, *notes: str) -> Plan:
        """The plan for one question."""
        look = await self._reader_of_questions(sentence, scene).read(said)
        if not look.calls or (self._before is Before.CAPABLE_MODEL and not look.exact):
            raise self._not_understood(said, sentence.quoted, scene)
        if sentence.read_from and "?" not in said and said.split()[0] in ("not", *look.ignored):
            raise self._not_understood(said, sentence.quoted, scene)  # it may be the verb of an order
        read_as = "" if look.exact else text.join_names([call.in_full() for call in look.calls])
        if look.ignored:
            read_as += f"; ignored: {' '.join(look.ignored)}"
        return Plan((tuple(look.calls),), read_as, (*sentence.notes, *notes, *look.remarks))

    def _reader_of_questions(self, sentence: Sentence, scene: Scene) -> Looks:
        return Looks(scene, sentence.quoted, strict=self._before >= Before.PLANNING_MODEL)

    async def _each(self, looks: Looks, parts: Sequence[str]) -> list[Look]:
        """The looks of several clauses; empty unless each is exact."""
        found = []
        for part in parts:
            try:
                look = await looks.read(part)
            except NotUnderstood:
                return []
            if not look.calls or not look.exact:
                return []
            found.append(look)
        return found

    def _not_understood(self, said: str, quoted: Sequence[str], scene: Scene, *, hint: str = "") -> NotUnderstood:
        words = text.clean(unmask(said, quoted).strip())[:80]
        return NotUnderstood(f"no rule fits `{words}`", hint=hint or phrases.examples(scene.tools.values(), said))


def _is_named(call: Call, said: str) -> bool:
    return named(said, str(call.arguments.get("name") or ""))


def _is_imperative(clause: str, verbs: Iterable[str]) -> bool:
    """Whether a clause begins with one of the verbs."""
    words = without_lead(clause.strip().lower())
    return any(forms_of(verb)[0].match(words) for verb in verbs)
