"""The table of settings, and the frozen object that they are loaded into at startup.

Precedence: command-line flags, environment, `config.toml`, defaults.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anvyl_mcp.core.errors import ConfigInvalid, InvalidInput, did_you_mean
from anvyl_mcp.core.files import check_not_writable_by_others, config_and_state_dirs

HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?", re.ASCII)
BOOLEANS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
RESERVED_NAMES = frozenset({"all", "local", "any", "every", "everywhere"})


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `env` is the environment variable, `choices` the allowed values (empty: any)."""

    name: str
    env: str
    default: str | int | bool
    help: str
    choices: tuple[str, ...] = ()


SETTINGS = (
    Setting("name", "ANVYL_NAME", "", "this host's name in the fleet; default: the machine's host name"),
    Setting("host", "ANVYL_AGENT_HOST", "", "network address to open, with TLS and tokens, in addition to loopback"),
    Setting(
        "advertise",
        "ANVYL_ADVERTISE",
        "",
        "address or name that invitations give instead, like nas.lan or 10.0.0.2:4300",
    ),
    Setting("port", "ANVYL_INFRA_API_PORT", 4200, "port for MCP clients; 0 picks a free one"),
    Setting("agent_port", "ANVYL_AGENT_PORT", 4201, "port for clients of the older agent API"),
    Setting("gateway_port", "ANVYL_GATEWAY_PORT", 4202, "port of `anvyl-mcp gateway --http`, on this machine only"),
    Setting("toolsets", "ANVYL_TOOLSETS", "all", "toolsets to offer: names separated by commas, or `all`"),
    Setting("tools", "ANVYL_TOOLS", "", "additional single tools to offer, separated by commas"),
    Setting("read_only", "ANVYL_READ_ONLY", False, "offer no tool that changes anything; overrides the two above"),
    Setting("lmstudio_url", "ANVYL_LMSTUDIO_URL", "http://localhost:1234/v1", "OpenAI-compatible model server"),
    Setting("lmstudio_model", "ANVYL_LMSTUDIO_MODEL", "default", "model name; `default` uses the loaded one"),
    Setting(
        "drive",
        "ANVYL_DRIVE",
        "auto",
        "how a model is used: `tools`, `plan`, or `auto`, depending on the model",
        choices=("auto", "tools", "plan"),
    ),
    Setting(
        "rules",
        "ANVYL_RULES",
        "first",
        "the rules: `first`, if they account for every word; `fallback`, without a capable model; or `off`",
        choices=("first", "fallback", "off"),
    ),
    Setting("model_fast", "ANVYL_MODEL_FAST", "", "another model for questions that only read"),
    Setting("model_smart", "ANVYL_MODEL_SMART", "", "another model for tasks of several steps"),
    Setting("llm_api_key", "ANVYL_LLM_API_KEY", "", "key for the model server, or `keyring` (or LM_API_TOKEN)"),
    Setting("model_user", "ANVYL_MODEL_USER", "", "another login user of this machine whose model server is trusted"),
    Setting("announce", "ANVYL_ANNOUNCE", False, "announce this host by mDNS while it is open to the network"),
    Setting("watch", "ANVYL_WATCH", False, "watch the hosts while serving and report problems"),
    Setting("watch_every", "ANVYL_WATCH_EVERY", "30s", "time between two checks of a watch"),
    Setting("watch_disk", "ANVYL_WATCH_DISK", "90", "percentage at which a disk counts as full"),
    Setting("watch_webhook", "ANVYL_WATCH_WEBHOOK", "", "URL to which a watch sends its events; unknown ones get JSON"),
    Setting("watch_command", "ANVYL_WATCH_COMMAND", "", "program that a watch runs for each event"),
    Setting("watch_cooldown", "ANVYL_WATCH_COOLDOWN", "10m", "time in which a repeated problem is not sent again"),
    Setting("watch_quiet", "ANVYL_WATCH_QUIET", "", "quiet hours, like `22:00-07:00`: only urgent notices are sent"),
    Setting("watch_standby", "ANVYL_WATCH_STANDBY", "", "host that watches: this one watches while that one does not"),
    Setting("jwt_issuer", "ANVYL_JWT_ISSUER", "", "identity provider whose tokens are also accepted"),
    Setting("jwt_audience", "ANVYL_JWT_AUDIENCE", "", "audience that its tokens must have"),
    Setting("jwt_keys", "ANVYL_JWT_KEYS", "", "its keys: a JWKS file, or an https URL"),
)

TABLES = ("aliases", "phrases")
"""Tables of `config.toml` that `anvyl alias` edits."""
RULES = "watch_rules"


@dataclass(frozen=True, slots=True)
class RuleTable:
    """One `[[watch_rules]]` table of `config.toml`. `place` names the file and the line."""

    fields: Mapping[str, Any]
    place: str


