"""Completion from cached files, tested in the real shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anvyl_mcp.cli.completion.candidates import complete, split_line
from tests.support.hosts.nodes import PYTHON, anvyl, run_program
from tests.support.terminal import open_terminal

HEAVY = {"typer", "socket", "asyncio", "anyio", "ssl", "pydantic", "dataclasses", "tomllib"}
DEFAULT_BREAKS = " \t\n\"'@><=;|&(:"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with cached names of two hosts and three containers. One host is unreachable."""
    anvyl("tools")
    (tmp_path / "hosts.toml").write_text(
        '[hosts.nas]\nurl = "http://127.0.0.1:1"\ntags = ["home"]\n[hosts.gpu]\nurl = "http://127.0.0.1:2"\n',
        encoding="utf-8",
    )
    seen = {
        "hosts": {"nas": ["home"], "gpu": []},
        "names": {"container": {"nas": ["web", "db"], "gpu": ["web"]}, "image": {"nas": ["nginx:1.27"]}},
    }
    (tmp_path / "cache" / "names.json").write_text(json.dumps(seen), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("st", ["stats", "start", "stop", "stack"]),
        ("stop ", ["db", "web"]),
        ("stop w", ["web"]),
        ("stop web ", ["db"]),
        ("stop --t", ["--timeout"]),
        ("stop --timeout ", []),
        ("ps --host ", ["nas", "gpu", "@home", "all", "local"]),
        ("ps -H @", ["@home"]),
        ("ps --host nas,", ["nas,gpu", "nas,@home"]),
        ("ps --host=g", ["--host=gpu"]),
        ("call stop_c", ["stop_container"]),
        ("call stop_container ", ["db", "web", "name=", "timeout="]),
        ("call stop_container name=w", ["name=web"]),
        ("call stop_container name=web ", ["timeout="]),
        ("call remove_container web force=", ["force=true", "force=false"]),
        ("call list_processes sort=", ["sort=cpu", "sort=memory"]),
        ("run ng", ["nginx:1.27"]),
        ("run --place ", ["most-memory", "least-loaded", "@home"]),
        ("hosts re", ["remove", "rename"]),
        ("hosts remove ", ["nas", "gpu"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("exec web ", []),
        ("nonsense ", []),
        ("stop -- --", []),
    ],
)
def test_candidates(line: str, words: list[str], home: Path) -> None:
    assert [word for word, _ in complete(split_line(line))] == words


def test_candidates_have_descriptions(home: Path) -> None:
    assert ("web", "nas, gpu") in complete(["stop", ""])
    assert ("--timeout", "How long to wait before it is killed.") in complete(["stop", "--t"])
    assert ("stop_container", "Stop a running container.") in complete(["call", "stop"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", [""]),
        ("a b", ["a", "b"]),
        ("a ", ["a", ""]),
        ("'a b' c", ["a b", "c"]),
        ('"a b', ["a b"]),
        (r"a\ b", ["a b"]),
    ],
)
def test_an_unfinished_line_is_split_like_in_a_shell(line: str, words: list[str]) -> None:
    assert split_line(line) == words


def test_a_host_added_by_hand_is_a_candidate(home: Path) -> None:
    (home / "hosts.toml").write_text('[hosts.fresh]\nurl = "http://127.0.0.1:1"\n', encoding="utf-8")
    os.utime(home / "hosts.toml", (2**32, 2**32))

    assert ("fresh", "") in complete(["ps", "--host", ""])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"names": 1}', '{"names": {"container": {"nas": 1}}}'])
def test_a_damaged_file_gives_no_candidates(content: str, home: Path) -> None:
    (home / "cache" / "names.json").write_text(content, encoding="utf-8")
    (home / "hosts.toml").write_text("[", encoding="utf-8")

    assert complete(["stop", ""]) == []


def test_completion_does_not_import_the_client_of_hosts(home: Path) -> None:
    """Nor typer: the limit is 0.15 s, including the start of Python."""
    complete(["stop", ""])
    script = (
        "import sys; sys.argv[1:] = ['__complete', 'fish', 'stop', '']\n"
        "from anvyl_mcp.cli.start import main\n"
        "main()\n"
        f"print(*({HEAVY} & sys.modules.keys()), file=sys.stderr)"
    )

    done = run_program("-c", script, program=PYTHON)

    assert (done.code, done.err.split()) == (0, [])
    assert done.out == "db\tnas\nweb\tnas, gpu\n"


@pytest.fixture
def program(tmp_path: Path) -> str:
    """Path of an `anvyl` program that runs in this Python."""
    file = tmp_path / "bin" / "anvyl"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -m anvyl_mcp "$@"\n', encoding="utf-8")
    file.chmod(0o755)
    return str(file)


