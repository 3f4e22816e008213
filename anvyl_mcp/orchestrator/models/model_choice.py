"""Which language model answers: what the server offers, which of it to ask, and what the rules took over.

Nothing here imports an agent or a model library: listing models and saying why there is none must stay fast.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anvyl_mcp.core.errors import ModelUnavailable, did_you_mean
from anvyl_mcp.core.files import write_atomically
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.orchestrator.models.servers.model_server import (
    LLAMA_CPP,
    LMSTUDIO,
    OLLAMA,
    READ,
    SENT,
    Listing,
    ServedModel,
    api_key,
    base_url,
    list_models,
)

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import Model

DEFAULT = "default"
MEMORY = "models.json"

SMALL_CONTEXT = 8192
GOOD_CONTEXT = 16384

INSTANCE = re.compile(r":\d+$")


@dataclass(frozen=True)
class ModelChoice:
    """The model to ask, and what the user should know about it."""

    name: str
    provider: str
    context_length: int | None = None
    warning: str = ""
    trained_for_tools: bool | None = None


async def choose_model(settings: Settings, *, model: str = "") -> ModelChoice:
    """Ask the server which model to use; `model` wins over the setting.

    Raises:
        ModelUnavailable: no server answers, or it has no such model, or there is no clear choice.
    """
    listing = await list_models(settings)
    wanted = model or settings.lmstudio_model or DEFAULT
    chosen = _by_default(listing, last_model(settings)) if wanted == DEFAULT else _configured(listing, wanted)
    warning, trained = _warning(chosen, listing.provider), chosen.trained_for_tools
    return ModelChoice(chosen.name, listing.provider, chosen.context_length, warning, trained)


def build_model(settings: Settings, choice: ModelChoice) -> Model:
    """The chosen model, made to bear what local servers really answer."""
    # Importing openai costs about a second, which a question without a model must not pay.
    from anvyl_mcp.orchestrator.models.servers.lmstudio import LMStudioModel

    return LMStudioModel(
        choice.name,
        provider_name=choice.provider,
        base_url=base_url(settings),
        allowed_user=settings.model_user,
        api_key=api_key(settings),
        context_length=choice.context_length,
    )


def more_context(provider: str, name: str) -> str:
    """How to give a model more context on its server."""
    return {
        LMSTUDIO: f"unload it (lms unload {name}), then: anvyl models load {name} --context-length {GOOD_CONTEXT}",
        OLLAMA: f"start Ollama with OLLAMA_CONTEXT_LENGTH={GOOD_CONTEXT}, or set num_ctx in the model's Modelfile",
        LLAMA_CPP: f"start it with -c {GOOD_CONTEXT}",
    }.get(provider, "give it more context where it is started")


def with_rules(model: Model, rules: Model, *, failed: list[str] | None = None) -> Model:
    """`model`, and `rules` for each request that it fails; why it did is appended to `failed`.

    What neither can answer raises `NotUnderstood` with the reason of the model: it is what can be put right.
    """
    # As above: `anvyl models` and `anvyl doctor` need no agent library.
    from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior
    from pydantic_ai.models.fallback import FallbackModel

    from anvyl_mcp.orchestrator.models.rules_fallback import RulesAfterFailure

    reasons = failed if failed is not None else []

    def fails(error: Exception) -> bool:
        if not isinstance(error, ModelAPIError | UnexpectedModelBehavior):
            return False
        reasons.append(error.message)
        return True

    return FallbackModel(model, RulesAfterFailure(rules, model.model_name, reasons), fallback_on=fails)


def cut_prompt(messages: Sequence[ModelMessage], choice: ModelChoice) -> str:
    """What a person should know when the server cut a prompt; empty when it cut none."""
    for message in messages:
        details = (message.provider_details or {}) if message.kind == "response" else {}
        if READ in details:
            hint = more_context(choice.provider, choice.name)
            read = f"only {details[READ]} tokens of about {details[SENT]}"
            return f"the model server read {read}, so the answer may be wrong; {hint}"
    return ""


def swapped_model(messages: Sequence[ModelMessage], choice: ModelChoice) -> str:
    """The model that answered in place of the chosen one, as servers do without a word; empty when none did."""
    for message in messages:
        if message.kind == "response" and message.provider_name == choice.provider:
            answered = message.model_name or choice.name
            if not _same_model(answered, choice.name):
                return answered
    return ""


def _same_model(one: str, other: str) -> bool:
    """Whether two names can mean one model: servers drop the publisher, the folder, `.gguf` or the instance number."""
    short, long = sorted(
        (INSTANCE.sub("", re.split(r"[/\\]", name.lower())[-1]).removesuffix(".gguf") for name in (one, other)), key=len
    )
    return long.startswith(short)


def _configured(listing: Listing, wanted: str) -> ServedModel:
    if not listing.models:
        return ServedModel(wanted)
    if found := _named(listing.chat_models, wanted):
        return found
    known = [name for model in listing.chat_models for name in (model.name, *model.aliases)]
    raise ModelUnavailable(
        f"the model server has no model `{wanted}` that can answer",
        hint=did_you_mean(wanted, known) or "load one there",
    )


def _by_default(listing: Listing, last_used: str) -> ServedModel:
    models = listing.chat_models
    if loaded := [model for model in models if model.loaded]:
        # True before None before False: a server that does not say may well have a capable model.
        ranks = {True: 2, None: 1, False: 0}
        return max(loaded, key=lambda model: (ranks[model.trained_for_tools], model.context_length or 0))
    if last_used and (last := _named(models, last_used)):
        return last
    capable = [model for model in models if model.trained_for_tools is not False]
    if len(capable) != 1:
        raise _no_clear_choice(listing.provider, capable or models)
    return capable[0]


def _no_clear_choice(provider: str, models: Sequence[ServedModel]) -> ModelUnavailable:
    there_is = did_you_mean("", (model.name for model in models))
    if provider == LMSTUDIO:
        if not models:
            return ModelUnavailable("LM Studio has no model that can answer", hint="get one: `lms get qwen/qwen3.5-4b`")
        command = f"anvyl models load {models[0].name}"
        return ModelUnavailable("LM Studio has no model loaded", hint=f"load one, as with `{command}`; {there_is}")
    if not models:
        return ModelUnavailable(
            "the model server names no model that can answer",
            hint="load one there, or name one in ANVYL_LMSTUDIO_MODEL",
        )
    return ModelUnavailable(
        "the model server offers several models", hint=f"set one with anvyl models use NAME; {there_is}"
    )


def _named(models: Iterable[ServedModel], name: str) -> ServedModel | None:
    """The model of that name; among those that share it as an alias, the one with the largest context."""
    folded = name.casefold()
    found = [model for model in models if folded in (known.casefold() for known in (model.name, *model.aliases))]
    if not found:
        return None
    best = max(found, key=lambda model: (model.name.casefold() == folded, model.context_length or 0))
    return best if best.loaded or best.name.casefold() == folded else replace(best, name=name)


def _warning(model: ServedModel, provider: str) -> str:
    notes = []
    if model.trained_for_tools is False:
        notes.append(f"`{model.name}` was not trained to use tools, so expect poor answers")
    if model.loaded is False:
        notes.append(f"`{model.name}` is not loaded yet, so the first answer waits for it")
    if model.context_length and model.context_length < SMALL_CONTEXT:
        note = f"`{model.name}` has only {model.context_length} tokens of context"
        reload = f"; more room: `lms load {model.name} --context-length {GOOD_CONTEXT}`"
        known = {LMSTUDIO: reload, OLLAMA: f"; {more_context(provider, model.name)}"}
        notes.append(note + known.get(provider, ""))
    return "; ".join(notes)


def last_model(settings: Settings) -> str:
    """The model of this server that answered last; empty when none did."""
    return _remembered(settings).get(base_url(settings), "")


def remember_model(settings: Settings, choice: ModelChoice) -> None:
    """Note that this model answered, for a day when none is loaded. A folder that cannot be written is no trouble."""
    name = INSTANCE.sub("", choice.name) if choice.provider == LMSTUDIO else choice.name
    if name == last_model(settings):
        return
    with suppress(OSError):
        names = _remembered(settings) | {base_url(settings): name}
        write_atomically(settings.state_dir / MEMORY, json.dumps(names), durable=False)


def _remembered(settings: Settings) -> dict[str, str]:
    try:
        names = json.loads((settings.state_dir / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {url: name for url, name in names.items() if isinstance(name, str)} if isinstance(names, dict) else {}
