"""The key that this host will have: made, announced to those who hold a token, put in place.

Until it is in place the host proves its present key, so whoever was told knows both, and nobody has to pair again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import AnvylError, Conflict, NotFound
from anvyl_mcp.server.auth import certificate
from anvyl_mcp.server.auth.callers import Caller
from anvyl_mcp.server.auth.certificate import Identity
from anvyl_mcp.server.auth.secret_file import SecretFile

log = logging.getLogger(__name__)


@dataclass
class Plan:
    """The next key's pin, empty when there is none; since when; and the ids of the tokens that were told."""

    pin: str = ""
    made: str = ""
    told: list[str] = field(default_factory=list)


class NextKey:
    """A change of key, in the folder where the keys are."""

    def __init__(self, folder: Path, identity: Callable[[], Identity]) -> None:
        self._folder = folder
        self._identity = identity
        self._file = SecretFile(folder / "next.json", parse=_parse, dump=asdict, start=Plan())
        self._present: tuple[tuple[int, int], str] = (0, 0), ""

    @property
    def plan(self) -> Plan:
        """What is under way.

        Raises:
            ConfigInvalid: the file that says so cannot be used.
        """
        return self._file.read()

    def announce(self, caller: Caller) -> str:
        """The pin of the key that this host has or will have, for holders of tokens; who was told is remembered."""
        if caller.how not in ("token", "jwt"):
            return ""
        try:
            plan = self._file.read()
            if plan.pin and caller.how == "token" and caller.id not in plan.told:
                with self._file.changing() as changed:
                    changed.told.append(caller.id)
            return plan.pin or self._present_pin()
        except FileNotFoundError:
            # Nothing was ever served over TLS here.
            return ""
        except (AnvylError, OSError) as error:
            log.warning("the next key is not announced: %s", error)
            return ""

    def begin(self) -> Plan:
        """Make the next key.

        Raises:
            Conflict: there is one already.
            ConfigInvalid: it cannot be written.
        """
        self._identity()
        with self._file.changing() as plan:
            if plan.pin:
                raise Conflict(
                    f"the next key is made already: {plan.pin}",
                    hint="anvyl-mcp key rotate --finish puts it in place, --cancel forgets it",
                )
            plan.pin = certificate.make_next(self._folder)
            plan.made = datetime.now(UTC).isoformat(timespec="seconds")
            plan.told = []
        return plan

    def finish(self) -> Identity:
        """Put the next key in place. A server that runs has it from the next connection on.

        Raises:
            NotFound: there is none.
            ConfigInvalid: it is damaged.
        """
        with self._file.changing() as plan:
            if not plan.pin:
                raise NotFound("there is no next key", hint="make it first: anvyl-mcp key rotate")
            identity = self._identity()
            # It is in place already when the last attempt ended too early.
            if identity.pin != plan.pin:
                identity = certificate.put_next_in_place(self._folder)
            plan.pin, plan.made, plan.told = "", "", []
        return identity

    def cancel(self) -> None:
        """Forget the next key; who was told hears that with the next answer.

        Raises:
            NotFound: there is none.
        """
        with self._file.changing() as plan:
            if not plan.pin:
                raise NotFound("there is no next key", hint="anvyl-mcp key show says what there is")
            certificate.drop_next(self._folder)
            plan.pin, plan.made, plan.told = "", "", []

    def _present_pin(self) -> str:
        found = (self._folder / "key.pem").stat()
        mark = found.st_ino, found.st_mtime_ns
        if self._present[0] != mark:
            self._present = mark, self._identity().pin
        return self._present[1]


def _parse(data: Any) -> Plan:
    return Plan(str(data["pin"]), str(data["made"]), [str(one) for one in data["told"]])
