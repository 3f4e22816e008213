"""How a command runs: settings, an event loop, errors to sentences, and one exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from anvyl_mcp import text
from anvyl_mcp.cli import output
from anvyl_mcp.errors import AnvylError, InvalidInput

if TYPE_CHECKING:
    from anvyl_mcp.peers.fleet import Outcome
    from anvyl_mcp.settings import Settings

INTERRUPTED = 130


def command(
    work: Callable[[Settings], Awaitable[int]],
    *,
    flags: Mapping[str, str | int | None] | None = None,
    failed: Callable[[AnvylError], Any] | None = None,
) -> NoReturn:
    """Run one command to its exit code. `failed` makes the JSON document of a command that could not start."""
    import anyio

    from anvyl_mcp.settings import load

    try:
        settings = load(flags)
        code = anyio.run(_quietly, work, settings)
    except AnvylError as error:
        if failed is not None:
            output.document(failed(error))
        output.problem(error)
        code = error.exit_code
    except KeyboardInterrupt:
        # A terminal has just shown ^C.
        output.talk("\ninterrupted" if sys.stderr.isatty() else "interrupted")
        code = INTERRUPTED
    except (BrokenPipeError, BaseExceptionGroup) as error:
        # Several tasks print; the first that finds its reader gone stands for all.
        if isinstance(error, BaseExceptionGroup) and error.split(BrokenPipeError)[1] is not None:
            raise
        # The reader has seen enough (`anvyl ps | head`); Python must not complain about it at exit.
        sys.stdout = None
        code = 0
    raise typer.Exit(code)


async def _quietly(work: Callable[[Settings], Awaitable[int]], settings: Settings) -> int:
    """Ctrl-C at a prompt comes up through the task that asked; asyncio need not report that nobody awaited its end."""
    import asyncio

    def unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), KeyboardInterrupt):
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(unheard)
    return await work(settings)


def exit_code(done: Iterable[Outcome]) -> int:
    """0 all ok · 3 some failed · the errors' own code when all failed alike, else 1."""
    ended = list(done)
    errors = [one.error for one in ended if one.error is not None]
    if not errors:
        return 0
    if len(errors) < len(ended):
        return 3
    codes = {error.exit_code for error in errors}
    return codes.pop() if len(codes) == 1 else 1


def ask_yes_no(question: str) -> bool | None:
    """A person's yes or no at the terminal; None when there is no person."""
    answer = ask_line(f"\n{question} [y/N] ")
    return None if answer is None else answer.strip().lower() in ("y", "yes")


def ask_line(question: str) -> str | None:
    """What a person answers at the terminal; None when there is no person."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    # The event loop only notes a first Ctrl-C, and waits for the task that waits here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(text.clean(question), end="", file=sys.stderr, flush=True)
        return sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, before)


def seconds(typed: str, what: str) -> int:
    """A length of time as a person typed it, like `15m`.

    Raises:
        InvalidInput: it is none.
    """
    parsed = text.parse_duration(typed)
    if not parsed:
        raise InvalidInput(f"{what} is `{typed}`, which is no length of time", hint="write it like 15m, 12h or 90d")
    return parsed
