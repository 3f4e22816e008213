"""`anvyl-mcp install`: the whole fleet for a desktop assistant, in its settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from anvyl_mcp import assistants
from anvyl_mcp.cli import output, run
from anvyl_mcp.errors import AnvylError, NotFound
from anvyl_mcp.settings import Settings


def install(client: str, flags: Sequence[str], *, show: bool, dry_run: bool, as_json: bool) -> NoReturn:
    """Put the gateway into an assistant's settings; `show`: only print what to put there."""

    async def work(_: Settings) -> int:
        if not client:
            return _list(as_json=as_json)
        assistant = assistants.named(client)
        start = assistants.launch(flags, os.environ, sys.argv[0])
        file = assistants.place(assistant, os.environ)
        written = None
        if file and not show and assistant.form != "shown":
            written = assistants.install(client, file, start, dry_run=dry_run)
        if as_json:
            output.document(
                {
                    "client": client,
                    "file": str(written.file if written else file) if file else None,
                    "entry": assistant.shape(start),
                    "written": bool(written and written.changed and not dry_run),
                    "backup": str(written.backup) if written and written.backup else None,
                    "error": None,
                }
            )
            return 0
        if written is None:
            output.verbatim(assistants.text_of(assistant, start))
            output.talk(f"this belongs into {file or 'the settings of your assistant'}; nothing was written")
        elif not written.changed:
            output.talk(f"{assistant.title} has it already, in {written.file}")
        elif dry_run:
            output.verbatim(assistants.text_of(assistant, start))
            output.talk(f"this would be added to {written.file}; nothing was written")
        else:
            output.talk(_became(written, dry_run=False))
            output.talk(f"start {assistant.title} again, and ask it for your containers")
        for name in start.left_out:
            output.talk(f"note:  {name} holds a password, so it is not in there")
        return 0

    run.command(work, failed=output.failed("client") if as_json else None)


def install_all(flags: Sequence[str], *, dry_run: bool, as_json: bool) -> NoReturn:
    """Put the gateway into the settings of every assistant that was ever started here."""

    async def work(_: Settings) -> int:
        start = assistants.launch(flags, os.environ, sys.argv[0])
        done: list[dict[str, object]] = []
        errors: list[AnvylError] = []
        for client, file in _found().items():
            entry: dict[str, object] = {"client": client, "file": str(file), "written": False, "error": None}
            try:
                written = assistants.install(client, file, start, dry_run=dry_run)
                entry["written"] = written.changed and not dry_run
                if not as_json:
                    output.talk(_became(written, dry_run=dry_run))
            except AnvylError as error:
                errors.append(error)
                entry["error"] = error.as_dict()
                output.problem(error)
            done.append(entry)
        if not done:
            raise NotFound("no assistant has settings here", hint="start one once, or see anvyl-mcp install")
        if as_json:
            output.document({"clients": done, "error": None})
        return 0 if not errors else 1 if len(errors) == len(done) else 3

    run.command(work, failed=output.failed("clients", []) if as_json else None)


def _found() -> dict[str, Path]:
    places = {name: assistants.place(one, os.environ) for name, one in assistants.ASSISTANTS.items()}
    return {
        name: file
        for name, file in places.items()
        if file is not None and assistants.ASSISTANTS[name].form != "shown" and assistants.is_here(file)
    }


def _became(written: assistants.Written, *, dry_run: bool) -> str:
    if not written.changed:
        return f"{written.file} has it already"
    kept = f"; as it was before it is {written.backup.name} beside it" if written.backup else ""
    return f"would be added to {written.file}" if dry_run else f"added to {written.file}{kept}"


def _list(*, as_json: bool) -> int:
    rows = []
    for client, assistant in assistants.ASSISTANTS.items():
        file = assistants.place(assistant, os.environ)
        if file is not None:
            here = "found" if assistants.is_here(file) else "not found"
            rows.append([client, "set up" if assistants.has_entry(assistant, file) else here, str(file)])
    if as_json:
        keys = ("client", "state", "file")
        output.document({"clients": [dict(zip(keys, row, strict=True)) for row in rows], "error": None})
    else:
        output.table(["client", "state", "file"], rows)
    return 0
