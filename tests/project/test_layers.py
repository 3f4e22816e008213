"""Architecture rules: imports between rooms, owners of libraries, sizes of rooms and modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "anvyl_mcp"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
MOST_LINES, MOST_FILES = 400, 12

PACKAGES = {
    "core": "",
    "server": "core",
    "peers": "core",
    "orchestrator": "core peers",
    "app": "core peers orchestrator server",
    "evaluation": "app core peers orchestrator server",
    "cli": "app core evaluation peers orchestrator server",
    "agent": "app core peers",
}
"""The packages, and the packages that each may import."""

FROM_SERVER = ("cli/host_commands/",)
"""Modules of the command line that may import `server`: they read and change files of this host."""

ROOMS = {
    "__init__": "agent",
    "__main__": "cli",
    "agent": "app core peers peers.connection peers.hosts",
    "app": (
        "app.installation core orchestrator orchestrator.api orchestrator.api.endpoints orchestrator.ask peers "
        "peers.changes peers.connection peers.fleet peers.gateway peers.hosts peers.watch server server.audit "
        "server.auth server.calls server.containers server.engine server.history server.http server.http.metrics "
        "server.policy server.protocol server.registries server.stacks server.swarm server.updates"
    ),
    "app.config_edits": "app core",
    "app.installation": "core server server.engine",
    "app.service": "app app.installation core server",
    "cli": "cli.completion cli.programs cli.terminal",
    "cli.commands": (
        "app cli.conversation cli.parser cli.programs cli.runtime core core.values orchestrator.ask orchestrator.api "
        "peers peers.changes peers.fleet peers.history peers.hosts peers.notices peers.watch"
    ),
    "cli.commands.questions": (
        "app cli.conversation cli.parser cli.runtime core evaluation orchestrator.models orchestrator.models.servers"
    ),
    "cli.commands.containers": (
        "app cli.parser cli.runtime cli.terminal core peers.changes peers.connection peers.fleet"
    ),
    "cli.commands.stacks": (
        "app cli.commands.containers cli.parser cli.runtime cli.terminal core peers.changes peers.connection "
        "peers.fleet peers.swarm"
    ),
    "cli.completion": "cli.parser cli.programs cli.runtime cli.terminal core",
    "cli.conversation": (
        "app cli.parser cli.runtime cli.terminal core core.redaction orchestrator orchestrator.ask "
        "orchestrator.models peers.changes peers.fleet peers.history"
    ),
    "cli.host_commands": (
        "app app.config_edits app.installation app.service cli.parser cli.runtime core server.http server.policy"
    ),
    "cli.parser": "app.installation cli.runtime",
    "cli.programs": "app cli.host_commands cli.parser cli.runtime cli.terminal core",
    "cli.runtime": "app cli.terminal core orchestrator peers.changes peers.connection peers.fleet peers.history",
    "cli.terminal": "core peers.connection",
    "core": "",
    "core.redaction": "core",
    "core.values": "core",
    "evaluation": (
        "app core evaluation.acts orchestrator orchestrator.ask orchestrator.models peers.changes "
        "peers.connection peers.fleet peers.hosts server"
    ),
    "evaluation.acts": "core core.values orchestrator.rules.results",
    "orchestrator": "core peers.changes peers.connection peers.fleet",
    "orchestrator.api": (
        "core core.redaction core.values orchestrator orchestrator.ask orchestrator.rules.results peers peers.changes "
        "peers.connection peers.fleet peers.hosts peers.notices peers.watch"
    ),
    "orchestrator.api.endpoints": "core orchestrator.api peers peers.connection peers.fleet peers.hosts peers.watch",
    "orchestrator.ask": (
        "core core.values orchestrator orchestrator.checks orchestrator.language orchestrator.models "
        "orchestrator.models.servers orchestrator.rules orchestrator.rules.results peers.changes "
        "peers.connection peers.fleet peers.gateway peers.history peers.watch"
    ),
    "orchestrator.checks": "core orchestrator orchestrator.language peers.changes peers.connection peers.fleet",
    "orchestrator.language": "core orchestrator peers.connection",
    "orchestrator.models": (
        "core orchestrator orchestrator.checks orchestrator.language orchestrator.models.servers "
        "orchestrator.rules orchestrator.rules.results peers.connection peers.fleet"
    ),
    "orchestrator.models.servers": "core core.values orchestrator",
    "orchestrator.rules": (
        "core core.values orchestrator orchestrator.checks orchestrator.language orchestrator.rules.orders "
        "orchestrator.rules.results peers.connection peers.fleet peers.hosts"
    ),
    "orchestrator.rules.orders": (
        "core orchestrator.checks orchestrator.language orchestrator.rules.results peers.connection peers.fleet"
    ),
    "orchestrator.rules.results": (
        "core core.values orchestrator.language peers.changes peers.connection peers.fleet peers.history"
    ),
    "peers": "core peers.connection peers.fleet peers.hosts",
    "peers.changes": "core core.values peers.connection peers.fleet",
    "peers.connection": "core",
    "peers.fleet": "core core.values peers.connection peers.hosts",
    "peers.gateway": "core core.values peers.changes peers.connection peers.fleet peers.history",
    "peers.history": "core core.values peers.fleet",
    "peers.hosts": "core peers.connection",
    "peers.swarm": "core peers.fleet",
    "peers.notices": "core",
    "peers.watch": "core peers.connection peers.fleet peers.hosts peers.notices",
    "server": "core core.values",
    "server.audit": "core core.redaction server.auth server.policy",
    "server.auth": "core server",
    "server.calls": (
        "core core.redaction server server.audit server.auth server.engine server.policy server.stacks server.swarm"
    ),
    "server.containers": "core core.redaction core.values server server.auth server.engine server.policy",
    "server.engine": "core server server.policy",
    "server.engine.logs": "core core.redaction server.engine",
    "server.history": "core core.redaction core.values server server.engine server.engine.logs server.policy",
    "server.http": "core server.audit server.auth server.calls server.engine server.http.browser server.protocol",
    "server.http.browser": "core server.auth",
    "server.http.metrics": "core server.audit server.auth server.calls server.engine server.policy server.tools",
    "server.policy": "core server server.auth",
    "server.protocol": "core core.values server server.calls server.policy",
    "server.stacks": (
        "core core.redaction server server.auth server.containers server.engine server.engine.logs server.policy"
    ),
    "server.swarm": (
        "core core.redaction core.values server server.auth server.containers server.engine server.engine.logs "
        "server.policy"
    ),
    "server.tools": (
        "core core.values server server.auth server.containers server.engine server.engine.logs server.history "
        "server.policy server.registries server.stacks server.swarm server.updates"
    ),
    "server.registries": "core server server.engine server.policy",
    "server.updates": (
        "core core.redaction server server.auth server.containers server.engine server.engine.logs server.policy "
        "server.registries"
    ),
}
"""Every folder, and the folders that its modules import. Adding an entry is a design decision."""

FOUND_BY_FOLDER = {"server.tools", "orchestrator.api.endpoints"}
"""Folders whose modules are loaded dynamically, which does not count as an import."""

SHORT = {
    "__main__": "what `python -m anvyl_mcp` runs",
    "app.readiness": "the protocol of one other program",
    "app.installation.upgrade": "one idea: runs what `detect` found",
    "cli.parser.serve_options": "options of two commands; read for every `--help`",
    "app.config_edits.edit_errors": "the error that all formats share",
    "cli.commands.questions.ask": "read for every `--help`: what it runs is imported only when it is run",
    "cli.commands.questions.chat": "read for every `--help`: what it runs is imported only when it is run",
    "cli.commands.containers.images": "one file for each subject, as in `--help`",
    "cli.commands.containers.machines": "read for every `--help`: what it runs is imported only when it is run",
    "cli.commands.tools": "read for every `--help`: what it runs is imported only when it is run",
    "cli.conversation.model_note": "one idea: a note that is worth a line once a day",
    "cli.parser.options": "read by every command: nothing else may be imported with it",
    "cli.start": "the entry point of completion: nothing else may be imported with it",
    "cli.terminal.streams": "must run before anything is written",
    "core.settings_file": "the only part of the settings that needs tomlkit",
    "core.web_page": "files that the server and the gateway send, neither of which imports the other",
    "evaluation.forms": "one idea: the form that a tool promises",
    "orchestrator.api.endpoints.process": "one file for each endpoint",
    "orchestrator.language.phrases": "the placeholders of phrases, which several rooms need",
    "orchestrator.models.drive_mode": "the choice that the plan driver hangs on",
    "orchestrator.models.model_routing": "the choice between two models",
    "orchestrator.whole_answer": "the base class of every model that answers in one piece",
    "peers.fleet.result_schema": "the check of what a lying peer answers",
    "peers.gateway.fenced_answers": "where untrusted output is fenced: easy to find and to review",
    "peers.gateway.host_argument": "the argument that the gateway and the agent add to each tool",
    "server.calls.response_meta": "shared by everything below a call",
    "server.identity": "injected into tools",
}
"""Modules under 40 lines, and why each is a separate file."""

MCP = ("server", "app", "peers/connection/sdk_client.py", "peers/connection/transports.py", "peers/gateway")
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
    "click": ("cli",),
    "rich": ("cli",),
    "tomlkit": ("peers/hosts/registry.py", "core/settings_file.py", "app/config_edits/toml_tables.py"),
    "zeroconf": ("peers/hosts/discovery.py",),
    "mcp": MCP,
    "mcp_types": MCP,
}
"""External libraries, and the only modules that may import each."""


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all imports in the source, at any depth; relative names start at `package`.

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


def module_of(path: Path) -> str:
    """Module name like `server.calls.gate`; a package has the name of its folder."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """Folder of a module; a top-level module is its own room."""
    if module in MODULES and MODULES[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0] or module


def imported_module(name: str) -> str | None:
    """Module of the package that an imported name is or belongs to; None for other imports."""
    if not name.startswith(f"{PACKAGE}."):
        return None
    parts = name.split(".")[1:]
    found = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((module for module in found if module in MODULES), None)


def arrows() -> Iterator[tuple[Path, int, str, str]]:
    """All imports inside the package: file, line, importing module, imported module."""
    for path, line, name in every_import():
        target = imported_module(name)
        if target is not None and target not in {module_of(path), *FOUND_BY_FOLDER}:
            yield path, line, module_of(path), target


def every_import() -> Iterator[tuple[Path, int, str]]:
    for path in FILES:
        package = ".".join(path.relative_to(ROOT).parent.parts)
        for line, name in imports(path.read_text(encoding="utf-8"), package):
            yield path, line, name


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def circle(graph: Mapping[str, set[str]]) -> str:
    """First cycle of a graph as text, or empty."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " → ".join(error.args[1])
    return ""


