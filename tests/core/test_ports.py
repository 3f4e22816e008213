"""A host port alone is mapped to the port that the image exposes; if there are several, the person chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from docker.errors import APIError
from mcp import Client

from anvyl_mcp.app.node import Node
from anvyl_mcp.core.errors import AnvylError, Conflict, InvalidInput
from anvyl_mcp.core.settings import load
from anvyl_mcp.core.values import ports
from tests.server.tools.test_tools import call, refused, words
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import anvyl

EXPOSED = {"test-one:1": "80", "test-two:1": "80 443", "test-dns:1": "53/tcp 53/udp"}


@pytest.fixture
def exposing(engine: RealEngine) -> Iterator[RealEngine]:
    """Images with different exposed ports."""
    for name, exposed in EXPOSED.items():
        repository, tag = name.split(":")
        base = engine.api.create_container("anvyl-test/web:1")
        engine.api.commit(base, repository, tag, changes=[f"EXPOSE {exposed}"])
        engine.api.remove_container(base)
    yield engine
    engine.clean()
    for name in EXPOSED:
        try:
            engine.api.remove_image(name, force=True)
        except APIError:
            continue


@pytest.fixture
async def client(exposing: RealEngine) -> AsyncIterator[Client]:
    async with aclosing(Node(load(), serving=True)) as here, Client(here.server) as opened:
        yield opened


def published(engine: RealEngine, name: str) -> dict[str, Any]:
    bindings: dict[str, Any] = engine.api.inspect_container(name)["HostConfig"]["PortBindings"]
    return {inner: [one["HostPort"] for one in outer] for inner, outer in bindings.items()}


async def test_a_host_port_alone_is_mapped_to_the_exposed_port(client: Client, exposing: RealEngine) -> None:
    made = await client.call_tool("create_container", {"image": "test-one:1", "name": "one", "ports": ["18080"]})
    dns = await call(client, "create_container", image="test-dns:1", name="dns", ports=["18053"])
    same = await call(client, "create_container", image="test-two:1", name="same", ports=["443"])
    plain = await client.call_tool(
        "create_container", {"image": "anvyl-test/web:1", "name": "plain", "ports": ["18081"]}
    )
    several = await refused(client, "create_container", image="test-two:1", name="two", ports=["18082"])

    assert published(exposing, "one") == {"80/tcp": ["18080"]}
    assert words(made) == "created one, which is running, 18080->80"
    assert published(exposing, "dns") == {"53/tcp": ["18053"], "53/udp": ["18053"]}
    assert dns["ports"] == ["18053->53", "18053->53/udp"] and same["ports"] == ["443->443"]
    assert "18081->18081, `anvyl-test/web:1` exposes no port" in words(plain)
    assert several["hint"] == "use `18082:80` or `18082:443`" and exposing.state("two") is None


def test_the_command_line_shows_the_port_mapping(exposing: RealEngine) -> None:
    ran = anvyl("run", "-p", "18080", "test-one:1")

    assert ran.out.endswith("is running, 18080->80\n"), ran


@pytest.mark.parametrize(
    ("typed", "offered", "found"),
    [
        ("8080", ["80/tcp"], ["8080:80/tcp"]),
        ("8080", [], ["8080:8080/tcp"]),
        ("8080/udp", ["80/tcp"], ["8080:8080/udp"]),
        ("8080/udp", ["80/tcp", "53/udp"], ["8080:53/udp"]),
        ("443", ["80/tcp", "443/tcp"], ["443:443/tcp"]),
        ("8080", ["80/tcp", "443/tcp"], Conflict),
        ("127.0.0.1:8080:80", ["443/tcp"], ["8080:80/tcp"]),
        ("0", [], InvalidInput),
        ("8080:", [], InvalidInput),
        (":80", [], InvalidInput),
        ("8080/icmp", [], InvalidInput),
        ("1:2:3:4", [], InvalidInput),
    ],
)
def test_ports_are_parsed(typed: str, offered: list[str], found: Any) -> None:
    def read() -> list[str]:
        port = ports.parse_port(typed)
        chosen = ports.resolve_port(port, offered, "app") if isinstance(port, ports.HostPort) else [port]
        return [f"{one.host_port}:{one.container_port}/{one.protocol}" for one in chosen]

    if isinstance(found, list):
        assert read() == found
    else:
        assert issubclass(found, AnvylError)
        with pytest.raises(found):
            read()


def test_a_confirmation_shows_the_port_mapping(exposing: RealEngine) -> None:
    """The confirmation names the container port, because a wrong guess leaves a service unreachable."""
    known = anvyl("ask", "--offline", "run test-one:1 on port 18080")
    fetched = anvyl("ask", "--offline", "run test-absent:1 on port 18080")
    several = anvyl("ask", "--offline", "--yes", "run test-two:1 on port 18080")
    done = anvyl("ask", "--offline", "--yes", "--json", "run test-one:1 on port 18080")

    assert "from test-one:1 with ports 18080->80 on" in known.out + known.err
    assert "18080->the port that test-absent:1 exposes" in fetched.out + fetched.err
    assert several.code != 0 and "use `18080:80` or `18080:443`" in (several.out + several.err).replace("Use", "use")
    assert done.json["calls"][0]["arguments"]["ports"] == ["18080:80"] and "18080->80" in done.json["answer"]
