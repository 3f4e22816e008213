"""The drawing of the layers holds: who imports whom, and who owns which library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "anvyl_mcp"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
LINES = 400

FOUNDATION = {
    "answer_size",
    "arguments",
    "errors",
    "file_locks",
    "files",
    "folders",
    "invitation",
    "meta",
    "ports",
    "settings",
    "text",
}
MAY_IMPORT = {
    "answer_size": set(),
    "arguments": {*FOUNDATION, "running"},
    "errors": {*FOUNDATION, "running"},
    "file_locks": {"errors", "files", "text"},
    "files": {"errors"},
    "folders": set(),
    "invitation": {*FOUNDATION, "running"},
    "meta": {*FOUNDATION, "running"},
    "ports": {"errors", "text"},
    "settings": {*FOUNDATION, "running"},
    "settings_file": {"errors", "files"},
    "text": {*FOUNDATION, "running"},
    "running": FOUNDATION,
    "assistants": FOUNDATION,
    "masking": {*FOUNDATION, "server"},
    "server": {*FOUNDATION, "running"},
    "peers": FOUNDATION,
    "orchestrator": {*FOUNDATION, "peers"},
    "fleet_tools": {*FOUNDATION, "peers", "server"},
    "catalogue": {*FOUNDATION, "fleet_tools", "server", "peers"},
    "beside": {*FOUNDATION, "peers", "server"},
    "app": {*FOUNDATION, "beside", "running", "catalogue", "fleet_tools", "server", "peers", "orchestrator"},
    "gateway": {*FOUNDATION, "app", "server", "peers"},
    "evaluation": {*FOUNDATION, "fleet_tools", "server", "peers", "orchestrator"},
    "agent": {*FOUNDATION, "app", "peers"},
    "cli": {
        *FOUNDATION,
        "assistants",
        "settings_file",
        "running",
        "masking",
        "catalogue",
        "peers",
        "orchestrator",
        "app",
        "gateway",
        "evaluation",
    },
    "__init__": {"agent"},
    "__main__": {"cli"},
}
"""Parts of the package, and the other parts that each may import."""

SPEAKING = ("peers/session.py", "peers/transports.py", "peers/gateway.py", "peers/consent.py")
"""What of the peers speaks MCP through the SDK: its client, and the gateway."""

OWNERS = {
    "docker": ("server",),
    "psutil": ("server",),
    "cryptography": ("server",),
    "jwt": ("server",),
    "requests": ("server",),  # docker-py raises its errors
    "prometheus_client": ("server",),
    "pydantic_ai": ("orchestrator",),
    "openai": ("orchestrator",),
    "opentelemetry": ("orchestrator",),
    "pydantic_evals": ("evaluation",),
    "typer": ("cli",),
    "rich": ("cli",),
    "tomlkit": ("peers/registry.py", "settings_file", "assistants"),
    "zeroconf": ("peers/discovery.py",),
    "mcp": ("server", *SPEAKING, "app", "gateway"),
    "mcp_types": ("server", *SPEAKING, "app", "gateway"),
}
"""Outside libraries, and the only places that may import each."""


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that the source imports, wherever in it; `package` is where relative names start.

    `from x import y` counts as `x.y`, which is right for modules and harmless for other names.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom():
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: its folder, or its own name."""
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def in_package() -> Iterator[tuple[Path, int, str]]:
    for path in FILES:
        package = ".".join(path.relative_to(ROOT).parent.parts)
        for line, name in imports(path.read_text(encoding="utf-8"), package):
            yield path, line, name


def shown(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_part_imports_only_the_parts_below_it() -> None:
    wrong = []
    for path, line, name in in_package():
        part = part_of(path)
        if not name.startswith(f"{PACKAGE}."):
            continue
        target = name.split(".")[1]
        if target not in {part, "__version__"} | MAY_IMPORT.get(part, set()):
            allowed = ", ".join(sorted(MAY_IMPORT.get(part, ()))) or "nothing of ours"
            wrong.append(f"{shown(path, line)} imports {target}; {part} may import {allowed}")

    assert not wrong, "\n".join(sorted(wrong))


def test_every_part_has_a_row_in_the_table() -> None:
    assert {part_of(path) for path in FILES} <= MAY_IMPORT.keys()


def test_every_outside_library_has_one_owner() -> None:
    wrong = []
    for path, line, name in in_package():
        library = name.split(".")[0]
        place = str(path.relative_to(ROOT / PACKAGE))
        if library in OWNERS and part_of(path) not in OWNERS[library] and place not in OWNERS[library]:
            wrong.append(f"{shown(path, line)} imports {library}; only {', '.join(OWNERS[library])} may")

    assert not wrong, "\n".join(sorted(wrong))


def test_only_the_command_line_prints() -> None:
    wrong = [
        shown(path, node.lineno)
        for path in FILES
        if part_of(path) != "cli"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]

    assert not wrong, "\n".join(sorted(wrong))


def test_only_its_own_module_changes_a_run_or_a_proposal() -> None:
    state = {"run", "_run", "proposal"}
    owners = {"orchestrator/run.py", "orchestrator/question.py"}
    wrong = [
        shown(path, node.lineno)
        for path in FILES
        if str(path.relative_to(ROOT / PACKAGE)) not in owners
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if getattr(node.value, "attr", getattr(node.value, "id", "")) in state
    ]

    assert not wrong, "\n".join(sorted(wrong))


def test_every_module_can_be_read_at_one_sitting() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    wrong = [f"{shown(path, length)} lines; {LINES} at most" for path, length in lengths.items() if length > LINES]

    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import docker.errors as e", "docker.errors"),
        ("from anvyl_mcp import text", "anvyl_mcp.text"),
        ("def f():\n    from anvyl_mcp.peers import fleet", "anvyl_mcp.peers.fleet"),
        ("if TYPE_CHECKING:\n    from openai import OpenAI", "openai.OpenAI"),
        ("from . import guard", "anvyl_mcp.server.guard"),
        ("from ..peers.fleet import Fleet", "anvyl_mcp.peers.fleet.Fleet"),
        ("importlib.import_module('anvyl_mcp.app')", "anvyl_mcp.app"),
        ("import_module('docker')", "docker"),
    ],
)
def test_no_way_to_import_escapes_the_check(source: str, name: str) -> None:
    assert [found for _, found in imports(source, "anvyl_mcp.server")] == [name]
