"""RewardPool, the signed account A: a closed window moves it towards the vault's profit P, and everything paid less
everything taken is rate x A, exactly, always.

Up to the lowest observed P if that is above A, by at most cap / rate; down to the highest if that is below A; otherwise
not at all. `invested` holds half of its million in ETH at 2,000, so a dollar of ETH is about 250 dollars of P.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.world import ANY, REWARD_RATE, WINDOW_S, Strategy, World, none_of, one, tokens, usd

CAP = tokens(5_000)
MOST = CAP // REWARD_RATE  # the furthest one window can move A upwards: 50,000 dollars
MAX_INT128 = 2**127 - 1


@pytest.fixture
def invested(world: World, strategy: Strategy) -> Strategy:
    world.buy(strategy, usd(500_000))
    return strategy


@pytest.fixture(autouse=True)
def books_balance(world: World) -> Iterator[None]:
    yield
    world.assert_books_balance()


def close_at(world: World, s: Strategy, *prices_usd: int) -> int:
    """The result of the next window, observed once at each price of ETH; it is not applied."""
    world.to_next_window()
    world.observe_at(s, *prices_usd)
    world.to_window_end()
    return world.close(s)


def settle_at(world: World, s: Strategy, *prices_usd: int) -> int:
    if move := close_at(world, s, *prices_usd):
        world.apply(s, move)
    world.assert_books_balance()
    return move


def profit(world: World, s: Strategy) -> int:
    return int(world.status(s).profit)


def credited(world: World, s: Strategy) -> int:
    return int(world.account(s).credited)


# ------------------------------------------------------------------- rewardAgent


@pytest.mark.parametrize("price", [2100, 1900])
@pytest.mark.parametrize("off_by", [-1, 1])
def test_reward_agent_refuses_a_pnl_that_is_off_by_one_unit(
    world: World, invested: Strategy, price: int, off_by: int
) -> None:
    move = close_at(world, invested, price)
    with world.reverts("RewardPnlMismatch", claimed=move + off_by, settled=move):
        world.apply(invested, move + off_by)


def test_reward_agent_refuses_the_opposite_of_a_loss(world: World, invested: Strategy) -> None:
    move = close_at(world, invested, 1900)
    with world.reverts("RewardPnlMismatch", claimed=-move, settled=move):
        world.apply(invested, -move)


@pytest.mark.parametrize("price", [2100, 1900])
def test_a_result_is_applied_once(world: World, invested: Strategy, price: int) -> None:
    move = settle_at(world, invested, price)
    with world.reverts("RewardPoolNoResult", agentId=invested.agent_id):
        world.apply(invested, move)


def test_there_is_no_result_before_a_window_is_closed(world: World, invested: Strategy) -> None:
    world.to_next_window()
    [observed] = world.observe_at(invested, 2100)
    world.to_window_end()
    with world.reverts("RewardPoolNoResult", agentId=invested.agent_id):
        world.apply(invested, observed)


def test_an_unknown_agent_has_no_result(world: World, invested: Strategy) -> None:
    close_at(world, invested, 2100)
    with world.reverts("RewardPoolNoResult", agentId=999):
        world.send(world.dao.functions.rewardAgent(999, 0), world.stranger)


def test_one_agents_result_is_not_anothers(world: World, invested: Strategy) -> None:
    other = world.deploy_strategy(world.register_agent(world.other_controller, world.other_signer))
    world.to_next_window()
    world.observe_at(invested, 2100)
    world.poke(other)
    world.to_window_end()
    move = world.close(invested)
    with world.reverts("RewardPoolNoResult", agentId=other.agent_id):
        world.apply(other, move)
    assert world.close(other) == 0, "it holds no ETH"
    with world.reverts("RewardPoolNoResult", agentId=other.agent_id):
        world.apply(other, move)


def test_the_pool_takes_the_result_from_anybody_directly(world: World, invested: Strategy) -> None:
    move = close_at(world, invested, 2100)
    applied = world.send(world.pool.functions.applyResult(invested.agent_id, move), world.stranger)
    assert one(applied, "Rewarded")["pnl"] == move


# ------------------------------------------------------------ the account in a window


def test_a_gain_pays_the_rate_for_every_unit_of_profit(world: World, invested: Strategy) -> None:
    move = close_at(world, invested, 2100)
    assert move == profit(world, invested) > usd(24_000)
    assert world.account(invested).pending
    assert world.account(invested).pendingMove == move
    assert one(world.apply(invested, move), "Rewarded") == {
        "vault": invested.vault.address,
        "agentId": invested.agent_id,
        "pnl": move,
        "reward": move * REWARD_RATE,
        "credited": move,
    }
    account = world.account(invested)
    assert (account.credited, account.unvested, account.vested) == (move, move * REWARD_RATE, 0)
    assert (account.pending, account.pendingMove, account.earmark) == (False, 0, CAP)


def test_a_loss_takes_the_same_rate_from_the_bond_when_nothing_is_unclaimed(world: World, invested: Strategy) -> None:
    bond, free = world.bond_of(invested.agent_id), world.view(world.pool.functions.free())
    move = close_at(world, invested, 1900)
    assert move == profit(world, invested) < -usd(24_000)
    events = world.apply(invested, move)
    assert one(events, "ClawedBack") == {
        "vault": invested.vault.address,
        "agentId": invested.agent_id,
        "pnl": move,
        "fromUnclaimed": 0,
        "fromBond": -move * REWARD_RATE,
        "credited": move,
    }
    assert one(events, "BondSeized") == {
        "agentId": invested.agent_id, "to": world.pool.address, "amount": -move * REWARD_RATE,
    }  # fmt: skip
    assert world.bond_of(invested.agent_id) == bond + move * REWARD_RATE
    assert world.view(world.pool.functions.free()) == free - move * REWARD_RATE, "what is taken is free again"
    assert credited(world, invested) == move


def test_a_recovery_returns_what_the_loss_took_and_no_more(world: World, invested: Strategy) -> None:
    loss = settle_at(world, invested, 1900)
    gain = settle_at(world, invested, 2050)
    assert gain == profit(world, invested) - loss
    assert credited(world, invested) == profit(world, invested)
    settle_at(world, invested, 1900)
    assert credited(world, invested) == loss, "back where it was, whatever happened in between"


def test_a_round_trip_pays_nothing(world: World, invested: Strategy) -> None:
    start = settle_at(world, invested, 2000)
    moves = [settle_at(world, invested, price) for price in (2100, 1950, 2150, 2000)]
    assert sum(moves) == 0
    assert credited(world, invested) == start


def test_a_spike_moves_nothing_when_one_honest_observer_was_there(world: World, invested: Strategy) -> None:
    at_rest = settle_at(world, invested, 2000)
    assert settle_at(world, invested, 2000, 2600) == 0
    assert settle_at(world, invested, 2600, 2000, 2600) == 0
    assert credited(world, invested) == at_rest


def test_a_gain_is_the_lowest_observation_whenever_it_was_made(world: World, invested: Strategy) -> None:
    world.to_next_window()
    _, lowest, _ = world.observe_at(invested, 2200, 2080, 2150)
    world.to_window_end()
    assert world.close(invested) == lowest
    world.apply(invested, lowest)


def test_a_dip_inside_the_window_takes_nothing(world: World, invested: Strategy) -> None:
    gain = settle_at(world, invested, 2100)
    assert settle_at(world, invested, 1700, 2100) == 0
    assert settle_at(world, invested, 2100, 1700) == 0
    assert credited(world, invested) == gain


def test_a_loss_is_the_highest_observation_whenever_it_was_made(world: World, invested: Strategy) -> None:
    world.to_next_window()
    _, highest, _ = world.observe_at(invested, 1900, 1960, 1930)
    world.to_window_end()
    assert world.close(invested) == highest
    world.apply(invested, highest)


def test_a_loss_is_taken_once_however_long_it_lasts(world: World, invested: Strategy) -> None:
    loss = settle_at(world, invested, 1900)
    assert [settle_at(world, invested, 1900) for _ in range(2)] == [0, 0]
    assert credited(world, invested) == loss


def test_observations_on_both_sides_of_the_account_move_nothing(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2050)
    assert settle_at(world, invested, 2000, 2100) == 0


def test_a_flat_window_needs_no_application(world: World, strategy: Strategy) -> None:
    epoch = world.to_next_window()
    world.poke(strategy)
    world.to_window_end()
    closed = one(world.send(world.pool.functions.closeWindow(strategy.vault.address), world.stranger), "WindowClosed")
    assert closed == {
        "vault": strategy.vault.address, "epoch": epoch, "move": 0, "missedBefore": False, "byVote": False,
    }  # fmt: skip
    assert world.view(world.pool.functions.isSettled(strategy.agent_id))
    with world.reverts("RewardPoolNoResult", agentId=strategy.agent_id):
        world.apply(strategy, 0)


# ------------------------------------------------------------------ missed windows


def test_a_missed_window_is_made_up_for_by_the_next_down_but_never_up(world: World, invested: Strategy) -> None:
    before = settle_at(world, invested, 2000)
    world.to_next_window()  # nobody comes
    world.to_window_end()
    assert settle_at(world, invested, 2100) == 0, "up: not in the window that makes up for a missed one"
    assert settle_at(world, invested, 2100) == profit(world, invested) - before, "but in the one after it"
    high = credited(world, invested)
    world.to_next_window()
    world.to_window_end()
    assert settle_at(world, invested, 1950) == profit(world, invested) - high < 0, "down: at once"


def test_the_closing_says_that_a_window_was_missed(world: World, invested: Strategy) -> None:
    world.to_next_window()
    epoch = world.to_next_window()
    world.poke(invested)
    world.to_window_end()
    closed = one(world.send(world.pool.functions.closeWindow(invested.vault.address), world.stranger), "WindowClosed")
    assert (closed["epoch"], closed["missedBefore"]) == (epoch, True)
    world.apply(invested, closed["move"])


def test_an_observed_window_that_nobody_closed_counts_as_missed(world: World, invested: Strategy) -> None:
    before = settle_at(world, invested, 2000)
    world.to_next_window()
    world.observe_at(invested, 2100)
    assert settle_at(world, invested, 2100) == 0
    assert settle_at(world, invested, 2100) == profit(world, invested) - before


# -------------------------------------------------------------------------- the cap


def test_what_the_cap_cuts_is_paid_in_later_epochs(world: World, invested: Strategy) -> None:
    goal = 120_000
    price = 2000 + goal // 250 + 4
    assert settle_at(world, invested, price) == MOST
    assert world.account(invested).unvested == CAP
    assert settle_at(world, invested, price) == MOST
    rest = settle_at(world, invested, price)
    assert 0 < rest < MOST
    assert credited(world, invested) == profit(world, invested) > usd(goal)
    assert settle_at(world, invested, price) == 0


def test_what_the_cap_cut_is_not_owed_when_the_profit_is_gone(world: World, invested: Strategy) -> None:
    settle_at(world, invested, 2400)
    assert settle_at(world, invested, 2000) == profit(world, invested) - MOST
    assert credited(world, invested) == profit(world, invested)


def test_the_cap_does_not_limit_what_is_taken(world: World, invested: Strategy) -> None:
    gains = settle_at(world, invested, 2400) + settle_at(world, invested, 2400)
    assert settle_at(world, invested, 1900) == profit(world, invested) - gains < -2 * MOST


def test_a_cap_that_is_no_multiple_of_the_rate_pays_whole_units_only(world: World) -> None:
    s = world.deploy_strategy(rewardCap=tokens(5_000) + REWARD_RATE - 1)
    world.buy(s, usd(500_000))
    assert settle_at(world, s, 2400) == MOST
    assert world.account(s).unvested == CAP


# ------------------------------------------------------------ a gap beyond the collateral


@pytest.fixture
def thinly_bonded(world: World) -> Strategy:
    """Half of its million in ETH, and bond for little more than the guard's worst case: 240,000 dollars of loss."""
    s = world.deploy_strategy(world.register_agent(bond_wei=tokens(24_000)))
    world.buy(s, usd(500_000))
    return s


