"""Resolve: which existing object a person means, looked up by name, then image, then part of the name, then spelling.

The words of the person decide, not the model's pick: several that fit are a question to the person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict
from anvyl_mcp.orchestrator.language.grounding import named, near, words_of
from anvyl_mcp.orchestrator.language.vocabulary import NO_NAMES, STANDS_FOR, STATES, meaning
from anvyl_mcp.peers.changes.change_plan import offered_tools
from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome
from anvyl_mcp.peers.fleet.targets import LOOKUPS, list_objects, matches_id, not_found_error

ROLES = {
    "database": "postgres postgresql mysql mariadb mongo mongodb cockroach timescaledb influxdb mssql",
    "db": "postgres postgresql mysql mariadb mongo mongodb",
    "cache": "redis memcached valkey dragonfly varnish",
    "proxy": "nginx traefik caddy haproxy envoy",
    "webserver": "nginx httpd apache caddy lighttpd",
    "web": "nginx httpd apache caddy",
    "queue": "rabbitmq kafka nats mosquitto activemq",
    "broker": "rabbitmq kafka nats mosquitto emqx",
    "dns": "pihole pi-hole adguardhome unbound coredns bind9",
    "monitoring": "prometheus grafana netdata uptime-kuma zabbix",
    "dashboard": "grafana homepage heimdall portainer",
    "search": "elasticsearch opensearch meilisearch solr",
}
"""What people call a thing by what it does, with images that do it."""
NO_OBJECT = NO_NAMES | STANDS_FOR.keys() | STATES.keys()

PARTICLE = re.compile(
    r"(\bback\s+)(?:up|online)\b"
    r"|(\b(?:come|bring|get|put|spin|fire|start|boot|take|shut|power|turn|switch)(?:\s+\S+){0,5}?\s+)(?:up|down|online)\b"
)
"""`bring it up` speaks of no state."""


@dataclass(frozen=True)
class Found:
    """One object on one host."""

    host: str
    name: str
    row: Mapping[str, Any]


class Inventory:
    """What exists where, asked once for a question and kept until something changes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._asked: dict[str, dict[str, Outcome]] = {}
        self._offered: dict[str, frozenset[str] | AnvylError] = {}
        self._asking = anyio.Lock()

    async def outcomes(self, kind: str, hosts: Sequence[str] | None = None) -> dict[str, Outcome]:
        """The objects of one kind on some hosts, or on all, as the hosts answered."""
        hosts = self._fleet.hosts if hosts is None else hosts
        async with self._asking:
            asked = self._asked.setdefault(kind, {})
            if unknown := [host for host in hosts if host not in asked]:
                asked |= await list_objects(self._fleet, kind, unknown)
        return {host: asked[host] for host in hosts}

    async def offered(self, hosts: Sequence[str]) -> dict[str, frozenset[str] | AnvylError]:
        """The tools that we may use on some hosts, by name; or why one cannot be asked."""
        async with self._asking:
            if unknown := [host for host in hosts if host not in self._offered]:
                self._offered |= await offered_tools(self._fleet, unknown)
        return {host: self._offered[host] for host in hosts}

    async def objects(self, kind: str, hosts: Sequence[str] = ()) -> list[Found]:
        """The objects of one kind on some hosts, or on all of them."""
        outcomes = await self.outcomes(kind)
        return list(_found(kind, {host: outcomes[host] for host in (hosts or outcomes) if host in outcomes}))

    async def silent(self, kind: str, hosts: Sequence[str]) -> dict[str, AnvylError]:
        """Those of some hosts that could not be asked, and why."""
        outcomes = await self.outcomes(kind)
        return {host: error for host in hosts if host in outcomes and (error := outcomes[host].error) is not None}

    def forget(self) -> None:
        """Ask again next time: something was changed."""
        self._asked = {}


def _found(kind: str, outcomes: Mapping[str, Outcome]) -> Iterator[Found]:
    lookup = LOOKUPS[kind]
    for host, outcome in outcomes.items():
        for row in (outcome.answer.result or {}).get(lookup.rows, []):
            value = row[lookup.field]
            for name in value if isinstance(value, list) else [value]:
                yield Found(host, name, row)


def states_said(said: str) -> set[str]:
    """The values of a state that a text speaks of."""
    words = re.findall(r"[a-z]+", PARTICLE.sub(lambda found: found[1] or found[2], said.lower()))
    return {value for word in words for name, values in STATES.items() if word in {name, *values} for value in values}


def state_of(one: Found) -> Iterator[str]:
    """What an object is in."""
    for field in ("state", "health"):
        yield str(one.row.get(field) or "").lower()


def is_called(one: Found, wanted: str) -> bool:
    """Whether an object is called so: by its name, or by the start of its id as the engine accepts it."""
    return one.name in (wanted, f"{wanted}:latest") or matches_id(one.row, wanted)


def repository(image: str) -> str:
    """`ghcr.io/team/nginx:1.27` → `team/nginx`."""
    path = image.partition("@")[0].lower().split("/")
    return "/".join([part.partition(":")[0] for part in path if "." not in part or part is path[-1]])


def basename(image: str) -> str:
    """`ghcr.io/team/nginx:1.27` → `nginx`."""
    return repository(image).rpartition("/")[2]


def _image(one: Found) -> str:
    return str(one.row.get("image") or "")


def meant(words: Iterable[str], objects: Sequence[Found]) -> list[Found]:
    """The objects that fit words best: those called so, else of such an image or with it in the name, else nearly."""
    wanted = [word for word in words if word]
    for fits in (_by_name, _by_image_or_part, _by_role, _by_spelling):
        if found := [one for one in objects if any(fits(word, one) for word in wanted)]:
            return found
    return []


def _by_name(word: str, one: Found) -> bool:
    return named(word, one.name) or (named(one.name, word) and len(word) == len(one.name))


def _by_image_or_part(word: str, one: Found) -> bool:
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


def _by_role(word: str, one: Found) -> bool:
    images = ROLES.get(word, ROLES.get(word.removesuffix("s"), "")).split()
    return basename(_image(one)) in images


def _by_spelling(word: str, one: Found) -> bool:
    return meaning(word) not in NO_OBJECT and any(near(word, other) for other in (one.name, basename(_image(one))))


def candidates(said: str, objects: Sequence[Found], hosts: Iterable[str] = ()) -> list[Found]:
    """The objects that a person's words may mean."""
    literal = [one for one in objects if named(said, one.name)]
    if literal:
        return literal
    places = {host.lower() for host in hosts}
    return meant([word for word in words_of(said) if word not in places], objects)


def which(kind: str, wanted: str, objects: Sequence[Found]) -> AnvylError:
    """The question to the person when several objects fit."""
    named_on = [f"`{one.name}` on {one.host}" for one in objects]
    shown = (
        text.join_names(named_on) if len(named_on) <= 6 else f"{', '.join(named_on[:6])} and {len(named_on) - 6} more"
    )
    return Conflict(f"which {kind} is `{wanted}`: {shown}?", hint="say it again with the full name")


def nothing(
    kind: str,
    wanted: str,
    objects: Sequence[Found],
    silent: Mapping[str, AnvylError],
    *,
    hosts: Sequence[str] = (),
    tool: str = "",
) -> AnvylError:
    """The answer when no object fits, with what there is."""
    but = "".join(f"; {host} could not be asked ({error.message})" for host, error in silent.items())
    return not_found_error(kind, wanted, [one.name for one in objects], hosts=hosts, tool=tool, but=but)
