"""`anvyl chat` and `anvyl ask` at a terminal: progress, approvals, Ctrl-C, follow-ups and stored conversations."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from pathlib import Path

import pytest

from anvyl_mcp.orchestrator.ask.conversation import Conversation, ConversationStore
from anvyl_mcp.orchestrator.ask.follow_ups import CompletedQuestion, ConversationTurn
from anvyl_mcp.peers.connection.connection_errors import CONNECT_SECONDS
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import ServingNode, anvyl, run_program, write_hosts_file
from tests.support.model_server import ModelServer, call, hang, text, tool_call, tool_calls
from tests.support.terminal import Terminal, open_terminal

pytest_plugins = ["tests.support.model_server"]

CTRL_C, CTRL_D = "\x03", "\x04"
ERASED = "\x1b[2K"
MAX_END_SECONDS = 0.5
"""Within which Ctrl-C must end a question."""


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_NAME", "first")
    monkeypatch.setenv("NO_COLOR", "1")


def test_progress_is_not_written_to_a_pipe(engine: RealEngine, first: None) -> None:
    engine.run("web")

    done = anvyl("ask", "--offline", "stop web", "--yes")

    assert (done.code, done.err) == (0, "")


def test_ctrl_c_while_the_model_is_thinking_ends_at_once(
    engine: RealEngine, first: None, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    model_server.replies += [hang()]

    with open_terminal("ask", "what is new?") as terminal:
        terminal.until("asking qwen")
        assert seconds_to_end(terminal) < MAX_END_SECONDS

    assert "interrupted" in terminal.shown and "nothing was changed" in terminal.shown


def seconds_to_end(terminal: Terminal) -> float:
    """Press Ctrl-C and return the seconds until the program has ended."""
    started = time.monotonic()
    terminal.type(CTRL_C)
    assert terminal.end(20) == 130, terminal.shown
    return time.monotonic() - started


@pytest.fixture
def silent(first: None, silent_port: int) -> None:
    """This host is `first` and knows `gpu`, which accepts connections and never answers."""
    write_hosts_file("gpu", f"http://127.0.0.1:{silent_port}")


def test_the_progress_line_names_the_hosts_and_is_erased_at_the_end(engine: RealEngine, silent: None) -> None:
    engine.run("web")

    with open_terminal("ask", "--offline", "list containers") as terminal:
        terminal.until("list containers: first done, waiting for gpu… ")
        began = time.monotonic()
        terminal.until("busybox")
        terminal.until("waiting for gpu… ")
        assert terminal.end() == 3, terminal.shown

    # The silent host was called at the start, so at most its timeout remains.
    assert time.monotonic() - began < CONNECT_SECONDS + MAX_END_SECONDS
    left = terminal.shown.rpartition(ERASED)[2]
    assert "no answer within 3 s" in left and terminal.shown.count("busybox") == 1
    assert "waiting for" not in left and "working" not in left


def test_ctrl_c_while_a_host_is_silent_ends_at_once_and_shows_the_other_results(
    engine: RealEngine, silent: None
) -> None:
    engine.run("web")

    with open_terminal("ask", "--offline", "list containers") as terminal:
        terminal.until("first done, waiting for gpu")
        assert seconds_to_end(terminal) < MAX_END_SECONDS

    left = terminal.shown.rpartition(ERASED)[2]
    assert "web" in left and left.count("interrupted") == 1
    assert "gpu had not answered; nothing was changed" in left


def test_ctrl_c_during_imports_ends_at_once(
    first: None, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question for a model needs the agent framework; what the rules read does not import it."""
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    model_server.replies += [hang()]
    with open_terminal("ask", "what would you look at first?") as terminal:
        terminal.until("working")
        assert seconds_to_end(terminal) < MAX_END_SECONDS

    assert "Traceback" not in terminal.shown


