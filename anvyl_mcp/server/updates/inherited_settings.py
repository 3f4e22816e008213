"""Which settings of a container come from its image, and must come from the new image after an update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anvyl_mcp.server.engine import compat

INHERITED = ("WorkingDir", "User", "StopSignal", "StopTimeout", "Healthcheck", "Shell", "OnBuild", "ArgsEscaped")
INHERITED_KEYS = ("Volumes", "ExposedPorts", "Labels")
COMPOSE_IMAGE = "com.docker.compose.image"
"""Label with the image id of a container that Compose created: with another one, it creates the container again."""


def drop_inherited(config: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """A container's configuration without what is the same in its image's configuration.

    The engine fills these fields from the image when it creates a container, and reports the merged result: kept as
    they are, the defaults of the old image would override those of the new one.
    """
    kept = dict(config)
    for key in INHERITED:
        if _same(kept.get(key), image.get(key)):
            kept.pop(key, None)
    for key in INHERITED_KEYS:
        defaults = compat.mapping(image.get(key))
        kept[key] = {
            name: value
            for name, value in compat.mapping(kept.get(key)).items()
            if name not in defaults or defaults[name] != value
        }
    kept["Env"] = [one for one in compat.strings(kept.get("Env")) if one not in compat.strings(image.get("Env"))]
    if _same(kept.get("Entrypoint"), image.get("Entrypoint")):
        # An entrypoint of its own clears the image's command, so only then is an equal command its own too.
        kept.pop("Entrypoint", None)
        if _same(kept.get("Cmd"), image.get("Cmd")):
            kept.pop("Cmd", None)
    return kept


def _same(one: Any, other: Any) -> bool:
    return (one or None) == (other or None)
