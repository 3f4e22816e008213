"""The image of our Dockerfile, with this clone, and variants of it; made without a registry or a build backend."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.support.engine.engines import RealEngine
from tests.support.engine.python_image import import_python_image

ROOT = Path(__file__).parents[3]
PACKAGE = "anvyl_mcp"


def build_server_image(engine: RealEngine, name: str) -> None:
    """Build the image of this clone on a base of this machine's Python."""
    version = metadata.version(PACKAGE)
    wheel = f"{PACKAGE}-{version}-py3-none-any.whl"
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        tar.add(ROOT / "Dockerfile", "Dockerfile")
        content = _wheel(version)
        entry = tarfile.TarInfo(f"dist/{wheel}")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    base = import_python_image(engine)
    options = {"BASE": base, "SOURCE": f"dist/{wheel}", "EXTRAS": "", "PIP_OPTIONS": "--no-index --no-deps"}
    _build(engine, context, name, custom_context=True, buildargs=options)


def build_variant(engine: RealEngine, name: str, *lines: str, base: str = "") -> str:
    """Build an image from another one with further lines of a Dockerfile, and return its id."""
    _build(engine, io.BytesIO("\n".join([f"FROM {base or name}", *lines]).encode()), name)
    found: dict[str, Any] = engine.api.inspect_image(name)  # type: ignore[no-untyped-call]  # the stubs leave it out
    return str(found["Id"])


def _build(engine: RealEngine, content: io.BytesIO, name: str, **options: Any) -> None:
    content.seek(0)
    said = list(engine.api.build(fileobj=content, tag=name, decode=True, rm=True, **options))
    assert not any("error" in line for line in said), said[-3:]


def _wheel(version: str) -> bytes:
    """A wheel of the installed package: its files, and what the installation says about it."""
    about = f"{PACKAGE}-{version}.dist-info"
    files = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in sorted((ROOT / PACKAGE).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    installed = metadata.distribution(PACKAGE)
    for part in ("METADATA", "WHEEL", "entry_points.txt"):
        files[f"{about}/{part}"] = (installed.read_text(part) or "").encode()
    record = [f"{name},sha256={_hash(content)},{len(content)}" for name, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
