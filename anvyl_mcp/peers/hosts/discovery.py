"""Find and announce hosts on the local network (mDNS). Announcements are untrusted: only their address is used."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from anvyl_mcp import __version__
from anvyl_mcp.core import extras, text
from anvyl_mcp.core.errors import ConfigInvalid, InvalidInput, Unreachable
from anvyl_mcp.peers.hosts.addresses import url_of

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    from anvyl_mcp.peers.hosts.registry import Peer

SERVICE = "_anvyl-mcp._tcp.local."
MOST = 100
"""Limit of announcements to process: anyone on the network can send them."""
ANSWER_SECONDS = 1
LONGEST = 63


@dataclass(frozen=True, slots=True)
class Announcement:
    """One announcement: its claimed name, and its addresses."""

    name: str
    urls: tuple[str, ...]
    version: str

    def known_as(self, peers: Mapping[str, Peer], own: Sequence[str] = ()) -> str:
        """Return the name of the known host at one of these addresses; empty if there is none."""
        places = {_address_and_port(url) for url in self.urls}
        if places & {_address_and_port(url) for url in own}:
            return next(iter(peers))
        return next((name for name, peer in peers.items() if _address_and_port(peer.url) in places), "")


async def discover(seconds: float) -> list[Announcement]:
    """Return the hosts that announce themselves within some seconds, sorted by name.

    Raises:
        ConfigInvalid: the `discovery` extra is not installed.
        Unreachable: there is no network to listen on.
    """
    library = _library()
    names: dict[str, None] = {}

    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if len(names) < MOST:
            names[name] = None

    async with _open_network(library) as network:
        browser = library.AsyncServiceBrowser(network.zeroconf, SERVICE, handlers=[heard])
        try:
            await anyio.sleep(seconds)
            infos = [library.AsyncServiceInfo(SERVICE, name) for name in names]
            async with anyio.create_task_group() as group:
                for one in infos:
                    group.start_soon(one.async_request, network.zeroconf, ANSWER_SECONDS * 1000)
        finally:
            await browser.async_cancel()
    found = [_parse(one) for one in infos]
    return sorted((one for one in found if one.urls), key=lambda one: (one.name, one.urls))


@asynccontextmanager
async def announce(name: str, addresses: Sequence[str], port: int) -> AsyncIterator[None]:
    """Announce this host on the given addresses while the block runs.

    Raises:
        ConfigInvalid: the `discovery` extra is not installed.
        Unreachable: there is no network to announce it on.
    """
    library = _library()
    info = library.AsyncServiceInfo(
        SERVICE,
        f"{name}.{SERVICE}",
        port=port,
        parsed_addresses=list(addresses),
        properties={"name": name, "version": __version__},
        server=f"{name.replace('.', '-')}-anvyl.local.",
    )
    async with _open_network(library, [one for one in addresses if ":" not in one]) as network:
        await (await network.async_register_service(info, allow_name_change=True))
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(ANSWER_SECONDS):
                await (await network.async_unregister_service(info))


def check_installed() -> None:
    """Check that the `discovery` extra is installed.

    Raises:
        ConfigInvalid: it is not installed.
    """
    _library()


def _library() -> ModuleType:
    try:
        import zeroconf.asyncio
    except ImportError as error:
        raise ConfigInvalid(
            "announcing and finding hosts needs zeroconf, which is not installed",
            hint=extras.install_command("discovery"),
        ) from error
    return zeroconf.asyncio


@asynccontextmanager
async def _open_network(library: ModuleType, addresses: Sequence[str] = ()) -> AsyncIterator[AsyncZeroconf]:
    options: dict[str, Any] = {"interfaces": list(addresses)} if addresses else {}
    try:
        network: AsyncZeroconf = library.AsyncZeroconf(**options)
    except OSError as error:
        raise Unreachable(
            f"this machine has no network for announcements: {error.strerror or error}", hint="is it connected?"
        ) from error
    try:
        yield network
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(ANSWER_SECONDS):
            await network.async_close()


def _parse(info: AsyncServiceInfo) -> Announcement:
    fields = {key.decode("utf-8", "replace"): (value or b"").decode("utf-8", "replace") for key, value in _texts(info)}
    name = text.clean(fields.get("name") or info.name.removesuffix(f".{SERVICE}")).lower()
    fit = re.sub(r"[^a-z0-9_.-]+", "-", name)[:LONGEST].strip("-_.") or "unnamed"
    version = re.sub(r"[^\w.+-]+", "", fields.get("version", ""), flags=re.ASCII)[:LONGEST]
    urls = [url for address in info.parsed_addresses()[:4] if (url := _url(address, info.port or 0))]
    return Announcement(fit, tuple(dict.fromkeys(urls)), version)


def _texts(info: AsyncServiceInfo) -> list[tuple[bytes, bytes | None]]:
    return list(info.properties.items())


def _url(address: str, port: int) -> str:
    """Return the URL for an address; empty if it cannot belong to another machine."""
    try:
        if ipaddress.ip_address(address).is_loopback or not 0 < port < 65536:
            return ""
        return url_of(address, port, secure=True)
    except (ValueError, InvalidInput):
        return ""


def _address_and_port(url: str) -> tuple[str, int | None]:
    """Return address and port of a URL, which identify a host."""
    parts = urlsplit(url)
    try:
        return str(ipaddress.ip_address(parts.hostname or "")), parts.port
    except ValueError:
        return parts.hostname or url, parts.port
