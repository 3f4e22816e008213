"""What a change is about: the objects that its arguments name, and how they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from anvyl_mcp.errors import AnvylError, NotFound
from anvyl_mcp.server import objects
from anvyl_mcp.server.engine import Engine
from anvyl_mcp.server.tool import Tool

NAMES, MAKES = "x-names", "x-makes"
"""In an argument's schema: the kind of object that it must name, or that the call makes under that name."""

LOOKS: Mapping[str, Callable[[Engine, str], Mapping[str, Any]]] = {
    "container": lambda engine, name: engine.inspect(name),
    "image": objects.image,
    "network": objects.network,
    "volume": objects.volume,
}
"""How an object of each kind is looked at."""


@dataclass(frozen=True, slots=True)
class Seen:
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

    async def objects(self, tool: Tool, arguments: Mapping[str, Any]) -> list[Seen]:
        """The objects that a call names, as they are now, without those that are not there: the tool will say so.

        Raises:
            EngineError, Timeout: the engine does not tell.
        """
        found = []
        for kind, name in named(tool, arguments, NAMES):
            with suppress(NotFound):
                found.append(await self._look(kind, name))
        return found

    async def seen(self, tool: Tool, arguments: Mapping[str, Any]) -> str:
        """How the objects that a call names or makes are now, in words to put behind a sentence; never raises."""
        said = []
        for kind, name in [*named(tool, arguments, NAMES), *named(tool, arguments, MAKES)]:
            try:
                said.append(str(await self._look(kind, name)))
            except NotFound:
                said.append(f"there is no {kind} `{name}` now")
            except AnvylError as error:
                said.append(f"{kind} `{name}` could not be looked at ({error.message})")
        return "".join(f"; {words}" for words in said)

    async def _look(self, kind: str, name: str) -> Seen:
        look = LOOKS.get(kind)
        if self._engine is None or look is None:
            return Seen(kind, name, name)
        async with self._engine.turn():
            found = await anyio.to_thread.run_sync(look, self._engine, name, abandon_on_cancel=True)
        state = ""
        with suppress(KeyError, TypeError):
            state = str(found["State"]["Status"])
        return Seen(kind, name, str(found.get("Id") or found["Name"]), state)


def named(tool: Tool, arguments: Mapping[str, Any], how: str) -> Iterator[tuple[str, str]]:
    """Kind and name of each object that the arguments name in this way, each once."""
    found = {}
    for argument, schema in tool.input_schema["properties"].items():
        value = arguments.get(argument)
        if how in schema and isinstance(value, str) and value:
            found[schema[how], value] = True
    yield from found
