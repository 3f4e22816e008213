"""Pair with a host: exchange its one-time code for a pinned address and a token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core.errors import Denied, Timeout, Unknown, Unreachable
from anvyl_mcp.core.invitation import Invitation
from anvyl_mcp.peers.connection import json_api
from anvyl_mcp.peers.hosts.registry import Peer

SCOPES = ("read", "operate", "exec")


@dataclass(frozen=True, slots=True)
class PairingResult:
    """The paired host, and the scopes of our token there."""

    peer: Peer
    scopes: tuple[str, ...]
    replaced: bool = False
    """Whether the host revoked our previous token."""


async def pair(
    invitation: Invitation, *, called: str, as_name: str = "", tags: tuple[str, ...] = (), instead_of: str = ""
) -> PairingResult:
    """Redeem a code at the first of its addresses that answers. `called`: our own name, for the host's list of tokens.

    `instead_of`: our current token there; if it is valid, the host replaces it and keeps its name.

    Raises:
        Unreachable: no address answers, or a key differs from the one in the code.
        Denied: the code was used before, has expired or is wrong.
    """
    problems: list[str] = []
    for address in invitation.addresses:
        url = f"https://{address}"
        try:
            granted = await _redeem(url, invitation, called, instead_of)
        except Unreachable as error:
            problems.append(f"{address}: {error.message}")
            continue
        name = as_name or str(granted.get("name", ""))
        peer = Peer(name, url, tags, invitation.pin, str(granted.get("token", "")))
        return PairingResult(peer, _scopes(granted), granted.get("replaced") is True)
    raise Unreachable(
        f"the host does not answer: {'; '.join(problems)}",
        hint="is this machine on the same network? The code works at all its addresses until it expires",
    )


async def unpair(peer: Peer) -> None:
    """Revoke our token on a host.

    Raises:
        AnvylError: the host does not answer, or no longer accepts the token.
    """
    async with json_api.client(peer.url, *peer.pins) as client:
        headers = {"Authorization": f"Bearer {peer.token}"}
        await json_api.request(client, "DELETE", "/pair", None, headers)


async def fetch_own_access(peer: Peer, token: str = "", records: Iterable[int] = ()) -> Mapping[str, Any]:
    """Fetch our name and scopes on a host, and the hashes of these records of its audit log.

    `{"host", "name", "scopes", "version", "time", "audit": {"seq", "hash", "first", "at": {number: hash}}}`.

    Raises:
        AnvylError: the host does not answer, or does not accept our token.
    """
    headers = {"Authorization": f"Bearer {peer.token or token}"} if peer.token or token else {}
    query = "&".join(f"seq={number}" for number in records)
    async with json_api.client(peer.url, *peer.pins) as client:
        return await json_api.request(client, "GET", f"/pair?{query}" if query else "/pair", None, headers)


async def engine_problem(peer: Peer, token: str = "") -> str:
    """Return the engine problem that a host's `/health` reports; empty if there is none, or we may not see it.

    Raises:
        AnvylError: the host does not answer.
    """
    engine = str((await fetch_checks(peer, token)).get("engine", "ok"))
    return "" if engine == "ok" else engine


async def fetch_checks(peer: Peer, token: str = "") -> Mapping[str, Any]:
    """Fetch the checks of a host's `/health`: `ok` or a problem, by name; empty if we may not see them.

    Raises:
        AnvylError: the host does not answer.
    """
    headers = {"Authorization": f"Bearer {peer.token or token}"} if peer.token or token else {}
    async with json_api.client(peer.url, *peer.pins) as client:
        health = await json_api.request(client, "GET", "/health", None, headers)
    checks = health.get("checks")
    return checks if isinstance(checks, dict) else {}


async def _redeem(url: str, invitation: Invitation, called: str, present: str) -> Mapping[str, Any]:
    body = {"secret": invitation.secret, "name": called}
    try:
        async with json_api.client(url, invitation.pin) as client:
            if present:
                # An invalid token is rejected before the code is checked, so retry without it.
                with suppress(Denied):
                    return await json_api.request(client, "POST", "/pair", body, {"Authorization": f"Bearer {present}"})
            return await json_api.request(client, "POST", "/pair", body, {})
    except (Timeout, Unknown) as error:
        raise Unreachable(error.message, hint=error.hint) from error


def _scopes(granted: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the scopes that a host granted; unknown ones are ignored."""
    scopes = granted.get("scopes")
    return tuple(scope for scope in scopes if scope in SCOPES) if isinstance(scopes, list) else ()