def test_every_package_imports_only_those_below_it() -> None:
    wrong = []
    for path, line, module, target in arrows():
        package, imported = module.split(".")[0], target.split(".")[0]
        allowed = {package, *PACKAGES.get(package, "cli agent").split()}
        inside = str(path.relative_to(ROOT / PACKAGE))
        if imported == "server" and package == "cli" and not inside.startswith(FROM_SERVER):
            wrong.append(f"{place(path, line)} imports server; of cli only {', '.join(FROM_SERVER)} may")
        elif imported not in allowed:
            wrong.append(f"{place(path, line)} imports {imported}; {package} may import {', '.join(sorted(allowed))}")

    assert not wrong, "\n".join(sorted(wrong))


def test_every_import_between_rooms_is_in_the_table() -> None:
    drawn = {(room, target) for room, targets in ROOMS.items() for target in targets.split()}
    found: dict[tuple[str, str], str] = {}
    for path, line, module, target in arrows():
        if room_of(module) != room_of(target):
            found[room_of(module), room_of(target)] = place(path, line)

    new = [f"{room} → {target} ({found[room, target]})" for room, target in sorted(found.keys() - drawn)]
    unused = [f"{room} → {target} is drawn, and nothing imports it" for room, target in sorted(drawn - found.keys())]

    assert not new + unused, "\n".join(new + unused)


