"""The table of endpoints as an OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from anvyl_mcp import __version__
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.orchestrator.api.endpoint import Endpoint, load
from anvyl_mcp.orchestrator.api.schemas import Failure

ALWAYS = (401, 403, 421, 429)
"""What any route may answer to anybody, besides what its row names."""
WITH_BODY = (408, 413, 415, 422)
WORDS = {
    200: "done",
    201: "added",
    202: "something waits for a yes",
    401: "no token, or one that is not known",
    403: "not the right for it",
    404: "no such host, container or approval",
    408: "the body did not come to its end",
    409: "in use, in a circle, or not as it was any more",
    410: "used already, or expired",
    413: "too large",
    415: "not JSON",
    421: "this host is not called that",
    422: "not what is asked for",
    429: "too often, or too much at once",
    500: "a mistake in Anvyl; its log says more",
    502: "another host does not answer, or not as it should",
    503: "no engine, no model, or a damaged file",
    504: "another host does not answer in time",
}
REF = "#/components/schemas/{model}"
HEALTH = {
    "type": "object",
    "properties": {
        "status": {"enum": ["healthy", "degraded"]},
        "service": {"const": "anvyl"},
        "version": {"type": "string"},
        "checks": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["status", "service", "version"],
}
EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["call", "result", "text", "approval", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


@cache
def document() -> dict[str, Any]:
    """The document, complete in itself."""
    endpoints = load()
    kinds: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [("error", "serialization", TypeAdapter(Failure))]
    for one in endpoints:
        if one.takes is not None:
            kinds.append((f"{one.name} body", "validation", TypeAdapter(one.takes)))
        kinds += [(f"{one.name} {status}", "serialization", TypeAdapter(kind)) for status, kind in one.answers.items()]
    schemas, described = TypeAdapter.json_schemas(kinds, ref_template=REF)
    schema = {name: schemas[name, mode] for name, mode, _ in kinds}
    paths: dict[str, dict[str, Any]] = {"/health": {"get": _health(schema)}, "/metrics": {"get": _metrics(schema)}}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schema)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Anvyl MCP",
            "version": __version__,
            "description": "Ask Docker hosts in plain words, and tell them what to do. "
            "Whoever runs the server needs no token on its own machine.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": described.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(one: Endpoint, schema: Mapping[str, Any]) -> dict[str, Any]:
    statuses = sorted({*ALWAYS, *one.errors, *(WITH_BODY if one.takes else ())} - set(one.answers))
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", one.path)
    ]
    request_id = {
        "name": protocol_keys.REQUEST_ID_HEADER,
        "in": "header",
        "required": False,
        "description": "what to call this request in answers and logs",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:+=-]{1,64}$"},
    }
    told: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "description": f"Needs the right `{one.needs}`.",
        "parameters": [*parameters, request_id],
        "responses": {
            **{str(status): _answer(one, status, schema[f"{one.name} {status}"]) for status in one.answers},
            **{str(status): _failure(status, schema) for status in statuses},
        },
    }
    if one.takes is not None:
        content: dict[str, Any] = {"schema": schema[f"{one.name} body"]}
        if one.example is not None:
            content["example"] = dict(one.example)
        told["requestBody"] = {"required": True, "content": {"application/json": content}}
    return told


def _answer(one: Endpoint, status: int, schema: Any) -> dict[str, Any]:
    if one.streams:
        events = {"schema": EVENT, "example": {"event": "text", "data": '{"text": "web is running on nas."}'}}
        return {"description": WORDS[status], "content": {"text/event-stream": events}}
    content: dict[str, Any] = {"schema": schema}
    if status in one.shows:
        content["example"] = one.shows[status]
    return {"description": WORDS[status], "content": {"application/json": content}}


def _failure(status: int, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": WORDS[status], "content": {"application/json": {"schema": schema["error"]}}}


def _health(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": "health",
        "summary": "Say whether this host works; checks only to callers who may read. Needs no token.",
        "responses": {
            "200": {"description": WORDS[200], "content": {"application/json": {"schema": HEALTH}}},
            **{str(status): _failure(status, schema) for status in ALWAYS},
        },
        "security": [{}],
    }


def _metrics(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": "metrics",
        "summary": "Figures for Prometheus.",
        "description": "Needs the right `read`.",
        "responses": {
            "200": {"description": WORDS[200], "content": {"text/plain": {"schema": {"type": "string"}}}},
            **{str(status): _failure(status, schema) for status in ALWAYS},
        },
    }
