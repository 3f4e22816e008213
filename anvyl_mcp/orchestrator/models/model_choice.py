"""Choose the language model to ask, build it, and report problems with it.

No agent or model library is imported at the top: listing models, or reporting that there is none, must stay fast.
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
    TOKENS_READ,
    TOKENS_SENT,
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
LAST_MODELS_FILE = "models.json"

SMALL_CONTEXT = 8192
GOOD_CONTEXT = 16384

INSTANCE = re.compile(r":\d+$")


@dataclass(frozen=True)
class ModelChoice:
    """Model to ask, with a warning for the user if there is one."""

    name: str
    provider: str
    context_length: int | None = None
    warning: str = ""
    trained_for_tools: bool | None = None


async def choose_model(settings: Settings, *, model: str = "") -> ModelChoice:
    """Choose a model from the server's list; `model` overrides the setting.

    Raises:
        ModelUnavailable: no server answers, it does not have the model, or there is no clear choice.
    """
    listing = await list_models(settings)
    wanted = model or settings.lmstudio_model or DEFAULT
    chosen = _by_default(listing, last_model(settings)) if wanted == DEFAULT else _configured(listing, wanted)
    warning, trained = _warning(chosen, listing.provider), chosen.trained_for_tools
    return ModelChoice(chosen.name, listing.provider, chosen.context_length, warning, trained)


def build_model(settings: Settings, choice: ModelChoice) -> Model:
    """Client for the chosen model."""
    # Imported here because openai takes about a second, which a question without a model must not pay.
    from anvyl_mcp.orchestrator.models.servers.local_server_model import LocalServerModel

    return LocalServerModel(
        choice.name,
        provider_name=choice.provider,
        base_url=base_url(settings),
        allowed_user=settings.model_user,
        api_key=api_key(settings),
        context_length=choice.context_length,
    )


def more_context_hint(provider: str, name: str) -> str:
    """Hint how to give a model more context on its server."""
    return {
        LMSTUDIO: f"unload it (lms unload {name}), then: anvyl models load {name} --context-length {GOOD_CONTEXT}",
        OLLAMA: f"start Ollama with OLLAMA_CONTEXT_LENGTH={GOOD_CONTEXT}, or set num_ctx in the model's Modelfile",
        LLAMA_CPP: f"start it with -c {GOOD_CONTEXT}",
    }.get(provider, "start it with more context")


def with_rules_fallback(model: Model, rules: Model, *, failed: list[str] | None = None) -> Model:
    """`model` with `rules` as fallback for failed requests; the reasons are appended to `failed`.

    If the rules cannot answer either, `NotUnderstood` carries the model's failure, which the user can fix.
    """
    # Imported here because `anvyl models` and `anvyl doctor` need no agent library.
    from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior
    from pydantic_ai.models.fallback import FallbackModel

    from anvyl_mcp.orchestrator.models.rules_fallback import RulesAfterFailure

    reasons = failed if failed is not None else []

    def is_model_failure(error: Exception) -> bool:
        if not isinstance(error, ModelAPIError | UnexpectedModelBehavior):
            return False
        reasons.append(error.message)
        return True

    return FallbackModel(model, RulesAfterFailure(rules, model.model_name, reasons), fallback_on=is_model_failure)


def truncation_warning(messages: Sequence[ModelMessage], choice: ModelChoice) -> str:
    """Warning if the server truncated a prompt, else empty."""
    for message in messages:
        details = (message.provider_details or {}) if message.kind == "response" else {}
        if TOKENS_READ in details:
            hint = more_context_hint(choice.provider, choice.name)
            read = f"only {details[TOKENS_READ]} tokens of about {details[TOKENS_SENT]}"
            return f"the model server read {read}, so the answer may be wrong; {hint}"
    return ""


def substituted_model(messages: Sequence[ModelMessage], choice: ModelChoice) -> str:
    """Name of the model that answered instead of the chosen one; servers may substitute silently. Empty if none did."""
    for message in messages:
        if message.kind == "response" and message.provider_name == choice.provider:
            answered = message.model_name or choice.name
            if not _same_model(answered, choice.name):
                return answered
    return ""


def _same_model(one: str, other: str) -> bool:
    """Whether two names may be the same model; servers drop publisher, folder, `.gguf` or instance number."""
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
        hint=did_you_mean(wanted, known) or "load one on the server",
    )


def _by_default(listing: Listing, last_used: str) -> ServedModel:
    models = listing.chat_models
    if loaded := [model for model in models if model.loaded]:
        # True before None before False: with no information the model may well be capable.
        ranks = {True: 2, None: 1, False: 0}
        return max(loaded, key=lambda model: (ranks[model.trained_for_tools], model.context_length or 0))
    if last_used and (last := _named(models, last_used)):
        return last
    capable = [model for model in models if model.trained_for_tools is not False]
    if len(capable) != 1:
        raise _no_clear_choice(listing.provider, capable or models)
    return capable[0]


def _no_clear_choice(provider: str, models: Sequence[ServedModel]) -> ModelUnavailable:
    choices = did_you_mean("", (model.name for model in models))
    if provider == LMSTUDIO:
        if not models:
            return ModelUnavailable("LM Studio has no model that can answer", hint="get one: `lms get qwen/qwen3.5-4b`")
        command = f"anvyl models load {models[0].name}"
        return ModelUnavailable(
            "LM Studio has no model loaded", hint=f"load one, for example with `{command}`; {choices}"
        )
    if not models:
        return ModelUnavailable(
            "the model server lists no model that can answer",
            hint="load one on the server, or set ANVYL_LMSTUDIO_MODEL",
        )
    return ModelUnavailable(
        "the model server offers several models", hint=f"set one with anvyl models use NAME; {choices}"
    )


def _named(models: Iterable[ServedModel], name: str) -> ServedModel | None:
    """Model with that name or alias; of several, the one with the largest context."""
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
        notes.append(f"`{model.name}` is not loaded yet, so the first answer takes longer")
    if model.context_length and model.context_length < SMALL_CONTEXT:
        note = f"`{model.name}` has only {model.context_length} tokens of context"
        reload = f"; for more: `lms load {model.name} --context-length {GOOD_CONTEXT}`"
        known = {LMSTUDIO: reload, OLLAMA: f"; {more_context_hint(provider, model.name)}"}
        notes.append(note + known.get(provider, ""))
    return "; ".join(notes)


def last_model(settings: Settings) -> str:
    """Model of this server that answered last, or empty."""
    return _last_models(settings).get(base_url(settings), "")


def remember_model(settings: Settings, choice: ModelChoice) -> None:
    """Remember that this model answered, as the default when none is loaded. Write errors are ignored."""
    name = INSTANCE.sub("", choice.name) if choice.provider == LMSTUDIO else choice.name
    if name == last_model(settings):
        return
    with suppress(OSError):
        names = _last_models(settings) | {base_url(settings): name}
        write_atomically(settings.state_dir / LAST_MODELS_FILE, json.dumps(names), durable=False)


def _last_models(settings: Settings) -> dict[str, str]:
    try:
        names = json.loads((settings.state_dir / LAST_MODELS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {url: name for url, name in names.items() if isinstance(name, str)} if isinstance(names, dict) else {}
