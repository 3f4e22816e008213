"""`anvyl models`: lists, chooses and loads language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings
    from anvyl_mcp.orchestrator.models.servers.model_server import Listing

EXAMPLES = """\
anvyl models
anvyl models use qwen3.5-9b
anvyl models load qwen3.5-9b --context-length 32768
"""

app = Commands("List language models, and show which one answers.", EXAMPLES, invoke_without_command=True)


@app.callback()
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the models of the model server; the one that answers is marked."""
    if context.invoked_subcommand is not None:
        return
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.core.errors import ModelUnavailable
        from anvyl_mcp.orchestrator.models.model_choice import choose_model
        from anvyl_mcp.orchestrator.models.servers.model_server import base_url, list_models

        listing, problem, chosen = await list_models(settings), None, ""
        try:
            chosen = (await choose_model(settings)).name
        except ModelUnavailable as error:
            problem = error
        if as_json:
            output.print_json(_document(listing, chosen, base_url(settings)))
            return 0
        rows = [
            [
                "→" if model.name == chosen else "",
                model.name,
                {True: "loaded", False: "", None: "?"}[model.loaded],
                str(model.context_length or ""),
                {True: "yes", False: "no", None: "?"}[model.trained_for_tools],
            ]
            for model in listing.chat_models
        ]
        output.print_table(["", "model", "state", "context", "tool use"], rows)
        if problem:
            output.print_error(problem)
        return 0

    runner.run_command(work, failed=output.error_document("models", []) if as_json else None)


def _document(listing: Listing, chosen: str, url: str) -> dict[str, Any]:
    rows = [
        {
            "name": model.name,
            "loaded": model.loaded,
            "context_length": model.context_length,
            "trained_for_tools": model.trained_for_tools,
            "answers": model.name == chosen,
        }
        for model in listing.chat_models
    ]
    return {"server": listing.provider, "url": url, "models": rows, "error": None}


@app.command()
def use(
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name of a model, or `default` for the one that is loaded.")
    ],
) -> None:
    """Choose the model that answers; saved in config.toml."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        import os

        from anvyl_mcp.core.settings_file import write_setting
        from anvyl_mcp.orchestrator.models.model_choice import choose_model

        choice = await choose_model(settings, model=name)
        value = name if name == "default" else choice.name
        file = write_setting(settings.config_dir, "lmstudio_model", value)
        output.print_message(f"`{choice.name}` will answer from now on (saved in {file})")
        if choice.warning:
            output.print_message(f"note: {choice.warning}")
        if os.environ.get("ANVYL_LMSTUDIO_MODEL"):
            output.print_message("note: ANVYL_LMSTUDIO_MODEL is set in this shell and overrides it")
        return 0

    runner.run_command(work)


@app.command()
def load(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model that LM Studio has downloaded.")],
    context_length: Annotated[
        int, typer.Option("--context-length", "-c", metavar="TOKENS", min=2048, help="Context length.")
    ] = 16384,
) -> None:
    """Load a model in LM Studio, with a large enough context."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.orchestrator.models.servers.model_server import load_model

        output.print_message(f"loading `{name}`; a large model takes a minute")
        loaded = await load_model(settings, name, context_length)
        if loaded and loaded < context_length:
            output.print_message(f"loaded `{name}` with only {loaded} tokens of context: not enough memory for more")
        else:
            output.print_message(f"loaded `{name}` with {loaded or context_length} tokens of context")
        return 0

    runner.run_command(work)
