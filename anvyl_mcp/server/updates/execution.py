"""Carries out updates, each step recorded before it is taken, so that another process can finish or take them back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled, ConfigInvalid, Conflict, Incomplete
from anvyl_mcp.server.containers.undo_log import UndoLog
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.registries.image_check import LocalImage
from anvyl_mcp.server.registries.image_facts import short_digest
from anvyl_mcp.server.tool import Result
from anvyl_mcp.server.updates.health_watch import UnhealthyError, watch
from anvyl_mcp.server.updates.kept_images import keep_image, restore_tag
from anvyl_mcp.server.updates.records import UpdateRecord, UpdateRecords, at_step
from anvyl_mcp.server.updates.replacement import NEW, OLD, Replacement

log = logging.getLogger(__name__)

MAX_LOG_LINES = 600
"""Characters of a failed container's log in an error."""

OperationEnd = Mapping[str, Any]
"""How an update ended, in the form of the journal: `{"ok": result}` or `{"error": {…}}`."""
OnEnd = Callable[[UpdateRecord, OperationEnd], None]
AlsoCheck = Callable[[Engine, Mapping[str, str]], None]
"""A further check of the new containers, by id, once they are up; raises `UnhealthyError`."""


class Updated(Result):
    """A container or stack after an update. `pending`: a helper container makes it, and this server restarts."""

    name: str
    updated: bool
    pending: bool = False
    state: str = ""
    current: str = ""
    previous: str = ""
    note: str = ""

    def text(self) -> str:
        """One line."""
        if not self.updated:
            own = f"a helper now replaces {self.name} and restarts this server"
            return own if self.pending else f"{self.name} is already up to date"
        was = f", was {self.previous}" if self.previous else ""
        has = "runs" if self.state in ("", "running") else "is not running, and has"
        return "; ".join(filter(None, [f"{self.name} {has} {self.current}{was}", self.note]))


