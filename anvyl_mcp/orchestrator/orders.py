"""Reads orders that are no phrase: what the words tell to be done, with what they name, in their order.

`jupyter is not needed any more: stop it, then remove the container` orders two things of one container. Every order has
to be understood, or none is made; a person is asked before any is done, as before any change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.orchestrator import resolving
from anvyl_mcp.orchestrator.answers import Call
from anvyl_mcp.orchestrator.grounding import images_in, named, words_of
from anvyl_mcp.orchestrator.guard import Guard
from anvyl_mcp.orchestrator.options import take_options
from anvyl_mcp.orchestrator.quantified import of_all, spread
from anvyl_mcp.orchestrator.resolving import Found
from anvyl_mcp.orchestrator.sentences import mask, unmask
from anvyl_mcp.orchestrator.speech import stem, stems
from anvyl_mcp.orchestrator.vocabulary import FREE_TEXT, MARK, NAME, NO_NAMES, RESERVED, is_name, meaning
from anvyl_mcp.orchestrator.wish import Clause, clauses, told_of, verbs_of
from anvyl_mcp.peers.fleet import Fleet
from anvyl_mcp.peers.listing import ToolListing

HARMLESS = re.compile(
    r"\b(?:is|are|am|was)(?:n't|\s+not|\s+no\s+longer)\s+(?:needed|used|in\s+use|required)(?:\s+any\s*more)?"
    r"|\bno\s+longer\s+(?:needed|used|need(?:ed)?\s+it)|\bno\s+\w+\s+(?:needed|required|necessary)"
    r"|\b(?:don'?t|do\s+not)\s+need\s+(?!to\b)(?:(?:the|its|any|this|that)\s+)?\S+(?:\s+any\s*more)?"
    r"|\bbut\s+(?=give\b|with\b|wait\b)",
    re.IGNORECASE,
)
"""Denies something, and turns no order."""
TURNING = re.compile(
    r"(?i)\b(?:not|never|no|cannot|\w+n't|dont|without|except|excluding|unless|until|but|instead|if|only|other\s+than|or)"
    r"(?![\w-])"
)
"""Makes an order mean something else than its words alone."""
CALLED = re.compile(
    rf"(?i)\b(?:called|named|(?:name|call)\s+(?:it|that|this)|by\s+the\s+name(?:\s+of)?)\s+(?:as\s+)?(?P<name>{NAME})"
)
THEN = re.compile(r"also|then|after|afterwards|that|too|finally")
KINDS = frozenset(stem(kind) for kind in ("container", "image", "network", "volume"))
LEAD_IN_WORDS = 3
IMAGE_VERBS = frozenset({"run", "pull"})
IT = re.compile(r"(?i)\b(?:it|that|there)\b")
ONE_OF = re.compile(r"(?i)\b(?:one|some|any|either)\s+of\b")
"""Leaves open which."""
BESIDES = (
    r"(?i)(?:\band|\bthen|\bafter\s+that|\balso|\bplus|,)\s+(?:(?:then|also|after\s+that)\s+)*"
    r"(?:(?:the|its|their)\s+)?{noun}\b"
)
"""How something of another kind is added to an order."""
LITERALLY, IN_THESE_WORDS, NEARLY, BEFORE = 3.0, 2.0, 1.0, 0.5
"""How plainly something is said: by its name, by its kind, by what it is like, elsewhere in what was said."""


@dataclass(frozen=True)
class Order:
    """One order as one tool would do it: its calls, and how plainly it is said."""

    listing: ToolListing
    calls: tuple[Mapping[str, Any], ...]
    weight: float


class Orders:
    """Reads the orders in one text."""

    def __init__(self, guard: Guard, fleet: Fleet, said: str, tools: Iterable[ToolListing]) -> None:
        self._guard = guard
        self._fleet = fleet
        self._tools = [one for one in tools if not one.reads and one.toolset != "undo"]
        self._said, self._quoted = mask(said)
        self._made: dict[str, str] = {}
        """What the orders so far make, by its kind."""
        self._host = ""

    async def steps(self) -> list[list[Call]]:
        """The calls of every order, a step for each; none when one of them is not understood.

        Raises:
            Conflict: it is left open which of several is meant.
        """
        if TURNING.search(HARMLESS.sub(" ", self._said)):
            return []
        said = clauses(self._said, self._tools)
        ordering = [clause for clause in said if clause.verbs]
        if await self._something_else_is_said(said):
            return []
        ends = [*(clause.start for clause in ordering[1:]), len(self._said)]
        steps: list[list[Call]] = []
        for clause, end in zip(ordering, ends, strict=True):
            words = self._said[clause.start : end]
            orders = await self._orders(words, clause.verbs)
            if not orders and self._only_leads_in(words, clause.verbs) and len(ordering) > 1:
                continue
            if not orders:
                return []
            self._host = self._hosts(words) or self._host or self._hosts(self._said)
            steps += [[Call(order.listing, self._placed(call)) for call in order.calls] for order in orders]
        return steps if await self._are_there(steps) else []

    async def _something_else_is_said(self, said: Sequence[Clause]) -> bool:
        """Whether a clause after an order does something unknown with what there is: `and then frobnicate ollama`."""
        objects = await self._guard.inventory.objects("container")
        names = {one.name.lower() for one in objects}
        ordered = False
        for clause, end in zip(said, [*(one.start for one in said[1:]), len(self._said)], strict=True):
            words = CALLED.sub(" ", self._guard.without_places(self._said[clause.start : end]))
            first = [word for word in words_of(words) if not THEN.fullmatch(word)][:1]
            known = not first or first[0] in names or stem(first[0]) in KINDS or first[0] in RESERVED
            if ordered and not clause.verbs and not known and _literal(words, objects):
                return True
            ordered = ordered or bool(clause.verbs)
        return False

    def _only_leads_in(self, words: str, verbs: frozenset[str]) -> bool:
        """Whether words name nothing to be done, like `please tidy up:` before what that is to be."""
        tools = [one for one in self._tools if verbs & verbs_of(one)]
        choosing = all(any("enum" in one.arguments[name] for name in one.required) for one in tools)
        return choosing and len(words_of(words)) <= LEAD_IN_WORDS

    def _hosts(self, words: str) -> str:
        places = self._guard.places(words)
        return ",".join([place for place in places if place != "all"] or places)

    def _placed(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return {**call, "host": self._host} if self._host and "host" not in call else dict(call)

    async def _orders(self, words: str, verbs: frozenset[str]) -> list[Order]:
        """What some words order; nothing when no tool does it, or several may be meant."""
        fitting = [listing for listing in self._tools if verbs & verbs_of(listing)]
        orders = [order for listing in fitting if (order := await self._order(listing, words))]
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

    async def _order(self, listing: ToolListing, words: str) -> Order | None:
        """The order as this tool would do it; None when its words do not say all that the tool needs."""
        says_noun = stem(_noun(listing)) in stems(words)
        weight = IN_THESE_WORDS * says_noun
        calls: list[dict[str, Any]] = [{}]
        for argument in listing.required:
            if argument in listing.names:
                found, plainly = await self._objects(listing, argument, words)
            else:
                found, plainly = await self._value(listing, argument, words, says_noun=says_noun)
            if not found or (len(found) > 1 and len(listing.names) > 1):
                return None
            weight += plainly
            calls = [{**call, **one} for call in calls for one in found]
        options = self._options(listing, words)
        return Order(listing, tuple({**options, **call} for call in calls), weight) if calls != [{}] else None

    def _options(self, listing: ToolListing, words: str) -> dict[str, Any]:
        optional = {name: schema for name, schema in listing.arguments.items() if name not in listing.required}
        _, values = take_options(" ".join(words.split()), optional, self._quoted, listing.names)
        values.pop("host", None)
        if "name" in optional and (name := CALLED.search(words)):
            values["name"] = unmask(name["name"], self._quoted)
        return values

    async def _objects(self, listing: ToolListing, argument: str, words: str) -> tuple[list[dict[str, Any]], float]:
        """What an argument names: all of a kind where they are, or each thing that is named."""
        kind = listing.names[argument]
        if kind != "container" and kind not in self._made and not (stem(kind) in stems(words) or images_in(words)):
            return [], 0
        if len(listing.names) == 1 and of_all(self._guard.without_places(words), kind):
            objects = await self._guard.inventory.objects(kind)
            found = spread(listing, kind, words, objects, self._fleet.hosts, self._guard.wish.verbs)
            if found and not await self._guard.inventory.silent(kind, self._fleet.hosts):
                return _where_they_are(found, argument), IN_THESE_WORDS
        names, plainly = await self._names(listing, kind, words)
        return [{argument: name} for name in names], plainly

    async def _names(self, listing: ToolListing, kind: str, words: str) -> tuple[list[str], float]:
        """The names of existing things that an order is about, or of one that an order before it makes."""
        made = self._made.get(kind, "")
        if made and (named(words, made) or IT.search(words)):
            return [made], LITERALLY
        objects = await self._guard.inventory.objects(kind)
        here = _without_images(self._guard.without_places(words), kind)
        for said, plainly in (
            (here, LITERALLY),
            (_without_images(self._guard.without_places(self._said), kind), BEFORE),
        ):
            if names := _literal(said, objects):
                if ONE_OF.search(said):
                    raise resolving.which(kind, names[0], [one for one in objects if names[0] in one.name])
                return names, plainly
        if listing.safety == "destroys":
            return [], 0
        left = [word for word in words_of(here) if word not in resolving.NO_OBJECT | NO_NAMES]
        like = sorted({one.name for one in resolving.meant(left, objects)})
        return (like, NEARLY) if len(like) == 1 else ([], 0)

    async def _value(
        self, listing: ToolListing, argument: str, words: str, *, says_noun: bool
    ) -> tuple[list[dict[str, Any]], float]:
        """A value that names nothing there is yet: an image, a new name, a choice, a command in quotes."""
        choices = listing.arguments[argument].get("enum", ())
        if argument == "image":
            images = images_in(words) or await self._bare_image(words, says_noun=says_noun)
            plainly = IN_THESE_WORDS if images_in(words) else BEFORE
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
        """An image without a tag or a path, where nothing else can be meant: `run redis`, `a redis container`."""
        verbs = self._guard.wish.verbs & (IMAGE_VERBS | (self._guard.wish.verbs if says_noun else frozenset()))
        told = [word for word in told_of(words, verbs)[:1] if is_name(word)]
        existing = {one.name for one in await self._guard.inventory.objects("container")} if told else set()
        return [] if set(told) & existing else told

    async def _are_there(self, steps: Iterable[Iterable[Call]]) -> bool:
        """Whether what is named exists on the one host that is named, or an order before makes it."""
        for call in (call for step in steps for call in step):
            host = str(call.arguments.get("host", ""))
            for argument, kind in call.listing.names.items():
                objects, name = await self._guard.inventory.objects(kind), call.arguments[argument]
                having = {one.host for one in objects if one.name == name}
                known = {one.host for one in objects} - set(await self._guard.inventory.silent(kind, [host]))
                if host in known and having and host not in having and name != self._made.get(kind):
                    return False
        return True


def _literal(said: str, objects: Sequence[Found]) -> list[str]:
    """The names that stand in a text, in its order; of `trainer` and `old-trainer` only the longer, where it stands."""
    found, left = list[str](), said
    for name in sorted({one.name for one in objects}, key=len, reverse=True):
        if named(left, name):
            found.append(name)
            left = re.sub(rf"(?i)(?<![\w-]){re.escape(name)}(?![\w-])", " ", left)
    return sorted(found, key=lambda name: said.lower().find(name.lower()))


def _without_images(said: str, kind: str) -> str:
    """A text without images, and without what says that a word is the name of one."""
    if kind == "image":
        return said
    for image in images_in(said):
        said = said.replace(image, " ")
    return re.sub(rf"(?i){NAME}\s+images?(?:'s)?\b", " ", said)


def _noun(listing: ToolListing) -> str:
    return listing.name.rpartition("_")[2]


def _where_they_are(found: Sequence[Found], argument: str) -> list[dict[str, Any]]:
    """A call for each name, on the hosts where it was found."""
    by_name: dict[str, list[str]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one.host)
    return [{argument: name, "host": ",".join(hosts)} for name, hosts in by_name.items()]
