"""What the protocol's transactions cost, whole: 21,000, call data and refunds included, as a wallet would be charged.

    python -m tests.contracts.gas_table             measure on both EVMs and print the table
    python -m tests.contracts.gas_table --update    and write gas_snapshot.json, which test_gas.py compares with

Every row is measured from the same state in a world where nothing is being done for the first time unless the row says
so: votes have been cast, trades made, balances are not zero. A bare swap is Uniswap's own router swapping the same
amount in the same state, for a trader who has both tokens and has approved the router. The plain Governor is
OpenZeppelin's, over the same token.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from web3 import Web3

from agents.contracts import decode_logs, third_party
from agents.localnet import uniswap
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import start_evm
from tests.contracts.world import DAY_S, HOUR_S, Strategy, World, eth, one, struct, usd

SNAPSHOT = Path(__file__).with_name("gas_snapshot.json")
KINDS = ("anvil", "py-evm")
TOLERANCE_BPS = 200
FOR = 1
BUY_QUOTE, SELL_ETH = usd(10_000), eth(5)
# Rows that are shown as a multiple of another.
RATIOS = {
    **{
        f"trade: {side}, {assets}": f"bare swap: {side}"
        for side in ("buy", "sell")
        for assets in ("one asset", "one asset of two listed", "two assets")
    },
    "voteStrategy: a proposal's first vote": "plain Governor: a proposal's first vote",
    "voteStrategy: a later vote": "plain Governor: a later vote",
    "voteStrategyBySig: a voter's first ballot": "plain Governor: a voter's first ballot",
    "voteStrategyBySig: a voter's later ballot": "plain Governor: a voter's later ballot",
}

Gas = dict[str, int]


class Meter:
    """Measures one transaction at a time; what is measured is undone unless it is part of the way."""

    def __init__(self, world: World) -> None:
        self.world, self.gas = world, {}

    def take(self, row: str, call: Any, sender: Any) -> Any:
        """Measures the transaction, which stays."""
        receipt = self.world.evm.send(call, sender)
        self.gas[row] = int(receipt["gasUsed"])
        return receipt

    def try_out(self, row: str, call: Any, sender: Any) -> None:
        """Measures the transaction, which is undone."""
        with undone(self.world):
            self.take(row, call, sender)


@contextmanager
def undone(world: World) -> Iterator[None]:
    snapshot = world.evm.snapshot()
    yield
    world.evm.revert(snapshot)


def measure(kind: str) -> Gas:
    """Gas of every row, on that EVM."""
    gas: Gas = {}
    for measured in (measure_votes, measure_plain_votes, measure_trades, measure_account, measure_auction):
        with start_evm(kind) as evm:  # a world for each, so that one's history does not warm another's slots
            meter = Meter(World(evm))
            measured(meter)
            gas |= meter.gas
    return gas


def measure_votes(meter: Meter) -> None:
    """A proposal by its verb, from the first word to the execution. An earlier one has passed."""
    world = meter.world
    dao = world.dao.functions
    vote = world.dao.get_function_by_signature("voteStrategy(uint256)")
    first_agent = world.register_agent()
    world.pass_proposal(world.propose_strategy(world.manifest(first_agent), "an earlier strategy"))

    manifest = world.manifest(world.register_agent(world.other_controller, world.other_signer))
    receipt = meter.take("proposeStrategy", dao.proposeStrategy(struct(manifest), "a strategy"), world.proposer)
    proposal = decoded(world, receipt, "StrategyProposed")["proposalId"]
    world.to_voting(proposal)

    def by_signature(voter: Any) -> Any:
        return dao.voteStrategyBySig(proposal, FOR, voter.address, world.sign_ballot(voter, proposal, FOR))

    meter.take("voteStrategy: a proposal's first vote", vote(proposal), world.voter_a)
    meter.take("voteStrategy: a later vote", vote(proposal), world.voter_b)
    meter.take("voteStrategyBySig: a voter's first ballot", by_signature(world.small_holder), world.relayer)
    world.to_deadline(proposal)
    meter.take("deployApproved: queue", dao.deployApproved(proposal), world.stranger)
    world.travel_to(world.view(dao.proposalEta(proposal)) + 1)
    meter.take("deployApproved: execute (deploy and allocate)", dao.deployApproved(proposal), world.stranger)

    proposal = world.propose([world.oracle.functions.removeFeed(world.token_of("BTC"))])
    world.to_voting(proposal)
    world.send(vote(proposal), world.voter_a)
    meter.take("voteStrategyBySig: a voter's later ballot", by_signature(world.small_holder), world.relayer)


def measure_plain_votes(meter: Meter) -> None:
    """The same votes in OpenZeppelin's Governor without extensions; the later ballots on a second proposal."""
    world = meter.world
    governor = world.evm.deploy("PlainGovernor", world.d.token, sender=world.deployer)
    own = {"name": "PlainGovernor", "verifyingContract": governor.address}
    call = world.token.encode_abi("delegate", [world.d.token])
    for nonce, ballot in enumerate(("a voter's first ballot", "a voter's later ballot")):
        proposal = ([world.d.token], [0], [call], f"proposal {nonce}")
        world.send(governor.functions.propose(*proposal), world.proposer)
        proposal_id = world.view(governor.functions.hashProposal(*proposal[:3], Web3.keccak(text=proposal[3])))
        world.travel(HOUR_S + 1)
        vote = governor.functions.castVote(proposal_id, FOR)
        meter.take("plain Governor: a proposal's first vote", vote, world.voter_a)
        meter.take("plain Governor: a later vote", vote, world.voter_b)
        signed = world.sign_ballot(world.small_holder, proposal_id, FOR, nonce=nonce, **own)
        by_signature = governor.functions.castVoteBySig(proposal_id, FOR, world.small_holder.address, signed)
        meter.take(f"plain Governor: {ballot}", by_signature, world.relayer)