def test_there_are_no_import_cycles_between_rooms_or_modules() -> None:
    modules: dict[str, set[str]] = {}
    for _, _, module, target in arrows():
        modules.setdefault(module, set()).add(target)

    assert circle({room: set(targets.split()) for room, targets in ROOMS.items()}) == ""
    assert circle(modules) == ""


def test_a_room_holds_a_dozen_files() -> None:
    rooms = {path.parent for path in FILES}
    sizes = {room: len([path for path in FILES if path.parent == room]) for room in rooms}
    wrong = [f"{room.relative_to(ROOT)}: {size} files" for room, size in sizes.items() if size > MOST_FILES]

    assert {room_of(module) for module in MODULES} == ROOMS.keys()
    assert not wrong, "\n".join(sorted(wrong))


def test_every_outside_library_has_one_owner() -> None:
    wrong = []
    for path, line, name in every_import():
        library, inside = name.split(".")[0], str(path.relative_to(ROOT / PACKAGE))
        owners = OWNERS.get(library, (inside,))
        if not any(inside == owner or inside.startswith(f"{owner}/") for owner in owners):
            wrong.append(f"{place(path, line)} imports {library}; only {', '.join(owners)} may")

    assert not wrong, "\n".join(sorted(wrong))


def test_only_the_command_line_prints() -> None:
    wrong = [
        place(path, node.lineno)
        for path in FILES
        if not module_of(path).startswith("cli")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]

    assert not wrong, "\n".join(sorted(wrong))


