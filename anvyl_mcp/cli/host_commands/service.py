"""`anvyl-mcp service`: keeps the server running, as a service of the system or of a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
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

if TYPE_CHECKING:
    from anvyl_mcp.app.service.manager import Scope
    from anvyl_mcp.app.service.service import Installed, Planned, ServiceReport
    from anvyl_mcp.core.settings import Settings

EXAMPLES = """\
anvyl-mcp service install
anvyl-mcp service install --name nas --read-only --print
anvyl-mcp service status
"""

app = Commands("Keep the server running: now, at boot, after a failure.", EXAMPLES)

User = Annotated[bool, typer.Option("--user", help="As a service of this user. The default, except for root.")]
System = Annotated[
    bool, typer.Option("--system", help="As a service of the system, with a user of its own. Needs root.")
]


@app.command()
def install(
    host: HostAddress = None,
    port: Port = None,
    agent_port: AgentPort = None,
    name: HostName = None,
    toolsets: Annotated[str | None, Toolsets] = None,
    tools: Annotated[str | None, Tools] = None,
    read_only: ReadOnly = False,
    watch: Watch = False,
    announce: Announce = False,
    user: User = False,
    system: System = False,
    print_: Annotated[bool, typer.Option("--print", help="Print the service file, without writing it.")] = False,
    manager: Annotated[
        str, typer.Option(metavar="NAME", help="With --print: systemd, launchd or openrc, instead of this system's.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Install the server as a service, and start it.

    Options of serve are kept. Run it again to update the service, or to change an option.
    """
    import sys

    from anvyl_mcp.cli.runtime import output, runner

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

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.service import managers, service
        from anvyl_mcp.core.errors import InvalidInput

        if manager and not print_:
            raise InvalidInput("--manager only works with --print", hint="leave it out to use this system's")
        scope = _scope(user=user, system=system)
        found = managers.named_manager(manager, scope) if manager else managers.choose_manager(scope)
        planned = service.plan(found, settings, flags, called=sys.argv[0])
        if print_:
            if as_json:
                output.print_json(_plan_document(planned))
            else:
                output.print_verbatim(planned.content)
                for note in planned.notes:
                    output.print_message(f"note:  {note}")
                output.print_message(f"This would be {found.file}; nothing was written")
            return 0
        done = service.install(planned, settings)
        if as_json:
            output.print_json({**_plan_document(planned), **_result_document(done)})
        _report_installed(planned, done)
        return 0

    runner.run_command(work, flags=flags, failed=output.error_document("service") if as_json else None)


