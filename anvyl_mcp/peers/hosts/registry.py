"""The hosts file: the peers of this installation."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anvyl_mcp.core import file_locks
from anvyl_mcp.core.errors import ConfigInvalid, Conflict, InvalidInput, UnknownHost, Unpaired, did_you_mean
from anvyl_mcp.core.files import check_not_writable_by_others, write_atomically
from anvyl_mcp.core.settings import HOST_NAME, check_host_name
from anvyl_mcp.peers.connection.transports import is_loopback


@dataclass(frozen=True, slots=True)
class Peer:
    """A known host. `next_pin` pins the key that it announced as its next; `trust_tools` allows tools that our
    catalogue does not have.
    """

    name: str
    url: str
    tags: tuple[str, ...] = ()
    pin: str = ""
    token: str = field(default="", repr=False)
    next_pin: str = ""
    trust_tools: bool = False

    @property
    def pins(self) -> tuple[str, ...]:
        """The pins of the keys that it may use."""
        return tuple(pin for pin in (self.pin, self.next_pin) if pin)

    @property
    def paired(self) -> bool:
        """Whether requests may be sent to it: it is on loopback, or its key is pinned."""
        return bool(self.pin) or is_loopback(self.url)


class Registry:
    """The hosts file. Every change is made under a lock, to the current content, and replaces the file atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int, int], dict[str, Peer]] | None = None

    def peers(self) -> dict[str, Peer]:
        """Return every peer by name, in the order of the file.

        Raises:
            ConfigInvalid: the file is invalid; it is not changed.
        """
        version = self._version()
        if self._read is None or self._read[0] != version:
            self._read = version, self._parse(self._text())
        return dict(self._read[1])

    def _version(self) -> tuple[int, int, int, int]:
        """Return a value that changes whenever the file is replaced, so that a server notices changes by commands."""
        try:
            found = self.path.stat()
        except OSError:
            return (0, 0, 0, 0)
        return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode

    def get(self, name: str) -> Peer:
        """Return one peer.

        Raises:
            UnknownHost: there is no host of that name.
        """
        peers = self.peers()
        if name.lower() not in peers:
            raise unknown_host_error(name, peers)
        return peers[name.lower()]

    def add(self, peer: Peer) -> None:
        """Add a peer.

        Raises:
            Conflict: the name or the address is in use.
        """
        check_host_name(peer.name)
        with self._locked():
            peers = self.peers()
            if peer.name in peers:
                raise Conflict(
                    f"there is already a host `{peer.name}`, at {peers[peer.name].url}",
                    hint=f"choose another name, or remove it first: anvyl hosts remove {peer.name}",
                )
            for other in peers.values():
                if other.url == peer.url:
                    raise Conflict(
                        f"you already added {peer.url}, as `{other.name}`",
                        hint=f"use that name, or remove it first: anvyl hosts remove {other.name}",
                    )
            write_atomically(self.path, self._edited(_insert, peer, {**peers, peer.name: peer}))

    def remove(self, name: str) -> Peer:
        """Remove a peer.

        Raises:
            UnknownHost: there is no host of that name.
        """
        with self._locked():
            peer = self.get(name)
            left = {other: known for other, known in self.peers().items() if other != peer.name}
            write_atomically(self.path, self._edited(_delete, peer, left))
        return peer

    def set_pins(self, peer: Peer, *, pin: str, next_pin: str) -> None:
        """Change the pins of a peer, unless its entry differs from `peer` by now."""
        with self._locked():
            peers = self.peers()
            if peers.get(peer.name) == peer:
                changed = replace(peer, pin=pin, next_pin=next_pin)
                write_atomically(self.path, self._edited(_change_pins, changed, {**peers, peer.name: changed}))

    def rename(self, name: str, new: str) -> Peer:
        """Rename a peer.

        Raises:
            UnknownHost: there is no host of that name.
            Conflict: the new name is in use.
        """
        called = check_host_name(new)
        with self._locked():
            peers, old = self.peers(), self.get(name)
            if called in peers and called != old.name:
                raise Conflict(
                    f"there is already a host `{called}`, at {peers[called].url}", hint="choose another name"
                )
            peer = replace(old, name=called)
            left = {other: known for other, known in peers.items() if other != old.name}

            def edit(content: str, new: Peer) -> str:
                return _change_name(content, old, new)

            write_atomically(self.path, self._edited(edit, peer, {**left, called: peer}))
        return peer

    def replace(self, name: str, peer: Peer) -> None:
        """Replace the peer `name` with another one, which may have the same name.

        Raises:
            UnknownHost: there is no host of that name.
            Conflict: a third host has the new name or address.
        """
        check_host_name(peer.name)
        with self._locked():
            old = self.get(name)
            left = {other: known for other, known in self.peers().items() if other != old.name}
            for other in left.values():
                if peer.name == other.name or peer.url == other.url:
                    raise Conflict(
                        f"you already added {peer.url} or `{peer.name}`, as `{other.name}`",
                        hint=f"use that name, or remove it first: anvyl hosts remove {other.name}",
                    )

            def edit(content: str, new: Peer) -> str:
                return _insert(_delete(content, old), new)

            write_atomically(self.path, self._edited(edit, peer, {**left, peer.name: peer}))

    def _edited(self, edit: Callable[[str, Peer], str], peer: Peer, expected: Mapping[str, Peer]) -> str:
        """Apply `edit` and check the result: tomlkit rejects some valid TOML, and could lose other hosts in it."""
        try:
            content = edit(self._text(), peer)
            if self._parse(content) == expected:
                return content
        except (ValueError, ConfigInvalid):
            pass
        raise ConfigInvalid(
            f"{self.path} has a layout that Anvyl cannot edit; it was not changed",
            hint="write each host as a table of its own: [hosts.NAME]",
        )

    def _text(self) -> str:
        try:
            check_not_writable_by_others(self.path, self.path.stat(), ", so no host in it is used")
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError as error:
            raise ConfigInvalid(f"{self.path} is not UTF-8", hint="fix it, or move it away to start over") from error
        except OSError as error:
            raise ConfigInvalid(
                f"{self.path} cannot be read: {error.strerror}", hint="check its permissions"
            ) from error

    def _parse(self, content: str) -> dict[str, Peer]:
        try:
            data = tomllib.loads(content)
        except tomllib.TOMLDecodeError as error:
            raise ConfigInvalid(
                f"{self.path} is not valid TOML: {error}",
                hint="fix it, or move it away to start over; it was not changed",
            ) from error
        peers = {}
        for name, entry in _table(data.get("hosts", {}), self.path, "hosts").items():
            fields = _table(entry, self.path, f"hosts.{name}")
            url, tags = fields.get("url"), fields.get("tags", [])
            pin, token, next_pin = (str(fields.get(word, "")) for word in ("pin", "token", "next_pin"))
            if not isinstance(url, str) or not isinstance(tags, list):
                raise ConfigInvalid(f"{self.path}: `hosts.{name}` needs a `url` string", hint='like url = "http://…"')
            groups, trusted = tuple(str(tag) for tag in tags), fields.get("trust_tools") is True
            peers[name.lower()] = Peer(name.lower(), url, groups, pin, token, next_pin, trusted)
        return peers

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with file_locks.exclusive_lock(self.path.with_suffix(".lock")):
                yield
        except OSError as error:
            raise ConfigInvalid(
                f"{self.path} cannot be written: {error.strerror}", hint="check the disk and its permissions"
            ) from error


