"""`anvyl-mcp`: the commands of a host."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from anvyl_mcp.cli.parser.lazy_commands import create_program
from anvyl_mcp.cli.parser.options import JsonOption
from anvyl_mcp.cli.parser.serve_options import (
    AgentPort,
    Announce,
    HostAddress,
    HostName,
    Port,
    ReadOnly,
    Tools,
    Toolsets,
    Watch,
    serve_flags,
)
from anvyl_mcp.cli.programs import operator
from anvyl_mcp.cli.terminal import interrupts, process_exit

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

COMMANDS = {
    "Serve": {
        "serve": "programs.host:serve",
        "gateway": "programs.host:gateway",
        "tools": "programs.host:tools",
        "service": "host_commands.service:app",
        "upgrade": "host_commands.upgrade:upgrade",
    },
    "Connect": {
        "invite": "programs.host:invite",
        "install": "programs.host:install",
        "uninstall": "programs.host:uninstall",
    },
    "Access and records": {
        "token": "host_commands.tokens:app",
        "policy": "host_commands.policy:app",
        "audit": "host_commands.audit:app",
        "key": "host_commands.key:app",
    },
}
"""Heading in `anvyl-mcp --help` → command → `module:name`, relative to `anvyl_mcp.cli`: a function or a `Typer`."""
EXAMPLES = """\
anvyl-mcp service install
anvyl-mcp invite --scope read
anvyl-mcp install claude-desktop
"""

app = create_program(
    "anvyl-mcp",
    "Serve this machine's containers to other hosts and assistants.",
    COMMANDS,
    {},
    EXAMPLES,
    operator.COMMANDS,
)

ConfigFile = Annotated[
    str, typer.Option("--file", metavar="PATH", help="The assistant's settings file, if it is somewhere else.")
]


def serve(
    host: HostAddress = None,
    port: Port = None,
    agent_port: AgentPort = None,
    name: HostName = None,
    toolsets: Annotated[str | None, Toolsets] = None,
    tools: Annotated[str | None, Tools] = None,
    read_only: ReadOnly = False,
    watch: Watch = False,
    announce: Announce = False,
    stdio: Annotated[bool, typer.Option("--stdio", help="Serve the parent process over stdin and stdout.")] = False,
) -> None:
    """Serve this host's tools until Ctrl-C."""
    import logging

    from anvyl_mcp.cli.runtime import runner

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.serve import serve, serve_stdio

        if stdio:
            await serve_stdio(settings)
            return 0
        interrupted = await serve(
            settings, on_ready=_report_urls(settings), on_open=_report_opened(settings), on_joined=_report_join
        )
        return runner.INTERRUPTED if interrupted else 0

    flags = serve_flags(
        host=host,
        port=port,
        agent_port=agent_port,
        name=name,
        toolsets=toolsets,
        tools=tools,
        read_only=read_only,
        watch=watch,
        announce=announce,
    )
    runner.run_command(work, flags=flags)


def _report_urls(settings: Settings) -> Callable[[list[str]], None]:
    from anvyl_mcp.cli.runtime import output

    def report(urls: list[str]) -> None:
        only = " (this machine only)" if all(url.startswith("http://") for url in urls) else ""
        output.print_message(f"serving {settings.name} at {' and '.join(urls)}{only}")

    return report


def _report_opened(settings: Settings) -> Callable[[list[str]], None]:
    from anvyl_mcp.cli.runtime import output

    def report(urls: list[str]) -> None:
        if urls:
            output.print_message(f"{settings.name} is now open to the network at {' and '.join(urls)}")

    return report


def _report_join(joined: object) -> None:
    from anvyl_mcp.cli.runtime import output

    output.print_message(str(joined))


def gateway(
    http: Annotated[bool, typer.Option("--http", help="Serve over HTTP on this machine, not over stdio.")] = False,
    port: Annotated[int | None, typer.Option(metavar="PORT", help="Port, with --http.  [default: 4202]")] = None,
    toolsets: Annotated[str | None, Toolsets] = None,
    tools: Annotated[str | None, Tools] = None,
    read_only: ReadOnly = False,
) -> None:
    """Serve all hosts as one MCP server, for assistants."""
    import logging

    from anvyl_mcp.cli.runtime import runner

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app import gateway

        if not http:
            _explain_stdio()
            await gateway.serve_stdio(settings)
            return 0
        interrupted = await gateway.serve_http(settings, on_ready=_report_gateway)
        return runner.INTERRUPTED if interrupted else 0

    flags = {"gateway_port": port, "toolsets": toolsets, "tools": tools, "read_only": read_only or None}
    runner.run_command(work, flags=flags)


