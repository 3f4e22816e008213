"""What registries answered, kept on disk so that the next question costs no request; may be deleted at any time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.server.registries.image_facts import ImageFacts

FRESH_SECONDS = 6 * 3600.0
"""How long an answer about a tag is used."""
FAILURE_SECONDS = 60.0
"""How long a failure is remembered, so that a dead registry does not cost every command its time limit."""
KEEP_SECONDS = 30 * 24 * 3600.0
MOST = 2000

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class TagAnswer:
    """The digest of a tag, or why it is unknown; `at`: when; `since`: when this digest was first seen here."""

    digest: str
    at: float
    since: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """A registry that asked to wait until a time."""

    until: float
    why: str


class CheckCache:
    """The file with the answers. An unreadable file is an empty one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._mutex = threading.Lock()
        self._tags: dict[str, TagAnswer] = {}
        self._images: dict[str, tuple[float, ImageFacts]] = {}
        self._pauses: dict[str, Pause] = {}
        self._loaded = 0

    def load(self) -> None:
        """Read the file if another process changed it."""
        try:
            version = self._file.stat().st_mtime_ns
            raw = json.loads(self._file.read_bytes()) if version != self._loaded else None
        except (OSError, ValueError):
            return
        if not isinstance(raw, dict):
            return
        with self._mutex:
            self._loaded = version
            self._tags = _parse(raw.get("tags"), lambda one: TagAnswer(**one)) | self._newer(raw)
            self._images |= _parse(raw.get("images"), _image)
            self._pauses |= _parse(raw.get("pauses"), lambda one: Pause(float(one["until"]), str(one["why"])))

    def _newer(self, raw: Mapping[str, Any]) -> dict[str, TagAnswer]:
        """Answers in memory that are newer than those in the file."""
        there = _parse(raw.get("tags"), lambda one: float(one["at"]))
        return {name: one for name, one in self._tags.items() if one.at > there.get(name, 0.0)}

    def tag(self, name: str) -> TagAnswer | None:
        """The last answer about a tag."""
        return self._tags.get(name)

    def is_fresh(self, answer: TagAnswer | None) -> bool:
        """Whether an answer is recent enough to be used without asking again."""
        if answer is None:
            return False
        return 0 <= time.time() - answer.at < (FAILURE_SECONDS if answer.error else FRESH_SECONDS)

    def put_tag(self, name: str, digest: str) -> TagAnswer:
        """Store the digest of a tag."""
        now, before = time.time(), self._tags.get(name)
        since = before.since if before and before.digest == digest else now
        answer = TagAnswer(digest, now, since)
        with self._mutex:
            self._tags[name] = answer
        return answer

    def put_error(self, name: str, error: str) -> TagAnswer:
        """Store why a tag could not be read; what was known of it stays."""
        now, before = time.time(), self._tags.get(name)
        answer = TagAnswer(before.digest if before else "", now, before.since if before else now, error)
        with self._mutex:
            self._tags[name] = answer
        return answer

    def image(self, key: str) -> ImageFacts | None:
        """Facts about an image, which never change."""
        found = self._images.get(key)
        return found[1] if found else None

    def put_image(self, key: str, facts: ImageFacts) -> None:
        """Store facts about an image."""
        with self._mutex:
            self._images[key] = (time.time(), facts)

    def pause(self, registry: str) -> Pause | None:
        """The pause that a registry asked for, if it is not over."""
        found = self._pauses.get(registry)
        return found if found and found.until > time.time() else None

    def put_pause(self, registry: str, seconds: float, why: str) -> None:
        """Store that a registry must not be asked for a while."""
        with self._mutex:
            self._pauses[registry] = Pause(time.time() + seconds, why)

    def save(self) -> None:
        """Write the file; a cache that cannot be written is only slower."""
        now = time.time()
        with self._mutex:
            tags = {name: one for name, one in self._tags.items() if now - one.at < KEEP_SECONDS}
            images = {key: one for key, one in self._images.items() if now - one[0] < KEEP_SECONDS}
            content = {
                "tags": {name: asdict(one) for name, one in _newest(tags, lambda one: one.at)},
                "images": {
                    key: {"at": at, **asdict(facts)} for key, (at, facts) in _newest(images, lambda one: one[0])
                },
                "pauses": {name: asdict(one) for name, one in self._pauses.items() if one.until > now},
            }
            try:
                write_atomically(self._file, json.dumps(content), durable=False)
                self._loaded = self._file.stat().st_mtime_ns
            except OSError:
                self._loaded = 0


def _newest(entries: Mapping[str, Entry], age: Callable[[Entry], float]) -> list[tuple[str, Entry]]:
    return sorted(entries.items(), key=lambda one: -age(one[1]))[:MOST]


def _parse(raw: Any, parse: Callable[[Any], Entry]) -> dict[str, Entry]:
    """The entries of a file that can be parsed."""
    found: dict[str, Entry] = {}
    for name, one in raw.items() if isinstance(raw, dict) else ():
        try:
            found[str(name)] = parse(one)
        except (TypeError, KeyError, ValueError, AttributeError):
            continue
    return found


def _image(one: Mapping[str, Any]) -> tuple[float, ImageFacts]:
    facts = ImageFacts(tuple(one["digests"]), str(one["created"]), str(one["version"]), str(one["notes"]))
    return float(one["at"]), facts
