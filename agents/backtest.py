"""A backtest through the live cycle's own code: the same `Cycle.run` that trades, with past prices for a chain.

Observation, decision, intent, review, explanation and journal are the real ones; the three ports are served here
from bars: its oracle by their closes as rounds, its clock by their close times, its execution by the model of the
vault and the pool (`offchain_rl.spot_vault`), which is the contract's own integer for integer. On a series without gaps
`offchain_rl.backtest.run_backtest` gives the same result to the last unit, some hundred times as fast; across a gap the
live cycle sees the last answer go on, and the fast path does not see the gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.constitution import OperatorLimits
from agents.cycle import Cycle
from agents.execution import Ended, Order, Outcome
from agents.explanation import explanation_hash
from agents.journal import Journal
from offchain_rl import spot_vault as model
from offchain_rl.artefact import Artefact
from offchain_rl.backtest import Backtest, BacktestConfig
from offchain_rl.observation import BPS, BadObservation
from offchain_rl.prices import Bars
from offchain_rl.spot_vault import BUY, SELL, Planned, Vault
from oracle.chain import BlockRef
from oracle.chainlink import Round
from oracle.vault_state import WAD, EffectiveLimits, PositionReading, Reason, VaultReading, VaultState

ASSET, QUOTE, VAULT = ("0x" + f"{number:040x}" for number in (0xA55E7, 0x9007E, 0xBAC7E57))
QUOTE_UNIT = 10**6


class Documents:
    """Explanations, hashed as they are when they are kept, and counted."""

    def __init__(self) -> None:
        self.count = 0

    def put(self, document: Mapping[str, Any]) -> str:
        """The document's hash."""
        self.count += 1
        return explanation_hash(document)


@dataclass(slots=True, kw_only=True)
class PastMarket:
    """The cycle's ports over past bars: `VaultSource`, `RoundSource` and `Execution` in one, at one bar at a time."""

    artefact: Artefact
    bars: Bars
    config: BacktestConfig
    journal: Journal
    # The bar that has just closed, and the vault as it is then.
    bar: int
    vault: Vault
    terms: model.Terms
    rounds: list[Round]

    def fetch(self, block: BlockRef) -> VaultReading:
        """The vault as a reader of the chain would see it."""
        v, limits = self.vault, self.config.limits
        per_value = WAD // self.config.start_quote
        reasons = reasons_of(v)
        return VaultReading(
            block=block, address=VAULT, strategy_id="0x" + "00" * 32, artefact_hash=self.artefact.artefact_hash,
            agent_id=1, state=state_of(reasons), reasons=reasons, recorded_reasons=reasons,
            value=v.last_value, quote_held=v.quote, quote_unit=QUOTE_UNIT,
            quote_round=Round(token=QUOTE, round_id=1, answer=10**8, updated_at_s=block.timestamp_s),
            unit_price_wad=v.last_value * per_value, peak_wad=v.peak_value * per_value,
            reference_wad=max(v.before_today, v.before_yesterday) * per_value,
            profit=v.last_value - self.config.start_quote, nonce=v.trades,
            trades_today=v.trades_today, turnover_today=v.turnover_today,
            slippage_level=v.slippage_level, slippage_at_s=v.slippage_at_s,
            slippage_decay_s=self.config.rules.slippage_decay_s,
            limits=EffectiveLimits(**{name: getattr(limits, name) for name in limits.__slots__}),
            positions=(
                PositionReading(
                    token=ASSET, unit=self.config.asset_unit, amount=v.asset, price_wad=v.price_e8 * 10**10,
                    round=self.rounds[self.bar],
                ),
            ),
        )  # fmt: skip

    def fetch_since(self, last: Round, since_s: int) -> tuple[Round, ...]:
        """Closes as rounds, up to the bar that has just closed, one more than was asked for."""
        reach = (last.updated_at_s - since_s) // self.bars.bar_s + 2
        return tuple(self.rounds[max(self.bar - reach, 0) : self.bar + 1])

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        """The order filled by the pool in the next bar, and what the vault says to it."""
        intent = order.intent
        self.journal.sign(journal_row, account="past", account_nonce=journal_row, raw=b"", transaction_hash="")
        self.journal.sent(journal_row)
        planned = Planned(BUY if intent.is_buy else SELL, intent.amount_in, intent.min_amount_out, intent.value, 1)
        ended = self._execute(planned, order.deadline_s)
        self.journal.mined(journal_row, ended)
        return Outcome(ended=ended)

    def _execute(self, order: Planned, deadline_s: int) -> Ended:
        bars, following, t = self.bars, self.bar + 1, self.terms
        now_s = int(bars.timestamps_s[following]) + t.latency_s
        open_e8, close_e8 = int(bars.open_e8[following]), int(bars.close_e8[following])
        received = model.fill(
            order.side, order.amount_in, model.fill_price(open_e8, close_e8, t.latency_s, bars.bar_s), t
        )
        if now_s > deadline_s:
            received = 0  # mined too late: it reverts
        self.vault, result = model.trade(self.vault, order, received, self.vault.price_e8, now_s, t)
        return {model.TRADED: Ended.TRADED, model.REFUSED: Ended.REFUSED, model.REVERTED: Ended.REVERTED}[result]


