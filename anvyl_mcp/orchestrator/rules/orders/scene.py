"""What a question is read against: the tools, the hosts, and the objects that exist on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.orchestrator.checks.resolve import FleetObject, best_matches
from anvyl_mcp.orchestrator.language.grounding import images_in
from anvyl_mcp.orchestrator.language.places import Places
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import kinds_said
from anvyl_mcp.peers.connection.listing import ToolListing

PAIR = re.compile(r"(?<![\w.=/-])[A-Za-z][\w./-]*=[\w./:-]+")
"""A label, as `team=ops`."""


class Objects(Protocol):
    """Where the objects of a fleet are looked up."""

    async def objects(self, kind: str, hosts: Sequence[str] = ()) -> list[FleetObject]:
        """Objects of one kind."""
        ...

    async def errors(self, kind: str, hosts: Sequence[str]) -> dict[str, AnvylError]:
        """Errors of the hosts that could not list their objects."""
        ...

    async def labelled(self, label: str) -> list[FleetObject]:
        """Containers with a label."""
        ...

    def kinds(self) -> frozenset[str]:
        """Kinds of objects that can be listed."""
        ...


@dataclass
class Scene:
    """Tools, hosts and objects for one question."""

    tools: Mapping[str, ToolListing]
    places: Places
    select: Callable[[str], list[str]]
    lookup: Objects
    objects: dict[str, list[FleetObject]] = field(default_factory=dict)
    silent: dict[str, AnvylError] = field(default_factory=dict)
    """Hosts that could not list their containers."""
    labelled: dict[str, list[FleetObject]] = field(default_factory=dict)

    async def look_up(self, kind: str) -> list[FleetObject]:
        """Objects of a kind on all hosts, listed once."""
        if kind not in self.objects:
            self.objects[kind] = await self.lookup.objects(kind) if kind in self.lookup.kinds() else []
            if kind == "container":
                self.silent = await self.lookup.errors(kind, self.places.hosts)
        return self.objects[kind]

    async def prepare(self, said: str, tools: Sequence[ToolListing]) -> None:
        """List the objects that an order in these words may be about, for the tools that it may mean."""
        joining = {kind for tool in tools if len(tool.names) > 1 for kind in tool.names.values()}
        for kind in sorted({"container", *(kind for tool in tools for kind in tool.names.values())}):
            if kind in ("container", "stack") or kind in joining or self.may_name(kind, said):
                await self.look_up(kind)
        for label in dict.fromkeys(PAIR.findall(said)):
            self.labelled[label] = await self.lookup.labelled(label)

    async def has_object(self, word: str) -> bool:
        """Whether a word means a container, an image or a network: its name, an image, a role or a near spelling."""
        objects = [one for kind in ("container", "image", "network") for one in await self.look_up(kind)]
        return bool(best_matches([word], objects))

    def may_name(self, kind: str, said: str) -> bool:
        """Whether words may name an object of a kind; objects other than containers are rarely named without it."""
        nouns = {stem(noun) for noun in kinds_said(kind)} if kind != "image" else {"imag"}
        return bool(nouns & set(stems(said))) or (kind == "image" and bool(images_in(said)))

    def names(self, kind: str = "container") -> list[str]:
        """Names of the objects of a kind, the longest first."""
        return sorted({one.name for one in self.objects.get(kind, ())}, key=len, reverse=True)

    @property
    def all_names(self) -> list[str]:
        """Names of the objects of every kind."""
        return [name for kind in self.objects for name in self.names(kind)]

    def of(self, kind: str, hosts: Sequence[str] = ()) -> list[FleetObject]:
        """Objects of a kind, on some hosts or on all."""
        return [one for one in self.objects.get(kind, ()) if not hosts or one.host in hosts]
