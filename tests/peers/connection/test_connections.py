"""One host through every transport: the same assertions for the lean client, the official client and memory.

The contract is `anvyl_mcp.peers.connection.listing.Connection`; the bounds are rows 1, 3, 5 and 7 of the fault table.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from anvyl_mcp.core import errors, protocol_keys
from anvyl_mcp.peers.connection.lean_client import LeanClient, header_value
from anvyl_mcp.peers.connection.listing import Connection
from anvyl_mcp.peers.connection.sdk_client import SdkClient
from anvyl_mcp.peers.connection.transports import TRANSPORTS, base_url, connect, is_loopback
from tests.support.toy_server import (
    Behaviour,
    ToyServer,
    ToyTools,
    black_hole,
    faulty_server,
    free_port,
    hang_up,
    http_response,
    respond_with,
    serve_toy,
    silent,
)

OVER_HTTP: dict[str, Callable[[str], Connection]] = {
    "wire": LeanClient,
    "session": SdkClient,
    "session-legacy": lambda url: SdkClient(url, mode="legacy"),
}


@pytest.fixture
def toy() -> ToyTools:
    return ToyTools()


@pytest.fixture
def host(toy: ToyTools) -> Iterator[ToyServer]:
    with serve_toy(toy) as host:
        yield host


@pytest.fixture(params=OVER_HTTP)
def make(request: pytest.FixtureRequest) -> Callable[[str], Connection]:
    return OVER_HTTP[request.param]


@pytest.fixture
async def far(host: ToyServer, make: Callable[[str], Connection]) -> AsyncIterator[Connection]:
    async with closing(make(host.url)) as connection:
        yield connection


@pytest.fixture(params=[*OVER_HTTP, "memory", "memory-legacy"])
async def connection(request: pytest.FixtureRequest, toy: ToyTools) -> AsyncIterator[Connection]:
    if request.param in OVER_HTTP:
        host: ToyServer = request.getfixturevalue("host")
        made = OVER_HTTP[request.param](host.url)
    else:
        made = SdkClient(toy.server(), mode="legacy" if request.param == "memory-legacy" else "auto")
    async with closing(made):
        yield made


@asynccontextmanager
async def closing(connection: Connection) -> AsyncIterator[Connection]:
    try:
        yield connection
    finally:
        await connection.close()


async def happens(event: threading.Event) -> None:
    """Wait for an event of the server's thread."""
    assert await anyio.to_thread.run_sync(event.wait, 5, abandon_on_cancel=True)


async def test_lists_every_page_of_the_tools(connection: Connection, toy: ToyTools) -> None:
    listed = {tool.name: tool for tool in await connection.list_tools()}
    assert sorted(listed) == sorted(toy.tools)
    assert listed["echo"].reads
    assert listed["echo"].say == ("echo please",)
    assert listed["echo"].seconds == 12
    assert listed["note"].scope == "exec"


async def test_version_returns_the_servers_version(connection: Connection) -> None:
    assert await connection.version() == "7.7"


async def test_a_structured_result_arrives_unchanged(connection: Connection) -> None:
    arguments = {"name": "wéb ✓ 🐳", "count": 3, "flags": [True, None], "": "…"}
    answer = await connection.call("echo", arguments, seconds=5)
    assert answer.ok
    assert answer.result == {"said": arguments, "nothing": None}


async def test_a_text_only_result_has_no_structured_content(connection: Connection) -> None:
    answer = await connection.call("note", {}, seconds=5)
    assert (answer.ok, answer.result, answer.text) == (True, None, "only\nwords")


async def test_a_failed_tool_returns_the_hosts_error(connection: Connection) -> None:
    answer = await connection.call("fail", {}, seconds=5)
    assert isinstance(answer.error, errors.NotFound)
    assert answer.error.message == "there is no container `web`"
    assert answer.error.hint == "did you mean `web1`?"


