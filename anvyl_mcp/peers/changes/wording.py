"""Describe tool calls in plain English: what would be done, what was done and what failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anvyl_mcp.core import text
from anvyl_mcp.core.values import ports
from anvyl_mcp.peers.fleet.fleet import ExpectedObjects, Outcome

PHRASES: Mapping[str, tuple[str, ...]] = {
    "create_container": ("create container {name} from {image}", "create a container from {image}"),
    "exec_in_container": ("run {command} in {name}",),
    "execute_command": ("run {command}",),
    "connect_network": ("connect {container} to network {network}",),
    "disconnect_network": ("disconnect {container} from network {network}",),
    "prune_unused": ("remove unused {what}",),
    "pull_image": ("pull {image}",),
    "create_service": ("create service {name} from {image}",),
    "rollback_service": ("roll back service {name}",),
    "scale_service": ("scale service {name} to {replicas}",),
    "revert_stack": ("revert stack {name} to version {version}", "revert stack {name}"),
    "undo_change": ("undo the last change of {name}",),
}
"""Phrases of tools whose names do not read as a sentence; the first whose arguments are all given is used."""
PAST_TENSES = {
    "run": "ran",
    "stop": "stopped",
    "undo": "undid",
    "get": "got",
    "exec": "ran",
    "put": "put",
    "set": "set",
}
"""Irregular past tenses."""
EXPECTED_STATES = {"stop": "exited", "start": "running", "restart": "running", "create": "running"}
"""The state of a container after a successful change, by verb."""
PRUNE_KINDS = {
    "all": "containers, networks, volumes, images and build cache",
    "build_cache": "build cache",
    "space": "untagged images and build cache",
}
"""The objects behind each choice of `prune_unused`."""
SUBJECTS = ("name", "image", "container", "network", "service", "what", "command")
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "stop_container": {"timeout": 10},
    "exec_in_container": {"timeout": 30},
    "execute_command": {"timeout": 30},
    "update_container": {"min_age": "3d", "watch": 120},
    "update_stack": {"min_age": "3d", "watch": 120},
}
"""Default values, which are left out."""
HIDDEN_ARGUMENTS = frozenset({"host", "only", "compose", "dotenv", "watch"})
"""Arguments that are not in a description: a preview shows what a Compose file changes, and a `.env` file is secret."""


def describe(
    tool: str,
    arguments: Mapping[str, Any],
    hosts: Sequence[str] = (),
    expected: Mapping[str, ExpectedObjects] | None = None,
) -> str:
    """Describe a call: `remove container old-test (exited) on nas`. Unusual values are quoted."""
    verb, noun = _verb_and_noun(tool)
    arguments = (
        {**arguments, "what": PRUNE_KINDS.get(arguments["what"], arguments["what"])}
        if "what" in arguments
        else arguments
    )
    given = {
        name: value for name, value in arguments.items() if value not in ("", [], None) and name not in HIDDEN_ARGUMENTS
    }
    words, used = _phrase(tool, given)
    if not words:
        subject = next((name for name in SUBJECTS if name in given), "")
        plain = noun == "container" and not verb.startswith("remove")
        named = given.get(subject, "")
        kind = "" if plain and subject else f"{noun}s" if isinstance(named, list) else noun
        words = " ".join(filter(None, [verb, kind, _value(named)]))
        used = {subject}
    states = {host: one.state for host, one in (expected or {}).items() if one.state}
    if len(set(states.values())) == 1 and len(states) == len(hosts):
        words = f"{words} ({next(iter(states.values()))})"
        states = {}
    ordinary = DEFAULTS.get(tool, {})
    if isinstance(given.get("ports"), list):
        image = str(given.get("image", ""))
        given["ports"] = text.join_names([ports.describe_port(str(one), image) for one in given["ports"]])
    rest = [_option(name, given[name]) for name in given if name not in used and given[name] != ordinary.get(name)]
    options = [one for one in rest if one]
    words += f" with {text.join_names(options)}" if options else ""
    places = [f"{host} ({states[host]})" if host in states else host for host in hosts]
    return f"{words} on {text.join_names(places)}" if places else words


def describe_all(calls: Sequence[tuple[str, Mapping[str, Any], Sequence[str]]]) -> list[str]:
    """Describe several calls; those that differ only in `name` are merged: `restart c1, c2 and c3 on nas`."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    for tool, arguments, hosts in calls:
        rest = {name: value for name, value in arguments.items() if name != "name"}
        groups.setdefault((tool, str(rest), tuple(hosts)), []).append(arguments)
    return [describe(tool, _merged_arguments(group), hosts) for (tool, _, hosts), group in groups.items()]


