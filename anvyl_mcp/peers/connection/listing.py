"""What a host says about its tools, and what it answers to a call, free of any protocol library."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from anvyl_mcp.core import protocol_keys as meta_keys
from anvyl_mcp.core import text
from anvyl_mcp.core.errors import AnvylError, Busy, from_code

ToolSafety = Literal["reads", "changes", "destroys"]

ProgressCallback = Callable[[float, float | None, str], None]

LONGEST_RETRY = 60
"""Seconds after which a host may ask to be asked again; one that says more is not believed."""


@dataclass(frozen=True)
class ToolListing:
    """One tool as `tools/list` describes it.

    `say` are phrases for the rules (`"stop {name}"`), `about` words of other questions that it answers, `names` maps an
    argument to the kind of existing object it must name (`{"name": "container"}`), `seconds` is how long a call
    may take, `untrusted` marks results that hold text written by others, `once` says that the host does each operation
    once, however often it is sent.
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

    @classmethod
    def from_mcp(cls, listed: Mapping[str, Any]) -> ToolListing:
        """Read one entry of `tools/list` in its wire spelling. What a foreign tool does not say is assumed unsafe."""
        meta = (listed.get("_meta") or {}).get(meta_keys.TOOL) or {}
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
        )

    @property
    def reads(self) -> bool:
        """Whether a call leaves the host as it was."""
        return self.safety == "reads"

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Argument names with their schemas."""
        properties: Mapping[str, Any] = self.input_schema.get("properties", {})
        return properties

    @property
    def required(self) -> tuple[str, ...]:
        """Arguments without a default."""
        return tuple(self.input_schema.get("required", ()))

    @property
    def names(self) -> Mapping[str, str]:
        """Arguments that must name an existing object, with the kind of object."""
        return self._marked("x-names")

    @property
    def makes(self) -> Mapping[str, str]:
        """Arguments that name an object which the call makes."""
        return self._marked("x-makes")

    @property
    def uses(self) -> Mapping[str, str]:
        """Arguments that name an object which the call uses, and makes or fetches when it is not there."""
        return self._marked("x-uses")

    @property
    def ports_of(self) -> Mapping[str, str]:
        """Arguments that are ports to publish, with the argument that names their image."""
        return self._marked("x-ports-of")

    def _marked(self, marker: str) -> dict[str, str]:
        return {name: schema[marker] for name, schema in self.arguments.items() if marker in schema}


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where a host's audit log ends: the number and the hash of its last record."""

    seq: int
    hash: str

    @classmethod
    def from_meta(cls, told: object) -> AuditHead | None:
        """What a host says; None when it says nothing, or nothing of that form."""
        if not isinstance(told, Mapping):
            return None
        seq, digest = told.get("seq"), told.get("hash")
        good = type(seq) is int and 0 < seq < 2**53 and isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
        return cls(seq, digest) if good else None  # type: ignore[arg-type]  # `good` says so


@dataclass(frozen=True)
class ToolAnswer:
    """What one host answered to one call: a structured result with its text form, or an error.

    `head` is where its audit log ended then, `key` the pin of the key that it has or will have, `operation` the id of
    the change that the answer tells the end of.
    """

    result: dict[str, Any] | None = None
    text: str = ""
    error: AnvylError | None = None
    head: AuditHead | None = None
    key: str = ""
    operation: str = ""

    @property
    def ok(self) -> bool:
        """Whether the tool did what it was asked."""
        return self.error is None

    @classmethod
    def from_mcp(cls, result: Mapping[str, Any]) -> ToolAnswer:
        """Read a `CallToolResult` in its wire spelling."""
        blocks = result.get("content") or []
        # A peer may be older than ours, or lie: what it says must not move the cursor of a terminal.
        words = text.clean("\n".join(block["text"] for block in blocks if block.get("type") == "text"))
        meta = result.get("_meta") or {}
        words_only = cls(
            text=words,
            head=AuditHead.from_meta(meta.get(meta_keys.HEAD)),
            key=str(meta.get(meta_keys.KEY) or ""),
            operation=text.clean(str(meta.get(meta_keys.OPERATION) or "")),
        )
        if not result.get("isError"):
            return replace(words_only, result=text.clean_json(result.get("structuredContent")))
        error = error_in_meta(meta) or AnvylError(text.one_line(words) or "the tool failed and did not say why")
        return replace(words_only, error=error)


def error_in_meta(meta: object) -> AnvylError | None:
    """The error of ours that travels under `_meta`, if one does."""
    told = meta.get(meta_keys.ERROR) if isinstance(meta, Mapping) else None
    if not isinstance(told, Mapping) or not isinstance(told.get("message"), str):
        return None
    return peer_error(told)


def peer_error(told: Mapping[str, Any]) -> AnvylError:
    """An error in a peer's own words, each on one line: they must not pass for lines of ours."""
    words = (text.one_line(str(told.get(key, ""))) for key in ("message", "hint"))
    error, wait = from_code(str(told.get("code")), *words), told.get("retry_after")
    if isinstance(error, Busy) and isinstance(wait, int | float) and 0 < wait <= LONGEST_RETRY:
        error.retry_after = float(wait)
    return error


class Connection(Protocol):
    """One host as seen through one transport. Safe to use from several tasks at once."""

    async def list_tools(self) -> list[ToolListing]:
        """The host's tools.

        Raises:
            Unreachable, Timeout: the host does not answer.
        """
        ...

    async def version(self) -> str:
        """The version of the server at the other end, freshly asked; empty when it does not say.

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
        """Let go of what the connection holds."""
        ...
