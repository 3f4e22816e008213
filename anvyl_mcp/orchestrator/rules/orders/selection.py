"""Which objects an order is about: by name, by what they have in common, without those it leaves out.

Exceptions (`everything but db`), conditions (`if worker is down`) and filters (`that exited with code 1`) are decided
from the objects that exist into an exact list; what cannot be decided keeps an order from being read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from anvyl_mcp.core.errors import NothingToDo
from anvyl_mcp.orchestrator.checks import resolve
from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.orchestrator.language.lexicon import any_of, words_of_language
from anvyl_mcp.orchestrator.language.places import name_pattern
from anvyl_mcp.orchestrator.language.vocabulary import (
    ARTICLES,
    COUNTED,
    KINDS,
    STATES,
    either,
    is_name,
    kinds_said,
)
from anvyl_mcp.orchestrator.rules.orders.remarks import WHY, refused
from anvyl_mcp.orchestrator.rules.orders.scene import PAIR, Scene
from anvyl_mcp.orchestrator.rules.orders.words import Words

_EN = words_of_language("en")
EXCEPT = re.compile(any_of(_EN["exceptions"]["words"]), re.IGNORECASE)
CERTAIN = re.compile(r"(?i)^(?:except|excluding|with the|apart|aside|other|all but)")
"""Exception words that are nothing else; `but`, `not` and `save` are exceptions only before a name."""
KEEP = re.compile(any_of(_EN["exceptions"]["keep"]), re.IGNORECASE)
AFTER = re.compile(
    rf"(?:\s+(?:that|which)\s+(?:is|are|was)(?:\s+still)?)?\s*{any_of(_EN['exceptions']['after'])}", re.IGNORECASE
)
JOINT = re.compile(r"(?i)\s*(?:,\s*(?:and|or)?|\band\b|\bor\b|\bnor\b|&)?\s*")
STATE_WORDS = either({word for state, words in STATES.items() for word in (state, *words)} | {"alive", "well"})
CONDITION = re.compile(
    rf"(?i)\b(?P<word>{any_of([*_EN['conditions']['words'], *_EN['conditions']['unless']])})\s+"
    r"(?P<subject>(?:[^\s,;]+\s+){1,6}?)"
    r"(?:(?:is|are|was|has|have|'s)\s+)?(?P<turned>(?:not|no\s+longer)\s+)?"
    r"(?:(?:still|currently|already|been|now|really|the\s+one\s+that\s+is)\s+)*"
    rf"(?:in\s+state\s+)?(?P<state>{STATE_WORDS})(?:\s+(?:is|are|again|at\s+the\s+moment|right\s+now|now))?"
    r"(?=\s*(?:[,;:.!]|$|then\b|on\b|at\b|(?:please\s+)?\w+\b))(?:\s*,?\s*then\b)?"
)
OTHERWISE_NOTHING = re.compile(
    r"(?i)[,;.]?\s*\b(?:otherwise|else|if\s+not)\b[\s,]*(?:(?:please|just)\s+)*"
    r"(?:leave\s+(?:it|them)(?:\s+(?:alone|be|running|as\s+(?:it\s+is|they\s+are)))?|do\s+nothing"
    r"|(?:do\s+not|don't|dont)\s+(?:touch\s+(?:it|them)|do\s+anything))(?=\W*$)"
)
"""The other side of a condition, on which nothing is done."""
EXIT_CODE = re.compile(
    r"(?i)(?:\b(?:that|which|who)\s+)?(?:\b(?:has|have|had|with|got|exited|exit|ended|stopped|crashed|died|failed|finished|an?|of)\s+)*"
    r"(?:exit\s+|status\s+|return\s+)?(?:code|status)\s+(?:of\s+|is\s+|was\s+)?(?P<code>\d{1,3})\b"
    r"|(?:\b(?:that|which|who)\s+)?\b(?:exited|ended|crashed|died|failed)\s+with\s+(?:an?\s+)?(?P<bare>\d{1,3})\b"
)
LABELLED = re.compile(
    rf"(?i)(?:\b(?:that|which|whose)\s+)?(?:\b(?:is|are|has|have|with|having|carr(?:y|ies|ying)|wear(?:s|ing)?|bear(?:s|ing)?|under|of)\s+)*(?:\b(?:the|a)\s+)*"
    rf"(?:\blabel(?:s|l?ed)?\s+)?(?:\b(?:with|is|as)\s+)?(?P<label>{PAIR.pattern})(?:\s+label)?(?:\s+(?:on|set\s+on|attached\s+to)\s+(?:it|them))?"
)
VERSION = re.compile(
    r"(?i)(?:\b(?:where(?:ver)?|that|which)\s+)?(?:\b(?:it|they)\s+)?(?:\b(?:is|are|runs?|running|still)\s+)*"
    r"(?:\b(?:on|at|with|of|the|an?|old)\s+)*(?:\b(?:version|tag|release|image)\s+)?(?P<version>v?\d+(?:\.\d+)+[\w.-]*)\b"
)
FROM_IMAGE = re.compile(
    r"(?i)(?:\b(?:that|which|whose)\s+(?:are\s+|is\s+)?)?\b(?:runs?|running|us(?:es?|ing)|based|made|created|built|with)\s+"
    r"(?:(?:on|from|off|of)\s+)?(?:(?:the|an?)\s+)?(?P<image>[\w][\w./:-]*)\s+images?\b"
)
ON_PORT = re.compile(
    r"(?i)(?:\b(?:that|which|who)(?:'s|\s+is|\s+are)?\s+)?"
    r"(?:\b(?:listens?|listening|runs?|running|publish(?:es|ing)|serv(?:es|ing)|us(?:es|ing)|with|has|having|sit(?:s|ting)|on|at|behind)\s+)+"
    r"(?:the\s+)?port\s+(?P<port>\d{1,5})\b"
)
USED_BY_NONE = re.compile(
    r"(?i)(?:\b(?:that|which)\s+)?\b(?:no\s+(?:containers?|one)|nothing|nobody)\s+(?:uses?|is\s+using|mounts?|needs?)\b"
)
EVERYTHING = re.compile(r"(?i)\b(?:everything|all\s+of\s+them|them\s+all|all|every|each|whatever)\b")
EVERYTHING_ELSE = re.compile(r"(?i)\b(?:everything|all|everyone)\s+else\b|\bthe\s+(?:rest|others?)\b")
INCLUDING = re.compile(
    r"(?i)(?:,\s*)?\b(?:(?:includ(?:ing|es?)|incl\.?|even|also|plus|with|and)\s+(?:of\s+|all\s+|the\s+)*(?:stopped|exited|dead)"
    r"(?:\s+(?:ones?|containers?))?(?:\s+(?:too|as\s+well))?"
    r"|(?:running|up)\s+(?:or|and)\s+(?:stopped|not\s+running|down))\b(?:\s*,)?"
)
"""Includes stopped containers in a change to all."""
UP, DOWN = ("running", "restarting", "paused"), ("exited", "created", "dead")
NEEDED_STATE = {"stop": UP, "restart": UP, "kill": UP, "pause": UP, "start": (*DOWN, "paused")}
"""States of the containers that a change to all includes, by verb. Stopped containers are usually stopped on purpose,
so they are not restarted with the others unless the question says so.
"""
RELATIVE = re.compile(
    r"(?i)\b(?:ones?|(?:that|which)\s+(?:is|are|have|has)|currently|any|of|with|back|it|there|whose)\b"
)
ONE_OF = re.compile(r"(?i)\b(?:one|some|any|either)\s+of\b")
STATE = re.compile(rf"(?i)(?<![\w-])(?P<turned>not\s+)?(?P<state>{STATE_WORDS})(?![\w-])")
OPPOSITE = {"running": "stopped", "up": "stopped", "online": "stopped", "healthy": "unhealthy", "ok": "unhealthy",
            "alive": "stopped", "well": "unhealthy"}  # fmt: skip


@dataclass(frozen=True)
class Criterion:
    """What an object must be like: `with exit code 1`, or the condition `if worker is down` with its subject."""

    words: str
    holds: Callable[[FleetObject], bool]
    subject: str = ""

    def said(self, found: Iterable[FleetObject]) -> str:
        """That it holds for some objects, for the person."""
        states = "is {} on" if self.subject else "on"
        return f"{self.words}: " + ", ".join(
            sorted({f"{one.name} {states.format(state_of(one))} {one.host}" for one in found})
        )


@dataclass
class Limits:
    """What a whole text leaves out or requires."""

    excepted: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    conditions: list[Criterion] = field(default_factory=list)


def take_limits(words: Words, scene: Scene) -> Limits:
    """Read the exceptions and conditions of a text.

    Raises:
        NotUnderstood: an exception names nothing that is known.
    """
    limits = Limits()
    while found := CONDITION.search(words.left):
        turned = bool(found["turned"]) is not found["word"].lower().startswith("unless")
        holds = partial(_is_in_state, states_of_word(found["state"]), turned=turned)
        limits.conditions.append(Criterion(found[0].strip(), holds, found["subject"].strip()))
        words.take_span(found.start(), found.end(), "condition")
    if limits.conditions:
        words.take(OTHERWISE_NOTHING, "condition")
    for pattern in (EXCEPT, KEEP):
        for found in reversed(list(pattern.finditer(words.left))):
            end = _take_excepted(words, found.end(), scene, limits)
            if end is None and pattern is EXCEPT and CERTAIN.match(found[0]):
                raise refused(words.left[found.start() :].split(",")[0], WHY["exception"])
            if end is not None:
                start = found.start()
                if lead := re.search(r"(?i)(?:[,;.]\s*)?\b(?:(?:and|but|please|also|just)\s+)*$", words.left[:start]):
                    start = lead.start()
                after = AFTER.match(words.left, end)
                words.take_span(start, after.end() if after else end, "exception")
    for name in scene.names():
        called = name_pattern(name)
        excepted = rf"(?:,\s*|\bwith\s+)?{called.pattern if called else '(?!)'}\s+(?:is\s+)?(?:excepted|excluded)\b"
        if match := re.search(excepted, words.left, re.IGNORECASE):
            limits.excepted.append(name)
            words.take_span(match.start(), match.end(), "exception")
    return limits


def _take_excepted(words: Words, start: int, scene: Scene, limits: Limits) -> int | None:
    """Read the names after an exception word; the end of the last one, or None if there is none."""
    place, end = start, None
    nouns = (
        ARTICLES
        | {"for", "on", "that", "this", "one", "ones", "those", "of"}
        | {noun for kind in KINDS for noun in kinds_said(kind)}
    )
    while True:
        lead = re.compile(rf"(?i)\s*(?:(?:{either(nouns)})\s+)*").match(words.left, place)
        begin = lead.end() if lead else place
        if found := _known_at(words.left, begin, scene):
            names, hosts, stop = found
            limits.excepted += names
            limits.hosts += hosts
            tail = re.compile(rf"(?i)\s+(?:{either(kinds_said('container') | {'one', 'ones'})})\b").match(
                words.left, stop
            )
            end = tail.end() if tail else stop
            joint = JOINT.match(words.left, end)
            if joint is None or not joint[0].strip():
                return end
            place = joint.end()
        else:
            return end


def _known_at(said: str, start: int, scene: Scene) -> tuple[list[str], list[str], int] | None:
    """The objects or the host that a text names at a position, and its end."""
    for name in scene.names():
        if (found := name_pattern(name)) and (match := found.match(said, start)):
            return [name], [], match.end()
    for host in scene.places.hosts:
        if (found := name_pattern(host)) and (match := found.match(said, start)):
            return [], [host], match.end()
    word = re.compile(r"[A-Za-z][\w.-]*").match(said, start)
    if word and is_name(word[0]) and word[0].lower() not in resolve.NO_OBJECT:
        like = sorted({one.name for one in resolve.best_matches([word[0].lower()], scene.of("container"))})
        return (like, [], word.end()) if like else None
    return None


def states_of_word(word: str) -> set[str]:
    """Values of the states that a word means."""
    word = {"alive": "running", "well": "healthy"}.get(word.lower(), word.lower())
    return {value for name, values in STATES.items() if word in {name, *values} for value in values | {name}}


def take_filters(words: Words, scene: Scene, kind: str, arguments: Iterable[str] = ()) -> list[Criterion]:
    """Read what objects must have in common, like a label, an exit code or a port, or that no container uses them."""
    found: list[Criterion] = []
    if kind in ("volume", "network") and (unused := USED_BY_NONE.search(words.left)):
        found.append(Criterion("that no container uses", _is_unused))
        words.take_span(unused.start(), unused.end(), "filter")
    if kind != "container":
        return found
    for pattern, group, said, holds in (
        (FROM_IMAGE, "image", "from the image", _has_image),
        (ON_PORT, "port", "on port", _has_port),
    ):
        if f"{group}s" not in arguments and group not in arguments and (match := pattern.search(words.left)):
            found.append(Criterion(f"{said} {match[group]}", partial(holds, match[group])))
            words.take_span(match.start(), match.end(), "filter")
    for label in LABELLED.finditer(words.left):
        pair = label["label"]
        if label[0].strip() == pair or (pair.partition("=")[0] in arguments and "label" not in label[0].lower()):
            continue  # `stop web force=yes` chooses nothing
        having = {(one.host, one.name) for one in scene.labelled.get(pair, ())}
        found.append(Criterion(f"with the label {pair}", partial(_is_among, having)))
        words.take_span(label.start(), label.end(), "filter")
    if code := EXIT_CODE.search(words.left):
        number = code["code"] or code["bare"]
        found.append(Criterion(f"with exit code {number}", partial(_has_exit_code, number)))
        words.take_span(code.start(), code.end(), "filter")
    version = VERSION.search(words.left)
    if version and re.search(r"(?i)\b(?:version|still|on|where\w*|that|running)\b", version[0]):
        number = version["version"].removeprefix("v")
        found.append(Criterion(f"on version {number}", partial(_has_version, number)))
        words.take_span(version.start(), version.end(), "filter")
    return found


def take_states(words: Words) -> list[Criterion]:
    """Read the state that objects must be in, if any: `the unhealthy ones`, `that are not running`."""
    said, wanted, names = resolve.PARTICLE.sub(lambda match: " " * len(match[0]), words.left), set[str](), list[str]()
    for match in STATE.finditer(said):
        state = match["state"].lower()
        state = OPPOSITE.get(state, "") if match["turned"] else state
        if state and state not in ("ok", "well"):
            wanted |= states_of_word(state)
            names.append(state)
            words.take_span(match.start(), match.end(), "state")
    return [Criterion(" and ".join(names), partial(_is_in_state, wanted))] if wanted else []


def _is_in_state(states: set[str], one: FleetObject, *, turned: bool = False) -> bool:
    return bool(states & resolve.states_of(one)) is not turned


def _is_among(having: set[tuple[str, str]], one: FleetObject) -> bool:
    return (one.host, one.name) in having


def _has_exit_code(code: str, one: FleetObject) -> bool:
    if one.row.get("state") not in ("exited", "dead"):
        return False
    reported = one.row.get("exit_code")
    found = re.search(r"\((\d+)\)", str(one.row.get("status") or ""))
    return code == (str(reported) if reported is not None else found[1] if found else "")


def _has_version(version: str, one: FleetObject) -> bool:
    return str(one.row.get("image") or "").partition("@")[0].rpartition(":")[2].removeprefix("v") == version


def _has_image(image: str, one: FleetObject) -> bool:
    own = str(one.row.get("image") or "")
    return image.lower() in (own, own.partition("@")[0].rpartition(":")[0], resolve.basename(own))


def _has_port(port: str, one: FleetObject) -> bool:
    return any(re.search(rf"(?:^|:){port}->", published) for published in one.row.get("ports") or ())


def _is_unused(one: FleetObject) -> bool:
    return one.row.get("containers") == []


def state_of(one: FleetObject) -> str:
    """State of an object, for a person."""
    state = str(one.row.get("state") or "there")
    return f"{state} (unhealthy)" if one.row.get("health") == "unhealthy" else state


def literal_names(words: Words, objects: Sequence[FleetObject], kind: str) -> list[str]:
    """Read the names of existing objects, in order; where `old-trainer` stands, `trainer` does not."""
    found: list[tuple[int, str]] = []
    for name in sorted({one.name for one in objects}, key=len, reverse=True):
        after_kind = re.search(rf"(?i)\b(?:{either(kinds_said(kind))})\s+{re.escape(name)}(?![\w-])", words.left)
        pattern = name_pattern(name)
        if pattern is None or (not after_kind and (not is_name(name) or name.lower() in COUNTED)):
            continue
        for match in pattern.finditer(words.left):
            if name.lower() == name or match[0] == name or not any(one.name == match[0] for one in objects):
                found.append((match.start(), name))
                words.take_span(match.start(), match.end(), "name")
    return list(dict.fromkeys(name for _, name in sorted(found)))


def is_about_all(words: Words, kind: str) -> bool:
    """Whether the words are about all objects of a kind, or all that have something in common."""
    return bool(EVERYTHING.search(words.left) or re.search(rf"(?i)\b(?:{re.escape(kind)}s|ones)\b", words.left))


def nothing_to(verb: str, found: Sequence[FleetObject], criteria: Sequence[Criterion], what: str) -> NothingToDo:
    """None of the objects that were found is as it must be."""
    why = " and ".join(one.words for one in criteria)
    now = " and ".join(sorted({f"{one.name} is {state_of(one)} on {one.host}" for one in found}))
    return NothingToDo(f"Nothing to {verb}{f' ({why})' if why else ''}: {now or what}")
