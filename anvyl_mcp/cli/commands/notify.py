"""`anvyl notify`: manages the channels to which notices go, and mutes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.errors import AnvylError
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.peers.notices.channels import Channel

EXAMPLES = """\
anvyl notify add phone
anvyl notify test
anvyl notify mute 1h
"""

app = Commands("Send notices of problems to your phone, chat or mailbox.", EXAMPLES)
NOT_WATCHED = "note:  nothing is watched now; start anvyl-mcp serve --watch, or anvyl watch"
MOST_MUTED = 30 * 86400
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the channel, like phone.")]


@app.command("list")
def list_channels(as_json: JsonOption = False) -> None:
    """List the channels, with the last delivery to each, and what is muted."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        import time

        from anvyl_mcp.core import text
        from anvyl_mcp.peers.notices.channels import ChannelStore
        from anvyl_mcp.peers.notices.delivery import read_results, state_file
        from anvyl_mcp.peers.notices.mutes import MuteStore
        from anvyl_mcp.peers.watch.watch_file import WatchFile

        now = time.time()
        results = read_results(state_file(settings.state_dir))
        watched = WatchFile(settings.state_dir).read().is_alive(now)
        mutes = MuteStore(settings.state_dir).active(now)
        rows = [
            {"name": one.name, "url": one.shown, "last": results.get(one.name)}
            for one in ChannelStore(settings.config_dir).channels()
        ]
        if as_json:
            muted = [
                {"until": text.format_timestamp(one.until), "host": one.host, "name": one.subject} for one in mutes
            ]
            output.print_json({"channels": rows, "watching": watched, "mutes": muted, "error": None})
            return 0
        output.print_table(["name", "channel", "last notice"], [_shown_row(row) for row in rows])
        for mute in mutes:
            what = f"{mute.subject or 'everything'}{f' on {mute.host}' if mute.host else ''}"
            until = text.format_local_time(text.format_timestamp(mute.until))
            output.print_message(f"muted: {what}, until {until}")
        if not rows:
            output.print_message("no channels; add one: anvyl notify add phone")
        elif not watched:
            output.print_message(NOT_WATCHED)
        return 0

    runner.run_command(work, failed=output.error_document("channels", []) if as_json else None)


def _shown_row(row: dict[str, Any]) -> list[str]:
    from anvyl_mcp.core import text

    last = row["last"]
    if last is None:
        return [row["name"], row["url"], "never"]
    how = f"failed: {last['problem']}, " if last["problem"] else "arrived "
    return [row["name"], row["url"], f"{how}{text.format_age(last['at'])}"]