COVERED = -usd(240_000)


def test_a_gap_moves_the_account_only_by_what_was_collected(world: World, thinly_bonded: Strategy) -> None:
    move = close_at(world, thinly_bonded, 1000)
    assert move == profit(world, thinly_bonded) < COVERED
    clawed = one(world.apply(thinly_bonded, move), "ClawedBack")
    assert (clawed["pnl"], clawed["fromBond"], clawed["credited"]) == (move, tokens(24_000), COVERED)
    assert credited(world, thinly_bonded) == COVERED
    assert world.bond_of(thinly_bonded.agent_id) == 0


def test_what_a_gap_left_open_is_asked_for_again_and_blocks_nothing(world: World, thinly_bonded: Strategy) -> None:
    settle_at(world, thinly_bonded, 1000)
    open_ = COVERED - profit(world, thinly_bonded)
    move = close_at(world, thinly_bonded, 1000)
    assert move == -open_
    clawed = one(world.apply(thinly_bonded, move), "ClawedBack")
    assert (clawed["fromUnclaimed"], clawed["fromBond"], clawed["credited"]) == (0, 0, COVERED)
    assert world.view(world.pool.functions.isSettled(thinly_bonded.agent_id))


def test_after_a_gap_nothing_is_paid_until_profit_is_above_the_account_again(
    world: World, thinly_bonded: Strategy
) -> None:
    settle_at(world, thinly_bonded, 1000)
    settle_at(world, thinly_bonded, 1035)
    assert profit(world, thinly_bonded) < COVERED
    assert (credited(world, thinly_bonded), world.account(thinly_bonded).unvested) == (COVERED, 0)
    assert settle_at(world, thinly_bonded, 1100) == profit(world, thinly_bonded) - COVERED > 0


