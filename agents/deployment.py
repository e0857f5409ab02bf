"""Puts the whole protocol on a chain, and remembers where it is.

Addresses follow from the deployer and a salt alone (CREATE3), so they are known before the first transaction; the
contracts hold each other's addresses immutably, and nobody ever has an administrator's key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, Self

from web3 import Web3
from web3.contract import Contract
from web3.contract.contract import ContractConstructor

from agents.contracts import load_artifact

ZERO_ADDRESS = "0x" + 40 * "0"


class Chain(Protocol):
    """What deploying needs of a chain: `agents.localnet.evm.LocalEvm`, or an adapter of a public network."""

    w3: Web3

    def now_s(self) -> int: ...
    def send(self, call: Any, sender: Any, value: int = 0) -> Any: ...
    def call(self, call: Any, sender: Any = None) -> Any: ...
    def deploy(self, artifact: Any, *args: Any, sender: Any) -> Contract: ...
    def at(self, artifact: Any, address: str) -> Contract: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A vault's limits, or the constitution's ceilings: `Limits` of `contracts/libraries/Types.sol`."""

    max_position_bps: int
    max_trade_slippage_bps: int
    max_cumulative_slippage_bps: int
    max_reduce_slippage_bps: int
    max_reduce_cumulative_slippage_bps: int
    max_trades_per_day: int
    max_daily_turnover_bps: int
    max_daily_loss_bps: int
    max_drawdown_bps: int
    hard_drawdown_bps: int

    def as_tuple(self) -> tuple[int, ...]:
        """In the contract's order of fields."""
        return tuple(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The constitution's other parameters: `Rules` of `contracts/libraries/Types.sol`."""

    min_bond_wei: int
    slippage_decay_s: int
    auction_duration_s: int
    auction_max_discount_bps: int
    auction_lot_bps: int
    gap_allowance_bps: int
    # Token wei per base unit of quote.
    max_reward_rate: int

    def as_tuple(self) -> tuple[int, ...]:
        """In the contract's order of fields."""
        return tuple(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Governance:
    """How votes run. Seconds, token wei, basis points of the circulating votes."""

    voting_delay_s: int
    voting_period_s: int
    proposal_threshold_wei: int
    quorum_floor_wei: int
    quorum_bps: int
    last_stretch_s: int
    objection_period_s: int
    grace_s: int
    timelock_delay_s: int

    def as_tuple(self) -> tuple[int, ...]:
        """`Settings` of MARKETFLOW_DAO: all but the timelock's delay."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name != "timelock_delay_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """Epochs, vesting and budget of the reward pool."""

    # Unix seconds at which epoch 0 begins; None: when the pool is deployed.
    genesis_s: int | None
    epoch_length_s: int
    window_length_s: int
    vesting_s: int
    max_unsettled: int
    bounty_wei: int
    budget_per_epoch_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A Chainlink feed as the price oracle lists it. Bounds are exclusive, in the feed's own decimals."""

    token: str
    aggregator: str
    max_age_s: int
    min_answer: int
    max_answer: int

    def as_tuple(self) -> tuple[Any, ...]:
        """In the contract's order of fields."""
        return tuple(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Tokens that vest linearly and can't vote before they have."""

    beneficiary: str
    amount_wei: int
    start_s: int
    duration_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """Everything that deployment decides. What `holders`, `grants` and `reward_fund_wei` leave goes to the treasury."""

    token_name: str = "MarketFlow"
    token_symbol: str = "MFLOW"
    supply_wei: int
    holders: Mapping[str, int]
    grants: Sequence[Grant] = ()
    reward_fund_wei: int
    bounty_fund_wei: int = 0
    governance: Governance
    ceilings: Limits
    rules: Rules
    rewards: Rewards
    guardian: str = ZERO_ADDRESS
    guardian_term_s: int = 0
    quote: str
    feeds: Sequence[Feed]
    sequencer_feed: str = ZERO_ADDRESS
    sequencer_grace_s: int = 3600
    # What may leave the treasury in 30 days, by token; None stands for the protocol's own token.
    outflow_caps: Mapping[str | None, int] = field(default_factory=dict)
    uniswap_factory: str
    pool_init_code_hash: str


# Contract names by the field of `Deployment` (and of `Protocol` in Types.sol, up to `pool`) they are found under.
CONTRACTS = {
    "token": "MarketFlowToken",
    "timelock": "Timelock",
    "dao": "MARKETFLOW_DAO",
    "treasury": "Treasury",
    "constitution": "Constitution",
    "oracle": "PriceOracle",
    "agents": "AgentRegistry",
    "strategies": "StrategyRegistry",
    "factory": "VaultFactory",
    "ledger": "TradeLedger",
    "pool": "RewardPool",
    "vault_implementation": "StrategyVault",
    "venue": "UniswapV3Venue",
}
# `Protocol` of Types.sol, in its order of fields.
_PROTOCOL = (
    "token quote timelock dao treasury constitution oracle agents strategies factory ledger pool".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where the protocol is: one checksummed address for each contract, and the chain they are on."""

    chain_id: int
    deployed_at_block: int
    deployer: str
    deployer_contract: str
    quote: str
    token: str
    timelock: str
    dao: str
    treasury: str
    constitution: str
    oracle: str
    agents: str
    strategies: str
    factory: str
    ledger: str
    pool: str
    vault_implementation: str
    venue: str
    grants: tuple[str, ...] = ()

    def contract(self, chain: Chain, name: str) -> Contract:
        """The contract found under field `name`, such as "dao"."""
        return chain.at(CONTRACTS[name], getattr(self, name))

    def vault(self, chain: Chain, address: str) -> Contract:
        """A strategy's vault: a clone, so only its address differs from the implementation's."""
        return chain.at("StrategyVault", address)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "grants": list(self.grants)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises TypeError on missing or unknown keys."""
        return cls(**{**raw, "grants": tuple(raw["grants"])})


class DeploymentFailed(RuntimeError):
    """A contract is not where it was meant to be, or the genesis configuration can't be met."""


def deploy_protocol(chain: Chain, genesis: Genesis, *, sender: Any) -> Deployment:
    """Deploys every contract and distributes the genesis supply. Raises DeploymentFailed before it sends anything when
    the distribution exceeds the supply."""
    handed_out = sum(genesis.holders.values()) + sum(grant.amount_wei for grant in genesis.grants)
    to_treasury = genesis.supply_wei - handed_out - genesis.reward_fund_wei - genesis.bounty_fund_wei
    if to_treasury < 0:
        raise DeploymentFailed(f"genesis hands out {-to_treasury} wei more than the supply of {genesis.supply_wei}")

    at_block = chain.w3.eth.block_number
    deployer_address = str(getattr(sender, "address", sender))
    deployer = chain.deploy("Deployer", sender=sender)
    addresses = {
        name: str(chain.call(deployer.functions.addressOf(deployer_address, _salt(name)))) for name in CONTRACTS
    }
    grant_names = [f"grant-{i}" for i in range(len(genesis.grants))]
    grants = tuple(
        str(chain.call(deployer.functions.addressOf(deployer_address, _salt(name)))) for name in grant_names
    )
    deployment = Deployment(
        chain_id=chain.w3.eth.chain_id,
        deployed_at_block=at_block,
        deployer=deployer_address,
        deployer_contract=str(deployer.address),
        quote=genesis.quote,
        grants=grants,
        **addresses,
    )
    for name, arguments in _constructor_arguments(chain, genesis, deployment).items():
        _deploy_at(chain, deployer, name, CONTRACTS[name], arguments, addresses[name], sender)
    for name, address, grant in zip(grant_names, grants, genesis.grants, strict=True):
        arguments = (deployment.token, grant.beneficiary, grant.start_s, grant.duration_s)
        _deploy_at(chain, deployer, name, "TokenGrant", arguments, address, sender)
    _distribute(chain, genesis, deployment, to_treasury, sender)
    return deployment


def _constructor_arguments(chain: Chain, genesis: Genesis, d: Deployment) -> dict[str, tuple[Any, ...]]:
    """In an order in which each constructor finds the code it calls: the token and the feeds."""
    protocol = tuple(getattr(d, name) for name in _PROTOCOL)
    rewards, governance = genesis.rewards, genesis.governance
    schedule = (
        chain.now_s() if rewards.genesis_s is None else rewards.genesis_s,
        rewards.epoch_length_s,
        rewards.window_length_s,
        rewards.vesting_s,
        rewards.max_unsettled,
        rewards.bounty_wei,
        rewards.budget_per_epoch_wei,
    )
    caps = [(token or d.token, cap) for token, cap in genesis.outflow_caps.items()]
    feeds = [feed.as_tuple() for feed in genesis.feeds]
    guardian_until_s = chain.now_s() + genesis.guardian_term_s
    return {
        "token": (genesis.token_name, genesis.token_symbol, d.deployer, genesis.supply_wei),
        "timelock": (governance.timelock_delay_s, d.dao),
        "constitution": (
            d.timelock, genesis.ceilings.as_tuple(), genesis.rules.as_tuple(), genesis.guardian, guardian_until_s,
        ),
        "oracle": (d.timelock, genesis.quote, feeds, genesis.sequencer_feed, genesis.sequencer_grace_s),
        "ledger": (d.factory,),
        "agents": (protocol,),
        "pool": (protocol, schedule),
        "strategies": (protocol, d.deployer_contract),
        "factory": (protocol,),
        "treasury": (protocol, caps),
        "vault_implementation": (protocol,),
        "venue": (genesis.uniswap_factory, genesis.pool_init_code_hash),
        "dao": (d.token, d.timelock, d.strategies, d.pool, governance.as_tuple()),
    }  # fmt: skip


def deploy_code(
    chain: Chain, deployer: Contract, contract: str, arguments: tuple[Any, ...], *, salt: bytes, sender: Any
) -> str:
    """Deploys one of our contracts through the `Deployer`, as implementations and venues must be; its address."""
    chain.send(deployer.functions.deploy(salt, _init_code(chain, contract, arguments)), sender)
    return str(chain.call(deployer.functions.addressOf(str(getattr(sender, "address", sender)), salt)))


def _deploy_at(
    chain: Chain, deployer: Contract, name: str, contract: str, arguments: tuple[Any, ...], expected: str, sender: Any
) -> None:
    deploy_code(chain, deployer, contract, arguments, salt=_salt(name), sender=sender)
    if not chain.w3.eth.get_code(Web3.to_checksum_address(expected)):
        raise DeploymentFailed(f"{contract} is not at {expected}, where it was meant to be")


def _init_code(chain: Chain, contract: str, arguments: tuple[Any, ...]) -> bytes:
    artifact = load_artifact(contract)
    factory = chain.w3.eth.contract(abi=artifact.abi, bytecode=artifact.bytecode)
    constructor: ContractConstructor = factory.constructor(*arguments)
    return bytes.fromhex(constructor.data_in_transaction.removeprefix("0x"))


def _distribute(chain: Chain, genesis: Genesis, d: Deployment, to_treasury: int, sender: Any) -> None:
    token, pool = d.contract(chain, "token"), d.contract(chain, "pool")
    shares = [*genesis.holders.items(), *zip(d.grants, (g.amount_wei for g in genesis.grants), strict=True)]
    for holder, amount_wei in [*shares, (d.treasury, to_treasury)]:
        if amount_wei and holder != d.deployer:
            chain.send(token.functions.transfer(holder, amount_wei), sender)
    if total := genesis.reward_fund_wei + genesis.bounty_fund_wei:
        chain.send(token.functions.approve(d.pool, total), sender)
    if genesis.reward_fund_wei:
        chain.send(pool.functions.fund(genesis.reward_fund_wei), sender)
    if genesis.bounty_fund_wei:
        chain.send(pool.functions.fundBounties(genesis.bounty_fund_wei), sender)


def _salt(name: str) -> bytes:
    return bytes(Web3.keccak(text=f"marketflow.v1.{name}"))
