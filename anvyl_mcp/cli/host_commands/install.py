"""`anvyl-mcp install` and `uninstall`: the gateway in the settings of desktop assistants."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from anvyl_mcp.app import client_configs
from anvyl_mcp.app.client_configs import ClientConfig
from anvyl_mcp.app.config_edits import entry_file
from anvyl_mcp.app.config_edits.entry_file import ConfigChange
from anvyl_mcp.cli.runtime import output, runner
from anvyl_mcp.core.errors import AnvylError, InvalidInput, NotFound
from anvyl_mcp.core.settings import Settings


def install(client: str, flags: Sequence[str], *, file: str, show: bool, dry_run: bool, as_json: bool) -> NoReturn:
    """Add the gateway to an assistant's settings; `show`: only print the entry."""

    async def work(_: Settings) -> int:
        if not client:
            return _list_clients(as_json=as_json)
        assistant = client_configs.find_client(client)
        start = client_configs.gateway_launch(flags, os.environ, sys.argv[0])
        path = _path(assistant, file)
        written = None
        if path and not show and assistant.form != "shown":
            written = entry_file.install_entry(client, assistant, path, start, dry_run=dry_run)
        if as_json:
            output.print_json(
                {
                    "client": client,
                    "file": str(written.file if written else path) if path else None,
                    "entry": assistant.shape(start),
                    "written": bool(written and written.changed and not dry_run),
                    "backup": str(written.backup) if written and written.backup else None,
                    "error": None,
                }
            )
            return 0
        if written is None:
            output.print_verbatim(entry_file.entry_text(assistant, start))
            output.print_message(f"Put this in {path or 'the settings of your assistant'}; nothing was written")
        elif not written.changed:
            output.print_message(f"{assistant.title} already has this entry, in {written.file}")
        elif dry_run:
            output.print_verbatim(entry_file.entry_text(assistant, start))
            output.print_message(f"Dry run: would add this to {written.file}; nothing was written")
        else:
            output.print_message(_added(written, dry_run=False))
            output.print_message(f"restart {assistant.title}, then ask it about your containers")
        for name in start.left_out:
            output.print_message(f"note:  {name} contains a password and was left out")
        if assistant.note:
            output.print_message(f"note:  {assistant.note}")
        return 0

    runner.run_command(work, failed=output.error_document("client") if as_json else None)


def install_all(flags: Sequence[str], *, dry_run: bool, as_json: bool) -> NoReturn:
    """Add the gateway to the settings of every assistant found on this machine."""
    start = client_configs.gateway_launch(flags, os.environ, sys.argv[0])

    def add(client: str, assistant: ClientConfig, file: Path) -> ConfigChange:
        return entry_file.install_entry(client, assistant, file, start, dry_run=dry_run)

    def found(assistant: ClientConfig, file: Path) -> bool:
        return client_configs.is_installed(assistant, file)

    _change_all(add, found, _added, "written", dry_run=dry_run, as_json=as_json)


def uninstall(client: str, *, file: str, dry_run: bool, as_json: bool) -> NoReturn:
    """Remove the gateway from an assistant's settings."""

    async def work(_: Settings) -> int:
        assistant = client_configs.find_client(client)
        path = _path(assistant, file)
        if path is None:
            raise InvalidInput("which settings file?", hint=f"anvyl-mcp uninstall {client} --file PATH")
        changed = entry_file.uninstall_entry(assistant, path, dry_run=dry_run)
        if as_json:
            output.print_json(
                {
                    "client": client,
                    "file": str(changed.file),
                    "removed": changed.changed and not dry_run,
                    "backup": str(changed.backup) if changed.backup else None,
                    "error": None,
                }
            )
        elif not changed.changed:
            output.print_message(f"{assistant.title} has no such entry, in {changed.file}")
        else:
            output.print_message(_removed(changed, dry_run=dry_run))
        return 0

    runner.run_command(work, failed=output.error_document("client") if as_json else None)


def uninstall_all(*, dry_run: bool, as_json: bool) -> NoReturn:
    """Remove the gateway from the settings of every assistant that has it."""

    def remove(client: str, assistant: ClientConfig, file: Path) -> ConfigChange:
        return entry_file.uninstall_entry(assistant, file, dry_run=dry_run)

    _change_all(remove, entry_file.has_entry, _removed, "removed", dry_run=dry_run, as_json=as_json)


def _change_all(
    change: Callable[[str, ClientConfig, Path], ConfigChange],
    concerned: Callable[[ClientConfig, Path], bool],
    line: Callable[..., str],
    field: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> NoReturn:
    """Change the settings of every assistant that is concerned; one that fails does not keep the others."""

    async def work(_: Settings) -> int:
        done: list[dict[str, object]] = []
        errors: list[AnvylError] = []
        for client, assistant in client_configs.CLIENTS.items():
            file = _path(assistant, "")
            if file is None or not concerned(assistant, file):
                continue
            entry: dict[str, object] = {"client": client, "file": str(file), field: False, "error": None}
            try:
                changed = change(client, assistant, file)
                entry[field] = changed.changed and not dry_run
                if not as_json:
                    output.print_message(line(changed, dry_run=dry_run))
            except AnvylError as error:
                errors.append(error)
                entry["error"] = error.as_dict()
                output.print_error(error)
            done.append(entry)
        if not done:
            what = "no settings of an assistant" if field == "written" else "no assistant that has the entry"
            hint = "start it once, or list the assistants: anvyl-mcp install"
            raise NotFound(f"found {what}", hint=hint if field == "written" else "list them: anvyl-mcp install")
        if as_json:
            output.print_json({"clients": done, "error": None})
        return 0 if not errors else 1 if len(errors) == len(done) else 3

    runner.run_command(work, failed=output.error_document("clients", []) if as_json else None)


def _path(assistant: ClientConfig, file: str) -> Path | None:
    return Path(file).expanduser().absolute() if file else client_configs.config_file(assistant, os.environ)


def _added(written: ConfigChange, *, dry_run: bool) -> str:
    if not written.changed:
        return f"{written.file} already has the entry"
    return f"would add the entry to {written.file}" if dry_run else f"added the entry to {_place(written)}"


def _removed(written: ConfigChange, *, dry_run: bool) -> str:
    return f"would remove the entry from {written.file}" if dry_run else f"removed the entry from {_place(written)}"


def _place(written: ConfigChange) -> str:
    return f"{written.file}{f' (backup: {written.backup.name})' if written.backup else ''}"


def _list_clients(*, as_json: bool) -> int:
    rows = []
    for client, assistant in client_configs.CLIENTS.items():
        file = client_configs.config_file(assistant, os.environ)
        if file is not None:
            here = "found" if client_configs.is_installed(assistant, file) else "not found"
            rows.append([client, "set up" if entry_file.has_entry(assistant, file) else here, str(file)])
    if as_json:
        keys = ("client", "state", "file")
        output.print_json({"clients": [dict(zip(keys, row, strict=True)) for row in rows], "error": None})
    else:
        output.print_table(["client", "state", "file"], rows)
    return 0
