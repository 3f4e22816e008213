"""Questions to reading calls: the tool whose words a question has most of, for the objects and hosts it names.

A wrong guess costs a look at something else, so looking is guessed; but unread words are named, and a
question about the past, about something unknown or with an order in it is never answered with something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.language import questions
from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.grounding import ALSO_STOPPED
from anvyl_mcp.orchestrator.language.intent import QUESTION, forms_of, verbs_of
from anvyl_mcp.orchestrator.language.lexicon import any_of, words_of_language
from anvyl_mcp.orchestrator.language.normalize import plain, unmask
from anvyl_mcp.orchestrator.language.places import EVERY_HOST, HERE, named
from anvyl_mcp.orchestrator.language.questions import Wants
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import (
    EMPTY,
    LEAD_IN,
    REFUSING,
    STANDS_FOR,
    STATES,
    is_name,
    meanings,
)
from anvyl_mcp.orchestrator.reader_thread import ReaderThread
from anvyl_mcp.orchestrator.rules import past, unknown_words
from anvyl_mcp.orchestrator.rules.orders.remarks import WHY, refused, turning_word
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.orders.words import WORD
from anvyl_mcp.orchestrator.rules.results import aggregate
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.orchestrator.rules.tool_scores import (
    HOSTS,
    LEAST,
    Fit,
    choices,
    cues_of,
    names_all,
    phrase_tool,
    ranking,
)
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.hosts import registry

CLEARLY = 1.35
"""Minimum lead over the next score."""
OF_ITS_OWN = 0.9
"""Score of words matched by no other tool from which a second tool is called too."""
MOST_OBJECTS = 4
LAST_LINES = 20
OF_ANOTHER_KIND = re.compile(r"[\w.-]+\s+(?:volume|network)\b|\b(?:volume|network)\s+(?:(?:called|named)\s+)?[\w.-]+")
"""Names that are no container's."""
PRONOUN = re.compile(r"(?i)\b(?:its?|they|them|their)\b")
PLACING = re.compile(r"(?i)(?:on|at|across|from|in|for|of|everywhere|wherever)\b")


@cache
def _asks_about(*entries: str) -> re.Pattern[str]:
    """Pattern for questions about what is `broken`, or also about what is `wrong` with a named object."""
    words = words_of_language("en")["questions"]
    return re.compile(any_of([form for entry in entries for form in words[entry]]), re.IGNORECASE)


@dataclass
class Look:
    """Reading calls for one question. `exact`: it is a phrase of a tool; `ignored`: unread words."""

    calls: list[Call] = field(default_factory=list)
    exact: bool = False
    ignored: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """How it was understood, for the person."""


@dataclass(frozen=True)
class Asked:
    """A question: its words, those besides hosts, and the hosts and containers that it names."""

    masked: str
    rest: str
    host: str
    names: Sequence[str]

    @property
    def plain(self) -> str:
        """The words besides hosts, without politeness."""
        return plain(" ".join(self.rest.split()), asks=True)


