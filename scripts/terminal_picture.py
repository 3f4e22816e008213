"""Create the README's picture: real commands on a terminal with two real Docker engines, as SVG.

Run it as root from the project's folder: .venv/bin/python -m scripts.terminal_picture
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import time
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.support.engine.engines import IMAGES, RealEngine, private_engine
from tests.support.hosts.nodes import NO_MODEL, run_program, running_node, write_hosts_file
from tests.support.terminal import open_terminal

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "terminal.svg"
COLUMNS, LINES = 88, 40
FAIL, PASS = ["CMD", "false"], ["CMD", "true"]
DESK = {"caddy": "caddy:2.8", "pihole": "pihole/pihole:2024.07"}
NAS = {"jellyfin": "jellyfin/jellyfin:10.9", "immich": "immich-app/server:v1.111", "web": "nginx:1.27"}
PORTS = {"caddy": 443, "pihole": 53, "jellyfin": 8096, "immich": 2283, "web": 80}
AGE = 125
"""Seconds to wait, for a realistic uptime of the containers."""
ERASED = re.compile(r"[^\n]*\n\x1b\[1F\x1b\[J")
"""Progress lines that the program erased."""
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""SVG format of Rich without fonts from the network."""
FORMAT = FORMAT.replace("<svg ", '<svg xml:space="preserve" ', 1)  # some viewers drop a text's leading spaces


def fill(engine: RealEngine, containers: dict[str, str]) -> None:
    """Start sleeping containers with names and images of a home server."""
    for name, image in containers.items():
        repository, tag = image.split(":")
        engine.api.tag(IMAGES[0], repository, tag)
        health = {"Test": FAIL if name == "immich" else PASS, "Interval": 10**9, "Retries": 1}
        engine.run(name, image=image, healthcheck=health, port_bindings={PORTS[name]: PORTS[name]})
    while any("starting" in container["Status"] for container in engine.api.containers()):
        time.sleep(0.2)


def typed(line: str, *arguments: str, answer: str = "") -> str:
    """Type a line, answer its question and return the terminal output."""
    with open_terminal(*arguments, size=(COLUMNS, LINES)) as terminal:
        if answer:
            terminal.until("edit hosts] ")
            terminal.type(answer)
        terminal.end()
        return f"\x1b[1;32m$\x1b[0m {line}\r\n{terminal.shown}"


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder, private_engine("desk") as desk, private_engine("nas") as nas:
        os.environ.update(ANVYL_HOME=folder, ANVYL_NAME="desk", ANVYL_LMSTUDIO_URL=NO_MODEL, TERM="xterm-256color")
        os.environ.update(desk.environment)
        fill(desk, DESK)
        fill(nas, NAS)
        with running_node("nas", Path(folder) / "nas", nas) as node:
            write_hosts_file("nas", node.url, node.token)
            time.sleep(AGE)
            run_program("ask", "list hosts")  # so that the daily note about a missing model is not in the picture
            shown = typed("anvyl ps", "ps") + "\r\n"
            shown += typed('anvyl ask "stop web on nas"', "ask", "stop web on nas", answer="y\r")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    console.print(Text.from_ansi(ERASED.sub("", shown.replace("\r\n", "\n"))))
    PICTURE.write_text(console.export_svg(title="anvyl", code_format=FORMAT), encoding="utf-8")


if __name__ == "__main__":
    main()
