"""Stand-ins for a chain: feeds whose rounds are written down here, and vault readings made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eth_abi import decode, encode
from eth_utils import keccak
from web3 import Web3

from agents.contracts import load_artifact
from oracle.chain import BlockRef
from oracle.chainlink import PHASE_SHIFT, Round
from oracle.multicall import MULTICALL3
from oracle.vault_state import EffectiveLimits, PositionReading, VaultReading, VaultState

WAD = 10**18
USD = 10**6  # a dollar in base units of quote
ETH, BTC, QUOTE = ("0x" + digit * 40 for digit in "123")
_LATEST_ROUND_DATA, _DECIMALS = (keccak(text=f"{name}()")[:4] for name in ("latestRoundData", "decimals"))
_ROUND_TYPES = ["uint80", "int256", "uint256", "uint256", "uint80"]


class Reverted(Exception):
    """What a chain raises when a call reverts; each kind of chain has its own."""


class FeedChain:
    """A chain with nothing but feeds. `requests` counts round trips, `asked` lists the rounds asked for by id."""

    def __init__(self, *, has_multicall: bool = True, decimals: int = 8) -> None:
        self.w3 = Web3()
        self.has_multicall, self.decimals = has_multicall, decimals
        self.requests = 0
        self.asked: list[int] = []
        self.rounds: dict[str, dict[int, tuple[int, int]]] = {}
        self.latest: dict[str, int] = {}
        # Phases whose aggregators revert for a round that they do not have, as the first ones did.
        self.reverting_phases: set[int] = set()
        self.is_down = False

    def feed(self, token: str) -> Any:
        """The bound feed of a token; its address is the token's."""
        self.rounds.setdefault(token, {})
        return self.w3.eth.contract(address=Web3.to_checksum_address(token), abi=load_artifact("FeedProxy").abi)

    def publish(self, token: str, own_id: int, answer: int, updated_at_s: int, *, phase: int = 1) -> Round:
        """A round of a phase; the newest phase's newest round is the feed's latest."""
        round_id = (phase << PHASE_SHIFT) | own_id
        self.rounds[token][round_id] = (answer, updated_at_s)
        self.latest[token] = max(self.latest.get(token, 0), round_id)
        return Round(token=token, round_id=round_id, answer=answer, updated_at_s=updated_at_s)

    def call(self, what: Any, sender: Any = None, *, block: int | str = "latest") -> bytes:
        self.requests += 1
        if self.is_down:
            raise ConnectionError("connection refused")
        data = bytes.fromhex(what["data"][2:])
        if what["to"] != MULTICALL3:
            return self._answer(what["to"], data)
        if not self.has_multicall:
            return b""
        [calls] = decode(["(address,bool,bytes)[]"], data[4:])
        return encode(["(bool,bytes)[]"], [[self._try(Web3.to_checksum_address(to), call) for to, _, call in calls]])

    def _try(self, to: str, data: bytes) -> tuple[bool, bytes]:
        try:
            return True, self._answer(to, data)
        except Reverted:
            return False, b""

    def _answer(self, feed: str, data: bytes) -> bytes:
        rounds = self.rounds[feed]
        if data[:4] == _DECIMALS:
            return encode(["uint8"], [self.decimals])
        if data[:4] == _LATEST_ROUND_DATA:
            round_id = self.latest.get(feed, 0)
        else:
            [round_id] = decode(["uint80"], data[4:])
            self.asked.append(round_id)
            if round_id not in rounds and round_id >> PHASE_SHIFT in self.reverting_phases:
                raise Reverted("No data present")
        answer, updated_at_s = rounds.get(round_id, (0, 0))
        return encode(_ROUND_TYPES, [round_id, answer, updated_at_s, updated_at_s, round_id])


LIMITS = EffectiveLimits(
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
ARTEFACT_HASH = "0x" + "ab" * 32
NOW_S = 1_750_000_000


def position(token: str = ETH, amount: int = 0, price_usd: int = 2000, *, unit: int = WAD) -> PositionReading:
    """An asset held; at a price of 0 it has none."""
    published = Round(token=token, round_id=7, answer=price_usd * 10**8, updated_at_s=NOW_S - 60)
    return PositionReading(token=token, unit=unit, amount=amount, price_wad=price_usd * WAD, round=published)


def reading(*positions: PositionReading, quote_held: int = 1_000_000 * USD, **over: Any) -> VaultReading:
    """A vault in good order with these positions: its value follows from them, everything else can be given."""
    positions = positions or (position(),)
    limits = replace(LIMITS, **over.pop("limits", {}))
    made = VaultReading(
        block=BlockRef(number=100, hash="0x" + "cd" * 32, timestamp_s=NOW_S),
        address="0x" + "e" * 40, strategy_id="0x" + "01" * 32, artefact_hash=ARTEFACT_HASH, agent_id=1,
        state=VaultState.ACTIVE, reasons=0, recorded_reasons=0, value=0, quote_held=quote_held, quote_unit=USD,
        quote_round=Round(token=QUOTE, round_id=3, answer=10**8, updated_at_s=NOW_S - 60),
        unit_price_wad=WAD, peak_wad=WAD, reference_wad=WAD, profit=0, nonce=0, trades_today=0, turnover_today=0,
        slippage_level=0, slippage_at_s=0, slippage_decay_s=7 * 86_400, limits=limits, positions=positions,
    )  # fmt: skip
    value = quote_held + sum(made.asset_value(p.token) for p in positions)
    return replace(made, **{"value": value, **over})