def test_bond_posted_after_a_gap_is_collected(world: World, thinly_bonded: Strategy) -> None:
    settle_at(world, thinly_bonded, 1000)
    open_ = COVERED - profit(world, thinly_bonded)
    world.post_bond(thinly_bonded.agent_id, tokens(2_000))
    assert settle_at(world, thinly_bonded, 1000) == -open_
    assert credited(world, thinly_bonded) == profit(world, thinly_bonded)
    assert world.bond_of(thinly_bonded.agent_id) == tokens(2_000) - open_ * REWARD_RATE


def test_only_whole_units_are_collected_so_that_the_account_stays_exact(world: World) -> None:
    bond = tokens(24_000) + REWARD_RATE // 3
    s = world.deploy_strategy(world.register_agent(bond_wei=bond))
    world.buy(s, usd(500_000))
    settle_at(world, s, 1000)
    assert credited(world, s) == COVERED
    assert world.bond_of(s.agent_id) == REWARD_RATE // 3


def test_a_gain_after_a_gap_pays_for_the_next_loss(world: World, thinly_bonded: Strategy) -> None:
    settle_at(world, thinly_bonded, 1000)
    gain = settle_at(world, thinly_bonded, 1150)
    move = close_at(world, thinly_bonded, 1000)
    clawed = one(world.apply(thinly_bonded, move), "ClawedBack")
    assert (clawed["fromUnclaimed"], clawed["fromBond"]) == (gain * REWARD_RATE, 0)
    assert credited(world, thinly_bonded) == COVERED


