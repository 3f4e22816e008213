"""Log of this host's last reversible changes to containers, for `anvyl undo`.

It stores the configuration of removed containers including their environment, so only the owner may read the file and
no tool returns its content.
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
"""Changes kept in the log."""
MAX_AGE_SECONDS = 24 * 3600.0
"""How long a change is kept."""
MAX_SIZE = 256 * 1024
"""Characters of one container's configuration as JSON; a larger one is not recorded."""
RECORDED_FIELDS = ("Config", "HostConfig", "Image", "Mounts")
"""Parts of an inspected container needed to recreate it, besides its networks and its state."""
RUNNING_STATES = ("running", "restarting", "paused")
UNCERTAIN_ERRORS = (Timeout, Unknown, EngineError)
"""Errors after which the change may have happened."""

ChangeKind = Literal["start", "stop", "remove", "update"]
EXPECTED_STATES: Mapping[ChangeKind, ExpectedState] = {"start": "running", "stop": "stopped"}
"""State of a container after each kind of change; a removed one has none."""
PolicyCheck = Callable[[Tool, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class LoggedChange:
    """One change. `made_from`: configuration of a removed container, or by id of the new container those of updated
    ones (`parts`); empty for other changes.
    """

    operation: str
    did: ChangeKind
    id: str
    name: str
    who: str
    at: float
    made_from: Mapping[str, Any]
    stack: str = ""
    """The stack that was started or stopped as a whole, of which this was one container."""


class UndoLog(Injected):
    """Changes on this host that can be undone. Safe for use by several processes."""

    def __init__(self, file: Path, permit: PolicyCheck) -> None:
        """`permit` raises `Denied` if the policy does not allow the caller to call a tool with these arguments."""
        self.permit = permit
        self._file: SecretFile[list[LoggedChange]] = SecretFile(
            file,
            parse=lambda raw: [LoggedChange(**one) for one in raw["changes"]],
            dump=lambda changes: {"changes": [asdict(one) for one in changes]},
            start=[],
        )

    def last(self) -> LoggedChange | None:
        """The newest change.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        return next(iter(reversed(_recent(self._file.read()))), None)

    def expected_states(self) -> dict[str, ExpectedState]:
        """State that the last start or stop of each container requested, by id; empty if the file is unusable."""
        with suppress(ConfigInvalid):
            done = {change.id: change.did for change in _recent(self._file.read())}
            return {id_: EXPECTED_STATES[did] for id_, did in done.items() if did in EXPECTED_STATES}
        return {}

    def find(self, operation: str, name: str) -> LoggedChange:
        """The change with this operation id and container name.

        Raises:
            NotFound: it was undone already, or is too old.
            ConfigInvalid: the file cannot be used.
        """
        for change in _recent(self._file.read()):
            if change.operation == operation and name in (change.name, change.id, change.id[:12]):
                return change
        raise NotFound(
            f"there is no such change of `{name}` to undo: it was undone already, or is more than 24 hours old",
            hint="get the last change again",
        )

    @contextmanager
    def record(self, did: ChangeKind, container: Mapping[str, Any], *, stack: str = "") -> Iterator[None]:
        """Record a change before it is made; remove the record if the change surely failed. `stack`: it is part of a
        change of a whole stack.

        Raises:
            Denied: the removal of a container cannot be recorded.
        """
        ran = container["State"]["Status"] in RUNNING_STATES
        if (did == "start" and ran) or (did == "stop" and not ran):
            yield
            return
        operation = self._write(did, container, stack)
        try:
            yield
        except AnvylError as error:
            if not isinstance(error, UNCERTAIN_ERRORS):
                with suppress(ConfigInvalid):
                    self.forget(operation)
            raise

    def add_update(self, operation: str, subject: str, replaced: Mapping[str, Mapping[str, Any]], who: str) -> None:
        """Record an update. `replaced`: inspections of the old containers, by id of the new ones."""
        parts = {new: {**_recreation_data(old), "Name": old["Name"], "Id": old["Id"]} for new, old in replaced.items()}
        if len(json.dumps(parts)) > MAX_SIZE:
            log.warning("the configuration of `%s` is too large to record: its update cannot be undone", subject)
            return
        change = LoggedChange(operation, "update", next(iter(parts)), subject, who, time.time(), {"parts": parts})
        with suppress(ConfigInvalid), self._file.edit() as changes:
            changes[:] = [*_recent(changes), change][-MAX_CHANGES:]

    def forget(self, operation: str, *, now: tuple[str, str] | None = None) -> None:
        """Remove a change that was undone. `now`: old and new id of the container, which differ if it was recreated.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        old, new = now or ("", "")
        with self._file.edit() as changes:
            left = [one for one in _recent(changes) if one.operation != operation]
            changes[:] = [replace(one, id=new) if one.id == old else one for one in left]

    def _write(self, did: ChangeKind, container: Mapping[str, Any], stack: str) -> str:
        made_from = _recreation_data(container) if did == "remove" else {}
        if len(json.dumps(made_from)) > MAX_SIZE:
            log.warning(
                "the configuration of `%s` is too large to record: its removal cannot be undone", container["Name"]
            )
            return ""
        name = container["Name"].lstrip("/")
        caller = CURRENT_CALLER.get().name
        change = LoggedChange(OPERATION_ID.get(), did, container["Id"], name, caller, time.time(), made_from, stack)
        try:
            with self._file.edit() as changes:
                changes[:] = [*_recent(changes), change][-MAX_CHANGES:]
        except ConfigInvalid as error:
            if did == "remove":
                raise Denied(
                    f"`{name}` was not removed, because its configuration could not be recorded: {error.message}",
                    hint=error.hint,
                ) from error
            log.warning("a change cannot be undone later: %s", error.message)
        return change.operation


def _recreation_data(container: Mapping[str, Any]) -> dict[str, Any]:
    networks = container["NetworkSettings"]["Networks"]
    state = {"Status": container["State"]["Status"]}
    kept = {name: container.get(name) for name in RECORDED_FIELDS}
    return {**kept, "NetworkSettings": {"Networks": networks}, "State": state}


def _recent(changes: list[LoggedChange]) -> list[LoggedChange]:
    """Changes of the last 24 hours, also if the clock was set back."""
    return [one for one in changes if abs(time.time() - one.at) < MAX_AGE_SECONDS]
