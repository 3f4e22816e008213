"""Key rotation: the next key is created, announced to token holders, then installed.

Until then the host keeps using its current key, so that clients that received the next pin need not pair again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import AnvylError, Conflict, NotFound
from anvyl_mcp.server.auth import certificate
from anvyl_mcp.server.auth.callers import Caller
from anvyl_mcp.server.auth.certificate import Identity
from anvyl_mcp.server.auth.secret_file import SecretFile

log = logging.getLogger(__name__)


@dataclass
class KeyRotation:
    """A rotation in progress: the next key's pin (empty if none), its time, and the ids of notified tokens."""

    pin: str = ""
    made: str = ""
    notified: list[str] = field(default_factory=list)


class NextKey:
    """The next key, stored in the folder of the current one."""

    def __init__(self, folder: Path, identity: Callable[[], Identity]) -> None:
        self._folder = folder
        self._identity = identity
        self._file = SecretFile(folder / "next.json", parse=_parse, dump=_dump, start=KeyRotation())
        self._current: tuple[tuple[int, int], str] = (0, 0), ""

    @property
    def rotation(self) -> KeyRotation:
        """The rotation in progress; its pin is empty if there is none.

        Raises:
            ConfigInvalid: the file cannot be used.
        """
        return self._file.read()

    def announce(self, caller: Caller) -> str:
        """Return the pin of the next key, or of the current one without a rotation, and record who received it.

        Empty for callers without a token, and if the pin cannot be read.
        """
        if caller.how not in ("token", "jwt"):
            return ""
        try:
            rotation = self._file.read()
            if rotation.pin and caller.how == "token" and caller.id not in rotation.notified:
                with self._file.edit() as edited:
                    edited.notified.append(caller.id)
            return rotation.pin or self._current_pin()
        except FileNotFoundError:
            # This host has never served TLS.
            return ""
        except (AnvylError, OSError) as error:
            log.warning("cannot announce the next key: %s", error)
            return ""

    def begin(self) -> KeyRotation:
        """Create the next key.

        Raises:
            Conflict: a rotation is in progress.
            ConfigInvalid: the key cannot be written.
        """
        self._identity()
        with self._file.edit() as rotation:
            if rotation.pin:
                raise Conflict(
                    f"a key rotation is already in progress; the next key is {rotation.pin}",
                    hint="anvyl-mcp key rotate --finish installs it, --cancel deletes it",
                )
            rotation.pin = certificate.make_next_key(self._folder)
            rotation.made = datetime.now(UTC).isoformat(timespec="seconds")
            rotation.notified = []
        return rotation

    def finish(self) -> Identity:
        """Install the next key. A running server uses it from the next connection on.

        Raises:
            NotFound: no rotation is in progress.
            ConfigInvalid: the next key is damaged.
        """
        with self._file.edit() as rotation:
            if not rotation.pin:
                raise NotFound("no key rotation is in progress", hint="start one: anvyl-mcp key rotate")
            identity = self._identity()
            # An interrupted attempt may have installed it already.
            if identity.pin != rotation.pin:
                identity = certificate.install_next_key(self._folder)
            rotation.pin, rotation.made, rotation.notified = "", "", []
        return identity

    def cancel(self) -> None:
        """Delete the next key; notified clients get the current pin with their next response.

        Raises:
            NotFound: no rotation is in progress.
        """
        with self._file.edit() as rotation:
            if not rotation.pin:
                raise NotFound("no key rotation is in progress", hint="see anvyl-mcp key show")
            certificate.delete_next_key(self._folder)
            rotation.pin, rotation.made, rotation.notified = "", "", []

    def _current_pin(self) -> str:
        found = (self._folder / "key.pem").stat()
        version = found.st_ino, found.st_mtime_ns
        if self._current[0] != version:
            self._current = version, self._identity().pin
        return self._current[1]


def _parse(data: Any) -> KeyRotation:
    return KeyRotation(str(data["pin"]), str(data["made"]), [str(token_id) for token_id in data["told"]])


def _dump(rotation: KeyRotation) -> object:
    return {"pin": rotation.pin, "made": rotation.made, "told": rotation.notified}
