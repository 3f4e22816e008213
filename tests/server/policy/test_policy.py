"""The owner of a host restricts its callers: deny wins, labels never grant, and an invalid policy refuses changes."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from typer.testing import CliRunner

from anvyl_mcp.app.catalogue import all_tools
from anvyl_mcp.app.node import Node
from anvyl_mcp.cli.programs import host
from anvyl_mcp.core import protocol_keys
from anvyl_mcp.core.errors import ConfigInvalid
from anvyl_mcp.core.settings import load
from anvyl_mcp.server.auth.callers import LOCAL, SCOPES, Caller
from anvyl_mcp.server.calls.gate import effective_caller
from anvyl_mcp.server.policy import guardrails
from anvyl_mcp.server.policy.lint import find_problems
from anvyl_mcp.server.policy.name_forms import ObjectFacts, spellings
from anvyl_mcp.server.policy.parse import parse
from anvyl_mcp.server.policy.policy import MAX_DECISIONS, Policy
from anvyl_mcp.server.policy.rules import PolicyCall, PolicyDecision, PolicyRules, decide, may_offer
from tests.support.engine.engines import RealEngine
from tests.support.hosts.nodes import CommandResult, running_node

TOOLS = {tool.name: tool for tool in all_tools()}
FILE = Path("policy.toml")
ALPHA = Caller("alpha", frozenset(SCOPES), "token")
ROOT = Path(__file__).parents[3]


def decision_on(
    content: str,
    tool: str,
    arguments: Mapping[str, Any],
    *,
    caller: Caller = ALPHA,
    known: Mapping[tuple[str, str], ObjectFacts] | None = None,
) -> PolicyDecision:
    return decide(parse(content, FILE), make_call(tool, arguments, caller=caller, known=known))


def make_call(
    tool: str,
    arguments: Mapping[str, Any],
    *,
    caller: Caller = ALPHA,
    known: Mapping[tuple[str, str], ObjectFacts] | None = None,
) -> PolicyCall:
    one = TOOLS[tool]
    given = {name: field.get_default() for name, field in one.arguments.model_fields.items()} | dict(arguments)
    return PolicyCall(one, guardrails.needed_scope(one, given), caller, given, lambda *key: (known or {}).get(key))


def run_policy(*arguments: str) -> CommandResult:
    done = CliRunner().invoke(host.app, ["policy", *arguments], catch_exceptions=False)
    return CommandResult(done.exit_code, done.stdout, done.stderr)


def policy_test(*arguments: str) -> CommandResult:
    return run_policy("test", *arguments, "--json")


def write(content: str) -> Path:
    file = load().policy_file
    file.write_text(content, encoding="utf-8")
    file.chmod(0o600)
    return file


DB = ObjectFacts("prod-db", ("prod-db", "0123456789ab" + "0" * 52, "0123456789ab"), {"stage": "production"}, "evil:1")


@pytest.mark.parametrize(
    ("rule", "tool", "arguments", "allowed"),
    [
        ('tools = ["stop_*"]', "stop_container", {"name": "web"}, False),
        ('tools = ["stop_*"]', "start_container", {"name": "web"}, True),
        ('toolsets = ["networks"]', "remove_network", {"name": "lan"}, False),
        ('safety = ["destroys"]', "remove_container", {"name": "web"}, False),
        ('safety = ["destroys"]', "stop_container", {"name": "web"}, True),
        ('scopes = ["exec"]', "create_container", {"image": "busybox", "volumes": ["/srv:/x"]}, False),
        ('scopes = ["exec"]', "create_container", {"image": "busybox"}, True),
        ('tokens = ["al*"]', "list_containers", {}, False),
        ('tokens = ["beta"]', "list_containers", {}, True),
        ('callers = ["loopback:*"]', "list_containers", {}, True),
        ('containers = ["prod-*"]', "stop_container", {"name": "prod-x"}, False),
        ('containers = ["prod-*"]', "stop_container", {"name": "0123456789ab"}, False),
        ('containers = ["prod-*"]', "connect_network", {"network": "lan", "container": "0123456789ab"}, False),
        ('containers = ["prod-*"]', "create_container", {"image": "busybox", "name": "prod-2"}, False),
        ('containers = ["prod-*"]', "list_containers", {}, True),
        ('labels = { "STAGE" = "prod*" }', "stop_container", {"name": "0123456789ab"}, False),
        ('labels = { "stage" = "test" }', "stop_container", {"name": "0123456789ab"}, True),
        ('images = ["evil"]', "start_container", {"name": "0123456789ab"}, False),
        ('images = ["evil"]', "create_container", {"image": "docker.io/library/evil:2"}, False),
        ('images = ["docker.io/library/evil:latest"]', "pull_image", {"image": "evil"}, False),
        ('images = ["evil:1"]', "create_container", {"image": "evil:2"}, True),
        ('images = ["evil"]', "create_container", {"image": "feedfacefeed"}, False),
        ('mounts = ["/etc/**"]', "create_container", {"image": "a", "volumes": ["/etc/ssl:/x"]}, False),
        ('mounts = ["/etc/**"]', "create_container", {"image": "a", "volumes": ["/srv/../etc:/x"]}, False),
        ('mounts = ["/etc/**"]', "create_container", {"image": "a", "volumes": ["/:/x"]}, False),
        ('mounts = ["/etc/**"]', "create_container", {"image": "a", "volumes": ["//etc:/x"]}, False),
        ('mounts = ["/etc/**"]', "create_container", {"image": "a", "volumes": ["type=bind,source=/etc:/x"]}, False),
        ('mounts = ["/etc/**"]', "create_container", {"image": "a", "volumes": ["/etcetera:/x", "data:/y"]}, True),
        ('volumes = ["data"]', "create_container", {"image": "a", "volumes": ["data:/y"]}, False),
        ('networks = ["host"]', "create_container", {"image": "a", "network": "host"}, False),
        ("arguments = { force = true }", "remove_container", {"name": "a", "force": True}, False),
        ("arguments = { force = true }", "remove_container", {"name": "a", "force": False}, True),
        (
            'arguments = { env = "LD_PRELOAD=*" }',
            "create_container",
            {"image": "a", "env": ["A=1", "LD_PRELOAD=/x"]},
            False,
        ),
        ('tools = ["stop_*"]\ncontainers = ["web"]', "stop_container", {"name": "db"}, True),
        ("", "list_images", {}, False),
    ],
)
def test_a_deny_matches_every_name_of_an_object(rule: str, tool: str, arguments: dict[str, Any], allowed: bool) -> None:
    evil = ObjectFacts("feedfacefeed", ("feedfacefeed", *spellings("image", "evil:1")))
    known = {("container", "0123456789ab"): DB, ("image", "feedfacefeed"): evil}

    assert decision_on(f"[[deny]]\n{rule}\n", tool, arguments, known=known).allowed is allowed


@pytest.mark.parametrize(
    ("rule", "tool", "arguments", "allowed"),
    [
        ('tools = ["stop_*"]', "stop_container", {"name": "web"}, True),
        ('tools = ["stop_*"]', "start_container", {"name": "web"}, False),
        ('containers = ["web-*"]', "stop_container", {"name": "web-1"}, True),
        ('containers = ["web-*"]', "list_containers", {}, False),
        ('containers = ["0123*"]', "stop_container", {"name": "0123456789ab"}, False),
        ('containers = ["prod-db"]', "stop_container", {"name": "0123456789ab"}, True),
        ('images = ["evil"]', "start_container", {"name": "0123456789ab"}, False),
        ('images = ["busybox"]', "create_container", {"image": "busybox:1.36"}, True),
        ('images = ["busybox:1.36"]', "create_container", {"image": "busybox:1.36@sha256:00"}, False),
        ('images = ["registry.local/*"]', "create_container", {"image": "registry.local/a:1"}, True),
        ('images = ["registry.local/*"]', "create_container", {"image": "evil/registry.local/a"}, False),
        ('mounts = ["/srv/**"]', "create_container", {"image": "a"}, True),
        ('mounts = ["/srv/**"]', "create_container", {"image": "a", "volumes": ["/srv/a:/x"]}, True),
        ('mounts = ["/srv/**"]', "create_container", {"image": "a", "volumes": ["/srv:/x"]}, True),
        ('mounts = ["/srv/**"]', "create_container", {"image": "a", "volumes": ["/srv/../etc:/x"]}, False),
        ('mounts = ["/srv/**"]', "create_container", {"image": "a", "volumes": ["/srv/a:/x", "/:/y"]}, False),
        ('mounts = ["/srv/**:ro"]', "create_container", {"image": "a", "volumes": ["/srv/a:/x"]}, False),
        ('mounts = ["/srv/**:ro"]', "create_container", {"image": "a", "volumes": ["/srv/a:/x:ro"]}, True),
        ('arguments = { network = "" }', "create_container", {"image": "a"}, True),
        ('arguments = { network = "" }', "create_container", {"image": "a", "network": "lan"}, False),
        ('tokens = ["alpha"]', "list_images", {}, True),
        ('tokens = ["beta"]', "list_images", {}, False),
    ],
)
def test_an_allow_matches_only_the_own_names_of_all_objects(
    rule: str, tool: str, arguments: dict[str, Any], allowed: bool
) -> None:
    known = {("container", "0123456789ab"): DB}
    content = f'default = "deny"\n[[allow]]\n{rule}\n'

    assert decision_on(content, tool, arguments, known=known).allowed is allowed


def test_only_listed_commands_run_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "other").symlink_to("tool")
    monkeypatch.setenv("PATH", str(tmp_path))
    content = f'[host_exec]\nallow = [["{tmp_path}/tool", "-h"], ["{tmp_path}/tool", "status", "*"]]\n'

    def may(command: str) -> bool:
        return decision_on(content, "execute_command", {"command": command}).allowed

    assert may("tool -h") and may(f"{tmp_path}/tool -h") and may("tool status web")
    assert not may("tool") and not may("tool -h -h") and not may("tool -hx") and not may("tool status web db")
    assert not may("tool status --host=evil"), "a wildcard does not match an option"
    assert not may("other -h"), "a link to the same file may do something else under its name"
    assert not may("tool -h; id") and not may("'") and not may("nothing -h")
    assert decision_on(content, "list_images", {}).allowed


def test_the_name_on_whose_behalf_a_call_is_made_can_restrict_but_not_grant() -> None:
    """Any caller can claim to act for another one."""
    for_bob = effective_caller(ALPHA, {protocol_keys.SCOPES: ["exec"], protocol_keys.FOR: "bob"})
    here_for_bob = effective_caller(LOCAL, {protocol_keys.SCOPES: ["exec"], protocol_keys.FOR: "bob"})

    def allowed(names: str, caller: Caller, *, deny: bool) -> bool:
        content = f"[[deny]]\n{names}" if deny else f'default = "deny"\n[[allow]]\n{names}'
        return decision_on(content, "list_images", {}, caller=caller).allowed

    passed_on = effective_caller(LOCAL, {protocol_keys.SCOPES: ["exec"], protocol_keys.FOR: for_bob.name})
    twice = effective_caller(for_bob, {protocol_keys.SCOPES: ["exec"], protocol_keys.FOR: "carol"})
    assert not allowed('tokens = ["alpha"]', for_bob, deny=True)
    assert not allowed('tokens = ["alpha"]', passed_on, deny=True)
    assert not allowed('tokens = ["alpha"]', twice, deny=True)
    assert not allowed('tokens = ["bob"]', twice, deny=True)
    assert allowed('callers = ["alpha"]', passed_on, deny=False)
    assert not allowed('callers = ["bob*"]', passed_on, deny=False)
    assert not allowed('tokens = ["bob"]', for_bob, deny=True)
    assert not allowed('tokens = ["bob"]', here_for_bob, deny=True)
    assert allowed('tokens = ["alpha"]', for_bob, deny=False)
    assert not allowed('callers = ["bob"]', for_bob, deny=False)
    assert allowed('callers = ["bob"]', here_for_bob, deny=False)
    assert not allowed('callers = ["local"]', here_for_bob, deny=False)
    # A question over HTTP that alpha asks for bob: this host's own agent makes the calls.
    agent = effective_caller(LOCAL, {protocol_keys.SCOPES: ["exec"], protocol_keys.FOR: for_bob.name})
    assert not allowed('tokens = ["alpha"]', agent, deny=True)
    assert not allowed('callers = ["bob"]', agent, deny=True)
    assert not allowed('callers = ["bob"]', agent, deny=False)


# Properties: of any policy and any call.

names = st.sampled_from(["web", "web-1", "prod-db", "db", "0123456789ab"])
patterns = st.sampled_from(["*", "web*", "prod-*", "db", "web-1", "?b", "0123*"])
tools = st.sampled_from(["*", "stop_*", "*_container", "create_container", "list_images", "remove_*"])
label = st.tuples(st.sampled_from(["stage", "team"]), st.sampled_from(["production", "test", ""]))
conditions = {
    "tools": st.lists(tools, min_size=1, max_size=2),
    "safety": st.lists(st.sampled_from(["reads", "changes", "destroys"]), min_size=1, max_size=2),
    "scopes": st.lists(st.sampled_from(SCOPES), min_size=1, max_size=2),
    "callers": st.lists(st.sampled_from(["alpha", "token:*", "local", "*"]), min_size=1, max_size=2),
    "containers": st.lists(patterns, min_size=1, max_size=2),
    "images": st.lists(st.sampled_from(["busybox", "evil:*", "*", "registry.local/*"]), min_size=1, max_size=2),
    "mounts": st.lists(st.sampled_from(["/srv/**", "/etc/*:ro", "/"]), min_size=1, max_size=2),
}
allows = st.fixed_dictionaries({}, optional=conditions).filter(bool)
denies = st.fixed_dictionaries({}, optional={**conditions, "labels": st.lists(label, min_size=1, max_size=1).map(dict)})
policies = st.fixed_dictionaries(
    {
        "default": st.sampled_from(["guardrails", "deny"]),
        "deny": st.lists(denies, max_size=3),
        "allow": st.lists(allows, max_size=3),
    }
)
calls: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.sampled_from(["stop_container", "remove_container"]), st.fixed_dictionaries({"name": names})),
    st.tuples(
        st.just("create_container"),
        st.fixed_dictionaries(
            {
                "image": st.sampled_from(["busybox", "evil:1", "registry.local/a"]),
                "name": names,
                "volumes": st.lists(st.sampled_from(["/srv/a:/x", "/etc:/y:ro", "data:/z", "/:/r"]), max_size=2),
            }
        ),
    ),
    st.just(("list_images", {})),
)
labels = st.dictionaries(st.sampled_from(["stage", "team", "anvyl.exec"]), st.sampled_from(["production", "test"]))
callers = st.sampled_from([ALPHA, LOCAL, Caller("beta", frozenset(["read"]), "token")])


def toml(policy: Mapping[str, Any]) -> str:
    lines = [f'default = "{policy["default"]}"']
    for effect in ("deny", "allow"):
        for rule in policy[effect]:
            lines.append(f"[[{effect}]]")
            for key, value in rule.items():
                table = ", ".join(f'"{name}" = "{text}"' for name, text in value.items()) if key == "labels" else ""
                lines.append(f"{key} = {{ {table} }}" if table else f"{key} = {json.dumps(value)}")
    return "\n".join(lines)


def decided(
    policy: Mapping[str, Any], call: tuple[str, Mapping[str, Any]], caller: Caller, container_labels: Mapping[str, str]
) -> bool:
    known = {
        ("container", name): ObjectFacts(name, (name,), container_labels)
        for name in ("web", "web-1", "prod-db", "db", "0123456789ab")
    }
    return decision_on(toml(policy), *call, caller=caller, known=known).allowed


@given(policies, calls, callers, labels)
@settings(deadline=None)
def test_a_matching_deny_always_wins(
    policy: dict[str, Any], call: Any, caller: Caller, container_labels: dict[str, str]
) -> None:
    for rule in policy["deny"]:
        if not decided({"default": "guardrails", "deny": [rule], "allow": []}, call, caller, container_labels):
            assert not decided(policy, call, caller, container_labels)


@given(policies, calls, callers, labels, label)
@settings(deadline=None)
def test_adding_a_label_never_allows(
    policy: dict[str, Any], call: Any, caller: Caller, container_labels: dict[str, str], more: tuple[str, str]
) -> None:
    if decided(policy, call, caller, dict([more]) | container_labels):
        assert decided(policy, call, caller, container_labels)


@given(policies, calls, callers, labels, denies, st.integers(0, 3))
@settings(deadline=None)
def test_adding_a_deny_never_allows_more(
    policy: dict[str, Any],
    call: Any,
    caller: Caller,
    container_labels: dict[str, str],
    rule: dict[str, Any],
    place: int,
) -> None:
    longer = {**policy, "deny": [*policy["deny"][:place], rule, *policy["deny"][place:]]}

    if decided(longer, call, caller, container_labels):
        assert decided(policy, call, caller, container_labels)


@given(policies, calls, callers, labels)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_removing_a_rule_reported_as_ineffective_changes_no_decision(
    policy: dict[str, Any], call: Any, caller: Caller, container_labels: dict[str, str]
) -> None:
    rules = parse(toml(policy), FILE)
    idle = {one.line for one in find_problems(rules, list(TOOLS.values()))}
    without = PolicyRules(
        rules.default,
        tuple(rule for rule in rules.deny if rule.line not in idle),
        tuple(rule for rule in rules.allow if rule.line not in idle),
    )
    known = {
        ("container", call[1].get("name", "")): ObjectFacts(
            call[1].get("name", ""), (call[1].get("name", ""),), container_labels
        )
    }
    made = make_call(*call, caller=caller, known=known)

    assert decide(rules, made).allowed == decide(without, made).allowed


@given(policies, callers)
@settings(deadline=None)
def test_a_tool_that_is_not_listed_can_never_be_called(policy: dict[str, Any], caller: Caller) -> None:
    rules = parse(toml(policy), FILE)
    for name, arguments in [
        ("stop_container", {"name": "web"}),
        ("list_images", {}),
        ("create_container", {"image": "a"}),
    ]:
        made = make_call(name, arguments, caller=caller)
        if decide(rules, made).allowed and caller.may(made.needed):
            assert may_offer(rules, TOOLS[name], caller, guardrails.needed_scope(TOOLS[name], {}))


# The file.

BROKEN = [
    ('[[deny]]\ntools = ["stop_*"\n', 2, "unclosed array"),
    ('\n[[deny]]\ntols = ["stop_*"]\n', 3, "unknown key `tols`"),
    ('[[deny]]\nwhy = """\n[[deny]]\n"""\n\n[[deny]]\nsafety = "danger"\n', 7, "`danger` is not one of"),
    ('[[allow]]\ntools = ["x"]\nlabels = { "a" = "b" }\n', 3, "because labels can only restrict"),
    ('default = "open"\n', 1, "`default` cannot be 'open'"),
    ('default = "deny"\n\nalow = []\n', 3, "unknown key `alow`"),
    ("[[deny]]\ntools = 5\n", 2, "`tools` is neither a string"),
    ("[[deny]]\narguments = [5]\n", 2, "`arguments` is not a table"),
    ("[[deny]]\narguments = { force = [[]] }\n", 2, "is not a string"),
    ('[host_exec]\nallow = [["df"]]\n', 2, "`df` is not the full path"),
    ("[host_exec]\nallow = [[]]\n", 2, "a list of strings"),
    ("[host_exec]\ndeny = []\n", 1, "must contain only `allow`"),
    ('default = "deny"\n[[allow]]\n', 2, "has no conditions"),
    ("deny = 1\n", 1, "not a list of rules"),
    ('deny = [{ tols = "x" }]\n', 1, "unknown key `tols`"),
]


@pytest.mark.parametrize(("content", "line", "words"), BROKEN, ids=[words for _, _, words in BROKEN])
def test_a_mistake_is_reported_with_its_line(content: str, line: int, words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words) as refused:
        parse(content, FILE)

    assert f"line {line}: " in refused.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[[deny]]\ntools = ["remove_contaner"]', "did you mean `remove_container`"),
        ('[[deny]]\ntoolsets = ["container"]', "did you mean `containers`"),
        ('[[deny]]\ntools = ["stop_*"]\narguments = { forse = true }', "has an argument `forse`"),
        ('[[deny]]\ntools = ["remove_*"]\narguments = { force = "yes" }', "true or false, never yes"),
        ('[[deny]]\ntools = ["list_*"]\nsafety = "destroys"', "no tool has"),
        ('[[deny]]\ntools = ["execute_command"]\nscopes = "read"', "no tool has"),
        ('[[deny]]\ntools = ["list_images"]\ncontainers = ["x"]', "names a container"),
        ('[[deny]]\ntools = ["list_images"]\nlabels = { a = "b" }', "names an object"),
        ('[[deny]]\ntools = ["stop_*"]\nmounts = ["/etc"]', "mounts anything"),
        ('[[deny]]\ncontainers = ["/web"]', "`/web` cannot be the name of a container"),
        ("[[deny]]\ntools = []", "is empty"),
        ('[[deny]]\ntools = ["stop_*"]\n[[deny]]\ntools = ["stop_container"]\ncontainers = ["a"]', "is redundant"),
        ('default = "deny"\n[[allow]]\ntools = ["stop_*"]\n[[deny]]\nsafety = ["changes"]', "never applies"),
        ('[[allow]]\ntools = ["stop_*"]', "has no effect"),
    ],
)
def test_an_ineffective_rule_is_found(content: str, words: str) -> None:
    [found] = find_problems(parse(content, FILE), list(TOOLS.values()))

    assert words in str(found)


@pytest.mark.parametrize(
    "content",
    [
        '[[deny]]\ntools = ["stop_*"]\ncontainers = ["a"]\n[[deny]]\ntools = ["stop_container"]',
        'default = "deny"\n[[allow]]\ntools = ["create_*"]\n[[deny]]\nmounts = ["*"]',
        '[[deny]]\ncontainers = ["?b"]\n[[deny]]\ncontainers = ["*b"]',
        '[[deny]]\nimages = ["evil"]\ntools = ["start_container"]',
        'default = "deny"\n[[allow]]\ntools = ["stop_*"]\nmounts = ["/srv/**"]',
    ],
)
def test_an_effective_rule_is_not_reported(content: str) -> None:
    assert find_problems(parse(content, FILE), list(TOOLS.values())) == []


def test_the_example_is_valid_and_does_what_its_comments_say() -> None:
    shutil.copy(ROOT / "examples/policy.toml", load().policy_file)
    checked = run_policy("check", "--json")
    assert (checked.code, checked.json["ok"], checked.json["problems"]) == (0, True, [])

    content = (ROOT / "examples/policy.toml").read_text(encoding="utf-8")
    hall = Caller("hall-1", frozenset(["read", "operate"]), "token")
    assert not decision_on(content, "stop_container", {"name": "prod-web"}).allowed
    assert not decision_on(
        content,
        "start_container",
        {"name": "x"},
        known={("container", "x"): ObjectFacts("x", ("x",), {"com.example.stage": "production"})},
    ).allowed
    assert not decision_on(content, "stop_container", {"name": "radio"}, caller=hall).allowed
    assert decision_on(content, "restart_container", {"name": "radio"}, caller=hall).allowed
    assert not decision_on(content, "create_container", {"image": "someone/thing"}).allowed
    assert not decision_on(content, "create_container", {"image": "a", "volumes": ["/:/x"]}).allowed
    assert not decision_on(content, "remove_image", {"image": "a", "force": True}).allowed
    assert not decision_on(content, "execute_command", {"command": "df -h"}).allowed
    listed = decision_on(content, "execute_command", {"command": "/usr/bin/df -h"}, caller=LOCAL)
    assert listed.allowed == Path("/usr/bin/df").exists()
    assert not decision_on(content, "execute_command", {"command": "id"}, caller=LOCAL).allowed


def test_the_deciding_rule_is_printed_with_its_reason() -> None:
    write('\n[[deny]]\ntools = ["stop_*"]\ncontainers = ["prod-*"]\nwhy = "ask Anna"\n')

    text = run_policy("test", "stop_container", "name=prod-db", "--caller", "alpha")
    as_json = policy_test("stop_container", "name=prod-db", "--caller", "alpha")
    other = policy_test("stop_container", "name=db", "--caller", "alpha")
    scope = policy_test("stop_container", "name=db", "--caller", "alpha", "--scope", "read")
    container_labels = policy_test("stop_container", "name=db", "--label", "a=b")

    assert text.code == as_json.code == 5
    assert (
        "denied by the [[deny]] rule in line 2 of" in text.out
        and "ask Anna" in text.out
        and "container: prod-db" in text.out
    )
    assert (as_json.json["allowed"], as_json.json["rule"]["line"], as_json.json["by"]) == (False, 2, "deny")
    assert (other.code, other.json["allowed"], other.json["by"]) == (0, True, "default")
    assert (scope.code, scope.json["by"]) == (5, "scopes")
    assert container_labels.json["allowed"] is True
    assert policy_test("stop_contaner", "name=db").code == 2
    assert policy_test("stop_container", "nam=db").code == 2


# On the host that runs the call.


@pytest.fixture
def file() -> Iterator[Path]:
    yield load().policy_file


async def ask(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool; return the error code, or an empty string."""
    result = await client.call_tool(tool, arguments)
    return str(((result.meta or {}).get(protocol_keys.ERROR) or {}).get("code", "?")) if result.is_error else ""


