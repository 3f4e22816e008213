"""Orders to tool calls: clauses, then a frame for each tool that a clause may mean, then a decision.

An order is made only when every word of it was read. Clauses next to it that only say why are set aside and
shown to the person as ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from anvyl_mcp.core.errors import AnvylError, NothingToDo, NotUnderstood
from anvyl_mcp.orchestrator.language import normalize, phrases
from anvyl_mcp.orchestrator.language.grounding import IMAGE
from anvyl_mcp.orchestrator.language.intent import QUESTION, Clause, clauses, verbs_of
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.language.vocabulary import COUNTED, FILLERS, KINDS, MARK, POLITE, either, kinds_said
from anvyl_mcp.orchestrator.rules.orders import frames, remarks, selection
from anvyl_mcp.orchestrator.rules.orders.hosts import hosts_in, take_hosts
from anvyl_mcp.orchestrator.rules.orders.order import Memory, Order, Part, noun_of
from anvyl_mcp.orchestrator.rules.orders.remarks import refused
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.fleet.targets import not_found_error

JOINT = re.compile(r"(?i)(?:\W|\b(?:and|then|also|now|so|please|both|them|it|too)\b)*")
LOOK = re.compile(
    r"(?i)^\W*(?:(?:and|then|also|please|after\s+that|finally)\W+)*(?:show|list|display|print|view|tail|give\s+me|get|check|tell\s+me|inspect|describe|logs?|ps|see)\b"
)
"""Beginning of a clause that asks to be shown something, before or after an order."""
NO_OBJECTS = FILLERS | COUNTED.keys() | {"all"}


@dataclass
class Orders:
    """What was read: calls step by step, with texts of questions between them; words set aside; what was decided."""

    steps: list[list[Call] | str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    decided: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def read(masked: str, quoted: Sequence[str], scene: Scene) -> Orders:
    """Read the orders of a text, all of them or none.

    Raises:
        NotUnderstood: a word of it is not understood; it is named.
        NothingToDo: everything is as it should be already.
        Conflict: a name is ambiguous.
    """
    return _Reader(masked, quoted, scene).read()


def _joined(said: str, scene: Scene) -> str:
    """A text in which no clause ends within `on nas and gpu` or `the stack but keep its data`."""
    said = re.sub(r"(?i)(?:,?\s+(?:but|and))?\s+keep(?=\s+(?:its|their)\s+(?:data|volumes)\b)", " keeping", said)
    host = rf"(?:{either(scene.places.hosts) or '(?!)'})(?![\w-]|[.:/=]\w)"
    return re.sub(rf"(?i)(?<![\w-])({host})\s+and\s+(?={host})", r"\1 & ", said)


class _Reader:
    """Reads the orders of one text."""

    def __init__(self, masked: str, quoted: Sequence[str], scene: Scene) -> None:
        self._scene = scene
        self._words = Words(_joined(masked, scene))
        self._words.take(POLITE, "polite")
        self._tools = [one for one in scene.tools.values() if not one.reads and one.toolset != "undo"]
        self._memory = Memory(scene, quoted, selection.take_limits(self._words, scene))
        if selection.is_about_all(self._words, "container"):
            self._memory.included = bool(self._words.take(selection.INCLUDING, "included"))
        self._used: set[str] = set()
        self._found = Orders()
        self._remarks = ""

    def read(self) -> Orders:
        """All orders of the text."""
        if unfinished := re.search(r"(?i)\b(?:and|or|then|but)\W*$", self._words.said):
            raise refused(unfinished[0], "the sentence goes on")
        parts = self._parts()
        for order, following in pairwise(part for part in parts if isinstance(part, Part)):
            order.after = following.text
        for part in parts:
            if isinstance(part, str):
                self._found.steps.append(self._bound(part))
            elif not self._only_leads_in(part):
                self._remember(self._decide(part), part)
        self._share_last_host()
        self._check_limits()
        return self._found

    def _remember(self, order: Order, part: Part) -> None:
        """Keep an order, and what it was about, for `it` and `there`."""
        memory, found = self._memory, self._found
        found.steps.append([Call(order.listing, call) for call in order.calls])
        found.ignored += order.ignored
        found.decided += order.decided
        found.doubts += order.doubts
        self._used |= order.used
        memory.last = [str(call[name]) for call in order.calls for name in order.listing.names if name in call]
        memory.so_far += memory.last
        memory.host = order.host or memory.host
        if not order.listing.names and (name := order.calls[0].get("name")):
            memory.made[noun_of(order.listing)] = str(name)

    def _bound(self, words: str) -> str:
        """A question between orders, with `it` replaced by the last objects, and their host."""
        resolved = normalize.named(words, self._memory.last or list(self._memory.made.values()))
        host = self._memory.host if resolved != words and not hosts_in(words, self._scene) else ""
        return f"{resolved} on {host.replace(',', ' and ')}" if host else resolved

    def _share_last_host(self) -> None:
        """Apply the hosts at the end of the last order to all before it, where their objects are there."""
        steps = [step for step in self._found.steps if isinstance(step, list)]
        earlier = [call for step in steps[:-1] for call in step]
        hosts = {str(call.arguments.get("host", "")) for call in steps[-1]} if steps else set()
        if len(hosts) != 1 or "" in hosts or any("host" in call.arguments for call in earlier):
            return
        [host] = hosts
        for call in earlier:
            names = [(kind, call.arguments[name]) for name, kind in call.listing.names.items()]
            where = [{one.host for one in self._scene.of(kind) if one.name == name} for kind, name in names]
            if all(set(self._scene.select(host)) <= having for having in where):
                call.arguments["host"] = host

    def _check_limits(self) -> None:
        """Check that nothing is both ordered and left out, and that a remark excuses nothing of `everything`.

        Raises:
            NotUnderstood: something is, or a condition is about something else.
        """
        limits, ordered = self._memory.limits, self._memory.so_far
        changes = [call for call in calls_of(self._found.steps) if not call.listing.reads and "host" in call.arguments]
        hosts = {host for call in changes for host in self._scene.select(call.arguments["host"])}
        if twice := [name for name in ordered if name in limits.excepted] or sorted(hosts & set(limits.hosts)):
            raise refused(twice[0], "it is both ordered and left out")
        if unused := [one.words for one in limits.conditions if one.words not in self._used]:
            raise refused(unused[0], remarks.WHY["condition"])
        if self._memory.means_all and (spared := [name for name in ordered if named(self._remarks, name)]):
            raise refused(spared[0], "it is not clear whether you mean it too")
        said = " ".join(self._found.decided)
        if unsaid := [name for name in dict.fromkeys(limits.excepted) if name not in said]:
            self._found.decided.append(f"without {', '.join(unsaid)}")

    def _parts(self) -> list[Part | str]:
        """Split the text into orders and questions to be answered between them."""
        said, left = self._words.said, self._words.left
        parts: list[Part | str] = []
        before = ""
        names = [*self._scene.names(), *self._scene.names("volume"), *self._scene.places.hosts]
        for clause in clauses(left, self._tools):
            words, raw = left[clause.start : clause.end], said[clause.start : clause.end]
            orders = [one for one in parts if isinstance(one, Part)]
            if not words.strip():
                continue
            if clause.verbs:
                parts.append(Part(clause.verbs, words, before))
                before = ""
            elif self._is_remark(words, clause, names):
                before += f" {words}"
                self._remarks += f" {words}"
                self._found.ignored.append(raw.strip(" .!,:;-–"))
            elif clause.asks and LOOK.match(words):
                parts.append(words.strip())
            elif JOINT.fullmatch(words):
                continue
            elif QUESTION.match(words):
                raise refused(words, "a question and an order in one sentence")
            elif self._only_places(words) and not any(hosts_in(one.text, self._scene) for one in orders):
                self._memory.places = self._memory.places or hosts_in(words, self._scene)
            elif orders:
                self._go_on(parts, orders[-1], words, left[clause.start - len(clause.joint) : clause.start])
            else:
                before += f" {words}"
                self._check_lead(words)
        return parts

    def _go_on(self, parts: list[Part | str], order: Part, words: str, joint: str) -> None:
        """Add a clause without a verb to the order before it, or make it an order about another kind of object."""
        noun = next((kind for kind in ("image", "volume", "network") if self._scene.may_name(kind, words)), "")
        tools = [one for one in self._tools if order.verbs & verbs_of(one) and noun_of(one) == noun and one.names]
        apart = hosts_in(words, self._scene) and hosts_in(order.text, self._scene) and self._names_objects(words)
        if joint.strip() != "or" and (apart or (tools and not self._scene.may_name(noun, order.text))):
            parts.append(Part(order.verbs, words, order.text))
        else:
            order.text += f"{joint}{words}"

    def _is_remark(self, words: str, clause: Clause, names: Iterable[str]) -> bool:
        if not self._unread(words) and not re.search(r"(?i)\b(?:is|are|was|were|has|have)\b", words):
            return False  # names and kinds only: it goes on with the order before it
        if "so" in clause.joint.split() and remarks.SUBJECT.match(words):
            return not remarks.turned(words, ("condition", "quotation", "keeping"))
        return remarks.is_remark(words, names)

    def _check_lead(self, words: str) -> None:
        """Check that words before the first order only lead in, like `grafana on nas:`.

        Raises:
            NotUnderstood: they say something that is not understood.
        """
        if rest := self._unread(words):
            raise remarks.turned(words) or refused(" ".join(rest), "it may change what you mean")

    def _unread(self, words: str) -> list[str]:
        """Words that are no host, name, kind or filler."""
        found = Words(words)
        take_hosts(found, self._scene)
        self._take_names(found)
        found.take(IMAGE, "image")
        found.take_words(NO_OBJECTS | {noun for kind in KINDS for noun in kinds_said(kind)}, "filler")
        return [word for word in found.rest if not re.fullmatch(MARK, word)]

    def _only_places(self, words: str) -> bool:
        """Whether a clause names nothing but hosts."""
        found = Words(words)
        return bool(take_hosts(found, self._scene).selector) and not found.without(NO_OBJECTS).rest

    def _names_objects(self, words: str) -> bool:
        return bool(self._take_names(Words(words)))

    def _take_names(self, words: Words) -> list[str]:
        objects = self._scene.objects.items()
        return [name for kind, ones in objects for name in selection.literal_names(words, ones, kind)]

    def _only_leads_in(self, part: Part) -> bool:
        """Whether the words only introduce orders, like `please tidy up:`."""
        tools = [one for one in self._tools if part.verbs & verbs_of(one)]
        choosing = all(any("enum" in one.arguments[name] for name in one.required) for one in tools)
        if not part.after or not choosing:
            return False
        words = Words(part.text)
        frames.take_verbs(words, part.verbs)
        self._memory.host = take_hosts(words, self._scene).selector or self._memory.host
        return not words.without(FILLERS | {"some", "disk", "space", "room"}).rest

    def _decide(self, part: Part) -> Order:
        """One order, read for the tool that fits best.

        Raises:
            NotUnderstood: no tool accounts for all words, or several do.
        """
        read: list[Order] = []
        problems: list[tuple[float, AnvylError]] = []
        for listing in self._tools:
            if not part.verbs & verbs_of(listing):
                continue
            try:
                if order := frames.read_frame(listing, part, self._memory):
                    read.append(order)
            except AnvylError as error:
                said = self._scene.may_name(noun_of(listing), part.text)
                problems.append((isinstance(error, NothingToDo) + said, error))
        read.sort(key=lambda order: (len(order.left), -order.weight))
        whole = [order for order in read if not order.left]
        if not whole and problems:
            raise max(problems, key=lambda problem: problem[0])[1]
        if not whole:
            raise self._not_understood(part, read)
        if len(whole) > 1 and whole[0].weight == whole[1].weight:
            kinds = " or ".join(sorted({noun_of(order.listing) for order in whole[:2]}))
            raise refused(part.text, f"it may be about a {kinds}")
        return whole[0]

    def _not_understood(self, part: Part, read: Sequence[Order]) -> AnvylError:
        if counted := re.search(r"(?i)(?<!\S)(\d+)\s+containers\b", part.text):
            return not_found_error("container", counted[1], ())
        turned = remarks.turned(read[0].unread if read else part.text)
        if turned := turned or remarks.turned(part.text, ("time", "condition")):
            return turned
        if read:
            return refused(" ".join(read[0].left), "every word of an order must be")
        tools = [one for one in self._tools if part.verbs & verbs_of(one)] or self._tools
        hint = phrases.examples(tools, " ".join(part.verbs))
        return NotUnderstood(f"no tool fits: it is not clear what to {sorted(part.verbs)[0]}", hint=hint)


def calls_of(steps: Iterable[list[Call] | str]) -> list[Call]:
    """All calls of the steps."""
    return [call for step in steps if isinstance(step, list) for call in step]