class Looks:
    """Reads questions. `strict`: to the last word, because a language model comes next."""

    def __init__(self, scene: Scene, quoted: Sequence[str], *, strict: bool) -> None:
        self._scene = scene
        self._quoted = quoted
        self._strict = strict
        self._tools = [one for one in scene.tools.values() if one.reads]
        self._of_one = [one for one in self._tools if one.toolset == "containers" and one.required and names_all(one)]
        self._words = unknown_words.Vocabulary(scene)

    async def read(self, masked: str) -> Look:
        """The calls of a question; empty if it is not understood.

        Raises:
            NotUnderstood: it asks for something else, and why.
            UnknownHost: an unknown host is named.
        """
        scene, when = self._scene, past.read(masked)
        for unknown in scene.places.unknown_host(past.without_time(masked, when) if when else masked):
            if not await scene.has_object(unknown):
                raise registry.unknown_host_error(unknown, scene.places.hosts)
        host, rest = self._placed(masked)
        if not self._words.all_known(rest) or unknown_words.begins_like_an_order(masked):
            await scene.look_up("container")
        unknown_words.check_order(masked, self._words)
        asked = Asked(masked, rest, host, self._named(rest))
        if when and when.wants != "logs":
            asked = self._named_before(when, replace(asked, rest=past.without_words(rest, when)))
            looked = self._recorded(when, asked)
        elif when:
            looked = await self._scored(asked)
            asked = replace(asked, rest=past.without_time(rest, when))
            self._reach_back(when, looked)
        else:
            looked = self._worked_out(asked) or await self._scored(asked)
            if not looked.calls and not asked.names:  # a container may be called like an ordinary word: `hello`
                await scene.look_up("container")
                asked = replace(asked, names=self._named(rest))
                looked = await self._scored(asked) if asked.names else looked
        if looked.calls:
            self._check_unread(asked, looked, of_now=when is None)
        return Look() if self._strict and looked.ignored else looked

    def _placed(self, masked: str) -> tuple[str, str]:
        """The hosts that a question names, as a selector, and its other words."""
        places = self._scene.places
        matches = " ".join(match[0] for match in places.pattern().finditer(masked))
        said = [place for place in places.hosts_named(matches) if place != "all"] if matches else []
        said += [places.local] if HERE.search(masked) else []
        every = next((one for one in EVERY_HOST.finditer(masked) if not one.start() or PLACING.match(one[0])), None)
        rest = places.without(f"{masked[: every.start()]} {masked[every.end() :]}" if every else masked)
        return ",".join(dict.fromkeys(said)) or ("all" if every else ""), rest

    def _check_unread(self, asked: Asked, looked: Look, *, of_now: bool) -> None:
        """Note the words that nothing accounts for, and check that they do not ask for something else.

        Raises:
            NotUnderstood: they do.
        """
        looked.ignored = self._unread(asked.rest, looked.calls, asked.names)
        looked.exact = looked.exact and not looked.ignored
        about_one = any(call.arguments.get(name) for call in looked.calls for name in (*call.listing.names, "name"))
        for word in looked.ignored:
            if (
                of_now
                and not about_one
                and unknown_words.is_subject(word, asked.masked)
                and not self._words.knows(word)
            ):
                raise NotUnderstood(
                    f"nothing is named `{word}` on these hosts", hint="list all containers: anvyl ps --all"
                )
        if asked.names and looked.ignored and (word := self._orders_somebody(asked.masked)):
            raise refused(word, WHY["quotation"])
        if unmet := [word for word in looked.ignored if word.lower() in unknown_words.UNMET]:
            raise NotUnderstood(
                f"no tool here says anything about `{unmet[0]}`", hint="see what can be asked: anvyl tools"
            )

    def _orders_somebody(self, masked: str) -> str:
        """The word that makes an order somebody else's, like `tell bob to stop web`; empty if it is none."""
        word, _ = turning_word(masked, ("quotation",))
        if not word or "?" in masked or QUESTION.match(masked):
            return ""
        verbs = {verb for tool in self._scene.tools.values() if not tool.reads for verb in verbs_of(tool)}
        said = masked.lower()
        return word if any(form.search(said) for verb in verbs - {"run"} for form in forms_of(verb)) else ""

    def _named(self, rest: str) -> list[str]:
        """Containers named in the words, by name or by image."""
        objects = self._scene.of("container")
        found = {one.name for one in objects if named(rest, one.name) and (is_name(one.name) or one.name in rest)}
        if found or not objects:
            exact = {name for name in found if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", rest)}
            lower = {name.lower() for name in exact}
            found = exact | {name for name in found if name.lower() not in lower}
            return sorted(found, key=lambda name: (rest.lower().find(name.lower()), name))
        ours = {word for tool in self._tools for cue in cues_of(tool) for word in cue}
        words = [
            word
            for word in re.findall(r"[a-z][\w.-]*", OF_ANOTHER_KIND.sub(" ", rest.lower()))
            if len(word) > 2 and word not in EMPTY and word not in STANDS_FOR and stem(word) not in ours
        ]
        return sorted({one.name for one in resolve.best_matches(words, objects)})

    @staticmethod
    def _reach_back(when: past.Past, looked: Look) -> None:
        """Extend `since` of the calls to the time that a question is about."""
        reaching = [call for call in looked.calls if "since" in call.listing.arguments]
        if not reaching:
            raise past.only_now(when.words)
        for call in reaching:
            call.arguments["since"] = call.arguments.get("since") or f"{when.hours}h"
        looked.remarks += [when.remark] if when.remark else []

    def _named_before(self, when: past.Past, asked: Asked) -> Asked:
        """The question with the name of something that may be gone, and is called as it was.

        Raises:
            NotUnderstood: a pronoun stands for what it is about.
        """
        names = asked.names
        if not names or when.removal:
            listing = when.tool(self._tools)
            calls = [self._call(listing, when.arguments(listing, ""), asked.host)]
            unread = self._unread(asked.rest, calls, ())
            unknown = [word for word in unread if is_name(word) and past.may_name(word, asked.masked)]
            names = names if len(unknown) != 1 or unknown[0] in names else unknown
        if not names and not asked.host and not when.trend and (pronoun := PRONOUN.search(asked.masked)):
            raise NotUnderstood(f"it is not clear what `{pronoun[0]}` is", hint="name it: peak memory of web this week")
        return replace(asked, names=names)

    def _recorded(self, when: past.Past, asked: Asked) -> Look:
        """A question about the past."""
        listing = when.tool(self._tools)
        calls = [self._call(listing, when.arguments(listing, name), asked.host) for name in asked.names or [""]]
        if when.why and when.wants == "events" and not (when.deed and when.words):
            # The history says why it ended; what else went wrong is in its log.
            calls += self._all_about(asked.names, asked.host, logs=True)
        return Look(calls, exact=True, remarks=[when.remark] if when.remark else [])

    def _all_about(self, names: Iterable[str], host: str, *, logs: bool = False) -> list[Call]:
        """All reads about each container, or its last log lines only."""
        return [
            self._call(one, {one.required[0]: name, **({"tail": LAST_LINES} if "tail" in one.arguments else {})}, host)
            for one in self._of_one
            for name in names
            if "tail" in one.arguments or not logs
        ]

    def _worked_out(self, asked: Asked) -> Look | None:
        """A question that is worked out from results: the most of something, where, why."""
        query = questions.read(asked.plain)
        if query is None or (REFUSING.search(asked.plain) and query.wants not in (Wants.WHY, Wants.TROUBLE)):
            return None
        if query.wants is Wants.WHY:
            said = set(query.subject.split()) & set(self._scene.names())
            return Look(self._all_about(said, asked.host), exact=True) if len(said) == 1 else None
        if query.wants is Wants.AMOUNT and len(asked.names) > 1:
            return None
        subject = asked.names[0] if asked.names and query.wants is Wants.AMOUNT else ""
        fitting = [one for one in self._tools if (one.names and names_all(one) if subject else not one.required)]
        listing = aggregate.chosen(query, fitting, of_one=bool(subject))
        if listing is None:
            return None
        values = choices(listing, query.words)
        if "all" in listing.arguments and query.wants in (Wants.WHERE, Wants.TROUBLE):
            values["all"] = True
        if subject:
            values[next(iter(listing.names))] = subject
        return Look([self._call(listing, values, asked.host)], exact=True)

    def _call(self, listing: ToolListing, values: Mapping[str, Any], host: str) -> Call:
        place = {"host": host} if host and listing.toolset != "fleet" else {}
        return Call(listing, {**values, **place})

    async def _scored(self, asked: Asked) -> Look:
        """The tools with the best score for the words."""
        of_hosts = bool(asked.host) or bool(HOSTS.search(asked.masked))
        deciding = unknown_words.NEWNESS & set(stems(asked.rest))
        tools = [one for one in self._tools if any(deciding & set(cue) for cue in cues_of(one))] or self._tools
        ranked = await ReaderThread().run(partial(ranking, asked.rest, tools, asked.names, of_hosts=of_hosts))
        phrase = phrase_tool(asked.rest, self._tools, asked.names, self._quoted)
        chosen = [phrase] if phrase else self._chosen(ranked, asked)
        of_containers = not chosen or chosen[0].required or aggregate.listed(chosen[0]) == "container"
        if of_containers and not asked.names and not phrase and _asks_about("broken").search(asked.masked):
            chosen, names = await self._troubled(asked.host)
            asked = replace(asked, names=names)
        calls = []
        for listing in chosen:
            _, values = take_options(asked.plain, listing.arguments, self._quoted)
            if phrase is None:
                values.pop("grep", None)
            calls += [self._call(listing, given, asked.host) for given in self._about(listing, values, asked)]
        return Look(calls, exact=phrase is not None)

    async def _troubled(self, host: str) -> tuple[list[ToolListing], list[str]]:
        """For `what is wrong`: the list, and the logs of unhealthy containers."""
        await self._scene.look_up("container")
        objects = self._scene.of("container", self._scene.select(host) if host else ())
        names = sorted({one.name for one in objects if aggregate.complaint(one.row)})[:MOST_OBJECTS]
        lists = [one for one in self._tools if aggregate.listed(one) == "container" and "all" in one.arguments]
        return lists + [one for one in self._of_one if names and "tail" in one.arguments], names

    def _chosen(self, fits: Sequence[Fit], asked: Asked) -> list[ToolListing]:
        if asked.names and _asks_about("broken", "wrong").search(asked.rest) and len(asked.names) <= MOST_OBJECTS:
            return self._of_one
        if not fits or fits[0].weight < LEAST:
            return [] if self._strict else self._shown(asked)
        best, second = fits[0], fits[1] if len(fits) > 1 else None
        if second and second.weight * CLEARLY > best.weight:
            apart = all(fit.weight >= OF_ITS_OWN and fit.words for fit in (best, second))
            if apart and not best.words & second.words and not asked.names:
                return [best.listing, second.listing]
            if self._strict:
                return []
        return [best.listing]

    def _shown(self, asked: Asked) -> list[ToolListing]:
        """The tools for a question without a word of any tool, if it only names something."""
        logs = [one for one in self._of_one if "tail" in one.arguments]
        did = re.match(r"(?i)\W*(?:did|has|does)\s+(?:(?:the|my|our)\s+)?(?P<who>[\w.-]+)", asked.rest)
        if did and any(named(did["who"], name) for name in asked.names):
            return logs  # what it did is there, if anywhere
        if len(asked.names) > MOST_OBJECTS or not unknown_words.only_names(asked.rest, asked.names):
            return []
        if asked.names:
            return [one for one in self._of_one if one not in logs][:1]
        of_host = asked.host and len(asked.rest.split()) < 4
        return [one for one in self._tools if of_host and "host info" in one.say]

    def _about(self, listing: ToolListing, values: Mapping[str, Any], asked: Asked) -> list[dict[str, Any]]:
        """Arguments of each call: one per named object, if the tool takes one."""
        names, said = asked.names, asked.rest
        given = {name: value for name, value in values.items() if name != "name"} | choices(listing, set(stems(said)))
        states = {word for word in meanings(said) if word in STATES}
        only_running = states == {"running"} and not REFUSING.search(said)
        if "all" in listing.arguments and (names or (ALSO_STOPPED.search(said) and not only_running)):
            given["all"] = True
        if "tail" in listing.arguments and "tail" not in given and _asks_about("broken", "wrong").search(said):
            given["tail"] = LAST_LINES
        argument = next(iter(listing.names), "name" if "name" in listing.arguments else "")
        if listing.names.get(argument) == "stack":
            members = [one for one in self._scene.of("container") if one.name in names]
            names = sorted({stack for one in members if (stack := str(one.row.get("stack") or ""))})
        if not listing.required and not any(named(said, name) for name in names) and len(names) > 1:
            argument = ""
        if not names and not listing.required and argument and (wanted := values.get("name")):
            return [{**given, argument: unmask(str(wanted), self._quoted)}]
        if not argument or not names:
            return [] if listing.required and not names else [given]
        return [{**given, argument: name} for name in names[:MOST_OBJECTS]]

    def _unread(self, rest: str, calls: Sequence[Call], names: Sequence[str]) -> list[str]:
        """Content words that neither the tools, nor the names, nor the options account for."""
        taken = {part for call in calls for value in call.arguments.values() for part in _parts(str(value))}
        taken |= {part for name in names for part in _parts(name)}
        cues = {word for call in calls for cue in cues_of(call.listing) for word in cue}
        meant = [one for one in self._scene.of("container") if one.name in names]
        lead = LEAD_IN.match(rest.lstrip())
        said = re.sub(r"(?<=\w)'s\b", " ", rest.lstrip()[lead.end() if lead else 0 :])
        words = [word for one in WORD.finditer(said) if (word := one[0].strip(".:/'-"))]
        found = [
            word
            for word in words
            if stem(word) not in cues
            and not unknown_words.is_ordinary(word.lower())
            and not taken & set(_parts(word.lower()))
            and not resolve.best_matches([word.lower()], meant)
        ]
        return list(dict.fromkeys(unmask(word, self._quoted) for word in found))


def _parts(value: str) -> list[str]:
    return [one for one in {value.lower(), *re.split(r"[\s,:/_.-]+", value.lower())} if one]
