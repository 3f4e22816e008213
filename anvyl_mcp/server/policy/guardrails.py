"""Which calls amount to root on the host, and which containers their labels protect.

`GUARDRAILS` is the only list of tools and arguments that need the scope `exec`; the security page is generated from it.
The labels of a container (`anvyl.protect=true`, `anvyl.read=false`) can only restrict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from anvyl_mcp.core import text
from anvyl_mcp.core.errors import Denied
from anvyl_mcp.server.auth.callers import SCOPES
from anvyl_mcp.server.policy import object_names

if TYPE_CHECKING:  # an order at the command line asks for reasons, and waits for no schema library
    from anvyl_mcp.server.tool import Scope, Tool

PROTECT = "anvyl.protect"
READ = "anvyl.read"
TRUE = frozenset({"true", "1", "yes", "on"})
FALSE = frozenset({"false", "0", "no", "off"})

DEFAULT_CAPABILITIES = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW"}
    | {"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)
"""Capabilities that Docker gives every container by default."""
USUAL_NETWORKS = ("", "default", "bridge", "none", "nat")
"""Built-in values for `network` in every engine; none of them weakens isolation."""
NETWORK_MODES = frozenset({"host", "container", "ns", "pod", "service", "slirp4netns", "pasta", "private", "path"})
"""Network modes of Docker and Podman; options may follow after a colon."""
NETWORK_ID = re.compile(r"[0-9a-f]{12,64}")

ValueCheck = Callable[[str], str]
"""Checks one value of an argument. Returns the reason for `exec` as a predicate of "it", or an empty string."""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One row of the list. `tools` may contain `*`; with `arguments` too, only those of these tools are checked. `what`
    and `why` are for the security page.
    """

    what: str
    why: str
    check: ValueCheck
    arguments: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()


def needed_scope(tool: Tool, arguments: Mapping[str, Any]) -> Scope:
    """The scope that a caller needs for this call."""
    if reasons(tool, arguments):
        return "exec"
    least: Scope = "read" if tool.safety == "reads" else "operate"
    return max(tool.scope, least, key=SCOPES.index)


def reasons(tool: Tool, arguments: Mapping[str, Any]) -> list[str]:
    """Reasons why this call amounts to root on the host, as predicates of "it"; empty for an ordinary call."""
    return reasons_by_name(tool.name, arguments)


def argument_reasons(arguments: Mapping[str, Any]) -> list[str]:
    """The reasons for arguments alone, whichever tool takes them."""
    return reasons_by_name("", arguments)


def reasons_by_name(tool: str, arguments: Mapping[str, Any]) -> list[str]:
    """The reasons for a tool known by name only."""
    found = [
        " ".join(text.clean(words).split()) for rule in GUARDRAILS for words in _rule_reasons(rule, tool, arguments)
    ]
    return list(dict.fromkeys(found))


def is_protected(container: Mapping[str, Any]) -> bool:
    """Whether the label of a container (listed or inspected) forbids changes."""
    return any(value not in FALSE for value in _label_values(container, PROTECT))


def is_hidden(container: Mapping[str, Any]) -> bool:
    """Whether the label of a container forbids reading its logs and details."""
    return any(value not in TRUE for value in _label_values(container, READ))


def check_labels(tool: Tool, container: Mapping[str, Any]) -> None:
    """Check that the labels of a container allow this tool.

    Raises:
        Denied: they forbid it, regardless of the caller.
    """
    if tool.safety != "reads" and is_protected(container):
        raise _denied(container, PROTECT, "must not be changed")
    if (tool.safety == "reads" or tool.untrusted) and is_hidden(container):
        raise _denied(container, READ, "must not be read")


def _denied(container: Mapping[str, Any], label: str, rule: str) -> Denied:
    name = str(container.get("Name") or next(iter(container.get("Names") or ()), "") or container.get("Id", ""))
    value = "true" if label == PROTECT else "false"
    return Denied(
        f"`{name.lstrip('/')}` {rule} through Anvyl: it has the label `{label}={value}`",
        hint="to allow it, recreate the container without the label, with docker on the host itself",
    )


