"""The hosts file: people and programs edit it concurrently, and no entry is lost."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, Conflict, InvalidInput, UnknownHost
from anvyl_mcp.peers.hosts.registry import Peer, Registry, check_tag
from tests.support.hosts.nodes import PYTHON

ORDERED = """\
# My machines

[hosts.zoo]   # last in the alphabet, first here
url = "http://127.0.0.1:4210"
tags = ["Home", "disk"]

# the loud one
[hosts.Gpu]
url = "http://127.0.0.1:4211"
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "fleet" / "hosts.toml")


def write(registry: Registry, content: str) -> None:
    registry.path.parent.mkdir(exist_ok=True)
    registry.path.write_text(content, encoding="utf-8")


def text_of(registry: Registry) -> str:
    return registry.path.read_text(encoding="utf-8")


def peer(name: str, port: int = 4220, *tags: str) -> Peer:
    return Peer(name, f"http://127.0.0.1:{port}", tags)


def test_a_missing_file_means_no_hosts_and_is_not_created(registry: Registry) -> None:
    assert registry.peers() == {}
    assert not registry.path.exists()


def test_added_hosts_are_listed_in_order(registry: Registry) -> None:
    for number, name in enumerate(("nas", "gpu", "a.b", "4")):
        registry.add(peer(name, 4220 + number, "home"))

    assert list(registry.peers()) == ["nas", "gpu", "a.b", "4"]
    assert Registry(registry.path).get("A.B") == peer("a.b", 4222, "home")


def test_adding_keeps_comments_and_order(registry: Registry) -> None:
    write(registry, ORDERED)

    registry.add(peer("abc", 4220, "new"))

    assert text_of(registry).startswith(ORDERED)
    assert list(registry.peers()) == ["zoo", "gpu", "abc"]
    assert registry.get("abc").tags == ("new",)


def test_removing_a_host_keeps_the_others(registry: Registry) -> None:
    write(registry, ORDERED)
    registry.add(peer("abc"))

    assert registry.remove("GPU") == Peer("gpu", "http://127.0.0.1:4211")

    assert list(registry.peers()) == ["zoo", "abc"]
    assert "# My machines" in text_of(registry) and "# last in the alphabet, first here" in text_of(registry)
    assert registry.get("zoo").tags == ("Home", "disk")


def test_the_last_host_can_be_removed_and_added_again(registry: Registry) -> None:
    registry.add(peer("nas"))
    registry.remove("nas")
    assert registry.peers() == {}

    registry.add(peer("nas", 4230))
    assert registry.get("nas").url == "http://127.0.0.1:4230"


@pytest.mark.parametrize("empty", ["", "\n", "# nothing yet\n", "[hosts]\n", "other = 1\n"])
def test_a_host_can_be_added_to_an_empty_file(empty: str, registry: Registry) -> None:
    write(registry, empty)

    registry.add(peer("nas"))

    assert list(registry.peers()) == ["nas"]
    assert text_of(registry).startswith(empty.strip().partition("=")[0].strip())


@pytest.mark.parametrize(
    ("added", "says"),
    [
        (peer("nas", 4299), "there is already a host `nas`, at http://127.0.0.1:4220"),
        (peer("other", 4220), "you already added http://127.0.0.1:4220, as `nas`"),
    ],
)
def test_names_and_addresses_are_unique(added: Peer, says: str, registry: Registry) -> None:
    registry.add(peer("nas"))
    before = text_of(registry)

    with pytest.raises(Conflict, match=says) as refused:
        registry.add(added)

    assert refused.value.hint
    assert text_of(registry) == before


def test_removing_an_unknown_host_suggests_similar_names(registry: Registry) -> None:
    registry.add(peer("nas"))

    with pytest.raises(UnknownHost, match="there is no host `nsa`") as refused:
        registry.remove("nsa")

    assert refused.value.hint == "did you mean `nas`?"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[hosts.nas\n", "is not valid TOML"),
        ("[hosts.nas]\nurl = 1\n", "`hosts.nas` needs a `url` string"),
        ("[hosts.nas]\n", "`hosts.nas` needs a `url` string"),
        ("[hosts.nas]\nurl = 'x'\ntags = 'a'\n", "`hosts.nas` needs"),
        ("[hosts]\nnas = 'http://x'\n", "`hosts.nas` must be a table"),
        ("hosts = 5\n", "`hosts` must be a table"),
        ("[hosts.nas]\nurl = 'a'\nurl = 'b'\n", "is not valid TOML"),
    ],
)
def test_an_invalid_file_is_reported_and_not_changed(content: str, says: str, registry: Registry) -> None:
    write(registry, content)

    for use in (registry.peers, lambda: registry.add(peer("gpu")), lambda: registry.remove("nas")):
        with pytest.raises(ConfigInvalid) as refused:
            use()
        assert str(registry.path) in refused.value.message and says in refused.value.message
        assert refused.value.hint
    assert text_of(registry) == content


def test_a_binary_file_is_reported_and_not_changed(registry: Registry) -> None:
    write(registry, "")
    registry.path.write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigInvalid, match="is not UTF-8"):
        registry.add(peer("gpu"))
    assert registry.path.read_bytes() == b"\xff\xfe"


