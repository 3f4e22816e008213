"""Conversations: what was asked and answered, stored so that they can be resumed."""

from __future__ import annotations

import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import ConfigInvalid, NotFound
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.orchestrator.ask.follow_ups import CompletedQuestion, ConversationTurn, complete
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.peers.connection.listing import ToolListing

MOST_TURNS = 50
"""Stored per conversation."""
MOST_CONVERSATIONS = 50
"""Stored; older ones are deleted."""
MOST_RUNNING = 200
"""Kept in memory by a server."""
MOST_ANSWER_CHARACTERS = 2000
"""Stored of an answer."""
MOST_SEEN = 50
"""Names of containers stored of an answer."""
EARLIER_QUESTIONS = 3
"""Previous questions whose words count as part of the next one."""
ID = re.compile(r"[0-9a-f]{4,16}", re.ASCII)


@dataclass
class Conversation:
    """The turns of one conversation."""

    id: str = field(default_factory=lambda: secrets.token_hex(4))
    turns: list[ConversationTurn] = field(default_factory=list)

    @property
    def earlier(self) -> str:
        """The last questions, whose words count as part of the next one."""
        return "\n".join(turn.meant for turn in self.turns[-EARLIER_QUESTIONS:])

    @property
    def history(self) -> list[tuple[str, str]]:
        """Questions and answers for a model, without answers that may contain untrusted text."""
        return [(turn.meant, "" if turn.untrusted else turn.answer) for turn in self.turns]

    def complete(self, question: str, hosts: Sequence[str]) -> CompletedQuestion:
        """Add the names and hosts that a question leaves out, from the questions before it."""
        return complete(question, self.turns, hosts)

    def add(self, question: str, completed: CompletedQuestion, reply: Reply, tools: Mapping[str, ToolListing]) -> None:
        """Append a question and its answer."""
        names, host = _names_in_calls(reply, tools)
        found = completed.found
        if not names:
            names, host = _name_in_answer(reply)
            found = bool(names)
        answer = (reply.answer or (str(reply.error) if reply.error else ""))[:MOST_ANSWER_CHARACTERS]
        untrusted = bool(reply.run.untrusted)
        seen = tuple(dict.fromkeys(_containers_in(reply, tools)))[:MOST_SEEN]
        self.turns.append(ConversationTurn(question, completed.text, answer, names, host, found, untrusted, seen))
        del self.turns[:-MOST_TURNS]


def _names_in_calls(reply: Reply, tools: Mapping[str, ToolListing]) -> tuple[tuple[str, ...], str]:
    """The object that the last calls were about, and its host if there was only one."""
    calls = [(call.tool, call.arguments, [call.host]) for call in reply.calls]
    calls += [(one.tool, one.arguments, one.hosts) for one in reply.waiting]
    for tool, arguments, _ in reversed(calls):
        kinds = tools[tool].names if tool in tools else {}
        wanted = [str(arguments[name]) for name, kind in kinds.items() if kind == "container" and arguments.get(name)]
        wanted = wanted or [str(arguments[name]) for name in ("name",) if arguments.get(name)]
        if wanted:
            hosts = {host for _, values, on in calls if wanted[0] in values.values() for host in on}
            return (wanted[0],), hosts.pop() if len(hosts) == 1 else ""
    return (), ""


def _name_in_answer(reply: Reply) -> tuple[tuple[str, ...], str]:
    """The only object that the results contain, or that the answer mentions, and its host if there was only one."""
    rows = [
        (str(row["name"]), call.host) for call in reply.calls for row in _rows(call.answer.result) if row.get("name")
    ]
    words = set(re.findall(r"[\w.-]*\w", reply.answer))
    mentioned = [row for row in rows if row[0] in words] if len(rows) > 1 else rows
    names = {name for name, _ in mentioned}
    hosts = {host for _, host in mentioned}
    return (tuple(names), hosts.pop() if len(hosts) == 1 else "") if len(names) == 1 else ((), "")


