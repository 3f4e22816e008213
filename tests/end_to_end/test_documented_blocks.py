"""The commands in the blocks of the documentation, run page by page on two hosts as a reader would type them."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anvyl_mcp.cli.programs import host, operator
from tests.end_to_end.test_faults import wait_for
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import NO_MODEL, SCRIPTS, CommandResult, ServingNode, running_node
from tests.support.notice_services import running_services
from tests.support.packages import ROOT

BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"\$ |anvyl|scripts/|curl |export |git |cd |docker |tailscale |authorization=")
"""How a line with a command begins; the others show output."""
AT_TOP = ("README.md", "CONTRIBUTING.md")
SECONDS = 60
APPS = {"anvyl": operator.app, "anvyl-mcp": host.app}


@dataclass(frozen=True)
class Line:
    """What is expected of a line. `until`: it does not end; once it has printed this, Ctrl-C ends it.

    `before`: what makes sense of the line where the page describes another day.
    """

    says: str = ""
    code: int = 0
    stdin: str = ""
    until: str = ""
    before: str = ""


SERVICES = (
    *("anvyl call create_service", "anvyl call scale_service", "anvyl call update_service"),
    *("anvyl call rollback_service", "anvyl call get_service", "anvyl call drain_node"),
    *("anvyl call activate_node", "anvyl call remove_service"),
)
NOT_RUN = {
    "scripts/": "install from the network, or are the tests themselves",
    "export PATH": "a setting of the reader's own shell",
    "git clone": "needs the network",
    "anvyl hosts add": "pairs over a network of its own in tests/end_to_end/test_trust.py",
    "anvyl-mcp service install": "on a systemd of its own in tests/app/service/test_systemd.py",
    "anvyl-mcp upgrade": "shows its commands and asks: tests/app/installation/test_detect.py",
    "cd examples": "the image and compose.yaml are tested in tests/packages/test_image.py",
    "export DOCKER_GID": "as `cd examples`",
    "docker compose": "as `cd examples`",
    "tailscale": "a service of others",
    "anvyl eval": "takes minutes: tests/evaluation",
    "anvyl swarm": "needs three engines in a network: tests/server/swarm",
    "anvyl update": "needs a registry: tests/server/updates",
    "anvyl pull": "needs a registry: tests/server/engine/test_pull.py",
    "anvyl web ": "without --print opens a browser: tests/web",
    "anvyl-mcp token revoke firefox": "needs a browser that signed in: tests/security/test_browser_sessions.py",
    'curl -H "$authorization" -H \'Content-Type: application/json\' -d \'{"invite"': "as `anvyl hosts add`",
    "authorization=": "a variable of the reader's own shell; its value is put in",
    **dict.fromkeys(SERVICES, "needs a Swarm: tests/server/swarm"),
}
"""Beginnings of lines that are not run here, and why."""

STOP_TRAINER = (
    "curl -H 'Content-Type: application/json' -d '{\"query\": \"stop trainer\"}' http://localhost:4200/agent/process"
)
LINES = {
    "README.md": {
        'anvyl ask "is everything ok?"': Line("running"),
        'anvyl ask "show logs of web"': Line("hello from web"),
        'anvyl ask "stop web"': Line("web", code=5),
        "anvyl logs -f web": Line(until="hello from web"),
        "anvyl restart web": Line("web"),
        "anvyl-mcp invite": Line("anv1-"),
        "anvyl-mcp install claude-desktop": Line("claude_desktop_config.json"),
    },
    "assistants.md": {
        "anvyl-mcp install": Line("claude-desktop"),
        "anvyl-mcp install claude-desktop": Line("claude_desktop_config.json"),
        "anvyl-mcp install --all --dry-run": Line("cursor"),
        "anvyl-mcp install --all": Line("cursor"),
        "anvyl-mcp uninstall claude-desktop": Line("claude_desktop_config.json"),
        "anvyl-mcp install json --print": Line('"gateway"'),
    },
    "first-ten-minutes.md": {
        "anvyl doctor": Line("engine", code=1),
        "anvyl --version -v": Line("Python"),
        "anvyl info hello": Line("demo"),
        "anvyl logs hello": Line("hello"),
        'anvyl ask "show logs of hello"': Line("hello"),
        'anvyl ask "which container uses the most memory?"': Line("hello"),
        'anvyl ask "stop hello" --dry-run': Line("Dry run"),
        'anvyl ask "stop hello" --yes': Line("Stopped hello"),
        "anvyl undo --yes": Line("hello"),
        "anvyl rm hello --force --yes": Line("hello"),
        "anvyl-mcp audit": Line("remove_container"),
    },
    "history.md": {
        "anvyl history": Line("web"),
        "anvyl history web --since yesterday": Line("web"),
        "anvyl history --kind changes --since Monday": Line("web"),
        'anvyl ask "who stopped web"': Line("web"),
        'anvyl ask "what changed since yesterday"': Line("web"),
    },
    "http.md": {
        "curl -H 'Content-Type: application/json' -d '{\"query\"": Line('"response"'),
        "curl -H 'Content-Type: application/json' -d '{\"approve\"": Line("Stopped trainer", before=STOP_TRAINER),
        "curl -H 'Content-Type: application/json' -d '{\"host_id\"": Line('"host_id":"nas"'),
        "curl -H 'Content-Type: application/json' -d '{\"message\"": Line('"results"'),
        'curl -H "$authorization" -H \'Content-Type: application/json\' -d \'{"host_id"': Line("attic"),
        'curl -H "$authorization" -X DELETE': Line("attic"),
    },
    "monitoring.md": {
        "anvyl watch": Line(until="sick on "),
        "anvyl watch --once": Line("sick on ", code=1),
        "anvyl watch --webhook": Line(until="sick on "),
        "curl": Line("anvyl_engine_up 1"),
    },
    "notices.md": {
        "anvyl notify add phone": Line("phone", stdin="NTFY"),
        "anvyl notify test": Line("phone"),
        "anvyl-mcp serve --watch": Line(until="http://"),
        "anvyl notify list": Line("ntfy://"),
    },
    "troubleshooting.md": {
        "anvyl --version -v": Line("engine"),
        "anvyl doctor --json": Line('"findings"', code=1),
    },
    "usage.md": {
        'anvyl ask "stop web on nas"': Line("web", code=5),
        'anvyl ask "stop web on nas" --yes': Line("Stopped web"),
        'anvyl ask "stop web on nas" --dry-run': Line(before="anvyl start web", says="Dry run"),
        'anvyl ask "list images" --json': Line('"calls"'),
        "anvyl logs -f web db": Line(until="hello from db"),
        "anvyl stats --watch": Line(until="web"),
        "anvyl stop web db": Line("Stopped db"),
        "anvyl undo": Line("would, on nas, start", code=5),
        "anvyl exec web ls /etc": Line(before="anvyl start web"),
        "anvyl run -p 8080:80 --name web": Line("web", before="anvyl rm web --force --yes"),
        "anvyl run --place": Line("nginx", code=5),
        "anvyl call list_processes": Line("pid"),
    },
    "web.md": {
        "anvyl web --print": Line("http"),
        "anvyl-mcp invite --browser": Line("https://"),
    },
    "stacks.md": {
        "anvyl stack ls": Line("immich"),
        "anvyl stack show immich": Line("immich"),
        "anvyl logs -f immich": Line(until="hello from server"),
        'anvyl ask "stop the nextcloud stack"': Line("nextcloud", code=5),
        "anvyl stack up compose.yaml --host nas,pi": Line("desk", code=5),
        "anvyl stack up compose.yaml --host nas": Line("would deploy stack immich on nas", code=5),
        "anvyl stack revert immich": Line("immich", code=5),
    },
}
"""Of each page whose blocks are run, what is expected; other lines have to end with exit code 0."""
PREPARED = {
    "history.md": ("anvyl stop web", "anvyl start web"),
    "stacks.md": tuple(f"anvyl stack up {name}.yaml --host nas --yes" for name in ("one", "two", "three")),
}
"""Commands before those of a page."""


def commands(page: str) -> list[str]:
    path = ROOT / page if page in AT_TOP else ROOT / "docs" / page
    blocks = BLOCK.findall(path.read_text(encoding="utf-8").replace("\\\n", ""))
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if PROGRAM.match(line)]
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def longest_match(line: str, known: Mapping[str, object]) -> str:
    """The longest beginning of a line among the known ones; empty if there is none."""
    return max((one for one in known if f"{line} ".startswith(one)), key=len, default="")


STACK = """
name: immich
services:
  server:
    image: nginx:1.27
    command: sh -c "echo hello from server; sleep 3600"
    init: true
    labels: {{anvyl.test: "1", version: {}}}
