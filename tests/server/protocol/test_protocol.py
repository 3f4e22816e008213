"""Resources, prompts, completions and progress of the server, and cancelled calls."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp import Client, MCPError
from mcp.server.lowlevel.server import Server
from mcp.types import PromptReference, ResourceTemplateReference, TextContent, TextResourceContents
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from anvyl_mcp.app.node import Node
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import Cancelled, NotFound
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.auth.limits import Limits
from anvyl_mcp.server.calls import dispatch
from anvyl_mcp.server.calls.affected_objects import Observer
from anvyl_mcp.server.calls.changes import Changes
from anvyl_mcp.server.calls.gate import Gate
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.http import listener
from anvyl_mcp.server.http.app import build_app
from anvyl_mcp.server.http.host_state import HostState
from anvyl_mcp.server.policy.policy import Policy
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.protocol.prompts import PROMPTS
from anvyl_mcp.server.protocol.server import build_server, instructions
from anvyl_mcp.server.tool import Result, Tool, tool
from anvyl_mcp.server.toolsets import load_tools
from tests.support.engine.engines import RealEngine

FACES = ["memory", "memory-handshake", "http", "http-handshake"]
SECONDS = 20


class Said(Result):
    """Result of the tools in these tests."""

    words: str


class Work:
    """Work that signals its start and blocks until the test lets it continue."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_go_on = threading.Event()
        self.saw_cancel = threading.Event()


@pytest.fixture
def work() -> Iterator[Work]:
    held = Work()
    yield held
    held.may_go_on.set()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[HostState]:
    kept = HostState(tmp_path / "trust")
    with closing(kept.audit):
        yield kept


def gate_of(state: HostState) -> Gate:
    changes = Changes(state.audit, state.journal, Observer(None))
    return Gate(state.audit, Limits(), Policy(state.folder / "policy.toml"), changes)


def server_of(state: HostState, *tools: Tool) -> Server[Any]:
    return build_server(tools, {}, gate_of(state), name="nas")


@asynccontextmanager
async def connected(face: str, server: Server[Any], state: HostState, folder: Path) -> AsyncIterator[Client]:
    """A client of the server in memory, or of the HTTP application."""
    transport, _, handshake = face.partition("-")
    mode = "legacy" if handshake else "auto"
    if transport == "memory":
        async with Client(server, mode=mode) as client:
            yield client
        return

    async def closed(_: str) -> list[str]:
        return []

    app = build_app(server, Engine(), state, name="nas", open_network=closed, local_token=folder / "local.token")
    ready = anyio.Event()
    host = listener.make_server(app, server, on_ready=ready.set)
    sockets = listener.listen("127.0.0.1", [0])
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(host.serve, sockets)
            await ready.wait()
            async with Client(f"{listener.url_of(sockets[0])}/mcp", mode=mode) as client:
                yield client
            host.should_exit = True
    finally:
        for one in sockets:
            one.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until `holds` is true."""
    with anyio.fail_after(SECONDS):
        while not holds():  # noqa: ASYNC110  it may be a thread, or a line in a file
            await anyio.sleep(0.01)


def ends(state: HostState, name: str) -> list[str]:
    """Outcomes of a tool's calls in the audit log; `started` for an unfinished change."""
    return [record.outcome for record in state.audit.read(tool=name)]


@pytest.mark.parametrize("face", FACES)
async def test_progress_from_a_thread_reaches_the_caller_with_first_and_last_always_and_few_between(
    face: str, state: HostState, work: Work, tmp_path: Path
) -> None:
    @tool(changes=True)
    def fetch(progress: Progress) -> Said:
        """Fetch something."""
        progress(1, 5000, "begun")
        work.may_go_on.wait(SECONDS)
        for done in range(2, 5001):
            progress(done, 5000)
        return Said(words="fetched")

    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        work.may_go_on.set()

    async with connected(face, server_of(state, fetch), state, tmp_path) as client:
        answer = await client.call_tool("fetch", {}, progress_callback=note)
        await until(lambda: max(seen)[0] == 5000)
        silent = await client.call_tool("fetch", {})

    assert (answer.is_error, silent.is_error) == (False, False)
    assert min(seen) == (1, 5000, "begun")
    assert len(seen) < 50


