"""`anvyl watch`: each problem is reported once, and once more when it is over."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from anvyl_mcp.core.errors import EngineError, InvalidInput, Unreachable
from anvyl_mcp.core.settings import load
from anvyl_mcp.peers.connection.listing import Connection, ProgressCallback, ToolAnswer, ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.hosts.registry import Peer, Registry
from anvyl_mcp.peers.notices.channels import make_channel
from anvyl_mcp.peers.notices.command_recipient import parse_command
from anvyl_mcp.peers.watch import notifiers
from anvyl_mcp.peers.watch.rules import Rule
from anvyl_mcp.peers.watch.troubles import Alert
from anvyl_mcp.peers.watch.watcher import Watcher
from tests.end_to_end.test_faults import wait_for
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ServingNode, anvyl
from tests.support.notice_services import running_services

GIB = 1024**3


class Host:
    """A host with scripted answers."""

    def __init__(self) -> None:
        self.down = False
        self.engine = True
        self.disk = 40.0
        self.containers: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.memory = 50.0
        self.used = 9 * GIB
        self.usage: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []
        """Arguments of the requests for events."""

    def exits_at(self, *moments: float, name: str = "web") -> None:
        """Set the events: exits at these Unix times."""
        self.events = [
            {
                "time": datetime.fromtimestamp(at, UTC).isoformat(),
                "type": "container",
                "action": "die",
                "name": name,
                "id": name,
                "detail": "exit code 1",
            }
            for at in moments
        ]

    def happens(self, *actions: str, name: str = "web", detail: str = "") -> None:
        """Add events for the next check; `detail` describes the exit of a `die`."""
        self.events = [
            {"time": str(number), "type": "container", "action": action, "name": name, "id": name, "detail": detail}
            for number, action in enumerate(actions)
        ]

    def has(self, name: str, state: str = "running", status: str = "Up 3 hours", health: str = "") -> None:
        self.containers = [{"id": name, "name": name, "state": state, "status": status, "health": health}]

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        if self.down:
            raise Unreachable("no answer within 3 s")
        if tool in ("list_history", "get_usage_history"):
            return ToolAnswer(self.answers.get(tool, {}))
        if tool == "list_containers":
            error = None if self.engine else EngineError("it does not run")
            return ToolAnswer({"containers": self.containers, "total": 1, "more": 0}, error=error)
        if tool == "get_container_stats":
            return ToolAnswer({"containers": self.usage, "total": len(self.usage), "more": 0})
        if tool == "list_events":
            self.asked.append(dict(arguments))
            return ToolAnswer({"events": self.events, "total": len(self.events), "more": 0})
        disk = {"mount": "/", "used": self.used, "total": 10 * GIB, "percent": self.disk}
        memory = {"used": 1, "total": 2, "percent": self.memory}
        return ToolAnswer({"cpu_percent": 5.0, "memory": memory, "disks": [disk]})

    async def list_tools(self) -> list[ToolListing]:
        return []

    async def version(self) -> str:
        return "1"

    async def close(self) -> None:
        return


class Scene:
    """A fleet of two hosts and its watcher."""

    def __init__(self, folder: Path, rules: Sequence[Rule] = (), more_tools: Sequence[str] = ()) -> None:
        self.hosts = {"vm": Host(), "nas": Host()}
        (folder / "hosts.toml").write_text('[hosts.nas]\nurl = "http://127.0.0.1:9"\n', encoding="utf-8")
        names = {"memory:": "vm"}

        def connect(peer: Peer) -> Connection:
            return self.hosts[names.get(peer.url, peer.name)]

        tools = {
            name: ToolListing(name, "", {"type": "object"}, safety="reads", toolset="containers")
            for name in ("get_host_resources", "list_containers", "list_events", "get_container_stats", *more_tools)
        }
        fleet = Fleet(Peer("vm", "memory:"), Registry(folder / "hosts.toml"), tools, connect)
        self.watcher = Watcher(fleet, rules=rules)

    async def said(self) -> list[str]:
        return [alert.message for alert in await self.watcher.check()]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_full_disk_alerts_once_and_recovers_once_with_a_margin(scene: Scene) -> None:
    assert await scene.said() == []
    scene.hosts["nas"].disk = 91

    assert await scene.said() == ["disk / on nas is 91 % full, 1 GiB free"]
    assert await scene.said() == []
    scene.hosts["nas"].disk = 89
    assert await scene.said() == [], "it hovers"
    scene.hosts["nas"].disk = 80
    assert await scene.said() == ["disk / on nas has room again, after 1 s"]
    assert await scene.said() == []


async def test_a_host_is_gone_after_two_failed_checks_and_keeps_its_other_problems(scene: Scene) -> None:
    scene.hosts["nas"].has("web", health="unhealthy")
    assert await scene.said() == ["web on nas is unhealthy"]

    scene.hosts["nas"].down = True
    assert await scene.said() == []
    assert await scene.said() == ["nas is gone: unreachable: no answer within 3 s"]
    scene.hosts["nas"].down = False
    assert await scene.said() == ["nas is back, after 1 s"]
    scene.hosts["nas"].has("web", health="healthy")
    assert await scene.said() == ["web on nas is no longer unhealthy, after 1 s"]


async def test_an_engine_failure_is_reported_once_and_not_per_container(scene: Scene) -> None:
    scene.hosts["vm"].has("web", health="unhealthy")
    await scene.said()
    scene.hosts["vm"].engine = False

    assert await scene.said() == ["the Docker engine on vm does not answer: it does not run"]
    scene.hosts["vm"].engine = True
    assert await scene.said() == ["the Docker engine on vm answers again, after 1 s"]


async def test_two_restarts_are_a_restart_loop(scene: Scene) -> None:
    vm = scene.hosts["vm"]
    vm.has("web")
    await scene.said()
    vm.has("web", state="restarting", status="Restarting (1) 2 seconds ago")
    assert await scene.said() == []
    vm.has("web")
    assert await scene.said() == []
    vm.has("web", state="restarting", status="Restarting (1) 2 seconds ago")

    assert await scene.said() == ["web on vm keeps restarting"]
    vm.has("web")
    assert [await scene.said() for _ in range(2)] == [[], []]
    assert await scene.said() == ["web on vm no longer restarts, after 1 s"]


async def test_removed_containers_and_hosts_leave_no_problems(scene: Scene, tmp_path: Path) -> None:
    scene.hosts["vm"].has("web", health="unhealthy")
    scene.hosts["nas"].disk = 99
    assert len(await scene.said()) == 2
    scene.hosts["vm"].containers = []
    hosts = tmp_path / "hosts.toml"
    known = hosts.read_text(encoding="utf-8")
    hosts.write_text("", encoding="utf-8")

    assert await scene.said() == ["web on vm is no longer unhealthy, after 1 s"]
    hosts.write_text(known, encoding="utf-8")
    assert await scene.said() == ["disk / on nas is 99 % full, 1 GiB free"], "it was forgotten with its host"


async def test_a_container_that_died_or_was_stopped_by_another_program_is_reported(scene: Scene) -> None:
    vm = scene.hosts["vm"]
    vm.has("web")
    await scene.said()
    vm.has("web", state="exited", status="Exited (3) 2 seconds ago")
    vm.happens("die", detail="exit code 3")
    assert await scene.said() == ["web on vm stopped: Exited (3) 2 seconds ago"]
    assert await scene.said() == []
    vm.has("web")
    assert await scene.said() == ["web on vm is no longer stopped, after 1 s"]

    vm.has("web", state="exited", status="Exited (0) 2 seconds ago")
    vm.happens("kill", "stop", "die", detail="exit code 0")
    assert await scene.said() == ["web on vm was stopped by a request outside Anvyl: Exited (0) 2 seconds ago"]


async def test_a_finished_container_or_one_that_anvyl_stopped_is_not_reported(scene: Scene) -> None:
    vm = scene.hosts["vm"]
    vm.has("job")
    await scene.said()
    vm.has("job", state="exited", status="Exited (0) 2 seconds ago")
    vm.happens("die", name="job", detail="exit code 0")
    assert await scene.said() == []

    vm.has("web")
    await scene.said()
    vm.has("web", state="exited", status="Exited (137) 2 seconds ago")
    vm.containers[0]["expected"] = "stopped"
    vm.happens("kill", "die", detail="exit code 137")
    assert await scene.said() == []


async def test_a_container_that_exited_and_restarted_between_two_checks_is_reported_once(scene: Scene) -> None:
    vm = scene.hosts["vm"]
    vm.has("web")
    await scene.said()
    vm.happens("kill", "stop", "die", "start", detail="exit code 137")
    assert await scene.said() == ["web on vm was stopped (exit code 137), and runs again"]
    assert await scene.said() == [], "the same event in the next look"
    vm.happens("kill", "die", "start", "restart", detail="exit code 0")
    assert await scene.said() == [], "a requested restart is neither"


async def test_a_container_that_somebody_stops_and_starts_does_not_keep_restarting(scene: Scene) -> None:
    vm = scene.hosts["vm"]
    vm.has("web")
    await scene.said()
    said = []
    for _ in range(3):
        scene.watcher._hosts["vm"].looked -= 30
        vm.has("web", state="exited", status="Exited (137) 2 seconds ago")
        vm.happens("kill", "die", "stop", detail="exit code 137")
        said += await scene.said()
        scene.watcher._hosts["vm"].looked -= 30
        vm.has("web", status="Up 3 seconds")
        vm.happens("start")
        said += await scene.said()
    assert len(said) == 6 and not [one for one in said if "keeps restarting" in one]


async def test_what_happened_while_nothing_was_watched_is_sent_when_the_watch_continues(scene: Scene) -> None:
    vm = scene.hosts["vm"]
    scene.watcher.restore({}, 3600.0)
    vm.containers = [
        {"id": "web", "name": "web", "state": "running", "status": "Up 20 minutes", "health": ""},
        {"id": "db", "name": "db", "state": "exited", "status": "Exited (1) 5 minutes ago", "health": ""},
    ]
    vm.exits_at(1_800_000_000.0)
    vm.events += [{**vm.events[0], "id": "db", "name": "db"}]

    assert sorted(await scene.said()) == [
        "db on vm stopped: Exited (1) 5 minutes ago",
        "web on vm ended (exit code 1), and runs again",
    ]
    assert vm.asked[0]["since"] == "3602s"


async def test_a_host_that_was_silent_does_not_make_others_repeat_their_events(scene: Scene) -> None:
    """Each host is asked for the events since its own last check."""
    vm, nas = scene.hosts["vm"], scene.hosts["nas"]
    vm.has("web")
    await scene.said()
    nas.down = True
    scene.watcher._hosts["nas"].looked -= 3600
    await scene.said()
    nas.down = False
    await scene.said()

    assert int(nas.asked[-1]["since"].removesuffix("s")) >= 3600
    assert all(int(one["since"].removesuffix("s")) < 60 for one in vm.asked)


class Hook(BaseHTTPRequestHandler):
    """A webhook that fails its first request."""

    got: list[dict[str, Any]]
    posts = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        Hook.posts += 1
        if Hook.posts > 1:
            Hook.got.append(json.loads(body))
        self.send_response(503 if Hook.posts == 1 else 204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def hook() -> Iterator[str]:
    Hook.got, Hook.posts = [], 0
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret-path"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_webhook_that_was_down_gets_every_alert_later_and_in_order(
    scene: Scene, hook: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene.hosts["nas"].disk = 95
    arrived = anyio.Event()

    def record(alert: Alert) -> None:
        scene.hosts["vm"].disk = 95
        if alert.trouble.host == "vm":
            arrived.set()

    async with anyio.create_task_group() as group:
        settings = load({"watch_webhook": hook}, {"ANVYL_HOME": str(tmp_path / "home")})
        watch = notifiers.Watch(scene.watcher, 0.05, notifiers.NoticePost(settings, "vm"), record)
        group.start_soon(watch.run)
        with anyio.fail_after(10):
            await arrived.wait()
            while len(Hook.got) < 2:  # noqa: ASYNC110  the server is on a thread
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()

    assert [(one["host"], one["kind"], one["event"]) for one in Hook.got] == [
        ("nas", "disk", "trouble"),
        ("vm", "disk", "trouble"),
    ]
    assert "HTTP 503" in caplog.text
    assert "secret-path" not in caplog.text


async def test_a_command_gets_the_alert_on_its_input_and_in_its_environment(scene: Scene, tmp_path: Path) -> None:
    script = tmp_path / "notify.sh"
    script.write_text(f'echo "$ANVYL_HOST $ANVYL_EVENT" >{tmp_path}/words; cat >{tmp_path}/json\n', encoding="utf-8")
    scene.hosts["nas"].disk = 95
    [alert] = await scene.watcher.check()

    await parse_command(f"sh '{script}'").send(alert.as_notice())

    assert (tmp_path / "words").read_text(encoding="utf-8") == "nas trouble\n"
    assert json.loads((tmp_path / "json").read_text(encoding="utf-8"))["subject"] == "/"


@pytest.mark.parametrize("line", ["", "sh 'unclosed"])
def test_an_invalid_command_is_rejected_before_the_watch_starts(line: str) -> None:
    with pytest.raises(InvalidInput):
        parse_command(line)


@pytest.mark.parametrize("url", ["nonsense", "file:///etc/passwd", "http://"])
def test_an_invalid_webhook_is_rejected_before_the_watch_starts(url: str) -> None:
    with pytest.raises(InvalidInput):
        make_channel("webhook", url)


def test_watch_once_reports_problems_and_exits_with_1(engine: RealEngine) -> None:
    engine.run("sick", healthcheck={"test": ["CMD", "false"], "interval": 10**8, "retries": 1})
    wait_for(lambda: engine.api.inspect_container("sick")["State"]["Health"]["Status"] == "unhealthy")

    result = anvyl("watch", "--once", "--disk", "100")
    document = anvyl("watch", "--once", "--disk", "100", "--json").json

    assert result.code == 1
    assert "sick on " in result.out
    assert [one["subject"] for one in document["notices"]] == ["sick"]
    engine.api.remove_container("sick", force=True)
    calm = anvyl("watch", "--once", "--disk", "100")
    assert (calm.code, calm.out) == (0, "")
    assert "no problems on" in calm.err


@pytest.mark.parametrize(
    "arguments",
    [("--disk", "0"), ("--disk", "200"), ("--every", "soon"), ("--webhook", "nowhere"), ("--host", "nowhere")],
    ids=lambda one: " ".join(one),
)
def test_watch_rejects_invalid_options(arguments: tuple[str, ...]) -> None:
    result = anvyl("watch", *arguments)

    assert result.code == 2
    assert "error:" in result.err


def test_a_server_with_watch_enabled_logs_alerts(engine: RealEngine, tmp_path: Path) -> None:
    engine.run("sick", healthcheck={"test": ["CMD", "false"], "interval": 10**8, "retries": 1})
    log = tmp_path / "events"
    node = ServingNode(
        "alpha",
        tmp_path / "home",
        {**engine.environment, "ANVYL_WATCH": "1", "ANVYL_WATCH_EVERY": "1s", "ANVYL_WATCH_COMMAND": f"tee -a {log}"},
    )
    try:
        wait_for(lambda: log.exists() and "sick on alpha is unhealthy" in log.read_text(encoding="utf-8"))
    finally:
        assert node.stop() == 0


def test_a_container_that_was_killed_and_came_back_fast_is_reported(engine: RealEngine, tmp_path: Path) -> None:
    """Events tell it, although the container runs at every check."""
    log = tmp_path / "events"
    watch = {"ANVYL_WATCH": "1", "ANVYL_WATCH_EVERY": "3s", "ANVYL_WATCH_COMMAND": f"tee -a {log}"}
    engine.run("redis")
    node = ServingNode("alpha", tmp_path / "home", {**engine.environment, **watch})
    try:
        wait_for(lambda: (tmp_path / "home" / "watch.json").exists())
        engine.api.kill("redis")
        engine.api.start("redis")
        wait_for(lambda: log.exists() and "redis on alpha was stopped" in log.read_text(encoding="utf-8"))
        assert "exit code 137), and runs again" in log.read_text(encoding="utf-8")
    finally:
        assert node.stop() == 0


def test_another_host_watches_only_while_the_watcher_is_down_and_says_so(tmp_path: Path) -> None:
    with running_services() as services:
        nothing = {"DOCKER_HOST": "unix:///nonexistent/docker.sock", "ANVYL_WATCH_EVERY": "1s"}
        alpha = ServingNode("alpha", tmp_path / "alpha", {**nothing, "ANVYL_WATCH": "1"})
        beta_home = tmp_path / "beta"
        beta_home.mkdir(mode=0o700)
        hosts = beta_home / "hosts.toml"
        pair = '[hosts.alpha]\nurl = "{}"\ntoken = "{}"\n'
        hosts.write_text(pair.format(alpha.url, "anv1_revoked"), encoding="utf-8")
        hosts.chmod(0o600)
        channels = beta_home / "notify.json"
        channels.touch(0o600)
        channels.write_text(f'{{"phone": "ntfy://{services.address}/topic"}}', encoding="utf-8")
        wait_for(lambda: (tmp_path / "alpha" / "watch.json").exists())
        beta = ServingNode("beta", beta_home, {**nothing, "ANVYL_WATCH_STANDBY": "alpha"})
        try:
            blind = services.wait(1)[0][1]
            assert blind["title"] == "Problem: standby for alpha"
            assert "beta cannot check whether alpha watches the hosts" in blind["message"]
            hosts.write_text(pair.format(alpha.url, alpha.token), encoding="utf-8")
            assert services.wait(2)[1][1]["title"] == "Recovered: standby for alpha"

            port = alpha.port
            alpha.kill()
            first = services.wait(3)[2][1]
            assert first["title"] == "Problem: watch on alpha" and first["priority"] == 5
            assert "alpha does not watch the hosts" in first["message"] and "beta does" in first["message"]

            alpha.start(port)
            hosts.write_text(pair.format(alpha.url, alpha.token), encoding="utf-8")
            wait_for(lambda: any(one["title"] == "Recovered: watch on alpha" for _, one in services.got))
        finally:
            alpha.stop()
            assert beta.stop() == 0


def test_a_restarted_watch_repeats_nothing_and_says_when_nothing_was_watched(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    known = [{"trouble": {"host": "alpha", "kind": "engine"}, "began": time.time() - 9000}]
    before = {"checked": time.time() - 7200, "every": 1, "known": known}
    (home / "watch.json").write_text(json.dumps(before), encoding="utf-8")
    with running_services() as services:
        watch = {"ANVYL_WATCH": "1", "ANVYL_WATCH_EVERY": "1s", "ANVYL_WATCH_WEBHOOK": f"{services.url}/x"}
        node = ServingNode("alpha", home, {"DOCKER_HOST": "unix:///nonexistent/docker.sock", **watch})
        try:
            wait_for(lambda: json.loads((home / "watch.json").read_text("utf-8"))["checked"] > before["checked"])
            health = httpx.get(f"{node.url}/health", headers=node.headers).json()
        finally:
            node.stop()

    [(_, message)] = services.got
    assert "nothing was watched for 2 h" in message["message"] and health["checks"]["watch"] == "ok"
