"""What vault tests share: names for states and reasons, a desk whose fills are told, tokens and feeds that go bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from web3 import Web3
from web3.contract import Contract

from agents.contracts import EventLog
from agents.deployment import Limits
from oracle.vault_state import Reason
from oracle.vault_state import VaultState as State
from tests.contracts.world import CEILINGS, HOUR_S, LIMITS, RULES, WAD, Strategy, World, eth, usd

MAX_UINT = 2**256 - 1
UNITS_PER_QUOTE = 10**12
DEAD_CODE = b"\xfe"  # INVALID: every call burns all the gas it was given


class Desk:
    """A running strategy with one million dollars at a venue that fills as told, so that a limit can be met to the base
    unit. At 2,000 USD for ETH one base unit of quote is 5e8 wei."""

    def __init__(self, world: World, limits: Limits = LIMITS, *, assets: Sequence[str] = ("ETH",), **over: Any) -> None:
        self.world = world
        self.venue = world.deploy_code("FaultyVenue")
        code_hash = Web3.keccak(world.w3.eth.get_code(self.venue.address))
        world.market.give_quote(self.venue.address, usd(5_000_000))
        for symbol in assets:
            world.market.give_base(symbol, self.venue.address, eth(1000))
        agent_id = over.pop("agent_id", None)
        self.s = world.deploy_strategy(
            agent_id, limits=limits, assets=assets, venue=self.venue.address, venueCodeHash=code_hash, **over
        )

    def fill(self, taken: int, paid: int, *, claimed: int | None = None) -> None:
        """What the venue takes, pays, and claims to have paid, from now on."""
        fill = self.venue.functions.fill(taken, paid, paid if claimed is None else claimed)
        self.world.send(fill, self.world.stranger)

    def buy(self, quote_in: int, asset_out: int, *, at_s: int | None = None, **over: Any) -> list[EventLog]:
        return self._trade(quote_in, asset_out, True, at_s, over)

    def sell(self, asset_in: int, quote_out: int, *, at_s: int | None = None, **over: Any) -> list[EventLog]:
        return self._trade(asset_in, quote_out, False, at_s, over)

    def _trade(self, paid_in: int, paid_out: int, buy: bool, at_s: int | None, over: dict[str, Any]) -> list[EventLog]:
        """`at_s`: the block's timestamp; feeds are then fresh if they were shortly before."""
        self.fill(paid_in, paid_out)
        if at_s:
            self.world.evm.next_block_at(at_s)
        return self.world.trade(self.s, paid_in, buy=buy, **over)


def guard(world: World, s: Strategy) -> Any:
    return world.view(s.vault.functions.guard())


def book(world: World, s: Strategy) -> Any:
    return world.view(s.vault.functions.book())


def condition(world: World, s: Strategy) -> tuple[State, Reason]:
    """State and reasons as they would be derived now."""
    status = world.status(s)
    return State(status.state), Reason(status.reasons)


def limits(**tighter: int) -> Limits:
    return replace(LIMITS, **tighter)


def tighten(world: World, **ceilings: int) -> None:
    world.as_timelock(world.constitution.functions.setCeilings(replace(CEILINGS, **ceilings).as_tuple()))


def never_decay(world: World) -> None:
    """Slippage sums that decay as slowly as the type allows: one of 2,000 dollars not at all in two seconds."""
    rules = replace(RULES, slippage_decay_s=2**32 - 1)
    world.as_timelock(world.constitution.functions.setRules(rules.as_tuple()))


# Ways into REDUCING and HALTED


def stop(world: World, s: Strategy, duration_s: int = 24 * HOUR_S) -> None:
    """The guardian's stop: the shortest way to REDUCING."""
    world.send(world.constitution.functions.stopVault(s.vault.address, duration_s), world.guardian)


def halt(world: World, s: Strategy) -> list[EventLog]:
    return world.as_timelock(world.strategies.functions.halt(s.id))


def resume(world: World, s: Strategy) -> list[EventLog]:
    return world.as_timelock(world.strategies.functions.resume(s.id))


# Flows


def allocate(world: World, s: Strategy, amount: int) -> list[EventLog]:
    return world.as_timelock(world.treasury.functions.allocate(s.id, amount))


def recall(world: World, s: Strategy, token: str, amount: int = MAX_UINT, fallback_wad: int = 0) -> list[EventLog]:
    return world.as_timelock(world.treasury.functions.recall(s.id, token, amount, fallback_wad))


def unit_price_wad(value: int, units: int) -> int:
    return value * WAD * UNITS_PER_QUOTE // units


# What goes bad


def turn_faulty(world: World, token: str, decimals: int) -> Contract:
    """The token at that address, an ordinary one, becomes a `FaultyToken` with the same balances: a proxy's upgrade."""
    faulty = world.evm.deploy("FaultyToken", "Faulty", "BAD", decimals, sender=world.deployer)
    world.evm.set_code(token, bytes(world.w3.eth.get_code(faulty.address)))
    return world.evm.at("FaultyToken", token)


def faulty_feed(world: World, symbol: str) -> Contract:
    """A feed that answers the asset's present price until told to fail, in the place of its real one."""
    asset = world.book.asset(symbol)
    answer = world.view(world.evm.at("FeedProxy", asset.feed).functions.latestRoundData())
    feed = world.evm.deploy("FaultyFeed", 8, f"{symbol} / USD", sender=world.deployer)
    world.send(feed.functions.setRound(tuple(answer)), world.deployer)
    world.as_timelock(world.oracle.functions.setFeed(asset.token, feed.address, 2 * HOUR_S, 10**8, 10**14))
    return feed
