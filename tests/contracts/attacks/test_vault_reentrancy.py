"""Calling back from the middle of a call: into the same vault, into every other contract, and into views.

The asset's token (or the quote token) is turned into one that calls the attacker's contract in every transfer. That
contract is the agent's controller and its signing key too, so nothing is out of its reach.
"""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils import keccak

from agents.contracts import decode_revert
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.vaults import Attacker, dollars, fund_bidder
from tests.contracts.vaults import MAX_UINT, allocate, book, guard, halt, recall, turn_faulty
from tests.contracts.world import Strategy, World, eth, one, struct, tokens, usd

BUSY = keccak(text="ReentrancyGuardReentrantCall()")[:4]


@pytest.fixture
def attacker(world: World) -> Attacker:
    return Attacker(world)


@pytest.fixture
def owned(world: World, attacker: Attacker) -> Strategy:
    """A strategy whose agent belongs to the attacker's contract, and is its signing key."""
    agents, contract = world.agents.functions, attacker.contract
    attacker.run([agents.register("ipfs://attacker", contract.address)])
    agent_id = int(world.view(agents.agentCount()))
    world.post_bond(agent_id, tokens(50_000))
    world.market.give_quote(world.controller, usd(60_000))
    world.send(world.quote.functions.approve(world.d.agents, usd(60_000)), world.controller)
    world.send(agents.postDeposit(agent_id, usd(60_000)), world.controller)
    return world.deploy_strategy(agent_id)


def everything(world: World, attacker: Attacker, s: Strategy, token: str) -> dict[str, Any]:
    """Every entry point and every view that anybody, the agent or its controller could use, by name."""
    v, agents, pool, treasury = (
        s.vault.functions,
        world.agents.functions,
        world.pool.functions,
        world.treasury.functions,
    )
    m = s.manifest
    init = (b"\x01" * 32, b"\x02" * 32, attacker.address, 1, m["limits"], m["assets"])
    return {
        "trade": attacker.trade(s, usd(1), buy=True),
        "trade with the next nonce": attacker.trade(s, usd(1), buy=True, nonce=guard(world, s).nonce + 1),
        "poke": v.poke(), "fillAuction": v.fillAuction(token, MAX_UINT), "skim": v.skim(token), "status": v.status(),
        "exposure": v.exposure(),
        "initialize": v.initialize(init), "update": v.update(m["artefactHash"], m["limits"], m["assets"]),
        "allocate": v.allocate(1), "recall": v.recall(token, 1, 0), "halt": v.halt(), "resume": v.resume(),
        "writeOff": v.writeOff(token), "sync": pool.sync(10**12, 10**12, True, 0, attacker.address),
        "claim": pool.claim(s.vault.address), "closeWindow": pool.closeWindow(s.vault.address),
        "applyResult": pool.applyResult(s.agent_id, 1),
        "withdrawBond": agents.withdrawBond(s.agent_id, 1), "withdrawDeposit": agents.withdrawDeposit(s.agent_id, 1),
        "awardDeposit": agents.awardDeposit(s.agent_id, 1), "seizeBond": agents.seizeBond(s.agent_id, 1),
        "treasury.recall": treasury.recall(s.id, token, 1, 0), "treasury.allocate": treasury.allocate(s.id, 1),
        "finishRetirement": world.strategies.functions.finishRetirement(s.id),
        "applyUpdate": world.strategies.functions.applyUpdate(s.id),
        "swap for the vault": world.venue.functions.swap(world.book.quote, token, 500, usd(1), 0),
    }  # fmt: skip


# What the vault's own lock turns away; the rest is refused by whoever is asked, as at any other time.
LOCKED = {"trade", "trade with the next nonce", "poke", "fillAuction", "skim", "status", "exposure", "allocate"}
LOCKED |= {"claim", "withdrawBond", "withdrawDeposit"}


