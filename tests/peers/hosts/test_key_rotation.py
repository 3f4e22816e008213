"""Key rotation: clients that saw the announcement need no new pairing. Two machines, TLS, real commands."""

from __future__ import annotations

import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp.core.errors import ConfigInvalid, Conflict, NotFound
from anvyl_mcp.core.invitation import pin_text
from anvyl_mcp.peers.connection.tls_pinning import NextPin, WrongKey, pinned_context
from anvyl_mcp.peers.hosts.key_rotation import next_key, record_announced_key
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from anvyl_mcp.server.auth.callers import LOCAL, Caller
from anvyl_mcp.server.auth.certificate import NEXT_KEY_FILE, host_identity
from anvyl_mcp.server.http.host_state import HostState
from tests.peers.connection.test_tls_pinning import WAYS
from tests.support.hosts.network import Lan, lan
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult, ServingNode, run_program, running_node
from tests.support.hosts.tls_server import record_tls

__all__ = ["lan"]

FIRST, SECOND, THIRD = (pin_text(bytes([number]) * 32) for number in range(3))


@pytest.fixture
def beta(lan: Lan, tmp_path: Path) -> Iterator[ServingNode]:
    """A host on its own network."""
    with running_node("beta", tmp_path / "beta", prefix=lan.prefix) as started:
        yield started


def on_beta(lan: Lan, beta: ServingNode, *arguments: str) -> CommandResult:
    return run_program(*arguments, program=ANVYL_MCP, prefix=lan.prefix, ANVYL_HOME=str(beta.home))


def machine(lan: Lan, home: Path, *arguments: str) -> CommandResult:
    """Run a command on the other machine, with the installation in `home`, which has the name of that folder."""
    return run_program(*arguments, prefix=lan.far, ANVYL_HOME=str(home), ANVYL_NAME=home.name)


def joined(lan: Lan, beta: ServingNode, home: Path) -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    invitation = on_beta(lan, beta, "invite", "--host", lan.address, "--json")
    assert machine(lan, home, "hosts", "add", invitation.json["code"]).code == 0


def looked(lan: Lan, home: Path) -> CommandResult:
    return machine(lan, home, "call", "list_processes", "limit=1", "--host", "beta", "--json")


def known(home: Path) -> dict[str, Any]:
    entry: dict[str, Any] = tomllib.loads((home / "hosts.toml").read_text(encoding="utf-8"))["hosts"]["beta"]
    return entry


def test_a_rotated_key_needs_no_new_pairing_except_for_clients_that_missed_it(
    lan: Lan, beta: ServingNode, tmp_path: Path
) -> None:
    alpha, gamma = tmp_path / "alpha", tmp_path / "gamma"
    joined(lan, beta, alpha)
    joined(lan, beta, gamma)
    old = known(alpha)["pin"]

    begun = on_beta(lan, beta, "key", "rotate", "--json").json
    assert begun["next"] and begun["next"] != old == begun["pin"]
    assert begun["told"] == [] and begun["not_told"] == ["alpha", "gamma"]
    assert looked(lan, alpha).code == 0
    assert (known(alpha)["pin"], known(alpha)["next_pin"]) == (old, begun["next"])
    shown = on_beta(lan, beta, "key", "show", "--json").json
    assert (shown["told"], shown["not_told"]) == (["alpha"], ["gamma"])
    hasty = on_beta(lan, beta, "key", "rotate", "--finish")
    assert hasty.code == 5 and "gamma" in hasty.err

    finished = on_beta(lan, beta, "key", "rotate", "--finish", "--yes", "--json")

    assert finished.json["pin"] == begun["next"] and finished.json["next"] == ""
    assert looked(lan, alpha).code == 0, "the server was not started again"
    assert known(alpha)["pin"] == begun["next"] and "next_pin" not in known(alpha)
    assert looked(lan, alpha).code == 0
    refused = looked(lan, gamma)
    assert refused.code == 1
    assert "its key is not the one it was paired with" in refused.err and "pair again" in refused.err
    beta.restart()
    assert looked(lan, alpha).code == 0


def test_a_cancelled_rotation_is_forgotten_by_clients(lan: Lan, beta: ServingNode, tmp_path: Path) -> None:
    alpha = tmp_path / "alpha"
    joined(lan, beta, alpha)
    on_beta(lan, beta, "key", "rotate")
    assert looked(lan, alpha).code == 0
    assert known(alpha)["next_pin"]

    assert on_beta(lan, beta, "key", "rotate", "--cancel").code == 0

    assert looked(lan, alpha).code == 0
    assert "next_pin" not in known(alpha)


# Announcements.


