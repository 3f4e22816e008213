"""Every command in the documentation is run by some test, or `NOT_RUN` says why not."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.project.test_docs import ROOT, command_tree

PROGRAMS = ("anvyl", "anvyl-mcp")
RUNNERS = re.compile(r"anvyl|run_program|invoke|command|terminal|serve|program|shell", re.IGNORECASE)
"""Names of the functions with which tests run commands."""
NOT_RUN: dict[str, str] = {}
"""Documented commands that no test runs, each with the reason."""
HELPERS = {"run_policy": ("policy",), "audit_command": ("audit",)}
"""Functions of tests that put words before those they are given."""
DOUBLES = frozenset(
    (group, command)
    for program in PROGRAMS
    for group, below in command_tree(program)["commands"].items()
    for command in below["commands"]
)
"""Commands of two words, which are hardly anything else in a text."""
GENERATED = {"commands.md"}
"""Pages made from the code: they show every command, also those that need no test."""


def documented() -> dict[str, set[str]]:
    """Commands in the documentation, like `anvyl hosts add`, and the pages that show them."""
    found: dict[str, set[str]] = {}
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if page.name in GENERATED:
            continue
        content = page.read_text(encoding="utf-8")
        lines = re.findall(r"^(?:\$ )?(anvyl(?:-mcp)? .+)", content, re.MULTILINE)
        lines += re.findall(r"`(anvyl(?:-mcp)? [^`\n]+)`", content)
        for line in lines:
            if command := command_of(line):
                found.setdefault(command, set()).add(page.name)
    return found


def command_of(line: str) -> str:
    """The program and the words of its command in a shell line."""
    program, *words = shlex.split(line, comments=True)
    node, path = command_tree(program), [program]
    for word in words:
        if word not in node["commands"]:
            break
        node = node["commands"][word]
        path.append(word)
    return " ".join(path) if len(path) > 1 else ""


@cache
def invocations() -> frozenset[tuple[str, ...]]:
    """The words that tests pass to programs, as far as they are written out."""
    found: set[tuple[str, ...]] = set()
    for file in (ROOT / "tests").rglob("*.py"):
        if file.name != Path(__file__).name:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found |= {words for node in ast.walk(tree) for words in _sequences(node) if words}
    return frozenset(found)


def _sequences(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Words in one expression that are a command. A single word has to be given to a function that runs commands."""
    if isinstance(node, ast.Call):
        name, words = ast.unparse(node.func), _constants(node.args)
        if RUNNERS.search(name) or len(words) > 1:
            yield (*HELPERS.get(name, ()), *words)
    elif isinstance(node, ast.List | ast.Tuple):
        words = _constants(node.elts)
        if len(words) > 1:
            yield words
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 2000:
        for line in node.value.splitlines():
            words = tuple(line.split())
            if words[:2] in DOUBLES:
                yield words
            if any(program in words for program in PROGRAMS):
                yield words[min(words.index(program) for program in PROGRAMS if program in words) + 1 :]


def _constants(nodes: list[ast.expr]) -> tuple[str, ...]:
    words: list[str] = []
    for one in nodes:
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            words.append(one.value)
        elif words:
            break
    return tuple(words)


def test_every_documented_command_is_run_by_a_test() -> None:
    starts = {words[:length] for words in invocations() for length in range(1, min(4, len(words)) + 1)}
    commands = documented()
    missing = {command: pages for command, pages in commands.items() if tuple(command.split()[1:]) not in starts}

    assert len(commands) > 40
    assert {command: pages for command, pages in missing.items() if command not in NOT_RUN} == {}
