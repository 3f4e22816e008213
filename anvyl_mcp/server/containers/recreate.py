"""Recreate a removed container from its recorded configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from docker.utils import version_gte

from anvyl_mcp.core.errors import AnvylError, Conflict, NotFound
from anvyl_mcp.server.auth.callers import CURRENT_CALLER
from anvyl_mcp.server.containers import root_equivalence
from anvyl_mcp.server.containers.attachment_rights import allowed_network, check_volumes
from anvyl_mcp.server.containers.create import remove_unstarted
from anvyl_mcp.server.containers.undo_log import RUNNING_STATES, LoggedChange, PolicyCheck
from anvyl_mcp.server.engine import lookup
from anvyl_mcp.server.engine.engine import CHANGE_TIMEOUT, Engine
from anvyl_mcp.server.engine.engine_errors import engine_errors
from anvyl_mcp.server.policy.guardrails import check_labels
from anvyl_mcp.server.tool import CURRENT_TOOL, Tool

ENDPOINT_SETTINGS = ("IPAMConfig", "Links", "DriverOpts", "GwPriority")
"""Settings of a container in a network, besides its aliases and what the engine chooses."""


SEVERAL_NETWORKS_SINCE = "1.44"


@dataclass(frozen=True)
class Recreation:
    """The recorded configuration of a removed container, and how to recreate it."""

    change: LoggedChange

    @property
    def image(self) -> str:
        """Image name from the container's configuration."""
        return str(self._config["Image"])

    @property
    def was_running(self) -> bool:
        """Whether the container was running when it was removed."""
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
        """Endpoint settings by network, the primary network first; empty if it had no network of its own."""
        joined: Mapping[str, Mapping[str, Any]] = self.change.made_from["NetworkSettings"]["Networks"]
        return {name: self._endpoint(joined[name]) for name in root_equivalence.joined_networks(self.change.made_from)}

    @property
    def anonymous_volumes(self) -> dict[str, str]:
        """Mount points of its anonymous volumes by volume id; the engine keeps those when a container is removed."""
        given = {str(bind).split(":")[1] for bind in self._host.get("Binds") or () if ":" in str(bind)}
        given |= {str(mount.get("Target")) for mount in self._host.get("Mounts") or () if mount.get("Source")}
        mounts = [one for one in self.change.made_from["Mounts"] if one.get("Type") == "volume" and one.get("Name")]
        return {str(one["Name"]): str(one["Destination"]) for one in mounts if one["Destination"] not in given}

    def check(self, engine: Engine) -> None:
        """Return if the container can be recreated now.

        Raises:
            Conflict: its name is taken, or its image or a network no longer exists.
        """
        for wanted in (self.change.id, self.change.name):
            found = _find_container(engine, wanted)
            if found and found["Id"] == self.change.id:
                raise Conflict(f"`{self.change.name}` still exists, so there is nothing to recreate")
            if found and found["Name"].lstrip("/") == self.change.name:
                raise Conflict(f"another container is named `{self.change.name}` now", hint="remove or rename it first")
        if not engine.image_id(self.change.made_from["Image"]):
            raise Conflict(f"the image of `{self.change.name}`, `{self.image}`, is no longer on this host")
        for network in self.networks:
            try:
                lookup.find_network(engine, network)
            except NotFound as error:
                raise Conflict(
                    f"`{self.change.name}` was in the network `{network}`, which no longer exists"
                ) from error

    def losses(self, engine: Engine) -> list[str]:
        """Data that cannot be restored, one sentence each."""
        gone = [name for name in (*self._volumes(), *self.anonymous_volumes) if engine.volume(name) is None]
        lost = ["data written inside the container, outside its volumes, is lost"]
        for name in gone:
            what = (
                f"the unnamed volume at {self.anonymous_volumes[name]}"
                if name in self.anonymous_volumes
                else f"the volume `{name}`"
            )
            lost.append(f"{what} no longer exists: it starts empty")
        return lost

    def check_rights(self, tool: Tool, permit: PolicyCheck, engine: Engine) -> None:
        """Return if the caller may create this container.

        Raises:
            Denied: a right is missing, or the policy or a label forbids it.
        """
        if why := root_equivalence.root_reasons(engine, self.change.made_from, self.change.name):
            CURRENT_CALLER.get().require("exec", f"recreating `{self.change.name}` ({'; '.join(why)})")
        permit(tool, root_equivalence.create_arguments(engine, self.change.made_from, self.change.name))
        if called := CURRENT_TOOL.get():
            check_labels(called, {"Name": self.change.name, "Config": self._config})
        check_volumes(engine, [*self._volumes(), *self.anonymous_volumes])
        for network in self.networks:
            # `check` reports a network that no longer exists.
            with suppress(NotFound):
                allowed_network(engine, network)

    def create(self, engine: Engine) -> str:
        """Create the container, start it if it was running, and return its id; on failure remove it again.

        Raises:
            AnvylError: the engine failed or refused.
        """
        created = self.build(engine, self.change.name)
        try:
            if self.was_running:
                with engine_errors(doing=f"to start `{self.change.name}`"):
                    engine.client(CHANGE_TIMEOUT).start(created)
        except AnvylError as error:
            remove_unstarted(engine, created, error)
            raise
        return created

    def build(self, engine: Engine, name: str, adapt: Callable[[dict[str, Any]], None] = lambda body: None) -> str:
        """Create the container under a name without starting it, and return its id; on failure remove it again.

        `adapt` changes its configuration, in the form of the engine's API.

        Raises:
            AnvylError: the engine failed or refused.
        """
        client = engine.client(CHANGE_TIMEOUT)
        networks = list(self.networks.items())
        # Older engines accept only one network here.
        first = len(networks) if version_gte(str(client.api_version), SEVERAL_NETWORKS_SINCE) else 1
        body = self._body(engine, dict(networks[:first]))
        adapt(body)
        with engine_errors(doing=f"to create `{name}`"):
            made = client.create_container_from_config(body, name)  # type: ignore[no-untyped-call]  # no stub
        created = str(made["Id"])
        try:
            for network, endpoint in networks[first:]:
                addresses = endpoint.get("IPAMConfig") or {}
                with engine_errors(doing=f"to connect `{name}` to `{network}`"):
                    client.connect_container_to_network(
                        created,
                        network,
                        aliases=endpoint.get("Aliases"),
                        links=[tuple(one.split(":", 1)) for one in endpoint.get("Links") or ()] or None,
                        ipv4_address=addresses.get("IPv4Address"),
                        ipv6_address=addresses.get("IPv6Address"),
                        link_local_ips=addresses.get("LinkLocalIPs"),
                        driver_opt=endpoint.get("DriverOpts"),
                    )
        except AnvylError as error:
            remove_unstarted(engine, created, error)
            raise
        return created

    def _body(self, engine: Engine, endpoints: Mapping[str, Any]) -> dict[str, Any]:
        config, host = dict(self._config), dict(self._host)
        mode = str(self._host.get("NetworkMode") or "").partition(":")[0]
        if config.get("Hostname") == self.change.id[:12] or mode in ("host", "container"):
            config.pop("Hostname", None)
        primary = dict(endpoints)
        if address := config.get("MacAddress"):
            # Set only if a person chose it. From API 1.44 on, the engine reads it from the network instead.
            primary |= {name: {**one, "MacAddress": address} for name, one in list(primary.items())[:1]}
        host["Links"] = [_link_option(one) for one in host.get("Links") or ()] or None
        unnamed = {place: name for name, place in self.anonymous_volumes.items() if engine.volume(name)}
        host["Binds"] = [*(host.get("Binds") or ()), *(f"{name}:{place}" for place, name in unnamed.items())]
        # `--mount type=volume` without a name: the volume is mounted above instead.
        host["Mounts"] = [one for one in host.get("Mounts") or () if one.get("Target") not in unnamed] or None
        host.pop("ContainerIDFile", None)
        number = str(self.change.made_from["Image"])
        config["Image"] = self.image if engine.image_id(self.image) == number else number
        return {**config, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": primary}}

    def _endpoint(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        aliases = [one for one in recorded.get("Aliases") or () if one != self.change.id[:12]]
        kept = {name: recorded[name] for name in ENDPOINT_SETTINGS if recorded.get(name)}
        return {**kept, "Aliases": aliases} if aliases else kept

    def _volumes(self) -> list[str]:
        """Names of its named volumes."""
        binds = [str(bind).partition(":")[0] for bind in self._host.get("Binds") or ()]
        mounts = [str(one.get("Source") or "") for one in self._host.get("Mounts") or () if one["Type"] == "volume"]
        return [name for name in (*binds, *mounts) if name and "/" not in name]


def _find_container(engine: Engine, name: str) -> Mapping[str, Any] | None:
    try:
        return engine.inspect(name)
    except NotFound:
        return None


def _link_option(link: str) -> str:
    """`other:alias` from `/other:/web/alias`: the engine accepts links in another form than it reports them."""
    other, _, alias = link.partition(":")
    return f"{other.lstrip('/')}:{alias.rpartition('/')[2]}"
