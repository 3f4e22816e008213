"""One change at a time for each object, and none that is not the one that was planned."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp.core import protocol_keys, text
from anvyl_mcp.core.errors import Busy, Conflict, InvalidInput
from anvyl_mcp.server.calls.affected_objects import ObservedObject

WAIT_SECONDS = 5.0
"""Seconds that a change waits for the one before it."""

UP_STATES = frozenset({"running", "restarting"})
"""States between which a container that crashes goes to and fro by itself."""


@dataclass(eq=False, slots=True)
class ObjectLock:
    """Objects that one change has for itself."""

    who: str
    tool: str
    operation: str
    objects: Sequence[ObservedObject]
    since: float = field(default_factory=time.monotonic)
    released: concurrent.futures.Future[None] = field(default_factory=concurrent.futures.Future)


class ObjectLocks:
    """The holds of this process. By kind and full id: a name and the beginning of an id meet at the same object."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], ObjectLock] = {}
        self._mutex = threading.Lock()

    async def take(self, hold: ObjectLock) -> None:
        """Have all objects of a hold, or none.

        Raises:
            Busy: another change has one of them, and goes on.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while (other := self._try(hold)) is not None:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await asyncio.shield(asyncio.wrap_future(other.released))
            except TimeoutError:
                raise _busy(hold, other) from None
        hold.since = time.monotonic()

    def release(self, hold: ObjectLock) -> None:
        """Let go of the objects; from any thread, once or more."""
        with self._mutex:
            for key in [key for key, holder in self._held.items() if holder is hold]:
                del self._held[key]
            if not hold.released.done():
                hold.released.set_result(None)

    def _try(self, hold: ObjectLock) -> ObjectLock | None:
        """Take all objects, or tell who has one of them."""
        keys = [(one.kind, one.id) for one in hold.objects]
        with self._mutex:
            for key in keys:
                if key in self._held:
                    return self._held[key]
            self._held.update(dict.fromkeys(keys, hold))
        return None


def check_expected(
    told: Mapping[str, Any], asked: Sequence[tuple[str, str]], objects: Sequence[ObservedObject]
) -> None:
    """Return when the object is as it was planned with, or nobody planned. `asked`: kinds and names in the call.

    Raises:
        Conflict: it is another one, in another state, or gone.
    """
    expected = told.get(protocol_keys.EXPECT)
    if expected is None:
        return
    if not isinstance(expected, Mapping) or not all(isinstance(value, str) for value in expected.values()):
        raise InvalidInput(f"`{protocol_keys.EXPECT}` is not an object with `id` and `state`")
    if not asked:
        raise InvalidInput(f"`{protocol_keys.EXPECT}` is about an object, and this call names none")
    kind, name = next((one for one in asked if one[0] == "container"), asked[0])
    seen = next((one for one in objects if (one.kind, one.name) == (kind, name)), None)
    if seen is None:
        raise _changed(f"there is no {kind} `{name}` any more")
    identity, state = text.clean(expected.get("id", "")), text.clean(expected.get("state", ""))
    if not seen.id.removeprefix("sha256:").startswith(identity.removeprefix("sha256:")):
        raise _changed(f"`{name}` is another {kind} now: {seen.id[:12]}, not {identity[:12]}")
    if state and state != seen.state and not {state, seen.state} <= UP_STATES:
        raise _changed(f"`{name}` was {state[:40]}, and is {seen.state or 'there'} now")


def check_objects(
    told: Mapping[str, Any], asked: Sequence[tuple[str, str]], held: Mapping[tuple[str, str], str]
) -> None:
    """Return when the images, networks and volumes of a call are those that it was planned with.

    Raises:
        Conflict: one is another one, or gone.
    """
    planned = told.get(protocol_keys.OBJECTS) or {}
    if not isinstance(planned, Mapping) or not all(isinstance(value, str) for value in planned.values()):
        raise InvalidInput(f"`{protocol_keys.OBJECTS}` is not an object of ids")
    for what, identity in planned.items():
        kind, _, name = str(what).partition(" ")
        if (kind, name) not in asked:
            raise InvalidInput(f"`{protocol_keys.OBJECTS}` is about an object that this call does not name")
        now = held.get((kind, name), "").removeprefix("sha256:")
        if not now:
            raise _changed(f"there is no {kind} `{name}` any more")
        if not now.startswith(identity.removeprefix("sha256:")):
            raise _changed(f"`{name}` is another {kind} now")


def _changed(how: str) -> Conflict:
    return Conflict(f"changed since planned: {how}; nothing was done", hint="look again, then decide anew")


def _busy(mine: ObjectLock, other: ObjectLock) -> Busy:
    keys = {(one.kind, one.id) for one in other.objects}
    name = next((one.name for one in mine.objects if (one.kind, one.id) in keys), "it")
    return Busy(
        f"`{name}` is being changed already: `{other.tool}` of {other.who}, for "
        f"{time.monotonic() - other.since:.0f} s (operation {other.operation})",
        hint="nothing was done; try again when that is through",
    )
