"""The channels to which notices go. Their URLs contain secrets: a private file has them, or the system's keyring."""

from __future__ import annotations

import importlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anvyl_mcp.core import extras
from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, InvalidInput, NotFound, did_you_mean
from anvyl_mcp.core.files import OTHERS_MAY_ANYTHING, PRIVATE_MODE, check_not_writable_by_others, write_atomically
from anvyl_mcp.peers.notices import apprise_services, services
from anvyl_mcp.peers.notices.channel_url import ChannelUrl, parse_channel_url
from anvyl_mcp.peers.notices.notice import Notice

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
RESERVED = frozenset({"webhook", "command"})
"""Names of what the settings add."""
IN_KEYRING = "keyring"
KEYRING = "anvyl"
NO_KEYRING = "add it without --keyring: then it is in a private file"


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel. `takes_everything`: a program that gets each event as JSON at once, also in quiet hours."""

    name: str
    url: ChannelUrl

    @property
    def takes_everything(self) -> bool:
        """Whether it is a program, not a person."""
        return self.url.kind == "json"

    @property
    def shown(self) -> str:
        """The URL without its secrets."""
        return self.url.shown

    async def send(self, notice: Notice) -> None:
        """Send a notice.

        Raises:
            DeliveryFailed: it did not arrive.
        """
        await (apprise_services.send if self.url.kind == "apprise" else services.post)(self.url, notice)


def make_channel(name: str, url: str) -> Channel:
    """Return a channel, checked.

    Raises:
        InvalidInput: the name or the URL cannot be used.
        ConfigInvalid: the URL needs Apprise, which is not installed.
    """
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"`{name}` cannot be the name of a channel", hint="use letters, digits and dashes, like phone"
        )
    parsed = parse_channel_url(url)
    if parsed.kind == "apprise":
        apprise_services.check_url(parsed)
    return Channel(name, parsed)


class ChannelStore:
    """The channels of this installation."""

    def __init__(self, config_dir: Path) -> None:
        self._file = config_dir / "notify.json"

    @property
    def file(self) -> Path:
        """The private file."""
        return self._file

    def channels(self) -> list[Channel]:
        """Return all channels.

        Raises:
            ConfigInvalid: the file or the keyring cannot be read, or a URL in it cannot be used.
        """
        found = []
        for name, url in self._read().items():
            try:
                found.append(Channel(name, parse_channel_url(_from_keyring(name) if url == IN_KEYRING else url)))
            except InvalidInput as error:
                raise ConfigInvalid(
                    f"the URL of the channel `{name}` cannot be used: {error.message}",
                    hint=f"anvyl notify remove {name}, then add it again",
                ) from error
        return found

    def names(self) -> list[str]:
        """Return the names of all channels."""
        return list(self._read())

    def add(self, name: str, url: str, *, keyring: bool = False) -> Channel:
        """Add a channel, or replace its URL.

        Raises:
            InvalidInput: the name or the URL cannot be used.
            ConfigInvalid: Apprise or a keyring is needed, and not installed.
            AnvylError: the file cannot be written.
        """
        if name in RESERVED:
            raise InvalidInput(f"`{name}` is a reserved name", hint="choose another name, like phone")
        channel, rows = make_channel(name, url.strip()), self._read()
        if keyring:
            _to_keyring(name, url.strip())
        elif rows.get(name) == IN_KEYRING:
            _drop_from_keyring(name)
        rows[name] = IN_KEYRING if keyring else url.strip()
        self._write(rows)
        return channel

    def remove(self, name: str) -> None:
        """Remove a channel.

        Raises:
            NotFound: there is none with this name.
            AnvylError: the file cannot be written.
        """
        rows = self._read()
        if name not in rows:
            raise NotFound(f"there is no channel `{name}`", hint=did_you_mean(name, rows) if rows else "add one first")
        if rows.pop(name) == IN_KEYRING:
            _drop_from_keyring(name)
        self._write(rows)

    def _read(self) -> dict[str, str]:
        try:
            found = self._file.stat()
            check_not_writable_by_others(self._file, found, ", so no notice is sent", mode="600")
            if found.st_mode & OTHERS_MAY_ANYTHING:
                with suppress(OSError):
                    self._file.chmod(PRIVATE_MODE)
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            if not isinstance(rows, dict) or not all(isinstance(url, str) for url in rows.values()):
                raise ValueError
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            # The content has secrets, so the error does not quote it.
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise ConfigInvalid(f"{self._file} cannot be read: {reason}", hint="fix it or remove it") from None
        return rows

    def _write(self, rows: dict[str, str]) -> None:
        try:
            write_atomically(self._file, json.dumps(rows, indent=2) + "\n", mode=PRIVATE_MODE)
        except OSError as error:
            raise AnvylError(
                f"{self._file} cannot be written: {error.strerror}", hint="check disk and folder"
            ) from error


def _keyring() -> Any:
    try:
        return importlib.import_module("keyring")
    except ImportError as error:
        raise ConfigInvalid(
            "no keyring is installed", hint=f"{extras.install_command('keyring')}, or {NO_KEYRING}"
        ) from error


def _from_keyring(name: str) -> str:
    found = _use_keyring("get_password", name)
    if not found:
        raise ConfigInvalid(f"the keyring has no URL of the channel `{name}`", hint="add the channel again")
    return str(found)


def _to_keyring(name: str, url: str) -> None:
    _use_keyring("set_password", name, url)


def _drop_from_keyring(name: str) -> None:
    if _use_keyring("get_password", name):
        _use_keyring("delete_password", name)


def _use_keyring(action: str, name: str, *values: str) -> object:
    keyring, errors = _keyring(), importlib.import_module("keyring.errors")
    try:
        return getattr(keyring, action)(KEYRING, f"notify-{name}", *values)
    except errors.KeyringError as error:
        raise ConfigInvalid(f"the keyring cannot be used ({type(error).__name__})", hint=NO_KEYRING) from None
