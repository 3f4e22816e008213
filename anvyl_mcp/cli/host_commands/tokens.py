"""`anvyl-mcp token`: manages tokens for calls over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

EXAMPLES = """\
anvyl-mcp token create backup-script --scope read --expires 90d
anvyl-mcp token list
anvyl-mcp token revoke backup-script
"""

app = Commands("Manage tokens for calls over the network.", EXAMPLES)

ScopeOption = Annotated[str, typer.Option("--scope", metavar="SCOPES", help="Permissions: read, operate or exec.")]


@app.command("list")
def list_tokens(as_json: JsonOption = False) -> None:
    """List valid tokens and browser sessions, and when each was last used."""
    from anvyl_mcp.cli.runtime import output, runner
    from anvyl_mcp.core import text

    async def work(settings: Settings) -> int:
        from anvyl_mcp.server.http.host_state import HostState

        tokens = [token.as_dict() for token in HostState(settings.state_dir).tokens.list()]
        if as_json:
            output.print_json({"tokens": tokens, "error": None})
            return 0
        output.print_table(
            ["id", "name", "scopes", "created", "expires", "last used", "from"],
            [
                [
                    token["id"],
                    token["name"],
                    ",".join([*token["scopes"], *(kind for kind in ("relay", "browser") if token[kind])]),
                    text.format_age(token["created"]),
                    token["expires"] or "never",
                    text.format_age(token["last_used"]) if token["last_used"] else "never",
                    token["last_address"],
                ]
                for token in tokens
            ],
        )
        return 0

    runner.run_command(work, failed=output.error_document("tokens", []) if as_json else None)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will use it, like backup-script.")],
    scope: ScopeOption = "read,operate",
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="How long it is valid, like 90d; forever if omitted.")
    ] = "",
    relay: Annotated[
        bool, typer.Option("--relay", help="Let this host's agent ask other hosts on its behalf.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a token, and show it once."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from datetime import UTC, datetime, timedelta

        from anvyl_mcp.server.http.host_state import HostState

        until = datetime.now(UTC) + timedelta(seconds=runner.parse_seconds(expires, "--expires")) if expires else None
        token, secret = HostState(settings.state_dir).create_token(name, scope, until, relay=relay)
        if as_json:
            output.print_json({"token": secret, **token, "error": None})
        else:
            output.print_verbatim(secret)
            output.print_message(
                f"created token `{token['name']}` with {', '.join(token['scopes'])}; it is not shown again"
            )
        return 0

    runner.run_command(work, failed=output.error_document("token") if as_json else None)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Name or ID of a token.")],
    as_json: JsonOption = False,
) -> None:
    """Revoke a token, or end a browser session."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.server.http.host_state import HostState

        revoked = HostState(settings.state_dir).revoke(token)
        if as_json:
            output.print_json({"revoked": revoked.as_dict(), "error": None})
        else:
            output.print_message(f"revoked token `{revoked.name}` ({revoked.id})")
        return 0

    runner.run_command(work, failed=output.error_document("revoked") if as_json else None)
