"""What a capable model says is shown as it is; only claims of changes that were not made are left out."""

from __future__ import annotations

import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.settings import load
from anvyl_mcp.orchestrator.ask.conversation import Conversation
from anvyl_mcp.orchestrator.ask.follow_ups import CompletedQuestion
from tests.orchestrator.checks.test_call_checks import Call, CapableModel, Turn, model  # noqa: F401  # a fixture

RESTART_WEB: Call = ("restart_container", {"name": "web", "host": "web1"})
LOOK: Call = ("get_container_info", {"name": "photos"})


@pytest.mark.parametrize(
    ("question", "calls", "said"),
    [
        (
            "restart photos, grafana and db",
            [("restart_container", {"name": one}) for one in ("photos", "grafana", "db")],
            "All three were restarted; photos will probably turn unhealthy again, because immich-ml is missing.",
        ),
        (
            "restart api wherever it's still on version 2.3",
            [("restart_container", {"name": "api", "host": "web2"})],
            "Only web2 was on 2.3, so I restarted api there; it kept restarting before, as DATABASE_URL is not set.",
        ),
        (
            "stop web on web2 but give it 60 secs to drain",
            [("stop_container", {"name": "web", "host": "web2", "timeout": 60})],
            "web on web2 got 60 seconds to drain and is stopped.",
        ),
        (
            "restart the database",
            [("restart_container", {"name": "db"})],
            "I restarted the database, which took its last checkpoint cleanly a minute before that.",
        ),
        (
            "start worker, and cache too if it is down",
            [("list_containers", {"all": True}), ("start_container", {"name": "worker"})],
            "cache was still running on both hosts, so I left it alone.",
        ),
        (
            "if photos is down, start it",
            [LOOK],
            "photos is running but unhealthy, so there was nothing to start.",
        ),
    ],
)
async def test_facts_beside_a_change_are_kept(question: str, calls: list[Turn], said: str, model: CapableModel) -> None:  # noqa: F811
    reply = await model.ask(question, *calls, said)

    assert said in reply.answer


@pytest.mark.parametrize(
    ("question", "calls", "said"),
    [
        ("restart web on web1", [RESTART_WEB], "I restarted web and the database, and both answer again quickly."),
        ("restart web on web1", [RESTART_WEB], "I restarted web on web1 and web2, and both answer again quickly."),
        ("restart web on web1", [RESTART_WEB], "All three were restarted; they will need a while to settle."),
        ("if photos is down, start it", [LOOK], "photos has been started and should answer again soon."),
        (
            "restart photos",
            [("exec_in_container", {"name": "photos", "command": "ls"})],
            "photos was restarted as you asked for.",
        ),
        ("stop photos", [LOOK], "I stopped photos because its memory was nearly used up."),
    ],
)
async def test_claims_that_results_do_not_show_are_left_out(
    question: str,
    calls: list[Turn],
    said: str,
    model: CapableModel,  # noqa: F811
) -> None:
    reply = await model.ask(question, *calls, said)

    assert said not in reply.answer


async def test_a_change_after_logs_is_asked_about_if_the_words_may_mean_it(model: CapableModel) -> None:  # noqa: F811
    look = ("get_container_logs", {"name": "grafana"})

    reply = await model.ask("move grafana to web1", look, ("stop_container", {"name": "grafana"}), "Done.")

    [asked] = model.proposed
    assert (asked.untrusted, asked.covered) == ("logs of grafana on nas", False)
    assert "you asked to move" in asked.why
    assert reply.answer.startswith("Stopped grafana on nas.")


async def test_a_read_can_be_repeated_after_a_change(model: CapableModel) -> None:  # noqa: F811
    look = ("list_containers", {"name": "photos"})

    reply = await model.ask("restart photos", look, ("restart_container", {"name": "photos"}), look, "It is back.")

    assert [call.tool for call in reply.calls if call.host == "nas"].count("list_containers") == 2


