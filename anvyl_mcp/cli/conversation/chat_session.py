"""`anvyl chat`: questions one after the other, each knowing those before it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn, TypeVar

import anyio

from anvyl_mcp.cli.parser.usage_errors import ALIKE
from anvyl_mcp.cli.runtime import output
from anvyl_mcp.cli.runtime.runner import command
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
"""What `/model` calls answering without one."""
QUIT = "/quit"
PLAINLY = {"quit": QUIT, "exit": QUIT, "bye": QUIT, "help": "/help", "?": "/help"}
"""What people type for a command."""


def converse(*, host: str, yes: bool, model: str, offline: bool, resume: str | None) -> NoReturn:
    """Talk until the input ends. `resume` goes on with a kept conversation, the last one when it is empty."""

    async def work(settings: Settings) -> int:
        from anvyl_mcp.app.node import opened
        from anvyl_mcp.core.redaction.redact_text import line as redacted
        from anvyl_mcp.orchestrator.ask.conversation import Conversation, Kept

        kept = Kept(settings.state_dir / "chats", redacted)
        conversation = Conversation() if resume is None else kept.load(resume)
        interrupts.current.lasting = True
        async with opened(settings) as node:
            chat = Chat(node, conversation, host=host, yes=yes, model=model, offline=offline)
            with line_editor.typed(PROMPT, settings.state_dir / "chat_history", redacted, chat.words) as read:
                if chat.attended:
                    chat.greet()
                # Between two questions there is nothing to end; a Ctrl-C that comes late must not end the chat.
                with interrupts.unheeded():
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
        self._noted: set[str] = set()
        self._commands: dict[str, tuple[str, Callable[[str], Awaitable[None]]]] = {
            "/hosts": ("the hosts, and how they are", self._show_hosts),
            "/tools": ("what can be asked for", self._show_tools),
            "/model": ("which model answers; /model NAME takes another, /model rules none", self._choose_model),
            "/undo": ("take back the last start, stop or removal; shows it and asks", self._undo),
            "/help": ("this list", self._help),
            QUIT: ("end the chat; Ctrl-D does too", self._help),
        }

    def greet(self) -> None:
        """What to know before the first line."""
        if self._conversation.turns:
            output.talk(f"going on with {self._conversation.id}; the last question was:")
            output.talk(f"  {self._conversation.turns[-1].asked}")
        output.talk("ask in plain words; /help lists commands, Ctrl-C stops a question, Ctrl-D ends the chat")

    async def run(self, read: line_editor.Read, save: Callable[[], None]) -> int:
        """Answer every line until there are no more; the worst exit code where nobody watches."""
        while (line := read()) is not None:
            words = PLAINLY.get(line.strip().lower(), line.strip())
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
                output.problem(_in_words(error))
        if self.attended and self._conversation.turns:
            output.talk(f"go on later: anvyl chat --resume {self._conversation.id}")
        return 0 if self.attended else outcome.worst(self._codes)

    async def ask(self, asked: str) -> None:
        """One question, which Ctrl-C ends."""
        from anvyl_mcp.cli.conversation import model_note
        from anvyl_mcp.cli.conversation.exchange import Exchange
        from anvyl_mcp.cli.runtime import name_cache
        from anvyl_mcp.orchestrator.question import Question
        from anvyl_mcp.orchestrator.reply import Reply
        from anvyl_mcp.orchestrator.run import Run
        from anvyl_mcp.peers.fleet.targets import Found

        meant = self._conversation.meant(asked, self._fleet.hosts)
        if meant.words != asked:
            output.talk(f"→ {meant.words}")
        before = self._conversation
        question = Question(meant.words, host=self._host, earlier=before.earlier, turns=before.said)
        # A name that a host showed is not the person's own word: a yes given before does not cover it.
        exchange = Exchange(self._fleet, question, yes=self._yes and not meant.found)
        reply = Reply(Run(question))

        async def answer() -> None:
            nonlocal reply
            reply = await exchange.answer(self._ready, model=self._model, offline=self._offline)

        if not await _unless_interrupted(answer):
            reply = exchange.broken_off()
        reply.notes = [note for note in reply.notes if note not in self._noted]
        self._noted.update(reply.notes)
        reply.notes = model_note.due(reply.notes, self._node.settings.state_dir)
        self._codes.add(reply.exit_code)
        reply.error = _in_words(reply.error) if reply.error else None
        exchange.show(reply)
        self._changed = [call.host for call in reply.calls if not self._fleet.tool(call.tool).reads] or self._changed
        if not isinstance(reply.error, NotUnderstood):
            self._conversation.add(asked, meant, reply, self._fleet.catalogue)
        name_cache.note(self._node.settings, self._fleet, Found(), reply.calls)

    def words(self) -> list[str]:
        """What may be meant by the beginning of a word: commands, hosts, and what was seen on them."""
        from anvyl_mcp.cli.runtime import name_cache

        seen = name_cache.read(self._node.settings.cache_dir / name_cache.FILE).get("names", {})
        names = {name for hosts in seen.values() for each in hosts.values() for name in each}
        return [*self._commands, *self._fleet.hosts, *sorted(names)]

    async def _ready(self) -> Assistant:
        """What answers, once it is there; whoever gives up waiting does not stop it."""
        return await asyncio.shield(self._assistant)

    async def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            near = get_close_matches(name, self._commands, n=1, cutoff=ALIKE)
            hint = f"did you mean `{near[0]}`?" if near else "/help lists them"
            raise InvalidInput(f"there is no command `{name}`", hint=hint)

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
        from anvyl_mcp.orchestrator.models.model_choice import choose_model

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
        from anvyl_mcp.cli.runtime.approval_prompt import confirm_undo
        from anvyl_mcp.peers.changes import undo

        # Of the hosts that this conversation changed, if it did: one that is silent elsewhere is in nobody's way.
        hosts = ",".join(dict.fromkeys(self._changed)) or self._host
        wanted = await self._waiting(lambda: undo.last_change(self._fleet, hosts))
        confirm_undo(wanted)
        outcome = await self._waiting(lambda: undo.undo(self._fleet, wanted))
        output.block(outcome, alone=False) if outcome.ok else output.failure(outcome)

    async def _waiting(self, work: Callable[[], Awaitable[T]]) -> T:
        """What comes of `work`; meanwhile the person sees that something goes on."""
        from anvyl_mcp.cli.conversation.progress_line import Working

        with Working(self._fleet).shown():
            await self._ready()
            return await work()


def _in_words(error: AnvylError) -> AnvylError:
    """An error whose hint is something to say, where it names a flag."""
    if "--host " not in error.hint or "anvyl " in error.hint:
        return error
    return type(error)(error.message, hint=error.hint.replace("--host ", "on "))


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
