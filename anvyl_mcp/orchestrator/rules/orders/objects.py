"""The objects of an order: named, of a kind, with something in common, or those of an order before it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import NothingToDo, NotUnderstood
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.orchestrator.language.grounding import IMAGE
from anvyl_mcp.orchestrator.language.normalize import unmask
from anvyl_mcp.orchestrator.language.places import name_pattern
from anvyl_mcp.orchestrator.language.vocabulary import COUNTED, FILLERS, NAME, NO_NAMES, either, is_name, kinds_said
from anvyl_mcp.orchestrator.rules.orders import remarks, selection
from anvyl_mcp.orchestrator.rules.orders.hosts import take_hosts
from anvyl_mcp.orchestrator.rules.orders.order import (
    BEFORE,
    IN_THESE_WORDS,
    IT,
    LITERALLY,
    NEARLY,
    THEM,
    Calls,
    Order,
    where_they_are,
)
from anvyl_mcp.orchestrator.rules.orders.remarks import refused
from anvyl_mcp.orchestrator.rules.orders.scene import Scene
from anvyl_mcp.orchestrator.rules.orders.selection import Criterion
from anvyl_mcp.orchestrator.rules.orders.words import Words
from anvyl_mcp.peers.fleet.targets import not_a_container_error

Found = tuple[Calls, float]
NOTHING: Found = ([], 0)
POWER = frozenset({"start", "stop", "restart"})
CONTAINERS_IMAGE = re.compile(rf"(?i){NAME}\s+images?(?:'s)?\b")
"""An image that is called like a container: `the web image`."""
CALLED_ALL = re.compile(r"(?i)\bthe\s+container\s+(?:called\s+|named\s+)?(all|everything)\b")
"""One container with such a name, not all of them."""


def take_objects(order: Order, argument: str) -> Found:
    """Calls for the existing objects that an argument names, and how well the words fit.

    Raises:
        NotFound, Conflict: there is none, or several are meant by one name.
        NothingToDo: none of them has to be changed.
        NotUnderstood: it cannot be decided which ones.
    """
    kind, words, scene = order.listing.names[argument], order.words, order.scene
    joins = len(order.listing.names) > 1
    said = scene.may_name(kind, f"{order.part.text} {order.part.before}")
    made = order.memory.made.get(kind, "")
    if not (said or joins or made or kind in ("container", "stack")):
        return NOTHING
    criteria = selection.take_filters(words, scene, kind, order.listing.arguments)
    if selection.EVERYTHING_ELSE.search(words.left):
        if not order.memory.limits.excepted:
            raise refused("else", "it is not clear what else")
        words.left = selection.EVERYTHING_ELSE.sub(lambda match: f"{'all':<{len(match[0])}}", words.left)
    names = _literally(words, scene.of(kind), kind)
    if names and selection.ONE_OF.search(words.left):
        raise resolve.ambiguity_error(kind, names[0], [one for one in scene.of(kind) if names[0] in one.name])
    if kind == "container" and not names and (all_called := CALLED_ALL.search(order.part.text)):
        raise order.no_match(kind, all_called[1])
    called = name_pattern(made) if made and not names else None
    if called and (words.take(called, "name") or IT.search(order.part.text)):
        return [{argument: made}], LITERALLY
    if not names and kind == "stack" and not said:
        return NOTHING  # without the word, only a name shows that it is a stack
    if joins:
        return ([{argument: name} for name in names], LITERALLY) if names else _meant(order, argument)
    every = selection.is_about_all(words, kind)
    if names:
        words.take(r"\b(?:both|all|every|each)\b", "every")
        criteria += selection.take_states(words) if criteria or every else _states_that_hold(order, kind, names)
        return _narrowed(order, argument, names, criteria, every=every or order.scope.having), LITERALLY
    if (every or criteria or _speaks_of_some(words, kind)) and (found := _all(order, kind, criteria)):
        order.memory.means_all |= every
        return where_they_are(found, argument), IN_THESE_WORDS
    if names := _spoken_of(order, kind):
        return _narrowed(order, argument, names, [], every=False), BEFORE
    return _meant(order, argument)


def _narrowed(order: Order, argument: str, names: Sequence[str], criteria: list[Criterion], *, every: bool) -> Calls:
    """Calls for named objects, on the hosts where they are as they must be."""
    criteria = [*criteria, *_conditions(order, names)]
    if not criteria and not every:
        return [{argument: name} for name in names]
    named = [one for one in order.scene.of(order.listing.names[argument], order.hosts) if one.name in names]
    return where_they_are(_decided(order, named, criteria), argument)


def _decided(order: Order, found: Sequence[FleetObject], criteria: Sequence[Criterion]) -> list[FleetObject]:
    """The objects that are as they must be; what was decided about them is recorded for the person."""
    kept = [one for one in found if all(criterion.holds(one) for criterion in criteria)]
    if not kept:
        raise selection.nothing_to(order.verb, found, criteria, "it is not there")
    order.decided += [criterion.said(kept) for criterion in criteria]
    return kept


def _states_that_hold(order: Order, kind: str, names: Sequence[str]) -> list[Criterion]:
    """Read a state next to a name if the object is in it: `the stopped web container`."""
    trial = Words(order.words.left)
    states = selection.take_states(trial)
    if not states or not all(states[0].holds(one) for one in order.scene.of(kind) if one.name in names):
        return []
    order.words.left = trial.left
    return states


def _speaks_of_some(words: Words, kind: str) -> bool:
    """Whether words like `the unhealthy ones` choose objects by their state."""
    chooses = re.search(rf"(?i)\b(?:ones?|{kind}s?|that|which)\b", words.left)
    return bool(chooses and selection.take_states(Words(words.left)))


def _all(order: Order, kind: str, criteria: list[Criterion]) -> list[FleetObject]:
    """All objects of a kind that the words mean, without the exceptions; none if they mean something else.

    Raises:
        NothingToDo: there is none.
        NotUnderstood: a host could not be asked, or everything would be removed.
    """
    scene, words, limits = order.scene, order.words, order.memory.limits
    where = order.hosts or (scene.select(order.memory.places) if order.memory.places else list(scene.places.hosts))
    if silent := [host for host in where if host in scene.silent]:
        raise refused(order.part.text, f"{silent[0]} could not be asked ({scene.silent[silent[0]].message})")
    states = selection.take_states(words)
    words.take(selection.EVERYTHING, "every")
    words.take(selection.RELATIVE, "relative")
    words.take_words(kinds_said(kind) | {"them", "they"}, "kind")
    trial = words.without(FILLERS)
    if turned := remarks.turned(trial.left):
        raise turned
    groups = [word for one in trial.rest if (word := one.lower()) not in NO_NAMES and is_name(word)]
    found = [one for one in scene.of(kind, where) if all(criterion.holds(one) for criterion in (*states, *criteria))]
    matched = [resolve.best_matches([word], found) for word in groups]
    if not all(matched):
        return []
    words.take_words(groups, "name")
    if matched:
        found = [one for one in found if any(one in group for group in matched)]
    elif not states and not criteria and order.listing.safety == "destroys":
        raise refused(f"everything {order.part.text.strip()}"[:40], "what is removed must be named")
    criteria = [*criteria, *_conditions(order, [one.name for one in found])]
    spared = [one for one in found if one.name in limits.excepted or one.host in limits.hosts]
    needed = selection.NEEDED_STATE.get(order.verb, ()) if kind == "container" else ()
    if order.verb != "stop" and (order.memory.included or states or criteria):
        needed = ()
    found = [one for one in found if one not in spared and (not needed or one.row.get("state") in needed)]
    if not found:
        what = " ".join(
            [
                *(state.words for state in states or [Criterion("running", bool)] if states or order.verb == "stop"),
                f"{kind}s",
                *(criterion.words for criterion in criteria),
            ]
        )
        raise NothingToDo(f"Nothing to {order.verb}: there are no {what} on {text.join_names(where)}")
    if limits.excepted or limits.hosts:
        order.decided.append(f"without {', '.join(sorted({one.name for one in spared}) or limits.hosts)}")
    if order.listing.safety == "destroys":
        order.doubts.append("you did not name what is removed")
    return _decided(order, found, criteria)


def _conditions(order: Order, names: Sequence[str]) -> list[Criterion]:
    """Conditions on these objects; the others are checked at once.

    Raises:
        NotUnderstood: one is about something else that is not known.
        NothingToDo: one does not hold.
    """
    own = []
    for condition in order.memory.limits.conditions:
        order.used.add(condition.words)
        about = _subject(order.scene, condition)
        if not about or set(about) <= set(names):
            own.append(condition)
            continue
        where = order.scene.places.hosts_named(condition.subject)
        fitting = [one for one in order.scene.of("container", where) if one.name in about]
        if len({one.host for one in fitting}) != 1:
            raise refused(condition.words, "it is not clear which one")
        state = f"{fitting[0].name} is {selection.state_of(fitting[0])} on {fitting[0].host}"
        if not condition.holds(fitting[0]):
            raise NothingToDo(f"Nothing to do: {state}")
        order.decided.append(state)
    return own


def _subject(scene: Scene, condition: Criterion) -> list[str]:
    """The containers that a condition is about; none if it is about those of the order.

    Raises:
        NotUnderstood: it is about something else.
    """
    subject = Words(condition.subject)
    about = selection.literal_names(subject, scene.of("container"), "container")
    if about or re.search(r"(?i)\b(?:it|that|they|any\s+of\s+them)\b", condition.subject):
        return about
    like = resolve.best_matches([word.lower() for word in subject.rest if is_name(word)], scene.of("container"))
    if len(names := {one.name for one in like}) != 1:
        raise refused(condition.words, remarks.WHY["condition"])
    return sorted(names)


def _spoken_of(order: Order, kind: str) -> list[str]:
    """Objects that `it`, `them` or a missing name refer to; none if it is not clear."""
    words, memory, scene = order.words, order.memory, order.scene

    def names_in(said: str) -> list[str]:
        trial = Words(said)
        take_hosts(trial, scene)
        return _literally(trial, scene.of(kind), kind)

    several, one = THEM.search(words.left), IT.search(words.left)
    rest = words.without(FILLERS | kinds_said(kind)).rest
    names = names_in(order.part.before)
    if several or one or re.search(rf"(?i)\b(?:the|its)\s+(?:{either(kinds_said(kind))})\b", words.left):
        spoken = memory.so_far if several else memory.last
        spoken = spoken or [name for condition in memory.limits.conditions for name in names_in(condition.subject)]
        names = list(dict.fromkeys([*(name for name in spoken if name in scene.names(kind)), *names]))
    if not names and not rest and not one:
        names = names_in(order.part.after)
    if (rest and not several) or not names or (len(names) > 1 and not several):
        return []
    words.take(THEM, "pronoun")
    return names


def _meant(order: Order, argument: str) -> Found:
    """The one object that words mean without its exact name: an image, a role, a part of the name.

    Raises:
        NotFound, Conflict: they mean none, or several.
        NotUnderstood: it would be removed.
    """
    kind, scene, words = order.listing.names[argument], order.scene, order.words
    left = words.without((FILLERS | kinds_said(kind) | COUNTED.keys()) - resolve.ROLES.keys())
    if remarks.turned(left.left):
        return NOTHING
    rest = [word for word in left.rest if is_name(word) and word.lower() not in resolve.NO_OBJECT]
    selector = order.scope.selector
    if not left.rest and selector and order.verb in POWER and kind == "container":
        raise not_a_container_error(order.verb, selector if selector in scene.places.hosts else "")
    wanted = [word.lower() for word in rest]
    near = resolve.best_matches(wanted, scene.of(kind, order.hosts)) or resolve.best_matches(wanted, scene.of(kind))
    like = sorted({one.name for one in near})
    if len(like) == 1 and order.listing.safety == "destroys":
        exact = f"{' '.join(order.listing.name.split('_')[:2])} {like[0]}".replace(" container ", " ")
        raise NotUnderstood(f"what is removed must be named exactly, not as `{' '.join(rest)}`", hint=f"say `{exact}`")
    if len(like) == 1:
        matching = [word for word in rest if resolve.best_matches([word.lower()], near)]
        if all(resolve.only_by_spelling(word.lower(), near) for word in matching):
            raise order.no_match(kind, matching[0])
        order.doubts.append(f"read `{' '.join(matching)}` as `{like[0]}`")
        words.take_words({word.lower() for word in matching}, "name")
        return [{argument: like[0]}], NEARLY
    if len(like) > 1 and len(rest) == 1:
        raise resolve.ambiguity_error(kind, rest[0], near)
    says_kind = len(order.listing.names) == 1 and scene.may_name(kind, order.part.text)
    if len(rest) == 1 and (says_kind or kind == "container"):
        raise order.no_match(kind, unmask(rest[0], order.memory.quoted))
    return NOTHING


def _literally(words: Words, objects: Sequence[FleetObject], kind: str) -> list[str]:
    """Read the names of existing objects, without those in the name of an image."""
    if kind == "image":
        return selection.literal_names(words, objects, kind)
    trial = Words(words.left)
    images = trial.take(IMAGE, "image") + trial.take(CONTAINERS_IMAGE, "image")
    names = selection.literal_names(trial, objects, kind)
    for match in images:
        trial.left = trial.left[: match.start()] + words.left[match.start() : match.end()] + trial.left[match.end() :]
    words.left = trial.left
    return names
