"""Provider and profile for local model servers: simple schemas, one system message, no OpenAI-only features."""

from __future__ import annotations

from typing import Any

from pydantic_ai.profiles import JsonSchemaTransformer, ModelProfile, merge_profile
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.vllm import VLLMProvider

UNSUPPORTED = ("title", "pattern", "minLength", "maxLength", "format", "examples", "nullable", "$schema")


class LocalProvider(OpenAIProvider):
    """OpenAI-compatible server, with a name that marks its responses."""

    def __init__(self, name: str, *, base_url: str, api_key: str) -> None:
        super().__init__(base_url=base_url, api_key=api_key)
        self._provider_name = name

    @property
    def name(self) -> str:
        """Provider name in responses."""
        return self._provider_name

    @staticmethod
    def model_profile(model_name: str) -> ModelProfile:
        """Profile for any model on such a server."""
        return local_profile(model_name)


class SlimSchema(JsonSchemaTransformer):
    """Remove from schemas what costs tokens or what llama.cpp cannot convert to a grammar."""

    def __init__(self, schema: dict[str, Any], *, strict: bool | None = None) -> None:
        super().__init__(schema, strict=strict, prefer_inlined_defs=True)

    def transform(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Simplify one node of the schema."""
        slim = {key: value for key, value in schema.items() if key not in UNSUPPORTED and not key.startswith("x-")}
        if slim.get("default", "") is None:
            del slim["default"]
        if isinstance(slim.get("additionalProperties"), bool):
            del slim["additionalProperties"]
        if isinstance(slim.get("type"), list):
            kinds = [kind for kind in slim["type"] if kind != "null"]
            slim["type"] = kinds[0] if len(kinds) == 1 else kinds
        branches = [branch for branch in slim.pop("anyOf", []) if branch != {"type": "null"}]
        if len(branches) == 1 and isinstance(branches[0], dict):
            return branches[0] | slim
        return slim | {"anyOf": branches} if branches else slim


def local_profile(name: str) -> ModelProfile:
    """Profile of the model's family, restricted to what local servers support."""
    return merge_profile(
        VLLMProvider.model_profile(name),
        OpenAIModelProfile(
            json_schema_transformer=SlimSchema,
            openai_supports_strict_tool_definition=False,
            openai_chat_supports_multiple_system_messages=False,
            openai_chat_supports_max_completion_tokens=False,
            openai_chat_supports_allowed_tools=False,
            supports_forced_tool_choice=False,
            openai_chat_supports_document_input=False,
            openai_chat_send_back_thinking_parts=False,
            # A grammar enforces the schema; in the prompt it would cost tokens and, as it lists the hosts, cache hits.
            native_output_requires_schema_in_instructions=False,
        ),
    )
