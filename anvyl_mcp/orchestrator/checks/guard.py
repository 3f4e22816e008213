"""What stands between a model and the fleet, without a model in it: ground, resolve, gate, repeat.

Whatever a model asks for passes here first. What nobody said is taken out, what a person means is looked up, what a
question does not ask for is not done, and a call made once is not made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict, Denied, NothingToDo
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.quantifiers import spread
from anvyl_mcp.orchestrator.checks.resolve import Found, Inventory
from anvyl_mcp.orchestrator.language.grounding import (
    EVERY,
    HERE,
    ground_arguments,
    ground_host,
    images_in,
    named,
    said_hosts,
    spoken_tags,
    without_places,
)
from anvyl_mcp.orchestrator.language.intent import read_wish, told_of, verbs_of
from anvyl_mcp.orchestrator.language.normalize import mask, unmask
from anvyl_mcp.orchestrator.language.vocabulary import HOST, MARK, REFUSING, is_name
from anvyl_mcp.orchestrator.run import Run
from anvyl_mcp.peers.changes.argument_check import check
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.targets import resolve_targets

COMPARES = re.compile(
    r"\b(?:most|least|more|less|free|freest|largest|smallest|biggest|best|busiest|idle|room|whichever|where|which|lowest"
    r"|highest|fewest|emptiest|oldest|newest)\b",
    re.IGNORECASE,
)
"""Words of a question whose host is found by looking."""
FREE_TEXT = frozenset({"command"})
PLACES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"^\W*on\s+(?:the\s+)?(?:{HOST}\s+)?(?!again\b)(?P<place>[a-z][\w-]*)",
        rf"\bon\s+(?:the\s+)?(?:{HOST}\s+)?(?!again\b)(?P<place>[a-z][\w-]*)"
        r"(?=\s*(?:$|[,.;:!?]|(?:and|then|please|again|now|too)\b))",
    )
)
"""Where in a sentence only a host can stand: what it begins with, and what a clause ends with."""
SAY_IT_AGAIN = "say it again with the full name"


@dataclass(frozen=True)
class Placed:
    """A call as it may be made: its arguments, its hosts, and what it was taken from when not from the person."""

    arguments: dict[str, Any]
    hosts: list[str]
    source: str = ""


class Guard:
    """The checks for one run."""

    def __init__(self, fleet: Fleet, run: Run) -> None:
        question = run.question
        self._fleet = fleet
        self._run = run
        self._question = question
        self._said = f"{question.earlier}\n{question.text}".strip()
        self._made: set[str] = set()
        self.wish = read_wish(question.text, fleet.catalogue.values())
        self.inventory = Inventory(fleet)
        self.meant: set[tuple[str, str, str]] = set()
        """Tool, object and host of changes that the person's words name together: `stop all web containers`."""

    async def place(self, listing: ToolListing, given: Mapping[str, Any], selector: str) -> Placed:
        """A model's call made the person's: grounded, resolved, allowed, and with its hosts.

        Raises:
            AnvylError: it is not to be made; the message is for the person and the model.
        """
        self._gate(listing)
        arguments = ground_arguments(listing, given, self._said)
        images = images_in(self._question.text)
        if "image" in listing.required and len(images) == 1 and not listing.names:
            arguments["image"] = images[0]  # models like to write another tag
        selector = self._selector(listing, selector)
        check(listing, arguments)
        source = ""
        for argument, kind in listing.names.items():
            if wanted := str(arguments.get(argument) or ""):
                arguments[argument], why = await self._resolve(listing, kind, wanted, selector)
                source = source or why
        self._gate_literally(listing, arguments, selector)
        hosts = await self._hosts(listing, arguments, selector)
        return Placed(arguments, hosts, source)

    def again(self, tool: str, arguments: Mapping[str, Any], hosts: Sequence[str]) -> bool:
        """Whether this very call was made before; it counts as made from now on."""
        key = json.dumps([tool, arguments, list(hosts)], sort_keys=True, default=str)
        known = key in self._made
        self._made.add(key)
        return known

    def allows(self, listing: ToolListing) -> bool:
        """Whether the words of the question leave room for a tool at all."""
        if listing.reads:
            return True
        if self.wish.verbs:
            return bool(self.wish.verbs & verbs_of(listing))
        return self.wish.intent != "read" and listing.safety != "destroys"

    @property
    def needs_to_look(self) -> bool:
        """Whether a change may depend on something that has to be read first."""
        return self.wish.intent != "change" or self.wish.asks or bool(COMPARES.search(self._said))

    async def names_an_object(self, tools: Sequence[ToolListing]) -> bool:
        """Whether the words name, letter by letter, something that one of these tools acts on."""
        kinds = {kind for listing in tools for kind in listing.names.values()}
        objects = [one for kind in sorted(kinds) for one in await self.inventory.objects(kind)]
        return any(named(self._said, one.name) for one in objects)

    async def names(self, kind: str) -> list[str]:
        """The names that a call may give for an object of a kind: those the words may mean, or all there are."""
        objects = await self.inventory.objects(kind)
        return sorted({one.name for one in await self.meant_by(kind) or objects})

    async def meant_by(self, kind: str) -> list[Found]:
        """The objects of a kind that the words may mean."""
        return resolve.candidates(self._said, await self.inventory.objects(kind), self._fleet.hosts)

    def places(self, said: str = "") -> list[str]:
        """The hosts, tags and `all` that the words, or some of them, name; empty when they name none."""
        said, hosts = said or self._said, self._fleet.hosts
        named_hosts = said_hosts(said, hosts) or [host for host in hosts if named(said, host)]
        tags = spoken_tags(said, self._tags())
        here = [self._fleet.local.name] if HERE.search(said) else []
        every = ["all"] if EVERY.search(said) else []
        return list(dict.fromkeys([*named_hosts, *tags, *here, *every]))

    async def unknown_host(self, said: str) -> str:
        """What stands where a host does, like `on web3`, and is neither one nor anything else there is."""
        known = {*map(str.lower, self._fleet.hosts), *self._tags()}
        said_places = {match["place"].lower() for pattern in PLACES for match in pattern.finditer(said)}
        places = [word for word in said_places if is_name(word) and word not in known]
        if not places:
            return ""
        objects = [one for kind in ("container", "image", "network") for one in await self.inventory.objects(kind)]
        return next((place for place in places if not resolve.meant([place], objects)), "")

    def without_places(self, said: str) -> str:
        """A text without the hosts and tags that it speaks of."""
        return without_places(said, self._fleet.hosts, self._tags())

    def _tags(self) -> set[str]:
        return {tag for peer in self._fleet.peers.values() for tag in peer.tags} - set(self._fleet.hosts)

    async def spread(self, listing: ToolListing, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The calls that one call of a change to all of a kind stands for; empty when it stands for itself."""
        if listing.reads or len(listing.names) != 1 or (self.wish.verbs and not self.wish.verbs & verbs_of(listing)):
            return []
        [(argument, kind)] = listing.names.items()
        selector = self._selector(listing, str(given.get("host") or ""))
        hosts = self._fleet.select(selector) if selector else self._fleet.hosts
        objects = await self.inventory.objects(kind, hosts)
        if await self.inventory.silent(kind, hosts):
            return []
        said, verbs = self._question.text, self.wish.verbs
        try:
            found = spread(listing, kind, said, objects, self._fleet.hosts, verbs, where=hosts)
        except NothingToDo:
            if self.wish.intent == "change":
                raise
            return []
        self.meant |= {(listing.name, one.name, one.host) for one in found}
        rest = {name: value for name, value in given.items() if name not in (argument, "host")}
        return [{argument: name, **rest} for name in dict.fromkeys(one.name for one in found)]

    def planned(self, listing: ToolListing, arguments: Mapping[str, Any]) -> bool:
        """Whether a change is one of those that the person's words name together."""
        return any(self._is_meant(listing, str(arguments.get(argument))) for argument in listing.names)

    def _gate(self, listing: ToolListing) -> None:
        """A question that looks executes only tools that look; a change must be of the kind asked for."""
        if listing.reads or self._quotes_command(listing):
            return
        what = listing.name.replace("_", " ")
        if self.wish.intent == "read" or (self.wish.intent == "unclear" and self._run.untrusted):
            raise Denied(
                f"the question only asks to look, so `{what}` was not done", hint="say it as an order to do it"
            )
        asked = self.wish.verbs
        if (asked and not asked & verbs_of(listing)) or (listing.safety == "destroys" and not asked):
            wish = text.join_names(sorted(asked)) or "no such thing"
            raise Denied(
                f"the question asks to {wish}, so `{what}` was not done" if asked else f"nobody asked to {what}"
            )

    def _quotes_command(self, listing: ToolListing) -> bool:
        """A command in quotes is named literally, whatever kind of sentence it stands in."""
        return bool(FREE_TEXT & listing.arguments.keys()) and bool(re.search(MARK, mask(self._question.text)[0]))

    def _selector(self, listing: ToolListing, selector: str) -> str:
        hosts, local = self._fleet.hosts, self._fleet.local.name
        grounded = ground_host(selector, self._said, hosts, local)
        if grounded:
            return grounded
        if selector and not listing.reads and self._run.calls and COMPARES.search(self._said):
            return selector
        said = said_hosts(self._question.text, hosts)
        clear = not self._question.host and not REFUSING.search(self._question.text)
        if not said and not listing.reads and not listing.names:
            said = [host for host in hosts if named(self._question.text, host)]  # it needs one, however it was put
        if said and clear and (listing.reads or len(said) == 1):
            return ",".join(said)
        return self._question.host or self._question.home

    async def _resolve(self, listing: ToolListing, kind: str, wanted: str, selector: str) -> tuple[str, str]:
        """The name of the object that is meant, and where a change took it from if the person did not say it."""
        hosts = self._fleet.select(selector) if selector else self._fleet.hosts
        objects = await self.inventory.objects(kind, hosts)
        exact = [one for one in objects if resolve.is_called(one, wanted)]
        if exact and (listing.reads or named(self._said, wanted) or self._is_meant(listing, wanted)):
            return wanted, ""
        maybe = resolve.candidates(self._said, objects, self._fleet.hosts)
        fitting = exact or resolve.meant([wanted.lower(), *re.split(r"[\s/]+", wanted.lower())], objects)
        if not fitting and not maybe:
            silent, known = await self.inventory.silent(kind, hosts), self._fleet.hosts
            raise resolve.nothing(kind, wanted, objects, silent, hosts=known, tool=listing.name)
        both = _narrowed([one for one in fitting if one in maybe] or fitting or maybe, self._said)
        if len({one.name for one in both}) > 1:
            raise resolve.which(kind, wanted, both)
        if listing.reads:
            return both[0].name, ""
        return both[0].name, self._tie(kind, both[0], maybe, objects)

    def _tie(self, kind: str, one: Found, maybe: Sequence[Found], objects: Sequence[Found]) -> str:
        """Why the person's words mean this object and no other; else what the model took it from.

        Raises:
            Conflict: the words mean something else as well, or instead.
        """
        if one in maybe:
            rivals = _narrowed(maybe, self._said)
            if {rival.name for rival in rivals} - {one.name} and not named(self._said, one.name):
                raise resolve.which(kind, one.name, rivals)
            return ""
        if maybe:
            others = text.join_names(sorted({other.name for other in maybe}))
            raise Conflict(
                f"the question speaks of {others}, not of `{one.name}`",
                hint=SAY_IT_AGAIN,
            )
        if {other.name for other in _in_state(objects, self._said)} == {one.name}:
            return ""
        for unknown in told_of(self._question.text, self.wish.verbs):
            if not named(" ".join(self._fleet.hosts), unknown) and not resolve.meant([unknown], objects):
                raise resolve.nothing(kind, unknown, objects, {})
        calls = dict.fromkeys(f"{call.tool} on {call.host}" for call in self._run.calls)
        return ", ".join(calls) or "the list of what there is"

    def _is_meant(self, listing: ToolListing, name: str) -> bool:
        return any(tool == listing.name and one == name for tool, one, _ in self.meant)

    def _gate_literally(self, listing: ToolListing, arguments: Mapping[str, Any], selector: str) -> None:
        """Removal and commands act only on what the person named."""
        if listing.safety != "destroys":
            return
        for argument in (*listing.names, *(FREE_TEXT & arguments.keys())):
            value = str(arguments.get(argument) or "")
            if not value or self._is_meant(listing, value):
                continue
            parts = value.split() if argument in FREE_TEXT else [value]
            if not all(self._wrote(part) for part in parts):
                what = f"you did not name `{value}`, and `{listing.name}` acts only on what is named"
                raise Denied(what, hint=SAY_IT_AGAIN)

    def _wrote(self, part: str) -> bool:
        masked, quoted = mask(self._said)
        plain = " ".join([masked, *(unmask(chr(0xE000 + index), quoted) for index in range(len(quoted)))])
        return named(self._said, part) or part.strip("'\"`").lower() in plain.lower()

    async def _hosts(self, listing: ToolListing, arguments: Mapping[str, Any], selector: str) -> list[str]:
        names = {str(arguments[argument]) for argument in listing.names if arguments.get(argument)}
        planned = [host for tool, name, host in sorted(self.meant) if tool == listing.name and name in names]
        if planned and not selector:
            return list(dict.fromkeys(planned))
        try:
            hosts = await resolve_targets(self._fleet, listing, arguments, selector, look=self.inventory.outcomes)
        except Conflict:
            if not EVERY.search(self._question.text):
                raise
            hosts = await self._having(listing, arguments)
        if self._question.host and (outside := set(hosts) - set(self._fleet.select(self._question.host))):
            raise Denied(f"this question is about {self._question.host} only, not {', '.join(sorted(outside))}")
        return hosts

    async def _having(self, listing: ToolListing, arguments: Mapping[str, Any]) -> list[str]:
        """Every host that has the objects a call names."""
        having = list(self._fleet.hosts)
        for argument, kind in listing.names.items():
            wanted = str(arguments.get(argument) or "")
            with_it = {one.host for one in await self.inventory.objects(kind) if resolve.is_called(one, wanted)}
            having = [host for host in having if host in with_it]
        return having


def _in_state(objects: Sequence[Found], said: str) -> list[Found]:
    wanted = resolve.states_said(said)
    return [one for one in objects if wanted & set(resolve.state_of(one))]


def _narrowed(objects: Sequence[Found], said: str) -> list[Found]:
    """Of several objects those in a state that the text speaks of, if any are."""
    several = len({one.name for one in objects}) > 1
    return (several and _in_state(objects, said)) or list(objects)
