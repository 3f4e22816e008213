"""Codes and tokens are pasted or piped, invite names the machine that joined, and a new code changes scopes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.hosts.registry import Registry
from anvyl_mcp.server.http.host_state import HostState
from tests.support.hosts.network import Lan, lan
from tests.support.hosts.nodes import ANVYL, ANVYL_MCP, CommandResult, ServingNode, run_program, running_node
from tests.support.terminal import open_terminal

__all__ = ["lan"]

ADD = "anvyl hosts add"


@pytest.fixture(scope="module")
def beta(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A host in its own network namespace, without an engine."""
    nothing = "unix:///nonexistent/docker.sock"
    with running_node("beta", tmp_path_factory.mktemp("beta"), prefix=lan.prefix, DOCKER_HOST=nothing) as started:
        yield started


@pytest.fixture
def node(beta: ServingNode) -> ServingNode:
    """The same host for one test, without tokens of earlier tests."""
    kept = HostState(load(environ={"ANVYL_HOME": str(beta.home)}).state_dir).tokens
    for token in kept.list():
        kept.revoke(token.id)
    return beta


def on_beta(lan: Lan, node: ServingNode, *arguments: str) -> CommandResult:
    return run_program(*arguments, program=ANVYL_MCP, prefix=lan.prefix, ANVYL_HOME=str(node.home))


def here(lan: Lan, *arguments: str, stdin: str | None = None) -> CommandResult:
    return run_program(*arguments, prefix=lan.far, stdin=stdin, ANVYL_NAME="alpha", DOCKER_HOST="unix:///nonexistent/x")


def invited(lan: Lan, node: ServingNode, *options: str) -> CommandResult:
    made = on_beta(lan, node, "invite", "--host", lan.address, *options)
    assert made.code == 0, made.err
    return made


def tokens(lan: Lan, node: ServingNode) -> list[tuple[str, list[str], bool]]:
    listed = on_beta(lan, node, "token", "list", "--json").json["tokens"]
    return [(one["name"], one["scopes"], one["relay"]) for one in listed]


def joined_line(node: ServingNode) -> str:
    """Next line of the server's output about a machine that joined."""
    assert node.process.stderr is not None
    lines = iter(node.process.stderr.readline, b"")
    return next(line.decode().strip() for line in lines if b" joined " in line)


def test_a_code_can_be_piped_and_the_inviting_side_names_the_joining_machine(lan: Lan, node: ServingNode) -> None:
    """On the command line, another user could read the code in /proc/*/cmdline and redeem it first."""
    made = invited(lan, node)
    line, code = made.out.splitlines()
    assert line == ADD and code.startswith("anv1-")

    joined = here(lan, "hosts", "add", "-", stdin=made.out)

    assert joined.code == 0 and "added beta" in joined.err and "warning" not in joined.err
    assert f"alpha joined from {lan.far_address} as `alpha` with read,operate" in joined_line(node)
    assert tokens(lan, node) == [("alpha", ["read", "operate"], False)]
    again = here(lan, "hosts", "add", code)
    assert again.code == 1 and "warning: other users of this machine can read the join code" in again.err


def test_a_code_is_prompted_for_and_not_echoed(lan: Lan, node: ServingNode, tmp_path: Path) -> None:
    code = invited(lan, node, "--json").json["code"]
    split = f"{code[:40]}\n{code[40:]}\n"

    words = [*lan.far, ANVYL, "hosts", "add"]
    with open_terminal(*words[1:], program=words[0]) as terminal:
        terminal.until("paste the join code")
        echoes = [terminal.echoes]
        listed = Path(f"/proc/{terminal.process.pid}/cmdline").read_bytes()
        terminal.type(split)
        terminal.until("added beta (")
        assert terminal.end() == 0
        echoes.append(terminal.echoes)

    assert code[:40] not in terminal.shown and echoes == [False, True]
    assert b"anv1" not in listed


def test_invite_waits_and_names_the_joining_machine(lan: Lan, node: ServingNode) -> None:
    words = [*lan.prefix, "env", f"ANVYL_HOME={node.home}", ANVYL_MCP, "invite", "--host", lan.address]
    with open_terminal(*words[1:], program=words[0], size=(400, 24)) as terminal:
        terminal.until("waiting for that machine")
        code = next(word for word in terminal.shown.split() if word.startswith("anv1-"))
        assert here(lan, "hosts", "add", "-", stdin=code).code == 0
        terminal.until(f"alpha joined from {lan.far_address} as `alpha` with read,operate")
        terminal.until("anvyl-mcp token revoke alpha")
        assert terminal.end() == 0


