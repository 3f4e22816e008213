"""A JSON file readable by its owner only, cached and written atomically."""

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
"""Two versions written within one tick of the file system's clock can have the same `stat`."""


class SecretFile(Generic[Content]):
    """Typed content of a JSON file. An unreadable file raises and is not changed; it is never treated as empty."""

    def __init__(
        self, path: Path, *, parse: Callable[[Any], Content], dump: Callable[[Content], object], start: Content
    ) -> None:
        """`parse` may raise any error of lookups and conversions for malformed content."""
        self.path = path
        self._parse = parse
        self._dump = dump
        self._start = dump(start)
        # One attribute for thread safety: content and the `stat` of its version change together.
        self._cached: tuple[tuple[int, ...], Content] = (), start

    def read(self) -> Content:
        """Return the current content, which must not be modified. Costs one `stat` while the file is unchanged.

        Raises:
            ConfigInvalid: the file cannot be read, is damaged, or is writable by others.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return self._parse(self._start)
        except OSError as error:
            raise self._unreadable(error) from error
        version = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode, found.st_uid)
        cached, content = self._cached
        if version != cached or abs(time.time_ns() - found.st_mtime_ns) < RACY_NANOSECONDS:
            self._check(found)
            content = self._load()
            self._cached = version, content
        return content

    @contextmanager
    def edit(self) -> Iterator[Content]:
        """Yield the content to modify in place, under a lock; written if the block succeeds.

        Raises:
            ConfigInvalid: the file cannot be used or written; it is unchanged.
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
        """Return a copy of the current content that may be modified."""
        self.read()
        return self._load() if self.path.exists() else self._parse(self._start)

    def _load(self) -> Content:
        try:
            return self._parse(json.loads(self.path.read_bytes()))
        except OSError as error:
            raise self._unreadable(error) from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ConfigInvalid(
                f"{self.path} is damaged and not used",
                hint=f"to start anew: mv {self.path} {self.path}.bad; it was not changed",
            ) from error

    def _check(self, found: os.stat_result) -> None:
        check_not_writable_by_others(self.path, found, ", so it is not used", mode="600")

    def _unreadable(self, error: OSError) -> ConfigInvalid:
        return ConfigInvalid(f"{self.path} cannot be read: {error.strerror}", hint="check who owns it")
