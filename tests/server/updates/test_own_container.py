"""The container of the server itself is replaced by a helper container, which survives being killed."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from anvyl_mcp.core.errors import Denied
from anvyl_mcp.server.containers import own_container
from anvyl_mcp.server.containers.own_container import OwnMounts, is_own, parse_mounts
from anvyl_mcp.server.engine.engine import Engine
from tests.support.engine.engines import RealEngine
from tests.support.engine.server_image import ROOT, build_variant
from tests.support.hosts.nodes import ANVYL, ANVYL_MCP, CommandResult, run_program

IMAGE, FIRST = "anvyl-test/server:1", "anvyl-test/server:first"
MOUNTED = sorted({ROOT, Path(sys.prefix), Path(sys.base_prefix), Path("/usr/lib"), Path("/lib"), Path("/lib64")})
"""Python and this clone, instead of an image with them, which takes much longer to make."""
HEALTH = """import json, urllib.request as http
http.urlopen(json.load(open('/var/lib/anvyl/run/serve.json'))['url'] + '/health', timeout=8)"""
OWN = "anvyl"
VERSION = "LABEL org.opencontainers.image.version"
PROGRAM = "anvyl_mcp.app.update_helper"
ADDRESS = "172.17.0.1"
SECOND = 10**9
LONGEST = 60.0


@pytest.fixture(scope="module")
def image(engine: RealEngine) -> Iterator[str]:
    """An image that serves, with the version 1.0.0."""
    if not engine.private:
        pytest.skip("needs a private engine")
    lines = [
        "ENV ANVYL_HOME=/var/lib/anvyl ANVYL_IMAGE=test PYTHONDONTWRITEBYTECODE=1",
        "VOLUME /var/lib/anvyl",
        f"HEALTHCHECK CMD {json.dumps([sys.executable, '-c', HEALTH])}",
        f"ENTRYPOINT {json.dumps([ANVYL_MCP, 'serve'])}",
    ]
    build_variant(engine, FIRST, *lines, base="busybox:latest")
    yield build_variant(engine, IMAGE, f"{VERSION}=1.0.0", base=FIRST)
    engine.clean()
    for name in (IMAGE, FIRST):
        engine.api.remove_image(name, force=True)


class ServerContainer:
    """A server in a container, as `examples/compose.yaml` starts it, and commands of a machine paired with it."""

    def __init__(self, engine: RealEngine, network: str = "host") -> None:
        self.engine = engine
        socket = Path(engine.url.removeprefix("unix://"))
        self.home = Path(engine.api.create_volume("anvyl-home")["Mountpoint"])
        host = engine.api.create_host_config(
            binds=[
                "anvyl-home:/var/lib/anvyl",
                f"{socket}:/var/run/docker.sock",
                *(f"{one}:{one}:ro" for one in MOUNTED),
            ],
            network_mode=network,
            group_add=[str(socket.stat().st_gid)],
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            restart_policy={"Name": "unless-stopped"},
        )
        check = {"Interval": 500_000_000, "Timeout": 8 * SECOND, "StartPeriod": 20 * SECOND, "Retries": 20}
        labels = {"com.docker.compose.project": "tools", "com.docker.compose.service": OWN}
        environment = {"ANVYL_NAME": "boat"}
        made = engine.api.create_container(
            IMAGE, name=OWN, host_config=host, healthcheck=check, labels=labels, environment=environment
        )
        engine.api.start(made["Id"])
        wait_until(lambda: self.facts["State"]["Health"]["Status"] == "healthy")

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.engine.api.inspect_container(OWN)
        return found

    @property
    def names(self) -> set[str]:
        return {one["Names"][0].lstrip("/") for one in self.engine.api.containers(all=True)}

    @property
    def version(self) -> str:
        return str(self.facts["Config"]["Labels"]["org.opencontainers.image.version"])

    def inside(self, *command: str) -> tuple[int, str]:
        made = self.engine.api.exec_create(OWN, list(command))
        printed: bytes = self.engine.api.exec_start(made["Id"])
        return int(self.engine.api.exec_inspect(made["Id"])["ExitCode"]), printed.decode()

    def pair(self, scope: str) -> None:
        code, printed = self.inside(ANVYL_MCP, "invite", "--host", ADDRESS, "--scope", scope, "--json")
        assert code == 0, printed
        joined = self.operator("hosts", "add", stdin=json.loads(printed)["code"])
        assert joined.code == 0, joined.err

    def operator(self, *arguments: str, stdin: str | None = None) -> CommandResult:
        prefix = ["nsenter", "--target", str(self.engine.process), "--net", "--"]
        return run_program(*arguments, program=ANVYL, prefix=prefix, stdin=stdin)

    def record(self) -> dict[str, Any] | None:
        """The update that is under way."""
        file = self.home / "updates.json"
        running = json.loads(file.read_text(encoding="utf-8"))["running"] if file.exists() else []
        return running[0] if running else None

    def helpers(self) -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cmdline"]) if PROGRAM in (one.info["cmdline"] or ())]

    def kill_helper_at(self, step: str) -> None:
        """Kill it as the kernel does when memory runs out; `docker kill` would count as stopped by hand."""
        wait_until(lambda: self.helpers() and (self.record() or {}).get("step") == step)
        assert [one for one in self.names if "helper" in one] == [f"{OWN}.anvyl-helper"]
        for one in self.helpers():
            one.send_signal(signal.SIGKILL)


@pytest.fixture
def server(engine: RealEngine, image: str) -> Iterator[ServerContainer]:
    engine.api.tag(image, IMAGE)
    started = ServerContainer(engine)
    started.pair("exec")
    yield started
    engine.clean()
    engine.api.remove_volume("anvyl-home", force=True)


def wait_until(check: Callable[[], object], seconds: float = LONGEST) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # neither the engine nor another container's files report these events


def test_the_container_of_the_server_is_replaced_by_a_helper(engine: RealEngine, server: ServerContainer) -> None:
    before = server.facts
    build_variant(engine, IMAGE, f"{VERSION}=1.2.0", base=FIRST)

    done = server.operator("update", OWN, "--host", "boat", "--watch", "1")

    assert done.code == 0, done
    assert "a helper now replaces anvyl and restarts this server on boat." in done.out
    assert "(1.2.0), was anvyl-test/server:1 (1.0.0)" in done.out
    now = server.facts
    assert now["Id"] != before["Id"] and server.version == "1.2.0"
    # The helper reports before it removes itself.
    wait_until(lambda: server.names == {OWN})
    for part in ("Binds", "NetworkMode", "GroupAdd", "ReadonlyRootfs", "Tmpfs", "CapDrop", "SecurityOpt"):
        assert now["HostConfig"][part] == before["HostConfig"][part], part
    assert now["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    log = json.loads(server.inside(ANVYL_MCP, "audit", "--json")[1])
    made = [one for one in log["records"] if one["tool"] in ("update_container", "replace_server")]
    assert [(one["tool"], one["outcome"]) for one in made] == [("update_container", "ok"), ("replace_server", "ok")]
    assert made[0]["operation"] == made[1]["operation"] and made[0]["who"] == made[1]["who"]
    events = json.loads(server.operator("history", OWN, "--host", "boat", "--json").out)["events"]
    assert {one["who"] for one in events if one["what"] in ("started", "stopped", "renamed")} == {made[0]["who"]}


ROOT_MOUNT = (
    "21 20 0:40 / / rw - overlay overlay rw,lowerdir=/l/A,upperdir=/var/lib/docker/overlay2/{layer}/diff,workdir=/w"
)
HOSTNAME = "22 21 8:1 {folder}/{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw"


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param("/var/lib/docker/containers", id="docker"),
        pytest.param("/home/anna/.local/share/docker/containers", id="rootless"),
        pytest.param("/run/user/1000/containers/overlay-containers", id="podman"),
    ],
)
def test_a_server_knows_its_container_also_if_it_shares_the_network_of_another(folder: str) -> None:
    """Containers with `network_mode: container:…` have the `/etc/hostname` of the other one."""

    def inspected(identifier: str, layer: str, mode: str = "bridge", *places: str) -> dict[str, Any]:
        graph = {"Data": {"UpperDir": f"/var/lib/docker/overlay2/{layer}/diff"} if layer else None}
        mounts = [{"Destination": place} for place in places]
        return {"Id": identifier, "HostConfig": {"NetworkMode": mode}, "GraphDriver": graph, "Mounts": mounts}

    vpn, own, other = "a" * 64, "b" * 64, "c" * 64
    root = ROOT_MOUNT.format(layer="one")
    alone = parse_mounts(f"{root}\n{HOSTNAME.format(folder=folder, id=own)}")
    assert is_own(inspected(own, "one"), alone) and not is_own(inspected(other, "two"), alone)

    joined = parse_mounts(f"{root}\n{HOSTNAME.format(folder=folder, id=vpn)}")
    assert is_own(inspected(own, "one", f"container:{vpn}"), joined)
    assert not is_own(inspected(vpn, "two"), joined) and not is_own(inspected(other, "two", f"container:{vpn}"), joined)

    # With containerd's image store the engine does not say where the layers are.
    home = "23 21 8:1 /volumes/home/_data /var/lib/anvyl rw - ext4 /dev/sda1 rw"
    joined = parse_mounts(f"{HOSTNAME.format(folder=folder, id=vpn)}\n{home}")
    assert is_own(inspected(own, "", f"container:{vpn}", "/var/lib/anvyl"), joined)
    assert not is_own(inspected(vpn, "", "bridge", "/gluetun"), joined)
    assert not is_own(inspected(other, "", "bridge"), parse_mounts("")), "outside of containers"


def test_the_way_to_docker_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    here = OwnMounts(frozenset({"a" * 64}))
    monkeypatch.setattr(own_container, "own_mounts", lambda: here)
    engine = Engine({"DOCKER_HOST": "tcp://socket-proxy:2375"})
    networks = {"back": {"Aliases": ["socket-proxy"], "IPAddress": "10.0.0.2"}}
    proxy = {"Name": "/tools-proxy-1", "NetworkSettings": {"Networks": networks}}
    web = {"Name": "/web", "NetworkSettings": {"Networks": {"back": {"Aliases": ["web"], "IPAddress": "10.0.0.3"}}}}

    own_container.check_keeps_engine(engine, [web])
    with pytest.raises(Denied, match="reaches Docker through `tools-proxy-1`, and could not bring it back"):
        own_container.check_keeps_engine(engine, [web, proxy])
    own_container.check_keeps_engine(Engine({"DOCKER_HOST": "unix:///run/docker.sock"}), [proxy])


@pytest.mark.long
def test_a_helper_that_is_killed_goes_on_and_leaves_one_server(engine: RealEngine, server: ServerContainer) -> None:
    steps = [("waiting", True), ("created", False), ("swapping", False), ("watching", True)]
    for number, (step, is_new) in enumerate(steps, 1):
        before = server.facts["Id"]
        build_variant(engine, IMAGE, f"{VERSION}=2.{number}.0", base=FIRST)
        code, said = server.inside(ANVYL, "call", "update_container", f"name={OWN}", "watch=1", "--json")
        assert code == 0, said
        server.kill_helper_at(step)
        wait_until(lambda: server.record() is None and server.names == {OWN})
        assert (server.facts["Id"] != before) == is_new, step
        wait_until(lambda: server.operator("ps", "--host", "boat").code == 0)
    log = json.loads(server.inside(ANVYL_MCP, "audit", "--tool", "replace_server", "--json")[1])
    assert [one["outcome"] for one in log["records"]] == ["ok", "failed", "failed", "ok"]
    assert server.inside(ANVYL_MCP, "audit", "verify")[0] == 0

    before = server.facts["Id"]
    build_variant(engine, IMAGE, f"{VERSION}=2.8.0", 'ENTRYPOINT ["sh", "-c", "echo no home; exit 3"]', base=FIRST)
    crashed = server.operator("update", OWN, "--host", "boat", "--watch", "1")
    assert crashed.code == 1, crashed
    assert (
        "exit code 3" in crashed.err
        and "runs as before, with its old image" in crashed.err
        and "no home" in crashed.err
    )
    wait_until(lambda: server.names == {OWN} and not server.helpers())
    assert server.facts["Id"] == before

    build_variant(engine, IMAGE, f"{VERSION}=2.9.0", 'ENTRYPOINT ["sleep", "3600"]', base=FIRST)
    silent = server.operator("update", OWN, "--host", "boat", "--watch", "1")
    assert silent.code == 1 and "it is unhealthy" in silent.err and server.version == "2.4.0"

    assert server.operator("undo", "--host", "boat", "--yes").code == 0
    wait_until(lambda: server.names == {OWN} and server.version == "2.1.0")