"""


@dataclass
class Reader:
    """This machine, `desk`, where the commands run, and a second host, `nas`."""

    home: Path
    desk: ServingNode
    entry: str
    replaced: dict[str, str]

    def run(self, command: str, line: Line) -> CommandResult:
        """Run a line: a command that ends in this process, everything else in a shell."""
        for old, new in self.replaced.items():
            command = command.replace(old, new)
        program, *words = shlex.split(command)
        if line.until or program not in APPS:
            return self._in_shell(command, line.until)
        given = self.replaced.get(line.stdin, line.stdin)
        done = CliRunner().invoke(APPS[program], words, given, prog_name=program, catch_exceptions=False)
        return CommandResult(done.exit_code, done.stdout, done.stderr)

    def _in_shell(self, command: str, awaited: str) -> CommandResult:
        """Run a command until it ends or has printed what is awaited, then press Ctrl-C."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        printed, deadline = "", time.monotonic() + SECONDS
        with process:
            while time.monotonic() < deadline and not (awaited and awaited in printed):
                ready, _, _ = select.select([process.stdout], [], [], 1)
                part = os.read(process.stdout.fileno(), 65536).decode() if ready else ""
                if ready and not part:
                    break
                printed += part
            if awaited:
                process.send_signal(signal.SIGINT)
            printed += process.stdout.read().decode()
        ended = process.returncode in (0, 130) if awaited else process.returncode == 0
        return CommandResult(0 if ended and awaited in printed else 1, printed, "")


