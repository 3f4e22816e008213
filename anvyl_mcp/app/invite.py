"""`anvyl-mcp invite` and `anvyl web`: join codes for other machines, and links that sign a browser in once."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import httpx

from anvyl_mcp.core import serve_lock
from anvyl_mcp.core.errors import AnvylError, Conflict, InvalidInput, Unreachable, from_code
from anvyl_mcp.core.files import SYSTEM_HOME
from anvyl_mcp.core.invitation import MAX_ADDRESSES, Invitation
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.server import addresses
from anvyl_mcp.server.http.host_state import HostState
from anvyl_mcp.server.http.origin_check import is_loopback

SIGN_IN = "sign-in"
"""Name of the secret in the fragment of a link, which browsers do not send to any server."""


async def create_invitation(
    settings: Settings, *, scope: str, seconds: int, address: str, relay: bool = False
) -> dict[str, Any]:
    """Create an invitation: `{"code", "addresses", "pin", "scopes", "seconds"}`.

    Raises:
        Conflict: no server is running.
        InvalidInput: the scopes, the time or the address are not valid.
        Unreachable: the running server does not respond.
    """
    reachable = await _reachable_addresses(settings, address)
    state = HostState(settings.state_dir)
    identity = state.identity()
    scopes, secret = state.invite(scope, seconds, relay=relay)
    return {
        "code": Invitation(tuple(reachable), identity.pin, secret).encode(),
        "addresses": reachable,
        "pin": identity.pin,
        "scopes": scopes,
        "seconds": seconds,
    }


def _how_to_start() -> str:
    if SYSTEM_HOME.is_dir() and os.geteuid() != 0:
        return "if it runs as a service of the system: sudo anvyl-mcp invite"
    return "start it first: anvyl-mcp service install, or anvyl-mcp serve"


def create_local_link(settings: Settings, *, scope: str, seconds: int, private: bool) -> dict[str, Any]:
    """Create a link for a browser on this machine: `{"url", "scopes", "seconds"}`.

    `private`: other users may see it, so only a browser of this user may use it.

    Raises:
        Conflict: no server is running.
        InvalidInput: the scopes are not valid.
    """
    server = _running_server(settings)
    state = HostState(settings.state_dir)
    # A browser of this machine's user sees the whole fleet, as that user's commands do.
    scopes, secret = state.browser_link(scope, seconds, relay=True, private=private)
    return {"url": f"{server.url}/#{SIGN_IN}={secret}", "scopes": scopes, "seconds": seconds}


async def create_browser_link(
    settings: Settings, *, scope: str, seconds: int, address: str, relay: bool = False
) -> dict[str, Any]:
    """Create a link for a browser on another device: `{"urls", "fingerprint", "scopes", "relay", "seconds"}`.

    Raises:
        Conflict: no server is running.
        InvalidInput: the scopes, the time or the address are not valid.
        Unreachable: the running server does not respond.
    """
    reachable = await _reachable_addresses(settings, address)
    state = HostState(settings.state_dir)
    scopes, secret = state.browser_link(scope, seconds, relay=relay)
    return {
        "urls": [f"https://{one}/#{SIGN_IN}={secret}" for one in reachable],
        "fingerprint": state.identity().fingerprint,
        "scopes": scopes,
        "relay": relay,
        "seconds": seconds,
    }


def _running_server(settings: Settings) -> serve_lock.RunningServer:
    server = serve_lock.find_server(settings.run_dir)
    if server is None:
        raise Conflict("no server is running on this machine yet", hint=_how_to_start())
    return server


async def _reachable_addresses(settings: Settings, address: str) -> list[str]:
    """Open the running server to the network if it is not yet; return its addresses there, with ports."""
    server = _running_server(settings)
    if address and is_loopback(address):
        raise InvalidInput(f"{address} is a loopback address", hint="use an address that other machines can reach")
    urls = list(server.network)
    if not urls or (address and address not in {urlsplit(url).hostname for url in urls}):
        token = serve_lock.read_local_token(settings.run_dir)
        urls = await _open_network(server.url, address or _default_address(), token)
    return [_advertised_address(settings.advertise, urls)] if settings.advertise else _addresses_of(urls)


def _default_address() -> str:
    found = addresses.default_address()
    if not found:
        raise InvalidInput("this machine has no network address", hint="connect it, or set one with --host")
    return found


def _advertised_address(words: str, urls: list[str]) -> str:
    """Return the address that the settings name, by default with the port of this server."""
    if words.count(":") > 1 and not words.startswith("["):
        words = f"[{words}]"
    return words if words.rpartition(":")[2].isdigit() else f"{words}:{urlsplit(urls[0]).port}"


def _addresses_of(urls: list[str]) -> list[str]:
    """Return `host:port` of each address once: the two ports of the server are equivalent."""
    found: list[str] = []
    for url in urls:
        parts = urlsplit(url)
        for one in addresses.join_addresses(parts.hostname or ""):
            name = f"[{one}]" if ":" in one else one
            if not any(known.rpartition(":")[0] == name for known in found):
                found.append(f"{name}:{parts.port}")
    return found[:MAX_ADDRESSES]


async def _open_network(server: str, address: str, token: str) -> list[str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            answer = await client.post(f"{server}/network", json={"address": address}, headers=headers)
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise Unreachable("the running server does not respond", hint="restart it: anvyl-mcp serve") from error
    if answer.is_success:
        return [str(url) for url in body["urls"]]
    problem = body.get("error", {})
    if "message" not in problem:
        raise AnvylError(f"the running server returned HTTP {answer.status_code}", hint="restart it: anvyl-mcp serve")
    raise from_code(problem.get("code", ""), problem["message"], problem.get("hint", ""))
