"""What this machine has seen of other hosts' audit logs: where each ended, so that a cut or rewritten one is noticed.

Of each host a few ends are kept, the newest and older ones further and further apart: a log that was cut and grew past
the newest end again still lacks an older one.
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
"""What a command waits for another one's write: nothing of its own depends on it."""
SECONDS = 1.0
"""Between two writes of a program that stays."""
LEAST_ROTATED = 1000
"""Records that a host must have written before it may have deleted one that was seen; it keeps far more."""


@dataclass
class HostHeads:
    """The ends of one host's log, the oldest first. `url` is where the host was: another one starts anew."""

    url: str
    heads: list[AuditHead] = field(default_factory=list)


class HeadStore:
    """The ends of every host's log, in one small file that all programs of this installation share."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._new: dict[tuple[str, str], AuditHead] = {}
        self._newest: dict[tuple[str, str], int] = {}
        self._written = -SECONDS

    def note(self, host: str, url: str, head: AuditHead) -> bool:
        """Take note of where a host's log ends; whether it is time to write that down."""
        key = host, url
        if head.seq > self._newest.get(key, 0):
            self._newest[key] = head.seq
            self._new[key] = head
        return bool(self._new) and time.monotonic() - self._written >= SECONDS

    def of(self, host: str, url: str) -> list[AuditHead]:
        """What was seen of a host's log, the oldest first."""
        self.flush()
        seen = self._read().get(host)
        return seen.heads if seen is not None and seen.url == url else []

    def rename(self, host: str, name: str) -> None:
        """Keep what was seen of a host under its new name."""
        self.flush()
        with suppress(OSError, Busy), self._changing() as hosts:
            if host in hosts:
                hosts[name] = hosts.pop(host)

    def forget(self, host: str) -> None:
        """Take whatever the host's log is now as right."""
        self._new = {key: head for key, head in self._new.items() if key[0] != host}
        self._newest = {key: number for key, number in self._newest.items() if key[0] != host}
        with suppress(OSError, Busy), self._changing() as hosts:
            hosts.pop(host, None)

    def flush(self) -> None:
        """Write down what is new. On a full disk it is tried again later: nothing of the caller's depends on it."""
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
                # Not durable: losing the last second's ends in a power failure does no harm.
                write_atomically(self._file, _dumped(hosts), durable=False)

    def _read(self) -> dict[str, HostHeads]:
        try:
            return _parsed(json.loads(self._file.read_bytes()))
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.warning("%s cannot be read, so nothing is known of other hosts' audit logs: %s", self._file, error)
        except (ValueError, TypeError, KeyError, AttributeError):
            kept = self._file.with_name(f"{self._file.name}.bad-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            with suppress(OSError):
                self._file.rename(kept)
            log.warning("%s was damaged and is kept as %s: what was seen of other hosts is lost", self._file, kept.name)
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
    """Add a newer end; of too many, the one goes that is missed least: near to others, and far back."""
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


def problem_in(seen: Iterable[AuditHead], told: object) -> str:
    """What is wrong with a host's log as the host tells of it, by what was seen of it; empty when nothing is."""
    remembered = sorted(seen, key=lambda head: -head.seq)
    if not remembered:
        return ""
    told = told if isinstance(told, Mapping) else {}
    try:
        end, first, hashes = int(told["seq"]), int(told["first"]), dict(told["at"])
    except (KeyError, TypeError, ValueError):
        return "it does not tell of its audit log any more, of which this machine has seen records"
    for head in remembered:
        found = hashes.get(str(head.seq))
        if found == head.hash or (found is None and head.seq < first and end - head.seq >= LEAST_ROTATED):
            continue
        if found is not None:
            return f"its audit log was rewritten: record {head.seq} is not the one that this machine has seen"
        ends = f"the log ends at record {end}" if end else "the log is empty"
        return f"its audit log lost records that this machine has seen: record {head.seq} is not there, {ends}"
    return ""


class WitnessingConnection:
    """A connection whose answers are taken note of: where the host's audit log ends, and which key it will have."""

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
        """As the connection does."""
        return await self._connection.list_tools()

    async def version(self) -> str:
        """As the connection does."""
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
        """As the connection does."""
        answer = await self._connection.call(tool, arguments, seconds=seconds, meta=meta, on_progress=on_progress)
        if answer.head is not None and self._heads.note(self._host, self._place, answer.head):
            await anyio.to_thread.run_sync(self._heads.flush)
        if answer.key:
            self._on_key(answer.key)
        return answer

    async def close(self) -> None:
        """As the connection does; what was noted is written down."""
        self._heads.flush()
        await self._connection.close()
