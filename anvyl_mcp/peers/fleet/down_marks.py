"""Cache of unreachable hosts, one small file each, so that the next command does not wait for the same timeout."""

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
"""How long a mark is trusted without a new attempt: a host that came back is used again within 10 s."""
KEPT_SECONDS = 600
"""How long a mark is kept; after that it is ignored."""
MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Down:
    """A host that did not answer: since when, the last attempt (`asked`), and why. Unix times."""

    since: float
    asked: float
    reason: str

    @property
    def fresh(self) -> bool:
        """Whether it is too soon for another attempt."""
        return 0 <= time.time() - self.asked < FRESH_SECONDS

    def error(self) -> Unreachable:
        """Return the error for a call that is not attempted."""
        silent = text.format_duration(max(time.time() - self.since, 1))
        return Unreachable(
            f"{self.reason}, down for {silent}",
            hint="Anvyl retries every few seconds; to retry now: anvyl hosts check",
            call_hint="Anvyl retries every few seconds",
        )


class DownMarks:
    """The marks of one installation. Read and write errors are ignored: a missing mark only costs a timeout."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, peer: Peer) -> Down | None:
        """Return the mark of a host; None if it answered last, or the mark has expired."""
        if self._folder is None:
            return None
        try:
            fields = json.loads(self._file(self._folder, peer).read_text(encoding="utf-8"))
            reason = text.clean(str(fields["reason"]))[:MOST_CHARACTERS]
            down = Down(float(fields["since"]), float(fields["asked"]), reason)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        # Ignore marks from the future, which would otherwise last until then if the clock was set back.
        return down if 0 <= time.time() - down.asked < KEPT_SECONDS and down.since <= down.asked else None

    def write(self, peer: Peer, down: Down) -> None:
        """Mark a host as down."""
        if self._folder is None:
            return
        with suppress(OSError):
            write_atomically(self._file(self._folder, peer), json.dumps(asdict(down)), durable=False)

    def remove(self, peer: Peer) -> None:
        """Remove the mark of a host that answered."""
        if self._folder is not None:
            with suppress(OSError):
                self._file(self._folder, peer).unlink(missing_ok=True)

    def _file(self, folder: Path, peer: Peer) -> Path:
        return folder / f"{hashlib.sha256(f'{peer.url} {peer.pin}'.encode()).hexdigest()[:16]}.json"
