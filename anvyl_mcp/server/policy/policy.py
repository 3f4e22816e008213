"""`policy.toml`: what the owner of this host takes away from what callers may do, read anew whenever it changes.

A file that cannot be used counts as a no to every change: what it was meant to forbid is not known.
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
"""Decisions that may wait for the engine at once: one that hangs must not take every thread."""
RACY_NANOSECONDS = 1_000_000_000
"""Two versions written within one tick of the file system's clock can look alike from outside."""


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The file as it was last read: its rules, and why they do not count, if so."""

    rules: PolicyRules = NO_RULES
    problem: ConfigInvalid | None = None
    digest: str = ""
    """Of the file's content, where it could be read."""


class Policy:
    """The policy of one host. `look` asks the engine what an object is; without it only given names count."""

    def __init__(
        self,
        file: Path,
        look: ObjectLookup = lambda kind, name: None,
        *,
        on_change: Callable[[PolicyState], None] = lambda state: None,
    ) -> None:
        """`on_change` is called with each new version of the file."""
        self.file = file
        self._on_change = on_change
        self._seen: PolicyState | None = None
        self._look = look
        # One attribute, because threads read and change: rules must never stand beside the mark of another version.
        self._known: tuple[tuple[int, ...], PolicyState] = (), PolicyState()
        self._said = PolicyState()
        self._limiter: anyio.CapacityLimiter | None = None

    def state(self) -> PolicyState:
        """The rules now, whoever wrote them. Costs one `stat` while the file stays the same."""
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return self._keep((), PolicyState())
        except OSError as error:
            return self._keep((-1,), PolicyState(self._known[1].rules, self._unreadable(error)))
        mark = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode, found.st_uid)
        if mark == self._known[0] and abs(time.time_ns() - found.st_mtime_ns) > RACY_NANOSECONDS:
            return self._known[1]
        try:
            check_not_writable_by_others(self.file, found)
            return self._keep(mark, self._read())
        except ConfigInvalid as problem:
            # What the last good version forbade stays forbidden, reads included.
            return self._keep(mark, PolicyState(self._known[1].rules, problem))

    def refresh(self) -> PolicyState:
        """The rules now; when they stopped counting since they were last asked for, the log says so."""
        state, before = self.state(), self._said
        self._said = state
        if self._seen is None or (state.digest, str(state.problem)) != (self._seen.digest, str(self._seen.problem)):
            self._seen = state
            self._on_change(state)
        if state.problem and str(state.problem) != str(before.problem):
            log.warning("changes are refused: %s", state.problem)
        elif state.rules == NO_RULES != before.rules:
            log.warning("%s says nothing any more: only callers' rights count now", self.file)
        return state

    @property
    def decides_objects(self) -> bool:
        """Whether a rule is about the objects of a call, so that the engine is asked for them."""
        rules = self.state().rules
        return any(
            condition.kind not in STATIC_CONDITIONS
            for rule in (*rules.deny, *rules.allow)
            for condition in rule.conditions
        )

    def decide(self, caller: Caller, tool: Tool, arguments: Mapping[str, Any]) -> PolicyDecision:
        """What the rules say of a call, with which of them decided. May ask the engine."""
        needed = guardrails.needed_scope(tool, arguments)
        return decide(self.state().rules, PolicyCall(tool, needed, caller, arguments, self._look))

    async def check(self, caller: Caller, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Return when the policy leaves this call to this caller.

        Raises:
            Denied: it does not, or it cannot be read and the call changes something.
            EngineError, Timeout: what the call is about cannot be seen.
        """
        state = self.refresh()
        if state.problem and tool.safety != "reads":
            raise Denied(f"changes are refused here: {state.problem.message}", hint=state.problem.hint)
        if state.rules == NO_RULES:
            return
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(MAX_DECISIONS)
        deciding = partial(self.decide, caller, tool, arguments)
        decision = await anyio.to_thread.run_sync(deciding, abandon_on_cancel=True, limiter=self._limiter)
        if not decision.allowed:
            raise self.refusal(decision, tool)

    def require(self, tool: Tool, arguments: Mapping[str, Any]) -> None:
        """Return when the policy leaves also this to who acts now; it may ask the engine.

        Raises:
            Denied: it does not.
        """
        decision = self.decide(CURRENT_CALLER.get(), tool, arguments)
        if not decision.allowed:
            raise self.refusal(decision, tool)

    def refusal(self, decision: PolicyDecision, tool: Tool) -> Denied:
        """The decision in words for a caller."""
        hint = f"its owner decides that, in {self.file.name}: anvyl-mcp policy test says why"
        if decision.rule is not None:
            why = f": {text.clean(decision.rule.why)}" if decision.rule.why else ""
            about = "; ".join(decision.because) or "everything"
            return Denied(
                f"`{tool.name}` is denied by the policy of this host, {decision.rule.place} ({text.clean(about)}){why}",
                hint=hint,
            )
        if decision.by == "host_exec":
            return Denied("this command is not in the list [host_exec] of this host's policy", hint=hint)
        return Denied(f"`{tool.name}` is denied by the policy of this host: no rule allows this call", hint=hint)

    def may_offer(self, tool: Tool, caller: Caller, needed: Scope) -> bool:
        """Whether the policy could let some call of this tool through; what it never would is not listed."""
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
            raise ConfigInvalid(f"{self.file}, line {line}: this is not text", hint="write it in UTF-8") from error
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> ConfigInvalid:
        return ConfigInvalid(f"{self.file} cannot be read: {error.strerror}", hint="check who owns it")
