"""`policy.toml`: restrictions on what callers may do on this host, reloaded whenever the file changes.

If the file is invalid, every change is refused, because it is unknown what the file should forbid.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import ConfigInvalid, Denied
from anvyl_mcp.core.files import check_not_writable_by_others
from anvyl_mcp.server.auth.callers import CURRENT_CALLER, Caller
from anvyl_mcp.server.policy import guardrails
from anvyl_mcp.server.policy.parse import parse
from anvyl_mcp.server.policy.rules import (
    NO_RULES,
    STATIC_CONDITIONS,
    ObjectLookup,
    PolicyCall,
    PolicyDecision,
    PolicyRules,
    decide,
    may_offer,
)
from anvyl_mcp.server.tool import Scope, Tool

log = logging.getLogger(__name__)

MAX_DECISIONS = 8
"""Concurrent decisions that may wait for the engine: a hanging engine must not block every thread."""
RACY_NANOSECONDS = 1_000_000_000
"""Two versions written within one tick of the file system's clock can have the same `stat`."""


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The policy as last read: its rules, and the problem if the file is invalid."""

    rules: PolicyRules = NO_RULES
    problem: ConfigInvalid | None = None
    digest: str = ""
    """SHA-256 of the file; empty if it could not be read."""


class Policy:
    """The policy of one host. Without `lookup`, only the names in the call are matched."""

    def __init__(
        self,
        file: Path,
        lookup: ObjectLookup = lambda kind, name: None,
        *,
        on_change: Callable[[PolicyState], None] = lambda state: None,
    ) -> None:
        """`on_change` is called with each new version of the file."""
        self.file = file
        self._on_change = on_change
        self._reported: PolicyState | None = None
        self._lookup = lookup
        # One attribute, so that threads never see the rules of one version with the `stat` of another.
        self._known: tuple[tuple[int, ...], PolicyState] = (), PolicyState()
        self._logged = PolicyState()
        self._limiter: anyio.CapacityLimiter | None = None

    def state(self) -> PolicyState:
        """Return the current rules. Costs one `stat` while the file is unchanged."""
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return self._keep((), PolicyState())
        except OSError as error:
            return self._keep((-1,), PolicyState(self._known[1].rules, self._read_error(error)))
        mark = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode, found.st_uid)
        if mark == self._known[0] and abs(time.time_ns() - found.st_mtime_ns) > RACY_NANOSECONDS:
            return self._known[1]
        try:
            check_not_writable_by_others(self.file, found)
            return self._keep(mark, self._read())
        except ConfigInvalid as problem:
            # What the last valid version forbade stays forbidden, including reads.
            return self._keep(mark, PolicyState(self._known[1].rules, problem))

    def refresh(self) -> PolicyState:
        """Return the current rules; log and report a change since the last call."""
        state, before = self.state(), self._logged
        self._logged = state
        if self._reported is None or (state.digest, str(state.problem)) != (
            self._reported.digest,
            str(self._reported.problem),
        ):
            self._reported = state
            self._on_change(state)
        if state.problem and str(state.problem) != str(before.problem):
            log.warning("changes are refused: %s", state.problem)
        elif state.rules == NO_RULES != before.rules:
            log.warning("%s is gone or empty: only the scopes of callers apply now", self.file)
        return state

    @property
    def decides_objects(self) -> bool:
        """Whether any rule depends on more than the tool and the caller, so that objects must be looked up."""
        rules = self.state().rules
        return any(
            condition.kind not in STATIC_CONDITIONS
            for rule in (*rules.deny, *rules.allow)
            for condition in rule.conditions
        )

    def decide(self, caller: Caller, tool: Tool, arguments: Mapping[str, Any]) -> PolicyDecision:
        """Decide a call by the rules. May query the engine."""
        needed = guardrails.needed_scope(tool, arguments)
        return decide(self.state().rules, PolicyCall(tool, needed, caller, arguments, self._lookup))

    async def check(self, caller: Caller, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Check that the policy allows this call to this caller.

        Raises:
            Denied: it does not, or it is invalid and the call changes something.
            EngineError, Timeout: the objects of the call cannot be looked up.
        """
        state = self.refresh()
        if state.problem and tool.safety != "reads":
            raise Denied(f"changes are refused on this host: {state.problem.message}", hint=state.problem.hint)
        if state.rules == NO_RULES:
            return
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(MAX_DECISIONS)
        decide_call = partial(self.decide, caller, tool, arguments)
        decision = await anyio.to_thread.run_sync(decide_call, abandon_on_cancel=True, limiter=self._limiter)
        if not decision.allowed:
            raise self.refusal(decision, tool)

    def require(self, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Check that the policy allows this call to the current caller. May query the engine.

        Raises:
            Denied: it does not.
        """
        decision = self.decide(CURRENT_CALLER.get(), tool, arguments)
        if not decision.allowed:
            raise self.refusal(decision, tool)

    def refusal(self, decision: PolicyDecision, tool: Tool) -> Denied:
        """The error for a call that a decision denies."""
        hint = f"the owner of the host set this in {self.file.name}; on that host, `anvyl-mcp policy test` explains it"
        if decision.rule is not None:
            why = f": {text.clean(decision.rule.why)}" if decision.rule.why else ""
            about = "; ".join(decision.because) or "everything"
            return Denied(
                f"`{tool.name}` is denied by the policy of this host, "
                f"{decision.rule.location} ({text.clean(about)}){why}",
                hint=hint,
            )
        if decision.by == "host_exec":
            return Denied("this command is not listed in [host_exec] of this host's policy", hint=hint)
        return Denied(f"`{tool.name}` is denied by the policy of this host: no rule allows this call", hint=hint)

    def may_offer(self, tool: Tool, caller: Caller, needed: Scope) -> bool:
        """Whether the policy could allow some call of this tool; tools that it never allows are not listed."""
        return may_offer(self.state().rules, tool, caller, needed)

    def _keep(self, mark: tuple[int, ...], state: PolicyState) -> PolicyState:
        self._known = mark, state
        return state

    def _read(self) -> PolicyState:
        try:
            content = self.file.read_bytes()
            return PolicyState(parse(content.decode("utf-8"), self.file), digest=hashlib.sha256(content).hexdigest())
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigInvalid(f"{self.file}, line {line}: not valid UTF-8", hint="save the file as UTF-8") from error
        except OSError as error:
            raise self._read_error(error) from error

    def _read_error(self, error: OSError) -> ConfigInvalid:
        return ConfigInvalid(f"{self.file} cannot be read: {error.strerror}", hint="check its owner and permissions")