def assert_all_turned_away(attacker: Attacker, calls: dict[str, Any]) -> int:
    """Every call failed, those through the vault at its lock; returns how many there were."""
    outcomes = attacker.outcomes()
    assert len(outcomes) == len(calls)
    for name, (succeeded, answer) in zip(calls, outcomes, strict=True):
        assert not succeeded, f"{name} went through"
        assert (answer[:4] == BUSY) == (name in LOCKED), f"{name}: {decode_revert(answer)}"
    return len(outcomes)


def test_an_asset_calls_back_into_everything_in_the_middle_of_a_trade(
    world: World, attacker: Attacker, owned: Strategy, attack: Report
) -> None:
    """WETH's code is exchanged for one that calls back while the pool pays the vault, before anything is booked."""
    token = turn_faulty(world, world.book.asset("BTC").token, 8)
    s = owned
    world.send(token.functions.setHook(attacker.address, b"go"), world.deployer)
    two = _with_bitcoin(world, s)
    calls = everything(world, attacker, two, token.address)
    attacker.arm(list(calls.values()))
    receipt = attacker.run([attacker.trade(two, usd(300_000), buy=True, symbol="BTC")])
    tried = assert_all_turned_away(attacker, calls)
    assert guard(world, two).nonce == 1
    held = world.market.balance(token.address, two.vault.address)
    assert world.held(two, "BTC") == held
    assert book(world, two).quoteHeld == usd(700_000) == world.market.balance(world.book.quote, two.vault.address)
    attack.outcome(
        gained=f"nothing by {tried} calls, {len(LOCKED)} of them to the vault itself",
        cost=f"{receipt['gasUsed']:,} gas", stopped_by="ReentrancyGuardReentrantCall",
    )  # fmt: skip


def _with_bitcoin(world: World, s: Strategy) -> Strategy:
    """The same strategy, updated to hold BTC too."""
    assets = [(world.token_of(symbol), world.book.asset(symbol).pool_fee) for symbol in ("ETH", "BTC")]
    update = world.submit(s.manifest | {"updates": s.id, "assets": assets, "capital": 0})
    world.as_timelock(world.strategies.functions.approve(update))
    world.as_timelock(world.strategies.functions.applyUpdate(update))
    return s


@pytest.mark.parametrize("flow", ["allocate", "recall", "fillAuction", "skim"])
def test_the_quote_token_calls_back_into_everything_in_the_middle_of_a_flow(
    world: World, attacker: Attacker, owned: Strategy, attack: Report, flow: str
) -> None:
    s = owned
    attacker.run([attacker.trade(s, usd(300_000), buy=True)])
    if flow == "fillAuction":
        halt(world, s)
        fund_bidder(world, s)
        world.travel(60)
    world.market.give_quote(s.vault.address, usd(1))
    quote = turn_faulty(world, world.book.quote, 6)
    world.send(quote.functions.setHook(attacker.address, b"go"), world.deployer)
    calls = everything(world, attacker, s, world.token_of("ETH"))
    attacker.arm(list(calls.values()))
    if flow == "allocate":
        allocate(world, s, usd(1000))
    elif flow == "recall":
        recall(world, s, quote.address, usd(1000))
    elif flow == "skim":
        assert one(world.send(s.vault.functions.skim(quote.address), world.stranger), "Skimmed")["amount"] == usd(1)
    else:
        world.send(s.vault.functions.fillAuction(world.token_of("ETH"), MAX_UINT), world.bidder)
    tried = assert_all_turned_away(attacker, calls)
    balance = world.market.balance(quote.address, s.vault.address)
    assert balance - book(world, s).quoteHeld == (0 if flow == "skim" else usd(1))
    attack.outcome(gained="nothing", cost=f"{tried} refused calls", stopped_by="ReentrancyGuardReentrantCall")


