"""`anvyl chat`: questions one after the other, each knowing those before it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import anyio

from anvyl_mcp.cli import output
from anvyl_mcp.cli.run import command
from anvyl_mcp.errors import AnvylError, InvalidInput, did_you_mean
from anvyl_mcp.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from anvyl_mcp.app import Node
    from anvyl_mcp.orchestrator.conversation import Conversation
    from anvyl_mcp.peers.fleet import Outcome

PROMPT = "anvyl> "
MOST_LINES = 1000
"""Of what was typed, for the arrow keys."""
INVERSE = {"start_container": "stop_container", "stop_container": "start_container"}
WORST_FIRST = (130, 2, 5, 4, 1, 3, 0)


def converse(*, host: str, yes: bool, model: str, offline: bool, resume: str | None) -> NoReturn:
    """Talk until the input ends. `resume` goes on with a kept conversation, the last one when it is empty."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp import app
        from anvyl_mcp.masking import without_secrets
        from anvyl_mcp.orchestrator.conversation import Conversation, Kept

        kept = Kept(settings.state_dir / "chats", without_secrets)
        conversation = Conversation() if resume is None else kept.load(resume)
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
        self._assistant = node.assistant()
        self._conversation = conversation
        self._host = host
        self._yes = yes
        self._model = model
        self._offline = offline
        self._changes: list[Outcome] = []
        self._codes = {0}
        self._commands: dict[str, tuple[str, Callable[[str], Awaitable[None]]]] = {
            "/hosts": ("the hosts, and how they are", self._show_hosts),
            "/tools": ("what can be asked for", self._show_tools),
            "/model": ("which model answers; /model NAME takes another, /model rules none", self._choose_model),
            "/undo": ("take the last start or stop of this chat back", self._undo),
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
        person = Person(self._fleet, yes=self._yes and not meant.found, before=working.clear)
        question.on_proposals = person.look
        reply = Reply(question)
        try:
            with anyio.CancelScope() as scope, _ended_by_ctrl_c(scope), working.shown():
                reply = await self._assistant.ask(
                    question, decide=person.decide, model=self._model, offline=self._offline
                )
        except KeyboardInterrupt:
            # At a prompt of ours.
            scope.cancel()
        if scope.cancel_called:
            reply.error = interrupted(question, working, self._fleet)
        show(reply, self._fleet)
        self._codes.add(reply.exit_code)
        self._changes += [call for call in reply.calls if call.ok and call.tool in INVERSE]
        self._conversation.add(asked, meant, reply, self._fleet.catalogue)

    async def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            raise InvalidInput(f"there is no command `{name}`", hint=did_you_mean(name, self._commands))
        await self._commands[name][1](rest.strip())

    async def _help(self, _: str) -> None:
        output.table(["command", "does"], [[name, does] for name, (does, _) in self._commands.items()])

    async def _show_hosts(self, _: str) -> None:
        local = self._fleet.local.name
        done = await self._fleet.call(local, "list_hosts", {})
        output.outcomes(self._fleet.tool("list_hosts"), {local: done})

    async def _show_tools(self, _: str) -> None:
        rows = [[tool.name, tool.safety, tool.description.splitlines()[0]] for tool in self._fleet.catalogue.values()]
        output.table(["tool", "does", "description"], rows)

    async def _choose_model(self, name: str) -> None:
        if name:
            self._offline, self._model = name == "rules", "" if name == "rules" else name
        chosen = "rules" if self._offline else self._model or self._node.settings.lmstudio_model
        output.talk(f"answers come from {'the model ' if chosen != 'rules' else 'the '}{chosen}")

    async def _undo(self, _: str) -> None:
        from anvyl_mcp.cli.approving import Person
        from anvyl_mcp.cli.ask import show
        from anvyl_mcp.orchestrator.carrying import carry_out, held_call
        from anvyl_mcp.orchestrator.question import Proposal, Question

        if not self._changes:
            raise InvalidInput("nothing of this chat can be undone", hint="only a start or a stop has an inverse")
        last = self._changes[-1]
        proposal = Proposal("undo", INVERSE[last.tool], {"name": last.arguments["name"]}, [last.host])
        notes: list[str] = []
        held = await held_call(self._fleet, proposal, notes)
        proposal.expected = held.expected
        person = Person(self._fleet)
        await person.look([proposal])
        if not await person.decide(proposal):
            self._codes.add(5)
            output.talk("nothing was changed")
            return
        reply = await carry_out(self._fleet, Question(f"undo {last.tool}"), [held])
        if any(call.ok for call in reply.calls):
            self._changes.pop()
        show(reply, self._fleet)


def _next(read: Callable[[], str | None]) -> str | None:
    """The next line. Ctrl-C at the prompt takes away what was typed, and nothing else."""
    while True:
        try:
            return read()
        except KeyboardInterrupt:
            print(file=sys.stderr)


@contextmanager
def _ended_by_ctrl_c(scope: anyio.CancelScope) -> Iterator[None]:
    """Let Ctrl-C end what runs in a scope, not the program."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, scope.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)


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

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield typed
    finally:
        signal.signal(signal.SIGINT, before)
        with suppress(OSError):
            os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
            history.chmod(0o600)
            readline.write_history_file(history)
            history.chmod(0o600)


def _line() -> str | None:
    try:
        return input(PROMPT)
    except EOFError:
        print(file=sys.stderr)
        return None
