"""Programs as a table of commands, each imported only when it is run or listed, and read without pydantic."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from anvyl_mcp.cli import usage

Sections = Mapping[str, Mapping[str, str]]
"""Heading in the help → name of a command → where it is: `module:name` in this package, a function or a `Typer`."""

READERS: dict[Any, Callable[[Any], Any]] = {
    str: str,
    bool: bool,
    int: int,
    float: float,
    list[str]: lambda typed: [str(word) for word in typed],
}
WANTED = {int: "a whole number", float: "a number"}


def program(sections: Sections, aliases: Mapping[str, str], examples: str) -> type[TyperGroup]:
    """A class for `typer.Typer(cls=…)` whose commands are those of the table; aliases are known and not listed."""
    listed = {name: place for commands in sections.values() for name, place in commands.items()}
    places = {**listed, **aliases}

    class Program(Group):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(listed)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in places and cmd_name not in self.commands:
                self.commands[cmd_name] = _made(cmd_name, places[cmd_name])
            return self.commands.get(cmd_name)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            wide = max(map(len, listed))
            for heading, commands in sections.items():
                rows = [(name.ljust(wide), _first_line(_found(place))) for name, place in commands.items()]
                with formatter.section(heading):
                    formatter.write_dl(rows)
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in examples.splitlines()))

    return Program


def _found(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(f"anvyl_mcp.cli.{module}"), attribute)


def _first_line(found: Any) -> str:
    """What a command does, in one line; making the commands themselves would take as long as all the rest."""
    return str(found.info.help if isinstance(found, typer.Typer) else found.__doc__).strip().splitlines()[0]


def _made(name: str, place: str) -> Any:
    found = _found(place)
    made = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    if not isinstance(found, typer.Typer):
        made.command(name, cls=getattr(found, "cls", Command))(found)
        return get_command(made)
    made.add_typer(found, name=name)
    whole: Any = get_command(light(made))
    return whole.commands[name]


def described(app: typer.Typer) -> dict[str, Any]:
    """The tree of a program's commands, for completion: help, options with the kind of their value, arguments."""
    return _described(get_command(app))


def _described(command: Any) -> dict[str, Any]:
    context = typer.Context(command)
    options: dict[str, list[str]] = {}
    arguments: list[str] = []
    for param in command.get_params(context):
        if param.param_type_name == "argument":
            arguments.append(_word(param))
        elif not param.hidden:
            kind = "" if param.is_flag else param.metavar or str(param.name).upper()
            options |= {name: [kind, param.help or ""] for name in param.opts}
    names = command.list_commands(context) if isinstance(command, TyperGroup) else []
    below: Any = command
    return {
        "help": command.get_short_help_str(80),
        "options": options,
        "arguments": arguments,
        "commands": {name: _described(below.get_command(context, name)) for name in names},
    }


def light(app: typer.Typer) -> typer.Typer:
    """The program or group itself, its commands read without pydantic."""
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        group.cls = Group
        if group.typer_instance is not None:
            light(group.typer_instance)
    return app


class Group(TyperGroup):
    """A group of commands whose own words are read by the standard library."""

    def get_params(self, ctx: Any) -> Any:
        """Its options."""
        return plain(super().get_params(ctx))

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read its own options."""
        with usage.told():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Read and run one of its commands."""
        with usage.told():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant; `help NAME` is `NAME --help`."""
        if args[0] == "help" and self.get_command(ctx, "help") is None:
            if len(args) == 1:
                from anvyl_mcp.cli import output

                output.verbatim(ctx.get_help())
                ctx.exit()
            args = [*args[1:], "--help"]
        if self.get_command(ctx, args[0]) is None:
            # typer suggests those of `commands`, which are the ones that were used.
            raise usage.unknown(ctx.command_path, args, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each with its whole first line, which typer would cut."""
        commands: list[Any] = [self.get_command(ctx, name) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(one.name, one.help.strip().splitlines()[0]) for one in commands if not one.hidden])


class Command(TyperCommand):
    """A command whose words are read by the standard library: typer would import pydantic, which takes 0.1 s."""

    def get_params(self, ctx: Any) -> Any:
        """Its options and arguments."""
        return plain(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed; who wants JSON gets it also when that fails."""
        wants_json = "--json" in args
        try:
            return super().parse_args(ctx, args)
        except usage.UsageError as error:
            if wants_json:
                from anvyl_mcp.cli import output

                told = {"code": "invalid_input", "message": usage.sentence(error), "hint": usage.hint_of(error)}
                output.document({"error": told})
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] CONTAINER...`, as everybody writes it."""
        arguments = [param for param in self.params if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(word if each.required else f"[{word}]" for each in arguments for word in [_word(each)])]


class Words(Command):
    """A command that ends in words of another program: options come before them, or anywhere before a `--`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Tell apart whose the words are."""
        ctx.allow_interspersed_args = "--" in args
        return super().parse_args(ctx, args)


def plain(params: list[Any]) -> list[Any]:
    """Options and arguments, those of a plain kind with a reader of ours in the place of typer's."""
    for param in params:
        descriptor = getattr(param, "type_descriptor", None)
        reader = READERS.get(getattr(descriptor, "annotation", None))
        if reader is not None and not getattr(descriptor, "is_ranged", True):
            # The public method behind which typer keeps pydantic.
            param.get_runtime_param = _Plain(reader, descriptor).itself
        if not param.metavar and param.param_type_name == "option" and not param.is_flag:
            # typer would write `<str>` or `<list[str]>`.
            param.metavar = str(param.name).upper()
        if param.param_type_name == "argument":
            param.get_help_record = partial(_help, param)
    return params


def _word(argument: Any) -> str:
    return (argument.metavar or str(argument.name).upper()) + ("..." if argument.nargs != 1 else "")


def _help(argument: Any, ctx: Any) -> tuple[str, str]:
    return _word(argument), argument.help or ""


class _Plain:
    """Reads the value of one option, in the place of typer's own reader."""

    def __init__(self, reader: Callable[[Any], Any], descriptor: Any) -> None:
        self._reader = reader
        self._wanted = WANTED.get(descriptor.annotation, "text")

    def itself(self) -> _Plain:
        """What typer asks an option for."""
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command's function takes it."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        try:
            return self._reader(value)
        except ValueError as error:
            raise typer.BadParameter(f"`{value}` is not {self._wanted}", ctx=ctx, param=param) from error
