"""Stacks on a real engine: deployed, changed, compared, reverted, stopped and removed, and who may do so."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.containers import own_container
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.stacks.compose_runner import Compose
from tests.server.tools.test_tools import call, refused, words
from tests.support.engine.docker_registry import docker_registry
from tests.support.engine.engines import RealEngine

OPERATOR: Any = {protocol_keys.SCOPES: ["read", "operate"], protocol_keys.FOR: "operator"}
SHOP = """
services:
  web:
    image: anvyl-test/web:${TAG}
    init: true
    environment:
      MODE: slow
      API_KEY: ${KEY}
    volumes: [data:/data]
    depends_on: [db]
  db:
    image: anvyl-test/busybox:latest
    init: true
volumes: {data: {}}
"""
DOTENV = ["TAG=1", "KEY=fjordhorse7"]


@pytest.fixture
async def client(engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    monkeypatch.setattr("anvyl_mcp.server.stacks.lifecycle.SETTLE_SECONDS", 0.2)
    monkeypatch.setattr("anvyl_mcp.server.stacks.lifecycle.POLL_SECONDS", 0.1)
    async with aclosing(Node(load())) as here, Client(here.server) as opened:
        yield opened
    for network in engine.api.networks(filters={"label": "com.docker.compose.project"}):
        for one in engine.api.containers(all=True, filters={"network": network["Name"]}):
            engine.api.remove_container(one["Id"], force=True)
        engine.api.remove_network(network["Id"])
    for volume in engine.api.volumes(filters={"label": "com.docker.compose.project"})["Volumes"] or ():
        for one in engine.api.containers(all=True, filters={"volume": volume["Name"]}):
            engine.api.remove_container(one["Id"], force=True)
        engine.api.remove_volume(volume["Name"])


async def denied(client: Client, tool: str, **arguments: Any) -> str:
    """The message for a caller without `exec`, which must be refused."""
    result = await client.call_tool(tool, arguments, meta=OPERATOR)
    assert result.is_error, words(result)
    assert (result.meta or {})[protocol_keys.ERROR]["code"] == "denied", words(result)
    return words(result)


def changes(result: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    return {one["service"]: (one["change"], one["details"]) for one in result["changes"]}


def files_with(words: str, folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and words.encode() in file.read_bytes())


async def test_a_stack_goes_up_changes_and_comes_down(client: Client, engine: RealEngine, tmp_path: Path) -> None:
    planned = await call(client, "deploy_stack", name="shop", compose=SHOP, dotenv=DOTENV, dry_run=True)
    assert {name: change for name, (change, _) in changes(planned).items()} == {"db": "added", "web": "added"}
    assert engine.state("shop-web-1") is None

    result = await client.call_tool("deploy_stack", {"name": "shop", "compose": SHOP, "dotenv": DOTENV}, meta=OPERATOR)
    assert not result.is_error, words(result)
    assert (result.structured_content or {})["status"] == "running"
    assert engine.state("shop-web-1") == engine.state("shop-db-1") == "running"

    again = await call(client, "deploy_stack", name="shop", compose=SHOP, dotenv=DOTENV)
    assert (again["changes"], again["version"]) == ([], "1")

    # The value of a variable and of the environment is never shown, only that it changed.
    slower = (
        SHOP.replace("slow", "slower")
        .replace("[db]", "[db]\n    hostname: ${KEY}")
        .replace("  db:", "  cache:\n    image: anvyl-test/web:1\n  db:")
    )
    planned = await call(
        client, "deploy_stack", name="shop", compose=slower, dotenv=["TAG=1", "KEY=tundra55"], dry_run=True
    )
    assert changes(planned) == {
        "web": ("changed", ["environment API_KEY changed, MODE changed", "hostname none → ${KEY}"]),
        "cache": ("added", ["anvyl-test/web:1"]),
        "db": ("unchanged", []),
    }
    database = engine.api.inspect_container("shop-db-1")["Id"]
    await call(client, "deploy_stack", name="shop", compose=slower, dotenv=DOTENV)
    assert engine.api.inspect_container("shop-db-1")["Id"] == database
    assert "MODE=slower" in engine.api.inspect_container("shop-web-1")["Config"]["Env"]

    back = await call(client, "revert_stack", name="shop")
    assert {name: change for name, (change, _) in changes(back).items()} == {"cache": "removed", "web": "changed"}
    assert engine.state("shop-cache-1") is None
    assert "API_KEY=fjordhorse7" in engine.api.inspect_container("shop-web-1")["Config"]["Env"]

    info = await call(client, "get_stack_info", name="shop", file=True)
    assert [(one["version"], one["outcome"], one["note"]) for one in info["versions"]] == [
        ("3", "running", "reverted to version 1"),
        ("2", "deployed", ""),
        ("1", "deployed", ""),
    ]
    assert "MODE: slow" in info["compose"]
    kept = tmp_path / "stacks/shop"
    assert {stat.S_IMODE(file.stat().st_mode) for file in kept.iterdir()} == {0o600}
    assert files_with("fjordhorse7", tmp_path) == files_with("fjordhorse7", kept) != []

    gone = ["container shop-db-1", "container shop-web-1", "network shop_default"]
    asked = await client.call_tool("remove_stack", {"name": "shop", "dry_run": True})
    assert words(asked).splitlines() == [
        "shop: would be removed",
        *(f"removes {one}" for one in gone),
        "keeps volume shop_data",
    ]
    asked = await client.call_tool("remove_stack", {"name": "shop", "dry_run": True, "volumes": True})
    assert words(asked).splitlines()[-1] == "removes volume shop_data with all its data"
    removed = await call(client, "remove_stack", name="shop")
    assert removed["kept"] == ["volume shop_data"]
    assert removed["removed"] == gone
    assert engine.api.inspect_volume("shop_data")
    assert [one["state"] for one in (await call(client, "list_stacks", all=True))["stacks"]] == ["removed"]
    assert (await call(client, "list_stacks"))["stacks"] == []
    assert (await call(client, "revert_stack", name="shop"))["status"] == "running"
    await call(client, "remove_stack", name="shop")
    # Also what an earlier removal left.
    assert (await call(client, "remove_stack", name="shop", volumes=True))["removed"] == ["volume shop_data"]
    assert (await refused(client, "remove_stack", name="shop", volumes=True))["code"] == "not_found"


async def test_a_stack_stops_starts_and_restarts_as_a_whole(
    client: Client, engine: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = SHOP.replace("init: true\nvol", 'init: true\n    healthcheck: {test: [CMD, "true"], interval: 1s}\nvol')
    compose = compose.replace("depends_on: [db]", "depends_on: {db: {condition: service_healthy}}")
    await call(client, "deploy_stack", name="shop", compose=compose, dotenv=DOTENV)

    assert (await call(client, "stop_stack", name="shop"))["status"] == "stopped"
    assert engine.state("shop-web-1") == engine.state("shop-db-1") == "exited"
    listed = await call(client, "list_containers", all=True)
    assert [one["problem"] for one in listed["containers"]] == ["", ""]
    undo = await call(client, "get_last_change")
    assert not undo["possible"] and "with the whole stack `shop`" in undo["reason"]

    assert (await call(client, "start_stack", name="shop"))["status"] == "running"
    web, database = (engine.api.inspect_container(f"shop-{one}-1")["State"] for one in ("web", "db"))
    assert web["StartedAt"] > database["StartedAt"] and database["Health"]["Status"] == "healthy"
    assert (await call(client, "restart_stack", name="shop"))["status"] == "running"
    web = engine.api.inspect_container("shop-web-1")
    assert web["State"]["StartedAt"] > database["StartedAt"]

    here = own_container.OwnMounts(frozenset({web["Id"]}), places=frozenset({"/data"}))
    monkeypatch.setattr(own_container, "own_mounts", lambda: here)
    for tool in ("stop_stack", "restart_stack", "remove_stack"):
        message = (await refused(client, tool, name="shop"))["message"]
        assert message == "this server runs in `shop-web-1` of the stack `shop`, and could not start again by itself"
    changed = compose.replace("slow", "slower")
    message = (await refused(client, "deploy_stack", name="shop", compose=changed, dotenv=DOTENV))["message"]
    assert "this server runs in `shop-web-1`" in message and engine.state("shop-web-1") == "running"


async def test_logs_of_a_stack_are_in_order_of_time(client: Client, engine: RealEngine) -> None:
    script = "echo {0} first; until [ -e /go ]; do sleep 0.1; done; echo {0} second; sleep 3600"
    compose = json.dumps(
        {
            "services": {
                name: {"image": "anvyl-test/web:1", "init": True, "command": ["sh", "-c", script.format(name)]}
                for name in ("a", "b")
            }
        }
    )
    await call(client, "deploy_stack", name="talk", compose=compose)

    async def logs_of(count: int) -> dict[str, Any]:
        logs = await call(client, "get_stack_logs", name="talk")
        while len(logs["lines"]) < count:
            await anyio.sleep(0.1)  # there is no event for a line
            logs = await call(client, "get_stack_logs", name="talk")
        return logs

    await logs_of(2)
    for number, name in enumerate(("a", "b"), 3):
        command = engine.api.exec_create(f"talk-{name}-1", ["touch", "/go"])
        engine.api.exec_start(command["Id"])
        logs = await logs_of(number)
    assert sorted(logs["lines"][:2]) == ["a-1 | a first", "b-1 | b first"]
    assert logs["lines"][2:] == ["a-1 | a second", "b-1 | b second"]
    assert (await call(client, "get_stack_logs", name="talk", tail=1))["lines"] == ["b-1 | b second"]


async def test_revert_brings_back_the_image_that_ran_after_its_tag_moved(
    client: Client, engine: RealEngine, tmp_path: Path
) -> None:
    with docker_registry(engine, tmp_path) as registry:
        image = f"{registry.address}/app:1"
        compose = f"services:\n  app:\n    image: {image}\n    init: true\n    pull_policy: always\n"
        first = registry.push("app:1", version="one")
        await call(client, "deploy_stack", name="moving", compose=compose)
        assert engine.api.inspect_container("moving-app-1")["Config"]["Labels"]["version"] == "one"

        second = registry.push("app:1", version="two")
        assert first != second
        planned = await call(client, "deploy_stack", name="moving", compose=compose, dry_run=True)
        assert changes(planned)["app"][0] == "changed"
        await call(client, "deploy_stack", name="moving", compose=compose)
        assert engine.api.inspect_container("moving-app-1")["Config"]["Labels"]["version"] == "two"

        # Neither image is left here: what ran is pulled from the registry by its digest.
        engine.api.remove_container("moving-app-1", force=True)
        registry.forget("app:1")
        engine.api.prune_images({"dangling": True})  # type: ignore[no-untyped-call]  # the stubs leave it out
        await call(client, "revert_stack", name="moving", version="1")
        found = engine.api.inspect_container("moving-app-1")
        assert found["Config"]["Labels"]["version"] == "one"
        assert found["Config"]["Image"] == f"{image}@{first}"
        versions = (await call(client, "get_stack_info", name="moving"))["versions"]
        assert versions[0]["images"] == [f"app={image}@{first}"]
        engine.api.remove_container("moving-app-1", force=True)


BAD = {
    "an indentation": ("services:\n  web:\n    image: a\n    bad\n   x: 1\n", "line 5 of the Compose file is invalid"),
    "an unknown key": (
        "services:\n  web:\n    image: a\n    imag: b\n",
        "line 4 .*`imag` is not a key of services.web",
    ),
    "a wrong type": ("services:\n  web:\n    ports: {a: b}\n    image: a\n", "line 3 .*services.web.ports must be a"),
    "a missing variable": (
        "services:\n  web:\n    image: ${X:?which}\n",
        "line 3 .*services.web.image needs the variable `X`, which is not set: which",
    ),
    "a secret in a variable": (
        "services: {web: {image: a, ports: ['${KEY}']}}\n",
        r"invalid containerPort: \$\{KEY\}",
    ),
    "a file that was not sent": (
        "include: [other.yaml]\nservices: {web: {image: a}}\n",
        "only the Compose file and its",
    ),
    "a secret that was not sent": (
        "services: {web: {image: a, secrets: [s]}}\nsecrets: {s: {file: ./pw.txt}}\n",
        "the secret `s` is the file pw.txt, which was not sent",
    ),
    "a key that is there twice": (
        "services:\n  web:\n    image: a\n    image: b\n",
        'line 4 .*mapping key "image" already defined at line 3',
    ),
    "a missing service": ("services:\n  web:\n    image: a\n    depends_on: [db]\n", "line 2 .*undefined service"),
    "no services": ("name: shop\n", "has no services"),
    "no mapping": ("hello\n", "not a Compose file"),
    "two documents": ("services: {web: {image: a}}\n---\ninclude: [/etc/passwd]\n", "line 2 .*another YAML document"),
    "an odd line break": (
        "services: {web: {image: a}}\n#\u2028include: [/etc/passwd]\n",
        "line 2 .*unusual line break",
    ),
    "only profiles": ("services: {web: {image: a, profiles: [p]}}\n", "no active services"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_file_names_its_line_and_changes_nothing(name: str, client: Client, engine: RealEngine) -> None:
    compose, message = BAD[name]
    with pytest.raises(AssertionError, match=message):
        await call(client, "deploy_stack", name="bad", compose=compose, dotenv=DOTENV)
    assert engine.api.containers(all=True) == []


NEEDS_EXEC = {
    "privileged": "privileged: true",
    "bind mount": "volumes: ['/etc:/etc:ro']",
    "relative bind mount": "volumes: ['./data:/data']",
    "bind mount by a variable": "volumes: ['${DIR}:/data']",
    "long bind mount": "volumes: [{type: bind, source: /etc, target: /etc}]",
    "image mount": "volumes: [{type: image, source: busybox, target: /x}]",
    "host network": "network_mode: host",
    "network of a container": "network_mode: 'container:other'",
    "host processes": "pid: host",
    "host memory": "ipc: host",
    "host name": "uts: host",
    "host users": "userns_mode: host",
    "host control groups": "cgroup: host",
    "control group": "cgroup_parent: /x",
    "mounts of a container": "volumes_from: ['container:other']",
    "capability": "cap_add: [SYS_ADMIN]",
    "device": "devices: ['/dev/sda']",
    "device rule": "device_cgroup_rules: ['a *:* rwm']",
    "reserved device": "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
    "security option": "security_opt: ['seccomp:unconfined']",
    "runtime": "runtime: other",
    "kernel setting": "sysctls: {net.ipv4.ip_forward: 1}",
    "group": "group_add: [docker]",
    "out of memory": "oom_score_adj: -1000",
    "log driver": "logging: {driver: syslog}",
    "build": "build: .",
    "environment file": "env_file: /etc/passwd",
    "environment file in a list": "env_file: [{path: /etc/passwd, required: false}]",
    "label file": "label_file: /etc/passwd",
    "extends": "extends: {file: /etc/passwd, service: root}",
    "provider": "provider: {type: anything}",
    "engine socket": "use_api_socket: true",
    "privileged hook": "post_start: [{command: id, privileged: true}]",
    "watched files": "develop: {watch: [{path: /etc, action: sync, target: /x}]}",
    "escaped key": '"en\\u0076_file": /etc/passwd',
    "merged key": "<<: {privileged: true}",
}
NEEDS_EXEC_AT_TOP = {
    "include": "include: [/etc/passwd]",
    "escaped include": '"incl\\x75de": [/etc/passwd]',
    "explicit include": "? include\n: [/etc/passwd]",
    "secret file": "secrets: {s: {file: /etc/passwd}}",
    "config file": "configs: {s: {file: /etc/passwd}}",
    "volume options": "volumes: {vol: {driver_opts: {type: none, o: bind, device: /}}}",
    "volume driver": "volumes: {vol: {driver: other}}",
    "network driver": "networks: {v: {driver: macvlan}}",
    "network options": "networks: {v: {driver_opts: {com.docker.network.bridge.name: br0}}}",
    "network addresses": "networks: {v: {ipam: {config: [{subnet: 8.8.8.0/24}]}}}",
    "host network by name": "networks: {v: {external: true, name: host}}",
}


async def test_what_amounts_to_root_needs_exec_and_reads_no_file(client: Client, engine: RealEngine) -> None:
    """Compose must not even read a file of the host for somebody without `exec`."""
    for name, setting in NEEDS_EXEC.items():
        compose = f"services:\n  web:\n    image: anvyl-test/web:1\n    {setting}\n"
        message = await denied(client, "deploy_stack", name="bad", compose=compose, dotenv=["DIR=/etc"])
        assert "needs the scope `exec`" in message and "`web`" in message and "root:x" not in message, (name, message)
    for name, setting in NEEDS_EXEC_AT_TOP.items():
        uses = "volumes: ['vol:/v']" if setting.startswith("volumes") else "{}"
        uses = "networks: [v]" if setting.startswith("networks") else uses
        uses = f"{setting.partition(':')[0]}: [s]" if setting.startswith(("secrets", "configs")) else uses
        uses = "init: true" if uses == "{}" else uses
        compose = f"services:\n  web:\n    image: anvyl-test/web:1\n    {uses}\n{setting}\n"
        message = await denied(client, "deploy_stack", name="bad", compose=compose)
        assert "needs the scope `exec`" in message and "root:x" not in message, (name, message)
    assert engine.api.containers(all=True) == []


async def test_ordinary_settings_need_no_exec(client: Client, engine: RealEngine) -> None:
    compose = """
