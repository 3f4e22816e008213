"""Locks that allow one change at a time per object, and checks that objects are still as planned."""

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
"""Seconds that a change waits for a lock."""

UP_STATES = frozenset({"running", "restarting"})
"""A crashing container alternates between these states."""


@dataclass(eq=False, slots=True)
class ObjectLock:
    """The objects that one change has locked, or waits for."""

    caller: str
    tool: str
    operation: str
    objects: Sequence[ObservedObject]
    since: float = field(default_factory=time.monotonic)
    released: concurrent.futures.Future[None] = field(default_factory=concurrent.futures.Future)


class ObjectLocks:
    """The locks of this process, by kind and full id, so that a name and an id prefix map to the same object."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], ObjectLock] = {}
        self._mutex = threading.Lock()

    async def take(self, lock: ObjectLock) -> None:
        """Lock all objects, or none.

        Raises:
            Busy: another change still has one of them locked.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while (other := self._try(lock)) is not None:
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await asyncio.shield(asyncio.wrap_future(other.released))
            except TimeoutError:
                raise _busy(lock, other) from None
        lock.since = time.monotonic()

    def release(self, lock: ObjectLock) -> None:
        """Unlock the objects. May be called from any thread, and more than once."""
        with self._mutex:
            for key in [key for key, holder in self._locks.items() if holder is lock]:
                del self._locks[key]
            if not lock.released.done():
                lock.released.set_result(None)

    def _try(self, lock: ObjectLock) -> ObjectLock | None:
        """Lock all objects; if one is locked already, lock none and return its lock."""
        keys = [(one.kind, one.id) for one in lock.objects]
        with self._mutex:
            for key in keys:
                if key in self._locks:
                    return self._locks[key]
            self._locks.update(dict.fromkeys(keys, lock))
        return None


def check_expected(
    meta: Mapping[str, Any], named: Sequence[tuple[str, str]], objects: Sequence[ObservedObject]
) -> None:
    """Check that the object of a call still has the id and state of the plan, if the request has one.

    `named`: kind and name of each object in the call.

    Raises:
        Conflict: it is a different object, in a different state, or gone.
    """
    expected = meta.get(protocol_keys.EXPECT)
    if expected is None:
        return
    if not isinstance(expected, Mapping) or not all(isinstance(value, str) for value in expected.values()):
        raise InvalidInput(f"`{protocol_keys.EXPECT}` is not an object with `id` and `state`")
    if not named:
        raise InvalidInput(f"`{protocol_keys.EXPECT}` was sent, but this call names no object")
    kind, name = next((one for one in named if one[0] == "container"), named[0])
    seen = next((one for one in objects if (one.kind, one.name) == (kind, name)), None)
    if seen is None:
        raise _changed(f"there is no {kind} `{name}` any more")
    identity, state = text.clean(expected.get("id", "")), text.clean(expected.get("state", ""))
    if not seen.id.removeprefix("sha256:").startswith(identity.removeprefix("sha256:")):
        raise _changed(f"`{name}` is another {kind} now: {seen.id[:12]}, not {identity[:12]}")
    if state and state != seen.state and not {state, seen.state} <= UP_STATES:
        raise _changed(f"`{name}` was {state[:40]}, and is {seen.state or 'present'} now")


def check_objects(
    meta: Mapping[str, Any], named: Sequence[tuple[str, str]], ids: Mapping[tuple[str, str], str]
) -> None:
    """Check that the images, networks and volumes of a call are still those of the plan, if the request has one.

    Raises:
        Conflict: one is a different object, or gone.
    """
    planned = meta.get(protocol_keys.OBJECTS) or {}
    if not isinstance(planned, Mapping) or not all(isinstance(value, str) for value in planned.values()):
        raise InvalidInput(f"`{protocol_keys.OBJECTS}` is not an object with ids")
    for key, identity in planned.items():
        kind, _, name = str(key).partition(" ")
        if (kind, name) not in named:
            raise InvalidInput(f"`{protocol_keys.OBJECTS}` has an object that this call does not name")
        now = ids.get((kind, name), "").removeprefix("sha256:")
        if not now:
            raise _changed(f"there is no {kind} `{name}` any more")
        if not now.startswith(identity.removeprefix("sha256:")):
            raise _changed(f"`{name}` is another {kind} now")


def _changed(how: str) -> Conflict:
    return Conflict(
        f"changed since planned: {how}; nothing was changed", hint="check the current state, then decide again"
    )


def _busy(mine: ObjectLock, other: ObjectLock) -> Busy:
    keys = {(one.kind, one.id) for one in other.objects}
    name = next((one.name for one in mine.objects if (one.kind, one.id) in keys), "it")
    return Busy(
        f"`{name}` is being changed by {other.caller}: `{other.tool}` has been running for "
        f"{time.monotonic() - other.since:.0f} s (operation {other.operation})",
        hint="nothing was changed; retry when that has finished",
    )