@pytest.fixture(scope="module")
def hosts(engine: RealEngine, second_engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Both hosts, serving, without a language model."""
    if not engine.private:
        pytest.skip("gives an image the name nginx, which needs a private engine")
    home = tmp_path_factory.mktemp("reader")
    for one in (engine, second_engine):
        one.api.tag("busybox:latest", "nginx", "1.27")
    for assistant in (".cursor", ".config/Claude"):
        (home / "user" / assistant).mkdir(parents=True)
    for name in ("one", "two", "three", "compose"):
        (home / f"{name}.yaml").write_text(STACK.format(name), encoding="utf-8")
    with (
        running_node("nas", home / "nas", second_engine, ANVYL_LMSTUDIO_URL=NO_MODEL) as nas,
        running_node("desk", home / "desk", engine, ANVYL_LMSTUDIO_URL=NO_MODEL) as desk,
    ):
        entry = f'[hosts.nas]\nurl = "{nas.url}"\ntoken = "{nas.token}"\n'
        words = {
            '"$authorization"': '"Authorization: Bearer TOKEN"',
            "TOKEN": desk.token,
            "http://localhost:4200": desk.url,
            # The page adds a host and removes it; nas is one already.
            '"nas", "host_ip"': '"attic", "host_ip"',
            "hosts/nas": "hosts/attic",
            "4210": str(nas.port),
            "nas,pi": "nas,desk",
            "anvyl-mcp serve": f"env ANVYL_HOME={home / 'another'} anvyl-mcp serve --port 0 --agent-port 0",
        }
        yield Reader(home, desk, entry, words)
    for one in (engine, second_engine):
        one.clean()
        one.api.remove_image("nginx:1.27", force=True)
        for network in one.api.networks(names=["immich_default"]):
            one.api.remove_network(network["Id"])


@pytest.fixture
def reader(hosts: Reader, engine: RealEngine, second_engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Two containers on nas, one on desk, and the settings of the reader's shell."""
    for name in ("web", "db"):
        second_engine.run(name, talk(name), image="nginx:1.27")
    engine.run("trainer", talk("trainer"))
    environment = {
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        "HOME": str(hosts.home / "user"),
        "ANVYL_HOME": str(hosts.desk.home),
        "ANVYL_NAME": "desk",
        "COLUMNS": "120",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(hosts.home)
    return hosts


def talk(name: str) -> list[str]:
    """Command of a container that logs a line and keeps running."""
    return ["sh", "-c", f"echo hello from {name}; sleep 3600"]


@pytest.mark.parametrize("page", LINES)
def test_the_blocks_of_a_page_do_what_it_says(page: str, reader: Reader, engine: RealEngine) -> None:
    hosts_file = reader.desk.home / "hosts.toml"
    # Somebody new has one machine.
    hosts_file.write_text("" if page == "first-ten-minutes.md" else reader.entry, encoding="utf-8")
    hosts_file.chmod(0o600)
    if page == "stacks.md":
        engine.run("nextcloud-web", labels={"com.docker.compose.project": "nextcloud"})
    for before in PREPARED.get(page, ()):
        prepared = reader.run(before, Line())
        assert prepared.code == 0, prepared
    if page == "monitoring.md":
        engine.run("sick", healthcheck={"test": ["CMD", "false"], "interval": 10**8, "retries": 1})
        wait_for(lambda: engine.api.inspect_container("sick")["State"]["Health"]["Status"] == "unhealthy")
    done = []
    with running_services() as services:
        reader.replaced |= {"NTFY": f"ntfy://{services.address}/topic", "https://hooks.home": services.url}
        for command in commands(page):
            if longest_match(command, NOT_RUN):
                continue
            line = LINES[page].get(longest_match(command, LINES[page]), Line())
            if line.before:
                prepared = reader.run(line.before, Line())
                assert prepared.code == 0, prepared
                if waiting := re.search(r'"approval":\{"id":"([^"]+)"', prepared.out):
                    reader.replaced["/ID"] = f"/{waiting[1]}"
            result = reader.run(command, line)
            done.append(f"$ {command}\n{result.out}{result.err}[{result.code}]")
            assert result.code == line.code and line.says in result.out + result.err, "\n".join(done)
    assert len(done) > 1


def test_every_page_with_commands_is_run_or_says_why_not() -> None:
    pages = [*AT_TOP, *(path.name for path in sorted((ROOT / "docs").glob("*.md")))]
    left = {
        page: [line for line in commands(page) if not longest_match(line, NOT_RUN)]
        for page in pages
        if page not in LINES
    }
    every = [line for page in pages for line in commands(page)]

    assert {page: lines for page, lines in left.items() if lines} == {}
    assert [one for one in NOT_RUN if not any(f"{line} ".startswith(one) for line in every)] == []
    assert len([line for line in every if not longest_match(line, NOT_RUN)]) > 60
