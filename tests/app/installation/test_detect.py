"""`anvyl-mcp upgrade` recognises how Anvyl was installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from anvyl_mcp.app.installation.detect import Installation, detect_installation
from anvyl_mcp.app.installation.upgrade import run_upgrade
from anvyl_mcp.core.errors import AnvylError, NotFound
from tests.support.hosts.nodes import ANVYL_MCP, run_program

HOME = str(Path.home())


def detected(prefix: Path, direct: dict[str, Any] | None = None, **given: Any) -> Installation:
    package = given.pop("package", prefix / "lib" / "python3.12" / "site-packages" / "anvyl_mcp")
    facts: dict[str, Any] = {"installer": "pip", "in_container": False, "environ": {"HOME": HOME}, **given}
    return detect_installation(prefix, package, direct or {}, **facts)


def test_a_uv_tool_is_upgraded_by_uv(tmp_path: Path) -> None:
    (tmp_path / "uv-receipt.toml").touch()

    assert detected(tmp_path).lines == ["uv tool upgrade anvyl-mcp"]


@pytest.mark.parametrize(
    ("everyone", "line"), [(False, "pipx upgrade anvyl-mcp"), (True, "pipx upgrade --global anvyl-mcp")]
)
def test_pipx_upgrades_what_it_installed(tmp_path: Path, everyone: bool, line: str) -> None:
    (tmp_path / "pipx_metadata.json").touch()
    environ = {"HOME": "/home/you", **({"PIPX_GLOBAL_HOME": str(tmp_path.parent)} if everyone else {})}

    assert detected(tmp_path, environ=environ).lines == [line]


def test_a_clone_pulls_and_installs_what_its_lock_file_says(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    found = detected(tmp_path / ".venv", {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})

    assert found.kind == "git"
    assert found.place == tmp_path
    assert found.lines == [f"git -C {tmp_path} pull --ff-only", f"{tmp_path}/scripts/try --install"]


def test_a_clone_in_another_environment_is_pulled_and_installed_into_that(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    env = tmp_path / "env"
    found = detected(env, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})

    assert found.lines == [
        f"git -C {tmp_path} pull --ff-only",
        f"{env}/bin/python -m pip install --editable {tmp_path}",
    ]


@pytest.mark.parametrize("mark", ["uv-receipt.toml", "pipx_metadata.json", ""])
def test_what_was_installed_from_a_clone_is_installed_from_it_again(tmp_path: Path, mark: str) -> None:
    """As with `pipx install .` and `uv tool install .`."""
    clone, prefix = tmp_path / "my clone", tmp_path / "tool"
    (clone / ".git").mkdir(parents=True)
    prefix.mkdir()
    if mark:
        (prefix / mark).touch()
    found = detected(prefix, {"url": clone.as_uri(), "dir_info": {}}, environ={"HOME": str(tmp_path)})

    assert found.lines[0] == f"git -C '{clone}' pull --ff-only"
    assert (
        found.lines[1]
        == {
            "uv-receipt.toml": "uv tool upgrade anvyl-mcp",
            "pipx_metadata.json": "pipx upgrade anvyl-mcp",
            "": f"{prefix}/bin/python -m pip install --upgrade '{clone}'",
        }[mark]
    )


def test_an_externally_managed_python_needs_the_word_that_installed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    package = Path("/usr/local/lib/python3.12/dist-packages/anvyl_mcp")
    found = detected(Path(sys.base_prefix), package=package)

    assert found.kind == "system"
    assert found.lines == [f"{sys.executable} -m pip install --break-system-packages --upgrade anvyl-mcp"]


@pytest.mark.parametrize(
    ("installer", "direct", "line"),
    [
        ("pip", {}, "{0}/bin/python -m pip install --upgrade anvyl-mcp"),
        ("uv", {}, "uv pip install --python {0}/bin/python --upgrade anvyl-mcp"),
        (
            "pip",
            {"url": "https://example.org/anvyl.git", "vcs_info": {"vcs": "git"}},
            "{0}/bin/python -m pip install --upgrade 'anvyl-mcp @ git+https://example.org/anvyl.git'",
        ),
    ],
)
def test_a_virtual_environment_is_upgraded_by_its_installer(
    tmp_path: Path, installer: str, direct: dict[str, Any], line: str
) -> None:
    found = detected(tmp_path, direct, installer=installer)

    assert found.kind == "venv"
    assert found.lines == [line.format(tmp_path)]


def test_a_package_of_the_distribution_is_upgraded_by_it() -> None:
    found = detected(Path("/usr"), package=Path("/usr/lib/python3/dist-packages/anvyl_mcp"))

    assert found.kind == "distribution"
    assert found.lines[0].endswith("anvyl-mcp")


def test_an_environment_in_a_cache_is_temporary() -> None:
    found = detected(Path("/home/you/.cache/uv/archive-v0/abc"))

    assert found.temporary
    assert not found.automatic


def test_a_container_is_upgraded_from_outside() -> None:
    found = detected(Path("/usr/local"), in_container=True, environ={"ANVYL_IMAGE": "ghcr.io/example/anvyl"})

    assert found.kind == "container"
    assert found.lines == ["docker compose pull", "docker compose up --detach"]
    assert not found.automatic


def test_an_image_built_from_a_clone_is_built_again() -> None:
    found = detected(Path("/usr/local"), in_container=True, environ={"ANVYL_IMAGE": "clone"})

    assert found.lines == ["git pull --ff-only", "docker compose up --detach --build"]


def test_this_clone_is_recognised_and_nothing_is_changed_without_a_yes() -> None:
    done = run_program("upgrade", program=ANVYL_MCP)

    assert done.code == 0
    assert "runs from the git clone" in done.err
    assert "pull --ff-only" in done.err
    assert "running:" not in done.err


def test_an_upgrade_pulls_the_clone_and_runs_its_new_installation(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "--quiet", "-b", "main", origin], check=True)
    subprocess.run([*git, "-C", origin, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    subprocess.run([*git, "clone", "--quiet", origin, clone], check=True)
    script = origin / "scripts" / "try"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/installed\n', encoding="utf-8")
    script.chmod(0o755)
    subprocess.run([*git, "-C", origin, "add", "."], check=True)
    subprocess.run([*git, "-C", origin, "commit", "--quiet", "-m", "two"], check=True)
    said: list[str] = []

    run_upgrade(detected(clone / ".venv", {"url": clone.as_uri(), "dir_info": {"editable": True}}), said.append)

    assert (tmp_path / "installed").read_text(encoding="utf-8") == "--install\n"
    assert said == [f"git -C {clone} pull --ff-only", f"{clone}/scripts/try --install"]


def test_nothing_runs_if_a_program_of_the_upgrade_is_missing(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(NotFound):
        run_upgrade(Installation("pipx", tmp_path, "", (("true",), ("no-such-program",))), said.append)

    assert said == []


@pytest.mark.parametrize(
    ("command", "error"), [((sys.executable, "-c", "exit(3)"), AnvylError), (("no-such-program",), NotFound)]
)
def test_a_failed_upgrade_is_an_error(tmp_path: Path, command: tuple[str, ...], error: type[AnvylError]) -> None:
    with pytest.raises(error):
        run_upgrade(Installation("venv", tmp_path, "", (command,)), lambda _: None)
