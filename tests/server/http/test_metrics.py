"""`/metrics`: its content, access to it, and the alert rules and dashboard that use it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from anvyl_mcp.server.http.metrics.prometheus import Metrics
from tests.end_to_end.test_faults import wait_for
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import NO_MODEL, ServingNode

MONITORING = Path(__file__).parents[3] / "examples" / "monitoring"
NAME = re.compile(r"\banvyl_[a-z0-9_]+")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


@pytest.fixture(scope="module")
def node(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    home = tmp_path_factory.mktemp("metrics")
    (home / "hosts.toml").write_text('[hosts.gone]\nurl = "http://127.0.0.1:1"\n', encoding="utf-8")
    served = ServingNode("alpha", home, {**engine.environment, "ANVYL_LMSTUDIO_URL": NO_MODEL})
    yield served
    served.stop()


def scraped(node: ServingNode) -> Samples:
    answer = httpx.get(f"{node.url}/metrics", timeout=30)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return samples(answer.text)


def test_metrics_cover_the_host_its_containers_and_its_peers(node: ServingNode, engine: RealEngine) -> None:
    engine.run("web", healthcheck={"test": ["CMD", "false"], "interval": 10**9, "retries": 1})
    engine.create("idle")

    found = scraped(node)

    assert value(found, "anvyl_engine_up") == 1
    assert value(found, "anvyl_containers", state="running") == 1
    assert value(found, "anvyl_containers", state="created") == 1
    assert value(found, "anvyl_containers", state="dead") == 0
    assert value(found, "anvyl_container_restarts_total", container="web") == 0
    assert (value(found, "anvyl_container_memory_used_bytes", container="web") or 0) > 0
    assert value(found, "anvyl_container_memory_used_bytes", container="idle") is None
    assert value(found, "anvyl_peer_up", peer="gone") == 0
    assert value(found, "anvyl_audit_ok") == 1
    total, used = value(found, "anvyl_host_memory_total_bytes"), value(found, "anvyl_host_memory_used_bytes")
    assert total and used and 0 < used < total


def test_restarts_by_the_engine_are_counted(node: ServingNode, engine: RealEngine) -> None:
    engine.run("crashing", ["false"], restart_policy={"Name": "on-failure", "MaximumRetryCount": 2})
    wait_for(lambda: engine.api.inspect_container("crashing")["RestartCount"] == 2)

    assert value(scraped(node), "anvyl_container_restarts_total", container="crashing") == 2


def test_calls_and_questions_are_counted(node: ServingNode, engine: RealEngine) -> None:
    before = scraped(node)
    httpx.post(f"{node.url}/agent/process", json={"query": "list images"}, timeout=30)
    httpx.post(f"{node.url}/agent/process", json={"query": "show logs of nothing"}, timeout=30)

    after = scraped(node)

    def grown(name: str, **labels: str) -> float:
        return (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0)

    assert grown("anvyl_tool_calls_total", tool="list_images", outcome="ok") == 1
    assert grown("anvyl_tool_call_seconds_count", tool="list_images") == 1
    assert grown("anvyl_questions_total", mode="rules", outcome="ok") == 1


def test_without_an_engine_machine_metrics_remain_and_the_engine_is_down(tmp_path: Path) -> None:
    served = ServingNode("bare", tmp_path, {"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    try:
        found = scraped(served)
    finally:
        served.stop()

    assert value(found, "anvyl_engine_up") == 0
    assert value(found, "anvyl_host_uptime_seconds")
    assert not any(name == "anvyl_containers" for name, _ in found)


def test_a_models_requests_and_tokens_are_counted_and_the_rules_have_none() -> None:
    metrics = Metrics()
    usage = {"requests": 2, "input_tokens": 900, "output_tokens": 40}
    metrics.count_question(mode="model", model="qwen", outcome="ok", seconds=3, usage=usage)
    metrics.count_question(mode="rules", model="rules", outcome="not_understood", seconds=0.1, usage=usage)

    def counted(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert counted("anvyl_model_requests_total", model="qwen") == 2
    assert counted("anvyl_model_tokens_total", model="qwen", direction="input") == 900
    assert counted("anvyl_model_tokens_total", model="rules", direction="input") is None
    assert counted("anvyl_questions_total", mode="rules", outcome="not_understood") == 1


def test_rules_and_dashboard_use_only_existing_metrics(node: ServingNode, engine: RealEngine) -> None:
    engine.run("checked", healthcheck={"test": ["CMD", "true"], "interval": 10**9})
    httpx.post(f"{node.url}/agent/process", json={"query": "list images"}, timeout=30)
    known = set(NAME.findall(httpx.get(f"{node.url}/metrics", timeout=30).text)) | {"anvyl_model_tokens_total"}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    asked = {target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    asked.add((MONITORING / "alerts.yml").read_text(encoding="utf-8"))

    used = {name for expression in asked for name in NAME.findall(expression)}

    assert len(used) > 10
    assert used <= known


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; scripts/test --long installs the package prometheus")
    return found


@pytest.mark.long
def test_prometheus_accepts_the_rules_and_they_fire_when_they_should(promtool: str) -> None:
    for arguments in (
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "prometheus.yml"],
    ):
        done = subprocess.run(
            [promtool, *arguments], cwd=MONITORING, capture_output=True, text=True, encoding="utf-8", timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_a_real_prometheus_scrapes_a_host(
    promtool: str, node: ServingNode, engine: RealEngine, tmp_path: Path, free_port: int
) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: anvyl, static_configs: [{{targets: ['127.0.0.1:{node.port}']}}]}}]\n",
        encoding="utf-8",
    )
    command = [promtool.replace("promtool", "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path}"]
    running = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{free_port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{free_port}") as client:
            wait_for(lambda: _asked(client, "anvyl_engine_up") == ["1"])
            assert _asked(client, 'up{job="anvyl"}') == ["1"]
    finally:
        running.terminate()
        running.wait(20)


def _asked(client: httpx.Client, query: str) -> list[str]:
    try:
        answer = client.get("/api/v1/query", params={"query": query})
    except httpx.TransportError:
        return []
    return [row["value"][1] for row in answer.json()["data"]["result"]] if answer.status_code == 200 else []
