"""Explains policy decisions and lists problems in the policy file, for `anvyl-mcp policy`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from anvyl_mcp.core.errors import ConfigInvalid, EngineError, InvalidInput, Timeout
from anvyl_mcp.server.auth.callers import AUTH_METHODS, AuthMethod, Caller, parse_scopes, sort_scopes
from anvyl_mcp.server.auth.tokens import Tokens
from anvyl_mcp.server.policy import guardrails, object_names
from anvyl_mcp.server.policy.lint import PolicyProblem, find_problems
from anvyl_mcp.server.policy.name_forms import ObjectFacts
from anvyl_mcp.server.policy.policy import Policy
from anvyl_mcp.server.policy.rules import ObjectLookup, PolicyRule
from anvyl_mcp.server.tool import Tool

log = logging.getLogger(__name__)

INVITED_SCOPES = "read,operate"
"""Scopes of an invitation without `--scope`."""


def explain_call(policy: Policy, tool: Tool, arguments: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
    """Report whether a call would be allowed, what decides it and why, as a JSON object."""
    needed = guardrails.needed_scope(tool, arguments)
    problem = policy.state().problem
    report: dict[str, Any] = {
        "tool": tool.name,
        "arguments": dict(arguments),
        "caller": {"name": caller.name, "how": caller.how, "scopes": sort_scopes(caller.scopes)},
        "needs": needed,
        "policy": str(policy.file) if policy.file.exists() else None,
        "rule": None,
        "because": guardrails.reasons(tool, arguments),
    }
    if not caller.may(needed):
        return {**report, "allowed": False, "by": "scopes"}
    if problem is not None and tool.safety != "reads":
        return {**report, "allowed": False, "by": "broken", "because": [str(problem)]}
    try:
        object_names.check_call(tool, arguments)
    except InvalidInput as error:
        return {**report, "allowed": False, "by": "names", "because": [error.message]}
    decision = policy.decide(caller, tool, arguments)
    rule = _rule(decision.rule) if decision.rule else None
    because = list(decision.because)
    return {**report, "allowed": decision.allowed, "by": decision.by, "rule": rule, "because": because}


def _rule(rule: PolicyRule) -> dict[str, Any]:
    return {
        "effect": rule.effect,
        "number": rule.number,
        "line": rule.line,
        "conditions": [str(condition) for condition in rule.conditions],
        "why": rule.why,
    }


def check_policy(policy: Policy, tools: Sequence[Tool]) -> dict[str, Any]:
    """Report the problems of the policy, as a JSON object."""
    state = policy.state()
    report: dict[str, Any] = {
        "file": str(policy.file),
        "exists": policy.file.exists(),
        "default": state.rules.default,
        "deny": len(state.rules.deny),
        "allow": len(state.rules.allow),
    }
    found = [_parse_problem(state.problem)] if state.problem else find_problems(state.rules, tools)
    return {**report, "ok": not found, "problems": [{**asdict(one), "text": str(one)} for one in found]}


def log_problems(policy: Policy, tools: Sequence[Tool]) -> None:
    """Log the problems of the policy when a server starts. `Policy.refresh` logs a file that cannot be read."""
    state = policy.refresh()
    for one in [] if state.problem else find_problems(state.rules, tools):
        log.warning("%s, %s", policy.file, one)


def _parse_problem(problem: ConfigInvalid) -> PolicyProblem:
    found = re.search(r", line (\d+): (.*)", problem.message)
    return (
        PolicyProblem(int(found[1]), found[2], problem.hint)
        if found
        else PolicyProblem(0, problem.message, problem.hint)
    )


def caller_named(name: str, scopes: str, tokens: Tokens) -> Caller:
    """Return the caller with a name: a token of this host, `local`, or for example `loopback:anna`.

    Without `scopes`, it gets those of its token, of an invitation, or of a caller on this machine.
    """
    prefix, _, own = name.rpartition(":")
    token = next((one for one in tokens.list() if one.name == own), None)
    how: AuthMethod = next((one for one in AUTH_METHODS if one == prefix), "local" if own == "local" else "token")
    default = "exec" if own == "local" else "operate" if how == "loopback" else ""
    default = default or (",".join(token.scopes) if token else INVITED_SCOPES)
    return Caller(own, parse_scopes(scopes or default), how)


def with_labels(lookup: ObjectLookup, labels: Mapping[str, str], notes: list[str]) -> ObjectLookup:
    """Wrap a lookup: add `labels` to every object, and fall back to the bare name if the engine does not answer."""

    def lookup_with_labels(kind: str, name: str) -> ObjectFacts:
        found = None
        try:
            found = lookup(kind, name)
        except (EngineError, Timeout) as error:
            notes.append(f"{error.message}: nothing but the name of the {kind} `{name}` is known")
        facts = found or ObjectFacts.from_name(kind, name)
        return replace(facts, labels={**facts.labels, **labels})

    return lookup_with_labels
