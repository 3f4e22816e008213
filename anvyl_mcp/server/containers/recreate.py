"""A removed container made again from what the engine said of it before."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anvyl_mcp.core.errors import AnvylError, Conflict, NotFound
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers import root_equivalence
from anvyl_mcp.server.containers.attachment_rights import allowed_network, check_volumes
from anvyl_mcp.server.containers.create import remove_unstarted
from anvyl_mcp.server.containers.undo_log import RUNNING_STATES, PolicyCheck, UndoableChange
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy.guardrails import check_labels
from anvyl_mcp.server.tool import CURRENT_TOOL, Tool


@dataclass(frozen=True)
class Recreation:
    """What a container was made from."""

    change: UndoableChange

    @property
    def image(self) -> str:
        """The image's name as it was given."""
        return str(self._config["Image"])

    @property
    def was_running(self) -> bool:
        """Whether it ran when it was removed."""
        return self.change.made_from["State"]["Status"] in RUNNING_STATES

    @property
    def _config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.change.made_from["Config"]
        return config

    @property
    def _host(self) -> Mapping[str, Any]:
        host: Mapping[str, Any] = self.change.made_from["HostConfig"]
        return host

    @property
    def networks(self) -> dict[str, dict[str, Any]]:
        """The networks that it was in, the first one first; none when it had no network of its own."""
        joined: Mapping[str, Mapping[str, Any]] = self.change.made_from["NetworkSettings"]["Networks"]
        return {name: self._endpoint(joined[name]) for name in root_equivalence.joined_networks(self.change.made_from)}

    @property
    def anonymous_volumes(self) -> dict[str, str]:
        """Where its unnamed volumes were, by their ids: the engine keeps them when a container goes."""
        given = {str(bind).split(":")[1] for bind in self._host.get("Binds") or () if ":" in str(bind)}
        given |= {str(mount.get("Target")) for mount in self._host.get("Mounts") or ()}
        mounts = [one for one in self.change.made_from["Mounts"] if one.get("Type") == "volume" and one.get("Name")]
        return {str(one["Name"]): str(one["Destination"]) for one in mounts if one["Destination"] not in given}

    def check(self, engine: Engine) -> None:
        """Return when it can be made again as things are.

        Raises:
            Conflict: its name is taken, or its image or a network is gone.
        """
        for wanted in (self.change.id, self.change.name):
            found = _find_container(engine, wanted)
            if found and found["Id"] == self.change.id:
                raise Conflict(f"`{self.change.name}` is still there, so it need not be made again")
            if found and found["Name"].lstrip("/") == self.change.name:
                raise Conflict(
                    f"there is another container `{self.change.name}` now", hint="remove or rename that one first"
                )
        if not engine.image_id(self.change.made_from["Image"]):
            raise Conflict(
                f"the image that `{self.change.name}` was made from, `{self.image}`, is not on this host any more"
            )
        for network in self.networks:
            try:
                lookup.find_network(engine, network)
            except NotFound as error:
                raise Conflict(f"`{self.change.name}` was in the network `{network}`, which is gone") from error

    def losses(self, engine: Engine) -> list[str]:
        """What will not be as it was."""
        gone = [name for name in (*self._volumes(), *self.anonymous_volumes) if engine.volume(name) is None]
        said = ["what was written inside the container, outside of its volumes, is lost"]
        for name in gone:
            what = (
                f"the unnamed volume at {self.anonymous_volumes[name]}"
                if name in self.anonymous_volumes
                else f"the volume `{name}`"
            )
            said.append(f"{what} is gone: it begins empty")
        return said

    def check_rights(self, tool: Tool, permit: PolicyCheck, engine: Engine) -> None:
        """Return when who acts may make such a container.

        Raises:
            Denied: a right is missing, or the policy or a label forbids it.
        """
        if why := root_equivalence.root_reasons(engine, self.change.made_from, self.change.name):
            CURRENT_CALLER.get().require("exec", f"making `{self.change.name}` again ({'; '.join(why)})")
        permit(tool, root_equivalence.create_arguments(engine, self.change.made_from, self.change.name))
        if called := CURRENT_TOOL.get():
            check_labels(called, {"Name": self.change.name, "Config": self._config})
        check_volumes(engine, [*self._volumes(), *self.anonymous_volumes])
        for network in self.networks:
            # One that is gone is told by `check`.
            with suppress(NotFound):
                allowed_network(engine, network)

    def create(self, engine: Engine) -> str:
        """Make it, start it when it ran, and return its id; what could not be finished is taken back.

        Raises:
            AnvylError: the engine does not.
        """
        name, client = self.change.name, engine.client(CHANGE_TIMEOUT)
        networks = list(self.networks.items())
        with engine_errors(doing=f"to create `{name}`"):
            body = self._body(engine, dict(networks[:1]))
            made = client.create_container_from_config(body, name)  # type: ignore[no-untyped-call]  # no stub
        created = str(made["Id"])
        try:
            with engine_errors(doing=f"to start `{name}`"):
                for network, endpoint in networks[1:]:
                    address = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
                    client.connect_container_to_network(
                        created, network, aliases=endpoint.get("Aliases"), ipv4_address=address
                    )
                if self.was_running:
                    client.start(created)
        except AnvylError as error:
            remove_unstarted(engine, created, error)
            raise
        return created

    def _body(self, engine: Engine, endpoints: Mapping[str, Any]) -> dict[str, Any]:
        config, host = dict(self._config), dict(self._host)
        if config.get("Hostname") == self.change.id[:12] or self._host.get("NetworkMode") == "host":
            config.pop("Hostname", None)
        config.pop("MacAddress", None)
        host["Links"] = [_link_option(one) for one in host.get("Links") or ()] or None
        host["Binds"] = [
            *(host.get("Binds") or ()),
            *(f"{name}:{place}" for name, place in self.anonymous_volumes.items() if engine.volume(name)),
        ]
        host.pop("ContainerIDFile", None)
        number = str(self.change.made_from["Image"])
        config["Image"] = self.image if engine.image_id(self.image) == number else number
        return {**config, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": dict(endpoints)}}

    def _endpoint(self, told: Mapping[str, Any]) -> dict[str, Any]:
        aliases = [one for one in told.get("Aliases") or () if one != self.change.id[:12]]
        kept = {name: told.get(name) for name in ("IPAMConfig", "Links", "DriverOpts") if told.get(name)}
        return {**kept, "Aliases": aliases} if aliases else kept

    def _volumes(self) -> list[str]:
        """The names of its named volumes."""
        binds = [str(bind).partition(":")[0] for bind in self._host.get("Binds") or ()]
        mounts = [str(one.get("Source") or "") for one in self._host.get("Mounts") or () if one["Type"] == "volume"]
        return [name for name in (*binds, *mounts) if name and "/" not in name]


def _find_container(engine: Engine, name: str) -> Mapping[str, Any] | None:
    try:
        return engine.inspect(name)
    except NotFound:
        return None


def _link_option(told: str) -> str:
    """`/other:/web/alias`, as the engine tells it, in the form in which it takes it."""
    other, _, alias = told.partition(":")
    return f"{other.lstrip('/')}:{alias.rpartition('/')[2]}"
