"""A fleet of three hosts on one machine, with network and engine faults on demand.

Each host is a network namespace with its own Docker engine and `anvyl-mcp serve`, paired over TLS with `hub`, the
namespace that calls them. The fixture `lab` is built once per session (about 10 s) and restored after each test:

    def test_a_silent_host_delays_no_other(lab: Lab) -> None:
        h1, h2, h3 = lab.hosts
        h3.engine.run("web")                      # a RealEngine: state(), create(), stop(), hang(), kill(), start()
        h2.blackhole(4200)                        # also partition, reject, lose, slow, delay; undone by heal()
        done = lab.anvyl("ps", "--json", "--host", "@lab")
        outcome = lab.run(lambda fleet: fleet.call("h3", "list_containers", {}))   # this process, calling from the hub
        h1.node.kill(); h1.node.start(PORT)       # a ServingNode: stop(), restart(), suspend(), resume()

`lab.run` calls an async function with the fleet of a long-lived process (`lean=False`) or of a command, and returns its
result; all sockets are opened in the hub. A `run` leaves its marks of unreachable hosts in the home of its user;
`lab.forget()` clears them. `lab.both` runs both kinds at once, each with its own user. The lab needs root; without it
its tests are skipped.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from anvyl_mcp.app.node import open_node
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.server.http.host_state import HostState
from tests.support.engine.daemon import UnavailableError, sweep
from tests.support.engine.engines import RealEngine, private_engine
from tests.support.hosts import delay_packets
from tests.support.hosts.network import inside, ip, missing_requirements, namespace
from tests.support.hosts.nodes import NO_MODEL, CommandResult, ServingNode, run_program, running_node

PORT = 4200
SUBNET = "10.77.0"
TAG = "lab"
NEW_NETWORK = 0x40000000
MODEL = {"ANVYL_LMSTUDIO_URL": NO_MODEL}

Result = TypeVar("Result")


class LabHost:
    """One host and its faults, which accumulate until `heal`."""

    def __init__(self, number: int, place: int, hub: int, engine: RealEngine, node: ServingNode) -> None:
        self.name = f"h{number}"
        self.address = f"{SUBNET}.{number}"
        self.prefix = inside(place)
        """Command prefix that runs a program on this host."""
        self.engine = engine
        self.node = node
        self._hub = hub
        self._place = place
        self._rules: list[list[str]] = []
        self._slow = False
        self._late: subprocess.Popen[str] | None = None

    def partition(self) -> None:
        """Take its network link down."""
        ip(self._hub, "link", "set", self.name, "down")

    def blackhole(self, port: int = 0) -> None:
        """Drop packets silently, of one port or all; loopback still works."""
        self._rule(*self._incoming(port), "-j", "DROP")
        self._rule(*self._outgoing(port), "-j", "DROP")

    def reject(self, port: int = PORT) -> None:
        """Refuse connections with a TCP reset."""
        self._rule(*self._incoming(port), "-j", "REJECT", "--reject-with", "tcp-reset")

    def cut(self) -> None:
        """Close the hub's current connections to it, if the kernel supports `ss -K`."""
        _run(self._hub, "ss", "-K", "dst", self.address)

    def lose(self, percent: int) -> None:
        """Drop `percent` % of the packets in both directions."""
        at_random = ("-m", "statistic", "--mode", "random", "--probability", str(percent / 100))
        self._rule(*self._incoming(), *at_random, "-j", "DROP")
        self._rule(*self._outgoing(), *at_random, "-j", "DROP")

    def slow(self, rate: str) -> None:
        """Limit the bandwidth in both directions, like `512kbit`."""
        for holder, device in ((self._hub, self.name), (self._place, "eth0")):
            limit = ("root", "tbf", "rate", rate, "burst", "4kb", "latency", "2000ms")
            _run(holder, "tc", "qdisc", "replace", "dev", device, *limit)
        self._slow = True

    def delay(self, milliseconds: int) -> None:
        """Delay every packet in both directions."""
        queue = ("-j", "NFQUEUE", "--queue-num", "7", "--queue-bypass")
        script = [*self.prefix, sys.executable, delay_packets.__file__, "7", str(milliseconds)]
        self._late = subprocess.Popen(script, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        assert self._late.stdout is not None
        assert self._late.stdout.readline() == "ready\n"
        self._rule(*self._incoming(), *queue)
        self._rule(*self._outgoing(), *queue)

    @contextmanager
    def count_connections(self) -> Iterator[Callable[[], int]]:
        """Count the connection attempts (SYN) to its server inside the block."""
        rule = ["INPUT", "-i", "eth0", "-p", "tcp", "--dport", str(PORT), "--syn"]

        def count() -> int:
            listed = _run(self._place, "iptables", "-w", "-t", "mangle", "-nvxL", "INPUT")
            return int(listed.splitlines()[2].split()[0])

        _run(self._place, "iptables", "-w", "-t", "mangle", "-A", *rule)
        try:
            yield count
        finally:
            _run(self._place, "iptables", "-w", "-t", "mangle", "-D", *rule)

    def heal(self) -> None:
        """Remove every network fault."""
        ip(self._hub, "link", "set", self.name, "up")
        while self._rules:
            _run(self._place, "iptables", "-w", "-D", *self._rules.pop())
        if self._slow:
            for holder, device in ((self._hub, self.name), (self._place, "eth0")):
                _run(holder, "tc", "qdisc", "del", "dev", device, "root")
            self._slow = False
        if self._late is not None:
            self._late.kill()
            self._late.wait()
            assert self._late.stdout is not None
            self._late.stdout.close()
            self._late = None

    def restore(self) -> None:
        """Heal the network, remove all containers, and make sure that engine and server run."""
        self.heal()
        self.engine.clean()
        self.node.resume()
        if self.node.process.poll() is not None:
            self.node.kill()
            self.node.start(PORT)

    def _incoming(self, port: int = 0) -> list[str]:
        return ["INPUT", "-i", "eth0", *(("-p", "tcp", "--dport", str(port)) if port else ())]

    def _outgoing(self, port: int = 0) -> list[str]:
        return ["OUTPUT", "-o", "eth0", *(("-p", "tcp", "--sport", str(port)) if port else ())]

    def _rule(self, *words: str) -> None:
        _run(self._place, "iptables", "-w", "-A", *words)
        self._rules.append(list(words))


class Lab:
    """The hosts and the hub that calls them."""

    def __init__(self, hub: int, home: Path, hosts: Sequence[LabHost]) -> None:
        self.hosts = tuple(hosts)
        self.home = home
        self.prefix = inside(hub)
        """Command prefix that runs a program in the hub."""
        self._hub = hub

    @property
    def names(self) -> list[str]:
        """Names of all hosts."""
        return [host.name for host in self.hosts]

    def anvyl(self, *arguments: str, seconds: float = 120) -> CommandResult:
        """Run `anvyl` in the hub; all its hosts have the tag `lab`."""
        return run_program(*arguments, prefix=self.prefix, seconds=seconds, ANVYL_HOME=str(self.home), **MODEL)

    def run(
        self, work: Callable[[Fleet], Awaitable[Result]], *, lean: bool = True, user: str = "hub", seconds: float = 120
    ) -> Result:
        """Call an async function with the hub's fleet, in a thread inside the hub, and return its result."""
        home = self.home.with_name(user)
        if not home.exists():
            home.mkdir()
            shutil.copy(self.home / "hosts.toml", home)
        settings = load(environ={"ANVYL_HOME": str(home), **MODEL})

        async def use() -> Result:
            with anyio.fail_after(seconds):
                async with open_node(settings, lean=lean) as node:
                    return await work(node.fleet)

        def there() -> Result:
            enter_namespace(self._hub)
            return anyio.run(use)

        # Threads inherit the network namespace of their parent, so those of the event loop are in the hub too.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(there).result()

    def both(self, work: Callable[[Fleet], Awaitable[Result]]) -> list[Result]:
        """Results of `work` with the fleet of a command and of a long-lived process, run at the same time."""
        with ThreadPoolExecutor(2) as threads:
            lean = threads.submit(self.run, work, lean=True, user="lean")
            official = threads.submit(self.run, work, lean=False, user="official")
            return [lean.result(), official.result()]

    def forget(self) -> None:
        """Delete all marks of unreachable hosts in the hub."""
        for marks in self.home.parent.glob("*/cache/down"):
            shutil.rmtree(marks, ignore_errors=True)

    def restore(self) -> None:
        """Restore every host."""
        with ThreadPoolExecutor(len(self.hosts)) as threads:
            list(threads.map(LabHost.restore, self.hosts))
        self.forget()


def enter_namespace(holder: int) -> None:
    """Move this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{holder}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(descriptor, NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


@contextmanager
def build_lab(folder: Path, count: int = 3) -> Iterator[Lab]:
    """Build a lab of `count` hosts and tear it down afterwards.

    Raises:
        UnavailableError: a requirement is missing here.
    """
    missing = [program for program in ("iptables", "tc") if not shutil.which(program)]
    if problem := missing_requirements() or (f"a lab needs {', '.join(missing)} on PATH" if missing else ""):
        raise UnavailableError(problem)
    sweep()
    with ExitStack() as stack:
        hub = stack.enter_context(namespace())
        ip(hub, "link", "set", "lo", "up")
        ip(hub, "link", "add", "hub", "type", "bridge")
        ip(hub, "address", "add", f"{SUBNET}.254/24", "dev", "hub")
        ip(hub, "link", "set", "hub", "up")
        places = [stack.enter_context(namespace()) for _ in range(count)]
        builders = [_HostBuilder(number, place, hub, folder) for number, place in enumerate(places, start=1)]
        for builder in builders:
            stack.callback(builder.stack.close)
        # In parallel, because each spends half of the time waiting for its engine or server.
        with ThreadPoolExecutor(count) as threads:
            hosts = list(threads.map(_HostBuilder.build, builders))
        for host in hosts:
            stack.callback(host.heal)
        home = folder / "hub"
        home.mkdir()
        (home / "hosts.toml").write_text("".join(map(_paired, hosts)), encoding="utf-8")
        yield Lab(hub, home, hosts)


class _HostBuilder:
    """Builds one host, in its own thread."""

    def __init__(self, number: int, place: int, hub: int, folder: Path) -> None:
        self.stack = ExitStack()
        self._number, self._place, self._hub, self._folder = number, place, hub, folder

    def build(self) -> LabHost:
        name, address = f"h{self._number}", f"{SUBNET}.{self._number}"
        ip(self._place, "link", "set", "lo", "up")
        ip(self._hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(self._place))
        ip(self._hub, "link", "set", name, "master", "hub", "up")
        ip(self._place, "address", "add", f"{address}/24", "dev", "eth0")
        ip(self._place, "link", "set", "eth0", "up")
        engine = self.stack.enter_context(private_engine(name, inside(self._place)))
        settings = {**MODEL, "ANVYL_AGENT_HOST": address}
        node = self.stack.enter_context(
            running_node(name, self._folder / name, engine, inside(self._place), port=PORT, **settings)
        )
        return LabHost(self._number, self._place, self._hub, engine, node)


def _paired(host: LabHost) -> str:
    """Entry of a host in the hub's hosts file, as `anvyl hosts add CODE` writes it."""
    state = HostState(host.node.home)
    _, token = state.create_token("hub", "read,operate,exec", None)
    url, pin = f"https://{host.address}:{PORT}", state.identity().pin
    return f'[hosts.{host.name}]\nurl = "{url}"\ntags = ["{TAG}"]\npin = "{pin}"\ntoken = "{token}"\n'


def _run(holder: int, *command: str) -> str:
    return subprocess.run([*inside(holder), *command], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def session_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The lab of this session."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(build_lab(tmp_path_factory.mktemp("lab")))
        except UnavailableError as error:
            pytest.skip(str(error))


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """A lab of three hosts, `h1` to `h3`, restored after each test."""
    session_lab.forget()
    yield session_lab
    session_lab.restore()
