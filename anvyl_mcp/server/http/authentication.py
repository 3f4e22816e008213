"""Who is let in: stands behind `Guard` and in front of every route, and tells the routes who calls."""

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
from anvyl_mcp.server.auth.callers import ANONYMOUS, KEY, LONGEST_NAME, SCOPES, Caller, implied, in_order, lesser
from anvyl_mcp.server.auth.limits import Guesses
from anvyl_mcp.server.auth.local_trust import LOCAL_PREFIX, UNKNOWN, LocalToken, Loopback
from anvyl_mcp.server.auth.tokens import PREFIX, Tokens
from anvyl_mcp.server.http.connections import seen_on
from anvyl_mcp.server.http.origin_check import FOREIGN_HOST, error_response, is_loopback, not_our_name

log = logging.getLogger(__name__)

PAIR = "/pair"
OPEN = frozenset({("GET", "/health"), ("HEAD", "/health"), ("POST", PAIR)})
"""What answers without a token: health tells a stranger status and version, pairing wants a one-time secret."""
FORWARDED = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})
"""A proxy or tunnel on this machine calls for somebody else: its own user's rights are not meant."""
WITHOUT_TOKEN = implied(["operate"])
"""What a trusted caller on loopback may: a relay of that user's, which nothing gives away, must not be root."""
INVITE = "on that host run `anvyl-mcp invite`, then here `anvyl hosts add`"
MARKED = "for one that reaches the other hosts too: anvyl-mcp token create NAME --relay"
CLAIM = "its claim `scope` must name `read`, `operate` or `exec`"
CREATE = "the server's own user makes one: anvyl-mcp token create NAME; send it as `Authorization: Bearer …`"


class Verifier(Protocol):
    """Checks tokens that are not ours."""

    async def verify(self, token: str) -> Caller:
        """Who it was made for.

        Raises:
            Denied: it does not count.
            AnvylError: it cannot be checked now.
        """


