"""Measure a model on the tasks of `anvyl eval`, optionally without checks.

    ANVYL_LMSTUDIO_URL=http://127.0.0.1:18080/v1 python benchmarks/model.py heldout --drive tools
    ANVYL_LMSTUDIO_URL=http://127.0.0.1:18080/v1 python benchmarks/model.py mine.toml --drive plan --bare

With checks this is what `anvyl eval --drive` measures. Hosts are simulated: nothing real is read or changed.
"""

from __future__ import annotations

import argparse
import json
import sys

import anyio

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.settings import load as settings
from anvyl_mcp.evaluation.run import Evaluation
from anvyl_mcp.evaluation.tasks import load
from anvyl_mcp.orchestrator.ask import agent
from anvyl_mcp.orchestrator.ask.toolset import FleetToolset
from anvyl_mcp.peers.fleet.fleet import Fleet


def main() -> int:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description="Measure a model on the tasks of `anvyl eval`.")
    parser.add_argument("tasks", help="as --tasks of anvyl eval")
    parser.add_argument("--drive", default="tools", help="tools, plan or auto")
    parser.add_argument("--bare", action="store_true", help="make the calls of the model without checks")
    options = parser.parse_args()
    if options.bare:
        agent.FleetToolset = _unchecked  # type: ignore[assignment,misc]  # the product has no switch for this
    report = anyio.run(_measure, options.tasks, options.drive)
    json.dump(report, sys.stdout, indent=2)
    return 0


def _unchecked(fleet: Fleet, **_: object) -> FleetToolset:
    return FleetToolset(fleet)


async def _measure(tasks: str, drive: str) -> dict[str, object]:
    known = settings({"drive": drive})
    evaluation = Evaluation(known, load_catalogue(known.cache_dir), load(tasks), on_task=_progress)
    return (await evaluation.run()).as_dict()


def _progress(ask: str, passed: bool) -> None:
    sys.stderr.write(f"{'ok  ' if passed else 'FAIL'}  {ask}\n")


if __name__ == "__main__":
    sys.exit(main())
