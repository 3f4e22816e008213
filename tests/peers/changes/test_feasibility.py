"""Changes are proposed only if they can be made; commands for everything, for machines and with misspelled names."""

from __future__ import annotations

from pathlib import Path

import pytest

from anvyl_mcp.agent import HostAgent
from anvyl_mcp.core.settings import load
from anvyl_mcp.orchestrator.question import Proposal
from tests.orchestrator.rules.test_reads import ask
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import NO_MODEL, ServingNode, anvyl, running_node, write_hosts_file
from tests.support.terminal import open_terminal


def proposed(proposals: list[Proposal]) -> set[tuple[str, str, str]]:
    """Return tool, object and host of every change that needs approval."""
    return {(one.tool, str(one.arguments.get("name")), host) for one in proposals for host in one.hosts}


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("restart everything on nas", {"cache", "db", "grafana", "photos", "vault"}),
        ("restart everything on gpu", {"jupyter", "ollama"}),
        ("restart everything on gpu including stopped", {"jupyter", "ollama", "trainer", "old-trainer"}),
        ("restart all stopped containers on gpu", {"trainer", "old-trainer"}),
        ("start everything stopped on gpu", {"trainer", "old-trainer"}),
        ("stop everything on gpu", {"jupyter", "ollama"}),
    ],
)
async def test_everything_means_running_containers_unless_stopped_ones_are_named(
    question: str, names: set[str]
) -> None:
    """Regression: `restart everything` would have started containers that were stopped on purpose."""
    reply, _ = await ask(question)

    assert {name for _, name, _ in proposed(reply.proposals)} == names


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("restart all unhealthy containers on gpu", "Nothing to restart: there are no unhealthy containers on gpu."),
        ("stop all paused containers on nas", "Nothing to stop: there are no paused containers on nas."),
    ],
)
async def test_the_answer_says_that_there_is_nothing_to_do(question: str, answer: str) -> None:
    reply, _ = await ask(question)

    assert (reply.answer, reply.exit_code, reply.problem, reply.proposals) == (answer, 0, None, [])


@pytest.mark.parametrize(
    ("question", "message", "hint"),
    [
        ("reboot the nas", "`nas` is a host, and Anvyl cannot reboot machines", "on nas: sudo reboot"),
        ("turn off the nas", "`nas` is a host, and Anvyl cannot shut machines down", "on nas: sudo poweroff"),
        ("shut down gpu", "`gpu` is a host, and Anvyl cannot shut machines down", "on gpu: sudo poweroff"),
        ("power off the host nas", "`nas` is a host, and Anvyl cannot shut machines down", "on nas: sudo poweroff"),
        ("restart the gpu box", "`gpu` is a host, and Anvyl cannot reboot machines", "on gpu: sudo reboot"),
        ("reboot this machine", "`nas` is a host, and Anvyl cannot reboot machines", "on nas: sudo reboot"),
        ("stop 3 containers", "`3` does not name a container", "name each container, or say all"),
        ("stop web on nas", "nas has no container `web`", ""),
        ("stop grafna", "no host has a container `grafna`", "did you mean `grafana`?"),
    ],
)
async def test_an_impossible_change_is_an_error_instead_of_a_prompt(question: str, message: str, hint: str) -> None:
    """Regression: `turn off the pi` prompted for `pihole`, and for a container that no host has."""
    reply, simulation = await ask(question)

    assert reply.error is not None and (reply.proposals, simulation.done) == ([], [])
    assert reply.error.message.startswith(message) and hint in reply.error.hint


@pytest.mark.parametrize(("written", "name"), [("GRAFANA", "grafana"), ("oldtrainer", "old-trainer")])
async def test_a_name_in_other_case_matches_the_existing_one(written: str, name: str) -> None:
    reply, _ = await ask(f"restart {written}")

    assert [one.arguments["name"] for one in reply.proposals] == [name]
    assert reply.answer.startswith(f"Restarted {name} on ")


async def test_hosts_that_cannot_make_a_change_are_reported_and_others_make_it() -> None:
    reply, _ = await ask("stop grafana on nas and gpu")

    assert proposed(reply.proposals) == {("stop_container", "grafana", "nas")}
    assert reply.answer.startswith("Stopped grafana on nas.\nCould not stop grafana on gpu: gpu has no container")
    assert (reply.exit_code, reply.hosts["nas"]) == (3, "ok") and reply.hosts["gpu"].startswith("failed: ")


