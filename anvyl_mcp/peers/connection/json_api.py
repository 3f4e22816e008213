"""JSON requests to another host's own endpoints: to its pinned key, without redirects or proxies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Denied, Timeout, Unreachable, from_code
from anvyl_mcp.peers.connection import connection_errors
from anvyl_mcp.peers.connection.tls_pinning import pinned_context

SECONDS = 10
MOST_BYTES = 64 * 1024


class NotAnvyl(Unreachable):
    """The peer is not an Anvyl server, or is a different version."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, hint="is it the same version of Anvyl?")
        self.status = status


def client(url: str, *pins: str, seconds: float = SECONDS) -> httpx.AsyncClient:
    """Return an HTTP client for a host that has the key of one of `pins`."""
    timeout = httpx.Timeout(seconds, connect=connection_errors.CONNECT_SECONDS)
    verify = pinned_context(pins) if url.startswith("https:") else False
    headers = {"Accept-Encoding": "identity"}
    return httpx.AsyncClient(
        base_url=url, headers=headers, verify=verify, timeout=timeout, trust_env=False, follow_redirects=False
    )


async def request(
    http: httpx.AsyncClient, method: str, path: str, body: object, headers: Mapping[str, str], most: int = MOST_BYTES
) -> Mapping[str, Any]:
    """Send a request and return the JSON answer with its `status_code`. Control characters are removed from all texts.

    Raises:
        Unreachable: nothing was sent, or the peer is not an Anvyl server.
        Timeout, Unknown: the request was sent and no answer arrived.
        AnvylError: the host reported this error.
    """
    try:
        async with http.stream(method, path, json=body, headers=dict(headers)) as answer:
            content = b""
            async for part in answer.aiter_raw(64 * 1024):
                content += part
                if len(content) > most:
                    break
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise connection_errors.connect_error(error.__cause__ or error) from error
    except httpx.TimeoutException as error:
        raise Timeout("no answer in time", hint="try again, or check that host") from error
    except httpx.HTTPError as error:
        raise connection_errors.connection_lost() from error
    return _read(answer, content)


def _read(answer: httpx.Response, content: bytes) -> Mapping[str, Any]:
    status = answer.status_code
    try:
        found = text.clean_json(json.loads(content))
    except (ValueError, RecursionError):
        found = None
    if answer.is_success and isinstance(found, dict):
        return {**found, "status_code": status}
    problem = found.get("error") if isinstance(found, dict) else None
    if isinstance(problem, dict):
        raise from_code(str(problem.get("code")), str(problem.get("message")), str(problem.get("hint", "")))
    if status in (401, 403):
        raise Denied("the host denied access", hint="create a new code there: anvyl-mcp invite")
    if answer.is_success:
        raise NotAnvyl("the server there is not anvyl-mcp", status=status)
    raise NotAnvyl(f"the host answered with HTTP {status}", status=status)