def test_only_its_own_module_changes_a_run_or_a_proposal() -> None:
    state = {"run", "_run", "proposal"}
    owners = {"orchestrator.run", "orchestrator.question"}
    wrong = [
        place(path, node.lineno)
        for path in FILES
        if module_of(path) not in owners
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if getattr(node.value, "attr", getattr(node.value, "id", "")) in state
    ]

    assert not wrong, "\n".join(sorted(wrong))


def test_every_module_has_a_sensible_length() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = {path: length for path, length in lengths.items() if length > MOST_LINES}
    wrong = [f"{place(path, length)} lines; {MOST_LINES} at most" for path, length in long.items()]
    short = {module_of(path) for path, length in lengths.items() if length < 40 and path.name != "__init__.py"}

    assert not wrong, "\n".join(sorted(wrong))
    assert short == SHORT.keys()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import docker.errors as e", "docker.errors"),
        ("from anvyl_mcp.core import text", "anvyl_mcp.core.text"),
        ("def f():\n    from anvyl_mcp.peers.fleet import fleet", "anvyl_mcp.peers.fleet.fleet"),
        ("if TYPE_CHECKING:\n    from openai import OpenAI", "openai.OpenAI"),
        ("from . import guard", "anvyl_mcp.server.guard"),
        ("from ..peers.fleet import Fleet", "anvyl_mcp.peers.fleet.Fleet"),
        ("importlib.import_module('anvyl_mcp.app.node')", "anvyl_mcp.app.node"),
        ("import_module('docker')", "docker"),
    ],
)
def test_every_form_of_import_is_checked(source: str, name: str) -> None:
    assert [found for _, found in imports(source, "anvyl_mcp.server")] == [name]


def test_only_the_outermost_loop_catches_everything() -> None:
    """Elsewhere `OnFailure` notes an exception and lets it go on."""
    broad = [
        place(path, node.lineno)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]

    assert [one.rpartition(":")[0] for one in broad] == ["anvyl_mcp/server/calls/dispatch.py"]