def test_a_tool_that_a_host_does_not_offer_is_not_proposed(
    engine: RealEngine, second_engine: RealEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    with running_node(
        "second", tmp_path / "second", second_engine, ANVYL_TOOLSETS="containers", ANVYL_LMSTUDIO_URL=NO_MODEL
    ) as node:
        write_hosts_file("second", node.url)
        asked = anvyl("ask", "--offline", "pull image busybox:latest on second")
        called = anvyl("call", "remove_image", "image=busybox:latest", "--host", "second")

    assert asked.code == 1 and "`pull_image` is turned off on second" in asked.err, asked
    assert called.code == 1 and "`remove_image` is turned off on second" in called.err, called


def test_a_prune_lists_its_objects_and_removes_nothing_else(
    engine: RealEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: one `y` removed volumes that the prompt had not listed."""
    monkeypatch.setenv("ANVYL_NAME", "first")
    engine.api.prune_volumes()  # those that containers of other tests left
    shown, late = engine.api.create_volume()["Name"], ""

    def volumes() -> set[str]:
        return {one["Name"] for one in engine.api.volumes()["Volumes"]}

    with open_terminal("ask", "--offline", "remove unused volumes") as terminal:
        terminal.until("Remove unused volumes on first? [y/N/edit hosts] ")
        late = engine.api.create_volume()["Name"]
        assert f"volume {shown[:12]}" in terminal.shown and "first: 1 object, " in terminal.shown
        terminal.type("y\n")
        assert terminal.end() == 0, terminal.shown

    assert shown not in volumes() and late in volumes()
    engine.api.remove_volume(late)
    nothing = anvyl("ask", "--offline", "remove unused volumes")
    assert (nothing.code, nothing.out) == (0, "Nothing to remove: no unused volumes on first.\n")


def test_a_person_chooses_the_missing_host(engine: RealEngine, second_engine: RealEngine, fleet: ServingNode) -> None:
    for one in (engine, second_engine):
        one.run("web")

    with open_terminal("ask", "--offline", "stop web") as terminal:
        terminal.until("both first and second have a container `web`.")
        terminal.until("On which host? first, second or all; Enter cancels: ")
        terminal.type("secnd\n")
        terminal.until("On which host? first, second or all; Enter cancels: ")
        terminal.type("second\n")
        terminal.until("Stop web (running) on second? [y/N/edit hosts] ")
        terminal.type("y\n")
        assert terminal.end() == 0, terminal.shown
    assert (engine.state("web"), second_engine.state("web")) == ("running", "exited")

    with open_terminal("start", "web") as terminal:
        terminal.until("On which host? first, second or all; Enter cancels: ")
        terminal.type("\n")
        assert terminal.end() == 1, terminal.shown


def test_free_up_space_removes_only_what_can_be_downloaded_or_built_again(engine: RealEngine) -> None:
    engine.run("web")
    engine.create("ended")
    volume = engine.api.create_volume()["Name"]
    untagged = engine.api.commit("web")["Id"]

    asked = anvyl("ask", "--offline", "free up space", ANVYL_NAME="first")
    done = anvyl("ask", "--offline", "free up space", "--yes", "--json", ANVYL_NAME="first")

    assert asked.code == 5 and "untagged images and build cache" in asked.out, asked
    assert done.code == 0, done
    assert untagged not in {one["Id"] for one in engine.api.images(all=True)}
    assert engine.state("ended") == "created"
    assert volume in {one["Name"] for one in engine.api.volumes()["Volumes"]}
    engine.api.remove_volume(volume)


async def test_a_plain_text_answer_includes_the_list(engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: `3 containers (3 running) on vm.` without names, where no table is shown."""
    monkeypatch.setenv("ANVYL_NAME", "first")
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", NO_MODEL)
    engine.run("web")
    engine.create("idle")
    agent = HostAgent(load())
    try:
        said = await agent.process_query("list all containers")
        results = await agent.broadcast_to_all_hosts("list all containers")
    finally:
        await agent.aclose()

    assert all(word in said for word in ("web", "idle", "first", "Up ", "created"))
    assert [one["host_id"] for one in results] == ["first"] and "idle" in results[0]["result"]


def test_the_impossible_part_of_a_command_is_reported_with_the_rest(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    """Regression: `stop web and db` proposed only `db`, did not mention `web` on two hosts, and exited with 0."""
    engine.run("db")
    for one in (engine, second_engine):
        one.run("web")
    impossible = "stop web (both first and second have a container `web`)"

    waiting = anvyl("ask", "--offline", "docker stop web db")
    document = anvyl("ask", "--offline", "stop web and db", "--json").json
    with open_terminal("ask", "--offline", "stop web and db") as terminal:
        terminal.until("Stop db (running) on first? [y/N/edit hosts] ")
        assert f"Not possible: {impossible}." in " ".join(terminal.shown.split())
        terminal.type("n\n")
        assert terminal.end() == 5, terminal.shown
    done = anvyl("ask", "--offline", "stop web and db", "--yes")

    assert (
        waiting.code == 5 and f"stop db on first. Nothing was changed yet. Not possible: {impossible}." in waiting.out
    )
    assert impossible.partition(" (")[2][:-1] in document["error"]["message"]
    assert done.code == 3 and "Stopped db on first." in done.out and "Could not stop web" in done.out
    assert [engine.state(name) for name in ("db", "web")] == ["exited", "running"]
