"""A helper container that replaces the container in which this server runs.

The server records the update and starts the helper, from its own image and with its own mounts, user and groups, but
without ports, and without a network if Docker is reached through a socket. The helper can do nothing that the server
could not. Docker starts it again if it is killed, and the record tells it where it was; its name makes it the only one.
It reports to the files of the server's home, which the new server reads, and removes itself.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from anvyl_mcp.core.errors import AnvylError, Busy, Conflict, EngineError, NotFound, Unknown
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy import object_names
from anvyl_mcp.server.progress import Progress
from anvyl_mcp.server.updates.execution import Execution, Phases
from anvyl_mcp.server.updates.health_watch import UnhealthyError, last_lines
from anvyl_mcp.server.updates.records import UpdateRecord, UpdateRecords, at_step
from anvyl_mcp.server.updates.replacement import name_of

log = logging.getLogger(__name__)

ENDING = f"{object_names.REPLACING}helper"
LABEL = "anvyl.helper"
"""Label of helpers, with the id of the operation that they carry out."""
PROGRAM = "anvyl_mcp.app.update_helper"
NOTE = "this server restarts; list_updates shows afterwards whether it worked"
KEPT_SETTINGS = (
    *("CapAdd", "CapDrop", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "GroupAdd", "Privileged", "ReadonlyRootfs"),
    *("Runtime", "SecurityOpt", "Tmpfs", "UsernsMode"),
)
"""Settings that decide whether the server may write to its home and reach Docker."""
RETRY_SECONDS = 1.0
ANSWER_SECONDS = 60.0
"""How long a new server may take to answer at `/health` once its container is up."""
PROBE = """
import json, sys, urllib.request
url = json.load(open(sys.argv[1]))["url"]
answer = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + "/health", timeout=8))
sys.exit(answer["status"] not in ("healthy", "degraded"))
"""
"""Runs in the new container: asks its server at the address that the server itself has announced."""
NO_PROGRAM = (126, 127)
"""Exit codes if the new image has no such Python."""


def check_replaceable(container: Mapping[str, Any], home: Path) -> None:
    """Return if the caller may replace the container of this server, and its home would survive.

    Raises:
        Denied: the caller may not.
        Conflict: the home is in the container.
    """
    name = name_of(container)
    CURRENT_CALLER.get().require("exec", f"replacing `{name}`, the container of this server,")
    kept = [str(one.get("Destination")) for one in container["Mounts"] if one.get("Type") in ("volume", "bind")]
    if not any(PurePath(home).is_relative_to(one) for one in kept):
        raise Conflict(
            f"the home of this server, {home}, is not in a volume of `{name}`, so its keys, tokens and "
            "hosts would be lost",
            hint="create the container again with a volume there: docs/service.md",
        )


def exists(engine: Engine, record: UpdateRecord) -> bool:
    """Whether the helper of a record exists."""
    found = _find(engine, f"{record.own}{ENDING}")
    return found is not None and found["Config"]["Labels"].get(LABEL) == record.operation


def start(engine: Engine, record: UpdateRecord) -> None:
    """Start the helper of a record, unless it is running already.

    Raises:
        Conflict: its name is taken.
        AnvylError: the engine refused.
    """
    name = f"{record.own}{ENDING}"
    found = _find(engine, name)
    if found is not None and LABEL not in found["Config"]["Labels"]:
        raise Conflict(f"the update needs the name `{name}`, which a container has", hint="rename or remove it first")
    if found is not None and found["Config"]["Labels"][LABEL] != record.operation:
        _remove(engine, str(found["Id"]))
        found = None
    identifier = str(found["Id"]) if found is not None else _create(engine, record, name)
    try:
        with engine_errors(doing=f"to start `{name}`"):
            engine.client(CHANGE_TIMEOUT).start(identifier)
    except AnvylError:
        with suppress(AnvylError):
            _remove(engine, identifier)
        raise


def run(engine: Engine, records: UpdateRecords, execution: Execution, operation: str) -> None:
    """Carry out a recorded update, in the helper. Goes on until it is done, also if Docker restarts meanwhile."""
    while record := records.find(operation):
        try:
            with records.hold(record):
                if record := records.find(operation):
                    if record.step == "waiting":
                        record = at_step(record, "created")
                        records.put(record)
                        execution.run(record, Phases(Progress()))
                    else:
                        execution.recover(record)
        except Busy:
            pass  # The server has not finished starting this helper.
        except AnvylError as error:
            log.warning("%s", error)
        if records.find(operation) is not None:
            time.sleep(RETRY_SECONDS)


def remove_itself(engine: Engine, operation: str) -> None:
    """Remove the helper of an operation, which ends the process that calls this; until Docker does it."""
    while True:
        try:
            for one in engine.containers(all=True, label=f"{LABEL}={operation}"):
                _remove(engine, str(one["Id"]))
            return
        except AnvylError as error:
            log.warning("this helper cannot remove itself yet: %s", error)
            time.sleep(RETRY_SECONDS)


def check_answers(engine: Engine, started: Mapping[str, str], own: str, server_file: Path) -> None:
    """Return once the server in the new container answers at `/health`.

    Raises:
        UnhealthyError: it does not.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    command = [sys.executable, "-c", PROBE, str(server_file)]
    for identifier in [one for one, name in started.items() if name == own]:
        while (code := _exit_code(engine, identifier, command)) not in (0, *NO_PROGRAM):
            if time.monotonic() > deadline:
                found = engine.inspect(identifier)
                raise UnhealthyError(own, "does not answer at /health", last_lines(engine, found))
            time.sleep(RETRY_SECONDS)
        if code:
            log.warning("`%s` has no %s, so its /health was not asked", own, sys.executable)


