"""A name is never used as a path: with any name, only objects of the right kind are requested from the engine.

Docker's router cleans `..` out of a path and redirects to what is left, so that `remove_image ../containers/db` removed
a container. Findings 2 (security), A14 and B1 to B6 (field bugs).
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from docker.errors import APIError
from mcp import Client, MCPError
from mcp.types import PromptReference, ResourceTemplateReference

from anvyl_mcp.app.node import Node
from anvyl_mcp.app.policy_trial import try_policy
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.engine.client import InvalidObjectName
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.http.host_state import HostState
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.tool import Tool
from anvyl_mcp.server.toolsets import load_tools
from tests.server.tools.test_tools import call, refused
from tests.support.engine.daemon import UnavailableError
from tests.support.engine.engines import RealEngine
from tests.support.engine.fake_engine import FakeEngine
from tests.support.engine.podman import IMAGE, private_podman

DENIED = """
[[deny]]
tools = ["remove_*", "stop_container"]
containers = ["prod-*"]

[[deny]]
tools = ["remove_volume"]
volumes = ["db-*"]

[[deny]]
tools = ["remove_network"]
networks = ["prod-*"]
"""
BY_TOOLS, BY_CLIENT = 700, 9_300
"""Number of random names, through the MCP client and directly through the engine client, which plugins may use."""
PIECES = [
    "/", "//", "..", "../", "/..", ".", "./", "%2f", "%2F", "%2e%2e", "%252e%252e%252f", "?", "#", "\\", "..\\", "\0",
    ";", "&", "@", ":", "\u2024", "\u2024\u2024", "\uff0e", "\uff0e\uff0e", "\u2025", "\u2215", "\u2044", "\uff0f",
    "\n", "\r\n", " ", "\t",
    "json", "create", "prune", "containers/", "images/", "networks/", "volumes/", "plugins/", "distribution/", "swarm",
    "v1.41", "web", "keep", "busybox", "latest", "sha256:", "a" * 64, "127.0.0.1:4801/", "http://", "unix:", "é", "٣",
]  # fmt: skip
OWN = {
    "containers": r"/containers/(json|create|NAME|NAME/(json|start|stop|restart|logs|stats|exec))|"
    r"/exec/NAME/(json|start)|/images/(json|create|IMAGE/json)|/networks(/NAME)?|/volumes/NAME",
    "images": r"/images/(json|create|IMAGE|IMAGE/json)",
    "networks": r"/networks|/networks/(create|NAME|NAME/connect|NAME/disconnect)|/containers/(json|NAME/json)",
    "volumes": r"/volumes|/volumes/(create|NAME)|/containers/json",
    "system": r"/events|/system/df|/(containers|images|networks|volumes|build)/prune|/containers/json",
    "undo": r"/containers/(json|NAME/json)",
    "host": r"/info|/version|/containers/json",
    "stacks": r"/containers/(json|NAME/json)|/networks|/volumes|/images/(json|IMAGE/json)",
    "history": r"/events|/containers/(json|NAME/json)|/info",
    "swarm": r"/info|/images/(json|IMAGE/json)|/distribution/IMAGE/json|/services(/(create|NAME|NAME/(update|logs)))?|"
    r"/nodes(/NAME(/update)?)?|/tasks|/networks|/volumes/NAME",
    "updates": r"/containers/(json|NAME/json)|/images/(json|create|IMAGE/json)|/volumes/NAME",
}
"""Request paths that each toolset may use."""
ALWAYS = r"/_ping|/version|/info"
SAMPLES = {
    "name": "web", "container": "web", "network": "bridge", "image": "busybox:latest", "command": "true",
    "operation": "x", "what": "containers", "service": "web", "node": "here", "replicas": 1, "role": "worker",
}  # fmt: skip


def policy(content: str) -> None:
    file = load().policy_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "e.sock") as started:
        monkeypatch.setenv("DOCKER_HOST", started.url)
        started.add("web")
        started.add("keep")
        yield started


def name(chance: random.Random) -> str:
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 6)))


def strange(toolset: str, requests: list[str]) -> list[str]:
    """Requests that the engine would resolve to something outside of the toolset."""
    grammar = f"{OWN[toolset]}|{ALWAYS}".replace("NAME", object_names.PLAIN_NAME.pattern).replace(
        "IMAGE", object_names.IMAGE.pattern
    )
    return [one for one in requests if not re.fullmatch(grammar, unquote(one.partition(" ")[2]), re.ASCII)]


def judged(tool: str, *words: str) -> dict[str, Any]:
    """Decision of `anvyl-mcp policy test` for a call."""
    return try_policy(load(), tool, list(words), caller="local", scope="", labels={})


def hostile(tool: Tool, argument: str, value: str) -> dict[str, Any]:
    schema = tool.input_schema
    given = {one: SAMPLES[one] for one in schema.get("required", ())}
    return {**given, argument: [value] if schema["properties"][argument]["type"] == "array" else value}


ASKING = [
    (tool, argument)
    for tool in load_tools()
    for argument, schema in tool.input_schema["properties"].items()
    if Engine in tool.injected.values() and schema.get("type") in ("string", "array") and "enum" not in schema
]
"""All string arguments of tools that use the engine."""


async def test_no_name_makes_a_tool_request_another_kind_of_object(fake: FakeEngine) -> None:
    """Through the official client, with a policy that needs object lookups."""
    policy('[[deny]]\ncontainers = ["never"]\nimages = ["never"]\nnetworks = ["never"]\nvolumes = ["never"]\n')
    chance = random.Random(13)
    assert {tool.name for tool, _ in ASKING} >= {"get_container_info", "remove_image", "remove_volume", "undo_change"}
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as client:
        for number in range(BY_TOOLS):
            tool, argument = ASKING[number % len(ASKING)]
            arguments = hostile(tool, argument, name(chance))
            result = await client.call_tool(tool.name, arguments)
            code = (result.meta or {}).get(protocol_keys.ERROR, {}).get("code")
            assert code != "internal_error", (tool.name, arguments, result.content)
            assert strange(tool.toolset, fake.requests) == [], (tool.name, arguments)
            fake.requests.clear()
    assert {box.name for box in fake.containers.values()} >= {"web", "keep"}


ENGINE_CALLS = {
    "containers": ("inspect_container", "start", "stop", "restart", "remove_container"),
    "images": ("inspect_image", "remove_image", "history"),
    "networks": ("inspect_network", "remove_network"),
    "volumes": ("inspect_volume", "remove_volume"),
}
CALLS = [(kind, method) for kind, methods in ENGINE_CALLS.items() for method in methods]


def test_no_name_makes_the_engine_client_request_another_kind_of_object(fake: FakeEngine) -> None:
    chance, refusals = random.Random(16), 0
    with contextlib.closing(Engine()) as engine:
        client = engine.client()
        for number in range(BY_CLIENT):
            (kind, method), typed = CALLS[number % len(CALLS)], name(chance)
            fake.requests.clear()
            try:
                getattr(client, method)(typed)
            except InvalidObjectName:
                assert fake.requests == []
                refusals += 1
            except APIError:
                pass
            grammar = object_names.IMAGE if kind == "images" else object_names.PLAIN_NAME
            pattern = rf"\w+ /{kind}/(?:{grammar.pattern})(?:/\w+)?"
            assert [one for one in fake.requests if not re.fullmatch(pattern, one, re.ASCII)] == [], typed
    assert refusals > BY_CLIENT * 0.9


async def test_no_resource_prompt_or_completion_requests_another_kind_of_object(fake: FakeEngine) -> None:
    chance, refusals = random.Random(14), 0
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        for _ in range(100):
            typed = name(chance)
            where = ResourceTemplateReference(type="ref/resource", uri="anvyl://containers/{name}")
            await client.complete(where, {"name": "name", "value": typed})
            await client.complete(
                PromptReference(type="ref/prompt", name="diagnose_container"), {"name": "name", "value": typed}
            )
            for uri in (typed, quote(typed, safe=""), quote(quote(typed, safe=""), safe="")):
                for place in (f"anvyl://containers/{uri}", f"anvyl://containers/{uri}/logs"):
                    try:
                        await client.read_resource(place)
                    except MCPError:
                        refusals += 1
            try:
                await client.get_prompt("diagnose_container", {"name": typed})
            except MCPError:
                refusals += 1
    assert refusals > 500
    assert strange("containers", fake.requests) == []


def test_no_name_makes_a_policy_test_request_another_kind_of_object(fake: FakeEngine) -> None:
    policy(DENIED)
    chance = random.Random(15)
    for number in range(100):
        tool, argument = ASKING[number % len(ASKING)]
        given = hostile(tool, argument, name(chance))
        words = [f"{key}={''.join(value) if isinstance(value, list) else value}" for key, value in given.items()]
        judged(tool.name, *words)
        assert strange(tool.toolset, fake.requests) == [], given
        fake.requests.clear()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            "image",
            ["nginx", "nginx:1.27", "reg.example:5000/team/app:2", "localhost/a", "a/b-c__d.e", "0f3b1c",
             "sha256:" + "a" * 64, "[::1]:5000/a", "app@sha256:" + "b" * 64, "app:1@sha256:" + "b" * 64,
             "docker.io/library/busybox:latest"],
            ["", ".", "..", "../a", "a/../b", "a//b", "/a", "a/", "a/./b", "a..b", "a:", "a:..", "a:b/c", "a%2fb",
             "a?b", "a#b", "a\\b", "a\0", "a\n", "a b", "\uff0e\uff0e/a", "a\u2024b", "-a", "A B", "x" * 513],
        ),
        (
            "container",
            ["web", "web-1", "a.b_c", "0", "a" * 64, "Plex"],
            ["", ".", "..", "/web", "a/b", "../web", "-a", "_a", ".a", "a%2fb", "a?b", "a#b", "a\\b", "a\0b", "a\n",
             "ａ", "a\u2024b", "a:b", "x" * 513],
        ),
    ],
    ids=["image", "plain"],
)  # fmt: skip
def test_the_grammar_of_names(kind: str, good: list[str], bad: list[str]) -> None:
    assert [one for one in good if not object_names.is_valid(kind, one)] == []
    assert [one for one in bad if object_names.is_valid(kind, one)] == []


@pytest.fixture
async def client(engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as opened:
        yield opened


async def test_a_path_bypasses_no_policy_rule(client: Client, engine: RealEngine) -> None:
    """B1 to B6: each of these once removed or stopped a protected container."""
    policy(DENIED)
    engine.run("prod-db")
    engine.run("Web")
    engine.api.create_volume("db-data")
    engine.api.create_network("prod-net")
    try:
        for tool, argument, path, near in (
            ("remove_volume", "name", "x/../db-data", "db-data"),
            ("remove_volume", "name", "../networks/prod-net", ""),
            ("remove_volume", "name", "../containers/prod-db", ""),
            ("remove_network", "name", "x/../prod-net", "prod-net"),
            ("remove_network", "name", "../volumes/db-data", ""),
            ("remove_image", "image", "../containers/prod-db", ""),
            ("remove_image", "image", "tmp/../../containers/prod-db", ""),
            ("stop_container", "name", "x/../Web", "Web"),
            ("stop_container", "name", "x/../prod-db", "prod-db"),
            ("remove_container", "name", "../images/busybox", ""),
            ("get_container_info", "name", "../distribution/127.0.0.1:1/x", ""),
            ("get_container_logs", "name", "../images/busybox", ""),
        ):
            error = await refused(
                client, tool, **{argument: path}, **({"force": True} if tool == "remove_image" else {})
            )
            assert error["code"] in ("not_found", "denied") and path in error["message"], error
            assert error["hint"], error
            assert error["code"] == "denied" or not near or f"`{near}`" in error["hint"], error
        assert engine.state("prod-db") == engine.state("Web") == "running"
        assert engine.api.inspect_volume("db-data") and engine.api.inspect_network("prod-net")
        for words in (["remove_image", "image=../containers/prod-db"], ["remove_volume", "name=x/../db-data"]):
            assert judged(*words)["by"] == "names"
        assert (await call(client, "stop_container", name="/Web"))["name"] == "Web"
        assert (await refused(client, "stop_container", name="/prod-db"))["code"] == "denied"
    finally:
        engine.clean()
        engine.api.remove_volume("db-data")
        engine.api.remove_network("prod-net")


async def test_a_refused_name_is_recorded_as_refused_in_the_audit_log(client: Client, engine: RealEngine) -> None:
    await refused(client, "remove_volume", name="../networks/bridge")

    record = [*HostState(load().state_dir).records(since=None, tool="")][-1]
    assert (record["tool"], record["outcome"]) == ("remove_volume", "failed")


async def test_a_resource_gives_no_access_to_another_service(client: Client, engine: RealEngine) -> None:
    """With scope `read`, the engine requested an image from any address, as root, and returned the response."""
    for name in ("..%2Fdistribution%2F127.0.0.1:1%2Fx", "%2e%2e%2fimages%2fbusybox", "..%252Fimages%252Fbusybox"):
        with pytest.raises(MCPError, match="there is no container") as error:
            await client.read_resource(f"anvyl://containers/{name}")
        assert "refused" not in str(error.value)
    with pytest.raises(MCPError, match="is not a valid container name"):
        await client.get_prompt("diagnose_container", {"name": "../images/busybox"})


async def test_redirects_of_an_engine_are_not_followed(fake: FakeEngine) -> None:
    fake.redirects["/containers/json"] = "/images/json"
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        error = await refused(client, "list_containers")
    assert error["code"] == "engine_error" and "redirect" in error["message"]
    assert "GET /images/json" not in fake.requests


async def test_an_ambiguous_id_prefix_is_answered_with_the_names(client: Client, engine: RealEngine) -> None:
    ids: dict[str, str] = {}
    while not (shared := [one for one in ids if sum(other[0] == ids[one][0] for other in ids.values()) > 1]):
        ids[f"box{len(ids)}"] = engine.create(f"box{len(ids)}")
    error = await refused(client, "get_container_info", name=ids[shared[0]][0])

    assert error["code"] == "conflict" and "several container ids" in error["message"]
    assert error["hint"].startswith("which one? ") and all(f"`{one}`" in error["hint"] for one in shared)
    for whole in (ids[shared[0]], ids[shared[0]][:12]):
        assert (await call(client, "get_container_info", name=whole))["name"] == shared[0]


@pytest.fixture(scope="module")
def podman() -> Iterator[RealEngine]:
    try:
        with private_podman("podman-names") as started:
            yield started
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.engine
async def test_podman_does_not_accept_a_path_as_a_name_either(
    podman: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", podman.url)
    podman.run("keep", image=IMAGE, init=False)
    podman.api.create_volume("data")
    podman.api.tag(IMAGE, "docker.io/library/other", "1")
    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as client:
        for tool, given in (
            ("remove_image", {"image": "../containers/keep", "force": True}),
            ("remove_volume", {"name": "x/../data"}),
            ("stop_container", {"name": "x/../keep"}),
            ("get_container_info", {"name": "../images/busybox"}),
        ):
            assert (await refused(client, tool, **given))["code"] == "not_found"
        # Podman accepts a prefix of a volume name, which a rule for the volume would not match.
        policy('[[deny]]\nvolumes = ["data"]\n')
        for beginning in ("dat", "d"):
            assert (await refused(client, "remove_volume", name=beginning))["code"] == "not_found"
        assert (await refused(client, "remove_volume", name="data"))["code"] == "denied"
        policy("")
        assert podman.state("keep") == "running" and podman.api.inspect_volume("data")
        # Names with slashes remain valid.
        assert (await call(client, "remove_image", image="docker.io/library/other:1"))["untagged"]
        assert (await call(client, "remove_volume", name="data"))["removed"]
