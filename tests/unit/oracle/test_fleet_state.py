"""A fleet's reading is, vault for vault, what a reader of that one vault says; and no vault speaks for another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from agents.localnet.market import MULTICALL3
from oracle.chain import BlockRef, fetch_block
from oracle.errors import NothingThere, ReadingFailed
from oracle.fleet_state import FleetReader
from oracle.vault_state import VaultReader, VaultReading, VaultState
from tests.contracts.vaults import DEAD_CODE, halt, stop, tighten
from tests.contracts.world import DAY_S, LIMITS, Strategy, World, tokens, usd

QUOTE_UNIT = 10**6
ONE_WORD = bytes.fromhex("60205ff3")  # returns 32 bytes, whatever it is asked


class Wire:
    """The chain of a world, with every request written down, and `answer` to change what comes back."""

    def __init__(self, world: World) -> None:
        self.w3, self._evm = world.evm.w3, world.evm
        self.requests: list[str] = []
        self.answer: Callable[[str, int], bytes] = self.ask

    def ask(self, data: str, block: int) -> bytes:
        return bytes(self._evm.call({"to": MULTICALL3, "data": data}, block=block))

    def call(self, what: Any, sender: Any = None, *, block: int | str = "latest") -> bytes:
        self.requests.append(what["data"])
        return self.answer(what["data"], int(block))

    @property
    def longest(self) -> str:
        """The request about all vaults, when there is one chunk."""
        return max(self.requests, key=len)


@contextmanager
def fleet(world: World, vaults: Sequence[Any], *, chain: Any = None, **options: Any) -> Iterator[FleetReader]:
    reader = FleetReader(
        chain or world.evm, vaults, constitution=world.constitution, oracle=world.oracle, quote=world.book.quote,
        quote_unit=QUOTE_UNIT, **options,
    )  # fmt: skip
    yield reader
    reader.close()


def alone(world: World, vaults: Sequence[Any], block: BlockRef) -> list[VaultReading]:
    return [
        VaultReader(
            world.evm, vault=vault, constitution=world.constitution, oracle=world.oracle, quote=world.book.quote,
            quote_unit=QUOTE_UNIT,
        ).fetch(block)
        for vault in vaults
    ]  # fmt: skip


def hire(world: World, **options: Any) -> Strategy:
    return world.deploy_strategy(world.register_agent(), **{"rewardCap": tokens(100)} | options)


@pytest.fixture
def vaults(world: World) -> list[Any]:
    """One in every state: ACTIVE with two assets, with limits of its own, reducing, halted, and without any money."""
    active = hire(world, assets=("BTC", "ETH"))
    world.buy(active, usd(300_000))
    world.buy(active, usd(200_000) + 1, symbol="BTC")
    narrow = hire(world, limits=replace(LIMITS, max_trades_per_day=3, max_daily_turnover_bps=15_000))
    reducing, halted = hire(world, assets=("BTC",)), hire(world)
    for held, symbol in ((narrow, "ETH"), (reducing, "BTC"), (halted, "ETH")):
        world.buy(held, usd(100_000), symbol=symbol)
    stop(world, reducing)
    halt(world, halted)
    empty = hire(world, capital=0)
    world.set_price("ETH", "1987.654321")
    return [s.vault for s in (active, narrow, reducing, halted, empty)]


@pytest.fixture
def block(world: World, vaults: list[Any]) -> BlockRef:
    return fetch_block(world.evm)


def relist(world: World, vault: Any, *symbols: str) -> None:
    """Other assets, as a vote that updates the strategy would list them."""
    world.evm.impersonate(world.d.strategies)
    assets = [(world.token_of(symbol), world.book.asset(symbol).pool_fee) for symbol in symbols]
    update = vault.functions.update(world.view(vault.functions.artefactHash()), LIMITS.as_tuple(), assets)
    world.send(update, world.d.strategies)


def encoded(world: World, vault: Any, name: str) -> str:
    """Call data of a view; of `positionOf` for the vault's first asset."""
    token = [world.view(vault.functions.assets())[0].token] if name == "positionOf" else []
    return str(vault.functions[name](*token)._encode_transaction_data())


# One vault's silence


def test_who_is_no_vault_is_an_error_and_the_others_are_read(world: World, vaults: list[Any], block: BlockRef) -> None:
    nobody = world.stranger.address
    with fleet(world, [vaults[0], nobody, world.d.oracle, vaults[1]]) as reader:
        for _ in range(2):
            first, *errors, last = reader.fetch(block)
            assert [first, last] == alone(world, vaults[:2], block)
            assert [type(error) for error in errors] == [NothingThere] * 2
            assert str(errors[0]) == f"strategyId of {nobody} gave no answer at block {block.number}"


