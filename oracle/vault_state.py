"""A vault as it is at one block: everything that a decision and its review depend on, in one reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import IntEnum, IntFlag
from typing import Any

from oracle.chain import BlockRef, ChainReader
from oracle.chainlink import Round
from oracle.multicall import fetch_many

WAD = 10**18
DAY_S = 86_400


class VaultState(IntEnum):
    """`VaultState` of Types.sol."""

    ACTIVE = 0
    REDUCING = 1
    HALTED = 2


class Reason(IntFlag):
    """Why a vault is not ACTIVE: the bits of Reasons.sol."""

    DAY_LOSS = 1
    DRAWDOWN = 2
    COLLATERAL = 4
    DEPOSIT = 8
    PRICE_MISSING = 16
    UNSETTLED = 32
    GUARDIAN = 64
    HALTED = 128
    QUOTE_UNHEALTHY = 256


# Plain numbers: flags take microseconds to be combined.
_REASON_NAMES = [(int(reason), str(reason.name)) for reason in Reason]


def reason_names(reasons: int) -> list[str]:
    """Names of the set bits, lowest first."""
    return [name for bit, name in _REASON_NAMES if reasons & bit] if reasons else []


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveLimits:
    """The stricter of the vault's limits and the constitution's ceilings, in basis points unless the name says more."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionReading:
    """One listed asset. `price_wad`: whole quote tokens x 1e18 for a whole token, 0 without a fresh price."""

    token: str
    # One whole token in base units.
    unit: int
    amount: int
    price_wad: int
    round: Round


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultReading:
    """Amounts in base units, values in base units of quote, unit prices x 1e18."""

    block: BlockRef
    address: str
    strategy_id: str
    artefact_hash: str
    # On Solana an address in base58.
    agent_id: int | str
    state: VaultState
    reasons: int
    # As the vault's last action wrote them down; `state` and `reasons` are those of the block.
    recorded_reasons: int
    value: int
    quote_held: int
    quote_unit: int
    quote_round: Round
    unit_price_wad: int
    peak_wad: int
    # What the daily loss is measured from: the higher of the last unit prices before today and before yesterday.
    reference_wad: int
    profit: int
    nonce: int
    trades_today: int
    turnover_today: int
    slippage_level: int
    slippage_at_s: int
    slippage_decay_s: int
    limits: EffectiveLimits
    positions: tuple[PositionReading, ...]

    @property
    def is_reducing(self) -> bool:
        return self.state is not VaultState.ACTIVE

    @property
    def is_emergency(self) -> bool:
        """Whether sales have the larger slippage limit: reducing for more than a window that is not settled yet."""
        return self.is_reducing and bool(self.reasons & ~Reason.UNSETTLED)

    def position(self, token: str) -> PositionReading:
        """The listed asset of that address. Raises KeyError with those there are."""
        for found in self.positions:
            if found.token == token:
                return found
        raise KeyError(f"{token} is not an asset of vault {self.address}; it lists {[p.token for p in self.positions]}")

    def priced_with(self, asset: str) -> list[PositionReading]:
        """The assets whose prices the vault reads for a trade of `asset`: what it holds, and that one."""
        return [p for p in self.positions if p.amount or p.token == asset]

    def value_of(self, token: str, amount: int) -> int:
        """Worth of an amount at the price read, rounded down; 0 without a price."""
        held = self.position(token)
        return amount * held.price_wad * self.quote_unit // (WAD * held.unit)

    def value_up(self, token: str, amount: int) -> int:
        """Worth of an amount at the price read, rounded up, as the guard counts what is sold; 0 without a price."""
        return -self.value_of(token, -amount)

    def asset_value(self, token: str) -> int:
        """Worth of what is held of an asset, rounded down."""
        return self.value_of(token, self.position(token).amount)


class VaultReader:
    """Reads one vault. `contracts`: bound web3 contracts of the vault, its constitution, oracle and ledger's quote."""

    def __init__(
        self, chain: ChainReader, *, vault: Any, constitution: Any, oracle: Any, quote: str, quote_unit: int
    ) -> None:
        self._chain, self._vault, self._constitution, self._oracle = chain, vault, constitution, oracle
        self._quote, self._quote_unit = quote, quote_unit
        f = vault.functions
        fixed = fetch_many(chain, [f.strategyId(), f.agentId()])
        self._strategy_id, self._agent_id = "0x" + bytes(fixed[0]).hex(), int(fixed[1])

    def fetch(self, block: BlockRef) -> VaultReading:
        """The vault at a block. Raises ReadingFailed when a contract does not answer."""
        f, vault = self._vault.functions, self._vault.address
        own_limits, assets = fetch_many(self._chain, [f.limits(), f.assets()], block=block.number)
        tokens = [asset.token for asset in assets]
        regime, status, guard, book, artefact_hash, readings, *positions = fetch_many(
            self._chain,
            [
                self._constitution.functions.regime(tuple(own_limits)),
                f.status(), f.guard(), f.book(), f.artefactHash(),
                self._oracle.functions.readMany(tokens),
                *(f.positionOf(token) for token in tokens),
            ],
            block=block.number,
        )  # fmt: skip
        names = [field.name for field in fields(EffectiveLimits)]
        return VaultReading(
            block=block,
            address=vault,
            strategy_id=self._strategy_id,
            artefact_hash="0x" + bytes(artefact_hash).hex(),
            agent_id=self._agent_id,
            state=VaultState(status.state),
            reasons=status.reasons,
            recorded_reasons=guard.reasons,
            value=status.value,
            quote_held=book.quoteHeld,
            quote_unit=self._quote_unit,
            quote_round=_round(self._quote, readings[0]),
            unit_price_wad=status.unitPriceWad,
            peak_wad=guard.peak,
            reference_wad=reference_wad(
                block.timestamp_s // DAY_S, guard.day, guard.lastUnitPrice, guard.beforeToday, guard.beforeYesterday
            ),
            profit=status.profit,
            nonce=guard.nonce,
            trades_today=guard.tradesToday if guard.day == block.timestamp_s // DAY_S else 0,
            turnover_today=guard.turnoverToday if guard.day == block.timestamp_s // DAY_S else 0,
            slippage_level=guard.slippage.level,
            slippage_at_s=guard.slippage.updatedAt,
            slippage_decay_s=regime[1].slippageDecayS,
            limits=EffectiveLimits(**dict(zip(names, regime[0], strict=True))),
            positions=tuple(
                PositionReading(
                    token=asset.token, unit=10**asset.decimals, amount=position.amount,
                    price_wad=reading.priceWad, round=_round(asset.token, reading),
                )
                for asset, position, reading in zip(assets, positions, readings[1], strict=True)
            ),
        )  # fmt: skip


def reference_wad(today: int, day: int, last_wad: int, before_today_wad: int, before_yesterday_wad: int) -> int:
    """The guard's reference as a trade of today would see it: a new day moves the remembered prices on by one.

    `day`: the guard's own, and its unit prices: the last, and the last ones before that day and before the one before.
    """
    if day != today:
        before_yesterday_wad = before_today_wad if day == today - 1 else last_wad
        before_today_wad = last_wad
    return max(before_today_wad, before_yesterday_wad)


def _round(token: str, reading: Any) -> Round:
    return Round(token=token, round_id=reading.roundId, answer=reading.answer, updated_at_s=reading.updatedAt)


def as_plain(reading: VaultReading) -> Mapping[str, Any]:
    """The reading as JSON values; integers beyond 2^53 stay integers."""
    return {**asdict(reading), "state": reading.state.name}
