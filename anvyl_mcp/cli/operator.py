"""`anvyl`: the operator's commands. Bodies import what they need, so that `--help` and completion are instant."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from anvyl_mcp import __version__
from anvyl_mcp.cli import hosts, process

app = typer.Typer(
    name="anvyl",
    help="Run Docker hosts in plain words.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(hosts.app, name="hosts")

Name = Annotated[str, typer.Argument(help="Container name or id.")]
Host = Annotated[str, typer.Option("--host", "-H", help="nas, nas,web1, @tag, all or local.", metavar="SEL")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before changing something.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Run Docker hosts in plain words."""
    if version:
        print(f"anvyl {__version__}")
        raise typer.Exit


@app.command()
def ask(
    question: Annotated[list[str], typer.Argument(help='Like "list all containers" or "stop web on nas".')],
    host: Host = "",
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Json = False,
    model: Annotated[str, typer.Option("--model", "-m", help="A model of the model server.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Use the rules, no language model.")] = False,
) -> None:
    """Ask, or tell the fleet to do something, in plain words."""
    from anvyl_mcp.cli.ask import ask_once

    ask_once(" ".join(question), host=host, yes=yes, dry_run=dry_run, as_json=as_json, model=model, offline=offline)


@app.command()
def ps(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Stopped ones too.")] = False,
    name: Annotated[str, typer.Option(help="Part of the name.")] = "",
    label: Annotated[str, typer.Option(help="key or key=value.")] = "",
    host: Host = "",
    as_json: Json = False,
) -> None:
    """List containers on every host."""
    from anvyl_mcp.cli import direct

    arguments: dict[str, Any] = {"all": all_, "name": name, "label": label, "limit": 1000}
    direct.call("list_containers", arguments, host=host, as_json=as_json)


@app.command()
def start(name: Name, host: Host = "", yes: Yes = False, as_json: Json = False) -> None:
    """Start a container, on the host that has it."""
    from anvyl_mcp.cli import direct

    direct.call("start_container", {"name": name}, host=host, as_json=as_json, yes=yes)


@app.command()
def stop(
    name: Name,
    host: Host = "",
    timeout: Annotated[int, typer.Option(help="Seconds to stop by itself.")] = 10,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Stop a container, on the host that has it."""
    from anvyl_mcp.cli import direct

    direct.call("stop_container", {"name": name, "timeout": timeout}, host=host, as_json=as_json, yes=yes)


@app.command()
def restart(name: Name, host: Host = "", yes: Yes = False, as_json: Json = False) -> None:
    """Restart a container, on the host that has it."""
    from anvyl_mcp.cli import direct

    direct.call("restart_container", {"name": name}, host=host, as_json=as_json, yes=yes)


@app.command("call")
def call_tool(
    tool: Annotated[str, typer.Argument(help="A tool of `anvyl tools`.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="key=value …")] = None,
    host: Host = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Call any tool."""
    from anvyl_mcp.cli import direct

    direct.call(tool, arguments or [], host=host, as_json=as_json, yes=yes)


@app.command()
def tools(as_json: Json = False) -> None:
    """List every tool, with its arguments."""
    from anvyl_mcp.cli import direct

    direct.list_catalogue(as_json=as_json)


def main() -> None:
    """The entry point."""
    process.run(app)