@pytest.mark.parametrize(
    ("code", "reason"),
    [(DEAD_CODE, "OutOfGas"), (ONE_WORD, "limits of .* answered what its ABI does not say"), (b"", "gave no answer")],
    ids=["burns all gas", "one word for everything", "gone"],
)
def test_a_vault_that_turns_into_something_else_takes_no_other_with_it(
    world: World, vaults: list[Any], block: BlockRef, code: bytes, reason: str
) -> None:
    with fleet(world, vaults) as reader:
        assert reader.fetch(block) == alone(world, vaults, block)
        world.evm.set_code(vaults[2].address, code)
        world.evm.mine()
        later = fetch_block(world.evm)
        error = (found := reader.fetch(later)).pop(2)
        assert isinstance(error, ReadingFailed)
        assert vaults[2].address in str(error)
        assert re.search(reason, str(error))
        assert found == alone(world, vaults[:2] + vaults[3:], later)


def test_who_lists_no_assets_that_can_be_read_is_an_error(world: World, vaults: list[Any], block: BlockRef) -> None:
    world.evm.set_code(world.stranger.address, ONE_WORD)
    world.evm.mine()
    later = fetch_block(world.evm)
    with fleet(world, [world.stranger.address, vaults[0]]) as reader:
        error, ok = reader.fetch(later)
        assert "assets of" in str(error)
        assert [ok] == alone(world, vaults[:1], later)


def test_a_vault_is_read_from_the_block_on_at_which_it_is_there(world: World) -> None:
    before = fetch_block(world.evm)
    vault = hire(world).vault
    with fleet(world, [vault.address]) as reader:
        assert isinstance(reader.fetch(before)[0], NothingThere)
        after = fetch_block(world.evm)
        assert reader.fetch(after) == alone(world, [vault], after)


# The node


def test_without_multicall_nothing_is_read(world: World, vaults: list[Any], block: BlockRef) -> None:
    world.evm.set_code(MULTICALL3, b"")
    with fleet(world, vaults) as reader, pytest.raises(ReadingFailed, match=MULTICALL3):
        reader.fetch(fetch_block(world.evm))


def test_an_answer_for_another_block_is_not_taken(world: World, vaults: list[Any], block: BlockRef) -> None:
    with fleet(world, vaults) as reader:
        reader.fetch(block)
        with pytest.raises(ReadingFailed, match=f"the node answered for one of {block.timestamp_s}"):
            reader.fetch(replace(block, timestamp_s=block.timestamp_s + 1))


def test_vaults_read_at_another_block_than_the_prices_are_errors(
    world: World, vaults: list[Any], block: BlockRef
) -> None:
    wire = Wire(world)
    with fleet(world, vaults, chain=wire) as reader:
        reader.fetch(block)
        world.evm.mine()
        about_all = wire.longest
        wire.answer = lambda data, number: wire.ask(data, block.number if data == about_all else number)
        for error in reader.fetch(fetch_block(world.evm)):
            assert isinstance(error, ReadingFailed)
            assert "the node answered for one of" in str(error)


def test_a_node_that_is_gone_is_not_asked_again_about_each_vault(
    world: World, vaults: list[Any], block: BlockRef
) -> None:
    wire = Wire(world)
    with fleet(world, vaults, chain=wire) as reader:
        reader.fetch(block)
        wire.requests.clear()

        def refuse(data: str, number: int) -> bytes:
            raise ConnectionRefusedError("connection refused")

        wire.answer = refuse
        with pytest.raises(ReadingFailed, match="connection refused"):
            reader.fetch(block)
    assert len(wire.requests) == 2


@pytest.mark.parametrize("cut", [1, 32, 1000, 10_000])
def test_an_answer_that_is_cut_short_is_asked_for_again_and_never_half_read(
    world: World, vaults: list[Any], block: BlockRef, cut: int
) -> None:
    wire = Wire(world)
    with fleet(world, vaults, chain=wire) as reader:
        reader.fetch(block)
        about_all = wire.longest
        wire.answer = lambda data, number: wire.ask(data, number)[: -cut if data == about_all else None]
        assert reader.fetch(block) == alone(world, vaults, block)


def test_a_node_that_only_ever_answers_half_is_named(world: World, vaults: list[Any], block: BlockRef) -> None:
    wire = Wire(world)
    with fleet(world, vaults[:1], chain=wire) as reader:
        reader.fetch(block)
        about_all = wire.longest
        wire.answer = lambda data, number: wire.ask(data, number)[: -1000 if data == about_all else None]
        [error] = reader.fetch(block)
    assert re.search(rf"{vaults[0].address} can't be read: {MULTICALL3} answered \d+ bytes", str(error))


