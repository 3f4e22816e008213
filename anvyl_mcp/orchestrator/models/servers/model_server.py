"""Detect the kind of a model server and list its models.

No agent or model library is imported: listing models, or reporting that there is none, must stay fast.
"""

from __future__ import annotations

import importlib
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import anyio
import anyio.to_thread
import httpx

from anvyl_mcp.core import extras, text
from anvyl_mcp.core.errors import ModelUnavailable
from anvyl_mcp.core.settings import Settings
from anvyl_mcp.orchestrator.models.servers.server_owner import foreign_owner

LMSTUDIO = "lmstudio"
OLLAMA = "ollama"
LLAMA_CPP = "llama.cpp"
OPENAI_COMPATIBLE = "openai-compatible"

TOKENS_READ, TOKENS_SENT = "anvyl_tokens_read", "anvyl_tokens_sent"
"""Provider details with the token counts of a prompt that the server truncated."""

READ_SECONDS = 3.0
LOAD_SECONDS = 600.0
IN_KEYRING = "keyring"
KEYRING = "anvyl-mcp"
"""Service name of the key in the system keyring."""

NO_CHAT = re.compile(r"(?:^|[-_/])(?:embed\w*|bge|gte|e5|rerank\w*|whisper)(?:[-_.:]|$)", re.IGNORECASE)
LOOPBACK = re.compile(r"localhost|127\.[\d.]+|::1")
WITHOUT_PATH = re.compile(r"\w+://[^/]+")
SET_URL = "set ANVYL_LMSTUDIO_URL, like http://localhost:1234/v1"
UNREACHABLE: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    ((httpx.InvalidURL, httpx.UnsupportedProtocol), "`{}` is not a web address", SET_URL),
    (
        (httpx.TimeoutException, TimeoutError),
        "the model server at {} does not answer in time",
        "check whether it is busy",
    ),
    (
        (httpx.ConnectError,),
        "no model server listens at {}",
        f"start the one of LM Studio with `lms server start`, or {SET_URL}",
    ),
    ((Exception,), "the server at {} does not speak HTTP", SET_URL),
)


@dataclass(frozen=True)
class ServedModel:
    """One model of the server's list; fields that the server does not report are None. Requests use `name`."""

    name: str
    aliases: tuple[str, ...] = ()
    chats: bool = True
    trained_for_tools: bool | None = None
    loaded: bool | None = None
    context_length: int | None = None


@dataclass(frozen=True)
class Listing:
    """Kind and models of a model server."""

    provider: str
    models: tuple[ServedModel, ...] = ()

    @property
    def chat_models(self) -> tuple[ServedModel, ...]:
        """Models that can chat, so no embedding models."""
        return tuple(model for model in self.models if model.chats)


def base_url(settings: Settings) -> str:
    """OpenAI-compatible base URL of the model server, without a trailing slash."""
    url = settings.lmstudio_url.rstrip("/").removesuffix("/chat/completions")
    return f"{url}/v1" if WITHOUT_PATH.fullmatch(url) else url


def api_key(settings: Settings) -> str:
    """API key from the setting, or from the system keyring if the setting is `keyring`.

    Raises:
        ModelUnavailable: there is no keyring, or no key in it.
    """
    if settings.llm_api_key != IN_KEYRING:
        return settings.llm_api_key
    store_it = f"store it with: keyring set {KEYRING} llm-api-key"
    try:
        keyring = importlib.import_module("keyring")
    except ImportError as error:
        raise ModelUnavailable("no keyring is installed", hint=extras.install_command("keyring")) from error
    errors = importlib.import_module("keyring.errors")
    try:
        found = keyring.get_password(KEYRING, "llm-api-key")
    except errors.KeyringError as error:
        raise ModelUnavailable(f"the keyring cannot be read: {text.clean(str(error))}", hint=store_it) from error
    if not found:
        raise ModelUnavailable("the keyring has no key for the model server", hint=store_it)
    return str(found)


def foreign_server(url: str, allowed: str) -> ModelUnavailable | None:
    """Error if another user of this machine listens at the URL, else None."""
    owner = foreign_owner(url, allowed)
    if not owner:
        return None
    return ModelUnavailable(
        f"the user `{owner}` of this machine listens at {url}, so no question or key is sent there",
        hint=f"if that is your model server, set ANVYL_MODEL_USER={owner}; else choose another port for yours",
    )