async def test_a_failed_tool_of_another_mcp_server_returns_an_error(connection: Connection) -> None:
    answer = await connection.call("crash", {}, seconds=5)
    assert not answer.ok
    assert str(answer.error) == "Error executing tool crash"


async def test_an_unknown_tool_is_invalid_input(connection: Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="there is no tool nonsense"):
        await connection.call("nonsense", {}, seconds=5)


async def test_a_non_ascii_tool_name_reaches_the_host(connection: Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="there is no tool ünsinn"):
        await connection.call("ünsinn", {}, seconds=5)


async def test_progress_is_reported_in_order(connection: Connection) -> None:
    seen: list[tuple[float, float | None, str]] = []
    answer = await connection.call("steps", {}, seconds=5, on_progress=lambda *report: seen.append(report))
    assert answer.text == "done"
    assert seen == sorted(seen)
    assert set(seen) <= {(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")}
    assert seen


async def test_metadata_is_sent_with_the_call(connection: Connection, toy: ToyTools) -> None:
    await connection.call("echo", {}, seconds=5, meta={protocol_keys.OPERATION: "op-1"})
    assert toy.metas[-1][protocol_keys.OPERATION] == "op-1"


@pytest.mark.parametrize("tool", ["slow", "slow_steps"])
async def test_cancelling_a_call_stops_the_work(connection: Connection, toy: ToyTools, tool: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: connection.call(tool, {}, seconds=60, on_progress=lambda *_: None))
        await happens(toy.started)
        group.cancel_scope.cancel()
    await happens(toy.cancelled)
    assert (await connection.call("echo", {}, seconds=5)).ok


async def test_a_timeout_stops_the_work_and_keeps_the_connection(connection: Connection, toy: ToyTools) -> None:
    await connection.list_tools()
    with pytest.raises(errors.Timeout, match=r"no answer within 0\.2 s"):
        await connection.call("slow", {}, seconds=0.2)
    await happens(toy.cancelled)
    assert (await connection.call("echo", {}, seconds=5)).ok
    assert toy.executions["slow"] == 1


async def test_fifty_concurrent_calls_get_their_own_answers(connection: Connection, toy: ToyTools) -> None:
    answers: dict[int, object] = {}

    async def ask(number: int) -> None:
        answer = await connection.call("echo", {"number": number}, seconds=20)
        answers[number] = (answer.result or {})["said"]

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(ask, number)
    assert answers == {number: {"number": number} for number in range(50)}
    assert toy.executions["echo"] == 50


@pytest.mark.parametrize("size", [200 * 1024, 2 * 1024 * 1024])
async def test_a_large_result_arrives_completely(connection: Connection, size: int) -> None:
    answer = await connection.call("large", {"size": size}, seconds=20)
    assert len(answer.text) == size


async def test_the_result_of_a_change_does_not_depend_on_a_listing(connection: Connection, toy: ToyTools) -> None:
    """mcp.Client.call_tool lists the tools after the call, and raises if that fails."""
    toy.lists = False
    assert (await connection.call("echo", {"done": 1}, seconds=5)).ok
    assert toy.executions == {"echo": 1}


async def test_a_result_that_does_not_match_an_old_listing_is_accepted(connection: Connection) -> None:
    """The host was updated after it was listed: the change was made, so its result must not become an error."""
    await connection.list_tools()
    assert (await connection.call("bewildering", {}, seconds=5)).result == {"renamed": 1}


async def test_closing_twice_is_harmless(connection: Connection) -> None:
    await connection.list_tools()
    await connection.close()
    await connection.close()


async def test_a_closed_session_reports_it(toy: ToyTools) -> None:
    session = SdkClient(toy.server())
    await session.list_tools()
    await session.close()
    with pytest.raises(errors.Unreachable, match="closed"):
        await session.call("echo", {}, seconds=1)


async def test_closing_while_connecting_releases_waiting_callers(toy: ToyTools) -> None:
    session = SdkClient(toy.server())

    async def ask() -> None:
        with pytest.raises(errors.Unreachable, match="closed"):
            await session.call("echo", {}, seconds=60)

    with anyio.fail_after(2):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.lowlevel.checkpoint()
            await session.close()


async def test_a_cancelled_caller_keeps_the_connection_for_others(host: ToyServer, toy: ToyTools) -> None:
    async with closing(SdkClient(host.url)) as session, anyio.create_task_group() as group:
        group.start_soon(lambda: session.call("echo", {}, seconds=5))
        with anyio.move_on_after(0):
            await session.call("echo", {}, seconds=5)
    assert toy.executions["echo"] == 1


async def test_closing_ends_pending_calls(host: ToyServer, toy: ToyTools) -> None:
    session = SdkClient(host.url)

    async def ask() -> None:
        with pytest.raises(errors.Unknown):
            await session.call("slow", {}, seconds=60)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await happens(toy.started)
        await session.close()
    await happens(toy.cancelled)


async def test_a_restart_between_two_calls_is_transparent(far: Connection, host: ToyServer, toy: ToyTools) -> None:
    assert (await far.call("echo", {}, seconds=5)).ok
    host.stop()
    host.start()
    assert (await far.call("echo", {}, seconds=5)).ok
    assert toy.executions["echo"] == 2


async def test_a_host_that_comes_back_is_reconnected(far: Connection, host: ToyServer) -> None:
    host.stop()
    with pytest.raises(errors.Refused):
        await far.call("echo", {}, seconds=5)
    host.start()
    assert (await far.call("echo", {}, seconds=5)).ok
    host.kill()
    with pytest.raises(errors.Refused):
        await far.call("echo", {}, seconds=5)
    host.start()
    assert (await far.call("echo", {}, seconds=5)).ok


@pytest.mark.parametrize("tool", ["slow", "slow_steps"])
async def test_a_host_killed_during_a_call_leaves_its_outcome_unknown(
    far: Connection, host: ToyServer, toy: ToyTools, tool: str
) -> None:
    async def ask() -> None:
        with pytest.raises(errors.Unknown, match="may or may not have happened"):
            await far.call(tool, {}, seconds=60, on_progress=lambda *_: None)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await happens(toy.started)
        host.kill()
    assert toy.executions[tool] == 1
    toy.release.set()
    host.start()
    assert (await far.call("echo", {}, seconds=5)).ok


async def test_calls_in_an_expired_session_are_retried_together(host: ToyServer, toy: ToyTools) -> None:
    async with closing(SdkClient(host.url, mode="legacy")) as session:
        await session.list_tools()
        host.stop()
        host.start()
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(lambda: session.call("echo", {}, seconds=10))
        assert toy.executions["echo"] == 10


async def test_connection_refused(make: Callable[[str], Connection]) -> None:
    async with closing(make(f"http://127.0.0.1:{free_port()}")) as connection:
        for ask in (lambda: connection.call("echo", {}, seconds=10), connection.list_tools, connection.version):
            started = time.monotonic()
            with pytest.raises(errors.Refused, match="connection refused") as refused:
                await ask()
            assert "anvyl-mcp serve" in refused.value.hint
            assert time.monotonic() - started < 0.5


async def test_an_unresolvable_name(make: Callable[[str], Connection]) -> None:
    async with closing(make("http://no-such-host.invalid:4200")) as connection:
        with pytest.raises(errors.Unreachable):
            await connection.call("echo", {}, seconds=10)


async def test_a_hanging_host_costs_three_seconds_for_all_callers(make: Callable[[str], Connection]) -> None:
    with faulty_server(silent) as url:
        async with closing(make(url)) as connection:
            started = time.monotonic()

            async def ask() -> None:
                with pytest.raises(errors.Unreachable, match="no answer within 3 s"):
                    await connection.call("echo", {}, seconds=60)

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(ask)
            assert time.monotonic() - started < 3.5


async def test_a_host_that_drops_packets_costs_three_seconds(make: Callable[[str], Connection]) -> None:
    with black_hole() as url:
        async with closing(make(url)) as connection:
            started = time.monotonic()
            with pytest.raises(errors.Unreachable, match="no answer within 3 s"):
                await connection.call("echo", {}, seconds=60)
            assert time.monotonic() - started < 3.5


async def test_cancelling_while_connecting_returns_at_once(make: Callable[[str], Connection]) -> None:
    with faulty_server(silent) as url:
        async with closing(make(url)) as connection:
            with anyio.fail_after(1), anyio.move_on_after(0.1):
                await connection.list_tools()


OWN = '{"error": {"code": "denied", "message": "this token was revoked", "hint": "ask for a new one"}}'
OAUTH = '{"error": "invalid_token", "error_description": "the token has expired"}'
HTML = "<html><h1>It works!</h1></html>"
CUT = http_response("200 OK", "application/json", '{"jsonrpc": "2.0", "id": 1, "result": {')

MISBEHAVIOURS: dict[str, tuple[Behaviour, type[errors.AnvylError], str]] = {
    "hangs up": (hang_up, errors.Unreachable, "lost"),
    "another protocol": (respond_with(b"SSH-2.0-OpenSSH_9.2\r\n"), errors.Unreachable, "not an MCP answer|lost"),
    "a web page": (respond_with(http_response("200 OK", "text/html", HTML)), errors.Unreachable, "not an MCP answer"),
    "broken json": (
        respond_with(http_response("200 OK", "application/json", "{")),
        errors.Unreachable,
        "not an MCP answer",
    ),
    "deep json": (
        respond_with(http_response("200 OK", "application/json", "[" * 200_000)),
        errors.Unreachable,
        "not an MCP answer",
    ),
    "cut short": (respond_with(CUT[:-9]), errors.Unreachable, "lost"),
    "our refusal": (
        respond_with(http_response("403 Forbidden", "application/json", OWN)),
        errors.Denied,
        "this token was revoked",
    ),
    "oauth": (
        respond_with(http_response("401 Unauthorized", "application/json", OAUTH)),
        errors.Denied,
        "the token has expired",
    ),
    "no words": (
        respond_with(http_response("401 Unauthorized", "text/html", HTML)),
        errors.Denied,
        "HTTP 401 Unauthorized",
    ),
    "another path": (
        respond_with(http_response("404 Not Found", "text/html", HTML)),
        errors.Unreachable,
        "no MCP server at http://",
    ),
    "proxy": (
        respond_with(http_response("503 Service Unavailable", "text/html", HTML)),
        errors.Unreachable,
        "HTTP 503",
    ),
    "gateway": (
        respond_with(http_response("502 Bad Gateway", "text/plain", "upstream")),
        errors.Unreachable,
        "HTTP 502 .*upstream",
    ),
    "busy": (respond_with(http_response("429 Too Many Requests", "text/plain", "slow down")), errors.Busy, "slow down"),
    "elsewhere": (
        respond_with(b"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nConnection: close\r\n\r\n"),
        errors.AnvylError,
        "302|not followed",
    ),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
async def test_a_server_that_is_not_mcp_is_reported(make: Callable[[str], Connection], name: str) -> None:
    behaviour, error, words = MISBEHAVIOURS[name]
    with faulty_server(behaviour) as url:
        async with closing(make(url)) as connection:
            for ask in (lambda: connection.call("echo", {}, seconds=5), connection.list_tools):
                with anyio.fail_after(3), pytest.raises(error, match=words) as raised:
                    await ask()
                assert type(raised.value) is not errors.Unknown
                assert "\n" not in str(raised.value)


async def test_https_to_a_plain_http_server_is_reported(host: ToyServer) -> None:
    for make in (LeanClient, SdkClient):
        async with closing(make(host.url.replace("http:", "https:"))) as connection:
            with pytest.raises(errors.Unreachable, match="does not speak TLS"):
                await connection.call("echo", {}, seconds=5)


async def test_a_hanging_tls_host_costs_three_seconds() -> None:
    with faulty_server(silent) as url:
        async with closing(
            LeanClient(url.replace("http:", "https:"), context=ssl.create_default_context())
        ) as connection:
            started = time.monotonic()
            with pytest.raises(errors.Unreachable, match="no answer within 3 s"):
                await connection.call("echo", {}, seconds=60)
            assert time.monotonic() - started < 3.5


async def test_a_hundred_connections_leak_no_descriptors(host: ToyServer, make: Callable[[str], Connection]) -> None:
    async def once() -> None:
        async with closing(make(host.url)) as connection:
            assert (await connection.call("echo", {}, seconds=20)).ok

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    await once()
    host.stop()
    before = descriptors()
    host.start()
    for _ in range(10):
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(once)
    # The toy server runs in this process too: wait until its ends of the connections are closed before counting.
    host.stop()
    with anyio.fail_after(5):
        while descriptors() > before:  # noqa: ASYNC110  nothing tells when a transport has closed its socket
            await anyio.sleep(0.01)


def test_a_header_can_encode_any_name() -> None:
    assert header_value("stop_container") == "stop_container"
    assert header_value("ünsinn") == "=?base64?w7xuc2lubg==?="
    assert header_value(" x") == "=?base64?IHg=?="
    assert header_value("=?base64?eA==?=").startswith("=?base64?PT9")


@pytest.mark.parametrize(
    ("written", "base"),
    [
        ("127.0.0.1:4210", "http://127.0.0.1:4210"),
        ("nas", "http://nas:4200"),
        (" http://NAS.local ", "http://nas.local:4200"),
        ("http://h:4200/mcp/", "http://h:4200"),
        ("https://h/mcp", "https://h:4200"),
        ("[::1]:4200", "http://[::1]:4200"),
        ("::1", "http://[::1]:4200"),
        ("http://[FE80:0::1]:4300/", "http://[fe80::1]:4300"),
        ("https://proxy.lan:443/nas/mcp", "https://proxy.lan:443/nas"),
    ],
)
def test_addresses_are_normalized(written: str, base: str) -> None:
    assert base_url(written) == base
    assert base_url(base) == base


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("http://user:secret@h", "user name or password"),
        ("ftp://h", "has the unknown transport `ftp`"),
        ("http://h?x=1", "more than an address"),
        ("http://h/#x", "more than an address"),
        ("http://h:99999", "not an address"),
        ("http://h:0", "no usable port"),
        ("http://h:", "no usable port"),
        ("http://[::1", "not an address"),
        ("http://a b", "not an address"),
        ("http://h/a b", "not an address"),
        ("http://localhost\\@example.org", "user name or password|not an address"),
        ("", "not an address"),
    ],
)
def test_an_invalid_address_is_rejected(written: str, words: str) -> None:
    with pytest.raises(errors.InvalidInput, match=words) as refused:
        base_url(written)
    assert refused.value.hint
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:4200", True),
        ("http://127.8.8.8", True),
        ("localhost", True),
        ("http://[::1]:4200", True),
        ("http://[::ffff:127.0.0.1]", True),
        ("http://nas", False),
        ("http://192.168.1.5", False),
        ("http://localhost.example.org", False),
        ("http://127.0.0.1@example.org", False),
        ("http://0.0.0.0", False),
        ("nonsense://", False),
    ],
)
def test_is_loopback_is_true_only_for_this_machine(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback


async def test_the_scheme_selects_the_transport(host: ToyServer) -> None:
    assert isinstance(connect(host.url, lean=True), LeanClient)
    assert isinstance(connect(f"127.0.0.1:{host.port}", lean=False), SdkClient)
    async with closing(connect(f"127.0.0.1:{host.port}", lean=True)) as connection:
        assert await connection.version() == "7.7"
    with pytest.raises(errors.InvalidInput) as refused:
        connect("gopher://h", lean=True)
    assert all(scheme in refused.value.hint for scheme in TRANSPORTS)
