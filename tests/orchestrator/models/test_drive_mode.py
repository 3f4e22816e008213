"""Driving a model over real HTTP, with tool calls or with a plan: few tools, short prompts and the same checks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anvyl_mcp.app.catalogue import load_catalogue
from anvyl_mcp.core.errors import InvalidInput
from anvyl_mcp.core.settings import load
from anvyl_mcp.evaluation.acts.world import World
from anvyl_mcp.evaluation.simulation import Simulation
from anvyl_mcp.orchestrator.ask.agent import Assistant
from anvyl_mcp.orchestrator.models.drive_mode import drive_mode_for
from anvyl_mcp.orchestrator.models.model_choice import ModelChoice
from anvyl_mcp.orchestrator.models.tool_subset import MAX_VISIBLE, select_tools
from anvyl_mcp.orchestrator.question import Proposal, Question
from anvyl_mcp.orchestrator.reply import Reply
from anvyl_mcp.peers.hosts.registry import Peer
from tests.support.model_server import ListedModel, ModelServer, text, tool_call

pytest_plugins = ["tests.support.model_server"]

MOST_TOKENS = 2200
MOST_TOKENS_OF_ALL = 3000
"""Limit for tool definitions and instructions, independent of the number of hosts."""


class Fleet:
    """A simulated fleet with a scripted model server and a user who approves everything."""

    def __init__(self, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ANVYL_LMSTUDIO_URL", server.url)
        self._patch = monkeypatch
        self.server = server
        self.world = World.patched({})
        self.simulation = Simulation(self.world, load_catalogue(load().cache_dir))

    async def ask(self, question: str, *, drive: str = "tools", approve: bool | None = True) -> Reply:
        self._patch.setenv("ANVYL_DRIVE", drive)

        async def decide(proposal: Proposal) -> bool | None:
            return approve

        return await Assistant(self.simulation.fleet, load()).ask(Question(question), decide=decide)

    async def plan(self, question: str, *calls: dict[str, Any], intent: str = "read", **more: Any) -> Reply:
        self.server.replies += [plan(*calls, intent=intent, **more)]
        return await self.ask(question, drive="plan")

    def use_small_model(self) -> None:
        """Be served by a model so small that its calls are held to the question's words."""
        self.server.list_models(ListedModel("qwen3-1.7b", context_length=8192))

    @property
    def done(self) -> list[tuple[str, str, Any]]:
        return [(one.host, one.tool, one.arguments.get("name")) for one in self.simulation.done]


def plan(*calls: dict[str, Any], intent: str = "read", **more: Any) -> Any:
    return text(json.dumps({"intent": intent, "calls": list(calls), **more}))


