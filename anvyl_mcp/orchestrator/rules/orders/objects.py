"""The objects of an order: named, of a kind, with something in common, or those of an order before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anvyl_mcp.core.errors import AnvylError, NothingToDo, NotUnderstood
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.orchestrator.language.grounding import IMAGE
from anvyl_mcp.orchestrator.language.normalize import unmask
from anvyl_mcp.orchestrator.language.places import named
from anvyl_mcp.orchestrator.language.vocabulary import (
    COUNTED,
    FILLERS,
    MARK,
    NAME,
    NO_NAMES,
    STATES,
    either,
    is_name,
    kinds_said,
)
from anvyl_mcp.orchestrator.rules.orders import remarks, selection
from anvyl_mcp.orchestrator.rules.orders.order_hosts import OrderHosts
from anvyl_mcp.orchestrator.rules.orders.parts import (
    BEFORE,
    IN_THESE_WORDS,
    IT,
    LITERALLY,
    NEARLY,
    POWER,
    THEM,
    Part,
    nothing_left,
    state_of,
    where_they_are,
)
from anvyl_mcp.orchestrator.rules.orders.selection import refused
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.peers.connection.listing import ToolListing
from anvyl_mcp.peers.fleet.targets import not_a_container_error, not_found_error

CALLED_ALL = re.compile(r"(?i)\bthe\s+container\s+(?:called\s+|named\s+)?(all|everything)\b")
"""One container with such a name, not all of them."""


def _same_letters(words: Sequence[str], name: str) -> bool:
    """Whether one of the words, or all together, are a name but for case and separators."""
    wanted = re.sub(r"[\W_]", "", name.lower())
    return any(re.sub(r"[\W_]", "", one.lower()) == wanted for one in (*words, "".join(words)))


class OrderObjects(OrderHosts):
    """Reads the existing objects that an order names."""

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
        if kind == "container" and not names and (called := CALLED_ALL.search(part.text)):
            raise not_found_error(kind, called[1], [one.name for one in objects])
        if made and not names and IT.search(words.left):
            return [{argument: made}], LITERALLY
        if not names and kind == "stack" and not scene.may_name(kind, context):
            return [], 0  # without the word, only a name shows that it is a stack
        every = selection.is_about_all(words, kind)
        if names and len(listing.names) == 1:
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
                return where_they_are(found, argument), IN_THESE_WORDS
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
        if remarks.turning_word(left.left)[0]:
            return [], 0
        rest = [word for word in left.rest if is_name(word) and word.lower() not in resolve.NO_OBJECT | NO_NAMES]
        if not rest and selector and verb in POWER and kind == "container" and not left.rest:
            raise not_a_container_error(verb, selector if selector in self._scene.places.hosts else "")
        word = rf"{MARK}|[\w./:@-]+" if set(listing.required) <= set(listing.names) else r"[\w./:@-]+"
        if kind == "container" and not all(re.fullmatch(word, one) for one in rest):
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
            raise NotUnderstood(
                f"what is removed must be named exactly, not as `{' '.join(rest)}`", hint=f"say `{exact}`"
            )
        if len(like) == 1:
            matching = [word for word in rest if resolve.best_matches([word.lower()], near)]
            if not _same_letters(matching, like[0]):
                if all(resolve.only_by_spelling(word.lower(), near) for word in matching):
                    raise self._no_match(kind, matching[0], objects, listing)
                self._limits.doubts.append(f"read `{' '.join(matching)}` as `{like[0]}`")
            words.take_words({word.lower() for word in matching}, "name")
            return [{argument: like[0]}], NEARLY
        if len(like) > 1 and len(rest) == 1:
            raise resolve.ambiguity_error(kind, rest[0], near)
        if len(rest) == 1 and kind == "container" and not like:
            raise self._no_match(kind, unmask(rest[0], self._quoted), objects, listing)
        return [], 0

    def _no_match(self, kind: str, wanted: str, objects: Sequence[FleetObject], listing: ToolListing) -> AnvylError:
        hosts = self._scene.places.hosts
        return resolve.no_match_error(kind, wanted, objects, self._scene.silent, hosts=hosts, tool=listing.name)

    def _states_that_hold(self, words: Words, objects: Sequence[FleetObject], names: Sequence[str]) -> set[str]:
        """Read a state next to a name if the object is in it: `the stopped web container`."""
        trial = Words(words.left)
        states = selection.take_states(trial)
        used = [one for one in objects if one.name in names]
        if states and all(states & resolve.states_of(one) for one in used):
            words.left = trial.left
            return states
        return set()

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
                else nothing_left(listing, names, what, objects)
            )
        self._decide(filters, conditions, kept)
        return where_they_are(kept, argument)

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
            fitting = [
                one for one in self._scene.of("container") if one.name in about and (not where or one.host in where)
            ]
            if not fitting or len({one.host for one in fitting}) > 1:
                raise refused(condition.words, "it is not clear which one")
            if not condition.holds(fitting[0]):
                state = fitting[0].row.get("state")
                raise NothingToDo(f"Nothing to do: {fitting[0].name} is {state} on {fitting[0].host}")
            said = f"{fitting[0].name} is {fitting[0].row.get('state')} on {fitting[0].host}"
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
            held = sorted({f"{one.name} is {state_of(one, condition.states)} on {one.host}" for one in kept})
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
        groups = selection.group_words(trial)
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
            state = " and ".join(sorted(states & STATES.keys())) or (
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
        refers = (
            several
            or IT.search(words.left)
            or re.search(rf"(?i)\b(?:the|its)\s+(?:{either(kinds_said(kind))})\b", words.left)
        )
        earlier = [name for name in spoken if name in known and refers]
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
