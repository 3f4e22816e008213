"""Commands and groups for Typer, with our format of help and of usage errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from anvyl_mcp.cli.parser import usage_errors

Function = TypeVar("Function", bound=Callable[..., Any])


PLAIN: Mapping[Any, type] = {str: str, int: int, list[str]: tuple, list[str] | None: tuple}
"""Annotation of a parameter → type of a value that needs no conversion but to a list."""


class _PlainValue:
    """Stands for Typer's converter of one parameter, and asks it only about a value that is not plain."""

    def __init__(self, plain: type, converter: Callable[[], Any]) -> None:
        self._plain = plain
        self._converter = converter

    def __call__(self) -> _PlainValue:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value as the function of the command takes it."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if not isinstance(value, self._plain) or isinstance(value, bool):
            return self._converter().coerce(value, param, ctx)
        return list(value) if isinstance(value, tuple) else value


def _without_pydantic(params: list[Any]) -> list[Any]:
    """Let parameters take plain values as they are: to convert any value, Typer imports pydantic in 0.07 s."""
    for param in params:
        plain = PLAIN.get(getattr(getattr(param, "type_descriptor", None), "annotation", None))
        if plain is not None and not isinstance(param.get_runtime_param, _PlainValue):
            param.get_runtime_param = _PlainValue(plain, param.get_runtime_param)
        elif param.name == "help":
            param.default = False
    return params


class Command(TyperCommand):
    """A command whose help writes arguments as `CONTAINER...`, where Typer writes `{CONTAINER}... <list[str]>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments."""
        return _without_pydantic(list(super().get_params(ctx)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command."""
        with usage_errors.translate_errors(ctx):
            return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage: `[OPTIONS] CONTAINER...`, with optional arguments in brackets."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        words = [(usage_errors.argument_label(each), each.required) for each in arguments]
        return ["[OPTIONS]", *(word if required else f"[{word}]" for word, required in words)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options."""
        params: list[Any] = list(self.get_params(ctx))
        positional = [each for each in params if each.param_type_name == "argument"]
        arguments = [(usage_errors.argument_label(each), each.help) for each in positional]
        options = [each.get_help_record(ctx) for each in params if each.param_type_name == "option" and not each.hidden]
        for heading, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class PassThrough(Command):
    """A command whose last arguments belong to another program, like `exec`. Its own options come before them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Stop parsing options at the first argument, unless there is a `--`."""
        ctx.allow_interspersed_args = "--" in args
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """A group of commands with `help NAME`, our format of usage errors, and examples in the help."""

    other_commands: frozenset[str] = frozenset()
    """Commands of the other program, to name it in the error for one of them."""

    def sections(self, ctx: Any) -> Mapping[str, list[str]]:
        """Return heading in the help → names of commands."""
        return {"Commands": self.list_commands(ctx)}

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments."""
        return _without_pydantic(list(super().get_params(ctx)))

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command line and exit."""
        words = (args[0] if args else options.get("args")) or sys.argv[1:]
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except typer.TyperException as error:
            code = usage_errors.report(error, as_json="--json" in words)
        except typer.Abort:
            code = 1
        sys.exit(code or 0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options of the group; without arguments, print the help."""
        if not args and not self.invoke_without_command:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        with usage_errors.translate_errors(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; `help NAME` is `NAME --help`."""
        if args == ["help"]:
            typer.echo(ctx.get_help())
            ctx.exit()
        if args[0] == "help":
            args = [*args[1:], "--help"]
        if self.get_command(ctx, args[0]) is None:
            raise usage_errors.unknown_command(ctx.command_path, args, self.list_commands(ctx), self.other_commands)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings, with the full first sentence, which Typer would truncate."""
        wide = max(map(len, self.list_commands(ctx)))
        for heading, names in self.sections(ctx).items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(wide), summary(self.get_command(ctx, name))) for name in names])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, one per line."""
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in str(self.epilog).splitlines()))
        formatter.write(f"\nRun {ctx.command_path} COMMAND --help for the options of a command.\n")


class Commands(typer.Typer):
    """A group of commands with three examples."""

    def __init__(self, summary: str = "", examples: str = "", **options: Any) -> None:
        super().__init__(
            **{"cls": Group, **options},
            help=summary,
            epilog=examples,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            add_completion=False,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """Mark a function as a command."""
        return super().command(name, **{"cls": Command, **options})


def summary(command: Any) -> str:
    """Return the first sentence of the help of a command."""
    return str(command.get_short_help_str(limit=1000))
