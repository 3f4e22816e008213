"""Prompt and JSON schema of drive mode `plan`.

Everything that depends on the question comes last, so that a local server finds the beginning in its prompt cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.orchestrator.checks.resolve import FleetObject
from anvyl_mcp.peers.connection.listing import ToolListing

INTENTS = {"read": ("read", "none"), "change": ("change", "ask"), "unclear": ("read", "change", "ask", "none")}
"""Intents that a plan may have, by the intent read from the question."""
MAX_CALLS = 4
MAX_NAMES = 100
"""Names in a schema; with more of them, any string is allowed and resolved later."""
RULES = """\
You turn what a person says about their Docker hosts into tool calls. Answer with one JSON object.
intent: "read" to look something up or answer a question; "change" only when the person orders a change; "ask" when it \
is not clear which thing they mean; "none" when it has nothing to do with these hosts.
calls: the tools to call, in order; none for "ask" and "none". For a question one call is nearly always enough.
say: only for "ask" and "none": one short sentence to the person.
- Fill in only what the person said. Leave out every other argument.
- host: only a host that the person named, or all. Leave it out otherwise: reading then covers every host, and a \
change goes to the host that has the container.
- Use the names of containers as they stand in the list of what there is.
- A question about states, images, ports or how many containers: list_containers. About the memory, cpu or disk of \
hosts: get_host_resources. About what containers use: get_container_stats. Why something fails: get_container_logs.
- "run" or "start" an image that has no container yet: create_container. Start or stop an existing one by its name.

Tools:
"""
EXAMPLES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("list_containers", "is redis up?", {"name": "redis", "all": True}),
    ("list_containers", "show me the stopped containers on atlas", {"all": True, "host": "atlas"}),
    ("get_container_logs", "why does mail keep crashing", {"name": "mail"}),
    ("get_host_resources", "which machine has the most free disk space?", {}),
    ("get_container_stats", "what eats the most memory on atlas", {"host": "atlas"}),
    ("restart_container", "please give the wiki a restart", {"name": "wiki"}),
    (
        "create_container",
        "run caddy:2 on atlas with port 8080",
        {"image": "caddy:2", "ports": ["8080:80"], "host": "atlas"},
    ),
    ("list_images", "which images are on atlas", {"host": "atlas"}),
    ("list_networks", "what networks are there", {}),
    ("get_disk_usage", "how much space does docker take on atlas", {"host": "atlas"}),
)
"""Tool, question and arguments; shown where the tool is."""


def system_text(listings: Sequence[ToolListing]) -> str:
    """The part that is the same for every question with these tools."""
    names = {listing.name for listing in listings}
    lines = [_tool_line(listing) for listing in listings]
    shown = [_example_line(*example, listings) for example in EXAMPLES if example[0] in names]
    unclear = json.dumps({"intent": "ask", "calls": [], "say": "Which container do you mean?"})
    return "\n".join([RULES + "\n".join(lines), "", "Examples:", *shown, f"restart it -> {unclear}"])


def _tool_line(listing: ToolListing) -> str:
    arguments = []
    for name, schema in listing.arguments.items():
        about = schema.get("description", "")
        words = f"{name}{'' if name in listing.required else '?'}"
        arguments.append(f"{words} ({about})" if about else words)
    what = "" if listing.reads else "CHANGES: "
    return f"- {listing.name}({', '.join(arguments)}): {what}{listing.description}"


def _example_line(tool: str, question: str, arguments: Mapping[str, Any], listings: Sequence[ToolListing]) -> str:
    reads = next(listing.reads for listing in listings if listing.name == tool)
    plan = {"intent": "read" if reads else "change", "calls": [{"tool": tool, **arguments}]}
    return f"{question} -> {json.dumps(plan)}"


def question_text(question: str, hosts: Sequence[str], local: str, objects: Iterable[FleetObject], *, room: int) -> str:
    """Variable part of the prompt: hosts, containers and question; `room` limits the characters of the list."""
    host_list = ", ".join(f"{host} (this one)" if host == local else host for host in hosts)
    by_host: dict[str, list[str]] = {}
    for one in objects:
        image, state = str(one.row.get("image", "")), str(one.row.get("state", ""))
        by_host.setdefault(one.host, []).append(f"{one.name} ({image}, {state})")
    inventory = "\n".join(f"{host}: {', '.join(names)}" for host, names in by_host.items())
    if len(inventory) > room:
        names = {host: [entry.partition(" ")[0] for entry in entries] for host, entries in by_host.items()}
        inventory = "\n".join(f"{host}: {', '.join(entries)}" for host, entries in names.items())[:room]
    return f"Hosts: {host_list}\nContainers:\n{inventory or '(none known)'}\n\nPerson: {question}"


@dataclass(frozen=True)
class PlanOptions:
    """What a plan for one question may contain; the schema allows nothing else."""

    intents: Sequence[str]
    tools: Sequence[ToolListing]
    hosts: Sequence[str]
    """Hosts, tags and `all` named in the question."""
    new_places: Sequence[str]
    """Hosts for something new, if the question names none."""
    names: Mapping[str, Sequence[str]]
    """Names of objects by kind."""
    images: Sequence[str] = ()
    """Images in the question, for what is pulled or made of one."""

    def hosts_for(self, listing: ToolListing) -> Sequence[str]:
        """The hosts that a call of this tool may choose from."""
        if listing.toolset == "fleet":
            return ()
        return self.hosts or (() if listing.reads or listing.names else self.new_places)


def plan_schema(options: PlanOptions) -> dict[str, Any]:
    """JSON schema of a plan: the intent, then calls of these tools with their arguments."""
    return {
        "type": "object",
        "properties": {
            "intent": {"type": "string", "enum": list(options.intents)},
            "calls": {
                "type": "array",
                "maxItems": MAX_CALLS,
                "items": {"anyOf": [_call(listing, options) for listing in options.tools]},
            },
            "say": {"type": "string"},
        },
        "required": ["intent", "calls"],
        "additionalProperties": False,
    }


def _call(listing: ToolListing, options: PlanOptions) -> dict[str, Any]:
    first = {name: listing.arguments[name] for name in listing.required}
    properties = {"tool": {"type": "string", "enum": [listing.name]}} | {
        name: _argument(name, one, listing, options) for name, one in {**first, **listing.arguments}.items()
    }
    if hosts := options.hosts_for(listing):
        properties["host"] = {"type": "string", "enum": list(hosts)}
    return {
        "type": "object",
        "properties": properties,
        "required": ["tool", *listing.required],
        "additionalProperties": False,
    }


def _argument(name: str, one: Mapping[str, Any], listing: ToolListing, options: PlanOptions) -> dict[str, Any]:
    """Schema of one argument, reduced to what grammars support; an existing object is an enum of the known names."""
    makes = name == "image" and name in listing.required
    names = options.names.get(listing.names.get(name, ""), options.images if makes else ())
    if names and len(names) <= MAX_NAMES:
        return {"type": "string", "enum": list(names)}
    return {key: one[key] for key in ("type", "enum", "items") if key in one}
