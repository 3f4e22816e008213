"""How long commands take from the key press to their end, and how much of that Python itself takes.

    python benchmarks/startup.py            medians of 15 runs
    python benchmarks/startup.py --runs 5
    python benchmarks/startup.py --check    fails when `anvyl --help` needs more than 0.3 s (the best of five runs)

Only ratios compare between machines: each line is also given as a multiple of `python -c pass` in the same run.
"""

from __future__ import annotations

import argparse
import os
import select
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
ANVYL, ANVYL_MCP = str(SCRIPTS / "anvyl"), str(SCRIPTS / "anvyl-mcp")
HELP_SECONDS = 0.3
CHECKS = 5
READY_SECONDS = 30
QUESTION = "which hosts are there"


def main() -> int:
    """Measure and print, or check."""
    parser = argparse.ArgumentParser(description="Whole-process wall times of `anvyl` commands.")
    parser.add_argument("--runs", type=int, default=15, help="runs of each command (15)")
    parser.add_argument("--check", action="store_true", help=f"fail when `anvyl --help` needs over {HELP_SECONDS} s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "ANVYL_HOME": home, "ANVYL_LMSTUDIO_URL": "http://127.0.0.1:1/v1"}
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
    floor = medians["python -c pass"]
    width = max(map(len, medians))
    for name, seconds in medians.items():
        _say(f"{name:{width}}  {seconds:6.3f} s  {seconds / floor:5.1f} x")
    return 0


def _times(commands: Sequence[Sequence[str]], environment: Mapping[str, str], runs: int) -> list[list[float]]:
    """Wall times of each command; the commands take turns, so that a busy moment is shared by all."""
    times: list[list[float]] = [[] for _ in commands]
    for number in range(runs + 1):
        for command, measured in zip(commands, times, strict=True):
            started = time.perf_counter()
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if number:  # the first run fills caches
                measured.append(time.perf_counter() - started)
    return times


@contextmanager
def _serving(environment: Mapping[str, str]) -> Iterator[None]:
    serve = subprocess.Popen(
        [ANVYL_MCP, "serve", "--port", "0", "--agent-port", "0"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert serve.stderr is not None
        if not select.select([serve.stderr], [], [], READY_SECONDS)[0] or b" at http" not in serve.stderr.readline():
            raise SystemExit("anvyl-mcp serve does not start")
        yield
    finally:
        serve.terminate()
        serve.communicate()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
