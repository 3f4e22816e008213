"""Commands about images."""

from __future__ import annotations

from anvyl_mcp.cli.parser.options import HostOption, ImagesArgument, JsonOption, YesOption


def images(host: HostOption = "", as_json: JsonOption = False) -> None:
    """List images on every host, newest first."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call("list_images", {"limit": 1000}, host=host, as_json=as_json)


def pull(names: ImagesArgument, host: HostOption = "", yes: YesOption = False, as_json: JsonOption = False) -> None:
    """Pull images from their registries."""
    from anvyl_mcp.cli.runtime import tool_command

    tool_command.call_for_each(
        "pull_image", names, {}, argument="image", host=host, as_json=as_json, yes=yes, progress=True
    )
