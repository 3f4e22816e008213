"""Updates containers: pull, replace, watch, and go back if a new image does not come up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Cancelled, Conflict, Incomplete, NotFound
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers.undo_log import LoggedChange, UndoLog
from anvyl_mcp.server.engine import pull
from anvyl_mcp.server.engine.engine import Engine, own_name
from anvyl_mcp.server.policy.guardrails import check_labels
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.registries.image_check import ImageChecker, LocalImage
from anvyl_mcp.server.registries.image_facts import age_seconds, short_digest
from anvyl_mcp.server.tool import BOUND_IDS, CHECK_POLICY, CURRENT_TOOL, OPERATION_ID, Injected, Result
from anvyl_mcp.server.updates.available import Candidate, published_age
from anvyl_mcp.server.updates.health_watch import UnhealthyError, watch
from anvyl_mcp.server.updates.kept_images import keep_image, release_images, restore_tag
from anvyl_mcp.server.updates.records import Part, UpdateRecord, UpdateRecords, at_step
from anvyl_mcp.server.updates.replacement import NEW, OLD, Replacement, dependents, in_start_order, name_of

log = logging.getLogger(__name__)

MAX_LOG_LINES = 600
"""Characters of a failed container's log in an error."""

OnRecovered = Callable[[str, Mapping[str, Any]], None]
"""Gets the operation id of an update that a dead process began, and how it ended, in the form of the journal."""


class Updated(Result):
    """A container or stack after an update."""

    name: str
    updated: bool
    state: str = ""
    current: str = ""
    previous: str = ""
    note: str = ""

    def text(self) -> str:
        """One line."""
        if not self.updated:
            return f"{self.name} is already up to date"
        was = f", was {self.previous}" if self.previous else ""
        return "; ".join(filter(None, [f"{self.name} runs {self.current}{was}", self.note]))


@dataclass(frozen=True, slots=True)
class Wish:
    """A container to update, and the image that it is to get: its own tag again, or another image."""

    candidate: Candidate
    container: Mapping[str, Any]
    image: str

    @property
    def same_tag(self) -> bool:
        """Whether the container keeps its image name."""
        return self.image == self.candidate.image


class _Phases(Progress):
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