def _exit_code(engine: Engine, identifier: str, command: list[str]) -> int:
    client = engine.client(CHANGE_TIMEOUT)
    try:
        with engine_errors(doing="to ask the new server"):
            made = client.exec_create(identifier, command)
            client.exec_start(made["Id"])
            return int(compat.number(client.exec_inspect(made["Id"]).get("ExitCode")) or 0)
    except (EngineError, Conflict, NotFound):
        return 1


def _create(engine: Engine, record: UpdateRecord, name: str) -> str:
    old = next(part.old for part in record.parts if part.name == record.own)
    config, host = old["Config"], old["HostConfig"]
    mode = "none" if engine.socket else str(host.get("NetworkMode") or "default")
    body = {
        "Image": old["Image"],
        "Entrypoint": [sys.executable, "-m", PROGRAM, record.operation],
        "Cmd": [],
        "Env": config.get("Env"),
        "User": config.get("User"),
        "Labels": {LABEL: record.operation, "anvyl.protect": "true"},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **{key: host[key] for key in KEPT_SETTINGS if host.get(key)},
            "NetworkMode": mode,
            "Mounts": [_mount(one) for one in old["Mounts"] if one.get("Type") in ("volume", "bind")],
            "RestartPolicy": {"Name": "always"},
        },
    }
    client = engine.client(CHANGE_TIMEOUT)
    with engine_errors(doing=f"to create `{name}`"):
        made = client.create_container_from_config(body, name)  # type: ignore[no-untyped-call]  # no stub
    identifier = str(made["Id"])
    for network in old["NetworkSettings"]["Networks"] if not engine.socket else ():
        if mode.partition(":")[0] not in ("host", "container", network):
            with engine_errors(doing=f"to connect `{name}` to `{network}`"):
                client.connect_container_to_network(identifier, network)
    return identifier


def _mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    source = mount["Name"] if mount["Type"] == "volume" else mount["Source"]
    return {
        "Type": mount["Type"],
        "Source": source,
        "Target": mount["Destination"],
        "ReadOnly": mount.get("RW") is False,
    }


def _find(engine: Engine, name: str) -> Mapping[str, Any] | None:
    with suppress(NotFound):
        return engine.inspect(name)
    return None


def _remove(engine: Engine, identifier: str) -> None:
    with suppress(NotFound, Unknown), engine_errors(missing=lambda: NotFound("it is gone")):
        engine.client(CHANGE_TIMEOUT).remove_container(identifier, force=True)
