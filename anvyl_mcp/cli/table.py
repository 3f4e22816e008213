"""Programs as a table of commands, each imported only when it is run or listed, and read without pydantic."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

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


def program(sections: Sections) -> type[TyperGroup]:
    """A class for `typer.Typer(cls=…)` whose commands are those of the table."""
    places = {name: place for commands in sections.values() for name, place in commands.items()}

    class Program(Group):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(places)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if cmd_name in places and cmd_name not in self.commands:
                self.commands[cmd_name] = _made(cmd_name, places[cmd_name])
            return self.commands.get(cmd_name)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            wide = max(map(len, places))
            for heading, commands in sections.items():
                rows = [
                    (name.ljust(wide), self.get_command(ctx, name).get_short_help_str(formatter.width - wide - 6))
                    for name in commands
                ]
                with formatter.section(heading):
                    formatter.write_dl(rows)

    return Program


def _made(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(f"anvyl_mcp.cli.{module}"), attribute)
    made = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    if not isinstance(found, typer.Typer):
        made.command(name, cls=Command)(found)
        return get_command(made)
    made.add_typer(found, name=name)
    whole: Any = get_command(light(made))
    return whole.commands[name]


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


class Command(TyperCommand):
    """A command whose words are read by the standard library: typer would import pydantic, which takes 0.1 s."""

    def get_params(self, ctx: Any) -> Any:
        """Its options and arguments."""
        return plain(super().get_params(ctx))


def plain(params: list[Any]) -> list[Any]:
    """Options and arguments, those of a plain kind with a reader of ours in the place of typer's."""
    for param in params:
        descriptor = getattr(param, "type_descriptor", None)
        reader = READERS.get(getattr(descriptor, "annotation", None))
        if reader is not None and not getattr(descriptor, "is_ranged", True):
            # The public method behind which typer keeps pydantic.
            param.get_runtime_param = _Plain(reader, descriptor).itself
    return params


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
