"""`anvyl-mcp invite`, put together: the running server opens to the network, and a code tells how to join it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx

from anvyl_mcp.core import serve_lock
from anvyl_mcp.core.errors import AnvylError, Conflict, InvalidInput, Unreachable, from_code
from anvyl_mcp.core.invitation import Invitation
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.server import addresses
from anvyl_mcp.server.http.host_state import HostState
from anvyl_mcp.server.http.origin_check import is_loopback


async def invite(settings: Settings, *, scope: str, seconds: int, address: str, relay: bool = False) -> dict[str, Any]:
    """`{"code", "addresses", "pin", "scopes", "seconds"}` of a new invitation.

    Raises:
        Conflict: no server of this installation runs.
        InvalidInput: the rights, the time or the address cannot be used.
    """
    server = serve_lock.find_server(settings.run_dir)
    if server is None:
        raise Conflict("no server of this host runs, so nobody could join it", hint="start it first: anvyl-mcp serve")
    if address and is_loopback(address):
        raise InvalidInput(f"{address} is this machine itself", hint="name an address that others reach")
    state = HostState(settings.state_dir)
    identity = state.identity()
    urls = list(server.network)
    if not urls or (address and address not in {urlsplit(url).hostname for url in urls}):
        urls = await _open(server.url, address or _chosen(), serve_lock.read_local_token(settings.run_dir))
    reachable = _addresses(urls)
    scopes, secret = state.invite(scope, seconds, relay=relay)
    return {
        "code": Invitation(tuple(reachable), identity.pin, secret).encode(),
        "addresses": reachable,
        "pin": identity.pin,
        "scopes": scopes,
        "seconds": seconds,
    }


def _chosen() -> str:
    found = addresses.default_address()
    if not found:
        raise InvalidInput("this machine has no network address", hint="connect it, or name one with --host")
    return found


def _addresses(urls: list[str]) -> list[str]:
    """`host:port` of each address, with the port of the first: both ports serve the same."""
    found: list[str] = []
    for url in urls:
        parts = urlsplit(url)
        for one in addresses.join_addresses(parts.hostname or ""):
            name = f"[{one}]" if ":" in one else one
            if not any(known.rpartition(":")[0] == name for known in found):
                found.append(f"{name}:{parts.port}")
    return found[:4]


async def _open(server: str, address: str, token: str) -> list[str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            answer = await client.post(f"{server}/network", json={"address": address}, headers=headers)
        told = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise Unreachable("the running server does not answer", hint="start it again: anvyl-mcp serve") from error
    if answer.is_success:
        return [str(url) for url in told["urls"]]
    problem = told.get("error", {})
    if "message" not in problem:
        raise AnvylError(f"the running server answered with HTTP {answer.status_code}", hint="start it again")
    raise from_code(problem.get("code", ""), problem["message"], problem.get("hint", ""))
