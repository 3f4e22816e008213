"""Asking the agent on another host: its own model, its own rules, with no more rights than whoever asks here has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import anyio

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import Timeout
from anvyl_mcp.peers.connection import json_api
from anvyl_mcp.peers.connection.connection_errors import MOST_BYTES
from anvyl_mcp.peers.connection.transports import base_url
from anvyl_mcp.peers.fleet.fleet import OnBehalf
from anvyl_mcp.peers.hops import Hop
from anvyl_mcp.peers.hosts.registry import Peer, not_paired_error

SECONDS = 30
"""What another agent gets for its answer."""


@dataclass(frozen=True)
class Sender:
    """Who asks, along which way, and what the request is called. `alone`: each host asked is to answer for itself."""

    rights: OnBehalf
    path: tuple[Hop, ...]
    request_id: str = ""
    alone: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """As they travel: the other side can only take rights away by them."""
        told = {
            protocol_keys.SCOPES_HEADER: ",".join(sorted(self.rights.scopes)),
            protocol_keys.FOR_HEADER: quote(self.rights.name),
            protocol_keys.PATH_HEADER: ",".join(map(str, self.path)),
        }
        if self.alone:
            told[protocol_keys.ALONE_HEADER] = "1"
        return {**told, protocol_keys.REQUEST_ID_HEADER: self.request_id} if self.request_id else told


async def ask(peer: Peer, query: str, sender: Sender, *, approve: bool) -> Mapping[str, Any]:
    """What its agent answers: the body of `/agent/process` there, with the `status_code`.

    Raises:
        Unpaired, Unreachable: nothing was sent.
        Timeout: there is no answer within `SECONDS`; the other side was told to stop.
        Foreign: there is no agent.
        AnvylError: its own error.
    """
    return await _post(peer, "/agent/process", {"query": query, "approve": approve}, sender)


async def decide(peer: Peer, id_: str, sender: Sender, *, approve: bool) -> Mapping[str, Any]:
    """Give a person's answer to what waits there.

    Raises:
        AnvylError: as for `ask`.
    """
    return await _post(peer, f"/agent/approvals/{quote(id_, safe='')}", {"approve": approve}, sender)


async def _post(peer: Peer, path: str, body: Mapping[str, Any], sender: Sender) -> Mapping[str, Any]:
    if not peer.paired:
        raise not_paired_error(peer)
    headers = sender.headers | ({"Authorization": f"Bearer {peer.token}"} if peer.token else {})
    try:
        with anyio.fail_after(SECONDS):
            async with json_api.client(base_url(peer.url), *peer.pins, seconds=SECONDS) as client:
                return await json_api.request(client, "POST", path, body, headers, MOST_BYTES)
    except TimeoutError as error:
        raise Timeout(f"no answer within {SECONDS} s", hint="ask for less, or look at that host") from error