@app.command()
def uninstall(user: User = False, system: System = False, as_json: JsonOption = False) -> None:
    """Stop and remove the service; keys, tokens, hosts and settings stay."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.service import managers, service

        found = managers.installed_manager(_scope(user=user, system=system))
        home = service.uninstall(found, settings)
        if as_json:
            output.print_json({"service": found.name, "file": str(found.file), "home": str(home), "error": None})
        output.print_message(f"removed the {found.name} {found.file}")
        output.print_message(f"kept keys, tokens, hosts and settings in {home}")
        if found.scope == "system":
            output.print_message("kept the user `anvyl`; to remove both: userdel anvyl, and delete that folder")
        return 0

    runner.run_command(work, failed=output.error_document("service") if as_json else None)


@app.command()
def status(user: User = False, system: System = False, as_json: JsonOption = False) -> None:
    """Show whether the service runs and starts at boot.

    Exit code 1 if it does not run.
    """
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.service import managers, service

        found = service.report(managers.installed_manager(_scope(user=user, system=system)), settings)
        if as_json:
            output.print_json(_status_document(found))
        else:
            _print_status(found)
        return 0 if found.state.running else 1

    runner.run_command(work, failed=output.error_document("service") if as_json else None)


@app.command()
def logs(
    lines: Annotated[int, typer.Option("--tail", metavar="LINES", help="How many of the last lines.", min=1)] = 100,
    since: Annotated[str, typer.Option(metavar="TIME", help="Like 10m or 2h; only with systemd.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")] = False,
    user: User = False,
    system: System = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the service logged."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.service import logs, managers
        from anvyl_mcp.core.errors import InvalidInput

        if follow and as_json:
            raise InvalidInput("--follow and --json exclude each other", hint="leave one of them out")
        found = managers.installed_manager(_scope(user=user, system=system))
        if as_json:
            output.print_json({"lines": logs.read_lines(found, lines, since), "error": None})
            return 0
        await logs.show(found, lines, since, follow=follow)
        return 0

    runner.run_command(work, failed=output.error_document("lines", []) if as_json else None)


def _scope(*, user: bool, system: bool) -> Scope | None:
    from anvyl_mcp.core.errors import InvalidInput

    if user and system:
        raise InvalidInput("--user and --system exclude each other", hint="leave one of them out")
    return "user" if user else "system" if system else None


def _plan_document(planned: Planned) -> dict[str, Any]:
    return {
        "service": planned.manager.name,
        "file": str(planned.manager.file),
        "content": planned.content,
        "command": planned.definition.command,
        "home": str(planned.definition.home) if planned.definition.home else None,
        "notes": list(planned.notes),
        "error": None,
    }


def _result_document(done: Installed) -> dict[str, Any]:
    return {
        "updated": done.updated,
        "changed": done.changed,
        "backup": str(done.backup) if done.backup else None,
        "copied_from": [str(folder) for folder in done.copied_from],
        "installed_notes": done.notes,
    }


def _report_installed(planned: Planned, done: Installed) -> None:
    from anvyl_mcp.cli.runtime import output

    manager = planned.manager
    verb = "updated" if done.updated and done.changed else "restarted" if done.updated else "installed and started"
    output.print_message(f"{verb} the {manager.name} {manager.file}")
    if done.backup:
        output.print_message(f"kept the file that was there before: {done.backup}")
    for folder in done.copied_from:
        output.print_message(f"copied keys, tokens, hosts and settings from {folder} to {planned.definition.home}")
    for note in (*planned.notes, *done.notes):
        output.print_message(f"note:  {note}")
    program = _program_for(planned)
    output.print_message(f"hint:  its state: {program} service status; a second machine: {program} invite")


def _program_for(planned: Planned) -> str:
    """Return what to type for commands about the service; sudo finds programs of the system only."""
    import os
    import shutil

    if planned.manager.scope == "user" or "SUDO_USER" not in os.environ:
        return "anvyl-mcp"
    path = planned.definition.program
    found = shutil.which(path.name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return f"sudo {path.name if found else path}"


def _status_document(found: ServiceReport) -> dict[str, Any]:
    state, server = found.state, found.server
    return {
        "service": found.manager.name,
        "file": str(found.manager.file),
        "running": state.running,
        "enabled": state.enabled,
        "state": state.word,
        "pid": state.pid or None,
        "home": str(found.home),
        "name": server.name if server else None,
        "urls": [server.url, *server.network] if server else [],
        "version": server.version if server else None,
        "notes": list(found.notes),
        "error": None,
    }


def _print_status(found: ServiceReport) -> None:
    from anvyl_mcp.cli.runtime import output

    state, server = found.state, found.server
    label, colour = ("ok", "green") if state.running else ("fail", "red")
    pid = state.pid or (server.pid if server else 0)
    process = f", process {pid}" if pid else ""
    output.print_labelled(label, f"service: {state.word}{process} ({found.manager.name})", colour)
    if server is not None:
        urls = " and ".join([server.url, *server.network])
        output.print_labelled("ok", f"server: {server.name} at {urls}, version {server.version}", "green")
    if state.enabled:
        output.print_labelled("ok", "boot: it starts by itself", "green")
    else:
        output.print_labelled("note", "boot: it does not start by itself", "yellow")
    for note in found.notes:
        output.print_labelled("note", note, "yellow")
    output.print_labelled("", f"home: {found.home}; file: {found.manager.file}", "")
