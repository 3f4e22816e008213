"""`anvyl-mcp upgrade`: says how this installation was made, and upgrades it in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anvyl_mcp.cli.parser.options import JsonOption, YesOption

if TYPE_CHECKING:
    from anvyl_mcp.app.installation.detect import Installation
    from anvyl_mcp.core.settings import Settings


def upgrade(yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Upgrade Anvyl in the way in which it was installed, and restart its service.

    Without --yes, shows how, and asks on a terminal.
    """
    from anvyl_mcp import __version__
    from anvyl_mcp.cli.runtime import output, runner

    document: dict[str, Any] = {"version": __version__, "upgraded": False, "restarted": []}

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.installation.detect import detect_installation
        from anvyl_mcp.app.installation.upgrade import run_upgrade

        found = detect_installation()
        document.update(installed_by=found.kind, place=str(found.place), commands=found.lines)
        _describe(found, __version__)
        if found.automatic and (yes or (not as_json and runner.ask_yes_no("Upgrade now?"))):
            run_upgrade(found, lambda line: output.print_message(f"running: {line}"))
            document.update(upgraded=True, restarted=_restart_services(settings))
        if as_json:
            output.print_json({**document, "error": None})
        return 0

    runner.run_command(work, failed=(lambda error: {**document, "error": error.as_dict()}) if as_json else None)


def _describe(found: Installation, version: str) -> None:
    from anvyl_mcp.cli.runtime import output

    output.print_message(f"Anvyl {version} {found.words}")
    where = " on the host, in the folder of its compose.yaml" if found.kind == "container" else ""
    first, *others = found.lines
    output.print_message(f"to upgrade it{where}, run: {first}")
    for line in others:
        output.print_message(f"and then: {line}")


def _restart_services(settings: Settings) -> list[str]:
    """Restart the services of this machine that this user may restart."""
    import os

    from anvyl_mcp.app.service import managers, service
    from anvyl_mcp.app.service.manager import is_installed
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.core.errors import NotFound

    try:
        installed = [manager for manager in managers.managers() if is_installed(manager)]
    except NotFound:
        installed = []
    restarted = []
    for manager in installed:
        if manager.scope == "system" and os.geteuid() != 0:
            output.print_message(
                "note:  the system's service still runs the old version: sudo systemctl restart anvyl-mcp"
            )
            continue
        service.restart(manager, settings)
        restarted.append(manager.name)
        output.print_message(f"restarted the {manager.name}; keys, tokens, hosts and history were kept")
    if not installed:
        output.print_message("no service is installed; restart a running `anvyl-mcp serve` yourself")
    return restarted
