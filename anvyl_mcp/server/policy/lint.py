"""Finds problems in a valid policy: unknown names, and rules that can never match a call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from anvyl_mcp.core.errors import did_you_mean
from anvyl_mcp.server.policy import guardrails
from anvyl_mcp.server.policy.name_forms import MOUNT_ARGUMENTS
from anvyl_mcp.server.policy.rules import (
    KINDS,
    WILDCARDS,
    Condition,
    PolicyRule,
    PolicyRules,
    kind_of,
    possible_scopes,
    runs_on_host,
)
from anvyl_mcp.server.tool import Tool

NAME_PATTERN = re.compile(r"[a-zA-Z0-9*?\[\]!][a-zA-Z0-9_.*?\[\]!-]*", re.ASCII)
"""A possible name of a container, network or volume, including wildcards."""
TOOL_CONDITIONS = frozenset({"tools", "toolsets", "safety"})


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """A problem in the policy: its line (0 if unknown), message and hint."""

    line: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return where + self.message + (f"; {self.hint}" if self.hint else "")


def find_problems(rules: PolicyRules, tools: Sequence[Tool]) -> list[PolicyProblem]:
    """Return the problems in the order of the file. `tools`: all tools of this installation."""
    found: list[PolicyProblem] = []
    for rule in (*rules.deny, *rules.allow):
        problems = list(_rule_problems(rule, tools))
        if not problems:
            problems = list(_shadowed_rules(rule, rules.deny, tools))
        if not problems and rule.effect == "allow" and rules.default != "deny":
            problems = [
                PolicyProblem(rule.line, "this rule has no effect", '[[allow]] only applies with default = "deny"')
            ]
        found += problems
    if rules.host_exec is not None and not any(runs_on_host(tool) for tool in tools):
        found.append(PolicyProblem(0, "[host_exec] has no effect: no tool runs commands on the host"))
    return sorted(found, key=lambda one: one.line)


def _rule_problems(rule: PolicyRule, tools: Sequence[Tool]) -> Iterator[PolicyProblem]:
    invalid = False
    for condition in rule.conditions:
        for words, hint in _condition_problems(condition, tools):
            invalid = True
            yield PolicyProblem(rule.line, words, hint)
    if invalid:
        return
    chosen = _tools_of(rule, tools)
    if not chosen:
        parts = " and ".join(str(one) for one in rule.conditions if one.kind in TOOL_CONDITIONS or one.kind == "scopes")
        yield PolicyProblem(rule.line, f"this rule can never match: no tool has {parts}", "leave one of them out")
        return
    for condition in rule.conditions:
        if condition.kind == "mounts" and rule.effect == "allow":
            continue  # matches calls without mounts
        if words := _why_unmatched(condition, chosen):
            yield PolicyProblem(rule.line, f"this rule can never match: {words}", _hint(condition, chosen))


def _condition_problems(condition: Condition, tools: Sequence[Tool]) -> Iterator[tuple[str, str]]:
    """Problems of one condition: it is empty, or names something unknown or impossible."""
    if not condition.patterns:
        yield f"this rule can never match: `{condition.kind}` is empty", "add a value, or leave it out"
    known = {"tools": [tool.name for tool in tools], "toolsets": [tool.toolset for tool in tools]}
    for pattern in condition.patterns if condition.kind in known else ():
        if not any(fnmatchcase(name, pattern) for name in known[condition.kind]):
            yield f"unknown {condition.kind[:-1]} `{pattern}`", did_you_mean(pattern, known[condition.kind])
    if condition.kind in ("containers", "networks", "volumes"):
        for pattern in condition.patterns:
            if not NAME_PATTERN.fullmatch(pattern):
                yield (
                    f"`{pattern}` cannot be the name of a {condition.kind[:-1]}",
                    "use letters, digits, `_`, `.`, `-` and `*`",
                )


def _tools_of(rule: PolicyRule, tools: Sequence[Tool]) -> list[Tool]:
    """The tools that match all tool conditions of a rule."""
    return [tool for tool in tools if all(_may_concern(condition, tool) for condition in rule.conditions)]


def _may_concern(condition: Condition, tool: Tool) -> bool:
    if condition.kind == "scopes":
        return any(scope in condition.patterns for scope in possible_scopes(tool, guardrails.needed_scope(tool, {})))
    if condition.kind not in TOOL_CONDITIONS:
        return True
    value = {"tools": tool.name, "toolsets": tool.toolset, "safety": tool.safety}[condition.kind]
    return any(fnmatchcase(value, pattern) for pattern in condition.patterns)


def _why_unmatched(condition: Condition, tools: Sequence[Tool]) -> str:
    """Why no tool of a rule can ever match this condition; empty if one can."""
    arguments = {name for tool in tools for name in tool.arguments.model_fields}
    if condition.kind == "arguments":
        return _why_argument_unmatched(condition, tools, arguments)
    if condition.kind == "mounts":
        return "" if arguments.intersection(MOUNT_ARGUMENTS) else "none of its tools mounts anything"
    if condition.kind == "labels":
        return (
            ""
            if any(_names_kind(tool, kind) for tool in tools for kind in KINDS)
            else "none of its tools names an object"
        )
    kind = condition.kind.removesuffix("s")
    if kind not in KINDS or any(_names_kind(tool, kind) for tool in tools):
        return ""
    # A deny for an image also applies to the containers of that image.
    if kind == "image" and any(_names_kind(tool, "container") for tool in tools):
        return ""
    return f"none of its tools names {'an' if kind == 'image' else 'a'} {kind}"


def _why_argument_unmatched(condition: Condition, tools: Sequence[Tool], known: set[str]) -> str:
    if condition.name not in known:
        return f"none of its tools has an argument `{condition.name}`"
    schemas = [tool.input_schema["properties"].get(condition.name) for tool in tools]
    kinds = {str(schema.get("type")) for schema in schemas if schema}
    if kinds == {"boolean"} and not any(
        fnmatchcase(word, one) for word in ("true", "false") for one in condition.patterns
    ):
        return f"`{condition.name}` is true or false, never {' or '.join(condition.patterns)}"
    return ""


def _hint(condition: Condition, tools: Sequence[Tool]) -> str:
    if condition.kind == "arguments":
        return did_you_mean(condition.name, {name for tool in tools for name in tool.arguments.model_fields})
    return f"leave `{condition.kind}` out, or choose other tools"


def _names_kind(tool: Tool, kind: str) -> bool:
    named = any(kind_of(tool, argument) == kind for argument in tool.arguments.model_fields)
    return named or (kind == "volume" and not tool.arguments.model_fields.keys().isdisjoint(MOUNT_ARGUMENTS))


def _shadowed_rules(rule: PolicyRule, denies: Sequence[PolicyRule], tools: Sequence[Tool]) -> Iterator[PolicyProblem]:
    """A rule that never applies because of an earlier deny. Every deny precedes every allow, wherever it is written."""
    for other in denies:
        if other is rule:
            return
        if _covers(other, rule, tools):
            what = "never applies" if rule.effect == "allow" else "is redundant"
            yield PolicyProblem(rule.line, f"this rule {what}: {other} covers all of it", "remove one of the two")
            return


def _covers(deny: PolicyRule, rule: PolicyRule, tools: Sequence[Tool]) -> bool:
    """Whether the deny certainly matches every call that the rule matches."""
    names = {tool.name for tool in _tools_of(rule, tools)}
    if not names <= {tool.name for tool in _tools_of(deny, tools)}:
        return False
    return all(_is_implied(condition, rule) for condition in deny.conditions if condition.kind not in TOOL_CONDITIONS)


def _is_implied(condition: Condition, rule: PolicyRule) -> bool:
    for mine in rule.conditions_of(condition.kind):
        # An allow also matches calls without any mount or value.
        loose = rule.effect == "allow" and mine.kind in ("mounts", "arguments")
        if mine.name.casefold() == condition.name.casefold() and not loose:
            return all(any(_pattern_covers(one, other) for other in condition.patterns) for one in mine.patterns)
    return False


def _pattern_covers(pattern: str, other: str) -> bool:
    """Whether everything that matches `pattern` certainly matches `other`."""
    if pattern == other or other == "*":
        return True
    if not WILDCARDS.isdisjoint(pattern) and not {"?", "["}.isdisjoint(other):
        return False
    return fnmatchcase(pattern, other)
