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

    assert anvyl("stack", "rm", "myblog").code == 5
    assert anvyl("stack", "rm", "myblog", "--yes").code == 0
    assert engine.state("myblog-web-1") is None
    assert "removed" in anvyl("stack", "ls", "--all").out
    assert anvyl("stack", "up", str(tmp_path / "missing")).code == 2
