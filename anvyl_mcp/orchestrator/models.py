"""Which language model answers: what the server offers, which of it to ask, and what the rules took over.

Nothing here imports an agent or a model library: listing models and saying why there is none must stay fast.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from anvyl_mcp import text
from anvyl_mcp.errors import ModelUnavailable, did_you_mean
from anvyl_mcp.settings import Settings

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import Model

DEFAULT = "default"
LMSTUDIO = "lmstudio"
OPENAI_COMPATIBLE = "openai-compatible"
MEMORY = "models.json"

READ_SECONDS = 3.0
SMALL_CONTEXT = 8192
GOOD_CONTEXT = 16384

NO_CHAT = re.compile(r"(?:^|[-_/])(?:embed\w*|bge|gte|e5|rerank\w*|whisper)(?:[-_.:]|$)", re.IGNORECASE)
LOOPBACK = re.compile(r"localhost|127\.[\d.]+|::1")
BARE = re.compile(r"\w+://[^/]+")
INSTANCE = re.compile(r":\d+$")
LIKE_THIS = "set ANVYL_LMSTUDIO_URL, like http://localhost:1234/v1"
UNREACHABLE: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    ((httpx.InvalidURL, httpx.UnsupportedProtocol), "`{}` is not a web address", LIKE_THIS),
    ((httpx.TimeoutException, TimeoutError), "the model server at {} does not answer in time", "see if it is busy"),
    (
        (httpx.ConnectError,),
        "no model server listens at {}",
        f"start LM Studio's with `lms server start`, or {LIKE_THIS}",
    ),
    ((Exception,), "what answers at {} does not speak HTTP", LIKE_THIS),
)


@dataclass(frozen=True)
class ModelChoice:
    """The model to ask, and what the user should know about it."""

    name: str
    provider: str
    context_length: int | None = None
    warning: str = ""
    trained_for_tools: bool | None = None


@dataclass(frozen=True)
class ServedModel:
    """One model as the server lists it; None where the server does not say. `name` is what a request asks for."""

    name: str
    aliases: tuple[str, ...] = ()
    chats: bool = True
    trained_for_tools: bool | None = None
    loaded: bool | None = None
    context_length: int | None = None


@dataclass(frozen=True)
class Listing:
    """What a model server offers, and what kind of server it is."""

    provider: str
    models: tuple[ServedModel, ...] = ()

    @property
    def chat_models(self) -> tuple[ServedModel, ...]:
        """The models that can answer: no embedding models."""
        return tuple(model for model in self.models if model.chats)


def base_url(settings: Settings) -> str:
    """The model server's OpenAI-compatible base URL, without a slash at its end."""
    url = settings.lmstudio_url.rstrip("/").removesuffix("/chat/completions")
    return f"{url}/v1" if BARE.fullmatch(url) else url


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
    from anvyl_mcp.orchestrator.lmstudio import LMStudioModel

    return LMStudioModel(
        choice.name,
        provider_name=choice.provider,
        base_url=base_url(settings),
        api_key=settings.llm_api_key,
        context_length=choice.context_length,
    )


def with_rules(model: Model, rules: Model) -> Model:
    """`model`, and `rules` for each request that it fails."""
    # As above: `anvyl models` and `anvyl doctor` need no agent library.
    from pydantic_ai.exceptions import ModelAPIError, UnexpectedModelBehavior
    from pydantic_ai.models.fallback import FallbackModel

    return FallbackModel(model, rules, fallback_on=(ModelAPIError, UnexpectedModelBehavior))


