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
from anvyl_mcp.orchestrator.language.intent import QUESTION, Clause, clauses, verbs_of
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.language.vocabulary import POLITE
from anvyl_mcp.orchestrator.rules.orders import remarks, selection
from anvyl_mcp.orchestrator.rules.orders.frames import Framer
from anvyl_mcp.orchestrator.rules.orders.parts import Frame, Part, noun_of
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.orders.selection import refused
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.fleet.targets import not_found_error

JOINT = re.compile(r"(?i)(?:\W|\b(?:and|then|also|now|so|please|both|them|it|too)\b)*")
LOOK = re.compile(
    r"(?i)^\W*(?:(?:and|then|also|please|after\s+that|finally)\W+)*(?:show|list|display|print|view|tail|give\s+me|get|check|tell\s+me|inspect|describe|logs?|ps|see)\b"
)
"""Beginning of a clause that asks to be shown something, before or after an order."""


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


class _Reader:
    """Reads the orders of one text."""

    def __init__(self, masked: str, quoted: Sequence[str], scene: Scene) -> None:
        self._scene = scene
        self._words = Words(masked)
        self._words.take(POLITE, "polite")
        self._tools = [one for one in scene.tools.values() if not one.reads and one.toolset != "undo"]
        self._limits = selection.take_limits(self._words, scene)
        included = selection.is_about_all(self._words, "container") and bool(
            self._words.take(selection.INCLUDING, "included")
        )
        self._framer = Framer(scene, quoted, self._limits, included=included)
        self._found = Orders()
        self._remarks = ""

    def read(self) -> Orders:
        """All orders of the text."""
        if unfinished := re.search(r"(?i)\b(?:and|or|then|but)\W*$", self._words.said):
            raise refused(unfinished[0], "the sentence goes on")
        parts = self._parts()
        orders = [part for part in parts if isinstance(part, Part)]
        for order, following in pairwise(orders):
            order.after = following.text
        for part in parts:
            if isinstance(part, str):
                self._found.steps.append(self._framer.bound(part))
                continue
            if self._framer.only_leads_in(part):
                continue
            frames = self._decide(part)
            self._found.steps += [[Call(frame.listing, call) for call in frame.calls] for frame in frames]
            for frame in frames:
                self._found.ignored += frame.ignored
                self._framer.remember(frame, part)
        self._share_last_host()
        self._check_limits()
        self._found.decided += self._limits.decided
        self._found.doubts += self._limits.doubts
        return self._found

    def _share_last_host(self) -> None:
        """Apply the hosts at the end of the last order to all before it, where their objects are there."""
        steps = [step for step in self._found.steps if isinstance(step, list)]
        if len(steps) < 2 or any("host" in call.arguments for step in steps[:-1] for call in step):
            return
        hosts = {str(call.arguments.get("host", "")) for call in steps[-1]}
        host = hosts.pop() if len(hosts) == 1 else ""
        for call in (call for step in steps[:-1] for call in step) if host else ():
            names = [(kind, call.arguments[name]) for name, kind in call.listing.names.items()]
            where = [{one.host for one in self._scene.of(kind) if one.name == name} for kind, name in names]
            if all(set(self._scene.select(host)) <= having for having in where):
                call.arguments["host"] = host

    def _check_limits(self) -> None:
        """Check that nothing is both ordered and left out, and that a remark excuses nothing of `everything`."""
        named_in_calls = self._framer.names_ordered
        if twice := [name for name in named_in_calls if name in self._limits.excepted]:
            raise refused(twice[0], "it is both ordered and left out")
        spared = [
            one for one in dict.fromkeys(self._limits.excepted) if not any(one in said for said in self._limits.decided)
        ]
        if spared:
            self._limits.decided.append(f"without {', '.join(spared)}")
        if unused := [one.words for one in self._limits.conditions if one.words not in self._limits.used]:
            raise refused(unused[0], remarks.WHY["condition"])
        for call in calls_of(self._found.steps) if self._limits.hosts else ():
            if call.listing.reads or not call.arguments.get("host"):
                continue
            if both := set(self._scene.select(call.arguments["host"])) & set(self._limits.hosts):
                raise refused(sorted(both)[0], "it is both ordered and left out")
        if self._framer.means_all and (spared := [name for name in named_in_calls if named(self._remarks, name)]):
            raise refused(spared[0], "it is not clear whether you mean it too")

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
            elif QUESTION.match(words) and not JOINT.fullmatch(words):
                raise refused(words, "a question and an order in one sentence")
            elif self._framer.only_places(words) and not any(self._framer.places_in(one.text) for one in orders):
                self._framer.set_places(words)
            elif orders and not JOINT.fullmatch(words):
                self._go_on(parts, orders[-1], words, left[clause.start - len(clause.joint) : clause.start])
            elif not orders and not JOINT.fullmatch(words):
                before += f" {words}"
                self._check_lead(words)
        return parts

    def _go_on(self, parts: list[Part | str], order: Part, words: str, joint: str) -> None:
        """Add a clause without a verb to the order before it, or make it an order about another kind of object."""
        noun = next((kind for kind in ("image", "volume", "network") if self._scene.may_name(kind, words)), "")
        tools = [one for one in self._tools if order.verbs & verbs_of(one) and noun_of(one) == noun]
        kind = tools and tools[0].names and not self._scene.may_name(noun, order.text)
        apart = (
            self._framer.places_in(words) and self._framer.places_in(order.text) and self._framer.names_objects(words)
        )
        if kind or apart:
            parts.append(Part(order.verbs, words, order.text))
        else:
            order.text += f"{joint}{words}"

    def _is_remark(self, words: str, clause: Clause, names: Iterable[str]) -> bool:
        if not self._framer.unread(words) and not re.search(r"(?i)\b(?:is|are|was|were|has|have)\b", words):
            return False  # names and kinds only: it goes on with the order before it
        if "so" in clause.joint.split() and remarks.SUBJECT.match(words):
            return not remarks.turning_word(words, ("condition", "quotation", "keeping"))[0]
        return remarks.is_remark(words, names)

    def _check_lead(self, words: str) -> None:
        """Check that words before the first order only lead in, like `grafana on nas:`.

        Raises:
            NotUnderstood: they say something that is not understood.
        """
        rest = self._framer.unread(words)
        if rest:
            word, reason = remarks.turning_word(words)
            raise refused(word or " ".join(rest), remarks.WHY[reason] if word else "it may change what you mean")

    def _decide(self, part: Part) -> list[Frame]:
        """The frames of one order.

        Raises:
            NotUnderstood: no tool accounts for all words, or several do.
        """
        tools = [one for one in self._tools if part.verbs & verbs_of(one)]
        frames: list[Frame] = []
        problems: list[tuple[float, AnvylError]] = []
        for listing in tools:
            try:
                frame = self._framer.frame(listing, part)
            except AnvylError as error:
                problems.append((isinstance(error, NothingToDo) + self._framer.says_noun(listing, part), error))
                continue
            if frame:
                frames.append(frame)
        frames.sort(key=lambda frame: (len(frame.left), -frame.weight))
        whole = [frame for frame in frames if not frame.left]
        if not whole and problems:
            raise max(problems, key=lambda problem: problem[0])[1]
        if not whole:
            raise self._not_understood(part, frames)
        if len(whole) > 1 and whole[0].weight == whole[1].weight:
            kinds = " or ".join(sorted({noun_of(frame.listing) for frame in whole[:2]}))
            raise refused(part.text, f"it may be about a {kinds}")
        return whole[:1]

    def _not_understood(self, part: Part, frames: Sequence[Frame]) -> AnvylError:
        if counted := re.search(r"(?i)(?<!\S)(\d+)\s+containers\b", part.text):
            return not_found_error("container", counted[1], ())
        left = frames[0].left if frames else []
        text = frames[0].unread if frames else part.text
        word, reason = remarks.turning_word(text)
        if not word:
            word, reason = remarks.turning_word(part.text, ("time", "condition"))
        if word:
            return refused(word, remarks.WHY[reason])
        if left:
            return refused(" ".join(left), "every word of an order must be")
        return NotUnderstood(
            f"no tool fits: it is not clear what to {sorted(part.verbs)[0]}", hint=self._framer.example(part.verbs)
        )


def calls_of(steps: Iterable[list[Call] | str]) -> list[Call]:
    """All calls of the steps."""
    return [call for step in steps if isinstance(step, list) for call in step]
