"""Vaults, trades and rewards as the subgraph tells them: every field of every entity is what the contracts answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from graphql import FieldDefinitionNode, NonNullTypeNode, ObjectTypeDefinitionNode, parse
from web3 import Web3

from agents.deployment import Limits
from agents.ledger import next_head
from agents.localnet.evm import start_evm
from agents.localnet.graphnode import LocalGraph
from agents.subgraph import PROTOCOL, write_local_manifest
from tests.contracts.vaults import MAX_UINT, halt, limits, recall, resume, stop
from tests.contracts.world import (
    DAY_S,
    EXPLANATION,
    HOUR_S,
    NO_MINIMUM,
    OBSERVATION,
    Strategy,
    World,
    eth,
    struct,
    tokens,
    usd,
)
from tests.graph.conftest import Graph
from tests.graph.trading_states import TradingOnChain

# What governance tells of entities that both halves write.
_NOT_HERE = {
    "Agent": set("controller signingKey uri bond deposit registeredAt transaction".split()),
    "Protocol": set("proposalCount voteCount agentCount strategyCount updatedAt updatedAtBlock".split()),
    "ProtocolDaySnapshot": {"voteCount"},
}
_INTEGERS = {"Int", "BigInt"}


@dataclass(frozen=True, slots=True)
class Scene:
    world: World
    # With a result that waits to be applied.
    s: Strategy
    graph: Graph


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A chain of its own, because it is reorganised in the end, and on it everything that can happen to a vault."""
    with start_evm("anvil", history_blocks=10_000) as evm:
        world = World(evm)
        trade_in_the_block_of_creation(world)
        s = world.deploy_strategy(assets=("ETH", "BTC"))
        trade(world, s)
        earn_and_lose(world, s)
        miss_windows(world, s)
        change_by_vote(world, s)
        sell_by_auction(world, s)
        retire_with_a_dead_token(world)
        use_the_pool(world)
        leave_a_result_pending(world, s)
        with LocalGraph(str(evm.url), [write_local_manifest(world.d)]) as node:
            yield Scene(world, s, Graph(node, evm))


# ------------------------------------------------------------------------------------------------------- what happens


def trade_in_the_block_of_creation(world: World) -> None:
    """Created, given capital and traded in one block: the address is known before."""
    agent_id = world.register_agent(world.other_controller, world.other_signer)
    manifest = world.manifest(agent_id)
    strategy_id = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(strategy_id))
    address = world.view(world.factory.functions.predictVault(world.d.vault_implementation, strategy_id))
    vault = world.d.vault(world.evm, address)
    order = {
        "asset": world.token_of("ETH"), "buy": True, "nonce": 0, "deadline": world.now_s() + HOUR_S,
        "amountIn": usd(1000), "minAmountOut": NO_MINIMUM, "artefactHash": manifest["artefactHash"],
        "explanationHash": EXPLANATION, "observationHash": OBSERVATION,
    }  # fmt: skip
    calls = (
        (world.factory.functions.deployVault(strategy_id), world.d.timelock),
        (world.treasury.functions.allocate(strategy_id, usd(100_000)), world.d.timelock),
        (vault.functions.trade(struct(order)), world.other_signer.address),
    )
    rpc = world.w3.provider.make_request
    world.evm.set_balance(world.d.timelock, eth(1))
    rpc("evm_setAutomine", [False])
    for price, (call, sender) in zip((3, 2, 1), calls, strict=True):  # the best price is mined first
        transaction = {"from": sender, "to": call.address, "data": call._encode_transaction_data()}
        rpc("eth_sendTransaction", [transaction | {"gas": hex(5_000_000), "gasPrice": hex(price * 10**9)}])
    world.evm.mine()
    rpc("evm_setAutomine", [True])
    assert world.view(vault.functions.guard()).nonce == 1


def trade(world: World, s: Strategy) -> None:
    """Buys and sales of two assets; while stopped, a refusal and a sale; a sale while another asset has no price."""
    world.buy(s, usd(300_000))
    world.buy(s, usd(100_000), symbol="BTC")
    world.sell(s, eth(10))
    stop(world, s, HOUR_S)
    world.buy(s, usd(1000))
    world.sell(s, eth(1))
    world.travel(2 * HOUR_S)
    world.poke(s)
    world.evm.travel(3 * HOUR_S)
    for symbol in (world.book.quote_symbol, "ETH"):
        world.new_round(symbol)
    world.sell(s, eth(1))
    world.refresh()
    world.buy(s, usd(1000))


