"""Changes that wait for a person's yes: kept on disk, good once, for a quarter of an hour, also after a restart."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import Busy, ConfigInvalid, Gone, NotFound
from anvyl_mcp.core.files import make_private_folder, write_atomically
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects

MINUTES = 15
"""What a person gets to answer."""
REMEMBERED_SECONDS = 24 * 3600
"""How long an id that was used or has expired is told from one that never was."""
MOST = 1000
ID = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)
_UNKNOWN = "ids come with an answer 202, and are forgotten after a day"
_AGAIN = "ask again: a new answer has a new id"


@dataclass(frozen=True)
class HeldCall:
    """One change exactly as it was proposed: `expected` holds, for each host, the objects that were meant."""

    tool: str
    arguments: Mapping[str, Any]
    hosts: tuple[str, ...]
    expected: Mapping[str, ExpectedObjects] = field(default_factory=dict)
    untrusted: str = ""
    why: str = ""
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Forwarded:
    """Where the changes themselves wait, when that is another host, and the id there."""

    host: str
    id: str


@dataclass(frozen=True)
class Held:
    """One approval: who asked for what, with which rights."""

    id: str
    asker: str
    scopes: tuple[str, ...]
    question: str
    calls: tuple[HeldCall, ...]
    expires_at: datetime
    mode: str = "rules"
    model: str = ""
    forwarded: Forwarded | None = None


def new_id() -> str:
    """An id that nobody guesses."""
    return secrets.token_urlsafe(16)


def expiry() -> datetime:
    """When an approval that is made now stops being good."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=MINUTES)


class Approvals:
    """A folder with one file for each; whoever can rename the file is the one who used it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, held: Held) -> None:
        """Write it down.

        Raises:
            Busy: too many wait already.
            ConfigInvalid: the folder cannot be written.
        """
        try:
            make_private_folder(self._folder)
            if self._sweep() >= MOST:
                raise Busy(f"{MOST} changes wait for an answer already", hint="answer or leave them; they expire")
            content = json.dumps({**asdict(held), "expires_at": held.expires_at.isoformat()})
            write_atomically(self._waiting(held.id), content)
        except OSError as error:
            raise ConfigInvalid(
                f"{self._folder} cannot be written: {error.strerror}", hint="check the disk and its permissions"
            ) from error

    def look(self, id_: str) -> Held:
        """What waits under an id; it goes on waiting.

        Raises:
            NotFound: nothing ever did.
            Gone: it was used, or has expired.
        """
        if not ID.fullmatch(id_):
            raise NotFound("there is no such approval", hint=_UNKNOWN)
        try:
            held = _read(self._waiting(id_))
        except FileNotFoundError:
            if self._used(id_).exists():
                raise Gone("this approval was used already", hint=_AGAIN) from None
            if self._expired(id_).exists():
                raise Gone("this approval has expired", hint=_AGAIN) from None
            raise NotFound("there is no such approval", hint=_UNKNOWN) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigInvalid("this approval cannot be read any more", hint=_AGAIN) from error
        if held.expires_at <= datetime.now(UTC):
            self._empty(self._waiting(id_), self._expired(id_))
            raise Gone("this approval has expired", hint=_AGAIN)
        return held

    def take(self, id_: str) -> Held:
        """What waits under an id, for whoever comes first.

        Raises:
            NotFound: nothing ever did.
            Gone: it was used, or has expired.
        """
        held = self.look(id_)
        try:
            self._empty(self._waiting(id_), self._used(id_))
        except FileNotFoundError:
            raise Gone("this approval was used already", hint=_AGAIN) from None
        return held

    def _waiting(self, id_: str) -> Path:
        return self._folder / f"{id_}.json"

    def _used(self, id_: str) -> Path:
        return self._folder / f"{id_}.used"

    def _expired(self, id_: str) -> Path:
        return self._folder / f"{id_}.expired"

    def _empty(self, file: Path, becomes: Path) -> None:
        """What was asked for may hold secrets; that it is over is all that need be known from now on."""
        file.rename(becomes)
        # A new file, not this one truncated: another process may be reading it.
        write_atomically(becomes, "")

    def _sweep(self) -> int:
        """Forget what is long over; how many wait."""
        now, waiting = time.time(), 0
        for file in self._folder.iterdir():
            with suppress(OSError):
                age = now - file.stat().st_mtime
                if age > REMEMBERED_SECONDS:
                    file.unlink()
                elif file.suffix == ".json" and age > MINUTES * 60:
                    self._empty(file, self._expired(file.stem))
                elif file.suffix == ".json":
                    waiting += 1
        return waiting


def _read(file: Path) -> Held:
    data = json.loads(file.read_text(encoding="utf-8"))
    calls = tuple(_call(**call) for call in data.pop("calls"))
    forwarded, expires_at = data.pop("forwarded"), datetime.fromisoformat(data.pop("expires_at"))
    scopes = tuple(data.pop("scopes"))
    return Held(
        calls=calls,
        scopes=scopes,
        expires_at=expires_at,
        forwarded=Forwarded(**forwarded) if forwarded else None,
        **data,
    )


def _call(hosts: Sequence[str], expected: Mapping[str, Mapping[str, Any]], **call: Any) -> HeldCall:
    return HeldCall(
        hosts=tuple(hosts), expected={host: ExpectedObjects(**one) for host, one in expected.items()}, **call
    )
