"""A perfect model: an OpenAI-compatible server that makes the right calls of each task.

What it does not get done, our own code prevented: its share is the most that any model can reach here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from anvyl_mcp.evaluation.acts.world import Host, World
from anvyl_mcp.evaluation.tasks import Task, Want
from anvyl_mcp.peers.connection.listing import ToolListing

MODEL = "oracle-35b"
CONTEXT = 32_768
"""Context length that it reports, so that nothing is cut."""
ANSWER = "This is what I found and did."

MANNERS = {
    "together": "one call for several hosts",
    "each": "one call for each host",
    "look": "a list of all containers first",
    "defaults": "every optional argument spelled out with its default",
    "no-host": "no host where the object is on no other",
}
"""The ways in which models that are right differ."""

ToolCall = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Script:
    """The right calls of a task, made in one manner."""

    task: Task
    catalogue: Mapping[str, ToolListing]
    manner: str

    def calls(self, offered: frozenset[str]) -> list[ToolCall]:
        """The calls in order, by the tools that are offered where a task leaves the choice."""
        first: list[ToolCall] = [("list_containers", {"all": True, "host": "all"})] if self.manner == "look" else []
        wants = (*self.task.calls, *self.task.changes)
        return first + [call for want in wants for call in self._calls(want, offered)]

    def _calls(self, want: Want, offered: frozenset[str]) -> Iterator[ToolCall]:
        tool = self._tool(want, offered)
        arguments = {**self._defaults(tool), **want.arguments} if self.manner == "defaults" else dict(want.arguments)
        hosts = sorted(want.hosts)
        if not hosts or (self.manner == "no-host" and self._is_clear(tool, want)):
            yield tool, arguments
        elif self.manner == "each":
            yield from ((tool, {**arguments, "host": host}) for host in hosts)
        else:
            yield tool, {**arguments, "host": ",".join(hosts)}

    def _tool(self, want: Want, offered: frozenset[str]) -> str:
        complete = [name for name in sorted(want.tools) if self._required(name) <= want.arguments.keys()]
        return next((name for name in complete if name in offered), next(iter(complete or sorted(want.tools))))

    def _required(self, tool: str) -> set[str]:
        return set(self.catalogue[tool].required) if tool in self.catalogue else set()

    def _defaults(self, tool: str) -> dict[str, Any]:
        arguments = self.catalogue[tool].arguments
        return {
            name: schema["default"]
            for name, schema in arguments.items()
            if schema.get("default") is not None and "x-shown" not in schema
        }

    def _is_clear(self, tool: str, want: Want) -> bool:
        """Whether the object that a call names is on the one wanted host and no other, and every host answers."""
        schemas = self.catalogue[tool].arguments
        named = [(schemas[name].get("x-names"), value) for name, value in want.arguments.items() if name in schemas]
        world = World.patched(self.task.world)
        if len(want.hosts) != 1 or any(host.down for host in world.hosts.values()):
            return False
        return any(
            {host.name for host in world.hosts.values() if value in _objects(host, kind)} == want.hosts
            for kind, value in named
            if kind
        )


def _objects(host: Host, kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(host, f"{kind}s", {})
    return found


class Oracle:
    """The server, on a free port of loopback; `script` is the one that it plays next."""

    script: Script | None = None

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="oracle", daemon=True)

    @property
    def url(self) -> str:
        """Base URL of its OpenAI-compatible API."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Oracle:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def message(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The next message: the call that is due, or the answer."""
        offered = frozenset(tool["function"]["name"] for tool in request.get("tools", ()))
        calls = self.script.calls(offered) if self.script else []
        done = sum(message["role"] == "tool" for message in request["messages"])
        if done >= len(calls):
            return {"role": "assistant", "content": ANSWER}
        name, arguments = calls[done]
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": f"call-{done}", "type": "function", "function": function}],
        }


def _handler(oracle: Oracle) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            loaded = {"state": "loaded", "max_context_length": CONTEXT, "loaded_context_length": CONTEXT}
            model = {"id": MODEL, "object": "model", "type": "llm", "capabilities": ["tool_use"], **loaded}
            known = self.path in ("/v1/models", "/api/v0/models")
            self._answer(
                {"object": "list", "data": [model]} if known else {"error": "not found"}, 200 if known else 404
            )

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = oracle.message(request)
            choice = {"index": 0, "message": message, "finish_reason": "stop" if message["content"] else "tool_calls"}
            usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
            self._answer(
                {
                    "id": "oracle",
                    "object": "chat.completion",
                    "created": 1,
                    "model": MODEL,
                    "choices": [choice],
                    "usage": usage,
                }
            )

        def _answer(self, document: Mapping[str, Any], status: int = 200) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: requests are part of the measurement."""

    return Handler
