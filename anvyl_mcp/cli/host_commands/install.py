"""`anvyl-mcp install`: adds the gateway to the settings of desktop assistants."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from anvyl_mcp.app import client_configs
from anvyl_mcp.cli.runtime import output, runner
from anvyl_mcp.core.errors import AnvylError, NotFound
from anvyl_mcp.core.settings import Settings


def install(client: str, flags: Sequence[str], *, show: bool, dry_run: bool, as_json: bool) -> NoReturn:
    """Add the gateway to an assistant's settings; `show`: only print the entry."""

    async def work(_: Settings) -> int:
        if not client:
            return _list_clients(as_json=as_json)
        assistant = client_configs.find_client(client)
        start = client_configs.gateway_launch(flags, os.environ, sys.argv[0])
        file = client_configs.config_file(assistant, os.environ)
        written = None
        if file and not show and assistant.form != "shown":
            written = client_configs.install_entry(client, file, start, dry_run=dry_run)
        if as_json:
            output.print_json(
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
            output.print_verbatim(client_configs.entry_text(assistant, start))
            output.print_message(f"Put this in {file or 'the settings of your assistant'}; nothing was written")
        elif not written.changed:
            output.print_message(f"{assistant.title} already has this entry, in {written.file}")
        elif dry_run:
            output.print_verbatim(client_configs.entry_text(assistant, start))
            output.print_message(f"Dry run: would add this to {written.file}; nothing was written")
        else:
            output.print_message(_result_line(written, dry_run=False))
            output.print_message(f"restart {assistant.title}, then ask it about your containers")
        for name in start.left_out:
            output.print_message(f"note:  {name} contains a password and was left out")
        return 0

    runner.run_command(work, failed=output.error_document("client") if as_json else None)


def install_all(flags: Sequence[str], *, dry_run: bool, as_json: bool) -> NoReturn:
    """Add the gateway to the settings of every assistant found on this machine."""

    async def work(_: Settings) -> int:
        start = client_configs.gateway_launch(flags, os.environ, sys.argv[0])
        done: list[dict[str, object]] = []
        errors: list[AnvylError] = []
        for client, file in _clients_with_settings().items():
            entry: dict[str, object] = {"client": client, "file": str(file), "written": False, "error": None}
            try:
                written = client_configs.install_entry(client, file, start, dry_run=dry_run)
                entry["written"] = written.changed and not dry_run
                if not as_json:
                    output.print_message(_result_line(written, dry_run=dry_run))
            except AnvylError as error:
                errors.append(error)
                entry["error"] = error.as_dict()
                output.print_error(error)
            done.append(entry)
        if not done:
            raise NotFound(
                "found no settings of an assistant", hint="start it once, or list the assistants: anvyl-mcp install"
            )
        if as_json:
            output.print_json({"clients": done, "error": None})
        return 0 if not errors else 1 if len(errors) == len(done) else 3

    runner.run_command(work, failed=output.error_document("clients", []) if as_json else None)


def _clients_with_settings() -> dict[str, Path]:
    places = {name: client_configs.config_file(one, os.environ) for name, one in client_configs.CLIENTS.items()}
    return {
        name: file
        for name, file in places.items()
        if file is not None and client_configs.CLIENTS[name].form != "shown" and client_configs.is_installed(file)
    }


def _result_line(written: client_configs.InstallResult, *, dry_run: bool) -> str:
    if not written.changed:
        return f"{written.file} already has the entry"
    backup = f" (backup: {written.backup.name})" if written.backup else ""
    return f"would add the entry to {written.file}" if dry_run else f"added the entry to {written.file}{backup}"


def _list_clients(*, as_json: bool) -> int:
    rows = []
    for client, assistant in client_configs.CLIENTS.items():
        file = client_configs.config_file(assistant, os.environ)
        if file is not None:
            here = "found" if client_configs.is_installed(file) else "not found"
            rows.append([client, "set up" if client_configs.has_entry(assistant, file) else here, str(file)])
    if as_json:
        keys = ("client", "state", "file")
        output.print_json({"clients": [dict(zip(keys, row, strict=True)) for row in rows], "error": None})
    else:
        output.print_table(["client", "state", "file"], rows)
    return 0
