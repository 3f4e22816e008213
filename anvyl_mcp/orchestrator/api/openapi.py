"""The endpoints as an OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from anvyl_mcp import __version__
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.orchestrator.api.endpoint import Endpoint, load_endpoints
from anvyl_mcp.orchestrator.api.schemas import Failure

COMMON_STATUSES = (401, 403, 421, 429)
"""Error statuses of every route, whether its endpoint declares them or not."""
BODY_STATUSES = (408, 413, 415, 422)
DESCRIPTIONS = {
    200: "done",
    201: "added",
    202: "changes wait for approval",
    401: "missing or unknown token",
    403: "insufficient rights",
    404: "no such host, container or approval",
    408: "the body was not received completely",
    409: "the name is in use, the question was forwarded in a circle, or the container has been replaced",
    410: "the approval was already used or has expired",
    413: "too large",
    415: "not JSON",
    421: "the Host header does not name this host",
    422: "the body does not match the schema",
    429: "too many requests",
    500: "internal error; see the log",
    502: "another host does not answer, or its answer is invalid",
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


@cache
def document() -> dict[str, Any]:
    """The complete OpenAPI document."""
    endpoints = load_endpoints()
    models: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [("error", "serialization", TypeAdapter(Failure))]
    for endpoint in endpoints:
        if endpoint.body is not None:
            models.append((f"{endpoint.name} body", "validation", TypeAdapter(endpoint.body)))
        models += [
            (f"{endpoint.name} {status}", "serialization", TypeAdapter(model))
            for status, model in endpoint.responses.items()
        ]
        models += [
            (f"{endpoint.name} {event}", "serialization", TypeAdapter(model))
            for event, model in endpoint.events.items()
        ]
    schemas, definitions = TypeAdapter.json_schemas(models, ref_template=REF)
    schema = {name: schemas[name, mode] for name, mode, _ in models}
    paths: dict[str, dict[str, Any]] = {"/health": {"get": _health(schema)}, "/metrics": {"get": _metrics(schema)}}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schema)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Anvyl MCP",
            "version": __version__,
            "description": "Ask Docker hosts questions in plain language, and change them after approval. "
            "The user who runs the server needs no token on the same machine.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(endpoint: Endpoint, schema: Mapping[str, Any]) -> dict[str, Any]:
    statuses = {*COMMON_STATUSES, *endpoint.errors, *(BODY_STATUSES if endpoint.body else ())}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    request_id = {
        "name": protocol_keys.REQUEST_ID_HEADER,
        "in": "header",
        "required": False,
        "description": "id for this request in responses and logs",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:+=-]{1,64}$"},
    }
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": f"Needs the scope `{endpoint.scope}`.",
        "parameters": [*parameters, request_id],
        "responses": {
            **{str(status): _response(endpoint, status, schema) for status in endpoint.responses},
            **{str(status): _failure(status, schema) for status in sorted(statuses - set(endpoint.responses))},
        },
    }
    if endpoint.body is not None:
        content: dict[str, Any] = {"schema": schema[f"{endpoint.name} body"]}
        if endpoint.example is not None:
            content["example"] = dict(endpoint.example)
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _response(endpoint: Endpoint, status: int, schema: Mapping[str, Any]) -> dict[str, Any]:
    if endpoint.streams:
        documents = {event: schema[f"{endpoint.name} {event}"] for event in endpoint.events} | {
            "error": schema["error"]
        }
        event = {"oneOf": [_event(name, document) for name, document in documents.items()]}
        shown = {"event": list(endpoint.events)[-1], "data": json.dumps(endpoint.response_examples.get(status, {}))}
        return {
            "description": DESCRIPTIONS[status],
            "content": {"text/event-stream": {"schema": event, "example": shown}},
        }
    content: dict[str, Any] = {"schema": schema[f"{endpoint.name} {status}"]}
    if status in endpoint.response_examples:
        content["example"] = endpoint.response_examples[status]
    return {"description": DESCRIPTIONS[status], "content": {"application/json": content}}


def _event(name: str, document: Any) -> dict[str, Any]:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": document}
    return {"type": "object", "properties": {"event": {"const": name}, "data": data}, "required": ["event", "data"]}


def _failure(status: int, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": DESCRIPTIONS[status], "content": {"application/json": {"schema": schema["error"]}}}


def _health(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": "health",
        "summary": "Report whether this host works. Needs no token; only callers with the scope `read` see the checks.",
        "responses": {
            "200": {"description": DESCRIPTIONS[200], "content": {"application/json": {"schema": HEALTH}}},
            **{str(status): _failure(status, schema) for status in COMMON_STATUSES},
        },
        "security": [{}],
    }


def _metrics(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": "metrics",
        "summary": "Metrics for Prometheus.",
        "description": "Needs the scope `read`.",
        "responses": {
            "200": {"description": DESCRIPTIONS[200], "content": {"text/plain": {"schema": {"type": "string"}}}},
            **{str(status): _failure(status, schema) for status in COMMON_STATUSES},
        },
    }
