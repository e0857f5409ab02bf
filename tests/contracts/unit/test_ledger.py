"""TradeLedger: one hash chain for each vault. Whoever has the events recomputes the head; whoever has the head sees an
omission. The recomputing is done here in plain Python: `eth_abi` and keccak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from eth_abi import encode
from eth_utils import keccak

from agents.contracts import EventLog
from agents.localnet.evm import CHAIN_ID
from tests.contracts.world import EXPLANATION, OBSERVATION, WAD, Strategy, World, eth, one, usd

# ITradeLedger.Trade, as `abi.encode` sees it.
TRADE = (
    "(uint64,uint64,uint16,bytes32,bytes32,bytes32,bytes32,address,address,uint256,uint256,int256,uint256,"
    "(address,uint80,int256)[])"
)
NO_HEAD = bytes(32)


def head_after(head: bytes, trade: dict[str, Any]) -> bytes:
    values = (*list(trade.values())[:-1], [tuple(point.values()) for point in trade["prices"]])
    return keccak(encode(["bytes32", TRADE], [head, values]))


def genesis(ledger: str, vault: str, chain_id: int = CHAIN_ID) -> bytes:
    return keccak(encode(["uint256", "address", "address"], [chain_id, ledger, vault]))


def head_of(world: World, vault: str) -> bytes:
    return bytes(world.view(world.ledger.functions.headOf(vault)))


def replay(head: bytes, events: Sequence[EventLog]) -> bytes:
    for event in events:
        head = head_after(head, event.args["trade"])
    return head


def trade_five_times(world: World, strategy: Strategy) -> list[EventLog]:
    """Purchases and sales at different prices, one of them while REDUCING; the events of the ledger, in order."""
    world.buy(strategy, usd(100_000))
    world.set_price("ETH", 2040)
    world.buy(strategy, usd(50_000), explanationHash=keccak(text="it rises"))
    world.sell(strategy, eth(10), observationHash=keccak(text="another block"))
    world.set_price("ETH", 1990)
    world.send(world.constitution.functions.stopVault(strategy.vault.address, 3600), world.guardian)
    world.buy(strategy, usd(10_000))  # refused: leaves no trace in the ledger
    world.sell(strategy, eth(20))
    world.send(world.constitution.functions.liftVaultStop(strategy.vault.address), world.guardian)
    world.buy(strategy, usd(7), symbol="ETH")
    return [event for event in world.history(world.ledger) if event.name == "TradeRecorded"]


# Refusals


def test_nobody_but_the_factory_opens_a_book(world: World) -> None:
    for caller in (world.stranger.address, world.signer.address, world.d.timelock):
        with world.reverts("TradeLedgerUnauthorized", caller=caller):
            world.send(world.ledger.functions.openBook(world.stranger.address), caller)


def test_a_book_is_opened_once(world: World, strategy: Strategy) -> None:
    world.evm.impersonate(world.d.factory)
    before = head_of(world, strategy.vault.address)
    with world.reverts("TradeLedgerBookExists", vault=strategy.vault.address):
        world.send(world.ledger.functions.openBook(strategy.vault.address), world.d.factory)
    world.buy(strategy, usd(1000))
    with world.reverts("TradeLedgerBookExists", vault=strategy.vault.address):
        world.send(world.ledger.functions.openBook(strategy.vault.address), world.d.factory)
    assert head_of(world, strategy.vault.address) != before


def test_who_has_no_book_records_nothing(world: World, strategy: Strategy) -> None:
    trade = (
        strategy.agent_id, 0, 0, strategy.id, bytes(32), EXPLANATION, OBSERVATION, world.book.quote,
        world.token_of("ETH"), 1, 1, 0, 1, [],
    )  # fmt: skip
    for caller in (world.stranger.address, world.signer.address, world.d.vault_implementation):
        world.evm.impersonate(caller)
        with world.reverts("TradeLedgerUnknownVault", caller=caller):
            world.send(world.ledger.functions.record(trade), caller)


# The chain


def test_a_book_begins_at_a_head_that_no_other_chain_ledger_or_vault_has(world: World, strategy: Strategy) -> None:
    agent = world.register_agent(world.other_controller, world.other_signer)
    other = world.deploy_strategy(agent)
    heads = {head_of(world, s.vault.address) for s in (strategy, other)}
    assert heads == {genesis(world.d.ledger, s.vault.address) for s in (strategy, other)}
    heads |= {
        genesis(world.d.ledger, strategy.vault.address, chain_id=1),
        genesis(world.d.pool, strategy.vault.address),
    }
    assert len(heads) == 4
    assert world.view(world.ledger.functions.genesisOf(strategy.vault.address)) in heads
    assert head_of(world, world.stranger.address) == NO_HEAD


def test_opening_a_book_says_where_it_begins(world: World) -> None:
    world.evm.impersonate(world.d.factory)
    events = world.send(world.ledger.functions.openBook(world.stranger.address), world.d.factory)
    assert one(events, "BookOpened") == {
        "vault": world.stranger.address, "genesis": genesis(world.d.ledger, world.stranger.address),
    }  # fmt: skip


def test_a_trade_is_recorded_as_it_happened(world: World, strategy: Strategy) -> None:
    quote_round = world.view(world.oracle.functions.read(world.book.quote))
    eth_round = world.view(world.oracle.functions.read(world.token_of("ETH")))
    events = world.buy(strategy, usd(100_000))
    recorded = one(events, "TradeRecorded")
    bought = world.held(strategy)
    worth = bought * usd(2000) // WAD
    assert recorded == {
        "id": head_of(world, strategy.vault.address),
        "vault": strategy.vault.address,
        "agentId": strategy.agent_id,
        "trade": {
            "agentId": strategy.agent_id,
            "sequence": 0,
            "reasons": 0,
            "strategyId": strategy.id,
            "artefactHash": bytes(strategy.manifest["artefactHash"]),
            "explanationHash": EXPLANATION,
            "observationHash": OBSERVATION,
            "tokenIn": world.book.quote,
            "tokenOut": world.token_of("ETH"),
            "amountIn": usd(100_000),
            "amountOut": bought,
            "shortfall": usd(100_000) - worth,
            "netAssetValue": usd(900_000) + worth,
            "prices": [
                {"token": world.book.quote, "roundId": quote_round.roundId, "answer": 10**8},
                {"token": world.token_of("ETH"), "roundId": eth_round.roundId, "answer": 2000 * 10**8},
            ],
        },
    }


def test_the_head_follows_from_the_events_alone(world: World, strategy: Strategy) -> None:
    recorded = trade_five_times(world, strategy)
    assert [event.args["trade"]["sequence"] for event in recorded] == [0, 1, 2, 3, 4]
    assert recorded[3].args["trade"]["reasons"] != 0, "a sale while REDUCING says why"
    head = genesis(world.d.ledger, strategy.vault.address)
    for event in recorded:
        head = head_after(head, event.args["trade"])
        assert event.args["id"] == head
    assert head == head_of(world, strategy.vault.address)


def test_every_omission_or_exchange_shows_in_the_head(world: World, strategy: Strategy) -> None:
    recorded = trade_five_times(world, strategy)
    head, start = head_of(world, strategy.vault.address), genesis(world.d.ledger, strategy.vault.address)
    assert replay(start, recorded) == head
    for index in range(len(recorded)):
        assert replay(start, recorded[:index] + recorded[index + 1 :]) != head
    for index in range(len(recorded) - 1):
        exchanged = [*recorded[:index], recorded[index + 1], recorded[index], *recorded[index + 2 :]]
        assert replay(start, exchanged) != head


def test_every_field_of_a_trade_is_under_the_head(world: World, strategy: Strategy) -> None:
    trade = one(world.buy(strategy, usd(1000)), "TradeRecorded")["trade"]
    start = genesis(world.d.ledger, strategy.vault.address)
    head = head_of(world, strategy.vault.address)
    assert head_after(start, trade) == head
    for field in trade:
        changed = {**trade, field: different(trade[field])}
        assert head_after(start, changed) != head, field
    for field in trade["prices"][1]:
        points = [trade["prices"][0], {**trade["prices"][1], field: different(trade["prices"][1][field])}]
        assert head_after(start, {**trade, "prices": points}) != head, field
    assert head_after(keccak(start), trade) != head


def different(value: Any) -> Any:
    """The value with its last bit turned; a list without its last element."""
    if isinstance(value, list):
        return value[:-1]
    if isinstance(value, str):
        return f"0x{int(value, 16) ^ 1:040x}"
    return value ^ 1 if isinstance(value, int) else value[:-1] + bytes([value[-1] ^ 1])


def test_one_vault_s_trades_leave_another_s_head_alone(world: World, strategy: Strategy) -> None:
    other = world.deploy_strategy(world.register_agent(world.other_controller, world.other_signer))
    before = head_of(world, other.vault.address)
    world.buy(strategy, usd(1000))
    assert head_of(world, other.vault.address) == before


@pytest.mark.parametrize("what", ["refused", "reverted"])
def test_what_was_not_traded_is_not_recorded(world: World, strategy: Strategy, what: str) -> None:
    before = head_of(world, strategy.vault.address)
    if what == "refused":
        world.send(world.constitution.functions.stopVault(strategy.vault.address, 3600), world.guardian)
        world.buy(strategy, usd(1000))
    else:
        with world.reverts("VaultZeroAmount"):
            world.buy(strategy, 0)
    assert head_of(world, strategy.vault.address) == before
