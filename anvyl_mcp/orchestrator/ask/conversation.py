"""A conversation: what was asked before, so that `restart it` and `and on gpu?` mean something; kept, and resumed."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import ConfigInvalid, NotFound
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.orchestrator.language import normalize
from anvyl_mcp.orchestrator.language.grounding import EVERY, said_hosts
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.peers.connection.listing import ToolListing

MOST_TURNS = 50
"""That are kept of one conversation."""
MOST_KEPT = 50
"""Conversations; older ones are forgotten."""
LONGEST = 2000
"""Characters of one answer that are kept."""
SAID_BEFORE = 3
"""Questions of the same person that count as said when the next one is read."""
ID = re.compile(r"[0-9a-f]{4,16}", re.ASCII)
ELSEWHERE = re.compile(
    r"(?i)(?:and\s+|but\s+|now\s+)?(?:(?:what|how)\s+about\s+)?(?:the\s+same\s+)?(?:on|at|in|for)?\s*"
    r"(?P<hosts>[@\w., -]+?)\s*[?.!]*"
)
"""`and on gpu?`, `what about nas`, `the same on all`."""


@dataclass(frozen=True)
class Turn:
    """One question and its answer. `found`: the object was shown by a host, not named by the person.

    `untrusted`: text written by others was read for it, so that no model gets to see the answer again.
    """

    asked: str
    meant: str
    answer: str
    names: tuple[str, ...] = ()
    host: str = ""
    found: bool = False
    untrusted: bool = False


@dataclass(frozen=True)
class Meant:
    """What a question stands for. `found`: a name in it comes from what a host showed."""

    words: str
    found: bool = False


@dataclass
class Conversation:
    """What was said so far."""

    id: str = field(default_factory=lambda: secrets.token_hex(4))
    turns: list[Turn] = field(default_factory=list)

    @property
    def earlier(self) -> str:
        """What the same person said before."""
        return "\n".join(turn.meant for turn in self.turns[-SAID_BEFORE:])

    @property
    def said(self) -> list[tuple[str, str]]:
        """Questions and answers for a model; an answer that may hold text of others stays out."""
        return [(turn.meant, "" if turn.untrusted else turn.answer) for turn in self.turns]

    def meant(self, asked: str, hosts: Sequence[str]) -> Meant:
        """A question with what it leaves out put in from the questions before it."""
        if not self.turns:
            return Meant(asked)
        if selector := _only_hosts(asked, hosts):
            last = self.turns[-1]
            return Meant(f"{_without_hosts(last.meant, hosts)} on {selector}", last.found)
        about = next((turn for turn in reversed(self.turns) if turn.names), None)
        if about is None:
            return Meant(asked)
        # What is named in an earlier clause of the same question is nearer.
        clause = normalize.SEPARATOR.split(asked, maxsplit=1)[0]
        if normalize.named(clause, about.names) == clause:
            return Meant(asked)
        words = normalize.named(asked.strip().rstrip("?.!"), about.names)
        placed = said_hosts(asked, hosts) or EVERY.search(asked)
        return Meant(f"{words} on {about.host}" if about.host and not placed else words, about.found)

    def add(self, asked: str, meant: Meant, reply: Reply, tools: Mapping[str, ToolListing]) -> None:
        """Keep a question with what came of it."""
        names, host = _named(reply, tools)
        found = meant.found
        if not names:
            names, host = _shown(reply)
            found = bool(names)
        answer = reply.answer or (str(reply.error) if reply.error else "")
        self.turns.append(Turn(asked, meant.words, answer[:LONGEST], names, host, found, bool(reply.run.untrusted)))
        del self.turns[:-MOST_TURNS]


def _only_hosts(asked: str, hosts: Sequence[str]) -> str:
    """The selector, when a question is nothing but hosts."""
    match = ELSEWHERE.fullmatch(asked.strip())
    parts = [part.lower() for part in re.split(r"\s*,\s*|\s+and\s+", match["hosts"]) if part] if match else []
    known = all(part in hosts or part in ("all", "local") or part.startswith("@") for part in parts)
    return ",".join(parts) if parts and known else ""


def _without_hosts(asked: str, hosts: Sequence[str]) -> str:
    names = "|".join([*map(re.escape, sorted(hosts, key=len, reverse=True)), r"@[\w.-]+", "all(?: hosts)?"])
    one = rf"(?:{names})(?![\w-])"
    return re.sub(rf"(?i)\s+(?:on|at|from|in)\s+{one}(?:(?:\s*,\s*|\s+and\s+){one})*", "", asked.strip().rstrip("?.!"))


def _named(reply: Reply, tools: Mapping[str, ToolListing]) -> tuple[tuple[str, ...], str]:
    """The objects that the last calls were about, and their host if it was one."""
    calls = [(call.tool, call.arguments, [call.host]) for call in reply.calls]
    calls += [(one.tool, one.arguments, one.hosts) for one in reply.waiting]
    for tool, arguments, _ in reversed(calls):
        kinds = tools[tool].names if tool in tools else {}
        wanted = [str(arguments[name]) for name, kind in kinds.items() if kind == "container" and arguments.get(name)]
        wanted = wanted or [str(arguments[name]) for name in ("name",) if arguments.get(name)]
        if wanted:
            hosts = {host for _, given, at in calls if wanted[0] in given.values() for host in at}
            return (wanted[0],), hosts.pop() if len(hosts) == 1 else ""
    return (), ""


def _shown(reply: Reply) -> tuple[tuple[str, ...], str]:
    """The one object that an answer speaks of, or that was shown."""
    rows = [
        (str(row["name"]), call.host) for call in reply.calls for row in _rows(call.answer.result) if row.get("name")
    ]
    said = set(re.findall(r"[\w.-]*\w", reply.answer))
    spoken = [row for row in rows if row[0] in said] if len(rows) > 1 else rows
    names = {name for name, _ in spoken}
    hosts = {host for _, host in spoken}
    return (tuple(names), hosts.pop() if len(hosts) == 1 else "") if len(names) == 1 else ((), "")


def _rows(result: Any) -> Iterator[Mapping[str, Any]]:
    for value in (result or {}).values() if isinstance(result, Mapping) else ():
        if isinstance(value, list):
            yield from (row for row in value if isinstance(row, Mapping))


class Kept:
    """A folder with a file for each conversation, for its owner alone. `masked` hides secrets in what is written."""

    def __init__(self, folder: Path, masked: Callable[[str], str]) -> None:
        self._folder = folder
        self._masked = masked

    def save(self, conversation: Conversation) -> None:
        """Write it down.

        Raises:
            ConfigInvalid: the folder cannot be written.
        """
        turns = [asdict(turn) for turn in conversation.turns]
        for turn in turns:
            turn |= {key: self._masked(str(turn[key])) for key in ("asked", "meant", "answer")}
        try:
            content = json.dumps({"turns": turns}, ensure_ascii=False)
            write_atomically(self._folder / f"{conversation.id}.json", content, durable=False)
            for old in self._files()[MOST_KEPT:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigInvalid(f"{self._folder} cannot be written: {error.strerror}", hint="check the disk") from error

    def load(self, id_: str = "") -> Conversation:
        """A conversation by its id, or the last one.

        Raises:
            NotFound: there is none.
        """
        files = [file for file in self._files() if not id_ or file.stem == id_]
        if not files or (id_ and not ID.fullmatch(id_)):
            known = text.join_names([file.stem for file in self._files()[:5]])
            what = f"no conversation `{id_}` is kept" if id_ else "no conversation is kept yet"
            raise NotFound(what, hint=f"the last ones are {known}" if known else "start one: anvyl chat")
        try:
            turns = json.loads(files[0].read_text(encoding="utf-8"))["turns"]
            every = [Turn(**{**turn, "names": tuple(turn["names"])}) for turn in turns]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotFound(f"the conversation `{files[0].stem}` cannot be read any more", hint="anvyl chat") from error
        return Conversation(files[0].stem, every)

    def _files(self) -> list[Path]:
        found: dict[Path, float] = {}
        for file in self._folder.glob("*.json"):
            with suppress(OSError):
                found[file] = file.stat().st_mtime
        return sorted(found, key=lambda file: found[file], reverse=True)