async def test_a_change_can_be_undone_and_made_again(model: CapableModel) -> None:  # noqa: F811
    stop, start = ("stop_container", {"name": "photos"}), ("start_container", {"name": "photos"})

    await model.ask("stop photos, start it, then stop it", stop, start, stop, "It is stopped.")

    assert [tool for _, tool, _ in model.done] == ["stop_container", "start_container", "stop_container"]


@pytest.mark.parametrize(
    ("question", "times"),
    [
        ("restart photos", 1),
        ("restart photos twice", 2),
        ("restart photos, wait, and restart it once more", 2),
        ("starte photos neu", 1),
    ],
)
async def test_a_change_is_made_again_only_if_the_words_ask_for_it_twice(
    question: str,
    times: int,
    model: CapableModel,  # noqa: F811
) -> None:
    call = ("restart_container", {"name": "photos"})

    await model.ask(question, call, ("restart_container", {"name": "photos", "timeout": 30}), "Restarted.")

    assert len(model.done) == times
    assert any("its result stands" in result for result in model.results) is (times == 1)


async def test_a_call_that_could_not_be_made_beside_others_is_an_error(model: CapableModel) -> None:  # noqa: F811
    reply = await model.ask(
        "start trainer and zork",
        [("start_container", {"name": "trainer"}), ("start_container", {"name": "zork"})],
        "trainer was started; there is no zork.",
    )

    assert [tool for _, tool, _ in model.done] == ["start_container"]
    assert reply.exit_code == 1 and "no host has a container `zork`" in str(reply.error)


async def test_a_call_that_is_corrected_is_no_error(model: CapableModel) -> None:  # noqa: F811
    reply = await model.ask(
        "start trainer and zork, I mean certbot",
        [("start_container", {"name": "trainer"}), ("start_container", {"name": "zork"})],
        ("start_container", {"name": "certbot"}),
        "Both run.",
    )

    assert (len(model.done), reply.error) == (2, None)


async def test_a_range_of_names_names_each_of_them(model: CapableModel) -> None:  # noqa: F811
    calls = [("create_container", {"name": f"n{number}", "image": "redis:7.2", "host": "nas"}) for number in (1, 2, 3)]

    await model.ask("start n1 to n3 from redis:7.2 on nas", calls, "All three run.", in_advance=True)

    assert [one.why for one in model.proposed] == ["", "", ""]
    assert len(model.done) == 3


async def test_a_follow_up_reaches_a_model_in_its_own_words(model: CapableModel) -> None:  # noqa: F811
    conversation = Conversation()
    first = await model.ask("how is photos doing?", LOOK, "photos is unhealthy.")
    conversation.add(
        "how is photos doing?", CompletedQuestion("how is photos doing?"), first, load_catalogue(load().cache_dir)
    )
    asked = "how long does it take to restart grafana?"

    completed = conversation.complete(asked, ["nas", "web1"])
    await model.ask(completed.text, "About ten seconds.", asked=asked, turns=conversation.history)

    assert completed.text != asked, "the test has to use words that are completed"
    assert model.prompts[-1] == f"{asked}\n(This may mean: {completed.text})"


@pytest.mark.parametrize(
    ("question", "hosts", "covered"),
    [
        ("restart web on both web hosts", ["web1", "web2"], [True, True]),
        ("restart api everywhere", ["web1", "web2"], [True, True]),
        ("restart cache on both hosts", ["nas", "web1"], [True, True]),
        ("restart cache", ["nas", "web1"], [False, False]),
        ("restart web everywhere except on web1", ["web1", "web2"], [False, True]),
    ],
)
async def test_one_call_per_host_is_covered_like_one_for_all(
    question: str,
    hosts: list[str],
    covered: list[bool],
    model: CapableModel,  # noqa: F811
) -> None:
    name = question.split()[1]

    await model.ask(question, [("restart_container", {"name": name, "host": host}) for host in hosts], "Done.")

    assert [one.covered for one in model.proposed] == covered