def _explain_stdio() -> None:
    from anvyl_mcp.cli.runtime import output

    if sys.stdin.isatty():
        output.print_message(
            "waiting for MCP on stdin; an assistant usually starts this program itself. Ctrl-C stops it"
        )
        output.print_message(
            "hint:  anvyl-mcp install adds it to the settings of an assistant; --http serves over HTTP instead"
        )


def _report_gateway(urls: list[str]) -> None:
    from anvyl_mcp.cli.runtime import output

    output.print_message(f"serving the fleet at {' and '.join(f'{url}/mcp' for url in urls)} (this machine only)")


def install(
    client: Annotated[
        str, typer.Argument(metavar="ASSISTANT", help="Like claude-desktop, claude-code, cursor, vscode or lmstudio.")
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="Add them to every assistant that is installed here.")] = False,
    print_: Annotated[bool, typer.Option("--print", help="Print the settings, without writing them.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and where.")] = False,
    file: ConfigFile = "",
    toolsets: Annotated[str, Toolsets] = "",
    read_only: ReadOnly = False,
    as_json: JsonOption = False,
) -> None:
    """Add your hosts to a desktop assistant.

    Without ASSISTANT, lists the known assistants.
    """
    from anvyl_mcp.cli.host_commands import install as install_command

    flags = [*(["--toolsets", toolsets] if toolsets else []), *(["--read-only"] if read_only else [])]
    if client == "all" or all_:
        if print_ or client not in ("", "all"):
            raise typer.BadParameter("--all takes neither an assistant nor --print")
        if file:
            raise typer.BadParameter("--file is for one assistant")
        install_command.install_all(flags, dry_run=dry_run, as_json=as_json)
    install_command.install(client, flags, file=file, show=print_, dry_run=dry_run, as_json=as_json)


def uninstall(
    client: Annotated[str, typer.Argument(metavar="ASSISTANT", help="Like claude-desktop or cursor.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="Remove them from every assistant that has them.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be changed, and where.")] = False,
    file: ConfigFile = "",
    as_json: JsonOption = False,
) -> None:
    """Remove your hosts from a desktop assistant."""
    from anvyl_mcp.cli.host_commands import install as install_command

    if client == "all" or all_:
        if file or client not in ("", "all"):
            raise typer.BadParameter("--all takes neither an assistant nor --file")
        install_command.uninstall_all(dry_run=dry_run, as_json=as_json)
    if not client:
        raise typer.BadParameter("name an assistant, or use --all; anvyl-mcp install lists them")
    install_command.uninstall(client, file=file, dry_run=dry_run, as_json=as_json)


def invite(
    scope: Annotated[str, typer.Option(metavar="SCOPES", help="Permissions: read, operate or exec.")] = "read,operate",
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long the code is valid.")] = "15m",
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Network address to listen on; chosen if omitted.")] = "",
    relay: Annotated[
        bool, typer.Option("--relay", help="Let this host's agent ask other hosts on its behalf.")
    ] = False,
    browser: Annotated[
        bool, typer.Option("--browser", help="Print a link for a browser on another device instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a code that lets another machine join this host.

    On a terminal, waits and reports who joined.
    """
    from anvyl_mcp.cli.host_commands import invite as invite_command

    if browser:
        invite_command.invite_browser(scope=scope, expires=expires, host=host, relay=relay, as_json=as_json)
    invite_command.invite(scope=scope, expires=expires, host=host, relay=relay, as_json=as_json)


def tools(as_json: JsonOption = False) -> None:
    """List the tools that this host offers."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.list_catalogue(as_json=as_json)


def main() -> None:
    """Run `anvyl-mcp`."""
    interrupts.exit_at_once()
    process_exit.run_and_exit(app)
