"""`anvyl-mcp policy`: checks policy.toml and tries calls against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

EXAMPLES = """\
anvyl-mcp policy check
anvyl-mcp policy test stop_container name=web
anvyl-mcp policy test remove_container name=db --caller laptop
"""

app = Commands("Check this host's policy, and try calls against it.", EXAMPLES)

DENIED = 5


@app.command()
def check(as_json: JsonOption = False) -> None:
    """Find mistakes in policy.toml.

    Reports entries that cannot be read, unknown names, and rules that never apply.
    """
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.catalogue import served_tools
        from anvyl_mcp.server.policy.explain import check_policy
        from anvyl_mcp.server.policy.policy import Policy

        found = check_policy(Policy(settings.policy_file), served_tools())
        if as_json:
            output.print_json({**found, "error": None})
        elif not found["exists"] and found["ok"]:
            output.print_message(f"{found['file']} does not exist; only the rights of callers apply")
        elif found["ok"]:
            output.print_message(f"{found['file']} is valid: {_rule_count(found)}, default = {found['default']}")
        else:
            for problem in found["problems"]:
                output.print_text(problem["text"])
        return 0 if found["ok"] else 1

    runner.run_command(work, failed=output.error_document("ok", False) if as_json else None)


@app.command()
def test(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Name of a tool; `anvyl-mcp tools` lists them.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Arguments of the call.")] = None,
    caller: Annotated[
        str, typer.Option(metavar="CALLER", help="Name of a token, or a local user, like loopback:anna.")
    ] = "local",
    scope: Annotated[
        str, typer.Option(metavar="SCOPES", help="Permissions of the caller; those of its token if omitted.")
    ] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Assume that every object of the call has this label; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show whether a call would be allowed, and by which rule.

    Nothing is called.
    """
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.policy_trial import try_policy

        labels = {one.partition("=")[0]: one.partition("=")[2] for one in label or ()}
        found = try_policy(settings, tool, arguments or [], caller=caller, scope=scope, labels=labels)
        if as_json:
            output.print_json({**found, "error": None})
        else:
            for line in _explain(found):
                output.print_text(line)
            for note in found["notes"]:
                output.print_message(f"note:  {note}")
        return 0 if found["allowed"] else DENIED

    runner.run_command(work, failed=output.error_document("allowed", False) if as_json else None)


def _rule_count(found: dict[str, Any]) -> str:
    return f"{found['deny']} deny and {found['allow']} allow rules"


def _explain(found: dict[str, Any]) -> list[str]:
    from anvyl_mcp.core import text

    rule, by = found["rule"], found["by"]
    verdict = "allowed" if found["allowed"] else "denied"
    name, has = found["caller"]["name"], ",".join(found["caller"]["scopes"])
    if rule:
        place = f"in line {rule['line']}" if rule["line"] else f"number {rule['number']}"
        lines = [f"{verdict} by the [[{rule['effect']}]] rule {place} of {found['policy']}"]
        lines += [f"  {condition}" for condition in rule["conditions"]]
        lines += [f"why: {text.clean(rule['why'])}"] if rule["why"] else []
    elif by == "scopes":
        lines = [f"{verdict} by the caller's rights: this call needs `{found['needs']}`, and `{name}` has {has}"]
    elif by == "names":
        lines = [f"{verdict}: not a valid name of an object"]
    elif by == "broken":
        lines = [f"{verdict}: {found['policy']} is not valid, so changes are refused"]
    elif by == "host_exec":
        listed = "is" if found["allowed"] else "is not"
        lines = [f"{verdict} by [host_exec] of {found['policy']}: the command {listed} listed"]
    elif found["policy"]:
        default = "guardrails" if found["allowed"] else "deny"
        lines = [f'{verdict}: no rule matches, and {found["policy"]} has default = "{default}"']
    else:
        lines = [f"{verdict} by the caller's rights: this host has no policy"]
    if by != "scopes" and found["allowed"]:
        lines.append(f"rights: this call needs `{found['needs']}`, and `{name}` has {has}")
    return lines + [f"because {words}" for words in found["because"]]
