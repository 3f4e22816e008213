"""Forward questions to the agent on another host, restricted to the rights of the caller here."""

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
"""Time limit for the answer of another agent."""


@dataclass(frozen=True)
class Sender:
    """The caller, the path and the id of a forwarded request. `alone`: the host must not forward it to its peers."""

    rights: OnBehalf
    path: tuple[Hop, ...]
    request_id: str = ""
    alone: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers. The receiver uses the scopes only to restrict the rights of our token."""
        headers = {
            protocol_keys.SCOPES_HEADER: ",".join(sorted(self.rights.scopes)),
            protocol_keys.FOR_HEADER: quote(self.rights.name),
            protocol_keys.PATH_HEADER: ",".join(map(str, self.path)),
        }
        if self.alone:
            headers[protocol_keys.ALONE_HEADER] = "1"
        if self.request_id:
            headers[protocol_keys.REQUEST_ID_HEADER] = self.request_id
        return headers


async def ask(peer: Peer, query: str, sender: Sender, *, approve: bool) -> Mapping[str, Any]:
    """Ask a host's agent. Returns the body of `/agent/process` there, with the `status_code`.

    Raises:
        Unpaired, Unreachable: nothing was sent.
        Timeout: no answer within `SECONDS`; the request was cancelled.
        NotAnvyl: the peer has no agent.
        AnvylError: the host reported this error.
    """
    return await _post(peer, "/agent/process", {"query": query, "approve": approve}, sender)


async def decide(peer: Peer, id_: str, sender: Sender, *, approve: bool) -> Mapping[str, Any]:
    """Approve or deny a pending approval on a host.

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
        raise Timeout(f"no answer within {SECONDS} s", hint="ask for less, or check that host") from error