class Updater(Injected):
    """Updates the containers of this host, and puts right what a killed process left behind."""

    def __init__(
        self, records: UpdateRecords, checker: ImageChecker, undo_log: UndoLog, on_recovered: OnRecovered
    ) -> None:
        self.records, self.checker = records, checker
        self._undo_log, self._on_recovered = undo_log, on_recovered
        self._trouble = ""

    def update(
        self,
        engine: Engine,
        subject: str,
        wishes: Sequence[Wish],
        *,
        min_age: float,
        seconds: float,
        progress: Progress,
    ) -> Updated:
        """Update containers together; the result of one is about it, that of several about all.

        Raises:
            Conflict: a new image is too young, or did not come up; the old ones run.
            Cancelled: the caller cancelled; the message says what runs.
            AnvylError: the engine or a registry failed; the old ones run.
        """
        phases = _Phases(progress)
        self.recover(engine)
        release_images(engine)
        self._check_age_before(engine, wishes, min_age)
        tags = {wish.image: engine.image_id(wish.image) for wish in wishes}
        try:
            parts = self._pull(engine, wishes, min_age, phases)
            if not parts:
                return Updated(name=subject, updated=False, current=_shown(engine, wishes))
            others = dependents(engine, [part.old for part in parts])
            for other in others:
                if called := CURRENT_TOOL.get():
                    check_labels(called, other)
            parts += [Part(name_of(other), other) for other in others]
        except AnvylError:
            self._restore_tags(engine, tags)
            raise
        return self._replace(engine, subject, parts, tags, seconds, phases, "update")

    def undo(self, engine: Engine, change: LoggedChange, progress: Progress) -> str:
        """Replace containers with what they were before an update; return the id of the first one.

        Raises:
            AnvylError: it failed; the current ones run.
        """
        self.recover(engine)
        parts, tags = [], {}
        for identifier, before in change.made_from["parts"].items():
            current = engine.container(identifier)
            parts.append(Part(name_of(current), current, source=before))
            tags[str(before["Config"]["Image"])] = str(before["Image"])
        others = dependents(engine, [part.old for part in parts])
        now = {tag: engine.image_id(tag) for tag in tags}
        self._restore_tags(engine, tags)
        every = [*parts, *(Part(name_of(other), other) for other in others)]
        self._replace(engine, change.name, every, now, 0.0, _Phases(progress), "")
        return str(engine.inspect(parts[0].name)["Id"])

    def recover(self, engine: Engine) -> bool:
        """Finish or take back the updates of processes that died. Never raises; returns whether none is left."""
        for record in self.records.interrupted():
            try:
                with self.records.hold(record):
                    self._recover_one(engine, record)
            except AnvylError as error:
                if error.message != self._trouble:
                    log.warning("the interrupted update of `%s` cannot be put right yet: %s", record.subject, error)
                self._trouble = error.message
        return not self.records.interrupted()

    def _recover_one(self, engine: Engine, record: UpdateRecord) -> None:
        replacement = Replacement(engine, record.parts)
        if record.step in ("watching", "done"):
            with suppress(UnhealthyError):
                watch(engine, replacement.started, record.watch, Progress())
                result = self._finish(engine, record, "update")
                log.warning(
                    "the update of `%s` was interrupted while it was watched: %s", record.subject, result.text()
                )
                self._on_recovered(record.operation, {"ok": result.model_dump(mode="json")})
                return
        self.records.put(at_step(record, "going back"))
        self._restore_tags(engine, record.tags)
        replacement.go_back()
        self.records.put(at_step(record, "done"))
        error = Incomplete(
            f"the server ended during the update of `{record.subject}`; its old image runs again",
            hint="see the server's log, then try again",
        )
        log.warning("%s", error.message)
        self._on_recovered(record.operation, {"error": error.as_dict()})

    def _check_age_before(self, engine: Engine, wishes: Sequence[Wish], min_age: float) -> None:
        """Refuse before a pull what would be refused after it. What a registry does not tell is checked after it."""
        if not min_age:
            return
        pairs = [
            (one.candidate.reference, one.candidate.local)
            for one in wishes
            if one.same_tag and one.candidate.reference and one.candidate.local and one.candidate.local.pulled
        ]
        for (reference, _), found in zip(pairs, self.checker.check(engine, pairs, refresh=True), strict=True):
            if found.newer and (age := published_age(found)) < min_age:
                raise _too_young(f"{reference.repository}:{reference.tag}", age, min_age)

    def _pull(self, engine: Engine, wishes: Sequence[Wish], min_age: float, phases: _Phases) -> list[Part]:
        """Pull the images, and return the containers whose image is another one now."""
        parts, pulled = [], dict[str, str]()
        for wish in wishes:
            if wish.image not in pulled:
                phases.begin(f"pulling {wish.image}")
                local = wish.candidate.local
                if not wish.same_tag or local is None or local.pulled:
                    pull.pull_image(engine, wish.image, phases)
                pulled[wish.image] = engine.image_id(wish.image)
                key = "image", wish.image
                BOUND_IDS.set({**BOUND_IDS.get(), key: pulled[wish.image]})
                CHECK_POLICY.get()()
            new = pulled[wish.image]
            if new == wish.container["Image"]:
                continue
            self._check_age_after(engine, wish, new, min_age)
            parts.append(Part(name_of(wish.container), wish.container, new, "" if wish.same_tag else wish.image))
        return parts

    def _check_age_after(self, engine: Engine, wish: Wish, new: str, min_age: float) -> None:
        """The pulled image decides: its tag may have moved since the registry was asked."""
        local = LocalImage.read(engine, new)
        age = age_seconds(local.facts.created) if local and local.facts.created and local.pulled else None
        if age is not None and age < min_age:
            raise _too_young(wish.image, age, min_age)

    def _replace(
        self,
        engine: Engine,
        subject: str,
        parts: Sequence[Part],
        tags: Mapping[str, str],
        seconds: float,
        phases: _Phases,
        did: str,
    ) -> Updated:
        """Replace the containers, each step recorded before it is taken."""
        who = CURRENT_CALLER.get().name
        parts = in_start_order(parts)
        record = UpdateRecord(OPERATION_ID.get(), subject, who, time.time(), seconds, tuple(parts), tags)
        with self.records.hold(record):
            try:
                self.records.begin(record, lambda: _check_names_free(engine, parts))
            except AnvylError:
                self._restore_tags(engine, tags)
                raise
            try:
                phases.begin(f"creating {text.join_names([part.name for part in parts])}")
                replacement = Replacement(engine, record.parts).create()
                record = at_step(record, "created", replacement.parts)
                self.records.put(record)
                if phases.cancelled:
                    raise Cancelled(f"cancelled; `{subject}` was not changed")
                record = at_step(record, "swapping")
                self.records.put(record)
                phases.begin(f"replacing {subject}")
                replacement.swap()
                record = at_step(record, "watching")
                self.records.put(record)
                phases.begin(f"watching {subject}")
                watch(engine, replacement.started, seconds, phases)
                return self._finish(engine, record, did)
            except UnhealthyError as error:
                self._go_back(engine, record)
                for part in record.parts:
                    if part.image and part.name == error.name:
                        self.records.note_failure(part.name, part.image, error.why)
                raise _did_not_come_up(subject, error) from error
            except Cancelled as error:
                if record.step != "watching":
                    self._go_back(engine, record)
                    raise
                result = self._finish(engine, record, did)
                raise Cancelled(f"{error.message}; {result.text()}, which was not watched to the end") from error
            except AnvylError as error:
                self._go_back(engine, record)
                raise type(error)(f"{error.message}; `{subject}` runs its old image", hint=error.hint) from error

    def _finish(self, engine: Engine, record: UpdateRecord, did: str) -> Updated:
        """Remove the old containers, keep their images, and record how to go back."""
        changed = [part for part in record.parts if part.image or part.source]
        for part in changed if did else ():
            keep_image(engine, part.name, str(part.old["Image"]))
        if did:
            replaced = {part.new_id: part.old for part in changed}
            self._undo_log.add_update(record.operation, record.subject, replaced, record.who)
        Replacement(engine, record.parts).remove_old()
        self.records.put(at_step(record, "done"))
        first = changed[0]
        kept = "the old image is kept for 24 h" if did else ""
        restarted = [part.name for part in record.parts if part not in changed]
        also = f"{text.join_names(restarted)} joined it again" if restarted else ""
        return Updated(
            name=record.subject,
            updated=True,
            state=engine.inspect(first.new_id)["State"]["Status"],
            current=", ".join(dict.fromkeys(describe_image(engine, part.new_id) for part in changed)),
            previous=", ".join(dict.fromkeys(_describe(engine, part.old) for part in changed)),
            note="; ".join(filter(None, [also, kept])),
        )

    def _go_back(self, engine: Engine, record: UpdateRecord) -> None:
        """Bring the old containers back.

        Raises:
            Incomplete: that failed; it is tried again with the next update and at the next start of the server.
        """
        self.records.put(at_step(record, "going back"))
        try:
            self._restore_tags(engine, record.tags)
            Replacement(engine, record.parts).go_back()
        except AnvylError as error:
            raise Incomplete(
                f"`{record.subject}` could not be brought back to its old image yet: {error.message}",
                hint="it is tried again at the next update and when the server starts; see anvyl ps --all",
            ) from error
        self.records.put(at_step(record, "done"))

    def _restore_tags(self, engine: Engine, tags: Mapping[str, str]) -> None:
        for tag, image in tags.items():
            with suppress(AnvylError):
                restore_tag(engine, tag, image)


