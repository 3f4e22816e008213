"""Asking a person about changes: each shown once, exactly as it would be made, on the very container that is meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.runner import ask_yes_no, attended, line_typed
from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded, Conflict, Declined
from anvyl_mcp.peers.changes import wording

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.question import Proposal
    from anvyl_mcp.peers.changes.undo import Undo
    from anvyl_mcp.peers.fleet.fleet import Fleet

YES, NO = frozenset({"y", "yes"}), frozenset({"", "n", "no"})
EDIT = re.compile(r"e(?:dit)?(?:\s+hosts?)?(?:\s+(?P<number>\d+))?(?:\s+hosts?)?")


def preview(proposal: Proposal) -> str:
    """A change in words: `stop web (running) on nas`. What a model wrote stays a value."""
    return wording.order(proposal.tool, proposal.arguments, proposal.hosts, proposal.expected)


class Person:
    """Whoever sits at the terminal, if anybody does. Whatever is asked is asked inside of `aside`."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        yes: bool = False,
        dry_run: bool = False,
        aside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`yes` covers what the person's own words ask for; `dry_run` decides nothing."""
        self._fleet = fleet
        self._yes = yes
        self._dry_run = dry_run
        self._aside = aside
        self._decided: dict[str, bool] = {}

    async def look(self, proposals: Sequence[Proposal]) -> None:
        """Decide what waits at the same time, all of it shown together."""
        if self._dry_run:
            return
        asked = []
        for proposal in proposals:
            if self._yes and proposal.covered:
                self._decided[proposal.id] = True
            else:
                asked.append(proposal)
        if not asked or not attended():
            return
        with self._aside():
            # One answer must not cover what the person asked for together with what a model made up.
            for group in ([one for one in asked if one.asked_for], [one for one in asked if not one.asked_for]):
                if group:
                    await (self._one(group[0]) if len(group) == 1 else self._several(group))

    async def decide(self, proposal: Proposal) -> bool | None:
        """What was decided about one of them."""
        return self._decided.get(proposal.id)

    async def _one(self, proposal: Proposal) -> None:
        while True:
            answer = await _typed(*proposal.details, f"{wording.question(self._words(proposal))} [y/N/edit hosts] ")
            if EDIT.fullmatch(answer):
                await self._edit(proposal)
            elif answer in YES | NO:
                self._decided[proposal.id] = answer in YES
                return
            else:
                output.talk("y does it, enter leaves it, e chooses other hosts")

    async def _several(self, proposals: Sequence[Proposal]) -> None:
        while True:
            lines = []
            for number, one in enumerate(proposals, 1):
                lines += [f"  {number}  {self._words(one)}", *(f"     {line}" for line in one.details)]
            answer = await _typed(*lines, "Do all of these? [y/N/numbers/edit hosts N] ")
            edit, numbers = EDIT.fullmatch(answer), re.fullmatch(r"\d+(?:[\s,]+\d+)*", answer)
            if edit and 0 < int(edit["number"] or 0) <= len(proposals):
                await self._edit(proposals[int(edit["number"]) - 1])
                continue
            chosen = {int(number) for number in re.findall(r"\d+", answer)} if numbers else set()
            if answer in YES | NO or (chosen and chosen <= set(range(1, len(proposals) + 1))):
                for number, one in enumerate(proposals, 1):
                    self._decided[one.id] = answer in YES or number in chosen
                return
            output.talk("y does all, enter none, 1,3 only these, `e 2` chooses other hosts for the second")

    async def _edit(self, proposal: Proposal) -> None:
        """Other hosts for one change: resolved, looked at, and shown before they count."""
        from anvyl_mcp.peers.changes import change_plan

        typed = await _typed(f"hosts instead of {', '.join(proposal.hosts)} ({', '.join(self._fleet.hosts)}, all): ")
        try:
            hosts = self._fleet.select(typed) if typed else proposal.hosts
        except AnvylError as error:
            output.problem(error)
            return
        tool = self._fleet.tool(proposal.tool)
        try:
            plan = await change_plan.plan(self._fleet, tool, proposal.arguments, hosts)
        except AnvylError as error:
            output.problem(error)
            return
        proposal.replan(plan)

    def _words(self, proposal: Proposal) -> str:
        after = f" ({proposal.why})" if proposal.why else ""
        left = "".join(f"; not on {host}: {error.message}" for host, error in proposal.problems.items())
        return f"{preview(proposal)}{left}{after}"


async def chosen_hosts(fleet: Fleet, error: AnvylError | None) -> str:
    """The hosts that a person at the terminal chooses, where nothing but that is missing; empty when none is chosen."""
    if error is None or not error.choices or not attended():
        return ""
    output.talk(f"{error.message}.")
    while True:
        answer = await _typed(f"On which host? {', '.join(error.choices)} or all; enter leaves it: ")
        if not answer:
            return ""
        chosen = ",".join(error.choices) if answer == "all" else answer
        try:
            return ",".join(fleet.select(chosen))
        except AnvylError as unknown:
            output.problem(unknown)


async def _typed(*question: str) -> str:
    return (await line_typed(*question)).strip().lower()


def confirm_undo(wanted: Undo, *, yes: bool = False) -> None:
    """Ask before the last change is undone.

    Raises:
        Conflict: things are not as the change left them.
        ApprovalNeeded: there is nobody to ask, or the answer is no.
    """
    if not wanted.possible:
        raise Conflict(f"{wanted.host}: {wanted.words}", hint="nothing was changed")
    if yes:
        output.talk(f"on {wanted.host}: {wanted.words}")
        return
    answer = ask_yes_no(f"on {wanted.host}: {wanted.words}", "go on?")
    if answer is None:
        raise ApprovalNeeded(
            f"this would, on {wanted.host}, {wanted.words}, and there is no terminal to ask at", hint="add --yes"
        )
    if not answer:
        raise Declined()