def past_tense(verb: str) -> str:
    """Return the past tense of a verb: `stop` → `stopped`."""
    return PAST_TENSES.get(verb) or (f"{verb}d" if verb.endswith("e") else f"{verb}ed")


def question(description: str) -> str:
    """Turn a description into a prompt: `Remove container old-test (exited) on nas?`"""
    return f"{description[:1].upper()}{description[1:]}?"


def report(outcomes: Iterable[Outcome]) -> list[str]:
    """Return sentences about changes, successes first: `Stopped jellyfin on nas.`, `Could not stop web on pi: …`"""
    lines: list[str] = []
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    failed: dict[tuple[str, str, str], list[Outcome]] = {}
    for one in outcomes:
        rest = {name: value for name, value in one.arguments.items() if name not in ("name", *HIDDEN_ARGUMENTS)}
        if one.error is not None:
            failed.setdefault((one.tool, one.host, one.error.message), []).append(one)
        elif (one.answer.result or {}).get("updated") is False:
            lines.append(f"{text.one_line(one.answer.text)} on {one.host}.")
        else:
            groups.setdefault((one.tool, str(rest), _details(one)), []).append(one)
    for (tool, _, details), group in groups.items():
        lines.append(_past_sentence(tool, group, details))
    for (tool, host, _), group in failed.items():
        lines.append(f"Could not {_describe_group(tool, group)} on {host}: {_sentence(group[0])}")
    return lines