def fallback_reason(messages: Sequence[ModelMessage]) -> str:
    """Why the rules had to answer instead of the model; empty when the model answered every time."""
    for message in messages:
        if message.kind == "response":
            for attempt in message.failed_attempts or ():
                return (attempt.error or "").partition(": ")[2] or "it gave no usable answer"
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
        command = f"lms load {models[0].name} --context-length {GOOD_CONTEXT}"
        return ModelUnavailable("LM Studio has no model loaded", hint=f"load one, as with `{command}`; {there_is}")
    if not models:
        return ModelUnavailable(
            "the model server names no model that can answer",
            hint="load one there, or name one in ANVYL_LMSTUDIO_MODEL",
        )
    return ModelUnavailable(
        "the model server offers several models", hint=f"choose one with ANVYL_LMSTUDIO_MODEL=<name>; {there_is}"
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
        notes.append(note + reload if provider == LMSTUDIO else note)
    return "; ".join(notes)


async def list_models(settings: Settings) -> Listing:
    """Ask the server for its models, LM Studio's own lists first. A server without a list gives an empty one.

    Raises:
        ModelUnavailable: nothing answers, a key is needed, or what answers is no model server.
    """
    url = base_url(settings)
    root = url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {settings.llm_api_key}"} if settings.llm_api_key else {}
    status, body = 404, None
    try:
        timeout = httpx.Timeout(READ_SECONDS, connect=0.5 if LOOPBACK.fullmatch(httpx.URL(url).host) else 3)
        async with httpx.AsyncClient(timeout=timeout, headers=headers) as client:
            for address, provider, read in (
                (f"{root}/api/v1/models", LMSTUDIO, _from_v1),
                (f"{root}/api/v0/models", LMSTUDIO, _from_v0),
                (f"{url}/models", OPENAI_COMPATIBLE, _from_openai),
            ):
                status, body = await _get(client, address)
                if status == 200 and (models := read(body)) is not None:
                    return Listing(provider, tuple(models))
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        message, hint = next((told, hint) for kinds, told, hint in UNREACHABLE if isinstance(error, kinds))
        raise ModelUnavailable(message.format(url), hint=hint) from error
    return _without_a_list(url, status, body, bool(settings.llm_api_key))


async def _get(client: httpx.AsyncClient, address: str) -> tuple[int, Any]:
    """Status and body; None for a body that is not JSON."""
    connect = client.timeout.connect or 0
    with anyio.fail_after(connect + READ_SECONDS):  # a body that drips never trips the timeout between two bytes
        response = await client.get(address)
    try:
        return response.status_code, response.json()
    except (ValueError, RecursionError):
        return response.status_code, None


def _without_a_list(url: str, status: int, body: Any, key_given: bool) -> Listing:
    words = error_words(body)
    if status in (401, 403):
        message = f"the model server at {url} {'refuses the key' if key_given else 'wants a key'}"
        raise ModelUnavailable(message, hint="set ANVYL_LLM_API_KEY to a key that it accepts")
    # LM Studio answers 200 with an error for an address it does not know.
    if status in (404, 405, 501) or (status == 200 and words):
        return Listing(OPENAI_COMPATIBLE)
    if status >= 400:
        said = f": {words}" if words else ""
        raise ModelUnavailable(f"the model server at {url} answered {status}{said}", hint="look at its log")
    raise ModelUnavailable(f"what answers at {url} is not an OpenAI-compatible model server", hint=LIKE_THIS)


def _from_v1(body: Any) -> list[ServedModel] | None:
    """LM Studio 0.4: one entry for each downloaded model, with its loaded instances."""
    entries = _entries(body, "models", "key")
    return None if entries is None else [model for entry in entries for model in _instances(entry)]


def _instances(entry: dict[str, Any]) -> list[ServedModel]:
    """The loaded instances of a downloaded model with its other variants, or the model itself when none is loaded."""
    key = _string(entry.get("key"))
    variants = [name for name in _list(entry.get("variants")) if isinstance(name, str)]
    trained = _object(entry.get("capabilities")).get("trained_for_tool_use")
    downloaded = ServedModel(
        name=key,
        aliases=tuple(variants),
        chats=_chats(key, entry.get("type")),
        trained_for_tools=trained if isinstance(trained, bool) else None,
        loaded=False,
    )
    selected = _string(entry.get("selected_variant"))
    same = [selected] if selected else variants
    loaded = [
        replace(
            downloaded,
            name=_string(instance.get("id")) or key,
            aliases=(key, *same),
            loaded=True,
            context_length=_count(_object(instance.get("config")).get("context_length")),
        )
        for instance in _objects(entry.get("loaded_instances"))
    ]
    others = [replace(downloaded, name=name, aliases=()) for name in variants if name not in same]
    return [*loaded, *others] if loaded else [downloaded]


def _from_v0(body: Any) -> list[ServedModel] | None:
    """LM Studio 0.3: one entry for each downloaded model, with its state."""
    entries = _entries(body, "data", "state")
    return None if entries is None else [_with_state(entry) for entry in entries if _string(entry.get("id"))]


def _with_state(entry: dict[str, Any]) -> ServedModel:
    return ServedModel(
        name=entry["id"],
        chats=_chats(entry["id"], entry.get("type")),
        # Older builds list no capabilities at all; newer ones leave the list out for a model that has none.
        trained_for_tools="tool_use" in _list(entry["capabilities"]) if "capabilities" in entry else None,
        loaded=entry["state"] == "loaded",
        context_length=_count(entry.get("loaded_context_length")),
    )


def _from_openai(body: Any) -> list[ServedModel] | None:
    """The list every OpenAI-compatible server has: names, and a context length from some."""
    entries = _entries(body, "data", "id")
    return None if entries is None else [_plain(entry) for entry in entries]


def _plain(entry: dict[str, Any]) -> ServedModel:
    name = entry["id"]
    return ServedModel(name, chats=_chats(name, entry.get("type")), context_length=_count(entry.get("max_model_len")))


def _entries(body: Any, field: str, needed: str) -> list[dict[str, Any]] | None:
    """The objects listed under `field` that have a string `needed`; None when the body is no such list."""
    if not isinstance(body, dict) or not isinstance(body.get(field), list):
        return None
    entries = [entry for entry in _objects(body[field]) if _string(entry.get(needed))]
    return entries if entries or not body[field] else None


def _chats(name: str, kind: Any) -> bool:
    return not (isinstance(kind, str) and "embed" in kind) and not NO_CHAT.search(name)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in _list(value) if isinstance(entry, dict)]


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def error_words(body: object) -> str:
    """What a server's error body says, whether it is text, `{"error": text}` or `{"error": {"message": text}}`."""
    while isinstance(body, dict):
        body = body.get("error") or body.get("message") or body.get("detail")
    if not isinstance(body, str) or body.lstrip().startswith("<"):
        return ""
    return " ".join(text.clean(body).split())[:300]


def last_model(settings: Settings) -> str:
    """The model of this server that answered last; empty when none did."""
    return _remembered(settings).get(base_url(settings), "")


def remember_model(settings: Settings, choice: ModelChoice) -> None:
    """Note that this model answered, for a day when none is loaded. A folder that cannot be written is no trouble."""
    name = INSTANCE.sub("", choice.name) if choice.provider == LMSTUDIO else choice.name
    if name == last_model(settings):
        return
    with suppress(OSError):
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        draft = settings.state_dir / f"{MEMORY}.new"
        draft.write_text(json.dumps(_remembered(settings) | {base_url(settings): name}), encoding="utf-8")
        draft.replace(settings.state_dir / MEMORY)


def _remembered(settings: Settings) -> dict[str, str]:
    try:
        names = json.loads((settings.state_dir / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {url: name for url, name in _object(names).items() if isinstance(name, str)}
