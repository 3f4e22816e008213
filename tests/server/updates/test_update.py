"""Updates of containers on a real engine: what the new one keeps, and when the old one comes back."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from docker.types import IPAMConfig, IPAMPool, Mount
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.containers import own_container
from anvyl_mcp.server.engine.engine import own_name
from anvyl_mcp.server.updates.records import UpdateRecords
from tests.support.engine.engines import RealEngine
from tests.support.engine.tag_registry import TagRegistry
from tests.support.hosts.nodes import CommandResult, anvyl, running_node

WATCH = "watch=1"
ARGUMENTS: dict[str, Any] = {"name": "web", "watch": 1}
OPERATION: dict[str, Any] = {protocol_keys.OPERATION: "killed-update"}
OPERATE: dict[str, Any] = {protocol_keys.SCOPES: ["operate", "read"], protocol_keys.FOR: "operator"}
KILLED = """
import os, signal, anyio
from contextlib import aclosing
from mcp import Client
from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine.engine import own_name
from anvyl_mcp.server.updates.records import UpdateRecords
from tests.server.updates.test_update import ARGUMENTS, OPERATION

put = UpdateRecords.put

def put_and_die(self, record):
    put(self, record)
    if record.step == "STEP":
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    UpdateRecords.put = put_and_die
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        print(await client.call_tool("update_container", ARGUMENTS, meta=OPERATION))

