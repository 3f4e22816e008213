"""Joining a host: its code becomes a pinned address and a token of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from anvyl_mcp import text
from anvyl_mcp.errors import AnvylError, Denied, Unreachable, from_code
from anvyl_mcp.invitation import Invitation
from anvyl_mcp.peers import failures
from anvyl_mcp.peers.pins import pinned_context
from anvyl_mcp.peers.registry import Peer

SECONDS = 10
MOST_BYTES = 64 * 1024
SCOPES = ("read", "operate", "exec")


@dataclass(frozen=True, slots=True)
class Joined:
    """What a host gave us: its own name, and what our token there may do."""

    peer: Peer
    scopes: tuple[str, ...]


async def join(invitation: Invitation, *, called: str, as_name: str = "", tags: tuple[str, ...] = ()) -> Joined:
    """Redeem a code at the first of its addresses that answers. `called` is our own name, for the other's list.

    Raises:
        Unreachable: no address answers.
        Denied: the key is not the one in the code, or the code is used, too old or wrong.
    """
    problems: list[str] = []
    for address in invitation.addresses:
        url = f"https://{address}"
        try:
            told = await _redeem(url, invitation, called)
        except Unreachable as error:
            problems.append(f"{address}: {error.message}")
            continue
        name = as_name or str(told.get("name", ""))
        return Joined(Peer(name, url, tags, invitation.pin, str(told.get("token", ""))), _scopes(told))
    raise Unreachable(
        f"the host does not answer: {'; '.join(problems)}",
        hint="is this machine on the same network? The code is good at all its addresses until it expires",
    )


async def leave(peer: Peer) -> None:
    """Have our token on a host revoked by the host itself.

    Raises:
        AnvylError: it does not answer, or does not know us any more.
    """
    async with _client(peer.url, peer.pin) as client:
        headers = {"Authorization": f"Bearer {peer.token}"}
        await _told(client, "DELETE", "/pair", None, headers)


async def known_as(peer: Peer, token: str = "") -> Mapping[str, Any]:
    """What a host says of us: `{"host", "name", "scopes", "version", "time"}`.

    Raises:
        AnvylError: it does not answer, or does not know us.
    """
    headers = {"Authorization": f"Bearer {peer.token or token}"} if peer.token or token else {}
    async with _client(peer.url, peer.pin) as client:
        return await _told(client, "GET", "/pair", None, headers)


async def _redeem(url: str, invitation: Invitation, called: str) -> Mapping[str, Any]:
    async with _client(url, invitation.pin) as client:
        return await _told(client, "POST", "/pair", {"secret": invitation.secret, "name": called}, {})


def _scopes(told: Mapping[str, Any]) -> tuple[str, ...]:
    """The rights a host says we have there; words that are none are left out."""
    said = told.get("scopes")
    return tuple(scope for scope in said if scope in SCOPES) if isinstance(said, list) else ()


def _client(url: str, pin: str) -> httpx.AsyncClient:
    timeout = httpx.Timeout(SECONDS, connect=failures.CONNECT_SECONDS)
    verify = pinned_context([pin]) if url.startswith("https:") else False
    return httpx.AsyncClient(base_url=url, verify=verify, timeout=timeout, trust_env=False, follow_redirects=False)


async def _told(
    client: httpx.AsyncClient, method: str, path: str, body: object, headers: Mapping[str, str]
) -> Mapping[str, Any]:
    try:
        async with client.stream(method, path, json=body, headers=dict(headers)) as answer:
            content = b""
            async for part in answer.aiter_raw(MOST_BYTES):
                content += part
                if len(content) > MOST_BYTES:
                    break
        told = text.cleaned(json.loads(content))
    except httpx.ConnectError as error:
        raise failures.unreached(error.__cause__ or error) from error
    except httpx.TimeoutException as error:
        raise Unreachable("no answer in time") from error
    except (httpx.HTTPError, ValueError) as error:
        raise Unreachable("what answers there is not anvyl-mcp") from error
    if answer.is_success and isinstance(told, dict):
        return told
    problem = told.get("error") if isinstance(told, dict) else None
    if isinstance(problem, dict):
        raise from_code(str(problem.get("code")), str(problem.get("message")), str(problem.get("hint", "")))
    if answer.status_code in (401, 403):
        raise Denied("the host refused", hint="make a new code there: anvyl-mcp invite")
    raise AnvylError(f"the host answered with HTTP {answer.status_code}", hint="is it the same version of Anvyl?")
