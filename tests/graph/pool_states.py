"""What the pools subgraph has to say, from the pools themselves: their state at each block, and their events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import groupby
from typing import Any

from agents.contracts import third_party
from agents.localnet import LocalEvm
from agents.localnet.uniswap import balance, erc20

# A BigDecimal of graph-node.
DIGITS = 34
COUNTED = ("Mint", "Burn", "Collect", "Swap")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEvent:
    """One event of a pool, and what the pool's price and liquidity were after its block."""

    name: str
    args: dict[str, Any]
    id: str
    log_index: int
    timestamp_s: int
    state: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOnChain:
    """A pool at the latest block, and all that led to it."""

    evm: LocalEvm
    address: str
    factory: str

    def entity(self) -> dict[str, Any]:
        """Its entity, intervals and events included, as the subgraph should answer; numbers as such."""
        pool, events = self._contract, list(self._events())
        creation = self._creation()
        volume0, volume1 = self._volumes(events)
        return {
            "id": self.address.lower(),
            "createdAtTimestamp": self.evm.w3.eth.get_block(creation["blockNumber"])["timestamp"],
            "createdAtBlockNumber": creation["blockNumber"],
            "token0": self._token(self._tokens[0]),
            "token1": self._token(self._tokens[1]),
            "feeTier": self.evm.call(pool.functions.fee()),
            **self._state("latest"),
            "volumeToken0": volume0,
            "volumeToken1": volume1,
            "txCount": _count(events),
            "totalValueLockedToken0": self._scale(0, balance(self.evm, self._tokens[0], self.address)),
            "totalValueLockedToken1": self._scale(1, balance(self.evm, self._tokens[1], self.address)),
            "poolHourData": self._intervals(events, "periodStartUnix", 3600),
            "poolDayData": self._intervals(events, "date", 86_400),
            "mints": [self._liquidity_event(e) for e in events if e.name == "Mint"],
            "burns": [self._liquidity_event(e) for e in events if e.name == "Burn"],
            "collects": [self._liquidity_event(e) for e in events if e.name == "Collect"],
            "swaps": [self._swap(e) for e in events if e.name == "Swap"],
        }

    @property
    def _contract(self) -> Any:
        return self.evm.at(third_party("UniswapV3Pool"), self.address)

    @property
    def _tokens(self) -> tuple[str, str]:
        f = self._contract.functions
        return self.evm.call(f.token0()), self.evm.call(f.token1())

    def _creation(self) -> Any:
        created = self.evm.at(third_party("UniswapV3Factory"), self.factory).events.PoolCreated()
        [log] = [log for log in created.get_logs(from_block=0) if log["args"]["pool"] == self.address]
        return log

    def _token(self, address: str) -> dict[str, Any]:
        f = erc20(self.evm, address).functions
        symbol, name, decimals = (self.evm.call(call) for call in (f.symbol(), f.name(), f.decimals()))
        return {"id": address.lower(), "symbol": symbol, "name": name, "decimals": decimals}

    def _decimals(self, which: int) -> int:
        return int(self.evm.call(erc20(self.evm, self._tokens[which]).functions.decimals()))

    def _scale(self, which: int, units: int) -> Decimal:
        return Decimal(units).scaleb(-self._decimals(which))

    def _state(self, block: int | str) -> dict[str, Any]:
        f = self._contract.functions
        slot0 = self.evm.call(f.slot0(), block=block)
        squared, shift = slot0.sqrtPriceX96**2, self._decimals(0) - self._decimals(1)
        with localcontext(prec=DIGITS, rounding=ROUND_HALF_UP):
            price0 = (Decimal(1 << 192) / Decimal(squared)).scaleb(-shift)
            price1 = (Decimal(squared) / Decimal(1 << 192)).scaleb(shift)
        return {
            "liquidity": self.evm.call(f.liquidity(), block=block),
            "sqrtPrice": slot0.sqrtPriceX96,
            "tick": slot0.tick,
            "token0Price": price0,
            "token1Price": price1,
        }

    def _events(self) -> Iterator[PoolEvent]:
        logs = self.evm.w3.eth.get_logs({"address": self.address, "fromBlock": 0})
        events = self._contract.events
        by_topic = {event.topic: event for event in (getattr(events, e["name"])() for e in events._events)}
        for log in logs:
            decoded = by_topic["0x" + log["topics"][0].hex()].process_log(log)
            yield PoolEvent(
                name=decoded["event"],
                args=dict(decoded["args"]),
                id=f"0x{log['transactionHash'].hex()}#{log['logIndex']}",
                log_index=log["logIndex"],
                timestamp_s=self.evm.w3.eth.get_block(log["blockNumber"])["timestamp"],
                state=self._state(log["blockNumber"]),
            )

    def _volumes(self, events: list[PoolEvent]) -> tuple[Decimal, Decimal]:
        swaps = [event.args for event in events if event.name == "Swap"]
        volume0, volume1 = (sum(abs(swap[amount]) for swap in swaps) for amount in ("amount0", "amount1"))
        return self._scale(0, volume0), self._scale(1, volume1)

    def _intervals(self, events: list[PoolEvent], start: str, length_s: int) -> list[dict[str, Any]]:
        marking = [event for event in events if event.name in (*COUNTED, "Initialize")]
        found = []
        for index, group in groupby(marking, key=lambda event: event.timestamp_s // length_s):
            inside = list(group)
            prices = [event.state["token0Price"] for event in inside]
            volume0, volume1 = self._volumes(inside)
            found.append(
                {
                    "id": f"{self.address.lower()}-{index}",
                    start: index * length_s,
                    **inside[-1].state,
                    "volumeToken0": volume0,
                    "volumeToken1": volume1,
                    "txCount": _count(inside),
                    "open": prices[0],
                    "high": max(prices),
                    "low": min(prices),
                    "close": prices[-1],
                }
            )
        return found

    def _amounts(self, event: PoolEvent) -> dict[str, Any]:
        return {
            "id": event.id,
            "timestamp": event.timestamp_s,
            "logIndex": event.log_index,
            "amount0": self._scale(0, event.args["amount0"]),
            "amount1": self._scale(1, event.args["amount1"]),
        }

    def _liquidity_event(self, event: PoolEvent) -> dict[str, Any]:
        ticks = {key: event.args[key] for key in ("tickLower", "tickUpper")}
        liquidity = {"amount": event.args["amount"]} if "amount" in event.args else {}
        return {**self._amounts(event), **ticks, **liquidity, "owner": event.args["owner"].lower()}

    def _swap(self, event: PoolEvent) -> dict[str, Any]:
        sides = {key: event.args[key].lower() for key in ("sender", "recipient")}
        price = {key: event.args[key] for key in ("sqrtPriceX96", "tick")}
        return {**self._amounts(event), **sides, **price}


def _count(events: list[PoolEvent]) -> int:
    return sum(event.name in COUNTED for event in events)
