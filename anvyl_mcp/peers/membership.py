"""Add, rename and remove hosts, for `anvyl hosts` and the HTTP API."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from anvyl_mcp.core.errors import AnvylError, Conflict, InvalidInput
from anvyl_mcp.core.invitation import Invitation
from anvyl_mcp.core.settings import check_host_name
from anvyl_mcp.peers.connection.transports import base_url, connect
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts.addresses import check_address
from anvyl_mcp.peers.hosts.registry import Peer, Registry, check_tag

CODE_PREFIX = "anv"


async def add_host(
    fleet: Fleet,
    name_or_code: str,
    url: str,
    *,
    name: str,
    tags: tuple[str, ...],
    token: str,
    pin: str,
    trust_tools: bool = False,
) -> tuple[Peer, tuple[str, ...]]:
    """Add a host by a join code, or by name and address. Returns the peer and the scopes that the code granted.

    `trust_tools`: allow tools of this host that are not in our catalogue.

    Raises:
        InvalidInput: the code, the name or the address is invalid.
        Conflict: the name or the address is in use.
        Unreachable, Denied: the code could not be redeemed.
    """
    groups = tuple(check_tag(tag) for tag in tags)
    if not url:
        by_hand = bool(token or pin)
        return await _add_by_code(fleet, name_or_code, name, groups, by_hand=by_hand, trust_tools=trust_tools)
    if name:
        raise InvalidInput("the host name is given twice", hint="anvyl hosts add NAME URL")
    peer = replace(new_peer(fleet, name_or_code, url, tags=groups, token=token, pin=pin), trust_tools=trust_tools)
    fleet.registry.add(peer)
    return peer, ()


def new_peer(fleet: Fleet, name: str, url: str, *, tags: tuple[str, ...] = (), token: str = "", pin: str = "") -> Peer:
    """Return a peer with this address, without adding it.

    Raises:
        InvalidInput: the name, the address, the pin or the token is invalid.
        Unpaired: the token would be sent unencrypted.
        Conflict: it is this host.
    """
    peer = Peer(check_host_name(name), check_address(base_url(url)), tags, pin, token)
    _check_new(fleet, peer)
    if pin or token:
        # Create a connection only to validate the pin and the token.
        connect(peer.url, lean=True, pin=pin, token=token)
    return peer


def rename_host(fleet: Fleet, name: str, new: str) -> Peer:
    """Rename a peer on this machine.

    Raises:
        UnknownHost: there is no host of that name.
        Conflict: the new name is in use, or the host is this one.
    """
    if name.strip().lower() == fleet.local.name:
        raise Conflict(
            f"`{name}` is this host", hint="its name is a setting: anvyl-mcp serve --name NAME, or ANVYL_NAME"
        )
    if new.strip().lower() == fleet.local.name:
        raise Conflict(f"`{new}` is this host", hint="choose another name")
    return fleet.registry.rename(name.strip(), new)


async def remove_host(registry: Registry, name: str) -> tuple[Peer, str]:
    """Remove a peer after asking it to revoke our token. Returns the peer, and the error if it did not revoke it.

    Raises:
        UnknownHost: there is no host of that name.
    """
    peer, problem = registry.get(name), ""
    if peer.token and peer.pin:
        # Pairing imports an HTTP client, which other `anvyl hosts` commands do not need.
        from anvyl_mcp.peers.hosts.pairing import unpair

        try:
            await unpair(peer)
        except AnvylError as error:
            problem = error.message
    return registry.remove(name), problem


async def _add_by_code(
    fleet: Fleet, code: str, name: str, tags: tuple[str, ...], *, by_hand: bool, trust_tools: bool
) -> tuple[Peer, tuple[str, ...]]:
    from anvyl_mcp.peers.hosts.pairing import pair

    if not code.strip().lower().startswith(CODE_PREFIX) or by_hand:
        raise InvalidInput(
            f"`{code[:40]}` is not a join code, and no address was given",
            hint="`anvyl hosts add` asks for a code from `anvyl-mcp invite`; with an address: anvyl hosts add NAME URL",
        )
    invitation = Invitation.decode(code)
    for address in invitation.addresses:
        check_address(f"https://{address}")
    for known in fleet.peers.values():
        if invitation.pin in known.pins:
            return await _pair_again(fleet, invitation, known, name=name, tags=tags, trust_tools=trust_tools)
    unpaired = {peer.name: peer for peer in fleet.registry.peers().values() if not peer.paired}
    if name and name.strip().lower() not in unpaired:
        # Check the name before the code is redeemed.
        _check_new(fleet, Peer(check_host_name(name), ""))
    joined = await pair(invitation, called=fleet.local.name, as_name=name, tags=tags)
    joined = replace(joined, peer=replace(joined.peer, trust_tools=trust_tools))
    same = [one for one in unpaired.values() if one.name == joined.peer.name or _same_address(one, joined.peer)]
    if same:
        # It was added by its address before and is paired now.
        peer = replace(joined.peer, name=name or same[0].name, tags=tags or same[0].tags)
        fleet.registry.replace(same[0].name, peer)
    else:
        peer = _with_free_name(fleet, joined.peer)
        fleet.registry.add(peer)
    return peer, joined.scopes


async def _pair_again(
    fleet: Fleet, invitation: Invitation, known: Peer, *, name: str, tags: tuple[str, ...], trust_tools: bool
) -> tuple[Peer, tuple[str, ...]]:
    """Redeem a new code of a known host: its token, with other scopes, replaces the current one."""
    from anvyl_mcp.peers.hosts.pairing import pair, unpair

    called = check_host_name(name) if name else known.name
    if called != known.name:
        # Check the name before the code is redeemed.
        _check_new(fleet, Peer(called, ""))
    joined = await pair(invitation, called=fleet.local.name, instead_of=known.token)
    reached = known.url if urlsplit(known.url).netloc in invitation.addresses else joined.peer.url
    groups = tuple(dict.fromkeys([*known.tags, *tags]))
    trusted = trust_tools or known.trust_tools
    peer = replace(known, name=called, url=reached, tags=groups, token=joined.peer.token, trust_tools=trusted)
    fleet.registry.replace(known.name, peer)
    if known.token and not joined.replaced:
        # The new token works even if the host does not answer, or revoked the old one already.
        with suppress(AnvylError):
            await unpair(known)
    return peer, joined.scopes


def _same_address(one: Peer, other: Peer) -> bool:
    try:
        return urlsplit(base_url(one.url)).netloc == urlsplit(base_url(other.url)).netloc
    except InvalidInput:
        return False


def _check_new(fleet: Fleet, peer: Peer) -> None:
    if peer.name == fleet.local.name or peer.url == fleet.local.url:
        raise Conflict(f"that is this host, `{fleet.local.name}`", hint="it is already part of the fleet")
    if not peer.url and peer.name in fleet.peers:
        raise Conflict(f"there is already a host `{peer.name}`", hint="choose another --name")


def _with_free_name(fleet: Fleet, peer: Peer) -> Peer:
    """Append a number to the name if it is taken: the code is redeemed by now, so this must not fail."""
    taken, name, number = set(fleet.peers), peer.name.lower(), 2
    while name in taken:
        name, number = f"{peer.name.lower()}-{number}", number + 1
    return replace(peer, name=check_host_name(name))
