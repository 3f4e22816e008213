"""What a question is at: one line at the end of a terminal, drawn over while it goes on, gone when it is answered."""

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
"""An answer that comes sooner needs no line."""
REDRAW_SECONDS = 0.25


class Working:
    """The progress of one question. `quiet`: draw nothing."""

    def __init__(self, fleet: Fleet, *, quiet: bool = False) -> None:
        self._fleet = fleet
        self._live = None if quiet else output.live_display(sys.stderr)
        self.model = ""
        """Which is asked, if one is."""
        self._since = time.monotonic()
        self._aside = self._broken_off = False
        self._open: list[tuple[str, str, str]] = []
        self._done: list[str] = []

    def following(self, question: Question) -> Question:
        """The question with its progress reported here."""
        return replace(question, on_call=self._began, on_outcome=self._ended, on_model=self._asking)

    @property
    def under_way(self) -> list[tuple[str, str, str]]:
        """Tool, host and what is done there in words, of every call that has not ended."""
        return list(self._open)

    @staticmethod
    def words(tool: str, arguments: Mapping[str, Any]) -> str:
        """A call in words: `stop container web`."""
        return " ".join([tool.replace("_", " "), *([text.shown(arguments["name"])] if arguments.get("name") else [])])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw for as long as the question takes."""
        # No task of its own: in a group with one, Ctrl-C at a prompt would come up as a group of exceptions.
        if self._live is None:
            yield
            return
        self._timer = asyncio.get_running_loop().call_later(FIRST_SECONDS, self._follow)
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
        """Make room for what is said after a Ctrl-C, which a terminal shows where the cursor is."""
        if self._live and not self._broken_off:
            self._broken_off = True
            if not self._live.end():
                output.talk("")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the terminal to whoever asks or prints something; time that a person takes is not counted."""
        self._aside, asked = True, time.monotonic()
        self._clear()
        try:
            yield
        finally:
            self._aside = False
            self._since += time.monotonic() - asked

    def _follow(self) -> None:
        if self._live and not self._aside:
            self._live.show([self.line()])
        self._timer = asyncio.get_running_loop().call_later(REDRAW_SECONDS, self._follow)

    def line(self) -> str:
        """`list containers: nas done, waiting for gpu… 3 s`."""
        took = f"{time.monotonic() - self._since:.0f} s"
        hosts = text.joined(list(dict.fromkeys(host for _, host, _ in self._open)))
        if not self._open:
            # Hosts are looked at to find out where something is, too.
            silent = text.joined(self._fleet.waited_for)
            doing = f"waiting for {silent}" if silent else f"asking {self.model}" if self.model else "working"
        elif len({words for *_, words in self._open}) > 1 or len(self._done) > len(self._fleet.hosts):
            did = wording.past(self._open[0][0].partition("_")[0])
            doing = f"{len(self._done)} of {len(self._done) + len(self._open)} {did}, waiting for {hosts}"
        elif self._done:
            doing = f"{self._open[0][2]}: {text.joined(self._done)} done, waiting for {hosts}"
        else:
            doing = f"{self._open[0][2]} on {hosts}"
        return f"{doing}… {took}"

    def _asking(self, model: str) -> None:
        self.model, self._since = model, time.monotonic()

    def _began(self, tool: str, arguments: Mapping[str, Any], hosts: list[str]) -> None:
        if not self._open:
            self._done, self._since = [], time.monotonic()
        self._open += [(tool, host, self.words(tool, arguments)) for host in hosts]

    def _ended(self, outcome: Outcome) -> None:
        with suppress(ValueError):
            self._open.remove((outcome.tool, outcome.host, self.words(outcome.tool, outcome.arguments)))
        self._done.append(outcome.host)
        if not self._open:
            self._since = time.monotonic()
