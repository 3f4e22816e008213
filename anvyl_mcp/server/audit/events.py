"""Audit records other than tool calls: logins, tokens and changes of the policy."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anvyl_mcp.core.errors import OnFailure
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.server.audit.log import Audit, outcome_of
from anvyl_mcp.server.auth.callers import ANONYMOUS, LOCAL, Caller

if TYPE_CHECKING:
    from anvyl_mcp.server.policy.policy import PolicyState

LOGIN, POLICY = "login", "change_policy"
BURST = 20
SECONDS = 60.0
"""After a burst of refused logins, one a minute gets its own record; the others are counted in that record."""
MAX_ADDRESSES = 10
SELF = "itself"
"""Value of `how` for actions of the program itself."""


@contextmanager
def record_action(
    audit: Audit, action: str, arguments: Mapping[str, Any], caller: Caller = LOCAL, *, required: bool = True
) -> Iterator[None]:
    """Record an action of this host like a tool call. `required`: fail if it cannot be recorded beforehand.

    Raises:
        Denied: the record is required and cannot be written.
    """
    entry = audit.begin(action, arguments, who=caller.name, how=caller.how, address=caller.address, changes=required)
    with OnFailure(lambda error: audit.end(entry, *outcome_of(error))):
        yield
    audit.end(entry, "ok")


class RefusedLogins:
    """Records refused logins: one record each at first, then counts, so that they cannot flood the log."""

    def __init__(self, audit: Audit, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._level, self._at = float(BURST), clock()
        self._counts: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def take_slot(self) -> bool:
        """Whether the next refused login gets its own record; if so, that slot is used up."""
        with self._mutex:
            now = self._clock()
            self._level = min(BURST, self._level + max(0.0, now - self._at) / SECONDS)
            self._at = now
            if self._level < 1:
                return False
            self._level -= 1
            return True

    def count(self, address: str) -> None:
        """Count a refused login that gets no record of its own."""
        with self._mutex:
            known = address in self._counts or len(self._counts) < MAX_ADDRESSES
            self._counts[address if known else "others"] += 1

    def record(self, reason: str, address: str, action: str = LOGIN) -> None:
        """Record a refused login, after those that were only counted. Never raises."""
        self.flush()
        self._write(action, {"reason": reason}, address)

    def flush(self) -> None:
        """Record how many were only counted."""
        with self._mutex:
            counts, self._counts = self._counts, Counter()
        if counts:
            self._write(LOGIN, {"refused": counts.total(), "from": list(counts)}, "")

    def _write(self, action: str, arguments: Mapping[str, Any], address: str) -> None:
        entry = self._audit.begin(
            action, arguments, who=ANONYMOUS.name, how=ANONYMOUS.how, address=address, changes=False
        )
        self._audit.end(entry, "denied", "denied")


class PolicyChanges:
    """Records changes of the policy file, also those made while no server was running."""

    def __init__(self, audit: Audit, file: Path) -> None:
        self._audit = audit
        self._file = file

    def __call__(self, state: PolicyState) -> None:
        """Record the current version if it is new. Never raises: the policy applies in any case."""
        version = f"{state.digest or 'none'} {state.problem or ''}".strip()
        with suppress(OSError):
            if self._recorded_version() == version:
                return
            write_atomically(self._file, version, durable=False)
        arguments = {"sha256": state.digest or "none", "deny": len(state.rules.deny), "allow": len(state.rules.allow)}
        entry = self._audit.begin(POLICY, arguments, who="anvyl", how=SELF, changes=False)
        self._audit.end(entry, "failed" if state.problem else "ok", state.problem.code if state.problem else "")

    def _recorded_version(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "none"
