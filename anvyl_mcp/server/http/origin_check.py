"""Host, Origin and body checks in front of every route, so that a web page cannot reach a server on loopback."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import AnvylError, Denied, InvalidInput
from anvyl_mcp.core.text import clean_json
from anvyl_mcp.server.http.browser.page_files import FILES
from anvyl_mcp.server.http.request_ids import REQUEST_ID

MAX_BODY_BYTES = 1024 * 1024
"""Requests hold questions and tool arguments, which are small."""
BODY_SECONDS = 8
"""Between two parts of a body, so that a slow sender cannot hold a connection."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
DIGITS = re.compile("[0-9]{1,12}")
FOREIGN_HOST = "anvyl.foreign_host"
"""Set in the scope of a TLS request to a foreign host name, for which `Authentication` requires a token."""


class OriginCheck:
    """Refuses foreign `Host` and `Origin` headers, cross-site fetches, bodies that are not JSON, and large ones."""

    def __init__(self, app: ASGIApp, *, names: Iterable[str] = ()) -> None:
        """`names`: this host's names on the network."""
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return
        headers = _headers_by_name(scope)
        secure = scope.get("scheme") == "https"
        if "content-length" in headers and "transfer-encoding" in headers:
            # Request smuggling (RFC 9112, 6.3): the rest of this connection is not read.
            ambiguous = InvalidInput(
                "a request cannot have both `Content-Length` and `Transfer-Encoding`", hint="send `Content-Length` only"
            )
            await error_response(ambiguous, 400, {"Connection": "close"})(scope, receive, send)
            return
        if refusal := _refusal(scope["method"], scope["path"], headers, secure=secure):
            status, error = refusal
            await error_response(error, status)(scope, receive, send)
            return
        if secure and not self._is_ours(headers.get("host", "")):
            scope[FOREIGN_HOST] = True
        await _LimitedBody(self._app).serve(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        """Whether a `Host` header over TLS is one of our names, or an IP address, which DNS cannot rebind."""
        name = _host_name(host)
        if name is None:
            return False
        return name in LOCAL_NAMES or name.rstrip(".") in self._names or is_address(name.strip("[]"))


class _TooLarge(Exception):
    """The body exceeded the limit while it was read."""


class _LimitedBody:
    """Limits the size of a body, and the time between its parts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._seen = 0
        self._whole = False
        self._answered = False

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            if self._whole:
                return await receive()
            with anyio.fail_after(BODY_SECONDS):
                message = await receive()
            self._whole = not message.get("more_body", False)
            self._seen += len(message.get("body", b""))
            if self._seen > MAX_BODY_BYTES:
                raise _TooLarge
            return message

        async def noted(message: Message) -> None:
            self._answered = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except _TooLarge:
            if not self._answered:
                await error_response(*_too_large())(scope, receive, send)
        except TimeoutError:
            if self._whole:
                raise
            if not self._answered:
                await error_response(InvalidInput("the request body timed out"), 408)(scope, receive, send)
        except ClientDisconnect:
            # The client hung up: no response, no log line.
            return


def error_response(error: AnvylError, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the JSON response for an error, in the shape of every HTTP error."""
    fields = error.as_dict()
    if request_id := REQUEST_ID.get():
        fields["request_id"] = request_id
        headers = {protocol_keys.REQUEST_ID_HEADER: request_id, **(headers or {})}
    return JSONResponse(clean_json({"error": fields}), status_code=status, headers=headers)


def foreign_host_error() -> Denied:
    """Return the error for a foreign `Host` header."""
    return Denied("this server answers only to its own host names", hint="use http://127.0.0.1 or http://localhost")


def own_names(name: str) -> frozenset[str]:
    """Return the names by which this host can be reached on its network."""
    machine = socket.gethostname().lower()
    short = {name.lower(), machine, machine.partition(".")[0]} - {""}
    return frozenset(short | {f"{one}.{domain}" for one in short for domain in ("local", "lan")})


def _headers_by_name(scope: Scope) -> dict[str, str]:
    """Headers by name; one sent twice gets both values joined, and so fails every check."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _refusal(method: str, path: str, headers: Mapping[str, str], *, secure: bool) -> tuple[int, AnvylError] | None:
    host = headers.get("host", "")
    if not secure and not names_loopback(host):
        return 421, foreign_host_error()
    origin = headers.get("origin", "")
    if origin and origin.lower() != f"{'https' if secure else 'http'}://{host.lower()}":
        return 403, Denied("requests from web pages of other origins are refused", hint="use a client, not a browser")
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not _opens_page(method, path, headers):
        return 403, Denied("requests from other web pages are refused", hint="use a client, not a browser")
    if method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != "application/json":
            return 415, InvalidInput("the body must be JSON", hint="send `Content-Type: application/json`")
    length = headers.get("content-length", "0")
    if not DIGITS.fullmatch(length) or int(length) > MAX_BODY_BYTES:
        error, status = _too_large()
        return status, error
    return None


def _opens_page(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Whether a person followed a link to the page, in a tab of its own. Its files hold nothing about this host."""
    navigates = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return method == "GET" and path in FILES and navigates


def _too_large() -> tuple[AnvylError, int]:
    return InvalidInput("the request is too large", hint=f"at most {MAX_BODY_BYTES} bytes are allowed"), 413


def _host_name(host: str) -> str | None:
    """Host name from a `Host` header, or None if malformed."""
    name, colon, port = host.lower().rpartition(":")
    if not colon or name.count("[") != name.count("]"):
        return host.lower()
    return name if DIGITS.fullmatch(port) else None


def names_loopback(host: str) -> bool:
    """Whether a `Host` header names this machine's loopback."""
    return _host_name(host) in LOCAL_NAMES


def is_address(text: str) -> bool:
    """Whether `text` is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether a server bound to `address` is reachable only from this machine."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address == "localhost"
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
