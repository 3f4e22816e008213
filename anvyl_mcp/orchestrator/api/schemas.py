"""Request and response models of the agent API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anvyl_mcp.orchestrator.question import MOST_CHARACTERS

Query = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS, description="a question or an instruction")]
HostId = Annotated[str, Field(min_length=1, max_length=64, description="a host's name in the fleet")]
Approve = Annotated[
    bool,
    Field(description="execute changes at once, unless they were proposed after untrusted text was read"),
]


def _is_empty(value: object) -> bool:
    return not value


class Document(BaseModel):
    """A JSON request body, parsed strictly: no unknown fields, no type coercion."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Question(Document):
    """A question in plain language. Questions with the same `conversation` may refer to earlier ones."""

    query: Query
    approve: Approve = False
    conversation: Annotated[str, Field(max_length=40, description="any id; empty: a question by itself")] = ""


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
    """The decision about pending changes."""

    approve: Annotated[bool, Field(description="true executes the changes, false drops them")]


class DoneCall(BaseModel):
    """One executed call on one host."""

    tool: str
    arguments: dict[str, Any] = {}
    host: str
    ok: bool
    result: dict[str, Any] | None = None
    error: str | None = None
    seconds: float = 0


class WaitingCall(BaseModel):
    """One call that approval would execute on these hosts. `untrusted` names untrusted text that was read before it.

    `summary` describes it in words, with the state of its objects. `why` is the reason why `approve: true` does not
    cover it; `details` lists the affected objects if the arguments do not name them.
    """

    tool: str
    arguments: dict[str, Any] = {}
    hosts: list[str] = []
    summary: Annotated[str, Field(exclude_if=_is_empty)] = ""
    untrusted: Annotated[str, Field(exclude_if=_is_empty)] = ""
    why: Annotated[str, Field(exclude_if=_is_empty)] = ""
    details: Annotated[list[str], Field(exclude_if=_is_empty)] = []


class Approval(BaseModel):
    """Changes that wait for approval. The id can be used once."""

    id: str
    calls: list[WaitingCall]
    expires_at: datetime


class PendingChange(Approval):
    """Changes that wait for approval, what was asked, and by whom. What looks secret is hidden."""

    question: str
    asker: str


class ErrorBody(BaseModel):
    """An error and a hint how to solve it."""

    code: str
    message: str
    hint: str = ""
    request_id: Annotated[str, Field(exclude_if=_is_empty)] = ""


class Answer(BaseModel):
    """The answer and all calls made for it. `error` names calls that failed or changes that were not made."""

    response: str
    calls: list[DoneCall] = []
    mode: Literal["model", "rules"] = "rules"
    model: str = ""
    usage: dict[str, int] = {}
    hosts: dict[str, str] = {}
    notes: list[str] = []
    error: Annotated[ErrorBody | None, Field(exclude_if=_is_empty)] = None
    words: Annotated[str, Field(exclude_if=_is_empty, description="the response without the lists in it")] = ""
    meant: Annotated[str, Field(exclude_if=_is_empty, description="the question with words of earlier ones")] = ""


class Waiting(Answer):
    """An answer with changes that wait for approval; none of them was executed."""

    approval: Approval


class RemoteAnswer(Answer):
    """Another host's answer: by its `agent`, or by this host with the other host's `tools` if the agent could not."""

    host_id: str
    via: Literal["agent", "tools"] = "agent"


class RemoteWaiting(RemoteAnswer):
    """An answer with changes that wait for approval on another host."""

    approval: Approval


class Failure(BaseModel):
    """The form of every error response."""

    error: ErrorBody


class Result(BaseModel):
    """One host's answer to a broadcast. For a failure `result` holds the message, and `error` the details."""

    host_id: str
    result: str
    via: Annotated[Literal["agent", "tools"] | None, Field(exclude_if=_is_empty)] = None
    error: Annotated[ErrorBody | None, Field(exclude_if=_is_empty)] = None
    approval: Annotated[Approval | None, Field(exclude_if=_is_empty)] = None


class Results(BaseModel):
    """The answers of all hosts to a broadcast."""

    results: list[Result]


# Examples for the documentation.

ANSWER_EXAMPLE = {
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
WAITING_EXAMPLE: dict[str, Any] = {
    **ANSWER_EXAMPLE,
    "response": "Waiting for approval: stop web on nas. Nothing was changed yet.",
    "calls": [],
    "hosts": {},
    "approval": {
        "id": "Zb7k2pXr1mQ9uT4wYc8eLA",
        "calls": [{"tool": "stop_container", "arguments": {"name": "web"}, "hosts": ["nas"]}],
        "expires_at": "2026-11-25T22:45:00Z",
    },
}
