"""A fixed supply; votes by timestamp; a sink that takes votes for good; grants that vote as they vest."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account as EthAccount
from web3.contract import Contract

from agents.contracts import load_artifact
from agents.deployment import ZERO_ADDRESS
from agents.localnet.evm import Account
from tests.contracts.world import ANY, DAY_S, World, one, tokens

SUPPLY = tokens(10_000_000)
GRANT, YEAR_S = tokens(365_000), 365 * DAY_S


def votes(world: World, who: str) -> int:
    return int(world.view(world.token.functions.getVotes(who)))


def balance(world: World, who: str) -> int:
    return int(world.view(world.token.functions.balanceOf(who)))


def signed(
    world: World, signer: Account, kind: str, fields: dict[str, str], message: dict[str, Any]
) -> tuple[Any, ...]:
    """(v, r, s) of a message in the token's EIP-712 domain."""
    chain_id = world.w3.eth.chain_id
    domain = {"name": "MarketFlow", "version": "1", "chainId": chain_id, "verifyingContract": world.d.token}
    types = {kind: [{"name": name, "type": type_} for name, type_ in fields.items()]}
    found = EthAccount.sign_typed_data(signer.key, domain, types, message)
    return found.v, found.r.to_bytes(32, "big"), found.s.to_bytes(32, "big")


# Supply


def test_no_function_makes_or_destroys_tokens_or_stops_them(world: World):
    abi = load_artifact("MarketFlowToken").abi
    changing = {f["name"] for f in abi if f["type"] == "function" and f["stateMutability"] not in ("view", "pure")}
    assert changing == {"transfer", "transferFrom", "approve", "permit", "delegate", "delegateBySig"}


def test_the_supply_is_what_genesis_says_and_was_minted_once(world: World):
    assert world.view(world.token.functions.totalSupply()) == SUPPLY
    transfers = [e.args for e in world.history(world.token) if e.name == "Transfer"]
    minted = [t for t in transfers if t["from"] == ZERO_ADDRESS]
    assert minted == [{"from": ZERO_ADDRESS, "to": world.deployer.address, "value": SUPPLY}]
    assert all(t["to"] != ZERO_ADDRESS for t in transfers)


def test_a_supply_too_large_for_votes_is_refused(world: World):
    with world.reverts("ERC20ExceededSafeSupply", increasedSupply=2**208, cap=2**208 - 1):
        world.evm.deploy("MarketFlowToken", "T", "T", world.stranger.address, 2**208, sender=world.stranger)


def test_the_token_is_named_and_counts_time_in_seconds(world: World):
    functions = world.token.functions
    assert (world.view(functions.name()), world.view(functions.symbol())) == ("MarketFlow", "MFLOW")
    assert world.view(functions.decimals()) == 18
    assert world.view(functions.CLOCK_MODE()) == "mode=timestamp"
    assert world.view(functions.clock()) == world.now_s()


# The sink


@pytest.fixture
def sunk(world: World) -> Account:
    """Has delegated half a million votes to the token itself."""
    world.send(world.token.functions.delegate(world.d.token), world.controller)
    return world.controller


def delegation(world: World, signer: Account, delegatee: str, *, nonce: int = 0, expiry_s: int = 2**40) -> Any:
    fields = {"delegatee": "address", "nonce": "uint256", "expiry": "uint256"}
    message = {"delegatee": delegatee, "nonce": nonce, "expiry": expiry_s}
    signature = signed(world, signer, "Delegation", fields, message)
    return world.token.functions.delegateBySig(delegatee, nonce, expiry_s, *signature)


@pytest.mark.parametrize("to", ["themselves", "another", "the sink", "nobody"])
def test_who_delegated_to_the_sink_never_delegates_again(world: World, sunk: Account, to: str):
    delegatee = {
        "themselves": sunk.address,
        "another": world.voter_a.address,
        "the sink": world.d.token,
        "nobody": ZERO_ADDRESS,
    }[to]
    with world.reverts("MarketFlowTokenDelegatedForGood", account=sunk.address):
        world.send(world.token.functions.delegate(delegatee), sunk)
    with world.reverts("MarketFlowTokenDelegatedForGood", account=sunk.address):
        world.send(delegation(world, sunk, delegatee), world.relayer)
    assert world.view(world.token.functions.delegates(sunk.address)) == world.d.token


