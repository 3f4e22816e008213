"""The text of a systemd unit."""

from __future__ import annotations

import re
from pathlib import Path

from anvyl_mcp.app.service.definition import DESCRIPTION, MARK, ServiceDefinition
from anvyl_mcp.core.files import SYSTEM_HOME

HARDENING = """\
# The engine's socket is all that the server needs. Commands that callers with the scope `exec` run on this host run
# under the same limits.
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
{home}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""
RESTART = """\
Restart=on-failure
RestartSec=5
TimeoutStopSec=30
UMask=0077
"""


def unit_text(definition: ServiceDefinition) -> str:
    """Return the unit of a service: hardened and with an account of its own for the system, plain for a user."""
    return _system_unit(definition) if definition.account else _user_unit(definition)


def _user_unit(definition: ServiceDefinition) -> str:
    # The engine may be rootless and then is a unit of the same user; it is not required, so the server outlives it.
    return (
        f"# {MARK}, which replaces this file. For changes of your own: systemctl --user edit anvyl-mcp\n"
        f"[Unit]\nDescription={DESCRIPTION}\nAfter=docker.service podman.socket\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType=notify\n{_command(definition)}{RESTART}\n"
        "[Install]\nWantedBy=default.target\n"
    )


def _system_unit(definition: ServiceDefinition) -> str:
    lines = ["ProtectHome=read-only"]
    if definition.private_paths:
        # The program is in somebody's home folder, which the account may not even enter.
        lines = ["ProtectHome=tmpfs", *(f"BindReadOnlyPaths={_word(path)}" for path in definition.private_paths)]
    folder = definition.home or SYSTEM_HOME
    owned = "StateDirectory=anvyl\nStateDirectoryMode=0700\n" if folder == SYSTEM_HOME else ""
    return (
        f"# {MARK}, which replaces this file. For changes of your own: systemctl edit anvyl-mcp\n"
        f"[Unit]\nDescription={DESCRIPTION}\nWants=network-online.target\n"
        "# Ordered after the engine, but not bound to it: the server outlives a restart of the engine.\n"
        "After=network-online.target docker.service podman.socket\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType=notify\n{_command(definition)}User={definition.account}\nGroup={definition.account}\n"
        f"{owned or f'ReadWritePaths={_word(folder)}' + chr(10)}WorkingDirectory={_path(folder)}\n{RESTART}\n"
        f"{HARDENING.format(home=chr(10).join(lines))}\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _command(definition: ServiceDefinition) -> str:
    variables = "".join(f"Environment={_word(f'{name}={value}')}\n" for name, value in definition.variables.items())
    return f"ExecStart={' '.join(_word(word, dollar=True) for word in definition.command)}\n{variables}"


def _path(path: Path) -> str:
    return str(path).replace("%", "%%")


def _word(value: str | Path, *, dollar: bool = False) -> str:
    """Quote a word for systemd, which expands `%` everywhere, and `$` in command lines."""
    word = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if dollar:
        word = word.replace("$", "$$")
    return word if re.fullmatch(r"[\w@%+=:,./$~-]+", word) else f'"{word}"'
