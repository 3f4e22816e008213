"""Diagnoses the engine, the server, the hosts and the model, in one line each."""

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

DiagnosisVerdict = Literal["ok", "note", "wrong"]

PORTS = (1234, 11434, 8080, 8000, 1337, 12434)
"""Default ports of LM Studio, Ollama, llama.cpp, vLLM, Jan and Docker Model Runner."""
PATHS = {12434: "/engines/v1"}
KINDS = {LMSTUDIO: "LM Studio", OLLAMA: "Ollama", LLAMA_CPP: "llama.cpp"}
PORT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of one check. `wrong`: something does not work; `note`: it works, but could be better.

    The fields are the keys of `anvyl doctor --json`.
    """

    about: str
    verdict: DiagnosisVerdict
    said: str
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON document of the diagnosis."""
        return asdict(self)


async def diagnose(fleet: Fleet, settings: Settings, *, served: bool) -> list[Diagnosis]:
    """Run all checks concurrently, and return their results in the order in which problems should be solved."""
    checks: Sequence[Callable[[], Awaitable[list[Diagnosis]]]] = (
        lambda: _check_engine(fleet),
        lambda: _check_server(fleet, served=served),
        lambda: _check_history(fleet, served=served),
        lambda: _check_hosts(fleet),
        lambda: _check_model(settings),
    )
    results: list[list[Diagnosis]] = [[] for _ in checks]

    async def run(index: int) -> None:
        results[index] = await checks[index]()

    async with anyio.create_task_group() as group:
        for index in range(len(checks)):
            group.start_soon(run, index)
    return [diagnosis for result in results for diagnosis in result]


async def _check_history(fleet: Fleet, *, served: bool) -> list[Diagnosis]:
    """A diagnosis only if the running server cannot record history, or had to begin a new one."""
    if not served:
        return []
    outcome = await fleet.call(fleet.local.name, "list_history", {"since": "1m", "limit": 1})
    problem = str((outcome.answer.result or {}).get("problem") or "") if outcome.ok else ""
    if outcome.error is not None and outcome.error.message.startswith("the history"):
        problem = outcome.error.message
    return [Diagnosis("history", "note", problem, "everything else works; see docs/history.md")] if problem else []


async def _check_engine(fleet: Fleet) -> list[Diagnosis]:
    outcome = await fleet.call(fleet.local.name, "get_host_info", {})
    if outcome.error is not None:
        return [Diagnosis("engine", "wrong", outcome.error.message, outcome.error.hint)]
    engine = (outcome.answer.result or {})["engine"]
    if engine.get("error"):
        return [Diagnosis("engine", "wrong", engine["error"])]
    running = plural(engine["containers_running"], "container")
    found = [Diagnosis("engine", "ok", f"{engine['name']} {engine['version']}, {running} running")]
    if limits := (outcome.answer.result or {}).get("limits"):
        found.append(Diagnosis("server", "note", limits))
    return found


async def _check_server(fleet: Fleet, *, served: bool) -> list[Diagnosis]:
    if served:
        return [Diagnosis("server", "ok", f"`{fleet.local.name}` is served at {fleet.local.url}")]
    hint = "to let other hosts or a browser connect: anvyl-mcp service install"
    return [Diagnosis("server", "note", "no server is running here; commands work without one", hint)]


async def _check_hosts(fleet: Fleet) -> list[Diagnosis]:
    others = [name for name in fleet.hosts if name != fleet.local.name]
    if not others:
        hint = "to add one, run `anvyl-mcp invite` on that machine"
        return [Diagnosis("hosts", "note", "this is the only host", hint)]
    return [
        Diagnosis("host", "ok", f"`{one.name}` answers, version {one.version}")
        if one.ok
        else Diagnosis("host", "wrong", f"`{one.name}` is {one.status}", one.hint)
        for one in await check_hosts(fleet, others)
    ]


async def _check_model(settings: Settings) -> list[Diagnosis]:
    url = base_url(settings)
    try:
        listing = await list_models(settings)
    except ModelUnavailable as error:
        return [Diagnosis("model server", "wrong", error.message, error.hint), *await _other_model_servers(settings)]
    kind = KINDS.get(listing.provider, "an OpenAI-compatible server")
    models = plural(len(listing.chat_models), "model") if listing.models else "no list of models"
    diagnoses = [Diagnosis("model server", "ok", f"{kind} at {url}, {models}")]
    if not listing.models and listing.provider == OPENAI_COMPATIBLE:
        said = f"{url} answers, but lists no models: it may be another kind of server"
        diagnoses = [Diagnosis("model server", "note", said, SET_URL)]
    try:
        choice = await choose_model(settings)
    except ModelUnavailable as error:
        return [*diagnoses, Diagnosis("model", "wrong", error.message, error.hint)]
    drive = drive_mode_for(settings.drive, choice)
    context = f", {choice.context_length} tokens of context" if choice.context_length else ""
    diagnoses.append(Diagnosis("model", "ok", f"`{choice.name}`{context}; asked for {_output_of(drive)}"))
    if not any(one.name == choice.name and one.loaded is False for one in listing.models):
        # A probe would load a model that is not loaded, which takes minutes and memory.
        probed = await probe(settings, choice.name, with_tool=drive == "tools")
        if probed.verdict == "ok":
            diagnoses[-1] = replace(diagnoses[-1], said=f"{diagnoses[-1].said}; {probed.summary}")
        else:
            diagnoses.append(Diagnosis("model", probed.verdict, f"`{choice.name}` {probed.summary}", probed.hint))
    if choice.context_length and choice.context_length < SMALL_CONTEXT:
        said = f"a context of {choice.context_length} tokens is small: long results are cut"
        diagnoses.append(Diagnosis("model", "note", said, more_context_hint(listing.provider, choice.name)))
    if choice.trained_for_tools is False:
        hint = "it is asked for plans instead, which works better; for models with tool use: anvyl models"
        diagnoses.append(Diagnosis("model", "note", f"`{choice.name}` was not trained to use tools", hint))
    return diagnoses


def _output_of(drive: str) -> str:
    return "tool calls" if drive == "tools" else "a plan"


async def _other_model_servers(settings: Settings) -> list[Diagnosis]:
    """Model servers on other ports of this machine, to suggest; only the configured one is ever used."""
    configured = base_url(settings)
    found: dict[int, Diagnosis] = {}

    async def check_port(port: int) -> None:
        url = f"http://localhost:{port}{PATHS.get(port, '/v1')}"
        if url == configured:
            return
        try:
            with anyio.move_on_after(PORT_SECONDS):
                listing = await list_models(replace(settings, lmstudio_url=url, llm_api_key=""))
                if not listing.models and listing.provider == OPENAI_COMPATIBLE:
                    return
                kind = KINDS.get(listing.provider, "an OpenAI-compatible server")
                said = f"{kind} answers at {url}, {plural(len(listing.chat_models), 'model')}"
                found[port] = Diagnosis("model server", "note", said, f"use it: export ANVYL_LMSTUDIO_URL={url}")
        except AnvylError as error:
            if "requires a key" in error.message:
                hint = f"use it: export ANVYL_LMSTUDIO_URL={url} ANVYL_LLM_API_KEY=…"
                said = f"a model server answers at {url} and wants a key"
                found[port] = Diagnosis("model server", "note", said, hint)

    async with anyio.create_task_group() as group:
        for port in PORTS:
            group.start_soon(check_port, port)
    return [found[port] for port in PORTS if port in found]
