"""`GET /agent/fleet`: the hosts, their containers and how busy they are, live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
from pydantic import BaseModel

from anvyl_mcp import __version__
from anvyl_mcp.orchestrator.api.endpoint import AgentRequest, SendEvent, endpoint
from anvyl_mcp.orchestrator.api.schemas import PendingChange
from anvyl_mcp.orchestrator.api.watched_notices import NoticeView, WatchedNotices
from anvyl_mcp.peers.fleet.fleet import OnBehalf
from anvyl_mcp.peers.fleet.single_host import SingleHostFleet
from anvyl_mcp.peers.watch.fleet_view import FleetView, HostLook, UsageLook

LONGEST_SECONDS = 3600.0
"""After which the stream ends, and the client connects again."""
APPROVALS_SECONDS = 1.0
"""Between two looks at what waits for approval."""

NOTICES_SECONDS = 2.0


class FleetHosts(BaseModel):
    """The hosts by name, this one first. `alone`: the caller sees this host only."""

    local: str
    hosts: list[str]
    version: str
    alone: bool


class FleetHost(BaseModel):
    """One host as it is now. `containers` is null as long as they are not known."""

    name: str
    url: str
    tags: list[str]
    status: str
    hint: str = ""
    version: str = ""
    tools: list[str] = []
    containers: list[dict[str, Any]] | None = None
    more: int = 0
    problem: str = ""


class HostUsage(BaseModel):
    """How busy one host is, and its containers: name → cpu percent, memory used, memory limit."""

    name: str
    resources: dict[str, Any]
    containers: dict[str, tuple[float, int, int]] = {}


class WaitingApprovals(BaseModel):
    """What waits for approval."""

    approvals: list[PendingChange]


@endpoint(
    "GET",
    "/agent/fleet",
    responses={200: FleetHosts},
    events={
        "host": FleetHost,
        "usage": HostUsage,
        "approvals": WaitingApprovals,
        "notices": WatchedNotices,
        "hosts": FleetHosts,
    },
    response_examples={200: {"local": "nas", "hosts": ["nas", "pi"], "version": "0.1.0", "alone": False}},
)
async def fleet(request: AgentRequest, send_event: SendEvent) -> None:
    """Watch the fleet, as server-sent events: `hosts` (names), `host` (changed), `usage`, `approvals`, `notices`."""
    context, caller = request.context, request.caller
    alone = request.single_host or not caller.relay
    whole = SingleHostFleet(context.fleet) if alone else context.fleet
    viewer = _EventViewer(send_event, context.fleet.local.name, alone=alone)
    rights = OnBehalf(caller.name, caller.scopes)
    here = context.fleet.local.name
    standby_for = context.settings.watch_standby
    notices = NoticeView(
        context.settings.state_dir,
        standby_for="" if standby_for == here else standby_for,
        host=here if alone else "",
    )

    async def until_closing() -> None:
        await context.closing.wait()
        group.cancel_scope.cancel()

    async def watch_approvals() -> None:
        seen: list[PendingChange] | None = None
        while "operate" in caller.scopes:
            waiting = await context.calls.pending(caller)
            if waiting != seen:
                send_event("approvals", WaitingApprovals(approvals=waiting))
                seen = waiting
            await context.nudge.wait(APPROVALS_SECONDS)

    async def watch_notices() -> None:
        seen: WatchedNotices | None = None
        while True:
            found = await anyio.to_thread.run_sync(notices.read)
            # The time of the last check alone is no news.
            if seen is None or found != seen.model_copy(update={"checked": found.checked}):
                # Notices name containers, so they are for those who may list them.
                may = await context.fleet.call(here, "list_containers", {"limit": 1}, on_behalf=rights)
                if may.word != "denied":
                    send_event("notices", found)
                seen = found
            await anyio.sleep(NOTICES_SECONDS)

    with anyio.move_on_after(LONGEST_SECONDS):
        async with anyio.create_task_group() as group:
            tasks: list[Callable[[], Any]] = [until_closing, watch_approvals, watch_notices]
            for task in tasks:
                group.start_soon(task)
            await FleetView(whole, viewer, rights, context.nudge).run()


class _EventViewer:
    """Sends what it sees as events."""

    def __init__(self, send_event: SendEvent, local: str, *, alone: bool) -> None:
        self._send = send_event
        self._local = local
        self._alone = alone

    def hosts(self, names: list[str]) -> None:
        self._send("hosts", FleetHosts(local=self._local, hosts=names, version=__version__, alone=self._alone))

    def host(self, look: HostLook) -> None:
        fields = {name: getattr(look, name) for name in FleetHost.model_fields}
        self._send("host", FleetHost.model_validate(fields | {"containers": _rows(look)}, from_attributes=True))

    def usage(self, look: UsageLook) -> None:
        self._send("usage", HostUsage(name=look.name, resources=dict(look.resources), containers=dict(look.containers)))


def _rows(look: HostLook) -> list[dict[str, Any]] | None:
    return None if look.containers is None else [dict(row) for row in look.containers]