@pytest.mark.parametrize(("call", "word", "value"), [
    ("status", 0, 3), ("status", 1, 2**16), ("guard", 4, 2**104), ("limits", 0, 2**16), ("positionOf", 0, 2**128),
])  # fmt: skip
def test_what_no_vault_can_answer_is_an_error_of_that_vault(
    world: World, vaults: list[Any], block: BlockRef, call: str, word: int, value: int
) -> None:
    said = bytes(world.evm.call({"to": vaults[0].address, "data": encoded(world, vaults[0], call)}))
    nonsense = said[: word * 32] + value.to_bytes(32, "big") + said[word * 32 + 32 :]
    wire = Wire(world)
    with fleet(world, vaults, chain=wire) as reader:
        reader.fetch(block)
        wire.answer = lambda data, number: wire.ask(data, number).replace(said, nonsense, 1)
        found = reader.fetch(block)
    assert f"{vaults[0].address} answered what its ABI does not say" in str(found[0])
    assert found[1:] == alone(world, vaults[1:], block)


def test_a_vault_that_is_named_twice_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="twice"), fleet(world, [world.d.oracle, world.d.oracle.lower()]):
        pass


# What is read


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_each_reading_is_that_of_a_reader_of_the_one_vault(
    world: World, vaults: list[Any], block: BlockRef, chunk: int
) -> None:
    with fleet(world, vaults, chunk=chunk) as reader:
        found = reader.fetch(block)
    assert found == alone(world, vaults, block)
    assert [reading.state for reading in found] == [  # type: ignore[union-attr]
        VaultState.ACTIVE, VaultState.ACTIVE, VaultState.REDUCING, VaultState.HALTED, VaultState.ACTIVE
    ]  # fmt: skip
    assert found[4].value == 0  # type: ignore[union-attr]
    assert found[3].profit < 0 < found[0].quote_held  # type: ignore[union-attr]


def test_a_block_is_read_as_it_was_and_the_next_one_as_it_is(world: World, vaults: list[Any], block: BlockRef) -> None:
    """Nothing of one block is left in the reading of another, whichever way time goes."""
    with fleet(world, vaults) as reader:
        before = reader.fetch(block)
        tighten(world, max_position_bps=123, max_daily_turnover_bps=7777)
        world.set_price("BTC", 61_000)
        world.travel_to((fetch_block(world.evm).timestamp_s // DAY_S + 1) * DAY_S + 5)
        later = fetch_block(world.evm)
        now = reader.fetch(later)
        assert now == alone(world, vaults, later)
        assert [reading.limits.max_position_bps for reading in now] == [123] * 5  # type: ignore[union-attr]
        assert reader.fetch(block) == before == alone(world, vaults, block)


def test_a_feed_that_is_late_gives_no_price_to_any_vault(world: World, vaults: list[Any], block: BlockRef) -> None:
    with fleet(world, vaults) as reader:
        reader.fetch(block)
        world.evm.travel(3 * 3600)
        world.market.publish("BTC", Decimal(60_000))
        later = fetch_block(world.evm)
        found = reader.fetch(later)
    assert found == alone(world, vaults, later)
    assert found[1].positions[0].price_wad == 0  # type: ignore[union-attr]


def test_other_assets_are_noticed_in_the_block_in_which_they_are_listed(world: World) -> None:
    changing, other = hire(world, capital=0).vault, hire(world).vault
    with fleet(world, [changing, other]) as reader:
        before = fetch_block(world.evm)
        assert [p.token for p in reader.fetch(before)[0].positions] == [world.token_of("ETH")]  # type: ignore[union-attr]
        relist(world, changing, "BTC", "ETH")
        for block in (fetch_block(world.evm), before, fetch_block(world.evm)):
            assert reader.fetch(block) == alone(world, [changing, other], block)
        assert [p.token for p in reader.fetch(block)[0].positions] == [  # type: ignore[union-attr]
            world.token_of("BTC"), world.token_of("ETH")
        ]  # fmt: skip


def test_parts_come_as_they_are_answered_and_together_are_the_whole(
    world: World, vaults: list[Any], block: BlockRef
) -> None:
    with fleet(world, [*vaults, world.stranger.address], chunk=2) as reader:
        parts = list(reader.fetch_parts(block))
        found = {address: reading for part in parts for address, reading in part.items()}
        assert sorted(map(len, parts)) == [1, 1, 2, 2]
        assert [found[vault.address] for vault in vaults] == alone(world, vaults, block)
        assert isinstance(found[world.stranger.address], NothingThere)
        for _ in reader.fetch_parts(block):
            break
        assert reader.fetch(block)[:5] == alone(world, vaults, block), "who stops half way can begin again"


# What it costs


def test_a_fleet_is_read_in_one_request_for_each_chunk_and_one_for_what_it_shares(
    world: World, vaults: list[Any], block: BlockRef
) -> None:
    wire = Wire(world)
    with fleet(world, vaults, chain=wire, chunk=2) as reader:
        reader.fetch(block)
        wire.requests.clear()
        reader.fetch(block)
        first, wire.requests = wire.requests, []
        world.set_price("ETH", 2005)
        reader.fetch(fetch_block(world.evm))
    assert len(first) == 4
    assert sorted(first) == sorted(wire.requests)
