"""The whole circle on a local chain with real prices: train, propose, vote, deploy, trade, explain, reward.

Prices are replayed as Chainlink rounds, and an arbitrageur keeps the pools at them. Nobody's hand is on them: what
happens to the strategies follows from the market and from what the people below do.

    alice, bob, carol    hold most tokens; alice votes herself, bob and carol sign ballots that a relayer submits
    dave                 proposes a strategy that nobody wants
    operator_a           runs a policy trained on the bars before the first one that is traded
    operator_b           runs a moving-average rule, which the DAO later replaces and takes capital from
    operator_c           buys and then lets the machine stand still
    rogue                was voted in like the others, and sends whatever it likes past any review
    keeper               observes, settles, and earns bounties;  bidder buys what is auctioned
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.audit import Auditor, Finding
from agents.ballots import Support, sign_ballot, submit_ballot
from agents.constitution import OperatorLimits
from agents.contracts import decode_logs
from agents.cycle import Cycle, Step
from agents.deployment import Deployment, Genesis, Limits, deploy_protocol
from agents.deployments import NetworkDeployment
from agents.explanation import DocumentStore
from agents.genesis import load_genesis
from agents.journal import Journal
from agents.ledger import fetch_entries
from agents.localnet import feeds
from agents.localnet.evm import Account, CallReverted, LocalEvm, TransactionReverted
from agents.localnet.market import LocalMarket, pool_readers
from agents.manifest import build_manifest
from agents.settlement import Settler
from agents.vault_execution import VaultExecution
from offchain_rl.artefact import ActionSpec, Artefact
from offchain_rl.observation import ObservationSpec
from offchain_rl.prices import Bars
from oracle.chain import fetch_block
from oracle.chainlink import ChainlinkReader
from oracle.consensus import ConsensusReader, ConsensusRules
from oracle.multicall import fetch_many
from oracle.vault_state import VaultReader, VaultState, reason_names

if TYPE_CHECKING:
    from agents.solana_demo import SolanaSide

BPS, WAD = 10_000, 10**18
QUOTE_UNIT = 10**6
DAY_S = 86_400
FEED_DECIMALS = 8
# Well within the blocks whose state a local node keeps.
AUDIT_EVERY_BARS = 20
POKE_EVERY_BARS = 6
# More than the blocks that trade in one pool during a mean's window.
OBSERVATIONS = 60
GENESIS_FILE = Path(__file__).resolve().parents[1] / "deployments" / "genesis" / "local.toml"

PEOPLE = (
    "deployer alice bob carol dave relayer keeper bidder guardian team "
    "operator_a operator_b operator_c rogue key_a key_b key_c"
).split()

# Roomy enough for a market that moves by 10 % a day.
LIMITS = Limits(
    max_position_bps=6000,
    max_trade_slippage_bps=80,
    max_cumulative_slippage_bps=250,
    max_reduce_slippage_bps=250,
    max_reduce_cumulative_slippage_bps=500,
    max_trades_per_day=24,
    max_daily_turnover_bps=20_000,
    max_daily_loss_bps=1200,
    max_drawdown_bps=2000,
    hard_drawdown_bps=3000,
)
# So tight that each clause can be reached by trading alone.
ROGUE_LIMITS = Limits(
    max_position_bps=3000,
    max_trade_slippage_bps=80,
    max_cumulative_slippage_bps=20,
    max_reduce_slippage_bps=100,
    max_reduce_cumulative_slippage_bps=100,
    max_trades_per_day=6,
    max_daily_turnover_bps=5000,
    max_daily_loss_bps=40,
    max_drawdown_bps=150,
    hard_drawdown_bps=1500,
)
REWARD_RATE = 10**11  # a tenth of a token for one quote token of profit
REWARD_CAP_WEI = 8000 * WAD


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """What a run depends on."""

    # By symbol; the first asset is what most strategies trade. All on the same grid.
    series: Mapping[str, Bars]
    # Bars before this one are history: published, and trained on, but not traded.
    first_bar: int
    bars: int
    artefact: Artefact
    out: Path
    seed: int = 1
    liquidity_usd: Decimal = Decimal(200_000_000)
    genesis: Path = GENESIS_FILE
    # With a vault on a local Solana, too, for the trained policy.
    with_solana: bool = False


@dataclass(slots=True, kw_only=True)
class Strategy:
    """One strategy of the demo, from its proposal to its vault."""

    name: str
    kind: str
    artefact: Artefact
    symbol: str
    limits: Limits
    operator: Account
    key: Account
    agent_id: int = 0
    proposal_id: int = 0
    id: str = ""
    vault: Any = None
    cycle: Cycle | None = None
    settler: Settler | None = None
    # When the operator's machine stopped; None while it runs.
    silent: bool = False
    # After each bar: unit price x 1e18, or None before the vault has capital.
    equity: list[int | None] = field(default_factory=list)
    steps: list[tuple[int, Step]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Vote:
    """A proposal on its way through governance."""

    title: str
    proposal_id: int
    support: Support
    on_executed: Callable[[], None] | None = None
    is_voted: bool = False


class Demo:
    """One run. `say` gets a line for each thing worth watching."""

    def __init__(self, evm: LocalEvm, config: DemoConfig, say: Callable[[str], None]) -> None:
        self.evm, self.config, self.say = evm, config, say
        self.people = dict(zip(PEOPLE, evm.accounts, strict=False))
        self.symbols = list(config.series)
        self.prices: dict[str, list[int]] = {symbol: [] for symbol in self.symbols}
        self.votes: list[Vote] = []
        # Transactions that the chain refused, and the errors that the rogue has met.
        self.reverted: list[bytes] = []
        self.refused_for: set[str] = set()
        self.is_rejudged = False
        # By trade id, and the block up to which trades have been audited.
        self.findings: dict[str, list[Finding]] = {}
        self.audited_to = 0
        # Artefacts that an update replaced: their trades are still in the ledger.
        self.superseded: dict[str, list[Artefact]] = {}
        self.documents = DocumentStore(config.out / "explanations")
        self.journal = Journal(config.out / "journal.sqlite")
        self.solana: SolanaSide | None = None

    # Setting up

    def set_up(self) -> None:
        """The market with its past, the protocol, the agents and their stakes, and the first proposals."""
        first = self.config.series[self.symbols[0]]
        start = self.config.first_bar - self.config.artefact.observation.lookback
        self.market = self._deploy_market(start)
        for index in range(start, self.config.first_bar):
            self._publish(index)
        for symbol in self.symbols:
            self.market.arbitrage(symbol)
        people = {name: account.address for name, account in self.people.items()}
        genesis = load_genesis(self.config.genesis, market=self.market.book, people=people, now_s=self.evm.now_s())
        self.d: Deployment = deploy_protocol(self.evm, genesis, sender=self.people["deployer"])
        for name in ("token", "dao", "agents", "strategies", "pool", "ledger", "oracle", "constitution", "treasury"):
            setattr(self, name, self.d.contract(self.evm, name))
        NetworkDeployment(protocol=self.d, market=self.market.book).save(self.config.out / "deployment.json")
        self.market.give_quote(self.d.treasury, 5_000_000 * QUOTE_UNIT)
        for voter in ("alice", "bob", "carol", "dave"):
            self._send(self.token.functions.delegate(self.people[voter].address), voter)
        self.evm.mine(2)
        self.strategies_by_name = {s.name: s for s in self._plan_strategies()}
        for strategy in self.strategies_by_name.values():
            self._register(strategy)
        self.rounds = ChainlinkReader(
            self.evm,
            {asset.token: self.evm.at("FeedProxy", asset.feed) for asset in self.market.book.assets}
            | {self.market.book.quote: self.evm.at("FeedProxy", self.market.book.quote_feed)},
        )
        self.consensus = ConsensusReader(pool_readers(self.evm, self.market.book))
        self._propose_all()
        if self.config.with_solana:
            self._begin_on_solana(genesis, start)
        self.say(f"deployed {len(self.symbols)} market(s) and the protocol; {len(self.votes)} proposals are in")
        self.started_at_s = int(first.timestamps_s[self.config.first_bar])

    def _begin_on_solana(self, genesis: Genesis, start: int) -> None:
        """A protocol there that answers to this DAO, and the proposal of a vault for the trained policy."""
        from agents.solana_demo import SolanaSide  # the Solana packages: half a second to import

        bars, strategy = self.config.series[self.symbols[0]], self.strategies_by_name[self.config.artefact.name]
        past = range(start, self.config.first_bar)
        self.solana = SolanaSide(
            evm=self.evm, deployment=self.d, genesis=genesis, artefact=strategy.artefact, limits=strategy.limits,
            capital=self.capital(strategy), reward_rate_wei=REWARD_RATE, reward_cap_wei=REWARD_CAP_WEI, say=self.say,
            history=[(int(bars.timestamps_s[i]) + bars.bar_s, int(bars.close_e8[i])) for i in past],
            out=self.config.out,
        )  # fmt: skip
        calls = self.solana.decisions()
        targets, data = [call.address for call in calls], [call._encode_transaction_data() for call in calls]
        title = "Open a vault on Solana and give it capital"
        events = self._send(self.dao.functions.propose(targets, [0] * len(calls), data, title), "alice")
        proposal_id = int(next(e for e in events if e.name == "ProposalCreated").args["proposalId"])
        self.votes.append(
            Vote(title=title, proposal_id=proposal_id, support=Support.FOR, on_executed=self.solana.carry_over)
        )

    def _deploy_market(self, start: int) -> LocalMarket:
        prices = {symbol: _usd(bars.close_e8[start]) for symbol, bars in self.config.series.items()}
        market = LocalMarket.deploy(
            self.evm, base_price_usd=prices[self.symbols[0]], deployer=self.people["deployer"],
            symbol=self.symbols[0], pool_fee=500, liquidity_usd=self.config.liquidity_usd,
        )  # fmt: skip
        for symbol in self.symbols[1:]:
            market.add_asset(
                symbol, price_usd=prices[symbol], decimals=8, pool_fee=500, liquidity_usd=self.config.liquidity_usd
            )
        for symbol in self.symbols:
            market.remember(symbol, OBSERVATIONS)
        return market

    def _plan_strategies(self) -> Iterator[Strategy]:
        first, last, p = self.symbols[0], self.symbols[-1], self.people
        yield Strategy(
            name=self.config.artefact.name, kind="rl", artefact=self.config.artefact, symbol=first,
            limits=LIMITS, operator=p["operator_a"], key=p["key_a"],
        )  # fmt: skip
        yield Strategy(
            name="moving-average", kind="baseline", artefact=moving_average(48, 336), symbol=last,
            limits=replace(LIMITS, max_drawdown_bps=900), operator=p["operator_b"], key=p["key_b"],
        )  # fmt: skip
        yield Strategy(
            name="buy-and-forget", kind="baseline", artefact=buy_and_hold(8000), symbol=first,
            limits=replace(LIMITS, max_position_bps=9000, max_drawdown_bps=1200, hard_drawdown_bps=1700),
            operator=p["operator_c"], key=p["key_c"],
        )  # fmt: skip
        yield Strategy(
            name="steady-yield", kind="rogue", artefact=buy_and_hold(1000), symbol=first,
            limits=ROGUE_LIMITS, operator=p["rogue"], key=p["rogue"],
        )  # fmt: skip

    def _register(self, strategy: Strategy) -> None:
        """An agent with its bond, and a deposit that covers the slippage its limits allow on twice the capital."""
        register = self.agents.functions.register(f"marketflow:{strategy.name}", strategy.key.address)
        events = self._send(register, strategy.operator)
        strategy.agent_id = int(next(e for e in events if e.name == "Registered").args["agentId"])
        limits, bond_wei = strategy.limits, 100_000 * WAD
        share_bps = limits.max_cumulative_slippage_bps + limits.max_reduce_cumulative_slippage_bps
        deposit = 2 * self.capital(strategy) * share_bps // BPS
        self._send(self.token.functions.approve(self.d.agents, bond_wei), strategy.operator)
        self._send(self.agents.functions.postBond(strategy.agent_id, bond_wei), strategy.operator)
        self.market.give_quote(strategy.operator, deposit)
        quote = self.evm.at("QuoteToken", self.market.book.quote)
        self._send(quote.functions.approve(self.d.agents, deposit), strategy.operator)
        self._send(self.agents.functions.postDeposit(strategy.agent_id, deposit), strategy.operator)

    def capital(self, strategy: Strategy) -> int:
        """Base units of quote that the proposal asks for."""
        return (2_000_000 if strategy.kind == "rogue" else 500_000) * QUOTE_UNIT

    # Governance

    def _propose_all(self) -> None:
        for strategy in self.strategies_by_name.values():
            proposal_id = self._propose(self._manifest(strategy), f"Deploy {strategy.name}", "alice")
            strategy.proposal_id = proposal_id
            self.votes.append(
                Vote(
                    title=f"deploy {strategy.name}", proposal_id=proposal_id, support=Support.FOR,
                    on_executed=lambda s=strategy: self._go_live(s),
                )
            )  # fmt: skip
        greedy = replace(self.strategies_by_name["steady-yield"], name="greedy", limits=LIMITS, agent_id=1)
        manifest = self._manifest(greedy, reward_cap_wei=20_000 * WAD)
        proposal_id = self._propose(manifest, "Twenty thousand tokens an epoch, trust me", "dave")
        self.votes.append(Vote(title="greedy", proposal_id=proposal_id, support=Support.AGAINST))

    def _manifest(self, strategy: Strategy, *, reward_cap_wei: int = REWARD_CAP_WEI, **over: Any) -> Any:
        asset = self.market.book.asset(strategy.symbol)
        options: dict[str, Any] = {
            "artefact_hash": strategy.artefact.artefact_hash, "agent_id": strategy.agent_id,
            "assets": [(asset.token, asset.pool_fee)], "limits": strategy.limits,
            "reward_rate": REWARD_RATE, "reward_cap_wei": reward_cap_wei, "capital": self.capital(strategy),
        }  # fmt: skip
        return build_manifest(self.evm, self.d, **(options | over))

    def _propose(self, manifest: Any, description: str, proposer: str) -> int:
        events = self._send(self.dao.functions.proposeStrategy(manifest.as_tuple(), description), proposer)
        return int(next(e for e in events if e.name == "StrategyProposed").args["proposalId"])

    def _govern(self) -> None:
        """Moves every proposal one step on its way, when the step is due."""
        for vote in list(self.votes):
            state = self.evm.call(self.dao.functions.state(vote.proposal_id))
            if state == 1 and not vote.is_voted:
                self._cast(vote)
            elif state == 3:
                self.say(f"voted down: {vote.title}")
                self.votes.remove(vote)
            elif state == 4:
                self._send(self.dao.functions.deployApproved(vote.proposal_id), "keeper")
            elif state == 5 and self.evm.now_s() >= self.evm.call(self.dao.functions.proposalEta(vote.proposal_id)):
                self._send(self.dao.functions.deployApproved(vote.proposal_id), "keeper")
                self.say(f"voted in and executed: {vote.title}")
                self.votes.remove(vote)
                if vote.on_executed:
                    vote.on_executed()

    def _cast(self, vote: Vote) -> None:
        """alice votes herself; bob and carol sign, and the relayer pays."""
        self._send(self.dao.functions.voteStrategy(vote.proposal_id, int(vote.support)), "alice")
        for voter in ("bob", "carol"):
            ballot = sign_ballot(
                self.evm, self.d, proposal_id=vote.proposal_id, support=vote.support, key=self.people[voter].key
            )
            submit_ballot(self.evm, self.d, ballot, sender=self.people["relayer"])
        vote.is_voted = True

    def _go_live(self, strategy: Strategy) -> None:
        strategy.id = "0x" + bytes(self.evm.call(self.dao.functions.manifestOf(strategy.proposal_id))).hex()
        address = self.evm.call(self.strategies.functions.vaultOf(bytes.fromhex(strategy.id[2:])))
        strategy.vault = self.d.vault(self.evm, address)
        strategy.settler = Settler(self.evm, self.d, strategy.vault, self.people["keeper"])
        if strategy.kind != "rogue":
            strategy.cycle = self._cycle(strategy)

    def _cycle(self, strategy: Strategy) -> Cycle:
        return Cycle(
            chain_id=self.d.chain_id,
            artefact=strategy.artefact,
            vaults=self.reader(strategy),
            rounds=self.rounds,
            execution=VaultExecution(self.evm, strategy.vault, strategy.key, self.journal),
            journal=self.journal,
            documents=self.documents,
            decimals=self.decimals,
            operator=OperatorLimits(min_trade_value=1000 * QUOTE_UNIT),
            consensus=self.consensus,
            consensus_rules=ConsensusRules(twap_window_s=self._bar_s),
        )

    def reader(self, strategy: Strategy) -> VaultReader:
        return VaultReader(
            self.evm, vault=strategy.vault, constitution=self.constitution, oracle=self.oracle,
            quote=self.market.book.quote, quote_unit=QUOTE_UNIT,
        )  # fmt: skip

    @property
    def decimals(self) -> dict[str, int]:
        """Of every feed, by token."""
        return dict.fromkeys((self.market.book.quote, *(a.token for a in self.market.book.assets)), FEED_DECIMALS)

    # Bar by bar

    def run(self, on_bar: Callable[[int], None]) -> None:
        """All bars; `on_bar` is called with how many are done."""
        for done in range(self.config.bars):
            self._publish(self.config.first_bar + done)
            for symbol in self.symbols:
                self.market.arbitrage(symbol)
            if self.solana:
                self.solana.publish(self.prices[self.symbols[0]][-1], self.evm.now_s())
            self._govern()
            for strategy in self.strategies_by_name.values():
                status = None if strategy.vault is None else self._keep(strategy, done)
                strategy.equity.append(None if status is None else int(status.unitPriceWad))
                if status is not None:
                    self._run_strategy(strategy, status, done)
            if self.solana:
                self.solana.bar(done)
            self._schedule(done)
            if done % AUDIT_EVERY_BARS == 0:
                self.audit_new_trades()
            on_bar(done + 1)

    def audit_new_trades(self) -> None:
        """Decides every trade again that was made since the last time: an auditor who follows the chain, because a
        node that is no archive forgets what the state was."""
        for strategy in self.strategies_by_name.values():
            if strategy.vault is None:
                continue
            artefacts = {a.artefact_hash: a for a in (strategy.artefact, *self.superseded.get(strategy.name, ()))}
            auditor = Auditor(
                chain_id=self.d.chain_id, artefacts=artefacts, vaults=self.reader(strategy), rounds=self.rounds,
                documents=self.documents, decimals=self.decimals, fetch_block=lambda n: fetch_block(self.evm, n),
                consensus=self.consensus,
            )  # fmt: skip
            for entry in fetch_entries(self.evm, self.ledger, strategy.vault.address, from_block=self.audited_to + 1):
                self.findings[entry.id] = auditor.audit(entry)
        self.audited_to = self.evm.w3.eth.block_number

    def _publish(self, index: int) -> None:
        """One round of each feed at the bar's close."""
        closes_at_s = int(self.config.series[self.symbols[0]].timestamps_s[index]) + self._bar_s
        if closes_at_s > self.evm.now_s():
            self.evm.next_block_at(closes_at_s)
        for symbol in self.symbols:
            price_usd = _usd(self.config.series[symbol].close_e8[index])
            self.market.publish(symbol, price_usd)
            self.prices[symbol].append(int(self.config.series[symbol].close_e8[index]))
        quote_round = feeds.fetch_round(self.evm, self.market.book.quote_feed)
        if self.evm.now_s() - quote_round.updated_at_s >= 12 * 3600:
            self.market.publish(self.market.book.quote_symbol, Decimal(1))

    @property
    def _bar_s(self) -> int:
        return self.config.series[self.symbols[0]].bar_s

    def _keep(self, strategy: Strategy, done: int) -> Any:
        """The keeper's turn: settles what is due, and pokes when the vault does not know its own state yet."""
        assert strategy.settler is not None
        settlement = strategy.settler.step(self.evm.now_s())
        if settlement and settlement.pnl:
            paid, taken = settlement.reward_wei / WAD, settlement.clawed_back_wei / WAD
            self.say(
                f"{strategy.name}, epoch {settlement.epoch}: profit {settlement.pnl / QUOTE_UNIT:+,.0f}, "
                + (f"{paid:,.0f} tokens vest" if paid else f"{taken:,.0f} tokens taken back")
            )
        functions = strategy.vault.functions
        status, guard = fetch_many(self.evm, [functions.status(), functions.guard()])
        if status.reasons != guard.reasons or done % POKE_EVERY_BARS == 0:
            self._send(functions.poke(), "keeper")
            if status.reasons != guard.reasons:
                names = ", ".join(reason_names(status.reasons)) or "nothing wrong"
                self.say(f"{strategy.name} is {VaultState(status.state).name} now: {names}")
        return status

    def _run_strategy(self, strategy: Strategy, status: Any, done: int) -> None:
        if status.state == VaultState.HALTED:
            self._bid(strategy)
        elif strategy.kind == "rogue":
            self._misbehave(strategy, status)
        elif strategy.cycle is not None and not strategy.silent:
            steps = strategy.cycle.run(fetch_block(self.evm))
            strategy.steps += [(done, step) for step in steps if step.intent]
            self.reverted += [
                bytes(s.outcome.receipt["transactionHash"])
                for s in steps
                if s.outcome and s.outcome.error and s.outcome.error != "TradeRefused" and s.outcome.receipt
            ]
            if strategy.name == "buy-and-forget" and any(s.outcome for s in steps):
                strategy.silent = True
                self.say(f"{strategy.name} has bought; its operator's machine stands still from now on")

    def _schedule(self, done: int) -> None:
        """What the DAO does later: an update at a third of the way, a recall at half."""
        strategy = self.strategies_by_name["moving-average"]
        if strategy.vault is None:
            return
        if done == self.config.bars // 3:
            self._propose_update(strategy)
        if done == self.config.bars // 2:
            item = (self.market.book.quote, 100_000 * QUOTE_UNIT, 0)
            call = self.dao.functions.proposeRecall(bytes.fromhex(strategy.id[2:]), [item], "Take 100,000 back")
            events = self._send(call, "alice")
            proposal_id = int(next(e for e in events if e.name == "ProposalCreated").args["proposalId"])
            title = "recall 100,000 from moving-average"
            self.votes.append(Vote(title=title, proposal_id=proposal_id, support=Support.FOR))

    def _propose_update(self, strategy: Strategy) -> None:
        artefact = moving_average(24, 144)
        updated = replace(strategy, artefact=artefact)
        manifest = self._manifest(updated, updates=strategy.id, capital=0)
        proposal_id = self._propose(manifest, "A quicker moving average", "alice")

        def on_executed() -> None:
            self.superseded.setdefault(strategy.name, []).append(strategy.artefact)
            strategy.artefact = artefact
            strategy.cycle = self._cycle(strategy)

        self.votes.append(
            Vote(title="update moving-average", proposal_id=proposal_id, support=Support.FOR, on_executed=on_executed)
        )

    def _bid(self, strategy: Strategy) -> None:
        """The bidder takes a lot when it is at least one per cent below the oracle, and sells it to the pool."""
        asset, bidder = self.market.book.asset(strategy.symbol), self.people["bidder"]
        amount, quote_in, discount_bps = self.evm.call(strategy.vault.functions.auctionQuote(asset.token))
        if amount == 0 or discount_bps < 100:
            return
        quote = self.evm.at("QuoteToken", self.market.book.quote)
        self.market.give_quote(bidder, quote_in)
        self._send(quote.functions.approve(strategy.vault.address, quote_in), bidder)
        self._send(strategy.vault.functions.fillAuction(asset.token, quote_in), bidder)
        self.market.sell(strategy.symbol, amount, sender=bidder)
        self.say(f"{strategy.name}: a lot sold by auction, {discount_bps / 100:.2f} % below the oracle")

    # The rogue

    def _misbehave(self, strategy: Strategy, status: Any) -> None:
        """Tries what it has not been refused for yet: what a call says would be refused so is sent for real."""
        if status.state == VaultState.ACTIVE:
            for order, sender, aims_at in self._provocations(strategy, status):
                if aims_at <= self.refused_for:
                    continue
                call = strategy.vault.functions.trade(order)
                try:
                    self.evm.call(call, sender)
                except CallReverted as error:
                    if error.reason.name in aims_at - self.refused_for:
                        self._be_refused(call, sender, error.reason.name)
        self._churn(strategy, status)
        if "VaultDailyLossExceeded" in self.refused_for and not self.is_rejudged:
            self.is_rejudged = True
            self._propose_other_limits(strategy, status)

    def _be_refused(self, call: Any, sender: Account, name: str) -> None:
        self.refused_for.add(name)
        try:
            self.evm.send(call, sender)
        except TransactionReverted as sent:
            self.reverted.append(bytes(sent.receipt["transactionHash"]))
            numbers = ", ".join(f"{k} {v:,}" for k, v in sent.reason.args.items() if isinstance(v, int))
            self.say(f"rogue refused: {name}" + (f" ({numbers})" if numbers else ""))

    def _propose_other_limits(self, strategy: Strategy, status: Any) -> None:
        """The DAO has seen enough: a little below where it is now, the rogue's drawdown counts, whatever its days."""
        peak = self.evm.call(strategy.vault.functions.guard()).peak
        drawdown_bps = (peak - status.unitPriceWad) * BPS // peak
        limits = replace(strategy.limits, max_daily_loss_bps=500, max_drawdown_bps=drawdown_bps + 40)
        strategy.limits = limits
        manifest = self._manifest(strategy, updates=strategy.id, capital=0)
        proposal_id = self._propose(manifest, "Judge steady-yield by its drawdown", "alice")
        self.votes.append(Vote(title="new limits for steady-yield", proposal_id=proposal_id, support=Support.FOR))

    def _churn(self, strategy: Strategy, status: Any) -> None:
        """Trades back and forth within the limits, until a limit of the day is near."""
        asset = self.market.book.asset(strategy.symbol)
        held = self.evm.call(strategy.vault.functions.positionOf(asset.token)).amount
        guard = self.evm.call(strategy.vault.functions.guard())
        if status.state == VaultState.REDUCING:
            why = f"TradeRefused({', '.join(reason_names(status.reasons))})"
            if why not in self.refused_for:
                self.refused_for.add(why)
                order = self._order(strategy, True, 1000 * QUOTE_UNIT)
                self._send(strategy.vault.functions.trade(order), strategy.key)
                self.say(f"rogue refused: {why}")
            return
        daily = {"VaultTradeCountExceeded", "VaultTurnoverExceeded", "VaultCumulativeSlippageExceeded"}
        if held and daily <= self.refused_for:
            return  # it waits with what it has for a fall that brings the loss limits near
        if guard.tradesToday >= strategy.limits.max_trades_per_day:
            return
        amount, buy = (held, False) if held else (self.capital(strategy) * 750 // BPS, True)
        try:
            self._send(strategy.vault.functions.trade(self._order(strategy, buy, amount)), strategy.key)
        except TransactionReverted as error:
            self.reverted.append(bytes(error.receipt["transactionHash"]))

    def _provocations(self, strategy: Strategy, status: Any) -> Iterator[tuple[tuple[Any, ...], Account, set[str]]]:
        """Orders, their senders, and the clauses each may break as far as the state of the vault lets it."""
        key, stranger, small, value = strategy.key, self.people["dave"], 1000 * QUOTE_UNIT, int(status.value)
        order = lambda amount, **over: self._order(strategy, True, amount, **over)  # noqa: E731
        yield order(small), stranger, {"VaultNotSigningKey"}
        yield order(small, deadline=self.evm.now_s() - 1), key, {"VaultDeadlinePassed"}
        yield order(small, nonce=10_000), key, {"VaultWrongNonce"}
        yield order(small, artefact=b"\x01" * 32), key, {"VaultWrongArtefact"}
        yield order(small, explanation=bytes(32)), key, {"VaultUnexplained"}
        yield order(0), key, {"VaultZeroAmount"}
        yield order(small, asset=self.d.token), key, {"VaultUnknownAsset"}
        yield order(value * 2), key, {"VaultInsufficientHoldings"}
        yield order(value * 65 // 100), key, {"VaultSlippageExceeded"}
        yield order(value * 32 // 100), key, {"VaultPositionExceeded"}
        for share_bps in (500, 1000, 1500, 2000, 2500, 2900):
            yield order(value * share_bps // BPS), key, {
                "VaultTradeCountExceeded", "VaultTurnoverExceeded", "VaultCumulativeSlippageExceeded",
                "VaultDailyLossExceeded", "VaultDrawdownExceeded",
            }  # fmt: skip

    def _order(
        self,
        strategy: Strategy,
        buy: bool,
        amount: int,
        *,
        asset: str | None = None,
        nonce: int | None = None,
        deadline: int | None = None,
        artefact: bytes | None = None,
        explanation: bytes = b"\xee" * 32,
    ) -> tuple[Any, ...]:
        guard = self.evm.call(strategy.vault.functions.guard())
        return (
            asset or self.market.book.asset(strategy.symbol).token,
            buy,
            guard.nonce if nonce is None else nonce,
            self.evm.now_s() + 600 if deadline is None else deadline,
            amount,
            0,
            artefact or bytes.fromhex(strategy.artefact.artefact_hash[2:]),
            explanation,
            b"\xdd" * 32,
        )

    def _send(self, call: Any, sender: str | Account) -> list[Any]:
        return decode_logs(self.evm.send(call, self.people[sender] if isinstance(sender, str) else sender))


def moving_average(fast: int, slow: int, *, max_weight_bps: int = 5000) -> Artefact:
    """The baseline: the largest weight while the fast average is above the slow one, nothing below it."""
    feature = f"ma_cross_z:{fast}:{slow}"
    return Artefact(
        name=f"moving-average-{fast}-{slow}",
        kind="moving_average",
        observation=ObservationSpec(lookback=slow + 1, vol_window=slow, features=(feature, "weight")),
        action=ActionSpec(max_weight_bps=max_weight_bps),
        parameters={"feature": feature, "weight_above_bps": max_weight_bps, "weight_below_bps": 0},
        provenance={},
        report={},
    )


def buy_and_hold(weight_bps: int) -> Artefact:
    """A fixed share in the asset, come what may."""
    return Artefact(
        name=f"buy-and-hold-{weight_bps}",
        kind="buy_and_hold",
        observation=ObservationSpec(lookback=2, vol_window=1, features=("return_z:1", "weight")),
        action=ActionSpec(max_weight_bps=weight_bps),
        parameters={},
        provenance={},
        report={},
    )


def _usd(price_e8: Any) -> Decimal:
    return Decimal(int(price_e8)).scaleb(-8)


def count_by_name(names: Sequence[str]) -> dict[str, int]:
    """How often each name occurs, in alphabetical order."""
    return dict(sorted(Counter(names).items()))
