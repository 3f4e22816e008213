"""Commands typed as requests: Docker's own, like `docker logs web --tail 50`, and those to run, like `run df on nas`.

What has no counterpart in a tool is refused by name: an option that was dropped without a word would make another
request of it. A command for a container must never run on the machine: when it may be for one, it is refused.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.language.lexicon import english
from anvyl_mcp.orchestrator.language.normalize import THANKS, unmask
from anvyl_mcp.orchestrator.language.places import Places
from anvyl_mcp.orchestrator.language.vocabulary import EMPTY, FREE_TEXT, LEAD_IN, MARK, NAME, is_name
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.peers.connection.listing import ToolListing

PROGRAM = re.compile(r"(?i)(?:sudo\s+)?(?P<program>docker-compose|docker|podman|nerdctl)(?=\s+(?P<verb>[a-z]+)\b)")
EXEC = re.compile(r"(?i)(?<![\w-])exec(?![\w-])")
OPTION = re.compile(r"(?<!\S)--?[A-Za-z]")
SHELL = re.compile(r"[;|<>&`]|\$\(")
"""Shell syntax."""
SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh", "fish"})
SAID_IN = re.compile(
    rf"(?is)(?:exec(?:ute)?|run)\s+(?:in|inside|into)\s+(?:the\s+)?(?:container\s+)?(?P<name>{NAME})\s*[:,]\s*(?P<command>.+)"
)
"""`exec in web: ls /etc`."""
IN_WORDS = re.compile(
    rf"(?is)(?P<verb>run|exec(?:ute)?)\s+(?P<said>(?:the\s+|this\s+)?command\s+)?(?P<command>.+?)"
    rf"(?:\s+(?:in|inside|within)\s+(?:the\s+)?(?:container\s+)?(?P<name>{NAME})(?:\s+container)?)?"
)
FOR_THE_MACHINE = re.compile(r"(?i)run\s+(?:the\s+|this\s+)?command\s")
LEADING, GOING_ON = english("commands", "leading"), english("commands", "going_on")
BOTH_WAYS = "for a container say `exec in NAME: COMMAND`, for a machine `run command COMMAND on HOST`"


@dataclass(frozen=True)
class Form:
    """One Docker command as a tool; the fields are explained in `docker_commands.toml`."""

    tool: str
    operands: Sequence[str] = ()
    several: bool = False
    rest: str = ""
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    moot: Sequence[str] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)


@cache
def _docker_commands() -> Mapping[str, Any]:
    return tomllib.loads((Path(__file__).parent / "docker_commands.toml").read_text(encoding="utf-8"))


def unclear_place(command: str) -> NotUnderstood:
    """Error for a command that may be for a container or for a machine."""
    return NotUnderstood(
        f"it is not clear where `{text.clean(command)[:80]}` should run", hint=f"put it in quotes; {BOTH_WAYS}"
    )


def may_be_for_a_container(command: str, said: str, places: Places, things: Iterable[str]) -> bool:
    """Whether a command for a machine may be intended for a container; in `said`, quoted texts are masked."""
    containers = {thing.lower() for thing in things}
    words = command.lower().removeprefix("sudo ").split()
    return (
        "exec" in words
        or not containers.isdisjoint(word.strip(":,") for word in words[:1])
        or not (containers | LEADING).isdisjoint(_words(places.without_places(said)))
    )


def _words(said: str) -> list[str]:
    return re.findall(r"(?<![\w./-])\w[\w.-]*\w|(?<![\w./-])\w", said.lower())


@dataclass(frozen=True)
class Typed:
    """Parsed command line. `container` must exist, otherwise the line may be something else."""

    calls: list[Call]
    container: str = ""


def typed(masked: str, quoted: Sequence[str], places: Places, tools: Mapping[str, ToolListing]) -> Typed | None:
    """Parse a sentence as a command line; None if it is not one.

    Raises:
        NotUnderstood: it is one that no tool can do as it stands.
    """
    sentence, host = _framed(masked, places)
    if not EXEC.search(sentence):
        sentence = THANKS.sub("", sentence)
    line, bare = unmask(sentence, quoted), ""
    if (said := SAID_IN.fullmatch(line.strip())) and is_name(said["name"]) and "exec_in_container" in tools:
        calls = [Call(tools["exec_in_container"], {"name": said["name"], "command": said["command"].strip()})]
    elif program := PROGRAM.match(sentence):
        calls = _docker(line[program.end() :], sentence, program, tools)
    elif sentence.lower().startswith("exec "):
        calls = _docker(line, sentence, None, tools)
        bare = str(calls[0].arguments["name"]) if calls else ""
    else:
        return None
    for call in calls if host else ():
        call.arguments["host"] = host
    return Typed(calls, bare) if calls else None


def _framed(masked: str, places: Places) -> tuple[str, str]:
    """A sentence without politeness and hosts at its ends, and those hosts."""
    sentence, first = places.split_first(masked)
    if lead := LEAD_IN.match(sentence):
        sentence = sentence[lead.end() :].rstrip("?" if "you" in lead[0].lower() else "")
    rest, last = places.split_last(sentence)
    return (sentence, first) if first and last else (rest, first or last)


def _docker(line: str, masked: str, program: re.Match[str] | None, tools: Mapping[str, ToolListing]) -> list[Call]:
    """The calls of a Docker command without its program; empty if it is English, like `docker logs of web`."""
    known = _docker_commands()
    verb = program["verb"].lower() if program else "exec"
    if program and (program["program"].lower() == "docker-compose" or verb in known["unsupported"]["verbs"].split()):
        verb = "compose" if program["program"].lower() == "docker-compose" else verb
        hint = BOTH_WAYS if verb == "compose" else "see what can be done: anvyl tools"
        raise NotUnderstood(f"no tool corresponds to `docker {verb}`", hint=hint)
    if verb not in known["commands"] and verb not in known["groups"]:
        return []
    try:
        words = shlex.split(line)[1:]
    except ValueError as error:
        raise NotUnderstood(f"the command line cannot be parsed: {error}", hint="check its quotes") from error
    if verb in known["groups"]:
        verb = known["groups"][verb].get(words.pop(0).lower() if words else "", "")
    if verb not in known["commands"]:
        return []
    form = Form(**known["commands"][verb])
    if form.tool not in tools:
        return []
    if verb == "exec" and SHELL.search(masked):
        raise NotUnderstood("commands run without a shell", hint="to use one, write sh -c '…'")
    operands, values, rest = _parsed(verb, form, tools[form.tool], words)
    odd = [one for one in operands if not is_name(one)] + [one for one in rest[:1] if one.lower() in EMPTY]
    if verb != "exec" and (odd or SHELL.search(masked)):
        if OPTION.search(masked):
            raise NotUnderstood(f"`docker {verb}` is supported only as a single command", hint="write it in words")
        return []
    return _calls(verb, form, tools[form.tool], operands, values, rest)


def _parsed(
    verb: str, form: Form, listing: ToolListing, words: Sequence[str]
) -> tuple[list[str], dict[str, Any], list[str]]:
    """Operands, values of options, and the words after the operands."""
    from argparse import REMAINDER, SUPPRESS, ArgumentParser  # a plain question does not need it

    class Options(ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise NotUnderstood(f"`docker {verb}`: {message}", hint="leave it out, or write it in words")

    parser = Options(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    for option in form.moot:
        parser.add_argument(option, action="store_true", dest=SUPPRESS)
    for argument, schema in listing.arguments.items():
        ways = dict.fromkeys([*form.options.get(argument, ()), f"--{argument.replace('_', '-')}"])
        if argument in (*form.operands, form.rest):
            continue
        match schema.get("type"):
            case "boolean":
                parser.add_argument(*ways, dest=argument, action="store_true")
            case "array":
                parser.add_argument(*ways, dest=argument, action="append")
            case "integer":
                parser.add_argument(*ways, dest=argument, type=number)
            case _:
                parser.add_argument(*ways, dest=argument)
    if form.rest:
        parser.add_argument("operand", metavar=form.operands[0])
        parser.add_argument("rest", nargs=REMAINDER).required = False
    found, left = parser.parse_known_args(words)
    values = {name: value for name, value in vars(found).items() if name in listing.arguments}
    if unknown := [word for word in left if OPTION.match(word)]:
        option = unknown[0].partition("=")[0]
        raise NotUnderstood(
            f"`{option}` of `docker {verb}` is not supported here", hint="leave it out, or write it in words"
        )
    operands = [found.operand] if form.rest else [word for word in left if word != "--"]
    return operands, {**form.fixed, **values}, found.rest if form.rest else []


def number(value: str) -> int:
    """A number or a duration in seconds."""
    if (number := text.parse_duration(value)) is None:
        raise ValueError(value)
    return number


def _calls(
    verb: str,
    form: Form,
    listing: ToolListing,
    operands: Sequence[str],
    values: Mapping[str, Any],
    rest: Sequence[str],
) -> list[Call]:
    """One call per operand.

    Raises:
        NotUnderstood: an operand or the command is missing, or there is one too many.
    """
    if verb == "exec" and not rest:
        raise NotUnderstood("`docker exec` needs a container and a command", hint=BOTH_WAYS)
    if verb == "exec" and len(rest) == 1 and rest[0].rpartition("/")[2] in SHELLS:
        raise NotUnderstood(f"`{rest[0]}` needs a terminal, and there is none", hint="give it a command: sh -c '…'")
    needed = [name for name in form.operands if name in listing.required]
    if len(operands) < len(needed) or (len(operands) > len(form.operands) and not form.several):
        wants = text.join_names(needed) or "no name"
        raise NotUnderstood(f"`docker {verb}` needs {wants} here, not `{' '.join(operands)}`")
    given = {**values, form.rest: shlex.join(rest)} if rest else dict(values)
    return [Call(listing, {form.operands[0]: one, **given}) for one in dict.fromkeys(operands)] or [
        Call(listing, given)
    ]


def spoken(
    said: str, quoted: Sequence[str], places: Places, tools: Mapping[str, ToolListing], things: Set[str]
) -> Call | None:
    """The call for a sentence that is one command in words, like `run command uptime on nas`; None for any other.

    Raises:
        NotUnderstood: it may be for a container, or be several requests.
    """
    sentence, host = _framed(THANKS.sub("", said) if re.search(MARK, said) else said, places)
    match = IN_WORDS.fullmatch(sentence.strip())
    if not match:
        return None
    command, name = unmask(match["command"], quoted), unmask(match["name"] or "", quoted)
    place = {"host": host} if host else {}
    plain = not match["said"] and match["verb"].lower() == "run"
    if plain and (not name or {"image", "as", "from"} & set(_words(match["command"]))):
        return None
    beside_quotes = re.match(rf"{MARK}\s*\S", match["command"])
    if beside_quotes or (not GOING_ON.isdisjoint(_words(match["command"])) and not command.startswith("sh ")):
        raise unclear_place(command)
    if not name:
        return Call(tools["execute_command"], {"command": command, **place}) if "execute_command" in tools else None
    if name not in things or "exec_in_container" not in tools:
        raise unclear_place(command)
    return Call(tools["exec_in_container"], {"name": name, "command": command, **place})


def unread_option(masked: str, calls: Iterable[Call]) -> str:
    """Option in the words that is missing from the calls, or empty."""
    given = [call.arguments for call in calls]
    free = " ".join(str(value) for arguments in given for name, value in arguments.items() if name in FREE_TEXT)
    for word in (word for word in masked.split() if OPTION.match(word) and word not in free):
        forms = _docker_commands()["commands"].values()
        known = {name for form in forms for name, ways in form.get("options", {}).items() if word in ways}
        known.add(word.lstrip("-").partition("=")[0].replace("-", "_"))
        if not any(known & arguments.keys() for arguments in given):
            return word
    return ""
