"""What a question is at: one line at the end of a terminal, drawn over while it goes on, gone when it is answered."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anvyl_mcp import text
from anvyl_mcp.cli import screen

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.question import Question
    from anvyl_mcp.peers.fleet import Outcome

FIRST_SECONDS = 0.3
"""An answer that comes sooner needs no line."""
REDRAW_SECONDS = 0.25


class Working:
    """Follows one question. `quiet`: nothing is drawn, as where nobody looks."""

    def __init__(self, question: Question, *, quiet: bool = False) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._live = screen.Live(sys.stderr)
        self._model = ""
        self._since = time.monotonic()
        self._open: dict[tuple[str, str], str] = {}
        self._done: list[str] = []
        question.on_call, question.on_outcome, question.on_model = self._began, self._ended, self._asking

    @property
    def under_way(self) -> list[tuple[str, str]]:
        """Tool and host of every call that has not ended."""
        return list(self._open)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw for as long as the question takes."""
        # No task of its own: in a group with one, Ctrl-C at a prompt would come up as a group of exceptions.
        if self._quiet:
            yield
            return
        self._timer = asyncio.get_running_loop().call_later(FIRST_SECONDS, self._follow)
        try:
            yield
        finally:
            self._timer.cancel()
            self.clear()

    def clear(self) -> None:
        """Take the line away, to print or to ask something."""
        if not self._quiet:
            self._live.end()

    def _follow(self) -> None:
        self._live.show([screen.paint(screen.cut(self.line(), screen.size()[0] - 1), "dim", sys.stderr)])
        self._timer = asyncio.get_running_loop().call_later(REDRAW_SECONDS, self._follow)

    def line(self) -> str:
        """`list containers: nas done, waiting for gpu… 3 s`."""
        took = f"{time.monotonic() - self._since:.0f} s"
        if not self._open:
            return f"asking {text.clean(self._model)}… {took}" if self._model else f"working… {took}"
        what = next(iter(self._open.values()))
        waiting = text.joined(list(dict.fromkeys(host for _, host in self._open)))
        if self._done:
            return f"{what}: {text.joined(self._done)} done, waiting for {waiting}… {took}"
        return f"{what} on {waiting}… {took}"

    def _asking(self, model: str) -> None:
        self._model, self._since = model, time.monotonic()

    def _began(self, tool: str, arguments: Mapping[str, Any], hosts: list[str]) -> None:
        if not self._open:
            self._done, self._since = [], time.monotonic()
        named = [text.shown(arguments["name"])] if arguments.get("name") else []
        for host in hosts:
            self._open[tool, host] = " ".join([tool.replace("_", " "), *named])

    def _ended(self, outcome: Outcome) -> None:
        self._open.pop((outcome.tool, outcome.host), None)
        self._done.append(outcome.host)
        if not self._open:
            self._since = time.monotonic()
