"""`anvyl-mcp invite`: a code with which another machine joins."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

from anvyl_mcp.cli.runtime import output, runner
from anvyl_mcp.core import text

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

ADD = "anvyl hosts add"
LOOK_SECONDS = 0.5
"""Between two looks whether a machine joined: the server that lets it in is another process."""


def invite(*, scope: str, expires: str, host: str, relay: bool, as_json: bool) -> NoReturn:
    """Print a code, opening the running server to the network first when it is not open yet."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.invite import invite

        seconds = runner.parse_seconds(expires, "--expires")
        made = await invite(settings, scope=scope, seconds=seconds, address=host, relay=relay)
        if as_json:
            output.document({**made, "error": None})
            return 0
        rights = ", ".join(made["scopes"]) + (" and may ask other hosts through this one" if relay else "")
        output.talk(f"good once, for {text.format_duration(seconds)}, from another machine, which then has {rights}.")
        output.talk("There, type the first line; paste the second when it asks for it:")
        output.talk("")
        output.verbatim(f"{ADD}\n{made['code']}")
        sys.stdout.flush()
        if sys.stdin.isatty() and sys.stdout.isatty():
            await _wait(settings, made)
        return 0

    runner.command(work, failed=output.failed("code") if as_json else None)


async def _wait(settings: Settings, made: dict[str, Any]) -> None:
    """Say who joined: it might be somebody who read the code in passing."""
    import anyio

    from anvyl_mcp.core.invitation import Invitation
    from anvyl_mcp.server.http.host_state import HostState

    output.talk("")
    output.talk("waiting for that machine; Ctrl-C ends the waiting, and the code stays good")
    invites, secret = HostState(settings.state_dir).invites, Invitation.decode(made["code"]).secret
    for _ in range(int(made["seconds"] / LOOK_SECONDS)):
        if (joined := invites.find_redeemed(secret)) is not None:
            output.talk(str(joined))
            output.talk(f"hint:  if that is not your machine: anvyl-mcp token revoke {joined.token_name}")
            return
        await anyio.sleep(LOOK_SECONDS)
    output.talk("the code has expired, and no machine joined")
