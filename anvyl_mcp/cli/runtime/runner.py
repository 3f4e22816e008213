"""Runs a command: loads settings, starts the event loop, prints errors and sets the exit code."""

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


def run_command(
    work: Callable[[Settings], Awaitable[int]],
    *,
    flags: Mapping[str, str | int | bool | None] | None = None,
    failed: Callable[[AnvylError], Mapping[str, Any]] | None = None,
) -> NoReturn:
    """Run a command and exit with its code. `failed` builds the JSON document of a command that failed."""
    import anyio

    from anvyl_mcp.core.settings import load

    interrupt = interrupts.start_command()
    try:
        settings = load(flags)
        code = anyio.run(_run_interruptible, work, settings, interrupt)
    except AnvylError as error:
        if failed is not None:
            document = failed(error)
            # Nothing to do is a success: exit code 0 and no error in the document.
            output.print_json(document if error.exit_code else {**document, "error": None})
        output.print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        interrupt.report_once()
        code = INTERRUPTED
    except (BrokenPipeError, BaseExceptionGroup) as error:
        # Several tasks print, so a closed pipe may surface as a group of errors.
        if isinstance(error, BaseExceptionGroup) and error.split(BrokenPipeError)[1] is not None:
            raise
        # The reader closed the pipe (`anvyl ps | head`); keep Python from reporting it at exit.
        sys.stdout = None
        code = 0
    interrupt.finish()
    raise typer.Exit(code)


async def _run_interruptible(
    work: Callable[[Settings], Awaitable[int]], settings: Settings, interrupt: interrupts.Interrupt
) -> int:
    """Run a command until it ends or Ctrl-C cancels it."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    class DetachedExecutor(ThreadPoolExecutor):
        """Thread pool for name resolution that is not awaited at exit, since a lookup may still be running."""

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=True)

    def ignore_interrupt(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Ctrl-C at a prompt is raised in the task that asked; asyncio would report it as never retrieved.
        if not isinstance(context.get("exception"), KeyboardInterrupt):
            loop.default_exception_handler(context)

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.set_exception_handler(ignore_interrupt)
    loop.set_default_executor(DetachedExecutor())
    with interrupt.cancel_then_exit(lambda: loop.call_soon_threadsafe(task.cancel)):
        try:
            return await work(settings)
        except asyncio.CancelledError:
            interrupt.report_once()
            return INTERRUPTED


def ask_yes_no(*question: str) -> bool | None:
    """Ask a yes/no question at the terminal, one argument per line; None if there is no terminal."""
    if not attended():
        return None
    with interrupts.current.raise_at_prompt():
        show_prompt([*question[:-1], f"{question[-1]} [y/N] "])
        return sys.stdin.readline().strip().lower() in ("y", "yes")


async def read_line(*question: str) -> str:
    """Prompt for a line at the terminal without blocking the event loop, so Ctrl-C still works."""
    import anyio

    show_prompt(question)
    # A terminal becomes readable only when a whole line is available.
    await anyio.wait_readable(sys.stdin)
    return sys.stdin.readline()


def attended() -> bool:
    """Whether stdin and stderr are a terminal, so that a user can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def show_prompt(question: Sequence[str]) -> None:
    """Print a question to the terminal."""
    import termios

    # Drop what was typed before the question appeared.
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    # Text from hosts must not add lines that look like part of the question.
    lines = [screen.wrap(text.one_line(line), sys.stderr, 4) for line in question]
    print("\n" + "\n".join(lines), end=" " if question[-1].endswith(" ") else "", file=sys.stderr, flush=True)


def parse_seconds(value: str, option: str) -> int:
    """Parse a duration like `15m` into seconds.

    Raises:
        InvalidInput: it is not a positive duration.
    """
    parsed = text.parse_duration(value)
    if not parsed:
        raise InvalidInput(f"{option} is `{value}`, which is not a duration", hint="write it like 15m, 12h or 90d")
    return parsed
