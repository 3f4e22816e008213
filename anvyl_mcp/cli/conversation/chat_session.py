"""`anvyl chat`: a conversation in which follow-up questions refer to earlier ones."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn, TypeVar

import anyio

from anvyl_mcp.cli.parser.usage_errors import SIMILARITY
from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.runner import run_command
from anvyl_mcp.cli.terminal import interrupts, line_editor
from anvyl_mcp.core.errors import AnvylError, Cancelled, InvalidInput, NotUnderstood
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.peers.changes import outcome

if TYPE_CHECKING:
    from anvyl_mcp.app.node import Node
    from anvyl_mcp.orchestrator.ask.agent import Assistant
    from anvyl_mcp.orchestrator.ask.conversation import Conversation

T = TypeVar("T")

PROMPT = "anvyl> "
RULES = "rules"
"""Argument of `/model` for answers without a model."""
QUIT = "/quit"
SYNONYMS = {"quit": QUIT, "exit": QUIT, "bye": QUIT, "help": "/help", "?": "/help"}
"""Plain words that people type instead of a command."""


def run_chat(*, host: str, yes: bool, model: str, offline: bool, resume: str | None) -> NoReturn:
    """Run the chat until the input ends. `resume` continues a stored conversation, the last one if empty."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import open_node
        from anvyl_mcp.core.redaction.redact_text import redact_text
        from anvyl_mcp.orchestrator.ask.conversation import Conversation, ConversationStore

        store = ConversationStore(settings.state_dir / "chats", redact_text)
        conversation = Conversation() if resume is None else store.load(resume)
        interrupts.current.keeps_running = True
        async with open_node(settings) as node:
            chat = Chat(node, conversation, host=host, yes=yes, model=model, offline=offline)
            with line_editor.line_reader(
                PROMPT, settings.state_dir / "chat_history", redact_text, chat.completion_words
            ) as read:
                if chat.attended:
                    chat.greet()
                # A late Ctrl-C, between two questions, must not end the chat.
                with interrupts.ignore():
                    return await chat.run(read, lambda: store.save(conversation))

    run_command(work)


