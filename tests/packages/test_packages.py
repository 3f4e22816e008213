"""What `scripts/package` builds: wheel, sdist, the `.mcpb` bundle and `server.json`, installed and started."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
import yaml  # type: ignore[import-untyped]  # it has no types of its own
from mcp import Client, StdioServerParameters

import anvyl_mcp
from anvyl_mcp.app.catalogue import all_tools
from anvyl_mcp.app.service import launchd
from tests.conftest import OUTSIDE
from tests.support.packages import ROOT, BuiltPackages, uv

VERSION = anvyl_mcp.__version__
NAME_THE_REPOSITORY = (
    "Dockerfile",
    "README.md",
    "examples/compose.socket-proxy.yaml",
    "examples/compose.yaml",
    "pyproject.toml",
    "release/mcpb/manifest.json",
    "release/server.json",
)
SERVER_NAME = re.compile(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> BuiltPackages:
    if not shutil.which("npx"):
        pytest.skip("npx is not installed")
    uv()
    folder = tmp_path_factory.mktemp("packages")
    done = subprocess.run(
        [ROOT / "scripts" / "package", folder], env=OUTSIDE, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return BuiltPackages(folder)


@pytest.fixture(scope="module")
def installed(packages: BuiltPackages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of the wheel in an environment with nothing else, as `uv tool install` makes it."""
    folder = tmp_path_factory.mktemp("tools")
    run("tool", "install", str(packages.wheel), UV_TOOL_DIR=str(folder / "tools"), UV_TOOL_BIN_DIR=str(folder / "bin"))
    return folder / "bin"


