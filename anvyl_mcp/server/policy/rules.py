"""Rules about who may do what with which object, and how one of them fits one call.

A deny rule fits when any name of any object that the call is about fits; an allow rule only when every object does, by
its own name. That is why labels, other names and images of containers can take away and never give.
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
KINDS = ("container", "image", "network", "volume")
"""What a call can be about; the condition for each is its plural."""
WILDCARDS = frozenset("*?[")

ObjectLookup = Callable[[str, str], ObjectFacts | None]
"""What the engine knows of an object of a kind, by a name that a caller gave; None when there is none."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a rule: `patterns`, of which one must fit. `name` is the label or argument that is looked at."""

    kind: str
    patterns: tuple[str, ...]
    name: str = ""

    def __str__(self) -> str:
        where = f'{self.kind}."{self.name}"' if self.name else self.kind
        return f"{where} = {' or '.join(self.patterns) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One `[[deny]]` or `[[allow]]`; it fits a call when all of its conditions do. `why` is its owner's reason."""

    effect: Effect
    number: int
    line: int
    conditions: tuple[Condition, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        what = ", ".join(map(str, self.conditions)) or "everything"
        return f"{self.place} ({what})"

    @property
    def place(self) -> str:
        """Where it stands in its file."""
        return f"[[{self.effect}]] " + (f"in line {self.line}" if self.line else f"number {self.number}")

    def of(self, kind: str) -> Iterator[Condition]:
        """Its conditions of one kind."""
        return (condition for condition in self.conditions if condition.kind == kind)


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """A whole policy. `host_exec` are the only commands that may be run on the host; None leaves that to the rest."""

    default: Literal["guardrails", "deny"] = "guardrails"
    deny: tuple[PolicyRule, ...] = ()
    allow: tuple[PolicyRule, ...] = ()
    host_exec: tuple[tuple[str, ...], ...] | None = None


NO_RULES = PolicyRules()


@dataclass(frozen=True)
class PolicyCall:
    """One call as the rules see it. The engine is asked for objects only when a rule is about them."""

    tool: Tool
    needed: Scope
    caller: Caller
    arguments: Mapping[str, Any]
    look: ObjectLookup = field(compare=False, default=lambda kind, name: None)
    _seen: dict[str, list[ObjectFacts]] = field(compare=False, default_factory=dict)

    @property
    def objects(self) -> Mapping[str, Sequence[ObjectFacts]]:
        """Every object that the call names, by kind."""
        # Not a `cached_property`: of Python 3.11's, all calls share one lock, and an engine that hangs would hold it.
        if not self._seen:
            self._seen.update(self._looked())
        return self._seen

    def _looked(self) -> dict[str, list[ObjectFacts]]:
        found: dict[str, list[ObjectFacts]] = {kind: [] for kind in KINDS}
        for argument, value in self.arguments.items():
            kind = kind_of(self.tool, argument)
            for name in object_names.names_in(value) if kind else ():
                found[kind].append(self.look(kind, name) or ObjectFacts.only(kind, name))
        for mount in mounts_of(self.arguments):
            if mount.volume:
                found["volume"].append(self.look("volume", mount.volume) or ObjectFacts.only("volume", mount.volume))
        return found


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """What the policy says of a call, which part of it decided, and what of the call fitted that."""

    allowed: bool
    by: Literal["deny", "allow", "host_exec", "default"]
    rule: PolicyRule | None = None
    because: tuple[str, ...] = ()


def decide(rules: PolicyRules, call: PolicyCall) -> PolicyDecision:
    """The first deny that fits wins, then the list of commands, then the first allow that fits, then the default."""
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
    """Whether some call of the tool could be let through: what is denied whatever its arguments is not offered."""
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
    """The scopes that calls of a tool may need: what it always needs, and `exec` for what is as good as root."""
    return (least,) if least == "exec" else (least, "exec")


def match_rule(rule: PolicyRule, call: PolicyCall) -> tuple[str, ...] | None:
    """What of the call fits each condition, in words; None when one of them does not fit."""
    because = []
    # What is known without asking the engine comes first.
    for condition in sorted(rule.conditions, key=lambda one: one.kind not in STATIC_CONDITIONS):
        fitting = _match_condition(condition, rule.effect, call)
        if fitting is None:
            return None
        because.append(fitting)
    return tuple(because)


def _match_condition(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    return MATCHERS[condition.kind](condition, effect, call)


def _first_match(values: Iterable[str], patterns: Iterable[str]) -> str | None:
    """The first value that fits a pattern."""
    chosen = tuple(patterns)
    return next((value for value in values if any(fnmatchcase(value, pattern) for pattern in chosen)), None)


def _match_word(of: Callable[[PolicyCall], str]) -> Callable[[Condition, Effect, PolicyCall], str | None]:
    def fitting(condition: Condition, _: Effect, call: PolicyCall) -> str | None:
        found = _first_match([of(call)], condition.patterns)
        return None if found is None else f"{condition.kind}: {found}"

    return fitting


def _match_caller(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    found = _first_match(caller_names(call.caller, effect), condition.patterns)
    return None if found is None else f"caller: {found}"


def _match_token(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    found = _first_match(caller_names(call.caller, effect), [f"token:{pattern}" for pattern in condition.patterns])
    return None if found is None else f"caller: {found}"


def caller_names(caller: Caller, effect: Effect) -> list[str]:
    """The names by which rules know a caller, alone and with how it came: `alpha`, `token:alpha`.

    Who a call is made for is only said by who makes it, so that name can take away, in whatever way that one came. It
    can give only where this process itself says it, and then its own name gives nothing.
    """
    *asking, own = caller.name.split(THROUGH) if caller.through else [caller.name]
    names = [own, f"{caller.how}:{own}"]
    if effect == "deny":
        return [*names, *asking, *(f"{how}:{one}" for one in asking for how in AUTH_METHODS)]
    return asking[-1:] if asking and caller.how == "local" else names


def _match_objects(condition: Condition, effect: Effect, call: PolicyCall) -> str | None:
    kind = condition.kind.removesuffix("s")
    named = call.objects[kind]
    if effect == "allow":
        own = [_first_match(spellings(kind, one.name), condition.patterns) for one in named]
        words = [word for word in own if word is not None]
        return f"{kind}: {', '.join(words)}" if words and len(words) == len(own) else None
    names = [name for one in named for name in one.names]
    if kind == "image":
        names += [name for one in call.objects["container"] for name in spellings(kind, one.image)]
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
    "mounts": _match_mounts,
    "arguments": _match_argument,
    "labels": _match_labels,
}
"""What a rule may ask for, and how it is looked up in a call: the words that fit, or None."""
STATIC_CONDITIONS = frozenset({"tools", "toolsets", "safety", "callers", "tokens"})
"""Conditions that are the same for every call of one tool by one caller."""
ALLOWED_VALUES = {"safety": ("reads", "changes", "destroys"), "scopes": SCOPES}
"""Conditions that take these words only."""


def kind_of(tool: Tool, argument: str) -> str:
    """The kind of object that an argument of a tool names; empty when it names none."""
    if argument not in tool.arguments.model_fields:
        return ""
    told = tool.input_schema["properties"][argument].get("x-names", "")
    if told in KINDS:
        return str(told)
    if argument in KINDS:
        return argument
    made = tool.name.removeprefix("create_")
    return made if argument == "name" and tool.name.startswith("create_") and made in KINDS else ""


def runs_on_host(tool: Tool) -> bool:
    """Whether the tool runs a command of the caller's on the host itself."""
    known = "command" in tool.arguments.model_fields
    return known and any(fnmatchcase(tool.name, pattern) for pattern in ("execute_*", "run_command*"))


def _command_allowed(allowed: Iterable[tuple[str, ...]], arguments: Mapping[str, Any]) -> bool:
    """Whether a command is in the list: the very program, and as many words, each of which fits."""
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
    """Where a program is. Its own last name stays: what it links to may be one file for many programs."""
    path = Path(program)
    return path.parent.resolve() / path.name


def _word_matches(word: str, pattern: str) -> bool:
    """A wildcard does not stand for an option."""
    return fnmatchcase(word, pattern) and (not word.startswith("-") or pattern.startswith("-"))
