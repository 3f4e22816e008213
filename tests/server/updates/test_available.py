"""Which containers have newer images: a real registry, its faults, and the cache."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest

from anvyl_mcp.core.settings import load
from anvyl_mcp.orchestrator.rules.reader import HELD
from anvyl_mcp.server.updates.available import Held
from tests.support.engine.engines import RealEngine
from tests.support.engine.tag_registry import TagRegistry
from tests.support.hosts.nodes import anvyl

SOURCE = {"org.opencontainers.image.source": "https://github.com/example/app"}
SECRET = "hunter2-of-the-registry"


def run(engine: RealEngine, registry: TagRegistry, name: str, tag: str, **options: Any) -> str:
    """Pull an image and start a container from it."""
    pulled = engine.api.pull(registry.image(tag))
    assert "error" not in pulled, pulled
    return engine.run(name, image=registry.image(tag), **options)


def listed(*arguments: str) -> dict[str, Any]:
    done = anvyl("call", "list_updates", *arguments, "--json")
    assert done.code == 0, done.err
    result: dict[str, Any] = next(iter(done.json["hosts"].values()))["result"]
    return result


def test_a_tag_that_moved_is_listed_with_versions_age_and_notes(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:1", version="1.2.3", labels=SOURCE)
    run(engine, registry, "web", "app:1", labels={"com.docker.compose.project": "shop"})
    engine.run("local")
    assert listed()["updates"] == [] and listed()["current"] == ["web"]
    digest = registry.push("app:1", version="1.3.0", labels=SOURCE, created="2026-11-20T00:00:00Z")

    assert listed()["updates"] == [], "answers are cached"
    found = listed("refresh=true")

    assert found["updates"] == [
        {
            "name": "web",
            "stack": "shop",
            "image": registry.image("app:1"),
            "current": "1.2.3",
            "available": "1.3.0",
            "published": "2026-11-20T00:00:00+00:00",
            "change": "minor",
            "note": "",
            "held": "",
            "own": False,
            "notes": "https://github.com/example/app/releases",
            "digest": digest,
        }
    ]
    assert found["unchecked"] == ["local: its image was built or imported here, or has lost its tag"]
    assert datetime.now(UTC).timestamp() - datetime.fromisoformat(found["checked"]).timestamp() < 60
    assert listed("name=shop")["total"] == 1 and listed("name=web")["total"] == 1
    assert [one for one in registry.requests if one[0] == "HEAD"] and registry.count("GET", "/manifests/") == 1
    assert listed("name=nextcloud")["note"] == "there is no container or stack `nextcloud` here"


def test_an_index_that_was_made_again_around_the_same_image_is_no_update(
    engine: RealEngine, registry: TagRegistry
) -> None:
    registry.push("multi:2.0.0", index=True)
    run(engine, registry, "web", "multi:2.0.0")
    registry.push("multi:2.0.0", index=True)
    assert listed()["current"] == ["web"]

    registry.push("multi:2.0.0", index=True, Env=["NEW=1"])

    (row,) = listed("refresh=true")["updates"]
    assert row["change"] == "rebuild", "a complete version that moved"
    assert row["current"] != row["available"] and len(row["available"]) == 12


def test_pinned_digests_and_image_ids_are_not_looked_up(engine: RealEngine, registry: TagRegistry) -> None:
    digest = registry.push("app:pinned")
    engine.api.pull(registry.image(f"app:pinned@{digest}"))
    engine.run("pinned", image=registry.image(f"app@{digest}"))
    engine.run("by-id", image=engine.api.inspect_container("pinned")["Image"])
    registry.push("app:pinned", Env=["NEW=1"])

    found = listed()

    assert registry.requests == [] and found["updates"] == []
    assert "pinned: pinned to a digest" in found["unchecked"]
    assert any(one.startswith("by-id: it was created from an image id") for one in found["unchecked"])


def test_a_log_in_of_the_hosts_docker_configuration_is_used_and_never_shown(
    engine: RealEngine, registry: TagRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.push("private:1")
    run(engine, registry, "web", "private:1")
    tokens = f"http://{registry.name}/token"

    def guarded(method: str, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        if path.startswith("/token"):
            known = headers.get("authorization") == f"Basic {base64.b64encode(f'anna:{SECRET}'.encode()).decode()}"
            return (200, {}, b'{"token": "short-lived"}') if known else (401, {}, b"{}")
        if headers.get("authorization") == "Bearer short-lived":
            return None
        return 401, {"WWW-Authenticate": f'Bearer realm="{tokens}",service="test",scope="x"'}, b"{}"

    registry.fault = guarded
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    config = tmp_path / "docker/config.json"
    config.write_text("{}", encoding="utf-8")
    (refused,) = listed()["unchecked"]
    assert "without a valid log-in. Log in on the host" in refused and f"docker login {registry.name}" in refused

    (load().cache_dir / "updates.json").unlink()
    plain = base64.b64encode(f"anna:{SECRET}".encode()).decode()
    config.write_text(json.dumps({"auths": {registry.name: {"auth": plain}}}), encoding="utf-8")
    assert listed()["current"] == ["web"]

    (load().cache_dir / "updates.json").unlink()
    helper = tmp_path / "docker-credential-vault"
    helper.write_text(f'#!/bin/sh\ncat >{tmp_path}/asked\necho \'{{"Username": "anna", "Secret": "{SECRET}"}}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    config.write_text(json.dumps({"credHelpers": {registry.name: "vault"}}), encoding="utf-8")
    assert listed()["current"] == ["web"] and (tmp_path / "asked").read_text() == registry.name

    (load().cache_dir / "updates.json").unlink()
    helper.write_text(f"#!/bin/sh\necho {SECRET} >&2\nexit 1\n")
    assert SECRET not in json.dumps(listed()), "a helper that fails"
    for file in tmp_path.rglob("*"):
        if file.is_file() and file not in (config, helper):
            assert SECRET.encode() not in file.read_bytes() and b"short-lived" not in file.read_bytes(), file


def test_a_rate_limit_is_respected_and_named(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:3")
    registry.push("app:4")
    run(engine, registry, "web", "app:3")
    run(engine, registry, "db", "app:4")
    registry.requests.clear()
    registry.fault = lambda method, path, headers: (429, {"Retry-After": "3600"}, b"{}")

    first = listed("name=web")
    sent = len(registry.requests)
    second = listed("refresh=true")

    assert sent == 1 and len(registry.requests) == 1, "asked to wait, so it waits, for every image of this registry"
    assert f"web: {registry.name} limits the number of requests; it is asked again after" in first["unchecked"][0]
    assert f"db, web: {registry.name} limits the number of requests" in second["unchecked"][0]


def test_the_last_allowed_request_is_not_used(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:5")
    run(engine, registry, "web", "app:5")
    digest = registry.push("app:5", Env=["NEW=1"])
    last = {"RateLimit-Remaining": "0;w=600", "Docker-Content-Digest": digest}
    registry.fault = lambda method, path, headers: (200, last, b"")

    (row,) = listed()["updates"]

    assert row["digest"] == digest and [one[0] for one in registry.requests] == ["HEAD"]


def test_a_dead_registry_costs_little_and_names_itself(
    engine: RealEngine, registry: TagRegistry, silent_port: int
) -> None:
    registry.push("app:6")
    run(engine, registry, "web", "app:6")
    for number in range(6):
        name = f"127.0.0.1:{silent_port}/lost"
        engine.api.tag(registry.image("app:6"), name, str(number))
        engine.run(f"lost{number}", image=f"{name}:{number}")
    began = time.monotonic()

    found = listed()

    assert time.monotonic() - began < 25
    assert found["current"] == ["web"]
    (line,) = found["unchecked"]
    assert (
        line.startswith("lost0, lost1") and f"the registry 127.0.0.1:{silent_port} cannot be reached: no answer" in line
    )
    again = time.monotonic()
    assert listed()["unchecked"] == [line] and time.monotonic() - again < 5, "remembered for a minute"


def test_a_lying_registry_gets_nothing_and_breaks_nothing(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:7")
    run(engine, registry, "web", "app:7")
    own = f'Bearer realm="http://{registry.name}/token"'
    lies = [
        ('Bearer realm="http://169.254.169.254/latest"', b"", "without HTTPS"),
        ('Bearer realm="https://169.254.169.254/latest"', b"", "in a private network"),
        ('Bearer realm="ftp://x/"', b"", "without HTTPS"),
        ("Bearer", b"", "log-in"),
        (f"x {'y' * 3000}", b"", "log-in"),
        *((own, answer, "log-in") for answer in (b"{}", b"not json", b"[]", b'{"token": "a\nb"}')),
    ]
    lie = lies[0]

    def fault(method: str, path: str, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        return (200, {}, lie[1]) if path.startswith("/token") else (401, {"WWW-Authenticate": lie[0]}, b"")

    registry.fault = fault
    for challenge, answer, said in lies:
        lie = challenge, answer, said
        found = listed()
        assert found["updates"] == [] and said in found["unchecked"][0], (challenge, found)
        (load().cache_dir / "updates.json").unlink()


def test_updates_of_all_hosts_in_one_table(engine: RealEngine, registry: TagRegistry) -> None:
    registry.push("app:8", version="1.0.0")
    run(engine, registry, "web", "app:8")
    assert "1 container up to date" in anvyl("updates").err
    registry.push("app:8", version="2.0.0")

    shown = anvyl("updates", "--refresh")

    head, row = [line.split("\t") for line in shown.out.splitlines()]
    assert head[:6] == ["host", "name", "stack", "current", "available", "published"]
    assert row[1] == "web" and row[3:5] == ["1.0.0", "2.0.0"] and row[6] == "major"
    assert anvyl("updates", "web", "--json").json["hosts"]
    assert (
        anvyl("updates", "nothing").code == 1 and "no host has a container or stack" in anvyl("updates", "nothing").err
    )


def test_the_rules_have_words_for_every_reason_why_an_update_is_held_back() -> None:
    assert HELD.keys() == {*get_args(Held)} - {""}