def test_a_delegation_to_the_sink_by_signature_is_for_good_too(world: World):
    events = world.send(delegation(world, world.controller, world.d.token), world.relayer)
    assert one(events, "DelegateChanged") == {
        "delegator": world.controller.address, "fromDelegate": ZERO_ADDRESS, "toDelegate": world.d.token,
    }  # fmt: skip
    with world.reverts("MarketFlowTokenDelegatedForGood", account=world.controller.address):
        world.send(world.token.functions.delegate(world.controller.address), world.controller)


def test_the_treasury_the_pool_and_the_bonds_delegated_for_good(world: World):
    for holder in (world.d.treasury, world.d.pool, world.d.agents):
        with world.reverts("MarketFlowTokenDelegatedForGood", account=holder):
            world.evm.call(world.token.functions.delegate(world.voter_a.address), holder)


def test_votes_in_the_sink_follow_the_tokens(world: World, sunk: Account):
    in_sink = votes(world, world.d.token)
    events = world.send(world.token.functions.transfer(world.voter_a.address, tokens(200_000)), sunk)
    changed = [e.args for e in events if e.name == "DelegateVotesChanged"]
    assert changed == [
        {"delegate": world.d.token, "previousVotes": in_sink, "newVotes": in_sink - tokens(200_000)},
        {"delegate": world.voter_a.address, "previousVotes": tokens(1_000_000), "newVotes": tokens(1_200_000)},
    ]
    world.send(world.token.functions.transfer(sunk.address, tokens(1)), world.voter_b)
    assert votes(world, world.d.token) == in_sink - tokens(199_999)


def test_tokens_sent_to_the_token_itself_sink_nobody_elses_votes(world: World):
    in_sink = votes(world, world.d.token)
    world.send(world.token.functions.transfer(world.d.token, tokens(1000)), world.voter_b)
    assert votes(world, world.d.token) == in_sink
    assert votes(world, world.voter_b.address) == tokens(799_000)


# Delegation


def test_an_expired_delegation_is_refused(world: World):
    expiry_s = world.now_s()
    with world.reverts("VotesExpiredSignature", expiry=expiry_s):
        world.send(delegation(world, world.controller, world.voter_a.address, expiry_s=expiry_s), world.relayer)


def test_a_delegation_by_signature_counts_once(world: World):
    call = delegation(world, world.controller, world.voter_a.address)
    events = world.send(call, world.relayer)
    assert one(events, "DelegateVotesChanged") == {
        "delegate": world.voter_a.address, "previousVotes": tokens(1_000_000), "newVotes": tokens(1_500_000),
    }  # fmt: skip
    with world.reverts("InvalidAccountNonce", account=world.controller.address, currentNonce=1):
        world.send(call, world.relayer)


def test_past_votes_are_those_of_the_second(world: World):
    world.evm.travel(10)
    world.send(world.token.functions.transfer(world.voter_a.address, tokens(1)), world.voter_b)
    moved_s = world.now_s()
    world.evm.travel(1)
    past = world.token.functions.getPastVotes
    assert world.view(past(world.voter_a.address, moved_s - 1)) == tokens(1_000_000)
    assert world.view(past(world.voter_a.address, moved_s)) == tokens(1_000_001)
    assert world.view(world.token.functions.getPastTotalSupply(moved_s)) == SUPPLY


# Permit


def permit(world: World, signer: Account, owner: str, value: int, *, nonce: int = 0, deadline_s: int = 2**40) -> Any:
    fields = {"owner": "address", "spender": "address", "value": "uint256", "nonce": "uint256", "deadline": "uint256"}
    spender = world.stranger.address
    message = {"owner": owner, "spender": spender, "value": value, "nonce": nonce, "deadline": deadline_s}
    return world.token.functions.permit(
        owner, spender, value, deadline_s, *signed(world, signer, "Permit", fields, message)
    )