def measure_trades(meter: Meter) -> None:
    """Each trade from the same state, in which the vault has traded before today."""
    world = meter.world
    both = ("ETH", "BTC")
    for row, listed, held in (
        ("one asset", ("ETH",), ("ETH",)),
        ("one asset of two listed", both, ("ETH",)),
        ("two assets", both, both),
    ):  # fmt: skip
        with undone(world):
            strategy = world.deploy_strategy(assets=listed)
            for symbol in held:
                world.buy(strategy, usd(100_000), symbol=symbol)
            trade = strategy.vault.functions.trade
            buy = struct(world.order(strategy, BUY_QUOTE, buy=True))
            sell = struct(world.order(strategy, SELL_ETH, buy=False))
            meter.try_out(f"trade: buy, {row}", trade(buy), world.signer)
            meter.try_out(f"trade: sell, {row}", trade(sell), world.signer)
            if row == "one asset":
                measure_bare_swaps(meter)
                measure_ledger(meter, strategy, trade(buy))
                meter.try_out("poke: outside a window", strategy.vault.functions.poke(), world.stranger)


def measure_bare_swaps(meter: Meter) -> None:
    """The router's own swap of the same amounts, in the state in which the vault traded."""
    world, asset = meter.world, meter.world.book.asset("ETH")
    trader = world.bidder
    world.market.give_quote(trader, 10 * BUY_QUOTE)
    world.market.give_base("ETH", trader, 10 * SELL_ETH)
    router = world.evm.at(third_party("SwapRouter"), world.book.router)
    for token in (world.book.quote, asset.token):
        uniswap.approve(world.evm, token, world.book.router, 2**256 - 1, owner=trader)

    def swap(token_in: str, token_out: str, amount: int) -> Any:
        order = (token_in, token_out, asset.pool_fee, trader.address, uniswap.FOREVER_S, amount, 0, 0)
        return router.functions.exactInputSingle(order)

    meter.try_out("bare swap: buy", swap(world.book.quote, asset.token, BUY_QUOTE), trader)
    meter.try_out("bare swap: sell", swap(asset.token, world.book.quote, SELL_ETH), trader)


def measure_ledger(meter: Meter, strategy: Strategy, trade: Any) -> None:
    """What the ledger takes of a trade: the same entry recorded again by the vault itself, less what a transaction
    costs by itself, plus the call of a contract that is cold."""
    world = meter.world
    with undone(world):
        entry = decoded(world, world.evm.send(trade, world.signer), "TradeRecorded")["trade"]
        record = world.ledger.functions.record(plain_tuple(entry))
        data = bytes.fromhex(record._encode_transaction_data().removeprefix("0x"))
        world.evm.impersonate(strategy.vault.address)
        used = int(world.evm.send(record, strategy.vault.address)["gasUsed"])
        meter.gas["trade: the ledger's share"] = used - 21_000 - sum(16 if byte else 4 for byte in data) + 2600


