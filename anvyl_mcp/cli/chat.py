"""`anvyl chat`: questions one after the other, each knowing those before it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

import anyio

from anvyl_mcp.cli import interrupts, output
from anvyl_mcp.cli.run import command
from anvyl_mcp.errors import AnvylError, Cancelled, InvalidInput, did_you_mean
from anvyl_mcp.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from anvyl_mcp.app import Node
    from anvyl_mcp.orchestrator.agent import Assistant
    from anvyl_mcp.orchestrator.conversation import Conversation

T = TypeVar("T")

PROMPT = "anvyl> "
MOST_LINES = 1000
"""Of what was typed, for the arrow keys."""
RULES = "rules"
"""What `/model` calls answering without one."""
WORST_FIRST = (130, 2, 5, 4, 1, 3, 0)


def converse(*, host: str, yes: bool, model: str, offline: bool, resume: str | None) -> NoReturn:
    """Talk until the input ends. `resume` goes on with a kept conversation, the last one when it is empty."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app
        from anvyl_mcp.masking import without_secrets
        from anvyl_mcp.orchestrator.conversation import Conversation, Kept

        kept = Kept(settings.state_dir / "chats", without_secrets)
        conversation = Conversation() if resume is None else kept.load(resume)
        interrupts.current.lasting = True
        async with app.opened(settings) as node:
            chat = Chat(node, conversation, host=host, yes=yes, model=model, offline=offline)
            with _typing(settings.state_dir / "chat_history", without_secrets) as read:
                if chat.attended:
                    chat.greet()
                return await chat.run(read, lambda: kept.save(conversation))

    command(work)


