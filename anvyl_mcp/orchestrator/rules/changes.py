"""Parse free-form commands into tool calls: verbs with the objects they name, in the order given.

`jupyter is not needed any more: stop it, then remove the container` is two commands for one container. Either all
commands are understood or none is made; each needs approval like any other change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from anvyl_mcp.orchestrator.checks import quantifiers, resolve
from anvyl_mcp.orchestrator.checks.guard import Guard
from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.coverage import (
    BUT,
    HARMLESS,
    KEEPING,
    KINDS,
    TURNING,
    WHEN,
    is_remark,
    left_over,
    without_reason,
)
from anvyl_mcp.orchestrator.language.grounding import images_in, named, words_of
from anvyl_mcp.orchestrator.language.intent import clauses, verbs_of, words_after
from anvyl_mcp.orchestrator.language.normalize import mask, only_wonders, unmask
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import FREE_TEXT, MARK, NAME, NO_NAMES, is_name, meaning
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet

CALLED = re.compile(
    rf"(?i)\b(?:called|named|(?:name|call)\s+(?:it|that|this)|by\s+the\s+name(?:\s+of)?)\s+(?:as\s+)?(?P<name>{NAME})"
)
IMAGE_VERBS = frozenset({"run", "pull"})
IT = re.compile(r"(?i)\b(?:it|that|there)\b")
THEM = re.compile(r"(?i)\b(?:them|they|these|those|both|all)\b")
SO = re.compile(r"(?i)(?P<why>.+?)\s(?:so|hence|therefore)\s(?P<what>.+)", re.DOTALL)
"""Introduces a reason or an instruction."""
QUESTIONING = re.compile(
    r"(?i)\W*(?:is|are|was|were|do\s+(?:i|we|you|they|any|the|all)|does|did|has|have|can|could|which|what|who|where|when|how|why)\b"
)
JOINT = re.compile(r"(?i)(?:\W|\b(?:and|then|also|now|so|please)\b)*")
COUNTED = {"2": 2, "3": 3, "4": 4, "5": 5, "both": 2, "two": 2, "three": 3, "four": 4, "five": 5}
ONE_OF = re.compile(r"(?i)\b(?:one|some|any|either)\s+of\b")
"""Does not say which one."""
BESIDES = (
    r"(?i)(?:\band|\bthen|\bafter\s+that|\balso|\bplus|,)\s+(?:(?:then|also|after\s+that)\s+)*"
    r"(?:(?:the|its|their)\s+)?{noun}\b"
)
"""Adds an object of another kind to a command."""
LITERALLY, IN_THESE_WORDS, NEARLY, BEFORE = 3.0, 2.0, 1.0, 0.5
"""Score of a match: by exact name, in these words, by similar name, or from earlier words."""


@dataclass
class Part:
    """Words of one command. `before`: words since the previous command; `after`: words of the next one."""

    verbs: frozenset[str]
    words: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Order:
    """One command read for one tool: its calls and a score."""

    listing: ToolListing
    calls: tuple[Mapping[str, Any], ...]
    weight: float


class Orders:
    """Parses the commands in one text."""

    def __init__(self, guard: Guard, fleet: Fleet, said: str, tools: Iterable[ToolListing]) -> None:
        self._guard = guard
        self._fleet = fleet
        self._tools = [one for one in tools if not one.reads and one.toolset != "undo"]
        masked, self._quoted = mask(said)
        self._said = quantifiers.join_inclusion(masked)
        self._made: dict[str, str] = {}
        """Names that earlier commands create, by kind."""
        self._names_so_far: list[str] = []
        self._last_names: list[str] = []
        self._places = ""
        """Hosts for all commands, if named separately: `on gpu:`, `both on gpu`."""
        self._host = ""
        self._remarks = self._kept = ""

    async def steps(self) -> list[list[Call]]:
        """Calls of all commands, one step each; empty if any word of them is not understood.

        Raises:
            Conflict: a name is ambiguous.
        """
        if TURNING.search(BUT.sub(" ", HARMLESS.sub(" ", self._said))):
            return []
        steps: list[list[Call]] = []
        for part in await self._parts():
            orders = await self._orders(part)
            if not orders and self._only_leads_in(part):
                self._host = self._hosts(part.words) or self._host
                continue
            if not orders or await self._left_over(part, orders):
                return []
            self._last_names = [
                str(call[name]) for order in orders for call in order.calls for name in order.listing.names
            ]
            self._names_so_far += self._last_names
            if any(named(self._kept, name) for name in self._last_names) or named(self._kept, _noun(orders[0].listing)):
                return []
            if self._means_all(orders) and any(named(self._remarks + self._kept, it) for it in self._last_names):
                return []  # `stop everything, jupyter is fine` may leave it out
            context = part.words if any(named(part.words, name) for name in self._last_names) else part.before
            if re.search(r"(?i)\bthere\b", part.words):
                context = part.before
            self._host = self._hosts(part.words) or self._hosts(context) or self._places or self._host
            steps += [[Call(order.listing, self._placed(call)) for call in order.calls] for order in orders]
        return steps if await self._are_there(steps) else []

    async def _parts(self) -> list[Part]:
        """Split the text into commands; empty if other words may change their meaning."""
        said = clauses(self._said, self._tools)
        verbs = {verb for clause in said for verb in clause.verbs}
        listings = [one for one in self._tools if verbs & verbs_of(one)]
        kinds = {kind for one in listings for kind in one.names.values() if self._may_name(one, kind, self._said)}
        names = [one.name for kind in sorted({"container", *kinds}) for one in await self._of(kind)]
        parts, before = list[Part](), ""
        for clause, end in zip(said, [*(one.start for one in said[1:]), len(self._said)], strict=True):
            words = self._said[clause.start : end]
            known = [*names, *images_in(words), *CALLED.findall(words)]
            if only_wonders(words):
                return []
            if clause.verbs and (so := SO.match(words)) and is_remark(so["why"], [*known, *self._fleet.hosts]):
                before, words = before + so["why"], so["what"]
            if clause.verbs:
                parts.append(Part(clause.verbs, without_reason(words, known), before))
                before = ""
            elif is_remark(words, [*known, *self._fleet.hosts]):
                before += words
                self._remarks += words
            elif KEEPING.match(words):
                self._kept += words
            elif QUESTIONING.match(words) or self._not_known(words, parts, known):
                return []
            elif self._only_places(words, parts):
                self._places = self._places or self._hosts(words)
            elif parts and not JOINT.fullmatch(words):
                parts[-1].words += without_reason(words, known)
            elif not parts:
                before += words
        for part, following in pairwise(parts):
            part.after = following.words
        return parts

    def _only_places(self, words: str, parts: Sequence[Part]) -> bool:
        """Whether a clause only names the hosts for all commands."""
        elsewhere = any(self._hosts(part.words) for part in parts)
        return bool(self._hosts(words)) and not elsewhere and not self._not_known(words, parts, ())

    def _not_known(self, words: str, parts: Sequence[Part], names: Iterable[str]) -> list[str]:
        """Words of a clause without a command that are not objects, hosts or options."""
        tools = [one for one in self._tools if any(part.verbs & verbs_of(one) for part in parts)]
        for listing in tools:
            words = self._taken(listing, words)[0]
        words = CALLED.sub(" ", self._guard.without_hosts(words))
        return [word for word in left_over(words, (), names, KINDS) if word not in COUNTED and word != "all"]

    async def _left_over(self, part: Part, orders: Sequence[Order]) -> list[str]:
        """Words of a command that no parser consumed."""
        words, values = part.words, list[str]()
        for order in orders:
            words, options = self._taken(order.listing, words)
            given = [value for call in (*order.calls, options) for name, value in call.items() if name != "host"]
            values += [str(value) for value in given if not isinstance(value, bool)]
        words = re.sub(MARK, lambda mark: " " if unmask(mark[0], self._quoted) in values else mark[0], words)
        words = quantifiers.HOSTS.sub(" ", self._guard.without_hosts(quantifiers.without_inclusion(words)))
        words = CALLED.sub(lambda match: " " if match["name"] in values else match[0], words)
        verbs = {verb for order in orders for verb in part.verbs & verbs_of(order.listing)}
        kinds = {kind for order in orders for kind in (*order.listing.names.values(), *order.listing.required)}
        left = left_over(words, verbs, values, {*kinds, *options, *(_noun(order.listing) for order in orders)})
        calls = [call for order in orders for call in order.calls]
        objects = [one for order in orders for kind in order.listing.names.values() for one in await self._of(kind)]
        used = [one for one in objects if one.name in values]

        def is_said(word: str) -> bool:
            if word in COUNTED:
                spread_over = sum(len(str(call.get("host", "-")).split(",")) for call in calls)
                return COUNTED[word] in {spread_over, *(len(order.calls) for order in orders)}
            if quantifiers.EVERYTHING.fullmatch(word):
                return self._means_all(orders) or len(calls) > 1
            if states := resolve.states_in(word):
                return all(states & resolve.states_of(one) for one in used)
            alike = resolve.best_matches([word], objects) if word not in WHEN else []
            spoken = {stem(said) for value in values for said in stems(value.replace("_", " "))}
            return any(one in used for one in alike) or stem(word) in spoken

        return [word for word in left if not is_said(word)]

    def _may_name(self, listing: ToolListing, kind: str, words: str) -> bool:
        """Whether the words mention the kind; objects other than containers are rarely named without it."""
        joins = len(listing.names) > 1 and meaning(listing.name.partition("_")[0]) in self._guard.wish.verbs
        return bool(stem(kind) in stems(words) or images_in(words) or joins or kind in self._made)

    def _means_all(self, orders: Sequence[Order]) -> bool:
        return any("host" in call for order in orders for call in order.calls)

    async def _of(self, kind: str) -> list[FleetObject]:
        return await self._guard.inventory.objects(kind)

    def _only_leads_in(self, part: Part) -> bool:
        """Whether the words only introduce commands, like `please tidy up:`."""
        tools = [one for one in self._tools if part.verbs & verbs_of(one)]
        choosing = all(any("enum" in one.arguments[name] for name in one.required) for one in tools)
        return (
            bool(part.after)
            and choosing
            and not left_over(self._guard.without_hosts(part.words), part.verbs, ("some", "disk", "space", "room"), ())
        )

    def _hosts(self, words: str) -> str:
        places = self._guard.hosts_named(words)
        return ",".join([place for place in places if place != "all"] or places)

    def _placed(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return {**call, "host": self._host} if self._host and "host" not in call else dict(call)

    async def _orders(self, part: Part) -> list[Order]:
        """Commands in these words; empty if no tool fits or several do."""
        words = part.words
        fitting = [listing for listing in self._tools if part.verbs & verbs_of(listing)]
        orders = [order for listing in fitting if (order := await self._order(listing, part))]
        orders.sort(key=lambda order: -order.weight)
        besides = [order for order in orders if re.search(BESIDES.format(noun=_noun(order.listing)), words)]
        if len(orders) == 2 and len(besides) == 1:
            return sorted(orders, key=lambda order: order in besides)
        if len(orders) > 1 and orders[0].weight == orders[1].weight:
            return []
        for order in orders[:1]:
            if not order.listing.names and (name := order.calls[0].get("name")):
                self._made[_noun(order.listing)] = str(name)
        return orders[:1]

    async def _order(self, listing: ToolListing, part: Part) -> Order | None:
        """Read the command for this tool; None if an argument is missing."""
        words = part.words
        says_noun = stem(_noun(listing)) in stems(words)
        weight = IN_THESE_WORDS * says_noun
        calls: list[dict[str, Any]] = [{}]
        for argument in listing.required:
            if argument in listing.names:
                found, plainly = await self._objects(listing, argument, part)
            else:
                found, plainly = await self._value(listing, argument, part, says_noun=says_noun)
            if not found or (len(found) > 1 and len(listing.names) > 1):
                return None
            weight += plainly
            calls = [{**call, **one} for call in calls for one in found]
        options = self._taken(listing, words)[1]
        return Order(listing, tuple({**options, **call} for call in calls), weight) if calls != [{}] else None

    def _taken(self, listing: ToolListing, words: str) -> tuple[str, dict[str, Any]]:
        """Split off the options of a tool; returns the remaining words and the options."""
        optional = {name: schema for name, schema in listing.arguments.items() if name not in listing.required}
        rest, values = take_options(" ".join(words.split()), optional, self._quoted, listing.names)
        values.pop("host", None)
        if "name" in optional and (name := CALLED.search(words)):
            values["name"] = unmask(name["name"], self._quoted)
        return rest, values

    async def _objects(self, listing: ToolListing, argument: str, part: Part) -> tuple[list[dict[str, Any]], float]:
        """Objects for an argument: all of a kind, or the named ones."""
        kind, words = listing.names[argument], part.words
        context = f"{part.words} {part.before}"
        if kind != "container" and not self._may_name(listing, kind, context):
            return [], 0
        if len(listing.names) == 1 and quantifiers.is_about_all(self._guard.without_hosts(words), kind):
            hosts = self._fleet.select(self._hosts(words) or self._places or "all")
            objects = await self._guard.inventory.objects(kind, hosts)
            known, verbs = self._fleet.hosts, self._guard.wish.verbs
            errors = await self._guard.inventory.errors(kind, hosts)
            found = [] if errors else quantifiers.expand(listing, kind, words, objects, known, verbs, where=hosts)
            if found:
                return _where_they_are(found, argument), IN_THESE_WORDS
        names, plainly = await self._names(listing, kind, part)
        return [{argument: name} for name in names], plainly

    async def _names(self, listing: ToolListing, kind: str, part: Part) -> tuple[list[str], float]:
        """Names of existing objects in a command, or of one that an earlier command creates."""
        made = self._made.get(kind, "")
        if made and (named(part.words, made) or IT.search(part.words)):
            return [made], LITERALLY
        objects = await self._guard.inventory.objects(kind)
        here = _without_images(self._guard.without_hosts(part.words), kind)
        if names := _literal(here, objects):
            if ONE_OF.search(here):
                raise resolve.ambiguity_error(kind, names[0], [one for one in objects if names[0] in one.name])
            return names, LITERALLY
        if names := self._spoken_of(kind, part, objects):
            return names, BEFORE
        if listing.safety == "destroys":
            return [], 0
        left = [word for word in words_of(here) if word not in resolve.NO_OBJECT | NO_NAMES]
        like = sorted({one.name for one in resolve.best_matches(left, objects)})
        return (like, NEARLY) if len(like) == 1 else ([], 0)

    def _spoken_of(self, kind: str, part: Part, objects: Sequence[FleetObject]) -> list[str]:
        """Objects that `it`, `them` or a missing name refer to; empty if ambiguous."""
        before = _literal(_without_images(self._guard.without_hosts(part.before), kind), objects)
        known = {one.name for one in objects}
        several = THEM.search(part.words)
        earlier = [name for name in (self._names_so_far if several else self._last_names) if name in known]
        names = list(dict.fromkeys([*earlier, *before]))
        if not names and not left_over(part.words, part.verbs, (), ()) and not IT.search(part.words):
            names = _literal(_without_images(self._guard.without_hosts(part.after), kind), objects)
        return names if several or len(names) == 1 else []

    async def _value(
        self, listing: ToolListing, argument: str, part: Part, *, says_noun: bool
    ) -> tuple[list[dict[str, Any]], float]:
        """Value that is not an existing object: an image, a new name, a choice, a quoted command."""
        words, choices = part.words, listing.arguments[argument].get("enum", ())
        if argument == "image":
            named_images = images_in(words) or (images_in(part.before) if IT.search(words) else [])
            images = named_images or await self._bare_image(words, says_noun=says_noun)
            plainly = IN_THESE_WORDS if named_images else BEFORE
            return ([{argument: images[0]}], plainly) if len(images) == 1 else ([], 0)
        if choices:
            asked = says_noun or meaning(listing.name.partition("_")[0]) in self._guard.wish.verbs
            said = [one for one in choices if set(stems(one.replace("_", " "))) <= set(stems(words))]
            return ([{argument: said[0]}], NEARLY) if asked and said else ([], 0)
        if argument in FREE_TEXT:
            quoted = re.findall(MARK, words)
            return ([{argument: unmask(quoted[0], self._quoted)}], 0) if len(quoted) == 1 else ([], 0)
        if argument == "name" and says_noun:
            for pattern in (CALLED, re.compile(rf"(?i)\b{_noun(listing)}\s+(?P<name>{NAME})")):
                if (match := pattern.search(words)) and is_name(match["name"]):
                    return [{argument: unmask(match["name"], self._quoted)}], NEARLY
        return [], 0

    async def _bare_image(self, words: str, *, says_noun: bool) -> list[str]:
        """Image without a tag or path, if unambiguous: `run redis`, `a redis container`."""
        verbs = self._guard.wish.verbs & (IMAGE_VERBS | (self._guard.wish.verbs if says_noun else frozenset()))
        images = [word for word in words_after(words, verbs)[:1] if is_name(word)]
        existing = {one.name for one in await self._guard.inventory.objects("container")} if images else set()
        return [] if set(images) & existing else images

    async def _are_there(self, steps: Iterable[Iterable[Call]]) -> bool:
        """Whether all named objects exist on the named hosts or are created by earlier commands."""
        for call in (call for step in steps for call in step):
            host = str(call.arguments.get("host", ""))
            hosts = self._fleet.select(host) if host and host != "all" else ()
            for argument, kind in call.listing.names.items():
                objects, name = await self._guard.inventory.objects(kind), call.arguments[argument]
                having = {one.host for one in objects if one.name == name}
                silent = await self._guard.inventory.errors(kind, hosts)
                if having and not having >= set(hosts) - set(silent) and name != self._made.get(kind):
                    return False
        return True


def _literal(said: str, objects: Sequence[FleetObject]) -> list[str]:
    """Object names in a text, in order; where `old-trainer` matches, `trainer` does not."""
    found, left = list[str](), said
    for name in sorted({one.name for one in objects}, key=len, reverse=True):
        if is_name(name) and name.lower() not in WHEN and named(left, name):
            found.append(name)
            left = re.sub(rf"(?i)(?<![\w-]){re.escape(name)}(?![\w-])", " ", left)
    return sorted(found, key=lambda name: said.lower().find(name.lower()))


def _without_images(said: str, kind: str) -> str:
    """Remove images, and the words that introduce an image name."""
    if kind == "image":
        return said
    for image in images_in(said):
        said = said.replace(image, " ")
    return re.sub(rf"(?i){NAME}\s+images?(?:'s)?\b", " ", said)


def _noun(listing: ToolListing) -> str:
    return listing.name.rpartition("_")[2]


def _where_they_are(found: Sequence[FleetObject], argument: str) -> list[dict[str, Any]]:
    """One call per name, on the hosts where it was found."""
    by_name: dict[str, list[str]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one.host)
    return [{argument: name, "host": ",".join(hosts)} for name, hosts in by_name.items()]