async def list_models(settings: Settings) -> Listing:
    """List the server's models, trying LM Studio's own APIs first; empty if the server has no list.

    Raises:
        ModelUnavailable: no server answers, it requires a key, or it is not a model server.
    """
    url, key = base_url(settings), api_key(settings)
    root = url.removesuffix("/v1")
    status, body = 404, None
    async with open_client(settings, key) as client:
        for address, provider, read in (
            (f"{root}/api/v1/models", LMSTUDIO, _from_v1),
            (f"{root}/api/v0/models", LMSTUDIO, _from_v0),
            (f"{url}/models", OPENAI_COMPATIBLE, _from_openai),
        ):
            status, body = await _get(client, address)
            if status == 200 and (models := read(body)) is not None:
                listing = Listing(provider, tuple(models))
                return await _with_details(client, root, listing) if provider == OPENAI_COMPATIBLE else listing
    return _without_list(url, status, body, bool(key))


async def load_model(settings: Settings, name: str, context_length: int) -> int | None:
    """Load a model in LM Studio with `context_length` tokens; returns the actual length, if reported.

    Raises:
        ModelUnavailable: loading failed, or the server is not LM Studio.
    """
    listing, url = await list_models(settings), base_url(settings)
    if listing.provider != LMSTUDIO:
        raise ModelUnavailable("only LM Studio loads models on demand", hint="load it with the server's own command")
    # Loading a loaded model would create a second instance.
    if any(model.loaded and name in (model.name, *model.aliases) for model in listing.models):
        raise ModelUnavailable(
            f"`{name}` is already loaded", hint=f"to change its context, unload it first: lms unload {name}"
        )
    wanted = {"model": name, "context_length": context_length, "echo_load_config": True}
    async with open_client(settings, api_key(settings)) as client:
        answer = await client.post(f"{url.removesuffix('/v1')}/api/v1/models/load", json=wanted, timeout=LOAD_SECONDS)
    body = json_body(answer)
    if not answer.is_success or _object(body).get("error"):
        raise ModelUnavailable(
            f"LM Studio did not load `{name}`: {error_message(body) or f'HTTP {answer.status_code}'}",
            hint="it may not fit into memory; try a smaller --context-length",
        )
    return _count(_object(_object(body).get("load_config")).get("context_length"))


