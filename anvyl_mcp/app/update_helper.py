"""The program of the helper container that replaces the container of a server: `anvyl_mcp.server.updates.helper`."""

from __future__ import annotations

import logging
import sys
from functools import partial

from anvyl_mcp.app.installation.home_format import restore_home
from anvyl_mcp.core import serve_lock
from anvyl_mcp.core.settings import Settings, load
from anvyl_mcp.server.audit.events import SELF
from anvyl_mcp.server.containers.undo_log import UndoLog
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.history.recorder import ChangeLog
from anvyl_mcp.server.history.store import HistoryStore
from anvyl_mcp.server.http.host_state import HostState
from anvyl_mcp.server.updates import helper
from anvyl_mcp.server.updates.execution import Execution, OperationEnd
from anvyl_mcp.server.updates.records import UpdateRecord, UpdateRecords

TOOL = "replace_server"
"""Name of what helpers do, in the audit log and in the history."""


class Report:
    """Writes how an update ended to where the new server finds it: journal, audit log and history."""

    def __init__(self, settings: Settings) -> None:
        self._state = HostState(settings.state_dir)
        self._history = ChangeLog(HistoryStore(settings.state_dir / "history"))

    def begin(self, record: UpdateRecord) -> None:
        """Name the update as the cause of what happens to its containers."""
        names = [f"container {part.name}" for part in record.parts]
        self._history.begin(_own_operation(record), record.who, TOOL, names)

    def end(self, record: UpdateRecord, end: OperationEnd) -> None:
        """Write the end."""
        error = end.get("error") or {}
        self._state.journal.end(record.operation, end)
        entry = self._state.audit.begin(
            TOOL, {"name": record.own}, who=record.who, how=SELF, operation=record.operation, changes=False
        )
        self._state.audit.end(entry, "failed" if error else "ok", str(error.get("code") or ""))
        self._history.end(_own_operation(record), str(error.get("code") or "ok"))


def _own_operation(record: UpdateRecord) -> str:
    """The operation id itself belongs to the call that started the helper."""
    return f"{record.operation}/{TOOL}"


def main() -> None:
    """Replace the container of a server; the argument is the id of the recorded operation."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    operation, settings, engine = sys.argv[1], load(), Engine()
    records, report = UpdateRecords(settings.state_dir), Report(settings)
    if record := records.find(operation):
        report.begin(record)
        execution = Execution(
            engine,
            records,
            UndoLog(settings.state_dir / "undo.json", lambda tool, arguments: None),
            on_end=report.end,
            also_check=partial(
                helper.check_answers, own=record.own, server_file=serve_lock.server_file(settings.run_dir)
            ),
            on_going_back=partial(restore_home, settings.config_dir, settings.state_dir),
        )
        helper.run(engine, records, execution, operation)
    helper.remove_itself(engine, operation)


if __name__ == "__main__":
    main()