async def test_a_policy_applies_from_the_next_call_on_and_to_the_tool_list(engine: RealEngine, file: Path) -> None:
    engine.run("prod-db", labels={"stage": "production"})
    engine.run("web")
    async with aclosing(Node(load(), serving=True)) as node, Client(node.server, cache=None) as client:
        await client.list_tools()
        write('[[deny]]\ntools = ["stop_*"]\ncontainers = ["prod-*"]\n[[deny]]\ntools = ["remove_image"]\n')
        listed = {tool.name for tool in (await client.list_tools()).tools}
        by_name = await ask(client, "stop_container", name="prod-db", timeout=0)
        by_id = await ask(client, "stop_container", name=engine.api.inspect_container("prod-db")["Id"][:12], timeout=0)
        other = await ask(client, "stop_container", name="web", timeout=0)
        image = await ask(client, "remove_image", image="busybox")
        file.unlink()  # noqa: ASYNC240  a file of a few bytes
        again = {tool.name for tool in (await client.list_tools()).tools}
        records = node.state.audit.read(tool="stop_container")

    assert (by_name, by_id, other, image) == ("denied", "denied", "", "denied")
    assert engine.state("prod-db") == "running" and engine.state("web") == "exited"
    assert "remove_image" not in listed and "stop_container" in listed
    assert "remove_image" in again
    assert [record.outcome for record in records] == ["denied", "denied", "ok"]


