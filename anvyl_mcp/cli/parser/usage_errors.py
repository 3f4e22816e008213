"""Usage errors: what is wrong with a command line, and what to type instead."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import typer

SUGGESTIONS = {
    "kill": "stop it without waiting: anvyl stop --timeout 0 NAME",
    "status": "anvyl hosts check for the hosts, anvyl ps for containers, anvyl watch --once for problems",
    "list": "anvyl ps lists containers, anvyl hosts list the hosts",
    "containers": "anvyl ps lists containers",
    "image": "anvyl images lists them, anvyl pull fetches one, anvyl call remove_image removes one",
    "rmi": "anvyl call remove_image IMAGE",
    "network": "anvyl call list_networks; anvyl tools lists the other network tools",
    "volume": "anvyl call list_volumes; anvyl tools lists the other volume tools",
    "system": "anvyl df, or anvyl call prune_unused containers",
    "prune": "anvyl call prune_unused containers; also images, networks or volumes",
    "create": "anvyl run IMAGE creates a container and starts it",
    "pause": "anvyl stop NAME stops a container; pausing is not supported",
    "shell": "anvyl exec NAME COMMAND runs one command; anvyl exec -it NAME explains how to get a shell",
    "ssh": "anvyl exec NAME COMMAND runs one command; anvyl exec -it NAME explains how to get a shell",
    "serve": "anvyl-mcp serve",
    "gateway": "anvyl-mcp gateway",
    "install": "anvyl-mcp install",
    "invite": "anvyl-mcp invite",
    "token": "anvyl-mcp token",
    "audit": "anvyl-mcp audit",
}
"""Command names that users of Docker or of the other program may type, and what to type instead."""
SIMILARITY = 0.7


class UsageError(typer.TyperException):
    """An error in the command line; `hint` says what to type instead."""

    exit_code = 2

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def report(error: typer.TyperException, *, as_json: bool) -> int:
    """Print a usage error like any other error, with `as_json` also as JSON. Returns the exit code."""
    from anvyl_mcp.cli.runtime import output

    usage_error = error if isinstance(error, UsageError) else _usage_error(error, getattr(error, "ctx", None))
    if as_json:
        output.print_json(
            {"error": {"code": "invalid_input", "message": usage_error.message, "hint": usage_error.hint}}
        )
    output.print_message(f"error: {usage_error.message}")
    output.print_message(f"hint:  {usage_error.hint}")
    return usage_error.exit_code


@contextmanager
def translate_errors(context: Any) -> Iterator[None]:
    """Convert parsing errors of Typer to `UsageError`, with the command, which some of them lack."""
    try:
        yield
    except UsageError:
        raise
    except typer.TyperException as error:
        raise _usage_error(error, context) from error


def _usage_error(error: typer.TyperException, context: Any) -> UsageError:
    return UsageError(_message(error), _hint(error, context))


def argument_label(param: Any) -> str:
    """Return the name of an argument in the help: `CONTAINER...` if it is repeatable."""
    return (param.metavar or str(param.name).upper()) + ("..." if param.nargs != 1 else "")


def _message(error: Any) -> str:
    """Return the message in lower case, with names in backticks: ``missing argument `CONTAINER` ``."""
    param = getattr(error, "param", None)
    if hasattr(error, "possibilities"):
        return f"no such option `{error.option_name}`"
    if hasattr(error, "param_type"):
        return f"missing argument `{argument_label(param).removesuffix('...')}`"
    if param is not None and (problems := getattr(error.__cause__, "errors", None)):
        name = param.opts[0] if param.param_type_name == "option" else argument_label(param)
        return f"`{name}` {_expected(problems()[0])}"
    words = str(error.message).removesuffix(".").replace("'", "`")
    if words.startswith("Got unexpected extra argument"):
        return f"unexpected argument `{words.partition(' (')[2].removesuffix(')')}`"
    return words[:1].lower() + words[1:] if words[:2].istitle() else words


def _expected(problem: dict[str, Any]) -> str:
    """Describe the expected value, from the error of Pydantic."""
    typed, limits = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "int_parsing" | "int_from_float":
            return f"must be a whole number, not `{typed}`"
        case "float_parsing":
            return f"must be a number, not `{typed}`"
        case "greater_than_equal":
            return f"must be at least {limits['ge']}, not {typed}"
        case "less_than_equal":
            return f"must be at most {limits['le']}, not {typed}"
    return f"has a bad value: {problem['msg']}"


def _hint(error: Any, context: Any) -> str:
    """Return what to type instead, or the usage of the command."""
    if near := getattr(error, "possibilities", None):
        return f"did you mean {' or '.join(f'`{name}`' for name in sorted(near))}?"
    if context is None:
        return "--help shows the usage"
    path, command = context.command_path, context.command
    if hasattr(command, "list_commands"):
        return f"{path} --help lists the commands"
    words = [word for word in command.collect_usage_pieces(context) if word != "[OPTIONS]"]
    return f"type {' '.join([path, *_option_with_value(error, command), *words])}; {path} --help shows the options"


def _option_with_value(error: Any, command: Any) -> list[str]:
    """Return the option with the error and its value: `--tail LINES`."""
    option = getattr(error, "option_name", None) or getattr(getattr(error, "param", None), "opts", [None])[0]
    for param in command.params:
        if option in param.opts and param.param_type_name == "option" and not param.is_flag:
            return [option, param.metavar]
    return []


def unknown_command(
    program: str, words: Sequence[str], commands: Iterable[str], other_commands: Container[str]
) -> UsageError:
    """Return the error for an unknown command; `other_commands` are those of the other program."""
    typed, known = words[0], list(commands)
    if " " in typed.strip() or (len(words) > 2 and not any(word.startswith("-") for word in words)):
        question = typed if " " in typed.strip() else " ".join(words)
        return UsageError(f"`{typed}` is not a command", f"to ask a question, type anvyl ask {shlex.quote(question)}")
    if typed in other_commands:
        return UsageError(f"`{typed}` is a command of `anvyl`", f"type anvyl {shlex.join(words)}")
    if typed in SUGGESTIONS and program == "anvyl":
        return UsageError(f"there is no command `{typed}`", SUGGESTIONS[typed])
    near = get_close_matches(typed.lower(), known, n=3, cutoff=SIMILARITY)
    if not near:
        return UsageError(f"there is no command `{typed}`", f"{program} --help lists the commands")
    return UsageError(f"there is no command `{typed}`", f"did you mean {', '.join(f'`{name}`' for name in near)}?")
