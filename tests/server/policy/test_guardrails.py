"""Calls that amount to root need `exec`, however they are written; labels restrict and never grant."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import aclosing
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import Denied
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.auth.callers import SCOPES
from anvyl_mcp.server.policy.guardrails import (
    GUARDRAILS,
    PROTECT,
    READ,
    check_labels,
    is_hidden,
    is_protected,
    needed_scope,
    reasons,
)
from anvyl_mcp.server.tool import Result, Tool, tool
from anvyl_mcp.server.toolsets import load_tools
from tests.support.engine.engines import RealEngine

TOOLS = {one.name: one for one in load_tools()}
CREATE = TOOLS["create_container"]


class Nothing(Result):
    """A result without content."""


@tool(changes=True, toolset="plugin")
def change_something(name: str) -> Nothing:
    """Change something."""
    return Nothing()


@tool(changes=True, scope="read", toolset="plugin")
def modest_change() -> Nothing:
    """Change something, and declare the scope `read`."""
    return Nothing()


@tool(toolset="plugin")
def look_at_something() -> Nothing:
    """Look."""
    return Nothing()


@tool(untrusted=True, changes=True, toolset="plugin")
def exec_quietly(name: str) -> Nothing:
    """Run something in a container without declaring the scope `exec`."""
    return Nothing()


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """A folder of links to sensitive paths."""
    targets = {
        "root": "/",
        "etc": "/etc",
        "file": "/etc/passwd",
        "new": "/etc/not-there-yet",
        "usr": "/usr",
        "engine": "/var/lib/docker/volumes",
    }
    for name, target in targets.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "second").symlink_to("etc")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "relative").symlink_to("../" * 40 + "proc")
    (tmp_path / "plain").mkdir()
    (tmp_path / "down").symlink_to("/etc/ssl")
    return tmp_path


TRICKS = [
    "/:/host",
    "//:/host",
    "/.:/host:ro",
    "/etc:/x:ro",
    "/etc/:/x:ro",
    "//etc:/x:ro",
    "/./etc/.:/x:ro",
    "/srv/../etc:/x:ro",
    "/srv/../../../etc:/x:ro",
    "/nothing/here/../../etc/shadow:/x:ro",
    "/ETC:/x:ro",
    "/Etc/Shadow:/x:ro",
    "/ｅｔｃ:/x:ro",
    "/etc\n:/x:ro",
    "/etc\u200b:/x:ro",
    " /etc:/x:ro",
    "./etc:/x:ro",
    "../etc:/x:ro",
    "~/.ssh:/x:ro",
    "$HOME:/x:ro",
    "%2fetc:/x:ro",
    "C:\\Windows:/x:ro",
    "C:/Windows:/x:ro",
    "\\\\.\\pipe\\docker_engine:/x",
    "/root:/x:ro",
    "/home:/x:ro",
    "/home/anna:/x:ro",
    "/home/anna/.ssh/id_ed25519:/x:ro",
    "/home/anna/.config/x:/x:ro",
    "/proc/self/root:/x:ro",
    "/proc/1/cwd/srv:/x:ro",
    "/dev/sda:/x",
    "/sys/kernel:/x:ro",
    "/boot:/x:ro",
    "/var:/x:ro",
    "/var/lib:/x:ro",
    "/var/lib/docker/volumes/other/_data:/x:ro",
    "/var/run/docker.sock:/var/run/docker.sock",
    "/run/docker.sock:/s:ro",
    "/run:/x:ro",
    "/srv/elsewhere/docker.sock:/s",
    "/usr:/x",
    "/usr:/x:rw",
    "/usr:/x:z",
    "/usr:/x:ro,rw",
    "/usr/local/bin:/x",
    "/srv/../usr/lib:/x",
    "/var/spool/cron:/x",
    "/srv/data:/x:shared",
    "/srv/data:/x:ro,rshared",
    "type=bind,source=/etc,target=/x,readonly",
    "Type=Bind,SRC=/etc,target=/x",
    'type=bind,"source=/etc",target=/x',
    "type=bind,source=/srv,source=/etc,target=/x",
    "type=bind,target=/x",
    "type=bind,source=/usr,target=/x,readonly=false",
    "type=bind,source=/srv,target=/x,bind-propagation=rshared",
    "type=volume,source=data,target=/x,volume-opt=device=/etc",
    "{links}/root:/x:ro",
    "{links}/root/srv/../etc:/x:ro",
    "{links}/etc:/x:ro",
    "{links}/etc/../etc:/x:ro",
    "{links}/file:/x:ro",
    "{links}/new:/x:ro",
    "{links}/second:/x:ro",
    "{links}/second/ssl/certs:/x:ro",
    "{links}/relative:/x:ro",
    "{links}/loop:/x:ro",
    "{links}/usr/lib:/x",
    "{links}/engine:/x:ro",
    "{links}/down/..:/x:ro",
]


@pytest.mark.parametrize("volume", TRICKS, ids=ascii)
def test_no_spelling_of_a_path_hides_its_target(volume: str, links: Path) -> None:
    arguments = {"image": "busybox", "volumes": [volume.replace("{links}", str(links))]}

    assert needed_scope(CREATE, arguments) == "exec"
    (reason,) = reasons(CREATE, arguments)
    assert reason.split()[0] in ("mounts", "shares", "makes") and reason.isprintable()


@pytest.mark.parametrize(
    "volume",
    [
        "data:/data",
        "d:/data",
        "d:/data:ro",
        "etc:/etc",
        "type=volume,source=data,target=/x",
        "type=tmpfs,target=/x",
    ],
    ids=ascii,
)
def test_named_volumes_need_no_exec(volume: str, links: Path) -> None:
    arguments = {"image": "busybox", "volumes": [volume.replace("{links}", str(links))]}

    assert reasons(CREATE, arguments) == []
    assert needed_scope(CREATE, arguments) == "operate"


def test_a_socket_of_any_name_needs_exec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("engine")

        assert "socket" in reasons(CREATE, {"volumes": [f"{tmp_path}/engine:/x"]})[0]


@pytest.mark.parametrize("volume", ["/srv/data:/data", "/home/anna/films:/films:ro", "type=bind,source=/srv,target=/x"])
def test_any_folder_of_the_host_needs_exec(volume: str) -> None:
    """The engine resolves the path at every start, and a container may have replaced it by a link."""
    assert needed_scope(CREATE, {"volumes": [volume]}) == "exec"


EXAMPLES: list[dict[str, Any]] = [
    {"network": "host"},
    {"network": " Host "},
    {"network": "container:web"},
    {"network": "ns:/proc/1/ns/net"},
    {"network": "3f2a9c0d1e4b"},
    {"networks": ["front", "host"]},
    {"pid": "host"},
    {"pid_mode": "container:web"},
    {"ipc": "host"},
    {"uts": "host"},
    {"userns_mode": "host"},
    {"cgroupns": "host"},
    {"privileged": True},
    {"privileged": "true"},
    {"privileged": 1},
    {"cap_add": ["NET_RAW", "cap_sys_admin"]},
    {"cap_add": "ALL"},
    {"devices": ["/dev/sda"]},
    {"devices": {"/dev/sda": "/dev/sda"}},
    {"gpus": "all"},
    {"security_opt": ["seccomp=unconfined"]},
    {"security_opt": ["label:disable"]},
    {"security_opt": "no-new-privileges:false"},
    {"volumes_from": ["off"]},
    {"runtime": "other"},
    {"cgroup_parent": "/"},
    {"driver_opts": ["type=none", "o=bind", "device=/etc"]},
    {"options": {"device": "/etc"}},
    {"volumes": {"/etc": {"bind": "/x"}}},
    {"volumes": "/etc:/x"},
    {"reveal": True},
]


@pytest.mark.parametrize("arguments", EXAMPLES, ids=str)
def test_options_that_amount_to_root_need_exec_in_any_tool(arguments: dict[str, Any]) -> None:
    for any_tool in (CREATE, change_something, look_at_something):
        assert needed_scope(any_tool, arguments) == "exec", reasons(any_tool, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"network": "front"},
        {"network": "bridge"},
        {"network": "none"},
        {"network": "db"},
        {"network": ""},
        {"privileged": False},
        {"privileged": "false"},
        {"cap_add": ["CAP_CHOWN", "net_raw"]},
        {"cap_add": []},
        {"devices": []},
        {"devices": None},
        {"security_opt": ["no-new-privileges:true"]},
        {"force": True},
        {"pid": ""},
        {"reveal": False},
        {"volumes": True},
    ],
    ids=str,
)
def test_harmless_options_need_no_exec(arguments: dict[str, Any]) -> None:
    assert needed_scope(change_something, arguments) == "operate", reasons(change_something, arguments)
    assert needed_scope(look_at_something, arguments) == "read"


def test_every_guardrail_has_an_example_and_an_explanation() -> None:
    names = {name for rule in GUARDRAILS for name in rule.arguments}
    tools = ["execute_command", "exec_in_container", "prune_unused", "load_image", "init_swarm"]
    for rule in GUARDRAILS:
        assert rule.what and rule.why.endswith(".")
        assert rule.tools or rule.arguments
        if rule.tools and rule.arguments:
            assert set(rule.tools) <= TOOLS.keys()
        elif rule.tools:
            assert any(_called(name, rule.tools) for name in tools), rule.what
        else:
            shown = [example for example in EXAMPLES if set(example) & set(rule.arguments)]
            assert shown or "volumes" in rule.arguments, rule.what
    assert {name for example in EXAMPLES for name in example} <= names


def _called(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def test_a_volume_needs_exec_in_a_service_and_not_in_a_container() -> None:
    for name, needed in (("create_service", "exec"), ("create_container", "operate")):
        assert needed_scope(TOOLS[name], {"image": "nginx", "name": "web", "volumes": ["data:/data"]}) == needed


def test_the_tools_of_this_host_need_the_documented_scopes() -> None:
    plain = {name: needed_scope(one, {}) for name, one in TOOLS.items()}

    assert plain["execute_command"] == "exec"
    assert needed_scope(TOOLS["remove_container"], {"name": "web", "force": True}) == "operate"
    assert needed_scope(TOOLS["get_container_info"], {"name": "web", "reveal": True}) == "exec"
    assert plain["get_container_info"] == plain["get_container_logs"] == plain["list_containers"] == "read"
    assert plain["create_container"] == plain["stop_container"] == "operate"
    for name, one in TOOLS.items():
        assert SCOPES.index(plain[name]) >= SCOPES.index(one.scope)


def test_an_unknown_tool_that_changes_something_needs_at_least_operate() -> None:
    assert needed_scope(change_something, {}) == "operate"
    assert needed_scope(modest_change, {}) == "operate"
    assert needed_scope(look_at_something, {}) == "read"
    assert needed_scope(exec_quietly, {}) == "exec"


def test_more_arguments_never_need_a_lower_scope() -> None:
    chance = random.Random(3)
    pool: list[dict[str, Any]] = [
        *EXAMPLES,
        *({"volumes": [trick.replace("{links}", "/srv")]} for trick in TRICKS),
        {"network": "front"},
        {"volumes": ["data:/data"]},
        {"labels": ["anvyl.protect=false", "anvyl.read=true", "anvyl.scope=read"]},
    ]
    for _ in range(300):
        few = _merged(chance.sample(pool, 3))
        many = _merged([few, *chance.sample(pool, 3)])
        for any_tool in (CREATE, look_at_something):
            assert SCOPES.index(needed_scope(any_tool, few)) <= SCOPES.index(needed_scope(any_tool, many)), (few, many)


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge arguments: lists are joined, of other values the first is kept."""
    merged: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            before = merged.get(name)
            merged[name] = (
                [*before, *value] if isinstance(before, list) and isinstance(value, list) else before or value
            )
    return merged