@pytest.mark.parametrize("face", FACES)
async def test_a_cancelled_call_is_stopped_and_recorded_as_cancelled(
    face: str, state: HostState, work: Work, tmp_path: Path
) -> None:
    @tool(changes=True)
    def fetch(progress: Progress) -> Said:
        """Fetch something."""
        work.began.set()
        while not progress.cancelled and not work.may_go_on.wait(0.01):
            pass
        work.saw_cancel.set()
        raise Cancelled("the fetching was stopped")

    async with connected(face, server_of(state, fetch), state, tmp_path) as client:
        await give_up(client, "fetch", work)
        await until(work.saw_cancel.is_set)
        await until(lambda: ends(state, "fetch") == ["cancelled"])


@pytest.mark.parametrize("patience", [0.05, SECONDS], ids=["it goes on", "it still ends"])
async def test_a_cancelled_change_is_recorded_with_its_real_outcome(
    patience: float, state: HostState, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "ABANDON_SECONDS", patience)
    hurried = patience < SECONDS

    @tool(changes=True)
    def alter() -> Said:
        """Change something."""
        work.began.set()
        work.may_go_on.wait(SECONDS)
        return Said(words="done")

    async with Client(server_of(state, alter)) as client:
        await give_up(client, "alter", work, then=(lambda: None) if hurried else work.may_go_on.set)
        if hurried:
            assert ends(state, "alter") == ["started"]
            work.may_go_on.set()
        await until(lambda: ends(state, "alter") == ["ok"])


async def test_a_change_that_outlives_its_server_is_recorded_as_unknown(
    state: HostState, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "ABANDON_SECONDS", 0.05)

    @tool(changes=True)
    def alter() -> Said:
        """Change something."""
        work.began.set()
        work.may_go_on.wait(SECONDS)
        return Said(words="done")

    changes = Changes(state.audit, state.journal, Observer(None))
    gate = Gate(state.audit, Limits(), Policy(state.folder / "policy.toml"), changes)
    async with Client(build_server([alter], {}, gate, name="nas")) as client:
        await give_up(client, "alter", work)
        changes.close()
        assert ends(state, "alter") == ["unknown"]
        work.may_go_on.set()
        (operation,) = state.audit.operations()
        await anyio.sleep(0.05)
        known = state.journal.find(operation)

    assert ends(state, "alter") == ["unknown"] and known is not None and known.end is None


async def test_a_cancelled_read_blocks_no_other_call(state: HostState, work: Work) -> None:
    @tool()
    def look() -> Said:
        """Look at something."""
        work.began.set()
        work.may_go_on.wait(SECONDS)
        return Said(words="seen")

    async with Client(server_of(state, look)) as client:
        await give_up(client, "look", work)
        await until(lambda: ends(state, "look") == ["cancelled"])
        assert not work.may_go_on.is_set()


async def give_up(client: Client, name: str, work: Work, then: Callable[[], None] = lambda: None) -> None:
    """Call a tool, and cancel the call once it is running."""
    async with anyio.create_task_group() as group:
        group.start_soon(partial(client.call_tool, name, {}))
        await anyio.to_thread.run_sync(work.began.wait, SECONDS)
        group.cancel_scope.cancel()
        then()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_answer_that_is_too_large_is_shortened(mode: str, state: HostState) -> None:
    """It is not refused, which would hide the outcome of a change."""

    @tool()
    def talk(size: int) -> Said:
        """Say much."""
        return Said(words="ü" * size)

    async with Client(server_of(state, talk), mode=mode) as client:
        assert not (await client.call_tool("talk", {"size": 1000})).is_error
        short = await client.call_tool("talk", {"size": 100_000})

    assert not short.is_error and short.structured_content is not None
    said = short.structured_content["words"]
    shown = said.index("…")
    assert shown > 10_000 and said.endswith(f"ü… {100_000 - shown} more characters")
    assert len(json.dumps(short.model_dump(mode="json"), ensure_ascii=False).encode()) < 100_000


