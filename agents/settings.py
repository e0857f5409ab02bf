"""The one place that reads the environment: `MARKETFLOW_*`, and the file that lists the agents.

What is secret has a type that does not print. Everything else is logged when the daemon starts.
"""

from __future__ import annotations

import os
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from eth_utils import is_checksum_address
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from agents.constitution import OperatorLimits
from agents.errors import Misconfigured

PREFIX = "MARKETFLOW_"
AGENTS_EXAMPLE = """\
# The agents that one daemon runs, and what their operator wants beyond what the DAO demands.
[limits]                          # all optional; `kill -HUP` reads them again
max_position_bps = 8000
max_trade_bps = 2500
min_trade_value = 1000000000      # base units of quote
max_trades_per_day = 12

[[agent]]
name = "eth-trend"
vault = "0x0000000000000000000000000000000000000000"
artefact = "eth.artefact.json"    # beside this file; its hash must be the approved one
key = "keys/eth-trend.json"       # an encrypted keyfile; or "ape:alias", or "keys/fleet.json#7", the 8th key of a
                                  # keyring; without a key the agent trades on paper
"""


class Settings(BaseSettings):
    """What an operator sets. Times are seconds, prices wei for a unit of gas."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # Nodes, in order of preference; their addresses contain access keys.
    rpc_urls: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    # For new heads; without one the nodes are polled.
    ws_url: SecretStr | None = None
    chain_id: int = Field(default=0, ge=0)
    # The file that `ape run deploy` wrote for the network.
    deployment: Path = Path("deployments/local.json")
    # The file that lists the agents.
    agents: Path = Path("agents.toml")
    journal: Path = Path("journal.sqlite")
    # Of the keyfiles, when nobody is there to be asked.
    keyfile_passphrase: SecretStr | None = None
    # Where ape keeps its accounts, for keys like `ape:alias`: $APE_DATA_FOLDER, else ~/.ape.
    ape_data_folder: Path | None = Field(
        default=None, validation_alias=AliasChoices("ape_data_folder", "APE_DATA_FOLDER")
    )

    max_fee_wei: int = Field(default=500 * 10**9, gt=0)
    min_tip_wei: int = Field(default=0, ge=0)
    max_tip_wei: int = Field(default=50 * 10**9, ge=0)
    finality_blocks: int = Field(default=12, ge=1, le=10_000)
    bump_after_s: int = Field(default=60, ge=1)
    stuck_after_s: int = Field(default=600, ge=1)
    # Ask the node whether an order would revert before it is signed. For many agents it costs more than it saves;
    # without it, nonces and balances too are asked between cycles instead of before each order.
    simulate: bool = True
    # Compare prices with the pools' before each trade.
    consensus: bool = True

    # Of agents on Solana: a node, which must keep the history of transactions; the Solana CLI's keyfile of the key that
    # trades; the most that is offered for a compute unit.
    solana_rpc_url: SecretStr | None = None
    solana_key_file: Path | None = None
    max_priority_fee_micro_lamports: int = Field(default=1_000_000, ge=0)

    poll_s: float = Field(default=2.0, gt=0)
    rpc_timeout_s: float = Field(default=10.0, gt=0)
    # To each node; none is counted.
    requests_per_s: float | None = Field(default=None, gt=0)
    # How far the machine's clock may be from the chain's before somebody is told.
    max_clock_skew_s: int = Field(default=60, ge=1)
    # After how many cycles in a row that failed the breaker opens, and for how long.
    breaker_after: int = Field(default=5, ge=1)
    breaker_s: float = Field(default=60.0, gt=0)
    # A cycle that takes longer hangs: the process ends, to be started again.
    watchdog_s: float = Field(default=300.0, gt=0)
    # How long a stop waits for the cycle that runs.
    grace_s: float = Field(default=30.0, gt=0)

    # Metrics, health and explanations; the port 0 takes a free one, none serves nothing.
    http_host: str = "127.0.0.1"
    http_port: int | None = Field(default=9464, ge=0, le=65535)
    webhook_url: SecretStr | None = None
    webhook_secret: SecretStr | None = None
    # OpenTelemetry collector; traces are off without one.
    otlp_endpoint: str | None = None

    # NATS servers with JetStream, when several machines run the same agents; a name for this one, and how long its
    # leases of keys last.
    placement_servers: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    node_name: str = Field(default_factory=platform.node)
    lease_s: float = Field(default=15.0, gt=0)

    @field_validator("rpc_urls", "placement_servers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Several addresses have commas between them."""
        if not isinstance(value, str):
            return value
        return tuple(SecretStr(part.strip()) for part in value.split(",") if part.strip())

    def public(self) -> dict[str, str]:
        """Every setting with its value, secrets as stars: for the log."""
        return {PREFIX + name.upper(): str(value) for name, value in self.model_dump().items()}

    def urls(self) -> list[str]:
        """The nodes' addresses. Raises Misconfigured when there is none."""
        found = [url.get_secret_value() for url in self.rpc_urls]
        if not found:
            raise Misconfigured("MARKETFLOW_RPC_URLS is empty: name at least one node, several with commas between")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEntry:
    """One agent of the file: `key` as in the example, empty for one on paper."""

    name: str
    vault: str
    artefact: Path
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentsFile:
    """The agents, and the operator's limits."""

    agents: tuple[AgentEntry, ...]
    limits: OperatorLimits