class _Refused(Exception):
    """The answer to a request that is not let in."""

    def __init__(self, status: int, error: AnvylError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.error = error
        self.headers = headers or ({"WWW-Authenticate": "Bearer"} if status == 401 else {})


class Access:
    """Puts the caller into the scope of each request, and answers those itself that come from nobody we know."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens,
        loopback: Loopback,
        local: LocalToken | None = None,
        verifier: Verifier | None = None,
        guesses: Guesses | None = None,
        refused: RefusedLogins | None = None,
        relaying: bool = False,
    ) -> None:
        """`relaying`: everything behind it reaches other hosts too, so that a token needs the mark for that."""
        self._app = app
        self._tokens = tokens
        self._loopback = loopback
        self._local = local
        self._verifier = verifier
        self._guesses = guesses or Guesses()
        self._refused = refused
        self._relaying = relaying
        self._complaint = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through with its caller, or answer it here."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            caller = await self._admitted(scope)
        except _Refused as refused:
            await self._note(refused, scope)
            await error_response(refused.error, refused.status, refused.headers)(scope, receive, send)
            return
        scope[KEY] = caller
        if caller.scopes:
            seen_on(scope).admit()
            scope["user"] = _as_user(caller)
        if (scope["method"], scope["path"]) == ("POST", PAIR):
            send = self._counting(send, caller.address)
        await self._app(scope, receive, send)

    async def _note(self, refused: _Refused, scope: Scope) -> None:
        """Have it in the audit log that somebody was not let in."""
        if self._refused is None or refused.status not in (401, 403, 429):
            return
        address = scope["client"][0] if scope.get("client") else ""
        if self._refused.due():
            await anyio.to_thread.run_sync(self._refused.record, refused.error.message, address)
        else:
            self._refused.count(address)

    async def _admitted(self, scope: Scope) -> Caller:
        address = scope["client"][0] if scope.get("client") else ""
        secure = scope["scheme"] == "https"
        if not secure and not is_loopback(address):
            raise _Refused(403, Denied("plain http is for this machine only", hint="use https and a pinned key"))
        token = _bearer(scope)
        if token is not None:
            caller, refusal = await self._known(token, address), Denied("the token gives no rights here", hint=CLAIM)
        elif secure:
            caller, refusal = replace(ANONYMOUS, address=address), Denied("this host wants a token", hint=INVITE)
        else:
            caller, refusal = await self._near(scope)
        caller = _for_another(caller, scope)
        if (scope["method"], scope["path"]) not in OPEN:
            if not caller.scopes:
                raise _Refused(401 if token is None else 403, refusal)
        elif scope["path"] == PAIR:
            self._slow_down(address)
        if self._relaying and caller.scopes and not caller.relay:
            raise _Refused(403, Denied(f"the token of `{caller.name}` is for this host alone", hint=MARKED))
        if token is None and scope.get(FOREIGN_HOST):
            raise _Refused(421, not_our_name())
        return caller

    async def _near(self, scope: Scope) -> tuple[Caller, Denied]:
        """Who calls over loopback without a token."""
        address, own = scope["client"][0], scope.get("server")
        if any(name in FORWARDED for name, _ in scope["headers"]):
            return replace(ANONYMOUS, address=address), Denied(
                "this comes through a proxy, for nobody knows whom", hint=CREATE
            )
        verdict = UNKNOWN
        if own and own[1] is not None:
            verdict = await self._loopback.check(tuple(scope["client"]), tuple(own), seen_on(scope))
        if verdict.trusted:
            return Caller(verdict.name, WITHOUT_TOKEN, "loopback", address, f"uid:{verdict.uid}"), Denied("")
        return replace(ANONYMOUS, address=address), Denied(verdict.refusal, hint=CREATE)

    async def _known(self, token: str, address: str) -> Caller:
        """Who holds a token."""
        if token.startswith(LOCAL_PREFIX):
            # Good on this machine only, whoever got hold of it.
            if self._local is not None and is_loopback(address) and self._local.matches(token):
                return Caller("local", frozenset(SCOPES), "loopback", address, "local")
        elif token.startswith(PREFIX):
            if (caller := self._ours(token, address)) is not None:
                return caller
        elif self._verifier is not None:
            return replace(await self._foreign(token, address, self._verifier), address=address)
        raise self._wrong(address, Denied("the token is not known here: it was revoked or is mistyped", hint=INVITE))

    def _ours(self, text: str, address: str) -> Caller | None:
        try:
            token = self._tokens.verify(text, address=address)
            known = token or self._tokens.find(text)
        except ConfigInvalid as error:
            raise self._broken(error, address) from error
        if token is not None:
            return Caller(token.name, token.scopes, "token", address, token.id, relayed=token.relay)
        if known is not None and (refusal := self._tokens.refusal(known)) is not None:
            raise _Refused(401, refusal)
        return None

    async def _foreign(self, token: str, address: str, verifier: Verifier) -> Caller:
        try:
            return await verifier.verify(token)
        except Denied as error:
            raise self._wrong(address, error) from error
        except AnvylError as error:
            raise self._broken(error, address) from error

    def _wrong(self, address: str, error: Denied) -> _Refused:
        """The answer to a wrong token, or to one guess too many."""
        self._slow_down(address)
        self._guesses.note(address)
        return _Refused(401, error)

    def _slow_down(self, address: str) -> None:
        if seconds := self._guesses.wait(address):
            error = Denied("too many wrong tokens or codes came from this address", hint=f"wait {seconds} s")
            raise _Refused(429, error, {"Retry-After": str(seconds)})

    def _broken(self, error: AnvylError, address: str) -> _Refused:
        """Tokens cannot be checked: nobody with one gets in, and the log tells why, once."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.error("every token is refused: %s", error)
        told = ConfigInvalid("tokens cannot be checked on this host, so all are refused", hint="its log tells why")
        return _Refused(503, error if is_loopback(address) else told)

    def _counting(self, send: Send, address: str) -> Callable[[Message], Awaitable[None]]:
        """A wrong code counts as a wrong token."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (401, 403):
                self._guesses.note(address)
            await send(message)

        return counting


def verifier(settings: Settings) -> Verifier | None:
    """Who checks tokens of an identity provider, if one is set."""
    if not settings.jwt_issuer:
        return None
    from anvyl_mcp.server.auth.jwt import JwtVerifier

    return JwtVerifier(issuer=settings.jwt_issuer, audience=settings.jwt_audience, keys=settings.jwt_keys)


def _bearer(scope: Scope) -> str | None:
    """The token that was sent; None when none was."""
    sent: list[str] = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    if not sent:
        return None
    kind, _, token = sent[0].strip().partition(" ")
    if len(sent) > 1 or kind.lower() != "bearer" or not token.strip():
        raise _Refused(401, Denied("the `Authorization` header is not as it should be", hint="send `Bearer TOKEN`"))
    return token.strip()


def _for_another(caller: Caller, scope: Scope) -> Caller:
    """The caller, with the lesser of both rights when it says for whom it asks."""
    headers = Headers(scope=scope)
    if (scopes := headers.get(protocol_keys.SCOPES_HEADER)) is None:
        return caller
    asking = text.clean(unquote(headers.get(protocol_keys.FOR_HEADER, "")))[:LONGEST_NAME]
    return lesser(caller, scopes.replace(",", " ").split(), asking)


def _as_user(caller: Caller) -> AuthenticatedUser:
    """As the SDK knows callers: it keeps the sessions of one from another."""
    identity = f"{caller.how}:{caller.id or caller.name}"
    return AuthenticatedUser(AccessToken(token="-", client_id=identity, scopes=in_order(caller.scopes)))
