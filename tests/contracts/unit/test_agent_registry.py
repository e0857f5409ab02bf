"""AgentRegistry: who an agent is, which key trades for it, and the stake it answers with.

Shaped like ERC-8004's identity registry: https://eips.ethereum.org/EIPS/eip-8004
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from web3 import Web3

from agents.deployment import ZERO_ADDRESS
from oracle.vault_state import Reason, VaultState
from tests.contracts.world import (
    DAY_S,
    LIMITS,
    Account,
    EventLog,
    Strategy,
    World,
    none_of,
    one,
    tokens,
    usd,
)  # fmt: skip

ERC165, ERC721, ERC721_METADATA, ERC4906 = "0x01ffc9a7", "0x80ac58cd", "0x5b5e139f", "0x49064906"
BPS = 10_000
NOBODY = 999


@pytest.fixture
def agent_id(world: World) -> int:
    """Registered by `controller`, without stake."""
    return world.register_agent(bond_wei=0, deposit=0)


def send(world: World, sender: Account | str, function: str, *args: Any) -> list[EventLog]:
    return world.send(world.agents.functions[function](*args), sender)


def read(world: World, function: str, *args: Any) -> Any:
    return world.view(world.agents.functions[function](*args))


def deposit_of(world: World, agent_id: int) -> int:
    return int(read(world, "agentOf", agent_id).deposit)


def quote_balance(world: World, who: str) -> int:
    return int(world.market.balance(world.book.quote, who))


# ------------------------------------------------------------------------------ identity


def test_an_agent_without_a_key_is_not_registered(world: World) -> None:
    with world.reverts("AgentRegistryInvalidKey"):
        send(world, world.controller, "register", "ipfs://agent", ZERO_ADDRESS)
    assert read(world, "agentCount") == 0


def test_registering_mints_the_next_agent_to_the_caller(world: World) -> None:
    for expected_id, controller in ((1, world.controller), (2, world.other_controller), (3, world.controller)):
        uri = f"ipfs://agent-{expected_id}"
        events = send(world, controller, "register", uri, world.signer.address)
        assert one(events, "Registered") == {"agentId": expected_id, "agentURI": uri, "owner": controller.address}
        assert one(events, "SigningKeySet") == {"agentId": expected_id, "signingKey": world.signer.address}
        minted = one(events, "Transfer")
        assert minted == {"from": ZERO_ADDRESS, "to": controller.address, "tokenId": expected_id}
        agent = read(world, "agentOf", expected_id)
        assert agent == (world.signer.address, world.now_s(), 0, 0)
        assert read(world, "controllerOf", expected_id) == read(world, "ownerOf", expected_id) == controller.address
        assert read(world, "tokenURI", expected_id) == uri
    assert read(world, "agentCount") == 3
    assert read(world, "balanceOf", world.controller.address) == 2


def test_an_unknown_agent_has_no_controller(world: World) -> None:
    for unknown in (0, NOBODY):
        with world.reverts("AgentRegistryUnknownAgent", agentId=unknown):
            read(world, "controllerOf", unknown)
        assert read(world, "agentOf", unknown).signingKey == ZERO_ADDRESS


@pytest.mark.parametrize(
    ("interface", "is_supported"),
    [(ERC165, True), (ERC721, True), (ERC721_METADATA, True), (ERC4906, True), ("0xffffffff", False)],
)
def test_the_registry_is_an_erc721_with_metadata(world: World, interface: str, is_supported: bool) -> None:
    assert read(world, "supportsInterface", interface) is is_supported
    assert (read(world, "name"), read(world, "symbol")) == ("MarketFlow Agent", "MFAGENT")


def test_the_registrys_events_are_those_of_erc_8004(world: World) -> None:
    """So that whoever indexes ERC-8004 finds our agents."""
    events = [item for item in world.agents.abi if item["type"] == "event"]
    declared = {f"{e['name']}({','.join(i['type'] + ' indexed' * i['indexed'] for i in e['inputs'])})" for e in events}
    assert "Registered(uint256 indexed,string,address indexed)" in declared
    assert "MetadataSet(uint256 indexed,string indexed,string,bytes)" in declared


# ---------------------------------------------------------- what only the controller changes


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("setSigningKey", ("0x" + "11" * 20,)),
        ("setAgentURI", ("ipfs://other",)),
        ("setMetadata", ("model", b"other")),
        ("withdrawBond", (0,)),
        ("withdrawDeposit", (0,)),
    ],
)
def test_only_the_controller_changes_an_agent(
    world: World, agent_id: int, function: str, arguments: tuple[Any, ...]
) -> None:
    for caller in (world.stranger, world.signer):
        with world.reverts("AgentRegistryUnauthorized", caller=caller.address):
            send(world, caller, function, agent_id, *arguments)
    with world.reverts("AgentRegistryUnauthorized", caller=world.d.timelock):
        send(world, world.d.timelock, function, agent_id, *arguments)
    with world.reverts("AgentRegistryUnknownAgent", agentId=NOBODY):
        send(world, world.controller, function, NOBODY, *arguments)


def test_who_may_transfer_an_agent_does_not_control_it(world: World, agent_id: int) -> None:
    send(world, world.controller, "approve", world.stranger.address, agent_id)
    with world.reverts("AgentRegistryUnauthorized", caller=world.stranger.address):
        send(world, world.stranger, "setSigningKey", agent_id, world.stranger.address)


def test_the_signing_key_is_never_nobodys(world: World, agent_id: int) -> None:
    with world.reverts("AgentRegistryInvalidKey"):
        send(world, world.controller, "setSigningKey", agent_id, ZERO_ADDRESS)


def test_a_rotated_key_trades_and_the_old_one_does_not(world: World, strategy: Strategy) -> None:
    events = send(world, world.controller, "setSigningKey", strategy.agent_id, world.other_signer.address)
    assert one(events, "SigningKeySet") == {"agentId": strategy.agent_id, "signingKey": world.other_signer.address}
    with world.reverts("VaultNotSigningKey", caller=world.signer.address, signingKey=world.other_signer.address):
        world.buy(strategy, usd(1_000))
    assert one(world.buy(strategy, usd(1_000), sender=world.other_signer), "TradeRecorded")


def test_a_lost_key_is_rotated_even_while_the_account_is_unsettled(world: World, strategy: Strategy) -> None:
    world.to_next_window()
    world.to_window_end()
    send(world, world.controller, "setSigningKey", strategy.agent_id, world.other_signer.address)
    assert read(world, "agentOf", strategy.agent_id).signingKey == world.other_signer.address


def test_the_uri_is_replaced(world: World, agent_id: int) -> None:
    events = send(world, world.controller, "setAgentURI", agent_id, "ipfs://second")
    assert one(events, "MetadataUpdate") == {"_tokenId": agent_id}
    assert read(world, "tokenURI", agent_id) == "ipfs://second"


def test_metadata_is_kept_by_key(world: World, agent_id: int) -> None:
    assert read(world, "getMetadata", agent_id, "model") == b""
    events = send(world, world.controller, "setMetadata", agent_id, "model", b"gru-2")
    assert one(events, "MetadataSet") == {
        "agentId": agent_id,
        "indexedMetadataKey": bytes(Web3.keccak(text="model")),
        "metadataKey": "model",
        "metadataValue": b"gru-2",
    }
    send(world, world.controller, "setMetadata", agent_id, "venue", b"v3")
    assert [read(world, "getMetadata", agent_id, key) for key in ("model", "venue")] == [b"gru-2", b"v3"]
    send(world, world.controller, "setMetadata", agent_id, "model", b"")
    assert read(world, "getMetadata", agent_id, "model") == b""


# ------------------------------------------------------------------------------ transfer


def test_nobody_takes_an_agent_that_is_not_his(world: World, agent_id: int) -> None:
    take = world.agents.functions.transferFrom(world.controller.address, world.stranger.address, agent_id)
    with world.reverts("ERC721InsufficientApproval", operator=world.stranger.address, tokenId=agent_id):
        world.send(take, world.stranger)


def test_a_sold_agent_takes_its_stake_and_its_controls_along(world: World, strategy: Strategy) -> None:
    bond, deposit = world.bond_of(strategy.agent_id), deposit_of(world, strategy.agent_id)
    buyer = world.other_controller
    send(world, world.controller, "transferFrom", world.controller.address, buyer.address, strategy.agent_id)
    assert (world.bond_of(strategy.agent_id), deposit_of(world, strategy.agent_id)) == (bond, deposit)
    with world.reverts("AgentRegistryUnauthorized", caller=world.controller.address):
        send(world, world.controller, "setSigningKey", strategy.agent_id, world.stranger.address)
    send(world, buyer, "setSigningKey", strategy.agent_id, world.other_signer.address)
    withdrawn = one(send(world, buyer, "withdrawBond", strategy.agent_id, 1), "BondWithdrawn")
    assert withdrawn == {"agentId": strategy.agent_id, "to": buyer.address, "amount": 1}


# ---------------------------------------------------------------------------------- bond


@pytest.mark.parametrize("function", ["postBond", "postDeposit"])
def test_stake_is_posted_for_a_known_agent_and_is_not_nothing(world: World, agent_id: int, function: str) -> None:
    with world.reverts("AgentRegistryUnknownAgent", agentId=NOBODY):
        send(world, world.controller, function, NOBODY, 1)
    with world.reverts("AgentRegistryZeroAmount"):
        send(world, world.controller, function, agent_id, 0)


def test_stake_that_is_not_given_is_not_counted(world: World, agent_id: int) -> None:
    for function in ("postBond", "postDeposit"):
        with world.reverts("ERC20InsufficientAllowance", spender=world.d.agents, allowance=0, needed=1):
            send(world, world.controller, function, agent_id, 1)


def test_anybody_posts_bond(world: World, agent_id: int) -> None:
    for sum_, patron in ((tokens(10), world.small_holder), (tokens(20), world.voter_a)):
        posted = one(world.post_bond(agent_id, tokens(10), patron), "BondPosted")
        assert posted == {"agentId": agent_id, "from": patron.address, "amount": tokens(10)}
        assert world.bond_of(agent_id) == sum_
    assert world.view(world.token.functions.balanceOf(world.d.agents)) == tokens(20)


def test_the_bond_goes_back_to_the_controller_not_to_who_posted_it(world: World, agent_id: int) -> None:
    world.post_bond(agent_id, tokens(10), world.small_holder)
    with world.reverts(
        "AgentRegistryNotReleasable", agentId=agent_id, requested=tokens(10) + 1, releasable=tokens(10)
    ):
        send(world, world.controller, "withdrawBond", agent_id, tokens(10) + 1)
    before = world.view(world.token.functions.balanceOf(world.controller.address))
    withdrawn = one(send(world, world.controller, "withdrawBond", agent_id, tokens(10)), "BondWithdrawn")
    assert withdrawn == {"agentId": agent_id, "to": world.controller.address, "amount": tokens(10)}
    assert world.view(world.token.functions.balanceOf(world.controller.address)) == before + tokens(10)
    assert world.bond_of(agent_id) == 0


def test_a_bond_never_votes(world: World, agent_id: int) -> None:
    world.post_bond(agent_id, tokens(10))
    assert world.view(world.token.functions.delegates(world.d.agents)) == world.d.token


def test_only_the_pool_seizes_bond(world: World, strategy: Strategy) -> None:
    for caller in (world.stranger.address, world.d.timelock):
        with world.reverts("AgentRegistryUnauthorized", caller=caller):
            send(world, caller, "seizeBond", strategy.agent_id, 1)


def test_the_pool_seizes_no_more_than_there_is(world: World, agent_id: int) -> None:
    """It never asks for more; the registry does not rely on that."""
    world.evm.impersonate(world.d.pool)
    with world.reverts("AgentRegistryNotReleasable", agentId=agent_id, requested=1, releasable=0):
        send(world, world.d.pool, "seizeBond", agent_id, 1)


def test_only_a_vote_slashes_and_what_is_left_when_it_says_more(world: World, strategy: Strategy) -> None:
    """Or the agent could withdraw one unit, and the whole proposal would fail."""
    for caller in (world.stranger, world.guardian, world.controller):
        with world.reverts("AgentRegistryUnauthorized", caller=caller.address):
            send(world, caller, "slashBond", strategy.agent_id, 1)
    bond = world.bond_of(strategy.agent_id)
    seized = one(send(world, world.d.timelock, "slashBond", strategy.agent_id, bond + 1), "BondSeized")
    assert (seized["amount"], world.bond_of(strategy.agent_id)) == (bond, 0)


def test_a_slashed_bond_goes_to_the_treasury(world: World, strategy: Strategy) -> None:
    bond = world.bond_of(strategy.agent_id)
    before = world.view(world.token.functions.balanceOf(world.d.treasury))
    seized = one(send(world, world.d.timelock, "slashBond", strategy.agent_id, tokens(100)), "BondSeized")
    assert seized == {"agentId": strategy.agent_id, "to": world.d.treasury, "amount": tokens(100)}
    assert world.view(world.token.functions.balanceOf(world.d.treasury)) == before + tokens(100)
    assert world.bond_of(strategy.agent_id) == bond - tokens(100)
    assert world.account(strategy).credited == 0, "the reward account is another matter"


def test_all_of_a_bond_can_be_slashed_while_a_loss_waits(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(500_000))
    world.to_next_window()
    world.observe_at(strategy, 1900)
    world.to_window_end()
    move = world.close(strategy)
    send(world, world.d.timelock, "slashBond", strategy.agent_id, world.bond_of(strategy.agent_id))
    clawed = one(world.apply(strategy, move), "ClawedBack")
    assert (clawed["fromUnclaimed"], clawed["fromBond"], clawed["credited"]) == (0, 0, 0), "the loss stays open"
    world.assert_books_balance()


# ------------------------------------------------------------------------------- deposit


def required_deposit(value: int) -> int:
    """Both slippage sums can be taken before the DAO reacts; each rounded up."""
    sums = (LIMITS.max_cumulative_slippage_bps, LIMITS.max_reduce_cumulative_slippage_bps)
    return sum(-(-value * bps // BPS) for bps in sums)


def post_deposit(world: World, agent_id: int, amount: int, patron: Account) -> list[EventLog]:
    world.market.give_quote(patron, amount)
    world.send(world.quote.functions.approve(world.d.agents, amount), patron)
    return send(world, patron, "postDeposit", agent_id, amount)


def test_anybody_posts_deposit(world: World, agent_id: int) -> None:
    for sum_, patron in ((usd(10), world.small_holder), (usd(20), world.stranger)):
        posted = one(post_deposit(world, agent_id, usd(10), patron), "DepositPosted")
        assert posted == {"agentId": agent_id, "from": patron.address, "amount": usd(10)}
        assert deposit_of(world, agent_id) == sum_
    assert quote_balance(world, world.d.agents) == usd(20)


def test_without_a_vault_all_of_the_deposit_is_free(world: World, agent_id: int) -> None:
    post_deposit(world, agent_id, usd(10), world.small_holder)
    with world.reverts("AgentRegistryNotReleasable", agentId=agent_id, requested=usd(10) + 1, releasable=usd(10)):
        send(world, world.controller, "withdrawDeposit", agent_id, usd(10) + 1)
    withdrawn = one(send(world, world.controller, "withdrawDeposit", agent_id, usd(10)), "DepositWithdrawn")
    assert withdrawn == {"agentId": agent_id, "to": world.controller.address, "amount": usd(10)}
    assert quote_balance(world, world.controller.address) == usd(10)
    assert deposit_of(world, agent_id) == 0


def test_a_live_vault_releases_the_deposit_beyond_what_it_requires(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(500_000))
    world.set_price("ETH", 2100)
    status = world.status(strategy)
    assert status.requiredDeposit == required_deposit(status.value)
    beyond = deposit_of(world, strategy.agent_id) - status.requiredDeposit
    with world.reverts(
        "AgentRegistryNotReleasable", agentId=strategy.agent_id, requested=beyond + 1, releasable=beyond
    ):
        send(world, world.controller, "withdrawDeposit", strategy.agent_id, beyond + 1)
    send(world, world.controller, "withdrawDeposit", strategy.agent_id, beyond)
    assert world.status(strategy).state == VaultState.ACTIVE, "exactly enough is enough"
    world.set_price("ETH", 2101)
    assert world.status(strategy).reasons == Reason.DEPOSIT


def test_without_a_full_price_no_deposit_is_released(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(1_000))
    world.evm.travel(DAY_S)
    with world.reverts("AgentRegistryNotReleasable", agentId=strategy.agent_id, requested=1, releasable=0):
        send(world, world.controller, "withdrawDeposit", strategy.agent_id, 1)
    world.refresh()
    send(world, world.controller, "withdrawDeposit", strategy.agent_id, 1)


def test_a_deposit_counts_what_arrived(world: World, agent_id: int) -> None:
    """A quote token that takes a fee: the registry owes no more than it was given."""
    fee_token = world.evm.deploy("FaultyToken", "Fee", "FEE", 6, sender=world.deployer)
    d = world.d
    protocol = (
        d.token, fee_token.address, d.timelock, d.dao, d.treasury, d.constitution, d.oracle, d.agents, d.strategies,
        d.factory, d.ledger, d.pool,
    )  # fmt: skip
    registry = world.evm.deploy("AgentRegistry", protocol, sender=world.deployer)
    world.send(registry.functions.register("ipfs://agent", world.signer.address), world.controller)
    world.send(fee_token.functions.mint(world.controller.address, usd(100)), world.deployer)
    world.send(fee_token.functions.setFeeBps(100), world.deployer)
    world.send(fee_token.functions.approve(registry.address, usd(100)), world.controller)
    posted = one(world.send(registry.functions.postDeposit(1, usd(100)), world.controller), "DepositPosted")
    assert posted["amount"] == usd(99) == world.view(registry.functions.agentOf(1)).deposit
    assert world.view(fee_token.functions.balanceOf(registry.address)) == usd(99)


# --------------------------------------------------------------------------------- award


def test_only_a_vote_awards_and_what_is_left_when_it_says_more(world: World, strategy: Strategy) -> None:
    for caller in (world.stranger, world.guardian, world.controller):
        with world.reverts("AgentRegistryUnauthorized", caller=caller.address):
            send(world, caller, "awardDeposit", strategy.agent_id, 1)
    deposit = deposit_of(world, strategy.agent_id)
    awarded = one(send(world, world.d.timelock, "awardDeposit", strategy.agent_id, deposit + 1), "DepositAwarded")
    assert (awarded["amount"], deposit_of(world, strategy.agent_id)) == (deposit, 0)


def test_an_award_is_new_capital_and_not_the_agents_profit(world: World, strategy: Strategy) -> None:
    world.buy(strategy, usd(500_000))
    world.set_price("ETH", 2050)
    before, deposit = world.status(strategy), deposit_of(world, strategy.agent_id)
    events = send(world, world.d.timelock, "awardDeposit", strategy.agent_id, usd(5_000))
    awarded = one(events, "DepositAwarded")
    assert awarded == {"agentId": strategy.agent_id, "to": strategy.vault.address, "amount": usd(5_000)}
    assert one(events, "Allocated")["amount"] == usd(5_000)
    after = world.status(strategy)
    assert (after.profit, after.value) == (before.profit, before.value + usd(5_000))
    assert abs(after.unitPriceWad - before.unitPriceWad) <= 1
    assert deposit_of(world, strategy.agent_id) == deposit - usd(5_000)
    assert quote_balance(world, world.d.agents) == deposit - usd(5_000)


def test_an_award_can_make_the_deposit_too_small(world: World, strategy: Strategy) -> None:
    send(world, world.d.timelock, "awardDeposit", strategy.agent_id, deposit_of(world, strategy.agent_id))
    assert world.status(strategy).reasons == Reason.DEPOSIT


def no_vault(world: World) -> int:
    return world.register_agent()


def halted_vault(world: World) -> int:
    s = world.deploy_strategy()
    world.as_timelock(world.strategies.functions.halt(s.id))
    return s.agent_id


def fallen_vault(world: World) -> int:
    """Past its hard drawdown limit, but nobody has poked it yet."""
    s = world.deploy_strategy()
    world.buy(s, usd(500_000))
    world.set_price("ETH", 1000, pool_follows=False)
    assert world.status(s).state == VaultState.HALTED
    return s.agent_id


def unpriced_vault(world: World) -> int:
    s = world.deploy_strategy()
    world.buy(s, usd(500_000))
    world.evm.travel(DAY_S)
    return s.agent_id


def retiring_vault(world: World) -> int:
    s = world.deploy_strategy()
    world.as_timelock(world.strategies.functions.retire(s.id))
    return s.agent_id


def retired_vault(world: World) -> int:
    s = world.deploy_strategy()
    world.as_timelock(world.strategies.functions.retire(s.id))
    world.as_timelock(world.treasury.functions.recall(s.id, world.book.quote, 2**255, 0))
    world.settle(s)
    world.send(world.strategies.functions.finishRetirement(s.id), world.stranger)
    return s.agent_id


@pytest.mark.parametrize(
    "arrange", [no_vault, halted_vault, fallen_vault, unpriced_vault, retiring_vault, retired_vault]
)
def test_an_award_goes_to_the_treasury_when_no_vault_takes_capital(
    world: World, arrange: Callable[[World], int]
) -> None:
    agent_id = arrange(world)
    before = quote_balance(world, world.d.treasury)
    events = send(world, world.d.timelock, "awardDeposit", agent_id, usd(5_000))
    assert one(events, "DepositAwarded") == {"agentId": agent_id, "to": world.d.treasury, "amount": usd(5_000)}
    assert none_of(events, "Allocated")
    assert quote_balance(world, world.d.treasury) == before + usd(5_000)
    assert deposit_of(world, agent_id) == usd(55_000)


@pytest.mark.parametrize("verb", ["slashBond", "awardDeposit"])
def test_nothing_is_taken_from_an_agent_that_does_not_exist(world: World, verb: str) -> None:
    with world.reverts("AgentRegistryUnknownAgent", agentId=999):
        send(world, world.d.timelock, verb, 999, 1)
