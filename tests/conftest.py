"""What every test gets: a clean environment, and real Docker engines for those that ask."""

from __future__ import annotations

import gc
import os
import socket
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.engine.daemon import UnavailableError, sweep
from tests.support.engine.engines import RealEngine, any_engine, private_engine

pytest_plugins = [
    "tests.support.hosts.http_node",
    "tests.support.model_server",
    "tests.support.hosts.nodes",
    "tests.support.hosts.lab",
]

ENGINES = ("engine", "second_engine")
ON_ENGINES = (*ENGINES, "lab")
CLEARED_PREFIXES = ("ANVYL_", "DOCKER_", "OPENAI_")
CLEARED = frozenset({"LM_API_TOKEN", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "CI"})
PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
OUTSIDE = dict(os.environ)
HERE = Path(__file__).parent
TESTS_WITH_MODELS = ("orchestrator", "evaluation")
"""Folders whose tests pass models of Pydantic AI, too, not only the one of a server."""
MAY_BE_SKIPPED = (
    "ANVYL_TEST_MODEL_URL names no model server",
    "only cgroup v1 next to v2",
    "this machine is on no network",
)
"""How reasons begin that count with CI=true, too: they are about the machine. `scripts/test` installs all programs."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """An ANVYL_HOME of its own, no model server, and no Docker engine but the one that the test asks for."""
    engines: list[RealEngine] = [request.getfixturevalue(name) for name in ENGINES if name in request.fixturenames]
    for name in list(os.environ):
        if name.startswith(CLEARED_PREFIXES) or name in CLEARED or name.upper() in PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("ANVYL_HOME", str(tmp_path))
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", "http://127.0.0.1:1/v1")
    if uses_a_model(request):
        # A scripted model answers also what the rules could read.
        monkeypatch.setenv("ANVYL_RULES", "fallback")
    monkeypatch.setenv("PYDANTIC_AI_NO_BANNER", "1")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    if engines:
        for name, value in engines[0].environment.items():
            monkeypatch.setenv(name, value)
    yield
    for engine in engines:
        engine.clean()
    if engines:
        # While the warning filter for sockets that docker-py leaves open is active.
        gc.collect()


def uses_a_model(request: pytest.FixtureRequest) -> bool:
    return "model_server" in request.fixturenames or request.path.relative_to(HERE).parts[0] in TESTS_WITH_MODELS


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.1 that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        yield port


@pytest.fixture(scope="session")
def engine() -> Iterator[RealEngine]:
    """A real Docker engine: the tests' own where that is possible, else the one that is reachable."""
    sweep()
    yield from _entered(any_engine("engine-1", OUTSIDE))


@pytest.fixture(scope="session")
def second_engine() -> Iterator[RealEngine]:
    """Another real Docker engine, always the tests' own."""
    yield from _entered(private_engine("engine-2"))


def _entered(manager: AbstractContextManager[RealEngine]) -> Iterator[RealEngine]:
    try:
        entered = manager.__enter__()
    except UnavailableError as error:
        pytest.skip(str(error))
    try:
        yield entered
    finally:
        manager.__exit__(None, None, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not set(ON_ENGINES).isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("engine")


def pytest_collection_finish() -> None:
    # Modules and collected tests stay: without this every garbage collection walks them again.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = _reason(report)
        if not reason.startswith(MAY_BE_SKIPPED):
            report.longrepr = f"a test may not be skipped with CI=true: {reason}"
            report.outcome = "failed"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if "engine" in report.keywords]
    if not skipped:
        return
    terminalreporter.section("TESTS ON A REAL DOCKER ENGINE WERE SKIPPED", sep="!", red=True, bold=True)
    for reason, count in Counter(_reason(report) for report in skipped).items():
        terminalreporter.line(f"{count} skipped: {reason}", red=True)
    terminalreporter.line("What Anvyl does to Docker was not fully tested here. As root on Debian or Ubuntu")
    terminalreporter.line("`scripts/test` installs what is missing; elsewhere start Docker and run it again.")


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)