async def test_a_label_is_read_from_the_engine(engine: RealEngine) -> None:
    engine.run("db", labels={"stage": "production"})
    write('[[deny]]\nsafety = ["changes", "destroys"]\nlabels = { stage = "production" }\n')
    async with aclosing(Node(load(), serving=True)) as node, Client(node.server, cache=None) as client:
        await client.list_tools()
        denied = await ask(client, "restart_container", name="db")
        read = await ask(client, "get_container_logs", name="db")

    assert (denied, read) == ("denied", "")
    assert engine.state("db") == "running"


async def test_an_invalid_policy_refuses_changes_and_allows_reads(engine: RealEngine, file: Path) -> None:
    engine.run("web")
    async with aclosing(Node(load(), serving=True)) as node, Client(node.server, cache=None) as client:
        await client.list_tools()
        write('[[deny]]\ntools = ["list_images"]\n')
        kept = await ask(client, "list_images")
        write('[[deny]]\ntools = ["list_images"\n')
        change = await client.call_tool("stop_container", {"name": "web", "timeout": 0})
        read, still = await ask(client, "list_containers"), await ask(client, "list_images")
        write("")
        fixed = await ask(client, "stop_container", name="web", timeout=0)

    error = (change.meta or {})[protocol_keys.ERROR]
    assert error["code"] == "denied" and "line 2" in error["message"] and "unclosed array" in error["message"]
    assert (kept, read, still, fixed) == ("denied", "", "denied", "")