def test_a_token_can_be_piped(lan: Lan, node: ServingNode, tmp_path: Path) -> None:
    made = invited(lan, node, "--json").json
    token = on_beta(lan, node, "token", "create", "script", "--scope", "read", "--json").json["token"]
    by_hand = ("hosts", "add", "nas", f"https://{made['addresses'][0]}", "--pin", made["pin"], "--token")

    piped = here(lan, *by_hand, "-", stdin=f"{token}\n")
    argument = here(lan, *(word.replace("nas", "other") for word in by_hand), token)
    nothing = here(lan, *by_hand, "-", stdin="")

    assert piped.code == 0 and "it answers" in piped.err and "warning" not in piped.err
    assert "warning: other users of this machine can read the token" in argument.err
    assert nothing.code == 2 and "the token is missing" in nothing.err
    assert Registry(tmp_path / "hosts.toml").get("nas").token == token


def test_a_new_code_of_a_known_host_changes_the_scopes_there(lan: Lan, node: ServingNode, tmp_path: Path) -> None:
    """Once the host was "already known", and the hint of every refusal led there."""
    assert here(lan, "hosts", "add", "-", "--tag", "home", "--name", "nas", stdin=invited(lan, node).out).code == 0
    before = Registry(tmp_path / "hosts.toml").get("nas")
    refused = here(lan, "call", "execute_command", "command=true", "--host", "nas", "--yes")
    assert "needs the scope `exec`" in refused.err and "anvyl hosts add`" in refused.err

    code = invited(lan, node, "--scope", "read,operate,exec", "--relay").out
    raised = here(lan, "hosts", "add", "-", stdin=code)

    assert raised.code == 0 and "updated nas" in raised.err and "read, operate, exec" in raised.err
    assert here(lan, "call", "execute_command", "command=true", "--host", "nas", "--yes").code == 0
    assert tokens(lan, node) == [("alpha", ["read", "operate", "exec"], True)]
    after = Registry(tmp_path / "hosts.toml").get("nas")
    assert (after.tags, after.url, after.pin) == (before.tags, before.url, before.pin)
    lowered = here(lan, "hosts", "add", "-", stdin=invited(lan, node, "--scope", "read").out)
    assert lowered.code == 0 and tokens(lan, node) == [("alpha", ["read"], False)]


def test_a_new_code_replaces_a_revoked_token(lan: Lan, node: ServingNode) -> None:
    assert here(lan, "hosts", "add", "-", stdin=invited(lan, node).out).code == 0
    assert on_beta(lan, node, "token", "revoke", "alpha").code == 0

    assert here(lan, "hosts", "add", "-", stdin=invited(lan, node).out).code == 0

    assert here(lan, "call", "get_host_resources", "--host", "beta").code == 0
    assert tokens(lan, node) == [("alpha", ["read", "operate"], False)]


def test_a_renamed_host_stays_paired(lan: Lan, node: ServingNode, tmp_path: Path) -> None:
    assert here(lan, "hosts", "add", "-", "--tag", "home", stdin=invited(lan, node).out).code == 0
    before = Registry(tmp_path / "hosts.toml").get("beta")

    renamed = here(lan, "hosts", "rename", "beta", "Attic", "--json")

    assert renamed.json["hosts"] == {"attic": {"url": before.url, "renamed_from": "beta"}}
    checked = here(lan, "hosts", "check", "attic", "--json").json["hosts"]["attic"]
    assert (checked["scopes"], checked["tags"]) == (["read", "operate"], ["home"])
    assert here(lan, "hosts", "check", "beta").code == 2
    taken = here(lan, "hosts", "rename", "attic", "alpha")
    own = here(lan, "hosts", "rename", "alpha", "x")
    assert taken.code == 1 and "is this host" in taken.err and own.code == 1 and "serve --name" in own.err


def test_comments_and_settings_in_a_hosts_file_survive_a_rename(tmp_path: Path) -> None:
    file = tmp_path / "hosts.toml"
    file.write_text(
        '# mine\n[hosts.Nas]\nurl = "http://127.0.0.1:9" # attic\nnext_pin = "x"\n\n[hosts.pi]\nurl = "http://127.0.0.1:8"\n',
        encoding="utf-8",
    )
    registry = Registry(file)

    registry.rename("nas", "store")

    assert list(registry.peers()) in (["pi", "store"], ["store", "pi"])
    assert registry.get("store").next_pin == "x"
    assert "# mine" in file.read_text(encoding="utf-8") and "# attic" in file.read_text(encoding="utf-8")


def test_no_machine_can_join_under_a_name_that_this_host_uses(lan: Lan, node: ServingNode) -> None:
    code = invited(lan, node).out

    refused = run_program("hosts", "add", "-", prefix=lan.far, stdin=code, ANVYL_NAME="root")

    assert refused.code == 2 and "is reserved for local users" in refused.err
    assert tokens(lan, node) == []
    assert here(lan, "hosts", "add", "-", stdin=code).code == 0
