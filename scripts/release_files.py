"""Write the files of a release that name its version: `release_files.py bundle FOLDER`, `release_files.py server DIST`.

The one version number is `__version__` of the package; `release/` holds templates with VERSION and SHA256 in its place.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "release"


def version() -> str:
    """Return the version of the package, without importing it."""
    content = (ROOT / "anvyl_mcp" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', content, re.MULTILINE)
    assert found is not None
    return found[1]


def write_bundle(folder: Path) -> None:
    """Write the content of the `.mcpb` bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    for template in sorted((TEMPLATES / "mcpb").iterdir()):
        content = template.read_text(encoding="utf-8").replace("VERSION", version())
        (folder / template.name.removesuffix(".template")).write_text(content, encoding="utf-8")


def write_server(dist: Path) -> None:
    """Write `server.json` for the registry of MCP servers, with the checksum of the bundle in the same folder."""
    bundle = (dist / f"anvyl-mcp-{version()}.mcpb").read_bytes()
    content = (TEMPLATES / "server.json").read_text(encoding="utf-8")
    content = content.replace("VERSION", version()).replace("SHA256", hashlib.sha256(bundle).hexdigest())
    (dist / "server.json").write_text(json.dumps(json.loads(content), indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run the command line."""
    match arguments:
        case ["version"]:
            print(version())  # noqa: T201  the output of the command
        case ["bundle", folder]:
            write_bundle(Path(folder))
        case ["server", dist]:
            write_server(Path(dist))
        case _:
            print(__doc__, file=sys.stderr)  # noqa: T201
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
