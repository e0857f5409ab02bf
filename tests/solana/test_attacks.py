"""What is tried against the program on Solana, and what each attempt is told. Nothing may have moved afterwards."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from solders.account import Account as Stored
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from spl.token.instructions import (
    ApproveParams,
    AuthorityType,
    SetAuthorityParams,
    approve,
    set_authority,
)

from agents.solana_program import SYSTEM_PROGRAM, TOKEN_PROGRAM
from oracle.solana_feeds import pyth_account_of
from tests.solana.world import (
    ARTEFACT,
    CHAINLINK,
    EPOCH_S,
    PYTH,
    QUOTE,
    TOKEN,
    World,
    guardian_keys,
    price_update,
    transmissions,
)

DUPLICATE = "InstructionErrorFieldless.InvalidArgument"
BUY = 1_000 * QUOTE
BASE_ID = bytes(range(32))


@pytest.fixture
def world() -> World:
    return World.trading()


def everything(world: World) -> list[bytes]:
    """All that an attack could change."""
    names = (
        "protocol",
        "agent",
        "vault",
        "treasury",
        "rewards",
        "vault_quote",
        "vault_base",
        "pool_quote",
        "pool_base",
    )
    return [bytes(world.svm.get_account(world.known[name]).data) for name in names]


def refused(world: World, attempt: Callable[[], Any], error: str) -> None:
    """The attempt fails with that error and changes nothing."""
    before = everything(world)
    sent = attempt()
    assert sent.error == error, (sent.error, sent.logs)
    assert everything(world) == before


def changed(instruction: Instruction, at: int, **how: Any) -> Instruction:
    """The same instruction with one account other than it should be."""
    metas = list(instruction.accounts)
    old = metas[at]
    metas[at] = AccountMeta(
        how.get("pubkey", old.pubkey), how.get("is_signer", old.is_signer), how.get("is_writable", old.is_writable)
    )
    return Instruction(instruction.program_id, instruction.data, metas)


# --- signers


def test_a_trade_that_the_signing_key_is_named_in_but_did_not_sign_is_refused(world: World) -> None:
    order = world.order(BUY, is_buy=True)
    unsigned = changed(world.ledger.instruction("trade", world.known, order), 0, is_signer=False)
    refused(world, lambda: world.send(unsigned), "MissingSignature")


def test_a_trade_by_another_key_is_refused(world: World) -> None:
    thief = world._key("thief")
    refused(world, lambda: world.trade(BUY, is_buy=True, signer=thief), "NotSigningKey")


def test_after_the_key_was_replaced_the_old_one_trades_no_more(world: World) -> None:
    new = world._key("new signer")
    assert world.call("set_signing_key", new.pubkey(), signers=[world.controller]).error == ""
    refused(world, lambda: world.trade(BUY, is_buy=True), "NotSigningKey")
    assert world.trade(BUY, is_buy=True, signer=new).error == ""


def test_only_the_controller_replaces_the_key_and_takes_the_bond(world: World) -> None:
    thief = world._key("thief")
    mine = world.wallet("reward", thief.pubkey())
    refused(
        world,
        lambda: world.call("set_signing_key", thief.pubkey(), signers=[thief], controller=thief.pubkey()),
        "NotController",
    )
    refused(
        world,
        lambda: world.call("withdraw_bond", 1, signers=[thief], controller=thief.pubkey(), destination=mine),
        "NotController",
    )


def test_a_claim_pays_the_controller_and_nobody_else(world: World) -> None:
    mine = world.wallet("reward", world._key("thief").pubkey())
    refused(world, lambda: world.call("claim", destination=mine), "WrongTokenAccount")


# --- accounts of others


FORGED = ("protocol", "vault", "agent")


@pytest.mark.parametrize("name", FORGED)
def test_a_copy_of_a_state_account_that_another_program_owns_is_refused(world: World, name: str) -> None:
    copy = Pubkey.from_bytes(hashlib.sha256(name.encode()).digest())
    world.put(copy, bytes(world.svm.get_account(world.known[name]).data), TOKEN_PROGRAM)
    refused(world, lambda: world.trade(BUY, is_buy=True, known={name: copy}), "WrongOwner")


@pytest.mark.parametrize(("name", "other"), [("protocol", "agent"), ("vault", "protocol"), ("agent", "vault")])
def test_a_state_account_of_another_kind_is_refused(world: World, name: str, other: str) -> None:
    copy = Pubkey.from_bytes(hashlib.sha256(other.encode()).digest())
    world.put(copy, bytes(world.svm.get_account(world.known[other]).data), world.ledger.id)
    refused(world, lambda: world.trade(BUY, is_buy=True, known={name: copy}), "WrongAccountType")


def test_vault_and_agent_of_another_protocol_are_refused(world: World) -> None:
    other = world.types["Config"](**(vars(world.config) | {"epoch_length_s": EPOCH_S * 2}))
    protocol = world.ledger.protocol(other)
    known = world.ledger.known(protocol)
    assert world.send(world.ledger.instruction("initialise", world.known | known, other)).error == ""
    refused(world, lambda: world.trade(BUY, is_buy=True, known={"protocol": protocol}), "WrongProtocol")
    refused(
        world,
        lambda: world.call("claim", destination=world.wallet("reward", world.controller.pubkey()), protocol=protocol),
        "WrongProtocol",
    )


def test_another_agent_of_the_same_protocol_can_t_answer_for_the_vault(world: World) -> None:
    thief = world._key("thief")
    agent = world.ledger.agent(world.protocol, thief.pubkey())
    known = {"controller": thief.pubkey(), "agent": agent}
    assert world.call("register_agent", thief.pubkey(), signers=[thief], **known).error == ""
    refused(world, lambda: world.trade(BUY, is_buy=True, signer=thief, known={"agent": agent}), "WrongAddress")


def test_the_same_account_in_two_roles_is_refused(world: World) -> None:
    refused(world, lambda: world.trade(BUY, is_buy=True, known={"vault_base": world.known["vault_quote"]}), DUPLICATE)
    refused(world, lambda: world.trade(BUY, is_buy=True, known={"pool_quote": world.known["vault_quote"]}), DUPLICATE)
    refused(world, lambda: world.call("observe", quote_feed=world.base_source), DUPLICATE)


def test_more_accounts_than_the_instruction_takes_or_fewer_are_refused(world: World) -> None:
    good = world.ledger.instruction("observe", world.known)
    for metas in ([*good.accounts, AccountMeta(Pubkey.new_unique(), False, False)], good.accounts[:-1]):
        sent = world.send(Instruction(good.program_id, good.data, metas))
        assert sent.error in ("Malformed", "InstructionErrorFieldless.NotEnoughAccountKeys")


def test_an_account_that_must_be_written_to_is_marked_so(world: World) -> None:
    frozen = changed(world.ledger.instruction("observe", world.known), 1, is_writable=False)
    refused(world, lambda: world.send(frozen), "NotWritable")


@pytest.mark.parametrize("name", ["vault_quote", "vault_base"])
def test_a_token_account_that_is_not_the_vault_s_own_is_refused(world: World, name: str) -> None:
    token = "quote" if name == "vault_quote" else "base"
    mine = world.wallet(token, world._key("thief").pubkey(), 10**12)
    refused(world, lambda: world.trade(BUY, is_buy=True, known={name: mine}), "WrongAddress")


def test_a_second_account_of_the_vault_s_with_the_same_mint_is_refused(world: World) -> None:
    second = world.token_account("second", world.quote_mint, world.known["vault"], 10**12)
    refused(world, lambda: world.trade(BUY, is_buy=True, known={"vault_quote": second}), "WrongAddress")


def test_a_swapped_mint_is_refused_when_a_vault_is_opened(world: World) -> None:
    wrong = world.mint("wrong", 9)
    known = {"last_vault": world.known["vault"]}
    manifest = world.manifest(salt=9)
    fresh = world.ledger.known(world.protocol, vault=world.ledger.vault(world.protocol, manifest)) | known
    refused(world, lambda: world.decide("open_vault", manifest, known=fresh | {"base_mint": wrong}), "WrongMint")
    refused(world, lambda: world.decide("open_vault", manifest, known=fresh | {"quote_mint": wrong}), "WrongMint")


def test_a_mint_that_is_no_mint_is_refused(world: World) -> None:
    fake = Pubkey.from_bytes(hashlib.sha256(b"fake mint").digest())
    world.put(fake, bytes(world.svm.get_account(world.base_mint).data), SYSTEM_PROGRAM)
    manifest = world.manifest(salt=10, base_mint=fake)
    fresh = world.ledger.known(world.protocol, vault=world.ledger.vault(world.protocol, manifest)) | {
        "last_vault": world.known["vault"]
    }
    refused(world, lambda: world.decide("open_vault", manifest, known=fresh | {"base_mint": fake}), "WrongMint")


# --- addresses


def test_a_vault_at_another_address_than_its_manifest_gives_is_refused(world: World) -> None:
    manifest, other = world.manifest(salt=1), world.manifest(salt=2)
    known = world.ledger.known(world.protocol, vault=world.ledger.vault(world.protocol, other)) | {
        "last_vault": world.known["vault"]
    }
    refused(world, lambda: world.decide("open_vault", manifest, known=known), "AgentBusy")
    retire_and_release(world)
    refused(world, lambda: world.decide("open_vault", manifest, known=known), "WrongAddress")


def test_an_agent_at_another_address_than_its_controller_gives_is_refused(world: World) -> None:
    thief = world._key("thief")
    wrong = world.ledger.agent(world.protocol, Pubkey.new_unique())
    refused(
        world,
        lambda: world.call("register_agent", thief.pubkey(), signers=[thief], controller=thief.pubkey(), agent=wrong),
        "WrongAddress",
    )


def test_a_configuration_begins_at_its_own_address_only(world: World) -> None:
    other = world.types["Config"](**(vars(world.config) | {"min_bond": 1}))
    refused(world, lambda: world.call("initialise", other), "WrongAddress")


# --- beginning twice, closing, reviving


def test_nothing_begins_twice(world: World) -> None:
    refused(world, lambda: world.initialise(), "AlreadyExists")
    refused(
        world, lambda: world.call("register_agent", world.signer.pubkey(), signers=[world.controller]), "AlreadyExists"
    )


def test_a_vault_that_was_released_is_not_opened_again_with_the_same_manifest(world: World) -> None:
    retire_and_release(world)
    known = {"last_vault": world.known["vault"]}
    # The same account would be the last vault and the new one.
    assert world.decide("open_vault", world.manifest(), known=known).error == DUPLICATE
    assert world.open_vault(salt=1).error == ""
    first = world.ledger.vault(world.protocol, world.manifest())
    retire_and_release(world, empty=True)
    fresh = world.ledger.known(world.protocol, vault=first) | {"last_vault": world.known["vault"]}
    assert world.decide("open_vault", world.manifest(), known=fresh).error == "AlreadyExists"


def test_no_instruction_takes_lamports_from_a_state_account_so_none_is_closed_and_revived(world: World) -> None:
    before = [world.svm.get_account(world.known[name]).lamports for name in ("protocol", "agent", "vault")]
    thief = world._key("thief")
    drain = transfer(TransferParams(from_pubkey=world.known["vault"], to_pubkey=thief.pubkey(), lamports=1))
    stripped = Instruction(
        drain.program_id, drain.data, [AccountMeta(world.known["vault"], False, True), drain.accounts[1]]
    )
    assert world.send(stripped).error == "InstructionErrorFieldless.MissingRequiredSignature"
    retire_and_release(world)
    assert [world.svm.get_account(world.known[name]).lamports for name in ("protocol", "agent", "vault")] == before


def test_lamports_sent_to_an_address_before_do_not_stop_what_belongs_there() -> None:
    world = World()
    for address in (world.protocol, world.known["treasury"], world.known["rewards"], world.known["agent"]):
        assert (
            world.send(
                transfer(TransferParams(from_pubkey=world.payer.pubkey(), to_pubkey=address, lamports=890_880))
            ).error
            == ""
        )
    assert world.initialise().error == ""
    assert world.register().error == ""


# --- programs that are called


def test_another_program_than_the_voted_venue_is_not_called(world: World) -> None:
    evil = Pubkey.from_bytes(hashlib.sha256(b"evil venue").digest())
    world.svm.add_program(evil, world.market.binary)
    refused(world, lambda: world.trade(BUY, is_buy=True, known={"venue": evil}), "WrongProgram")


def test_another_pool_of_the_voted_venue_is_not_traded_on(world: World) -> None:
    maker = world._key("other maker")
    other = world.market.known(maker.pubkey(), world.quote_mint, world.base_mint)
    made = world.send(world.market.instruction("create_pool", other, 5), signers=[maker])
    assert made.error == ""
    refused(
        world,
        lambda: world.trade(
            BUY, is_buy=True, known={name: other[name] for name in ("pool", "pool_quote", "pool_base")}
        ),
        "WrongAddress",
    )


def test_a_token_program_of_one_s_own_is_not_called(world: World) -> None:
    evil = Pubkey.from_bytes(hashlib.sha256(b"evil token").digest())
    world.svm.add_program(evil, world.market.binary)
    refused(world, lambda: world.trade(BUY, is_buy=True, known={"token_program": evil}), "WrongProgram")
    refused(world, lambda: world.recall("quote", 1, token_program=evil), "WrongProgram")
    source = world.wallet("reward", world.payer.pubkey(), 10)
    refused(
        world,
        lambda: world.call("fund_rewards", 10, funder=world.payer.pubkey(), source=source, token_program=evil),
        "WrongProgram",
    )


def test_there_is_no_sysvar_account_to_be_spoofed(world: World) -> None:
    """The clock and the rent come from the runtime: no instruction takes an account for them."""
    for instruction in world.ledger._accounts.values():
        assert not {name for name in instruction if "clock" in name or "rent" in name or "sysvar" in name}


# --- orders


def test_an_order_is_carried_out_once(world: World) -> None:
    order = world.order(BUY, is_buy=True)
    instruction = world.ledger.instruction("trade", world.known, order)
    assert world.send(instruction, signers=[world.signer]).error == ""
    refused(world, lambda: world.send(instruction, signers=[world.signer]), "WrongNonce")
    refused(world, lambda: world.trade(BUY, is_buy=True, nonce=2), "WrongNonce")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"deadline_s": 1}, "DeadlinePassed"),
        ({"artefact_hash": [1] * 32}, "WrongArtefact"),
        ({"explanation_hash": [0] * 32}, "Unexplained"),
        ({"observation_hash": [0] * 32}, "Unexplained"),
        ({"amount_in": 0}, "ZeroAmount"),
        ({"amount_in": 2**64 - 1}, "InsufficientHoldings"),
        ({"least_out": 2**64 - 1}, "ShortPaid"),
        ({"reserved": [1] + [0] * 6}, "Malformed"),
    ],
)
def test_an_order_that_is_wrong_in_one_field_is_refused(world: World, change: dict[str, Any], error: str) -> None:
    change = {"amount_in": BUY} | change
    refused(world, lambda: world.trade(change.pop("amount_in"), is_buy=True, **change), error)


def test_data_of_another_size_or_beginning_is_refused(world: World) -> None:
    good = world.ledger.instruction("trade", world.known, world.order(BUY, is_buy=True))
    for data, error in (
        (good.data[:-1], "Malformed"),
        (good.data + b"\0", "Malformed"),
        (b"", "UnknownInstruction"),
        (bytes(8) + good.data[8:], "UnknownInstruction"),
        (good.data[:7], "UnknownInstruction"),
    ):
        refused(
            world,
            lambda data=data: world.send(
                Instruction(good.program_id, bytes(data), good.accounts), signers=[world.signer]
            ),
            error,
        )


def test_what_a_vault_s_token_account_was_given_by_others_is_not_its_to_trade(world: World) -> None:
    world.mint_to(world.known["vault_quote"], world.quote_mint, 10**12)
    refused(world, lambda: world.trade(10_001 * QUOTE, is_buy=True), "InsufficientHoldings")
    value = world.call("observe")
    assert value.error == ""
    assert world.state("vault").quote_held == 10_000 * QUOTE


# --- prices


def stale(world: World) -> bytes:
    return transmissions([(9, world.now_s - 3601, 2_000 * 10**8)])


PRICES: dict[str, tuple[Callable[[World], bytes], Pubkey]] = {
    "an old round": (stale, CHAINLINK),
    "a round from the future": (lambda w: transmissions([(9, w.now_s + 61, 2_000 * 10**8)]), CHAINLINK),
    "a negative answer": (lambda w: transmissions([(9, w.now_s, -1)]), CHAINLINK),
    "an answer of more than 63 bits": (lambda w: transmissions([(9, w.now_s, 2**70)]), CHAINLINK),
    "an answer of zero": (lambda w: transmissions([(9, w.now_s, 0)]), CHAINLINK),
    "an answer above the voted bound": (lambda w: transmissions([(9, w.now_s, 10**14 + 1)]), CHAINLINK),
    "another layout": (lambda w: transmissions([(9, w.now_s, 2_000 * 10**8)], version=1), CHAINLINK),
    "other decimals": (lambda w: transmissions([(9, w.now_s, 2_000 * 10**8)], decimals=9), CHAINLINK),
    "an account of the agent's": (lambda w: transmissions([(9, w.now_s, 2_000 * 10**8)]), SYSTEM_PROGRAM),
    "a truncated account": (lambda w: transmissions([(9, w.now_s, 2_000 * 10**8)])[: -40 * 8], CHAINLINK),
    "an empty account": (lambda w: b"", CHAINLINK),
}


@pytest.mark.parametrize("name", PRICES)
def test_what_is_no_price_stops_trading_and_nothing_else(world: World, name: str) -> None:
    make, owner = PRICES[name]
    world.put(world.base_source, make(world), owner)
    before = world.balance(world.known["vault_quote"])
    sent = world.trade(BUY, is_buy=True)
    assert sent.error == ""
    assert sent.event("TradeRefused")["reasons"] & 16
    assert (world.balance(world.known["vault_quote"]), world.state("vault").nonce) == (before, 0)
    assert world.recall("quote").error == ""
    assert world.balance(world.known["treasury"]) == before


@pytest.mark.parametrize("name", ["base_feed", "quote_feed"])
def test_who_sends_does_not_choose_the_account_of_a_price(world: World, name: str) -> None:
    """Else anybody could make a price missing: a recall would be counted at another one, a vault seem blind."""
    other = Pubkey.from_bytes(hashlib.sha256(b"another feed").digest())
    for data, owner in ((transmissions([(9, world.now_s, 9_000 * 10**8)]), CHAINLINK), (b"", SYSTEM_PROGRAM)):
        world.put(other, data, owner)
        known = {name: other}
        refused(world, lambda known=known: world.trade(BUY, is_buy=True, known=known), "WrongAddress")
        refused(world, lambda known=known: world.call("observe", **known), "WrongAddress")
        refused(world, lambda known=known: world.recall("quote", 1, **known), "WrongAddress")
        refused(world, lambda known=known: world.decide("halt", known=known), "WrongAddress")
        mine = world.wallet("reward", world.controller.pubkey())
        refused(world, lambda known=known, mine=mine: world.call("claim", destination=mine, **known), "WrongAddress")


@pytest.mark.parametrize("price_e8", [98 * 10**6 - 1, 102 * 10**6 + 1])
def test_while_the_quote_token_is_off_its_peg_nothing_trades_and_nothing_is_observed(
    world: World, price_e8: int
) -> None:
    world.set_clock(world.state("protocol").config.genesis_s + EPOCH_S + 1)
    world.publish(quote_e8=price_e8)
    assert world.trade(BUY, is_buy=True).event("TradeRefused")["reasons"] & 256
    assert world.call("observe").error == ""
    assert world.state("vault").reward.window_observations == 0


@pytest.fixture
def pyth() -> World:
    world = World()
    world.base_source = Pubkey.from_string(pyth_account_of(BASE_ID))
    world.known["base_feed"] = world.base_source
    feed = world.feed(world.base_source, kind=2, max_age_s=60, max_confidence_bps=50, decimals=0)
    world.put(world.base_source, price_update(BASE_ID, 2_000 * 10**8, world.now_s, confidence=10 * 10**8), PYTH)
    steps = (
        world.initialise,
        world.register,
        lambda: world.fund_rewards(10**5 * TOKEN),
        lambda: world.open_vault(feed=feed),
        lambda: world.allocate(10_000 * QUOTE),
        lambda: world.make_market(10**6 * QUOTE),
    )
    assert [step().error for step in steps] == [""] * 6
    return world


UPDATES: dict[str, Callable[[World], bytes]] = {
    "an interval too wide": lambda w: price_update(BASE_ID, 2_000 * 10**8, w.now_s, confidence=10 * 10**8 + 1),
    "too old": lambda w: price_update(BASE_ID, 2_000 * 10**8, w.now_s - 61),
    "signed by some only": lambda w: price_update(BASE_ID, 2_000 * 10**8, w.now_s, verification=b"\0\x05"),
    "with a positive exponent": lambda w: price_update(BASE_ID, 2_000, w.now_s, exponent=1),
    "with an absurd exponent": lambda w: price_update(BASE_ID, 2_000, w.now_s, exponent=-(2**31)),
    "another feed's": lambda w: price_update(bytes(32), 2_000 * 10**8, w.now_s),
    "negative": lambda w: price_update(BASE_ID, -5, w.now_s),
}


@pytest.mark.parametrize("name", UPDATES)
def test_a_pyth_update_that_is_not_good_enough_is_no_price(pyth: World, name: str) -> None:
    pyth.put(pyth.base_source, UPDATES[name](pyth), PYTH)
    assert pyth.trade(BUY, is_buy=True).event("TradeRefused")["reasons"] & 16


def test_a_pyth_update_trades_and_its_time_is_in_the_ledger(pyth: World) -> None:
    entry = pyth.trade(BUY, is_buy=True).event("TradeRecorded")
    assert (entry["base_answer"], entry["base_published_s"]) == (2_000 * 10**8, pyth.now_s)


def test_among_fresh_pyth_updates_nobody_goes_back_to_one_before_the_newest_used(pyth: World) -> None:
    older = pyth.now_s
    pyth.set_clock(pyth.now_s + 30)
    pyth.publish()
    pyth.put(pyth.base_source, price_update(BASE_ID, 2_100 * 10**8, pyth.now_s), PYTH)
    assert pyth.call("observe").error == ""
    pyth.put(pyth.base_source, price_update(BASE_ID, 2_000 * 10**8, older), PYTH)
    assert pyth.trade(BUY, is_buy=True).event("TradeRefused")["reasons"] & 16


# --- decisions


def test_decisions_that_are_not_the_dao_s_are_refused(world: World) -> None:
    world.mint_to(world.known["treasury"], world.quote_mint, 100)
    refused(world, lambda: world.decide("allocate", 100, signers=(0,)), "NotEnoughGuardians")
    refused(world, lambda: world.decide("allocate", 100, signers=()), "NotEnoughGuardians")
    refused(world, lambda: world.decide("allocate", 100, signers=(1, 0)), "BadAttestation")
    refused(world, lambda: world.decide("allocate", 100, signers=(1, 1)), "BadAttestation")
    refused(world, lambda: world.decide("allocate", 100, nonce=0), "BadAttestation")
    refused(world, lambda: world.decide("allocate", 100, nonce=world.state("protocol").nonce + 1), "BadAttestation")
    refused(world, lambda: world.decide("allocate", 100, expires_s=world.now_s - 1), "DecisionExpired")
    world.guardians = [*guardian_keys(5)[3:], world.guardians[2]]
    refused(world, lambda: world.decide("allocate", 100), "BadAttestation")


def test_a_decision_is_carried_out_once(world: World) -> None:
    world.mint_to(world.known["treasury"], world.quote_mint, 200)
    instruction = world.decided("allocate", 100)
    assert world.send(instruction).error == ""
    refused(world, lambda: world.send(instruction), "BadAttestation")


def test_a_decision_about_one_vault_amount_or_verb_is_no_decision_about_another(world: World) -> None:
    world.mint_to(world.known["treasury"], world.quote_mint, 200)
    good = world.decided("allocate", 100)
    more = Instruction(good.program_id, good.data[:8] + struct.pack("<Q", 200) + good.data[16:], good.accounts)
    refused(world, lambda: world.send(more), "BadAttestation")
    paid = world.wallet("quote", world.payer.pubkey())
    other = world.token_account("other", world.quote_mint, world._key("thief").pubkey())
    known = {"source": world.known["treasury"], "destination": paid}
    to_me = changed(world.decided("pay", 100, subject="destination", known=known), 2, pubkey=other)
    refused(world, lambda: world.send(to_me), "BadAttestation")


def test_the_word_of_guardians_alone_halts_but_is_no_decision_and_a_decision_is_no_halt(world: World) -> None:
    bare = world.ledger.instruction("resume", world.known, world.types["Decision"](expires_s=0, signatures=[]))
    alone = world.attest(bare, world.known["vault"], kind=1)
    refused(world, lambda: world.send(world.ledger.instruction("resume", world.known, alone)), "BadAttestation")
    bare = world.ledger.instruction("halt", world.known, world.types["Decision"](expires_s=0, signatures=[]))
    of_dao = world.attest(bare, world.known["vault"], kind=0)
    refused(world, lambda: world.send(world.ledger.instruction("halt", world.known, of_dao)), "BadAttestation")


def test_a_halt_is_not_repeated_after_the_dao_has_ended_it(world: World) -> None:
    halt = world.decided("halt")
    assert world.send(halt).error == ""
    assert world.decide("resume").error == ""
    refused(world, lambda: world.send(halt), "BadAttestation")


def test_rewards_and_bonds_are_not_paid_out_as_if_they_were_treasury(world: World) -> None:
    mine = world.wallet("reward", world.payer.pubkey())
    known = {"source": world.known["rewards"], "destination": mine}
    refused(world, lambda: world.decide("pay", 1, subject="destination", known=known), "WrongTokenAccount")
    refused(
        world,
        lambda: world.decide("withdraw_rewards", 10**6 * TOKEN, subject="destination", known=known),
        "Underfunded",
    )


def test_a_recall_goes_to_the_protocol_s_accounts_only(world: World) -> None:
    """Quote to the treasury and nowhere else: of another account the DAO would have to hear first."""
    for token in ("quote", "base"):
        mine = world.wallet(token, world.payer.pubkey())
        refused(world, lambda token=token, mine=mine: world.recall(token, 1, to=mine), "WrongTokenAccount")
    other = world.token_account("another of the protocol's", world.quote_mint, world.protocol)
    refused(world, lambda: world.recall("quote", 1, to=other), "WrongAddress")


def test_a_recall_of_one_token_is_none_of_the_other(world: World) -> None:
    refused(world, lambda: world.recall("quote", 1, from_=world.known["vault_base"]), "WrongAddress")
    refused(world, lambda: world.recall("base", 1, from_=world.known["vault_quote"]), "WrongAddress")
    known = {"from": world.known["vault_quote"], "to": world.known["treasury"]}
    refused(world, lambda: world.decide("recall", world.reward_mint, 1, 0, known=known), "WrongMint")


def test_a_shorter_stop_of_claims_does_not_lift_a_longer_one_and_an_old_one_does_not_come_back(world: World) -> None:
    long = world.decided("stop_claims", world.now_s + 1000, subject="protocol")
    short = world.decided("stop_claims", world.now_s + 10, subject="protocol")
    assert world.send(long).error == ""
    refused(world, lambda: world.send(short), "AlreadyStopped")
    refused(world, lambda: world.send(long), "AlreadyStopped")
    assert world.decide("allow_claims", subject="protocol").error == ""
    assert world.state("protocol").claims_stopped_until_s == 0
    refused(world, lambda: world.send(long), "BadAttestation")


def test_only_a_decision_that_expired_is_passed_over(world: World) -> None:
    payload = b"anything"
    expires_s = world.now_s + 10
    empty = world.ledger.instruction("observe", world.known)
    word = world.attest(empty, world.protocol, payload=payload, expires_s=expires_s)
    from eth_utils import keccak

    skip = world.ledger.instruction("skip_decision", world.known, list(keccak(payload)), word)
    refused(world, lambda: world.send(skip), "DecisionNotExpired")
    world.set_clock(expires_s + 1)
    before = world.state("protocol").nonce
    assert world.send(skip).error == ""
    assert world.state("protocol").nonce == before + 1
    assert world.send(skip).error == "BadAttestation"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"limits": {"max_position_bps": 8001}}, "LimitTooLoose"),
        ({"limits": {"max_drawdown_bps": 2000, "hard_drawdown_bps": 2000}}, "LimitTooLoose"),
        ({"limits": {"max_drawdown_bps": 900, "hard_drawdown_bps": 900}}, "LimitsInconsistent"),
        ({"reward_rate": 10**6 + 1}, "RateTooHigh"),
        ({"reward_rate": 0}, "RateTooHigh"),
        ({"reward_cap": 10**9 * TOKEN}, "Underfunded"),
        ({"artefact_hash": list(ARTEFACT), "base_mint": None}, "WrongMint"),
    ],
)
def test_a_manifest_beyond_the_constitution_is_refused_whoever_signed_it(change: dict[str, Any], error: str) -> None:
    world = World()
    assert [step().error for step in (world.initialise, world.register, lambda: world.fund_rewards(10**5 * TOKEN))] == [
        ""
    ] * 3
    if "base_mint" in change:
        change = change | {"base_mint": world.quote_mint}
    assert world.open_vault(**change).error == error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"threshold": 0}, "BadConfig"),
        ({"threshold": 4}, "BadConfig"),
        ({"guardian_count": 2}, "BadConfig"),
        ({"guardian_count": 17}, "BadConfig"),
        ({"window_length_s": EPOCH_S}, "BadConfig"),
        ({"vesting_s": 0}, "BadConfig"),
        ({"genesis_s": -1}, "BadConfig"),
        ({"reserved": [0, 1]}, "BadConfig"),
        ({"gap_allowance_bps": 10_001}, "BadConfig"),
        ({"slippage_decay_s": 0}, "BadConfig"),
        ({"max_reward_rate": 0}, "BadConfig"),
        ({"max_unsettled": 0}, "BadConfig"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(change: dict[str, Any], error: str) -> None:
    assert World(config_changes=change).initialise().error == error


def test_one_guardian_is_not_counted_twice() -> None:
    twice = [list(bytes.fromhex(guardian_keys(1)[0].address[2:]))] * 2
    assert (
        World(config_changes={"guardians": twice + [[0] * 20] * 14, "guardian_count": 2}).initialise().error
        == "BadConfig"
    )


# --- tokens that change under the vault


def test_a_vault_s_account_that_somebody_else_could_move_is_not_traded_with(world: World) -> None:
    stored = world.svm.get_account(world.known["vault_quote"])
    data = bytearray(stored.data)
    data[72:76] = (1).to_bytes(4, "little")  # a delegate
    world.svm.set_account(world.known["vault_quote"], Stored(stored.lamports, bytes(data), TOKEN_PROGRAM, False, 0))
    sent = world.trade(BUY, is_buy=True)
    assert sent.error == "WrongTokenAccount"


def test_nobody_but_the_program_moves_or_delegates_what_the_vault_has(world: World) -> None:
    thief = world._key("thief")
    owner = world.known["vault"]
    attempts = (
        approve(
            ApproveParams(
                program_id=TOKEN_PROGRAM,
                source=world.known["vault_quote"],
                delegate=thief.pubkey(),
                owner=owner,
                amount=1,
            )
        ),
        set_authority(
            SetAuthorityParams(
                program_id=TOKEN_PROGRAM,
                account=world.known["vault_quote"],
                authority=AuthorityType.ACCOUNT_OWNER,
                current_authority=owner,
                new_authority=thief.pubkey(),
            )
        ),
    )
    for attempt in attempts:
        metas = [AccountMeta(meta.pubkey, False, meta.is_writable) for meta in attempt.accounts]
        unsigned = Instruction(attempt.program_id, attempt.data, metas)
        refused(world, lambda i=unsigned: world.send(i), "InstructionErrorFieldless.MissingRequiredSignature")


# --- sums that do not fit


def test_capital_beyond_what_the_sums_hold_is_refused_and_the_rest_works_and_can_leave(world: World) -> None:
    supply = int.from_bytes(world.svm.get_account(world.quote_mint).data[36:44], "little")
    world.mint_to(world.known["treasury"], world.quote_mint, 2**64 - 1 - supply)
    for amount in (2**63, 2**63 - 1, 2**64 - 1):
        refused(world, lambda amount=amount: world.decide("allocate", amount), "Overflow")
    assert world.decide("allocate", 2**62).error == ""
    # What the worst case would take back has more than 64 bits: more than anybody has, so the vault may only reduce.
    assert world.call("observe").error == ""
    assert world.state("vault").guard.reasons == 4
    assert world.recall("quote").error == ""
    assert world.state("vault").quote_held == 0


def test_a_bond_of_all_tokens_there_can_be_does_not_overflow(world: World) -> None:
    supply = int.from_bytes(world.svm.get_account(world.reward_mint).data[36:44], "little")
    most = 2**64 - 1 - supply
    assert world.bond(most).error == ""
    assert world.call("observe").error == ""
    assert world.state("agent").bond == 30_000 * TOKEN + most


def retire_and_release(world: World, *, empty: bool = False) -> None:
    """Retires the world's vault: halt, recall, settle, release."""
    assert world.decide("retire").error == ""
    assert world.recall("quote").error == ""
    genesis = world.state("protocol").config.genesis_s
    epoch = (world.now_s - genesis) // EPOCH_S
    world.set_clock(genesis + (epoch + 1) * EPOCH_S + 1)
    world.publish()
    assert world.call("observe").error == ""
    world.wait(600)
    sent = world.call("close_window")
    assert sent.error == "", sent.error
    if world.state("vault").reward.is_pending:
        assert world.call("reward_agent", world.state("vault").reward.pending_move).error == ""
    released = world.call("finish_retirement")
    assert released.error == "", released.error


def test_keypairs_are_always_the_same() -> None:
    """Addresses are derived from names, so a failure is the same failure next time."""
    assert Keypair.from_seed(hashlib.sha256(b"payer").digest()).pubkey() == World().payer.pubkey()
