"""The last lines of all tasks of a service, in the order of time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import requests
from docker.errors import APIError

from anvyl_mcp.core.redaction.key_blocks import KeyBlockRedactor
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.engine.logs.cursor import Cursor
from anvyl_mcp.server.engine.logs.frames import LogLine, parse_lines
from anvyl_mcp.server.engine.logs.lines import visible_text
from anvyl_mcp.server.engine.timestamps import to_nanoseconds
from anvyl_mcp.server.swarm import nodes
from anvyl_mcp.server.swarm.services import container_spec, list_tasks, service_name, task_name

READ_SECONDS = 15
MAX_CHARACTERS = 96 * 1024
DETAILS = re.compile(rb"(?P<details>(?:[\w.%-]+=[^ ,]*,)*com\.docker\.swarm\.[\w.]+=[^ ,]*(?:,[\w.%-]+=[^ ,]*)*) ?")
"""What the engine writes before each line: the ids of its node, service and task."""
TASK = re.compile(rb"com\.docker\.swarm\.task\.id=(\w+)")


@dataclass(frozen=True)
class ServiceLog:
    """Lines with the task and node that wrote each, whether earlier ones were left out, and what went wrong."""

    lines: list[str]
    truncated: bool
    note: str = ""


def read_log(engine: Engine, service: Mapping[str, Any], *, tail: int, since: str, grep: str) -> ServiceLog:
    """The last `tail` lines of all tasks since a time or duration ago that contain `grep`."""
    start = Cursor.parse(since)
    options = {"stdout": 1, "stderr": 1, "timestamps": 1, "details": 1, "follow": 0}
    options["tail"] = "all" if grep or since else tail  # type: ignore[assignment]  # a number, or `all`
    if start != Cursor():
        options["since"] = max(0, start.second)
    writers = _writers(engine, service)
    raw = container_spec(service["Spec"]).get("TTY") is True
    wanted, blocks = grep.casefold(), dict[str, KeyBlockRedactor]()
    found: list[tuple[int, str]] = []
    note = ""
    try:
        for line in _request_lines(engine, service, options, raw=raw):
            at = to_nanoseconds(line.stamp) or 0
            writer, words = _split(line, writers)
            shown = visible_text(words, wanted, blocks.setdefault(writer, KeyBlockRedactor()))
            if shown is not None and at >= start.at:
                found.append((at, f"{writer} | {shown}"))
    except requests.RequestException:
        note = "the log ends early: a node did not answer in time"
    found.sort(key=lambda one: one[0])
    lines = [words for _, words in found[-tail:]]
    size = sum(map(len, lines))
    while lines and size > MAX_CHARACTERS:
        size -= len(lines.pop(0))
    return ServiceLog(lines, truncated=len(lines) < len(found), note=note)


def _request_lines(
    engine: Engine, service: Mapping[str, Any], options: Mapping[str, Any], *, raw: bool
) -> Iterator[LogLine]:
    with engine_errors(doing=f"to show the log of `{service_name(service)}`"):
        client = engine.client(READ_SECONDS)
        answer = client.get(
            client.service_url(str(service["ID"]), "logs"), params=options, stream=True, timeout=READ_SECONDS
        )
        if answer.status_code >= 400:
            with closing(answer):
                raise APIError(answer.reason, response=answer, explanation=answer.text[:400])
    with closing(answer):
        yield from parse_lines(iter(lambda: answer.raw.read1(64 * 1024), b""), raw=raw)


def _writers(engine: Engine, service: Mapping[str, Any]) -> dict[str, str]:
    """The name of each task with its node, by id: `web.3@nas`."""
    names = nodes.node_names(engine)
    return {
        str(task["ID"]): f"{task_name(task, service_name(service), names)}@{names.get(task.get('NodeID', ''), '?')}"
        for task in list_tasks(engine, str(service["ID"]))
    }


def _split(line: LogLine, writers: Mapping[str, str]) -> tuple[str, LogLine]:
    """Who wrote a line, and the line without the ids before it."""
    details = DETAILS.match(line.text)
    if details is None:
        return "?", line
    task = TASK.search(details["details"])
    writer = writers.get(task[1].decode("ascii"), "a task that is gone") if task else "?"
    return writer, LogLine(line.stamp, line.text[details.end() :], line.dropped_bytes, line.unsearched)
