"""A registry with one image in the network namespace of a private engine, for pulls that succeed."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.engine.daemon import static_busybox
from tests.support.engine.engines import RealEngine

NAME = "127.0.0.1:5000/pulled:1"
"""Docker speaks plain HTTP to registries on loopback."""
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

SERVER = """
import http.server, json, sys, time
found = json.load(sys.stdin)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind, body = found.get(self.path, ["", ""]) if self.path != "/v2/" else ["application/json", "7b7d"]
        content = bytes.fromhex(body)
        self.send_response(200 if kind else 404)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            for at in range(0, len(content), 262144):
                self.wfile.write(content[at : at + 262144])
                if len(content) > 4_000_000:
                    time.sleep(0.1)
    do_HEAD = do_GET
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 5000), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@contextmanager
def registry(engine: RealEngine, *, padding: int = 0) -> Iterator[str]:
    """Serve the image `NAME` to a private engine; with `padding` bytes it is large and is sent slowly."""
    process = subprocess.Popen(
        ["nsenter", f"--net=/proc/{engine.process}/ns/net", sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(_content(padding)))
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"
        yield NAME
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _content(padding: int) -> dict[str, tuple[str, str]]:
    """Responses by path: content type and body in hex."""
    layer = _layer(padding)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh", "-c", "sleep 3600"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created_by": "test"}],
        }
    ).encode()
    packed = gzip.compress(layer, mtime=0)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _part("application/vnd.docker.container.image.v1+json", config),
            "layers": [_part("application/vnd.docker.image.rootfs.diff.tar.gzip", packed)],
        }
    ).encode()
    blobs = {f"/v2/pulled/blobs/{_digest(blob)}": ("application/octet-stream", blob.hex()) for blob in (config, packed)}
    named = {f"/v2/pulled/manifests/{name}": (MANIFEST, manifest.hex()) for name in ("1", _digest(manifest))}
    return {**blobs, **named}


def _layer(padding: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(static_busybox(), "bin/busybox")
        for name in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        noise = tarfile.TarInfo("noise")
        noise.size = padding
        tar.addfile(noise, io.BytesIO(random.Random(padding).randbytes(padding)))
    return packed.getvalue()


def _part(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(blob), "digest": _digest(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"
