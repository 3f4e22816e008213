"""The last changes of containers that have an inverse, as this host remembers them: for `anvyl undo`.

What a removed container was made from is kept with its environment, so the file is its owner's only, and what stands in
it is told to nobody.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, Denied, EngineError, NotFound, Timeout, Unknown
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.auth.secret_file import SecretFile
from anvyl_mcp.server.containers.problems import ExpectedState
from anvyl_mcp.server.tool import OPERATION_ID, Injected, Tool

log = logging.getLogger(__name__)

MAX_CHANGES = 50
"""Changes that are remembered."""
MAX_AGE_SECONDS = 24 * 3600.0
"""How long each is."""
MAX_SIZE = 256 * 1024
"""Bytes of what one container was made from; a larger one cannot be made again."""
RECORDED_FIELDS = ("Config", "HostConfig", "Image", "Mounts")
"""What of an inspected container it can be made from again, beside its networks and its state."""
RUNNING_STATES = ("running", "restarting", "paused")
UNCERTAIN_ERRORS = (Timeout, Unknown, EngineError)
"""Errors after which the change may have happened."""

ChangeKind = Literal["start", "stop", "remove"]
EXPECTED_STATES: Mapping[ChangeKind, ExpectedState] = {"start": "running", "stop": "stopped"}
"""What a container should be after a change; a removed one is gone."""
PolicyCheck = Callable[[Tool, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class UndoableChange:
    """One change. `made_from`: what the engine said of a container before it was removed; empty for the others."""

    operation: str
    did: ChangeKind
    id: str
    name: str
    who: str
    at: float
    made_from: Mapping[str, Any]


class UndoLog(Injected):
    """The changes of this host that can be undone. Several processes may use it."""

    def __init__(self, file: Path, permit: PolicyCheck) -> None:
        """`permit` raises `Denied` when the policy does not leave a call to who acts."""
        self.permit = permit
        self._file: SecretFile[list[UndoableChange]] = SecretFile(
            file,
            parse=lambda raw: [UndoableChange(**one) for one in raw["changes"]],
            dump=lambda changes: {"changes": [asdict(one) for one in changes]},
            start=[],
        )

    def last(self) -> UndoableChange | None:
        """The newest.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        return next(iter(reversed(_recent(self._file.read()))), None)

    def expected_states(self) -> dict[str, ExpectedState]:
        """What the last start or stop of each container was for, by its id; nothing when the file cannot be used."""
        with suppress(ConfigInvalid):
            done = {change.id: change.did for change in _recent(self._file.read())}
            return {id_: EXPECTED_STATES[did] for id_, did in done.items() if did in EXPECTED_STATES}
        return {}

    def find(self, operation: str, name: str) -> UndoableChange:
        """One of them.

        Raises:
            NotFound: it was undone, or is too old.
            ConfigInvalid: the file cannot be used.
        """
        for change in _recent(self._file.read()):
            if change.operation == operation and name in (change.name, change.id, change.id[:12]):
                return change
        raise NotFound(
            f"there is no such change of `{name}` to undo: it was undone already, or is too long ago",
            hint="ask for the last change again",
        )

    @contextmanager
    def record(self, did: ChangeKind, container: Mapping[str, Any]) -> Iterator[None]:
        """Remember a change before it is made; forget it again when it surely was not.

        Raises:
            Denied: what is to be removed cannot be written down.
        """
        ran = container["State"]["Status"] in RUNNING_STATES
        if (did == "start" and ran) or (did == "stop" and not ran):
            yield
            return
        operation = self._write(did, container)
        try:
            yield
        except AnvylError as error:
            if not isinstance(error, UNCERTAIN_ERRORS):
                with suppress(ConfigInvalid):
                    self.forget(operation)
            raise

    def forget(self, operation: str, *, now: tuple[str, str] | None = None) -> None:
        """A change was undone. `now`: the id of a container that has another one since, and the new one.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        old, new = now or ("", "")
        with self._file.edit() as changes:
            left = [one for one in _recent(changes) if one.operation != operation]
            changes[:] = [replace(one, id=new) if one.id == old else one for one in left]

    def _write(self, did: ChangeKind, container: Mapping[str, Any]) -> str:
        made_from = _recreation_data(container) if did == "remove" else {}
        if len(json.dumps(made_from)) > MAX_SIZE:
            log.warning("`%s` is too large to be remembered: it cannot be made again", container["Name"])
            return ""
        name = container["Name"].lstrip("/")
        caller = CURRENT_CALLER.get().name
        change = UndoableChange(OPERATION_ID.get(), did, container["Id"], name, caller, time.time(), made_from)
        try:
            with self._file.edit() as changes:
                changes[:] = [*_recent(changes), change][-MAX_CHANGES:]
        except ConfigInvalid as error:
            if did == "remove":
                raise Denied(
                    f"`{name}` was not removed, because it could not be remembered: {error.message}", hint=error.hint
                ) from error
            log.warning("a change will not be undoable: %s", error.message)
        return change.operation


def _recreation_data(container: Mapping[str, Any]) -> dict[str, Any]:
    networks = container["NetworkSettings"]["Networks"]
    state = {"Status": container["State"]["Status"]}
    kept = {name: container.get(name) for name in RECORDED_FIELDS}
    return {**kept, "NetworkSettings": {"Networks": networks}, "State": state}


def _recent(changes: list[UndoableChange]) -> list[UndoableChange]:
    """Those that are not too old; the clock may have jumped."""
    return [one for one in changes if abs(time.time() - one.at) < MAX_AGE_SECONDS]