LABELS = [PROTECT, READ, "ANVYL.PROTECT", "Anvyl.Read", "anvyl.exec", "anvyl.scope", "app"]
VALUES = ["true", "false", "1", "0", "TRUE", "no", "", " true ", "exec", None]


def labelled(labels: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A container with these labels, inspected and listed."""
    yield {"Id": "0123456789abcdef", "Name": "/web", "Config": {"Labels": labels}}
    yield {"Id": "0123456789abcdef", "Names": ["/web"], "Labels": labels}


def allowed(any_tool: Tool, container: dict[str, Any]) -> bool:
    try:
        check_labels(any_tool, container)
    except Denied:
        return False
    return True


def test_adding_any_label_never_allows_more() -> None:
    chance = random.Random(7)
    tools = [*TOOLS.values(), change_something, look_at_something, exec_quietly]
    for _ in range(400):
        labels = {chance.choice(LABELS): chance.choice(VALUES) for _ in range(chance.randrange(3))}
        name = chance.choice([label for label in LABELS if label not in labels])
        more = {**labels, name: chance.choice(VALUES)}
        for before, after in zip(labelled(labels), labelled(more), strict=True):
            for any_tool in tools:
                assert allowed(any_tool, after) <= allowed(any_tool, before), (labels, more, any_tool.name)


def test_a_protected_container_is_changed_by_no_tool() -> None:
    for container in labelled({PROTECT: "true"}):
        assert is_protected(container) and not is_hidden(container)
        for any_tool in TOOLS.values():
            assert allowed(any_tool, container) == (any_tool.safety == "reads"), any_tool.name
    with pytest.raises(Denied) as refused:
        check_labels(TOOLS["stop_container"], next(labelled({PROTECT: "true"})))
    assert "`web`" in refused.value.message and f"`{PROTECT}=true`" in refused.value.message
    assert "without the label" in refused.value.hint and "on the host itself" in refused.value.hint


def test_a_hidden_container_can_neither_be_read_nor_entered() -> None:
    for container in labelled({READ: "false"}):
        assert is_hidden(container) and not is_protected(container)
        assert not allowed(TOOLS["get_container_logs"], container)
        assert not allowed(TOOLS["get_container_info"], container)
        assert not allowed(exec_quietly, container)
        assert allowed(TOOLS["restart_container"], container)
    with pytest.raises(Denied, match=r"anvyl\.read=false"):
        check_labels(TOOLS["get_container_logs"], next(labelled({READ: "false"})))


@pytest.mark.parametrize(
    ("labels", "denies_changes", "denies_reads"),
    [
        ({}, False, False),
        (None, False, False),
        ({PROTECT: "false", READ: "true"}, False, False),
        ({PROTECT: "", READ: ""}, True, True),
        ({PROTECT: "maybe", READ: "maybe"}, True, True),
        ({"Anvyl.Protect": "TRUE"}, True, False),
        ({PROTECT: "false", "ANVYL.PROTECT": "true"}, True, False),
        ({READ: "No"}, False, True),
    ],
    ids=str,
)
def test_an_unclear_label_restricts(labels: Any, denies_changes: bool, denies_reads: bool) -> None:
    for container in labelled(labels):
        assert (is_protected(container), is_hidden(container)) == (denies_changes, denies_reads)


ON_CONTAINERS = [
    (one, argument)
    for one in TOOLS.values()
    for argument, schema in one.input_schema["properties"].items()
    # Undo looks up its target first; its own tests cover labels.
    if schema.get("x-names") == "container" and one.toolset != "undo"
]


@pytest.mark.parametrize(("any_tool", "argument"), ON_CONTAINERS, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize(("label", "value"), [(PROTECT, "true"), (READ, "false")])
async def test_no_tool_bypasses_the_labels_of_a_container(
    label: str, value: str, any_tool: Tool, argument: str, engine: RealEngine
) -> None:
    """Every tool that names a container, including future ones."""
    engine.run("web", labels={label: value})
    samples = {"string": "true", "integer": 1, "boolean": False, "array": []}
    schema = any_tool.input_schema
    needed = {name: samples[schema["properties"][name]["type"]] for name in schema.get("required", [])}
    before = engine.api.inspect_container("web")["State"]
    taken = any_tool.safety != "reads" if label == PROTECT else any_tool.safety == "reads" or any_tool.untrusted

    async with aclosing(Node(load({"toolsets": "all"}), serving=True)) as here, Client(here.server) as client:
        result = await client.call_tool(any_tool.name, {**needed, argument: "web"})

    error = (result.meta or {}).get(protocol_keys.ERROR, {})
    assert (error.get("code") == "denied" and label in error["message"]) == taken, result
    assert not taken or engine.api.inspect_container("web")["State"] == before


async def test_a_container_can_be_created_protected(engine: RealEngine) -> None:
    arguments = {"image": "busybox:latest", "name": "safe", "command": "sleep 60", "labels": [f"{PROTECT}=true"]}
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as client:
        made = await client.call_tool("create_container", arguments)
        stopped = await client.call_tool("stop_container", {"name": "safe"})

    assert not made.is_error and stopped.is_error
    assert engine.state("safe") == "running"