@app.command()
def add(
    name: NameArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="Its URL; asked for if omitted, - reads stdin.")] = "",
    keyring: Annotated[bool, typer.Option("--keyring", help="Keep the URL in the system's keyring.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add a channel, or replace its URL.

    URLs are like ntfys://ntfy.sh/my-topic, gotifys://HOST/TOKEN, discord://ID/TOKEN, slack://A/B/C or the webhook
    address that Discord and Slack show. Telegram, mail and 170 more: see Apprise. A https:// URL of your own gets JSON.
    """
    from anvyl_mcp.cli.runtime import output, runner
    from anvyl_mcp.cli.runtime.secret_input import read_secret

    async def work(settings: Settings) -> int:
        import time

        from anvyl_mcp.peers.notices.channels import ChannelStore
        from anvyl_mcp.peers.watch.watch_file import WatchFile

        store = ChannelStore(settings.config_dir)
        secret = read_secret(url, what="URL", instead=f"echo URL | anvyl notify add {name} -")
        channel = store.add(name, secret, keyring=keyring)
        if as_json:
            output.print_json({"name": name, "url": channel.shown, "error": None})
            return 0
        place = "the keyring" if keyring else str(store.file)
        output.print_message(f"added `{name}` ({channel.shown}); its URL is in {place}")
        output.print_message(f"try it: anvyl notify test {name}")
        if not WatchFile(settings.state_dir).read().is_alive(time.time()):
            output.print_message(NOT_WATCHED)
        return 0

    runner.run_command(work, failed=output.error_document("name") if as_json else None)


@app.command()
def test(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One channel; all if omitted.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Send a test notice; exit code 1 if it does not arrive."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        import anyio

        from anvyl_mcp.core.errors import NotFound, did_you_mean
        from anvyl_mcp.peers.notices.channels import ChannelStore

        channels = ChannelStore(settings.config_dir).channels()
        chosen = [one for one in channels if name in ("", one.name)]
        if not chosen:
            known = [one.name for one in channels]
            what = f"there is no channel `{name}`" if name else "there are no channels"
            raise NotFound(what, hint=did_you_mean(name, known) if name and known else "anvyl notify add NAME")
        problems: dict[str, str] = {}

        async def one(channel: Channel) -> None:
            problems[channel.name] = await _send_test(channel, settings)

        async with anyio.create_task_group() as group:
            for channel in chosen:
                group.start_soon(one, channel)
        failed = [channel for channel in chosen if problems[channel.name]]
        if as_json:
            rows = [{"name": one.name, "url": one.shown, "problem": problems[one.name]} for one in chosen]
            output.print_json({"channels": rows, "error": None})
        for channel in () if as_json else chosen:
            problem = problems[channel.name]
            outcome = f"failed: {problem}" if problem else "sent"
            output.print_message(f"{channel.name} ({channel.shown}): {outcome}")
        return 0 if not failed else 1 if len(failed) == len(chosen) else 3

    runner.run_command(work, failed=output.error_document("channels", []) if as_json else None)


async def _send_test(channel: Channel, settings: Settings) -> str:
    """Send a test notice and return what went wrong; empty if it arrived."""
    import time

    from anvyl_mcp.core import text
    from anvyl_mcp.peers.notices.delivery import record, state_file
    from anvyl_mcp.peers.notices.notice import Notice
    from anvyl_mcp.peers.notices.services import DeliveryFailed

    now, here = time.time(), settings.name
    body = f"{here} can reach you here."
    title = f"Test notice from {here}"
    document = {"event": "test", "host": here, "kind": "test", "subject": "", "message": body}
    document |= {"at": text.format_timestamp(now), "text": f"{title}: {body}"}
    problem = ""
    try:
        await channel.send(Notice(title, body, "info", now, document=document))
    except DeliveryFailed as failure:
        problem = failure.reason
    record(state_file(settings.state_dir), channel.name, problem)
    return problem


@app.command()
def remove(name: NameArgument) -> None:
    """Remove a channel."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.peers.notices.channels import ChannelStore

        ChannelStore(settings.config_dir).remove(name)
        output.print_message(f"removed `{name}`")
        return 0

    runner.run_command(work)


@app.command()
def mute(
    duration: Annotated[str, typer.Argument(metavar="TIME", help="How long, like 1h or 30m.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="One container; everything if omitted.")] = "",
    host: Annotated[str, typer.Option("--host", "-H", metavar="HOST", help="Only this host.")] = "",
) -> None:
    """Send no notices for some time. What happened meanwhile is summed up afterwards."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        import time

        from anvyl_mcp.core import text
        from anvyl_mcp.core.errors import InvalidInput
        from anvyl_mcp.peers.notices.mutes import Mute, MuteStore

        seconds = text.parse_duration(duration)
        if not seconds or seconds > MOST_MUTED:
            raise InvalidInput(f"`{duration}` is not a time to mute for", hint="write it like 30m or 1h, up to 30 days")
        now = time.time()
        try:
            MuteStore(settings.state_dir).add(Mute(now + seconds, host, name), now)
        except OSError as error:
            raise _unwritable(settings, error) from error
        what = f"{name or 'everything'}{f' on {host}' if host else ''}"
        until = text.format_local_time(text.format_timestamp(now + seconds))
        output.print_message(f"muted {what} until {until}; end it earlier: anvyl notify unmute")
        return 0

    runner.run_command(work)


def _unwritable(settings: Settings, error: OSError) -> AnvylError:
    from anvyl_mcp.core.errors import AnvylError

    return AnvylError(f"{settings.state_dir} cannot be written: {error.strerror}", hint="check disk and permissions")


@app.command()
def unmute() -> None:
    """End all mutes."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        import time

        from anvyl_mcp.peers.notices.mutes import MuteStore

        try:
            ended = MuteStore(settings.state_dir).clear(time.time())
        except OSError as error:
            raise _unwritable(settings, error) from error
        output.print_message("notices are sent again" if ended else "nothing was muted")
        return 0

    runner.run_command(work)
