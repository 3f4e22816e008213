"""Idempotency: requests with an operation id, running operations, and the answers to repeated requests."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import json
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from anvyl_mcp.core import protocol_keys, text
from anvyl_mcp.core.errors import AnvylError, Conflict, InternalError, InvalidInput, Timeout, Unknown, from_code
from anvyl_mcp.server.audit.log import Entry
from anvyl_mcp.server.auth.callers import Caller
from anvyl_mcp.server.calls.affected_objects import Observer
from anvyl_mcp.server.calls.journal import JournalEntry, OperationEnd
from anvyl_mcp.server.calls.response_meta import add_meta
from anvyl_mcp.server.tool import Result, Tool

MAX_ID = 100
LOG_HINT = "the traceback is in the server's log"
UNCERTAIN_CODES = (Unknown.code, Timeout.code)
"""Errors after which a change may have happened, so that a repeat reports the current state."""


class Abandoned(Unknown):
    """The caller cancelled a change that is still running; `future` gets its result."""

    def __init__(self, message: str, *, hint: str, future: concurrent.futures.Future[Any]) -> None:
        super().__init__(message, hint=hint)
        self.future = future


class OperationIdReused(Conflict):
    """An operation id that belongs to another call."""


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A request for a change under an operation id. `digest` covers the caller, the tool and the arguments."""

    operation: str
    tool: Tool
    arguments: Mapping[str, Any]
    digest: str

    @classmethod
    def parse(cls, meta: Mapping[str, Any], caller: Caller, tool: Tool, arguments: Mapping[str, Any]) -> ChangeRequest:
        """Build it from the `_meta` of a request; without an id in there, it gets a new one.

        Raises:
            InvalidInput: the operation id is malformed.
        """
        operation = meta.get(protocol_keys.OPERATION, "") or str(uuid.uuid4())
        if not isinstance(operation, str) or len(operation) > MAX_ID or text.clean(operation) != operation:
            raise InvalidInput(
                f"`{protocol_keys.OPERATION}` is not an operation id", hint="use a new UUID for every change"
            )
        fields = [caller.how, caller.id, caller.name, tool.name, dict(arguments)]
        canonical = json.dumps(fields, sort_keys=True, default=str)
        return cls(operation, tool, arguments, hashlib.sha256(canonical.encode()).hexdigest()[:32])


@dataclass(eq=False, slots=True)
class Operation:
    """An operation that runs in this process. `entry`: its record in the audit log, once it acts."""

    digest: str
    done: concurrent.futures.Future[JournalEntry] = field(default_factory=concurrent.futures.Future)
    entry: Entry | None = None


class Operations:
    """The operations that run in this process, and the answers to repeated requests."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._running: dict[str, Operation] = {}
        self._mutex = threading.Lock()

    def claim(self, request: ChangeRequest) -> tuple[Operation, bool]:
        """Return the running operation with that id, and whether it is new. A new one must be `settle`d by the caller.

        Raises:
            OperationIdReused: the id belongs to another call.
        """
        with self._mutex:
            running = self._running.get(request.operation)
            if running is None:
                running = self._running[request.operation] = Operation(request.digest)
                return running, True
        _require_same(request, running.digest)
        return running, False

    def settle(self, running: Operation, entry: JournalEntry) -> None:
        """Remove an operation and hand its end to those that wait for it. May be called from any thread."""
        with self._mutex:
            self._running = {name: one for name, one in self._running.items() if one is not running}
        with suppress(concurrent.futures.InvalidStateError):
            running.done.set_result(entry)

    async def wait_for(self, request: ChangeRequest, running: Operation) -> Result:
        """Wait for a running operation and return its result.

        Raises:
            AnvylError: it failed.
        """
        entry = await asyncio.shield(asyncio.wrap_future(running.done))
        return await self.replay(request, JournalEntry(running.digest, entry.end))

    async def replay(self, request: ChangeRequest, entry: JournalEntry) -> Result:
        """Return the result of an operation that began earlier.

        Raises:
            AnvylError: it failed, or its outcome is unknown.
            OperationIdReused: it belongs to another call.
        """
        if entry.digest:
            _require_same(request, entry.digest)
        name, end = request.tool.name, entry.end
        if end is not None and "error" in end and end["error"]["code"] not in UNCERTAIN_CODES:
            add_meta(protocol_keys.OPERATION, request.operation)
            raise from_code(**end["error"])
        if end is not None and "ok" in end:
            add_meta(protocol_keys.OPERATION, request.operation)
            with suppress(ValidationError):
                return request.tool.result.model_validate(end["ok"])
            end = {"dropped": "its result was written by another version of Anvyl"}
        state_now = await self._observer.describe(request.tool, request.arguments)
        add_meta(protocol_keys.OPERATION, request.operation)
        if end is not None and "dropped" in end:
            raise Conflict(f"`{name}` already ran under this operation id, but {end['dropped']}{state_now}")
        raise Unknown(
            f"`{name}` already began under this operation id, and its outcome is unknown: "
            f"it may or may not have happened{state_now}",
            hint="it is not repeated under this id; check the current state, then use a new id if it is still needed",
        )


def ending_of(result: Result | None, failure: BaseException | None) -> OperationEnd:
    """How an operation ended, in the form of the journal. Secrets in `result` must be redacted already."""
    if result is not None:
        return {"ok": result.model_dump(mode="json")}
    if isinstance(failure, AnvylError):
        return {"error": failure.as_dict()}
    if isinstance(failure, Exception):
        return {"error": InternalError("it failed because of a bug in Anvyl", hint=LOG_HINT).as_dict()}
    return {"error": Unknown("it was interrupted").as_dict()}


def _require_same(request: ChangeRequest, digest: str) -> None:
    if request.digest != digest:
        raise OperationIdReused(
            f"the operation id `{request.operation}` belongs to another call", hint="use a new id for every change"
        )
