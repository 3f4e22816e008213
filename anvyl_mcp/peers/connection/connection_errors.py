"""Translate the connection failures of every transport into Anvyl errors.

Messages do not name the host; the caller adds it.
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from anvyl_mcp.core.errors import (
    AnvylError,
    Busy,
    Denied,
    InternalError,
    InvalidInput,
    Refused,
    Timeout,
    Unknown,
    Unreachable,
)
from anvyl_mcp.core.text import one_line
from anvyl_mcp.peers.connection.listing import error_in_meta
from anvyl_mcp.peers.connection.tls_pinning import WrongKey

CONNECT_SECONDS = 3
"""After this long without an answer a host is unreachable."""
LISTING_SECONDS = 10
MOST_BYTES = 8 * 1024 * 1024
"""Size limit of one answer."""
MOST_WORDS = 500

METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR, UNSUPPORTED_VERSION = -32601, -32602, -32603, -32022

_MAYBE = "; it may or may not have happened"
_SERVE = "is `anvyl-mcp serve` running there?"
_ADDRESS = "check the address; an Anvyl host answers at http://ADDRESS:4200"
_WRONG_KEY = "its key is not the one it was paired with, so nothing was sent to it"
_PAIR_AGAIN = "if the host was reinstalled, pair again: anvyl hosts remove NAME, then a new invite"
_NO_ROUTE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL}


def connect_error(error: BaseException) -> Unreachable:
    """Return the error for a connection that could not be opened; nothing was sent."""
    for cause in _causes_of(error):
        if isinstance(cause, ConnectionRefusedError):
            return Refused("connection refused", hint=_SERVE)
        if isinstance(cause, socket.gaierror):
            return Unreachable("its name does not resolve", hint="check the spelling, or use its IP address")
        if isinstance(cause, WrongKey):
            return Unreachable(_WRONG_KEY, hint=_PAIR_AGAIN)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unreachable(f"its certificate cannot be trusted: {cause.verify_message}", hint="check its address")
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return Unreachable("it closed the connection during the TLS handshake", hint="is it busy? try again later")
        if isinstance(cause, ssl.SSLError):
            return Unreachable("it does not speak TLS on that port", hint="does its address start with http://?")
        if isinstance(cause, TimeoutError):
            return _no_answer(CONNECT_SECONDS)
        if isinstance(cause, OSError) and cause.errno in _NO_ROUTE:
            return Unreachable("no route to the host", hint="is it on, and on this network?")
    return Unreachable(f"no connection: {one_line(str(error)) or type(error).__name__}", hint=_ADDRESS)


def timeout_error(seconds: float, *, sent: bool) -> Unreachable | Timeout:
    """Return the error for an answer that did not arrive in time; `sent`: the request was sent."""
    if sent:
        return Timeout(f"no answer within {seconds:g} s", hint="try again, or check that host")
    return _no_answer(seconds)


def connection_lost() -> Unknown:
    """Return the error for a connection that was lost before the answer arrived."""
    return Unknown(f"the connection was lost before the answer came{_MAYBE}", hint="check before you try again")


def malformed_reply() -> Unknown:
    """Return the error for a reply that cannot be parsed."""
    return Unknown(f"its reply is not an MCP answer{_MAYBE}", hint=_ADDRESS)


def too_large() -> AnvylError:
    """Return the error for an answer above the size limit."""
    return AnvylError(f"its answer is larger than {MOST_BYTES // 1024**2} MiB", hint="ask for less")


@contextmanager
def unknown_as_unreachable() -> Iterator[None]:
    """Wrap requests that change nothing: an unknown outcome is then only an unreachable host."""
    try:
        yield
    except Unknown as error:
        raise Unreachable(error.message.removesuffix(_MAYBE), hint=_ADDRESS) from error


def from_status(status: int, kind: str, body: bytes, url: str) -> AnvylError:
    """Return the error for an HTTP response without an MCP message; `kind` is its media type."""
    words, hint = _error_in_body(kind, body)
    summary = f"it answered HTTP {status} {_status_phrase(status)}".rstrip() + (f": {words}" if words else "")
    if status in (401, 403, 421):
        return Denied(words or summary, hint=hint)
    if status == 404:
        return Unreachable(f"there is no MCP server at {url}", hint=_ADDRESS)
    if status == 413:
        return InvalidInput(words or "the arguments are too large for it", hint=hint)
    if status == 429:
        return Busy(words or summary, hint=hint or "try again later")
    if status == 503 or status < 500:
        return Unreachable(summary, hint=hint or _ADDRESS)
    return Unknown(summary + _MAYBE, hint=hint or "check before you try again")


def from_rpc(error: object) -> AnvylError:
    """Return the error for the `error` of a JSON-RPC answer: `{"code", "message", "data"}`."""
    if not isinstance(error, Mapping):
        return malformed_reply()
    if reported := error_in_meta(error.get("data")):
        return reported
    code = error.get("code")
    message = one_line(str(error.get("message") or f"error {code}"))[:MOST_WORDS]
    if code == INVALID_PARAMS:
        return InvalidInput(message)
    if code == METHOD_NOT_FOUND:
        return AnvylError(f"it does not support this request: {message}", hint="is it an MCP server with tools?")
    if code == UNSUPPORTED_VERSION:
        return version_mismatch(message)
    if code == INTERNAL_ERROR:
        return InternalError(f"its MCP server failed: {message}", hint="its log says more; check before you try again")
    return AnvylError(f"it refused the request: {message}")


def version_mismatch(message: str) -> Unreachable:
    """Return the error for a host that uses another version of the protocol."""
    return Unreachable(f"it uses another version of MCP: {message}", hint="update anvyl-mcp there")


def _no_answer(seconds: float) -> Unreachable:
    return Unreachable(f"no answer within {seconds:g} s", hint="is it on, and on this network?")


def _causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, innermost last."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _causes_of(member)
    behind = error.__cause__ or error.__context__
    if behind is not None:
        yield from _causes_of(behind)


def _status_phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _error_in_body(kind: str, body: bytes) -> tuple[str, str]:
    """Return message and hint from an error body, which may be our own JSON, OAuth's, or plain text."""
    content = body.decode("utf-8", "replace")
    if kind == "text/plain":
        return one_line(content).strip()[:MOST_WORDS], ""
    if kind != "application/json":
        return "", ""
    try:
        data: Any = json.loads(content)
    except ValueError:
        return "", ""
    if not isinstance(data, dict):
        return "", ""
    error = data.get("error")
    if isinstance(error, dict):
        return one_line(str(error.get("message", "")))[:MOST_WORDS], one_line(str(error.get("hint", "")))[:MOST_WORDS]
    return one_line(str(data.get("error_description") or error or ""))[:MOST_WORDS], ""
