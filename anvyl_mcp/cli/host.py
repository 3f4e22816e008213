"""`anvyl-mcp`: the commands of a host."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from anvyl_mcp import __version__
from anvyl_mcp.cli import audit, interrupts, key, policy, process, tokens
from anvyl_mcp.cli.table import Group, light

if TYPE_CHECKING:
    from anvyl_mcp.settings import Settings

app = typer.Typer(
    name="anvyl-mcp",
    cls=Group,
    help="Serve this machine's containers to the fleet.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tokens.app, name="token")
app.add_typer(audit.app, name="audit")
app.add_typer(policy.app, name="policy")
app.add_typer(key.app, name="key")


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Serve this machine's containers to the fleet."""
    if show_version:
        print(f"anvyl-mcp {__version__}")
        raise typer.Exit


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Network address to open, over TLS.")] = None,
    port: Annotated[int | None, typer.Option(help="Where MCP clients look.  [default: 4200]")] = None,
    agent_port: Annotated[int | None, typer.Option(help="Where agent clients look.  [default: 4201]")] = None,
    name: Annotated[str | None, typer.Option(help="This host's name in the fleet.")] = None,
    toolsets: Annotated[str | None, typer.Option(help="Toolsets to offer, like networks,system or all.")] = None,
    tools: Annotated[str | None, typer.Option(help="Single tools to offer besides.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer nothing that changes anything.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the fleet too, and tell what goes wrong.")] = False,
    announce: Annotated[bool, typer.Option("--announce", help="Announce it (mDNS), if open to the network.")] = False,
    stdio: Annotated[bool, typer.Option("--stdio", help="Serve the program that started this one.")] = False,
) -> None:
    """Serve this host's tools until Ctrl-C."""
    import logging

    from anvyl_mcp.cli import run

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app as composition

        if stdio:
            await composition.serve_stdio(settings)
            return 0
        interrupted = await composition.serve(
            settings, on_ready=_told(settings), on_open=_opened(settings), on_joined=_joined
        )
        return run.INTERRUPTED if interrupted else 0

    flags = {"host": host, "port": port, "agent_port": agent_port, "name": name, "toolsets": toolsets, "tools": tools}
    switches = {"read_only": read_only, "watch": watch, "announce": announce}
    run.command(work, flags={**flags, **{name: on or None for name, on in switches.items()}})


def _told(settings: Settings) -> Callable[[list[str]], None]:
    from anvyl_mcp.cli import output

    def ready(urls: list[str]) -> None:
        only = " (this machine only)" if all(url.startswith("http://") for url in urls) else ""
        output.talk(f"serving {settings.name} at {' and '.join(urls)}{only}")

    return ready


def _opened(settings: Settings) -> Callable[[list[str]], None]:
    from anvyl_mcp.cli import output

    def opened(urls: list[str]) -> None:
        if urls:
            output.talk(f"{settings.name} is now open to the network at {' and '.join(urls)}")

    return opened


def _joined(joined: object) -> None:
    from anvyl_mcp.cli import output

    output.talk(str(joined))


@app.command()
def gateway(
    http: Annotated[bool, typer.Option("--http", help="Serve programs on this machine over HTTP instead.")] = False,
    port: Annotated[int | None, typer.Option(help="With --http: where.  [default: 4202]")] = None,
    toolsets: Annotated[str | None, typer.Option(help="Toolsets to offer, like networks,system or all.")] = None,
    tools: Annotated[str | None, typer.Option(help="Single tools to offer besides.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer nothing that changes anything.")] = False,
) -> None:
    """Serve all hosts as one MCP server, for an assistant."""
    import logging

    from anvyl_mcp.cli import run

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    async def work(settings: Settings) -> int:
        from anvyl_mcp import gateway as composition

        if not http:
            _say_who_starts_it()
            await composition.serve_stdio(settings)
            return 0
        interrupted = await composition.serve_http(settings, on_ready=_told_fleet)
        return run.INTERRUPTED if interrupted else 0

    flags = {"gateway_port": port, "toolsets": toolsets, "tools": tools, "read_only": read_only or None}
    run.command(work, flags=flags)


def _say_who_starts_it() -> None:
    from anvyl_mcp.cli import output

    if sys.stdin.isatty():
        output.talk("this waits for an assistant, which starts it by itself and speaks MCP to it; Ctrl-C ends it")
        output.talk("hint:  anvyl-mcp install puts it into an assistant's settings; --http serves programs instead")


def _told_fleet(urls: list[str]) -> None:
    from anvyl_mcp.cli import output

    output.talk(f"serving the fleet at {' and '.join(f'{url}/mcp' for url in urls)} (this machine only)")


@app.command()
def install(
    client: Annotated[str, typer.Argument(help="Like claude-desktop, claude-code, cursor, vscode or lmstudio.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="Every assistant that was ever started here.")] = False,
    print_: Annotated[bool, typer.Option("--print", help="Print what to put there, and write nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and where.")] = False,
    toolsets: Annotated[str, typer.Option(help="Toolsets to offer, like networks,system or all.")] = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer nothing that changes anything.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Add your hosts to a desktop assistant, or list the known assistants."""
    from anvyl_mcp.cli import install as install_command

    flags = [*(["--toolsets", toolsets] if toolsets else []), *(["--read-only"] if read_only else [])]
    if client == "all" or all_:
        if print_ or client not in ("", "all"):
            raise typer.BadParameter("--all stands alone: leave the name of an assistant and --print out")
        install_command.install_all(flags, dry_run=dry_run, as_json=as_json)
    install_command.install(client, flags, show=print_, dry_run=dry_run, as_json=as_json)


@app.command()
def invite(
    scope: Annotated[str, typer.Option(help="What the other machine may do here.")] = "read,operate",
    expires: Annotated[str, typer.Option(help="How long the code is good.")] = "15m",
    host: Annotated[str, typer.Option(help="Network address to open; the likeliest when left out.")] = "",
    relay: Annotated[bool, typer.Option("--relay", help="Let this host's agent ask other hosts for it too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print a code with which another machine joins this one; on a terminal, wait and say who joined."""
    from anvyl_mcp.cli import invite as invite_command

    invite_command.invite(scope=scope, expires=expires, host=host, relay=relay, as_json=as_json)


@app.command(hidden=True)
def version() -> None:
    """Print the version."""
    print(f"anvyl-mcp {__version__}")


@app.command()
def tools(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """List the tools this host offers."""
    from anvyl_mcp.cli import direct

    direct.list_catalogue(as_json=as_json)


def main() -> None:
    """The entry point."""
    interrupts.heed_at_once()
    process.run(light(app))