class Chat:
    """One conversation at one terminal, or with the lines of a pipe."""

    def __init__(
        self, node: Node, conversation: Conversation, *, host: str, yes: bool, model: str, offline: bool
    ) -> None:
        self.attended = sys.stdin.isatty() and sys.stdout.isatty()
        self._node = node
        self._fleet = node.fleet
        # What answers is imported while the first line is typed.
        self._assistant = asyncio.get_running_loop().run_in_executor(None, node.ready_to_answer)
        self._conversation = conversation
        self._host = host
        self._yes = yes
        self._model = model
        self._offline = offline
        self._changed: list[str] = []
        self._codes = {0}
        self._commands: dict[str, tuple[str, Callable[[str], Awaitable[None]]]] = {
            "/hosts": ("the hosts, and how they are", self._show_hosts),
            "/tools": ("what can be asked for", self._show_tools),
            "/model": ("which model answers; /model NAME takes another, /model rules none", self._choose_model),
            "/undo": ("take the last start, stop or removal back, once you have seen what that does", self._undo),
            "/help": ("this list", self._help),
            "/quit": ("end the chat; Ctrl-D does too", self._help),
        }

    def greet(self) -> None:
        """What to know before the first line."""
        if self._conversation.turns:
            output.talk(f"going on with {self._conversation.id}; the last question was:")
            output.talk(f"  {self._conversation.turns[-1].asked}")
        output.talk("ask in plain words; /help lists commands, Ctrl-C stops a question, Ctrl-D ends the chat")

    async def run(self, read: Callable[[], str | None], save: Callable[[], None]) -> int:
        """Answer every line until there are no more; the worst exit code where nobody watches."""
        while (line := _next(read)) is not None:
            words = line.strip()
            if words == "/quit":
                break
            try:
                if words.startswith("/"):
                    await self._command(words)
                elif words:
                    await self.ask(words)
                    save()
            except AnvylError as error:
                self._codes.add(error.exit_code)
                output.problem(error)
        if self.attended and self._conversation.turns:
            output.talk(f"go on later: anvyl chat --resume {self._conversation.id}")
        return 0 if self.attended else next(code for code in WORST_FIRST if code in self._codes)

    async def ask(self, asked: str) -> None:
        """One question, which Ctrl-C ends."""
        from anvyl_mcp.cli.approving import Person
        from anvyl_mcp.cli.ask import interrupted, show
        from anvyl_mcp.cli.working import Working
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply

        meant = self._conversation.meant(asked, self._fleet.hosts)
        if meant.words != asked:
            output.talk(f"→ {meant.words}")
        before = self._conversation
        question = Question(meant.words, host=self._host, earlier=before.earlier, turns=before.said)
        working = Working(question)
        # A name that a host showed is not the person's own word: a yes given before does not cover it.
        person = Person(self._fleet, yes=self._yes and not meant.found, aside=working.aside)
        question.on_proposals = person.look
        reply = Reply(question)

        async def answer() -> None:
            nonlocal reply
            with working.shown():
                assistant = await self._ready()
                reply = await assistant.ask(question, decide=person.decide, model=self._model, offline=self._offline)

        if not await _unless_interrupted(answer):
            reply.error = interrupted(question, working, self._fleet)
        show(reply, self._fleet)
        self._codes.add(reply.exit_code)
        self._changed = [call.host for call in reply.calls if not self._fleet.tool(call.tool).reads] or self._changed
        self._conversation.add(asked, meant, reply, self._fleet.catalogue)

    async def _ready(self) -> Assistant:
        """What answers, once it is there; whoever gives up waiting does not stop it."""
        return await asyncio.shield(self._assistant)

    async def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            raise InvalidInput(f"there is no command `{name}`", hint=did_you_mean(name, self._commands))

        if not await _unless_interrupted(lambda: self._commands[name][1](rest.strip())):
            raise Cancelled("interrupted")

    async def _help(self, _: str) -> None:
        output.table(["command", "does"], [[name, does] for name, (does, _) in self._commands.items()])

    async def _show_hosts(self, _: str) -> None:
        local = self._fleet.local.name
        done = await self._waiting(lambda: self._fleet.call(local, "list_hosts", {}))
        output.outcomes(self._fleet.tool("list_hosts"), {local: done})

    async def _show_tools(self, _: str) -> None:
        rows = [[tool.name, tool.safety, tool.description.splitlines()[0]] for tool in self._fleet.catalogue.values()]
        output.table(["tool", "does", "description"], rows)

    async def _choose_model(self, name: str) -> None:
        from anvyl_mcp.orchestrator.models import choose_model

        if name == RULES or (self._offline and not name):
            self._offline = True
            output.talk("answers come from the rules")
            return
        choice = await self._waiting(lambda: choose_model(self._node.settings, model=name or self._model))
        if name:
            self._offline, self._model = False, name
        output.talk(f"answers come from the model {choice.name}")
        if choice.warning:
            output.talk(f"note:  {choice.warning}")

    async def _undo(self, _: str) -> None:
        from anvyl_mcp.cli import undo
        from anvyl_mcp.peers import undoing

        # Of the hosts that this conversation changed, if it did: one that is silent elsewhere is in nobody's way.
        hosts = ",".join(dict.fromkeys(self._changed)) or self._host
        wanted = await self._waiting(lambda: undoing.last_change(self._fleet, hosts))
        undo.confirm(wanted)
        outcome = await self._waiting(lambda: undoing.undo(self._fleet, wanted))
        output.block(outcome, alone=False) if outcome.ok else output.failure(outcome)

    async def _waiting(self, work: Callable[[], Awaitable[T]]) -> T:
        """What comes of `work`; meanwhile the person sees that something goes on."""
        from anvyl_mcp.cli.working import Working
        from anvyl_mcp.orchestrator.question import Question

        with Working(Question("")).shown():
            await self._ready()
            return await work()


async def _unless_interrupted(work: Callable[[], Awaitable[None]]) -> bool:
    """Do `work`, which Ctrl-C ends; whether it came to its end."""
    loop = asyncio.get_running_loop()
    at_a_prompt = False
    with anyio.CancelScope() as scope:
        try:
            with interrupts.current.sparing(lambda: loop.call_soon_threadsafe(scope.cancel)):
                await work()
        except KeyboardInterrupt:
            at_a_prompt = True
    return not (at_a_prompt or scope.cancelled_caught)


def _next(read: Callable[[], str | None]) -> str | None:
    """The next line. Ctrl-C at the prompt takes away what was typed, and nothing else."""
    while True:
        try:
            return read()
        except KeyboardInterrupt:
            print(file=sys.stderr)


@contextmanager
def _typing(history: Path, masked: Callable[[str], str]) -> Iterator[Callable[[], str | None]]:
    """How lines are read: at a terminal with the arrow keys and what was typed before, else as they come."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield lambda: sys.stdin.readline() or None
        return
    try:
        import readline
    except ImportError:
        yield _line
        return
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(MOST_LINES)
    readline.set_auto_history(False)

    def typed() -> str | None:
        if line := _line():
            readline.add_history(masked(line))
        return line

    try:
        yield typed
    finally:
        with suppress(OSError):
            os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
            history.chmod(0o600)
            readline.write_history_file(history)
            history.chmod(0o600)


def _line() -> str | None:
    try:
        with interrupts.current.at_a_prompt():
            return input(PROMPT)
    except EOFError:
        print(file=sys.stderr)
        return None
