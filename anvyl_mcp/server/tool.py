"""Declares tools: one typed function each, from which schemas, safety and scope are derived."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.values.answer_size import MIN_CHARACTERS, json_size, narrowing_hint, shorten_result
from anvyl_mcp.core.values.arguments import parse_arguments

Safety = Literal["reads", "changes", "destroys"]
Scope = Literal["read", "operate", "exec"]

Bytes = Annotated[int, Field(json_schema_extra={"format": "bytes"})]
Percent = Annotated[float, Field(json_schema_extra={"format": "percent"})]
KnownBytes = Annotated[int | None, Field(json_schema_extra={"format": "bytes"})]
KnownPercent = Annotated[float | None, Field(json_schema_extra={"format": "percent"})]
"""Values that an engine does not always report: null is not zero."""
Seconds = Annotated[float, Field(json_schema_extra={"format": "seconds"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
ContainerName = Annotated[
    str, Field(description="container name or id", min_length=1, json_schema_extra={"x-names": "container"})
]
"""A container that must exist. `x-names` lets a caller find the host that has it."""


Strings = list[str]


class Injected:
    """Base class of parameters that are injected by type and hidden from callers."""


class Result(BaseModel):
    """Result of a tool: structured for programs, with a compact text form for models."""

    model_config = ConfigDict(extra="forbid")

    def text(self) -> str:
        """The compact text form."""
        return text.format_result(self.model_dump(mode="json"), schema_of(type(self)))


def fit_result(result: Result, most: int, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Render a result as text and as fields, together at most `most` bytes. `arguments`: those of its tool."""
    structured, words, room = result.model_dump(mode="json"), result.text(), most
    while json_size(structured) + json_size(words) > most and room > MIN_CHARACTERS:
        # The text has the same content as the fields, in about as many bytes.
        room = room * 2 // 3
        structured, notes = shorten_result(result.model_dump(mode="json"), room, narrowing_hint(arguments))
        words = "\n".join([type(result).model_validate(structured).text(), *notes])
    return words, structured


class Row(BaseModel):
    """One entry of a list; `columns` are the fields to show, in order."""

    columns: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.columns:
            schema["columns"] = list(cls.columns)
        return schema


CURRENT_TOOL: ContextVar[Tool | None] = ContextVar("called", default=None)
"""The tool that is running; access to a container depends on it (`Engine.container`)."""

BOUND_IDS: ContextVar[Mapping[tuple[str, str], str]] = ContextVar("held", default=MappingProxyType({}))
"""Ids of the objects that this call may act on, by kind and name in the call. An empty id: no such object existed when
the call was allowed.
"""

CHECK_POLICY: ContextVar[Callable[[], None]] = ContextVar("permit", default=lambda: None)
"""Checks the policy again, for a tool that finds out only while it runs which object it uses."""

OPERATION_ID: ContextVar[str] = ContextVar("operation", default="")
"""The operation id of the change that is running."""

