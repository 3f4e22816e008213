"""`anvyl-mcp invite`: a code with which another machine joins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from anvyl_mcp import text
from anvyl_mcp.cli import output, run

if TYPE_CHECKING:
    from anvyl_mcp.settings import Settings


def invite(*, scope: str, expires: str, host: str, as_json: bool) -> NoReturn:
    """Print a code, opening the running server to the network first when it is not open yet."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app

        made = await app.invite(settings, scope=scope, seconds=run.seconds(expires, "--expires"), address=host)
        if as_json:
            output.document({**made, "error": None})
            return 0
        output.talk(f"good once, for {text.duration(made['seconds'])}, from another machine, with the rights of")
        output.talk(f"{', '.join(made['scopes'])} on this host. There, type:")
        output.talk("")
        output.verbatim(f"anvyl hosts add {made['code']}")
        return 0

    run.command(work, failed=output.failed("code") if as_json else None)