def _containers_in(reply: Reply, tools: Mapping[str, ToolListing]) -> Iterator[tuple[str, str]]:
    """Name and host of each container in the results."""
    for call in reply.calls:
        kinds = tools[call.tool].names if call.tool in tools else {}
        yield from (
            (str(call.arguments[name]), call.host)
            for name, kind in kinds.items()
            if kind == "container" and call.arguments.get(name)
        )
        rows = (call.answer.result or {}).get("containers")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, Mapping) and row.get("name"):
                yield str(row["name"]), call.host


def _rows(result: Any) -> Iterator[Mapping[str, Any]]:
    for value in (result or {}).values() if isinstance(result, Mapping) else ():
        if isinstance(value, list):
            yield from (row for row in value if isinstance(row, Mapping))


class OwnedBy(Protocol):
    """The caller whose conversations are kept apart from those of others."""

    @property
    def name(self) -> str:
        """Unique among callers of the same kind."""

    @property
    def how(self) -> str:
        """The kind of caller."""


class Conversations:
    """The running conversations of the callers of a server, in memory; the least recently used are dropped."""

    def __init__(self) -> None:
        self._running: OrderedDict[tuple[str, str, str], Conversation] = OrderedDict()

    def find(self, caller: OwnedBy, id_: str) -> Conversation:
        """Return a caller's conversation, a new one if it has none with this id."""
        key = (caller.how, caller.name, id_)
        found = self._running.setdefault(key, Conversation())
        self._running.move_to_end(key)
        if len(self._running) > MOST_RUNNING:
            self._running.popitem(last=False)
        return found


class ConversationStore:
    """A private folder with one file per conversation. `redact` removes secrets from stored text."""

    def __init__(self, folder: Path, redact: Callable[[str], str]) -> None:
        self._folder = folder
        self._redact = redact

    def save(self, conversation: Conversation) -> None:
        """Store a conversation, and delete the oldest ones above the limit.

        Raises:
            ConfigInvalid: the folder cannot be written.
        """
        turns = [asdict(turn) for turn in conversation.turns]
        for turn in turns:
            turn |= {key: self._redact(str(turn[key])) for key in ("asked", "meant", "answer")}
        try:
            content = json.dumps({"turns": turns}, ensure_ascii=False)
            write_atomically(self._folder / f"{conversation.id}.json", content, durable=False)
            for old in self._files()[MOST_CONVERSATIONS:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigInvalid(f"{self._folder} cannot be written: {error.strerror}", hint="check the disk") from error

    def load(self, id_: str = "") -> Conversation:
        """Load a conversation by its id, or the last one.

        Raises:
            NotFound: it does not exist, or its file cannot be read.
        """
        files = [file for file in self._files() if not id_ or file.stem == id_]
        if not files or (id_ and not ID.fullmatch(id_)):
            known = text.join_names([file.stem for file in self._files()[:5]])
            problem = f"there is no saved conversation `{id_}`" if id_ else "there is no saved conversation yet"
            raise NotFound(problem, hint=f"the last ones are {known}" if known else "start one: anvyl chat")
        try:
            turns = json.loads(files[0].read_text(encoding="utf-8"))["turns"]
            loaded = [ConversationTurn(**{**turn, **_tuples(turn)}) for turn in turns]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotFound(
                f"the file of conversation `{files[0].stem}` cannot be read", hint="start a new one: anvyl chat"
            ) from error
        return Conversation(files[0].stem, loaded)

    def _files(self) -> list[Path]:
        """Stored conversations, newest first."""
        modified: dict[Path, float] = {}
        for file in self._folder.glob("*.json"):
            with suppress(OSError):
                modified[file] = file.stat().st_mtime
        return sorted(modified, key=lambda file: modified[file], reverse=True)


def _tuples(turn: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored turn that JSON keeps as lists."""
    return {"names": tuple(turn["names"]), "seen": tuple((str(name), str(host)) for name, host in turn.get("seen", ()))}
