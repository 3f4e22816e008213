"""Finds the existing objects that a question refers to: by name, then image, then part of the name, then spelling.

The words of the question decide, not the model's choice: if several objects match, the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict
from anvyl_mcp.orchestrator.language.grounding import near, words_of
from anvyl_mcp.orchestrator.language.lexicon import words_of_language
from anvyl_mcp.orchestrator.language.places import Places, named
from anvyl_mcp.orchestrator.language.vocabulary import NO_NAMES, STANDS_FOR, STATES, meaning
from anvyl_mcp.peers.changes.change_plan import offered_tools
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import LOOKUPS, list_objects, matches_id, not_found_error

ROLES: dict[str, str] = words_of_language("en")["roles"]
"""Roles that people use as names, with the images that have them."""
NO_OBJECT = NO_NAMES | STANDS_FOR.keys() | STATES.keys()
USE_FULL_NAME = "repeat the question with the full name"

PARTICLE = re.compile(
    r"(\bback\s+)(?:up|online)\b"
    r"|(\b(?:come|bring|get|put|spin|fire|start|boot|take|shut|power|turn|switch)(?:\s+\S+){0,5}?\s+)(?:up|down|online)\b"
)
"""`up` in `bring it up` is not a state."""


@dataclass(frozen=True)
class FleetObject:
    """One object on one host."""

    host: str
    name: str
    row: Mapping[str, Any]


class Inventory:
    """Cache of the objects and tools on each host, for one question; cleared after a change."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._outcomes: dict[str, dict[str, Outcome]] = {}
        self._offered: dict[str, frozenset[str] | AnvylError] = {}
        self._lock = anyio.Lock()

    async def outcomes(self, kind: str, hosts: Sequence[str] | None = None) -> dict[str, Outcome]:
        """Listings of one kind of object by host; of all hosts by default."""
        hosts = self._fleet.hosts if hosts is None else hosts
        async with self._lock:
            cached = self._outcomes.setdefault(kind, {})
            if unknown := [host for host in hosts if host not in cached]:
                cached |= await list_objects(self._fleet, kind, unknown)
        return {host: cached[host] for host in hosts}

    async def offered(self, hosts: Sequence[str]) -> dict[str, frozenset[str] | AnvylError]:
        """Names of the tools that each host offers us, or the error of the host."""
        async with self._lock:
            if unknown := [host for host in hosts if host not in self._offered]:
                self._offered |= await offered_tools(self._fleet, unknown)
        return {host: self._offered[host] for host in hosts}

    async def objects(self, kind: str, hosts: Sequence[str] = ()) -> list[FleetObject]:
        """Objects of one kind; on all hosts by default."""
        outcomes = await self.outcomes(kind)
        return list(_objects(kind, {host: outcomes[host] for host in (hosts or outcomes) if host in outcomes}))

    async def errors(self, kind: str, hosts: Sequence[str]) -> dict[str, AnvylError]:
        """Errors of the hosts that could not list their objects."""
        outcomes = await self.outcomes(kind)
        return {host: error for host in hosts if host in outcomes and (error := outcomes[host].error) is not None}

    async def labelled(self, label: str) -> list[FleetObject]:
        """Containers with a label, on all hosts."""
        lookup = LOOKUPS["container"]
        arguments = {**lookup.arguments, "label": label}
        return list(_objects("container", await self._fleet.call_many(self._fleet.hosts, lookup.tool, arguments)))

    def kinds(self) -> frozenset[str]:
        """Kinds of objects that can be listed."""
        return frozenset(kind for kind, lookup in LOOKUPS.items() if lookup.tool in self._fleet.catalogue)

    def forget(self) -> None:
        """Drop cached objects after a change."""
        self._outcomes = {}


def _objects(kind: str, outcomes: Mapping[str, Outcome]) -> Iterator[FleetObject]:
    lookup = LOOKUPS[kind]
    for host, outcome in outcomes.items():
        for row in (outcome.answer.result or {}).get(lookup.rows, []):
            value = row[lookup.field]
            for name in value if isinstance(value, list) else [value]:
                yield FleetObject(host, name, row)


def states_of(one: FleetObject) -> set[str]:
    """State and health of an object."""
    return {str(one.row.get(field) or "").lower() for field in ("state", "health")}


