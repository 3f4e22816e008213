"""The host's state on disk: keys, tokens, invitations, audit log and journal, shared by server and commands."""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from anvyl_mcp.core.errors import Denied
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.server.audit.events import PolicyChanges, RefusedLogins, record_action
from anvyl_mcp.server.audit.log import Audit
from anvyl_mcp.server.auth.callers import LOCAL, Caller, parse_scopes, sort_scopes
from anvyl_mcp.server.auth.certificate import Identity, host_identity
from anvyl_mcp.server.auth.invite_store import InviteStore, RedeemedInvite
from anvyl_mcp.server.auth.key_rotation import NextKey
from anvyl_mcp.server.auth.tokens import BrowserSession, Token, Tokens, check_token_name
from anvyl_mcp.server.calls.journal import Journal
from anvyl_mcp.server.http.browser.session_keys import SESSION_DAYS
from anvyl_mcp.server.http.browser.session_routes import require_session

log = logging.getLogger(__name__)


class HostState:
    """The state of one installation. Files are opened and created only when needed."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "trust"
        self._network = self._folder / "network"
        self.audit = Audit(state_dir / "audit")
        self.on_joined: Callable[[RedeemedInvite], None] = lambda joined: log.info("%s", joined)
        """Called when a machine joins."""
        self.further_checks: dict[str, Callable[[], str]] = {}
        """Checks of other parts of this process for `/health`: each returns `ok` or a problem."""
        self.journal = Journal(state_dir / "operations", recall=self.audit.operations)

    @property
    def folder(self) -> Path:
        """The folder of keys, tokens and invitations."""
        return self._folder

    @cached_property
    def tokens(self) -> Tokens:
        """Tokens of callers from the network."""
        return Tokens(self._folder)

    @cached_property
    def invites(self) -> InviteStore:
        """Invitations, which become tokens."""
        return InviteStore(self._folder, self.tokens)

    @cached_property
    def next_key(self) -> NextKey:
        """The rotation of this host's key."""
        return NextKey(self._folder, self.identity)

    def identity(self) -> Identity:
        """Return this host's key and certificate, created on first use.

        Raises:
            ConfigInvalid: the files are damaged or readable by others.
        """
        return host_identity(self._folder)

    def keys(self) -> dict[str, Any]:
        """Return this host's current and next key, and which tokens have received the next one, for JSON.

        Raises:
            ConfigInvalid: a file cannot be used.
        """
        rotation = self.next_key.rotation
        tokens = self.tokens.list() if rotation.pin else []
        return {
            "pin": self.identity().pin,
            "next": rotation.pin,
            "since": rotation.made,
            "told": [token.name for token in tokens if token.id in rotation.notified],
            "not_told": [token.name for token in tokens if token.id not in rotation.notified],
        }

    @cached_property
    def refused(self) -> RefusedLogins:
        """The record of refused logins."""
        return RefusedLogins(self.audit)

    @property
    def policy_seen(self) -> PolicyChanges:
        """The record of policy changes."""
        return PolicyChanges(self.audit, self._folder / "policy-seen")

    def create_token(
        self, name: str, scopes: str, expires: datetime | None, *, relay: bool = False
    ) -> tuple[dict[str, Any], str]:
        """Create a token; return its JSON form and its secret text.

        Raises:
            InvalidInput: the name or a scope is invalid.
            Conflict: the name is in use.
        """
        parsed = parse_scopes(scopes)
        details = {"name": name, "scope": ",".join(sort_scopes(parsed)), "relay": relay, "expires": _day(expires)}
        with record_action(self.audit, "create_token", details):
            token, secret = self.tokens.create(name, parsed, expires, relay=relay)
        return token.as_dict(), secret

    def revoke(self, id_or_name: str, caller: Caller = LOCAL) -> Token:
        """Revoke a token, even if the audit log cannot be written.

        Raises:
            NotFound: there is no such token.
        """
        with record_action(self.audit, "revoke_token", {"name": id_or_name}, caller, required=False):
            return self.tokens.revoke(id_or_name)

    def rotate_key(self, step: Literal["begin", "finish", "cancel"]) -> None:
        """Create the next key, install it, or delete it.

        Raises:
            Conflict, NotFound: a rotation is in progress already, or none is.
        """
        with record_action(self.audit, "rotate_key", {"step": step}):
            getattr(self.next_key, step)()

    def invite(self, scopes: str, seconds: float, *, relay: bool = False) -> tuple[list[str], str]:
        """Create an invitation; return its scopes and its one-time secret.

        Raises:
            InvalidInput: a scope or the lifetime is invalid.
        """
        parsed = parse_scopes(scopes)
        details = {"scope": ",".join(sort_scopes(parsed)), "relay": relay, "seconds": seconds}
        with record_action(self.audit, "create_invite", details):
            secret = self.invites.create(parsed, seconds, relay=relay)
        return sort_scopes(parsed), urlsafe_b64encode(secret).rstrip(b"=").decode()

    def browser_link(self, scopes: str, seconds: float, *, relay: bool, private: bool = False) -> tuple[list[str], str]:
        """Create a link that signs a browser in once; return its scopes and its secret. `private`: see `InviteStore`.

        Raises:
            InvalidInput: a scope or the lifetime is invalid.
        """
        parsed = parse_scopes(scopes)
        details = {"scope": ",".join(sort_scopes(parsed)), "relay": relay, "seconds": seconds}
        with record_action(self.audit, "create_browser_link", details):
            secret = self.invites.create(parsed, seconds, relay=relay, browser=True, private=private)
        return sort_scopes(parsed), urlsafe_b64encode(secret).rstrip(b"=").decode()

    def sign_in(self, secret: str, name: str, caller: Caller, *, owner: str, own_user: bool) -> tuple[Token, str]:
        """Exchange the secret of a link for a browser's session; return it and its text.

        Raises:
            Denied: the secret is wrong, used or expired, or the audit log cannot be written.
        """
        with self._refusals_recorded(caller):
            self.invites.require(secret, browser=True, own_user=own_user)
        with record_action(self.audit, "sign_in", {"name": name}, replace(caller, name=name)):
            session, text = self.invites.redeem_link(secret, name, _session_end(), address=caller.address, owner=owner)
        scopes = tuple(sort_scopes(session.scopes))
        self.on_joined(RedeemedInvite("a browser", session.name, caller.address, scopes, session.relay))
        return session, text

    def sign_in_by_token(self, token: str, name: str, caller: Caller, *, owner: str) -> tuple[Token, str]:
        """Open a browser's session with the rights of a token except `exec`; it ends with the token.

        Raises:
            Denied: the token is not valid, or the audit log cannot be written.
        """
        with self._refusals_recorded(caller):
            found = self.tokens.verify(token, address=caller.address)
            if found is None or found.browser:
                known = self.tokens.find(token)
                refusal = self.tokens.refusal(known) if known and not known.browser else None
                hint = "create one: anvyl-mcp token create NAME; or use a link of `anvyl web`"
                raise refusal or Denied("this is not a token of this host, or it was mistyped", hint=hint)
        with record_action(self.audit, "sign_in", {"name": name, "token": found.name}, replace(caller, name=name)):
            return self.tokens.create(
                name,
                found.scopes - {"exec"},
                min(filter(None, (found.expires, _session_end()))),
                rename=True,
                relay=found.relay,
                browser=BrowserSession(owner, found.id),
            )

    def session(self, caller: Caller) -> Token:
        """Return the session of a caller.

        Raises:
            Denied: it is not signed in as a browser.
        """
        found = next((token for token in self.tokens.list() if token.id == caller.id), None)
        return require_session(caller, found)

    def may_continue(self, caller: Caller) -> bool:
        """Whether the token of a caller is still valid; other callers have none that could end."""
        return caller.how != "token" or self.tokens.is_valid(caller.id)

    @contextmanager
    def _refusals_recorded(self, caller: Caller) -> Iterator[None]:
        """Record refused attempts in the audit log, at a limited rate."""
        try:
            yield
        except Denied as error:
            if self.refused.take_slot():
                self.refused.record(error.message, caller.address, "sign_in")
            else:
                self.refused.count(caller.address)
            raise

    def redeem(self, secret: str, name: str, caller: Caller) -> tuple[Token, str]:
        """Exchange an invitation for a token of the host `name`; return it and its text. Replaces the caller's token.

        Raises:
            Denied: the code is wrong, used or expired, or the audit log cannot be written.
            InvalidInput: the name is invalid; the code stays valid.
        """
        check_token_name(name)
        try:
            self.invites.require(secret)
        except Denied as error:
            if self.refused.take_slot():
                self.refused.record(error.message, caller.address, "join")
            else:
                self.refused.count(caller.address)
            raise
        present = caller.id if caller.how == "token" else ""
        with record_action(self.audit, "join", {"name": name}, replace(caller, name=name)):
            token, text = self.invites.redeem(secret, name, address=caller.address, replaces=present)
        scopes = tuple(sort_scopes(token.scopes))
        self.on_joined(RedeemedInvite(name, token.name, caller.address, scopes, token.relay))
        return token, text

    def records(self, *, since: datetime | None, tool: str, operation: str = "") -> list[Mapping[str, Any]]:
        """Return the records of the audit log, oldest first."""
        return [record.as_dict() for record in self.audit.read(since=since, tool=tool, operation=operation)]

    @property
    def open_address(self) -> str:
        """The network address that an invitation opened, kept over restarts; empty if none did."""
        try:
            return self._network.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def save_open_address(self, address: str) -> None:
        """Remember to open this address at the next start."""
        write_atomically(self._network, f"{address}\n")


def _session_end() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=SESSION_DAYS)


def _day(expires: datetime | None) -> str:
    return "never" if expires is None else expires.isoformat(timespec="seconds")