# The file is edited with tomlkit to keep comments and order. It takes 50 ms to import, so commands that only read the
# file must not import it.


def _insert(content: str, peer: Peer) -> str:
    import tomlkit

    document = tomlkit.parse(content)
    hosts = document.setdefault("hosts", tomlkit.table(is_super_table=True))
    entry = tomlkit.table()
    entry["url"] = peer.url
    if peer.tags:
        entry["tags"] = list(peer.tags)
    if peer.pin:
        entry["pin"] = peer.pin
    if peer.token:
        entry["token"] = peer.token
    if peer.trust_tools:
        entry["trust_tools"] = True
    if peer.next_pin:
        entry["next_pin"] = peer.next_pin
    hosts[peer.name] = entry
    return tomlkit.dumps(document)


def _change_pins(content: str, peer: Peer) -> str:
    import tomlkit

    document = tomlkit.parse(content)
    hosts = document["hosts"]
    assert isinstance(hosts, MutableMapping)
    entry = hosts[next(key for key in hosts if key.lower() == peer.name)]
    entry["pin"] = peer.pin
    if peer.next_pin:
        entry["next_pin"] = peer.next_pin
    else:
        entry.pop("next_pin", None)
    return tomlkit.dumps(document)


def _change_name(content: str, old: Peer, peer: Peer) -> str:
    import tomlkit

    document = tomlkit.parse(content)
    hosts = document["hosts"]
    assert isinstance(hosts, MutableMapping)
    hosts[peer.name] = hosts.pop(next(key for key in hosts if key.lower() == old.name))
    return tomlkit.dumps(document)


def _delete(content: str, peer: Peer) -> str:
    import tomlkit

    document = tomlkit.parse(content)
    hosts = document["hosts"]
    assert isinstance(hosts, MutableMapping)
    # The name in the file may differ in case.
    del hosts[next(key for key in hosts if key.lower() == peer.name)]
    return tomlkit.dumps(document)


def check_tag(tag: str) -> str:
    """Return the tag in lower case, without its `@`.

    Raises:
        InvalidInput: the tag contains invalid characters.
    """
    folded = tag.strip().removeprefix("@").lower()
    if not HOST_NAME.fullmatch(folded):
        raise InvalidInput(f"`{tag}` is not a valid tag", hint="use letters, digits, dots, dashes and underscores")
    return folded


def not_paired_error(peer: Peer) -> Unpaired:
    """Return the error for a host that is not paired, with the commands that pair it."""
    return Unpaired(
        "not paired yet, so nothing is sent to it",
        hint=f"pair with it: run `anvyl-mcp invite` on {peer.name}, then `anvyl hosts add` here; or reach it over "
        f"SSH: ssh -N -L 4210:127.0.0.1:4200 {peer.name}, then add http://127.0.0.1:4210",
    )


def unknown_host_error(name: str, known: Iterable[str]) -> UnknownHost:
    """Return the error for an unknown host, with similar names."""
    names = list(known)
    hint = did_you_mean(name, names) or "add it: anvyl hosts add NAME URL"
    return UnknownHost(f"there is no host `{name}`", hint=hint)


def _table(value: object, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigInvalid(f"{path}: `{where}` must be a table", hint=f"write [{where}.NAME]")
    return value
