"""`anvyl-mcp token`: who may call this host over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anvyl_mcp.cli.options import Json

if TYPE_CHECKING:
    from anvyl_mcp.settings import Settings

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who may call this host over the network.")

Scope = Annotated[str, typer.Option("--scope", help="What it may do: read, operate or exec.")]


@app.command("list")
def list_tokens(as_json: Json = False) -> None:
    """List the tokens that count now, and when each was last used."""
    from anvyl_mcp import text
    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app as root

        tokens = [token.as_dict() for token in root.trust(settings).tokens.list()]
        if as_json:
            output.document({"tokens": tokens, "error": None})
            return 0
        output.table(
            ["id", "name", "scopes", "created", "expires", "last used", "from"],
            [
                [
                    token["id"],
                    token["name"],
                    ",".join([*token["scopes"], *(["relay"] if token["relay"] else [])]),
                    text.ago(token["created"]),
                    token["expires"] or "never",
                    text.ago(token["last_used"]) if token["last_used"] else "never",
                    token["last_address"],
                ]
                for token in tokens
            ],
        )
        return 0

    run.command(work, failed=output.failed("tokens", []) if as_json else None)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will hold it, like backup-script.")],
    scope: Scope = "read,operate",
    expires: Annotated[str, typer.Option(help="How long it counts, like 90d; for ever when left out.")] = "",
    relay: Annotated[bool, typer.Option("--relay", help="Let this host's agent ask other hosts for it too.")] = False,
    as_json: Json = False,
) -> None:
    """Make a token and show it, once."""
    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from datetime import UTC, datetime, timedelta

        from anvyl_mcp import app as root

        until = datetime.now(UTC) + timedelta(seconds=run.seconds(expires, "--expires")) if expires else None
        token, secret = root.trust(settings).create_token(name, scope, until, relay=relay)
        if as_json:
            output.document({"token": secret, **token, "error": None})
        else:
            output.verbatim(secret)
            output.talk(f"`{token['name']}` may {','.join(token['scopes'])}; this is shown only now")
        return 0

    run.command(work, failed=output.failed("token") if as_json else None)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(help="A token's id or name.")],
    as_json: Json = False,
) -> None:
    """Refuse a token from now on."""
    from anvyl_mcp.cli import output, run

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app as root

        revoked = root.trust(settings).revoke(token)
        if as_json:
            output.document({"revoked": revoked.as_dict(), "error": None})
        else:
            output.talk(f"revoked `{revoked.name}` ({revoked.id})")
        return 0

    run.command(work, failed=output.failed("revoked") if as_json else None)
