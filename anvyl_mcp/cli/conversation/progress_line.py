"""Progress of a question: one line at the bottom of the terminal, redrawn and finally erased."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.core import text
from anvyl_mcp.peers.changes import wording

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.question import Question
    from anvyl_mcp.peers.fleet.fleet import Fleet, Outcome

FIRST_SECONDS = 0.3
"""Show nothing for answers that arrive sooner."""
REDRAW_SECONDS = 0.25


def call_label(tool: str, arguments: Mapping[str, Any]) -> str:
    """Short form of a call: `stop container web`."""
    return " ".join(
        [tool.replace("_", " "), *([text.format_value(arguments["name"])] if arguments.get("name") else [])]
    )


class ProgressLine:
    """Shows the progress of one question. `quiet`: draw nothing."""

    def __init__(self, fleet: Fleet, *, quiet: bool = False) -> None:
        self._fleet = fleet
        self._live = None if quiet else output.live_display(sys.stderr)
        self.model = ""
        """Model being asked; empty if none."""
        self._since = time.monotonic()
        self._is_paused = self._broken_off = False
        self._pending: list[tuple[str, str, str]] = []
        self._done: list[str] = []

    def attached_to(self, question: Question) -> Question:
        """Copy of the question that reports its progress here."""
        return replace(question, on_call=self._call_started, on_outcome=self._call_ended, on_model=self._model_asked)

    @property
    def pending_calls(self) -> list[tuple[str, str, str]]:
        """Tool, host and label of every call in progress."""
        return list(self._pending)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line until the block ends."""
        # A timer instead of a task: with a task group, Ctrl-C at a prompt would surface as an exception group.
        if self._live is None:
            yield
            return
        self._timer = asyncio.get_running_loop().call_later(FIRST_SECONDS, self._tick)
        try:
            yield
        except asyncio.CancelledError:
            self.break_off()
            raise
        finally:
            self._timer.cancel()
            self._clear()

    def _clear(self) -> None:
        if self._live:
            self._live.end()

    def break_off(self) -> None:
        """Erase the line after Ctrl-C, or start a new line after the `^C` that the terminal printed."""
        if self._live and not self._broken_off:
            self._broken_off = True
            if not self._live.end():
                output.print_message("")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the line during a prompt, and do not count the time that it takes."""
        self._is_paused, paused_at = True, time.monotonic()
        self._clear()
        try:
            yield
        finally:
            self._is_paused = False
            self._since += time.monotonic() - paused_at

    def _tick(self) -> None:
        if self._live and not self._is_paused:
            self._live.show([self.line()])
        self._timer = asyncio.get_running_loop().call_later(REDRAW_SECONDS, self._tick)

    def line(self) -> str:
        """The line: `list containers: nas done, waiting for gpu… 3 s`."""
        took = f"{time.monotonic() - self._since:.0f} s"
        hosts = text.join_names(list(dict.fromkeys(host for _, host, _ in self._pending)))
        if not self._pending:
            # Lookups that locate an object wait for hosts, too.
            silent = text.join_names(self._fleet.pending_hosts)
            doing = f"waiting for {silent}" if silent else f"asking {self.model}" if self.model else "working"
        elif len({label for *_, label in self._pending}) > 1 or len(self._done) > len(self._fleet.hosts):
            did = wording.past_tense(self._pending[0][0].partition("_")[0])
            doing = f"{len(self._done)} of {len(self._done) + len(self._pending)} {did}, waiting for {hosts}"
        elif self._done:
            doing = f"{self._pending[0][2]}: {text.join_names(self._done)} done, waiting for {hosts}"
        else:
            doing = f"{self._pending[0][2]} on {hosts}"
        return f"{doing}… {took}"

    def _model_asked(self, model: str) -> None:
        self.model, self._since = model, time.monotonic()

    def _call_started(self, tool: str, arguments: Mapping[str, Any], hosts: list[str]) -> None:
        if not self._pending:
            self._done, self._since = [], time.monotonic()
        self._pending += [(tool, host, call_label(tool, arguments)) for host in hosts]

    def _call_ended(self, outcome: Outcome) -> None:
        with suppress(ValueError):
            self._pending.remove((outcome.tool, outcome.host, call_label(outcome.tool, outcome.arguments)))
        self._done.append(outcome.host)
        if not self._pending:
            self._since = time.monotonic()
