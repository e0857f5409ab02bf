"""Puts the whole protocol on a chain, and remembers where it is.

Addresses follow from the deployer and a salt alone (CREATE3), so they are known before the first transaction; the
contracts hold each other's addresses immutably, and nobody ever has an administrator's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol, Self

from eth_utils import keccak, to_canonical_address, to_checksum_address
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


# Where things will be

# A CREATE2 factory that lies at this address on every chain that somebody has sent its signed creation to:
# https://github.com/Arachnid/deterministic-deployment-proxy
CREATE2_PROXY = "0x4e59b44847b379578588920cA78FbF26c0B4956C"
CREATE2_PROXY_CODE = bytes.fromhex(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b"
    "8082525050506014600cf3"
)
# keccak256 of the proxy's creation code in OpenZeppelin's Create3.sol.
_CREATE3_PROXY_HASH = bytes.fromhex("57a34f6e879358dd76825d6700df87013ad6a3fb43c0d0c602f70a8772c153bd")


def has_create2_proxy(chain: Chain) -> bool:
    """Whether the canonical proxy lies on this chain; other code at its address is none."""
    return bytes(chain.w3.eth.get_code(to_checksum_address(CREATE2_PROXY))) == CREATE2_PROXY_CODE


def deployer_contract_at(deployer: str, run: int) -> str:
    """Where the CREATE2 proxy puts the `Deployer` of that account's deployment number `run`, counted from 0."""
    code_hash = keccak(load_artifact("Deployer").bytecode)
    proxy = to_canonical_address(CREATE2_PROXY)
    return to_checksum_address(keccak(b"\xff" + proxy + _deployer_salt(deployer, run) + code_hash)[12:])


def contract_at(deployer_contract: str, deployer: str, name: str) -> str:
    """Where the `Deployer` puts what an account deploys under a name: Deployer.sol, and OpenZeppelin's Create3.sol."""
    owned = keccak(to_canonical_address(deployer).rjust(32, b"\0") + _salt(name))
    proxy = keccak(b"\xff" + to_canonical_address(deployer_contract) + owned + _CREATE3_PROXY_HASH)[12:]
    return to_checksum_address(keccak(b"\xd6\x94" + proxy + b"\x01")[12:])


def locate(*, chain_id: int, at_block: int, deployer: str, deployer_contract: str, genesis: Genesis) -> Deployment:
    """Where everything will be, before any of it is there."""
    return Deployment(
        chain_id=chain_id,
        deployed_at_block=at_block,
        deployer=deployer,
        deployer_contract=deployer_contract,
        quote=genesis.quote,
        grants=tuple(contract_at(deployer_contract, deployer, _grant_name(i)) for i in range(len(genesis.grants))),
        **{name: contract_at(deployer_contract, deployer, name) for name in CONTRACTS},
    )


# What is sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One transaction of a deployment. Its bytes are the same whenever, and however often, they are made."""

    kind: Literal["deployer", "contract", "share", "allowance", "fund", "bounties"]
    # Unlike any other step's.
    name: str
    data: bytes
    # Nobody where a contract is created with the account's nonce.
    to: str | None
    # A contract's: what it is, and where its code is afterwards.
    contract: str = ""
    address: str = ""
    # Who gets how much of the token, in wei; of an allowance, who may take it.
    receiver: str = ""
    amount_wei: int = 0

    @property
    def call(self) -> dict[str, Any]:
        """As `send` of a chain takes it."""
        return {"data": "0x" + self.data.hex(), **({"to": self.to} if self.to else {})}


def deployer_step(*, deployer: str, run: int | None, address: str) -> Step:
    """Makes the `Deployer`: through the CREATE2 proxy as deployment number `run`; with the nonce when that is None."""
    code = load_artifact("Deployer").bytecode
    data = code if run is None else _deployer_salt(deployer, run) + code
    to = None if run is None else CREATE2_PROXY
    return Step(kind="deployer", name="deployer_contract", to=to, data=data, contract="Deployer", address=address)


def deployment_steps(chain: Chain, genesis: Genesis, d: Deployment, *, decided_at_s: int) -> list[Step]:
    """Everything after the `Deployer`, in the order in which it has to be sent. Raises DeploymentFailed when the
    distribution exceeds the supply. `decided_at_s`: when the guardian's term and, unless the configuration has another
    moment, epoch 0 begin."""
    codes = init_codes(chain, genesis, d, decided_at_s=decided_at_s)
    return [*(_contract_step(chain, d, name, code) for name, code in codes.items()), *_distribution(chain, genesis, d)]


def init_codes(chain: Chain, genesis: Genesis, d: Deployment, *, decided_at_s: int) -> dict[str, tuple[str, bytes]]:
    """Each contract and its creation code with arguments, by its name in the deployment."""
    arguments = _constructor_arguments(genesis, d, decided_at_s)
    found = {name: (CONTRACTS[name], _init_code(chain, CONTRACTS[name], args)) for name, args in arguments.items()}
    for i, grant in enumerate(genesis.grants):
        args = (d.token, grant.beneficiary, grant.start_s, grant.duration_s)
        found[_grant_name(i)] = ("TokenGrant", _init_code(chain, "TokenGrant", args))
    return found


def shares(genesis: Genesis, d: Deployment) -> dict[str, int]:
    """Token wei that the deployer transfers, by receiver: holders, grants, and the treasury, which gets what is left.

    Raises DeploymentFailed when the distribution exceeds the supply.
    """
    granted = dict(zip(d.grants, (grant.amount_wei for grant in genesis.grants), strict=True))
    found = {holder: wei for holder, wei in genesis.holders.items() if holder != d.deployer} | granted
    return {receiver: wei for receiver, wei in {**found, d.treasury: to_treasury(genesis)}.items() if wei}