@pytest.mark.parametrize("way", list(WAYS))
def test_a_connection_accepts_and_records_the_next_key(way: str, tmp_path: Path) -> None:
    tell = WAYS[way]
    identity = host_identity(tmp_path / "identity")
    proved: list[str] = []
    with record_tls(identity.tls()) as heard:
        tell(heard.port, pinned_context([identity.pin], NextPin(SECOND, lambda: proved.append("next"))))
        assert proved == []
        tell(heard.port, pinned_context([FIRST], NextPin(identity.pin, lambda: proved.append("next"))))
        assert proved == ["next"]
        with pytest.raises((WrongKey, ssl.SSLError)):
            tell(heard.port, pinned_context([FIRST], NextPin(SECOND, lambda: proved.append("other"))))
    assert proved == ["next"]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "hosts.toml")
    registry.add(Peer("nas", "https://nas:4200", ("home",), FIRST, "token"))
    registry.add(Peer("near", "http://127.0.0.1:4210"))
    return registry


def test_an_announced_key_is_kept_until_it_is_used(registry: Registry) -> None:
    record_announced_key(registry, registry.get("nas"), SECOND)
    assert registry.get("nas").pins == (FIRST, SECOND)
    assert next_key(registry, registry.get("near")) is None

    accepted = next_key(registry, registry.get("nas"))
    assert accepted is not None
    accepted.on_used()

    assert registry.get("nas") == Peer("nas", "https://nas:4200", ("home",), SECOND, "token")


def test_an_announcement_over_an_outdated_connection_changes_nothing(registry: Registry) -> None:
    """The holder of a retired key must not be able to announce another one."""
    outdated = registry.get("nas")
    record_announced_key(registry, outdated, SECOND)
    accepted = next_key(registry, registry.get("nas"))
    assert accepted is not None
    accepted.on_used()

    record_announced_key(registry, outdated, THIRD)

    assert registry.get("nas").pins == (SECOND,)


@pytest.mark.parametrize("key", ["", "sha256:short", "x" * 5000, FIRST], ids=["none", "short", "long", "present"])
def test_an_invalid_or_known_announcement_changes_nothing(registry: Registry, key: str) -> None:
    before = registry.path.stat().st_ino

    record_announced_key(registry, registry.get("nas"), key)
    record_announced_key(registry, registry.get("near"), SECOND)

    assert registry.path.stat().st_ino == before


def test_a_hosts_file_that_cannot_be_edited_does_not_fail_calls(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.path.write_text(
        f'hosts = {{ nas = {{ url = "https://nas:4200", pin = "{FIRST}" }}, x = 1 }}', encoding="utf-8"
    )

    record_announced_key(registry, Peer("nas", "https://nas:4200", (), FIRST), SECOND)

    assert "could not be saved" in caplog.text


# On the host.

TOKEN = Caller("alpha", frozenset(["read"]), "token", id="t1")


def test_the_next_key_is_announced_only_to_token_holders(tmp_path: Path) -> None:
    state = HostState(tmp_path)
    assert state.next_key.announce(TOKEN) == "", "no key is made for a question"
    pin = state.identity().pin
    assert state.next_key.announce(TOKEN) == pin
    rotation = state.next_key.begin()

    assert state.next_key.announce(LOCAL) == ""
    assert state.next_key.announce(Caller("x", frozenset(["read"]), "jwt", id="jwt:x")) == rotation.pin
    assert state.next_key.rotation.notified == []
    assert state.next_key.announce(TOKEN) == state.next_key.announce(TOKEN) == rotation.pin
    assert state.next_key.rotation.notified == ["t1"]
    with pytest.raises(Conflict, match="already in progress"):
        state.next_key.begin()
    assert state.next_key.finish().pin == rotation.pin == state.identity().pin
    assert state.next_key.announce(TOKEN) == rotation.pin
    for step in (state.next_key.finish, state.next_key.cancel):
        with pytest.raises(NotFound, match="no key rotation is in progress"):
            step()


def test_a_damaged_next_key_changes_nothing(tmp_path: Path) -> None:
    state = HostState(tmp_path)
    pin = state.identity().pin
    state.next_key.begin()
    (state.folder / NEXT_KEY_FILE).write_bytes(b"damaged")

    with pytest.raises(ConfigInvalid, match="is damaged"):
        state.next_key.finish()

    assert state.identity().pin == pin
    state.next_key.cancel()
    assert not (state.folder / NEXT_KEY_FILE).exists()


def test_a_rotation_survives_a_crash_at_any_step(tmp_path: Path) -> None:
    state = HostState(tmp_path)
    pin = state.identity().pin
    following = state.next_key.begin().pin
    (state.folder / "certificate.pem").unlink()
    assert state.identity().pin == pin
    (state.folder / "certificate.pem").unlink()
    (state.folder / NEXT_KEY_FILE).replace(state.folder / "key.pem")

    assert state.next_key.announce(TOKEN) == following == state.next_key.finish().pin
    assert state.identity().pin == following and not state.next_key.rotation.pin


def test_a_damaged_rotation_plan_is_reported_and_does_not_fail_calls(tmp_path: Path) -> None:
    state = HostState(tmp_path)
    state.identity()
    (state.folder / "next.json").write_text("{", encoding="utf-8")
    Path(state.folder / "next.json").chmod(0o600)

    assert state.next_key.announce(TOKEN) == ""
    with pytest.raises(ConfigInvalid, match=r"next\.json is damaged"):
        state.next_key.begin()