class Chat:
    """One conversation at a terminal or with the lines of a pipe."""

    def __init__(
        self, node: Node, conversation: Conversation, *, host: str, yes: bool, model: str, offline: bool
    ) -> None:
        self.attended = sys.stdin.isatty() and sys.stdout.isatty()
        self._node = node
        self._fleet = node.fleet
        # Import the assistant while the user types the first line.
        self._assistant = asyncio.get_running_loop().run_in_executor(None, node.load_assistant)
        self._conversation = conversation
        self._host = host
        self._yes = yes
        self._model = model
        self._offline = offline
        self._changed: list[str] = []
        self._codes = {0}
        self._noted: set[str] = set()
        self._commands: dict[str, tuple[str, Callable[[str], Awaitable[None]]]] = {
            "/hosts": ("list the hosts and their status", self._show_hosts),
            "/tools": ("list the tools", self._show_tools),
            "/model": ("show the model; /model NAME switches to another, /model rules to none", self._choose_model),
            "/undo": ("undo the last start, stop or removal, after asking", self._undo),
            "/help": ("show this list", self._help),
            QUIT: ("end the chat; Ctrl-D does too", self._help),
        }

    def greet(self) -> None:
        """Print a short introduction."""
        if self._conversation.turns:
            output.print_message(f"continuing {self._conversation.id}; the last question was:")
            output.print_message(f"  {self._conversation.turns[-1].asked}")
        output.print_message("ask in plain words; /help lists commands, Ctrl-C stops a question, Ctrl-D ends the chat")

    async def run(self, read: line_editor.ReadLine, save: Callable[[], None]) -> int:
        """Answer every line; return 0 on a terminal, else the worst exit code."""
        while (line := read()) is not None:
            words = SYNONYMS.get(line.strip().lower(), line.strip())
            if words == QUIT:
                break
            try:
                if words.startswith("/"):
                    await self._command(words)
                elif words:
                    await self.ask(words)
                    save()
            except AnvylError as error:
                self._codes.add(error.exit_code)
                output.print_error(_without_flags(error))
        if self.attended and self._conversation.turns:
            output.print_message(f"to continue later: anvyl chat --resume {self._conversation.id}")
        return 0 if self.attended else outcome.worst_exit_code(self._codes)

    async def ask(self, asked: str) -> None:
        """Answer one question; Ctrl-C cancels it."""
        from anvyl_mcp.cli.conversation import model_note
        from anvyl_mcp.cli.conversation.question_session import QuestionSession
        from anvyl_mcp.cli.runtime import name_cache
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply
        from anvyl_mcp.orchestrator.run import Run
        from anvyl_mcp.peers.fleet.targets import ListedObjects

        completed = self._conversation.complete(asked, self._fleet.hosts)
        if completed.text != asked:
            output.print_message(f"→ {completed.text}")
        before = self._conversation
        question = Question(
            completed.text,
            asked=asked,
            host=self._host,
            earlier=before.earlier,
            turns=before.history,
            unclear=completed.unclear,
        )
        # --yes does not cover a name that came from a host's output instead of the user.
        session = QuestionSession(self._fleet, question, yes=self._yes and not completed.found)
        reply = Reply(Run(question))

        async def answer() -> None:
            nonlocal reply
            reply = await session.answer(self._ready, model=self._model, offline=self._offline)

        if not await _finishes(answer):
            reply = session.interrupted_reply()
        reply.notes = [note for note in reply.notes if note not in self._noted]
        self._noted.update(reply.notes)
        reply.notes = model_note.notes_to_show(reply.notes, self._node.settings.state_dir)
        self._codes.add(reply.exit_code)
        reply.error = _without_flags(reply.error) if reply.error else None
        session.show(reply)
        self._changed = [call.host for call in reply.calls if not self._fleet.tool(call.tool).reads] or self._changed
        if not isinstance(reply.error, NotUnderstood):
            self._conversation.add(asked, completed, reply, self._fleet.catalogue)
        name_cache.update(self._node.settings, self._fleet, ListedObjects(), reply.calls)

    def completion_words(self) -> list[str]:
        """Candidates for completion: commands, hosts and cached names."""
        from anvyl_mcp.cli.runtime import name_cache

        cached = name_cache.read(self._node.settings.cache_dir / name_cache.FILE).get("names", {})
        names = {name for hosts in cached.values() for on_host in hosts.values() for name in on_host}
        return [*self._commands, *self._fleet.hosts, *sorted(names)]

    async def _ready(self) -> Assistant:
        """Wait for the assistant; cancelling the wait does not cancel its import."""
        return await asyncio.shield(self._assistant)

    async def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            near = get_close_matches(name, self._commands, n=1, cutoff=SIMILARITY)
            hint = f"did you mean `{near[0]}`?" if near else "/help lists the commands"
            raise InvalidInput(f"there is no command `{name}`", hint=hint)

        if not await _finishes(lambda: self._commands[name][1](rest.strip())):
            raise Cancelled("interrupted")

    async def _help(self, _: str) -> None:
        output.print_table(["command", "does"], [[name, does] for name, (does, _) in self._commands.items()])

    async def _show_hosts(self, _: str) -> None:
        local = self._fleet.local.name
        done = await self._waiting(lambda: self._fleet.call(local, "list_hosts", {}))
        output.print_outcomes(self._fleet.tool("list_hosts"), {local: done})

    async def _show_tools(self, _: str) -> None:
        rows = [[tool.name, tool.safety, tool.description.splitlines()[0]] for tool in self._fleet.catalogue.values()]
        output.print_table(["tool", "does", "description"], rows)

    async def _choose_model(self, name: str) -> None:
        from anvyl_mcp.orchestrator.models.model_choice import choose_model

        if name == RULES or (self._offline and not name):
            self._offline = True
            output.print_message("answers come from the rules")
            return
        choice = await self._waiting(lambda: choose_model(self._node.settings, model=name or self._model))
        if name:
            self._offline, self._model = False, name
        output.print_message(f"answers come from the model {choice.name}")
        if choice.warning:
            output.print_message(f"note:  {choice.warning}")

    async def _undo(self, _: str) -> None:
        from anvyl_mcp.cli.runtime.approval_prompt import confirm_undo
        from anvyl_mcp.peers.changes import undo

        # Look only at the hosts that this chat changed, so that a silent host elsewhere does not block the undo.
        hosts = ",".join(dict.fromkeys(self._changed)) or self._host
        wanted = await self._waiting(lambda: undo.last_change(self._fleet, hosts))
        confirm_undo(wanted)
        outcome = await self._waiting(lambda: undo.undo(self._fleet, wanted))
        output.print_result(outcome, alone=False) if outcome.ok else output.print_failure(outcome)

    async def _waiting(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work` while showing progress."""
        from anvyl_mcp.cli.conversation.progress_line import ProgressLine

        with ProgressLine(self._fleet).shown():
            await self._ready()
            return await work()


def _without_flags(error: AnvylError) -> AnvylError:
    """Replace `--host` in a hint by words to type in the chat."""
    if "--host " not in error.hint or "anvyl " in error.hint:
        return error
    return type(error)(error.message, hint=error.hint.replace("--host ", "on "))


async def _finishes(work: Callable[[], Awaitable[None]]) -> bool:
    """Run `work`, which Ctrl-C cancels; return whether it finished."""
    loop = asyncio.get_running_loop()
    at_a_prompt = False
    with anyio.CancelScope() as scope:
        try:
            with interrupts.current.cancel_only(lambda: loop.call_soon_threadsafe(scope.cancel)):
                await work()
        except KeyboardInterrupt:
            at_a_prompt = True
    return not (at_a_prompt or scope.cancelled_caught)
