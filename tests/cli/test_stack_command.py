"""`anvyl stack`, and commands about containers and plain words whose name is that of a stack, on a real engine."""

from __future__ import annotations

from pathlib import Path

from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import anvyl

COMPOSE = """
services:
  web:
    image: "anvyl-test/web:${TAG}"
    init: true
    environment: {KEY: "${KEY}"}
    command: [sh, -c, "echo hi; sleep 99"]
  db: {image: "anvyl-test/web:1", init: true}
"""


def test_a_stack_is_deployed_from_a_file_and_means_the_whole_application(engine: RealEngine, tmp_path: Path) -> None:
    folder = tmp_path / "My Blog"
    folder.mkdir()
    (folder / "compose.yaml").write_text(COMPOSE, encoding="utf-8")
    (folder / ".env").write_text("# private\nTAG=1\nKEY=fjordhorse7\n", encoding="utf-8")

    waiting = anvyl("stack", "up", str(folder))
    assert (waiting.code, engine.state("myblog-web-1")) == (5, None)
    planned = anvyl("stack", "diff", str(folder))
    assert "+ web: added, anvyl-test/web:1" in planned.out
    done = anvyl("stack", "up", str(folder), "--yes")
    assert done.code == 0 and "Deployed stack myblog on" in done.out
    assert "fjordhorse7" not in waiting.out + waiting.err + planned.out + done.out + done.err
    assert "KEY=fjordhorse7" in engine.api.inspect_container("myblog-web-1")["Config"]["Env"]
    assert "nothing would change" in anvyl("stack", "diff", str(folder)).out

    assert {line.split("\t")[-1] for line in anvyl("ps").out.splitlines()[1:]} == {"myblog"}
    assert [
        one["stack"] for one in next(iter(anvyl("ps", "--json").json["hosts"].values()))["result"]["containers"]
    ] == [
        "myblog",
        "myblog",
    ]
    assert anvyl("stop", "myblog").code == 0
    assert engine.state("myblog-web-1") == engine.state("myblog-db-1") == "exited"
    assert "start stack myblog" in anvyl("ask", "start myblog", "--offline", "--dry-run").out
    assert anvyl("ask", "start myblog", "--offline", "--yes").code == 0
    assert engine.state("myblog-web-1") == engine.state("myblog-db-1") == "running"
    assert "myblog-web-1\thi" in anvyl("logs", "myblog").out
    assert "web-1 | hi" in anvyl("stack", "logs", "myblog").out

    changed = COMPOSE.replace("echo hi", "echo hello")
    (folder / "compose.yaml").write_text(changed, encoding="utf-8")
    assert "~ web: changed, command" in anvyl("stack", "diff", str(folder)).out
    assert anvyl("stack", "up", str(folder), "--yes").code == 0
    shown = anvyl("stack", "show", "myblog", "--file")
    assert "version 2: running" in shown.out and "version 1: deployed" in shown.out and "echo hello" in shown.out
    asked = anvyl("stack", "revert", "myblog")
    assert asked.code == 5 and "~ web: changed, command" in asked.err
    back = anvyl("stack", "revert", "myblog", "1", "--yes", "--json").json
    assert back["calls"][0]["result"]["version"] == "3" and back["error"] is None
    assert engine.api.inspect_container("myblog-web-1")["Config"]["Cmd"][-1] == "echo hi; sleep 99"
    assert anvyl("stack", "revert", "myblog", "7", "--yes").code == 1

    read = anvyl("ask", "logs of the myblog stack", "--offline", "--json").json["calls"]
    assert [(one["tool"], one["arguments"]["name"]) for one in read] == [("get_stack_logs", "myblog")]

    asked = anvyl("stack", "rm", "myblog")
    assert asked.code == 5 and "removes container myblog-web-1" in asked.err
    assert anvyl("stack", "rm", "myblog", "--yes").code == 0
    assert engine.state("myblog-web-1") is None
    assert "removed" in anvyl("stack", "ls", "--all").out
    assert anvyl("stack", "up", str(tmp_path / "missing")).code == 2


def test_a_stack_that_was_deployed_by_hand_with_compose_1_is_adopted(engine: RealEngine, tmp_path: Path) -> None:
    """Compose 1 named containers with underscores, and wrote the names of its files as they were typed."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "docker-compose.yml").write_text('services: {web: {image: "anvyl-test/web:1", init: true}}', "utf-8")
    compose = {"project": "old", "service": "web", "container-number": "1", "oneoff": "False", "version": "1.29.2"}
    compose |= {
        "config-hash": "0" * 64,
        "project.working_dir": str(folder),
        "project.config_files": "docker-compose.yml",
    }
    labels = {f"com.docker.compose.{name}": value for name, value in compose.items()}
    engine.run("old_web_1", ["sh", "-c", "echo hi; trap exit TERM; sleep 99 & wait"], labels=labels)

    assert "web | hi" in anvyl("stack", "logs", "old").out.replace("web_1", "web")
    adopted = anvyl("stack", "adopt", "old", "--yes")
    assert adopted.code == 0 and "Deployed stack old on" in adopted.out, adopted
    assert (engine.state("old_web_1"), engine.state("old-web-1")) == (None, "running")
    assert f"adopted from {folder / 'docker-compose.yml'}" in anvyl("stack", "show", "old").out
    assert anvyl("stack", "rm", "old", "--yes").code == 0
    assert anvyl("stack", "adopt", "old", "--yes").code == 1
