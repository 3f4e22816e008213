"""Terminal prompts that ask for approval of changes, showing each exactly as it would be made."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.runner import ask_yes_no, attended, read_line
from anvyl_mcp.core.errors import AnvylError, ApprovalNeeded, Conflict, Declined
from anvyl_mcp.peers.changes import wording

if TYPE_CHECKING:
    from anvyl_mcp.orchestrator.question import Proposal
    from anvyl_mcp.peers.changes.undo import UndoCandidate
    from anvyl_mcp.peers.fleet.fleet import Fleet

YES, NO = frozenset({"y", "yes"}), frozenset({"", "n", "no"})
EDIT = re.compile(r"e(?:dit)?(?:\s+hosts?)?(?:\s+(?P<number>\d+))?(?:\s+hosts?)?")


def preview(proposal: Proposal) -> str:
    """A proposed change in words: `stop web (running) on nas`. Values written by a model are quoted."""
    return wording.describe(proposal.tool, proposal.arguments, proposal.hosts, proposal.expected)


class ApprovalPrompt:
    """Asks for approval at the terminal, if there is one."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        yes: bool = False,
        dry_run: bool = False,
        paused: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Decide nothing if `dry_run`.

        `yes` approves the changes that the user's own words request. `paused` suspends the progress display; prompts
        run inside it.
        """
        self._fleet = fleet
        self._yes = yes
        self._dry_run = dry_run
        self._paused = paused
        self._decisions: dict[str, bool] = {}

    async def ask(self, proposals: Sequence[Proposal]) -> None:
        """Ask about all pending changes together."""
        if self._dry_run:
            return
        pending = []
        for proposal in proposals:
            if self._yes and proposal.covered:
                self._decisions[proposal.id] = True
            else:
                pending.append(proposal)
        if not pending or not attended():
            return
        with self._paused():
            # One answer must not cover both what the user requested and what a model added.
            for group in ([one for one in pending if one.asked_for], [one for one in pending if not one.asked_for]):
                if group:
                    await (self._ask_one(group[0]) if len(group) == 1 else self._ask_several(group))

    async def decide(self, proposal: Proposal) -> bool | None:
        """Decision about one change; None if pending."""
        return self._decisions.get(proposal.id)

    async def _ask_one(self, proposal: Proposal) -> None:
        while True:
            answer = await _read_answer(
                *proposal.details, f"{wording.question(self._describe(proposal))} [y/N/edit hosts] "
            )
            if EDIT.fullmatch(answer):
                await self._edit(proposal)
            elif answer in YES | NO:
                self._decisions[proposal.id] = answer in YES
                return
            else:
                output.print_message("y: do it, Enter: do not, e: choose other hosts")

    async def _ask_several(self, proposals: Sequence[Proposal]) -> None:
        while True:
            lines = []
            for number, one in enumerate(proposals, 1):
                lines += [f"  {number}  {self._describe(one)}", *(f"     {line}" for line in one.details)]
            answer = await _read_answer(*lines, "Do all of these? [y/N/numbers/edit hosts N] ")
            edit, numbers = EDIT.fullmatch(answer), re.fullmatch(r"\d+(?:[\s,]+\d+)*", answer)
            if edit and 0 < int(edit["number"] or 0) <= len(proposals):
                await self._edit(proposals[int(edit["number"]) - 1])
                continue
            chosen = {int(number) for number in re.findall(r"\d+", answer)} if numbers else set()
            if answer in YES | NO or (chosen and chosen <= set(range(1, len(proposals) + 1))):
                for number, one in enumerate(proposals, 1):
                    self._decisions[one.id] = answer in YES or number in chosen
                return
            output.print_message(
                "y: do all, Enter: do none, 1,3: do only these, e 2: choose other hosts for the second"
            )

    async def _edit(self, proposal: Proposal) -> None:
        """Read other hosts for one change and plan it again; the new plan is shown before it is approved."""
        from anvyl_mcp.peers.changes import change_plan

        typed = await _read_answer(
            f"hosts instead of {', '.join(proposal.hosts)} ({', '.join(self._fleet.hosts)}, all): "
        )
        try:
            hosts = self._fleet.select(typed) if typed else proposal.hosts
        except AnvylError as error:
            output.print_error(error)
            return
        tool = self._fleet.tool(proposal.tool)
        try:
            plan = await change_plan.plan_change(self._fleet, tool, proposal.arguments, hosts)
        except AnvylError as error:
            output.print_error(error)
            return
        proposal.replan(plan)

    def _describe(self, proposal: Proposal) -> str:
        reason = f" ({proposal.why})" if proposal.why else ""
        failures = "".join(f"; not on {host}: {error.message}" for host, error in proposal.problems.items())
        return f"{preview(proposal)}{failures}{reason}"


async def prompt_for_hosts(fleet: Fleet, error: AnvylError | None) -> str:
    """Ask for hosts if that is all the command lacks; empty if none were chosen."""
    if error is None or not error.choices or not attended():
        return ""
    output.print_message(f"{error.message}.")
    while True:
        answer = await _read_answer(f"On which host? {', '.join(error.choices)} or all; Enter cancels: ")
        if not answer:
            return ""
        chosen = ",".join(error.choices) if answer == "all" else answer
        try:
            return ",".join(fleet.select(chosen))
        except AnvylError as unknown:
            output.print_error(unknown)


async def _read_answer(*question: str) -> str:
    return (await read_line(*question)).strip().lower()


def confirm_undo(wanted: UndoCandidate, *, yes: bool = False) -> None:
    """Ask for approval to undo the last change.

    Raises:
        Conflict: something else changed the object since.
        ApprovalNeeded: there is no terminal.
        Declined: the answer is no.
    """
    if not wanted.possible:
        raise Conflict(f"{wanted.host}: {wanted.words}", hint="nothing was changed")
    if yes:
        output.print_message(f"on {wanted.host}: {wanted.words}")
        return
    answer = ask_yes_no(f"Undo on {wanted.host}: {wanted.words}?")
    if answer is None:
        raise ApprovalNeeded(
            f"this would, on {wanted.host}, {wanted.words}, and there is no terminal to ask at", hint="add --yes"
        )
    if not answer:
        raise Declined()
