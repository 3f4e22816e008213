"""`anvyl-mcp invite`: prints a join code for another machine, or a link for a browser on another device."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

from anvyl_mcp.cli.runtime import output, runner
from anvyl_mcp.core import text

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

ADD = "anvyl hosts add"
POLL_SECONDS = 0.5
"""Poll interval; the server that accepts the code is another process."""


def invite(*, scope: str, expires: str, host: str, relay: bool, as_json: bool) -> NoReturn:
    """Print a join code; first open the running server to the network if needed."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.invite import create_invitation

        seconds = runner.parse_seconds(expires, "--expires")
        made = await create_invitation(settings, scope=scope, seconds=seconds, address=host, relay=relay)
        if as_json:
            output.print_json({**made, "error": None})
            return 0
        rights = ", ".join(made["scopes"]) + (", and may ask other hosts through this one" if relay else "")
        output.print_message(f"This code works once, within {text.format_duration(seconds)}, and grants {rights}.")
        output.print_message("On the other machine, type the first line, and paste the second at its prompt:")
        output.print_message("")
        output.print_verbatim(f"{ADD}\n{made['code']}")
        sys.stdout.flush()
        if sys.stdin.isatty() and sys.stdout.isatty():
            await _wait_for_join(settings, made)
        return 0

    runner.run_command(work, failed=output.error_document("code") if as_json else None)


def invite_browser(*, scope: str, expires: str, host: str, relay: bool, as_json: bool) -> NoReturn:
    """Print a link that signs a browser in once; first open the running server to the network if needed."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.invite import create_browser_link

        seconds = runner.parse_seconds(expires, "--expires")
        made = await create_browser_link(settings, scope=scope, seconds=seconds, address=host, relay=relay)
        if as_json:
            output.print_json({**made, "error": None})
            return 0
        where = "all hosts" if relay else f"{settings.name} only (add --relay for all hosts)"
        rights = f"{', '.join(made['scopes'])} on {where}"
        output.print_message(f"This link works once, within {text.format_duration(seconds)}, and grants {rights}.")
        output.print_message("Open it on the other device; send it only where no one else can read it:")
        output.print_message("")
        output.print_verbatim("\n".join(made["urls"]))
        output.print_message("")
        output.print_message("The browser warns that it does not know this host's certificate. Its SHA-256 must be")
        output.print_message(made["fingerprint"])
        return 0

    runner.run_command(work, failed=output.error_document("urls", []) if as_json else None)


async def _wait_for_join(settings: Settings, made: dict[str, Any]) -> None:
    """Report which machine used the code, in case it was not the intended one."""
    import anyio

    from anvyl_mcp.core.invitation import Invitation
    from anvyl_mcp.server.http.host_state import HostState

    output.print_message("")
    output.print_message("waiting for that machine; Ctrl-C stops waiting, and the code stays valid")
    invites, secret = HostState(settings.state_dir).invites, Invitation.decode(made["code"]).secret
    for _ in range(int(made["seconds"] / POLL_SECONDS)):
        if (joined := invites.find_redeemed(secret)) is not None:
            output.print_message(str(joined))
            output.print_message(f"hint:  if that is not your machine: anvyl-mcp token revoke {joined.token_name}")
            return
        await anyio.sleep(POLL_SECONDS)
    output.print_message("the code has expired; no machine joined")
