"""A program as a table of commands. Each command is imported when it is run or listed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.main import get_command

from anvyl_mcp import __version__
from anvyl_mcp.cli.parser.command_groups import Commands, Group, summary
from anvyl_mcp.cli.parser.usage_errors import argument_label

VERBOSE = "anvyl.verbose"
"""Key in the context's `meta`: the option -v was given."""
Sections = Mapping[str, Mapping[str, str]]
"""Heading in the help → command → `module:name`, relative to `anvyl_mcp.cli`: a function or a `Typer`."""


def create_program(
    name: str,
    about: str,
    sections: Sections,
    aliases: Mapping[str, str],
    examples: str,
    other_program: Sections | None = None,
) -> typer.Typer:
    """Create a program. Its help does not list aliases. `other_program`: see `Group.other_commands`."""
    listed = {command: place for commands in sections.values() for command, place in commands.items()}
    places = {**listed, **aliases, "version": "parser.lazy_commands:version"}

    class Table(Group):
        other_commands = frozenset(command for commands in (other_program or {}).values() for command in commands)

        def sections(self, ctx: Any) -> Mapping[str, list[str]]:
            return {heading: list(commands) for heading, commands in sections.items()}

        def list_commands(self, ctx: Any) -> list[str]:
            return list(listed)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in places and cmd_name not in self.commands:
                self.commands[cmd_name] = _load(cmd_name, places[cmd_name])
            return self.commands.get(cmd_name)

    app = Commands(about, examples, cls=Table, name=name, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback()(_root)
    return app


def _load(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(f"anvyl_mcp.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return get_command(found)
    alone = Commands()
    alone.command(name)(found)
    return get_command(alone)


def version(context: typer.Context) -> None:
    """Print the version."""
    typer.echo(f"{context.find_root().command.name} {__version__}")


def _note_verbose(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[VERBOSE] = True


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and context.meta.get(VERBOSE):
        from anvyl_mcp.app.installation.versions import describe_versions

        for name, found in describe_versions():
            typer.echo(f"{name:<12} {found}")
    elif wanted:
        version(context)
    else:
        return
    raise typer.Exit


def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version)
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="With --version: also those of engine, SDK and Python.",
            callback=_note_verbose,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


def describe_commands(app: typer.Typer) -> dict[str, Any]:
    """Return the tree of commands for completion: help, options with the type of their value, arguments."""
    return _describe(get_command(app))


def _describe(command: Any) -> dict[str, Any]:
    context = typer.Context(command)
    params = command.get_params(context)
    options = [each for each in params if each.param_type_name == "option" and not each.hidden]
    names = command.list_commands(context) if isinstance(command, Group) else []
    return {
        "help": summary(command),
        "options": {
            name: ["" if each.is_flag else each.metavar, each.help or ""] for each in options for name in each.opts
        },
        "arguments": [argument_label(each) for each in params if each.param_type_name == "argument"],
        "commands": {name: _describe(command.get_command(context, name)) for name in names},
    }
