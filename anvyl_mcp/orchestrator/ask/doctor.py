"""What is there and what is wrong, in one line each: the engine, the server, the hosts, the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import anyio

from anvyl_mcp.core.errors import AnvylError, ModelUnavailable
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.core.text import plural
from anvyl_mcp.orchestrator.models.drive_mode import drive_mode_for
from anvyl_mcp.orchestrator.models.model_choice import SMALL_CONTEXT, choose_model, more_context_hint
from anvyl_mcp.orchestrator.models.servers.model_server import (
    LLAMA_CPP,
    LMSTUDIO,
    OLLAMA,
    OPENAI_COMPATIBLE,
    SET_URL,
    base_url,
    list_models,
)
from anvyl_mcp.orchestrator.models.servers.probe import probe
from anvyl_mcp.peers.fleet.fleet import Fleet
from anvyl_mcp.peers.watch.health import check_hosts

Verdict = Literal["ok", "note", "wrong"]

PORTS = (1234, 11434, 8080, 8000, 1337, 12434)
"""Where model servers listen unless told otherwise: LM Studio, Ollama, llama.cpp, vLLM, Jan, Docker Model Runner."""
PATHS = {12434: "/engines/v1"}
KINDS = {LMSTUDIO: "LM Studio", OLLAMA: "Ollama", LLAMA_CPP: "llama.cpp"}
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `wrong` keeps something from working; `note` is good to know."""

    about: str
    verdict: Verdict
    said: str
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def examine(fleet: Fleet, settings: Settings, *, served: bool) -> list[Finding]:
    """Look at everything at once; the findings in the order in which a person would mend them."""
    parts: Sequence[Callable[[], Awaitable[list[Finding]]]] = (
        lambda: _engine(fleet),
        lambda: _server(fleet, served=served),
        lambda: _hosts(fleet),
        lambda: _model(settings),
    )
    found: list[list[Finding]] = [[] for _ in parts]

    async def one(index: int) -> None:
        found[index] = await parts[index]()

    async with anyio.create_task_group() as group:
        for index in range(len(parts)):
            group.start_soon(one, index)
    return [finding for part in found for finding in part]


async def _engine(fleet: Fleet) -> list[Finding]:
    done = await fleet.call(fleet.local.name, "get_host_info", {})
    if done.error is not None:
        return [Finding("engine", "wrong", done.error.message, done.error.hint)]
    engine = (done.answer.result or {})["engine"]
    if engine.get("error"):
        return [Finding("engine", "wrong", engine["error"])]
    running = plural(engine["containers_running"], "container")
    return [Finding("engine", "ok", f"{engine['name']} {engine['version']}, {running} running")]


async def _server(fleet: Fleet, *, served: bool) -> list[Finding]:
    if served:
        return [Finding("server", "ok", f"`{fleet.local.name}` is served at {fleet.local.url}")]
    hint = "start it where others or a browser should reach this machine: anvyl-mcp serve"
    return [Finding("server", "note", "no server runs here; commands start one for themselves", hint)]


async def _hosts(fleet: Fleet) -> list[Finding]:
    others = [name for name in fleet.hosts if name != fleet.local.name]
    if not others:
        return [Finding("hosts", "note", "this is the only host", "add one: run anvyl-mcp invite there")]
    return [
        Finding("host", "ok", f"`{one.name}` answers, version {one.version}")
        if one.ok
        else Finding("host", "wrong", f"`{one.name}` is {one.status}", one.hint)
        for one in await check_hosts(fleet, others)
    ]


async def _model(settings: Settings) -> list[Finding]:
    url = base_url(settings)
    try:
        listing = await list_models(settings)
    except ModelUnavailable as error:
        return [Finding("model server", "wrong", error.message, error.hint), *await _elsewhere(settings)]
    kind = KINDS.get(listing.provider, "an OpenAI-compatible server")
    models = plural(len(listing.chat_models), "model") if listing.models else "no list of models"
    found = [Finding("model server", "ok", f"{kind} at {url}, {models}")]
    if not listing.models and listing.provider == OPENAI_COMPATIBLE:
        said = f"{url} answers, but lists no models: it may be another kind of server"
        found = [Finding("model server", "note", said, SET_URL)]
    try:
        choice = await choose_model(settings)
    except ModelUnavailable as error:
        return [*found, Finding("model", "wrong", error.message, error.hint)]
    drive = drive_mode_for(settings.drive, choice)
    context = f", {choice.context_length} tokens of context" if choice.context_length else ""
    found.append(Finding("model", "ok", f"`{choice.name}`{context}; asked for {_means(drive)}"))
    if not any(one.name == choice.name and one.loaded is False for one in listing.models):
        # One that is not loaded would be loaded by a question, which takes minutes and memory.
        probed = await probe(settings, choice.name, with_tool=drive == "tools")
        if probed.verdict == "ok":
            found[-1] = replace(found[-1], said=f"{found[-1].said}; {probed.summary}")
        else:
            found.append(Finding("model", probed.verdict, f"`{choice.name}` {probed.summary}", probed.hint))
    if choice.context_length and choice.context_length < SMALL_CONTEXT:
        said = f"{choice.context_length} tokens of context are little: long answers of hosts are cut"
        found.append(Finding("model", "note", said, more_context_hint(listing.provider, choice.name)))
    if choice.trained_for_tools is False:
        hint = "it plans instead, which works better; a model with tool use: anvyl models"
        found.append(Finding("model", "note", f"`{choice.name}` was not trained to use tools", hint))
    return found


def _means(drive: str) -> str:
    return "tool calls" if drive == "tools" else "a plan"


async def _elsewhere(settings: Settings) -> list[Finding]:
    """Other model servers on this machine. None is used by itself: the setting says which one is meant."""
    asked = base_url(settings)
    found: dict[int, Finding] = {}

    async def look(port: int) -> None:
        url = f"http://localhost:{port}{PATHS.get(port, '/v1')}"
        if url == asked:
            return
        try:
            with anyio.move_on_after(LOOK_SECONDS):
                listing = await list_models(replace(settings, lmstudio_url=url, llm_api_key=""))
                if not listing.models and listing.provider == OPENAI_COMPATIBLE:
                    return
                kind = KINDS.get(listing.provider, "an OpenAI-compatible server")
                said = f"{kind} answers at {url}, {plural(len(listing.chat_models), 'model')}"
                found[port] = Finding("model server", "note", said, f"use it: export ANVYL_LMSTUDIO_URL={url}")
        except AnvylError as error:
            if "requires a key" in error.message:
                hint = f"use it: export ANVYL_LMSTUDIO_URL={url} ANVYL_LLM_API_KEY=…"
                said = f"a model server answers at {url} and requires a key"
                found[port] = Finding("model server", "note", said, hint)

    async with anyio.create_task_group() as group:
        for port in PORTS:
            group.start_soon(look, port)
    return [found[port] for port in PORTS if port in found]
