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
from anvyl_mcp.server.policy.name_forms import Named, mounts_of, spellings
from anvyl_mcp.server.tool import Scope, Tool

Effect = Literal["deny", "allow"]
KINDS = ("container", "image", "network", "volume")
"""What a call can be about; the condition for each is its plural."""
WILD = frozenset("*?[")

Look = Callable[[str, str], Named | None]
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
class Rule:
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
class Rules:
    """A whole policy. `host_exec` are the only commands that may be run on the host; None leaves that to the rest."""

    default: Literal["guardrails", "deny"] = "guardrails"
    deny: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()
    host_exec: tuple[tuple[str, ...], ...] | None = None


NO_RULES = Rules()


@dataclass(frozen=True)
class Call:
    """One call as the rules see it. The engine is asked for objects only when a rule is about them."""

    tool: Tool
    needed: Scope
    caller: Caller
    arguments: Mapping[str, Any]
    look: Look = field(compare=False, default=lambda kind, name: None)
    _seen: dict[str, list[Named]] = field(compare=False, default_factory=dict)

    @property
    def objects(self) -> Mapping[str, Sequence[Named]]:
        """Every object that the call names, by kind."""
        # Not a `cached_property`: of Python 3.11's, all calls share one lock, and an engine that hangs would hold it.
        if not self._seen:
            self._seen.update(self._looked())
        return self._seen

    def _looked(self) -> dict[str, list[Named]]:
        found: dict[str, list[Named]] = {kind: [] for kind in KINDS}
        for argument, value in self.arguments.items():
            kind = kind_of(self.tool, argument)
            for name in object_names.texts(value) if kind else ():
                found[kind].append(self.look(kind, name) or Named.only(kind, name))
        for mount in mounts_of(self.arguments):
            if mount.volume:
                found["volume"].append(self.look("volume", mount.volume) or Named.only("volume", mount.volume))
        return found


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says of a call, which part of it decided, and what of the call fitted that."""

    allowed: bool
    by: Literal["deny", "allow", "host_exec", "default"]
    rule: Rule | None = None
    because: tuple[str, ...] = ()


def decide(rules: Rules, call: Call) -> Decision:
    """The first deny that fits wins, then the list of commands, then the first allow that fits, then the default."""
    for rule in rules.deny:
        if (because := fits(rule, call)) is not None:
            return Decision(False, "deny", rule, because)
    if rules.host_exec is not None and runs_on_host(call.tool):
        return Decision(_listed(rules.host_exec, call.arguments), "host_exec")
    for rule in rules.allow:
        if (because := fits(rule, call)) is not None:
            return Decision(True, "allow", rule, because)
    return Decision(rules.default != "deny", "default")


def may_offer(rules: Rules, tool: Tool, caller: Caller, needed: Scope) -> bool:
    """Whether some call of the tool could be let through: what is denied whatever its arguments is not offered."""
    call = Call(tool, needed, caller, {})
    if any(all(_outright(condition, rule.effect, call) for condition in rule.conditions) for rule in rules.deny):
        return False
    if rules.default != "deny" or (rules.host_exec and runs_on_host(tool)):
        return True
    return any(all(_possible(condition, call) for condition in rule.conditions) for rule in rules.allow)


def _outright(condition: Condition, effect: Effect, call: Call) -> bool:
    if condition.kind == "scopes":
        wanted = [scope for scope in needs(call.tool, call.needed) if call.caller.may(scope)]
        return all(scope in condition.patterns for scope in wanted)
    return condition.kind in STATIC and _fitting(condition, effect, call) is not None


def _possible(condition: Condition, call: Call) -> bool:
    if condition.kind == "scopes":
        return any(scope in condition.patterns for scope in needs(call.tool, call.needed))
    return condition.kind not in STATIC or _fitting(condition, "allow", call) is not None


def needs(tool: Tool, least: Scope) -> tuple[Scope, ...]:
    """The scopes that calls of a tool may need: what it always needs, and `exec` for what is as good as root."""
    return (least,) if least == "exec" else (least, "exec")


def fits(rule: Rule, call: Call) -> tuple[str, ...] | None:
    """What of the call fits each condition, in words; None when one of them does not fit."""
    because = []
    # What is known without asking the engine comes first.
    for condition in sorted(rule.conditions, key=lambda one: one.kind not in STATIC):
        fitting = _fitting(condition, rule.effect, call)
        if fitting is None:
            return None
        because.append(fitting)
    return tuple(because)


def _fitting(condition: Condition, effect: Effect, call: Call) -> str | None:
    return FITTING[condition.kind](condition, effect, call)


def _one(values: Iterable[str], patterns: Iterable[str]) -> str | None:
    """The first value that fits a pattern."""
    chosen = tuple(patterns)
    return next((value for value in values if any(fnmatchcase(value, pattern) for pattern in chosen)), None)


def _word(of: Callable[[Call], str]) -> Callable[[Condition, Effect, Call], str | None]:
    def fitting(condition: Condition, _: Effect, call: Call) -> str | None:
        found = _one([of(call)], condition.patterns)
        return None if found is None else f"{condition.kind}: {found}"

    return fitting


def _callers(condition: Condition, effect: Effect, call: Call) -> str | None:
    found = _one(who(call.caller, effect), condition.patterns)
    return None if found is None else f"caller: {found}"


def _tokens(condition: Condition, effect: Effect, call: Call) -> str | None:
    found = _one(who(call.caller, effect), [f"token:{pattern}" for pattern in condition.patterns])
    return None if found is None else f"caller: {found}"


def who(caller: Caller, effect: Effect) -> list[str]:
    """The names by which rules know a caller, alone and with how it came: `alpha`, `token:alpha`.

    Who a call is made for is only said by who makes it, so that name can take away, in whatever way that one came. It
    can give only where this process itself says it, and then its own name gives nothing.
    """
    *asking, own = caller.name.split(THROUGH) if caller.through else [caller.name]
    names = [own, f"{caller.how}:{own}"]
    if effect == "deny":
        return [*names, *asking, *(f"{how}:{one}" for one in asking for how in AUTH_METHODS)]
    return asking[-1:] if asking and caller.how == "local" else names


def _objects(condition: Condition, effect: Effect, call: Call) -> str | None:
    kind = condition.kind.removesuffix("s")
    named = call.objects[kind]
    if effect == "allow":
        own = [_one(spellings(kind, one.name), condition.patterns) for one in named]
        words = [word for word in own if word is not None]
        return f"{kind}: {', '.join(words)}" if words and len(words) == len(own) else None
    names = [name for one in named for name in one.names]
    if kind == "image":
        names += [name for one in call.objects["container"] for name in spellings(kind, one.image)]
    found = _one(names, condition.patterns)
    return None if found is None else f"{kind}: {found}"


def _labels(condition: Condition, _: Effect, call: Call) -> str | None:
    patterns = [pattern.casefold() for pattern in condition.patterns]
    for kind in KINDS:
        for one in call.objects[kind]:
            for name, value in one.labels.items():
                same = name.strip().casefold() == condition.name.strip().casefold()
                if same and _one([value.strip().casefold()], patterns) is not None:
                    return f"{kind} {one.name}: label {name}={value}"
    return None


def _mounts(condition: Condition, effect: Effect, call: Call) -> str | None:
    given = mounts_of(call.arguments)
    if effect == "allow":
        fit = all(any(mount.within(pattern) for pattern in condition.patterns) for mount in given)
        return (f"mounts: {', '.join(map(str, given))}" if given else "no mounts") if fit else None
    return next(
        (f"mount: {mount}" for mount in given if any(mount.touches(pattern) for pattern in condition.patterns)), None
    )


def _arguments(condition: Condition, effect: Effect, call: Call) -> str | None:
    if condition.name not in call.tool.arguments.model_fields:
        return None
    values = list(_texts(call.arguments.get(condition.name)))
    fitting = [value for value in values if _one([value], condition.patterns) is not None]
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


FITTING: dict[str, Callable[[Condition, Effect, Call], str | None]] = {
    "tools": _word(lambda call: call.tool.name),
    "toolsets": _word(lambda call: call.tool.toolset),
    "safety": _word(lambda call: call.tool.safety),
    "scopes": _word(lambda call: call.needed),
    "callers": _callers,
    "tokens": _tokens,
    "containers": _objects,
    "images": _objects,
    "networks": _objects,
    "volumes": _objects,
    "mounts": _mounts,
    "arguments": _arguments,
    "labels": _labels,
}
"""What a rule may ask for, and how it is looked up in a call: the words that fit, or None."""
STATIC = frozenset({"tools", "toolsets", "safety", "callers", "tokens"})
"""Conditions that are the same for every call of one tool by one caller."""
WORDS = {"safety": ("reads", "changes", "destroys"), "scopes": SCOPES}
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


def _listed(allowed: Iterable[tuple[str, ...]], arguments: Mapping[str, Any]) -> bool:
    """Whether a command is in the list: the very program, and as many words, each of which fits."""
    try:
        program, *words = commands.split(str(arguments.get("command", "")))
    except InvalidInput:
        return False
    path = shutil.which(program)
    return path is not None and any(
        _place(path) == _place(first) and len(rest) == len(words) and all(map(_word_fits, words, rest))
        for first, *rest in allowed
    )


def _place(program: str) -> Path:
    """Where a program is. Its own last name stays: what it links to may be one file for many programs."""
    path = Path(program)
    return path.parent.resolve() / path.name


def _word_fits(word: str, pattern: str) -> bool:
    """A wildcard does not stand for an option."""
    return fnmatchcase(word, pattern) and (not word.startswith("-") or pattern.startswith("-"))
