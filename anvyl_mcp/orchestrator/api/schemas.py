"""What questions and answers look like over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anvyl_mcp.orchestrator.question import MOST_CHARACTERS

Query = Annotated[
    str, Field(min_length=1, max_length=MOST_CHARACTERS, description="what you want to know or have done")
]
HostId = Annotated[str, Field(min_length=1, max_length=64, description="a host's name in the fleet")]
Approve = Annotated[
    bool,
    Field(description="have changes done at once, unless they were proposed after text written by others was read"),
]


def _is_empty(value: object) -> bool:
    return not value


class Document(BaseModel):
    """A JSON body. What we are sent is taken literally: no unknown fields, no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Question(Document):
    """A question in plain words."""

    query: Query
    approve: Approve = False


class RemoteQuestion(Document):
    """A question for the agent of another host."""

    host_id: HostId
    query: Query
    approve: Approve = False


class Message(Document):
    """A question for the agents of all known hosts."""

    message: Query
    approve: Approve = False


class Decision(Document):
    """A person's answer to changes that wait."""

    approve: Annotated[bool, Field(description="true has them done, false ends it")]


class DoneCall(BaseModel):
    """One call on one host."""

    tool: str
    arguments: dict[str, Any] = {}
    host: str
    ok: bool
    result: dict[str, Any] | None = None
    error: str | None = None
    seconds: float = 0


class WaitingCall(BaseModel):
    """One call that would be made on these hosts; `untrusted` names text by others that was read before.

    `why` says why no yes given in advance covers it, `details` what it acts on where the arguments do not.
    """

    tool: str
    arguments: dict[str, Any] = {}
    hosts: list[str] = []
    untrusted: Annotated[str, Field(exclude_if=_is_empty)] = ""
    why: Annotated[str, Field(exclude_if=_is_empty)] = ""
    details: Annotated[list[str], Field(exclude_if=_is_empty)] = []


class Approval(BaseModel):
    """What waits for a yes, by the id to answer it with; good once."""

    id: str
    calls: list[WaitingCall]
    expires_at: datetime


class ErrorBody(BaseModel):
    """What went wrong, and what to try."""

    code: str
    message: str
    hint: str = ""
    request_id: Annotated[str, Field(exclude_if=_is_empty)] = ""


class Answer(BaseModel):
    """The answer with everything that was done for it; `error` says what of it was not, by name."""

    response: str
    calls: list[DoneCall] = []
    mode: Literal["model", "rules"] = "rules"
    model: str = ""
    usage: dict[str, int] = {}
    hosts: dict[str, str] = {}
    notes: list[str] = []
    error: Annotated[ErrorBody | None, Field(exclude_if=_is_empty)] = None


class Waiting(Answer):
    """Something waits for a yes: nothing of it was done."""

    approval: Approval


class RemoteAnswer(Answer):
    """Another host's answer: by its `agent`, or, where that could not, from here with its `tools`."""

    host_id: str
    via: Literal["agent", "tools"] = "agent"


class RemoteWaiting(RemoteAnswer):
    """Something waits for a yes on another host."""

    approval: Approval


class Failure(BaseModel):
    """Every error has this form."""

    error: ErrorBody


class Result(BaseModel):
    """One host's answer to a broadcast; a failure has its sentence in `result`, and `error` beside it."""

    host_id: str
    result: str
    via: Annotated[Literal["agent", "tools"] | None, Field(exclude_if=_is_empty)] = None
    error: Annotated[ErrorBody | None, Field(exclude_if=_is_empty)] = None
    approval: Annotated[Approval | None, Field(exclude_if=_is_empty)] = None


class Results(BaseModel):
    """Every known host's answer."""

    results: list[Result]


# What the documentation shows.

LISTED = {
    "response": "2 containers (1 running, 1 exited) on nas.",
    "calls": [
        {
            "tool": "list_containers",
            "arguments": {"all": True},
            "host": "nas",
            "ok": True,
            "result": {
                "containers": [{"id": "1f0c9a2b7d3e", "name": "web", "state": "running"}],
                "total": 2,
                "more": 1,
            },
            "error": None,
            "seconds": 0.012,
        }
    ],
    "mode": "model",
    "model": "qwen/qwen3.5-9b",
    "usage": {"requests": 2, "input_tokens": 1890, "output_tokens": 44},
    "hosts": {"nas": "ok"},
    "notes": [],
}
HELD = {
    **LISTED,
    "response": "Waiting for a yes: stop web on nas. Nothing was changed yet.",
    "calls": [],
    "hosts": {},
    "approval": {
        "id": "Zb7k2pXr1mQ9uT4wYc8eLA",
        "calls": [{"tool": "stop_container", "arguments": {"name": "web"}, "hosts": ["nas"]}],
        "expires_at": "2026-11-25T22:45:00Z",
    },
}