def test_an_expired_permit_is_refused(world: World):
    deadline_s = world.now_s()
    with world.reverts("ERC2612ExpiredSignature", deadline=deadline_s):
        world.send(permit(world, world.voter_a, world.voter_a.address, 5, deadline_s=deadline_s), world.stranger)


def test_a_permit_of_somebody_else_is_refused(world: World):
    with world.reverts("ERC2612InvalidSigner", signer=world.stranger.address, owner=world.voter_a.address):
        world.send(permit(world, world.stranger, world.voter_a.address, 5), world.stranger)


def test_a_permit_allows_what_was_signed_once(world: World):
    owner, spender = world.voter_a.address, world.stranger.address
    call = permit(world, world.voter_a, owner, tokens(7))
    assert one(world.send(call, spender), "Approval") == {"owner": owner, "spender": spender, "value": tokens(7)}
    assert world.view(world.token.functions.nonces(owner)) == 1
    world.send(world.token.functions.transferFrom(owner, spender, tokens(7)), world.stranger)
    assert balance(world, spender) == tokens(7)
    with world.reverts("ERC20InsufficientAllowance", spender=spender, allowance=0, needed=1):
        world.send(world.token.functions.transferFrom(owner, spender, 1), world.stranger)
    # The nonce has moved, so the same signature is somebody's, but not the owner's.
    with world.reverts("ERC2612InvalidSigner", signer=ANY, owner=owner):
        world.send(call, world.stranger)


# Grants


@pytest.fixture
def grant(world: World) -> Contract:
    """A thousand tokens a day for a year, from now on, for the stranger, who votes with what they have."""
    arguments = (world.d.token, world.stranger.address, world.now_s(), YEAR_S)
    found = world.evm.deploy("TokenGrant", *arguments, sender=world.deployer)
    world.send(world.token.functions.transfer(found.address, GRANT), world.voter_b)
    world.send(world.token.functions.delegate(world.stranger.address), world.stranger)
    return found


def release(world: World, grant: Contract) -> Any:
    return world.send(grant.functions["release(address)"](world.d.token), world.relayer)


def test_a_grant_for_nobody_is_refused(world: World):
    with world.reverts("OwnableInvalidOwner", owner=ZERO_ADDRESS):
        world.evm.deploy("TokenGrant", world.d.token, ZERO_ADDRESS, 0, YEAR_S, sender=world.stranger)


def test_what_has_not_been_released_never_votes(world: World, grant: Contract):
    assert world.view(world.token.functions.delegates(grant.address)) == world.d.token
    assert votes(world, world.stranger.address) == votes(world, grant.address) == 0
    world.evm.travel(2 * YEAR_S)
    assert votes(world, world.stranger.address) == 0
    abi = load_artifact("TokenGrant").abi
    changing = {f["name"] for f in abi if f["type"] == "function" and f["stateMutability"] not in ("view", "pure")}
    assert changing == {"release", "transferOwnership", "renounceOwnership"}  # no way to delegate


def test_released_tokens_vote(world: World, grant: Contract):
    in_sink = votes(world, world.d.token)
    world.evm.next_block_at(int(world.view(grant.functions.start())) + 73 * DAY_S)
    events = release(world, grant)
    assert one(events, "ERC20Released") == {"token": world.d.token, "amount": tokens(73_000)}
    assert one(events, "Transfer")["to"] == world.stranger.address
    assert votes(world, world.stranger.address) == balance(world, world.stranger.address) == tokens(73_000)
    assert votes(world, world.d.token) == in_sink - tokens(73_000)


def test_a_grant_is_released_in_full_at_its_end(world: World, grant: Contract):
    world.evm.travel(YEAR_S)
    release(world, grant)
    assert balance(world, grant.address) == 0
    assert votes(world, world.stranger.address) == GRANT


def test_permits_and_delegations_share_the_domain_that_wallets_show(world: World):
    domain = world.view(world.token.functions.eip712Domain())
    assert (domain.name, domain.version, domain.verifyingContract) == ("MarketFlow", "1", world.d.token)
    assert domain.chainId == world.w3.eth.chain_id
