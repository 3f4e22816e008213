"""Services of a real systemd, in a machine of namespaces with its own Docker engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine.daemon import UnavailableError
from tests.support.hosts.nodes import ANVYL, ANVYL_MCP, CommandResult, run_program
from tests.support.hosts.systemd_machine import ADDRESS, SystemdMachine

pytestmark = pytest.mark.engine
UNIT = "/etc/systemd/system/anvyl-mcp.service"
DATA = Path(__file__).parents[2] / "data"
STOP_SECONDS = 10


@pytest.fixture(scope="module")
def machine() -> Iterator[SystemdMachine]:
    entered = SystemdMachine()
    try:
        entered.__enter__()
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        # Python may be in root's home; the services of other users need it.
        entered.run("chmod", "755", "/root")
        entered.run("rm", "-rf", "/root/.config/anvyl", "/root/.local/state/anvyl")
        entered.start_engine()
        yield entered
    finally:
        entered.__exit__()


@pytest.fixture
def installed(machine: SystemdMachine) -> SystemdMachine:
    """The machine with a service of the system."""
    if machine.run("systemctl", "is-active", "anvyl-mcp", check=False).returncode:
        machine.run(ANVYL_MCP, "service", "install", "--system", "--name", "box")
    return machine


@pytest.fixture
def empty(machine: SystemdMachine) -> SystemdMachine:
    """The machine without a service, and without a home of one."""
    if not machine.run("test", "-e", UNIT, check=False).returncode:
        machine.run(ANVYL_MCP, "service", "uninstall", "--system")
    machine.run("rm", "-rf", "/var/lib/anvyl")
    return machine


def status(machine: SystemdMachine, *flags: str, user: str = "") -> dict[str, Any]:
    done = machine.run(ANVYL_MCP, "service", "status", "--json", *flags, check=False, user=user)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def wait_for_server(machine: SystemdMachine, *flags: str, other_than: int = 0, user: str = "") -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        found = status(machine, *flags, user=user)
        if found.get("urls") and found["pid"] != other_than:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.3)  # each try starts a process


def operator(machine: SystemdMachine, *arguments: str, stdin: str | None = None) -> CommandResult:
    """Run `anvyl` outside the machine, connected to it by network only."""
    return run_program(*arguments, program=ANVYL, prefix=machine.network_prefix(), stdin=stdin)


def pair(machine: SystemdMachine) -> None:
    code = json.loads(machine.run(ANVYL_MCP, "invite", "--host", ADDRESS, "--json").stdout)["code"]
    done = operator(machine, "hosts", "add", stdin=code)
    assert done.code == 0, done.err


def containers(machine: SystemdMachine) -> list[str]:
    done = operator(machine, "ps", "--all", "--host", "box", "--json")
    assert done.code == 0, done.err
    return [one["name"] for one in done.json["hosts"]["box"]["result"]["containers"]]


def test_a_paired_host_answers_after_a_reboot_an_engine_restart_and_a_crash(installed: SystemdMachine) -> None:
    machine = installed
    pair(machine)
    made = operator(machine, "run", "busybox", "--name", "web", "--host", "box", "--", "busybox", "true")
    assert made.code == 0, made.err
    audited = machine.run(ANVYL_MCP, "audit", "--json").stdout

    machine.reboot()
    booted = wait_for_server(machine)
    machine.run("systemctl", "start", "docker")
    assert booted["enabled"]
    assert containers(machine) == ["web"]
    assert "create_container" in audited
    assert "create_container" in machine.run(ANVYL_MCP, "audit", "--json").stdout

    machine.run("systemctl", "restart", "docker")
    assert status(machine)["pid"] == booted["pid"]
    assert containers(machine) == ["web"]

    machine.run("kill", "-9", str(booted["pid"]))
    wait_for_server(machine, other_than=booted["pid"])
    assert containers(machine) == ["web"]


def test_the_service_runs_confined_and_stops_at_once(installed: SystemdMachine) -> None:
    machine = installed
    pid = status(machine)["pid"]
    facts = machine.run("sh", "-c", f"ps -o user= -p {pid}; grep -E 'NoNewPrivs|CapBnd' /proc/{pid}/status").stdout
    assert facts.split() == ["anvyl", "CapBnd:", "0000000000000000", "NoNewPrivs:", "1"]
    assert "docker" in machine.run("id", "-Gn", "anvyl").stdout.split()
    tried = machine.run(ANVYL, "call", "execute_command", "command=touch /etc/x", "--host", "box", "--yes", check=False)
    assert "Read-only file system" in tried.stdout + tried.stderr

    began = time.monotonic()
    machine.run("systemctl", "stop", "anvyl-mcp")
    assert time.monotonic() - began < STOP_SECONDS
    assert machine.run("systemctl", "show", "-P", "Result", "anvyl-mcp").stdout.strip() == "success"
    assert machine.run(ANVYL_MCP, "service", "status", check=False).returncode == 1


def test_another_installation_updates_the_service_and_keeps_keys_and_options(installed: SystemdMachine) -> None:
    machine = installed
    pin = machine.run(ANVYL_MCP, "key", "show").stdout

    again = machine.run(ANVYL_MCP, "service", "install", "--read-only")
    unit = machine.run("cat", UNIT).stdout
    assert "serve --name box --read-only\n" in unit
    assert "updated the systemd system unit" in again.stderr
    assert machine.run(ANVYL_MCP, "key", "show").stdout == pin

    gone = machine.run(ANVYL_MCP, "service", "uninstall")
    assert "kept keys, tokens, hosts and settings in /var/lib/anvyl" in gone.stderr
    assert machine.run("systemctl", "cat", "anvyl-mcp", check=False).returncode != 0
    assert machine.run(ANVYL_MCP, "key", "show", check=False).stdout != ""
    assert machine.run(ANVYL_MCP, "service", "status", check=False).returncode == 1


def test_an_error_of_the_server_is_the_error_of_the_installation(empty: SystemdMachine) -> None:
    done = empty.run(ANVYL_MCP, "service", "install", "--host", "192.0.2.9", "--json", check=False)
    error = json.loads(done.stdout)["error"]
    empty.run("sh", "-c", "id carol || useradd --create-home carol")
    foreign = empty.run(ANVYL_MCP, "service", "logs", user="carol", check=False)

    assert done.returncode == 1
    assert "`192.0.2.9` is not an IP address of this machine" in error["message"]
    assert "Its log: anvyl-mcp service logs --system" in error["hint"]
    assert "its last error: `192.0.2.9` is not an IP address" in " ".join(status(empty)["notes"])
    assert foreign.returncode == 1 and "hint:  try it with sudo" in foreign.stderr


def test_a_user_service_runs_without_a_login_and_after_a_reboot(empty: SystemdMachine) -> None:
    machine = empty
    machine.run("sh", "-c", "id alice || useradd --create-home --groups docker alice")
    old = "/home/alice/.config/systemd/user/anvyl-mcp.service"
    machine.run("sh", "-c", f"mkdir -p $(dirname {old}); echo '[Service]' > {old}; chown -R alice /home/alice")
    first = machine.run(ANVYL_MCP, "service", "install", "--name", "alice-box", user="alice")
    before = status(machine, user="alice")

    machine.reboot()
    after = wait_for_server(machine, user="alice")
    logged = machine.run(ANVYL_MCP, "service", "logs", user="alice")
    refused = machine.run(ANVYL_MCP, "service", "install", "--system", "--json", user="alice", check=False)
    machine.run(ANVYL_MCP, "service", "uninstall", user="alice")

    assert "kept the file that was there before" in first.stderr
    assert before["notes"] == []
    assert after["name"] == "alice-box"
    assert "serving alice-box at http://127.0.0.1:4200" in logged.stdout
    assert json.loads(refused.stdout)["error"]["code"] == "denied"


def test_a_server_in_a_terminal_is_not_replaced_behind_its_back(empty: SystemdMachine) -> None:
    """Its keys go to the service once it is stopped."""
    machine = empty
    words = [*machine.prefix(), ANVYL_MCP, "serve", "--name", "box"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as server:
        assert server.stderr is not None
        assert "serving box" in server.stderr.readline()
        refused = machine.run(ANVYL_MCP, "service", "install", "--json", check=False)
        pin = machine.run(ANVYL_MCP, "key", "show").stdout
        machine.run("sh", "-c", json.loads(refused.stdout)["error"]["hint"].rpartition(": ")[2])
    second = machine.run(ANVYL_MCP, "service", "install", "--name", "box")
    kept = machine.run(ANVYL_MCP, "key", "show").stdout

    assert "already runs at http://127.0.0.1:4200" in json.loads(refused.stdout)["error"]["message"]
    assert "copied keys, tokens, hosts and settings from /root/.local/state/anvyl" in second.stderr
    assert kept == pin


def test_a_home_of_the_first_version_is_upgraded_with_a_copy(empty: SystemdMachine, tmp_path: Path) -> None:
    """`host` was written by the first version's server, `operator` by a machine that paired with it."""
    shutil.unpack_archive(DATA / "home-0.1.0.tar.gz", tmp_path, filter="data")
    old = subprocess.run(["tar", "-cC", tmp_path / "host", "."], check=True, capture_output=True).stdout
    unpack = [*empty.prefix(), "sh", "-c", "mkdir /var/lib/anvyl && tar -xC /var/lib/anvyl"]
    subprocess.run(unpack, input=old, check=True)

    empty.run(ANVYL_MCP, "service", "install", "--system", "--name", "box")
    copy = empty.run("sh", "-c", "tar -tzf /var/lib/anvyl/backups/format-1-*.tar.gz").stdout.split()
    call = ["call", "execute_command", "command=echo still here", "--host", "box", "--yes"]
    answer = run_program(
        *call, program=ANVYL, prefix=empty.network_prefix(), ANVYL_HOME=str(tmp_path / "operator"), seconds=60
    )

    assert "still here" in answer.out, answer.err
    assert {"state/trust/key.pem", "state/trust/tokens.json", "state/operations/operations.log"} <= {*copy}
    assert "from outside" in empty.run(ANVYL_MCP, "audit", "--since", "3650d").stdout
    assert empty.run(ANVYL_MCP, "audit", "verify").returncode == 0
    assert empty.run("test", "-e", "/var/lib/anvyl/operations/operations.log", check=False).returncode == 1