def has_name(one: FleetObject, wanted: str) -> bool:
    """Whether `wanted` is the object's name, or a prefix of its id that the engine accepts."""
    return one.name in (wanted, f"{wanted}:latest") or matches_id(one.row, wanted)


def repository(image: str) -> str:
    """`ghcr.io/team/nginx:1.27` → `team/nginx`."""
    path = image.partition("@")[0].lower().split("/")
    return "/".join([part.partition(":")[0] for part in path if "." not in part or part is path[-1]])


def basename(image: str) -> str:
    """`ghcr.io/team/nginx:1.27` → `nginx`."""
    return repository(image).rpartition("/")[2]


def _image(one: FleetObject) -> str:
    return str(one.row.get("image") or "")


def best_matches(words: Iterable[str], objects: Sequence[FleetObject]) -> list[FleetObject]:
    """Objects that match any of the words, by the first way that matches: name, image or part, role, spelling."""
    wanted = [word for word in words if word]
    for matches in (_by_name, _by_image_or_part, _by_role, _by_spelling):
        if matching := [one for one in objects if any(matches(word, one) for word in wanted)]:
            return matching
    return []


def only_by_spelling(word: str, objects: Sequence[FleetObject]) -> bool:
    """Whether a word is like a name only in its spelling: a typo, or something else."""
    return not any(matches(word, one) for one in objects for matches in (_by_name, _by_image_or_part, _by_role))


def _by_name(word: str, one: FleetObject) -> bool:
    return named(word, one.name) or (named(one.name, word) and len(word) == len(one.name))


def _by_image_or_part(word: str, one: FleetObject) -> bool:
    if len(word) < 2 or meaning(word) in NO_OBJECT or word in NO_OBJECT:
        return False
    image = set(re.split(r"[/-]+", repository(_image(one)))) | {basename(_image(one))}
    singular = word[:-1] if word.endswith("s") and len(word) > 3 else word
    parts = re.split(r"[-_.]+", one.name.lower().partition(":")[0].rpartition("/")[2])
    plain = [re.sub(r"\d+$", "", part) for part in parts]
    forms = {word, singular}
    return bool(forms & {*image, *parts, *plain}) or any(
        form in part for form in forms for part in image if len(form) > 3
    )


def _by_role(word: str, one: FleetObject) -> bool:
    images = ROLES.get(word, ROLES.get(word.removesuffix("s"), "")).split()
    return basename(_image(one)) in images


def _by_spelling(word: str, one: FleetObject) -> bool:
    return meaning(word) not in NO_OBJECT and any(near(word, other) for other in (one.name, basename(_image(one))))


def candidates(said: str, objects: Sequence[FleetObject], hosts: Iterable[str] = ()) -> list[FleetObject]:
    """Objects that a text may refer to: those named literally, else the best matches of its words."""
    literal = [one for one in objects if named(said, one.name)]
    if literal:
        return literal
    host_names = {host.lower() for host in hosts}
    return best_matches([word for word in words_of(said) if word not in host_names], objects)


def ambiguity_error(kind: str, wanted: str, objects: Sequence[FleetObject]) -> AnvylError:
    """The error that asks the user which of several matching objects to use."""
    choices = [f"`{one.name}` on {one.host}" for one in objects]
    shown = text.join_names(choices) if len(choices) <= 6 else f"{', '.join(choices[:6])} and {len(choices) - 6} more"
    return Conflict(f"which {kind} is `{wanted}`: {shown}?", hint=USE_FULL_NAME)


def no_match_error(
    kind: str,
    wanted: str,
    objects: Sequence[FleetObject],
    errors: Mapping[str, AnvylError],
    *,
    hosts: Sequence[str] = (),
    tool: str = "",
) -> AnvylError:
    """The error for an object that does not exist, with similar names and the hosts that could not be searched."""
    but = "".join(f"; {host} could not be asked ({error.message})" for host, error in errors.items())
    return not_found_error(kind, wanted, [one.name for one in objects], hosts=hosts, tool=tool, but=but)


def places_of(fleet: Fleet) -> Places:
    """The hosts and tags of a fleet."""
    tags = {tag.lower() for peer in fleet.peers.values() for tag in peer.tags} - set(fleet.hosts)
    return Places(tuple(fleet.hosts), frozenset(tags), fleet.local.name)