def run_cycle(
    artefact: Artefact, bars: Bars, config: BacktestConfig | None = None, *, start: int | None = None
) -> Backtest:
    """The artefact over `bars` by the live cycle, as `run_backtest` does it. Raises BadObservation as it does."""
    config = config or BacktestConfig()
    if WAD % config.start_quote:
        raise ValueError(f"start_quote is {config.start_quote}: unit prices are exact for divisors of 10^18 only")
    first = artefact.observation.lookback - 1
    start = first if start is None else start
    if not first <= start < len(bars) - 1:
        raise BadObservation(f"{len(bars)} bars: starts between bar {first} and bar {len(bars) - 2}, not {start}")
    closes, closes_s = bars.close_e8.tolist(), (bars.timestamps_s + bars.bar_s).tolist()
    journal = Journal(":memory:")
    market = PastMarket(
        artefact=artefact, bars=bars, config=config, journal=journal, bar=start,
        vault=model.open_vault(config.start_quote, 0, closes[start], closes_s[start], config.asset_unit),
        terms=model.terms_of(config.costs, config.limits, config.rules, unit=config.asset_unit),
        rounds=[
            Round(token=ASSET, round_id=i + 1, answer=answer, updated_at_s=at_s)
            for i, (answer, at_s) in enumerate(zip(closes, closes_s, strict=True))
        ],
    )  # fmt: skip
    cycle = Cycle(
        chain_id=0, artefact=artefact, vaults=market, rounds=market, execution=market, journal=journal,
        documents=Documents(),  # type: ignore[arg-type]  # the store's `put`; nothing is read back
        decimals={ASSET: 8}, operator=wishes_of(config),
    )  # fmt: skip
    values, weights, targets = [market.vault.equity], [0], []
    for bar in range(start, len(bars) - 1):
        market.bar = bar
        (step,) = cycle.run(BlockRef(number=bar, timestamp_s=closes_s[bar], hash="0x" + f"{bar:064x}"))
        market.vault = model.close_bar(market.vault, closes[bar + 1], closes_s[bar + 1], market.terms)
        values.append(market.vault.equity)
        weights.append(model.weight_bps_of(market.vault))
        is_asked = step.decision is not None and step.decision.is_rebalance
        targets.append(step.decision.target_weight_bps if step.decision and is_asked else None)
    return Backtest(
        bar_s=bars.bar_s, start_s=closes_s[start], end_s=closes_s[-1], values=tuple(values),
        weights_bps=tuple(weights), targets_bps=tuple(targets), vault=market.vault,
    )  # fmt: skip


def wishes_of(config: BacktestConfig) -> OperatorLimits:
    """The operator's limits: none tighter than the vault's, but for dust."""
    position_bps = max(config.limits.max_position_bps, BPS)
    return OperatorLimits(min_trade_value=config.rules.min_trade_value, max_position_bps=position_bps)


def reasons_of(v: Vault) -> int:
    """Why the vault is not ACTIVE, as the contract says it."""
    reasons = Reason(0)
    if v.breached_day == v.day:
        reasons |= Reason.DAY_LOSS
    if v.is_drawdown:
        reasons |= Reason.DRAWDOWN
    if v.halted_at_s:
        reasons |= Reason.HALTED
    return int(reasons)


def state_of(reasons: int) -> VaultState:
    """The state that goes with these reasons."""
    if reasons & Reason.HALTED:
        return VaultState.HALTED
    return VaultState.REDUCING if reasons else VaultState.ACTIVE
