"""HTTP transport for the official MCP client that limits the failure of a request to that request.

Without it a lost connection ends the client for every other call (modelcontextprotocol/python-sdk #3560), and a 401 or
a 502 reaches the caller without its status (#1295). Both become JSON-RPC errors with an Anvyl error as their data.
"""

from __future__ import annotations

import json

import httpx2

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.connection import connection_errors, replies

FAILED, SESSION_GONE = -32050, -32052
"""JSON-RPC codes of the errors created here: an Anvyl error in `data`, and a session the host no longer knows."""

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
_ENCODING_HEADERS = ("content-encoding", "content-length", "transfer-encoding")


class FaultIsolatingTransport(httpx2.AsyncHTTPTransport):
    """An httpx2 transport whose POSTs always return a response.

    The client retries with an older protocol if its first request fails; a host that was never reached fails at once.
    """

    _reached = False
    _never_reached: AnvylError | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request."""
        if request.method != "POST":
            return await super().handle_async_request(request)
        if self._never_reached is not None:
            return _error_response(request, self._never_reached)
        try:
            response = await super().handle_async_request(request)
            self._reached = True
            kind = _media_type(response)
            if response.status_code == 200 and kind == "text/event-stream":
                return response
            return _checked_response(request, response, kind, await _read_body(response))
        except httpx2.RequestError as error:
            if not isinstance(error, _NEVER_SENT):
                return _error_response(request, connection_errors.connection_lost())
            failure = connection_errors.connect_error(error)
            self._never_reached = None if self._reached else failure
            return _error_response(request, failure)
        except AnvylError as error:
            return _error_response(request, error)


def _checked_response(request: httpx2.Request, response: httpx2.Response, kind: str, body: bytes) -> httpx2.Response:
    status = response.status_code
    if status == 404 and "mcp-session-id" in request.headers:
        return _error_response(request, connection_errors.connection_lost(), SESSION_GONE)
    if not (status == 202 or response.has_redirect_location or replies.message_in(kind, body)):
        raise (
            connection_errors.malformed_reply()
            if status == 200
            else connection_errors.from_status(status, kind, body, str(request.url))
        )
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _ENCODING_HEADERS]
    return httpx2.Response(status, headers=headers, content=body, request=request)


def _error_response(request: httpx2.Request, error: AnvylError, code: int = FAILED) -> httpx2.Response:
    # With an error status the client matches the response to its request itself; the id is not known here.
    payload = {"code": code, "message": error.message, "data": {protocol_keys.ERROR: error.as_dict()}}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": payload}).encode()
    return httpx2.Response(503, headers={"content-type": "application/json"}, content=body, request=request)


async def _read_body(response: httpx2.Response) -> bytes:
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > connection_errors.MOST_BYTES:
                raise connection_errors.too_large()
    finally:
        await response.aclose()
    return bytes(body)


def _media_type(response: httpx2.Response) -> str:
    kind: str = response.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower()
