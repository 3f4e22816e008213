"""Show and undo the last reversible change on this host."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Conflict, NotFound
from anvyl_mcp.server.containers.recreate import Recreation
from anvyl_mcp.server.containers.undo_log import RUNNING_STATES, LoggedChange, UndoLog
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.tool import ContainerName, Result, Time, tool
from anvyl_mcp.server.tools import containers
from anvyl_mcp.server.tools.containers import ContainerState
from anvyl_mcp.server.updates.update import Updater, check_undoable

PAST_TENSE = {"start": "started", "stop": "stopped", "remove": "removed", "update": "updated"}


class LastChange(Result):
    """The last reversible change; `operation` is empty if there is none."""

    operation: str = ""
    name: str = ""
    did: str = ""
    by: str = ""
    time: Time = ""
    undo: str = ""
    possible: bool = False
    reason: str = ""
    lost: list[str] = Field(default_factory=list)

    def text(self) -> str:
        """One line for the change, then one for each loss."""
        if not self.operation:
            return "nothing to undo: nothing was started, stopped, removed or updated through Anvyl in 24 hours"
        what = f"{self.undo} ({PAST_TENSE.get(self.did, self.did)} {text.format_age(self.time)} by {self.by})"
        if not self.possible:
            return f"cannot {what}: {self.reason}"
        return "\n".join([what, *(f"  {one}" for one in self.lost)])


@tool(about="undo, last change, last action, take back, roll back, revert", seconds=20)
def get_last_change(engine: Engine, undo_log: UndoLog) -> LastChange:
    """Show the last change that can be undone."""
    change = undo_log.last()
    if change is None:
        return LastChange()
    last = LastChange(
        operation=change.operation,
        name=change.name,
        did=change.did,
        by=change.who,
        time=datetime.fromtimestamp(change.at, UTC).isoformat(timespec="seconds"),
        undo=_describe_undo(change),
    )
    try:
        _check(engine, change)
    except (Conflict, NotFound) as error:
        return last.model_copy(update={"reason": error.message})
    lost = Recreation(change).losses(engine) if change.did == "remove" else []
    return last.model_copy(update={"possible": True, "lost": lost})


@tool(changes=True, seconds=CHANGE_TIMEOUT)
def undo_change(
    name: ContainerName,
    operation: Annotated[str, Field(description="of get_last_change", min_length=1)],
    engine: Engine,
    undo_log: UndoLog,
    updater: Updater,
    progress: Progress,
) -> ContainerState:
    """Undo a start, stop, removal or update."""
    change = undo_log.find(operation, name)
    if change.did == "update":
        _check(engine, change)
        now = updater.undo(engine, change, progress)
        undo_log.forget(operation, now=(change.id, now))
        return containers.state_of(engine, {"Id": now})
    again = _recreate if change.did == "remove" else _start_or_stop
    now = again(engine, undo_log, change)
    undo_log.forget(operation, now=(change.id, now))
    return containers.state_of(engine, {"Id": now})


def _start_or_stop(engine: Engine, undo_log: UndoLog, change: LoggedChange) -> str:
    undo_log.permit(
        containers.stop_container if change.did == "start" else containers.start_container, _arguments(change)
    )
    _check(engine, change)
    container = engine.container(change.id)
    client = engine.client(CHANGE_TIMEOUT)
    with engine_errors(missing=lambda: engine.missing_container(change.name), doing=f"to {_describe_undo(change)}"):
        if change.did == "start":
            client.stop(container["Id"], timeout=10)
        else:
            client.start(container["Id"])
    return change.id


def _recreate(engine: Engine, undo_log: UndoLog, change: LoggedChange) -> str:
    recreation = Recreation(change)
    recreation.check_rights(containers.create_container, undo_log.permit, engine)
    recreation.check(engine)
    return recreation.create(engine)


def _check(engine: Engine, change: LoggedChange) -> None:
    """Return if the container is still in the state that the change left.

    Raises:
        Conflict: it is not.
    """
    if change.stack:
        verb = "stop" if change.did == "start" else "start"
        raise Conflict(
            f"`{change.name}` was {PAST_TENSE[change.did]} with the whole stack `{change.stack}`",
            hint=f"{verb} the stack instead: anvyl stack {verb} {change.stack}",
        )
    if change.did == "remove":
        Recreation(change).check(engine)
        return
    if change.did == "update":
        check_undoable(engine, change)
        return
    try:
        status = engine.inspect(change.id)["State"]["Status"]
    except NotFound as error:
        raise Conflict(
            f"the container `{change.name}`, which was {PAST_TENSE[change.did]}, no longer exists"
        ) from error
    if (status in RUNNING_STATES) != (change.did == "start"):
        raise Conflict(f"`{change.name}` is already {status}, so there is nothing to undo")


def _describe_undo(change: LoggedChange) -> str:
    if change.did == "remove":
        recreation = Recreation(change)
        start = " and start it" if recreation.was_running else ""
        return f"create {change.name} again from {recreation.image}{start}"
    if change.did == "update":
        return f"put {change.name} back to its image before the update"
    return f"{'stop' if change.did == 'start' else 'start'} {change.name}"


def _arguments(change: LoggedChange) -> dict[str, Any]:
    return {"name": change.name}