# ----------------------------------------------------------------------- neutral flows


def test_a_donation_to_the_vault_is_no_profit(world: World, invested: Strategy) -> None:
    world.to_next_window()
    world.market.give_quote(invested.vault.address, usd(100_000))
    world.market.give_base("ETH", invested.vault.address, 10 * 10**18)
    [before] = world.observe_at(invested, 2100)
    world.market.give_quote(invested.vault.address, usd(100_000))
    world.to_window_end()
    assert world.close(invested) == before < usd(25_000)
    world.apply(invested, before)


@pytest.mark.parametrize("when", ["before the observation", "between observations", "between observation and close"])
@pytest.mark.parametrize("flow", ["allocation", "recall of quote", "recall of ETH"])
def test_a_flow_pays_nothing(world: World, invested: Strategy, flow: str, when: str) -> None:
    def move_capital() -> None:
        treasury = world.treasury.functions
        call = {
            "allocation": treasury.allocate(invested.id, usd(300_000)),
            "recall of quote": treasury.recall(invested.id, world.book.quote, usd(300_000), 0),
            "recall of ETH": treasury.recall(invested.id, world.token_of("ETH"), 77 * 10**18 + 7, 0),
        }[flow]
        world.as_timelock(call)

    world.to_next_window()
    world.set_price("ETH", 2100, pool_follows=False)
    expected = profit(world, invested)
    if when == "before the observation":
        move_capital()
    world.poke(invested)
    if when == "between observations":
        move_capital()
        world.poke(invested)
    world.to_window_end()
    if when == "between observation and close":
        move_capital()
    move = world.close(invested)
    assert expected - 1 <= move <= expected, "a recall in kind rounds against the agent by a unit at most"
    world.apply(invested, move)


def test_trades_and_flows_inside_the_window_observe_it_too(world: World, invested: Strategy) -> None:
    epoch = world.to_next_window()
    world.set_price("ETH", 2050)
    expected = profit(world, invested)
    bought = one(world.buy(invested, usd(1_000)), "ProfitObserved")
    assert (bought["epoch"], bought["profit"]) == (epoch, expected)
    expected = profit(world, invested)
    flow = world.as_timelock(world.treasury.functions.allocate(invested.id, usd(1)))
    assert one(flow, "ProfitObserved")["profit"] == expected
    assert world.view(world.pool.functions.windowOf(invested.vault.address)).observations == 2


# ---------------------------------------------------------------------- closing by vote


def miss_windows(world: World, count: int) -> int:
    """Travels to the end of the last of so many windows that nobody observed; returns its epoch."""
    for _ in range(count):
        epoch = world.to_next_window()
    world.to_window_end()
    return epoch