async def test_a_hanging_engine_does_not_block_every_thread(file: Path) -> None:
    write('[[deny]]\ncontainers = ["prod-*"]\n')
    waiting: list[str] = []
    answered = threading.Event()

    def look(kind: str, name: str) -> None:
        waiting.append(name)
        answered.wait(10)

    policy = Policy(file, look)
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(policy.check, ALPHA, TOOLS["stop_container"], {"name": "web"})
        with anyio.move_on_after(5):
            while len(waiting) < MAX_DECISIONS:
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    stuck = len(waiting)
    answered.set()

    assert stuck == MAX_DECISIONS


@pytest.mark.parametrize(("mode", "words"), [(0o620, "chmod go-w"), (0o602, "chmod go-w")])
def test_a_policy_writable_by_others_is_invalid(file: Path, mode: int, words: str) -> None:
    write("").chmod(mode)

    problem = Policy(file).state().problem

    assert problem is not None and words in problem.hint


def test_a_policy_in_a_world_writable_folder_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open/policy.toml").write_text("", encoding="utf-8")

    problem = Policy(tmp_path / "open/policy.toml").state().problem

    assert problem is not None and "chmod o-w" in problem.hint


def test_invalid_utf_8_is_reported_with_its_line(file: Path) -> None:
    file.write_bytes(b"# fine\n# \xff\n")

    problem = Policy(file).state().problem

    assert problem is not None and "line 2" in problem.message


def test_serve_logs_problems_of_the_policy(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "policy.toml").write_text('[[deny]]\ntools = ["stop_*"\n', encoding="utf-8")
    output: list[str] = []

    with running_node("nas", home) as node:
        stderr = node.process.stderr
        assert stderr is not None
        reader = threading.Thread(target=lambda: output.append(stderr.readline().decode()))
        reader.start()
        reader.join(10)

    assert "changes are refused" in output[0] and "line 2: unclosed array" in output[0]
