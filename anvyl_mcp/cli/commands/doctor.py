"""`anvyl doctor`: checks engine, hosts and model, and suggests fixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

LABELS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "wrong": ("fail", "red")}
"""Verdict of a finding → label and colour."""


def doctor(as_json: JsonOption = False) -> None:
    """Check engine, hosts and model.

    Exit code 1 if a check fails.
    """
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.orchestrator.ask.doctor import diagnose

        async with open_node(settings, lean=True) as node:
            findings = await diagnose(node.fleet, settings, served="://" in node.local.url)
        if as_json:
            output.print_json({"findings": [one.as_dict() for one in findings], "error": None})
        else:
            _print_findings([one.as_dict() for one in findings])
        return 1 if any(one.verdict == "wrong" for one in findings) else 0

    runner.run_command(work, failed=output.error_document("findings", []) if as_json else None)


def _print_findings(findings: list[dict[str, Any]]) -> None:
    from anvyl_mcp.cli.runtime import output
    from anvyl_mcp.core import text

    for one in findings:
        label, colour = LABELS[one["verdict"]]
        output.print_labelled(label, text.one_line(f"{one['about']}: {one['said']}"), colour)
        if one["hint"]:
            output.print_labelled("", text.one_line(f"→ {one['hint']}"), "")
