"""`anvyl-mcp policy`: what this host's owner takes away from its callers, seen before it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.options import Json

if TYPE_CHECKING:
    from anvyl_mcp.settings import Settings

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What this host's owner takes away from its callers."
)

DENIED = 5


@app.command()
def check(as_json: Json = False) -> None:
    """Find mistakes in policy.toml: what cannot be read, names that nothing has, rules that can never fit."""
    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app as root

        found = root.check_policy(settings)
        if as_json:
            output.document({**found, "error": None})
        elif not found["exists"] and found["ok"]:
            output.talk(f"there is no {found['file']}: what callers may do is decided by their rights alone")
        elif found["ok"]:
            output.talk(f"{found['file']} is good: {_counted(found)}, default = {found['default']}")
        else:
            for problem in found["problems"]:
                output.say(problem["text"])
        return 0 if found["ok"] else 1

    run.command(work, failed=output.failed("ok", False) if as_json else None)


@app.command()
def test(
    tool: Annotated[str, typer.Argument(help="A tool, as `anvyl-mcp tools` lists it.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="key=value …", help="Its arguments.")] = None,
    caller: Annotated[str, typer.Option(help="Who calls: a token's name, or like loopback:anna.")] = "local",
    scope: Annotated[str, typer.Option(help="What that one may do; else what its token says.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="As if the object had this label: key=value.")] = None,
    as_json: Json = False,
) -> None:
    """Say whether a call would be let through here, and which rule decides it. Nothing is done."""
    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app as root

        labels = {one.partition("=")[0]: one.partition("=")[2] for one in label or ()}
        found = root.test_policy(settings, tool, arguments or [], caller=caller, scope=scope, labels=labels)
        if as_json:
            output.document({**found, "error": None})
        else:
            for line in _told(found):
                output.say(line)
            for note in found["notes"]:
                output.talk(f"note:  {note}")
        return 0 if found["allowed"] else DENIED

    run.command(work, failed=output.failed("allowed", False) if as_json else None)


def _counted(found: dict[str, Any]) -> str:
    return f"{found['deny']} deny and {found['allow']} allow rules"


def _told(found: dict[str, Any]) -> list[str]:
    from anvyl_mcp import text

    rule, by = found["rule"], found["by"]
    verdict = "allowed" if found["allowed"] else "denied"
    name, has = found["caller"]["name"], ",".join(found["caller"]["scopes"])
    if rule:
        place = f"line {rule['line']}" if rule["line"] else f"number {rule['number']}"
        lines = [f"{verdict} by [[{rule['effect']}]] in {place} of {found['policy']}"]
        lines += [f"  {condition}" for condition in rule["conditions"]]
        lines += [f"why: {text.clean(rule['why'])}"] if rule["why"] else []
    elif by == "scopes":
        lines = [f"{verdict} by the rights: this call needs `{found['needs']}`, and `{name}` has {has}"]
    elif by == "names":
        lines = [f"{verdict}: no object can have that name"]
    elif by == "broken":
        lines = [f"{verdict}: {found['policy']} cannot be used, so changes are refused"]
    elif by == "host_exec":
        listed = "is" if found["allowed"] else "is not"
        lines = [f"{verdict} by [host_exec] of {found['policy']}: the command {listed} in its list"]
    elif found["policy"]:
        default = "guardrails" if found["allowed"] else "deny"
        lines = [f'{verdict} by default = "{default}" of {found["policy"]}: no rule fits']
    else:
        lines = [f"{verdict} by the rights: there is no policy"]
    if by != "scopes" and found["allowed"]:
        lines.append(f"rights: this call needs `{found['needs']}`, and `{name}` has {has}")
    return lines + [f"because {words}" for words in found["because"]]
