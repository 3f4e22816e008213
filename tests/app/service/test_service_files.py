"""The files of services for systemd, launchd and OpenRC, as `anvyl-mcp service install --print` shows them."""

from __future__ import annotations

import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anvyl_mcp.app.service import definition
from anvyl_mcp.app.service.definition import ENGINE_VARIABLES, FOLDER_VARIABLES, ServiceDefinition
from anvyl_mcp.app.service.systemd_unit import unit_text
from anvyl_mcp.cli.host_commands.service import install
from anvyl_mcp.cli.programs import host
from anvyl_mcp.core.settings import SETTINGS
from tests.conftest import OUTSIDE
from tests.support.hosts.nodes import ANVYL_MCP, CommandResult

FOLDER = Path(__file__).parents[2] / "data" / "services"
EXPOSURE = 4.0
"""Highest score of `systemd-analyze security` that is allowed."""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home, and nothing in the environment that the file of a service would contain."""
    for name in ("ANVYL_HOME", *(one.env for one in SETTINGS), *ENGINE_VARIABLES, *FOLDER_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def shown(*arguments: str) -> CommandResult:
    done = CliRunner().invoke(host.app, ["service", "install", "--print", *arguments], catch_exceptions=False)
    return CommandResult(done.exit_code, done.stdout, done.stderr)


def comparable(content: str, home: Path) -> str:
    """The content with the paths of this machine replaced, and without those that only some installations need."""
    content = content.replace(str(Path(ANVYL_MCP).parent), "/opt/anvyl/bin").replace(str(home), "/home/you")
    content = re.sub(r"^BindReadOnlyPaths=.*\n", "", content, flags=re.MULTILINE)
    return content.replace("ProtectHome=tmpfs", "ProtectHome=read-only")


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("systemd-user.service", ("--manager", "systemd", "--user", "--name", "nas", "--read-only")),
        ("systemd-system.service", ("--manager", "systemd", "--system", "--port", "4300", "--toolsets", "host,images")),
        ("launchd.plist", ("--manager", "launchd", "--user", "--watch")),
        ("openrc", ("--manager", "openrc", "--system", "--name", "nas", "--host", "0.0.0.0")),
    ],
)
def test_the_file_of_a_service_matches_its_snapshot(file: str, arguments: tuple[str, ...], home: Path) -> None:
    fresh = comparable(shown(*arguments).out, home)
    if OUTSIDE.get("ANVYL_UPDATE_DOCS"):
        (FOLDER / file).write_text(fresh, encoding="utf-8")

    assert (FOLDER / file).read_text(encoding="utf-8") == fresh


def test_printing_writes_nothing(home: Path) -> None:
    shown("--manager", "systemd", "--user", "--name", "nas")

    assert not (home / ".config" / "systemd").exists()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("scope", ["user", "system"])
def test_systemd_accepts_the_unit(scope: str, home: Path) -> None:
    unit = home / "anvyl-mcp.service"
    unit.write_text(shown("--manager", "systemd", f"--{scope}").out, encoding="utf-8")

    done = subprocess.run(
        ["systemd-analyze", "verify", f"--{scope}", unit], capture_output=True, text=True, check=False
    )
    # What systemd thinks of other units of this machine does not matter.
    problems = [line for line in done.stderr.splitlines() if "anvyl" in line]

    assert problems == []


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_the_exposure_of_the_system_unit_is_low(home: Path) -> None:
    unit = home / "anvyl-mcp.service"
    unit.write_text(shown("--manager", "systemd", "--system").out, encoding="utf-8")

    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    score = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)

    assert score is not None, done.stderr
    assert float(score[1]) <= EXPOSURE


def test_launchd_reads_the_plist(home: Path) -> None:
    content = plistlib.loads(shown("--manager", "launchd", "--name", "mini").out.encode())

    assert content["ProgramArguments"] == [ANVYL_MCP, "serve", "--name", "mini"]
    assert content["KeepAlive"] == {"SuccessfulExit": False}


def test_a_shell_reads_the_openrc_script(home: Path) -> None:
    script = home / "anvyl-mcp"
    script.write_text(shown("--manager", "openrc", "--tools", "get_host_info").out, encoding="utf-8")

    shell = f'. {script}; eval "printf %s\\\\\\n $command_args"; echo $ANVYL_HOME; command -V start_pre'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[:4] == ["serve", "--tools", "get_host_info", "/var/lib/anvyl"]


def test_words_that_systemd_would_expand_are_quoted() -> None:
    unit = unit_text(
        ServiceDefinition(
            program=Path("/opt/my programs/anvyl-mcp"),
            options={"name": "nas"},
            environment={"DOCKER_CONFIG": '/srv/100%/$HOME "x"'},
            home=Path("/srv/a b"),
        )
    )

    assert 'ExecStart="/opt/my programs/anvyl-mcp" serve --name nas\n' in unit
    assert 'Environment="DOCKER_CONFIG=/srv/100%%/$HOME \\"x\\""\n' in unit
    assert 'Environment="ANVYL_HOME=/srv/a b"\n' in unit


def test_settings_of_the_shell_are_kept_but_not_its_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_HOME", str(home / "anvyl"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    monkeypatch.setenv("ANVYL_LLM_API_KEY", "sk-secret")
    monkeypatch.setenv("ANVYL_LMSTUDIO_MODEL", "qwen")
    done = shown("--manager", "systemd", "--user")

    assert f"Environment=ANVYL_HOME={home}/anvyl\n" in done.out
    assert "Environment=DOCKER_HOST=unix:///run/user/1000/docker.sock\n" in done.out
    assert "Environment=ANVYL_LMSTUDIO_MODEL=qwen\n" in done.out
    assert "sk-secret" not in done.out + done.err
    assert "ANVYL_LLM_API_KEY contains a secret and was left out" in done.err


def test_every_option_of_serve_is_an_option_of_the_service() -> None:
    options = set(host.serve.__annotations__) - {"return", "stdio"}

    assert options == set(definition.OPTIONS)
    assert options <= set(install.__annotations__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--manager", "systemd", "--user", "--system"), "--user and --system exclude each other"),
        (("--manager", "upstart"), "`upstart` is not a service manager that Anvyl knows"),
        (("--manager", "openrc", "--user"), "there is no user service here"),
        (("--manager", "launchd", "--system"), "there is no system service here: Docker on macOS runs in your session"),
        (("--manager", "systemd", "--toolsets", "container"), "there is no toolset `container`"),
        (("--manager", "systemd", "--port", "70000"), "--port is `70000`, which is not a port number"),
    ],
)
def test_an_option_that_cannot_work_is_refused_before_anything_is_written(
    arguments: tuple[str, ...], message: str
) -> None:
    done = shown(*arguments, "--json")

    assert done.code == 2
    assert message in done.json["error"]["message"]


def test_programs_in_home_folders_are_the_only_thing_that_is_shown_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/home/you/.local/share/pipx/venvs/anvyl-mcp")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    package = Path("/home/you/.local/share/pipx/venvs/anvyl-mcp/lib/python3.12/site-packages/anvyl_mcp")

    assert definition.private_program_paths(package) == (Path("/home/you/.local/share/pipx/venvs/anvyl-mcp"),)
