"""Log-ins to registries from the Docker configuration of the user who runs the server (`docker login`)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from docker import auth
from docker.errors import DockerException

from anvyl_mcp.core.errors import Denied

HELPER_SECONDS = 5
"""Time limit of a credential helper, which may wait for a locked keychain."""
TOKEN_USER = "<token>"
"""What helpers return as user name with an identity token."""


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """A user name with a password, or an identity token. Never shown."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class RegistryLogins:
    """The log-ins in one version of the configuration."""

    def __init__(self) -> None:
        """Read the configuration.

        Raises:
            Denied: it is damaged.
        """
        try:
            self._config = auth.load_config()
        except (DockerException, ValueError) as error:
            raise Denied("the Docker configuration with registry log-ins is damaged", hint=_HINT) from error

    def find(self, registry: str) -> RegistryLogin | None:
        """The log-in to a registry, or None.

        Raises:
            Denied: its credential helper failed.
        """
        if (store := self._config.get_credential_store(registry)) and (login := _ask_helper(store, registry)):
            return login
        # A configuration without helpers, so that the SDK does not run one, without a time limit.
        plain = auth.AuthConfig({"auths": dict(self._config.auths)})
        return _parse(plain.resolve_authconfig(registry) or {})


_HINT = "check ~/.docker/config.json of the user who runs the server, or log in again with docker login"


def _ask_helper(store: str, registry: str) -> RegistryLogin | None:
    """Ask the program `docker-credential-STORE`; None if it has no log-in to this registry."""
    program = shutil.which(f"docker-credential-{store}")
    server = auth.INDEX_URL if registry == auth.INDEX_NAME else registry
    if program is None:
        raise Denied(f"the credential helper `docker-credential-{store}` is not installed", hint=_HINT)
    try:
        done = subprocess.run([program, "get"], input=server, capture_output=True, text=True, encoding="utf-8",
                              timeout=HELPER_SECONDS, check=False)  # fmt: skip
        found = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise Denied(f"the credential helper `docker-credential-{store}` failed", hint=_HINT) from error
    return _parse(found) if isinstance(found, dict) else None


def _parse(found: Mapping[str, Any]) -> RegistryLogin | None:
    """A log-in in the form of a helper, or of the SDK."""
    fold = {str(name).lower(): str(value) for name, value in found.items() if value}
    user, secret = fold.get("username", ""), fold.get("password") or fold.get("secret") or ""
    if token := fold.get("identitytoken") or (secret if user == TOKEN_USER else ""):
        return RegistryLogin(identity_token=token)
    return RegistryLogin(user, secret) if user and secret else None