def to_treasury(genesis: Genesis) -> int:
    """Token wei that nobody else gets. Raises DeploymentFailed when others get more than there is."""
    given = sum(genesis.holders.values()) + sum(grant.amount_wei for grant in genesis.grants)
    rest = genesis.supply_wei - given - genesis.reward_fund_wei - genesis.bounty_fund_wei
    if rest < 0:
        raise DeploymentFailed(f"genesis hands out {-rest} wei more than the supply of {genesis.supply_wei}")
    return rest


def deploy_protocol(chain: Chain, genesis: Genesis, *, sender: Any) -> Deployment:
    """Deploys every contract and distributes the genesis supply, in one go: `agents.deploying` can be interrupted.

    Raises DeploymentFailed before it sends anything when the distribution exceeds the supply.
    """
    to_treasury(genesis)
    at_block = chain.w3.eth.block_number
    deployer = chain.deploy("Deployer", sender=sender)
    deployment = locate(
        chain_id=chain.w3.eth.chain_id,
        at_block=at_block,
        deployer=str(getattr(sender, "address", sender)),
        deployer_contract=str(deployer.address),
        genesis=genesis,
    )
    for step in deployment_steps(chain, genesis, deployment, decided_at_s=chain.now_s()):
        chain.send(step.call, sender)
        if step.address and not chain.w3.eth.get_code(to_checksum_address(step.address)):
            raise DeploymentFailed(f"{step.contract} is not at {step.address}, where it was meant to be")
    return deployment


def deploy_code(
    chain: Chain, deployer: Contract, contract: str, arguments: tuple[Any, ...], *, salt: bytes, sender: Any
) -> str:
    """Deploys one of our contracts through the `Deployer`, as implementations and venues must be; its address."""
    chain.send(deployer.functions.deploy(salt, _init_code(chain, contract, arguments)), sender)
    return str(chain.call(deployer.functions.addressOf(str(getattr(sender, "address", sender)), salt)))


def _contract_step(chain: Chain, d: Deployment, name: str, made: tuple[str, bytes]) -> Step:
    contract, code = made
    deployer = chain.at("Deployer", d.deployer_contract)
    return Step(
        kind="contract", name=name, to=d.deployer_contract, data=_encode(deployer, "deploy", _salt(name), code),
        contract=contract, address=contract_at(d.deployer_contract, d.deployer, name),
    )  # fmt: skip


def _distribution(chain: Chain, genesis: Genesis, d: Deployment) -> Iterator[Step]:
    token, pool = d.contract(chain, "token"), d.contract(chain, "pool")
    for receiver, wei in shares(genesis, d).items():
        data = _encode(token, "transfer", receiver, wei)
        yield Step(
            kind="share", name=f"share of {receiver}", to=d.token, data=data, receiver=receiver, amount_wei=wei
        )
    funds = {"fund": genesis.reward_fund_wei, "bounties": genesis.bounty_fund_wei}
    if total := sum(funds.values()):
        data = _encode(token, "approve", d.pool, total)
        yield Step(kind="allowance", name="allowance", to=d.token, data=data, receiver=d.pool, amount_wei=total)
    if wei := funds["fund"]:
        yield Step(kind="fund", name="fund", to=d.pool, data=_encode(pool, "fund", wei), amount_wei=wei)
    if wei := funds["bounties"]:
        yield Step(kind="bounties", name="bounties", to=d.pool, data=_encode(pool, "fundBounties", wei), amount_wei=wei)


def _constructor_arguments(genesis: Genesis, d: Deployment, decided_at_s: int) -> dict[str, tuple[Any, ...]]:
    """In an order in which each constructor finds the code it calls: the token and the feeds."""
    protocol = tuple(getattr(d, name) for name in _PROTOCOL)
    rewards, governance = genesis.rewards, genesis.governance
    schedule = (
        decided_at_s if rewards.genesis_s is None else rewards.genesis_s,
        rewards.epoch_length_s,
        rewards.window_length_s,
        rewards.vesting_s,
        rewards.max_unsettled,
        rewards.bounty_wei,
        rewards.budget_per_epoch_wei,
    )
    caps = [(token or d.token, cap) for token, cap in genesis.outflow_caps.items()]
    feeds = [feed.as_tuple() for feed in genesis.feeds]
    guardian_until_s = decided_at_s + genesis.guardian_term_s
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


def _init_code(chain: Chain, contract: str, arguments: tuple[Any, ...]) -> bytes:
    artifact = load_artifact(contract)
    factory = chain.w3.eth.contract(abi=artifact.abi, bytecode=artifact.bytecode)
    constructor: ContractConstructor = factory.constructor(*arguments)
    return bytes.fromhex(constructor.data_in_transaction.removeprefix("0x"))


def _encode(contract: Contract, function: str, *arguments: Any) -> bytes:
    return bytes.fromhex(contract.encode_abi(function, args=arguments).removeprefix("0x"))


def _grant_name(index: int) -> str:
    return f"grant-{index}"


def _deployer_salt(deployer: str, run: int) -> bytes:
    return keccak(text=f"marketflow.v1.deployer.{deployer.lower()}.{run}")


def _salt(name: str) -> bytes:
    return keccak(text=f"marketflow.v1.{name}")
