"""Updates that are under way or failed, on disk: a server that was killed must know what to put right.

The file has the configuration of containers, including secrets in their environment, so only its owner may read it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.errors import Busy, ConfigInvalid
from anvyl_mcp.server.auth.secret_file import SecretFile

KEEP_SECONDS = 24 * 3600.0
"""How long an old image is kept."""
FAILURE_SECONDS = 14 * KEEP_SECONDS
MOST_FAILURES = 100

Step = Literal["waiting", "created", "swapping", "watching", "going back", "done"]
"""`waiting`: a helper is to begin. `created`: the old containers still run. `swapping`: they are stopped, and new ones
started.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One container that is replaced. `old`: its inspection."""

    name: str
    old: Mapping[str, Any]
    image: str = ""
    """Id of its new image; empty to keep the configuration and image of `source`."""
    reference: str = ""
    """Name of the new image, if it is another one."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """An earlier inspection to go back to, instead of `old`."""
    new_id: str = ""

    @property
    def old_id(self) -> str:
        """Id of the old container."""
        return str(self.old["Id"])


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """An update that is under way. `tags`: for each pulled tag, the image that it named before."""

    operation: str
    subject: str
    who: str
    at: float
    watch: float
    parts: tuple[Part, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    step: Step = "created"
    own: str = ""
    """Name of the container among them in which the server runs: only a helper can replace that one."""


@dataclass(frozen=True, slots=True)
class FailedUpdate:
    """An update that was taken back, so that a list can say so."""

    name: str
    image: str
    at: float
    why: str


class UpdateRecords:
    """The file with the records. Safe for use by several processes."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the state folder."""
        self.folder = folder
        self._locks = folder / "run"
        self._file: SecretFile[dict[str, Any]] = SecretFile(
            folder / "updates.json",
            parse=lambda raw: {
                "running": [_record(one) for one in raw["running"]],
                "failed": [FailedUpdate(**one) for one in raw["failed"]],
            },
            dump=lambda content: {name: [asdict(one) for one in content[name]] for name in ("running", "failed")},
            start={"running": [], "failed": []},
        )

    @contextmanager
    def hold(self, record: UpdateRecord) -> Iterator[None]:
        """Mark an update as run by this process, until the block ends or the process dies.

        Raises:
            Busy: another process runs it.
        """
        lock = self._lock(record)
        with file_locks.exclusive_lock(lock, seconds=0):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    def begin(self, record: UpdateRecord, check: Callable[[], None]) -> None:
        """Record an update that is about to change something, if `check` returns.

        Raises:
            Busy: another one changes one of its containers.
            ConfigInvalid: it cannot be recorded.
        """
        names = {part.name for part in record.parts}
        with self._file.edit() as content:
            for other in content["running"]:
                if taken := names & {part.name for part in other.parts}:
                    raise Busy(f"`{min(taken)}` is being updated by {other.who}", hint="wait until that has ended")
            check()
            content["running"].append(record)

    def put(self, record: UpdateRecord) -> None:
        """Store a new state of an update, and forget it when it is done.

        Raises:
            ConfigInvalid: it cannot be recorded.
        """
        with self._file.edit() as content:
            others = [one for one in content["running"] if one.operation != record.operation]
            content["running"] = [*others, *([] if record.step == "done" else [record])]

    def running(self) -> list[UpdateRecord]:
        """Updates that are under way; none if the file cannot be read."""
        try:
            records: list[UpdateRecord] = self._file.read()["running"]
        except ConfigInvalid:
            return []
        return records

    def find(self, operation: str) -> UpdateRecord | None:
        """The update under way with this operation id."""
        return next((one for one in self.running() if one.operation == operation), None)

    def interrupted(self) -> list[UpdateRecord]:
        """Updates whose process died, or whose helper has not begun."""
        return [one for one in self.running() if not self._is_held(one)]

    def active(self) -> list[UpdateRecord]:
        """Updates that a process or a helper is working on."""
        return [one for one in self.running() if one.own or self._is_held(one)]

    def note_failure(self, name: str, image: str, why: str) -> None:
        """Remember that an image did not work for a container."""
        failure = FailedUpdate(name, image, time.time(), why)
        with self._file.edit() as content:
            others = [one for one in _recent(content["failed"]) if (one.name, one.image) != (name, image)]
            content["failed"] = [*others, failure][-MOST_FAILURES:]

    def failures(self) -> dict[tuple[str, str], FailedUpdate]:
        """Failed updates by container and image id; empty if the file cannot be read."""
        try:
            return {(one.name, one.image): one for one in _recent(self._file.read()["failed"])}
        except ConfigInvalid:
            return {}

    def _lock(self, record: UpdateRecord) -> Path:
        return self._locks / f"update-{hashlib.sha256(record.operation.encode()).hexdigest()[:16]}.lock"

    def _is_held(self, record: UpdateRecord) -> bool:
        try:
            with file_locks.exclusive_lock(self._lock(record), seconds=0):
                return False
        except (Busy, OSError):
            return True


_RECORD_FIELDS = frozenset(one.name for one in fields(UpdateRecord))


def at_step(record: UpdateRecord, step: Step, parts: Sequence[Part] | None = None) -> UpdateRecord:
    """The record with another step, and other parts if given."""
    return replace(record, step=step, parts=record.parts if parts is None else tuple(parts))


def _record(raw: Mapping[str, Any]) -> UpdateRecord:
    # The version that an update installs reads what the one before it wrote, and the other way round.
    known = {name: value for name, value in raw.items() if name in _RECORD_FIELDS}
    return UpdateRecord(**{**known, "parts": tuple(Part(**one) for one in raw["parts"])})


def _recent(failed: Sequence[FailedUpdate]) -> list[FailedUpdate]:
    return [one for one in failed if abs(time.time() - one.at) < FAILURE_SECONDS]