@pytest.fixture
def fleet(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    yield Fleet(model_server, monkeypatch)


def tokens() -> Callable[[str], int]:
    """Count with o200k_base if its table is installed, as in benchmarks/tools.py; else a cautious estimate."""
    try:
        import tiktoken

        encoding = tiktoken.get_encoding("o200k_base")
    except (ImportError, OSError):
        return lambda words: round(len(words) / 3.6)
    return lambda words: len(encoding.encode(words))


QUESTIONS = (
    "list all containers",
    "which containers are stopped?",
    "is db running?",
    "why does api keep crashing?",
    "show the last 20 lines of the log of web",
    "restart web on web2",
    "stop grafana",
    "start the old trainer",
    "remove certbot",
    "what is listening on port 8080?",
    "which container eats the most cpu?",
    "how many containers run on nas?",
    "run nginx:1.27 on web1 with port 8080",
    "is anything unhealthy?",
    "where does redis run?",
    "show details of grafana",
    "which hosts are there?",
    "stop all web containers",
    "what changed in the logs of api since yesterday?",
    "run a shell command in web",
    "which machine has the most free memory?",
    "what is the uptime of nas?",
    "list images on web1",
    "pull redis:7.4 on nas",
    "what networks are there?",
)


def test_four_of_five_questions_need_only_the_common_tools() -> None:
    known = load_catalogue(load().cache_dir)
    usual = select_tools("", known)

    chosen = [select_tools(question, known) for question in QUESTIONS]

    assert sum(one == usual for one in chosen) / len(chosen) >= 0.8
    assert {"list_hosts", "list_containers"} <= usual
    assert len(set(chosen)) <= 6, "few sets, so that a cached prompt is met again"


@pytest.mark.parametrize(
    "question", [*QUESTIONS, "networks and volumes of nas", "pull nginx and show memory and networks"]
)
def test_no_question_offers_more_than_twelve_tools(question: str) -> None:
    assert 0 < len(select_tools(question, load_catalogue(load().cache_dir))) <= MAX_VISIBLE


@pytest.mark.parametrize(
    ("question", "tool"),
    [
        ("which host has room for a 2 GB database?", "get_host_resources"),
        ("how busy is web2", "get_host_resources"),
        ("run `uptime` on nas", "execute_command"),
        ("pull nginx:1.29 on web1", "pull_image"),
        ("connect web to the network back", "connect_network"),
        ("remove the volume old-backups", "remove_volume"),
        ("clean up unused images on nas", "prune_unused"),
        ("please tidy up: the old trainer can go", "remove_container"),
        ("what happened on nas in the last hour?", "list_history"),
        ("show the logs of web and the memory of nas", "get_container_logs"),
    ],
)
def test_the_tools_for_a_question_include_the_one_it_needs(question: str, tool: str) -> None:
    assert tool in select_tools(question, load_catalogue(load().cache_dir))


@pytest.mark.parametrize(
    "question", ["is db running?", "¿cuánta memoria libre queda en web2?", "connect db to the network back"]
)
async def test_a_capable_model_sees_the_same_tools_for_every_question_in_few_tokens(
    question: str, fleet: Fleet
) -> None:
    known = load_catalogue(load().cache_dir)
    fleet.server.replies += [text("No.")]

    await fleet.ask(question)

    [request] = fleet.server.requests
    assert {tool["function"]["name"] for tool in request["tools"]} == {
        name for name, listing in known.items() if listing.toolset != "undo" and not listing.rare
    } | {"find_tools"}
    beginning = request["messages"][0]["content"].partition("Hosts: ")[0]
    beginning += json.dumps(request["tools"], separators=(",", ":"))
    assert tokens()(beginning) <= MOST_TOKENS_OF_ALL


async def test_a_capable_model_finds_a_rare_tool_by_its_name_and_then_calls_it(fleet: Fleet) -> None:
    fleet.server.replies += [
        tool_call("find_tools", {"subject": "create_network"}),
        tool_call("create_network", {"name": "backstage", "host": "nas"}),
        text("Created."),
    ]

    await fleet.ask("create a network backstage on nas")

    first, second, _ = ([tool["function"]["name"] for tool in one["tools"]] for one in fleet.server.requests)
    [finder] = [
        tool["function"] for tool in fleet.server.requests[0]["tools"] if tool["function"]["name"] == "find_tools"
    ]
    assert "networks: " in finder["description"] and "create_network" not in first
    assert second == [*first, "create_network"], "what came before stays, for the prompt cache"
    assert fleet.done == [("nas", "create_network", "backstage")]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("remove_volume, create_volume", {"remove_volume", "create_volume"}),
        ("something for volumes", {"remove_volume", "create_volume"}),
        ("", {"remove_volume", "connect_network"}),
    ],
)
async def test_rare_tools_are_found_by_name_and_by_subject_and_else_all_are_shown(
    names: str, found: set[str], fleet: Fleet
) -> None:
    fleet.server.replies += [tool_call("find_tools", {"subject": names}), text("There they are.")]

    await fleet.ask("is there a tool for this?")

    before, after = ({tool["function"]["name"] for tool in one["tools"]} for one in fleet.server.requests)
    assert found <= after - before
    assert names != "something for volumes" or not after - before & {"connect_network", "create_service"}


