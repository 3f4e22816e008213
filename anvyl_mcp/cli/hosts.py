"""`anvyl hosts`: which hosts this one knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from anvyl_mcp.settings import Settings

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Which hosts this one knows, and whether they answer."
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list")
def list_hosts(as_json: Json = False) -> None:
    """List this host and its peers, and whether they answer."""
    _show("", as_json=as_json, only_known=True)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="One host; all when left out.")] = "", as_json: Json = False
) -> None:
    """Ask hosts whether they answer; fails when one does not."""
    _show(name, as_json=as_json, only_known=False)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call the host, like nas.")],
    url: Annotated[str, typer.Argument(help="Where its anvyl-mcp serves, like http://127.0.0.1:4210.")],
    tag: Annotated[list[str] | None, typer.Option(help="A group it belongs to; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Add a host, and say whether it answers."""

    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app as root
        from anvyl_mcp.errors import Conflict
        from anvyl_mcp.peers.health import check as check_host
        from anvyl_mcp.peers.registry import Peer, check_tag
        from anvyl_mcp.peers.transports import base_url
        from anvyl_mcp.settings import check_host_name

        async with root.opened(settings, lean=True) as node:
            peer = Peer(check_host_name(name), base_url(url), tuple(check_tag(one) for one in tag or []))
            if peer.name == node.local.name or peer.url == node.local.url:
                raise Conflict(f"that is this host, `{node.local.name}`", hint="it is part of the fleet already")
            node.fleet.registry.add(peer)
            found = await check_host(node.fleet, peer.name)
            if as_json:
                output.document({"hosts": {found.name: found.as_dict()}, "error": None})
            elif found.ok:
                output.talk(f"added {peer.name} at {peer.url}: it answers")
            else:
                output.talk(f"added {peer.name} at {peer.url}; it does not answer now: {found.status}")
                if found.hint:
                    output.talk(f"hint:  {found.hint}")
            return 0

    run.command(work, failed=output.no_hosts if as_json else None)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="The host to forget.")], as_json: Json = False) -> None:
    """Forget a host; nothing on it changes."""

    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from anvyl_mcp.peers.registry import Registry

        peer = Registry(settings.hosts_file).remove(name)
        if as_json:
            output.document({"hosts": {peer.name: {"url": peer.url, "removed": True}}, "error": None})
        else:
            output.talk(f"removed {peer.name} ({peer.url})")
        return 0

    run.command(work, failed=output.no_hosts if as_json else None)


def _show(name: str, *, as_json: bool, only_known: bool) -> None:
    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app as root
        from anvyl_mcp.peers.health import check_hosts

        async with root.opened(settings, lean=True) as node:
            found = await check_hosts(node.fleet, node.fleet.select(name) if name else node.fleet.hosts)
        if as_json:
            hosts: dict[str, Any] = {host.name: host.as_dict() for host in found}
            output.document({"hosts": hosts, "error": None})
        else:
            output.table(
                ["name", "status", "url", "tags", "version"],
                [[host.name, host.status, _where(host.url), ", ".join(host.tags), host.version] for host in found],
            )
            for host in found:
                if host.hint:
                    output.talk(f"{host.name}: {host.hint}")
        bad = [host for host in found if not host.ok]
        if only_known or not bad:
            return 0
        return 1 if len(bad) == len(found) else 3

    run.command(work, failed=output.no_hosts if as_json else None)


def _where(url: str) -> str:
    """This host has no address while nothing of it is served."""
    return url if "://" in url else "here, not serving"
