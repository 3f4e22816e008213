"""OpenRC, on Alpine, Gentoo and others: a service of the system."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from anvyl_mcp.app.service import programs
from anvyl_mcp.app.service.definition import DESCRIPTION, MARK, ServiceDefinition
from anvyl_mcp.app.service.manager import Scope, ServiceState
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.core.files import SYSTEM_HOME

SERVICE = "anvyl-mcp"
RUNNING = Path("/run/openrc")
SCRIPT = """\
#!/sbin/openrc-run
# {mark}, which replaces this file. For changes of your own: /etc/conf.d/{service}

name="{service}"
description="{description}"
supervisor=supervise-daemon
command={command}
command_args={arguments}
command_user="{account}:{account}"
directory={home}
umask=077
retry="SIGTERM/30/SIGKILL/5"
respawn_delay=5
respawn_max=0
output_log={log}
error_log={log}
{exports}
depend() {{
	use net
	after docker podman
}}

start_pre() {{
	checkpath --directory --mode 0700 --owner {account}:{account} {home}
	checkpath --file --mode 0640 --owner {account}:{account} {log}
}}
"""


class OpenRc:
    """A service of the system."""

    name = "OpenRC service"
    scope: Scope = "system"
    opens_home_folders = False

    def __init__(self) -> None:
        self.file = Path("/etc/init.d") / SERVICE
        self.log = Path("/var/log") / f"{SERVICE}.log"

    def render(self, definition: ServiceDefinition) -> str:
        """Return the script."""
        command, *arguments = definition.command
        exports = [f"export {name}={shlex.quote(value)}\n" for name, value in definition.variables.items()]
        return SCRIPT.format(
            mark=MARK,
            service=SERVICE,
            description=DESCRIPTION,
            command=shlex.quote(command),
            # OpenRC evaluates the value once more.
            arguments=shlex.quote(shlex.join(arguments)),
            account=definition.account,
            home=shlex.quote(str(definition.home or SYSTEM_HOME)),
            log=self.log,
            exports="".join(exports),
        )

    def start(self) -> list[str]:
        """Start the service now and at every boot."""
        self.file.chmod(0o755)
        programs.run_or_fail(["rc-update", "add", SERVICE, "default"])
        self.restart()
        return []

    def remove(self) -> None:
        """Stop the service, now and at boot."""
        programs.run(["rc-service", SERVICE, "stop"])
        programs.run(["rc-update", "del", SERVICE, "default"])

    def forget(self) -> None:
        """Nothing is left after `remove`."""

    def restart(self) -> None:
        """Restart the service."""
        done = programs.run(["rc-service", SERVICE, "restart"])
        if done.code:
            raise AnvylError(f"the service does not start: {done.last_words}", hint="its log: anvyl-mcp service logs")

    def state(self) -> ServiceState:
        """Return what OpenRC says about the service."""
        status = programs.run(["rc-service", SERVICE, "status"])
        enabled = re.search(rf"^\s*{SERVICE} \|", programs.run(["rc-update", "show", "default"]).out, re.MULTILINE)
        word = re.search(r"status: (\w+)", status.out + status.err)
        return ServiceState(bool(enabled), status.code == 0, 0, word[1] if word else "stopped")

    def log_command(self, lines: int, since: str, *, follow: bool) -> list[str]:
        """Return the command that prints the end of the log file, which has no times to choose by."""
        return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(self.log)]

    def log_environment(self) -> dict[str, str]:
        """Return no variables."""
        return {}
