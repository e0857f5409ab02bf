"""What the trading half of the subgraph has to say, from the contracts themselves: what they answer at one block, what
they answered at the blocks before, and their events. Entities are dicts by the schema's own names, numbers as such."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from web3 import Web3
from web3.contract import Contract

from agents.contracts import decode_logs
from agents.ledger import LedgerEntry, fetch_entries
from oracle.vault_state import Reason, VaultState
from tests.contracts.vaults import unit_price_wad
from tests.contracts.world import DAY_S, HOUR_S, WAD, World

Entities = dict[str, dict[str, Any]]

_LIMITS = (
    "maxPositionBps maxTradeSlippageBps maxCumulativeSlippageBps maxReduceSlippageBps maxReduceCumulativeSlippageBps "
    "maxTradesPerDay maxDailyTurnoverBps maxDailyLossBps maxDrawdownBps hardDrawdownBps"
).split()
_NOBODY = "0x" + "00" * 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One event of our contracts, and where it is in the chain."""

    name: str
    args: dict[str, Any]
    address: str
    block: int
    index: int
    transaction: str
    timestamp_s: int

    @property
    def id(self) -> str:
        """As the subgraph makes it."""
        return self.transaction + _suffix(self.index)

    @property
    def when(self) -> dict[str, Any]:
        return {"timestamp": self.timestamp_s, "block": self.block, "transaction": self.transaction}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a vault was worth when it told it: in a trade, or to the pool."""

    log: Log
    value: int
    profit: int
    unit_price: int


class TradingOnChain:
    """The trading half of a world as it is at the chain's latest block."""

    def __init__(self, world: World) -> None:
        self.world, self.evm = world, world.evm
        self._timestamps: dict[int, int] = {}

    @cached_property
    def entities(self) -> dict[str, Entities]:
        """By type and id."""
        by_type = {
            "Protocol": [self._protocol()],
            "ProtocolDaySnapshot": self._protocol_days(),
            "Agent": map(self._agent, self._agents()),
            "Vault": map(self._vault, self.vaults),
            "Position": self._positions(),
            "VaultStateChange": self._state_changes(),
            "CapitalFlow": self._flows(),
            "AuctionFill": self._fills(),
            "Trade": self._trades(),
            "TradePrice": self._prices(),
            "TradeRefusal": self._refusals(),
            "VaultHourSnapshot": self._snapshots(HOUR_S),
            "VaultDaySnapshot": self._snapshots(DAY_S),
            "RewardPool": [self._pool()],
            "RewardAccount": map(self._account, self.vaults),
            "ObservationWindow": self._windows(),
            "ProfitObservation": self._observations(),
            "Settlement": self._settlements(),
            "Claim": self._claims(),
            "Observer": self._observers(),
        }
        return {kind: {entity["id"]: entity for entity in found} for kind, found in by_type.items()}

    def limits(self) -> Entities:
        """Of each vault, with the id that the vault's entity names."""
        found = {}
        for vault in self.vaults:
            limits = self._call(vault.functions.limits())
            found[self._limits_id(vault)] = {name: getattr(limits, name) for name in _LIMITS}
        return found

    # ----------------------------------------------------------------------------------------------------- the chain

    @cached_property
    def vaults(self) -> list[Contract]:
        return [self.world.d.vault(self.evm, log.args["vault"]) for log in self._logs(self.world.factory)]

    @cached_property
    def _pool_logs(self) -> list[Log]:
        return list(self._logs(self.world.pool))

    @cached_property
    def _vault_logs(self) -> list[Log]:
        return sorted((log for vault in self.vaults for log in self._logs(vault)), key=_order)

    @cached_property
    def _ledger(self) -> list[tuple[LedgerEntry, Log]]:
        """Each trade twice: as the project's own reader reads it, and where it is."""
        logs = [log for log in self._logs(self.world.ledger) if log.name == "TradeRecorded"]
        entries = {e.id: e for v in self.vaults for e in fetch_entries(self.evm, self.world.ledger, v.address)}
        assert len(entries) == len(logs)
        return [(entries["0x" + log.args["id"].hex()], log) for log in logs]

    def _logs(self, contract: Contract) -> Iterator[Log]:
        for raw in self.evm.w3.eth.get_logs({"address": contract.address, "fromBlock": 0}):
            [event] = decode_logs({"logs": [raw]})
            yield Log(
                name=event.name, args=event.args, address=event.address, block=raw["blockNumber"],
                index=raw["logIndex"], transaction=raw["transactionHash"].to_0x_hex(),
                timestamp_s=self._timestamp_s(raw["blockNumber"]),
            )  # fmt: skip

    def _timestamp_s(self, block: int) -> int:
        if block not in self._timestamps:
            self._timestamps[block] = self.evm.w3.eth.get_block(block)["timestamp"]
        return self._timestamps[block]

    def _call(self, what: Any, block: int | str = "latest") -> Any:
        return self.evm.call(what, block=block)

    def _of(self, vault: Contract, *names: str) -> list[Log]:
        """A vault's own events."""
        return [log for log in self._vault_logs if log.address == vault.address and log.name in names]

    def _in_pool(self, *names: str, **args: Any) -> list[Log]:
        found = (log for log in self._pool_logs if log.name in names)
        return [log for log in found if all(log.args[key] == value for key, value in args.items())]

    def _trades_of(self, vault: Contract) -> list[tuple[LedgerEntry, Log]]:
        return [(entry, log) for entry, log in self._ledger if entry.vault == vault.address]

    def _creation(self, vault: Contract) -> Log:
        return next(log for log in self._logs(self.world.factory) if log.args["vault"] == vault.address)

    # -------------------------------------------------------------------------------------------------------- vaults

    def _vault(self, vault: Contract) -> dict[str, Any]:
        f = vault.functions
        book, guard = self._call(f.book()), self._call(f.guard())
        trades = [entry.fields for entry, _ in self._trades_of(vault)]
        created, measured = self._creation(vault), self.measurements(vault)
        resumed = (self._of(vault, "Resumed") or [None])[-1]
        allocated, recalled = _sum(self._of(vault, "Allocated"), "amount"), _sum(self._of(vault, "Recalled"), "value")
        assert book.netFlow == recalled - allocated
        return {
            "id": vault.address.lower(),
            "strategy": _hex(self._call(f.strategyId())),
            "agent": str(self._call(f.agentId())),
            "implementation": created.args["implementation"].lower(),
            "artefactHash": _hex(self._call(f.artefactHash())),
            "limits": self._limits_id(vault),
            "state": _state_of(guard.reasons).name,
            "reasons": guard.reasons,
            "units": book.units,
            "quoteHeld": book.quoteHeld,
            "netFlow": book.netFlow,
            "allocated": allocated,
            "recalled": recalled,
            **self._last_measured(vault, measured),
            "highestUnitPrice": max((m.unit_price for m in measured), default=None),
            "nonce": guard.nonce,
            "tradeCount": len(trades),
            "refusalCount": len(self._of(vault, "TradeRefused")),
            "volume": sum(map(self._quote_amount, trades)),
            "shortfall": sum(trade["shortfall"] for trade in trades),
            "head": _hex(self._call(self.world.ledger.functions.headOf(vault.address))),
            "resumedAt": resumed and resumed.timestamp_s,
            "resumedUnitPrice": resumed and self._call(f.guard(), resumed.block).peak,
            "createdAt": created.timestamp_s,
            "createdAtBlock": created.block,
            "transaction": created.transaction,
        }

    def _last_measured(self, vault: Contract, measured: list[Measurement]) -> dict[str, Any]:
        """What the vault said at the end of the block in which it was measured last."""
        if not measured:
            return dict.fromkeys("netAssetValue profit unitPrice measuredAt measuredAtBlock".split())
        log = measured[-1].log
        status = self._call(vault.functions.status(), log.block)
        return {
            "netAssetValue": status.value, "profit": status.profit, "unitPrice": status.unitPriceWad,
            "measuredAt": log.timestamp_s, "measuredAtBlock": log.block,
        }  # fmt: skip

    def measurements(self, vault: Contract) -> list[Measurement]:
        """In order. Each is checked against what the guard remembered after the block."""
        created_at = self._creation(vault).block
        logs = self._in_pool("ProfitObserved", vault=vault.address)
        logs += [log for _, log in self._trades_of(vault) if not log.args["trade"]["reasons"] & Reason.PRICE_MISSING]
        measured = [self._measurement(vault, log) for log in sorted(logs, key=_order) if log.block > created_at]
        for block, of_block in groupby(measured, key=lambda m: m.log.block):
            if self._call(vault.functions.book(), block).units:
                assert self._call(vault.functions.guard(), block).lastUnitPrice == list(of_block)[-1].unit_price
        return measured

    def _measurement(self, vault: Contract, log: Log) -> Measurement:
        book = self._call(vault.functions.book(), log.block - self._is_before_its_flow(log))
        is_trade = log.name == "TradeRecorded"
        value = log.args["trade"]["netAssetValue"] if is_trade else log.args["profit"] - book.netFlow
        unit_price = unit_price_wad(value, book.units) if book.units else WAD
        return Measurement(log=log, value=value, profit=value + book.netFlow, unit_price=unit_price)

    def _is_before_its_flow(self, log: Log) -> bool:
        """Whether the books changed in the same transaction, but after the measurement. A write-off comes before."""
        flows = {flow.transaction for flow in self._vault_logs if flow.name == "Allocated"}
        return log.name == "ProfitObserved" and log.transaction in flows

    def _limits_id(self, vault: Contract) -> str:
        updates = self._of(vault, "VaultUpdated")
        return updates[-1].id if updates else _hex(self._call(vault.functions.strategyId()))

    def _positions(self) -> Iterator[dict[str, Any]]:
        for vault in self.vaults:
            touched = {}
            for log in self._vault_logs:
                if log.address == vault.address and log.name in ("Recalled", "AuctionFilled", "WrittenOff"):
                    touched[log.args.get("token") or log.args["asset"]] = log
            for _, log in self._trades_of(vault):
                for token in (log.args["trade"]["tokenIn"], log.args["trade"]["tokenOut"]):
                    touched[token] = max(log, touched.get(token, log), key=_order)
            touched.pop(self.world.book.quote, None)
            for token, log in touched.items():
                yield {
                    "id": vault.address.lower() + token[2:].lower(),
                    "vault": vault.address.lower(),
                    "token": token.lower(),
                    "amount": self._call(vault.functions.positionOf(token)).amount,
                    "updatedAt": log.timestamp_s,
                }

    def _state_changes(self) -> Iterator[dict[str, Any]]:
        for log in self._vault_logs:
            if log.name == "StateChanged":
                guard = self._call(self.world.d.vault(self.evm, log.address).functions.guard(), log.block)
                yield {
                    "id": log.id, "vault": log.address.lower(), "state": _state_of(guard.reasons).name,
                    "reasons": guard.reasons, "unitPrice": log.args["unitPriceWad"], **log.when,
                }  # fmt: skip

    def _flows(self) -> Iterator[dict[str, Any]]:
        kinds = {"Allocated": "ALLOCATED", "Recalled": "RECALLED", "WrittenOff": "WRITTEN_OFF", "Skimmed": "SKIMMED"}
        for log in self._vault_logs:
            if log.name in kinds:
                units = None if log.name == "Skimmed" else abs(self._units(log, 0) - self._units(log, -1))
                value = {"Allocated": "amount", "Recalled": "value"}.get(log.name)
                yield {
                    "id": log.id,
                    "vault": log.address.lower(),
                    "kind": kinds[log.name],
                    "token": log.args.get("token", self.world.book.quote).lower(),
                    "amount": log.args["amount"],
                    "value": value and log.args[value],
                    "units": units,
                    "unitPrice": log.args.get("unitPriceWad"),
                    **log.when,
                }

    def _units(self, log: Log, blocks_later: int) -> int:
        vault, block = self.world.d.vault(self.evm, log.address), log.block + blocks_later
        return 0 if block < self._creation(vault).block else int(self._call(vault.functions.book(), block).units)

    def _fills(self) -> Iterator[dict[str, Any]]:
        for log in self._vault_logs:
            if log.name == "AuctionFilled":
                args = {**log.args, "asset": log.args["asset"].lower(), "buyer": log.args["buyer"].lower()}
                yield {"id": log.id, "vault": log.address.lower(), **args, **log.when}

    def _refusals(self) -> Iterator[dict[str, Any]]:
        for log in self._vault_logs:
            if log.name == "TradeRefused":
                yield {
                    "id": log.id,
                    "vault": log.address.lower(),
                    "nonce": log.args["nonce"],
                    "asset": log.args["asset"].lower(),
                    "isBuy": log.args["buy"],
                    "reasons": log.args["reasons"],
                    "explanationHash": _hex(log.args["explanationHash"]),
                    **log.when,
                }

    # -------------------------------------------------------------------------------------------------------- trades

    def _trades(self) -> Iterator[dict[str, Any]]:
        measured = {m.log.id: m for vault in self.vaults for m in self.measurements(vault)}
        for entry, log in self._ledger:
            fields, measurement = entry.fields, measured.get(log.id)
            yield {
                "id": entry.id,
                "vault": entry.vault.lower(),
                "agent": str(fields["agentId"]),
                **{key: fields[key] for key in "sequence reasons amountIn amountOut shortfall netAssetValue".split()},
                **{key: _hex(fields[key]) for key in "strategyId artefactHash explanationHash observationHash".split()},
                "tokenIn": fields["tokenIn"].lower(),
                "tokenOut": fields["tokenOut"].lower(),
                "isBuy": self._is_buy(fields),
                "profit": measurement and measurement.profit,
                "unitPrice": measurement and measurement.unit_price,
                **log.when,
            }

    def _prices(self) -> Iterator[dict[str, Any]]:
        for entry, _ in self._ledger:
            for place, price in enumerate(entry.fields["prices"]):
                yield {
                    "id": entry.id + _suffix(place), "trade": entry.id, "token": price["token"].lower(),
                    "roundId": price["roundId"], "answer": price["answer"],
                }  # fmt: skip

    def _is_buy(self, trade: dict[str, Any]) -> bool:
        return bool(trade["tokenIn"] == self.world.book.quote)

    def _quote_amount(self, trade: dict[str, Any]) -> int:
        return int(trade["amountIn"] if self._is_buy(trade) else trade["amountOut"])

    def _snapshots(self, period_s: int) -> Iterator[dict[str, Any]]:
        for vault in self.vaults:
            measured, traded = defaultdict(list), defaultdict(list)
            for measurement in self.measurements(vault):
                measured[measurement.log.timestamp_s // period_s].append(measurement)
            for entry, log in self._trades_of(vault):
                traded[log.timestamp_s // period_s].append(entry.fields)
            for period in measured.keys() | traded.keys():
                trades, prices = traded[period], [m.unit_price for m in measured[period]]
                last = measured[period][-1] if prices else None
                yield {
                    "id": vault.address.lower() + _suffix(period),
                    "vault": vault.address.lower(),
                    "periodStart": period * period_s,
                    "openUnitPrice": prices[0] if prices else None,
                    "highUnitPrice": max(prices, default=None),
                    "lowUnitPrice": min(prices, default=None),
                    "closeUnitPrice": last and last.unit_price,
                    "netAssetValue": last and last.value,
                    "profit": last and last.profit,
                    "tradeCount": len(trades),
                    "volume": sum(map(self._quote_amount, trades)),
                    "shortfall": sum(trade["shortfall"] for trade in trades),
                }

    # ------------------------------------------------------------------------------------------------------- rewards

    def _pool(self) -> dict[str, Any]:
        f = self.world.pool.functions
        return {
            "id": self.world.pool.address.lower(),
            "genesis": self._call(f.genesis()),
            "epochLength": self._call(f.epochLengthS()),
            "windowLength": self._call(f.windowLengthS()),
            "vesting": self._call(f.vestingS()),
            "bounty": self._call(f.bounty()),
            "budgetPerEpoch": self._call(f.budgetPerEpoch()),
            "sumOfCaps": self._call(f.sumOfCaps()),
            "funded": _sum(self._in_pool("Funded"), "amount"),
            "withdrawn": _sum(self._in_pool("Withdrawn"), "amount"),
            "bountyFund": self._call(f.bountyFund()),
            "bountiesEarned": _sum(self._in_pool("BountyEarned"), "amount"),
            "bountiesClaimed": _sum(self._in_pool("BountyClaimed"), "amount"),
        }

    def _account(self, vault: Contract) -> dict[str, Any]:
        account = self._call(self.world.pool.functions.accountOf(vault.address))
        clawed_back = self._in_pool("ClawedBack", vault=vault.address)
        from_bond = _sum(clawed_back, "fromBond")
        return {
            "id": vault.address.lower(),
            "vault": vault.address.lower(),
            "agent": str(account.agentId),
            **{key: getattr(account, key) for key in "rate cap credited unvested vested nextEpoch".split()},
            "vestUpdatedAt": account.vestUpdatedAt,
            "vestEndsAt": account.vestEndsAt,
            "isLive": account.live,
            "pendingMove": account.pendingMove if account.pending else None,
            "rewarded": _sum(self._in_pool("Rewarded", vault=vault.address), "reward"),
            "clawedBack": _sum(clawed_back, "fromUnclaimed") + from_bond,
            "clawedBackFromBond": from_bond,
            "claimed": _sum(self._in_pool("Claimed", vault=vault.address), "amount"),
        }

    def _windows(self) -> list[dict[str, Any]]:
        windows: Entities = {}
        for log in self._in_pool("ProfitObserved", "WindowClosed"):
            window_id = log.args["vault"].lower() + _suffix(log.args["epoch"])
            nothing = dict.fromkeys("lowestProfit highestProfit closedAt move".split())
            window = windows.setdefault(window_id, {
                "id": window_id, "account": log.args["vault"].lower(), "epoch": log.args["epoch"],
                "observationCount": 0, **nothing, "missedBefore": False, "byVote": False,
            })  # fmt: skip
            if log.name == "WindowClosed":
                window |= {key: log.args[key] for key in ("move", "missedBefore", "byVote")}
                window["closedAt"] = log.timestamp_s
        for vault in self.vaults:  # an observed window is what the contract said of it when it was observed last
            for log in self._in_pool("ProfitObserved", vault=vault.address):
                stored = self._call(self.world.pool.functions.windowOf(vault.address), log.block)
                windows[vault.address.lower() + _suffix(log.args["epoch"])] |= {
                    "observationCount": stored.observations, "lowestProfit": stored.lowest,
                    "highestProfit": stored.highest,
                }  # fmt: skip
        return list(windows.values())

    def _observations(self) -> Iterator[dict[str, Any]]:
        for log in self._in_pool("ProfitObserved"):
            vault = log.args["vault"].lower()
            yield {
                "id": log.id, "window": vault + _suffix(log.args["epoch"]), "vault": vault,
                "profit": log.args["profit"], "observer": log.args["observer"].lower(), **log.when,
            }  # fmt: skip

    def _settlements(self) -> Iterator[dict[str, Any]]:
        for log in self._in_pool("Rewarded", "ClawedBack"):
            vault = log.args["vault"]
            account = self._call(self.world.pool.functions.accountOf(vault), log.block)
            yield {
                "id": log.id,
                "account": vault.lower(),
                "vault": vault.lower(),
                "agent": str(account.agentId),
                "pnl": log.args["pnl"],
                **{key: log.args.get(key, 0) for key in ("reward", "fromUnclaimed", "fromBond")},
                "credited": account.credited,
                **log.when,
            }

    def _claims(self) -> Iterator[dict[str, Any]]:
        for log in self._in_pool("Claimed"):
            yield {
                "id": log.id, "account": log.args["vault"].lower(), "agent": str(log.args["agentId"]),
                "to": log.args["to"].lower(), "amount": log.args["amount"], **log.when,
            }  # fmt: skip

    def _observers(self) -> Iterator[dict[str, Any]]:
        logs = self._in_pool("ProfitObserved", "BountyEarned", "BountyClaimed")
        for observer in {log.args["observer"] for log in logs} - {_NOBODY}:
            earned = _sum(self._in_pool("BountyEarned", observer=observer), "amount")
            yield {
                "id": observer.lower(),
                "observationCount": len(self._in_pool("ProfitObserved", observer=observer)),
                "earned": earned,
                "claimed": earned - self._call(self.world.pool.functions.bountyOf(observer)),
            }

    # -------------------------------------------------------------------------------------------------------- totals

    def _agents(self) -> list[int]:
        return [log.args["agentId"] for log in self._logs(self.world.agents) if log.name == "Registered"]

    def _agent(self, agent_id: int) -> dict[str, Any]:
        """Without what governance tells of it."""
        accounts = [a for a in map(self._account, self.vaults) if a["agent"] == str(agent_id)]
        vault = self._call(self.world.pool.functions.vaultOf(agent_id))
        return {
            "id": str(agent_id),
            "unclaimed": sum(account["unvested"] + account["vested"] for account in accounts),
            **{key: sum(account[key] for account in accounts) for key in ("rewarded", "clawedBack", "claimed")},
            "tradeCount": sum(entry.fields["agentId"] == agent_id for entry, _ in self._ledger),
            "vault": None if vault == _NOBODY else vault.lower(),
        }

    def _protocol(self) -> dict[str, Any]:
        """Without what governance counts."""
        from_bonds = _sum(self._in_pool("ClawedBack"), "fromBond")
        trades = [entry.fields for entry, _ in self._ledger]
        return {
            "id": "marketflow",
            "vaultCount": len(self.vaults),
            "tradeCount": len(trades),
            "refusalCount": sum(log.name == "TradeRefused" for log in self._vault_logs),
            "volume": sum(map(self._quote_amount, trades)),
            "shortfall": sum(trade["shortfall"] for trade in trades),
            "allocated": _sum((log for log in self._vault_logs if log.name == "Allocated"), "amount"),
            "recalled": _sum((log for log in self._vault_logs if log.name == "Recalled"), "value"),
            "rewarded": _sum(self._in_pool("Rewarded"), "reward"),
            "clawedBack": _sum(self._in_pool("ClawedBack"), "fromUnclaimed") + from_bonds,
            "clawedBackFromBonds": from_bonds,
            "claimed": _sum(self._in_pool("Claimed"), "amount"),
        }

    def _protocol_days(self) -> Iterator[dict[str, Any]]:
        """Without votes; days on which nothing but votes happened have none here."""
        refusals = [log for log in self._vault_logs if log.name == "TradeRefused"]
        settlements = self._in_pool("Rewarded", "ClawedBack")
        trades = [log for _, log in self._ledger]
        for day in sorted({log.timestamp_s // DAY_S for log in (*refusals, *settlements, *trades)}):

            def on_day(logs: Iterable[Log], day: int = day) -> list[Log]:
                return [log for log in logs if log.timestamp_s // DAY_S == day]

            until = [log.args["trade"] for log in trades if log.timestamp_s // DAY_S <= day]
            traded = [log.args["trade"] for log in on_day(trades)]
            yield {
                "id": str(day),
                "periodStart": day * DAY_S,
                "tradeCount": len(traded),
                "refusalCount": len(on_day(refusals)),
                "volume": sum(map(self._quote_amount, traded)),
                "shortfall": sum(trade["shortfall"] for trade in traded),
                "rewarded": sum(log.args.get("reward", 0) for log in on_day(settlements)),
                "clawedBack": sum(
                    log.args.get(key, 0) for log in on_day(settlements) for key in ("fromUnclaimed", "fromBond")
                ),
                "cumulativeTradeCount": len(until),
                "cumulativeVolume": sum(map(self._quote_amount, until)),
            }


def _state_of(reasons: int) -> VaultState:
    """`_stateOf` of StrategyVault."""
    if reasons & Reason.HALTED:
        return VaultState.HALTED
    return VaultState.REDUCING if reasons else VaultState.ACTIVE


def _suffix(number: int) -> str:
    """What `concatI32` appends."""
    return number.to_bytes(4, "little").hex()


def _hex(value: bytes) -> str:
    return Web3.to_hex(value)


def _order(log: Log) -> tuple[int, int]:
    return log.block, log.index


def _sum(logs: Iterable[Log], argument: str) -> int:
    return sum(log.args[argument] for log in logs)