def load_settings(**over: Any) -> Settings:
    """From the environment; `over` comes before it. Raises Misconfigured naming each variable that is wrong, but not
    what it says: it may be a secret."""
    # Where systemd and containers put secrets as files, such as marketflow_keyfile_passphrase.
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    try:
        return Settings(**over, _secrets_dir=folder if Path(folder).is_dir() and folder else None)
    except ValidationError as error:
        said = "; ".join(
            f"{PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise Misconfigured(f"{said}: correct it in the environment") from None


def load_agents(path: Path) -> AgentsFile:
    """The file of agents. Raises Misconfigured naming the file, and the agent and field that is wrong."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(f"{path} does not exist: MARKETFLOW_AGENTS names the file that lists the agents") from None
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{path} can't be read ({error}): correct it") from error
    if unknown := sorted(raw.keys() - {"limits", "agent"}):
        raise Misconfigured(f"{path}: {unknown[0]} is unknown; there are [limits] and [[agent]]")
    entries = raw.get("agent", [])
    if not isinstance(entries, list) or not entries:
        raise Misconfigured(f"{path} lists no agent: add a table [[agent]] with name, vault and artefact")
    agents = tuple(_entry(path, index, entry) for index, entry in enumerate(entries))
    for what in ("name", "vault"):
        seen: set[str] = set()
        for agent in agents:
            if (value := getattr(agent, what)) in seen:
                raise Misconfigured(f"{path}: two agents have the {what} {value}: each has its own")
            seen.add(value)
    return AgentsFile(agents=agents, limits=_limits(path, raw.get("limits", {})))


def _entry(path: Path, index: int, raw: Any) -> AgentEntry:
    where = f"{path}, agent {index + 1}"
    if not isinstance(raw, Mapping) or not all(isinstance(value, str) for value in raw.values()):
        raise Misconfigured(f"{where}: every field is a text")
    if unknown := sorted(raw.keys() - {"name", "vault", "artefact", "key"}):
        raise Misconfigured(f"{where}: {unknown[0]} is unknown; there are name, vault, artefact and key")
    for name in ("name", "vault", "artefact"):
        if not raw.get(name):
            raise Misconfigured(f"{where}: {name} is missing")
    if not is_checksum_address(raw["vault"]):
        raise Misconfigured(f"{where}: {raw['vault']} is no address with a right checksum: `ape run status` has it")
    key = raw.get("key", "")
    if key and not key.startswith("ape:"):
        key = str(path.parent / key)
    return AgentEntry(name=raw["name"], vault=raw["vault"], artefact=path.parent / raw["artefact"], key=key)


def _limits(path: Path, raw: Any) -> OperatorLimits:
    known = {field.name for field in fields(OperatorLimits)}
    if not isinstance(raw, Mapping):
        raise Misconfigured(f"{path}: limits is a table")
    for name, value in raw.items():
        if name not in known:
            raise Misconfigured(f"{path}: {name} is no limit; there are {', '.join(sorted(known))}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise Misconfigured(f"{path}: {name} is {value!r}, expected a whole number of at least 0")
    return OperatorLimits(**raw)


def notify_socket() -> str | None:
    """Where systemd wants to be told how its service is; None under no such supervisor."""
    return os.environ.get("NOTIFY_SOCKET")
