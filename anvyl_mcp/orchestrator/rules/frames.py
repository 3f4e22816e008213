"""A frame: one order read for one tool, with its objects, values and hosts, and the words that nobody read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anvyl_mcp.core.errors import NotUnderstood
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.orchestrator.language import phrases
from anvyl_mcp.orchestrator.language.argument_phrases import take_options
from anvyl_mcp.orchestrator.language.grounding import IMAGE, images_in
from anvyl_mcp.orchestrator.language.intent import forms_of, verbs_of, words_after
from anvyl_mcp.orchestrator.language.normalize import unmask
from anvyl_mcp.orchestrator.language.places import BOTH_HOSTS, EVERY_HOST, HERE, named
from anvyl_mcp.orchestrator.language.stemming import stem, stems
from anvyl_mcp.orchestrator.language.vocabulary import (
    COUNTED,
    FILLERS,
    FREE_TEXT,
    KINDS,
    LEAD_IN,
    MARK,
    NAME,
    either,
    is_name,
    kinds_said,
    meaning,
)
from anvyl_mcp.orchestrator.rules import remarks, selection
from anvyl_mcp.orchestrator.rules.scene import Scene
from anvyl_mcp.orchestrator.rules.selection import Limits, refused
from anvyl_mcp.orchestrator.rules.words import Words
from anvyl_mcp.peers.changes.change_plan import ChangePlan  # noqa: F401
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.targets import not_a_container_error, not_found_error

CALLED = re.compile(
    rf"(?i)\b(?:called|named|(?:name|call)\s+(?:it|that|this)|by\s+the\s+name(?:\s+of)?|as)\s+(?:as\s+)?(?P<name>{NAME})"
)
IT = re.compile(r"(?i)\b(?:it|that|there|its)\b")
THEM = re.compile(r"(?i)\b(?:them|they|these|those|both|all)\b")
LITERALLY, IN_THESE_WORDS, NEARLY, BEFORE = 3.0, 2.0, 1.0, 0.5
"""Score of a match: by exact name, in these words, by similar name, or from earlier words."""
IMAGE_VERBS = frozenset({"run", "pull"})
POWER = frozenset({"start", "stop", "restart"})


@dataclass
class Part:
    """Words of one order. `before`: words since the previous order; `after`: words of the next one."""

    verbs: frozenset[str]
    text: str
    before: str = ""
    after: str = ""


@dataclass
class Frame:
    """One order read for one tool. `left`: words that nobody read; `unread`: the text with all others blanked out."""

    listing: ToolListing
    calls: list[dict[str, Any]]
    weight: float
    left: list[str] = field(default_factory=list)
    unread: str = ""
    ignored: list[str] = field(default_factory=list)
    host: str = ""


class Framer:
    """Reads orders for tools, and remembers what earlier orders of the same text were about."""

    def __init__(self, scene: Scene, quoted: Sequence[str], limits: Limits, *, included: bool) -> None:
        self._scene = scene
        self._quoted = quoted
        self._limits = limits
        self._included = included
        self._made: dict[str, str] = {}
        self._last: list[str] = []
        self._so_far: list[str] = []
        self._places = ""
        self._host = ""
        self.means_all = False

    @property
    def names_ordered(self) -> list[str]:
        """Objects of all orders so far."""
        return self._so_far

    def remember(self, frame: Frame, part: Part) -> None:
        """Keep what an order was about, for `it` and `there`."""
        listing = frame.listing
        self._last = [str(call[name]) for call in frame.calls for name in listing.names if name in call]
        self._so_far += self._last
        self._host = frame.host or self._host
        if not listing.names and (name := frame.calls[0].get("name")):
            self._made[_noun(listing)] = str(name)

    def bound(self, words: str) -> str:
        """A question between orders, with `it` replaced by the last objects, and their host."""
        names = self._last or [name for name in self._made.values()]
        from anvyl_mcp.orchestrator.language.normalize import named as with_names

        resolved = with_names(words, names)
        host = self._host if resolved != words and not self.places_in(words) else ""
        return f"{resolved} on {host.replace(',', ' and ')}" if host else resolved

    def places_in(self, words: str) -> str:
        """Selector of the hosts that words name."""
        return self._take_hosts(Words(words))[0]

    def set_places(self, words: str) -> None:
        """Hosts for all orders, named apart from them: `both on gpu`."""
        self._places = self._places or self.places_in(words)

    def only_places(self, words: str) -> bool:
        """Whether a clause names nothing but hosts."""
        return bool(self.places_in(words)) and not self.unread(words)

    def unread(self, words: str) -> list[str]:
        """Words that are no host, name, kind or filler."""
        found = Words(words)
        self._take_hosts(found)
        for kind, objects in self._scene.objects.items():
            selection.literal_names(found, objects, kind)
        found.take(IMAGE, "image")
        found.take_words(
            FILLERS | COUNTED.keys() | {"all"} | {noun for kind in KINDS for noun in kinds_said(kind)}, "filler"
        )
        return [word for word in found.rest if not re.fullmatch(MARK, word)]

    def says_noun(self, listing: ToolListing, part: Part) -> bool:
        """Whether the words name the kind that a tool changes."""
        return stem(_noun(listing)) in stems(part.text)

    def only_leads_in(self, part: Part) -> bool:
        """Whether the words only introduce orders, like `please tidy up:`."""
        tools = [one for one in self._scene.tools.values() if not one.reads and part.verbs & verbs_of(one)]
        choosing = all(any("enum" in one.arguments[name] for name in one.required) for one in tools)
        if not part.after or not choosing:
            return False
        words = Words(part.text)
        self._take_verbs(words, part.verbs)
        self._host = self._take_hosts(words)[0] or self._host
        words.take_words(FILLERS | {"some", "disk", "space", "room"}, "filler")
        return not words.rest

    def example(self, verbs: Iterable[str]) -> str:
        """Hint with a phrase of a tool with one of these verbs."""
        tools = [one for one in self._scene.tools.values() if not one.reads and set(verbs) & verbs_of(one)]
        return phrases.examples(tools or self._scene.tools.values(), " ".join(verbs))

    def frame(self, listing: ToolListing, part: Part) -> Frame | None:
        """Read an order for one tool; None if an argument is missing.

        Raises:
            AnvylError: what it names does not exist or is ambiguous, or there is nothing to do.
        """
        names = [name for kind in self._scene.objects for name in self._scene.names(kind)]
        text, why = remarks.without_reason(part.text, [*names, *images_in(part.text)])
        words = Words(text)
        if lead := LEAD_IN.match(words.left.lstrip()):
            start = len(words.left) - len(words.left.lstrip())
            words.take_span(start, start + lead.end(), "polite")
        says_noun = self.says_noun(listing, part)
        self._take_verbs(words, part.verbs & verbs_of(listing))
        for kind in listing.names.values():
            self._mask_object_called_like_a_host(words, kind)
        selector, having, both = self._take_hosts(words)
        options = self._take_options(listing, words)
        weight = IN_THESE_WORDS * says_noun
        calls: list[dict[str, Any]] = [{}]
        for argument in listing.required:
            if argument in listing.names:
                found, plainly = self._objects(listing, argument, part, words, selector, having=having)
            else:
                found, plainly = self._value(listing, argument, part, words, says_noun=says_noun)
            if not found or (len(found) > 1 and len(listing.names) > 1):
                return None
            weight += plainly
            calls = [{**call, **one} for call in calls for one in found]
        calls = [{**options, **call} for call in calls]
        calls, host = self._placed(listing, calls, part, selector, having=having, both=both)
        self._check_number(words, calls)
        left, unread = self._left(listing, words, part.verbs, why)
        weight += sum(len(verb) for verb in words.by("verb")) / 100
        return Frame(listing, calls, weight, left, unread, why, host)

    def _take_verbs(self, words: Words, verbs: Iterable[str]) -> None:
        lower = [(verb, forms_of(verb)) for verb in sorted(verbs)]
        found = False
        for _, (imperative, _) in lower:
            found = bool(words.take(re.compile(imperative.pattern, re.IGNORECASE), "verb")) or found
        for _, (_, passive) in lower if not found else ():
            words.take(
                re.compile(
                    rf"(?:\b(?:should|must|can|could|needs?\s+to|ha(?:s|ve)\s+to|want|like|need|have|get|to)\s+)?(?:\bbe\s+)?{passive.pattern}",
                    re.IGNORECASE,
                ),
                "verb",
            )
            words.take_words(
                {"need", "want", "should", "must", "can", "could", "be", "needs", "i", "we", "like"}, "verb"
            )

    def _mask_object_called_like_a_host(self, words: Words, kind: str) -> None:
        """`the container nas` is no host."""
        for host in self._scene.places.hosts:
            if host in self._scene.names(kind):
                noun = rf"(?:{either(kinds_said(kind))})"
                words.left = re.sub(
                    rf"(?i)\b({noun}\s+){re.escape(host)}(?![\w-])|(?<![\w-]){re.escape(host)}(\s+{noun})(?![\w-])",
                    lambda match: match[0].replace(host, host.upper()) if host.upper() != host else match[0],
                    words.left,
                )

    def _take_hosts(self, words: Words) -> tuple[str, bool, bool]:
        """Read the hosts: their selector, whether all that have it are meant, and whether exactly two are."""
        having = False
        if every := words.take(EVERY_HOST, "host"):
            having = any(
                match.groupdict().get("having") or match.groupdict().get("runs") or "where" in match[0]
                for match in every
            )
        both = bool(words.take(BOTH_HOSTS, "host"))
        upper = {host.upper() for host in self._scene.places.hosts}
        found = [
            match[0] for match in self._scene.places.pattern().finditer(words.left) if not set(match[0].split()) & upper
        ]
        for match in list(self._scene.places.pattern().finditer(words.left)):
            if not set(match[0].split()) & upper:
                words.take_span(match.start(), match.end(), "host")
        places = self._scene.places.hosts_named(" ".join(found)) if found else []
        places = [place for place in places if place != "all"]
        if words.take(HERE, "host"):
            places.append(self._scene.places.local)
        selector = ",".join(dict.fromkeys(places))
        if every and not selector and not having:
            selector = "all"
        return selector, having, both

    def _take_options(self, listing: ToolListing, words: Words) -> dict[str, Any]:
        """Read the options of a tool."""
        optional = {name: schema for name, schema in listing.arguments.items() if name not in listing.required}
        left, values = take_options(words.left, optional, self._quoted, listing.names)
        words.left = left
        values.pop("host", None)
        if "name" in optional and "name" not in values:
            for match in words.take(CALLED, "name"):
                values["name"] = unmask(match["name"], self._quoted)
        return values

    def _objects(
        self, listing: ToolListing, argument: str, part: Part, words: Words, selector: str, *, having: bool
    ) -> tuple[list[dict[str, Any]], float]:
        """Objects for an argument: the named ones, all of a kind, or those of an earlier order."""
        kind, scene = listing.names[argument], self._scene
        bare = kind in ("container", "stack")
        joins = len(listing.names) > 1
        context = f"{part.text} {part.before}"
        if not bare and not (scene.may_name(kind, context) or joins or kind in self._made):
            return [], 0
        made = self._made.get(kind, "")
        if made and named(words.left, made):
            words.take(re.compile(rf"(?i)(?<![\w-]){re.escape(made)}(?![\w-])"), "name")
            return [{argument: made}], LITERALLY
        hosts = scene.select(selector) if selector else ()
        objects = scene.of(kind)
        verb = listing.name.partition("_")[0]
        filters = selection.take_filters(words, scene, listing.arguments) if kind == "container" else []
        if selection.EVERYTHING_ELSE.search(words.left):
            if not self._limits.excepted:
                raise refused("else", "it is not clear what else")
            words.left = selection.EVERYTHING_ELSE.sub(lambda match: f"{'all':<{len(match[0])}}", words.left)
        names = self._literally(words, objects, kind)
        if names and selection.ONE_OF.search(words.left):
            raise resolve.ambiguity_error(kind, names[0], [one for one in objects if names[0] in one.name])
        if made and not names and IT.search(words.left):
            return [{argument: made}], LITERALLY
        every = selection.is_about_all(words, kind)
        if names and len(listing.names) == 1:
            if self._doubly_named(words, kind, names, objects):
                return [], 0
            words.take(re.compile(r"(?i)\b(?:both|all|every|each)\b"), "every") if every and len(names) > 0 else None
            states = selection.take_states(words) if filters or every else self._states_that_hold(words, objects, names)
            return self._narrowed(
                argument, names, objects, hosts, filters, states, listing, every=every or having
            ), LITERALLY
        if names:
            return [{argument: name} for name in names], LITERALLY
        if len(listing.names) == 1 and (every or filters or self._speaks_of_some(words, kind)):
            found = self._all(listing, kind, part, words, hosts, filters)
            if found:
                self.means_all = self.means_all or every
                return _where_they_are(found, argument), IN_THESE_WORDS
        if names := self._spoken_of(kind, part, words, objects):
            if self._limits.conditions and len(listing.names) == 1:
                return self._narrowed(argument, names, objects, hosts, filters, set(), listing, every=False), BEFORE
            return [{argument: name} for name in names], BEFORE
        return self._meant(listing, argument, kind, words, objects, selector, verb)

    def _meant(
        self,
        listing: ToolListing,
        argument: str,
        kind: str,
        words: Words,
        objects: Sequence[FleetObject],
        selector: str,
        verb: str,
    ) -> tuple[list[dict[str, Any]], float]:
        """The one object that words mean without its exact name: an image, a role, a typo.

        Raises:
            NotFound: they mean none.
        """
        left = Words(words.left)
        left.take_words((FILLERS | kinds_said(kind) | COUNTED.keys()) - resolve.ROLES.keys(), "filler")
        if turning := remarks.turning_word(left.left)[0]:
            return [], 0 if turning else 0
        rest = [
            word for word in left.rest if is_name(word) and word.lower() not in resolve.NO_OBJECT | selection.NO_NAMES
        ]
        if not rest and selector and verb in POWER and kind == "container" and not left.rest:
            raise not_a_container_error(verb, selector if selector in self._scene.places.hosts else "")
        if kind == "container" and [word for word in rest if not re.fullmatch(r"[\w./:@-]+", word)]:
            return [], 0
        hosts = self._scene.select(selector) if selector else ()
        near = resolve.best_matches(
            [word.lower() for word in rest], [one for one in objects if not hosts or one.host in hosts]
        )
        if not near and hosts:
            near = resolve.best_matches([word.lower() for word in rest], objects)
        like = sorted({one.name for one in near})
        if len(like) == 1 and listing.safety == "destroys":
            exact = f"{' '.join(listing.name.split('_')[:2])} {like[0]}".replace(" container ", " ")
            raise NotUnderstood(f"what is removed must be named exactly, not as `{' '.join(rest)}`", hint=f"say `{exact}`")
        if len(like) == 1:
            matching = [word for word in rest if resolve.best_matches([word.lower()], near)]
            words.take_words({word.lower() for word in matching}, "name")
            return [{argument: like[0]}], NEARLY
        if len(like) > 1 and len(rest) == 1:
            raise resolve.ambiguity_error(kind, rest[0], near)
        if len(rest) == 1 and kind == "container" and not like and not re.fullmatch(MARK, rest[0]):
            raise resolve.no_match_error(
                kind, rest[0], objects, self._scene.silent, hosts=self._scene.places.hosts, tool=listing.name
            )
        if len(rest) == 1 and re.fullmatch(MARK, rest[0]) and kind == "container" and listing.safety != "destroys":
            wanted = unmask(rest[0], self._quoted)
            raise resolve.no_match_error(
                kind, wanted, objects, self._scene.silent, hosts=self._scene.places.hosts, tool=listing.name
            )
        return [], 0

    def _states_that_hold(self, words: Words, objects: Sequence[FleetObject], names: Sequence[str]) -> set[str]:
        """Read a state beside a name if the object is in it: `the stopped web container`."""
        trial = Words(words.left)
        states = selection.take_states(trial)
        used = [one for one in objects if one.name in names]
        if states and all(states & resolve.states_of(one) for one in used):
            words.left = trial.left
            return states
        return set()

    def _doubly_named(self, words: Words, kind: str, names: Sequence[str], objects: Sequence[FleetObject]) -> bool:
        """Whether `the trainer image` names an image rather than the container `trainer`."""
        return False

    def _speaks_of_some(self, words: Words, kind: str) -> bool:
        """Whether words like `the unhealthy ones` choose objects by their state."""
        trial = Words(words.left)
        return bool(selection.take_states(trial)) and bool(
            re.search(rf"(?i)\b(?:ones?|{kind}s?|that|which)\b", words.left)
        )

    def _narrowed(
        self,
        argument: str,
        names: Sequence[str],
        objects: Sequence[FleetObject],
        hosts: Sequence[str],
        filters: Sequence[selection.Filter],
        states: set[str],
        listing: ToolListing,
        *,
        every: bool,
    ) -> list[dict[str, Any]]:
        """Calls for named objects, on the hosts where they are as they must be."""
        conditions = self._conditions(names)
        if not filters and not conditions and not states and not every:
            return [{argument: name} for name in names]
        kept = [
            one
            for one in objects
            if one.name in names
            and (not hosts or one.host in hosts)
            and all(test(one) for test, _ in filters)
            and all(condition.holds(one) for condition in conditions)
            and (not states or states & resolve.states_of(one))
        ]
        if not kept:
            what = " and ".join([*(said for _, said in filters), *(condition.words for condition in conditions)])
            raise (
                selection.nothing_to(listing.name.partition("_")[0], " and ".join(names), "", self._scene.places.hosts)
                if not what
                else _nothing(listing, names, what, objects)
            )
        self._decide(filters, conditions, kept)
        return _where_they_are(kept, argument)

    def _conditions(self, names: Sequence[str]) -> list[selection.Condition]:
        """Conditions on these objects; the others are checked at once.

        Raises:
            NotUnderstood: one is about something else that is not known.
            NothingToDo: one does not hold.
        """
        own = []
        for condition in self._limits.conditions:
            self._limits.used.add(condition.words)
            subject = Words(condition.subject)
            about = selection.literal_names(subject, self._scene.of("container"), "container")
            if not about and not re.search(r"(?i)\b(?:it|that|they|any\s+of\s+them)\b", condition.subject):
                words = [word for word in subject.rest if is_name(word)]
                about = sorted(
                    {
                        one.name
                        for one in resolve.best_matches([word.lower() for word in words], self._scene.of("container"))
                    }
                )
                if len(about) != 1:
                    raise refused(condition.words, remarks.WHY["condition"])
            if not about or set(about) <= set(names):
                own.append(condition)
                continue
            where = self._scene.places.hosts_named(condition.subject)
            meant = [
                one for one in self._scene.of("container") if one.name in about and (not where or one.host in where)
            ]
            if not meant or len({one.host for one in meant}) > 1:
                raise refused(condition.words, "it is not clear which one")
            if not condition.holds(meant[0]):
                state = meant[0].row.get("state")
                raise selection.NothingToDo(f"Nothing to do: {meant[0].name} is {state} on {meant[0].host}")
            said = f"{meant[0].name} is {meant[0].row.get('state')} on {meant[0].host}"
            if said not in self._limits.decided:
                self._limits.decided.append(said)
        return own

    def _decide(
        self,
        filters: Sequence[selection.Filter],
        conditions: Sequence[selection.Condition],
        kept: Sequence[FleetObject],
    ) -> None:
        """Record what was decided about the objects, for the person."""
        for condition in conditions:
            held = sorted({f"{one.name} is {' and '.join(sorted(condition.states & resolve.states_of(one))) or _state(one)} on {one.host}" for one in kept})
            self._limits.decided.append(f"{condition.words}: {', '.join(held)}")
        for _, said in filters:
            self._limits.decided.append(f"{said}: {', '.join(sorted({f'{one.name} on {one.host}' for one in kept}))}")

    def _all(
        self,
        listing: ToolListing,
        kind: str,
        part: Part,
        words: Words,
        hosts: Sequence[str],
        filters: Sequence[selection.Filter],
    ) -> list[FleetObject]:
        """All objects of a kind that the words mean, without the exceptions.

        Raises:
            NothingToDo: there is none.
            NotUnderstood: a host could not be asked, or everything would be removed.
        """
        scene, verb = self._scene, listing.name.partition("_")[0]
        where = list(hosts) or (scene.select(self._places) if self._places else list(scene.places.hosts))
        if silent := [host for host in where if host in scene.silent]:
            raise refused(part.text, f"{silent[0]} could not be asked ({scene.silent[silent[0]].message})")
        states = selection.take_states(words)
        words.take(selection.EVERYTHING, "every")
        words.take(selection.RELATIVE, "relative")
        words.take_words(kinds_said(kind) | {"them", "they"}, "kind")
        trial = Words(words.left)
        trial.take_words(FILLERS, "filler")
        if turning := remarks.turning_word(trial.left)[0]:
            raise refused(turning, remarks.WHY[remarks.turning_word(trial.left)[1]])
        groups = selection.group_words(trial, self._take_purpose(Words(trial.left)))
        found = [one for one in scene.of(kind, where) if not states or states & resolve.states_of(one)]
        found = [one for one in found if all(test(one) for test, _ in filters)]
        matched = [resolve.best_matches([word], found) for word in groups]
        if not all(matched):
            return []
        words.take_words(groups, "name")
        if matched:
            found = [one for one in found if any(one in group for group in matched)]
        elif not states and not filters and listing.safety == "destroys":
            raise refused(f"everything {part.text.strip()}"[:40], "what is removed must be named")
        conditions = self._conditions([one.name for one in found])
        found = [one for one in found if all(condition.holds(one) for condition in conditions)]
        before = found
        found = [one for one in found if not self._limits.leaves_out(one) and one.host not in self._limits.hosts]
        needed = selection.in_needed_state(
            verb, kind, found, states | ({"filtered"} if filters or conditions else set()), included=self._included
        )
        if not needed:
            state = " and ".join(sorted(states & selection.STATES.keys())) or (
                "" if filters or self._limits.excepted else "running" if verb == "stop" else ""
            )
            more = " ".join(said for _, said in filters)
            raise selection.nothing_to(verb, f"{kind}", f"{state} {more}", where)
        if self._limits.excepted or self._limits.hosts:
            spared = sorted({one.name for one in before if one not in found})
            self._limits.decided.append(
                f"without {', '.join(spared)}" if spared else f"without {', '.join(self._limits.hosts)}"
            )
        self._decide(filters, conditions, needed)
        return needed

    def _take_purpose(self, words: Words) -> list[str]:
        return words.rest[:0]

    def _spoken_of(self, kind: str, part: Part, words: Words, objects: Sequence[FleetObject]) -> list[str]:
        """Objects that `it`, `them` or a missing name refer to; empty if ambiguous."""

        def names_in(said: str) -> list[str]:
            text = Words(said)
            self._take_hosts(text)
            return self._literally(text, objects, kind)

        known = {one.name for one in objects}
        several = THEM.search(words.left)
        spoken = self._so_far if several else self._last
        spoken = spoken or [name for one in self._limits.conditions for name in names_in(one.subject)]
        earlier = [name for name in spoken if name in known]
        names = list(dict.fromkeys([*earlier, *names_in(part.before)]))
        rest = Words(words.left)
        rest.take_words(FILLERS | kinds_said(kind), "filler")
        if not names and not rest.rest and not IT.search(words.left):
            names = names_in(part.after)
        if rest.rest and not several and [word for word in rest.rest if word.lower() not in THEM.pattern]:
            return []
        if several:
            words.take(THEM, "pronoun")
        return names if several or len(names) == 1 else []

    def _literally(self, words: Words, objects: Sequence[FleetObject], kind: str) -> list[str]:
        """Read the names of existing objects, without those in the name of an image."""
        if kind == "image":
            return selection.literal_names(words, objects, kind)
        images = [*IMAGE.finditer(words.left), *re.finditer(rf"(?i){NAME}\s+images?(?:'s)?\b", words.left)]
        kept = words.left
        for match in images:
            words.left = words.left[: match.start()] + " " * len(match[0]) + words.left[match.end() :]
        names = selection.literal_names(words, objects, kind)
        for match in images:
            words.left = words.left[: match.start()] + kept[match.start() : match.end()] + words.left[match.end() :]
        return names

    def _value(
        self, listing: ToolListing, argument: str, part: Part, words: Words, *, says_noun: bool
    ) -> tuple[list[dict[str, Any]], float]:
        """Value that is not an existing object: an image, a new name, a choice, a quoted command."""
        choices = listing.arguments[argument].get("enum", ())
        if argument == "image":
            return self._image(argument, part, words, says_noun=says_noun)
        if choices:
            asked = says_noun or meaning(listing.name.partition("_")[0]) in part.verbs
            said = [one for one in choices if set(stems(one.replace("_", " "))) <= set(stems(words.left))]
            if asked and said:
                words.left = re.sub(
                    rf"(?i)\b(?:(?:unused|dangling|old|some|disk)\s+)*{re.escape(said[0]).replace('_', '[ _-]+')}s?\b",
                    lambda match: " " * len(match[0]),
                    words.left,
                )
                words.take_words(stems(said[0].replace("_", " ")), "choice")
            return ([{argument: said[0]}], NEARLY) if asked and said else ([], 0)
        if argument in FREE_TEXT:
            quoted = re.findall(MARK, words.left)
            if len(quoted) != 1:
                return [], 0
            words.take(quoted[0], "command")
            words.take_words({"command", "inside", "within"}, "command")
            return [{argument: unmask(quoted[0], self._quoted)}], 0
        if argument == "name" and says_noun:
            for pattern in (CALLED, re.compile(rf"(?i)\b{_noun(listing)}\s+(?P<name>{NAME})")):
                if (match := pattern.search(words.left)) and is_name(match["name"]):
                    words.take_span(*match.span("name"), "name")
                    words.take_words({"called", "named", "name", "call"}, "name")
                    return [{argument: unmask(match["name"], self._quoted)}], NEARLY
        return [], 0

    def _image(self, argument: str, part: Part, words: Words, *, says_noun: bool) -> tuple[list[dict[str, Any]], float]:
        said = images_in(words.left) or (images_in(part.before) if IT.search(words.left) else [])
        if said:
            words.take(re.compile(re.escape(said[0])), "image")
            return ([{argument: said[0]}], IN_THESE_WORDS) if len(said) == 1 else ([], 0)
        verbs = part.verbs & (IMAGE_VERBS | (part.verbs if says_noun else frozenset()))
        lower = Words(part.text)
        self._take_hosts(lower)
        bare = [
            word
            for word in words_after(re.sub(r"(?i)\b(?:image|container|from|of)\b", " ", lower.left), verbs)[:1]
            if is_name(word)
        ]
        if (
            (match := re.search(rf"(?i)\b(?:image|from(?:\s+image)?)\s+(?:the\s+)?(?P<image>{NAME})", words.left))
            and is_name(match["image"])
        ) or (
            not bare
            and (match := re.search(rf"(?i)(?P<image>{NAME})\s+(?:as|container)\b", part.text))
            and is_name(match["image"])
        ):
            bare = [match["image"]]
        if not bare or (set(bare) & set(self._scene.names())):
            return [], 0
        words.take_words({bare[0].lower()}, "image")
        return [{argument: unmask(bare[0], self._quoted)}], BEFORE

    def _placed(
        self, listing: ToolListing, calls: list[dict[str, Any]], part: Part, selector: str, *, having: bool, both: bool
    ) -> tuple[list[dict[str, Any]], str]:
        """Calls with their hosts, from these words or earlier ones.

        Raises:
            NotFound: an object is not on the named host.
            NotUnderstood: `both hosts` are not two.
        """
        context = (
            part.text
            if any(named(part.text, str(call.get(name))) for call in calls for name in listing.names)
            else part.before
        )
        if re.search(r"(?i)\bthere\b", part.text):
            context = part.before
        host = selector or self.places_in(context) or self._places
        inherited = "" if host else self._host
        for call in calls:
            names = [(kind, str(call[name])) for name, kind in listing.names.items() if name in call]
            where = [{one.host for one in self._scene.of(kind) if one.name == name} for kind, name in names]
            common = set.intersection(*where) if where else set()
            if self._limits.hosts and "host" not in call:
                wanted = set(self._scene.select(selector or "all")) - set(self._limits.hosts)
                wanted &= common if names else wanted
                if not wanted:
                    raise refused(", ".join(self._limits.hosts), "nothing is left without it")
                call["host"] = ",".join(one for one in self._scene.places.hosts if one in wanted)
                self._limits.decided.append(f"without {', '.join(self._limits.hosts)}")
            if (having or both) and "host" not in call:
                if not common or (both and len(common) != 2):
                    raise refused("both" if both else "that have it", "the hosts are not clear")
                call["host"] = ",".join(one for one in self._scene.places.hosts if one in common)
            if "host" in call:
                continue
            if host:
                self._check_there(names, host)
                call["host"] = host
            elif inherited and (
                not names
                or common >= set(self._scene.select(inherited))
                or any(name in self._made.values() for _, name in names)
            ):
                call["host"] = inherited
        hosts = {str(call.get("host", "")) for call in calls}
        return calls, host or (hosts.pop() if len(hosts) == 1 else "")

    def _check_there(self, names: Sequence[tuple[str, str]], host: str) -> None:
        if host == "all":
            return
        hosts = self._scene.select(host)
        for kind, name in names:
            having = {one.host for one in self._scene.of(kind) if one.name == name}
            missing = [one for one in hosts if one not in having and one not in self._scene.silent]
            if having and missing and name != self._made.get(kind):
                known = [one.name for one in self._scene.of(kind, [missing[0]])]
                raise not_found_error(kind, name, known, where=missing[0])

    def _check_number(self, words: Words, calls: Sequence[Mapping[str, Any]]) -> None:
        """Read a number of objects if it is right."""
        spread = sum(len(str(call.get("host", "-")).split(",")) for call in calls)
        for match in list(re.finditer(r"(?i)(?<![\w.:-])(?:both|two|three|four|five|[2-5])(?![\w.:-])", words.left)):
            if COUNTED[match[0].lower()] in {len(calls), spread}:
                words.take_span(match.start(), match.end(), "number")

    def _left(self, listing: ToolListing, words: Words, verbs: Iterable[str], why: list[str]) -> tuple[list[str], str]:
        """Words of an order that nobody read, and the text with all others blanked out."""
        kinds = {*listing.names.values(), *listing.required, _noun(listing)}
        used = {noun for kind in kinds for noun in kinds_said(kind)}
        words.left = re.sub(r"(?i)(?<=\w)'s\b|(?<!\w)'s\b", lambda match: " " * len(match[0]), words.left)
        words.left = remarks.HARMLESS.sub(lambda match: " " * len(match[0]), words.left)
        trial = Words(words.left)
        trial.take_words(FILLERS | used, "filler")
        if (
            trial.rest
            and (purpose := remarks.purpose_in(words.left))
            and not remarks.name_said(
                purpose[0], [name for kind in self._scene.objects for name in self._scene.names(kind)]
            )
        ):
            said = words.said[purpose.start() : purpose.end()].strip(" .!")
            why.append(said)
            words.take_span(purpose.start(), purpose.end(), "purpose")
            trial = Words(words.left)
            trial.take_words(FILLERS | used, "filler")
        for adverb in re.finditer(r"(?i)\b[a-z]{3,}ly\b", trial.left):
            if adverb[0].lower() not in ("only", "early", "daily", "weekly", "monthly", "hourly", "nightly", "yearly"):
                trial.take_span(adverb.start(), adverb.end(), "manner")
                why.append(adverb[0])
        return trial.rest, trial.left


def _noun(listing: ToolListing) -> str:
    return listing.name.rpartition("_")[2]


def _state(one: FleetObject) -> str:
    return str(one.row.get("state") or "there")


def _nothing(
    listing: ToolListing, names: Sequence[str], what: str, objects: Sequence[FleetObject]
) -> selection.NothingToDo:
    now = sorted({f"{one.name} is {_state(one)} on {one.host}" for one in objects if one.name in names})
    return selection.NothingToDo(f"Nothing to {listing.name.partition('_')[0]} ({what}): {' and '.join(now)}")


def _where_they_are(found: Sequence[FleetObject], argument: str) -> list[dict[str, Any]]:
    """One call per name, on the hosts where it was found."""
    by_name: dict[str, list[str]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one.host)
    return [{argument: name, "host": ",".join(dict.fromkeys(hosts))} for name, hosts in by_name.items()]
