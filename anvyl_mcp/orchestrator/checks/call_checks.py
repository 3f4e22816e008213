"""What every proposed call passes: the schema, names that exist, hosts. The model's words are kept as it gave them.

No English is read to decide whether a call may be made; the words decide how much consent a change needs. Only after
something was read on the hosts, what the question does not ask for is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Denied
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import Inventory, places_of
from anvyl_mcp.orchestrator.language.grounding import QuestionWords
from anvyl_mcp.orchestrator.language.intent import clauses, read_wish, verbs_of
from anvyl_mcp.orchestrator.language.lexicon import is_english, spoken_language, translated
from anvyl_mcp.orchestrator.language.normalize import mask, unmask
from anvyl_mcp.orchestrator.language.places import EVERY, named
from anvyl_mcp.orchestrator.language.vocabulary import FREE_TEXT, MARK, REFUSING
from anvyl_mcp.orchestrator.run import Run
from anvyl_mcp.peers.changes.argument_check import check
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.fleet.targets import resolve_targets

RANGE = re.compile(
    r"(?<![\w./:@-])(?P<name>[a-z][\w.-]*?)(?P<first>[1-9]\d*|0)\s*(?:to|through|until|bis|à|a|hasta|-|\.{2,3})\s*"
    r"(?P=name)(?P<last>\d+)(?![\w@-])",
    re.IGNORECASE,
)
MOST_IN_RANGE = 99
EXCEPT = r"\b(?:except(?:\s+for)?|excluding|without|but|not)"
BOTH = re.compile(r"\bboth\b", re.IGNORECASE)
TWICE = re.compile(r"\b(?:twice|times|again|once more|one more time|another time)\b", re.IGNORECASE)
ASK_DIRECTLY = "ask for the change directly"


@dataclass(frozen=True)
class PlacedCall:
    """The checked arguments and hosts of a call."""

    arguments: dict[str, Any]
    hosts: list[str]


class CallChecks:
    """The checks for the calls of one run."""

    def __init__(self, fleet: Fleet, run: Run) -> None:
        question = run.question
        self._fleet = fleet
        self._run = run
        self._question = question
        self._said = f"{question.earlier}\n{question.text}".strip()
        self.english = translated(question.text)[0]
        """The text of the question, translated if it is in another language that we know."""
        self._calls_made: set[str] = set()
        self.wish = read_wish(question.text, fleet.catalogue.values())
        self.inventory = Inventory(fleet)
        self.places = places_of(fleet)

    async def place(self, listing: ToolListing, given: Mapping[str, Any], selector: str) -> PlacedCall:
        """A call with the names of existing objects, and with its hosts.

        Raises:
            AnvylError: it cannot be made; the message is for the model.
        """
        arguments = dict(given)
        selector = selector or self._question.host or self._question.home
        check(listing, arguments)
        looked = self.wish.intent == "read" and self._has_read() and not self.may_mean(listing, arguments)
        if self._run.untrusted or looked:
            # What was read may have put it forward: a log line, but also a label or a container's name.
            self._check_intent(listing)
        if self._run.untrusted:
            self._check_named_literally(listing, arguments)
        for argument, kind in listing.names.items():
            if wanted := str(arguments.get(argument) or ""):
                arguments[argument] = await self._existing(listing, kind, wanted, selector)
        hosts = await resolve_targets(self._fleet, listing, arguments, selector, lister=self.inventory.outcomes)
        if self._question.host and (outside := set(hosts) - set(self._fleet.select(self._question.host))):
            raise Denied(f"this question is about {self._question.host} only, not {', '.join(sorted(outside))}")
        return PlacedCall(arguments, hosts)

    def is_repeated(self, tool: str, arguments: Mapping[str, Any], hosts: Sequence[str]) -> bool:
        """Record a call, and return whether the same one was recorded before."""
        key = json.dumps([tool, arguments, list(hosts)], sort_keys=True, default=str)
        repeated = key in self._calls_made
        self._calls_made.add(key)
        return repeated

    def asks_twice(self, listing: ToolListing) -> bool:
        """Whether the words ask for this kind of change more than once."""
        masked, _ = mask(self.english)
        verbs = verbs_of(listing)
        asking = [one for one in clauses(masked, self._fleet.catalogue.values()) if one.verbs & verbs]
        return len(asking) > 1 or bool(TWICE.search(masked))

    def may_mean(self, listing: ToolListing, arguments: Mapping[str, Any]) -> bool:
        """Whether the words may ask for this change, since they name its objects."""
        names = [str(arguments.get(argument) or "") for argument in listing.names or listing.required]
        return any(names) and all(named(self._said, name) for name in names if name)

    async def doubts(
        self, listing: ToolListing, arguments: Mapping[str, Any], hosts: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """Why the words, as far as they are understood, ask for something else than this change."""
        if listing.reads or self._quotes_command(listing):
            return ()
        if self.wish.intent != "read" and (left_out := [host for host in hosts if self._leaves_out(host)]):
            return (f"you left out {text.join_names(left_out)}",)
        if reason := self._asked_instead(listing):
            return (reason,)
        if not self.wish.verbs and (listing.safety == "destroys" or self._may_follow_others()):
            return (f"your words do not ask to {_in_words(listing)}",)
        for argument, kind in listing.names.items():
            name = str(arguments.get(argument) or "")
            if asked := await self._other_verbs_for(listing, kind, name):
                return (f"you asked to {text.join_names(sorted(asked))} `{name}`",)
        return ()

    async def _other_verbs_for(self, listing: ToolListing, kind: str, name: str) -> frozenset[str]:
        """What the words ask for this object, if they ask for this kind of change only for other objects by name."""
        masked, quoted = mask(self.english)
        verbs = verbs_of(listing)
        said = [
            (unmask(masked[one.start : one.end], quoted), one.verbs)
            for one in clauses(masked, self._fleet.catalogue.values())
        ]
        asked = frozenset[str]().union(*(wanted for words, wanted in said if named(words, name)))
        if not asked or asked & verbs:
            return frozenset()
        others = {one.name for one in await self.inventory.objects(kind)} - {name}
        fitting = [words for words, wanted in said if wanted & verbs]
        return asked if all(any(named(words, other) for other in others) for words in fitting) else frozenset()

    def _may_follow_others(self) -> bool:
        """Whether the model has read something, and the words, in a language that we know, name no kind of change."""
        said, run = self._question.text, self._run
        looked = run.shown or self._has_read() or run.failures or self._question.turns
        return bool(looked) and bool(is_english(said) or spoken_language(said))

    def _has_read(self) -> bool:
        return any(self._fleet.tool(call.tool).reads for call in self._run.calls)

    @property
    def said(self) -> str:
        """The text of the question, its translation if it is in another language, and the names of ranges."""
        said = self._question.text
        parts = [said] if self.english == said else [said, self.english]
        return "\n".join([*parts, *(" ".join(names) for names in _ranges(said))])

    async def says_hosts(
        self, listing: ToolListing, arguments: Mapping[str, Any], selector: str, hosts: Sequence[str]
    ) -> bool:
        """Whether the question names hosts: each, by a tag, or by words like `both` or `everywhere but on nas`.

        A part of them is enough: one call for each host is the same as one for all.
        """
        said = self.said
        places = [place for place in self.places.hosts_named(said) if place != "all"]
        chosen = {host for place in places for host in self._fleet.select(place)}
        tags = {tag for tag in self.places.tags if named(said.replace("-", " "), tag)}
        if set(hosts) <= chosen or selector.removeprefix("@") in tags:
            return True
        if not EVERY.search(self.english):
            return False
        tagged = [set(self._fleet.select(f"@{tag}")) for tag in tags] if not places else []
        if selector in ("all", "*") or any(set(hosts) <= having for having in tagged):
            return True
        left = set(await self._hosts_with_objects(listing, arguments)) - chosen
        understood = not places or bool(REFUSING.search(self.english))
        return understood and set(hosts) <= left and (len(left) == 2 or not BOTH.search(said))

    def _leaves_out(self, host: str) -> bool:
        """Whether the words except a host: `everywhere but on nas`."""
        excepted = rf"{EXCEPT}\s+(?:(?:on|at|in|for)\s+)?(?:the\s+)?{re.escape(host)}(?![\w-])"
        return bool(EVERY.search(self.english) and re.search(excepted, self.english, re.IGNORECASE))

    async def _existing(self, listing: ToolListing, kind: str, wanted: str, selector: str) -> str:
        """The name of the object that is wanted; a near name is put right if it is the only one."""
        hosts = self._fleet.select(selector) if selector else self._fleet.hosts
        objects = await self.inventory.objects(kind, hosts)
        if any(resolve.has_name(one, wanted) for one in objects):
            return wanted
        errors = await self.inventory.errors(kind, hosts)
        near = resolve.best_matches([wanted.lower(), *re.split(r"[\s/]+", wanted.lower())], objects)
        names = {one.name for one in near}
        if len(names) > 1:
            raise resolve.ambiguity_error(kind, wanted, near)
        if not names:
            raise resolve.no_match_error(kind, wanted, objects, errors, hosts=self._fleet.hosts, tool=listing.name)
        [name] = names
        self._run.note(f"`{wanted}` → `{name}`")
        return name

    def _check_intent(self, listing: ToolListing) -> None:
        """Check that the question asks for a change of this kind, unless the tool only reads.

        Raises:
            Denied: it does not.
        """
        if listing.reads or self._quotes_command(listing):
            return
        reason = self._asked_instead(listing)
        if self.wish.intent == "unclear" and self._run.untrusted:
            reason = "your question asks for no change"
        if reason:
            raise Denied(f"the model tried to {_in_words(listing)}, but {reason}; blocked", hint=ASK_DIRECTLY)

    def _asked_instead(self, listing: ToolListing) -> str:
        """What the words, as far as they are understood, ask for instead of this kind of change."""
        if self.wish.intent == "read":
            return "your question only asks to look"
        verbs = self.wish.verbs
        return f"you asked to {text.join_names(sorted(verbs))}" if verbs and not verbs & verbs_of(listing) else ""

    def _quotes_command(self, listing: ToolListing) -> bool:
        """Whether the question contains a quoted command for this tool, which is always literal."""
        return bool(FREE_TEXT & listing.arguments.keys()) and bool(re.search(MARK, mask(self._question.text)[0]))

    def _check_named_literally(self, listing: ToolListing, arguments: Mapping[str, Any]) -> None:
        """Check that the question contains the objects and commands of a destructive call literally.

        Raises:
            Denied: one is missing.
        """
        said = QuestionWords(self._said)
        for argument in (*listing.names, *(FREE_TEXT & arguments.keys())) if listing.safety == "destroys" else ():
            value = str(arguments.get(argument) or "")
            if not said.contain_option(argument, value, {}, is_name=argument in listing.names):
                raise Denied(
                    f"you did not name `{value}`, and `{listing.name}` needs literal names; blocked",
                    hint=resolve.USE_FULL_NAME,
                )

    async def _hosts_with_objects(self, listing: ToolListing, arguments: Mapping[str, Any]) -> list[str]:
        """The hosts that have all objects that a call names."""
        hosts = list(self._fleet.hosts)
        for argument, kind in listing.names.items():
            wanted = str(arguments.get(argument) or "")
            having = {one.host for one in await self.inventory.objects(kind) if resolve.has_name(one, wanted)}
            hosts = [host for host in hosts if host in having]
        return hosts


def _ranges(said: str) -> Iterator[list[str]]:
    """The names that a range stands for: `n1`, `n2` and `n3` for `n1 to n3`."""
    for found in RANGE.finditer(said):
        first, last = int(found["first"]), int(found["last"])
        yield [f"{found['name']}{number}" for number in range(first, min(last, first + MOST_IN_RANGE) + 1)]


def _in_words(listing: ToolListing) -> str:
    """`remove a container` for `remove_container`."""
    words = listing.name.replace("_", " ")
    return re.sub(r"\b(container|network|volume|command)\b", r"a \1", words.replace("image", "an image"))
