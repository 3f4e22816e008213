"""Changes: run once per operation id, with their objects locked, and recorded before they act and when they end."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.to_thread

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import OnFailure, Unknown
from anvyl_mcp.server.audit.log import Audit, Entry, outcome_of
from anvyl_mcp.server.auth.callers import Caller
from anvyl_mcp.server.calls.affected_objects import Observer
from anvyl_mcp.server.calls.idempotency import Abandoned, ChangeRequest, Operation, Operations, ending_of
from anvyl_mcp.server.calls.journal import Journal, JournalEntry
from anvyl_mcp.server.calls.object_locks import ObjectLock, ObjectLocks, check_expected, check_objects
from anvyl_mcp.server.calls.response_meta import add_meta
from anvyl_mcp.server.policy.object_names import MAKES, NAMES, USES, named_objects
from anvyl_mcp.server.tool import BOUND_IDS, OPERATION_ID, Result


@dataclass(eq=False, slots=True)
class PendingChange:
    """A requested change. `recorded`: its audit record is written here, so the gate must not write one."""

    caller: Caller
    meta: Mapping[str, Any]
    request: ChangeRequest
    check_policy: Callable[[], Awaitable[None]]
    """Checks the policy for the objects that the change has locked."""
    begin: Callable[[], Entry]
    """Records in the audit log that the change begins."""
    work: Callable[[], Awaitable[Result]]
    redact: Callable[[Result], Result]
    """Hides secrets in a result."""
    recorded: bool = False
    operation: Operation | None = None
    lock: ObjectLock | None = None
    _ended: bool = False
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def mark_ended(self) -> bool:
        """Mark the change as ended; return whether this is the first time."""
        with self._mutex:
            first, self._ended = not self._ended, True
        return first


class ChangeObserver(Protocol):
    """Is notified of changes, on a worker thread. Its methods must not raise."""

    def begin(self, operation: str, who: str, tool: str, objects: Sequence[str]) -> None:
        """A change is about to act; `objects`: `kind name` and `kind id` of what it names or makes."""

    def end(self, operation: str, outcome: str) -> None:
        """A change ended: `ok` or an error code."""


class Changes:
    """Runs all changes on this host."""

    def __init__(
        self, audit: Audit, journal: Journal, observer: Observer, history: ChangeObserver | None = None
    ) -> None:
        self._audit = audit
        self._journal = journal
        self._history = history
        self.observer = observer
        self._operations = Operations(observer)
        self._locks = ObjectLocks()
        self._pending: set[PendingChange] = set()

    async def make(self, change: PendingChange) -> Result:
        """Make a change, or return its earlier result if its operation id was used before.

        Raises:
            Busy: one of its objects is being changed.
            Conflict: its id belongs to another call, or an object is no longer as planned.
            Denied: the policy forbids it, or it cannot be recorded.
            AnvylError: it failed.
        """
        request = change.request
        operation, new = self._operations.claim(request)
        if not new:
            change.recorded = True
            return await self._operations.wait_for(request, operation)
        change.operation = operation
        with OnFailure(partial(self._release, change)):
            known = await anyio.to_thread.run_sync(self._journal.find, request.operation)
            if known is None:
                known = await self._prepare(change)
        if known is not None:
            change.recorded = not known.digest or known.digest == request.digest
            self._release(change, None, known)
            return await self._operations.replay(request, known)
        change.recorded = True
        return await self._act(change)

    def close(self) -> None:
        """Record an unknown outcome for every change that is still running."""
        for change in list(self._pending):
            if change.mark_ended() and change.operation and change.operation.entry:
                self._audit.end(change.operation.entry, "unknown", Unknown.code)
        self._journal.close()

    async def _prepare(self, change: PendingChange) -> JournalEntry | None:
        """Lock the objects and record that the change begins. Return its entry if another process began it already."""
        request, observer = change.request, self.observer
        objects = await observer.objects(request.tool, request.arguments)
        locked = [*objects, *observer.named_only(request.tool, request.arguments)]
        change.lock = ObjectLock(change.caller.name, request.tool.name, request.operation, locked)
        await self._locks.take(change.lock)
        ids = await observer.ids(request.tool, request.arguments, objects)
        if protocol_keys.EXPECT in change.meta or protocol_keys.OBJECTS in change.meta:
            now = await observer.objects(request.tool, request.arguments)
            check_expected(change.meta, list(named_objects(request.tool, request.arguments, NAMES)), now)
            check_objects(change.meta, list(named_objects(request.tool, request.arguments, NAMES, USES)), ids)
        BOUND_IDS.set(ids)
        await change.check_policy()
        OPERATION_ID.set(request.operation)
        return await anyio.to_thread.run_sync(self._begin, change)

    def _begin(self, change: PendingChange) -> JournalEntry | None:
        request, operation = change.request, change.operation
        assert operation is not None
        known = self._journal.start(request.operation, request.digest, tool=request.tool.name)
        if known is None:
            with OnFailure(lambda _: self._journal.void(request.operation)):
                operation.entry = change.begin()
            if self._history is not None:
                named = named_objects(request.tool, request.arguments, NAMES, MAKES)
                locked = change.lock.objects if change.lock else ()
                objects = [f"{kind} {name}" for kind, name in [*named, *((one.kind, one.id) for one in locked)]]
                if request.tool.toolset == "stacks" and (stack := request.arguments.get("name")):
                    objects.append(f"stack {stack}")
                self._history.begin(request.operation, change.caller.name, request.tool.name, objects)
        return known

    async def _act(self, change: PendingChange) -> Result:
        add_meta(protocol_keys.OPERATION, change.request.operation)
        self._pending.add(change)
        result: Result | None = None
        failure = OnFailure()
        try:
            with failure:
                result = change.redact(await change.work())
        finally:
            if isinstance(failure.error, Abandoned):
                failure.error.future.add_done_callback(partial(self._finish_late, change))
            else:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._finish, change, result, failure.error)
        return result

    def _finish_late(self, change: PendingChange, future: concurrent.futures.Future[Result]) -> None:
        """Record the end of an abandoned change."""
        failure = future.exception()
        self._finish(change, None if failure else change.redact(future.result()), failure)

    def _finish(self, change: PendingChange, result: Result | None, failure: BaseException | None) -> None:
        assert change.operation is not None and change.operation.entry is not None
        self._pending.discard(change)
        end = ending_of(result, failure)
        if change.mark_ended():
            self._journal.end(change.request.operation, end)
            self._audit.end(change.operation.entry, *outcome_of(failure))
            if self._history is not None:
                self._history.end(change.request.operation, outcome_of(failure)[1] or "ok")
        self._release(change, failure, JournalEntry("", end))

    def _release(self, change: PendingChange, failure: BaseException | None, known: JournalEntry | None = None) -> None:
        """Unlock the objects and hand the end to requests that wait for the same operation."""
        assert change.operation is not None
        if change.lock is not None:
            self._locks.release(change.lock)
        self._operations.settle(change.operation, known or JournalEntry("", ending_of(None, failure)))
