"""Measure wall times of commands, from start to exit, compared with Python itself.

    python benchmarks/startup.py            medians of 15 runs
    python benchmarks/startup.py --runs 5
    python benchmarks/startup.py --check    fails when `anvyl --help` needs more than 0.3 s (the best of five runs)
    python benchmarks/startup.py --engines unix:///a.sock unix:///b.sock unix:///c.sock
                                            with one host per engine, compared with `docker` on the same engines

Only ratios compare between machines: each line is also given as a multiple of `python -c pass` in the same run.
"""

from __future__ import annotations

import argparse
import os
import select
import shlex
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
ANVYL, ANVYL_MCP = str(SCRIPTS / "anvyl"), str(SCRIPTS / "anvyl-mcp")
HELP_SECONDS = 0.3
CHECKS = 5
READY_SECONDS = 30
QUESTION = "which hosts are there"
QUESTIONS = (
    ["ask", QUESTION],
    ["ask", "how many containers are running?"],
    ["ask", "which images are there on all hosts?"],
    ["ask", "--dry-run", "restart web"],
)
"""What rules answer with a running server: of hosts, of containers, of images, and an order."""


def main() -> int:
    """Measure and print the results, or check the limit."""
    parser = argparse.ArgumentParser(description="Measure wall times of `anvyl` commands.")
    parser.add_argument("--runs", type=int, default=15, help="runs of each command (15)")
    parser.add_argument("--check", action="store_true", help=f"fail if `anvyl --help` takes more than {HELP_SECONDS} s")
    parser.add_argument("--engines", nargs="+", metavar="URL", default=[], help="Docker engines to compare over")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "ANVYL_HOME": home, "ANVYL_LMSTUDIO_URL": "http://127.0.0.1:1/v1"}
        if options.engines:
            return _compare(environment, options.engines, options.runs)
        return _check(environment) if options.check else _measure(environment, options.runs)


def _check(environment: Mapping[str, str]) -> int:
    best = min(_times([[ANVYL, "--help"]], environment, CHECKS)[0])
    _say(f"anvyl --help: {best:.3f} s, {HELP_SECONDS} s allowed")
    return 0 if best <= HELP_SECONDS else 1


def _measure(environment: Mapping[str, str], runs: int) -> int:
    alone = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "anvyl --help": [ANVYL, "--help"],
        "anvyl --version": [ANVYL, "--version"],
        "anvyl ps, no server": [ANVYL, "ps"],
        f'anvyl ask --offline "{QUESTION}"': [ANVYL, "ask", "--offline", QUESTION],
    }
    medians = dict(zip(alone, map(statistics.median, _times(list(alone.values()), environment, runs)), strict=True))
    with _serving(environment):
        medians["anvyl ps, server running"] = statistics.median(_times([[ANVYL, "ps"]], environment, runs)[0])
        times = _times([[ANVYL, *words] for words in QUESTIONS], environment, runs)
        for words, one in zip(QUESTIONS, times, strict=True):
            medians[f"anvyl {shlex.join(words)}, server running"] = statistics.median(one)
    _print(medians)
    return 0


def _compare(environment: Mapping[str, str], engines: Sequence[str], runs: int) -> int:
    """Run this host and others, each with its own engine and server."""
    home = Path(environment["ANVYL_HOME"])
    with ExitStack() as stack:
        homes = [home, *(home / f"host{number}" for number in range(2, len(engines) + 1))]
        urls = []
        for number, (folder, engine) in enumerate(zip(homes, engines, strict=True), 1):
            own = {**environment, "ANVYL_HOME": str(folder), "ANVYL_NAME": f"host{number}", "DOCKER_HOST": engine}
            urls.append(stack.enter_context(_serving(own)))
        hosts = [f'[hosts.host{number}]\nurl = "{url}"\n' for number, url in enumerate(urls[1:], 2)]
        (home / "hosts.toml").write_text("".join(hosts), encoding="utf-8")
        in_turn = [["docker", "-H", engine, "ps"] for engine in engines]
        commands: dict[str, list[Sequence[str]]] = {
            "python -c pass": [[sys.executable, "-c", "pass"]],
            "anvyl --help": [[ANVYL, "--help"]],
            "anvyl --version": [[ANVYL, "--version"]],
            "a completion": [[ANVYL, "__complete", "fish", "stop", ""]],
            f"anvyl ps, {len(engines)} hosts": [[ANVYL, "ps"]],
            "anvyl ps --host local": [[ANVYL, "ps", "--host", "local"]],
            "anvyl images": [[ANVYL, "images"]],
            "anvyl info": [[ANVYL, "info"]],
            f"docker ps, {len(engines)} engines in turn": in_turn,
        }
        flat = [command for several in commands.values() for command in several]
        times = iter(_times(flat, environment, runs))
        summed = {name: [next(times) for _ in several] for name, several in commands.items()}
    _print({name: statistics.median(map(sum, zip(*each, strict=True))) for name, each in summed.items()})
    return 0


def _print(medians: Mapping[str, float]) -> None:
    floor = medians["python -c pass"]
    width = max(map(len, medians))
    for name, seconds in medians.items():
        _say(f"{name:{width}}  {seconds:6.3f} s  {seconds / floor:5.1f} x")


def _times(commands: Sequence[Sequence[str]], environment: Mapping[str, str], runs: int) -> list[list[float]]:
    """Wall times of each command, in alternating rounds, so that other load affects all alike."""
    times: list[list[float]] = [[] for _ in commands]
    for number in range(runs + 1):
        for command, measured in zip(commands, times, strict=True):
            started = time.perf_counter()
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if number:  # the first run fills caches
                measured.append(time.perf_counter() - started)
    return times


@contextmanager
def _serving(environment: Mapping[str, str]) -> Iterator[str]:
    """Run a server; yields its URL."""
    serve = subprocess.Popen(
        [ANVYL_MCP, "serve", "--port", "0", "--agent-port", "0"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert serve.stderr is not None
        line = serve.stderr.readline().decode() if select.select([serve.stderr], [], [], READY_SECONDS)[0] else ""
        if " at http" not in line:
            raise SystemExit("anvyl-mcp serve does not start")
        yield line.partition(" at ")[2].split()[0]
    finally:
        serve.terminate()
        serve.communicate()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
