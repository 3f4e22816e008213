"""The recipes of docs/web.md for nginx and Caddy, run as they stand: the page works behind them, live."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from anvyl_mcp.server.addresses import default_address
from anvyl_mcp.server.http.host_state import HostState
from tests.support.hosts.nodes import NO_MODEL, ServingNode, running_node

RECIPES = (Path(__file__).parents[2] / "docs" / "web.md").read_text(encoding="utf-8")
NAME = "nas.example.org"
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname, UNVERIFIED.verify_mode = False, ssl.CERT_NONE
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{recipe}
}}
"""
CADDY = """
{{
    admin off
    auto_https disable_redirects
    skip_install_trust
    local_certs
    storage file_system {folder}
    https_port {port}
}}
{recipe}
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    """A host that is open on its network address."""
    home, no_engine = tmp_path_factory.mktemp("nas"), "unix:///nonexistent/docker.sock"
    with running_node(
        "nas", home, ANVYL_AGENT_HOST=default_address(), DOCKER_HOST=no_engine, ANVYL_LMSTUDIO_URL=NO_MODEL
    ) as started:
        yield started


def recipe(first: str, node: ServingNode) -> str:
    """The block of the documentation that begins with `first`, with the address of this host."""
    block: str = next(one for one in re.findall(r"```text\n(.*?)```", RECIPES, re.S) if one.startswith(first))
    assert "192.168.1.5:4200" in block
    return block.replace("192.168.1.5:4200", f"{default_address()}:{node.port}")


def nginx(node: ServingNode, folder: Path, port: int) -> list[str]:
    key, certificate = folder / "nas.key", folder / "nas.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ed25519",
            "-nodes",
            "-subj",
            f"/CN={NAME}",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    block = recipe("server {", node).replace("listen 443", f"listen 127.0.0.1:{port}")
    block = block.replace("/etc/ssl/nas.pem", str(certificate)).replace("/etc/ssl/nas.key", str(key))
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, recipe=block), encoding="utf-8")
    return ["nginx", "-c", str(folder / "nginx.conf")]


def caddy(node: ServingNode, folder: Path, port: int) -> list[str]:
    file = folder / "Caddyfile"
    file.write_text(CADDY.format(folder=folder, port=port, recipe=recipe(NAME, node)), encoding="utf-8")
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"]


@contextmanager
def proxy(
    make: Callable[[ServingNode, Path, int], list[str]], node: ServingNode, folder: Path, port: int
) -> Iterator[None]:
    if shutil.which(make.__name__) is None:
        pytest.skip(f"{make.__name__} is not installed")
    log = folder / "log"
    with log.open("wb") as output, subprocess.Popen(make(node, folder, port), stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", port), 5) as plain:
                        UNVERIFIED.wrap_socket(plain, server_hostname=NAME).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")
                    time.sleep(0.05)  # there is no event for the port, nor for the certificate that Caddy makes
            yield
        finally:
            process.terminate()
            process.wait(20)


def name_in_handshake(request: httpx.Request) -> None:
    """The name leads here only in these requests."""
    request.extensions["sni_hostname"] = NAME


@pytest.mark.parametrize("make", [nginx, caddy])
def test_the_page_works_behind_a_proxy_with_its_own_name(
    make: Callable[[ServingNode, Path, int], list[str]], node: ServingNode, tmp_path: Path, free_port: int
) -> None:
    secret = HostState(node.home).browser_link("read", 60, relay=False)[1]
    host = f"{NAME}:{free_port}"
    browser = {"Host": host, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    with proxy(make, node, tmp_path, free_port):
        url = f"https://127.0.0.1:{free_port}"
        with httpx.Client(
            base_url=url, verify=False, timeout=20, headers=browser, event_hooks={"request": [name_in_handshake]}
        ) as client:
            page = client.get("/")
            assert page.status_code == 200 and "<title>Anvyl</title>" in page.text
            assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
            assert client.get("/agent/info").status_code == 401
            origin = {"Origin": f"https://{host}"}
            signed = client.post("/session", json={"secret": secret}, headers=origin)
            assert signed.status_code == 201, signed.text
            assert signed.headers["set-cookie"].startswith("__Host-")
            session = {
                "Cookie": signed.headers["set-cookie"].partition(";")[0],
                "X-Anvyl-Session": signed.json()["key"],
                "Accept-Encoding": "gzip",
            }
            with client.stream("GET", "/agent/fleet", headers=session) as live:
                lines = live.iter_lines()
                assert next(lines) == "event: hosts", "events come at once, not when a buffer is full"
                assert next(one for one in lines if one == "event: host")
            foreign = {**session, "Origin": "https://evil.example"}
            assert client.get("/agent/info", headers=foreign).status_code == 403
            assert client.get("/agent/info", headers=session).json()["host_id"] == "nas"