def close_by_vote(world: World, s: Strategy, move: int) -> dict:
    return one(world.as_timelock(world.pool.functions.closeByVote(s.vault.address, move)), "WindowClosed")


def test_nobody_but_the_timelock_closes_an_unobserved_window(world: World, invested: Strategy) -> None:
    miss_windows(world, 3)
    with world.reverts("RewardPoolUnauthorized", caller=world.guardian.address):
        world.send(world.pool.functions.closeByVote(invested.vault.address, 0), world.guardian)


def test_the_timelock_waits_for_three_missed_windows(world: World, invested: Strategy) -> None:
    miss_windows(world, 2)
    with world.reverts("RewardPoolNotOverdue", vault=invested.vault.address, missed=2, needed=3):
        close_by_vote(world, invested, 0)


def test_a_window_that_was_observed_is_closed_by_what_was_observed(world: World, invested: Strategy) -> None:
    miss_windows(world, 2)
    world.to_next_window()
    [loss] = world.observe_at(invested, 1900)
    world.to_window_end()
    with world.reverts("RewardPoolNotOverdue", vault=invested.vault.address, missed=3, needed=3):
        close_by_vote(world, invested, 0)
    assert world.close(invested) == loss
    world.apply(invested, loss)


def test_closing_by_vote_must_not_pay(world: World, invested: Strategy) -> None:
    miss_windows(world, 3)
    with world.reverts("RewardPoolMoveMustNotPay", move=1):
        close_by_vote(world, invested, 1)


def test_closing_by_vote_needs_a_vault_and_something_due(world: World, invested: Strategy) -> None:
    with world.reverts("RewardPoolUnknownVault", vault=world.stranger.address):
        world.as_timelock(world.pool.functions.closeByVote(world.stranger.address, 0))
    with world.reverts("RewardPoolNothingToClose", vault=invested.vault.address, nextEpoch=0):
        close_by_vote(world, invested, 0)


def test_closing_by_vote_does_not_replace_a_frozen_result(world: World, invested: Strategy) -> None:
    move = close_at(world, invested, 2100)
    miss_windows(world, 3)
    with world.reverts("RewardPoolResultPending", vault=invested.vault.address, move=move):
        close_by_vote(world, invested, 0)


def test_a_window_closed_by_vote_settles_the_account(world: World, invested: Strategy) -> None:
    before = settle_at(world, invested, 2000)
    epoch = miss_windows(world, 3)
    assert close_by_vote(world, invested, 0) == {
        "vault": invested.vault.address, "epoch": epoch, "move": 0, "missedBefore": True, "byVote": True,
    }  # fmt: skip
    assert world.view(world.pool.functions.isSettled(invested.agent_id))
    assert settle_at(world, invested, 2100) == profit(world, invested) - before, "nothing is missed any more"


def test_a_loss_voted_after_missed_windows_is_collected(world: World, invested: Strategy) -> None:
    miss_windows(world, 3)
    close_by_vote(world, invested, -usd(1_000))
    clawed = one(world.apply(invested, -usd(1_000)), "ClawedBack")
    assert (clawed["fromBond"], clawed["credited"]) == (usd(1_000) * REWARD_RATE, -usd(1_000))


def test_a_voted_loss_beyond_all_collateral_takes_what_is_there(world: World, invested: Strategy) -> None:
    miss_windows(world, 3)
    close_by_vote(world, invested, -MAX_INT128 - 1)
    world.apply(invested, -MAX_INT128 - 1)
    assert world.bond_of(invested.agent_id) == 0
    assert credited(world, invested) == -usd(500_000)


def test_a_move_that_does_not_fit_is_refused(world: World, invested: Strategy) -> None:
    miss_windows(world, 3)
    with world.reverts("SafeCastOverflowedIntDowncast", bits=128, value=ANY):
        close_by_vote(world, invested, -MAX_INT128 - 2)


def test_a_vault_without_a_price_settles_by_vote_and_goes_on(world: World, invested: Strategy) -> None:
    for _ in range(3):
        epoch = world.current_epoch()
        world.evm.travel_to(world.epoch_start_s(epoch + 1) + 60)  # and no feed publishes
        assert none_of(world.poke(invested), "ProfitObserved")
    world.evm.travel_to(world.epoch_start_s(epoch + 1) + WINDOW_S)
    close_by_vote(world, invested, 0)
    world.refresh()
    assert settle_at(world, invested, 2100) == profit(world, invested)
