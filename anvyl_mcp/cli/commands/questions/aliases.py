"""`anvyl alias`: manages your own words for containers and for whole questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anvyl_mcp.cli.parser.command_groups import Commands
from anvyl_mcp.cli.parser.options import JsonOption

if TYPE_CHECKING:
    from anvyl_mcp.core.settings import Settings

EXAMPLES = """\
anvyl alias add "the photo app" immich_server --host nas
anvyl alias add "movie night" "stop trainer on gpu" --question
anvyl alias remove "movie night"
"""
MOST_CHARACTERS = 200

app = Commands("Use your own words for containers and for whole questions.", EXAMPLES)
WordsArgument = Annotated[str, typer.Argument(metavar="WORDS", help="Your own words.")]


@app.command("list")
def list_aliases(as_json: JsonOption = False) -> None:
    """List your own words, and what they mean."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        if as_json:
            output.print_json({"aliases": dict(settings.aliases), "phrases": dict(settings.phrases), "error": None})
            return 0
        rows = [[words, "name", target] for words, target in sorted(settings.aliases.items())]
        rows += [[words, "question", target] for words, target in sorted(settings.phrases.items())]
        output.print_table(["words", "kind", "meaning"], rows)
        return 0

    runner.run_command(work, failed=output.error_document("aliases", {}) if as_json else None)


@app.command()
def add(
    words: WordsArgument,
    meaning: Annotated[str, typer.Argument(metavar="MEANING", help="A container's name, or a whole question.")],
    host: Annotated[str, typer.Option("--host", "-H", metavar="HOST", help="The host it is on.")] = "",
    question: Annotated[bool, typer.Option("--question", "-q", help="The words stand for a whole question.")] = False,
) -> None:
    """Add your own words for a container or a whole question."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.core.errors import InvalidInput
        from anvyl_mcp.core.settings_file import write_setting

        alias, target = " ".join(words.split()), " ".join(f"{meaning}{f' on {host}' if host else ''}".split())
        if not any(letter.isalpha() for letter in alias) or not target or len(alias + target) > MOST_CHARACTERS:
            raise InvalidInput(
                "invalid words or meaning", hint=f"use letters, at most {MOST_CHARACTERS} characters in all"
            )
        if host and question:
            raise InvalidInput("--host works only for containers", hint="name the host in the question itself")
        table, other = ("phrases", "aliases") if question else ("aliases", "phrases")
        if alias in getattr(settings, other):
            write_setting(settings.config_dir, alias, None, table=other)
        file = write_setting(settings.config_dir, alias, target, table=table)
        output.print_message(f"`{alias}` now means `{target}` ({file})")
        return 0

    runner.run_command(work)


@app.command()
def remove(words: WordsArgument) -> None:
    """Remove your own words."""
    from anvyl_mcp.cli.runtime import output, runner

    async def work(settings: Settings) -> int:
        from anvyl_mcp.core.errors import NotFound, did_you_mean
        from anvyl_mcp.core.settings_file import write_setting

        alias = " ".join(words.split())
        table = next((one for one in ("aliases", "phrases") if alias in getattr(settings, one)), "")
        if not table:
            known = [*settings.aliases, *settings.phrases]
            raise NotFound(f"there is no alias `{alias}`", hint=did_you_mean(alias, known))
        write_setting(settings.config_dir, alias, None, table=table)
        output.print_message(f"removed alias `{alias}`")
        return 0

    runner.run_command(work)
