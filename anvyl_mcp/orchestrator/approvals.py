"""Pending changes on disk: each approval can be used once within 15 minutes, also after a restart."""

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

LIFETIME_MINUTES = 15
TOMBSTONE_SECONDS = 24 * 3600
"""How long an id that was used or has expired is distinguished from an unknown one."""
MOST_PENDING = 1000
ID = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)
_UNKNOWN_HINT = "ids come with a response 202, and are kept for a day"
_ASK_AGAIN = "ask again: a new answer has a new id"


@dataclass(frozen=True)
class PendingCall:
    """One change as it was proposed. `expected`: the state of the affected objects at that time, by host."""

    tool: str
    arguments: Mapping[str, Any]
    hosts: tuple[str, ...]
    expected: Mapping[str, ExpectedObjects] = field(default_factory=dict)
    untrusted: str = ""
    why: str = ""
    details: Sequence[str] = ()


@dataclass(frozen=True)
class RemoteApproval:
    """The host that holds the changes, if it is another one, and the approval's id there."""

    host: str
    id: str


@dataclass(frozen=True)
class PendingApproval:
    """The changes that one question proposed, with its caller's name and scopes."""

    id: str
    asker: str
    scopes: tuple[str, ...]
    question: str
    calls: tuple[PendingCall, ...]
    expires_at: datetime
    mode: str = "rules"
    model: str = ""
    forwarded: RemoteApproval | None = None


def new_id() -> str:
    """A random id that cannot be guessed."""
    return secrets.token_urlsafe(16)


def expiry() -> datetime:
    """Expiry time of an approval that is created now."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=LIFETIME_MINUTES)


class Approvals:
    """A folder with one file for each pending approval. Renaming it uses the approval, so only one caller can."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, pending: PendingApproval) -> None:
        """Store an approval.

        Raises:
            Busy: too many are pending.
            ConfigInvalid: the folder cannot be written.
        """
        try:
            make_private_folder(self._folder)
            if self._sweep() >= MOST_PENDING:
                raise Busy(
                    f"{MOST_PENDING} approvals are pending already",
                    hint=f"approve or deny some; each expires after {LIFETIME_MINUTES} minutes",
                )
            content = json.dumps({**asdict(pending), "expires_at": pending.expires_at.isoformat()})
            write_atomically(self._pending_file(pending.id), content)
        except OSError as error:
            raise ConfigInvalid(
                f"{self._folder} cannot be written: {error.strerror}", hint="check the disk and its permissions"
            ) from error

    def get(self, id_: str) -> PendingApproval:
        """Get an approval without using it.

        Raises:
            NotFound: no approval has this id.
            Gone: it was used, or has expired.
        """
        if not ID.fullmatch(id_):
            raise NotFound("there is no such approval", hint=_UNKNOWN_HINT)
        try:
            pending = _read(self._pending_file(id_))
        except FileNotFoundError:
            if self._used_file(id_).exists():
                raise Gone("this approval was already used", hint=_ASK_AGAIN) from None
            if self._expired_file(id_).exists():
                raise Gone("this approval has expired", hint=_ASK_AGAIN) from None
            raise NotFound("there is no such approval", hint=_UNKNOWN_HINT) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigInvalid("the file of this approval cannot be read", hint=_ASK_AGAIN) from error
        if pending.expires_at <= datetime.now(UTC):
            self._replace_with_tombstone(self._pending_file(id_), self._expired_file(id_))
            raise Gone("this approval has expired", hint=_ASK_AGAIN)
        return pending

    def list(self) -> list[PendingApproval]:
        """Return every approval that is pending, the oldest first."""
        found: list[PendingApproval] = []
        with suppress(FileNotFoundError):
            for file in self._folder.iterdir():
                if file.suffix == ".json":
                    with suppress(OSError, ValueError, KeyError, TypeError):
                        found.append(_read(file))
        now = datetime.now(UTC)
        return sorted((one for one in found if one.expires_at > now), key=lambda one: one.expires_at)

    def take(self, id_: str) -> PendingApproval:
        """Get an approval and use it up; of concurrent callers, only the first gets it.

        Raises:
            NotFound: no approval has this id.
            Gone: it was used, or has expired.
        """
        pending = self.get(id_)
        try:
            self._replace_with_tombstone(self._pending_file(id_), self._used_file(id_))
        except FileNotFoundError:
            raise Gone("this approval was already used", hint=_ASK_AGAIN) from None
        return pending

    def _pending_file(self, id_: str) -> Path:
        return self._folder / f"{id_}.json"

    def _used_file(self, id_: str) -> Path:
        return self._folder / f"{id_}.used"

    def _expired_file(self, id_: str) -> Path:
        return self._folder / f"{id_}.expired"

    def _replace_with_tombstone(self, file: Path, tombstone: Path) -> None:
        """Leave an empty file, because the arguments of the changes may contain secrets."""
        file.rename(tombstone)
        # A new file instead of a truncated one, because another process may be reading it.
        write_atomically(tombstone, "")

    def _sweep(self) -> int:
        """Delete old tombstones, expire old approvals, and return how many are still pending."""
        now, count = time.time(), 0
        for file in self._folder.iterdir():
            with suppress(OSError):
                age = now - file.stat().st_mtime
                if age > TOMBSTONE_SECONDS:
                    file.unlink()
                elif file.suffix == ".json" and age > LIFETIME_MINUTES * 60:
                    self._replace_with_tombstone(file, self._expired_file(file.stem))
                elif file.suffix == ".json":
                    count += 1
        return count


def _read(file: Path) -> PendingApproval:
    data = json.loads(file.read_text(encoding="utf-8"))
    calls = tuple(_read_call(**call) for call in data.pop("calls"))
    forwarded, expires_at = data.pop("forwarded"), datetime.fromisoformat(data.pop("expires_at"))
    scopes = tuple(data.pop("scopes"))
    return PendingApproval(
        calls=calls,
        scopes=scopes,
        expires_at=expires_at,
        forwarded=RemoteApproval(**forwarded) if forwarded else None,
        **data,
    )


def _read_call(hosts: Sequence[str], expected: Mapping[str, Mapping[str, Any]], **call: Any) -> PendingCall:
    return PendingCall(
        hosts=tuple(hosts), expected={host: ExpectedObjects(**one) for host, one in expected.items()}, **call
    )
