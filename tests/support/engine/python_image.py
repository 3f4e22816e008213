"""An image with this Python and the libraries that Anvyl needs, made without a registry."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.engine.daemon import static_busybox
from tests.support.engine.engines import RealEngine

NAME = "anvyl-test/python:1"
SITE = "usr/local/lib/python{}.{}/site-packages".format(*sys.version_info[:2])
LEFT_OUT = frozenset(
    {"__pycache__", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tkinter", "turtledemo"}
)


def import_python_image(engine: RealEngine) -> str:
    """Import the image into an engine and return its name."""
    repository, tag = NAME.split(":")
    changes = ["ENV PATH=/usr/local/bin:/usr/bin:/bin", "ENV LANG=C.UTF-8"]
    engine.api.import_image_from_data(_root_file_system(), repository=repository, tag=tag, changes=changes)
    return NAME


def _root_file_system() -> bytes:
    standard = Path(sys.base_prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    shared: list[Path] = [Path(sys.executable).resolve(), *standard.glob("lib-dynload/*.so")]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in standard.iterdir():
            if entry.name not in LEFT_OUT and not entry.name.startswith("config-"):
                tar.add(entry, f"usr/local/lib/{standard.name}/{entry.name}", filter=_useful)
        for name in sorted(_needed_distributions(["anvyl-mcp", "pip"])):
            for file in metadata.distribution(name).files or ():
                if ".." not in file.parts and (path := Path(str(file.locate()))).is_file():
                    tar.add(path, f"{SITE}/{file}", filter=_useful)
                    shared += [path] if path.suffix == ".so" else []
        tar.add(shared[0], f"usr/local/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
        _link(tar, "usr/local/bin/python", f"python{sys.version_info[0]}.{sys.version_info[1]}")
        for library in _libraries(shared):
            # By the name that programs ask for, at a place where the loader looks.
            tar.add(library.resolve(), f"{str(library.parent).lstrip('/')}/{library.name}")
        tar.add(Path(static_busybox()).resolve(), "bin/busybox")
        for applet in ("sh", "find", "rm", "mkdir", "chown", "chmod"):
            _link(tar, f"bin/{applet}", "busybox")
        for folder in ("etc", "tmp", "var/lib"):
            made = tarfile.TarInfo(folder)
            made.type, made.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(made)
        _file(tar, "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        _file(tar, "etc/group", "root:x:0:\n")
        _file(tar, "etc/ld.so.conf", "\n".join(sorted({str(one.parent) for one in _libraries(shared)})))
    return buffer.getvalue()


def _needed_distributions(names: Iterable[str]) -> set[str]:
    """Return the names and all that they require, without Anvyl itself."""
    found: set[tuple[str, str]] = set()
    pending = [(name, "") for name in names]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for wanted in map(Requirement, metadata.requires(name) or ()):
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                pending += [(canonicalize_name(wanted.name), each) for each in ("", *wanted.extras)]
    return {name for name, _ in found} - {"anvyl-mcp"}


def _libraries(files: Iterable[Path]) -> list[Path]:
    """Return the shared libraries that files need, and the loader."""
    done = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False)
    words: Iterator[str] = iter(re.findall(r"(/\S+) \(0x", done.stdout))
    return [Path(word) for word in sorted({*words}) if "site-packages" not in word]


def _useful(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name or entry.name.endswith((".a", ".pyi")) else entry


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname, link.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(link)


def _file(tar: tarfile.TarFile, name: str, content: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content.encode()), 0o644
    tar.addfile(entry, io.BytesIO(content.encode()))