class Phases(Progress):
    """Progress of a work with several phases that count differently; MCP wants one number that grows."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._before, self._highest = progress, 0.0, 0.0

    def __call__(self, done: float, total: float | None = None, message: str = "") -> None:
        """Report the progress of the current phase."""
        self._highest = max(self._highest, self._before + done)
        self._progress(self._highest, None if total is None else self._before + total, message)

    def begin(self, message: str) -> None:
        """Begin the next phase."""
        self._before = self._highest + 1
        self(0, None, message)

    @property
    def cancelled(self) -> bool:
        """Whether the caller cancelled."""
        return self._progress.cancelled


class Execution:
    """Carries out one recorded update, whose lock the caller holds."""

    def __init__(
        self,
        engine: Engine,
        records: UpdateRecords,
        undo_log: UndoLog,
        *,
        on_end: OnEnd = lambda record, end: None,
        also_check: AlsoCheck = lambda engine, started: None,
        on_going_back: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_end` is called before the record is forgotten; `on_going_back` before an old container starts again."""
        self._engine, self._records, self._undo_log = engine, records, undo_log
        self._on_end, self._also_check, self._on_going_back = on_end, also_check, on_going_back

    def run(self, record: UpdateRecord, phases: Phases) -> Updated:
        """Replace the containers of a record that has begun.

        Raises:
            Conflict: a new container did not come up; the old ones run.
            Cancelled: the caller cancelled; the message says what runs.
            AnvylError: the engine failed; the old ones run.
        """
        subject = record.subject
        try:
            phases.begin(f"creating {text.join_names([part.name for part in record.parts])}")
            replacement = Replacement(self._engine, record.parts).create()
            record = at_step(record, "created", replacement.parts)
            self._records.put(record)
            if phases.cancelled:
                raise Cancelled(f"cancelled; `{subject}` was not changed")
            record = at_step(record, "swapping")
            self._records.put(record)
            phases.begin(f"replacing {subject}")
            replacement.swap()
            record = at_step(record, "watching")
            self._records.put(record)
            phases.begin(f"watching {subject}")
            self._watch(replacement, record.watch, phases)
            return self._finish(record)
        except UnhealthyError as error:
            failure = _did_not_come_up(subject, error)
            self._go_back(record, failure, error)
            raise failure from error
        except Cancelled as error:
            if record.step != "watching":
                self._go_back(record, error)
                raise
            result = self._finish(record)
            raise Cancelled(f"{error.message}; {result.text()}, which was not watched to the end") from error
        except AnvylError as error:
            back = type(error)(f"{error.message}; `{subject}` runs its old image", hint=error.hint)
            self._go_back(record, back)
            raise back from error

    def recover(self, record: UpdateRecord) -> None:
        """Finish or take back the update of a process that died.

        Raises:
            AnvylError: the engine failed; try again later.
        """
        replacement = Replacement(self._engine, record.parts)
        unhealthy: UnhealthyError | None = None
        if record.step in ("watching", "done"):
            try:
                self._watch(replacement, record.watch, Phases(Progress()))
                result = self._finish(record)
                log.warning(
                    "the update of `%s` was interrupted while it was watched: %s", record.subject, result.text()
                )
                return
            except UnhealthyError as error:
                unhealthy = error
        failure = Incomplete(
            f"{'the helper' if record.own else 'the server'} ended during the update of `{record.subject}`; "
            "its old image runs again",
            hint="see the server's log, then try again",
        )
        self._go_back(record, _did_not_come_up(record.subject, unhealthy) if unhealthy else failure, unhealthy)
        log.warning("%s", failure.message)

    def restore_tags(self, tags: Mapping[str, str]) -> None:
        """Let tags name the images that they named before a pull. Never raises."""
        for tag, image in tags.items():
            with suppress(AnvylError):
                restore_tag(self._engine, tag, image)

    def _watch(self, replacement: Replacement, seconds: float, phases: Phases) -> None:
        watch(self._engine, replacement.started, seconds, phases)
        self._also_check(self._engine, replacement.started)

    def _finish(self, record: UpdateRecord) -> Updated:
        """Remove the old containers, keep their images, and record how to go back."""
        changed = [part for part in record.parts if part.image or part.source]
        is_undo = any(part.source for part in changed)
        if not is_undo:
            for part in changed:
                keep_image(self._engine, part.name, str(part.old["Image"]))
            replaced = {part.new_id: part.old for part in changed}
            self._undo_log.add_update(record.operation, record.subject, replaced, record.who)
        kept = "" if is_undo else "the old image is kept for 24 h"
        restarted = [part.name for part in record.parts if part not in changed]
        also = f"{text.join_names(restarted)} joined it again" if restarted else ""
        result = Updated(
            name=record.subject,
            updated=True,
            state=self._engine.inspect(changed[0].new_id)["State"]["Status"],
            current=", ".join(dict.fromkeys(describe_image(self._engine, part.new_id) for part in changed)),
            previous=", ".join(dict.fromkeys(describe(self._engine, part.old) for part in changed)),
            note="; ".join(filter(None, [also, kept])),
        )
        Replacement(self._engine, record.parts).remove_old()
        self._end(record, {"ok": result.model_dump(mode="json")})
        return result

    def _end(self, record: UpdateRecord, end: OperationEnd) -> None:
        """Report the end, and forget the update. It has happened, so a full disk must not turn it into a failure."""
        self._on_end(record, end)
        with suppress(ConfigInvalid):
            self._records.put(at_step(record, "done"))

    def _go_back(self, record: UpdateRecord, reason: AnvylError, unhealthy: UnhealthyError | None = None) -> None:
        """Bring the old containers back, and remember which image did not come up.

        Raises:
            Incomplete: that failed; it is tried again with the next update and at the next start of the server.
        """
        with suppress(ConfigInvalid):
            self._records.put(at_step(record, "going back"))
        try:
            self.restore_tags(record.tags)
            Replacement(self._engine, record.parts).go_back(self._on_going_back)
        except AnvylError as error:
            raise Incomplete(
                f"`{record.subject}` could not be brought back to its old image yet: {error.message}",
                hint="it is tried again at the next update and when the server starts; see anvyl ps --all",
            ) from error
        for part in record.parts if unhealthy else ():
            if part.image and unhealthy and part.name == unhealthy.name:
                with suppress(ConfigInvalid):
                    self._records.note_failure(part.name, part.image, unhealthy.why)
        self._end(record, {"error": reason.as_dict()})


def begin(engine: Engine, records: UpdateRecords, record: UpdateRecord) -> None:
    """Record an update that is about to change something.

    Raises:
        Busy: another one changes one of its containers.
        Conflict: a name that its containers need is taken.
        ConfigInvalid: it cannot be recorded.
    """

    def check_names_free() -> None:
        wanted = {f"{part.name}{ending}" for part in record.parts for ending in (NEW, OLD)}
        if taken := wanted & {own_name(one) for one in engine.containers(all=True)}:
            raise Conflict(
                f"updates need the name `{min(taken)}`, which a container has", hint="rename or remove it first"
            )

    records.begin(record, check_names_free)


def describe_image(engine: Engine, container: str) -> str:
    """Name and version, or digest, of the image of a container."""
    return describe(engine, engine.inspect(container))


def describe(engine: Engine, container: Mapping[str, Any]) -> str:
    """The same for an inspected container."""
    local = LocalImage.read(engine, str(container["Image"]))
    name = text.clean(str(container["Config"]["Image"]))
    name = short_digest(name) if name.startswith("sha256:") else name
    version = local.facts.version if local else ""
    return f"{name} ({version or short_digest((local.pulled if local else '') or str(container['Image']))})"


def _did_not_come_up(subject: str, error: UnhealthyError) -> Conflict:
    said = " / ".join(line.strip() for line in error.lines)[-MAX_LOG_LINES:]
    last = f". Its last log lines: {said}" if said else ""
    which = "it" if error.name == subject else f"`{error.name}`"
    return Conflict(
        f"`{subject}` runs as before, with its old image: with the new one {which} {error.why}{last}",
        hint="see the release notes of the new image: anvyl updates",
    )