def _label_values(container: Mapping[str, Any], label: str) -> Iterator[str]:
    labels = container.get("Labels") or (container.get("Config") or {}).get("Labels") or {}
    for name, value in labels.items():
        if name.strip().casefold() == label:
            yield str(value or "").strip().casefold()


def _rule_reasons(rule: Guardrail, tool: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    concerns = any(fnmatchcase(tool, pattern) for pattern in rule.tools)
    if concerns and not rule.arguments:
        yield rule.check("")
    for name, value in arguments.items():
        if name in rule.arguments and (concerns or not rule.tools):
            for entry in _texts_in(value):
                if words := rule.check(entry):
                    yield words


def _texts_in(value: Any) -> Iterator[str]:
    """The texts in an argument; false, null and blank values are skipped."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from (f"{name}={one}" for one in _texts_in(entry))
            yield str(name)
    elif isinstance(value, list | tuple | set | frozenset):
        for entry in value:
            yield from _texts_in(entry)
    elif value is True:
        yield "true"
    elif value is not None and value is not False and str(value).strip():
        yield str(value)


def _unless_false(words: str) -> ValueCheck:
    return lambda value: "" if value.strip().casefold() in FALSE else words


def _always(words: str) -> ValueCheck:
    """For arguments that are not switches: a container may well be named `off`."""
    return lambda _: words


def _check_mount(value: str) -> str:
    """`source:target[:mode]` or `type=bind,source=…`."""
    if "," in value and "=" in value.split(",", 1)[0]:
        return _check_long_mount(value)
    source, *rest = value.split(":")
    drive = "\\" in value or (len(rest) > 1 and rest[1].startswith("/"))
    if object_names.is_valid("volume", source) and not drive:
        return ""
    return _check_source(source, {mode for piece in rest[1:] for mode in piece.split(",")})


def _check_long_mount(value: str) -> str:
    pairs = [piece.strip(" \"'").partition("=") for piece in value.split(",")]
    options = {(name.strip().casefold(), setting.strip()) for name, _, setting in pairs}
    if any(name.startswith("volume-") for name, _ in options):
        return "makes a volume with options of its own"
    sources = [setting for name, setting in options if name in ("source", "src")]
    if not sources and ("type", "bind") in options:
        sources = [""]
    modes = {setting for name, setting in options if name == "bind-propagation"}
    return next((_check_source(source, modes) for source in sources if not object_names.is_valid("volume", source)), "")


def _check_source(source: str, modes: Collection[str]) -> str:
    """Reject every host folder. Checking its path would prove nothing: the engine resolves it again at every start, and
    by then a container may have replaced it by a link.
    """
    if not {"shared", "rshared"}.isdisjoint(modes):
        return f"shares what is mounted at `{source}` with the host"
    return f"mounts the folder `{source}` of the host"


def _check_network(value: str) -> str:
    if NETWORK_ID.fullmatch(value.strip().casefold()):
        return "names a network by its id, which hides its owner"
    known = _check_namespace("network")(value)
    return known or (f"uses the network mode `{value.strip()}`" if is_network_mode(value) else "")


def is_network_mode(value: str) -> bool:
    """Whether a value is a network mode of an engine, not the name of a network."""
    return ":" in value or value.strip().casefold() in NETWORK_MODES


def _check_namespace(kind: str) -> ValueCheck:
    def check(value: str) -> str:
        owner = value.strip().casefold().partition(":")[0]
        if owner == "host":
            return f"shares the host's {kind}"
        return f"joins another container's {kind}" if owner in ("container", "ns", "pod", "service") else ""

    return check


def _check_capability(value: str) -> str:
    name = value.strip().upper().removeprefix("CAP_")
    return "" if name in DEFAULT_CAPABILITIES else f"adds the capability {name}"


def _check_security_option(value: str) -> str:
    harmless = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
    return "" if value.strip().casefold() in harmless else f"weakens isolation with `{value}`"


def _check_volume_option(value: str) -> str:
    return f"gives a volume the option `{value}`, which may mount any folder or disk of the host"


GUARDRAILS: tuple[Guardrail, ...] = (
    Guardrail(
        "A command on the host",
        "It runs as the user of the server, who controls the engine.",
        _always("runs a command on the host"),
        tools=("execute_*", "run_command*"),
    ),
    Guardrail(
        "A command in a container",
        "It has the same access as the container, including its secrets.",
        _always("runs a command in a container"),
        tools=("exec_*",),
    ),
    Guardrail(
        "Removing what seems unused",
        "It deletes many objects at once without naming them.",
        _always("removes everything that is not in use"),
        tools=("prune_*",),
    ),
    Guardrail(
        "Building, loading or importing images, copying files, plugins",
        "Their content may request anything in this list.",
        _always("brings in content that may request anything"),
        tools=("build_*", "load_*", "import_*", "copy_*", "install_plugin*"),
    ),
    Guardrail(
        "Showing secrets",
        "Without `exec`, values that look secret are hidden.",
        _unless_false("shows hidden secrets"),
        arguments=("reveal",),
    ),
    Guardrail(
        "A mount of a host folder (not a named volume)",
        "It may contain the host's keys or its engine's socket, or be replaced by a link to them after the check.",
        _check_mount,
        arguments=("volumes", "volume", "mounts", "mount", "binds", "bind"),
    ),
    Guardrail(
        "A volume of a Swarm service",
        "It is mounted on any node, where its owner cannot be checked.",
        _always("mounts a volume on any node of the Swarm"),
        arguments=("volumes",),
        tools=("create_service",),
    ),
    Guardrail(
        "Forming, joining and leaving a Swarm",
        "The managers of a Swarm may run anything on all its nodes.",
        _always("decides which hosts obey which others"),
        tools=("*_swarm", "*_swarm_*"),
    ),
    Guardrail(
        "All mounts of another container",
        "They may include any mount in this list.",
        _always("takes over the mounts of another container"),
        arguments=("volumes_from",),
    ),
    Guardrail(
        "A volume with options",
        "The local driver can mount any folder or disk of the host.",
        _check_volume_option,
        arguments=("options", "opts", "opt", "driver_opts", "driver_options"),
    ),
    Guardrail(
        "The network of the host or of another container, and anything but a plain network name",
        "It reaches services that listen on loopback only, as do engine options such as `slirp4netns:…`.",
        _check_network,
        arguments=("network", "networks", "network_mode", "net"),
    ),
    Guardrail(
        "The processes of the host or of another container",
        "It can list and signal them, and read their environment.",
        _check_namespace("processes"),
        arguments=("pid", "pid_mode"),
    ),
    Guardrail(
        "The shared memory, name, user or control-group namespace of the host",
        "Each removes a layer of isolation between the container and the host.",
        _check_namespace("namespace"),
        arguments=("ipc", "ipc_mode", "uts", "uts_mode", "userns", "userns_mode", "cgroupns", "cgroupns_mode"),
    ),
    Guardrail(
        "A privileged container",
        "It is root on the host.",
        _unless_false("runs with all privileges"),
        arguments=("privileged",),
    ),
    Guardrail(
        "Capabilities beyond Docker's default ones",
        "Several of them amount to root on the host.",
        _check_capability,
        arguments=("cap_add", "capabilities", "caps"),
    ),
    Guardrail(
        "Devices",
        "Access to a disk is access to every file on it.",
        _always("gives a container access to host devices"),
        arguments=("devices", "device", "device_cgroup_rules", "device_requests", "gpus"),
    ),
    Guardrail(
        "Security options other than `no-new-privileges`",
        "They disable seccomp, AppArmor or SELinux.",
        _check_security_option,
        arguments=("security_opt", "security_options"),
    ),
    Guardrail(
        "A different runtime or parent cgroup",
        "They determine how, and whether, the container is isolated.",
        _always("changes how the container is isolated"),
        arguments=("runtime", "cgroup_parent", "isolation"),
    ),
)
