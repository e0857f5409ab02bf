"""Tornado Cash, May 2023: what was voted for was destroyed and other code took its address. Or a proxy turned.

Strategies name a venue and a vault implementation by address and code hash. Each test tries to put other code behind
one. Payloads that can destroy themselves are written byte by byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from eth_account import Account as EthAccount
from web3 import Web3
from web3.contract import Contract

from agents.contracts import load_artifact
from agents.localnet.evm import CHAIN_ID, GAS_PRICE_WEI
from tests.contracts.attacks.conftest import Report
from tests.contracts.attacks.governance import Attacker, amount, attacker, data_of, dollars, step, treasury_quote
from tests.contracts.world import LIMITS, Strategy, World, eth, one, struct, tokens, usd

CAPITAL = usd(1_000_000)
# Whoever stands at the venue's address has the vault's allowance; this does whatever its caller says.
ROGUE = load_artifact("LocalMulticall").deployed_bytecode
# A creation on a taken address burns all it was given.
BECOME_GAS, STOP = 300_000, b"\x00"
SALT = b"\x5a" * 32


def mortal(target: str) -> bytes:
    """Code that does all that `target` does, and destroys itself when it is called without data.

    CALLDATASIZE PUSH1 6 JUMPI CALLER SELFDESTRUCT JUMPDEST, and the minimal proxy of EIP-1167, seven bytes later."""
    proxy = f"363d3d373d3d3d363d73{target[2:]}5af43d82803e903d91603257fd5bf3"
    return bytes.fromhex("3660065733ff5b" + proxy)


def creation(code: bytes) -> bytes:
    """Creation code that does nothing but leave this code."""
    return bytes.fromhex(f"61{len(code):04x}80600a3d393df3") + code


@dataclass(frozen=True, slots=True)
class Swap:
    """An attacker with a majority of those who vote, an agent, and an address that can become anything."""

    world: World
    attacker: Attacker
    shifter: Contract
    batch: Contract
    agent_id: int

    def together(self, *calls: Any) -> Any:
        """In one transaction."""
        return self.batch.functions.run([step(call) for call in calls])

    def becomes(self, code: bytes) -> Any:
        return self.shifter.functions.become(code)

    def address(self) -> str:
        return str(self.world.view(self.becomes(STOP)))

    def destroyed(self, at: str) -> tuple[str, bytes]:
        return at, b""

    def deployed(self, code: bytes) -> tuple[Any, str]:
        """The call that deploys through the protocol's own deployer, and the address it gives to the batch."""
        deployer = self.world.evm.at("Deployer", self.world.d.deployer_contract).functions
        at = self.world.view(deployer.addressOf(self.batch.address, SALT))
        return deployer.deploy(SALT, creation(code)), str(at)

    def code(self, at: str) -> bytes:
        return bytes(self.world.w3.eth.get_code(at))

    def manifest(self, field: str, at: str, code: bytes) -> dict[str, Any]:
        """With that venue, or that vault implementation."""
        code_hash = field.replace("Implementation", "") + "CodeHash"
        return self.world.manifest(self.agent_id, capital=CAPITAL) | {field: at, code_hash: Web3.keccak(code)}

    def proposes(self, manifest: dict[str, Any]) -> Any:
        return self.world.dao.functions.proposeStrategy(struct(manifest), "a better venue")

    def proposed(self, events: Any) -> int:
        return int(one(events, "StrategyProposed")["proposalId"])

    def pass_and_queue(self, proposal_id: int) -> Any:
        """Voted in and due; returns the call that executes it."""
        self.world.to_voting(proposal_id)
        self.world.vote(proposal_id)
        self.world.to_deadline(proposal_id)
        self.world.queue(proposal_id)
        self.world.travel_to(self.world.view(self.world.dao.functions.proposalEta(proposal_id)) + 1)
        return self.world.dao.functions.deployApproved(proposal_id)

    def vault(self, strategy_id: bytes) -> Contract:
        return self.world.vault_of(strategy_id)

    def takes(self, vault: Contract, token: str) -> Any:
        """All the vault has of a token, by the allowance of its venue."""
        balance = self.world.market.balance(token, vault.address)
        transfer = self.world.evm.at("MockToken", token).functions.transferFrom
        everything = transfer(vault.address, self.attacker.address, balance)
        rogue = self.world.evm.at("LocalMulticall", self.world.view(vault.functions.venue()))
        return rogue.functions.aggregate([step(everything)])


@pytest.fixture
def swap(world: World) -> Swap:
    batch = world.evm.deploy("AttackFlashLoan", sender=world.stranger)
    who = attacker(world, tokens(10_000))
    # The contract proposes, so it holds the threshold.
    world.send(world.token.functions.transfer(batch.address, tokens(10_000)), world.other_controller)
    who.does(batch.functions.run([step(world.token.functions.delegate(batch.address))]))
    shifter = world.evm.deploy("AttackMetamorphic", sender=world.stranger)
    return Swap(world, who, shifter, batch, world.register_agent())


def strategy_id_of(world: World, proposal_id: int) -> bytes:
    return bytes(world.view(world.dao.functions.manifestOf(proposal_id)))


