"""`anvyl hosts`: manages the hosts that this machine knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.fleet.fleet import Fleet
    from anvyl_mcp.peers.hosts.discovery import Announcement
    from anvyl_mcp.peers.watch.health import HealthCheck, HostHealth

EXAMPLES = """\
anvyl hosts add
anvyl hosts check nas
anvyl hosts rename nas attic
"""

app = Commands("Manage the hosts that this machine knows.", EXAMPLES)

PAIRING = "on that host run anvyl-mcp invite, then here anvyl hosts add"
"""How to add a discovered host: announcements on a network are not authenticated."""
MOST_SECONDS = 60


@app.command("list")
def list_hosts(as_json: JsonOption = False) -> None:
    """List the hosts, and whether they answer."""
    _run_check("", as_json=as_json, only_known=True)


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="HOST", help="Host to check; all if omitted.")] = "",
    accept_audit: Annotated[
        str, typer.Option(metavar="HOST", help="Accept the current audit log of a host that was reinstalled.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Check that hosts answer and that their audit logs are intact.

    Fails if a host does not answer, or if its audit log has lost records that this machine has seen.
    """
    _run_check(name or accept_audit, as_json=as_json, only_known=False, accept=accept_audit)


@app.command()
def add(
    name_or_code: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_CODE", help="Name for the host, or a join code; asked for if omitted, - for stdin."
        ),
    ] = "",
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Address, like http://127.0.0.1:4210; not with a code.")
    ] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="With a code: name for the host.")] = "",
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Tag, to select hosts by @TAG; repeatable.")
    ] = None,
    token: Annotated[
        str, typer.Option(metavar="TOKEN", help="With an address: a token of that host; - asks for it.")
    ] = "",
    pin: Annotated[str, typer.Option(metavar="PIN", help="With an address: the pin of that host's key.")] = "",
    trust_tools: Annotated[
        bool, typer.Option("--trust-tools", help="Let `anvyl call` use tools of that host that are unknown here.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Add a host, by a join code or by its address.

    `anvyl-mcp invite` prints the code, on that host. A new code for a host that you have already added changes what
    this machine may do there.
    """
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.cli.runtime.secret_input import read_secret
        from anvyl_mcp.peers.membership import CODE_PREFIX, add_host
        from anvyl_mcp.peers.watch.health import check_host

        called, proof = name_or_code, token
        if not url and not pin and (called in ("", "-") or called.strip().lower().startswith(CODE_PREFIX)):
            called = read_secret(called, what="join code", instead="anvyl hosts add - < FILE, or anvyl hosts add alone")
        if proof:
            proof = read_secret(proof, what="token", instead="--token - < FILE, or --token - alone")
        async with open_node(settings, lean=True) as node:
            known = set(node.fleet.peers)
            peer, scopes = await add_host(
                node.fleet,
                called,
                url,
                name=name,
                tags=tuple(tag or ()),
                token=proof,
                pin=pin,
                trust_tools=trust_tools,
            )
            found = await check_host(node.fleet, peer.name)
        if as_json:
            output.print_json({"hosts": {found.name: {**found.as_dict(), "scopes": list(scopes)}}, "error": None})
            return 0
        rights = f", with the rights {', '.join(scopes)}" if scopes else ""
        done = f"{'updated' if peer.name in known else 'added'} {peer.name} ({peer.url}){rights}"
        if found.ok:
            output.print_message(f"{done}; it answers")
        elif found.status.startswith("unpaired"):
            output.print_message(f"{done}, not paired yet; Anvyl sends nothing until you pair it")
            output.print_message(f"hint:  {found.hint}")
        else:
            output.print_message(f"{done}; it does not answer: {found.status}")
            output.print_message(f"hint:  {found.hint or 'see anvyl hosts check ' + peer.name}")
        return 0

    runner.run_command(work, failed=output.no_hosts_document if as_json else None)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="HOST", help="Host to remove.")], as_json: JsonOption = False
) -> None:
    """Remove a host, and revoke this machine's token there."""

    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.peers.hosts.audit_witness import HeadStore
        from anvyl_mcp.peers.hosts.registry import Registry
        from anvyl_mcp.peers.membership import remove_host

        peer, problem = await remove_host(Registry(settings.hosts_file), name)
        HeadStore(settings.heads_file).forget(peer.name)
        if as_json:
            entry = {"url": peer.url, "removed": True, "revoked": bool(peer.token) and not problem}
            output.print_json({"hosts": {peer.name: entry}, "error": None})
        else:
            output.print_message(f"removed {peer.name} ({peer.url})")
        if problem:
            output.print_message(f"could not revoke this machine's token on {peer.name}: {problem}")
            output.print_message("hint:  on that host: anvyl-mcp token list, then anvyl-mcp token revoke NAME")
        return 0

    runner.run_command(work, failed=output.no_hosts_document if as_json else None)


@app.command()
def rename(
    name: Annotated[str, typer.Argument(metavar="HOST", help="Current name.")],
    new: Annotated[str, typer.Argument(metavar="NAME", help="New name.")],
    as_json: JsonOption = False,
) -> None:
    """Rename a host on this machine; it stays paired."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.peers.membership import rename_host

        async with open_node(settings, lean=True) as node:
            old = name.strip().lower()
            peer = rename_host(node.fleet, old, new)
            node.audit_heads.rename(old, peer.name)
        if as_json:
            output.print_json({"hosts": {peer.name: {"url": peer.url, "renamed_from": old}}, "error": None})
        else:
            output.print_message(f"renamed {old} to {peer.name} ({peer.url})")
        return 0

    runner.run_command(work, failed=output.no_hosts_document if as_json else None)


@app.command()
def discover(
    seconds: Annotated[float, typer.Option(metavar="SECONDS", help="How long to listen.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Find hosts that announce themselves on the local network."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.core import serve_lock
        from anvyl_mcp.core.errors import InvalidInput
        from anvyl_mcp.peers.hosts import discovery

        if not 0 < seconds <= MOST_SECONDS:
            raise InvalidInput(f"--seconds is {seconds:g}", hint=f"listen for at most {MOST_SECONDS}, like --seconds 3")
        found = await discovery.discover(seconds)
        server = serve_lock.find_server(settings.run_dir)
        async with open_node(settings, lean=True) as node:
            peers = node.fleet.peers
        known = [one.known_as(peers, server.network if server else ()) for one in found]
        if as_json:
            output.print_json({"hosts": _discovery_document(found, known), "error": None})
            return 0
        if not found:
            output.print_message(
                "found no hosts; they announce themselves with anvyl-mcp serve --announce, once open to the network"
            )
            return 0
        rows = [[one.name, " ".join(one.urls), one.version, name] for one, name in zip(found, known, strict=True)]
        output.print_table(["name", "url", "version", "known as"], rows)
        if new := [one.name for one, name in zip(found, known, strict=True) if not name]:
            output.print_message(f"to add {' or '.join(new)}: {PAIRING}")
        return 0

    runner.run_command(work, failed=output.no_hosts_document if as_json else None)


def _discovery_document(found: list[Announcement], known: list[str]) -> dict[str, Any]:
    """Entries by name; hosts that announce the same name also have their address in the key."""
    names = [one.name for one in found]
    return {
        one.name if names.count(one.name) == 1 else f"{one.name} ({one.urls[0]})": {
            "name": one.name,
            "url": one.urls[0],
            "urls": list(one.urls),
            "version": one.version,
            "known": bool(name),
            "known_as": name,
            "hint": "" if name else PAIRING,
        }
        for one, name in zip(found, known, strict=True)
    }


def _run_check(name: str, *, as_json: bool, only_known: bool, accept: str = "") -> None:
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from functools import partial

        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.core import serve_lock
        from anvyl_mcp.peers.watch import health

        async with open_node(settings, lean=True) as node:
            token = serve_lock.read_local_token(settings.run_dir)
            examine = partial(health.examine_host, heads=node.audit_heads, token=token)
            for known in node.fleet.select(accept) if accept else ():
                node.audit_heads.forget(known)
            names = node.fleet.select(name) if name else node.fleet.hosts
            how = health.check_host if only_known else examine
            if as_json:
                found = await health.check_hosts(node.fleet, names, how)
            else:
                found = await _check_and_show(
                    node.fleet, names, how, ("rights", "clock", "pin") if not only_known else ()
                )
        if as_json:
            hosts: dict[str, Any] = {host.name: host.as_dict() for host in found}
            output.print_json({"hosts": hosts, "error": None})
        bad = [host for host in found if not host.ok]
        if only_known or not bad:
            return 0
        return 1 if len(bad) == len(found) else 3

    runner.run_command(work, failed=output.no_hosts_document if as_json else None)


async def _check_and_show(
    fleet: Fleet, names: Sequence[str], how: HealthCheck, more: Sequence[str]
) -> list[HostHealth]:
    """Check the hosts, print a row for each as it answers, then problems and notes."""
    import anyio

    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.cli.runtime.live_table import LiveTable
    from anvyl_mcp.peers.watch import health

    columns = ["name", "status", "url", "tags", "version", *more]

    def rows(host: HostHealth) -> list[list[str]]:
        name, status, *rest = _row(host)[: len(columns)]
        # On a terminal the reason is printed below the table, where it fits.
        return [[name, status.partition(": ")[0] if table.live else status, *rest]]

    table: LiveTable[HostHealth] = LiveTable(columns, rows, names)
    async with anyio.create_task_group() as showing:
        showing.start_soon(table.follow)
        found = await health.check_hosts(fleet, names, how, lambda one: table.add(one.name, one))
        showing.cancel_scope.cancel()
    table.end()
    for host in found:
        if not host.ok:
            output.print_message(f"{host.name}: {host.status}" + (f"; {host.hint}" if host.hint else ""))
        for note in host.notes:
            output.print_message(f"{host.name}: {note}")
    return found


def _row(host: HostHealth) -> list[str]:
    from anvyl_mcp.core import text

    ahead = host.clock_seconds
    clock = "" if ahead is None else "ok" if abs(ahead) < 1 else f"{'+-'[ahead < 0]}{text.format_duration(abs(ahead))}"
    tags, scopes = ", ".join(host.tags), ",".join(host.scopes)
    return [host.name, host.status, host.url, tags, host.version, scopes, clock, host.pin]
