"""What the program on Solana does for and to those who use it as they should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from agents.solana_program import LedgerBroken, verify_chain
from oracle.vault_state import Reason
from tests.solana.test_attacks import refused, retire_and_release
from tests.solana.world import CEILINGS, EPOCH_S, QUOTE, TOKEN, VESTING_S, WINDOW_S, Sent, World

DAY_S = 86_400
CAPITAL = 10_000 * QUOTE


@pytest.fixture
def world() -> World:
    return World.trading()


def limited(**limits: int) -> World:
    """A trading world whose vault has these limits instead of the ceilings."""
    world = World()
    steps: tuple[Callable[[], Sent], ...] = (
        world.initialise,
        world.register,
        lambda: world.fund_rewards(10**5 * TOKEN),
        lambda: world.open_vault(limits=limits),
        lambda: world.allocate(CAPITAL),
        lambda: world.make_market(10**6 * QUOTE),
    )
    assert [step().error for step in steps] == [""] * 6
    return world


def done(sent: Sent) -> Sent:
    assert sent.error == "", (sent.error, sent.logs)
    return sent


def reasons(world: World) -> Reason:
    return Reason(world.state("vault").guard.reasons)


def move(world: World, percent: int) -> None:
    """The price moves by so many percent, and the market with it; anybody observes."""
    world.publish(world.base_price_e8 * (100 + percent) // 100)
    world.move_market()
    done(world.call("observe"))


def to_window(world: World) -> None:
    """Just inside the next window."""
    epoch = (world.now_s - world.config.genesis_s) // EPOCH_S
    world.set_clock(world.config.genesis_s + (epoch + 1) * EPOCH_S + 1)
    world.publish()


def settle(world: World, *, close: bool = True) -> int:
    """Observes in the next window and closes it; the result, which is applied if there is one."""
    to_window(world)
    done(world.call("observe"))
    world.wait(WINDOW_S)
    result = done(world.call("close_window")).event("WindowClosed")["move"]
    if result and close:
        done(world.call("reward_agent", result))
    return result


# --- the guard: what one trade must pass


@pytest.mark.parametrize(
    ("limits", "amount", "error"),
    [
        ({"max_position_bps": 2900}, 3_000 * QUOTE, "PositionExceeded"),
        ({"max_trade_slippage_bps": 10, "max_reduce_slippage_bps": 10}, 3_000 * QUOTE, "SlippageExceeded"),
        ({"max_cumulative_slippage_bps": 10}, 3_000 * QUOTE, "CumulativeSlippageExceeded"),
        ({"max_trades_per_day": 0}, 3_000 * QUOTE, "TradeCountExceeded"),
        ({"max_daily_turnover_bps": 2999}, 3_000 * QUOTE, "TurnoverExceeded"),
        ({"max_daily_loss_bps": 5}, 3_000 * QUOTE, "DailyLossExceeded"),
        ({"max_drawdown_bps": 5}, 3_000 * QUOTE, "DrawdownExceeded"),
    ],
)
def test_a_trade_beyond_a_limit_is_refused_and_one_within_it_is_not(
    limits: dict[str, int], amount: int, error: str
) -> None:
    """Three thousand of ten cost about 35 basis points of themselves in this market."""
    world = limited(**limits)
    refused(world, lambda: world.trade(amount, is_buy=True), error)
    roomy = limited()
    done(roomy.trade(amount, is_buy=True))


def test_ceilings_that_the_dao_lowers_bind_a_running_vault_at_once(world: World) -> None:
    lower = world.types["Limits"](**(vars(world.config.ceilings) | {"max_position_bps": 2000}))
    done(world.decide("set_ceilings", lower, subject="protocol"))
    refused(world, lambda: world.trade(3_000 * QUOTE, is_buy=True), "PositionExceeded")
    broken = world.types["Limits"](**(vars(world.config.ceilings) | {"max_position_bps": 10_001}))
    refused(world, lambda: world.decide("set_ceilings", broken, subject="protocol"), "LimitsInconsistent")


def test_trades_and_turnover_of_a_day_are_counted_anew_the_next() -> None:
    world = limited(max_trades_per_day=1, max_daily_turnover_bps=3000)
    world.set_clock((world.now_s // DAY_S + 1) * DAY_S - 60)
    settle(world)
    done(world.trade(3_000 * QUOTE, is_buy=True))
    refused(world, lambda: world.trade(TOKEN // 4, is_buy=False), "TradeCountExceeded")
    world.set_clock((world.now_s // DAY_S + 1) * DAY_S + 60)
    settle(world)
    done(world.trade(TOKEN // 4, is_buy=False)).event("TradeRecorded")
    guard = world.state("vault").guard
    assert guard.trades_today == 1
    assert 0 < guard.turnover_today < 600 * QUOTE


def test_what_slippage_took_decays_and_better_fills_give_it_back(world: World) -> None:
    done(world.trade(2_000 * QUOTE, is_buy=True))
    level = world.state("vault").guard.slippage.level
    assert level > 1 * QUOTE
    world.set_clock(world.now_s + 60)
    world.move_market()
    done(world.trade(1_000, is_buy=True))
    later = world.state("vault").guard.slippage.level
    assert 0 < later < level
    world.publish(world.base_price_e8 * 99 // 100)  # the market pays more than the oracle says
    done(world.trade(TOKEN // 4, is_buy=False))
    assert world.state("vault").guard.slippage.level < later


@pytest.mark.parametrize(
    "broken",
    [
        {"max_position_bps": 10_001},
        {"hard_drawdown_bps": 10_000},
        {"max_drawdown_bps": 2000},
        {"max_daily_loss_bps": 10_000},
        {"max_reduce_slippage_bps": 10_000},
        {"max_trade_slippage_bps": 301},
        {"max_cumulative_slippage_bps": 9000},
    ],
)
def test_limits_that_contradict_one_another_are_nobody_s_ceilings(world: World, broken: dict[str, int]) -> None:
    limits = world.types["Limits"](**(CEILINGS | broken))
    refused(world, lambda: world.decide("set_ceilings", limits, subject="protocol"), "LimitsInconsistent")
    assert World(config_changes={"ceilings": limits}).initialise().error == "LimitsInconsistent"


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": 0},
        {"kind": 3},
        {"max_age_s": 0},
        {"max_confidence_bps": 10_001},
        {"decimals": 28},
        {"kind": 2, "decimals": 2**16},
        {"least_e8": 9_999},
        {"least_e8": 0},
        {"least_e8": 2, "most_e8": 1},
    ],
)
def test_a_feed_that_could_never_give_a_good_price_is_not_listed(world: World, broken: dict[str, int]) -> None:
    quote = world.feed(world.quote_source, **broken)
    assert World(config_changes={"quote_feed": quote}).initialise().error == "BadConfig"
    retire_and_release(world)
    assert world.open_vault(salt=1, feed=world.feed(world.base_source, **broken)).error == "BadConfig"


# --- states


def test_past_the_day_s_loss_a_vault_only_sells_until_the_next_day(world: World) -> None:
    done(world.trade(7_000 * QUOTE, is_buy=True))
    move(world, -8)
    assert reasons(world) == Reason.DAY_LOSS
    told = done(world.trade(100 * QUOTE, is_buy=True)).event("TradeRefused")
    assert (told["reasons"], told["nonce"]) == (Reason.DAY_LOSS, 1)
    assert world.state("vault").nonce == 1
    done(world.trade(TOKEN, is_buy=False)).event("TradeRecorded")
    move(world, +20)  # what was breached today stays breached today
    assert reasons(world) == Reason.DAY_LOSS
    world.set_clock((world.now_s // DAY_S + 2) * DAY_S)
    world.publish()
    done(world.call("observe"))
    assert not reasons(world) & Reason.DAY_LOSS


def test_the_day_s_loss_is_measured_from_the_better_of_two_days() -> None:
    """Losing on both sides of midnight is losing."""
    world = limited(max_daily_loss_bps=400)
    done(world.trade(7_000 * QUOTE, is_buy=True))
    move(world, -3)
    assert not reasons(world)
    world.set_clock((world.now_s // DAY_S + 1) * DAY_S + 1)
    move(world, -4)
    assert reasons(world) & Reason.DAY_LOSS


def test_a_drawdown_stays_until_the_dao_ends_it_and_the_peak_begins_anew(world: World) -> None:
    done(world.trade(7_000 * QUOTE, is_buy=True))
    move(world, -16)
    assert reasons(world) & Reason.DRAWDOWN
    move(world, +40)
    assert reasons(world) & Reason.DRAWDOWN
    done(world.decide("resume"))
    assert not reasons(world) & Reason.DRAWDOWN
    vault = world.state("vault")
    assert vault.guard.peak == vault.guard.last_unit_price


def test_past_the_hard_drawdown_a_vault_is_halted_and_nobody_trades(world: World) -> None:
    done(world.trade(7_900 * QUOTE, is_buy=True))
    move(world, -27)
    assert reasons(world) & Reason.HALTED
    for is_buy, amount in ((True, QUOTE), (False, 1000)):
        assert done(world.trade(amount, is_buy=is_buy)).event("TradeRefused")["reasons"] & Reason.HALTED
    refused(world, lambda: world.decide("allocate", 1), "VaultHalted")
    done(world.decide("resume"))
    done(world.trade(TOKEN, is_buy=False)).event("TradeRecorded")


def test_in_an_emergency_sales_may_cost_more_than_otherwise() -> None:
    world = limited(max_trade_slippage_bps=36, max_reduce_slippage_bps=300, max_daily_loss_bps=400)
    done(world.trade(3_000 * QUOTE, is_buy=True))
    world.publish(world.base_price_e8 * 101 // 100)  # the market lags one per cent behind
    refused(world, lambda: world.trade(TOKEN // 2, is_buy=False), "SlippageExceeded")
    move(world, -20)
    assert reasons(world) & Reason.DAY_LOSS
    world.publish(world.base_price_e8 * 101 // 100)
    done(world.trade(TOKEN // 2, is_buy=False)).event("TradeRecorded")
    assert world.state("vault").guard.reduce_slippage.level > 0
    world.publish(world.base_price_e8 * 104 // 100)
    refused(world, lambda: world.trade(TOKEN // 2, is_buy=False), "SlippageExceeded")


def test_collateral_that_is_too_small_reduces_and_more_bond_ends_that(world: World) -> None:
    world.mint_to(world.known["treasury"], world.quote_mint, CAPITAL)
    done(world.decide("allocate", CAPITAL))
    done(world.call("observe"))
    assert reasons(world) == Reason.COLLATERAL
    done(world.bond(30_000 * TOKEN))
    done(world.call("observe"))
    assert not reasons(world)


def test_the_guardians_halt_at_once_and_only_the_dao_resumes(world: World) -> None:
    before = world.state("protocol").nonce
    done(world.decide("halt"))
    assert world.state("protocol").nonce == before
    assert done(world.trade(QUOTE, is_buy=True)).event("TradeRefused")["reasons"] & Reason.HALTED
    done(world.decide("resume"))
    done(world.trade(QUOTE, is_buy=True)).event("TradeRecorded")


def test_resuming_needs_prices_for_what_is_held(world: World) -> None:
    done(world.trade(QUOTE, is_buy=True))
    done(world.decide("halt"))
    world.set_clock(world.now_s + 3601)
    refused(world, lambda: world.decide("resume"), "NotPriced")


# --- capital


def test_units_are_minted_at_the_unit_price_so_flows_move_no_profit(world: World) -> None:
    done(world.trade(5_000 * QUOTE, is_buy=True))
    move(world, +10)
    before = world.state("vault")
    world.mint_to(world.known["treasury"], world.quote_mint, CAPITAL)
    told = done(world.decide("allocate", CAPITAL)).event("Allocated")
    assert told["units"] == CAPITAL * 10**9 // before.guard.last_unit_price
    done(world.call("observe"))
    after = world.state("vault")
    assert abs(after.guard.last_unit_price - before.guard.last_unit_price) <= 1
    done(world.recall("quote", CAPITAL))
    done(world.call("observe"))
    assert abs(world.state("vault").guard.last_unit_price - before.guard.last_unit_price) <= 2


def test_capital_comes_at_a_price_only(world: World) -> None:
    done(world.trade(QUOTE, is_buy=True))
    world.mint_to(world.known["treasury"], world.quote_mint, 5)
    refused(world, lambda: world.decide("allocate", 0), "ZeroAmount")
    world.set_clock(world.now_s + 3601)
    refused(world, lambda: world.decide("allocate", 5), "NotPriced")


def test_a_recall_in_kind_without_a_price_counts_at_a_named_one_no_higher_than_the_last(world: World) -> None:
    done(world.trade(5_000 * QUOTE, is_buy=True))
    to = world.wallet("base", world.protocol)
    world.set_clock(world.now_s + 3601)
    last = world.state("vault").last_price_e8
    refused(world, lambda: world.recall("base", TOKEN, last + 1), "FallbackTooHigh")
    told = done(world.recall("base", TOKEN, last // 2)).event("Recalled")
    assert (told["amount"], told["value"]) == (TOKEN, 1_000 * QUOTE)
    assert world.balance(to) == TOKEN
    # A fresh price counts whatever is named.
    world.publish()
    assert done(world.recall("base", TOKEN // 4, 1)).event("Recalled")["value"] == 500 * QUOTE


def test_a_recall_of_nothing_is_a_decision_carried_out(world: World) -> None:
    told = done(world.recall("base", TOKEN)).event("Recalled")
    assert told["amount"] == 0


def test_a_recall_takes_no_vault_of_another_protocol(world: World) -> None:
    other = world.types["Config"](**(vars(world.config) | {"epoch_length_s": EPOCH_S * 2}))
    known = world.ledger.known(world.ledger.protocol(other))
    done(world.send(world.ledger.instruction("initialise", world.known | known, other)))
    mine, world.protocol = world.protocol, known["protocol"]
    world.known["protocol"] = world.protocol
    world.known["treasury"] = known["treasury"]
    assert world.recall("quote", 1).error == "WrongProtocol"
    assert world.call("finish_retirement").error == "WrongProtocol"
    world.protocol = world.known["protocol"] = mine


def moot(world: World, name: str, *args: int, error: str) -> None:
    """The decision is used up, and did nothing."""
    before, nonce = bytes(world.svm.get_account(world.known["vault"]).data), world.state("protocol").nonce
    told = done(world.decide(name, *args)).event("DecisionMoot")
    assert (told["nonce"], world.ledger.error(told["error"]).name) == (nonce, error)
    assert bytes(world.svm.get_account(world.known["vault"]).data) == before
    assert world.state("protocol").nonce == nonce + 1


# --- windows and results


def test_a_window_that_nobody_observed_is_missed_and_not_closed(world: World) -> None:
    to_window(world)
    refused(world, lambda: world.call("close_window"), "NothingToClose")
    world.wait(WINDOW_S)
    refused(world, lambda: world.call("close_window"), "WindowMissed")
    assert done(world.trade(QUOTE, is_buy=True)).event("TradeRefused")["reasons"] & Reason.UNSETTLED


def test_up_goes_to_the_lowest_that_was_seen_and_down_to_the_highest(world: World) -> None:
    done(world.trade(4_000 * QUOTE, is_buy=True))
    to_window(world)
    profits = []
    for price in (2_300, 2_100, 2_200):
        world.publish(price * 10**8)
        done(world.call("observe"))
        vault = world.state("vault")
        value = vault.quote_held + vault.base_held * price * QUOTE // TOKEN
        profits.append(value + vault.net_flow)
    world.wait(WINDOW_S)
    result = done(world.call("close_window")).event("WindowClosed")["move"]
    assert abs(result - min(profits)) <= 1
    refused(world, lambda: world.call("close_window"), "ResultPending")
    refused(world, lambda: world.call("reward_agent", result - 1), "PnlMismatch")
    told = done(world.call("reward_agent", result)).event("Rewarded")
    assert (told["reward"], told["credited"]) == (result * 10**4, result)
    refused(world, lambda: world.call("reward_agent", result), "NoResult")

    to_window(world)
    highest = -(10**18)
    for price in (1_800, 1_900, 1_850):
        world.publish(price * 10**8)
        done(world.call("observe"))
        vault = world.state("vault")
        highest = max(highest, vault.quote_held + vault.base_held * price * QUOTE // TOKEN + vault.net_flow)
    world.wait(WINDOW_S)
    down = done(world.call("close_window")).event("WindowClosed")["move"]
    assert abs(down - (highest - result)) <= 1
    taken = done(world.call("reward_agent", down)).event("ClawedBack")
    assert taken["from_unclaimed"] + taken["from_bond"] == -down * 10**4
    reward = world.state("vault").reward
    assert reward.rewarded - reward.clawed_back == 10**4 * reward.credited


def test_a_spike_inside_the_window_moves_nothing_beside_one_honest_observation(world: World) -> None:
    done(world.trade(4_000 * QUOTE, is_buy=True))
    to_window(world)
    for price in (2_000, 9_000, 1_000, 2_000):
        world.publish(price * 10**8)
        done(world.call("observe"))
    world.wait(WINDOW_S)
    assert done(world.call("close_window")).event("WindowClosed")["move"] == 0


def test_a_missed_window_is_made_up_downwards_only(world: World) -> None:
    done(world.trade(4_000 * QUOTE, is_buy=True))
    settle(world)
    to_window(world)  # nobody observes this one
    world.wait(WINDOW_S)
    move(world, +20)
    assert settle(world) == 0
    to_window(world)
    world.wait(WINDOW_S)
    move(world, -30)
    assert settle(world) < 0


def test_the_cap_bounds_what_one_window_pays_and_the_rest_is_not_lost() -> None:
    world = World()
    steps = (
        world.initialise,
        lambda: world.register(60_000 * TOKEN),
        lambda: world.fund_rewards(10**5 * TOKEN),
        lambda: world.open_vault(reward_cap=1_000 * TOKEN),
        lambda: world.allocate(CAPITAL),
        lambda: world.make_market(10**6 * QUOTE),
    )
    assert [step().error for step in steps] == [""] * 6
    done(world.trade(4_000 * QUOTE, is_buy=True))
    move(world, +20)
    cap = 1_000 * TOKEN // 10**4
    assert settle(world) == cap
    assert settle(world) == cap


def test_an_empty_pool_pays_what_it_has_and_the_account_waits(world: World) -> None:
    known = {"destination": world.wallet("reward", world.payer.pubkey())}
    free = world.state("protocol").free
    done(world.decide("withdraw_rewards", free, subject="destination", known=known))
    refused(world, lambda: world.decide("withdraw_rewards", 1, subject="destination", known=known), "Underfunded")
    done(world.trade(4_000 * QUOTE, is_buy=True))
    earmark = world.state("vault").reward.earmark
    move(world, +300)
    paid = settle(world)
    assert paid == earmark // 10**4
    assert settle(world) == 0
    done(world.fund_rewards(5 * TOKEN))
    assert settle(world) == 5 * TOKEN // 10**4


def test_windows_that_nobody_can_complete_are_closed_by_the_dao_and_pay_nothing(world: World) -> None:
    done(world.trade(4_000 * QUOTE, is_buy=True))
    for _ in range(2):
        to_window(world)
        world.wait(WINDOW_S)
    moot(world, "close_by_decision", -5, error="NotOverdue")
    to_window(world)
    world.wait(WINDOW_S)
    refused(world, lambda: world.decide("close_by_decision", 1), "MoveMustNotPay")
    refused(world, lambda: world.decide("close_by_decision", -(2**63)), "MoveMustNotPay")
    told = done(world.decide("close_by_decision", -QUOTE)).event("WindowClosed")
    assert (told["move"], told["is_by_decision"]) == (-QUOTE, 1)
    done(world.call("reward_agent", -QUOTE))


def test_a_window_that_was_observed_is_not_the_dao_s_to_close(world: World) -> None:
    for _ in range(3):
        to_window(world)
        world.wait(WINDOW_S)
    to_window(world)
    done(world.call("observe"))
    world.wait(WINDOW_S)
    moot(world, "close_by_decision", -5, error="NotOverdue")


# --- claims and bonds


def test_rewards_vest_and_only_what_the_worst_case_does_not_need_is_paid(world: World) -> None:
    destination = world.wallet("reward", world.controller.pubkey())
    done(world.trade(4_000 * QUOTE, is_buy=True))
    move(world, +10)
    paid = settle(world)
    refused(world, lambda: world.call("claim", destination=destination), "NothingToClaim")
    done(world.bond(30_000 * TOKEN))
    world.wait(EPOCH_S // 2)
    told = done(world.call("claim", destination=destination)).event("Claimed")
    vested = paid * 10**4 * (EPOCH_S // 2) // VESTING_S
    assert told["amount"] == pytest.approx(vested, rel=1e-3)
    assert world.balance(destination) == told["amount"]


def test_claims_wait_while_they_are_stopped_or_a_window_is_open_to_be_closed(world: World) -> None:
    destination = world.wallet("reward", world.controller.pubkey())
    done(world.trade(4_000 * QUOTE, is_buy=True))
    move(world, +10)
    settle(world)
    done(world.bond(30_000 * TOKEN))
    world.wait(600)
    refused(world, lambda: world.decide("stop_claims", world.now_s + 31 * DAY_S, subject="protocol"), "StopTooLong")
    done(world.decide("stop_claims", world.now_s + 60, subject="protocol"))
    refused(world, lambda: world.call("claim", destination=destination), "ClaimsStopped")
    world.wait(60)
    done(world.call("claim", destination=destination))
    to_window(world)
    world.wait(WINDOW_S)
    refused(world, lambda: world.call("claim", destination=destination), "NotSettled")
    refused(
        world,
        lambda: world.call("withdraw_bond", 1, signers=[world.controller], destination=destination),
        "NotSettled",
    )


def test_a_bond_leaves_as_far_as_the_worst_case_does_not_need_it(world: World) -> None:
    destination = world.wallet("reward", world.controller.pubkey())
    done(world.bond(1_000 * TOKEN))

    def take(amount: int) -> Sent:
        return world.call("withdraw_bond", amount, signers=[world.controller], destination=destination)

    refused(world, lambda: take(0), "ZeroAmount")
    # The guard lets capital of 10,000 fall by 24 per cent: 24,000 of 31,000 tokens stay.
    refused(world, lambda: take(7_000 * TOKEN + 1), "BondTooSmall")
    done(take(7_000 * TOKEN))
    world.set_clock(world.now_s + 3601)
    done(world.call("observe"))
    refused(world, lambda: take(1), "BondTooSmall")


def test_an_agent_without_a_vault_takes_its_whole_bond() -> None:
    world = World()
    assert [world.initialise().error, world.register().error] == ["", ""]
    destination = world.wallet("reward", world.controller.pubkey())
    known: dict[str, Pubkey] = {"vault": world.ledger.id, "destination": destination}
    done(world.call("withdraw_bond", 30_000 * TOKEN, signers=[world.controller], **known))
    assert world.balance(destination) == 30_000 * TOKEN


# --- the DAO's other decisions


def test_an_update_replaces_artefact_limits_and_cap_and_the_old_artefact_trades_no_more(world: World) -> None:
    limits = world.types["Limits"](**(vars(world.manifest().limits) | {"max_position_bps": 1000}))
    loose = world.types["Limits"](**(vars(limits) | {"max_position_bps": 9000}))
    refused(world, lambda: world.decide("update_vault", [7] * 32, loose, TOKEN), "LimitTooLoose")
    refused(world, lambda: world.decide("update_vault", [7] * 32, limits, 10**7 * TOKEN), "BudgetExceeded")
    done(world.decide("update_vault", [7] * 32, limits, TOKEN))
    refused(world, lambda: world.trade(QUOTE, is_buy=True), "WrongArtefact")
    refused(world, lambda: world.trade(2_000 * QUOTE, is_buy=True, artefact_hash=[7] * 32), "PositionExceeded")
    done(world.trade(QUOTE, is_buy=True, artefact_hash=[7] * 32))
    assert world.state("protocol").sum_of_caps == TOKEN


def test_an_update_waits_for_a_result_that_was_frozen_under_the_old_cap(world: World) -> None:
    done(world.trade(4_000 * QUOTE, is_buy=True))
    move(world, +10)
    settle(world, close=False)
    limits = world.manifest().limits
    refused(world, lambda: world.decide("update_vault", [7] * 32, limits, TOKEN), "ResultPending")


def test_the_budget_is_never_below_what_is_promised(world: World) -> None:
    refused(world, lambda: world.decide("set_budget", 10**4 * TOKEN - 1, subject="protocol"), "BudgetExceeded")
    done(world.decide("set_budget", 10**4 * TOKEN, subject="protocol"))


def test_guardians_are_replaced_by_decision_and_the_old_ones_sign_nothing_more(world: World) -> None:
    from tests.solana.world import guardian_keys

    new = guardian_keys(5)[2:]
    addresses = [list(bytes.fromhex(key.address[2:])) for key in new] + [[0] * 20] * 13
    refused(world, lambda: world.decide("set_guardians", addresses, 3, 4, subject="protocol"), "BadConfig")
    done(world.decide("set_guardians", addresses, 3, 3, subject="protocol"))
    refused(world, lambda: world.decide("halt", signers=(0, 1, 2)), "BadAttestation")
    world.guardians = new
    refused(world, lambda: world.decide("halt"), "NotEnoughGuardians")
    done(world.decide("halt", signers=(0, 1, 2)))


def test_the_dao_pays_from_its_own_accounts(world: World) -> None:
    world.mint_to(world.known["treasury"], world.quote_mint, 100)
    to = world.wallet("quote", world.payer.pubkey())
    known = {"source": world.known["treasury"], "destination": to}
    refused(world, lambda: world.decide("pay", 0, subject="destination", known=known), "ZeroAmount")
    done(world.decide("pay", 60, subject="destination", known=known))
    assert (world.balance(to), world.balance(world.known["treasury"])) == (60, 40)


# --- retirement


def test_base_that_was_frozen_for_good_is_written_off_so_that_the_vault_can_end(world: World) -> None:
    refused(world, lambda: world.decide("write_off"), "ZeroAmount")
    done(world.trade(2_000 * QUOTE, is_buy=True))
    refused(world, lambda: world.decide("write_off"), "NotFrozen")
    stored = world.svm.get_account(world.known["vault_base"])
    data = bytearray(stored.data)
    data[108] = 2
    world.put(world.known["vault_base"], bytes(data), stored.owner)
    done(world.decide("retire"))
    done(world.recall("quote"))
    assert world.recall("base").error == "WrongTokenAccount"
    told = done(world.decide("write_off")).event("WrittenOff")
    assert told["amount"] > 0
    settle(world)
    done(world.call("finish_retirement"))
    # If it thaws after all, it is not lost.
    data[108] = 1
    world.put(world.known["vault_base"], bytes(data), stored.owner)
    done(world.recall("base"))
    assert world.balance(world.known["vault_base"]) == 0


def test_a_vault_retires_when_it_is_empty_and_settled_and_its_agent_is_free(world: World) -> None:
    done(world.trade(QUOTE, is_buy=True))
    refused(world, lambda: world.call("finish_retirement"), "NotRetired")
    done(world.decide("retire"))
    refused(world, lambda: world.decide("retire"), "VaultHalted")
    refused(world, lambda: world.decide("resume"), "VaultHalted")
    refused(world, lambda: world.call("finish_retirement"), "NotRetired")
    refused(world, lambda: world.decide("update_vault", [7] * 32, world.manifest().limits, TOKEN), "VaultHalted")
    for token in ("quote", "base"):
        done(world.recall(token))
    refused(world, lambda: world.call("finish_retirement"), "NotRetired")
    settle(world)
    done(world.call("finish_retirement"))
    refused(world, lambda: world.call("finish_retirement"), "NotRetired")
    destination = world.wallet("reward", world.controller.pubkey())
    most = world.state("agent").bond
    done(world.call("withdraw_bond", most, signers=[world.controller], destination=destination))


def test_an_agent_with_a_debt_opens_no_other_vault(world: World) -> None:
    """What could not be collected stays open: the bond was smaller than the gap."""
    destination = world.wallet("reward", world.controller.pubkey())
    done(world.trade(7_000 * QUOTE, is_buy=True))
    move(world, +50)
    settle(world)
    assert world.state("vault").reward.credited > 0
    move(world, -60)
    done(world.decide("retire"))
    for token in ("quote", "base"):
        done(world.recall(token))
    owed = settle(world)
    assert owed < 0
    done(world.call("finish_retirement"))
    vault = world.state("vault")
    if vault.reward.credited > vault.net_flow:
        assert world.open_vault(salt=1).error == "AgentBusy"
    assert (
        world.call("withdraw_bond", 2**62, signers=[world.controller], destination=destination).error == "BondTooSmall"
    )


def test_an_agent_has_one_vault_at_a_time_and_a_second_after_the_first(world: World) -> None:
    refused(world, lambda: world.open_vault(salt=1), "AgentBusy")
    retire_and_release(world)
    done(world.open_vault(salt=1))
    assert world.state("agent").vaults_opened == 2


def test_a_vault_needs_a_bond() -> None:
    world = World()
    assert [
        world.initialise().error,
        world.register(bond=99 * TOKEN).error,
        world.fund_rewards(10**5 * TOKEN).error,
    ] == [""] * 3
    manifest = world.manifest()
    known = world.ledger.known(world.protocol, vault=world.ledger.vault(world.protocol, manifest))
    known["last_vault"] = world.ledger.id
    told = done(world.decide("open_vault", manifest, known=known)).event("DecisionMoot")
    assert (told["nonce"], world.ledger.error(told["error"]).name) == (0, "BondTooSmall")
    assert not world.svm.get_account(known["vault"]).data
    assert world.state("protocol").nonce == 1


# --- the ledger


def test_the_events_hash_to_the_head_and_a_changed_or_missing_one_is_found(world: World) -> None:
    events = []
    for amount, is_buy in ((1_000 * QUOTE, True), (TOKEN // 4, False), (500 * QUOTE, True)):
        sent = done(world.trade(amount, is_buy=is_buy))
        events += [event for event in sent.events if event.name == "TradeRecorded"]
    vault = world.state("vault")
    head = bytes(vault.head)
    verify_chain(world.ledger, events, head)
    assert vault.sequence == 3
    for wrong in (events[:2], events[1:], [events[1], events[0], events[2]]):
        with pytest.raises(LedgerBroken):
            verify_chain(world.ledger, wrong, head)
    events[1].fields["amount_out"] += 1
    with pytest.raises(LedgerBroken, match="entry 1"):
        verify_chain(world.ledger, events, head)


def test_an_entry_is_a_call_of_the_program_by_itself_with_the_vault_s_signature_and_nobody_else_s(world: World) -> None:
    """What a venue logs or calls is not an entry, and neither is what anybody sends."""
    [entry] = [e for e in done(world.trade(QUOTE, is_buy=True)).events if e.name == "TradeRecorded"]
    data = bytes.fromhex("e445a52e51cb9a1d") + world.ledger.encode_event(entry)
    assert [e.fields for e in world.ledger.entries([(world.ledger.id, data)])] == [entry.fields]
    assert list(world.ledger.entries([(world.market.id, data), (world.ledger.id, data[8:])])) == []
    forged = Instruction(world.ledger.id, data, [AccountMeta(world.known["vault"], False, False)])
    sent = world.send(forged)
    assert (sent.error, sent.events) == ("MissingSignature", [])
    thief = world._key("thief")
    signed = Instruction(world.ledger.id, data, [AccountMeta(thief.pubkey(), True, False)])
    assert world.send(signed, signers=[thief]).error == "WrongOwner"


def test_an_entry_names_what_it_was_made_from(world: World) -> None:
    entry: dict[str, Any] = done(world.trade(QUOTE, is_buy=True)).event("TradeRecorded")
    assert entry["base_answer"] == world.base_price_e8
    assert entry["quote_answer"] == world.quote_price_e8
    assert (entry["base_round"], entry["base_published_s"]) == (world.rounds, world.now_s)
    assert (entry["agent"], entry["vault"]) == (world.known["agent"], world.known["vault"])
    assert entry["quote_held"] == world.balance(world.known["vault_quote"])
    assert entry["base_held"] == world.balance(world.known["vault_base"])