def run(*arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [uv(), *arguments], env={**OUTSIDE, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def program(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an installed program, outside the clone."""
    return subprocess.run(
        [path, *arguments], cwd=path.parent, capture_output=True, text=True, timeout=60, check=False, env=os.environ
    )


def test_the_checksums_are_those_of_the_files(packages: BuiltPackages) -> None:
    lines = (packages.folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split() for line in lines)}
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in packages.folder.iterdir()}
    del files["SHA256SUMS"]

    assert listed == files
    assert set(files) == {
        f"anvyl-mcp-{VERSION}.mcpb",
        f"anvyl_mcp-{VERSION}-py3-none-any.whl",
        f"anvyl_mcp-{VERSION}.tar.gz",
        "server.json",
    }


def test_wheel_and_sdist_hold_the_package_and_not_the_tests(packages: BuiltPackages) -> None:
    wheel = set(zipfile.ZipFile(packages.wheel).namelist())
    source = {file.relative_to(ROOT).as_posix() for file in (ROOT / "anvyl_mcp").rglob("*") if file.is_file()}
    with tarfile.open(packages.sdist) as archive:
        sdist = {name.partition("/")[2] for name in archive.getnames()}
    package = {name for name in source if "__pycache__" not in name}

    assert package - wheel == set()
    assert package - sdist == set()
    assert not any(name.startswith(("tests", "scripts")) for name in wheel | sdist)


def test_the_installed_programs_work_without_the_clone(installed: Path) -> None:
    version = program(installed / "anvyl", "--version")
    tools = program(installed / "anvyl-mcp", "tools", "--json")
    shown = program(installed / "anvyl-mcp", "service", "install", "--print", "--manager", "systemd", "--user")

    assert VERSION in version.stdout
    assert {one["name"] for one in json.loads(tools.stdout)["tools"]} >= {tool.name for tool in all_tools()}
    assert "/tools/anvyl-mcp/bin/anvyl-mcp serve\n" in shown.stdout


def test_the_upgrade_of_a_uv_tool_is_uvs(installed: Path) -> None:
    found = json.loads(program(installed / "anvyl-mcp", "upgrade", "--json").stdout)

    assert found["installed_by"] == "uv tool"
    assert found["commands"] == ["uv tool upgrade anvyl-mcp"]
    assert not found["upgraded"]


@pytest.mark.long
def test_pipx_installs_the_wheel_and_upgrades_it(packages: BuiltPackages, tmp_path: Path) -> None:
    places = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin"), "HOME": str(tmp_path)}
    run("tool", "run", "pipx", "install", str(packages.wheel), UV_CACHE_DIR=cache_folder(), **places)
    found = json.loads(program(tmp_path / "bin" / "anvyl-mcp", "upgrade", "--json").stdout)

    asked = program(tmp_path / "bin" / "anvyl", "ask", "--offline", "--json", "list all containers")

    assert VERSION in program(tmp_path / "bin" / "anvyl", "--version").stdout
    assert "no Docker engine" in asked.stdout
    assert json.loads(asked.stdout)["calls"][0]["tool"] == "list_containers"
    assert found["installed_by"] == "pipx"
    assert found["commands"][0].startswith("pipx upgrade")


def cache_folder() -> str:
    return subprocess.run(
        [uv(), "cache", "dir"], env=OUTSIDE, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.long
async def test_an_assistant_starts_the_gateway_of_the_bundle(packages: BuiltPackages, tmp_path: Path) -> None:
    with zipfile.ZipFile(packages.folder / f"anvyl-mcp-{VERSION}.mcpb") as bundle:
        bundle.extractall(tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    start = manifest["server"]["mcp_config"]
    arguments = [word.replace("${__dirname}", str(tmp_path / "bundle")) for word in start["args"]]
    # The package of this version may not be on PyPI yet.
    own = {name: value for name, value in os.environ.items() if name.startswith("ANVYL_")}
    environment = {**OUTSIDE, **own, "UV_FIND_LINKS": str(packages.folder), "UV_CACHE_DIR": cache_folder()}

    assert manifest["version"] == VERSION
    assert start["command"] == "uv"
    assert (tmp_path / "bundle" / manifest["server"]["entry_point"]).is_file()
    server = StdioServerParameters(command=uv(), args=arguments, env=environment)
    with anyio.fail_after(120):
        async with Client(server) as client:
            listed = await client.list_tools()
    assert "list_containers" in {tool.name for tool in listed.tools}


def test_the_registry_entry_names_what_the_release_publishes(packages: BuiltPackages) -> None:
    """The registry checks its schema of 2025-12-11 when the entry is published; these are its rules for ours."""
    entry = json.loads((packages.folder / "server.json").read_text(encoding="utf-8"))
    pypi, mcpb = entry["packages"]
    bundle = (packages.folder / f"anvyl-mcp-{VERSION}.mcpb").read_bytes()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]

    assert entry["$schema"] == "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
    assert set(entry) <= {"$schema", "name", "title", "description", "version", "repository", "packages"}
    assert SERVER_NAME.fullmatch(entry["name"])
    assert len(entry["name"]) <= 200
    assert 1 <= len(entry["description"]) <= 100
    assert 1 <= len(entry["title"]) <= 100
    assert entry["version"] == pypi["version"] == VERSION
    assert f"mcp-name: {entry['name']}" in readme
    assert entry["repository"] == {"url": repository, "source": "github"}
    assert entry["name"] == f"io.github.{repository.removeprefix('https://github.com/')}"
    assert mcpb["fileSha256"] == hashlib.sha256(bundle).hexdigest()
    assert mcpb["identifier"] == f"{repository}/releases/download/v{VERSION}/anvyl-mcp-{VERSION}.mcpb"
    for package in entry["packages"]:
        assert {"registryType", "identifier", "transport"} <= set(package)
        assert package["transport"] == {"type": "stdio"}
    for argument in pypi["packageArguments"]:
        assert argument["type"] == "positional" and argument["value"]


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_the_workflows_run_scripts_that_exist(name: str) -> None:
    workflow: Mapping[str, object] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    words = json.dumps(workflow)

    for script in re.findall(r"(?:\.ci|scripts)/[a-z_]+(?:\.py)?", words):
        assert (ROOT / script).is_file(), script
    assert workflow["permissions"] == {"contents": "read"}


def test_every_file_that_names_the_repository_names_the_same() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    repository = urls["Repository"].removeprefix("https://github.com/")
    named = {
        name: {
            f"{owner}/{project}"
            for owner, project in re.findall(r"\b(?:github\.com|ghcr\.io|io\.github\.)/?([\w-]+)/([\w-]+)", content)
            if owner != "modelcontextprotocol"
        }
        for name in NAME_THE_REPOSITORY
        for content in [(ROOT / name).read_text(encoding="utf-8")]
    }

    assert named == {name: {repository} for name in NAME_THE_REPOSITORY}
    assert f"io.github.{repository.partition('/')[0]}" == launchd.LABEL
    assert urls["Changelog"] == f"https://github.com/{repository}/blob/main/CHANGELOG.md"
    elsewhere = subprocess.run(
        ["git", "grep", "-lE", rf"(github\.com|ghcr\.io|io\.github\.)/?{repository}", "--", ":!tests"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert sorted(elsewhere) == sorted(NAME_THE_REPOSITORY)


def test_the_version_is_written_in_one_place() -> None:
    tracked = ["pyproject.toml", "Dockerfile", "release/server.json", "release/mcpb/manifest.json", "README.md"]
    found = [name for name in tracked if re.search(rf"\b{re.escape(VERSION)}\b", (ROOT / name).read_text("utf-8"))]

    assert found == []
