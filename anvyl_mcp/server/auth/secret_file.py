"""A small file that decides who may do what: readable by its owner only, replaced whole, never half written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.core.files import check_not_writable_by_others, write_atomically

Content = TypeVar("Content")
RACY_NANOSECONDS = 1_000_000_000
"""Two versions written within one tick of the file system's clock can look alike from outside."""


class SecretFile(Generic[Content]):
    """JSON on disk as typed content. What cannot be read raises and is left as it is: it never counts as empty."""

    def __init__(
        self, path: Path, *, parse: Callable[[Any], Content], dump: Callable[[Content], object], start: Content
    ) -> None:
        """`parse` raises what lookups and conversions raise at content of another shape."""
        self.path = path
        self._parse = parse
        self._dump = dump
        self._start = dump(start)
        # One attribute, because threads read and change: content must never stand beside the mark of another version.
        self._known: tuple[tuple[int, ...], Content] = (), start

    def read(self) -> Content:
        """The content now, whoever wrote it; not to be changed. Costs one `stat` while the file stays the same.

        Raises:
            ConfigInvalid: the file cannot be read, is damaged, or others may write it.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return self._parse(self._start)
        except OSError as error:
            raise self._unreadable(error) from error
        seen = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode, found.st_uid)
        known, content = self._known
        if seen != known or abs(time.time_ns() - found.st_mtime_ns) < RACY_NANOSECONDS:
            self._check(found)
            content = self._load()
            self._known = seen, content
        return content

    @contextmanager
    def edit(self) -> Iterator[Content]:
        """The content to change in place; written when the block ends well, alone among all processes.

        Raises:
            ConfigInvalid: the file cannot be used or written; it is then as it was.
        """
        try:
            with file_locks.exclusive_lock(self.path.with_suffix(".lock")):
                content = self._copy()
                yield content
                write_atomically(self.path, json.dumps(self._dump(content), indent=1))
        except OSError as error:
            raise ConfigInvalid(
                f"{self.path} cannot be written: {error.strerror}", hint="check the disk and its permissions"
            ) from error

    def _copy(self) -> Content:
        """The content now, to be changed."""
        self.read()
        return self._load() if self.path.exists() else self._parse(self._start)

    def _load(self) -> Content:
        try:
            return self._parse(json.loads(self.path.read_bytes()))
        except OSError as error:
            raise self._unreadable(error) from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ConfigInvalid(
                f"{self.path} is damaged, so nothing in it counts",
                hint=f"to start anew: mv {self.path} {self.path}.bad; it was not changed",
            ) from error

    def _check(self, found: os.stat_result) -> None:
        check_not_writable_by_others(self.path, found, ", so nothing in it counts", mode="600")

    def _unreadable(self, error: OSError) -> ConfigInvalid:
        return ConfigInvalid(f"{self.path} cannot be read: {error.strerror}", hint="check who owns it")
