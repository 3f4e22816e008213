"""How a change is made: asked for once, alone with its objects, on record before it acts and when it ended."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import Unknown
from anvyl_mcp.server.audit.log import Audit, Entry, outcome_of
from anvyl_mcp.server.auth.callers import Caller
from anvyl_mcp.server.calls import response_meta
from anvyl_mcp.server.calls.affected_objects import Observer
from anvyl_mcp.server.calls.idempotency import Abandoned, ChangeRequest, Operation, Operations, ending_of
from anvyl_mcp.server.calls.journal import Journal, JournalEntry
from anvyl_mcp.server.calls.object_locks import ObjectLock, ObjectLocks, check_expected, check_objects
from anvyl_mcp.server.policy.object_names import NAMES, USES, named_objects
from anvyl_mcp.server.tool import BOUND_IDS, OPERATION_ID, Result


@dataclass(eq=False, slots=True)
class PendingChange:
    """One change on its way. `recorded`: the audit log has it, or will, without the help of whoever asked."""

    caller: Caller
    told: Mapping[str, Any]
    asked: ChangeRequest
    allow: Callable[[], Awaitable[None]]
    """Asks the policy, about the very objects that the change has."""
    begin: Callable[[], Entry]
    """Writes into the audit log that it begins."""
    work: Callable[[], Awaitable[Result]]
    clean: Callable[[Result], Result]
    """Hides what is secret in a result."""
    recorded: bool = False
    running: Operation | None = None
    hold: ObjectLock | None = None
    _through: bool = False
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def ends(self) -> bool:
        """Whether this is the first time that it ends."""
        with self._mutex:
            first, self._through = not self._through, True
        return first


class Changes:
    """The only way to a change on this host."""

    def __init__(self, audit: Audit, journal: Journal, observer: Observer) -> None:
        self._audit = audit
        self._journal = journal
        self.observer = observer
        self._operations = Operations(observer)
        self._holds = ObjectLocks()
        self._making: set[PendingChange] = set()

    async def make(self, making: PendingChange) -> Result:
        """Make a change, or give what it gave when it was made before.

        Raises:
            Busy: one of its objects is being changed.
            Conflict: its id belongs to another call, or an object is not as it was planned with.
            Denied: it cannot be written down.
            AnvylError: it failed.
        """
        asked = making.asked
        running, new = self._operations.claim(asked)
        if not new:
            making.recorded = True
            return await self._operations.wait_for(asked, running)
        making.running = running
        try:
            known = await anyio.to_thread.run_sync(self._journal.find, asked.operation)
            if known is None:
                known = await self._prepare(making)
        except BaseException as error:
            self._let_go(making, error)
            raise
        if known is not None:
            making.recorded = not known.call or known.call == asked.call
            self._let_go(making, None, known)
            return await self._operations.replay(asked, known)
        making.recorded = True
        return await self._act(making)

    def close(self) -> None:
        """Write down that nobody here will know the end of what still runs."""
        for making in list(self._making):
            if making.ends() and making.running and making.running.entry:
                self._audit.end(making.running.entry, "unknown", Unknown.code)
        self._journal.close()

    async def _prepare(self, making: PendingChange) -> JournalEntry | None:
        """Have the objects, and write down that it begins; or what is known of it, when another process began it."""
        asked, observer = making.asked, self.observer
        objects = await observer.objects(asked.tool, asked.arguments)
        making.hold = ObjectLock(making.caller.name, asked.tool.name, asked.operation, objects)
        await self._holds.take(making.hold)
        held = await observer.ids(asked.tool, asked.arguments, objects)
        if protocol_keys.EXPECT in making.told or protocol_keys.OBJECTS in making.told:
            now = await observer.objects(asked.tool, asked.arguments)
            check_expected(making.told, list(named_objects(asked.tool, asked.arguments, NAMES)), now)
            check_objects(making.told, list(named_objects(asked.tool, asked.arguments, NAMES, USES)), held)
        BOUND_IDS.set(held)
        await making.allow()
        OPERATION_ID.set(asked.operation)
        return await anyio.to_thread.run_sync(self._begin, making)

    def _begin(self, making: PendingChange) -> JournalEntry | None:
        asked, running = making.asked, making.running
        assert running is not None
        known = self._journal.start(asked.operation, asked.call, tool=asked.tool.name)
        if known is None:
            try:
                running.entry = making.begin()
            except BaseException:
                self._journal.void(asked.operation)
                raise
        return known

    async def _act(self, making: PendingChange) -> Result:
        response_meta.add_meta(protocol_keys.OPERATION, making.asked.operation)
        self._making.add(making)
        result: Result | None = None
        failure: BaseException | None = None
        try:
            result = making.clean(await making.work())
        except Abandoned as error:
            failure = error
            error.ending.add_done_callback(partial(self._late, making))
            raise
        except BaseException as error:
            failure = error
            raise
        finally:
            if not isinstance(failure, Abandoned):
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._finish, making, result, failure)
        return result

    def _late(self, making: PendingChange, ending: concurrent.futures.Future[Result]) -> None:
        """The end of a change that nobody waited for."""
        failure = ending.exception()
        self._finish(making, None if failure else making.clean(ending.result()), failure)

    def _finish(self, making: PendingChange, result: Result | None, failure: BaseException | None) -> None:
        assert making.running is not None and making.running.entry is not None
        self._making.discard(making)
        end = ending_of(result, failure)
        if making.ends():
            self._journal.end(making.asked.operation, end)
            self._audit.end(making.running.entry, *outcome_of(failure))
        self._let_go(making, failure, JournalEntry("", end))

    def _let_go(self, making: PendingChange, failure: BaseException | None, known: JournalEntry | None = None) -> None:
        """Free the objects, and tell whoever waits for the same operation."""
        assert making.running is not None
        if making.hold is not None:
            self._holds.release(making.hold)
        self._operations.settle(making.running, known or JournalEntry("", ending_of(None, failure)))