x-common: &common
  init: true
  restart: unless-stopped
  logging: {driver: json-file, options: {max-size: 1m}}
services:
  web:
    <<: *common
    image: anvyl-test/web:1
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    security_opt: ["no-new-privileges:true"]
    deploy: {resources: {limits: {memory: 64m}}}
    ulimits: {nofile: 1000}
    tmpfs: /run
    configs: [{source: hello, target: /hello}]
    volumes: ["data:/data", /cache]
    networks: {inside: {aliases: [www]}}
    ports: ["127.0.0.1::80"]
  side:
    <<: *common
    image: anvyl-test/web:1
    network_mode: service:web
configs: {hello: {content: hi}}
networks: {inside: {internal: true}}
volumes: {data: {labels: {a: b}}}
"""
    result = await client.call_tool("deploy_stack", {"name": "plain", "compose": compose}, meta=OPERATOR)
    assert not result.is_error, words(result)
    assert engine.output("plain-web-1", "cat /hello") == "hi"


async def test_labels_and_policy_protect_the_containers_of_a_stack(
    client: Client, engine: RealEngine, tmp_path: Path
) -> None:
    protected = SHOP.replace("init: true\nvol", "init: true\n    labels: {anvyl.protect: 'true'}\nvol")
    await call(client, "deploy_stack", name="shop", compose=protected, dotenv=DOTENV)
    for tool in ("stop_stack", "restart_stack", "remove_stack"):
        assert "must not be changed" in (await refused(client, tool, name="shop"))["message"]
    changed = protected.replace("busybox:latest", "busybox:latest\n    user: nobody")
    refusal = await refused(client, "deploy_stack", name="shop", compose=changed, dotenv=DOTENV)
    assert "`shop-db-1`" in refusal["message"] and "anvyl.protect=true" in refusal["message"]
    database = engine.api.inspect_container("shop-db-1")["Id"]
    await call(client, "deploy_stack", name="shop", compose=protected.replace("slow", "fast"), dotenv=DOTENV)
    assert engine.api.inspect_container("shop-db-1")["Id"] == database
    assert "MODE=fast" in engine.api.inspect_container("shop-web-1")["Config"]["Env"]

    policy = tmp_path / "policy.toml"
    for rule in ("images = ['anvyl-test/web']", "containers = ['shop-web-*']", "stacks = ['shop']"):
        policy.write_text(f"[[deny]]\n{rule}\nsafety = ['changes', 'destroys']\n", encoding="utf-8")
        policy.chmod(0o600)
        faster = protected.replace("slow", "faster")
        refusal = await refused(client, "deploy_stack", name="shop", compose=faster, dotenv=DOTENV)
        assert "denied by the policy" in refusal["message"], rule
    policy.write_text("[[deny]]\ncontainers = ['shop-web-*']\ntools = ['stop_container']\n", encoding="utf-8")
    other = SHOP.replace("${TAG}", "1").replace("data", "other")
    await call(client, "deploy_stack", name="free", compose=other)
    assert (await call(client, "stop_stack", name="free"))["status"] == "stopped"


async def test_a_half_deployed_stack_is_reported_by_service_and_removable(client: Client, engine: RealEngine) -> None:
    crash = SHOP.replace("busybox:latest\n", "busybox:latest\n    command: [sh, -c, 'echo no database; exit 3']\n")
    refusal = await refused(client, "deploy_stack", name="shop", compose=crash, dotenv=DOTENV)
    assert refusal["code"] == "incomplete"
    assert "shop-db-1 exited with code 3 (last log lines: no database); shop-web-1 is fine" in refusal["message"]
    assert (await call(client, "list_stacks"))["stacks"][0]["status"] == "1 of 2 running, 1 problem"
    assert (await call(client, "get_stack_info", name="shop"))["versions"][0]["outcome"] == "failed"
    twice = SHOP.replace("init: true", "init: true\n    ports: ['4999:80']")
    refusal = await refused(client, "deploy_stack", name="shop", compose=twice, dotenv=DOTENV)
    assert refusal["message"].startswith(
        "`shop` was deployed in part: port 4999 is already in use on this host; now shop-"
    )
    assert "shop-db-1 is running" in refusal["message"] and "anvyl stack rm shop" in refusal["hint"]
    assert "could not start: port 4999 is already in use on this host" in str(await call(client, "list_stacks"))
    assert (await call(client, "deploy_stack", name="shop", compose=SHOP, dotenv=DOTENV))["status"] == "running"
    await call(client, "remove_stack", name="shop", volumes=True)


async def test_a_stack_deployed_by_hand_is_adopted_from_its_files(
    client: Client, engine: RealEngine, tmp_path: Path
) -> None:
    folder = tmp_path / "by hand"
    folder.mkdir()
    (folder / "compose.yaml").write_text(SHOP, encoding="utf-8")
    (folder / ".env").write_text("TAG=1\nKEY=fjordhorse7\n", encoding="utf-8")
    Compose(Engine(), "shop", folder, files=[str(folder / "compose.yaml")], env_files=[str(folder / ".env")]).run(
        "up", "--detach", "--pull", "never", seconds=60
    )
    before = engine.api.inspect_container("shop-web-1")["Id"]
    assert "from its own files" in await denied(client, "deploy_stack", name="shop")
    rooted = SHOP.replace("init: true\nvol", "init: true\n    privileged: true\nvol")
    planned = await call(client, "deploy_stack", name="shop", compose=rooted, dotenv=DOTENV, dry_run=True)
    assert planned["warnings"] == [
        f"the containers of `shop` that are here were not deployed through Anvyl ({folder / 'compose.yaml'})",
        "needs the scope exec: `db` runs with all privileges",
    ]
    other = {"name": "shop", "compose": SHOP.replace("slow", "slower"), "dotenv": DOTENV}
    error = await refused(client, "deploy_stack", **other)
    assert error["code"] == "conflict" and "keep it as a version first: anvyl stack adopt shop" in error["hint"]
    adopted = await call(client, "deploy_stack", name="shop")
    assert (adopted["changes"], adopted["version"]) == ([], "1")
    assert engine.api.inspect_container("shop-web-1")["Id"] == before
    version = (await call(client, "get_stack_info", name="shop"))["versions"][0]
    assert version["note"] == f"adopted from {folder / 'compose.yaml'}"

    (folder / "compose.yaml").unlink()
    hand_made = SHOP.replace("slow", "slower")
    await call(client, "deploy_stack", name="shop", compose=hand_made, dotenv=DOTENV)
    await call(client, "revert_stack", name="shop")
    assert "MODE=slow" in engine.api.inspect_container("shop-web-1")["Config"]["Env"]


KILLED = """
import asyncio, sys
from contextlib import aclosing
from mcp import Client
from anvyl_mcp.app.node import Node
from anvyl_mcp.core.settings import load
async def main():
    async def note(progress, total, message):
        print(message, flush=True)
    async with aclosing(Node(load())) as here, Client(here.server) as client:
        await client.call_tool("deploy_stack", {"name": "slow", "compose": sys.argv[1]}, progress_callback=note)
