"""Authentication middleware: runs after `OriginCheck`, before every route, and sets the caller of a request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol
from urllib.parse import unquote

import anyio.to_thread
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anvyl_mcp.core import protocol_keys, text
from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, Denied
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.server.audit.events import RefusedLogins
from anvyl_mcp.server.auth.callers import (
    ANONYMOUS,
    CALLER_KEY,
    LONGEST_NAME,
    SCOPES,
    Caller,
    implied_scopes,
    restrict,
    sort_scopes,
)
from anvyl_mcp.server.auth.limits import FailedAttempts
from anvyl_mcp.server.auth.local_trust import LOCAL_PREFIX, LOOPBACK_KEY, UNIDENTIFIED, LocalToken, LoopbackTrust
from anvyl_mcp.server.auth.tokens import PREFIX, SIGN_IN_AGAIN, Token, Tokens
from anvyl_mcp.server.http.browser.page_files import FILES
from anvyl_mcp.server.http.browser.session_keys import SESSION, session_of
from anvyl_mcp.server.http.connections import connection_of
from anvyl_mcp.server.http.origin_check import FOREIGN_HOST, error_response, foreign_host_error, is_loopback

log = logging.getLogger(__name__)

PAIR = "/pair"
SIGN_INS = frozenset({("POST", PAIR), ("POST", SESSION)})
"""Need a secret in the body, so guesses are slowed down."""
PAGE = frozenset((method, path) for method in ("GET", "HEAD") for path in FILES)
"""The files of the page, which are the same on every host."""
PUBLIC_ROUTES = frozenset({("GET", "/health"), ("HEAD", "/health")}) | SIGN_INS | PAGE
"""Served without a token: health reveals only status and version, pairing and signing in need a secret."""
PROXY_HEADERS = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})
"""Sent by a proxy or tunnel on this machine, whose requests must not get the scopes of the user it runs as."""
LOOPBACK_SCOPES = implied_scopes(["operate"])
"""Scopes of a trusted loopback caller. Without `exec`: it may be an undetectable relay that this user runs."""
INVITE_HINT = "on that host run `anvyl-mcp invite`, then here `anvyl hosts add`"
RELAY_HINT = "create one that is: anvyl-mcp token create NAME --relay"
SCOPE_CLAIM_HINT = "its `scope` claim must contain `read`, `operate` or `exec`"
TOKEN_HINT = "run `anvyl-mcp token create NAME` as the server's user and send it as `Authorization: Bearer …`"


class Verifier(Protocol):
    """Verifies tokens of an identity provider."""

    async def verify(self, token: str) -> Caller:
        """Return the token's holder.

        Raises:
            Denied: the token is not valid.
            AnvylError: the token cannot be checked now.
        """


class _Refused(Exception):
    """A request was refused; carries the error response."""

    def __init__(self, status: int, error: AnvylError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.error = error
        self.headers = headers or ({"WWW-Authenticate": "Bearer"} if status == 401 else {})


class Authentication:
    """Sets the caller in each request's ASGI scope and refuses requests without one."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens,
        loopback: LoopbackTrust,
        local: LocalToken | None = None,
        verifier: Verifier | None = None,
        failed_attempts: FailedAttempts | None = None,
        refused: RefusedLogins | None = None,
        relaying: bool = False,
    ) -> None:
        """`relaying`: the app behind it calls other hosts, so a token must be marked as relay."""
        self._app = app
        self._tokens = tokens
        self._loopback = loopback
        self._local = local
        self._verifier = verifier
        self._failed_attempts = failed_attempts or FailedAttempts()
        self._refused = refused
        self._relaying = relaying
        self._logged_problem = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its caller, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            caller = await self._authenticate(scope)
        except _Refused as refused:
            await self._record_refusal(refused, scope)
            await error_response(refused.error, refused.status, refused.headers)(scope, receive, send)
            return
        scope[CALLER_KEY] = caller
        if caller.scopes:
            connection_of(scope).admit()
            scope["user"] = _sdk_user(caller)
        if (scope["method"], scope["path"]) in SIGN_INS:
            send = self._count_wrong_codes(send, caller.address)
        await self._app(scope, receive, send)

    async def _record_refusal(self, refused: _Refused, scope: Scope) -> None:
        """Record a refused login in the audit log, at a limited rate."""
        if self._refused is None or refused.status not in (401, 403, 429):
            return
        address = scope["client"][0] if scope.get("client") else ""
        if self._refused.take_slot():
            await anyio.to_thread.run_sync(self._refused.record, refused.error.message, address)
        else:
            self._refused.count(address)

    async def _authenticate(self, scope: Scope) -> Caller:
        address = scope["client"][0] if scope.get("client") else ""
        secure = scope["scheme"] == "https"
        if not secure and not is_loopback(address):
            raise _Refused(403, Denied("plain http is for this machine only", hint="use https and a pinned key"))
        route = (scope["method"], scope["path"])
        token = _bearer(scope)
        session = session_of(scope) if token is None and route not in SIGN_INS else None
        if token is not None:
            caller, refusal = (
                await self._token_caller(token, address),
                Denied("the token grants no scopes on this host", hint=SCOPE_CLAIM_HINT),
            )
        elif session is not None:
            caller, refusal = await self._session_caller(session, scope), Denied("")
        elif secure or route in PAGE:
            caller, refusal = (
                replace(ANONYMOUS, address=address),
                Denied("this host requires a token", hint=INVITE_HINT),
            )
        else:
            caller, refusal = await self._loopback_caller(scope)
        caller = _restricted(caller, scope)
        if route not in PUBLIC_ROUTES:
            if not caller.scopes:
                raise _Refused(401 if token is None else 403, refusal)
        elif route in SIGN_INS:
            self._slow_down(address)
        if self._relaying and caller.scopes and not caller.relay:
            raise _Refused(403, Denied(f"the token `{caller.name}` is not valid for other hosts", hint=RELAY_HINT))
        # The page may be opened under any name that has a certificate for it; only a session gets more than its files.
        page = session is not None or route in PAGE or route == ("POST", SESSION)
        if token is None and scope.get(FOREIGN_HOST) and not page:
            raise _Refused(421, foreign_host_error())
        return caller

    async def _loopback_caller(self, scope: Scope) -> tuple[Caller, Denied]:
        """Return the caller of a loopback request without a token, and the error if it is not trusted."""
        address, own = scope["client"][0], scope.get("server")
        if any(name in PROXY_HEADERS for name, _ in scope["headers"]):
            return replace(ANONYMOUS, address=address), Denied(
                "this request came through a proxy and carries no token", hint=TOKEN_HINT
            )
        found = UNIDENTIFIED
        if own and own[1] is not None:
            found = await self._loopback.check(tuple(scope["client"]), tuple(own), connection_of(scope))
        if (scope["method"], scope["path"]) == ("POST", SESSION):
            scope[LOOPBACK_KEY] = found
        if _is_script(scope):
            # What a user may do on loopback is not what any page in the user's browser may do.
            return replace(ANONYMOUS, address=address), Denied("this browser is not signed in", hint=SIGN_IN_AGAIN)
        if found.trusted:
            return Caller(found.name, LOOPBACK_SCOPES, "loopback", address, f"uid:{found.uid}"), Denied("")
        return replace(ANONYMOUS, address=address), Denied(found.refusal, hint=TOKEN_HINT)

    async def _token_caller(self, token: str, address: str) -> Caller:
        """Return the holder of a token."""
        if token.startswith(LOCAL_PREFIX):
            # Valid on loopback only, so a leaked one is useless elsewhere.
            if self._local is not None and is_loopback(address) and self._local.matches(token):
                return Caller("local", frozenset(SCOPES), "loopback", address, "local")
        elif token.startswith(PREFIX):
            if (caller := self._host_token_caller(token, address)) is not None:
                return caller
        elif self._verifier is not None:
            return replace(await self._provider_caller(token, address, self._verifier), address=address)
        raise self._wrong_token(address, Denied("unknown token: it was revoked or mistyped", hint=INVITE_HINT))

    def _host_token_caller(self, text: str, address: str) -> Caller | None:
        token = self._valid_token(text, address, browser=False)
        return _caller_with(token, address) if token else None

    async def _session_caller(self, text: str, scope: Scope) -> Caller:
        """Return the caller with a browser's session. One that began on loopback is valid for the same user there."""
        address, own = (scope["client"] or ("", 0))[0], scope.get("server")
        session = self._valid_token(text, address, browser=True)
        if session is None:
            raise self._wrong_token(address, Denied("this browser is not signed in here", hint=SIGN_IN_AGAIN))
        if session.owner:
            user = None
            if scope["scheme"] == "http" and own and own[1] is not None:
                user = await self._loopback.user_id(tuple(scope["client"]), tuple(own), connection_of(scope))
            if f"uid:{user}" != session.owner:
                raise self._wrong_token(
                    address, Denied(f"the session `{session.name}` is of another user's browser", hint=SIGN_IN_AGAIN)
                )
        return _caller_with(session, address)

    def _valid_token(self, text: str, address: str, *, browser: bool) -> Token | None:
        """Return the valid token with this text, if it is of the right kind."""
        try:
            known = self._tokens.find(text)
            if known is None or known.browser != browser:
                return None
            if (refusal := self._tokens.refusal(known)) is not None:
                raise _Refused(401, refusal)
            return self._tokens.verify(text, address=address)
        except ConfigInvalid as error:
            raise self._tokens_unavailable(error, address) from error

    async def _provider_caller(self, token: str, address: str, verifier: Verifier) -> Caller:
        try:
            return await verifier.verify(token)
        except Denied as error:
            raise self._wrong_token(address, error) from error
        except AnvylError as error:
            raise self._tokens_unavailable(error, address) from error

    def _wrong_token(self, address: str, error: Denied) -> _Refused:
        """Count a wrong token and return the refusal."""
        self._slow_down(address)
        self._failed_attempts.record(address)
        return _Refused(401, error)

    def _slow_down(self, address: str) -> None:
        if seconds := self._failed_attempts.retry_after(address):
            error = Denied("too many wrong tokens or codes came from this address", hint=f"wait {seconds} s")
            raise _Refused(429, error, {"Retry-After": str(seconds)})

    def _tokens_unavailable(self, error: AnvylError, address: str) -> _Refused:
        """Refuse every token because they cannot be checked; log the reason once."""
        if str(error) != self._logged_problem:
            self._logged_problem = str(error)
            log.error("every token is refused: %s", error)
        remote = ConfigInvalid("tokens cannot be checked on this host, so all are refused", hint="see its log")
        return _Refused(503, error if is_loopback(address) else remote)

    def _count_wrong_codes(self, send: Send, address: str) -> Callable[[Message], Awaitable[None]]:
        """Wrap `send` so that a wrong pairing code counts as a wrong token."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (401, 403):
                self._failed_attempts.record(address)
            await send(message)

        return counting


def make_verifier(settings: Settings) -> Verifier | None:
    """Return the verifier for the configured identity provider, if any."""
    if not settings.jwt_issuer:
        return None
    from anvyl_mcp.server.auth.jwt import JwtVerifier

    return JwtVerifier(issuer=settings.jwt_issuer, audience=settings.jwt_audience, keys=settings.jwt_keys)


def _bearer(scope: Scope) -> str | None:
    """Return the bearer token of a request, or None without one."""
    sent: list[str] = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    if not sent:
        return None
    kind, _, token = sent[0].strip().partition(" ")
    if len(sent) > 1 or kind.lower() != "bearer" or not token.strip():
        raise _Refused(401, Denied("the `Authorization` header is malformed", hint="send `Bearer TOKEN`"))
    return token.strip()


def _restricted(caller: Caller, scope: Scope) -> Caller:
    """Reduce the caller's scopes to those of the user it acts for, if it names one."""
    headers = Headers(scope=scope)
    if (scopes := headers.get(protocol_keys.SCOPES_HEADER)) is None:
        return caller
    on_behalf = text.clean(unquote(headers.get(protocol_keys.FOR_HEADER, "")))[:LONGEST_NAME]
    return restrict(caller, scopes.replace(",", " ").split(), on_behalf)


def _is_script(scope: Scope) -> bool:
    """Whether a page in a browser sends a request, rather than a person who opens an address.

    Only browsers tell the site; `fetch` of Node tells a mode as well, and its clients are programs like any other.
    """
    headers = Headers(scope=scope)
    return "sec-fetch-site" in headers and headers.get("sec-fetch-mode", "navigate") != "navigate"


def _caller_with(token: Token, address: str) -> Caller:
    return Caller(token.name, token.scopes, "token", address, token.id, relayed=token.relay)


def _sdk_user(caller: Caller) -> AuthenticatedUser:
    """Return the caller as an SDK user, by which the SDK keeps the sessions of callers apart."""
    identity = f"{caller.how}:{caller.id or caller.name}"
    return AuthenticatedUser(AccessToken(token="-", client_id=identity, scopes=sort_scopes(caller.scopes)))
