"""The world that contract tests live in: a market, the whole protocol on it, people with roles, and short verbs.

Prices are 2,000 USD for ETH and 60,000 USD for BTC until a test says otherwise. Amounts are base units: quote has 6
decimals (`usd(5)`), the protocol's token 18 (`tokens(5)`), ETH 18 (`eth(5)`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from eth_account import Account as EthAccount
from web3 import Web3
from web3.contract import Contract

from agents.contracts import EventLog, decode_logs
from agents.deployment import (
    Deployment,
    Feed,
    Genesis,
    Governance,
    Limits,
    Rewards,
    Rules,
    deploy_code,
    deploy_protocol,
)
from agents.localnet import feeds
from agents.localnet.evm import Account, CallReverted, LocalEvm, TransactionReverted
from agents.localnet.market import LocalMarket

HOUR_S, DAY_S = 3600, 86_400
ANY = object()
WAD = 10**18
# IGovernor.ProposalState, in its order.
PROPOSAL_STATES = "Pending Active Canceled Defeated Succeeded Queued Expired Executed".split()
# `amountOut` of nothing special: the guard's own check is the one under test.
NO_MINIMUM = 0
EXPLANATION, OBSERVATION = b"\x11" * 32, b"\x22" * 32

CEILINGS = Limits(
    max_position_bps=8000,
    max_trade_slippage_bps=100,
    max_cumulative_slippage_bps=300,
    max_reduce_slippage_bps=400,
    max_reduce_cumulative_slippage_bps=600,
    max_trades_per_day=50,
    max_daily_turnover_bps=40_000,
    max_daily_loss_bps=1000,
    max_drawdown_bps=2000,
    hard_drawdown_bps=3000,
)
LIMITS = Limits(
    max_position_bps=6000,
    max_trade_slippage_bps=60,
    max_cumulative_slippage_bps=100,
    max_reduce_slippage_bps=200,
    max_reduce_cumulative_slippage_bps=300,
    max_trades_per_day=10,
    max_daily_turnover_bps=20_000,
    max_daily_loss_bps=500,
    max_drawdown_bps=1000,
    hard_drawdown_bps=1500,
)
RULES = Rules(
    max_reward_rate=10**12,
    min_bond_wei=1000 * WAD,
    slippage_decay_s=7 * DAY_S,
    auction_duration_s=4 * HOUR_S,
    auction_max_discount_bps=500,
    auction_lot_bps=2500,
    gap_allowance_bps=500,
)
GOVERNANCE = Governance(
    voting_delay_s=HOUR_S,
    voting_period_s=3 * DAY_S,
    proposal_threshold_wei=10_000 * WAD,
    quorum_floor_wei=100_000 * WAD,
    quorum_bps=400,
    last_stretch_s=12 * HOUR_S,
    objection_period_s=DAY_S,
    grace_s=7 * DAY_S,
    timelock_delay_s=DAY_S,
)
EPOCH_S, WINDOW_S = 7 * DAY_S, 6 * HOUR_S
VESTING_S = 30 * DAY_S
REWARD_RATE = 10**11  # 0.1 token for each dollar


def usd(amount: int | str) -> int:
    return int(Decimal(amount) * 10**6)


def eth(amount: int | str) -> int:
    return int(Decimal(amount) * 10**18)


tokens = eth


@dataclass(frozen=True, slots=True)
class Strategy:
    """A deployed strategy: its id, its vault, its agent and the manifest it was deployed from."""

    id: bytes
    vault: Contract
    agent_id: int
    manifest: dict[str, Any]


class World:
    """Everything deployed, and everybody."""

    def __init__(self, evm: LocalEvm, *, quote_decimals: int = 6, **genesis_overrides: Any) -> None:
        self.evm, self.w3 = evm, evm.w3
        people = iter(evm.accounts)
        # Deploys everything, keeps nothing; and people named for what they do.
        self.deployer, self.guardian, self.proposer, self.voter_a, self.voter_b = (next(people) for _ in range(5))
        self.small_holder, self.controller, self.signer, self.stranger, self.relayer = (next(people) for _ in range(5))
        self.observer, self.bidder, self.other_controller, self.other_signer = (next(people) for _ in range(4))
        self.market = LocalMarket.deploy(
            evm, base_price_usd=Decimal(2000), deployer=self.deployer, pool_fee=500,
            liquidity_usd=Decimal(2_000_000_000),
            quote_decimals=quote_decimals,
        )  # fmt: skip
        self.market.add_asset(
            "BTC", price_usd=Decimal(60_000), decimals=8, pool_fee=500, liquidity_usd=Decimal(2_000_000_000)
        )
        self.book = self.market.book
        self.genesis = replace(self._default_genesis(), **genesis_overrides)
        self.d: Deployment = deploy_protocol(evm, self.genesis, sender=self.deployer)
        for name in (
            "token timelock dao treasury constitution oracle agents strategies factory ledger pool venue"
        ).split():
            setattr(self, name, self.d.contract(evm, name))
        self.quote = evm.at("QuoteToken", self.book.quote)
        self.first_epoch_s = int(self.view(self.pool.functions.genesis()))
        for holder in (self.proposer, self.voter_a, self.voter_b, self.small_holder):
            self.send(self.token.functions.delegate(holder.address), holder)
        self.market.give_quote(self.d.treasury, 20_000_000 * 10**quote_decimals)
        evm.impersonate(self.d.timelock)
        self.travel(HOUR_S)

    def _default_genesis(self) -> Genesis:
        feed_eth, feed_btc = self.book.asset("ETH"), self.book.asset("BTC")
        return Genesis(
            supply_wei=tokens(10_000_000),
            holders={
                self.proposer.address: tokens(200_000),
                self.voter_a.address: tokens(1_000_000),
                self.voter_b.address: tokens(800_000),
                self.small_holder.address: tokens(5_000),
                self.controller.address: tokens(500_000),
                self.other_controller.address: tokens(500_000),
            },
            reward_fund_wei=tokens(300_000),
            bounty_fund_wei=tokens(1000),
            governance=GOVERNANCE,
            ceilings=CEILINGS,
            rules=RULES,
            rewards=Rewards(
                genesis_s=None,
                epoch_length_s=EPOCH_S,
                window_length_s=WINDOW_S,
                vesting_s=VESTING_S,
                max_unsettled=3,
                bounty_wei=tokens(1),
                budget_per_epoch_wei=tokens(20_000),
            ),
            guardian=self.guardian.address,
            guardian_term_s=180 * DAY_S,
            quote=self.book.quote,
            feeds=[
                Feed(
                    token=self.book.quote, aggregator=self.book.quote_feed, max_age_s=25 * HOUR_S,
                    min_answer=10**7, max_answer=10**9,
                ),
                *(
                    Feed(
                        token=asset.token, aggregator=asset.feed, max_age_s=2 * HOUR_S,
                        min_answer=10**8, max_answer=10**14,
                    )
                    for asset in (feed_eth, feed_btc)
                ),
            ],
            outflow_caps={self.book.quote: 10_000_000 * 10**self.book.quote_decimals, None: tokens(1_000_000)},
            uniswap_factory=self.book.factory,
            pool_init_code_hash=self.book.pool_init_code_hash,
        )  # fmt: skip

    def deploy_code(self, contract: str, *arguments: Any) -> Contract:
        """One of our contracts at an address that can never have other code, as implementations and venues must be."""
        deployer = self.evm.at("Deployer", self.d.deployer_contract)
        salt = Web3.keccak(text=f"{contract} {self.w3.eth.block_number}")
        address = deploy_code(self.evm, deployer, contract, arguments, salt=salt, sender=self.deployer)
        return self.evm.at(contract, address)

    # Acting

    def send(self, call: Any, sender: Account | str, **options: Any) -> list[EventLog]:
        """Mines the call and returns the events of our contracts."""
        return decode_logs(self.evm.send(call, sender, **options))

    def view(self, call: Any) -> Any:
        return self.evm.call(call)

    def as_timelock(self, call: Any) -> list[EventLog]:
        """Does at once what a vote could do: for tests of what the vote reaches, not of voting."""
        return self.send(call, self.d.timelock)

    @contextmanager
    def reverts(self, error: str, **arguments: Any) -> Iterator[None]:
        """The block must revert with exactly this error; every argument is compared, `ANY` matches whatever it is.
        Arguments that are not named are not allowed to exist."""
        with pytest.raises((TransactionReverted, CallReverted)) as caught:
            yield
        reason = caught.value.reason
        assert reason.name == error, f"reverted with {reason}, not {error}"
        given = {key: value for key, value in reason.args.items() if arguments.get(key) is not ANY}
        assert given == {key: value for key, value in arguments.items() if value is not ANY}

    def history(self, contract: Contract | str) -> list[EventLog]:
        """Every event that a contract has emitted since the chain began."""
        address = contract if isinstance(contract, str) else contract.address
        return decode_logs({"logs": self.w3.eth.get_logs({"address": address, "fromBlock": 0})})

    # Time and prices

    def now_s(self) -> int:
        return self.evm.now_s()

    def travel(self, seconds: int) -> None:
        """Lets time pass and has all feeds publish their last price again, so that nothing is stale."""
        self.evm.travel(seconds)
        self.refresh()

    def travel_to(self, timestamp_s: int) -> None:
        self.evm.travel_to(timestamp_s)
        self.refresh()

    def refresh(self) -> None:
        for symbol in (self.book.quote_symbol, *(asset.symbol for asset in self.book.assets)):
            self.new_round(symbol)

    def new_round(self, symbol: str = "ETH") -> None:
        """Has one feed publish its last price again."""
        is_quote = symbol == self.book.quote_symbol
        feed = self.book.quote_feed if is_quote else self.book.asset(symbol).feed
        self.market.publish(symbol, feeds.fetch_price(self.evm, feed))

    def set_price(self, symbol: str, price_usd: int | str | Decimal, *, pool_follows: bool = True) -> None:
        """A new Chainlink round, and an arbitrageur who brings the pool there."""
        self.market.publish(symbol, Decimal(price_usd))
        if pool_follows and symbol != self.book.quote_symbol:
            self.market.arbitrage(symbol)

    def token_of(self, symbol: str) -> str:
        return self.book.asset(symbol).token

    # Agents and strategies

    def register_agent(
        self,
        controller: Account | None = None,
        signer: Account | None = None,
        *,
        bond_wei: int = tokens(50_000),
        deposit: int = usd(60_000),
    ) -> int:
        controller, signer = controller or self.controller, signer or self.signer
        [registered, *_] = self.send(self.agents.functions.register("ipfs://agent", signer.address), controller)
        agent_id = int(registered.args["agentId"])
        if bond_wei:
            self.post_bond(agent_id, bond_wei, controller)
        if deposit:
            self.market.give_quote(controller, deposit)
            self.send(self.quote.functions.approve(self.d.agents, deposit), controller)
            self.send(self.agents.functions.postDeposit(agent_id, deposit), controller)
        return agent_id

    def post_bond(self, agent_id: int, amount_wei: int, sender: Account | None = None) -> list[EventLog]:
        sender = sender or self.controller
        self.send(self.token.functions.approve(self.d.agents, amount_wei), sender)
        return self.send(self.agents.functions.postBond(agent_id, amount_wei), sender)

    def bond_of(self, agent_id: int) -> int:
        return int(self.view(self.agents.functions.agentOf(agent_id)).bond)

    def manifest(
        self, agent_id: int, *, assets: Sequence[str] = ("ETH",), limits: Limits = LIMITS, **over: Any
    ) -> dict:
        """A manifest within the constitution; `over` replaces fields by Solidity name. web3 takes `struct(…)`."""
        code_hash = lambda address: Web3.keccak(self.w3.eth.get_code(address))  # noqa: E731
        return {
            "artefactHash": Web3.keccak(text="artefact v1"),
            "agentId": agent_id,
            "updates": bytes(32),
            "vaultImplementation": self.d.vault_implementation,
            "vaultCodeHash": code_hash(self.d.vault_implementation),
            "venue": self.d.venue,
            "venueCodeHash": code_hash(self.d.venue),
            "assets": [(self.token_of(symbol), self.book.asset(symbol).pool_fee) for symbol in assets],
            "limits": limits.as_tuple(),
            "rewardRate": REWARD_RATE,
            "rewardCap": tokens(5_000),
            "capital": usd(1_000_000),
            "salt": bytes(32),
        } | over

    def submit(self, manifest: Mapping[str, Any], sender: Account | None = None) -> bytes:
        manifest_hash = self.view(self.strategies.functions.submit(struct(manifest)))
        self.send(self.strategies.functions.submit(struct(manifest)), sender or self.stranger)
        return bytes(manifest_hash)

    def deploy_strategy(self, agent_id: int | None = None, **manifest_options: Any) -> Strategy:
        """A running strategy, deployed as the timelock would: for tests that begin after the vote."""
        agent_id = agent_id or self.register_agent()
        manifest = self.manifest(agent_id, **manifest_options)
        strategy_id = self.submit(manifest)
        self.as_timelock(self.strategies.functions.approve(strategy_id))
        self.as_timelock(self.factory.functions.deployVault(strategy_id))
        if manifest["capital"]:
            self.as_timelock(self.treasury.functions.allocate(strategy_id, manifest["capital"]))
        return Strategy(strategy_id, self.vault_of(strategy_id), agent_id, manifest)

    def vault_of(self, strategy_id: bytes) -> Contract:
        return self.d.vault(self.evm, self.view(self.strategies.functions.vaultOf(strategy_id)))

    # Trading

    def order(self, s: Strategy, amount_in: int, *, buy: bool, symbol: str = "ETH", **over: Any) -> dict[str, Any]:
        """An order that only its size can make wrong."""
        return {
            "asset": self.token_of(symbol),
            "buy": buy,
            "nonce": self.view(s.vault.functions.guard()).nonce,
            "deadline": self.now_s() + HOUR_S,
            "amountIn": amount_in,
            "minAmountOut": NO_MINIMUM,
            "artefactHash": self.view(s.vault.functions.artefactHash()),
            "explanationHash": EXPLANATION,
            "observationHash": OBSERVATION,
        } | over

    def trade(
        self, s: Strategy, amount_in: int, *, buy: bool, sender: Account | None = None, **over: Any
    ) -> list[EventLog]:
        return self.send(
            s.vault.functions.trade(struct(self.order(s, amount_in, buy=buy, **over))), sender or self.signer
        )

    def buy(self, s: Strategy, quote_amount: int, **over: Any) -> list[EventLog]:
        return self.trade(s, quote_amount, buy=True, **over)

    def sell(self, s: Strategy, asset_amount: int, **over: Any) -> list[EventLog]:
        return self.trade(s, asset_amount, buy=False, **over)

    def held(self, s: Strategy, symbol: str = "ETH") -> int:
        return int(self.view(s.vault.functions.positionOf(self.token_of(symbol))).amount)

    def status(self, s: Strategy) -> Any:
        return self.view(s.vault.functions.status())

    def poke(self, s: Strategy, sender: Account | None = None) -> list[EventLog]:
        return self.send(s.vault.functions.poke(), sender or self.stranger)

    # Epochs

    def epoch_start_s(self, epoch: int) -> int:
        return self.first_epoch_s + epoch * EPOCH_S

    def current_epoch(self) -> int:
        return (self.now_s() - self.first_epoch_s) // EPOCH_S

    def to_next_window(self) -> int:
        """Travels to just inside the next observation window; returns the epoch that it observes."""
        epoch = self.current_epoch()
        self.travel_to(self.epoch_start_s(epoch + 1) + 60)
        return epoch

    def to_window_end(self) -> None:
        """Travels to just after the window that is open now."""
        self.travel_to(self.epoch_start_s(self.current_epoch()) + WINDOW_S + 1)

    def settle(self, s: Strategy) -> int:
        """Observes the next window, closes it and applies its result; returns the result."""
        self.to_next_window()
        self.poke(s)
        self.to_window_end()
        if move := self.close(s):
            self.apply(s, move)
        return move

    def observe_at(self, s: Strategy, *prices_usd: int | str | Decimal, symbol: str = "ETH") -> list[int]:
        """One observation at each price, now; returns the profits observed. The pool's price stays where it is."""
        profits = []
        for price_usd in prices_usd:
            self.set_price(symbol, price_usd, pool_follows=False)
            profits.append(int(one(self.poke(s), "ProfitObserved")["profit"]))
        return profits

    def close(self, s: Strategy) -> int:
        """Closes the window that ended last; returns the move, which is still to be applied."""
        events = self.send(self.pool.functions.closeWindow(s.vault.address), self.stranger)
        return int(one(events, "WindowClosed")["move"])

    def apply(self, s: Strategy, pnl: int) -> list[EventLog]:
        return self.send(self.dao.functions.rewardAgent(s.agent_id, pnl), self.stranger)

    def account(self, s: Strategy) -> Any:
        return self.view(self.pool.functions.accountOf(s.vault.address))

    def assert_books_balance(self) -> None:
        """For each vault, everything paid less everything taken is rate x A; and the pool's balance is what is free,
        for bounties, set aside, or owed: no more, no less. Told from events and accounts, donations apart."""
        events = self.history(self.pool)
        total = lambda name, key, **of: sum(  # noqa: E731
            e.args[key] for e in events if e.name == name and all(e.args[k] == v for k, v in of.items())
        )
        held = sum(self.view(call()) for call in (self.pool.functions.free, self.pool.functions.bountyFund))
        held += total("BountyEarned", "amount") - total("BountyClaimed", "amount")
        for vault in (e.args["vault"] for e in events if e.name == "VaultRegistered"):
            a = self.view(self.pool.functions.accountOf(vault))
            paid, claimed = total("Rewarded", "reward", vault=vault), total("Claimed", "amount", vault=vault)
            unclaimed, bond = (total("ClawedBack", key, vault=vault) for key in ("fromUnclaimed", "fromBond"))
            assert paid - unclaimed - bond == a.rate * a.credited, f"{vault} does not telescope"
            assert a.unvested + a.vested == paid - unclaimed - claimed, f"{vault}: what is owed"
            held += a.earmark + a.unvested + a.vested
        assert self.view(self.token.functions.balanceOf(self.d.pool)) == held, "the pool's balance"

    # Voting

    def propose(self, calls: Sequence[Any], description: str = "a proposal", proposer: Account | None = None) -> int:
        """A generic proposal of bound contract functions."""
        arguments = (
            [c.address for c in calls],
            [0] * len(calls),
            [c._encode_transaction_data() for c in calls],
            description,
        )
        proposal_id = self.view(self.dao.functions.getProposalId(*arguments[:3], Web3.keccak(text=description)))
        self.send(self.dao.functions.propose(*arguments), proposer or self.proposer)
        return int(proposal_id)

    def propose_strategy(
        self, manifest: Mapping[str, Any], description: str = "a strategy", proposer: Account | None = None
    ) -> int:
        events = self.send(self.dao.functions.proposeStrategy(struct(manifest), description), proposer or self.proposer)
        return int(next(e for e in events if e.name == "StrategyProposed").args["proposalId"])

    def to_voting(self, proposal_id: int) -> None:
        self.travel_to(int(self.view(self.dao.functions.proposalSnapshot(proposal_id))) + 1)

    def vote(self, proposal_id: int, support: int = 1, voters: Sequence[Account] | None = None) -> None:
        for voter in voters if voters is not None else (self.voter_a, self.voter_b):
            self.send(self.dao.functions.castVote(proposal_id, support), voter)

    def to_deadline(self, proposal_id: int) -> None:
        """Travels to just after the deadline, as it is now."""
        self.travel_to(int(self.view(self.dao.functions.proposalDeadline(proposal_id))) + 1)

    def queue(self, proposal_id: int) -> None:
        self.send(self.dao.functions.deployApproved(proposal_id), self.stranger)

    def execute(self, proposal_id: int) -> list[EventLog]:
        """Waits for the timelock and executes."""
        self.travel_to(int(self.view(self.dao.functions.proposalEta(proposal_id))) + 1)
        return self.send(self.dao.functions.deployApproved(proposal_id), self.stranger)

    def pass_proposal(self, proposal_id: int) -> list[EventLog]:
        """Votes a proposal in and executes it; returns the events of the execution."""
        self.to_voting(proposal_id)
        self.vote(proposal_id)
        self.to_deadline(proposal_id)
        self.queue(proposal_id)
        return self.execute(proposal_id)

    def state(self, proposal_id: int) -> str:
        return PROPOSAL_STATES[self.view(self.dao.functions.state(proposal_id))]

    def sign_ballot(
        self, voter: Account, proposal_id: int, support: int, *, signatory: str | None = None, **over: Any
    ) -> bytes:
        """An EIP-712 ballot of OpenZeppelin's Governor; `over` replaces fields of the domain or the message.
        `signatory`: the voter named in the ballot when it is a contract that `voter` signs for."""
        voter_address = signatory or voter.address
        domain = {
            "name": "MARKETFLOW_DAO", "version": "1",
            "chainId": self.w3.eth.chain_id, "verifyingContract": self.dao.address,
        }  # fmt: skip
        message = {
            "proposalId": proposal_id, "support": support, "voter": voter_address,
            "nonce": self.view(self.dao.functions.nonces(voter_address)),
        }  # fmt: skip
        types = {
            "Ballot": [
                {"name": "proposalId", "type": "uint256"}, {"name": "support", "type": "uint8"},
                {"name": "voter", "type": "address"}, {"name": "nonce", "type": "uint256"},
            ]
        }  # fmt: skip
        for key, value in over.items():
            (domain if key in domain else message)[key] = value
        signed = EthAccount.sign_typed_data(voter.key, domain, types, message)
        return bytes(signed.signature)


def struct(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """A struct as web3 takes it: its fields in the contract's order, which `manifest` and `order` keep."""
    return tuple(values.values())


def one(events: Sequence[EventLog], name: str) -> dict[str, Any]:
    """The arguments of the only event of that name."""
    found = [event.args for event in events if event.name == name]
    assert len(found) == 1, f"{len(found)} events {name} among {[event.name for event in events]}"
    return found[0]


def none_of(events: Sequence[EventLog], name: str) -> bool:
    return all(event.name != name for event in events)


def proposal_states(*names: str) -> bytes:
    """The bitmap of allowed states that OpenZeppelin's errors carry."""
    return sum(1 << PROPOSAL_STATES.index(name) for name in names).to_bytes(32, "big")
