"""What this engine is in a Swarm: nothing, a worker or a manager. Only a manager knows nodes and services."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import anyio.to_thread
from pydantic import BaseModel

from anvyl_mcp.core.errors import AnvylError, Conflict, EngineError
from anvyl_mcp.server.engine import compat
from anvyl_mcp.server.engine.engine import Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.tool import Injected

TOOLSET = "swarm"
"""The toolset that is offered only on an active manager."""
FRESH_SECONDS = 2
"""How long the last state decides what is listed, before the engine is asked again."""
WAYS = (
    "to have it: `anvyl swarm init --hosts A,B,C`; without it: one container on each host, with "
    "`anvyl run IMAGE --host A,B,C --restart unless-stopped`"
)
NOT_A_MANAGER = "not a swarm manager"
"""What every engine says to who asks a worker, or one outside a Swarm, about nodes or services."""
LOST = "without a Swarm nothing moves containers to another host when one fails, and nothing keeps their number"


class SwarmPart(BaseModel):
    """This engine's part in a Swarm. `cluster`: its id, known to managers only, as are the numbers."""

    state: str
    role: str = ""
    cluster: str = ""
    node_id: str = ""
    address: str = ""
    nodes: int = 0
    managers: int = 0
    error: str = ""

    @property
    def manages(self) -> bool:
        """Whether it is an active manager."""
        return self.state == "active" and self.role == "manager"

    def text(self) -> str:
        """One line."""
        if self.state != "active":
            return f"Swarm: {self.state}" + (f", {self.error}" if self.error else "")
        of = f" of {self.nodes} nodes" if self.manages else ""
        return f"Swarm: {self.role}{of}"


def parse_part(info: compat.EngineObject) -> SwarmPart:
    """The part in a Swarm that `GET /info` reports; Podman reports none."""
    swarm = compat.mapping(info.get("Swarm"))
    state = compat.string(swarm.get("LocalNodeState")) or "inactive"
    manager = swarm.get("ControlAvailable") is True
    return SwarmPart(
        state=state,
        role=("manager" if manager else "worker") if state == "active" else "",
        cluster=compat.string(compat.mapping(swarm.get("Cluster")).get("ID")),
        node_id=compat.string(swarm.get("NodeID")),
        address=compat.string(swarm.get("NodeAddr")),
        nodes=compat.number(swarm.get("Nodes")) or 0,
        managers=compat.number(swarm.get("Managers")) or 0,
        error=compat.string(swarm.get("Error"))[:200],
    )


def read_part(engine: Engine) -> SwarmPart:
    """Ask the engine for its part in a Swarm."""
    return parse_part(engine.info())


def require_manager(engine: Engine) -> SwarmPart:
    """Return this engine's part if it is an active manager.

    Raises:
        Conflict: it is not; says what is lost without a Swarm, and the ways to get it.
    """
    part = read_part(engine)
    if part.manages:
        return part
    if part.state == "active":
        raise Conflict(
            "this host is a worker of a Swarm; only a manager knows its services and nodes",
            hint="ask a manager: `anvyl swarm status` shows which hosts are",
        )
    if part.state in ("locked", "pending", "error"):
        raise Conflict(
            f"this host's Swarm is {part.state}" + (f": {part.error}" if part.error else ""),
            hint="on the host see `docker info`; a locked one needs `docker swarm unlock`",
        )
    raise Conflict(f"this host is in no Swarm: {LOST}", hint=WAYS)


@contextmanager
def manager_errors(engine: Engine, doing: str) -> Iterator[None]:
    """Translate errors of the engine; one about its part in a Swarm becomes that of `require_manager`."""
    try:
        with engine_errors(doing=doing):
            yield
    except EngineError as error:
        if NOT_A_MANAGER in error.message:
            require_manager(engine)
        raise


class SwarmWatch(Injected):
    """Knows whether this engine is an active manager; the tools of a manager are offered only then."""

    def __init__(self, engine: Engine) -> None:
        self.on_change: Callable[[], Awaitable[None]] = _ignore
        self._engine = engine
        self._manages = False
        self._asked = -float("inf")
        self._asking = threading.Lock()

    async def withheld_toolsets(self, *, now: bool = False) -> frozenset[str]:
        """The toolset of a manager, unless this engine is one. An engine that is busy or silent is what it was."""
        if (now or time.monotonic() - self._asked > FRESH_SECONDS) and not self._engine.is_busy:
            self._asked = time.monotonic()
            with suppress(AnvylError):
                async with self._engine.read_slot():
                    part = await anyio.to_thread.run_sync(self._read_part, abandon_on_cancel=True)
                if part is not None:
                    changed, self._manages = part.manages != self._manages, part.manages
                    if changed:
                        await self.on_change()
        return frozenset() if self._manages else frozenset({TOOLSET})

    def _read_part(self) -> SwarmPart | None:
        """The part, or None while another thread asks: however many clients listen, one thread waits for the engine."""
        if not self._asking.acquire(blocking=False):
            return None
        try:
            return read_part(self._engine)
        finally:
            self._asking.release()

    def forget(self) -> None:
        """Ask the engine again next time: this process has just changed its part."""
        self._asked = -float("inf")


async def _ignore() -> None:
    """Default no-op for a change."""
