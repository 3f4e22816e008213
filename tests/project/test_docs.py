"""The documentation matches the code; `ANVYL_UPDATE_DOCS=1 scripts/test` regenerates its generated parts."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import anvyl_mcp
from anvyl_mcp.cli.parser.lazy_commands import describe_commands
from anvyl_mcp.cli.programs import host, operator
from anvyl_mcp.core.settings import SETTINGS
from anvyl_mcp.server.policy.guardrails import GUARDRAILS
from anvyl_mcp.server.toolsets import load_tools
from tests.conftest import OUTSIDE

ROOT = Path(__file__).parents[2]


def guardrails() -> str:
    rows = "\n".join(f"| {rule.what} | {rule.why} |" for rule in GUARDRAILS)
    return f"| what | why |\n|---|---|\n{rows}"


def tools() -> str:
    rows = []
    for tool in load_tools():
        required = tool.input_schema.get("required", [])
        arguments = " ".join(name if name in required else f"[{name}]" for name in tool.input_schema["properties"])
        rows.append(f"| `{tool.name}` | {tool.safety} | `{arguments}` | {tool.description} |".replace("| `` |", "| |"))
    return "| tool | | arguments | |\n|---|---|---|---|\n" + "\n".join(rows)


def toolsets() -> str:
    """Table with one row per toolset and the names of its tools."""
    rows: dict[str, list[str]] = {}
    for tool in load_tools():
        rows.setdefault(tool.toolset, []).append(f"`{tool.name}`")
    lines = [f"| {name} | {', '.join(tools)} |" for name, tools in rows.items()]
    return "\n".join(["| toolset | tools |", "|---|---|", *lines])


def settings() -> str:
    rows = []
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default != "" else ""
        rows.append(f"| `{setting.env}` | {default} | {setting.help} |")
    return "| variable | default | |\n|---|---|---|\n" + "\n".join(rows)


def commands(app: typer.Typer, name: str) -> str:
    """Help of a program and of all its commands."""

    def under(words: tuple[str, ...], node: dict[str, Any]) -> Iterator[str]:
        shown = CliRunner().invoke(app, [*words, "--help"], prog_name=name, env={"COLUMNS": "100"})
        yield f"## `{' '.join([name, *words])}`\n\n```text\n{shown.stdout.strip()}\n```\n"
        for command, below in node["commands"].items():
            yield from under((*words, command), below)

    return "\n".join(under((), describe_commands(app)))


@pytest.mark.parametrize(
    ("page", "name", "made"),
    [
        ("docs/security.md", "guardrails", guardrails),
        ("docs/reference.md", "toolsets", toolsets),
        ("docs/reference.md", "tools", tools),
        ("docs/reference.md", "settings", settings),
        ("docs/commands.md", "anvyl", partial(commands, operator.app, "anvyl")),
        ("docs/commands.md", "anvyl-mcp", partial(commands, host.app, "anvyl-mcp")),
    ],
    ids=["guardrails", "toolsets", "tools", "settings", "anvyl", "anvyl-mcp"],
)
def test_generated_parts_are_up_to_date(page: str, name: str, made: object) -> None:
    assert callable(made)
    file = ROOT / page
    content = file.read_text(encoding="utf-8")
    fresh = re.sub(
        rf"<!-- {name} -->.*?<!-- /{name} -->",
        lambda _: f"<!-- {name} -->\n{made()}\n<!-- /{name} -->",
        content,
        flags=re.DOTALL,
    )
    assert f"<!-- {name} -->" in content
    if OUTSIDE.get("ANVYL_UPDATE_DOCS"):
        file.write_text(fresh, encoding="utf-8")
    assert OUTSIDE.get("ANVYL_UPDATE_DOCS") or content == fresh


def test_the_changelog_and_the_package_agree_on_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert newest is not None
    assert "version" in project["dynamic"]
    assert anvyl_mcp.__version__ == newest[1]


def test_the_map_of_the_code_names_every_folder_and_nothing_else() -> None:
    page = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    package = ROOT / "anvyl_mcp"
    paths = {path for path in re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", page) if "/" in path}
    relative = {"host_commands/", "acts/"}
    missing = {path for path in paths - relative if not ((ROOT / path).exists() or (package / path).exists())}
    folders = {f"{file.parent.relative_to(package)}/" for file in package.rglob("__init__.py")} - {"./"}

    assert missing == set()
    assert folders - paths - {"evaluation/acts/"} == set()


def test_every_link_inside_the_documentation_has_a_target() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@cache
def command_tree(program: str) -> dict[str, Any]:
    return describe_commands({"anvyl": operator.app, "anvyl-mcp": host.app}[program])


def unknown_words(line: str) -> list[str]:
    """Unknown commands and options in a shell line; values are not checked."""
    program, *words = shlex.split(line, comments=True)
    # What follows belongs to the program in the container.
    words = words[: words.index("--")] if "--" in words else words
    node = command_tree(program)
    while words and words[0] in node["commands"]:
        node = node["commands"][words.pop(0)]
    known = {*node["options"], "-h", "--help"}
    wrong = [word for word in words if re.match("--?[a-z]", word) and word not in known]
    missing = node["commands"] and words and words[0] not in {*known, "COMMAND"}
    return [*wrong, *(words[:1] if missing else [])]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))])
def test_every_command_line_in_the_documentation_exists(page: str) -> None:
    content = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^(?:\$ )?(anvyl(?:-mcp)? .+)", content, re.MULTILINE)
    lines += re.findall(r"`(anvyl(?:-mcp)? [^`\n]+)`", content)

    assert {line: wrong for line in lines if (wrong := unknown_words(line))} == {}