@pytest.mark.parametrize("field", ["venue", "vaultImplementation"])
def test_code_at_an_address_that_can_have_other_code_is_not_even_proposed(
    world: World, swap: Swap, attack: Report, field: str
):
    """It would be there only while it is checked: made, proposed and destroyed in one transaction, made, executed and
    destroyed in another, and afterwards anything, with a vault of a million that trusts it."""
    at, code = swap.address(), mortal(world.d.venue if field == "venue" else world.d.vault_implementation)
    manifest = swap.manifest(field, at, code)
    steps = [step(swap.becomes(code)), step(swap.proposes(manifest)), swap.destroyed(at)]
    swap.attacker.fails(swap.batch.functions.run(steps), "StrategyRegistryReplaceableCode", target=at)
    swap.attacker.does(swap.becomes(code))
    swap.attacker.fails(swap.proposes(manifest), "StrategyRegistryReplaceableCode", target=at)
    attack.outcome(gained="nothing", cost=f"{swap.attacker.gas:,} gas", stopped_by="StrategyRegistryReplaceableCode")


@pytest.mark.parametrize("field", ["venue", "vaultImplementation"])
def test_code_that_destroys_itself_in_the_proposal_s_transaction_is_gone_for_good(
    world: World, swap: Swap, attack: Report, field: str
):
    """Through the protocol's deployer, where the same is possible once: a salt that has served does not serve again."""
    code = mortal(world.d.venue if field == "venue" else world.d.vault_implementation)
    deploy, at = swap.deployed(code)
    steps = [step(deploy), step(swap.proposes(swap.manifest(field, at, code))), swap.destroyed(at)]
    proposal_id = swap.proposed(swap.attacker.does(swap.batch.functions.run(steps)))
    assert swap.code(at) == b""
    execute = swap.pass_and_queue(proposal_id)
    swap.attacker.fails(swap.batch.functions.run([step(deploy)]), "FailedDeployment", gas=BECOME_GAS)
    swap.attacker.fails(swap.batch.functions.run([step(deploy), step(execute)]), "FailedDeployment", gas=BECOME_GAS)
    # Without nonce, balance and code there is no account, and no hash.
    swap.attacker.fails(execute, "StrategyRegistryWrongCode", target=at, codeHash=bytes(32))
    assert treasury_quote(world) == usd(20_000_000)
    attack.outcome(
        gained=f"$0 of {dollars(CAPITAL)}",
        cost=f"{amount(tokens(10_000))} to propose, {swap.attacker.gas:,} gas",
        stopped_by="FailedDeployment; StrategyRegistryWrongCode",
    )


@pytest.mark.parametrize("field", ["venue", "vaultImplementation"])
def test_code_that_is_called_to_destroy_itself_later_stays(world: World, swap: Swap, attack: Report, field: str):
    """As it was done: destroy after the vote, and again once the vault runs. Since Cancun (EIP-6780) the code stays."""
    code = mortal(world.d.venue if field == "venue" else world.d.vault_implementation)
    deploy, at = swap.deployed(code)
    swap.attacker.does(swap.batch.functions.run([step(deploy)]))
    proposal_id = swap.proposed(swap.attacker.does(swap.proposes(swap.manifest(field, at, code))))
    execute = swap.pass_and_queue(proposal_id)
    swap.attacker.does({"to": at, "data": b""})
    swap.attacker.does(execute)
    vault = swap.vault(strategy_id_of(world, proposal_id))
    swap.attacker.does({"to": at, "data": b""})
    if field == "vaultImplementation":
        # A clone without data runs the payload in its own name: it can't die either, as it was made before.
        swap.attacker.does({"to": vault.address, "data": b""})
    assert swap.code(at) == code and swap.code(vault.address)
    swap.attacker.fails(swap.batch.functions.run([step(deploy)]), "FailedDeployment", gas=BECOME_GAS)
    assert (swap.attacker.quote, world.market.balance(world.book.quote, vault.address)) == (0, CAPITAL)
    attack.outcome(
        gained=f"$0 of {dollars(CAPITAL)}", cost=f"{swap.attacker.gas:,} gas", stopped_by="EIP-6780: the code stays"
    )


def deployed_with(world: World, swap: Swap, venue: Contract) -> Strategy:
    """A running strategy with that venue, voted in."""
    manifest = swap.manifest("venue", venue.address, swap.code(venue.address))
    proposal_id = swap.proposed(swap.attacker.does(swap.proposes(manifest)))
    swap.attacker.does(swap.pass_and_queue(proposal_id))
    strategy_id = strategy_id_of(world, proposal_id)
    return Strategy(strategy_id, swap.vault(strategy_id), swap.agent_id, manifest)


