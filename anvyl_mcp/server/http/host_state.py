"""The host's state on disk: keys, tokens, invitations, audit log and journal, shared by server and commands."""

from __future__ import annotations

import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
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
from anvyl_mcp.server.auth.tokens import Token, Tokens, check_token_name
from anvyl_mcp.server.calls.journal import Journal

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


def _day(expires: datetime | None) -> str:
    return "never" if expires is None else expires.isoformat(timespec="seconds")