def _check_names_free(engine: Engine, parts: Sequence[Part]) -> None:
    """Return if the names that containers have while they are replaced are free."""
    wanted = {f"{part.name}{ending}" for part in parts for ending in (NEW, OLD)}
    if taken := wanted & {own_name(one) for one in engine.containers(all=True)}:
        raise Conflict(f"updates need the name `{min(taken)}`, which a container has", hint="rename or remove it first")


def check_undoable(engine: Engine, change: LoggedChange) -> None:
    """Return if the containers of an update are still those that it made, and their old images still exist.

    Raises:
        Conflict: they are not.
    """
    for identifier, before in change.made_from["parts"].items():
        name = name_of(before)
        try:
            engine.inspect(identifier)
        except NotFound as error:
            raise Conflict(f"`{name}` was removed or replaced since its update") from error
        if not engine.image_id(str(before["Image"])):
            raise Conflict(f"the image of `{name}` before its update is no longer on this host")


def describe_image(engine: Engine, container: str) -> str:
    """Name and version, or digest, of the image of a container."""
    return _describe(engine, engine.inspect(container))


def _describe(engine: Engine, container: Mapping[str, Any]) -> str:
    local = LocalImage.read(engine, str(container["Image"]))
    name = text.clean(str(container["Config"]["Image"]))
    version = local.facts.version if local else ""
    return f"{name} ({version or short_digest((local.pulled if local else '') or str(container['Image']))})"


def _shown(engine: Engine, wishes: Sequence[Wish]) -> str:
    return ", ".join(dict.fromkeys(_describe(engine, wish.container) for wish in wishes))


def _too_young(image: str, age: float, min_age: float) -> Conflict:
    since = "just now" if age < 60 else f"{text.format_duration(age)} ago"
    return Conflict(
        f"nothing was changed: the new image of {image} was made {since}, less than {text.format_duration(min_age)}",
        hint="wait, or take it now: anvyl update NAME --now",
        call_hint="wait, or set min_age to 0 if the user wants it now",
    )


def _did_not_come_up(subject: str, error: UnhealthyError) -> Conflict:
    said = " / ".join(line.strip() for line in error.lines)[-MAX_LOG_LINES:]
    last = f". Its last log lines: {said}" if said else ""
    other = f"`{error.name}` " if error.name != subject else "it "
    return Conflict(
        f"`{subject}` was not updated: with the new image {other}{error.why}. Its old image runs again{last}",
        hint="see the release notes of the new image: anvyl updates",
    )
