"""What a reviewer with fresh eyes tried: a venue that does its worst, and whoever chooses what is brought along."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
from solders.account import Account as Stored
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from agents.solana_program import TOKEN_PROGRAM
from tests.solana.test_attacks import BASE_ID, DUPLICATE, everything, refused, retire_and_release
from tests.solana.test_ledger import done, settle, to_window
from tests.solana.world import PYTH, QUOTE, TOKEN, WINDOW_S, Sent, World, price_update

BUY = 1_000 * QUOTE
GOT = TOKEN // 2
EVIL = Pubkey.from_bytes(hashlib.sha256(b"hostile venue").digest())
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
NOWHERE = Pubkey.from_bytes(hashlib.sha256(b"no feed at all").digest())
(
    HONEST,
    SET_OWNER,
    APPROVE,
    CLOSE_BASE,
    SET_CLOSER,
    TAKE_MORE,
    PAY_FROM_VAULT,
    RE_ENTER,
    TAKE_LAMPORTS,
    WRITE_VAULT,
    TAKE_OUT_TOO,
    TAKE_AND_RETURN,
    CHATTER,
    CLOSE_QUOTE,
    GIVE_IN,
) = range(15)


@pytest.fixture
def world() -> World:
    return World.trading()


# --- a venue that has the vault's signature


class Hostile:
    """A world whose vault's venue does what it is told: hostile/venue.c."""

    def __init__(self) -> None:
        world = World()
        self.world = world
        world.svm.add_program(EVIL, (Path(__file__).parent / "hostile" / "venue.so").read_bytes())
        pool, self.bump = Pubkey.find_program_address([b"pool"], EVIL)
        self.thief = world._key("thief").pubkey()
        done(world.initialise())
        done(world.register())
        done(world.fund_rewards(10**5 * TOKEN))
        world.known |= {
            "venue": EVIL,
            "pool": pool,
            "pool_quote": world.token_account("evil quote", world.quote_mint, pool, 10**6 * QUOTE),
            "pool_base": world.token_account("evil base", world.base_mint, pool, 1_000 * TOKEN),
        }
        done(world.open_vault(venue=EVIL, pool=pool))
        done(world.allocate(10_000 * QUOTE))

    def trade(self, mode: int, *, take: int = BUY, give: int = GOT, is_buy: bool = True, **how: Any) -> Sent:
        """An order of `BUY`, or of a half token, that the venue fills so."""
        script = struct.pack("<BB6xQQ", mode, self.bump, take, give) + bytes(self.thief)
        self.world.put(self.world.known["pool"], script, EVIL)
        return self.world.trade(BUY if is_buy else GOT, is_buy=is_buy, **how)

    def refused(self, error: str, mode: int, **how: Any) -> None:
        refused(self.world, lambda: self.trade(mode, **how), error)


@pytest.fixture
def hostile() -> Hostile:
    return Hostile()


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        (SET_OWNER, "VenueOverreached"),
        (APPROVE, "VenueOverreached"),
        (SET_CLOSER, "VenueOverreached"),
        (TAKE_MORE, "VenueOverreached"),
        (TAKE_OUT_TOO, "VenueOverreached"),
        (GIVE_IN, "VenueOverreached"),
        (TAKE_LAMPORTS, "InstructionErrorFieldless.ExternalAccountLamportSpend"),
        (WRITE_VAULT, "InstructionErrorFieldless.ReadonlyDataModified"),
    ],
)
def test_a_venue_that_uses_the_vault_s_signature_for_more_than_the_swap_gets_nothing(
    hostile: Hostile, mode: int, error: str
) -> None:
    done(hostile.trade(HONEST))
    hostile.refused(error, mode)


def test_a_venue_closes_no_account_of_the_vault_s_though_all_was_sold(hostile: Hostile) -> None:
    done(hostile.trade(HONEST))
    hostile.refused("VenueOverreached", CLOSE_BASE, is_buy=False, take=GOT, give=BUY)


