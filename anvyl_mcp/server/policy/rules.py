"""Policy rules, and how they match a call.

A deny rule matches if any name of any object in the call matches; an allow rule matches only if every object does, by
its own name. So labels, alternative names and images of containers can restrict a caller, but never grant anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.server import commands
from anvyl_mcp.server.auth.callers import AUTH_METHODS, SCOPES, THROUGH, Caller
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.policy.name_forms import ObjectFacts, mounts_of, spellings
from anvyl_mcp.server.tool import Scope, Tool

Effect = Literal["deny", "allow"]
KINDS = ("container", "image", "network", "volume", "stack", "service", "node")
"""Kinds of objects in a call; the condition for each is its plural."""
WILDCARDS = frozenset("*?[")

ObjectLookup = Callable[[str, str], ObjectFacts | None]
"""Looks up an object by kind and the name in the call; None if it does not exist."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a rule: one of `patterns` must match. `name`: the label or argument, for conditions on these."""

    kind: str
    patterns: tuple[str, ...]
    name: str = ""

    def __str__(self) -> str:
        where = f'{self.kind}."{self.name}"' if self.name else self.kind
        return f"{where} = {' or '.join(self.patterns) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One `[[deny]]` or `[[allow]]`; it matches if all its conditions match. `why`: the reason given in the file."""

    effect: Effect
    number: int
    line: int
    conditions: tuple[Condition, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        what = ", ".join(map(str, self.conditions)) or "everything"
        return f"{self.location} ({what})"

    @property
    def location(self) -> str:
        """Position in the policy file."""
        return f"[[{self.effect}]] " + (f"in line {self.line}" if self.line else f"number {self.number}")

    def conditions_of(self, kind: str) -> Iterator[Condition]:
        """The conditions of one kind."""
        return (condition for condition in self.conditions if condition.kind == kind)


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """A whole policy. `host_exec`: the only commands allowed on the host; None applies no such list."""

    default: Literal["guardrails", "deny"] = "guardrails"
    deny: tuple[PolicyRule, ...] = ()
    allow: tuple[PolicyRule, ...] = ()
    host_exec: tuple[tuple[str, ...], ...] | None = None


NO_RULES = PolicyRules()


@dataclass(frozen=True)
class PolicyCall:
    """One call to match rules against. Objects are looked up only if a rule needs them."""

    tool: Tool
    needed: Scope
    caller: Caller
    arguments: Mapping[str, Any]
    lookup: ObjectLookup = field(compare=False, default=lambda kind, name: None)
    _objects: dict[str, list[ObjectFacts]] = field(compare=False, default_factory=dict)

    @property
    def objects(self) -> Mapping[str, Sequence[ObjectFacts]]:
        """The objects named in the call, by kind."""
        # Not a `cached_property`: in Python 3.11 all instances share one lock, which a hanging engine would hold.
        if not self._objects:
            self._objects.update(self._lookup_objects())
        return self._objects

    def _lookup_objects(self) -> dict[str, list[ObjectFacts]]:
        found: dict[str, list[ObjectFacts]] = {kind: [] for kind in KINDS}
        for argument, value in self.arguments.items():
            kind = kind_of(self.tool, argument)
            for name in object_names.names_in(value) if kind else ():
                found[kind].append(self.lookup(kind, name) or ObjectFacts.from_name(kind, name))
        for mount in mounts_of(self.arguments):
            if mount.volume:
                found["volume"].append(
                    self.lookup("volume", mount.volume) or ObjectFacts.from_name("volume", mount.volume)
                )
        return found


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """The decision on a call, the part of the policy that made it, and what in the call matched."""

    allowed: bool
    by: Literal["deny", "allow", "host_exec", "default"]
    rule: PolicyRule | None = None
    because: tuple[str, ...] = ()


def decide(rules: PolicyRules, call: PolicyCall) -> PolicyDecision:
    """The first matching deny wins, then the list of commands, then the first matching allow, then the default."""
    for rule in rules.deny:
        if (because := match_rule(rule, call)) is not None:
            return PolicyDecision(False, "deny", rule, because)
    if rules.host_exec is not None and runs_on_host(call.tool):
        return PolicyDecision(_command_allowed(rules.host_exec, call.arguments), "host_exec")
    for rule in rules.allow:
        if (because := match_rule(rule, call)) is not None:
            return PolicyDecision(True, "allow", rule, because)
    return PolicyDecision(rules.default != "deny", "default")


def may_offer(rules: PolicyRules, tool: Tool, caller: Caller, needed: Scope) -> bool:
    """Whether some call of the tool could be allowed; a tool denied for all arguments is not offered."""
    call = PolicyCall(tool, needed, caller, {})
    if any(all(_always_matches(condition, rule.effect, call) for condition in rule.conditions) for rule in rules.deny):
        return False
    if rules.default != "deny" or (rules.host_exec and runs_on_host(tool)):
        return True
    return any(all(_may_match(condition, call) for condition in rule.conditions) for rule in rules.allow)


def _always_matches(condition: Condition, effect: Effect, call: PolicyCall) -> bool:
    if condition.kind == "scopes":
        wanted = [scope for scope in possible_scopes(call.tool, call.needed) if call.caller.may(scope)]
        return all(scope in condition.patterns for scope in wanted)
    return condition.kind in STATIC_CONDITIONS and _match_condition(condition, effect, call) is not None


def _may_match(condition: Condition, call: PolicyCall) -> bool:
    if condition.kind == "scopes":
        return any(scope in condition.patterns for scope in possible_scopes(call.tool, call.needed))
    return condition.kind not in STATIC_CONDITIONS or _match_condition(condition, "allow", call) is not None


def possible_scopes(tool: Tool, least: Scope) -> tuple[Scope, ...]:
    """The scopes that calls of a tool may need: its usual one, and `exec` for calls that amount to root."""
    return (least,) if least == "exec" else (least, "exec")


def match_rule(rule: PolicyRule, call: PolicyCall) -> tuple[str, ...] | None:
    """Describe what matched each condition; None if one does not match."""
    because = []
    # First the conditions that need no engine.
    for condition in sorted(rule.conditions, key=lambda one: one.kind not in STATIC_CONDITIONS):
        matched = _match_condition(condition, rule.effect, call)
        if matched is None:
            return None
        because.append(matched)
    return tuple(because)


def _match_condition(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    return MATCHERS[condition.kind](condition, effect, call)


def _first_match(values: Iterable[str], patterns: Iterable[str]) -> str | None:
    """The first value that matches a pattern."""
    chosen = tuple(patterns)
    return next((value for value in values if any(fnmatchcase(value, pattern) for pattern in chosen)), None)


def _match_word(of: Callable[[PolicyCall], str]) -> Callable[[Condition, Effect, PolicyCall], str | None]:
    def match_word(condition: Condition, _: Effect, call: PolicyCall) -> str | None:
        found = _first_match([of(call)], condition.patterns)
        return None if found is None else f"{condition.kind}: {found}"

    return match_word


def _match_caller(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    found = _first_match(caller_names(call.caller, effect), condition.patterns)
    return None if found is None else f"caller: {found}"


def _match_token(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    found = _first_match(caller_names(call.caller, effect), [f"token:{pattern}" for pattern in condition.patterns])
    return None if found is None else f"caller: {found}"


def caller_names(caller: Caller, effect: Effect) -> list[str]:
    """The names of a caller that rules can match, without and with how it authenticated: `alpha`, `token:alpha`.

    The name on whose behalf a caller acts is only its own claim. So it can restrict the caller, with any prefix. It
    grants something only if the claim comes from this process, and then the name of the process grants nothing.
    """
    *behalf, own = caller.name.split(THROUGH) if caller.through else [caller.name]
    names = [own, f"{caller.how}:{own}"]
    if effect == "deny":
        return [*names, *behalf, *(f"{how}:{one}" for one in behalf for how in AUTH_METHODS)]
    return behalf[-1:] if behalf and caller.how == "local" else names


def _match_objects(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    kind = condition.kind.removesuffix("s")
    named = call.objects[kind]
    if effect == "allow":
        own = [_first_match(spellings(kind, one.name), condition.patterns) for one in named]
        words = [word for word in own if word is not None]
        return f"{kind}: {', '.join(words)}" if words and len(words) == len(own) else None
    names = [name for one in named for name in one.names]
    if kind == "image":
        holders = [*call.objects["container"], *call.objects["service"]]
        names += [name for one in holders if one.image for name in spellings(kind, one.image)]
    found = _first_match(names, condition.patterns)
    return None if found is None else f"{kind}: {found}"


def _match_labels(condition: Condition, _: Effect, call: PolicyCall) -> str | None:
    patterns = [pattern.casefold() for pattern in condition.patterns]
    for kind in KINDS:
        for one in call.objects[kind]:
            for name, value in one.labels.items():
                same = name.strip().casefold() == condition.name.strip().casefold()
                if same and _first_match([value.strip().casefold()], patterns) is not None:
                    return f"{kind} {one.name}: label {name}={value}"
    return None


def _match_mounts(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    given = mounts_of(call.arguments)
    if effect == "allow":
        fit = all(any(mount.within(pattern) for pattern in condition.patterns) for mount in given)
        return (f"mounts: {', '.join(map(str, given))}" if given else "no mounts") if fit else None
    return next(
        (f"mount: {mount}" for mount in given if any(mount.touches(pattern) for pattern in condition.patterns)), None
    )


def _match_argument(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    if condition.name not in call.tool.arguments.model_fields:
        return None
    values = list(_texts(call.arguments.get(condition.name)))
    fitting = [value for value in values if _first_match([value], condition.patterns) is not None]
    if len(fitting) < len(values) if effect == "allow" else not fitting:
        return None
    return f"{condition.name}: {', '.join(fitting) or 'none'}"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, bool):
        yield str(value).lower()
    elif value is not None:
        yield str(value)


MATCHERS: dict[str, Callable[[Condition, Effect, PolicyCall], str | None]] = {
    "tools": _match_word(lambda call: call.tool.name),
    "toolsets": _match_word(lambda call: call.tool.toolset),
    "safety": _match_word(lambda call: call.tool.safety),
    "scopes": _match_word(lambda call: call.needed),
    "callers": _match_caller,
    "tokens": _match_token,
    "containers": _match_objects,
    "images": _match_objects,
    "networks": _match_objects,
    "volumes": _match_objects,
    "stacks": _match_objects,
    "services": _match_objects,
    "nodes": _match_objects,
    "mounts": _match_mounts,
    "arguments": _match_argument,
    "labels": _match_labels,
}
"""Conditions of a rule, and how they match a call: a description of what matched, or None."""
STATIC_CONDITIONS = frozenset({"tools", "toolsets", "safety", "callers", "tokens"})
"""Conditions with the same result for every call of one tool by one caller."""
ALLOWED_VALUES = {"safety": ("reads", "changes", "destroys"), "scopes": SCOPES}
"""Conditions with a fixed set of values."""


def kind_of(tool: Tool, argument: str) -> str:
    """The kind of object that an argument names; empty if it names no object."""
    if argument not in tool.arguments.model_fields:
        return ""
    schema = tool.input_schema["properties"][argument]
    marked = schema.get("x-names") or schema.get("x-makes", "")
    if marked in KINDS:
        return str(marked)
    if argument in KINDS:
        return argument
    made = tool.name.removeprefix("create_")
    return made if argument == "name" and tool.name.startswith("create_") and made in KINDS else ""


def runs_on_host(tool: Tool) -> bool:
    """Whether the tool runs a command given by the caller on the host."""
    known = "command" in tool.arguments.model_fields
    return known and any(fnmatchcase(tool.name, pattern) for pattern in ("execute_*", "run_command*"))


def _command_allowed(allowed: Iterable[tuple[str, ...]], arguments: Mapping[str, Any]) -> bool:
    """Whether a command is in the list: the same program, and the same number of words, each matching."""
    try:
        program, *words = commands.split(str(arguments.get("command", "")))
    except InvalidInput:
        return False
    path = shutil.which(program)
    return path is not None and any(
        _program_path(path) == _program_path(first) and len(rest) == len(words) and all(map(_word_matches, words, rest))
        for first, *rest in allowed
    )


def _program_path(program: str) -> Path:
    """Resolve the folder of a program, but not its file name: one file may serve many programs through links."""
    path = Path(program)
    return path.parent.resolve() / path.name


def _word_matches(word: str, pattern: str) -> bool:
    """Match one word of a command; a wildcard never matches an option."""
    return fnmatchcase(word, pattern) and (not word.startswith("-") or pattern.startswith("-"))
