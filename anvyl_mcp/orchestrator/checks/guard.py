"""Checks every call of a model before it reaches the fleet.

Arguments that are not in the question are removed, names are resolved to existing objects, changes that the question
does not ask for are denied, and repeated calls are detected.
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
from anvyl_mcp.orchestrator.checks.quantifiers import expand
from anvyl_mcp.orchestrator.checks.resolve import FleetObject, Inventory, places_of
from anvyl_mcp.orchestrator.language.grounding import ground_arguments, ground_host, images_in
from anvyl_mcp.orchestrator.language.intent import read_wish, verbs_of, words_after
from anvyl_mcp.orchestrator.language.lexicon import translated
from anvyl_mcp.orchestrator.language.normalize import mask, unmask
from anvyl_mcp.orchestrator.language.places import EVERY, named, said_hosts
from anvyl_mcp.orchestrator.language.vocabulary import FREE_TEXT, MARK, REFUSING
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
"""Words of a question whose host depends on a comparison of hosts."""


@dataclass(frozen=True)
class PlacedCall:
    """The checked arguments and hosts of a call. `source`: calls that they come from, if not from the question."""

    arguments: dict[str, Any]
    hosts: list[str]
    source: str = ""


class Guard:
    """Checks the calls of one run."""

    ends_run = True
    """Whether a refusal ends the run, so that a small model does not guess on."""

    def __init__(self, fleet: Fleet, run: Run) -> None:
        question = run.question
        self._fleet = fleet
        self._run = run
        self._question = question
        self._said = f"{question.earlier}\n{question.text}".strip()
        self._said_in_english = translated(question.text)[0]
        self._calls_made: set[str] = set()
        self.wish = read_wish(question.text, fleet.catalogue.values())
        self.inventory = Inventory(fleet)
        self.places = places_of(fleet)
        self._expanded: set[tuple[str, str, str]] = set()
        """Tool, object and host of changes expanded from a phrase like `stop all web containers`."""

    async def place(self, listing: ToolListing, given: Mapping[str, Any], selector: str) -> PlacedCall:
        """Check a model's call, and determine its arguments and hosts from the question.

        Raises:
            AnvylError: the call is denied or ambiguous; the message is for both the user and the model.
        """
        self._check_intent(listing)
        arguments = ground_arguments(listing, given, self._said)
        images = images_in(self._question.text)
        if "image" in listing.required and len(images) == 1 and not listing.names:
            arguments["image"] = images[0]  # models often change the tag
        selector = self._selector(listing, selector)
        check(listing, arguments)
        source = ""
        for argument, kind in listing.names.items():
            if wanted := str(arguments.get(argument) or ""):
                arguments[argument], why = await self._resolve(listing, kind, wanted, selector)
                source = source or why
        self._check_named_literally(listing, arguments)
        hosts = await self._select_hosts(listing, arguments, selector)
        return PlacedCall(arguments, hosts, source)

    def is_repeated(self, tool: str, arguments: Mapping[str, Any], hosts: Sequence[str]) -> bool:
        """Record a call, and return whether the same one was recorded before."""
        key = json.dumps([tool, arguments, list(hosts)], sort_keys=True, default=str)
        repeated = key in self._calls_made
        self._calls_made.add(key)
        return repeated

    def allows(self, listing: ToolListing) -> bool:
        """Whether the question may ask for this tool."""
        if listing.reads:
            return True
        if self.wish.verbs:
            return bool(self.wish.verbs & verbs_of(listing))
        return self.wish.intent != "read" and listing.safety != "destroys"

    def doubts(self, listing: ToolListing) -> tuple[str, ...]:
        """Nothing: what the words do not ask for is refused."""
        return ()

    @property
    def needs_reads(self) -> bool:
        """Whether a change may depend on the result of a read."""
        return self.wish.intent != "change" or self.wish.asks or bool(COMPARES.search(self._said))

    async def names_an_object(self, tools: Sequence[ToolListing]) -> bool:
        """Whether the question names, literally, an object that one of these tools acts on."""
        kinds = {kind for listing in tools for kind in listing.names.values()}
        objects = [one for kind in sorted(kinds) for one in await self.inventory.objects(kind)]
        return any(named(self._said, one.name) for one in objects)

    async def names(self, kind: str) -> list[str]:
        """Names that a call may use for an object of a kind: the candidates, or all if there are none."""
        objects = await self.inventory.objects(kind)
        return sorted({one.name for one in await self.candidates(kind) or objects})

    async def candidates(self, kind: str) -> list[FleetObject]:
        """The objects of a kind that the question may refer to."""
        return resolve.candidates(self._said, await self.inventory.objects(kind), self._fleet.hosts)

    def hosts_named(self, said: str = "") -> list[str]:
        """Hosts, tags and `all` that a text names; of the whole question by default."""
        return self.places.hosts_named(said or self._said)

    @property
    def said(self) -> str:
        """The text of the question, followed by its translation if it is in another language."""
        english = self._said_in_english
        return self._question.text if english == self._question.text else f"{self._question.text}\n{english}"

    def hosts_said(self) -> set[str]:
        """The hosts that the question names, each or by a tag."""
        places = [place for place in self.hosts_named(self._question.text) if place != "all"]
        return {host for place in places for host in self._fleet.select(place)}

    async def are_all_said(self, listing: ToolListing, arguments: Mapping[str, Any], hosts: Sequence[str]) -> bool:
        """Whether hosts are those that the question means by words like `both` or `everywhere but on nas`."""
        said = self._said_in_english
        if not EVERY.search(said):
            return False
        places = [place for place in self.places.hosts_named(said) if place != "all"]
        words = said.replace("-", " ")
        if not places and any(named(words, tag) and self._is_tag_of(tag, hosts) for tag in self.places.tags):
            return True
        left = set(await self._hosts_with_objects(listing, arguments))
        for place in places:
            left = left - set(self._fleet.select(place)) if REFUSING.search(said) else set()
        return set(hosts) == left

    def _is_tag_of(self, tag: str, hosts: Sequence[str]) -> bool:
        return set(self._fleet.select(f"@{tag}")) == set(hosts)

    def without_hosts(self, said: str) -> str:
        """The text without the hosts and tags in it."""
        return self.places.without(said)

    async def expand(self, listing: ToolListing, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Arguments of the calls that a call stands for if the question is about all of a kind; else empty."""
        if listing.reads or len(listing.names) != 1 or (self.wish.verbs and not self.wish.verbs & verbs_of(listing)):
            return []
        [(argument, kind)] = listing.names.items()
        selector = self._selector(listing, str(given.get("host") or ""))
        hosts = self._fleet.select(selector) if selector else self._fleet.hosts
        objects = await self.inventory.objects(kind, hosts)
        if await self.inventory.errors(kind, hosts):
            return []
        said, verbs = self._question.text, self.wish.verbs
        try:
            affected = expand(listing, kind, said, objects, self._fleet.hosts, verbs, where=hosts)
        except NothingToDo:
            if self.wish.intent == "change":
                raise
            return []
        self._expanded |= {(listing.name, one.name, one.host) for one in affected}
        rest = {name: value for name, value in given.items() if name not in (argument, "host")}
        return [{argument: name, **rest} for name in dict.fromkeys(one.name for one in affected)]

    def is_expanded(self, listing: ToolListing, arguments: Mapping[str, Any]) -> bool:
        """Whether a change was expanded from a phrase of the question about all of a kind."""
        return any(self._is_expanded(listing, str(arguments.get(argument))) for argument in listing.names)

    def _check_intent(self, listing: ToolListing) -> None:
        """Check that the question asks for a change of this kind, unless the tool only reads.

        Raises:
            Denied: it does not.
        """
        if listing.reads or self._quotes_command(listing):
            return
        tried = f"the model tried to {in_words(listing)}"
        if self.wish.intent == "read" or (self.wish.intent == "unclear" and self._run.untrusted):
            raise Denied(f"{tried}, but the question asks for no change; blocked", hint="ask for the change directly")
        verbs = self.wish.verbs
        if verbs and not verbs & verbs_of(listing):
            raise Denied(f"{tried}, but you asked to {text.join_names(sorted(verbs))}; blocked")
        if listing.safety == "destroys" and not verbs:
            raise Denied(f"{tried}, which you did not ask for; blocked")

    def _quotes_command(self, listing: ToolListing) -> bool:
        """Whether the question contains a quoted command for this tool, which is always literal."""
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
            said = [host for host in hosts if named(self._question.text, host)]  # the tool needs one
        if said and clear and (listing.reads or len(said) == 1):
            return ",".join(said)
        return self._question.host or self._question.home

    async def _resolve(self, listing: ToolListing, kind: str, wanted: str, selector: str) -> tuple[str, str]:
        """The name of the object that the question refers to, and the source of a change's name if it is not in it."""
        hosts = self._fleet.select(selector) if selector else self._fleet.hosts
        objects = await self.inventory.objects(kind, hosts)
        exact = [one for one in objects if resolve.has_name(one, wanted)]
        if exact and (listing.reads or named(self._said, wanted) or self._is_expanded(listing, wanted)):
            return wanted, ""
        candidates = resolve.candidates(self._said, objects, self._fleet.hosts)
        matching = exact or resolve.best_matches([wanted.lower(), *re.split(r"[\s/]+", wanted.lower())], objects)
        if not matching and not candidates:
            errors, known = await self.inventory.errors(kind, hosts), self._fleet.hosts
            raise resolve.no_match_error(kind, wanted, objects, errors, hosts=known, tool=listing.name)
        both = [one for one in matching if one in candidates]
        chosen = _narrow_by_state(both or matching or candidates, self._said)
        if len({one.name for one in chosen}) > 1:
            raise resolve.ambiguity_error(kind, wanted, chosen)
        if listing.reads:
            return chosen[0].name, ""
        return chosen[0].name, self._source_of(kind, chosen[0], candidates, objects)

    def _source_of(
        self, kind: str, one: FleetObject, candidates: Sequence[FleetObject], objects: Sequence[FleetObject]
    ) -> str:
        """The calls whose results the model took an object from; empty if the question refers to it.

        Raises:
            Conflict: the question also, or only, refers to other objects.
        """
        if one in candidates:
            rivals = _narrow_by_state(candidates, self._said)
            if {rival.name for rival in rivals} - {one.name} and not named(self._said, one.name):
                raise resolve.ambiguity_error(kind, one.name, rivals)
            return ""
        if candidates:
            others = text.join_names(sorted({other.name for other in candidates}))
            raise Conflict(f"the question is about {others}, not `{one.name}`", hint=resolve.USE_FULL_NAME)
        if {other.name for other in _in_state(objects, self._said)} == {one.name}:
            return ""
        for unknown in words_after(self._question.text, self.wish.verbs):
            if not named(" ".join(self._fleet.hosts), unknown) and not resolve.best_matches([unknown], objects):
                raise resolve.no_match_error(kind, unknown, objects, {})
        calls = dict.fromkeys(f"{call.tool} on {call.host}" for call in self._run.calls)
        return ", ".join(calls) or f"the list of {kind}s"

    def _is_expanded(self, listing: ToolListing, name: str) -> bool:
        return any(tool == listing.name and one == name for tool, one, _ in self._expanded)

    def _check_named_literally(self, listing: ToolListing, arguments: Mapping[str, Any]) -> None:
        """Check that the question contains the objects and commands of a destructive call literally.

        Raises:
            Denied: one is missing.
        """
        if listing.safety != "destroys":
            return
        for argument in (*listing.names, *(FREE_TEXT & arguments.keys())):
            value = str(arguments.get(argument) or "")
            if not value or self._is_expanded(listing, value):
                continue
            parts = value.split() if argument in FREE_TEXT else [value]
            if not all(self._is_literal(part) for part in parts):
                raise Denied(
                    f"you did not name `{value}`, and `{listing.name}` needs literal names; blocked",
                    hint=resolve.USE_FULL_NAME,
                )

    def _is_literal(self, part: str) -> bool:
        """Whether the question contains a word literally, in quotes or not."""
        masked, quoted = mask(self._said)
        plain = " ".join([masked, *(unmask(chr(0xE000 + index), quoted) for index in range(len(quoted)))])
        return named(self._said, part) or part.strip("'\"`").lower() in plain.lower()

    async def _select_hosts(self, listing: ToolListing, arguments: Mapping[str, Any], selector: str) -> list[str]:
        names = {str(arguments[argument]) for argument in listing.names if arguments.get(argument)}
        expanded = [host for tool, name, host in sorted(self._expanded) if tool == listing.name and name in names]
        if expanded and not selector:
            return list(dict.fromkeys(expanded))
        try:
            hosts = await resolve_targets(self._fleet, listing, arguments, selector, lister=self.inventory.outcomes)
        except Conflict:
            if not EVERY.search(self._question.text):
                raise
            hosts = await self._hosts_with_objects(listing, arguments)
        if self._question.host and (outside := set(hosts) - set(self._fleet.select(self._question.host))):
            raise Denied(f"this question is about {self._question.host} only, not {', '.join(sorted(outside))}")
        return hosts

    async def _hosts_with_objects(self, listing: ToolListing, arguments: Mapping[str, Any]) -> list[str]:
        """The hosts that have all objects that a call names."""
        hosts = list(self._fleet.hosts)
        for argument, kind in listing.names.items():
            wanted = str(arguments.get(argument) or "")
            having = {one.host for one in await self.inventory.objects(kind) if resolve.has_name(one, wanted)}
            hosts = [host for host in hosts if host in having]
        return hosts


def in_words(listing: ToolListing) -> str:
    """`remove a container` for `remove_container`."""
    words = listing.name.replace("_", " ")
    return re.sub(r"\b(container|network|volume|command)\b", r"a \1", words.replace("image", "an image"))


def _in_state(objects: Sequence[FleetObject], said: str) -> list[FleetObject]:
    wanted = resolve.states_in(said)
    return [one for one in objects if wanted & resolve.states_of(one)]


def _narrow_by_state(objects: Sequence[FleetObject], said: str) -> list[FleetObject]:
    """Of several objects, those in a state that the text mentions, if there are any."""
    several = len({one.name for one in objects}) > 1
    return (several and _in_state(objects, said)) or list(objects)
