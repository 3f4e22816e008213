"""Session routes: `POST /session` signs a browser in, `GET` says who is signed in, `DELETE` signs out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from anvyl_mcp import __version__
from anvyl_mcp.core.errors import Denied, InvalidInput
from anvyl_mcp.server.auth.callers import Caller, caller_of, sort_scopes
from anvyl_mcp.server.auth.local_trust import LOOPBACK_KEY, UNIDENTIFIED, LoopbackCaller
from anvyl_mcp.server.auth.tokens import Token
from anvyl_mcp.server.http.browser.session_keys import SESSION, SESSION_DAYS, set_cookie_header, split

NO_STORE = {"Cache-Control": "no-store"}
DEVICES = ("iPhone", "iPad", "Android", "Windows", "Macintosh", "CrOS", "Linux")
BROWSERS = ("Firefox", "Edg", "OPR", "Chrome", "Safari")
"""Words in a `User-Agent`, the more specific ones first."""


class Sessions(Protocol):
    """Where sessions are kept; see `HostState`."""

    def sign_in(self, secret: str, name: str, caller: Caller, *, owner: str, own_user: bool) -> tuple[Token, str]:
        """Exchange the secret of a link for a session."""

    def sign_in_by_token(self, token: str, name: str, caller: Caller, *, owner: str) -> tuple[Token, str]:
        """Open a session with the rights of a token."""

    def session(self, caller: Caller) -> Token:
        """Return the session of a caller."""

    def revoke(self, id_or_name: str, caller: Caller) -> Token:
        """End a session."""


def session_routes(sessions: Sessions, name: str) -> list[Route]:
    """Return the routes of the host `name`."""

    async def sign_in(request: Request) -> Response:
        secret, token = _credential(await request.body())
        device, caller = _device(request.headers.get("user-agent", "")), caller_of(request)
        found: LoopbackCaller = request.scope.get(LOOPBACK_KEY, UNIDENTIFIED)
        owner = "" if found.uid is None else f"uid:{found.uid}"
        # Without a kernel that tells who calls, a link can be no safer than that it works once.
        own_user = found.trusted or found == UNIDENTIFIED

        def work() -> tuple[Token, str]:
            if secret:
                return sessions.sign_in(secret, device, caller, owner=owner, own_user=own_user)
            return sessions.sign_in_by_token(token, device, caller, owner=owner)

        session, text = await anyio.to_thread.run_sync(work)
        identity, cookie, key = split(text)
        secure, seconds = request.scope["scheme"] == "https", SESSION_DAYS * 86400
        cookie_header = set_cookie_header(identity, cookie, secure=secure, seconds=seconds)
        body = {"key": key, **_document(session, name)}
        return JSONResponse(body, status_code=201, headers={**NO_STORE, "Set-Cookie": cookie_header})

    async def show(request: Request) -> Response:
        session = await anyio.to_thread.run_sync(sessions.session, caller_of(request))
        return JSONResponse(_document(session, name), headers=NO_STORE)

    async def sign_out(request: Request) -> Response:
        caller = caller_of(request)
        session = await anyio.to_thread.run_sync(sessions.session, caller)
        await anyio.to_thread.run_sync(sessions.revoke, session.id, caller)
        forget = set_cookie_header(session.id, "", secure=request.scope["scheme"] == "https", seconds=0)
        return JSONResponse({"revoked": session.name}, headers={**NO_STORE, "Set-Cookie": forget})

    return [
        Route(SESSION, sign_in, methods=["POST"]),
        Route(SESSION, show, methods=["GET"]),
        Route(SESSION, sign_out, methods=["DELETE"]),
    ]


def _document(session: Token, host: str) -> dict[str, Any]:
    row = session.as_dict()
    kept = {key: row[key] for key in ("name", "scopes", "relay", "expires")}
    return {**kept, "scopes": sort_scopes(session.scopes), "host": host, "version": __version__}


def _credential(content: bytes) -> tuple[str, str]:
    """Return the secret of a link, or a token."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON", hint="open the link in a browser") from error
    if isinstance(body, Mapping):
        secret, token = body.get("secret", ""), body.get("token", "")
        if isinstance(secret, str) and isinstance(token, str) and bool(secret) != bool(token):
            return secret, token
    raise InvalidInput("the body needs a `secret` or a `token`", hint="open the link in a browser")


def _device(user_agent: str) -> str:
    """Return a name for a session, like `firefox-android`, so that people recognise it in a list."""
    browser = next((word for word in BROWSERS if word in user_agent), "browser")
    device = next((word for word in DEVICES if word in user_agent), "")
    words = {"Edg": "edge", "OPR": "opera", "Macintosh": "mac", "CrOS": "chromebook"}
    return re.sub("[^a-z-]", "", "-".join(words.get(word, word).lower() for word in (browser, device) if word))


def require_session(caller: Caller, session: Token | None) -> Token:
    """Return the session of a caller.

    Raises:
        Denied: the caller is not signed in as a browser.
    """
    if session is None or not session.browser:
        raise Denied(f"`{caller.name}` is not the session of a browser", hint="open the page in a browser")
    return session