def settle_at(world: World, s: Strategy, *prices_usd: int) -> None:
    """One observation at each price of ETH, for the bounty, and a trade; then the result is applied."""
    world.to_next_window()
    for price in prices_usd:
        world.set_price("ETH", price)
        world.poke(s, world.observer)
        world.travel(HOUR_S // 2)
    world.sell(s, eth("0.5"))
    world.to_window_end()
    if move := world.close(s):
        world.apply(s, move)


def earn_and_lose(world: World, s: Strategy) -> None:
    """Rewards that vest, a claw-back from what is unvested, claims, and one that reaches the bond."""
    settle_at(world, s, 2080, 2060)
    settle_at(world, s, 2100, 2090)
    settle_at(world, s, 2070)
    world.send(world.pool.functions.claim(s.vault.address), world.stranger)
    for _ in range(5):
        world.settle(s)
    world.send(world.pool.functions.claim(s.vault.address), world.stranger)
    bond = world.bond_of(s.agent_id)
    settle_at(world, s, 1990, 2000)
    assert world.bond_of(s.agent_id) < bond


def miss_windows(world: World, s: Strategy) -> None:
    """One that nobody observes, and the next; then three, which a vote closes with a loss."""
    world.to_next_window()
    world.to_window_end()
    settle_at(world, s, 2050)
    for _ in range(3):
        world.to_next_window()
    world.to_window_end()
    world.as_timelock(world.pool.functions.closeByVote(s.vault.address, -usd(1000)))
    world.apply(s, -usd(1000))


def change_by_vote(world: World, s: Strategy) -> None:
    """A new version with other limits and another cap; capital that comes, goes in quote and in kind; an award."""
    update(world, s, limits(max_trades_per_day=9), rewardCap=tokens(4_000))
    world.as_timelock(world.treasury.functions.allocate(s.id, usd(50_000)))
    recall(world, s, world.book.quote, usd(12_345))
    recall(world, s, world.token_of("ETH"), eth("1.234567"))
    world.as_timelock(world.agents.functions.awardDeposit(s.agent_id, usd(1000)))
    world.market.give_quote(s.vault.address, usd(77))
    world.send(s.vault.functions.skim(world.book.quote), world.stranger)
    world.buy(s, usd(5000))


def update(world: World, s: Strategy, to: Limits, **over: Any) -> None:
    manifest = {**s.manifest, "updates": s.id, "limits": to.as_tuple(), "capital": 0, **over}
    manifest["artefactHash"] = Web3.keccak(text=f"artefact of {to}")
    version = world.submit(manifest)
    world.as_timelock(world.strategies.functions.approve(version))
    world.as_timelock(world.strategies.functions.applyUpdate(version))


def sell_by_auction(world: World, s: Strategy) -> None:
    halt(world, s)
    world.buy(s, usd(1000))
    world.market.give_quote(world.bidder, usd(1_000_000))
    world.send(world.quote.functions.approve(s.vault.address, MAX_UINT), world.bidder)
    for symbol in ("ETH", "BTC", "ETH"):
        world.travel(HOUR_S)
        world.send(s.vault.functions.fillAuction(world.token_of(symbol), MAX_UINT), world.bidder)
    resume(world, s)
    world.buy(s, usd(1000))


def retire_with_a_dead_token(world: World) -> None:
    """Another agent's vault: what is left of it is written off, inside a window, and nothing else is left."""
    s = world.deploy_strategy(assets=("ETH", "BTC"))
    world.buy(s, usd(20_000))
    world.buy(s, usd(10_000), symbol="BTC")
    world.as_timelock(world.strategies.functions.retire(s.id))
    recall(world, s, world.book.quote)
    recall(world, s, world.token_of("ETH"))
    world.to_next_window()
    world.as_timelock(world.strategies.functions.writeOff(s.id, world.token_of("BTC")))
    assert world.view(s.vault.functions.isEmpty())
    world.to_window_end()
    world.apply(s, world.close(s))
    world.settle(s)
    world.send(world.strategies.functions.finishRetirement(s.id), world.stranger)


def use_the_pool(world: World) -> None:
    world.send(world.token.functions.approve(world.pool.address, MAX_UINT), world.voter_a)
    world.send(world.pool.functions.fund(tokens(123)), world.voter_a)
    world.send(world.pool.functions.fundBounties(tokens(45)), world.voter_a)
    world.as_timelock(world.pool.functions.withdraw(tokens(67)))
    world.as_timelock(world.pool.functions.setBudget(tokens(19_999)))
    world.send(world.pool.functions.claimBounty(), world.observer)


def leave_a_result_pending(world: World, s: Strategy) -> None:
    world.settle(s)  # windows were missed meanwhile, after which none pays
    world.buy(s, usd(100_000))
    world.to_next_window()
    world.set_price("ETH", 2300)
    world.poke(s, world.observer)
    world.to_window_end()
    assert world.close(s)


# -------------------------------------------------------------------------------------------------------- comparison


def stored_fields(kind: str) -> dict[str, str]:
    """Type by field of an entity, but for those that are derived from others."""
    schema = parse((PROTOCOL.folder / "schema.graphql").read_text(encoding="utf-8"))
    [entity] = [
        node for node in schema.definitions if isinstance(node, ObjectTypeDefinitionNode) and node.name.value == kind
    ]
    return {
        field.name.value: type_of(field)
        for field in entity.fields
        if all(directive.name.value != "derivedFrom" for directive in field.directives or ())
    }


def type_of(field: FieldDefinitionNode) -> str:
    inner = field.type.type if isinstance(field.type, NonNullTypeNode) else field.type
    return str(inner.name.value)


def fetch(graph: Graph, kind: str) -> dict[str, dict[str, Any]]:
    """All entities of a type with all that is stored of them, by id: related ones as their ids, integers as such."""
    types = {name: of for name, of in stored_fields(kind).items() if name not in _NOT_HERE.get(kind, ())}
    scalars = {"ID", "Bytes", "Boolean", "VaultState", "String"} | _INTEGERS
    selection = " ".join(name if of in scalars else f"{name} {{ id }}" for name, of in types.items())
    plural = "limits_collection" if kind == "Limits" else kind[0].lower() + kind[1:] + "s"
    answer = graph.query(f"{{ {plural}(first: 1000) {{ {selection} }} }}")[plural]

    def parsed(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return value["id"]
        return int(value) if types[name] in _INTEGERS and value is not None else value

    return {row["id"]: {name: parsed(name, value) for name, value in row.items()} for row in answer}


def require_same(scene: Scene) -> TradingOnChain:
    """Compares everything at the chain's latest block."""
    chain = TradingOnChain(scene.world)
    for kind, expected in chain.entities.items():
        found = fetch(scene.graph, kind)
        if kind == "ProtocolDaySnapshot":  # there are days on which nothing but votes happened
            found = {key: day for key, day in found.items() if key in expected}
        assert found.keys() == expected.keys(), kind
        for key, entity in expected.items():
            assert found[key] == entity, f"{kind} {key}"
    found_limits = fetch(scene.graph, "Limits")
    for key, limits_ in chain.limits().items():
        assert found_limits[key] == {"id": key, **limits_}
    return chain


def test_every_field_is_what_the_contracts_answer(scene: Scene) -> None:
    found = require_same(scene).entities
    assert all(found.values()), "each kind has happened"
    for kind, field, values in (
        ("VaultStateChange", "state", {"ACTIVE", "REDUCING", "HALTED"}),
        ("CapitalFlow", "kind", {"ALLOCATED", "RECALLED", "WRITTEN_OFF", "SKIMMED"}),
        ("ObservationWindow", "missedBefore", {True, False}),
        ("ObservationWindow", "byVote", {True, False}),
        ("RewardAccount", "isLive", {True, False}),
        ("Trade", "isBuy", {True, False}),
    ):
        assert {entity[field] for entity in found[kind].values()} >= values


def test_the_chain_of_trades_can_be_computed_again_from_the_subgraph(scene: Scene) -> None:
    """Whoever has the subgraph's answers needs no node to see that no trade is missing or changed."""
    answer = scene.graph.query("""{ vaults { id head trades(orderBy: sequence, first: 1000) {
        id agent { id } strategyId sequence reasons artefactHash explanationHash observationHash tokenIn tokenOut
        amountIn amountOut shortfall netAssetValue prices(orderBy: id) { token roundId answer }
    } } }""")
    for vault in answer["vaults"]:
        address = Web3.to_checksum_address(vault["id"])
        head = bytes(scene.world.view(scene.world.ledger.functions.genesisOf(address)))
        for trade in vault["trades"]:
            head = next_head(head, ledger_fields(trade))
            assert "0x" + head.hex() == trade["id"]
        assert "0x" + head.hex() == vault["head"]


def ledger_fields(trade: dict[str, Any]) -> dict[str, Any]:
    fields = {"agentId": int(trade["agent"]["id"])}
    for name, value in trade.items():
        if name in ("sequence", "reasons", "amountIn", "amountOut", "shortfall", "netAssetValue"):
            fields[name] = int(value)
        elif name.endswith("Hash") or name == "strategyId":
            fields[name] = bytes.fromhex(value[2:])
        else:
            fields[name] = value
    fields["prices"] = [
        {"token": p["token"], "roundId": int(p["roundId"]), "answer": int(p["answer"])} for p in trade["prices"]
    ]
    return fields


def test_what_was_paid_less_what_was_taken_is_the_rate_times_the_account(scene: Scene) -> None:
    [total] = fetch(scene.graph, "Protocol").values()
    accounts = fetch(scene.graph, "RewardAccount").values()
    assert total["clawedBack"] > total["clawedBackFromBonds"] > 0
    assert total["rewarded"] > total["claimed"] > 0
    assert total["rewarded"] - total["clawedBack"] == sum(a["rate"] * a["credited"] for a in accounts)
    for a in accounts:
        from_unclaimed = a["clawedBack"] - a["clawedBackFromBond"]
        assert a["rewarded"] - from_unclaimed - a["claimed"] == a["unvested"] + a["vested"]


def test_rewards_vest_in_the_subgraph_as_in_the_pool(scene: Scene) -> None:
    """Compared at each block in which something was paid, taken or claimed, because most of it is gone at the end."""
    fields = "rate cap credited unvested vested vestUpdatedAt vestEndsAt nextEpoch".split()
    settlements = fetch(scene.graph, "Settlement").values()
    assert {(s["reward"] > 0, s["fromUnclaimed"] > 0, s["fromBond"] > 0) for s in settlements} >= {
        (True, False, False), (False, True, False), (False, False, True),
    }  # fmt: skip
    for row in (*settlements, *fetch(scene.graph, "Claim").values()):
        at = f'(id: "{row["account"]}", block: {{ number: {row["block"]} }})'
        found = scene.graph.query(f"{{ rewardAccount{at} {{ {' '.join(fields)} }} }}")["rewardAccount"]
        account_of = scene.world.pool.functions.accountOf(Web3.to_checksum_address(row["account"]))
        account = scene.world.evm.call(account_of, block=row["block"])
        assert {name: int(found[name]) for name in fields} == {name: getattr(account, name) for name in fields}


def test_what_is_related_is_found_from_both_sides(scene: Scene) -> None:
    vaults = scene.graph.query("""{ vaults {
        id nonce refusalCount account { id windows(first: 1000) { observationCount observations { id } } }
        trades(first: 1000) { id } refusals { id } positions { token } changes { id } flows { id } auctionFills { id }
    } }""")["vaults"]
    for vault in vaults:
        assert vault["account"]["id"] == vault["id"]
        assert (len(vault["trades"]), len(vault["refusals"])) == (int(vault["nonce"]), vault["refusalCount"])
        for window in vault["account"]["windows"]:
            assert len(window["observations"]) == window["observationCount"]


def test_in_a_vaults_first_block_nothing_is_said_about_its_worth(scene: Scene) -> None:
    """The indexer sees a new vault's own events after all others of that block: no measurement is better than a wrong
    one. The books are right at its end."""
    first = next(iter(TradingOnChain(scene.world).vaults)).address.lower()
    [trade] = [t for t in fetch(scene.graph, "Trade").values() if t["vault"] == first]
    vault = fetch(scene.graph, "Vault")[first]
    assert trade["block"] == vault["createdAtBlock"]
    assert (trade["profit"], trade["unitPrice"], vault["unitPrice"]) == (None, None, None)
    assert vault["quoteHeld"] == usd(99_000)


def test_after_a_reorg_everything_is_what_the_new_chain_answers(scene: Scene) -> None:
    """Last, because the chain goes back. graph-node's development mode keeps ten blocks at a time of what may be taken
    back, so no more than that is; and it follows another chain only when that is the longer one."""
    world, s = scene.world, scene.s
    approved = world.submit(world.manifest(world.register_agent()))
    world.as_timelock(world.strategies.functions.approve(approved))
    scene.graph.wait()
    before = world.evm.snapshot()
    world.apply(s, world.account(s).pendingMove)
    world.buy(s, usd(3000))
    world.as_timelock(world.factory.functions.deployVault(approved))
    world.as_timelock(world.treasury.functions.allocate(approved, usd(1000)))
    was = require_same(scene).entities

    world.evm.revert(before)
    world.sell(s, eth("0.25"))
    world.as_timelock(world.treasury.functions.allocate(s.id, usd(1)))
    world.travel(DAY_S)
    world.sell(s, eth("0.25"))
    world.evm.mine(20)
    now = require_same(scene).entities
    for kind in ("Vault", "RewardAccount", "Settlement", "Trade", "CapitalFlow"):
        assert was[kind].keys() - now[kind].keys(), kind
    for kind in ("Trade", "CapitalFlow", "VaultDaySnapshot"):
        assert now[kind].keys() - was[kind].keys(), kind
