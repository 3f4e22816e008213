"""The objects named by the arguments of a call, and their current state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from anvyl_mcp.core.errors import AnvylError, Conflict, NotFound
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.object_names import MAKES, NAMES, USES, named_objects
from anvyl_mcp.server.stacks.projects import find_stack
from anvyl_mcp.server.swarm import nodes, services
from anvyl_mcp.server.tool import Tool

LOOKUPS: Mapping[str, Callable[[Engine, str], Mapping[str, Any]]] = {
    "container": lambda engine, name: engine.inspect(name),
    "image": lookup.find_image,
    "network": lookup.find_network,
    "volume": lookup.find_volume,
    "stack": find_stack,
    "service": services.find_service,
    "node": nodes.find_node,
}
"""How to inspect an object, by kind."""


@dataclass(frozen=True, slots=True)
class ObservedObject:
    """Current identity of an object; `state` is set for containers only."""

    kind: str
    name: str
    id: str
    state: str = ""

    def __str__(self) -> str:
        return f"{self.kind} `{self.name}` {f'is {self.state}' if self.state else 'exists'} now"


class Observer:
    """Inspects the objects of this host. Without an engine, every name stands for itself."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine

    async def check_names(self, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Check the syntax of every object name in a call.

        Raises:
            NotFound: an object that must exist cannot have that name; the hint lists similar names.
            InvalidInput: the name of an object to create or use is invalid.
        """
        for kind, name in named_objects(tool, arguments, NAMES):
            if not object_names.is_valid(kind, name):
                await self._inspect(kind, name)
        object_names.check_call(tool, arguments)

    async def objects(self, tool: Tool, arguments: Mapping[str, Any], marker: str = NAMES) -> list[ObservedObject]:
        """The existing objects that a call names. Missing ones are left out: the tool reports them.

        Raises:
            EngineError, Timeout: the engine does not answer.
        """
        found = []
        # An object that is only used is fetched if missing, so an ambiguous id prefix is no conflict.
        absent = (NotFound, Conflict) if marker == USES else (NotFound,)
        for kind, name in named_objects(tool, arguments, marker):
            with suppress(*absent):
                found.append(await self._inspect(kind, name))
        return found

    def named_only(self, tool: Tool, arguments: Mapping[str, Any]) -> list[ObservedObject]:
        """The stacks that a call makes or replaces: they are locked by name, also if they do not exist yet."""
        made = named_objects(tool, arguments, MAKES)
        return [ObservedObject(kind, name, name) for kind, name in made if kind == "stack"]

    async def ids(
        self, tool: Tool, arguments: Mapping[str, Any], objects: list[ObservedObject]
    ) -> dict[tuple[str, str], str]:
        """What `HELD` is for a call that has these objects: an empty id for one that is not there.

        Raises:
            EngineError, Timeout: the engine does not answer.
        """
        absent = dict.fromkeys(named_objects(tool, arguments, NAMES), "")
        used = await self.objects(tool, arguments, USES)
        return absent | {(one.kind, one.name): one.id for one in [*objects, *used]}

    async def describe(self, tool: Tool, arguments: Mapping[str, Any]) -> str:
        """Describe the current state of the objects that a call names or makes, to end a sentence. Never raises."""
        parts = []
        for kind, name in [*named_objects(tool, arguments, NAMES), *named_objects(tool, arguments, MAKES)]:
            try:
                parts.append(str(await self._inspect(kind, name)))
            except NotFound:
                parts.append(f"there is no {kind} `{name}` now")
            except AnvylError as error:
                parts.append(f"{kind} `{name}` could not be inspected ({error.message})")
        return "".join(f"; {words}" for words in parts)

    async def _inspect(self, kind: str, name: str) -> ObservedObject:
        lookup_object = LOOKUPS.get(kind)
        if self._engine is None or lookup_object is None:
            return ObservedObject(kind, name, name)
        async with self._engine.read_slot():
            found = await anyio.to_thread.run_sync(lookup_object, self._engine, name, abandon_on_cancel=True)
        state = ""
        with suppress(KeyError, TypeError):
            state = str(found["State"]["Status"])
        return ObservedObject(kind, name, lookup.identity(kind, found), state)