@pytest.fixture(params=["auto", "legacy"])
async def client(request: pytest.FixtureRequest, engine: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server, mode=request.param) as opened:
        yield opened


async def read(client: Client, uri: str) -> str:
    [found] = (await client.read_resource(uri)).contents
    assert isinstance(found, TextResourceContents)
    assert found.uri == uri
    return found.text


async def test_containers_their_logs_and_the_host_are_resources(client: Client, engine: RealEngine) -> None:
    engine.run("web", ["sh", "-c", "echo hello; sleep 3600"], environment={"DB_PASSWORD": "geheim"})
    await until(lambda: b"hello" in engine.api.logs("web"))

    assert [str(one.uri) for one in (await client.list_resources()).resources] == ["anvyl://host"]
    assert [one.uri_template for one in (await client.list_resource_templates()).resource_templates] == [
        "anvyl://containers/{name}",
        "anvyl://containers/{name}/logs",
    ]
    container = json.loads(await read(client, "anvyl://containers/web"))
    assert (container["name"], container["state"]) == ("web", "running")
    assert "geheim" not in json.dumps(container)
    assert await read(client, "anvyl://containers/web/logs") == "hello"
    host = json.loads(await read(client, "anvyl://host"))
    assert host["info"]["cpus"] >= 1 and host["resources"]["memory"]["total"] > 0


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("anvyl://containers/wbe", "there is no container `wbe`. Did you mean `web`?"),
        ("anvyl://containers/wbe/logs", "there is no container `wbe`. Did you mean `web`?"),
        ("anvyl://volumes/data", "there is no resource `anvyl://volumes/data`"),
        ("anvyl://containers/web/files", "there is no resource"),
        ("file:///etc/passwd", "there is no resource"),
    ],
)
async def test_a_missing_resource_error_lists_the_existing_ones(
    uri: str, says: str, client: Client, engine: RealEngine
) -> None:
    """-32002 before 2026-07-28, -32602 since: SEP-2164."""
    engine.create("web")

    with pytest.raises(MCPError) as raised:
        await client.read_resource(uri)

    assert says in raised.value.message
    assert raised.value.code == (INVALID_PARAMS if client.protocol_version == "2026-07-28" else -32002)
    assert raised.value.data["uri"] == uri and raised.value.data[protocol_keys.ERROR]["code"] == "not_found"


async def test_resources_pass_the_same_gate_as_tools(state: HostState) -> None:
    @tool()
    def get_container_info(name: str) -> Said:
        """Show a container."""
        raise NotFound(f"there is no container `{name}`")

    async with Client(server_of(state, get_container_info)) as client:
        no_scopes: Any = {protocol_keys.SCOPES: [], protocol_keys.FOR: "guest"}
        with pytest.raises(MCPError, match="needs the scope `read`") as denied:
            await client.session.read_resource("anvyl://containers/web", meta=no_scopes)
        with pytest.raises(MCPError, match="there is no container `my web`"):
            await client.read_resource("anvyl://containers/my%20web")
        hidden = await client.session.list_resource_templates(params=None)
        with pytest.raises(MCPError, match="there is no resource"):
            await client.read_resource("anvyl://containers/web/logs")

    assert denied.value.code == INTERNAL_ERROR and denied.value.data[protocol_keys.ERROR]["code"] == "denied"
    assert [one.uri_template for one in hidden.resource_templates] == ["anvyl://containers/{name}"]
    assert ends(state, "get_container_info") == ["denied", "failed"]


