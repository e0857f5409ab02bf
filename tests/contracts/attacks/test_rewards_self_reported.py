"""An agent reports its own profit, applies or claims it again, or claims from inside its own trade."""

from __future__ import annotations

from typing import Any

import pytest
from web3 import Web3

from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.rewards import claim, close_at, deploy_invested, say_tokens, settle_at
from tests.contracts.vaults import turn_faulty
from tests.contracts.world import DAY_S, REWARD_RATE, Strategy, World, one, usd

REENTERED = bytes(Web3.keccak(text="ReentrancyGuardReentrantCall()")[:4])


@pytest.fixture
def invested(world: World) -> Strategy:
    return deploy_invested(world)


def in_one_transaction(world: World, *calls: Any) -> list[bool]:
    """Which of the calls succeeded when a contract makes them one after the other."""
    multicall = world.evm.at("LocalMulticall", world.book.multicall)
    bundle = [(call.address, True, call._encode_transaction_data()) for call in calls]
    succeeded = [bool(success) for success, _ in world.view(multicall.functions.aggregate3(bundle))]
    world.send(multicall.functions.aggregate3(bundle), world.controller)
    return succeeded


def test_a_self_reported_profit_pays_nothing(world: World, invested: Strategy, attack: Report) -> None:
    move = close_at(world, invested, 2100)
    for told in (10 * move, move + 1, -move, 2**127 - 1):
        with world.reverts("RewardPnlMismatch", claimed=told, settled=move):
            world.send(world.pool.functions.applyResult(invested.agent_id, told), world.controller)
    with world.reverts("RewardPoolUnknownVault", vault=world.controller.address):
        world.send(
            world.pool.functions.sync(usd(10**6), usd(10**6), True, 0, world.controller.address), world.controller
        )
    world.apply(invested, move)
    assert world.account(invested).unvested == move * REWARD_RATE
    attack.outcome(gained="0 tokens beyond what was earned", cost="gas", stopped_by="RewardPnlMismatch")


def test_a_vault_of_one_s_own_with_genuine_code_reports_to_nobody(
    world: World, invested: Strategy, attack: Report
) -> None:
    """The same byte code as the DAO's vaults, deployed by the attacker: it can't even be initialised."""
    code = (
        "3d602d80600a3d3981f3363d3d373d3d3d363d73" + world.d.vault_implementation[2:] + "5af43d82803e903d91602b57fd5bf3"
    )
    receipt = world.evm.send(world.w3.eth.contract(abi=[], bytecode=code).constructor(), world.stranger)
    clone = world.d.vault(world.evm, receipt["contractAddress"])
    assert world.w3.eth.get_code(clone.address) == world.w3.eth.get_code(invested.vault.address)
    init = (b"\x01" * 32, b"\x02" * 32, world.d.venue, invested.agent_id, invested.manifest["limits"], [])
    with world.reverts("VaultUnauthorized", caller=world.stranger.address):
        world.send(clone.functions.initialize(init), world.stranger)
    world.to_next_window()
    with world.reverts("RewardPoolUnknownVault", vault=clone.address):
        world.poke(Strategy(invested.id, clone, invested.agent_id, {}))
    attack.outcome(
        gained="0 tokens", cost=f"{receipt['gasUsed']:,} gas for the clone", stopped_by="RewardPoolUnknownVault"
    )


def test_a_result_and_a_claim_repeated_in_one_transaction_count_once(
    world: World, invested: Strategy, attack: Report
) -> None:
    move = close_at(world, invested, 2100)
    result = world.pool.functions.applyResult(invested.agent_id, move)
    verb = world.dao.functions.rewardAgent(invested.agent_id, move)
    assert in_one_transaction(world, result, result, verb) == [True, False, False]
    assert world.account(invested).credited == move
    world.travel(DAY_S)
    held = lambda: world.market.balance(world.d.token, world.controller)  # noqa: E731
    before = held()
    payout = world.pool.functions.claim(invested.vault.address)
    assert in_one_transaction(world, payout, payout, payout) == [True, False, False]
    one_day = move * REWARD_RATE // 30
    assert one_day <= held() - before < one_day * 1001 // 1000, "a day of thirty, and a few seconds"
    attack.outcome(
        gained="0 tokens beyond what had vested",
        cost="gas of the refused calls",
        stopped_by="RewardPoolNoResult, RewardPoolNothingToClaim",
    )


def test_a_claim_from_inside_a_trade_is_refused(world: World, attack: Report) -> None:
    """A listed token whose transfer calls back: at the time, the vault has paid and not yet received."""
    s = world.deploy_strategy(assets=("BTC",))
    world.buy(s, usd(500_000), symbol="BTC")
    settle_at(world, s, 63_000, symbol="BTC")
    world.set_price("BTC", 63_000)
    world.travel(DAY_S)
    token = turn_faulty(world, world.token_of("BTC"), 8)
    payout = world.pool.functions.claim(s.vault.address)
    world.send(token.functions.setHook(world.d.pool, payout._encode_transaction_data()), world.stranger)
    world.sell(s, 10**8, symbol="BTC")
    assert not world.view(token.functions.hookSucceeded())
    assert world.view(token.functions.hookAnswer()) == REENTERED, "the vault's state can't be read meanwhile"
    assert world.account(s).vested == 0, "nothing has moved"
    world.send(token.functions.setHook("0x" + "00" * 20, b""), world.stranger)
    paid = claim(world, s)
    assert paid < world.account(s).credited * REWARD_RATE // 29
    attack.outcome(
        gained=f"0 tokens; the same claim afterwards pays the {say_tokens(paid)} that had vested",
        cost="gas",
        stopped_by="ReentrancyGuardReentrantCall",
    )


def test_closing_the_window_from_inside_a_trade_changes_no_result(world: World, attack: Report) -> None:
    s = world.deploy_strategy(assets=("BTC",))
    world.buy(s, usd(500_000), symbol="BTC")
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.to_next_window()
    [observed] = world.observe_at(s, 61_000, symbol="BTC")
    world.to_window_end()
    world.set_price("BTC", 61_000)
    close = world.pool.functions.closeWindow(s.vault.address)
    world.send(token.functions.setHook(world.d.pool, close._encode_transaction_data()), world.stranger)
    events = world.sell(s, 10**8, symbol="BTC")
    assert one(events, "WindowClosed")["move"] == observed, "what was observed, not what the trade left"
    attack.outcome(gained="0 tokens", cost="gas", stopped_by="the result is what the window observed")
