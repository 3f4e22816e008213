"""`anvyl run --place`: chooses a host, shows why, and asks for approval."""

from __future__ import annotations

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.runner import ask_yes_no
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import ApprovalNeeded, Declined, InvalidInput
from anvyl_mcp.peers.changes import wording
from anvyl_mcp.peers.changes.placement import Placement, place
from anvyl_mcp.peers.fleet.fleet import Fleet


async def choose(fleet: Fleet, words: str, selector: str, *, memory: str = "") -> Placement:
    """Choose the host and print the figures behind the choice.

    Raises:
        InvalidInput: no host has as much free memory as the container's limit.
    """
    placement = await place(fleet, words, selector)
    _show(placement)
    wanted, figures = text.parse_size(memory) if memory else None, placement.figures[placement.host]
    if wanted and wanted > figures.memory_free and placement.rule == "most-memory":
        free = text.format_size(figures.memory_free)
        raise InvalidInput(
            f"no host has {text.format_size(wanted)} of memory free; {placement.host} has {free}",
            hint="lower --memory, or choose the host with --host",
        )
    return placement


def _show(placement: Placement) -> None:
    for host, reason in placement.left_out.items():
        output.print_message(f"not considered: {host} ({reason})")
    output.print_message(f"{placement.host} has {placement.why}")
    if len(placement.figures) > 1:
        rows = [
            [
                host,
                f"{text.format_size(one.memory_free)} of {text.format_size(one.memory_total)}",
                f"{one.load:g}",
                str(one.cores),
            ]
            for host, one in placement.figures.items()
        ]
        output.print_message_table(["host", "free memory", "load", "cores"], rows)


def confirm(placement: Placement, order: str, *, yes: bool) -> None:
    """Ask for approval of the chosen host.

    Raises:
        ApprovalNeeded: there is no terminal.
        Declined: the answer is no.
    """
    if yes:
        return
    answer = ask_yes_no(wording.question(order))
    if answer is None:
        raise ApprovalNeeded(
            f"this would {order}, which has {placement.why}, and there is no terminal to ask at", hint="add --yes"
        )
    if not answer:
        raise Declined()
