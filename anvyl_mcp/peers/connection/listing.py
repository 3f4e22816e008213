"""Tool listings, tool answers and the connection interface, independent of any protocol library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from anvyl_mcp.core import protocol_keys, text
from anvyl_mcp.core.errors import AnvylError, Busy, from_code

ToolSafety = Literal["reads", "changes", "destroys"]

ProgressCallback = Callable[[float, float | None, str], None]

LONGEST_RETRY = 60
"""Upper limit for the `retry_after` of a host, in seconds; larger values are ignored."""


@dataclass(frozen=True)
class ToolListing:
    """One tool as `tools/list` describes it.

    `say` are phrases for the rules (`"stop {name}"`), `about` words of other questions that it answers, `names` maps an
    argument to the kind of existing object it must name (`{"name": "container"}`), `seconds` is the time limit of a
    call, `untrusted` marks results that contain text from third parties, `once` means that the host deduplicates calls
    by operation id, so that resending one is safe, `rare` that a model sees the tool only after asking for it, `hidden`
    that it is a step of one of our own commands, which no one else is shown.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] = field(default_factory=dict)
    toolset: str = ""
    scope: str = "exec"
    safety: ToolSafety = "destroys"
    say: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    untrusted: bool = True
    seconds: float = 30
    once: bool = False
    rare: bool = False
    hidden: bool = False

    @classmethod
    def from_mcp(cls, listed: Mapping[str, Any]) -> ToolListing:
        """Parse one entry of `tools/list`. Missing metadata of a third-party tool defaults to unsafe."""
        meta = (listed.get("_meta") or {}).get(protocol_keys.TOOL) or {}
        read_only = bool((listed.get("annotations") or {}).get("readOnlyHint"))
        return cls(
            name=listed["name"],
            description=listed.get("description") or "",
            input_schema=listed.get("inputSchema") or {"type": "object", "properties": {}},
            output_schema=listed.get("outputSchema") or {},
            toolset=meta.get("toolset", ""),
            scope=meta.get("scope", "exec"),
            safety=meta.get("safety", "reads" if read_only else "destroys"),
            say=tuple(meta.get("say", ())),
            about=tuple(meta.get("about", ())),
            untrusted=bool(meta.get("untrusted", True)),
            seconds=float(meta.get("seconds", 30)),
            once=meta.get("once") is True,
            rare=meta.get("rare") is True,
            hidden=meta.get("hidden") is True,
        )

    @property
    def reads(self) -> bool:
        """Whether a call changes nothing."""
        return self.safety == "reads"

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Schemas by argument name."""
        properties: Mapping[str, Any] = self.input_schema.get("properties", {})
        return properties

    @property
    def required(self) -> tuple[str, ...]:
        """Arguments without a default."""
        return tuple(self.input_schema.get("required", ()))

    @property
    def names(self) -> Mapping[str, str]:
        """Kinds of object by argument, for arguments that must name an existing object."""
        return self._marked("x-names")

    @property
    def makes(self) -> Mapping[str, str]:
        """Kinds of object by argument, for arguments that name an object to create."""
        return self._marked("x-makes")

    @property
    def uses(self) -> Mapping[str, str]:
        """Kinds of object by argument, for arguments that name an object which is created or pulled if missing."""
        return self._marked("x-uses")

    @property
    def ports_of(self) -> Mapping[str, str]:
        """Arguments that list ports to publish, with the argument that names their image."""
        return self._marked("x-ports-of")

    def _marked(self, marker: str) -> dict[str, str]:
        return {name: schema[marker] for name, schema in self.arguments.items() if marker in schema}


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The end of a host's audit log: number and hash of its last record."""

    seq: int
    hash: str

    @classmethod
    def from_meta(cls, reported: object) -> AuditHead | None:
        """Parse what a host reported; None if it is missing or malformed."""
        if not isinstance(reported, Mapping):
            return None
        seq, digest = reported.get("seq"), reported.get("hash")
        good = type(seq) is int and 0 < seq < 2**53 and isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
        return cls(seq, digest) if good else None  # type: ignore[arg-type]  # `good` says so


@dataclass(frozen=True)
class ToolAnswer:
    """The answer of one host to one call: a structured result with its text form, or an error.

    `head` is the end of its audit log, `key` the pin of its current or next TLS key, `operation` the id of the change
    whose outcome this is.
    """

    result: dict[str, Any] | None = None
    text: str = ""
    error: AnvylError | None = None
    head: AuditHead | None = None
    key: str = ""
    operation: str = ""

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.error is None

    @classmethod
    def from_mcp(cls, result: Mapping[str, Any]) -> ToolAnswer:
        """Parse a `CallToolResult` as it was received."""
        blocks = result.get("content") or []
        # A peer may be older, or malicious: its text must not contain terminal control sequences.
        words = text.clean("\n".join(block["text"] for block in blocks if block.get("type") == "text"))
        meta = result.get("_meta") or {}
        words_only = cls(
            text=words,
            head=AuditHead.from_meta(meta.get(protocol_keys.HEAD)),
            key=str(meta.get(protocol_keys.KEY) or ""),
            operation=text.clean(str(meta.get(protocol_keys.OPERATION) or "")),
        )
        if not result.get("isError"):
            return replace(words_only, result=text.clean_json(result.get("structuredContent")))
        error = error_in_meta(meta) or AnvylError(text.one_line(words) or "the tool failed and gave no reason")
        return replace(words_only, error=error)


def error_in_meta(meta: object) -> AnvylError | None:
    """Return the Anvyl error under `_meta`, if there is one."""
    fields = meta.get(protocol_keys.ERROR) if isinstance(meta, Mapping) else None
    if not isinstance(fields, Mapping) or not isinstance(fields.get("message"), str):
        return None
    return peer_error(fields)


def peer_error(fields: Mapping[str, Any]) -> AnvylError:
    """Rebuild an error that a peer reported. Its texts are put on one line each, so they cannot imitate our output."""
    words = (text.one_line(str(fields.get(key, ""))) for key in ("message", "hint"))
    error, wait = from_code(str(fields.get("code")), *words), fields.get("retry_after")
    if isinstance(error, Busy) and isinstance(wait, int | float) and 0 < wait <= LONGEST_RETRY:
        error.retry_after = float(wait)
    return error


class Connection(Protocol):
    """A connection to one host over any transport. Safe to use from several tasks at once."""

    async def list_tools(self) -> list[ToolListing]:
        """Return the host's tools.

        Raises:
            Unreachable, Timeout: the host does not answer.
        """
        ...

    async def version(self) -> str:
        """Ask the server for its version; empty if it reports none.

        Raises:
            Unreachable, Timeout: the host does not answer.
        """
        ...

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        seconds: float,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> ToolAnswer:
        """Call one tool and wait for its answer, `seconds` at most.

        Raises:
            Unreachable: the call was never sent.
            Timeout: it was sent and nothing came back in time.
            Unknown: it was sent and the connection was lost before the answer.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...
