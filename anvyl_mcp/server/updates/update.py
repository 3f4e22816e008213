"""Updates containers: pull, check the age of the new image, and replace together what belongs together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Conflict, Incomplete, NotFound
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers import own_container
from anvyl_mcp.server.containers.undo_log import LoggedChange, UndoLog
from anvyl_mcp.server.engine import pull
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.policy.guardrails import check_labels
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.registries.image_check import ImageChecker, LocalImage
from anvyl_mcp.server.registries.image_facts import age_seconds
from anvyl_mcp.server.tool import BOUND_IDS, CHECK_POLICY, CURRENT_TOOL, OPERATION_ID, Injected
from anvyl_mcp.server.updates import helper
from anvyl_mcp.server.updates.available import Candidate, published_age
from anvyl_mcp.server.updates.execution import Execution, OperationEnd, Phases, Updated, begin, describe
from anvyl_mcp.server.updates.kept_images import release_images
from anvyl_mcp.server.updates.records import Part, UpdateRecord, UpdateRecords, at_step
from anvyl_mcp.server.updates.replacement import dependents, in_start_order, name_of

log = logging.getLogger(__name__)

OnRecovered = Callable[[str, OperationEnd], None]
"""Gets the operation id of an update that a dead process began, and how it ended, in the form of the journal."""


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
        """Update containers together, the one that this server runs in last; the result is about all of them.

        Raises:
            Conflict: a new image is too young, or did not come up; the old ones run.
            Cancelled: the caller cancelled; the message says what runs.
            Denied: the caller may not replace the container that this server runs in.
            AnvylError: the engine or a registry failed; the old ones run.
        """
        own = [wish for wish in wishes if own_container.is_own(wish.container)]
        for wish in own:
            helper.check_replaceable(wish.container, self.records.folder)
        phases = Phases(progress)
        self.recover(engine)
        release_images(engine)
        self._check_age_before(engine, wishes, min_age)
        rest = [wish for wish in wishes if wish not in own]
        done = self._update(engine, subject, rest, min_age, seconds, phases) if rest else None
        if not own:
            assert done is not None
            return done
        last = self._update(engine, name_of(own[0].container), own, min_age, seconds, phases)
        if done is None or not done.updated:
            return last
        note = "; ".join(filter(None, [done.note, last.text() if last.pending else ""]))
        return done.model_copy(update={"pending": last.pending, "note": note})

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
        Execution(engine, self.records, self._undo_log).restore_tags(tags)
        every = [*parts, *(Part(name_of(other), other) for other in others)]
        self._replace(engine, change.name, every, now, 0.0, Phases(progress))
        return str(engine.inspect(parts[0].name)["Id"])

    def tend(self, engine: Engine) -> bool:
        """Put right what dead processes left, and remove what was kept long enough. Never raises; as `recover`."""
        done = self.recover(engine)
        release_images(engine)
        return done

    def recover(self, engine: Engine) -> bool:
        """Finish or take back the updates of processes that died. Never raises; returns whether none is left."""
        for found in self.records.interrupted():
            try:
                with self.records.hold(found):
                    # Another process may have put it right meanwhile.
                    if record := self.records.find(found.operation):
                        self._recover(engine, record)
            except AnvylError as error:
                if error.message != self._trouble:
                    log.warning("the interrupted update of `%s` cannot be put right yet: %s", found.subject, error)
                self._trouble = error.message
        return not self.records.running()

    def _recover(self, engine: Engine, record: UpdateRecord) -> None:
        execution = Execution(
            engine,
            self.records,
            self._undo_log,
            on_end=lambda ended, end: self._on_recovered(ended.operation, end),
        )
        if not record.own:
            execution.recover(record)
        elif record.step != "waiting":
            helper.start(engine, record)
        elif not helper.exists(engine, record):
            execution.restore_tags(record.tags)
            self.records.put(at_step(record, "done"))
            failure = Incomplete(f"the server ended before `{record.subject}` was updated", hint="try again")
            self._on_recovered(record.operation, {"error": failure.as_dict()})

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

    def _update(
        self, engine: Engine, subject: str, wishes: Sequence[Wish], min_age: float, seconds: float, phases: Phases
    ) -> Updated:
        tags = {wish.image: engine.image_id(wish.image) for wish in wishes}
        try:
            parts = self._pull(engine, wishes, min_age, phases)
            if not parts:
                shown = dict.fromkeys(describe(engine, wish.container) for wish in wishes)
                return Updated(name=subject, updated=False, current=", ".join(shown))
            others = dependents(engine, [part.old for part in parts])
            for other in others:
                if called := CURRENT_TOOL.get():
                    check_labels(called, other)
            parts += [Part(name_of(other), other) for other in others]
        except AnvylError:
            Execution(engine, self.records, self._undo_log).restore_tags(tags)
            raise
        return self._replace(engine, subject, parts, tags, seconds, phases)

    def _pull(self, engine: Engine, wishes: Sequence[Wish], min_age: float, phases: Phases) -> list[Part]:
        """Pull the images, and return the containers whose image is another one now."""
        parts, pulled = [], dict[str, str]()
        for wish in wishes:
            if wish.image not in pulled:
                phases.begin(f"pulling {wish.image}")
                local = wish.candidate.local
                if not wish.same_tag or local is None or local.pulled or not engine.image_id(wish.image):
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
        phases: Phases,
    ) -> Updated:
        """Replace the containers, or let a helper do that if this server runs in one of them."""
        own = [part for part in parts if own_container.is_own(part.old)]
        record = UpdateRecord(
            OPERATION_ID.get(),
            subject,
            CURRENT_CALLER.get().name,
            time.time(),
            seconds,
            tuple(in_start_order(parts)),
            tags,
            "waiting" if own else "created",
            own[0].name if own else "",
        )
        execution = Execution(engine, self.records, self._undo_log)
        with self.records.hold(record):
            try:
                own_container.check_keeps_engine(engine, [part.old for part in parts])
                for part in own:
                    helper.check_replaceable(part.old, self.records.folder)
                begin(engine, self.records, record)
            except AnvylError:
                execution.restore_tags(tags)
                raise
            if not own:
                return execution.run(record, phases)
            try:
                phases.begin(f"starting a helper that replaces {record.own}")
                helper.start(engine, record)
            except AnvylError:
                execution.restore_tags(tags)
                self.records.put(at_step(record, "done"))
                raise
        return Updated(name=subject, updated=False, pending=True, note=helper.NOTE)


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


def _too_young(image: str, age: float, min_age: float) -> Conflict:
    since = "just now" if age < 60 else f"{text.format_duration(age)} ago"
    return Conflict(
        f"nothing was changed: the new image of {image} was made {since}, less than {text.format_duration(min_age)}",
        hint="wait, or take it now: anvyl update NAME --now",
        call_hint="wait, or set min_age to 0 if the user wants it now",
    )
