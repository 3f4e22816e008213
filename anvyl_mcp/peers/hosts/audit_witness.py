"""Remember the ends of other hosts' audit logs, so that a truncated or rewritten log is noticed.

A few ends are kept per host, at growing distances into the past: a log that was truncated and has grown past the newest
end again still lacks an older one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.errors import Busy
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.peers.connection.listing import AuditHead, Connection, ProgressCallback, ToolAnswer, ToolListing

log = logging.getLogger(__name__)

MOST_HEADS = 12
LOCK_SECONDS = 0.2
"""How long a command waits for the lock; its own work does not depend on the write."""
SECONDS = 1.0
"""Minimum time between two writes of a long-running program."""
LEAST_ROTATED = 1000
"""A seen record may be missing because of log rotation only if it is at least this many records old."""


@dataclass
class HostHeads:
    """The ends of one host's log, oldest first. They are discarded when the host's `url` changes."""

    url: str
    heads: list[AuditHead] = field(default_factory=list)


class HeadStore:
    """The ends of every host's log, in a small file that all programs of this installation share."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._new: dict[tuple[str, str], AuditHead] = {}
        self._newest: dict[tuple[str, str], int] = {}
        self._written = -SECONDS

    def note(self, host: str, url: str, head: AuditHead) -> bool:
        """Record the end of a host's log. Returns whether it is time to call `flush`."""
        key = host, url
        if head.seq > self._newest.get(key, 0):
            self._newest[key] = head.seq
            self._new[key] = head
        return bool(self._new) and time.monotonic() - self._written >= SECONDS

    def heads_of(self, host: str, url: str) -> list[AuditHead]:
        """Return the known ends of a host's log, oldest first."""
        self.flush()
        seen = self._read().get(host)
        return seen.heads if seen is not None and seen.url == url else []

    def rename(self, host: str, name: str) -> None:
        """Move the ends of a host to its new name."""
        self.flush()
        with suppress(OSError, Busy), self._changing() as hosts:
            if host in hosts:
                hosts[name] = hosts.pop(host)

    def forget(self, host: str) -> None:
        """Discard the ends of a host, so that its current log is accepted."""
        self._new = {key: head for key, head in self._new.items() if key[0] != host}
        self._newest = {key: number for key, number in self._newest.items() if key[0] != host}
        with suppress(OSError, Busy), self._changing() as hosts:
            hosts.pop(host, None)

    def flush(self) -> None:
        """Write new ends to the file. Errors are logged, and the write is retried later."""
        self._written = time.monotonic()
        if not self._new:
            return
        try:
            with self._changing() as hosts:
                for (host, url), head in self._new.items():
                    if host not in hosts or hosts[host].url != url:
                        hosts[host] = HostHeads(url)
                    _add(hosts[host].heads, head)
        except (OSError, Busy) as error:
            log.info("%s cannot be written: %s", self._file, error)
        else:
            self._new.clear()

    @contextmanager
    def _changing(self) -> Iterator[dict[str, HostHeads]]:
        with file_locks.exclusive_lock(self._file.with_suffix(".lock"), seconds=LOCK_SECONDS):
            hosts = self._read()
            before = _dumped(hosts)
            yield hosts
            if _dumped(hosts) != before:
                # Not durable: losing the last second's ends in a power failure is harmless.
                write_atomically(self._file, _dumped(hosts), durable=False)

    def _read(self) -> dict[str, HostHeads]:
        try:
            return _parsed(json.loads(self._file.read_bytes()))
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("%s cannot be read, so other hosts' audit logs are not checked: %s", self._file, error)
        except (ValueError, TypeError, KeyError, AttributeError):
            kept = self._file.with_name(f"{self._file.name}.bad-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            with suppress(OSError):
                self._file.rename(kept)
            log.warning(
                "%s was damaged and is kept as %s; the known ends of audit logs are lost", self._file, kept.name
            )
        return {}


def _parsed(data: Any) -> dict[str, HostHeads]:
    if data["version"] != 1:
        raise ValueError(data["version"])
    return {
        str(host): HostHeads(str(seen["url"]), [AuditHead(int(seq), str(digest)) for seq, digest in seen["heads"]])
        for host, seen in data["hosts"].items()
    }


def _dumped(hosts: Mapping[str, HostHeads]) -> str:
    seen = {
        host: {"url": one.url, "heads": [[head.seq, head.hash] for head in one.heads]} for host, one in hosts.items()
    }
    return json.dumps({"version": 1, "hosts": seen})


def _add(heads: list[AuditHead], head: AuditHead) -> None:
    """Add a newer end; above the limit, remove the most redundant one: close to others and old."""
    if heads and head.seq <= heads[-1].seq:
        return
    heads.append(head)
    while len(heads) > MOST_HEADS:
        last = heads[-1].seq
        weights = {
            place: (heads[place + 1].seq - heads[place - 1].seq) / (last - heads[place].seq + 1)
            for place in range(1, len(heads) - 1)
        }
        del heads[min(weights, key=lambda place: weights[place])]


def problem_in(seen: Iterable[AuditHead], reported: object) -> str:
    """Compare the log that a host reports with its known ends. Returns the problem, or an empty string."""
    remembered = sorted(seen, key=lambda head: -head.seq)
    if not remembered:
        return ""
    fields = reported if isinstance(reported, Mapping) else {}
    try:
        end, first, hashes = int(fields["seq"]), int(fields["first"]), dict(fields["at"])
    except (KeyError, TypeError, ValueError):
        return "it no longer reports its audit log, of which this machine has seen records"
    for head in remembered:
        found = hashes.get(str(head.seq))
        if found == head.hash or (found is None and head.seq < first and end - head.seq >= LEAST_ROTATED):
            continue
        if found is not None:
            return f"its audit log was rewritten: record {head.seq} differs from the one that this machine has seen"
        ends = f"the log ends at record {end}" if end else "the log is empty"
        return f"its audit log lost records that this machine has seen: record {head.seq} is missing, {ends}"
    return ""


class WitnessingConnection:
    """A connection that records the host's audit log end and announced key from its answers."""

    def __init__(
        self,
        connection: Connection,
        host: str,
        place: str,
        heads: HeadStore,
        on_key: Callable[[str], None] = lambda pin: None,
    ) -> None:
        self._connection = connection
        self._host, self._place = host, place
        self._heads = heads
        self._on_key = on_key

    async def list_tools(self) -> list[ToolListing]:
        """See `Connection`."""
        return await self._connection.list_tools()

    async def version(self) -> str:
        """See `Connection`."""
        return await self._connection.version()

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        """See `Connection`."""
        answer = await self._connection.call(tool, arguments, seconds=seconds, meta=meta, on_progress=on_progress)
        if answer.head is not None and self._heads.note(self._host, self._place, answer.head):
            await anyio.to_thread.run_sync(self._heads.flush)
        if answer.key:
            self._on_key(answer.key)
        return answer

    async def close(self) -> None:
        """Write new ends to the file and close the connection."""
        self._heads.flush()
        await self._connection.close()
