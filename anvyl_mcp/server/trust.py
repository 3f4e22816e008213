"""What this host keeps about who may call it and what was done: shared by the server and the commands beside it."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from anvyl_mcp.server.audit import Audit
from anvyl_mcp.server.callers import in_order, parse_scopes
from anvyl_mcp.server.certificate import Identity, host_identity
from anvyl_mcp.server.invites import Invites
from anvyl_mcp.server.journal import Journal
from anvyl_mcp.server.next_key import NextKey
from anvyl_mcp.server.tokens import Tokens


class Trust:
    """The folders of one installation. Nothing is opened or made before it is needed."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "trust"
        self._network = self._folder / "network"
        self.audit = Audit(state_dir / "audit")
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

    def create_token(self, name: str, scopes: str, expires: datetime | None) -> tuple[dict[str, Any], str]:
        """A new token as JSON has it, and its text.

        Raises:
            InvalidInput: the name or the rights cannot be used.
            Conflict: the name is taken.
        """
        token, secret = self.tokens.create(name, parse_scopes(scopes), expires)
        return token.as_dict(), secret

    def invite(self, scopes: str, seconds: float) -> tuple[list[str], str]:
        """The rights and the one-time secret of a new invitation.

        Raises:
            InvalidInput: the rights or the time cannot be used.
        """
        given = parse_scopes(scopes)
        secret = self.invites.create(given, seconds)
        return in_order(given), urlsafe_b64encode(secret).rstrip(b"=").decode()

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
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._network.write_text(f"{address}\n", encoding="ascii")
