"""How a command runs: settings, an event loop, errors to sentences, and one exit code."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.terminal import interrupts, screen
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, InvalidInput

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

INTERRUPTED = interrupts.EXIT_CODE


def command(
    work: Callable[[Settings], Awaitable[int]],
    *,
    flags: Mapping[str, str | int | None] | None = None,
    failed: Callable[[AnvylError], Any] | None = None,
) -> NoReturn:
    """Run one command to its exit code. `failed` makes the JSON document of a command that could not start."""
    import anyio

    from anvyl_mcp.core.settings import load

    interrupt = interrupts.begin()
    try:
        settings = load(flags)
        code = anyio.run(_running, work, settings, interrupt)
    except AnvylError as error:
        if failed is not None:
            output.document(failed(error))
        output.problem(error)
        code = error.exit_code
    except KeyboardInterrupt:
        interrupt.tell()
        code = INTERRUPTED
    except (BrokenPipeError, BaseExceptionGroup) as error:
        # Several tasks print; the first that finds its reader gone stands for all.
        if isinstance(error, BaseExceptionGroup) and error.split(BrokenPipeError)[1] is not None:
            raise
        # The reader has seen enough (`anvyl ps | head`); Python must not complain about it at exit.
        sys.stdout = None
        code = 0
    interrupt.over()
    raise typer.Exit(code)


async def _running(
    work: Callable[[Settings], Awaitable[int]], settings: Settings, interrupt: interrupts.Interrupt
) -> int:
    """Do the work of a command, unless Ctrl-C ends it first."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    class Unawaited(ThreadPoolExecutor):
        """Where names are looked up; a command does not wait at its end for one that nobody needs any more."""

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=True)

    def unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Ctrl-C at a prompt comes up through the task that asked; asyncio need not report that nobody awaited its end.
        if not isinstance(context.get("exception"), KeyboardInterrupt):
            loop.default_exception_handler(context)

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.set_exception_handler(unheard)
    loop.set_default_executor(Unawaited())
    with interrupt.ending(lambda: loop.call_soon_threadsafe(task.cancel)):
        try:
            return await work(settings)
        except asyncio.CancelledError:
            interrupt.tell()
            return INTERRUPTED


def ask_yes_no(*question: str) -> bool | None:
    """A person's yes or no at the terminal; None when there is no person. Each part of the question is one line."""
    if not attended():
        return None
    with interrupts.current.at_a_prompt():
        show_prompt([*question[:-1], f"{question[-1]} [y/N] "])
        return sys.stdin.readline().strip().lower() in ("y", "yes")


async def line_typed(*question: str) -> str:
    """What a person types at the terminal, who is there; everything else goes on meanwhile, and Ctrl-C is heard."""
    import anyio

    show_prompt(question)
    # A terminal hands lines over whole.
    await anyio.wait_readable(sys.stdin)
    return sys.stdin.readline()


def attended() -> bool:
    """Whether somebody sits at the terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def show_prompt(question: Sequence[str]) -> None:
    """Print a question to a person who is there."""
    import termios

    # What was typed before a question was there does not answer it.
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    # What hosts say can stand in a line, but cannot make one: a person would take it for a part of the question.
    lines = [screen.wrapped(text.one_line(line), sys.stderr, 4) for line in question]
    print("\n" + "\n".join(lines), end=" " if question[-1].endswith(" ") else "", file=sys.stderr, flush=True)


def seconds(typed: str, what: str) -> int:
    """A length of time as a person typed it, like `15m`.

    Raises:
        InvalidInput: it is none.
    """
    parsed = text.parse_duration(typed)
    if not parsed:
        raise InvalidInput(f"{what} is `{typed}`, which is no length of time", hint="write it like 15m, 12h or 90d")
    return parsed