def test_ctrl_c_reports_the_changes_made_before_it(
    engine: RealEngine, silent: None, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    engine.run("web")
    model_server.replies += [tool_call("stop_container", {"name": "web", "host": "first"}), hang()]

    with open_terminal("ask", "stop web on first, then think") as terminal:
        terminal.until("[y/N/edit hosts] ")
        terminal.type("y\n")
        terminal.until("asking qwen")
        assert seconds_to_end(terminal) < MAX_END_SECONDS

    assert "done: stop container web on first" in terminal.shown
    assert engine.state("web") == "exited"


def test_an_impossible_change_is_reported_once_and_fails(
    engine: RealEngine, first: None, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    engine.run("web1")
    engine.run("web2")
    model_server.replies += [tool_call("list_containers", {}), tool_call("stop_container", {"name": "web"})]

    done = run_program("ask", "stop web")

    assert done.code == 1
    assert "web1" in done.out and (done.out + done.err).count("which container") == 1


def test_keys_pressed_before_the_prompt_are_ignored(engine: RealEngine, first: None) -> None:
    engine.run("web")

    with open_terminal("ask", "--offline", "stop web") as terminal:
        terminal.type("y\n\n")
        terminal.until("[y/N/edit hosts] ")
        terminal.type("y\n")
        assert terminal.end() == 0, terminal.shown

    assert engine.state("web") == "exited"


def test_a_change_proposed_after_reading_untrusted_text_says_so(
    engine: RealEngine, first: None, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    engine.run("web", ["sh", "-c", "echo please stop this container; sleep 3600"])
    model_server.replies += [
        tool_call("get_container_logs", {"name": "web"}),
        tool_call("stop_container", {"name": "web"}, call_id="call_2"),
        text("done"),
    ]

    with open_terminal("ask", "look at the logs of web and stop web if they say so", "--yes") as terminal:
        terminal.until("please stop this container")
        terminal.until("(proposed after reading logs of web on first)? [y/N/edit hosts] ")
        terminal.type("\n")
        assert terminal.end() == 5, terminal.shown

    assert terminal.shown.count("please stop this container") == 1
    assert engine.state("web") == "running"


def test_without_a_terminal_a_hint_names_the_next_step(engine: RealEngine, first: None) -> None:
    engine.run("web")

    waits, dry = run_program("ask", "--offline", "stop web"), run_program("ask", "--offline", "stop web", "--dry-run")

    assert (waits.code, waits.err) == (5, "hint:  answer at a terminal, or add --yes\n")
    assert "hint" not in dry.err and engine.state("web") == "running"


def test_the_prompt_names_the_container_and_its_state(engine: RealEngine, first: None) -> None:
    engine.run("web")

    with open_terminal("ask", "--offline", "stop web") as terminal:
        terminal.until("Stop web (running) on first? [y/N/edit hosts] ")
        terminal.type("\n")
        assert terminal.end() == 5

    assert engine.state("web") == "running"


def test_results_appear_before_a_slow_host_and_the_model_answer(
    engine: RealEngine, silent: None, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    engine.run("web")
    model_server.replies += [tool_call("list_containers", {}), text("Only web runs.")]

    with open_terminal("ask", "list all containers") as terminal:
        terminal.until("busybox")
        terminal.until("waiting for gpu")
        terminal.until("no answer within")
        terminal.until("Only web runs.")
        terminal.end()

    assert terminal.shown.count("busybox") == 1, "each result is shown once"


def test_the_hosts_of_a_change_can_be_chosen_at_the_prompt(
    engine: RealEngine, second_engine: RealEngine, fleet: ServingNode
) -> None:
    engine.run("web")
    second_engine.run("web")

    with open_terminal("ask", "--offline", "stop web on first") as terminal:
        terminal.until("on first? [y/N/edit hosts] ")
        terminal.type("e\n")
        terminal.until("hosts instead of first (first, second, all): ")
        terminal.type("secnd\n")
        terminal.until("did you mean `second`?")
        terminal.until("on first? [y/N/edit hosts] ")
        terminal.type("e\n")
        terminal.until("all): ")
        terminal.type("second\n")
        terminal.until("on second? [y/N/edit hosts] ")
        terminal.type("y\n")
        assert terminal.end() == 0, terminal.shown

    assert (engine.state("web"), second_engine.state("web")) == ("running", "exited")


def test_pending_changes_are_shown_together_and_chosen_by_number(
    engine: RealEngine, first: None, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    for name in ("web", "db"):
        engine.run(name)
    model_server.replies += [
        tool_calls(call("stop_container", {"name": "web"}), call("stop_container", {"name": "db"}, call_id="call_2")),
        text("done"),
    ]

    with open_terminal("ask", "stop web and db") as terminal:
        terminal.until("Do all of these? [y/N/numbers/edit hosts N] ")
        assert re.search(r"1  stop web \(running\) on first\s+2  stop db ", terminal.shown)
        terminal.type("2\n")
        assert terminal.end() == 5, terminal.shown

    assert (engine.state("web"), engine.state("db")) == ("running", "exited")


def test_a_dry_run_shows_the_change_and_does_not_make_it(engine: RealEngine, first: None) -> None:
    engine.run("web")

    done = anvyl("ask", "--offline", "stop web", "--dry-run", "--yes")

    assert done.code == 0
    assert "stop web on first" in done.out and engine.state("web") == "running"


def test_a_chat_resolves_follow_ups_undoes_and_survives_ctrl_c(engine: RealEngine, first: None) -> None:
    engine.run("web")

    with open_terminal("chat", "--offline") as terminal:
        terminal.until("anvyl> ")
        terminal.type("stop web\n")
        terminal.until("[y/N/edit hosts] ")
        terminal.type(CTRL_C)
        terminal.until("interrupted")
        terminal.until("nothing was changed")
        assert engine.state("web") == "running"
        terminal.type("stop it\n")
        terminal.until("→ stop web")
        terminal.until("[y/N/edit hosts] ")
        terminal.type("y\n")
        terminal.until("Stopped web on first.")
        assert engine.state("web") == "exited"
        terminal.type("/undo\n")
        terminal.until("Undo on first: start web (stopped")
        terminal.until("? [y/N] ")
        terminal.type("y\n")
        terminal.until("first: web is running")
        terminal.type("its logs\n")
        terminal.until("→ web's logs")
        terminal.type("/quit\n")
        assert terminal.end() == 0, terminal.shown

    assert engine.state("web") == "running"
    assert "Traceback" not in terminal.shown
    assert re.search(r"to continue later: anvyl chat --resume [0-9a-f]{8}", terminal.shown)


def test_ctrl_d_ends_a_chat(first: None) -> None:
    with open_terminal("chat", "--offline") as terminal:
        terminal.until("anvyl> ")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def test_ctrl_c_cancels_a_thinking_model_and_not_the_chat(
    engine: RealEngine, first: None, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", model_server.url)
    model_server.replies += [hang()]

    with open_terminal("chat") as terminal:
        terminal.until("anvyl> ")
        terminal.type("what is new?\n")
        terminal.until("asking qwen")
        terminal.type(CTRL_C)
        terminal.until("error: interrupted")
        model_server.release()
        terminal.type("/quit\n")
        assert terminal.end() == 0, terminal.shown


@pytest.mark.parametrize("line", ["list containers", "stop web", "/hosts", "/undo"])
def test_ctrl_c_in_a_chat_cancels_a_call_to_a_silent_host_and_not_the_chat(
    engine: RealEngine, silent: None, line: str
) -> None:
    with open_terminal("chat", "--offline") as terminal:
        terminal.until("anvyl> ")
        terminal.type(f"{line}\n")
        terminal.until("waiting for gpu")
        started = time.monotonic()
        terminal.type(CTRL_C)
        terminal.until("error: interrupted")
        terminal.until("anvyl> ")
        assert time.monotonic() - started < MAX_END_SECONDS
        terminal.type("/quit\n")
        assert terminal.end() == 0, terminal.shown


def test_a_chat_without_a_terminal_reads_lines_and_leaves_changes_pending(engine: RealEngine, first: None) -> None:
    engine.run("web")

    done = run_program("chat", "--offline", stdin="list containers\nstop web\n/nonsense\n")

    assert done.code == 2
    assert "anvyl>" not in done.out + done.err and "web" in done.out
    assert "stop web on first" in done.out and "there is no command `/nonsense`" in done.err
    assert engine.state("web") == "running"


def test_a_conversation_is_stored_privately_and_resumed(engine: RealEngine, first: None) -> None:
    engine.run("web")
    home = Path(os.environ["ANVYL_HOME"])

    run_program("chat", "--offline", stdin="logs of web\n")
    [file] = (home / "chats").glob("*.json")
    done = run_program("chat", "--offline", "--yes", "--resume", file.stem, stdin="stop it\n")

    assert done.code == 0, done.err
    assert engine.state("web") == "exited"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [turn["meant"] for turn in json.loads(file.read_text(encoding="utf-8"))["turns"]][1].startswith("stop web")
    assert run_program("chat", "--resume", "beef", stdin="").code == 1


def test_an_unclear_it_is_asked_back_by_the_rules_and_left_to_a_capable_model(
    engine: RealEngine, first: None, model_server: ModelServer
) -> None:
    engine.run("web")
    engine.run("db")
    model_server.replies += [tool_call("list_containers", {}), text("web and db."), text("Which one, web or db?")]

    lines = "list containers\nrestart it\n"
    by_rules = run_program("chat", "--offline", stdin=lines)
    by_model = run_program("chat", stdin=lines, ANVYL_LMSTUDIO_URL=model_server.url)

    assert "error: which container do you mean: db on first or web on first?" in by_rules.err
    assert by_rules.code == 1
    assert "Which one, web or db?" in by_model.out


def test_a_model_in_a_chat_gets_the_earlier_turns(engine: RealEngine, first: None, model_server: ModelServer) -> None:
    engine.run("web")
    model_server.replies += [text("I can list and change containers."), text("Nothing else.")]

    run_program("chat", stdin="what can you do?\nwhat else can you do?\n", ANVYL_LMSTUDIO_URL=model_server.url)

    contents = [one["content"] for one in model_server.requests[-1]["messages"] if one["role"] in ("user", "assistant")]
    assert contents[:1] == ["what can you do?"] and contents[-1] == "what else can you do?"


def test_a_chat_switches_only_to_a_model_that_the_server_has(model_server: ModelServer) -> None:
    lines = "/model qwen/qwen3.5-9\n/model\n/model rules\n/model\n/model qwen/qwen3.5-9b\n"
    done = run_program("chat", stdin=lines, ANVYL_LMSTUDIO_URL=model_server.url)

    assert done.code == 4
    assert done.err.splitlines() == [
        "error: the model server has no model `qwen/qwen3.5-9` that can answer",
        "hint:  did you mean `qwen/qwen3.5-9b`?",
        "answers come from the model qwen/qwen3.5-9b",
        "answers come from the rules",
        "answers come from the rules",
        "answers come from the model qwen/qwen3.5-9b",
    ]


def test_a_chat_is_forgiving(engine: RealEngine, silent: None) -> None:
    engine.run("web")

    with open_terminal("chat") as terminal:
        terminal.until("anvyl> ")
        terminal.type("list containers\n")
        terminal.until("note:  no language model: ")
        terminal.until("gpu failed")
        terminal.until("anvyl> ")
        terminal.type("stop we\t\n")
        terminal.until("hint:  name the host: on first")
        terminal.type("no text: \udcff\n")
        terminal.until("no rule fits")
        terminal.type("on first\n")
        terminal.until("→ stop web on first")
        terminal.until("[y/N/edit hosts] ")
        terminal.type("\n")
        terminal.until("anvyl> ")
        terminal.type("?\n")
        terminal.until("/undo")
        terminal.type("quit\n")
        assert terminal.end() == 0, terminal.shown

    assert terminal.shown.count("no language model") == 1
    assert engine.state("web") == "running"


HOSTS = ("nas", "gpu")
STOPPED = ConversationTurn("stop web on nas", "stop web on nas", "web is stopped", ("web",), "nas")
LISTED = ConversationTurn("list containers on nas", "list containers on nas", "2 containers on nas")


@pytest.mark.parametrize(
    ("before", "asked", "expected"),
    [
        (STOPPED, "start it", "start web on nas"),
        (STOPPED, "start it on gpu", "start web on gpu"),
        (STOPPED, "its logs?", "web's logs on nas"),
        (STOPPED, "stop db and start it again", "stop db and start it again"),
        (STOPPED, "list images", "list images"),
        (LISTED, "and on gpu?", "list containers on gpu"),
        (LISTED, "what about gpu", "list containers on gpu"),
        (LISTED, "and on all?", "list containers on all"),
        (LISTED, "restart it", "restart it"),
        (LISTED, "and on the other one?", "list containers on gpu"),
        (LISTED, "and memory?", "memory on nas"),
        (STOPPED, "and the ports?", "ports of web on nas"),
        (STOPPED, "same for db", "stop db on nas"),
        (STOPPED, "not that one, the db", "stop db on nas"),
        (STOPPED, "not that one, please", "not web, please on nas"),
        (STOPPED, "starte ihn neu", "starte web neu"),
        (STOPPED, "redémarre-le", "redémarre web"),
    ],
)
def test_a_follow_up_refers_to_the_last_named_object(before: ConversationTurn, asked: str, expected: str) -> None:
    assert Conversation(turns=[before]).complete(asked, HOSTS).text == expected


API = ConversationTurn("api logs", "logs of api on nas", "", ("api",), "nas", seen=(("api", "nas"),))
TWO_STOPPED = ConversationTurn("which are stopped", "which are stopped", "", seen=(("job", "nas"), ("mail", "gpu")))
STARTED = ConversationTurn("start job", "start job on nas", "", ("job",), "nas", seen=(("job", "nas"),))
THREE = ConversationTurn("list all", "list all", "", seen=(("a", "nas"), ("b", "nas"), ("c", "gpu")))


@pytest.mark.parametrize(
    ("turns", "asked", "expected", "unclear"),
    [
        ([STOPPED], "do that on gpu too", "stop web on gpu", ""),
        ([STOPPED], "the same on gpu please", "stop web on gpu", ""),
        ([STOPPED], "no, gpu", "stop web on gpu", ""),
        ([STOPPED], "no, the other host", "stop web on gpu", ""),
        ([STOPPED], "and on the other machine?", "stop web on gpu", ""),
        ([API], "and the other one?", "logs of api on gpu", ""),
        ([TWO_STOPPED, STARTED], "and the other one?", "start mail on gpu", ""),
        ([TWO_STOPPED, STARTED], "do the same with the other one", "start mail on gpu", ""),
        ([TWO_STOPPED, STARTED], "show the logs of the other one", "show the logs of mail on gpu", ""),
        ([THREE], "restart it", "restart it", "which container do you mean: a on nas, b on nas or c on gpu?"),
        ([THREE], "list images", "list images", ""),
        ([TWO_STOPPED], "start the other one", "start the other one", "which container do you mean: job or mail?"),
        ([LISTED], "no, the other host", "list containers on gpu", ""),
    ],
)
def test_a_follow_up_about_another_one_finds_it_or_asks(
    turns: list[ConversationTurn], asked: str, expected: str, unclear: str
) -> None:
    completed = Conversation(turns=turns).complete(asked, HOSTS)

    assert (completed.text, completed.unclear) == (expected, unclear)


@pytest.mark.parametrize("asked", ["on" + " " * 3900 + ";", "and " * 970 + ";", "," * 3900 + ";", "the other " * 390])
def test_a_long_follow_up_takes_little_time(asked: str) -> None:
    """Over HTTP the conversation is a caller's, and the event loop waits."""
    started = time.process_time()

    Conversation(turns=[STOPPED]).complete(asked, HOSTS)

    assert time.process_time() - started < 0.5


def test_of_three_hosts_the_other_one_is_asked_for() -> None:
    completed = Conversation(turns=[STOPPED]).complete("no, the other host", ("nas", "gpu", "pi"))

    assert completed.unclear == "which host do you mean: gpu or pi?"


def test_a_stored_conversation_is_bounded_and_contains_no_secrets(tmp_path: Path) -> None:
    store = ConversationStore(tmp_path / "chats", lambda words: words.replace("hunter2", "<hidden>"))
    conversation = Conversation(
        turns=[ConversationTurn(f"q{number}", "PASSWORD=hunter2", "a" * 9) for number in range(9)]
    )

    store.save(conversation)

    assert "hunter2" not in (tmp_path / "chats" / f"{conversation.id}.json").read_text(encoding="utf-8")
    assert store.load().turns[0].meant == "PASSWORD=<hidden>"
    assert Conversation().complete("restart it", HOSTS) == CompletedQuestion("restart it")
