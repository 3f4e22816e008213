"""Docker's own command lines, typed as a request: `docker logs web --tail 50`, `sudo docker exec web ls /`.

A line is translated option by option. What has no counterpart in a tool is refused by name: an option that was dropped
without a word would make another request of it, and a command for a container must never run on the machine.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.language.intent import clauses
from anvyl_mcp.orchestrator.language.normalize import THANKS, mask, unmask
from anvyl_mcp.orchestrator.language.places import Places
from anvyl_mcp.orchestrator.language.vocabulary import (
    ARTICLES,
    CONNECTORS,
    EMPTY,
    FREE_TEXT,
    GLUE,
    LEAD_IN,
    MARK,
    NAME,
    is_name,
)
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.connection.listing import ToolListing


@dataclass(frozen=True)
class Form:
    """One Docker command as a tool: its operands, its options by the argument that each sets.

    `several`: the operand may be given many times; `rest`: the argument that takes all words after it; `moot`: options
    that make no difference here.
    """

    tool: str
    operands: tuple[str, ...] = ()
    several: bool = False
    rest: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    moot: frozenset[str] = frozenset()
    fixed: Mapping[str, Any] = field(default_factory=dict)


SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "fish"})
_FILE = tomllib.loads((Path(__file__).parent / "docker_commands.toml").read_text(encoding="utf-8"))


def _form(entry: Mapping[str, Any]) -> Form:
    options = {option: argument for argument, said in entry.get("options", {}).items() for option in said.split()}
    moot = frozenset(entry.get("moot", "").split())
    operands = tuple(entry.get("operands", "").split())
    fixed = entry.get("fixed", {})
    return Form(entry["tool"], operands, entry.get("several", False), entry.get("rest", ""), options, moot, fixed)


FORMS: dict[str, Form] = {verb: _form(entry) for verb, entry in _FILE["commands"].items()}
GROUPS: dict[str, dict[str, str]] = _FILE["groups"]
"""`docker container ls` is `docker ps`."""
NO_TOOL = frozenset(_FILE["unsupported"]["verbs"].split())
"""Docker commands without a corresponding tool."""
ENGLISH = frozenset(
    {"logs", "start", "stop", "restart", "kill", "inspect", "stats", "run", "pull", "images", "ps", "rm"}
)
"""Commands that are also English words; without `docker` and options they are read as English."""
PROGRAM = re.compile(r"(?i)(?:sudo\s+)?(?P<program>docker-compose|docker|podman|nerdctl)(?=\s+(?P<verb>[a-z]+)\b)")
AROUND = ARTICLES | GLUE | CONNECTORS | {"and", "container", "containers"}
"""English words around names in a mixed command: `logs of web --tail 5`."""
OPTION = re.compile(r"(?<!\S)--?[A-Za-z]")
SHELL = re.compile(r"[;|<>&`]|\$\(")
"""Shell syntax."""
SAID_IN = re.compile(
    r"(?i)(?:exec(?:ute)?|run)\s+(?:in|inside|into)\s+(?:the\s+)?(?:container\s+)?(?P<name>[^\s:,]+)\s*[:,]\s*(?P<command>.+)",
    re.DOTALL,
)
"""`exec in web: ls /etc`."""
IN_WORDS = re.compile(
    rf"(?is)(?P<verb>run|exec(?:ute)?)\s+(?P<said>(?:the\s+|this\s+)?command\s+)?(?P<command>.+?)"
    rf"(?:\s+(?:in|inside|within)\s+(?:the\s+)?(?:container\s+)?(?P<name>{NAME})(?:\s+container)?)?"
)
CONDITION = re.compile(r"(?i)\s(?:if|unless|except|or\s+not)(?:\s|$)")
"""Words that make an unquoted command ambiguous."""
SEE_TOOLS = "see what can be done: anvyl tools"
INSIDE = re.compile(
    r"(?i)\s(?:in|inside|into|within|on|at|through|using)\s+(?:the\s+)?(?:container\s+)?[\w.-]+(?:\s+container)?\s*$"
)
"""`ls in wbe`: a misspelled container, not an argument."""
WHERE = re.compile(
    r"(?i)(?<!\S)(?:in|inside|into|within|on|at|of|for|from|through|via|using|with|by|as|against)(?=((?:\s+[\w.-]+){1,4}))"
)
"""`ls in my web app`: words that may name a container follow."""
HOLDERS = frozenset({"container", "containers", "service", "services", "pod", "pods"})
IN_WHAT = re.compile(r"(?i)(?<!\S)(?:(?:in|inside|into|within)\s+(?:the\s+)?(?=\S)|(?=container\b))([\w.-]*\w)")
BOTH_WAYS = "for a container say `exec in NAME: COMMAND`, for a machine `run command COMMAND on HOST`"


def speaks_of_exec(words: str) -> bool:
    """Whether the words contain `exec`, as Docker users type it."""
    return bool(re.search(r"(?i)(?<![\w-])exec(?![\w-])", words))


def names_a_place(masked: str) -> bool:
    """Whether the words name a command for the machine: `run command uptime`."""
    courtesy = LEAD_IN.match(masked)
    return re.match(r"(?i)run\s+(?:the\s+|this\s+)?command\s", masked[courtesy.end() if courtesy else 0 :]) is not None


def unclear_place(command: str) -> NotUnderstood:
    """Error for a command that may be for a container or for a machine."""
    return NotUnderstood(f"it is not clear where `{text.clean(command)[:80]}` should run", hint=BOTH_WAYS)


def may_be_for_a_container(command: str, said: str, quoted: Sequence[str], things: Set[str]) -> bool:
    """Whether a command for a machine may be intended for a container; `said` has `quoted` masked."""
    things = {one.lower() for one in things}
    words = command.lower().split()
    first = next((word.strip(":,") for word in words if word != "sudo"), "")
    docker = PROGRAM.match(command) is not None and speaks_of_exec(command)
    inside = any(name in things or name == "container" for name in IN_WHAT.findall(said.lower()))
    around = not any(one[1:-1].strip() == command for one in quoted) and _leads_elsewhere(mask(command)[0], things)
    return speaks_of_exec(said) or docker or first in things or around or inside


def _leads_elsewhere(command: str, things: Set[str]) -> bool:
    """Whether words of a command, with quoted parts masked, may name its container.

    A quoted part before other words is the command itself, and they say something about it: `"ls" through web`.
    """
    quoted_first = re.match(rf"(?:command\s+)?{MARK}\s", command) is not None
    named = not all((things | HOLDERS).isdisjoint(after.split()) for after in WHERE.findall(command.lower()))
    return quoted_first or named or INSIDE.search(command) is not None


@dataclass(frozen=True)
class Typed:
    """Parsed command line. `container` must exist, otherwise the line may be something else."""

    calls: list[Call]
    host: str = ""
    container: str = ""


def typed(masked: str, quoted: Sequence[str], places: Places, tools: Mapping[str, ToolListing]) -> Typed | None:
    """Parse a sentence as a command line; None if it is not one.

    Raises:
        NotUnderstood: it is one that no tool can do as it stands.
    """
    sentence, first = places.split_first(masked)
    if courtesy := LEAD_IN.match(sentence):
        sentence = sentence[courtesy.end() :]
    if not speaks_of_exec(sentence):
        sentence = THANKS.sub("", sentence)
    sentence, last = places.split_last(sentence)
    calls = read(unmask(sentence, quoted), sentence, tools)
    if not calls or (first and last):
        return None
    bare = sentence.lower().startswith("exec ") and not SAID_IN.match(sentence)
    return Typed(calls, first or last, str(calls[0].arguments["name"]) if bare else "")


@dataclass(frozen=True)
class Spoken:
    """A command in words: `run command uptime on nas`, `run uptime in container db`."""

    command: str
    container: str
    host: str


def spoken(said: str, quoted: Sequence[str], places: Places, tools: Mapping[str, ToolListing]) -> Spoken | None:
    """Read a sentence that is one command in words; None if it is not.

    Raises:
        NotUnderstood: it may be a command or several requests.
    """
    sentence, first = places.split_first(said)
    if courtesy := LEAD_IN.match(sentence):
        polite = "you" in courtesy[0].lower()
        sentence = sentence[courtesy.end() :].rstrip("?" if polite else "")
    sentence, last = places.split_last(sentence)
    if not (match := IN_WORDS.fullmatch(sentence.strip())) or (first and last):
        return None
    command, container = match["command"].strip(), match["name"] or ""
    plain = not match["said"] and not match["verb"].lower().startswith("exec")
    if plain and not (container and not re.search(r"(?i)\b(?:image|as|from)\b", command)):
        return None
    if not re.search(MARK, command) and not re.match(r"sh\s", command):
        changing = [tool for tool in tools.values() if not tool.reads]
        if sum(bool(clause.verbs) for clause in clauses(f"run {command}", changing)) > 1:
            raise NotUnderstood("this can be one command or several requests", hint="put the command in quotes")
        if CONDITION.search(f" {command} "):
            return None
    return Spoken(command, container, first or last)


def placed(
    found: Spoken, tools: Mapping[str, ToolListing], quoted: Sequence[str], things: Sequence[str]
) -> Call | None:
    """The call for a command in words: in a container if it names one, else on the machine."""
    host = {"host": found.host} if found.host else {}
    if found.container and unmask(found.container, quoted) in things and "exec_in_container" in tools:
        values = {"name": unmask(found.container, quoted), "command": unmask(found.command, quoted)}
        return Call(tools["exec_in_container"], {**values, **host})
    command = f"{found.command} in {found.container}" if found.container else found.command
    if "execute_command" not in tools or (found.container and re.search(MARK, found.command)):
        return None
    return Call(tools["execute_command"], {"command": unmask(command, quoted), **host})


def read(line: str, masked: str, tools: Mapping[str, ToolListing]) -> list[Call] | None:
    """Calls of a command line; None if it is not one. `masked` is the line with quoted parts masked.

    Raises:
        NotUnderstood: it is one that no tool can do as it stands.
    """
    if (said := SAID_IN.fullmatch(line.strip())) and is_name(said["name"]) and "exec_in_container" in tools:
        return [Call(tools["exec_in_container"], {"name": said["name"], "command": said["command"].strip()})]
    program = PROGRAM.match(masked)
    if program and (program["verb"].lower() in NO_TOOL or program["program"].lower() == "docker-compose"):
        verb = program["verb"].lower() if program["program"].lower() != "docker-compose" else "compose"
        raise NotUnderstood(
            f"no tool corresponds to `docker {verb}`", hint=BOTH_WAYS if verb == "compose" else SEE_TOOLS
        )
    words = masked[program.end() if program else 0 :].split()
    verb = words[0].lower() if words else ""
    bare = verb == "exec" or (verb in ENGLISH and OPTION.search(masked) is not None)
    if (verb in FORMS or verb in GROUPS) and (program or bare):
        return _calls(line[program.end() if program else 0 :], masked, tools, in_words=not program)
    return None


def unread_option(masked: str, calls: Iterable[Call]) -> str:
    """Option in the words that is missing from the calls, or empty."""
    given = [call.arguments for call in calls]
    free = " ".join(str(value) for arguments in given for name, value in arguments.items() if name in FREE_TEXT)
    for word in (word for word in masked.split() if OPTION.match(word) and word not in free):
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        known = {name, *(form.options.get(word, name) for form in FORMS.values())}
        if not any(known & arguments.keys() for arguments in given):
            return word
    return ""


def _calls(line: str, masked: str, tools: Mapping[str, ToolListing], *, in_words: bool) -> list[Call] | None:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise NotUnderstood(f"the command line cannot be parsed: {error}", hint="check its quotes") from error
    verb = words.pop(0).lower()
    if verb in GROUPS:
        verb = GROUPS[verb].get(words.pop(0).lower() if words else "", "")
    form = FORMS.get(verb)
    if in_words and verb == "run" and "command" in words[:2]:
        return None
    if form is None or form.tool not in tools:
        return None
    reader = _Line(verb, form, tools[form.tool])
    operands, values, rest = reader.read(words)
    if in_words:
        operands = [one for one in operands if one.lower() not in AROUND]
    if verb == "exec":
        if SHELL.search(masked):
            raise NotUnderstood("commands run without a shell", hint="to use one, write sh -c '…'")
        return reader.calls(operands, values, rest)
    odd = [one for one in operands if not is_name(one)] + [one for one in rest[:1] if one.lower() in EMPTY]
    if odd or SHELL.search(masked):
        if (values or verb not in ENGLISH) and not in_words:
            raise NotUnderstood(f"`docker {verb}` is supported only as a single command", hint="write it in words")
        return None
    return reader.calls(operands, values, rest)


class _Line:
    """Parser for the words of one command."""

    def __init__(self, verb: str, form: Form, listing: ToolListing) -> None:
        self._verb, self._form, self._listing = verb, form, listing

    def read(self, words: Sequence[str]) -> tuple[list[str], dict[str, Any], list[str]]:
        """Split into operands, option values and the words after the operands."""
        values: dict[str, Any] = dict(self._form.fixed)
        operands: list[str] = []
        left = list(words)
        while left:
            word = left.pop(0)
            if self._form.rest and len(operands) == len(self._form.operands):
                return operands, values, [word, *left]
            if word == "--":
                operands += left
                break
            if not word.startswith("-") or word == "-":
                operands.append(word)
                continue
            for option, value in self._options(word, left):
                self._put(values, option, value)
        return operands, values, []

    def _options(self, word: str, left: list[str]) -> Iterator[tuple[str, str]]:
        """Options and values in one word; `-it` is two options, `-n5` one."""
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            yield name, value if equals else (left.pop(0) if self._takes_value(name) and left else "")
            return
        letters = word[1:]
        while letters:
            option, letters = f"-{letters[0]}", letters[1:]
            if self._takes_value(option):
                yield option, letters.removeprefix("=") or (left.pop(0) if left else "")
                return
            yield option, ""

    def _argument(self, option: str) -> str:
        """Argument that an option sets, by Docker's name or the tool's own."""
        own = option.removeprefix("--").replace("-", "_") if option.startswith("--") else ""
        taken = (*self._form.operands, self._form.rest)
        return self._form.options.get(option) or (own if own in self._listing.arguments and own not in taken else "")

    def _takes_value(self, option: str) -> bool:
        argument = self._argument(option)
        return bool(argument) and self._listing.arguments.get(argument, {}).get("type") != "boolean"

    def _put(self, values: dict[str, Any], option: str, value: str) -> None:
        argument = self._argument(option)
        schema = self._listing.arguments.get(argument)
        if option in self._form.moot:
            return
        if schema is None:
            raise NotUnderstood(
                f"`{option}` of `docker {self._verb}` is not supported here", hint="leave it out, or write it in words"
            )
        kind = schema.get("type")
        if kind == "boolean":
            values[argument] = value.lower() not in ("false", "0")
        elif not value or (kind == "integer" and text.parse_duration(value) is None):
            raise NotUnderstood(f"`{option}` of `docker {self._verb}` needs a {'number' if value else 'value'}")
        elif kind == "array":
            values.setdefault(argument, []).append(value)
        else:
            values[argument] = text.parse_duration(value) if kind == "integer" else value

    def calls(self, operands: Sequence[str], values: Mapping[str, Any], rest: Sequence[str]) -> list[Call]:
        """One call per operand.

        Raises:
            NotUnderstood: an operand or the command is missing, or there is one too many.
        """
        form, wanted = self._form, len(self._form.operands)
        needed = [name for name in form.operands if name in self._listing.required]
        if self._verb == "exec" and (len(operands) < wanted or not rest):
            raise NotUnderstood("`docker exec` needs a container and a command", hint=BOTH_WAYS)
        if self._verb == "exec" and len(rest) == 1 and rest[0].rpartition("/")[2] in SHELLS:
            raise NotUnderstood(f"`{rest[0]}` needs a terminal, and there is none", hint="give it a command: sh -c '…'")
        if len(operands) < len(needed) or (len(operands) > wanted and not form.several):
            wants = text.join_names(list(needed)) or "no name"
            raise NotUnderstood(f"`docker {self._verb}` needs {wants} here, not `{' '.join(operands)}`")
        given = dict(values)
        if rest:
            given[form.rest] = shlex.join(rest)
        if not operands:
            return [Call(self._listing, given)]
        return [Call(self._listing, {form.operands[0]: operand, **given}) for operand in dict.fromkeys(operands)]
