"""What this host keeps about who may call it and what was done: shared by the server and the commands beside it."""

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
from anvyl_mcp.server.audit.events import PolicySeen, RefusedLogins, recorded
from anvyl_mcp.server.audit.log import Audit
from anvyl_mcp.server.auth.callers import LOCAL, Caller, in_order, parse_scopes
from anvyl_mcp.server.auth.certificate import Identity, host_identity
from anvyl_mcp.server.auth.invite_store import Invites, Joined
from anvyl_mcp.server.auth.key_rotation import NextKey
from anvyl_mcp.server.auth.tokens import Token, Tokens, check_token_name
from anvyl_mcp.server.calls.journal import Journal

log = logging.getLogger(__name__)


class HostState:
    """The folders of one installation. Nothing is opened or made before it is needed."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "trust"
        self._network = self._folder / "network"
        self.audit = Audit(state_dir / "audit")
        self.on_joined: Callable[[Joined], None] = lambda joined: log.info("%s", joined)
        """Called when a machine joins."""
        self.journal = Journal(state_dir / "operations", recall=self.audit.operations)

    @property
    def folder(self) -> Path:
        """Where keys, tokens and invitations are."""
        return self._folder

    @cached_property
    def tokens(self) -> Tokens:
        """Who may call over the network."""
        return Tokens(self._folder)

    @cached_property
    def invites(self) -> Invites:
        """Who may become one of them."""
        return Invites(self._folder, self.tokens)

    @cached_property
    def next_key(self) -> NextKey:
        """Which key this host will have."""
        return NextKey(self._folder, self.identity)

    def identity(self) -> Identity:
        """This host's key; made when there is none.

        Raises:
            ConfigInvalid: the files are damaged or readable by others.
        """
        return host_identity(self._folder)

    def keys(self) -> dict[str, Any]:
        """`{"pin", "next", "since", "told", "not_told"}`: this host's keys, and who knows the next.

        Raises:
            ConfigInvalid: a file that says so cannot be used.
        """
        plan = self.next_key.plan
        tokens = self.tokens.list() if plan.pin else []
        return {
            "pin": self.identity().pin,
            "next": plan.pin,
            "since": plan.made,
            "told": [token.name for token in tokens if token.id in plan.told],
            "not_told": [token.name for token in tokens if token.id not in plan.told],
        }

    @cached_property
    def refused(self) -> RefusedLogins:
        """Who was not let in."""
        return RefusedLogins(self.audit)

    @property
    def policy_seen(self) -> PolicySeen:
        """What notes that the policy is another one."""
        return PolicySeen(self.audit, self._folder / "policy-seen")

    def create_token(
        self, name: str, scopes: str, expires: datetime | None, *, relay: bool = False
    ) -> tuple[dict[str, Any], str]:
        """A new token as JSON has it, and its text.

        Raises:
            InvalidInput: the name or the rights cannot be used.
            Conflict: the name is taken.
        """
        given = parse_scopes(scopes)
        about = {"name": name, "scope": ",".join(in_order(given)), "relay": relay, "expires": _day(expires)}
        with recorded(self.audit, "create_token", about):
            token, secret = self.tokens.create(name, given, expires, relay=relay)
        return token.as_dict(), secret

    def revoke(self, id_or_name: str, caller: Caller = LOCAL) -> Token:
        """Refuse a token from now on, also when the log cannot be written.

        Raises:
            NotFound: there is none.
        """
        with recorded(self.audit, "revoke_token", {"name": id_or_name}, caller, required=False):
            return self.tokens.revoke(id_or_name)

    def rotate_key(self, step: Literal["begin", "finish", "cancel"]) -> None:
        """Make the next key, put it in place, or forget it.

        Raises:
            Conflict, NotFound: there is one already, or none.
        """
        with recorded(self.audit, "rotate_key", {"step": step}):
            getattr(self.next_key, step)()

    def invite(self, scopes: str, seconds: float, *, relay: bool = False) -> tuple[list[str], str]:
        """The rights and the one-time secret of a new invitation.

        Raises:
            InvalidInput: the rights or the time cannot be used.
        """
        given = parse_scopes(scopes)
        about = {"scope": ",".join(in_order(given)), "relay": relay, "seconds": seconds}
        with recorded(self.audit, "create_invite", about):
            secret = self.invites.create(given, seconds, relay=relay)
        return in_order(given), urlsafe_b64encode(secret).rstrip(b"=").decode()

    def redeem(self, secret: str, called: str, caller: Caller) -> tuple[Token, str, Joined]:
        """The token for a host that joins, its text, and a line about it. A token that it holds already is replaced.

        Raises:
            Denied: the code is wrong, used or too old, or this cannot be recorded.
            InvalidInput: the name cannot be used; the code still can.
        """
        check_token_name(called)
        try:
            self.invites.require(secret)
        except Denied as error:
            if self.refused.due():
                self.refused.record(error.message, caller.address, "join")
            else:
                self.refused.count(caller.address)
            raise
        present = caller.id if caller.how == "token" else ""
        with recorded(self.audit, "join", {"name": called}, replace(caller, name=called)):
            token, text = self.invites.redeem(secret, called, address=caller.address, instead_of=present)
        joined = Joined(called, token.name, caller.address, tuple(in_order(token.scopes)), token.relay)
        self.on_joined(joined)
        return token, text, joined

    def records(self, *, since: datetime | None, tool: str, operation: str = "") -> list[Mapping[str, Any]]:
        """The audit log, the oldest first."""
        return [record.as_dict() for record in self.audit.read(since=since, tool=tool, operation=operation)]

    @property
    def opened(self) -> str:
        """The network address that an invitation opened, also after a restart; empty when none did."""
        try:
            return self._network.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def remember_opened(self, address: str) -> None:
        """Open this address again at the next start."""
        write_atomically(self._network, f"{address}\n")


def _day(expires: datetime | None) -> str:
    return "never" if expires is None else expires.isoformat(timespec="seconds")