def test_views_read_in_the_middle_of_a_trade_promise_nothing_that_pays(
    world: World, attacker: Attacker, owned: Strategy, attack: Report
) -> None:
    """Where value is told (`status`) the lock answers; the plain books read as before the trade, so they never show
    more than there was. What others decide by, `worstProfit`, `isEmpty` and `standing`, is the same before, in and
    after."""
    s = _with_bitcoin(world, owned)
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.send(token.functions.setHook(attacker.address, b"go"), world.deployer)
    world.poke(s)
    v = s.vault.functions
    worst = world.view(v.worstProfit())
    reads = [v.worstProfit(), v.isEmpty(), v.book(), v.positionOf(world.token_of("ETH")), v.auctionQuote(token.address)]
    reads += [world.pool.functions.standing(s.vault.address, worst, 0), world.pool.functions.debtOf(s.agent_id)]
    before = [world.evm.call({"to": read.address, "data": read._encode_transaction_data()}) for read in reads]
    attacker.arm(reads)
    attacker.run([attacker.trade(s, usd(300_000), buy=True, symbol="BTC")])
    assert attacker.outcomes() == [(True, answer) for answer in before]
    assert abs(world.view(v.worstProfit()) - worst) <= 1
    attack.outcome(
        gained=f"views of before the trade; worst profit {dollars(worst)} throughout", cost="a trade",
        stopped_by="books written at once, after the swap; nonReentrantView on status",
    )  # fmt: skip


def test_the_key_is_rotated_in_the_middle_of_a_trade(
    world: World, attacker: Attacker, owned: Strategy, attack: Report
) -> None:
    """The controller rotates the key, and sells the agent, while its trade is being executed: the trade is the old
    key's, whole and once; afterwards that key is nobody's."""
    s = _with_bitcoin(world, owned)
    token = turn_faulty(world, world.token_of("BTC"), 8)
    world.send(token.functions.setHook(attacker.address, b"go"), world.deployer)
    agents = world.agents.functions
    new_key = world.other_signer
    second = s.vault.functions.trade(struct(world.order(s, usd(1000), buy=True, nonce=1)))
    attacker.arm([
        agents.setSigningKey(s.agent_id, new_key.address), second,
        agents.transferFrom(attacker.address, world.other_controller.address, s.agent_id),
        agents.setSigningKey(s.agent_id, attacker.address),
    ])  # fmt: skip
    attacker.run([attacker.trade(s, usd(100_000), buy=True, symbol="BTC")])
    assert [done for done, _ in attacker.outcomes()] == [True, False, True, False]
    assert attacker.outcomes()[1][1][:4] == BUSY
    assert guard(world, s).nonce == 1
    with world.reverts("VaultNotSigningKey", caller=attacker.address, signingKey=new_key.address):
        attacker.run([attacker.trade(s, usd(1000), buy=True)])
    assert one(world.buy(s, usd(1000), sender=new_key), "TradeRecorded")["trade"]["sequence"] == 1
    attack.outcome(
        gained="one trade within all limits, which was the old key's to make", cost="the key",
        stopped_by="ReentrancyGuardReentrantCall, then VaultNotSigningKey",
    )  # fmt: skip


def test_an_order_of_the_old_key_that_waits_in_the_mempool_dies_with_the_key(
    world: World, strategy: Strategy, attack: Report
) -> None:
    """A stolen key has sent an order; the controller's rotation is mined before it. The nonce stays for the new key."""
    order = struct(world.order(strategy, usd(100_000), buy=True))
    raw, _, _ = world.evm.sign(strategy.vault.functions.trade(order), world.signer)
    rotate = world.agents.functions.setSigningKey(strategy.agent_id, world.other_signer.address)
    world.send(rotate, world.controller)
    error = {"caller": world.signer.address, "signingKey": world.other_signer.address}
    with world.reverts("VaultNotSigningKey", **error):
        world.evm.send_raw(raw)
    assert world.status(strategy).value == usd(1_000_000)
    world.send(strategy.vault.functions.trade(order), world.other_signer)
    assert world.held(strategy) > eth(49)
    attack.outcome(gained="nothing", cost="gas of the refused order", stopped_by="VaultNotSigningKey")