async def test_prompts_name_the_tools_in_order(client: Client) -> None:
    listed = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}

    assert set(listed) == {"diagnose_container", "review_host", "free_disk_space"}
    assert [argument.name for argument in listed["diagnose_container"].arguments or []] == ["name"]
    [message] = (await client.get_prompt("diagnose_container", {"name": "web"})).messages
    assert isinstance(message.content, TextContent)
    text = message.content.text
    assert text.index("get_container_info") < text.index("get_container_logs") < text.index("get_host_resources")
    assert "`web`" in text and "{name}" not in text


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("diagnose", {"name": "web"}, "there is no prompt `diagnose`. Did you mean `diagnose_container`"),
        ("diagnose_container", {}, "`diagnose_container` needs `name`"),
        ("diagnose_container", {"name": " "}, "`diagnose_container` needs `name`"),
        ("review_host", {"name": "web"}, "`review_host` has no argument `name`"),
    ],
)
async def test_an_invalid_prompt_request_is_explained(
    name: str, arguments: dict[str, str], says: str, client: Client
) -> None:
    with pytest.raises(MCPError) as raised:
        await client.get_prompt(name, arguments)

    assert says in raised.value.message and raised.value.code == INVALID_PARAMS


async def test_prompts_name_no_tool_that_is_not_offered(state: HostState) -> None:
    some = [one for one in load_tools() if one.name in ("get_container_info", "get_container_logs")]

    async with Client(server_of(state, *some)) as client:
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["diagnose_container"]
        [message] = (await client.get_prompt("diagnose_container", {"name": "web"})).messages

    assert isinstance(message.content, TextContent)
    assert "get_container_logs" in message.content.text and "get_host_resources" not in message.content.text


def test_prompts_name_only_tools_that_exist() -> None:
    known = {one.name for one in load_tools()}

    assert {step for prompt in PROMPTS for step in prompt.steps} <= known


async def test_a_server_without_their_tools_offers_no_prompts_resources_or_completions(state: HostState) -> None:
    async with Client(server_of(state)) as client:
        offered = client.server_capabilities

    assert offered is not None
    assert (offered.prompts, offered.resources, offered.completions) == (None, None, None)


async def test_container_names_are_completed_from_a_cache(client: Client, engine: RealEngine, tmp_path: Path) -> None:
    for name in ("web", "Web2", "db"):
        engine.create(name)
    prompt = PromptReference(type="ref/prompt", name="diagnose_container")
    logs = ResourceTemplateReference(type="ref/resource", uri="anvyl://containers/{name}/logs")

    async def complete(ref: Any, typed: str, argument: str = "name") -> list[str]:
        return (await client.complete(ref, {"name": argument, "value": typed})).completion.values

    assert await complete(prompt, "") == ["Web2", "db", "web"]
    assert await complete(prompt, "we") == ["Web2", "web"]
    assert await complete(logs, "d") == ["db"]
    assert await complete(logs, "x") == []
    assert await complete(prompt, "w", "colour") == []
    with pytest.raises(MCPError, match="there is no prompt `nothing`"):
        await complete(PromptReference(type="ref/prompt", name="nothing"), "w")
    with pytest.raises(MCPError, match="there is no resource template"):
        await complete(ResourceTemplateReference(type="ref/resource", uri="anvyl://{name}"), "w")
    with closing(HostState(load().state_dir).audit) as audit:
        assert len(audit.read(tool="list_containers")) == 1


async def test_names_are_not_completed_without_an_engine_or_the_read_scope(state: HostState) -> None:
    listing = [one for one in load_tools() if one.name == "list_containers"]
    server = build_server(listing, {Engine: Engine()}, gate_of(state), name="nas")
    prompt = PromptReference(type="ref/prompt", name="diagnose_container")

    async with Client(server) as client:
        completed = await client.complete(prompt, {"name": "name", "value": ""})

    assert completed.completion.values == []


@pytest.mark.parametrize("toolsets", [{"containers"}, {"images"}, {"host"}, {"containers", "host"}, set()])
def test_instructions_are_short_and_name_only_tools_that_are_offered(toolsets: set[str]) -> None:
    every = load_tools()
    offered = [one for one in every if one.toolset in toolsets]

    words = instructions(offered, "nas")

    assert len(words.splitlines()) <= 10
    assert not [one.name for one in every if one not in offered and one.name in words]
