"""What is in the audit log besides tool calls: who was let in or turned away, and what decides that."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.server.audit.log import Audit, outcome_of
from anvyl_mcp.server.auth.callers import ANONYMOUS, LOCAL, Caller

if TYPE_CHECKING:
    from anvyl_mcp.server.policy.policy import PolicyState

LOGIN, POLICY = "login", "change_policy"
BURST = 20
SECONDS = 60.0
"""After so many refused logins one a minute is recorded by itself; the others are counted in it."""
MAX_ADDRESSES = 10
SELF = "itself"
"""`how` of what this program does on its own."""


@contextmanager
def record_action(
    audit: Audit, what: str, arguments: Mapping[str, Any], caller: Caller = LOCAL, *, required: bool = True
) -> Iterator[None]:
    """Do something under a record, as a tool call has one. `required`: only when it can be written beforehand.

    Raises:
        Denied: it cannot.
    """
    entry = audit.begin(what, arguments, who=caller.name, how=caller.how, address=caller.address, changes=required)
    try:
        yield
    except BaseException as error:
        audit.end(entry, *outcome_of(error))
        raise
    audit.end(entry, "ok")


class RefusedLogins:
    """Refused logins in the audit log: each while they are few, counted while they are many."""

    def __init__(self, audit: Audit, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._level, self._at = float(BURST), clock()
        self._uncounted: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def due(self) -> bool:
        """Whether the next one is recorded by itself; it is used up with that."""
        with self._mutex:
            now = self._clock()
            self._level = min(BURST, self._level + max(0.0, now - self._at) / SECONDS)
            self._at = now
            if self._level < 1:
                return False
            self._level -= 1
            return True

    def count(self, address: str) -> None:
        """Note one that is not recorded by itself."""
        with self._mutex:
            known = address in self._uncounted or len(self._uncounted) < MAX_ADDRESSES
            self._uncounted[address if known else "others"] += 1

    def record(self, reason: str, address: str, what: str = LOGIN) -> None:
        """Write one, after those that were only counted. Never raises."""
        self.flush()
        self._write(what, {"reason": reason}, address)

    def flush(self) -> None:
        """Write how many were only counted."""
        with self._mutex:
            counted, self._uncounted = self._uncounted, Counter()
        if counted:
            self._write(LOGIN, {"refused": counted.total(), "from": list(counted)}, "")

    def _write(self, what: str, arguments: Mapping[str, Any], address: str) -> None:
        who = ANONYMOUS
        entry = self._audit.begin(what, arguments, who=who.name, how=who.how, address=address, changes=False)
        self._audit.end(entry, "denied", "denied")


class PolicyChanges:
    """Notes in the audit log that the policy file is another one than was last seen, also by an earlier process."""

    def __init__(self, audit: Audit, file: Path) -> None:
        self._audit = audit
        self._file = file

    def __call__(self, state: PolicyState) -> None:
        """Note what is there now. Never raises: the policy counts as it is."""
        seen = f"{state.digest or 'none'} {state.problem or ''}".strip()
        with suppress(OSError):
            if self._before() == seen:
                return
            write_atomically(self._file, seen, durable=False)
        arguments = {"sha256": state.digest or "none", "deny": len(state.rules.deny), "allow": len(state.rules.allow)}
        entry = self._audit.begin(POLICY, arguments, who="anvyl", how=SELF, changes=False)
        self._audit.end(entry, "failed" if state.problem else "ok", state.problem.code if state.problem else "")

    def _before(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "none"