@pytest.mark.parametrize("question", ["is db running?", "which host has room for a 2 GB database?"])
@pytest.mark.parametrize("drive", ["tools", "plan"])
async def test_definitions_and_instructions_stay_small_and_the_same_at_1_and_at_50_hosts(
    question: str, drive: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, prompts = tokens(), []
    nas = fleet.simulation.fleet.peers["nas"]
    for number in (1, 50):
        hosts = {"nas": nas} | {f"host-{at}": Peer(f"host-{at}", "http://127.0.0.1:9") for at in range(1, number)}
        monkeypatch.setattr(fleet.simulation.fleet.registry, "peers", lambda hosts=hosts: hosts)
        fleet.world.hosts |= dict.fromkeys(hosts, fleet.world.hosts["nas"])
        fleet.use_small_model()
        fleet.server.replies += [plan(intent="none", say="No.") if drive == "plan" else text("No.")]
        await fleet.ask(question, drive=drive)
        prompts.append(fleet.server.requests[-1])

    fixed = [json.dumps([one["messages"][0]["content"].partition("Hosts: ")[0], one.get("tools")]) for one in prompts]
    assert fixed[0] == fixed[1]
    assert count(fixed[0]) <= MOST_TOKENS
    with_hosts = prompts[1]["messages"][0]["content"] + json.dumps(prompts[1].get("tools"))
    assert drive == "plan" or count(with_hosts) <= MOST_TOKENS


@pytest.mark.parametrize("drive", ["tools", "plan"])
async def test_the_beginning_of_a_request_is_the_same_for_every_question_with_the_same_tools(
    drive: str, fleet: Fleet
) -> None:
    for question in ("is db running?", "restart web on web2", "why is backup stopped?"):
        fleet.server.replies += [plan(intent="none", say="No.") if drive == "plan" else text("No.")]
        await fleet.ask(question, drive=drive)

    beginnings = {json.dumps([one["messages"][0], one.get("tools")]) for one in fleet.server.requests}
    assert len(beginnings) == 1


async def test_a_simple_read_takes_two_requests_and_few_tokens_with_tools(fleet: Fleet) -> None:
    fleet.server.replies += [tool_call("list_containers", {"host": "gpu"}), text("ollama and jupyter run on gpu.")]

    reply = await fleet.ask("what runs on gpu?")

    assert (reply.usage["requests"], reply.answer) == (2, "ollama and jupyter run on gpu.")
    assert reply.usage["output_tokens"] <= 80


async def test_a_simple_read_takes_one_request_with_a_plan(fleet: Fleet) -> None:
    reply = await fleet.plan("what runs on gpu?", {"tool": "list_containers", "host": "gpu"})

    assert (reply.usage["requests"], reply.mode, reply.error) == (1, "model", None)
    assert [call.host for call in reply.calls] == ["gpu"]
    assert "gpu" in reply.answer and "containers" in reply.answer


async def test_the_schema_of_a_plan_has_the_intent_first_and_hosts_as_an_enum(fleet: Fleet) -> None:
    await fleet.plan(
        "restart web on web2", {"tool": "restart_container", "name": "web", "host": "web2"}, intent="change"
    )

    request = fleet.server.requests[0]
    schema = request["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["intent", "calls", "say"]
    restart = schema["properties"]["calls"]["items"]["properties"]
    assert restart["tool"]["enum"] == ["restart_container"], "the words leave room for no other tool"
    assert (restart["name"]["enum"], restart["host"]["enum"]) == (["web"], ["web2"])
    assert "tools" not in request
    assert request["messages"][-1]["content"].endswith("Person: restart web on web2")
    assert "web1: api (shop/api:2.4, running)" in request["messages"][-1]["content"].replace(
        "cache (redis:7.2, running), ", ""
    )
    assert fleet.done == [("web2", "restart_container", "web")]


async def test_a_plan_for_a_question_can_only_read(fleet: Fleet) -> None:
    await fleet.plan("which containers are stopped?", {"tool": "list_containers", "all": True})

    [request] = fleet.server.requests
    items = request["response_format"]["json_schema"]["schema"]["properties"]["calls"]["items"]
    offered = items.get("anyOf", [items])
    tools = {call["properties"]["tool"]["enum"][0] for call in offered}
    assert tools and all(tool.startswith(("list_", "get_")) for tool in tools)
    assert all("host" not in call["properties"] for call in offered), "the question names no host"


async def test_a_planned_change_needs_approval_like_any_other(fleet: Fleet) -> None:
    fleet.server.replies += [plan({"tool": "stop_container", "name": "grafana"}, intent="change")]

    reply = await fleet.ask("stop grafana", drive="plan", approve=None)

    assert (fleet.done, reply.exit_code) == ([], 5)
    assert "stop grafana on nas" in reply.answer


async def test_a_plan_with_intent_read_executes_no_change(fleet: Fleet) -> None:
    reply = await fleet.plan(
        "show me the stopped containers",
        {"tool": "remove_container", "name": "backup", "force": True},
        {"tool": "list_containers", "all": True},
    )

    assert fleet.done == []
    assert "backup" in reply.answer and [call.tool for call in reply.calls] == ["list_containers"] * 4


async def test_a_plan_that_asks_or_declines_returns_its_text(fleet: Fleet) -> None:
    reply = await fleet.plan("restart it", intent="ask", say="Which container do you mean?")

    assert reply.answer.endswith("Which container do you mean?")
    assert (fleet.done, reply.calls) == ([], [])


async def test_a_failed_plan_is_retried_once_with_the_reason(fleet: Fleet) -> None:
    fleet.server.replies += [
        plan({"tool": "get_container_logs", "name": "nonsense"}),
        plan({"tool": "get_container_logs", "name": "db"}),
    ]

    reply = await fleet.ask("show the log of the postgres thing", drive="plan")

    assert len(fleet.server.requests) == 2 or [call.tool for call in reply.calls] == ["get_container_logs"]
    assert "checkpoint" in str(reply.calls[0].answer.result)


async def test_why_questions_are_answered_with_a_summary_of_the_results(fleet: Fleet) -> None:
    fleet.server.replies += [plan({"tool": "get_container_logs", "name": "worker"}), text("It ran out of memory.")]

    reply = await fleet.ask("why did worker stop?", drive="plan")

    assert (reply.answer, reply.usage["requests"]) == ("It ran out of memory.", 2)
    assert "Killed" in fleet.server.requests[1]["messages"][-1]["content"]
    assert fleet.server.requests[1]["max_tokens"] <= 100


@pytest.mark.parametrize(
    "written", ["", "}{", "[]", '"x"', '{"intent": "change"}', '{"calls": [1, null, {"tool": "x"}]}']
)
async def test_an_invalid_plan_does_nothing(written: str, fleet: Fleet) -> None:
    fleet.server.replies += [text(written), text(written)]

    reply = await fleet.ask("restart grafana please with care", drive="plan")

    assert all(name == "grafana" for _, _, name in fleet.done)
    assert reply.answer or reply.error


@pytest.mark.parametrize(
    ("question", "call", "done"),
    [
        ("stop all web containers", "web", {("web1", "web"), ("web2", "web")}),
        ("restart the redis containers", "cache", {("nas", "cache"), ("web1", "cache")}),
        ("restart all containers on nas, photos too", "photos", {("nas", "photos")}),
        ("delete all containers", "db", set()),
    ],
)
async def test_the_rules_read_a_change_to_several_objects_if_a_plan_for_one_fails(
    question: str, call: str, done: set[tuple[str, str]], fleet: Fleet
) -> None:
    """A plan that works is carried out as the model made it."""
    verb = {"delete": "remove"}.get(question.split()[0], question.split()[0])

    await fleet.plan(question, {"tool": f"{verb}_container", "name": call}, intent="change")

    assert {(host, name) for host, _, name in fleet.done} == done


@pytest.mark.parametrize(
    ("question", "call", "hosts", "arguments"),
    [
        ("what runs?", {"tool": "list_containers", "host": "web1"}, {"nas", "web1", "web2", "gpu"}, {}),
        ("what runs on web2?", {"tool": "list_containers"}, {"web2"}, {}),
        ("which containers are stopped on gpu?", {"tool": "list_containers"}, {"gpu"}, {"all": True}),
        (
            "print 5 lines of what db logs",
            {"tool": "get_container_logs", "name": "db", "tail": 5, "since": "1h", "grep": "error"},
            {"nas"},
            {"name": "db", "tail": 5},
        ),
    ],
)
async def test_a_plan_reads_on_the_named_hosts_without_options_that_were_not_named(
    question: str, call: dict[str, Any], hosts: set[str], arguments: dict[str, Any], fleet: Fleet
) -> None:
    """A small model fills in whatever a grammar lets it, and not every server holds it to the grammar."""
    reply = await fleet.plan(question, call)

    assert {one.host for one in reply.calls} == hosts
    assert all(one.arguments == arguments for one in reply.calls)


async def test_options_of_a_planned_change_that_were_not_named_are_left_out(fleet: Fleet) -> None:
    redis = {"tool": "create_container", "image": "redis:7.2", "host": "web1,web2"}

    await fleet.plan(
        "run redis:7.2 on web1 and web2", {**redis, "name": "my-redis", "ports": ["6379:6379"]}, intent="change"
    )

    done = [(one.host, dict(one.arguments)) for one in fleet.simulation.done]
    assert sorted(done) == [("web1", {"image": "redis:7.2"}), ("web2", {"image": "redis:7.2"})]


@pytest.mark.parametrize(
    ("question", "call", "says"),
    [
        ("restart web", {"tool": "restart_container", "name": "web", "host": "web1"}, "both web1 and web2"),
        ("stop mysql", {"tool": "stop_container", "name": "mysql"}, "no host has a container `mysql`"),
        ("pull redis:7.4", {"tool": "pull_image", "image": "redis:7.4", "host": "nas"}, "needs a host"),
    ],
)
async def test_a_choice_that_only_a_person_can_make_ends_the_question(
    question: str, call: dict[str, Any], says: str, fleet: Fleet
) -> None:
    reply = await fleet.plan(question, call, intent="change")

    assert (fleet.done, reply.proposals, len(fleet.server.requests)) == ([], [], 1)
    assert reply.exit_code != 0 and says in reply.answer


async def test_a_plan_names_what_the_words_name_and_anything_else_needs_a_person(fleet: Fleet) -> None:
    fleet.server.replies += [plan({"tool": "stop_container", "name": "db"}, intent="change")]

    reply = await fleet.ask("stop mysql", drive="plan", approve=None)

    items = fleet.server.requests[0]["response_format"]["json_schema"]["schema"]["properties"]["calls"]["items"]
    assert items["properties"]["name"]["enum"] == ["mysql"]
    [proposal] = reply.proposals
    assert not proposal.covered
    assert proposal.why == "you did not say `name=db`; proposed after reading the list of containers"


@pytest.mark.parametrize(
    ("setting", "name", "trained", "drive"),
    [
        ("auto", "qwen2.5-coder-1.5b", None, "plan"),
        ("auto", "qwen/qwen3.5-9b", True, "tools"),
        ("auto", "mistral-small", None, "tools"),
        ("auto", "gemma-3-12b", False, "plan"),
        ("plan", "qwen/qwen3.5-9b", True, "plan"),
        ("tools", "qwen2.5-0.5b", None, "tools"),
    ],
)
def test_small_models_and_untrained_ones_use_plans(setting: str, name: str, trained: bool | None, drive: str) -> None:
    assert drive_mode_for(setting, ModelChoice(name, "lmstudio", trained_for_tools=trained)) == drive


async def test_an_untrained_model_on_lm_studio_uses_a_plan(fleet: Fleet, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("gemma-3-12b", context_length=8192, tools=False))
    model_server.replies += [plan({"tool": "list_containers", "host": "gpu"})]

    reply = await fleet.ask("what would you look at first on gpu?", drive="auto")

    assert "response_format" in model_server.requests[0]
    assert [call.host for call in reply.calls] == ["gpu"]


def test_an_unknown_drive_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANVYL_DRIVE", "horse")

    with pytest.raises(InvalidInput, match="ANVYL_DRIVE is `horse`"):
        load()


async def test_results_are_cut_for_a_small_context_but_complete_for_the_user(
    fleet: Fleet, model_server: ModelServer
) -> None:
    model_server.list_models(ListedModel("qwen/qwen3.5-4b", context_length=4096))
    fleet.world.hosts["gpu"].containers["ollama"].logs[:] = [f"line {number} of a long log" for number in range(2000)]
    model_server.replies += [
        tool_call("get_container_logs", {"name": "ollama", "tail": 2000}),
        tool_call("get_container_info", {"name": "ollama"}),
        text("It loads models."),
    ]

    reply = await fleet.ask("what do the last 2000 lines of the log of ollama say, and how is ollama set up?")

    assert reply.error is None and len((reply.calls[0].answer.result or {})["lines"]) > 500
    sizes = [sum(len(str(one["content"])) for one in request["messages"][1:]) for request in model_server.requests]
    assert all(size < 4096 * 3 for size in sizes)
    results = [one["content"] for one in model_server.requests[2]["messages"] if one["role"] == "tool"]
    assert "cut to save room" in results[0] or "more characters" in results[0]
    assert "ollama/ollama" in results[1], "the newest result is whole"


ONE_ANSWER = """
import http.server, json, os, sys
message = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": json.loads(sys.argv[1])}]}
class Once(http.server.BaseHTTPRequestHandler):
    asked = 0
    def answer(self, body):
        self.send_response(200); self.send_header("Content-Type", "application/json"); self.end_headers()
        self.wfile.write(json.dumps(body).encode())
    def do_GET(self):
        self.answer({"data": [{"id": "once", "object": "model"}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        Once.asked += 1
        if Once.asked > 1:
            os._exit(9)
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
        self.answer({"id": "1", "model": "once", "choices": [choice]})
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Once)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""A model server that answers one request and dies at the second."""


@pytest.fixture
def short_lived() -> Iterator[subprocess.Popen[bytes]]:
    """Start such a server; it plans to stop web on web1."""
    wanted = {"name": "stop_container", "arguments": json.dumps({"name": "web", "host": "web1"})}
    with subprocess.Popen([sys.executable, "-c", ONE_ANSWER, json.dumps(wanted)], stdout=subprocess.PIPE) as server:
        yield server
        server.kill()


@pytest.mark.parametrize(
    ("question", "done", "says"),
    [
        (
            "stop web on web1 and then remove it",
            [("web1", "stop_container", "web"), ("web1", "remove_container", "web")],
            "removed",
        ),
        ("stop web on web1, and frobnicate ollama", [("web1", "stop_container", "web")], "look what is left to do"),
    ],
    ids=["the rules finish it", "they say that something is left"],
)
async def test_a_model_server_killed_between_two_steps(
    question: str,
    done: list[tuple[str, str, str]],
    says: str,
    fleet: Fleet,
    short_lived: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert short_lived.stdout is not None
    monkeypatch.setenv("ANVYL_LMSTUDIO_URL", f"http://127.0.0.1:{int(short_lived.stdout.readline())}/v1")

    reply = await fleet.ask(question)

    assert short_lived.wait(10) == 9
    assert fleet.done == done
    assert says in reply.answer.lower() and any("answered by rules" in note for note in reply.notes)


async def test_a_hint_names_a_tool_for_a_model_and_a_command_for_the_user(fleet: Fleet) -> None:
    fleet.server.replies += [tool_call("pull_image", {"image": "redis:7.4"}), text("On which host?")]

    reply = await fleet.ask("pull redis:7.4")

    hint = fleet.server.requests[1]["messages"][-1]["content"]
    assert "Give one as `host`" in hint and "--host" not in hint
    assert "--host" in str(reply.error)


async def test_the_rules_take_over_clear_questions_from_a_small_model_that_only_talks(fleet: Fleet) -> None:
    fleet.use_small_model()
    fleet.server.replies += [text("grafana is surely running, have no fear.")]

    reply = await fleet.ask("is grafana running?")

    assert reply.answer == "grafana is running on nas."
    assert (reply.mode, len(fleet.server.requests)) == ("rules", 1)
    assert any("made no call for it" in note for note in reply.notes)


async def test_a_small_model_is_skipped_if_the_rules_understand_the_question(
    fleet: Fleet, model_server: ModelServer
) -> None:
    model_server.list_models(ListedModel("qwen2.5-coder-1.5b", context_length=8192))

    reply = await fleet.ask("is grafana running?", drive="auto")

    assert (reply.answer, reply.mode, reply.usage["requests"]) == ("grafana is running on nas.", "rules", 0)
    assert model_server.requests == []


@pytest.mark.parametrize(
    ("question", "done"),
    [
        ("I want certbot gone from web2", [("web2", "remove_container", "certbot")]),
        ("the grafana dashboard is frozen, give it a kick", [("nas", "restart_container", "grafana")]),
        ("I'd like the notebook on gpu switched off, you know, jupyter", [("gpu", "stop_container", "jupyter")]),
        ("please get the shop worker going again", [("web1", "start_container", "worker")]),
        (
            "take down the web tier on all machines",
            [("web1", "stop_container", "web"), ("web2", "stop_container", "web")],
        ),
        ("would it be a good idea to delete the cache container?", []),
        ("take down the web tier", []),
        ("please tidy up: the old-trainer container on gpu can go", [("gpu", "remove_container", "old-trainer")]),
        ("fetch the newest grafana/grafana:13 onto the nas", [("nas", "pull_image", None)]),
        ("do not give grafana a kick", []),
    ],
)
@pytest.mark.parametrize("drive", ["tools", "plan"])
async def test_a_command_that_the_model_cannot_plan_is_parsed_by_the_rules(
    question: str, done: list[tuple[str, str, str]], drive: str, fleet: Fleet
) -> None:
    fleet.use_small_model()
    fleet.server.replies += [plan(intent="none", say="Hm.") if drive == "plan" else text("Hm.")] * 2

    reply = await fleet.ask(question, drive=drive)

    assert sorted(fleet.done) == sorted(done)
    assert len(reply.proposals) == (1 if done else 0)


@pytest.mark.parametrize(
    ("question", "offered"),
    [
        (
            "what has grafana been up to",
            {"list_containers", "get_container_logs"},
        ),
        ("how is it going over there", {"list_containers", "list_hosts", "list_history"}),
        ("rank the hosts by free memory, most first", {"get_host_resources"}),
    ],
)
async def test_a_reading_plan_can_only_read_the_named_object(question: str, offered: set[str], fleet: Fleet) -> None:
    await fleet.plan(question, intent="none", say="Hm?")

    items = fleet.server.requests[0]["response_format"]["json_schema"]["schema"]["properties"]["calls"]["items"]
    calls = items.get("anyOf", [items])
    assert {call["properties"]["tool"]["enum"][0] for call in calls} == offered


async def test_a_change_that_depends_on_results_is_planned_after_reading(fleet: Fleet) -> None:
    """Results are untrusted, so such a change needs approval by a person, even with --yes."""
    fleet.server.replies += [
        plan({"tool": "get_container_stats", "host": "gpu"}, intent="change"),
        plan({"tool": "stop_container", "name": "ollama"}, intent="change"),
    ]

    reply = await fleet.ask("I want the hungriest on gpu stopped, whichever uses most memory", drive="plan")

    assert "Results:" in fleet.server.requests[1]["messages"][-1]["content"]
    assert [proposal.untrusted != "" for proposal in reply.proposals] == [True]


async def test_a_name_in_a_rule_may_be_an_image(fleet: Fleet, model_server: ModelServer) -> None:
    model_server.list_models(ListedModel("qwen2.5-coder-1.5b", context_length=8192))

    unclear = await fleet.ask("restart nginx", drive="auto")
    clear = await fleet.ask("restart immich", drive="auto")

    assert "web1" in unclear.answer and "web2" in unclear.answer and "results so far" not in unclear.answer
    assert fleet.done == [("nas", "restart_container", "photos")]
    assert clear.exit_code == 0 and model_server.requests == []
