"""Operations by id: what is asked for under one, those that run, and what a repeat gets."""

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
from anvyl_mcp.server.calls import response_meta
from anvyl_mcp.server.calls.affected_objects import Observer
from anvyl_mcp.server.calls.journal import JournalEntry, OperationEnd
from anvyl_mcp.server.tool import Result, Tool

MAX_ID = 100
UNCERTAIN_CODES = (Unknown.code, Timeout.code)
"""Errors after which a change may have happened: a repeat looks again."""


class Abandoned(Unknown):
    """Nobody waits for a change any more, and it goes on; `ending` knows its end once there is one."""

    def __init__(self, message: str, *, hint: str, ending: concurrent.futures.Future[Any]) -> None:
        super().__init__(message, hint=hint)
        self.ending = ending


class OperationIdReused(Conflict):
    """An operation id that belongs to another call."""


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A change that somebody asks for under an operation id. `call` is a digest of who asks for what."""

    operation: str
    tool: Tool
    arguments: Mapping[str, Any]
    call: str

    @classmethod
    def of(cls, told: Mapping[str, Any], caller: Caller, tool: Tool, arguments: Mapping[str, Any]) -> ChangeRequest:
        """What a request asks for; without an id it gets one of its own.

        Raises:
            InvalidInput: what is given as an id is none.
        """
        operation = told.get(protocol_keys.OPERATION, "") or str(uuid.uuid4())
        if not isinstance(operation, str) or len(operation) > MAX_ID or text.clean(operation) != operation:
            raise InvalidInput(
                f"`{protocol_keys.OPERATION}` is not an operation id", hint="use a new UUID for every change"
            )
        asked = [caller.how, caller.id, caller.name, tool.name, dict(arguments)]
        words = json.dumps(asked, sort_keys=True, default=str)
        return cls(operation, tool, arguments, hashlib.sha256(words.encode()).hexdigest()[:32])


@dataclass(eq=False, slots=True)
class Operation:
    """One that runs in this process. `entry`: its record in the audit log, once it acts."""

    call: str
    ending: concurrent.futures.Future[JournalEntry] = field(default_factory=concurrent.futures.Future)
    entry: Entry | None = None


class Operations:
    """The operations that run in this process, and the answers to repeats."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._running: dict[str, Operation] = {}
        self._mutex = threading.Lock()

    def claim(self, asked: ChangeRequest) -> tuple[Operation, bool]:
        """The running operation of that id, and whether it is new: then the caller must `settle` it.

        Raises:
            Reused: the id belongs to another call.
        """
        with self._mutex:
            running = self._running.get(asked.operation)
            if running is None:
                running = self._running[asked.operation] = Operation(asked.call)
                return running, True
        _require_same(asked, running.call)
        return running, False

    def settle(self, running: Operation, known: JournalEntry) -> None:
        """Let go of an operation; those that wait for it get its end. From any thread."""
        with self._mutex:
            self._running = {name: one for name, one in self._running.items() if one is not running}
        with suppress(concurrent.futures.InvalidStateError):
            running.ending.set_result(known)

    async def wait_for(self, asked: ChangeRequest, running: Operation) -> Result:
        """Wait for an operation that runs, and give what it gives.

        Raises:
            AnvylError: it failed.
        """
        known = await asyncio.shield(asyncio.wrap_future(running.ending))
        return await self.replay(asked, JournalEntry(running.call, known.end))

    async def replay(self, asked: ChangeRequest, known: JournalEntry) -> Result:
        """What an operation gave that began before.

        Raises:
            AnvylError: it failed, or nobody knows how it ended.
            Reused: it was another call.
        """
        if known.call:
            _require_same(asked, known.call)
        name, end = asked.tool.name, known.end
        if end is not None and "error" in end and end["error"]["code"] not in UNCERTAIN_CODES:
            response_meta.add_meta(protocol_keys.OPERATION, asked.operation)
            raise from_code(**end["error"])
        if end is not None and "ok" in end:
            response_meta.add_meta(protocol_keys.OPERATION, asked.operation)
            with suppress(ValidationError):
                return asked.tool.result.model_validate(end["ok"])
            end = {"dropped": "its result is of another version of Anvyl"}
        seen = await self._observer.describe(asked.tool, asked.arguments)
        response_meta.add_meta(protocol_keys.OPERATION, asked.operation)
        if end is not None and "dropped" in end:
            raise Conflict(f"`{name}` was done already under this operation id, and {end['dropped']}{seen}")
        raise Unknown(
            f"`{name}` began before, and nobody knows how it ended: it may or may not have happened{seen}",
            hint="it is not done a second time under this operation id; look at how things are before you ask anew",
        )


def ending_of(result: Result | None, failure: BaseException | None) -> OperationEnd:
    """How an operation ended, as the journal keeps it; what is secret in `result` must be hidden."""
    if result is not None:
        return {"ok": result.model_dump(mode="json")}
    if isinstance(failure, AnvylError):
        return {"error": failure.as_dict()}
    if isinstance(failure, Exception):
        mistake = InternalError("it failed because of a mistake in Anvyl", hint="the server's log has it")
        return {"error": mistake.as_dict()}
    return {"error": Unknown("it was broken off").as_dict()}


def _require_same(asked: ChangeRequest, call: str) -> None:
    if asked.call != call:
        raise OperationIdReused(
            f"the operation id `{asked.operation}` belongs to another call", hint="use a new id for every change"
        )