def in_bash(program: str, line: str) -> list[str]:
    """Return the candidates of bash for a line, by calling its completion function."""
    script = f"""
        eval "$({program} completion bash)"
        COMP_LINE=$LINE COMP_POINT=${{#LINE}} COMP_WORDBREAKS=$BREAKS
        compopt() {{ :; }}
        _anvyl {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "LINE": line, "BREAKS": DEFAULT_BREAKS},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes(program: str, home: Path) -> None:
    assert in_bash(program, "anvyl stop ") == ["db", "web"]
    assert in_bash(program, "anvyl run ng") == ["nginx:1.27"]
    assert in_bash(program, "anvyl run nginx:1") == ["1.27"]
    assert in_bash(program, "anvyl call stop_container name=w") == ["web"]
    assert in_bash(program, "anvyl ps --host @h") == ["home"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_completes(program: str, home: Path) -> None:
    """`compadd` is replaced, because only an interactive zsh has it."""
    script = f"""
        compdef() {{ :; }}
        compadd() {{ while [[ $1 != -- ]]; do shift; done; shift; print -l -- "$@"; }}
        eval "$({program} completion zsh)"
        words=({program} stop ''); CURRENT=3; _anvyl
        words=({program} call stop_container ''); CURRENT=4; _anvyl
    """
    done = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert done.stdout.split() == ["db", "web", "db", "web", "name=", "timeout="]


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes(program: str, home: Path) -> None:
    script = f"source ({program} completion fish | psub); complete -C '{program} stop '"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TERM": "dumb"},
    )

    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["db", "web"]


SHELL_STARTS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
LOADED = {
    "bash": 'eval "$(anvyl completion bash)"',
    "zsh": 'autoload -U compinit && compinit -u -D && eval "$(anvyl completion zsh)"',
    "fish": "anvyl completion fish | source",
}


@pytest.mark.parametrize("shell", SHELL_STARTS)
def test_a_malicious_name_of_a_host_is_one_word_and_not_executed(
    shell: str, program: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Press Tab and Enter in a real shell, and check the arguments of the program."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    called, folder = tmp_path / "called", tmp_path / "empty"
    folder.mkdir()
    real = Path(program).read_text(encoding="utf-8").splitlines()[1]
    Path(program).write_text(
        f'#!/bin/sh\ncase $1 in __complete|completion) {real};; esac\nprintf "%s\\n" "$@" "" >> {called}\n',
        encoding="utf-8",
    )
    names = ["a$(touch ran)", "b`touch ran`", "c;touch ran", "d d", "e*", "f'q", 'g"q', "h|x", "i&x", "j>ran", "k\\n"]
    hidden = ["l\nm", "n\x1b[2J"]
    seen = {"hosts": {"nas": []}, "names": {"container": {"nas": [*names, *hidden]}}}
    (home / "cache" / "names.json").write_text(json.dumps(seen), encoding="utf-8")
    for name, value in {"PATH": f"{Path(program).parent}:{os.environ['PATH']}", "TERM": "xterm", "PS1": "$ "}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    (folder / "eel").touch()
    start, *options = SHELL_STARTS[shell]

    with open_terminal(*options, program=start, size=(200, 24)) as terminal:
        terminal.type(f"{LOADED[shell]}; echo rea''dy\r")
        terminal.until("ready")
        for name in names:
            terminal.type(f"anvyl logs {name[0]}\t")
            terminal.type("\r")
        for begun in ("l", "n"):
            terminal.type(f"anvyl stop {begun}\t\r")
        terminal.type("echo don''e\r")
        terminal.until("done")
        terminal.type("exit\r")
        terminal.end()

    calls = [call.split("\n") for call in called.read_text(encoding="utf-8").strip().split("\n\n")]
    assert calls[: len(names)] == [["logs", name] for name in names], terminal.shown
    assert calls[len(names) :] == [["stop", "l"], ["stop", "n"]], terminal.shown
    assert not (folder / "ran").exists()


def test_bash_completes_inside_an_open_quote(program: str, home: Path) -> None:
    """bash adds the closing quote; characters that are special in double quotes are escaped."""
    name = "a$(x)'b"
    seen = {"hosts": {"nas": []}, "names": {"container": {"nas": [name, "c!d"]}}}
    (home / "cache" / "names.json").write_text(json.dumps(seen), encoding="utf-8")

    assert in_bash(program, "anvyl stop a") == [r"a\$\(x\)\'b"]
    assert in_bash(program, "anvyl stop 'a") == [r"a$(x)'\''b"]
    assert in_bash(program, 'anvyl stop "a') == [r"a\$(x)'b"]
    assert in_bash(program, 'anvyl stop "c') == []
    assert in_bash(program, "anvyl stop c") == [r"c\!d"]


def test_an_unknown_shell_is_rejected() -> None:
    done = anvyl("completion", "tcsh")

    assert done.code == 2
    assert "bash" in done.err