anyio.run(main)
"""
MAC = "02:42:ac:11:00:99"
TRAP = ["sh", "-c", "trap 'exit 0' TERM; echo up; sleep 3600 & wait"]


def run(engine: RealEngine, registry: TagRegistry, name: str, tag: str, command: Any = None, **options: Any) -> str:
    """Pull an image and start a container from it, with its own command unless one is given."""
    pulled = engine.api.pull(registry.image(tag))
    assert "error" not in pulled, pulled
    return engine.run(name, command=command or [], image=registry.image(tag), **options)


def update(name: str, *arguments: str) -> CommandResult:
    watch = () if any(one.startswith("watch=") for one in arguments) else (WATCH,)
    return anvyl("call", "update_container", f"name={name}", *watch, *arguments)


def names(engine: RealEngine) -> set[str]:
    return {own_name(one) for one in engine.api.containers(all=True)}


def states(engine: RealEngine) -> dict[str, str | None]:
    return {name: engine.state(name) for name in names(engine)}


def image_ids(engine: RealEngine) -> set[str]:
    return {str(one["Id"]) for one in engine.api.images(all=True)}


def image_id(engine: RealEngine, name: str) -> str:
    return next(str(one["Id"]) for one in engine.api.images() if name in (one["RepoTags"] or ()))


def running_version(engine: RealEngine, name: str) -> str:
    found = engine.api.inspect_container(name)
    assert found["State"]["Running"]
    return str(found["Config"]["Labels"]["org.opencontainers.image.version"])


@pytest.fixture
def networks(engine: RealEngine) -> Iterator[None]:
    pool = engine.api.create_network("shop", ipam=IPAMConfig(pool_configs=[IPAMPool("10.77.0.0/24")]))
    other = engine.api.create_network("back")
    yield
    engine.clean()
    for one in (pool, other):
        engine.api.remove_network(one["Id"])


def test_an_updated_container_keeps_its_configuration_and_its_data(
    engine: RealEngine, registry: TagRegistry, networks: None
) -> None:
    registry.push("app:1", command=TRAP, version="1.0.0", Env=["PATH=/bin", "BUILT=one"], Volumes={"/cache": {}})
    engine.api.pull(registry.image("app:1"))
    engine.api.create_container(
        registry.image("app:1"),
        name="web",
        labels={"team": "shop"},
        environment={"MODE": "fast"},
        ports=[80],
        volumes=["/own"],
        mac_address=MAC,
        host_config=engine.api.create_host_config(
            init=True,
            binds=["web-data:/data"],
            mounts=[Mount("/mounted", None)],
            port_bindings={80: ("127.0.0.1", 18093)},
            restart_policy={"Name": "unless-stopped"},
            network_mode="shop",
            mem_limit="64m",
        ),
        networking_config={
            "EndpointsConfig": {
                "shop": {"Aliases": ["front"], "IPAMConfig": {"IPv4Address": "10.77.0.44"}, "MacAddress": MAC}
            }
        },
    )
    engine.api.connect_container_to_network("web", "back", aliases=["behind"])
    engine.api.start("web")
    for place in ("/data", "/cache", "/own", "/mounted"):
        engine.output("web", f"sh -c 'echo kept > {place}/a'")
    before = engine.api.inspect_container("web")
    registry.push(
        "app:1",
        command=["sh", "-c", "exec sleep 999"],
        version="1.1.0",
        Env=["PATH=/bin", "BUILT=two"],
        Volumes={"/cache": {}},
    )

    done = update("web", "--json")

    assert done.code == 0, done.err
    (result,) = [one["result"] for one in done.json["hosts"].values()]
    assert result["updated"] and "(1.1.0)" in result["current"] and "(1.0.0)" in result["previous"]
    after = engine.api.inspect_container("web")
    assert after["Id"] != before["Id"] and running_version(engine, "web") == "1.1.0"
    assert after["Config"]["Cmd"] == ["sh", "-c", "exec sleep 999"], "the new image's own command"
    assert set(after["Config"]["Env"]) == {"MODE=fast", "PATH=/bin", "BUILT=two"}
    assert after["Config"]["Labels"]["team"] == "shop" and after["Config"]["Image"] == registry.image("app:1")
    for name, value in before["HostConfig"].items():
        if name not in ("Binds", "Mounts"):
            assert after["HostConfig"][name] == value, name
    joined = after["NetworkSettings"]["Networks"]
    assert joined["shop"]["IPAddress"] == "10.77.0.44" and "front" in joined["shop"]["Aliases"]
    assert "behind" in joined["back"]["Aliases"] and joined["shop"]["MacAddress"] == MAC
    for place in ("/data", "/cache", "/own", "/mounted"):
        assert engine.output("web", f"cat {place}/a") == "kept\n", place
    assert names(engine) == {"web"}
    assert any("anvyl-kept/web" in tag for one in engine.api.images() for tag in one["RepoTags"] or ())

    again = update("web")
    assert again.code == 0 and "already up to date" in again.out

    undone = anvyl("undo", "--yes")
    assert undone.code == 0, undone.err
    assert running_version(engine, "web") == "1.0.0" and engine.output("web", "cat /cache/a") == "kept\n"
    restored = engine.api.inspect_container("web")
    assert restored["Config"]["Cmd"] == TRAP and restored["Config"]["Image"] == registry.image("app:1")
    assert anvyl("undo", "--yes").code == 1, "an update is undone once"


def test_an_image_that_crashes_is_taken_back_with_its_last_lines(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:2", version="2.0.0")
    before = run(engine, registry, "web", "app:2")
    old = engine.api.inspect_container("web")["Image"]
    registry.push(
        "app:2",
        command=["sh", "-c", "echo DB_PASSWORD=hunter2hunter2; echo no database; exit 3"],
        version="2.1.0",
    )

    done = update("web")

    assert done.code == 1
    assert "`web` runs as before, with its old image: with the new one it " in done.err
    assert "ended with exit code 3" in done.err and "no database" in done.err and "hunter2" not in done.err
    assert engine.api.inspect_container(before)["State"]["Running"] and names(engine) == {"web"}
    assert image_id(engine, registry.image("app:2")) == old, "the tag is what runs"
    (row,) = anvyl("call", "list_updates", "--json").json["hosts"].popitem()[1]["result"]["updates"]
    assert row["note"].startswith("failed ") and "exit code 3" in row["note"]
    for file in load().state_dir.rglob("audit/*"):
        assert b"hunter2" not in file.read_bytes()


def test_a_health_check_decides_and_a_restart_counts_as_a_crash(engine: RealEngine, registry: TagRegistry) -> None:
    check = {"Interval": 200_000_000, "Timeout": 1_000_000_000, "Retries": 2}
    registry.push("app:3", version="3.0.0", Healthcheck={"Test": ["CMD", "true"], **check})
    before = run(engine, registry, "web", "app:3", restart_policy={"Name": "always"})
    registry.push("app:3", version="3.1.0", Healthcheck={"Test": ["CMD-SHELL", "echo no disk; false"], **check})

    sick = update("web")
    assert (
        sick.code == 1
        and "`web` runs as before, with its old image: with the new one it is unhealthy: no disk" in sick.err
    )
    assert engine.api.inspect_container(before)["State"]["Running"]

    registry.push("app:3", version="3.2.0", command=["true"])
    assert update("web").code == 1, "it is restarted again and again"
    assert engine.api.inspect_container(before)["State"]["Running"] and names(engine) == {"web"}

    registry.push("app:3", version="3.3.0", Healthcheck={"Test": ["CMD", "true"], **check})
    done = update("web", "watch=900")
    assert done.code == 0 and running_version(engine, "web") == "3.3.0", "healthy: no need to wait"


def test_containers_that_use_its_network_or_its_name_follow(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:4", version="4.0.0")
    run(engine, registry, "vpn", "app:4", auto_remove=True)
    engine.run("torrent", network_mode=f"container:{engine.api.inspect_container('vpn')['Id']}")
    engine.run("linked", links={"vpn": "tunnel"})
    registry.push("app:4", command=["sh", "-c", "echo broken; exit 1"], version="4.1.0")

    failed = update("vpn")

    assert failed.code == 1 and "runs as before, with its old image" in failed.err
    assert {name: engine.state(name) for name in names(engine)} == dict.fromkeys(
        ["vpn", "torrent", "linked"], "running"
    )
    assert running_version(engine, "vpn") == "4.0.0"
    registry.push("app:4", version="4.2.0")

    done = update("vpn")

    assert done.code == 0, done.err
    assert "torrent" in done.out and "joined it again" in done.out
    assert {name: engine.state(name) for name in names(engine)} == dict.fromkeys(
        ["vpn", "torrent", "linked"], "running"
    )
    vpn, torrent = (engine.api.inspect_container(name) for name in ("vpn", "torrent"))
    assert torrent["HostConfig"]["NetworkMode"] == f"container:{vpn['Id']}" and vpn["HostConfig"]["AutoRemove"]
    assert engine.output("torrent", "ip address") == engine.output("vpn", "busybox ip address")
    address = vpn["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert f"{address}\ttunnel" in engine.output("linked", "cat /etc/hosts")


def test_what_is_pinned_protected_young_or_foreign_stays_as_it_is(engine: RealEngine, registry: TagRegistry) -> None:
    digest = registry.push("app:5", version="5.0.0")
    engine.api.pull(f"{registry.image('app')}@{digest}")
    run(engine, registry, "web", "app:5")
    tagged = engine.api.inspect_container("web")["Image"]
    engine.run("pinned", image=f"{registry.image('app')}@{digest}")
    engine.run("kept", image=registry.image("app:5"), labels={"anvyl.protect": "true"})
    engine.run("task", image=registry.image("app:5"), labels={"com.docker.swarm.service.name": "shop_web"})
    engine.run("local")
    registry.push("app:5", version="5.1.0", created=datetime.now(UTC).isoformat())
    before = {name: engine.api.inspect_container(name)["Id"] for name in names(engine)}

    refusals = {name: update(name) for name in ("web", "pinned", "kept", "task", "local", "nothing")}

    said = {name: done.err for name, done in refusals.items() if done.code == 1}
    assert "was made just now, less than 3 days" in said["web"] and "--now" in said["web"]
    assert "pinned to a digest" in said["pinned"] and "`kept` must not be changed" in said["kept"]
    assert "Swarm service `shop_web`" in said["task"] and "built or imported here" in said["local"]
    assert "nothing" in said["nothing"]
    assert before == {name: engine.api.inspect_container(name)["Id"] for name in names(engine)}
    assert not registry.count("GET", "/manifests/5"), "not even pulled"
    assert engine.api.inspect_container("web")["Image"] == tagged

    listed = anvyl("updates", "--json").json["hosts"].popitem()[1]["result"]
    assert {one["name"]: one["held"] for one in listed["updates"]} == {"web": "age", "kept": "blocked"}
    assert "task: a task of the Swarm service shop_web, which is updated as a whole" in listed["unchecked"]
    assert update("web", "min_age=0", "watch=0").code == 0 and running_version(engine, "web") == "5.1.0"


async def test_another_image_needs_the_rights_of_the_container(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:6", version="6.0.0")
    registry.push("app:7", version="7.0.0")
    run(engine, registry, "plain", "app:6")
    run(engine, registry, "mounting", "app:6", binds=["/:/host"])
    registry.push("app:6", version="6.1.0")
    seven = {"image": registry.image("app:7"), "watch": 0}

    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:

        async def operate(**arguments: Any) -> dict[str, str]:
            result = await client.call_tool("update_container", arguments, meta=OPERATE)  # type: ignore[arg-type]
            return (result.meta or {}).get(protocol_keys.ERROR, {}) if result.is_error else {}

        refused = await operate(name="mounting", **seven)
        assert refused["code"] == "denied" and "mounts the folder `/` of the host" in refused["message"]
        assert await operate(name="plain", **seven) == {}
        assert await operate(name="mounting", watch=0) == {}, "the newest image of the tag that its owner chose"

    assert (running_version(engine, "plain"), running_version(engine, "mounting")) == ("7.0.0", "6.1.0")


def test_the_container_of_this_server_needs_more_rights_and_a_home_in_a_volume(
    engine: RealEngine, registry: TagRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.push("app:10", version="1.0.0")
    own = run(engine, registry, "own", "app:10")
    engine.run("joined", network_mode=f"container:{own}")
    registry.push("app:10", version="1.1.0")
    here = own_container.OwnMounts(frozenset({own}), "", frozenset())
    monkeypatch.setattr(own_container, "own_mounts", lambda: here)

    async def operate() -> str:
        async with aclosing(Node(load(), serving=True)) as node, Client(node.server) as client:
            return str(await client.call_tool("update_container", {"name": "own", "watch": 0}, meta=OPERATE))  # type: ignore[arg-type]

    assert "the container of this server, needs the scope `exec`" in anyio.run(operate)
    (row,) = anvyl("call", "list_updates", "--json").json["hosts"].popitem()[1]["result"]["updates"]
    assert row["own"] and row["note"] == "this server runs in it: updated last"

    done = anvyl("update", "--all", "--yes", "--watch", "0")

    assert done.code == 1 and "is not in a volume of `own`, so its keys, tokens and hosts would be lost" in done.err
    assert "this server runs in `own`, and could not start again by itself" in anvyl("stop", "own").err
    assert "this server runs in `own`" in anvyl("rm", "own", "--force", "--yes").err
    assert engine.state("own") == "running" and names(engine) == {"own", "joined"}


async def test_a_log_in_made_while_the_server_runs_is_used(
    engine: RealEngine, registry: TagRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.push("private:1", version="1.0.0")
    run(engine, registry, "web", "private:1")
    registry.push("private:1", version="1.1.0")
    known = f"Basic {base64.b64encode(b'anna:secret').decode()}"

    def guarded(method: str, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        return None if headers.get("authorization") == known else (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"{}")

    def log_in(password: str) -> None:
        auth = base64.b64encode(f"anna:{password}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.name: {"auth": auth}}}), encoding="utf-8")

    registry.fault = guarded
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    log_in("mistyped")
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        arguments = {"name": "web", "watch": 0, "min_age": "0"}
        refused = await client.call_tool("update_container", arguments)
        assert refused.is_error and "could not be pulled" in str(refused.content)
        log_in("secret")
        done = await client.call_tool("update_container", arguments)
    assert not done.is_error and running_version(engine, "web") == "1.1.0"


def test_an_old_image_goes_after_a_day_unless_it_is_used_or_has_another_tag(
    engine: RealEngine, registry: TagRegistry
) -> None:
    cases = ("gone", "tagged", "used")
    old = {}
    for name in cases:
        registry.push(f"{name}:1", version="1.0.0", Env=[f"NAME={name}"])
        run(engine, registry, name, f"{name}:1")
        old[name] = str(engine.api.inspect_container(name)["Image"])
        registry.push(f"{name}:1", version="1.1.0", Env=[f"NAME={name}"])
        assert update(name, "watch=0").code == 0
    engine.create("other", image=old["used"])
    engine.api.tag(old["tagged"], "mine", "1")
    kept = {tag for one in engine.api.images() for tag in one["RepoTags"] or () if tag.startswith("anvyl-kept/")}
    assert {tag.partition(":")[0] for tag in kept} >= {f"anvyl-kept/{name}" for name in cases}
    assert update("gone").code == 0 and image_ids(engine) >= set(old.values()), "not yet"
    for tag in kept:
        engine.api.tag(tag, tag.partition(":")[0], str(int(time.time()) - 24 * 3600 - 5))
        engine.api.remove_image(tag)

    assert update("gone").code == 0

    assert image_ids(engine) & set(old.values()) == {old["tagged"], old["used"]}
    left = {tag for one in engine.api.images() for tag in one["RepoTags"] or ()}
    assert "mine:1" in left and not any(tag.startswith("anvyl-kept/tagged") for tag in left)
    engine.api.remove_container("other")
    assert update("gone").code == 0 and old["used"] not in image_ids(engine)
    engine.api.remove_image("mine:1")


async def test_a_cancelled_update_says_what_runs(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:8", version="8.0.0")
    run(engine, registry, "web", "app:8")
    registry.push("app:8", version="8.1.0")
    scope = anyio.CancelScope()

    async def cancel(progress: float, total: float | None, message: str | None) -> None:
        if "watching web:" in (message or ""):
            scope.cancel()

    operation = {protocol_keys.OPERATION: "cancelled-update"}
    arguments = {"name": "web", "watch": 600}
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        with scope:
            await client.call_tool("update_container", arguments, progress_callback=cancel, meta=operation)  # type: ignore[arg-type]
        with anyio.fail_after(20):
            result = await client.call_tool("update_container", arguments, meta=operation)  # type: ignore[arg-type]

    said = (result.meta or {})[protocol_keys.ERROR]
    assert said["code"] == "cancelled" and "web runs" in said["message"] and "not watched to the end" in said["message"]
    assert running_version(engine, "web") == "8.1.0" and names(engine) == {"web"}
    assert image_id(engine, registry.image("app:8")) == engine.api.inspect_container("web")["Image"]


@pytest.mark.parametrize(
    ("step", "version"), [pytest.param("created", "9.0.0", marks=pytest.mark.long), ("watching", "9.1.0")]
)
async def test_an_update_whose_process_is_killed_is_put_right_at_the_next_start(
    engine: RealEngine, registry: TagRegistry, tmp_path: Path, step: str, version: str
) -> None:
    registry.push("app:9", version="9.0.0")
    run(engine, registry, "web", "app:9")
    old = engine.api.inspect_container("web")["Image"]
    registry.push("app:9", version="9.1.0")
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("STEP", step), encoding="utf-8")

    killed = await anyio.run_process([sys.executable, str(script)], check=False)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(names(engine)) == 2, "the old one and the new one"
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(here.tend_updates)
            with anyio.fail_after(20):
                # Neither the engine nor the file tells that it is done.
                while len(names(engine)) > 1 or UpdateRecords(load().state_dir).running():  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            group.cancel_scope.cancel()
        result = await client.call_tool("update_container", ARGUMENTS, meta=OPERATION)  # type: ignore[arg-type]
    assert names(engine) == {"web"} and running_version(engine, "web") == version
    if version == "9.0.0":
        said = (result.meta or {})[protocol_keys.ERROR]["message"]
        assert said == "the server ended during the update of `web`; its old image runs again"
        assert image_id(engine, registry.image("app:9")) == old
    else:
        assert (result.structured_content or {})["updated"] is True


def test_a_server_puts_an_interrupted_update_right_when_it_starts(
    engine: RealEngine, registry: TagRegistry, tmp_path: Path
) -> None:
    registry.push("app:9", version="9.0.0")
    run(engine, registry, "web", "app:9")
    registry.push("app:9", version="9.1.0")
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("STEP", "swapping"), encoding="utf-8")
    assert subprocess.run([sys.executable, str(script)], check=False).returncode == -signal.SIGKILL

    with running_node("here", tmp_path, engine) as node:
        assert "its old image runs again" in next(line for line in iter(node.line, "") if "update" in line)

    assert names(engine) == {"web"} and running_version(engine, "web") == "9.0.0"


def test_a_stack_is_updated_and_taken_back_as_a_whole(engine: RealEngine, registry: TagRegistry) -> None:

    def service(name: str, tag: str, **options: Any) -> None:
        labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": name}
        run(engine, registry, f"shop-{name}-1", tag, labels=labels, **options)

    registry.push("web:1", version="1.0.0")
    registry.push("db:1", version="1.0.0")
    service("web", "web:1")
    service("db", "db:1")
    service("api", "web:1", network_mode="container:shop-web-1")
    registry.push("web:1", version="1.1.0")
    registry.push("db:1", version="1.1.0", command=["false"])

    failed = anvyl("call", "update_stack", "name=shop", WATCH)

    assert failed.code == 1 and "with its old image: with the new one `shop-db-1` ended" in failed.err
    assert [running_version(engine, f"shop-{one}-1") for one in ("web", "db")] == ["1.0.0", "1.0.0"]
    registry.push("db:1", version="1.2.0")

    done = anvyl("update", "shop", "--watch", "0")

    assert done.code == 0, done.err
    assert [running_version(engine, f"shop-{one}-1") for one in ("web", "db", "api")] == ["1.1.0", "1.2.0", "1.1.0"]
    undone = anvyl("undo", "--yes")
    assert undone.code == 0, undone.err
    assert [running_version(engine, f"shop-{one}-1") for one in ("web", "db", "api")] == ["1.0.0"] * 3


def test_everything_is_updated_after_a_question_except_what_is_left_out(
    engine: RealEngine, registry: TagRegistry
) -> None:
    for name in ("web", "db", "api"):
        registry.push(f"{name}:2", version="2.0.0")
        run(engine, registry, name, f"{name}:2")
        registry.push(f"{name}:2", version="2.1.0")

    asked = anvyl("update", "--all", "--except", "db")
    assert asked.code == 5 and "api: 2.0.0 → 2.1.0 minor" in asked.err and "add --yes" in asked.err
    assert anvyl("update", "--all", "--except", "dv", "--yes").code == 1
    assert {running_version(engine, name) for name in names(engine)} == {"2.0.0"}

    done = anvyl("update", "--all", "--except", "db", "--yes", "--json", "--watch", "0")

    assert done.code == 0, done.err
    assert {one["arguments"]["name"] for one in done.json["calls"]} == {"web", "api"}
    assert [(one["name"], one["why"]) for one in done.json["skipped"]] == [("db", "excluded")]
    assert {name: running_version(engine, name) for name in ("web", "db", "api")} == {
        "web": "2.1.0",
        "db": "2.0.0",
        "api": "2.1.0",
    }
    one = anvyl("update", "db", "--watch=0")
    assert one.code == 0 and "Updated db on" in one.out and running_version(engine, "db") == "2.1.0"
    again = anvyl("update", "db")
    assert again.code == 0 and "db is already up to date" in again.out and "Updated" not in again.out
    assert anvyl("update").code == 2 and anvyl("update", "nothing").code == 1
    assert anvyl("update", "db", "--watch", "901").code == 2
    assert "everything is up to date" in anvyl("update", "--all", "--yes").err