def plain_tuple(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(plain_tuple(item) for item in value.values())
    return [plain_tuple(item) for item in value] if isinstance(value, list) else value


def measure_account(meter: Meter) -> None:
    """Capital and reward: another allocation, recalls, three windows and what they pay and take, two claims."""
    world = meter.world
    strategy = world.deploy_strategy()
    world.buy(strategy, usd(500_000))
    allocate = world.treasury.functions.allocate(strategy.id, usd(1000))
    meter.try_out("allocate (from the treasury, one call)", allocate, world.d.timelock)
    recall = world.treasury.functions.recall
    meter.try_out("recall: quote", recall(strategy.id, world.book.quote, usd(1000), 0), world.d.timelock)
    meter.try_out("recall: an asset", recall(strategy.id, world.token_of("ETH"), eth(1), 0), world.d.timelock)

    world.settle(strategy)  # what the account is credited is no longer zero
    for row, price_usd in (("a gain", 2100), ("a later gain", 2150), ("a loss", 2120)):
        world.set_price("ETH", price_usd)
        settle(meter, strategy, row)
    for row in ("claim: the first", "claim: a later one"):
        world.travel(DAY_S)
        meter.take(row, world.pool.functions.claim(strategy.vault.address), world.controller)


def settle(meter: Meter, strategy: Strategy, row: str) -> None:
    world, vault = meter.world, strategy.vault
    world.to_next_window()
    meter.take("poke: a window's first observation", vault.functions.poke(), world.observer)
    world.travel(60)
    meter.take("poke: a later observation", vault.functions.poke(), world.observer)
    world.to_window_end()
    receipt = meter.take("closeWindow", world.pool.functions.closeWindow(vault.address), world.observer)
    move = decoded(world, receipt, "WindowClosed")["move"]
    assert (move > 0) == ("gain" in row)
    meter.take(f"rewardAgent: {row}", world.dao.functions.rewardAgent(strategy.agent_id, move), world.stranger)


def measure_auction(meter: Meter) -> None:
    """The second lot of a halted vault's asset, by a buyer who has bought before."""
    world = meter.world
    strategy = world.deploy_strategy()
    world.buy(strategy, usd(500_000))
    world.as_timelock(world.strategies.functions.halt(strategy.id))
    world.market.give_quote(world.bidder, usd(2_000_000))
    world.send(world.quote.functions.approve(strategy.vault.address, usd(2_000_000)), world.bidder)
    fill = strategy.vault.functions.fillAuction(world.token_of("ETH"), usd(1_000_000))
    for row in ("a halt's first lot", "a later lot"):
        world.travel(600)
        world.set_price("ETH", 2000)
        meter.take(f"fillAuction: {row}", fill, world.bidder)


def decoded(world: World, receipt: Any, event: str) -> dict[str, Any]:
    return one(decode_logs(receipt), event)


# The snapshot


def read_snapshot() -> Gas:
    """The committed table. Raises FileNotFoundError before the first `make gas`."""
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def moved(before: Gas, now: Gas) -> list[str]:
    """One line for each row that is new, gone, or further from its snapshot than the tolerance."""
    lines = [f"{row}: new, {now[row]:,}" for row in now.keys() - before.keys()]
    lines += [f"{row}: gone, was {before[row]:,}" for row in before.keys() - now.keys()]
    for row in before.keys() & now.keys():
        if abs(now[row] - before[row]) * 10_000 > before[row] * TOLERANCE_BPS:
            lines.append(f"{row}: {before[row]:,} -> {now[row]:,} ({(now[row] - before[row]) / before[row]:+.1%})")
    return sorted(lines)


def table(gas: Gas, before: Gas) -> str:
    width = max(map(len, gas))
    lines = [f"{'whole transaction':<{width}}  {'gas':>9}  {'× bare':>6}  change"]
    for row, used in gas.items():
        ratio = f"{used / gas[RATIOS[row]]:6.2f}" if row in RATIOS else " " * 6
        change = f"{used - before[row]:+,}" if row in before and used != before[row] else ""
        lines.append(f"{row:<{width}}  {used:>9,}  {ratio}  {change}".rstrip())
    return "\n".join(lines)


def main() -> None:
    kinds = [kind for kind in KINDS if kind != "anvil" or find_anvil()]
    measured = {kind: measure(kind) for kind in kinds}
    gas, *others = measured.values()
    before = read_snapshot() if SNAPSHOT.exists() else {}
    print(table(gas, before))
    print(f"measured on {' and '.join(kinds)}")
    for kind, other in zip(kinds[1:], others, strict=True):
        for row in gas:
            if other[row] != gas[row]:
                print(f"{kind} differs: {row}: {other[row]:,}")
    if "--update" in sys.argv[1:]:
        SNAPSHOT.write_text(json.dumps(gas, indent=1) + "\n", encoding="utf-8")
        print(f"written to {SNAPSHOT.name}")


if __name__ == "__main__":
    main()