_schemas: dict[type[BaseModel], dict[str, Any]] = {}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema without references, titles and descriptions of fields that need none."""
    if model not in _schemas:
        # Arguments accept null as "not given", without mentioning it in the schema.
        keep_null = issubclass(model, Result)
        _schemas[model] = _slim(text.resolve_schema(model.model_json_schema(), keep_null=keep_null))
    return _schemas[model]


def _slim(node: Any) -> Any:
    """Remove titles, which only cost tokens, and patterns and lengths, which break llama.cpp's grammars."""
    if isinstance(node, list):
        return [_slim(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    slimmed = {}
    for key, entry in node.items():
        if key == "properties":
            slimmed[key] = {name: _slim(field) for name, field in entry.items()}
        elif not (key == "title" and isinstance(entry, str)) and key not in ("pattern", "maxLength", "minLength"):
            slimmed[key] = _slim(entry)
    return slimmed


@dataclass(frozen=True)
class Tool:
    """A declared tool: description, schemas, safety and function."""

    name: str
    description: str
    toolset: str
    safety: Safety
    scope: Scope
    say: tuple[str, ...]
    about: tuple[str, ...]
    untrusted: bool
    seconds: float
    rare: bool
    function: Callable[..., Any]
    arguments: type[BaseModel]
    result: type[Result]
    injected: Mapping[str, type]
    hidden: bool = False

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the arguments; unknown arguments are rejected."""
        schema = dict(schema_of(self.arguments))
        schema.pop("description", None)
        return {"type": "object", "properties": {}, **schema}

    @property
    def output_schema(self) -> dict[str, Any]:
        """JSON schema of the structured result."""
        schema = dict(schema_of(self.result))
        schema.pop("description", None)
        return schema

    def parse(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check and convert arguments.

        Raises:
            InvalidInput: one is missing, unknown or of the wrong kind.
        """
        given = parse_arguments(self.name, self.input_schema, arguments)
        try:
            parsed = self.arguments.model_validate(given)
        except ValidationError as error:
            raise _invalid(error) from error
        return {name: self._plain(name, getattr(parsed, name)) for name in self.arguments.model_fields}

    def _plain(self, argument: str, value: Any) -> Any:
        """Docker writes the container `web` as `/web`; remove the slash."""
        schema = self.input_schema["properties"][argument]
        is_name = schema.get("x-names") == "container" and isinstance(value, str)
        return value.removeprefix("/") if is_name and len(value) > 1 else value

    def call(self, arguments: Mapping[str, Any], dependencies: Mapping[type, object]) -> Result | Awaitable[Result]:
        """Run the function with parsed arguments and the dependencies it declares."""
        CURRENT_TOOL.set(self)
        supplied = {name: dependencies[kind] for name, kind in self.injected.items()}
        outcome: Result | Awaitable[Result] = self.function(**arguments, **supplied)
        return outcome

    @property
    def is_async(self) -> bool:
        """Whether the function runs on the event loop rather than on a worker thread."""
        return inspect.iscoroutinefunction(self.function)


def _invalid(error: ValidationError) -> InvalidInput:
    first = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    given = text.clean(repr(first["input"]))[:80]
    wanted = first["msg"].removeprefix("Value error, ")
    if wanted.startswith("Input should be "):
        return InvalidInput(f"`{name}` is {given}; it should be {wanted.removeprefix('Input should be ')}")
    return InvalidInput(f"`{name}` is {given}, which is invalid: {wanted[:1].lower()}{wanted[1:]}")


def tool(
    *,
    say: Sequence[str] = (),
    about: str = "",
    changes: bool = False,
    destroys: bool = False,
    scope: Scope | None = None,
    untrusted: bool = False,
    seconds: float = 10,
    rare: bool = False,
    toolset: str = "",
    hidden: bool = False,
) -> Callable[[Callable[..., Any]], Tool]:
    """Declare a function as a tool.

    `say`: phrases for the rules, with `{argument}` placeholders. `about`: comma-separated keywords of other questions
    that it answers. `changes`, `destroys`: its safety; neither means that it only reads. `scope`: the scope a caller
    needs; by default `read` or `operate`, depending on safety. `untrusted`: its result has text from outside (logs,
    output, labels). `seconds`: timeout of a caller. `rare`: seldom needed, so a model sees it only after asking for it.
    `hidden`: a step of one of our commands, which no listing shows.
    """
    safety: Safety = "destroys" if destroys else "changes" if changes else "reads"
    needed: Scope = scope or ("read" if safety == "reads" else "operate")

    def declare(function: Callable[..., Any]) -> Tool:
        hints = typing.get_type_hints(function, include_extras=True)
        result = hints.pop("return")
        injected = {name: kind for name, kind in hints.items() if isinstance(kind, type) and issubclass(kind, Injected)}
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            if name not in injected:
                default = ... if parameter.default is inspect.Parameter.empty else parameter.default
                fields[name] = (hints[name], default)
        arguments = create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)
        return Tool(
            name=function.__name__,
            description=inspect.cleandoc(function.__doc__ or ""),
            toolset=toolset or function.__module__.rsplit(".", 1)[-1],
            safety=safety,
            scope=needed,
            say=tuple(say),
            about=tuple(words.strip() for words in about.split(",") if words.strip()),
            untrusted=untrusted,
            seconds=seconds,
            rare=rare,
            function=function,
            arguments=arguments,
            result=result,
            injected=injected,
            hidden=hidden,
        )

    return declare


def tools_in(module: ModuleType) -> list[Tool]:
    """The tools declared in one module, in order."""
    return [value for value in vars(module).values() if isinstance(value, Tool)]