@pytest.mark.parametrize(
    ("fill", "error"),
    [
        ({"take": BUY + 1}, "VenueOverreached"),
        ({"give": 0}, "ZeroAmount"),
        ({"take": 0}, "ZeroAmount"),
        ({"give": GOT * 98 // 100}, "SlippageExceeded"),
        ({"give": GOT - 1, "least_out": GOT}, "ShortPaid"),
    ],
)
def test_a_venue_that_takes_more_or_gives_less_than_ordered_is_refused(
    hostile: Hostile, fill: dict[str, int], error: str
) -> None:
    hostile.refused(error, HONEST, **fill)


def test_what_a_venue_borrows_and_returns_is_not_counted(hostile: Hostile) -> None:
    entry = done(hostile.trade(TAKE_AND_RETURN)).event("TradeRecorded")
    assert (entry["amount_in"], entry["amount_out"]) == (BUY, GOT)


def test_a_venue_can_t_call_the_ledger_back(hostile: Hostile) -> None:
    """It has the vault's signature, which an entry is known by; but it can't even be told where the ledger is."""
    world = hostile.world
    before = everything(world)
    world.known["pool_base"] = world.ledger.id
    error = hostile.trade(RE_ENTER, give=0).error
    assert "Reentrancy" in error or error == DUPLICATE
    world.known["pool_base"] = world.token_account("again", world.base_mint, world.payer.pubkey())
    assert everything(world)[:-1] == before[:-1]


def test_an_entry_is_nobody_s_to_write_but_the_program_s(world: World) -> None:
    """The call that keeps an entry wants the vault's signature."""
    tag = hashlib.sha256(b"anchor:event").digest()[:8][::-1]
    for is_signer, accounts in ((False, ["vault"]), (False, ["vault", "protocol"]), (False, [])):
        metas = [AccountMeta(world.known[name], is_signer, False) for name in accounts]
        sent = world.send(Instruction(world.ledger.id, tag + bytes(344), metas))
        assert sent.error in ("MissingSignature", "Malformed", "UnknownInstruction")
    metas = [AccountMeta(world.payer.pubkey(), True, False)]
    sent = world.send(Instruction(world.ledger.id, tag + bytes(344), metas))
    assert sent.error in ("WrongOwner", "UnknownInstruction")


def test_a_vault_whose_venue_is_the_ledger_itself_trades_nothing() -> None:
    """A program may call itself: with a vault's signature it must not get there by an order."""
    world = World()
    done(world.initialise())
    done(world.register())
    done(world.fund_rewards(10**5 * TOKEN))
    other = world._key("other")
    agent = world.ledger.agent(world.protocol, other.pubkey())
    done(world.call("register_agent", other.pubkey(), signers=[other], controller=other.pubkey(), agent=agent))
    opened = world.open_vault(venue=world.ledger.id, pool=agent)
    if opened.error:
        return
    done(world.allocate(10_000 * QUOTE))
    world.known |= {
        "venue": world.ledger.id,
        "pool": agent,
        "pool_quote": world.wallet("quote", other.pubkey()),
        "pool_base": world.wallet("base", other.pubkey()),
    }
    assert world.trade(BUY, is_buy=True).error in (DUPLICATE, "UnknownInstruction")


def test_a_venue_that_names_accounts_of_the_protocol_s_as_its_own_can_t_move_them(hostile: Hostile) -> None:
    world = hostile.world
    world.mint_to(world.known["treasury"], world.quote_mint, 10**9)
    world.known["pool_quote"] = world.known["treasury"]
    before = world.balance(world.known["treasury"])
    # What comes in stays there: more for the treasury. It pays nothing out: the vault is not its owner.
    done(hostile.trade(HONEST))
    assert world.balance(world.known["treasury"]) == before + BUY
    sent = hostile.trade(HONEST, is_buy=False, take=GOT, give=BUY)
    assert sent.error != ""
    assert world.balance(world.known["treasury"]) == before + BUY


# --- events


def memos(count: int) -> list[Instruction]:
    """Instructions of four bytes that cost two hundred bytes of log each."""
    return [Instruction(MEMO, b"x", []) for _ in range(count)]


def test_an_agent_can_t_hide_an_entry_behind_a_log_that_is_full(world: World) -> None:
    """A runtime keeps 10,000 bytes of log for a transaction: what does not fit is in the head, and nowhere else."""
    order = world.ledger.instruction("trade", world.known, world.order(BUY, is_buy=True))
    sent = world.send(*memos(38), order, signers=[world.signer])
    if sent.error == "":
        assert [event.name for event in sent.events if event.name == "TradeRecorded"] == ["TradeRecorded"]
    else:
        assert world.state("vault").sequence == 0


def test_a_venue_can_t_hide_an_entry_behind_what_it_logs(hostile: Hostile) -> None:
    sent = hostile.trade(CHATTER)
    if sent.error == "":
        assert [event.name for event in sent.events if event.name == "TradeRecorded"] == ["TradeRecorded"]
    else:
        assert hostile.world.state("vault").sequence == 0


# --- who chooses whether there is a price


def test_a_recall_is_not_valued_without_the_price_that_there_is_because_its_sender_brought_another_account(
    world: World,
) -> None:
    """The fallback is for a feed that is dead: an agent that carries the decision over would have a loss forgiven."""
    done(world.trade(BUY, is_buy=True))
    held = world.state("vault").base_held
    world.wait(60)
    world.publish(1_500 * 10**8)
    sent = world.recall("base", held, 2_000 * 10**8, base_feed=NOWHERE)
    if sent.error == "":
        assert sent.event("Recalled")["value"] == held * 1_500 * QUOTE // TOKEN


def test_a_quote_recall_burns_units_at_the_price_that_there_is(world: World) -> None:
    done(world.trade(8_000 * QUOTE * 9 // 10, is_buy=True))
    world.wait(60)
    world.publish(2_200 * 10**8)
    world.set_reserves(10**12, 10**9 * TOKEN // 2200)
    vault = world.state("vault")
    value = vault.quote_held + vault.base_held * 2_200 * QUOTE // TOKEN
    sent = world.recall("quote", QUOTE * 1000, base_feed=NOWHERE)
    if sent.error == "":
        assert abs(sent.event("Recalled")["units"] - vault.units * 1_000 * QUOTE // value) <= 2


def test_nobody_makes_a_vault_say_that_it_has_no_price_while_it_has(world: World) -> None:
    """Its public state and the event are what a watcher goes by."""
    done(world.trade(BUY, is_buy=True))
    sent = world.call("observe", base_feed=NOWHERE)
    if sent.error == "":
        assert world.state("vault").guard.reasons == 0


# --- what nobody can end


def freeze(world: World, name: str, *, state: int = 2) -> None:
    """The mint's authority freezes an account, or thaws it."""
    stored = world.svm.get_account(world.known[name])
    data = bytearray(stored.data)
    data[108] = state
    world.svm.set_account(world.known[name], Stored(stored.lamports, bytes(data), TOKEN_PROGRAM, False, 0))


def test_a_vault_whose_base_was_frozen_can_be_written_off_and_its_agent_goes_free(world: World) -> None:
    """On the EVM the DAO writes an asset off; else the cap stays promised and the agent bound for ever."""
    done(world.trade(BUY, is_buy=True))
    freeze(world, "vault_base")
    done(world.decide("write_off"))
    retire_and_release(world)


def test_what_was_written_off_is_not_lost_when_the_freeze_ends(world: World) -> None:
    """The DAO can still fetch tokens that are in the vault's account beyond its books."""
    done(world.trade(BUY, is_buy=True))
    freeze(world, "vault_base")
    done(world.decide("write_off"))
    freeze(world, "vault_base", state=1)
    done(world.recall("base"))
    assert world.balance(world.known["vault_base"]) == 0


def test_an_agent_can_t_hold_up_other_decisions_by_making_its_own_impossible() -> None:
    """An approved agent takes its bond out again: the next decision, about somebody else, waits for the expiry."""
    world = World()
    done(world.initialise())
    done(world.register(bond=100 * TOKEN))
    done(world.fund_rewards(10**5 * TOKEN))
    mine = world.wallet("reward", world.controller.pubkey())
    done(world.call("withdraw_bond", 1, signers=[world.controller], destination=mine, vault=world.ledger.id))
    assert "DecisionMoot" in [event.name for event in done(world.open_vault()).events]
    done(world.decide("set_budget", 10**7 * TOKEN, subject="protocol", nonce=1))


def test_one_observation_does_not_stop_the_dao_s_whole_queue(world: World) -> None:
    """The DAO decides to close windows that nobody observed; by the time it is carried out, somebody has. It is moot,
    and what was decided next must not wait for its expiry (a recall of nothing is carried out, too)."""
    for _ in range(3):
        to_window(world)
        world.wait(WINDOW_S)
    nonce, moot = world.state("protocol").nonce, world.decided("close_by_decision", 0, expires_s=world.now_s + 86_400)
    to_window(world)
    done(world.call("observe"))
    world.wait(WINDOW_S)
    world.send(moot)
    done(world.decide("retire", nonce=nonce + 1))


def test_a_halt_is_not_outrun_by_carrying_out_a_decision_first(world: World) -> None:
    """Guardians sign a halt beside the next nonce: whoever has a decision that waits uses the nonce up."""
    world.mint_to(world.known["treasury"], world.quote_mint, 100)
    waiting, halt = world.decided("allocate", 100), world.decided("halt")
    done(world.send(waiting))
    done(world.send(halt))


# --- time


def rewarded(world: World, percent: int = 10) -> None:
    """A window that pays."""
    done(world.trade(5_000 * QUOTE, is_buy=True))
    world.publish(world.base_price_e8 * (100 + percent) // 100)
    world.move_market()
    assert settle(world) > 0


def test_a_clock_that_goes_back_a_little_vests_nothing_and_stops_nothing() -> None:
    """Dust that vests is where a negative time does not overflow the product: 2^62 wei would be vested at once."""
    world = World.trading()
    rewarded(world)
    world.publish(world.base_price_e8 * 102 // 100)
    world.move_market()
    result = settle(world, close=False)
    assert result > 0
    reward = world.state("vault").reward
    data = bytearray(world.svm.get_account(world.known["vault"]).data)
    at = data.index(struct.pack("<QQqq", reward.unvested, reward.vested, reward.vest_updated_s, reward.vest_ends_s))
    struct.pack_into("<QQq", data, at, 10**6, 0, world.now_s + 2)  # as a claim two seconds from now would leave it
    world.put(world.known["vault"], bytes(data), world.ledger.id)
    done(world.call("reward_agent", result))
    reward = world.state("vault").reward
    assert reward.unvested + reward.vested <= 10**6 + result * 10**4
    done(world.call("observe"))


def test_a_clock_that_goes_back_a_little_forgets_no_slippage() -> None:
    hostile = Hostile()
    world, dear = hostile.world, GOT * 9_905 // 10_000
    world.publish(at_s=world.now_s - 100)
    # The time of the feeds' first round is behind, now: they may not go back themselves.
    world.set_clock(world.now_s + 200)
    world.publish(at_s=world.now_s - 100)
    done(hostile.trade(HONEST, give=dear))
    before = world.state("vault").guard.slippage.level
    world.set_clock(world.now_s - 1)
    sent = hostile.trade(HONEST, give=dear)
    assert sent.error or world.state("vault").guard.slippage.level > before


def test_a_price_that_was_published_a_second_ahead_of_the_chain_s_clock_is_a_price() -> None:
    """The clock of a Solana cluster is an estimate and runs seconds behind those who publish."""
    world = World.trading()
    world.publish(at_s=world.now_s + 2)
    assert world.trade(BUY, is_buy=True).events[-1].name == "TradeRecorded"


def test_an_account_of_pyth_s_that_gets_another_feed_s_price_is_no_price() -> None:
    """Whoever posted an update may post another feed's into the same account: the vote was about one feed."""
    world = World()
    account = Pubkey.from_bytes(hashlib.sha256(b"pyth account").digest())
    world.put(account, price_update(BASE_ID, 2_000 * 10**8, world.now_s), PYTH)
    done(world.initialise())
    done(world.register())
    done(world.fund_rewards(10**5 * TOKEN))
    world.known["base_feed"] = account
    done(world.open_vault(feed=world.feed(account, kind=2)))
    if world.allocate(10_000 * QUOTE).error == "NotPriced":
        return  # no account but the push oracle's is a price
    done(world.make_market(10**6 * QUOTE))
    world.put(account, price_update(bytes(32), 90_000 * 10**8, world.now_s), PYTH)
    assert world.trade(BUY, is_buy=True).event("TradeRefused")["reasons"] & 16


# --- rounding


def test_a_token_of_a_tiny_price_is_not_sold_beyond_the_slippage_that_was_voted() -> None:
    """A price is cut to 1e-8 quote: 1.01e-6 loses one per cent, in favour of who buys from the vault."""
    world = World()
    done(world.initialise())
    done(world.register())
    done(world.fund_rewards(10**5 * TOKEN))
    assert world.open_vault(feed=world.feed(world.base_source, least_e8=100)).error == "BadConfig"


# --- other clusters


def test_a_decision_is_for_one_cluster(world: World) -> None:
    """The same programs, keys and words on a test cluster: what guardians sign there is good here, too."""
    other = World.trading(config_changes={"cluster": [9] * 32} if hasattr(world.config, "cluster") else {})
    for each in (world, other):
        each.mint_to(each.known["treasury"], each.quote_mint, 100)
    decision, ours = other.decided("allocate", 100), world.decided("allocate", 100)
    sent = world.send(Instruction(ours.program_id, decision.data, ours.accounts))
    assert sent.error == "BadAttestation"


# --- the demonstration market


def test_a_pool_with_nothing_on_one_side_does_not_give_the_other_away(world: World) -> None:
    world.set_reserves(0, 100 * TOKEN)
    thief = world._key("thief")
    known = world.known | {
        "owner": thief.pubkey(),
        "owner_quote": world.wallet("quote", thief.pubkey(), 10),
        "owner_base": world.wallet("base", thief.pubkey()),
    }
    swap = world.market.instruction("swap", known, 10, 0, True)
    sent = world.send(swap, signers=[thief])
    assert sent.error != "" or world.balance(known["owner_base"]) == 0


def test_nobody_begins_another_maker_s_pool_with_a_fee_of_his_own(world: World) -> None:
    """A vote names a pool by its address, which is there for the taking before it exists."""
    victim, thief = world._key("another maker"), world._key("thief")
    known = world.market.known(victim.pubkey(), world.quote_mint, world.base_mint) | {"maker": thief.pubkey()}
    refused(
        world,
        lambda: world.send(world.market.instruction("create_pool", known, 9_999), signers=[thief]),
        "WrongAddress",
    )
    good = world.market.instruction("create_pool", known | {"maker": victim.pubkey()}, 9_999)
    metas = [AccountMeta(victim.pubkey(), False, True), *good.accounts[1:]]
    refused(world, lambda: world.send(Instruction(good.program_id, good.data, metas)), "MissingSignature")


# --- money twice


def test_an_old_vault_s_rewards_are_paid_once_and_are_no_collateral_of_the_next(world: World) -> None:
    rewarded(world)
    first = world.known["vault"]
    mine = world.wallet("reward", world.controller.pubkey())
    done(world.decide("retire"))
    done(world.recall("quote"))
    done(world.recall("base"))
    settle(world)
    done(world.call("finish_retirement"))
    done(world.open_vault(salt=1))
    world.wait(40 * 86_400)
    before = world.balance(mine)
    held = world.ledger.decode(bytes(world.svm.get_account(first).data)).reward
    done(world.call("claim", vault=first, destination=mine))
    assert world.balance(mine) - before == held.unvested + held.vested
    assert world.call("claim", vault=first, destination=mine).error == "NothingToClaim"
    # Nor can a result of the old one be made any more.
    to_window(world)
    done(world.call("observe", vault=first))
    world.wait(WINDOW_S)
    assert world.call("close_window", vault=first).error == "NothingToClose"


def books(world: World) -> int:
    """What the rewards' account must have."""
    vault = world.state("vault").reward
    return world.state("protocol").free + world.state("agent").bond + vault.earmark + vault.unvested + vault.vested


def test_many_small_windows_pay_no_more_than_their_sum_and_the_books_stay_whole(world: World) -> None:
    done(world.trade(5_000 * QUOTE, is_buy=True))
    start = world.state("vault").net_flow
    for percent in (1, 2, 1, -3, 2, -1, 1):
        world.publish(world.base_price_e8 * (1000 + percent) // 1000)
        world.move_market()
        settle(world)
        reward = world.state("vault").reward
        assert reward.rewarded - reward.clawed_back == 10**4 * reward.credited
        assert books(world) == world.balance(world.known["rewards"])
    assert world.state("vault").net_flow == start


def test_a_reward_mint_that_is_the_base_too_mixes_no_money() -> None:
    """Bonds and the vault's position are tokens of one mint, in accounts apart."""
    world = World()
    done(world.initialise())
    done(world.register())
    done(world.fund_rewards(10**5 * TOKEN))
    world.base_mint = world.reward_mint
    world.known["base_mint"] = world.reward_mint
    world.known |= world.market.known(world.maker.pubkey(), world.quote_mint, world.base_mint)
    sent = world.open_vault()
    if sent.error:
        return
    done(world.allocate(10_000 * QUOTE))
    source = world.token_account("maker's", world.reward_mint, world.maker.pubkey(), 10**3 * TOKEN)
    assert source
    before = world.balance(world.known["rewards"])
    stored = world.svm.get_account(world.known["vault"])
    assert stored is not None
    to = {"from": world.known["vault_base"], "to": world.known["rewards"]}
    assert world.decide("recall", world.base_mint, 1, 0, known=to).error == "WrongTokenAccount"
    assert world.balance(world.known["rewards"]) == before


def test_a_pay_is_from_the_treasury(world: World) -> None:
    """`source` is not part of what is signed: any account of the protocol's would do, with the same mint."""
    second = world.token_account("second", world.quote_mint, world.protocol, 100)
    to = world.wallet("quote", world.payer.pubkey())
    sent = world.decide("pay", 100, subject="destination", known={"source": second, "destination": to})
    assert sent.error == "" and sent.event("Paid")["amount"] == 100
