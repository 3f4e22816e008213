"""The compact text form of many containers: complete, in few tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest

from anvyl_mcp.server.containers.summary import short_image, short_ports, short_status
from anvyl_mcp.server.containers.views import by_attention, container_row
from anvyl_mcp.server.engine import stats
from anvyl_mcp.server.engine.stats import ContainerStats
from anvyl_mcp.server.tools.containers import Containers, Stats

PIECES = re.compile(r" ?[A-Za-z]+|\d{1,3}| ?[^\sA-Za-z\d]+|\s+")
"""The pre-tokenizer of o200k_base; for these texts it gives the number of tokens within half a percent."""
FLEET = ("nginx:1.27", "postgres:16-alpine", "ghcr.io/immich-app/immich-server:release", "redis:7")


def tokens(words: str) -> int:
    return len(PIECES.findall(words))


def entry(number: int, image: str = "nginx:1.27", status: str = "Up 2 hours", **over: Any) -> dict[str, Any]:
    port = {"PrivatePort": 80, "PublicPort": 8000 + number, "Type": "tcp"}
    return {
        "Id": f"{number:012x}" + "0" * 52,
        "Names": [f"/web-{number:03}"],
        "Image": image,
        "State": "running",
        "Status": status,
        "Created": 1_790_000_000,
        "Ports": [{"IP": "0.0.0.0", **port}, {"IP": "::", **port}],
        **over,
    }


def shown(*entries: dict[str, Any], more: int = 0) -> str:
    rows = by_attention(list(map(container_row, entries)))
    return Containers(containers=rows, total=len(rows) + more, more=more).text()


@pytest.mark.parametrize(
    ("image", "most"),
    [
        (lambda _: "nginx:1.27", 950),
        (lambda number: FLEET[number % len(FLEET)], 1_000),
        (lambda number: f"app{number}:2", 1_400),
    ],
    ids=["one image", "four images", "an image each"],
)
def test_a_hundred_running_containers_with_ports_cost_at_most_1400_tokens(image: Any, most: int) -> None:
    words = shown(*(entry(number, image(number)) for number in range(100)))

    assert tokens(words) <= most
    assert all(f"web-{number:03}" in words and f"{8000 + number}->80" in words for number in range(100))
    assert "up 2h" in words and short_image(image(99)) in words


def test_common_properties_are_a_heading_and_problems_come_first() -> None:
    words = shown(
        *(entry(number) for number in range(20)),
        entry(20, status="Up 3 days (unhealthy)", Ports=[]),
        entry(21, "redis:7"),
        entry(22, status="Exited (137) 3 days ago", State="exited", Ports=[]),
        more=4,
    )

    lines = words.splitlines()
    assert lines[:3] == ["up 3d, unhealthy:", "web-020 nginx:1.27", "up 2h, image nginx:1.27:"]
    assert lines[3] == "web-000 8000->80"
    assert lines[23:27] == ["up 2h:", "web-021 redis:7 8021->80", "exited (137) 3d ago:", "web-022 nginx:1.27"]
    assert lines[27].startswith("… 4 more")


def test_a_few_containers_are_a_table() -> None:
    assert shown(entry(1)).splitlines() == ["name  status  image  ports", "web-001  Up 2 hours  nginx:1.27  8001->80"]
    assert shown() == "no containers"


@pytest.mark.parametrize(
    ("status", "short"),
    [
        ("Up Less than a second", "up <1m"),
        ("Up 41 seconds", "up <1m"),
        ("Up About a minute", "up 1m"),
        ("Up 9 minutes", "up 9m"),
        ("Up 47 minutes", "up 40m"),
        ("Up About an hour (healthy)", "up 1h, healthy"),
        ("Up 2 weeks (health: starting)", "up 2w, starting"),
        ("Up 5 months (Paused)", "up 5 months (Paused)"),
        ("Exited (0) 2 years ago", "exited (0) 2y ago"),
        ("Restarting (1) 5 seconds ago", "restarting (1) <1m ago"),
        ("Created", "created"),
        ("Removal In Progress", "removal In Progress"),
        ("", "running"),
    ],
)
def test_a_status_is_shortened(status: str, short: str) -> None:
    assert short_status(container_row(entry(1, status=status))) == short


@pytest.mark.parametrize(
    ("image", "short"),
    [
        ("nginx", "nginx"),
        ("nginx:latest", "nginx"),
        ("registry:5000/team/app:2", "app:2"),
        ("ghcr.io/a/b:1@sha256:" + "a" * 64, "b:1"),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 12),
    ],
)
def test_an_image_name_is_shortened(image: str, short: str) -> None:
    assert short_image(image) == short


@pytest.mark.parametrize(
    ("ports", "short"),
    [
        (["80", "443"], ""),
        (["8080->80", "443"], "8080->80"),
        (["8443->443", "8080->80", "8081->81", "53->53/udp"], "8080-8081->80-81,8443->443,53->53/udp"),
        ([f"{port}->{port}" for port in range(30000, 30100)], "30000-30099->30000-30099"),
        ([f"{port}->80" for port in range(8000, 8009)], "8000->80,8001->80,8002->80,8003->80,8004->80,8005->80,+3"),
        (["127.0.0.1:9090->90/udp", "1->1"], "1->1,127.0.0.1:9090->90/udp"),
    ],
)
def test_ports_are_shortened(ports: list[str], short: str) -> None:
    assert short_ports(ports) == short


def usage(number: int, limit: int = 25_000_000_000) -> ContainerStats:
    return ContainerStats(
        name=f"web-{number:03}", cpu_percent=number / 3, memory_used=number * 1_234_567, memory_limit=limit,
        net_rx=number * 123_456, net_tx=number * 4_567, block_read=0, block_write=0, pids=number,
    )  # fmt: skip


def test_the_usage_of_a_hundred_containers_costs_at_most_1500_tokens() -> None:
    words = Stats(containers=[usage(number) for number in range(100)], total=100).text()

    assert tokens(words) <= 1_500
    assert words.splitlines()[-1] == "… 40 more that use less; ask for one by `name`"


def test_a_different_memory_limit_is_shown() -> None:
    lines = list(stats.summary_lines([usage(1), usage(2, 512 * 1024**2)]))

    assert lines[0].startswith("name cpu memory (limit 23.3G unless shown)")
    assert lines[1:] == ["web-001 0% 1.18M 121K/4.46K 1", "web-002 1% 2.35M/512M 241K/8.92K 2"]
