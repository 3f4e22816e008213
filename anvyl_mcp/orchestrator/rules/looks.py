"""Questions to reading calls: the tool whose words a question has most of, for the objects and hosts it names.

A wrong guess costs a look at something else, so looking is guessed; but unread words are named, and a
question about the past, about something unknown or with an order in it is never answered with something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.language import questions
from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.grounding import ALSO_STOPPED
from anvyl_mcp.orchestrator.language.intent import QUESTION, forms_of, verbs_of
from anvyl_mcp.orchestrator.language.lexicon import any_of, words_of_language
from anvyl_mcp.orchestrator.language.normalize import plain, unmask
from anvyl_mcp.orchestrator.language.places import EVERY_HOST, HERE, name_pattern, named
from anvyl_mcp.orchestrator.language.questions import Query, Wants
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import (
    EMPTY,
    LEAD_IN,
    REFUSING,
    STANDS_FOR,
    STATES,
    is_name,
    meaning,
    meanings,
)
from anvyl_mcp.orchestrator.reader_thread import ReaderThread
from anvyl_mcp.orchestrator.rules import past, unknown_words
from anvyl_mcp.orchestrator.rules.orders.remarks import WHY, refused, turning_word
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.orders.words import WORD
from anvyl_mcp.orchestrator.rules.results import aggregate
from anvyl_mcp.orchestrator.rules.results.answers import Call
from anvyl_mcp.orchestrator.rules.tool_scores import HOSTS, LEAST, Fit, cues_of, fits, phrase_tool, shows, suits
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.hosts import registry

CLEARLY = 1.35
"""Minimum lead over the next score."""
OF_ITS_OWN = 0.9
"""Score of words matched by no other tool from which a second tool is called too."""
MOST_OBJECTS = 4
LAST_LINES = 20
_ASKED = words_of_language("en")["questions"]
BROKEN = re.compile(any_of(_ASKED["broken"]), re.IGNORECASE)
"""Questions about what is wrong, without a named object."""
TROUBLE = re.compile(any_of([*_ASKED["broken"], *_ASKED["wrong"]]), re.IGNORECASE)
"""Questions about what is wrong with an object, answered from its state and log."""
PLACING = re.compile(r"(?i)(?:on|at|across|from|in|for|of|everywhere|wherever)\b")


@dataclass
class Look:
    """Reading calls for one question. `exact`: it is a phrase of a tool; `ignored`: unread words."""

    calls: list[Call] = field(default_factory=list)
    exact: bool = False
    ignored: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """How it was understood, for the person."""


class Looks:
    """Reads questions. `strict`: to the last word, because a language model comes next."""

    def __init__(self, scene: Scene, quoted: Sequence[str], *, strict: bool) -> None:
        self._scene = scene
        self._quoted = quoted
        self._strict = strict
        self._tools = [one for one in scene.tools.values() if one.reads]
        self._host = ""
        self._words = unknown_words.Vocabulary(scene)

    async def read(self, masked: str) -> Look:
        """The calls of a question; empty if it is not understood.

        Raises:
            NotUnderstood: it asks for something else, and why.
            UnknownHost: an unknown host is named.
        """
        scene, places = self._scene, self._scene.places
        when = past.read(masked)
        for unknown in places.unknown_host(past.without_time(masked, when) if when else masked):
            if not await scene.has_object(unknown):
                raise registry.unknown_host_error(unknown, places.hosts)
        matches = [match[0] for match in places.pattern().finditer(masked)]
        said = [place for place in places.hosts_named(" ".join(matches)) if place != "all"] if matches else []
        if HERE.search(masked):
            said.append(places.local)
        every = next((one for one in EVERY_HOST.finditer(masked) if not one.start() or PLACING.match(one[0])), None)
        host = ",".join(dict.fromkeys(said)) or ("all" if every else "")
        rest = places.without(f"{masked[: every.start()]} {masked[every.end() :]}" if every else masked)
        greets_last = re.search(r"(?i)\b(?:of|for|from)\s+(?:hello|hi|hey)\W*$", rest)  # it may be a name
        if greets_last or not self._words.all_known(rest) or unknown_words.begins_like_an_order(masked):
            await scene.look_up("container")
        unknown_words.check_order(masked, self._words)
        self._host = host
        names = self._named(rest)
        if when and when.wants != "logs":
            looked, rest = self._recorded(when, masked, rest, host, names)
        elif when:
            looked = await self._scored(masked, rest, host, names)
            rest = self._reach_back(when, rest, looked.calls)
            looked.remarks += [when.remark] if when.remark else []
        else:
            looked = await self._query(rest, host, names) or await self._scored(masked, rest, host, names)
        if not looked.calls:
            return looked
        if not when and not names and (subject := self._words.unknown_subject(masked, looked.calls)):
            raise NotUnderstood(
                f"nothing is named `{subject}` on these hosts", hint="list all containers: anvyl ps --all"
            )
        looked.ignored = self._unread(rest, looked.calls, names)
        looked.exact = looked.exact and not looked.ignored
        if names and looked.ignored and (word := self._orders_somebody(masked)):
            raise refused(word, WHY["quotation"])
        if unmet := [word for word in looked.ignored if word.lower() in unknown_words.UNMET]:
            raise NotUnderstood(
                f"no tool here says anything about `{unmet[0]}`", hint="see what can be asked: anvyl tools"
            )
        return Look() if self._strict and looked.ignored else looked

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
        found = sorted(
            {one.name for one in objects if named(rest, one.name) and (is_name(one.name) or one.name in rest)}
        )
        if found or not objects:
            exact = [name for name in found if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", rest)]
            lower = {name.lower() for name in exact}
            found = [name for name in found if name in exact or name.lower() not in lower]
            return sorted(found, key=lambda name: rest.lower().find(name.lower()))
        ours = {word for tool in self._tools for cue in cues_of(tool) for word in cue}
        words = [
            word
            for word in re.findall(r"[a-z][\w.-]*", rest.lower())
            if len(word) > 2 and word not in EMPTY and word not in STANDS_FOR and stem(word) not in ours
        ]
        return sorted({one.name for one in resolve.best_matches(words, objects)})

    @staticmethod
    def _reach_back(when: past.Past, rest: str, calls: Sequence[Call]) -> str:
        """Extend `since` of the calls to the time that a question is about; its words without those of the time."""
        reaching = [call for call in calls if "since" in call.listing.arguments]
        if not reaching:
            raise past.only_now(when.words)
        for call in reaching:
            call.arguments["since"] = call.arguments.get("since") or f"{when.hours}h"
        return past.without_time(rest, when)

    def _recorded(self, when: past.Past, masked: str, rest: str, host: str, names: Sequence[str]) -> tuple[Look, str]:
        """A question about the past, and its words without those of the time."""
        said, rest = rest, past.without_words(rest, when)
        listing = when.tool(self._tools)
        if not names or when.removal:  # it may be gone, and is called as it was
            calls = [self._call(listing, when.arguments(listing, ""), host)]
            unknown = [word for word in self._unread(rest, calls, ()) if is_name(word) and past.may_name(word, masked)]
            names = names if len(unknown) != 1 or unknown[0] in names else unknown
        if not names and not when.trend and (pronoun := re.search(r"(?i)\b(?:its?|they|them|their)\b", said)):
            raise NotUnderstood(f"it is not clear what `{pronoun[0]}` is", hint="name it: peak memory of web this week")
        calls = [self._call(listing, when.arguments(listing, name), host) for name in names or [""]]
        if when.why and when.wants == "events" and not (when.deed and when.words):
            # The history says why it ended; what else went wrong is in its log.
            more = [one for one in self._tools if one.toolset == "containers" and "tail" in one.arguments]
            calls += [self._call(one, {"name": name, "tail": LAST_LINES}, host) for one in more for name in names]
        return Look(calls, exact=True, remarks=[when.remark] if when.remark else []), rest

    async def _query(self, rest: str, host: str, names: Sequence[str]) -> Look | None:
        """A question that is worked out from results: the most of something, where, why."""
        asked = plain(" ".join(rest.split()), asks=True)
        query = questions.read(asked)
        if query is None or (REFUSING.search(asked) and query.wants not in (Wants.WHY, Wants.TROUBLE)):
            return None
        if query.wants is Wants.WHY:
            return self._why(query, host)
        subject = names[0] if query.wants is Wants.AMOUNT and len(names) == 1 else ""
        if query.wants is Wants.AMOUNT and len(names) > 1:
            return None
        fitting = [
            one for one in self._tools if not one.required or (subject and list(one.required) == list(one.names))
        ]
        fitting = [one for one in fitting if bool(subject) <= bool(one.names)]
        listing = aggregate.chosen(query, fitting, of_one=bool(subject))
        if listing is None:
            return None
        values = self._implied(listing, query)
        if subject:
            values[next(iter(listing.names))] = subject
        return Look([self._call(listing, values, host)], exact=True)

    def _implied(self, listing: ToolListing, query: Query) -> dict[str, Any]:
        """Arguments that a question implies: sort order, and including stopped containers."""
        values: dict[str, Any] = {}
        for name, schema in listing.arguments.items():
            if said := [choice for choice in schema.get("enum", ()) if meaning(choice) in query.words]:
                values[name] = said[0]
        if "all" in listing.arguments and query.wants in (Wants.WHERE, Wants.TROUBLE):
            values["all"] = True
        return values

    def _why(self, query: Query, host: str) -> Look | None:
        """All reads about one object, if it exists."""
        said = set(query.subject.split()) & set(self._scene.names())
        reading = [
            one
            for one in self._tools
            if one.required and list(one.required) == list(one.names) and one.toolset == "containers"
        ]
        if len(said) != 1:
            return None
        subject = said.pop()
        calls = [
            self._call(
                one, {one.required[0]: subject} | ({"tail": LAST_LINES} if "tail" in one.arguments else {}), host
            )
            for one in reading
        ]
        return Look(calls, exact=True)

    def _call(self, listing: ToolListing, values: Mapping[str, Any], host: str) -> Call:
        place = {"host": host} if host and listing.toolset != "fleet" else {}
        return Call(listing, {**values, **place})

    async def _scored(self, masked: str, rest: str, host: str, names: list[str]) -> Look:
        """The tools with the best score for the words."""
        tools = self._tools
        # A name is no word of a tool: `logs of worker` is not about the workers of a swarm.
        unnamed = rest
        for name in names:
            if found_name := name_pattern(name):
                unnamed = found_name.sub(" ", unnamed)
        weighed = partial(fits, unnamed, tools, of_hosts=bool(host) or bool(HOSTS.search(masked)), named=bool(names))
        found = await ReaderThread().run(weighed)
        suited = [
            replace(fit, weight=fit.weight * suits(fit.listing, names) + shows(fit.listing, names, rest))
            for fit in found
        ]
        phrase = phrase_tool(rest, tools, names, self._quoted)
        chosen = [phrase] if phrase else self._chosen(sorted(suited, key=lambda fit: -fit.weight), rest, names)
        if (
            not names
            and BROKEN.search(masked)
            and not phrase
            and (not chosen or chosen[0].required or aggregate.listed(chosen[0]) == "container")
        ):
            chosen, names = await self._troubled(host)
        calls = []
        for listing in chosen:
            _, values = take_options(plain(" ".join(rest.split()), asks=True), listing.arguments, self._quoted)
            if phrase is None:
                values.pop("grep", None)
            calls += [self._call(listing, given, host) for given in self._about(listing, values, names, rest)]
        return Look(calls, exact=phrase is not None)

    async def _troubled(self, host: str) -> tuple[list[ToolListing], list[str]]:
        """For `what is wrong`: the list, and the logs of unhealthy containers."""
        await self._scene.look_up("container")
        objects = self._scene.of("container", self._scene.select(host) if host else ())
        names = sorted({one.name for one in objects if aggregate.complaint(one.row)})[:MOST_OBJECTS]
        lists = [one for one in self._tools if aggregate.listed(one) == "container" and "all" in one.arguments]
        logs = [one for one in self._tools if one.required and "tail" in one.arguments and one.toolset == "containers"]
        return lists + (logs if names else []), names

    def _chosen(self, fits: Sequence[Fit], rest: str, names: Sequence[str]) -> list[ToolListing]:
        best = fits[0] if fits else None
        of_one = [
            fit.listing
            for fit in fits
            if fit.listing.required
            and set(fit.listing.names) == set(fit.listing.required)
            and fit.listing.toolset == "containers"
        ]
        if names and TROUBLE.search(rest) and len(names) <= MOST_OBJECTS:
            return of_one
        if best is None or best.weight < LEAST:
            did = re.match(r"(?i)\W*(?:did|has|does)\s+(?:(?:the|my|our)\s+)?(?P<who>[\w.-]+)", rest)
            if names and not self._strict and did and any(named(did["who"], name) for name in names):
                # What it did is in its log, if anywhere.
                return [one for one in of_one if "tail" in one.arguments]
            if not names and self._host and len(rest.split()) < 4 and unknown_words.only_names(rest, ()):
                return [one for one in self._tools if "host info" in one.say]
            # What is only named is shown.
            shows = names and not self._strict and len(names) <= MOST_OBJECTS and unknown_words.only_names(rest, names)
            return [one for one in of_one if "tail" not in one.arguments][:1] if shows else []
        second = fits[1] if len(fits) > 1 else None
        if second and second.weight * CLEARLY > best.weight:
            apart = [fit for fit in (best, second) if fit.weight >= OF_ITS_OWN and fit.words]
            if len(apart) == 2 and not apart[0].words & apart[1].words and not names:
                return [fit.listing for fit in apart]
            if self._strict:
                return []
        return [best.listing]

    def _about(
        self, listing: ToolListing, values: Mapping[str, Any], names: Sequence[str], said: str
    ) -> list[dict[str, Any]]:
        """Arguments of each call: one per named object, if the tool takes one."""
        wanted = values.get("name")
        values = {name: value for name, value in values.items() if name not in ("name",)}
        states = {word for word in meanings(said) if word in STATES}
        if "all" in listing.arguments and (names or (ALSO_STOPPED.search(said) and states != {"running"})):
            values["all"] = True
        if "tail" in listing.arguments and "tail" not in values and TROUBLE.search(said):
            values["tail"] = LAST_LINES
        for name, schema in listing.arguments.items():
            if spoken := [choice for choice in schema.get("enum", ()) if stem(choice) in stems(said)]:
                values[name] = spoken[0]
        argument = next(iter(listing.names), "name" if "name" in listing.arguments else "")
        if listing.names.get(argument) == "stack":
            members = [one for one in self._scene.of("container") if one.name in names]
            names = sorted({stack for one in members if (stack := str(one.row.get("stack") or ""))})
        if not listing.required and not any(named(said, name) for name in names) and len(names) > 1:
            argument = ""
        if argument and wanted and not names and not listing.required:
            return [{**values, argument: unmask(str(wanted), self._quoted)}]
        if not argument or not names:
            return [] if listing.required and not names else [values]
        return [{**values, argument: name} for name in names[:MOST_OBJECTS]]

    def _unread(self, rest: str, calls: Sequence[Call], names: Sequence[str]) -> list[str]:
        """Content words that neither the tools, nor the names, nor the options account for."""
        taken = {word.lower() for call in calls for value in call.arguments.values() for word in _parts(str(value))}
        taken |= {part for name in names for part in _parts(name)}
        cues = {word for call in calls for cue in cues_of(call.listing) for word in cue}
        lead = LEAD_IN.match(rest.lstrip())
        said = rest.lstrip()[lead.end() if lead else 0 :]
        words = [one[0].strip(".:/'-") for one in WORD.finditer(re.sub(r"(?<=\w)'s\b", " ", said))]
        found = [
            word
            for word in words
            if word
            and word.lower() not in taken
            and stem(word) not in cues
            and not self._words.is_ordinary(word.lower())
            and not any(part in taken for part in _parts(word.lower()))
            and not resolve.best_matches(
                [word.lower()], [one for one in self._scene.of("container") if one.name in names]
            )
        ]
        return list(dict.fromkeys(unmask(word, self._quoted) for word in found))


def _parts(value: str) -> list[str]:
    return [one for one in {value.lower(), *re.split(r"[\s,:/_.-]+", value.lower())} if one]
