"""What a change is about: the objects that its arguments name, and how they are now."""

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
from anvyl_mcp.server.tool import Tool

LOOKUPS: Mapping[str, Callable[[Engine, str], Mapping[str, Any]]] = {
    "container": lambda engine, name: engine.inspect(name),
    "image": lookup.find_image,
    "network": lookup.find_network,
    "volume": lookup.find_volume,
}
"""How an object of each kind is looked at."""


@dataclass(frozen=True, slots=True)
class ObservedObject:
    """One object as it is now. `state` is what a container has."""

    kind: str
    name: str
    id: str
    state: str = ""

    def __str__(self) -> str:
        return f"{self.kind} `{self.name}` is {self.state or 'there'} now"


class Observer:
    """Looks at objects of this host; without an engine there is nothing to see."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine

    async def check_names(self, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Return when every object that a call names, makes or uses can have that name.

        Raises:
            NotFound: one that must exist cannot; the hint has near names.
            InvalidInput: another one cannot.
        """
        for kind, name in named_objects(tool, arguments, NAMES):
            if not object_names.is_valid(kind, name):
                await self._look(kind, name)
        object_names.check_call(tool, arguments)

    async def objects(self, tool: Tool, arguments: Mapping[str, Any], marker: str = NAMES) -> list[ObservedObject]:
        """The objects that a call names, as they are now, without those that are not there: the tool will say so.

        Raises:
            EngineError, Timeout: the engine does not tell.
        """
        found = []
        # What is only used is fetched when it is not here: that its name could be the beginning of ids does not matter.
        absent = (NotFound, Conflict) if marker == USES else (NotFound,)
        for kind, name in named_objects(tool, arguments, marker):
            with suppress(*absent):
                found.append(await self._look(kind, name))
        return found

    async def ids(
        self, tool: Tool, arguments: Mapping[str, Any], seen: list[ObservedObject]
    ) -> dict[tuple[str, str], str]:
        """What `HELD` is for a call that has these objects: an empty id for one that is not there.

        Raises:
            EngineError, Timeout: the engine does not tell.
        """
        absent = dict.fromkeys(named_objects(tool, arguments, NAMES), "")
        used = await self.objects(tool, arguments, USES)
        return absent | {(one.kind, one.name): one.id for one in [*seen, *used]}

    async def describe(self, tool: Tool, arguments: Mapping[str, Any]) -> str:
        """How the objects that a call names or makes are now, in words to put behind a sentence; never raises."""
        said = []
        for kind, name in [*named_objects(tool, arguments, NAMES), *named_objects(tool, arguments, MAKES)]:
            try:
                said.append(str(await self._look(kind, name)))
            except NotFound:
                said.append(f"there is no {kind} `{name}` now")
            except AnvylError as error:
                said.append(f"{kind} `{name}` could not be looked at ({error.message})")
        return "".join(f"; {words}" for words in said)

    async def _look(self, kind: str, name: str) -> ObservedObject:
        look = LOOKUPS.get(kind)
        if self._engine is None or look is None:
            return ObservedObject(kind, name, name)
        async with self._engine.read_slot():
            found = await anyio.to_thread.run_sync(look, self._engine, name, abandon_on_cancel=True)
        state = ""
        with suppress(KeyError, TypeError):
            state = str(found["State"]["Status"])
        return ObservedObject(kind, name, lookup.identity(kind, found), state)
