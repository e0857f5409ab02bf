"""The demo's second half: the DAO of an EVM chain opens a vault on Solana, and the same cycle trades it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.demo import REWARD_CAP_WEI, REWARD_RATE, buy_and_hold
from agents.localnet.evm import start_evm
from agents.solana_demo import SolanaSide
from tests.contracts.world import LIMITS
from tests.contracts.world import World as EvmWorld

CAPITAL = 500_000 * 10**6
BARS = 400


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SolanaSide]:
    """Four hundred half hours of a price that swings by some per cent."""
    folder: Path = tmp_path_factory.mktemp("solana")
    with start_evm() as evm:
        world = EvmWorld(evm)
        history = [(evm.now_s() - 1800 * (3 - back), 2_000 * 10**8) for back in range(4)]
        side = SolanaSide(
            evm=evm, deployment=world.d, genesis=world.genesis, artefact=buy_and_hold(5000), limits=LIMITS,
            capital=CAPITAL, reward_rate_wei=REWARD_RATE, reward_cap_wei=REWARD_CAP_WEI, history=history, out=folder,
            say=lambda _: None,
        )  # fmt: skip
        decided = side.decisions()
        proposal = world.propose(decided, "a vault on Solana")
        world.pass_proposal(proposal)
        side.carry_over()
        price = 2_000.0
        for bar in range(BARS):
            evm.travel(1800)
            price *= 1 + (bar * 7919 % 13 - 5.8) / 900
            side.publish(int(price * 10**8), evm.now_s())
            side.bar(bar)
        yield side


def test_what_the_dao_voted_for_is_carried_over_and_the_same_policy_trades_it(side: SolanaSide) -> None:
    told = side.report()
    assert told["decisions_carried_over"] == 2
    assert told["trades"] >= 1
    assert told["explained"] == told["trades"]
    assert told["head"] == bytes(side.chain.state(side.vault).head).hex()


def test_rewards_are_exactly_rate_times_account(side: SolanaSide) -> None:
    told = side.report()
    assert told["is_exact"]
    assert told["rewarded"] > 0
    assert len(side.equity) == BARS


def test_the_journal_has_every_trade_and_all_of_them_are_final(side: SolanaSide) -> None:
    traded = [row for row in side.journal.rows() if row["outcome"] == "traded"]
    assert [row["state"] for row in traded] == ["final"] * side.report()["trades"]
    heads = ["0x" + entry.fields["head"].hex() for entry in side.entries()]
    assert [row["trade_id"] for row in traded] == heads