def marks(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the same facts for readers of any language: `✓ stop: jupyter, ollama (gpu)`, `✗ stop: web (pi): …`."""
    groups: dict[tuple[str, str, str, str], list[Outcome]] = {}
    for one in outcomes:
        objects = ", ".join(str(one.arguments[name]) for name in SUBJECTS if one.arguments.get(name))
        reason = f": {_sentence(one)}" if one.error is not None else _details(one).rstrip(".")
        groups.setdefault((one.tool, objects, reason, "✗" if one.error else "✓"), []).append(one)
    by_hosts: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (tool, objects, reason, mark), group in groups.items():
        hosts = tuple(dict.fromkeys(one.host for one in group if one.host))
        by_hosts.setdefault((mark, tool, reason, hosts), []).append(objects)
    lines = []
    for (mark, tool, reason, hosts), named in by_hosts.items():
        verb, noun = _verb_and_noun(tool)
        words = verb if noun == "container" else f"{verb} {noun}"
        where = f" ({', '.join(hosts)})" if hosts else ""
        lines.append(f"{mark} {words}: {', '.join(named)}{where}{reason}")
    return lines


def failures(outcomes: Iterable[Outcome]) -> list[str]:
    """Describe failed calls in a few words each: `restart c1, c2 and c3 on nas (connection refused)`."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for one in outcomes:
        if one.error is not None:
            groups.setdefault((one.tool, one.host, one.error.message), []).append(one)
    return [
        f"{_describe_group(tool, group)}{f' on {host}' if host else ''} ({reason.rstrip('.')})"
        for (tool, host, reason), group in groups.items()
    ]


def _past_sentence(tool: str, group: Sequence[Outcome], details: str) -> str:
    by_host: dict[str, list[str]] = {}
    for one in group:
        by_host.setdefault(one.host, []).append(_object_name(one))
    first = _subject_arguments(group[0].arguments)
    if tool.startswith("create_") or "name" in first:
        first["name"] = _object_name(group[0])
    if len(set(map(tuple, by_host.values()))) == 1 and len(next(iter(by_host.values()))) == 1:
        words = f"{_in_past_tense(describe(tool, first))} on {text.join_names(list(by_host))}"
    else:
        verb, noun = _verb_and_noun(tool)
        places = [f"{text.join_names(names)} on {host}" for host, names in by_host.items()]
        words = f"{_in_past_tense(f'{verb} {text.plural(len(group), noun)}')}: {'; '.join(places)}"
    return f"{words}{details}" if details.startswith(":") else f"{words}{details}."


def _describe_group(tool: str, group: Sequence[Outcome]) -> str:
    """Describe calls of one tool on several objects: `restart c1, c2 and c3`."""
    names = list(dict.fromkeys(_object_name(one) for one in group))
    if len(names) < 2:
        return describe(tool, _subject_arguments(group[0].arguments))
    verb, noun = _verb_and_noun(tool)
    return f"{verb} {text.join_names(names)}" if noun == "container" else f"{verb} {noun} {text.join_names(names)}"


def _subject_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that identify the object of a call, without its options."""
    return {name: value for name, value in arguments.items() if name in (*SUBJECTS, "replicas")}


def _details(one: Outcome) -> str:
    """Return what follows a success: an unexpected state, published ports, a note, or the tool's own text."""
    result = one.answer.result or {}
    verb = _verb_and_noun(one.tool)[0]
    state = result.get("state")
    if isinstance(state, str):
        changed = [] if state == EXPECTED_STATES.get(verb, state) else [f"it is {state} now"]
        if result.get("previous"):
            changed = [f"it runs {result.get('current')}, was {result['previous']}"]
        published = result.get("ports") if verb == "create" else None
        parts = [*changed, *(map(str, published) if isinstance(published, list) else ()), str(result.get("note") or "")]
        return "".join(f"; {part}" for part in parts if part)
    words = one.answer.text
    said = {past_tense(verb), *re.findall(r"[\w./:@-]+", one.tool.replace("_", " ")), *map(str, one.arguments.values())}
    if result.get("removed") is True or set(re.findall(r"[\w./:@-]+", words)) <= said:
        return ""  # no more than the sentence itself says: `removed nginx:1.27`
    return f":\n{words}" if "\n" in words else f": {words}"


def _object_name(one: Outcome) -> str:
    """Return the name of the object, as its host spells it."""
    reported = (one.answer.result or {}).get("name")
    given = next((str(one.arguments[name]) for name in SUBJECTS if one.arguments.get(name)), "")
    return reported if isinstance(reported, str) and reported and not one.tool.endswith("_network") else given


def _sentence(one: Outcome) -> str:
    words = str(one.error).rstrip()
    return words if words.endswith((".", "?", "!")) else f"{words}."


def _verb_and_noun(tool: str) -> tuple[str, str]:
    verb, _, noun = tool.partition("_")
    return verb, noun.replace("_", " ")


def _phrase(tool: str, given: Mapping[str, Any]) -> tuple[str, set[str]]:
    for phrase in PHRASES.get(tool, ()):
        values = {
            name: value if value in PRUNE_KINDS.values() else text.format_value(value) for name, value in given.items()
        }
        holes = {name for name in (*SUBJECTS, "replicas", "version") if f"{{{name}}}" in phrase}
        if holes <= values.keys():
            return phrase.format_map(values), holes
    return "", set()


def _merged_arguments(group: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Merge the arguments of calls that differ only in `name` into one with a list of names."""
    return group[0] if len(group) == 1 else {**group[0], "name": [one["name"] for one in group]}


def _value(value: object) -> str:
    """Quote unusual values, so that text from a model or another host cannot pass for ours."""
    if isinstance(value, list):
        return text.join_names([text.format_value(one) for one in value])
    return text.format_value(value) if value != "" else ""


def _option(name: str, value: object) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else ""
    if name == "ports":
        return f"{words} {value}"
    return f"{words} {_value(value)}"


def _in_past_tense(words: str) -> str:
    verb, space, rest = words.partition(" ")
    return f"{past_tense(verb).capitalize()}{space}{rest}"