asyncio.run(main())
"""


def kill_when(words: str, *command: str) -> None:
    """Run a command, and kill it as soon as it prints these words."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stdout is not None
    with process.stdout as lines:
        assert any(words in line for line in lines)
        process.kill()
        process.wait()


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that no event tells."""
    with anyio.fail_after(20):
        while not await done():  # noqa: ASYNC110
            await anyio.sleep(0.1)


async def test_a_server_killed_during_a_deployment_leaves_a_stack_that_can_be_finished_or_removed(
    client: Client, engine: RealEngine
) -> None:
    never = '{test: [CMD, "false"], interval: 1s, retries: 100}'
    compose = f"""
services:
  db: {{image: anvyl-test/web:1, init: true, healthcheck: {never}}}
  web: {{image: anvyl-test/web:1, init: true, depends_on: {{db: {{condition: service_healthy}}}}}}
"""
    await anyio.to_thread.run_sync(kill_when, "slow-db-1: start", sys.executable, "-c", KILLED, compose)

    async def database_runs() -> bool:
        return engine.state("slow-db-1") == "running"

    await until(database_runs)
    info = await call(client, "get_stack_info", name="slow")
    assert info["versions"][0]["outcome"] == "interrupted"
    assert {one["service"]: one["state"] for one in info["services"]}["db"] == "running"
    fixed = compose.replace('"false"', '"true"')
    assert (await call(client, "deploy_stack", name="slow", compose=fixed))["status"] == "running"
    await call(client, "remove_stack", name="slow")


async def test_a_cancelled_deployment_stops_and_says_so(client: Client, engine: RealEngine) -> None:
    compose = """
services:
  db: {image: anvyl-test/web:1, init: true, healthcheck: {test: [CMD, "false"], interval: 1s, retries: 100}}
  web: {image: anvyl-test/web:1, init: true, depends_on: {db: {condition: service_healthy}}}
"""
    scope = anyio.CancelScope()

    async def cancel(progress: float, total: float | None, message: str | None) -> None:
        if "slow-db-1" in (message or ""):
            scope.cancel()

    with scope:
        await client.call_tool("deploy_stack", {"name": "slow", "compose": compose}, progress_callback=cancel)

    async def unlocked() -> bool:
        return not (await client.call_tool("remove_stack", {"name": "slow"})).is_error

    await until(unlocked)
    assert engine.state("slow-db-1") is engine.state("slow-web-1") is None