@asynccontextmanager
async def open_client(settings: Settings, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP client for the model server; connection errors become `ModelUnavailable`."""
    url = base_url(settings)
    trusted = await anyio.to_thread.run_sync(_trusted_authorities)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        if problem := await anyio.to_thread.run_sync(foreign_server, url, settings.model_user):
            raise problem
        timeout = httpx.Timeout(READ_SECONDS, connect=0.5 if LOOPBACK.fullmatch(httpx.URL(url).host) else 3)
        async with httpx.AsyncClient(timeout=timeout, headers=headers, verify=trusted) as client:
            yield client
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        message, hint = next((message, hint) for kinds, message, hint in UNREACHABLE if isinstance(error, kinds))
        raise ModelUnavailable(message.format(url), hint=hint) from error


@cache
def _trusted_authorities() -> ssl.SSLContext:
    """TLS context, cached because loading it takes tens of milliseconds."""
    return httpx.create_ssl_context()


async def _with_details(client: httpx.AsyncClient, root: str, listing: Listing) -> Listing:
    """Add what Ollama or llama.cpp report in their own APIs: kind of server, loaded models, context length."""
    for read in (_from_ollama, _from_llama_cpp):
        if (better := await read(client, root, listing)) is not None:
            return better
    return listing


async def _from_ollama(client: httpx.AsyncClient, root: str, listing: Listing) -> Listing | None:
    status, body = await _get(client, f"{root}/api/ps")
    running = _entries(body, "models", "name") if status == 200 else None
    if running is None:
        return None
    contexts = {entry["name"]: _count(entry.get("context_length")) for entry in running}
    models = (
        replace(model, loaded=model.name in contexts, context_length=contexts.get(model.name))
        for model in listing.models
    )
    return Listing(OLLAMA, tuple(models))


async def _from_llama_cpp(client: httpx.AsyncClient, root: str, listing: Listing) -> Listing | None:
    status, body = await _get(client, f"{root}/props")
    settings = _object(_object(body).get("default_generation_settings"))
    if status != 200 or not settings:
        return None
    tools = _object(_object(body).get("chat_template_caps")).get("supports_tools")
    context, trained = _count(settings.get("n_ctx")), tools if isinstance(tools, bool) else None
    # llama.cpp serves one model, under any name.
    if len(listing.models) != 1:
        return Listing(LLAMA_CPP, listing.models)
    model = replace(listing.models[0], loaded=True, context_length=context, trained_for_tools=trained)
    return Listing(LLAMA_CPP, (model,))


async def _get(client: httpx.AsyncClient, address: str) -> tuple[int, Any]:
    """Status and JSON body; the body is None if it is not JSON."""
    connect = client.timeout.connect or 0
    with anyio.fail_after(connect + READ_SECONDS):  # a slow body never exceeds the timeout between two reads
        response = await client.get(address)
    return response.status_code, json_body(response)


def json_body(response: httpx.Response) -> Any:
    """JSON body of a response, or None if it is not JSON."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _without_list(url: str, status: int, body: Any, key_given: bool) -> Listing:
    words = error_message(body)
    if status in (401, 403) and (body is not None or key_given):
        message = f"the model server at {url} {'rejects the key' if key_given else 'requires a key'}"
        raise ModelUnavailable(message, hint="set ANVYL_LLM_API_KEY to a key that it accepts")
    # LM Studio responds to unknown paths with 200 and an error. The page of a web server is not JSON.
    if (status in (404, 405, 501) and body is not None) or (status == 200 and words):
        return Listing(OPENAI_COMPATIBLE)
    if status in (404, 405, 501):
        raise _not_a_model_server(url)
    if status in (401, 403):
        raise ModelUnavailable(f"the server at {url} asks for a login, like a web page", hint=SET_URL)
    if status >= 400:
        said = f": {words}" if words else ""
        raise ModelUnavailable(f"the model server at {url} answered {status}{said}", hint="check its log")
    raise _not_a_model_server(url)


def _not_a_model_server(url: str) -> ModelUnavailable:
    return ModelUnavailable(f"the server at {url} is not an OpenAI-compatible model server", hint=SET_URL)


def _from_v1(body: Any) -> list[ServedModel] | None:
    """Parse the list of LM Studio 0.4: one entry per downloaded model, with its loaded instances."""
    entries = _entries(body, "models", "key")
    return None if entries is None else [model for entry in entries for model in _instances(entry)]


def _instances(entry: dict[str, Any]) -> list[ServedModel]:
    """Loaded instances and other variants of a downloaded model; the model itself if none is loaded."""
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
    """Parse the list of LM Studio 0.3: one entry per downloaded model, with its state."""
    entries = _entries(body, "data", "state")
    return None if entries is None else [_with_state(entry) for entry in entries if _string(entry.get("id"))]


def _with_state(entry: dict[str, Any]) -> ServedModel:
    return ServedModel(
        name=entry["id"],
        chats=_chats(entry["id"], entry.get("type")),
        # Older builds never list capabilities; newer ones omit the list for a model without any.
        trained_for_tools="tool_use" in _list(entry["capabilities"]) if "capabilities" in entry else None,
        loaded=entry["state"] == "loaded",
        context_length=_count(entry.get("loaded_context_length")),
    )


def _from_openai(body: Any) -> list[ServedModel] | None:
    """Parse the list of any OpenAI-compatible server: names, and from some servers a context length."""
    entries = _entries(body, "data", "id")
    return None if entries is None else [_plain(entry) for entry in entries]


def _plain(entry: dict[str, Any]) -> ServedModel:
    name = entry["id"]
    return ServedModel(name, chats=_chats(name, entry.get("type")), context_length=_count(entry.get("max_model_len")))


def _entries(body: Any, field: str, required: str) -> list[dict[str, Any]] | None:
    """Objects in the list `field` with a string `required`; None if the body has no such list."""
    if not isinstance(body, dict) or not isinstance(body.get(field), list):
        return None
    entries = [entry for entry in _objects(body[field]) if _string(entry.get(required))]
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


def error_message(body: object) -> str:
    """Message of an error body: text, `{"error": text}` or `{"error": {"message": text}}`."""
    while isinstance(body, dict):
        body = body.get("error") or body.get("message") or body.get("detail")
    if not isinstance(body, str) or body.lstrip().startswith("<"):
        return ""
    return " ".join(text.clean(body).split())[:300]
