"""Settings: sources, precedence and validation."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from platformdirs import user_config_path, user_state_path

from anvyl_mcp.cli.parser.lazy_commands import describe_commands
from anvyl_mcp.cli.programs import host
from anvyl_mcp.core.errors import AnvylError, ConfigInvalid, InvalidInput
from anvyl_mcp.core.settings import RULES, SETTINGS, TABLES, Settings, check_host_name, load

ROOT = Path(__file__).parents[2]


def write(home: Path, content: str) -> None:
    (home / "config.toml").write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "env", "default"),
    [
        ("host", "ANVYL_AGENT_HOST", next(one.default for one in SETTINGS if one.name == "host")),
        ("port", "ANVYL_INFRA_API_PORT", 4200),
        ("agent_port", "ANVYL_AGENT_PORT", 4201),
        ("lmstudio_url", "ANVYL_LMSTUDIO_URL", "http://localhost:1234/v1"),
        ("lmstudio_model", "ANVYL_LMSTUDIO_MODEL", "default"),
        ("llm_api_key", "ANVYL_LLM_API_KEY", ""),
    ],
)
def test_flags_override_environment_overrides_file_overrides_default(
    name: str, env: str, default: str | int, tmp_path: Path
) -> None:
    """Names and defaults are the contract of design §8."""
    home = {"ANVYL_HOME": str(tmp_path)}
    number = isinstance(default, int)
    in_file, in_environment, as_flag = ("1", "2", "3") if number else ("file", "environment", "flag")

    def loaded(flags: dict[str, str | int | None], environ: dict[str, str]) -> str:
        return str(getattr(load(flags, {**home, **environ}), name))

    assert loaded({}, {}) == str(default)
    write(tmp_path, f"{name} = {in_file if number else repr(in_file)}")
    assert loaded({}, {}) == in_file
    assert loaded({}, {env: in_environment}) == in_environment
    assert loaded({name: as_flag}, {env: in_environment}) == as_flag
    assert loaded({name: None}, {env: in_environment}) == in_environment
    assert loaded({}, {env: ""}) == in_file


def test_the_default_name_is_the_host_name_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = {"ANVYL_HOME": str(tmp_path)}

    for machine, name in {"NAS.home.lan": "nas", "my_pc": "my_pc", "---": "this-host", "local": "this-host"}.items():
        monkeypatch.setattr("socket.gethostname", lambda machine=machine: machine)
        assert load(environ=home).name == name
    assert load(environ={**home, "ANVYL_NAME": "Gpu-1"}).name == "gpu-1"
    assert load({"name": "web"}, environ={**home, "ANVYL_NAME": "Gpu-1"}).name == "web"


@pytest.mark.parametrize("name", ["", "all", "Local", "a b", "-a", "a-", "a/b", "@a", "a,b", "ä", "x" * 64, "a\nb"])
def test_names_that_a_selector_cannot_express_are_rejected(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a host name"):
        check_host_name(name or "''")


@pytest.mark.parametrize("name", ["a", "nas", "nas-1", "web_2", "gpu.home", "x" * 63, "4"])
def test_names_of_letters_digits_and_dashes_are_valid(name: str) -> None:
    assert check_host_name(f" {name.upper()} ") == name


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1.5", "4200 4201", "∞"])
def test_an_invalid_port_is_rejected_with_its_source(port: str, tmp_path: Path) -> None:
    home = {"ANVYL_HOME": str(tmp_path)}
    with pytest.raises(InvalidInput, match=r"--agent-port is .* not a port number"):
        load({"agent_port": port}, home)
    with pytest.raises(InvalidInput, match=r"ANVYL_AGENT_PORT is .* not a port number"):
        load(environ={**home, "ANVYL_AGENT_PORT": port})


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("port = [", ConfigInvalid, "not valid TOML"),
        ("prot = 1", ConfigInvalid, "unknown setting `prot`"),
        ("[server]\nport = 1", ConfigInvalid, "unknown setting `server`"),
        ("port = true", InvalidInput, "port is `True`, which is not a port number"),
        ("port = 1.5", InvalidInput, "port is `1.5`, which is not a port number"),
        ("lmstudio_model = 4", InvalidInput, "which is not text"),
        ("name = 'my host'", InvalidInput, "cannot be a host name"),
    ],
)
def test_an_invalid_file_is_rejected_and_named(
    content: str, kind: type[AnvylError], message: str, tmp_path: Path
) -> None:
    write(tmp_path, content)

    with pytest.raises(kind) as refused:
        load(environ={"ANVYL_HOME": str(tmp_path)})

    assert message in refused.value.message
    assert refused.value.hint


def test_a_file_that_is_binary_or_unreadable_is_rejected_and_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigInvalid, match=r"config\.toml is not valid TOML"):
        load(environ={"ANVYL_HOME": str(tmp_path)})
    (tmp_path / "config.toml").unlink()
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigInvalid, match=r"config\.toml cannot be read: Is a directory"):
        load(environ={"ANVYL_HOME": str(tmp_path)})


def test_every_folder_is_inside_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(environ={"ANVYL_HOME": "here"})

    for path in (settings.hosts_file, settings.run_dir, settings.cache_dir):
        assert path.is_relative_to(tmp_path / "here")


def test_without_a_home_the_folders_of_the_platform_are_used() -> None:
    settings = load(environ={})

    assert settings.hosts_file == user_config_path("anvyl") / "hosts.toml"
    assert settings.run_dir == user_state_path("anvyl") / "run"


def test_the_key_of_lm_studio_is_the_fallback_and_not_in_the_repr(tmp_path: Path) -> None:
    home = {"ANVYL_HOME": str(tmp_path), "LM_API_TOKEN": "sk-lm"}

    assert load(environ=home).llm_api_key == "sk-lm"
    settings = load(environ={**home, "ANVYL_LLM_API_KEY": "sk-own"})
    assert settings.llm_api_key == "sk-own"
    assert "sk-" not in repr(settings)


def test_the_table_lists_every_setting() -> None:
    paths = {"config_dir", "state_dir"}

    assert {field.name for field in fields(Settings)} - paths - {*TABLES, RULES} == {
        setting.name for setting in SETTINGS
    }
    assert all(setting.help and setting.env.startswith("ANVYL_") for setting in SETTINGS)


def test_every_flag_of_serve_is_a_setting() -> None:
    """Design §8: one `ANVYL_…` twin for every flag; `--stdio` is a way to run, not a setting."""
    options = describe_commands(host.app)["commands"]["serve"]["options"]

    flags = {name.removeprefix("--").replace("-", "_") for name in options if name.startswith("--")} - {"stdio", "help"}
    assert flags
    assert flags <= {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("document", ["docs/models.md", "docs/reference.md"])
def test_every_variable_in_a_document_exists(document: str) -> None:
    named = set(re.findall(r"\bANVYL_[A-Z_]+\b", (ROOT / document).read_text(encoding="utf-8")))

    assert named
    assert named <= {setting.env for setting in SETTINGS} | {"ANVYL_HOME"}


def test_the_page_about_models_has_the_right_defaults() -> None:
    rows = re.findall(
        r"^\| `(ANVYL_\w+)` \| (?:`([^`]*)`)? ?\|", (ROOT / "docs/models.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    defaults = {setting.env: str(setting.default) for setting in SETTINGS}

    assert rows
    assert dict(rows) == {name: defaults[name] for name, _ in rows}
