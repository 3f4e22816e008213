"""Which hosts were silent lately: one small file each, so that one command's wait spares the next one its own."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Unreachable
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.peers.hosts.registry import Peer

FRESH_SECONDS = 8
"""For so long a mark is as good as asking: a host that came back is used again within 10 s."""
KEPT_SECONDS = 600
"""After that a mark says nothing any more."""
MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Down:
    """A host that did not answer: since when, when it was `asked` last, and why. Times are the clock's."""

    since: float
    asked: float
    reason: str

    @property
    def fresh(self) -> bool:
        """Whether asking again would be too soon."""
        return 0 <= time.time() - self.asked < FRESH_SECONDS

    def error(self) -> Unreachable:
        """What a call gets that is not even tried."""
        silent = text.format_duration(max(time.time() - self.since, 1))
        return Unreachable(
            f"{self.reason}, down for {silent}",
            hint="it is tried again every few seconds; now: anvyl hosts check",
            call_hint="it is tried again every few seconds",
        )


class DownMarks:
    """The marks of one installation. What cannot be written or read only costs the wait that it would have spared."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, peer: Peer) -> Down | None:
        """What is known of a host; None when it answered last, or nobody asked lately."""
        if self._folder is None:
            return None
        try:
            told = json.loads(self._file(self._folder, peer).read_text(encoding="utf-8"))
            down = Down(float(told["since"]), float(told["asked"]), text.clean(str(told["reason"]))[:MOST_CHARACTERS])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        # A clock that was set back must not make a mark last for ever.
        return down if 0 <= time.time() - down.asked < KEPT_SECONDS and down.since <= down.asked else None

    def write(self, peer: Peer, down: Down) -> None:
        """Mark a host, at once or not at all."""
        if self._folder is None:
            return
        with suppress(OSError):
            write_atomically(self._file(self._folder, peer), json.dumps(asdict(down)), durable=False)

    def remove(self, peer: Peer) -> None:
        """It answers."""
        if self._folder is not None:
            with suppress(OSError):
                self._file(self._folder, peer).unlink(missing_ok=True)

    def _file(self, folder: Path, peer: Peer) -> Path:
        return folder / f"{hashlib.sha256(f'{peer.url} {peer.pin}'.encode()).hexdigest()[:16]}.json"