SPELLINGS = {
    "tables": '[hosts.a]\nurl = "http://127.0.0.1:1"\n[hosts.b]\nurl = "http://127.0.0.1:2"\n',
    "one table of tables": '[hosts]\na = { url = "http://127.0.0.1:1" }\nb = { url = "http://127.0.0.1:2" }\n',
    "dotted names": 'hosts.a.url = "http://127.0.0.1:1"\nhosts.b.url = "http://127.0.0.1:2"\n',
    "dotted names and tables": 'hosts.a.url = "http://127.0.0.1:1"\nhosts.b = { url = "http://127.0.0.1:2" }\n',
    "all in one line": 'hosts = { a = { url = "http://127.0.0.1:1" }, b = { url = "http://127.0.0.1:2" } }\n',
    "tables far apart": (
        '[hosts.a]\nurl = "http://127.0.0.1:1"\n[other]\nx = 1\n[hosts.b]\nurl = "http://127.0.0.1:2"\n'
    ),
    "quoted names": '["hosts"."a"]\nurl = "http://127.0.0.1:1"\n[hosts.\'b\']\nurl = "http://127.0.0.1:2"\n',
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_toml_layout_is_read_and_loses_no_host_in_an_edit(spelling: str, registry: Registry) -> None:
    """An edit that tomlkit gets wrong is rejected, and the file is not changed."""
    write(registry, SPELLINGS[spelling])
    assert list(registry.peers()) == ["a", "b"]

    for change, expected in (
        (lambda: registry.add(peer("new")), {"a", "b", "new"}),
        (lambda: registry.remove("a"), {"b"}),
    ):
        write(registry, SPELLINGS[spelling])
        try:
            change()
        except ConfigInvalid as error:
            assert "[hosts.NAME]" in error.hint
            assert text_of(registry) == SPELLINGS[spelling]
        else:
            assert set(registry.peers()) == expected


@pytest.mark.parametrize(("written", "read"), [("web", "web"), ("@Web", "web"), (" a.b-1 ", "a.b-1")])
def test_tags_are_normalized(written: str, read: str) -> None:
    assert check_tag(written) == read


@pytest.mark.parametrize("tag", ["", "@", "a b", "a,b", "@@a", "ä"])
def test_invalid_tags_are_rejected(tag: str) -> None:
    with pytest.raises(InvalidInput, match="is not a valid tag"):
        check_tag(tag)


@pytest.mark.parametrize(
    ("url", "paired"),
    [
        ("http://127.0.0.1:4210", True),
        ("http://localhost:4210", True),
        ("http://[::1]:4210", True),
        ("http://192.0.2.1:4200", False),
        ("http://nas:4200", False),
        ("http://localhost.evil.example:4200", False),
        ("nonsense://x", False),
    ],
)
def test_only_loopback_is_trusted_without_pairing(url: str, paired: bool) -> None:
    assert Peer("nas", url).paired is paired


ADDS = """
import sys
from pathlib import Path
from anvyl_mcp.peers.hosts.registry import Peer, Registry
registry = Registry(Path(sys.argv[1]))
sys.stdin.readline()
for number in range(20):
    registry.add(Peer(f"{sys.argv[2]}{number}", f"http://127.0.0.1:{int(sys.argv[3]) + number}"))
"""


def test_two_processes_can_add_hosts_at_the_same_time(registry: Registry) -> None:
    adding = [
        subprocess.Popen([PYTHON, "-c", ADDS, registry.path, name, str(port)], stdin=subprocess.PIPE)
        for name, port in (("a", 5000), ("b", 6000))
    ]
    for one in adding:
        assert one.stdin is not None
        one.stdin.write(b"go\n")
        one.stdin.close()

    assert [one.wait(30) for one in adding] == [0, 0]
    assert set(registry.peers()) == {f"{name}{number}" for name in "ab" for number in range(20)}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.hosts.registry import Peer, Registry
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    Registry(Path(sys.argv[1])).add(Peer("new", "http://127.0.0.1:4999"))
except AnvylError as error:
    sys.exit(f"{error.code}: {error}")
"""


def test_a_full_disk_leaves_the_old_file_intact(registry: Registry) -> None:
    """Fault table, row 14: the file is replaced atomically."""
    write(registry, ORDERED)

    done = subprocess.run(
        [PYTHON, "-c", FULL_DISK, registry.path], capture_output=True, text=True, encoding="utf-8", check=False
    )

    assert done.stderr.startswith("config_invalid:") and "cannot be written" in done.stderr, done.stderr
    assert "check the disk" in done.stderr.lower()
    assert text_of(registry) == ORDERED
    assert sorted(path.name for path in registry.path.parent.iterdir()) == ["hosts.lock", "hosts.toml"]


READ_ONLY = """
import os, sys
from pathlib import Path
from anvyl_mcp.core.errors import AnvylError
from anvyl_mcp.peers.hosts.registry import Peer, Registry
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for change in (lambda it: it.add(Peer("gpu", "http://127.0.0.1:4999")), lambda it: it.remove("zoo")):
    try:
        change(Registry(Path(sys.argv[1])))
    except AnvylError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
"""


def test_a_read_only_folder_leaves_the_file_intact(registry: Registry) -> None:
    write(registry, ORDERED)
    folder = registry.path.parent
    folder.chmod(0o555)
    try:
        done = subprocess.run(
            [PYTHON, "-c", READ_ONLY, registry.path],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    finally:
        folder.chmod(0o755)

    assert done.stderr.count("config_invalid:") == 2, done.stderr
    assert "Permission denied" in done.stderr and "Check the disk and its permissions" in done.stderr
    assert text_of(registry) == ORDERED


def test_the_file_is_valid_toml(registry: Registry) -> None:
    registry.add(peer("nas", 4220, "home"))

    assert tomllib.loads(text_of(registry)) == {"hosts": {"nas": {"url": "http://127.0.0.1:4220", "tags": ["home"]}}}
    assert registry.path.stat().st_mode & 0o077 == 0


def test_an_error_names_a_next_step_when_there_are_no_hosts(registry: Registry) -> None:
    with pytest.raises(AnvylError) as refused:
        registry.get("nas")

    assert refused.value.hint == "add it: anvyl hosts add NAME URL"