def test_a_proxy_that_turns_after_the_vote_takes_nothing_between_trades(world: World, swap: Swap, attack: Report):
    """A changed beacon: the hash fixes the proxy's code, not its target. Trades went through it before it turned."""
    proxy = world.deploy_code("AttackProxy", swap.attacker.address, world.d.venue)
    strategy = deployed_with(world, swap, proxy)
    world.buy(strategy, usd(100_000))
    rogue = world.evm.deploy("LocalMulticall", sender=swap.attacker.account)
    swap.attacker.does(proxy.functions.pointTo(rogue.address))
    for token in (world.book.quote, world.token_of("ETH")):
        allowance = world.evm.at("MockToken", token).functions.allowance(strategy.vault.address, proxy.address)
        assert world.view(allowance) == 0
        swap.attacker.fails(swap.takes(strategy.vault, token), "Error", message="Multicall3: call failed")
    assert swap.attacker.quote == 0
    attack.outcome(
        gained=f"$0 of {dollars(CAPITAL)}",
        cost=f"{swap.attacker.gas:,} gas and a vote for a proxy",
        stopped_by="no allowance between trades",
    )


def test_a_venue_that_turns_takes_no_more_in_a_trade_than_slippage_allows(world: World, swap: Swap, attack: Report):
    """With the agent's key as well: the venue takes what it likes, pays what it likes, and says what it likes."""
    venue = world.deploy_code("FaultyVenue")
    strategy = deployed_with(world, swap, venue)
    size, fair = usd(100_000), eth(50)
    allowed = size * LIMITS.max_trade_slippage_bps // 10_000
    just = fair * (10_000 - LIMITS.max_trade_slippage_bps) // 10_000
    world.market.give_base("ETH", venue.address, fair)

    swap.attacker.does(venue.functions.fill(size + 1, fair, fair))
    with world.reverts("ERC20InsufficientAllowance", spender=venue.address, allowance=size, needed=size + 1):
        world.buy(strategy, size)
    swap.attacker.does(venue.functions.fill(size, just - 10**13, fair))
    with world.reverts("VaultSlippageExceeded", shortfall=allowed + 20_000, allowed=allowed):
        world.buy(strategy, size)
    swap.attacker.does(venue.functions.fill(size, just, fair))
    world.buy(strategy, size)
    lost = CAPITAL - world.status(strategy).value
    assert lost == allowed
    attack.outcome(
        gained=f"{dollars(lost)} of a trade of {dollars(size)}",
        cost=f"{swap.attacker.gas:,} gas, a vote for the venue, the agent's key, and its deposit by vote",
        stopped_by="ERC20InsufficientAllowance; VaultSlippageExceeded",
    )


def test_an_account_that_borrows_honest_code_is_no_venue(world: World, swap: Swap, attack: Report):
    """EIP-7702: an account with a key points to the honest venue today and to anything tomorrow."""
    turncoat = swap.attacker.account
    nonce = world.w3.eth.get_transaction_count(turncoat.address)
    authorization = {"chainId": CHAIN_ID, "address": world.d.venue, "nonce": nonce + 1}
    transaction = {
        "type": 4, "chainId": CHAIN_ID, "nonce": nonce, "to": world.relayer.address, "value": 0, "gas": 200_000,
        "data": b"", "maxFeePerGas": GAS_PRICE_WEI, "maxPriorityFeePerGas": 0,
        "authorizationList": [EthAccount.sign_authorization(authorization, turncoat.key)],
    }  # fmt: skip
    world.evm.send_raw(bytes(EthAccount.sign_transaction(transaction, turncoat.key).raw_transaction))
    borrowed = bytes.fromhex("ef0100" + world.d.venue[2:])
    assert swap.code(turncoat.address) == borrowed
    assert world.view(world.evm.at("UniswapV3Venue", turncoat.address).functions.uniswapFactory()) == world.book.factory
    swap.attacker.fails(
        swap.proposes(swap.manifest("venue", turncoat.address, borrowed)),
        "StrategyRegistryReplaceableCode",
        target=turncoat.address,
    )
    attack.outcome(gained="nothing", cost=f"{swap.attacker.gas:,} gas", stopped_by="StrategyRegistryReplaceableCode")


def test_a_call_to_an_address_that_changes_after_the_vote_acts_in_its_own_name(
    world: World, swap: Swap, attack: Report
):
    """Tornado's governor ran proposals by delegatecall. The timelock calls: other code at the target is still not the
    timelock. What was voted is a call that does nothing."""
    target, code = swap.address(), mortal(world.d.venue)
    theft = world.treasury.functions.pay(world.book.quote, swap.attacker.address, 1)
    call = world.evm.at("LocalMulticall", target).functions.aggregate([step(theft)])
    propose = world.dao.functions.propose([target], [0], [data_of(call)], "a harmless call")
    steps = [step(swap.becomes(code)), step(propose), swap.destroyed(target)]
    proposal_id = int(one(swap.attacker.does(swap.batch.functions.run(steps)), "ProposalCreated")["proposalId"])
    execute = swap.pass_and_queue(proposal_id)
    swap.attacker.does(swap.becomes(ROGUE))
    swap.attacker.fails(execute, "Error", message="Multicall3: call failed")
    with world.reverts("TreasuryUnauthorized", caller=target):
        world.evm.call(theft, target)
    assert treasury_quote(world) == usd(20_000_000)
    attack.outcome(
        gained="$0", cost=f"{swap.attacker.gas:,} gas", stopped_by="TreasuryUnauthorized(the target, not the timelock)"
    )
