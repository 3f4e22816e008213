"""Joining a host: its code becomes a pinned address and a token of our own."""

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
    """What a host gave us: its own name, and what our token there may do."""

    peer: Peer
    scopes: tuple[str, ...]
    replaced: bool = False
    """Whether our present token there counts no more."""


async def pair(
    invitation: Invitation, *, called: str, as_name: str = "", tags: tuple[str, ...] = (), instead_of: str = ""
) -> PairingResult:
    """Redeem a code at the first of its addresses that answers. `called` is our own name, for the other's list.

    `instead_of`: the token that we hold already; where the host knows it, it keeps its name and is replaced.

    Raises:
        Unreachable: no address answers.
        Denied: the key is not the one in the code, or the code is used, too old or wrong.
    """
    problems: list[str] = []
    for address in invitation.addresses:
        url = f"https://{address}"
        try:
            told = await _redeem(url, invitation, called, instead_of)
        except Unreachable as error:
            problems.append(f"{address}: {error.message}")
            continue
        name = as_name or str(told.get("name", ""))
        peer = Peer(name, url, tags, invitation.pin, str(told.get("token", "")))
        return PairingResult(peer, _scopes(told), told.get("replaced") is True)
    raise Unreachable(
        f"the host does not answer: {'; '.join(problems)}",
        hint="is this machine on the same network? The code is good at all its addresses until it expires",
    )


async def unpair(peer: Peer) -> None:
    """Have our token on a host revoked by the host itself.

    Raises:
        AnvylError: it does not answer, or does not know us any more.
    """
    async with json_api.client(peer.url, *peer.pins) as client:
        headers = {"Authorization": f"Bearer {peer.token}"}
        await json_api.request(client, "DELETE", "/pair", None, headers)


async def fetch_own_access(peer: Peer, token: str = "", records: Iterable[int] = ()) -> Mapping[str, Any]:
    """What a host says of us, and of the records of these numbers in its audit log.

    `{"host", "name", "scopes", "version", "time", "audit": {"seq", "hash", "first", "at": {number: hash}}}`.

    Raises:
        AnvylError: it does not answer, or does not know us.
    """
    headers = {"Authorization": f"Bearer {peer.token or token}"} if peer.token or token else {}
    asked = "&".join(f"seq={number}" for number in records)
    async with json_api.client(peer.url, *peer.pins) as client:
        return await json_api.request(client, "GET", f"/pair?{asked}" if asked else "/pair", None, headers)


async def engine_problem(peer: Peer, token: str = "") -> str:
    """What is wrong with a host's engine, as its `/health` says; empty when it answers, or may not be asked about.

    Raises:
        AnvylError: the host does not answer.
    """
    headers = {"Authorization": f"Bearer {peer.token or token}"} if peer.token or token else {}
    async with json_api.client(peer.url, *peer.pins) as client:
        health = await json_api.request(client, "GET", "/health", None, headers)
    checks = health.get("checks")
    engine = str(checks.get("engine", "ok")) if isinstance(checks, dict) else "ok"
    return "" if engine == "ok" else engine


async def _redeem(url: str, invitation: Invitation, called: str, present: str) -> Mapping[str, Any]:
    body = {"secret": invitation.secret, "name": called}
    try:
        async with json_api.client(url, invitation.pin) as client:
            if present:
                # A token that is not good any more is refused before the code is looked at.
                with suppress(Denied):
                    return await json_api.request(client, "POST", "/pair", body, {"Authorization": f"Bearer {present}"})
            return await json_api.request(client, "POST", "/pair", body, {})
    except (Timeout, Unknown) as error:
        raise Unreachable(error.message, hint=error.hint) from error


def _scopes(told: Mapping[str, Any]) -> tuple[str, ...]:
    """The rights a host says we have there; words that are none are left out."""
    said = told.get("scopes")
    return tuple(scope for scope in said if scope in SCOPES) if isinstance(said, list) else ()