@dataclass(frozen=True, slots=True)
class Settings:
    """The resolved settings. `SETTINGS` describes each one."""

    config_dir: Path
    state_dir: Path
    name: str
    host: str
    advertise: str
    port: int
    agent_port: int
    gateway_port: int
    toolsets: str
    tools: str
    read_only: bool
    lmstudio_url: str
    lmstudio_model: str
    drive: str
    rules: str
    model_fast: str
    model_smart: str
    llm_api_key: str = field(repr=False)
    model_user: str
    announce: bool
    watch: bool
    watch_every: str
    watch_disk: str
    watch_webhook: str = field(repr=False)
    watch_command: str
    watch_cooldown: str
    watch_quiet: str
    watch_standby: str
    jwt_issuer: str
    jwt_audience: str
    jwt_keys: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Alias → container name, optionally followed by ` on HOST`."""
    phrases: Mapping[str, str] = field(default_factory=dict)
    """Phrase → the question that it stands for."""
    watch_rules: tuple[RuleTable, ...] = ()
    """Rules of the watch, which parses them."""

    @property
    def hosts_file(self) -> Path:
        """The host registry."""
        return self.config_dir / "hosts.toml"

    @property
    def policy_file(self) -> Path:
        """Restrictions that the owner of this host puts on its callers."""
        return self.config_dir / "policy.toml"

    @property
    def heads_file(self) -> Path:
        """Last known heads of the audit logs of other hosts."""
        return self.state_dir / "heads.json"

    @property
    def run_dir(self) -> Path:
        """Lock and address of the running server."""
        return self.state_dir / "run"

    @property
    def cache_dir(self) -> Path:
        """Files that can be deleted at any time."""
        return self.state_dir / "cache"


def load(
    flags: Mapping[str, str | int | bool | None] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Load the settings from flags, environment and `config.toml`.

    Raises:
        ConfigInvalid: `config.toml` is not valid, or has an unknown setting.
        InvalidInput: a value is not valid.
    """
    env = os.environ if environ is None else environ
    config_dir, state_dir = config_and_state_dirs(env)
    file = _read_file(config_dir / "config.toml")
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        flag = (flags or {}).get(setting.name)
        value: Any = flag
        source = f"--{setting.name.replace('_', '-')}"
        if value is None and env.get(setting.env):
            value, source = env[setting.env], setting.env
        if value is None and setting.name in file:
            value, source = file[setting.name], f"{config_dir / 'config.toml'}: {setting.name}"
        values[setting.name] = setting.default if value is None else _convert(value, setting, source)
    values["llm_api_key"] = values["llm_api_key"] or env.get("LM_API_TOKEN", "")
    values["name"] = check_host_name(values["name"]) if values["name"] else _machine_name()
    own = {name: _read_aliases(file.get(name, {}), f"{config_dir / 'config.toml'}: [{name}]") for name in TABLES}
    return Settings(
        config_dir,
        state_dir,
        aliases=own["aliases"],
        phrases=own["phrases"],
        watch_rules=file.get(RULES, ()),
        **values,
    )


def check_host_name(name: str) -> str:
    """Return a valid host name in lower case.

    Raises:
        InvalidInput: the name is reserved or has other characters.
    """
    folded = name.strip().lower()
    if folded in RESERVED_NAMES:
        raise InvalidInput(f"`{name}` cannot be a host name: it is a reserved word", hint="choose another name")
    if not HOST_NAME.fullmatch(folded):
        raise InvalidInput(
            f"`{name}` cannot be a host name", hint="use letters, digits, dots, dashes and underscores, like `nas-1`"
        )
    return folded


def _read_file(path: Path) -> dict[str, Any]:
    try:
        check_not_writable_by_others(path, path.stat(), ", so its settings are not used")
        content = path.read_text(encoding="utf-8")
        data = tomllib.loads(content)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path} is not valid TOML: {error}", hint="fix the file or move it away") from error
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    known = {setting.name for setting in SETTINGS} | {*TABLES, RULES}
    for key in data:
        if key not in known:
            raise ConfigInvalid(f"{path} has an unknown setting `{key}`", hint=did_you_mean(key, known))
    if RULES in data:
        data[RULES] = _rule_tables(path, content, data[RULES])
    return data


def _rule_tables(path: Path, content: str, rows: Any) -> tuple[RuleTable, ...]:
    """Return the rules with the lines of their conditions, which `tomllib` does not tell."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigInvalid(f"{path}: `{RULES}` is not a list of tables", hint=f"begin each rule with [[{RULES}]]")
    lines: list[int] = []
    inside = False
    for number, line in enumerate(content.splitlines(), 1):
        if line.lstrip().startswith("["):
            inside = re.match(rf"\s*\[\[\s*{RULES}\s*\]\]", line) is not None
            lines += [number] if inside else []
        elif inside and re.match(r"\s*when\s*=", line):
            lines[-1] = number
    places = [f"{path}, line {line}" for line in lines] if len(lines) == len(rows) else [f"{path}: {RULES}"] * len(rows)
    return tuple(RuleTable(row, place) for row, place in zip(rows, places, strict=True))


def _read_aliases(table: Any, source: str) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(value, str) and value.strip() for value in table.values()):
        raise ConfigInvalid(f"{source} has an invalid entry", hint='use lines like "the photo app" = "immich"')
    return {str(name): value for name, value in table.items()}


def _convert(value: Any, setting: Setting, source: str) -> str | int | bool:
    if isinstance(setting.default, bool):
        word = str(value).strip().lower()
        if word not in BOOLEANS:
            raise InvalidInput(f"{source} is `{value}`, which is not a boolean", hint="use true or false")
        return BOOLEANS[word]
    if isinstance(setting.default, int):
        try:
            number = -1 if isinstance(value, bool | float) else int(value)
        except (TypeError, ValueError):
            number = -1
        if not 0 <= number <= 65535:
            raise InvalidInput(f"{source} is `{value}`, which is not a port number", hint="use 0 to 65535")
        return number
    if not isinstance(value, str):
        raise InvalidInput(f"{source} is `{value}`, which is not text", hint="put the value in quotes")
    word = value.strip()
    if setting.choices and word not in setting.choices:
        raise InvalidInput(f"{source} is `{word}`", hint=f"use {', '.join(setting.choices)}")
    return word


def _machine_name() -> str:
    """The short host name of this machine, with invalid characters replaced."""
    short = re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-_")
    return short if short and short not in RESERVED_NAMES else "this-host"
