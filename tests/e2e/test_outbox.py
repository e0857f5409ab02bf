"""From an order to a final transaction on a real chain that does what chains do: nothing lost, nothing doubled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from web3 import Web3

from agents.errors import Halted, Retryable
from agents.execution import Ended, Order, Outcome, call_data
from agents.fees import FeePolicy, FeeTooHigh
from agents.intent import Intent
from agents.journal import Attempt, Journal, nothing
from agents.ledger import LedgerEntry, fetch_entries
from agents.localnet.evm import CHAIN_ID, start_evm
from agents.node import AccountState, Node
from agents.outbox import Followed, Outbox, OutboxRules, Outgoing, Placed
from agents.rpc import EndpointPool
from agents.signer import VaultSigner
from oracle.chain import BlockRef
from tests.chaos.chainlab import GWEI, ChainLab, Fate
from tests.chaos.faults import Crash, CrashPoints
from tests.chaos.proxy import ChaosProxy
from tests.contracts.world import HOUR_S, Strategy, World, usd
from tests.e2e.conftest import Agent

LIFETIME_S, FINALITY = 600, 12
RULES = OutboxRules(finality_blocks=FINALITY, bump_after_s=60, stuck_after_s=600)
MAX_FEE_WEI = 500 * GWEI
MAX_GAS = 5_000_000


@dataclass(slots=True, kw_only=True)
class Desk:
    """A daemon's outbox and journal, which can be restarted, over vaults that one key trades."""

    world: World
    lab: ChainLab
    folder: Path
    strategies: list[Strategy]
    rules: OutboxRules = RULES
    fees: FeePolicy = field(default_factory=lambda: FeePolicy(max_fee_wei=MAX_FEE_WEI))
    max_gas: int = MAX_GAS
    vaults: Sequence[str] = ()
    at: Callable[[str], None] = nothing
    node: Node = field(init=False)
    journal: Journal = field(init=False)
    outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        self.node = Node(self.world.w3)
        self.journal = Journal(":memory:")
        self.restart()

    def restart(self, **changes: Any) -> None:
        """As a process that begins: a new journal over the same file, and a new outbox."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.journal.close()
        self.journal = Journal(self.folder / "journal.sqlite", exclusive=True, at=self.at)
        vaults = self.vaults or [strategy.vault.address for strategy in self.strategies]
        signer = VaultSigner(
            PrivateKey(bytes(self.world.signer.key)), chain_id=CHAIN_ID, vaults=vaults,
            max_fee_per_gas_wei=self.fees.max_fee_wei, max_gas=self.max_gas,
        )  # fmt: skip
        self.outbox = Outbox(
            chain_id=CHAIN_ID, node=self.node, journal=self.journal, signers={signer.address: signer},
            fees=self.fees, rules=self.rules, at=self.at,
        )  # fmt: skip

    @property
    def account(self) -> str:
        return self.world.signer.address

    @property
    def key(self) -> bytes:
        return bytes(self.world.signer.key)

    def head(self) -> BlockRef:
        return self.node.head()

    def nonce(self, *, pending: bool = False) -> int:
        return self.lab.nonce(self.account, pending=pending)

    def wait(self, seconds: int) -> None:
        """Time passes, and nothing is mined."""
        self.lab.jump_clock(seconds)
        self._with_room()

    def congest(self, base_fee_wei: int, blocks: int = 1) -> None:
        """Blocks without room, and what pays less than that is stuck."""
        self.lab.congest(base_fee_wei, blocks)
        self._with_room()

    def reorg(self, depth: int, fate: Any, **how: Any) -> None:
        self.lab.reorg(depth, fate, **how)
        self._with_room()

    def _with_room(self) -> None:
        self.lab.rpc("evm_setBlockGasLimit", hex(self.world.evm.block_gas_limit))

    # What a daemon does

    def order(self, which: int = 0, *, lifetime_s: int = LIFETIME_S, **over: Any) -> Order:
        """To buy for a thousand dollars, decided at the latest block."""
        vault = self.strategies[which].vault.functions
        intent = Intent(
            asset=self.world.token_of("ETH"), is_buy=True, amount_in=usd(1000), min_amount_out=0, value=usd(1000)
        )
        fields: dict[str, Any] = {
            "intent": intent, "nonce": self.world.view(vault.guard()).nonce,
            "deadline_s": self.world.now_s() + lifetime_s,
            "artefact_hash": "0x" + self.world.view(vault.artefactHash()).hex(),
            "explanation_hash": "0x" + "1" * 64, "observation_hash": "0x" + "2" * 64,
        }  # fmt: skip
        return Order(**fields | over)

    def outgoing(self, which: int = 0, **over: Any) -> Outgoing:
        """Journalled and reviewed."""
        order, head, vault = self.order(which, **over), self.head(), self.strategies[which].vault.address
        row = self.journal.open_intent(
            vault=vault, sequence=order.nonce, block=head.number, decided_at_s=head.timestamp_s,
            explanation_hash=order.explanation_hash, deadline_s=order.deadline_s,
        )  # fmt: skip
        self.journal.reviewed(row)
        return Outgoing(row=row, vault=vault, account=self.account, data=call_data(order))

    def place(self, which: int = 0, **over: Any) -> Placed:
        [placed] = self.outbox.place([self.outgoing(which, **over)], self.head())
        self.lab.settle()
        return placed

    def follow(self, head: BlockRef | None = None) -> Followed:
        """And once more: the same head again changes nothing, here or in the node."""
        head = head or self.head()
        followed = self.outbox.follow(head)
        self.lab.settle()
        before = self.dump()
        again = self.outbox.follow(head)
        self.lab.settle()
        assert self.dump() == before
        assert (again.ended, again.finalised, again.reorged, again.replaced, again.bumped) == ([], 0, 0, 0, 0)
        return followed

    def finish(self) -> Followed:
        """Until everything is final."""
        self.follow()
        self.lab.mine(FINALITY)
        return self.follow()

    # What there is

    def dump(self) -> list[Any]:
        rows = self.journal.rows()
        attempts = [self.journal.attempts(row["id"]) for row in rows]
        return [rows, attempts, self.journal.notes(), self.journal.fact("checkpoint"), self.lab.pool()]

    def row(self, row: int | None = None) -> dict[str, Any]:
        """The row of that number, else the last."""
        [found] = self.journal.rows(id=row) if row else self.journal.latest(1)
        return found

    def ends(self) -> list[tuple[str, str | None]]:
        return [(row["state"], row["outcome"]) for row in self.journal.rows()]

    def entries(self, which: int = 0) -> list[LedgerEntry]:
        return fetch_entries(self.world.evm, self.world.ledger, self.strategies[which].vault.address)

    def only_trade(self) -> LedgerEntry:
        """The one trade that the ledger and the journal agree about."""
        [entry] = self.entries()
        [row] = self.journal.rows(outcome="traded")
        assert (row["trade_id"], row["transaction_hash"]) == (entry.id, entry.transaction_hash)
        assert row["block_hash"] == self.lab.block_hash(entry.block)
        assert self.journal.trades(up_to_block=entry.block) == {entry.vault: 1}
        return entry

    def raws(self, row: int) -> list[bytes]:
        return [attempt.raw for attempt in self.journal.attempts(row)]


@pytest.fixture
def lab(world: World) -> Iterator[ChainLab]:
    """The world's chain, to be returned with an empty pool."""
    lab = ChainLab(world.evm)
    yield lab
    lab.drop_all()
    lab.release_mining()
    lab.set_base_fee(0)


@pytest.fixture
def desk(world: World, lab: ChainLab, tmp_path: Path) -> Iterator[Desk]:
    """One vault, and enough blocks on it that no reorg takes it away."""
    strategy = world.deploy_strategy()
    lab.mine(8)
    desk = Desk(world=world, lab=lab, folder=tmp_path, strategies=[strategy])
    yield desk
    desk.journal.close()


@pytest.fixture
def two(desk: Desk) -> Desk:
    """Two vaults, traded by the same key."""
    desk.strategies.append(desk.world.deploy_strategy())
    desk.lab.mine(8)
    desk.restart()
    return desk


# What is never signed


def test_an_account_with_a_foreign_transaction_pending_waits(desk: Desk) -> None:
    desk.lab.hold_mining()
    desk.lab.foreign_transaction(desk.key)
    placed = desk.place()
    assert placed.waits_because.startswith(f"1 transactions of {desk.account} are pending that are not this journal's")
    assert (placed.transaction_hash, desk.ends()) == ("", [("refused", None)])
    assert len(desk.lab.pool()) == 1
    desk.lab.mine()
    assert desk.place().is_sent
    desk.lab.release_mining()
    desk.finish()
    desk.only_trade()


def test_our_own_pending_transactions_are_not_foreign(two: Desk) -> None:
    two.lab.hold_mining()
    assert [two.place(which).is_sent for which in (0, 1)] == [True, True]
    assert [two.row(row)["account_nonce"] for row in (1, 2)] == [two.nonce(), two.nonce() + 1]


def test_after_a_lost_journal_what_the_lost_one_sent_is_waited_for(desk: Desk) -> None:
    desk.lab.hold_mining()
    desk.place()
    desk.restart(folder=desk.folder / "new")
    assert desk.place().waits_because
    desk.lab.mine()
    placed = desk.place(nonce=0)  # decided before that was seen
    assert placed.refused is not None
    assert placed.refused.name == "VaultWrongNonce"
    assert len(desk.entries()) == 1


def test_what_the_node_says_would_revert_is_never_signed(desk: Desk) -> None:
    placed = desk.place(nonce=7)
    assert placed.refused is not None
    assert str(placed.refused) == "VaultWrongNonce(expected=0, given=7)"
    assert (desk.ends(), desk.journal.attempts(1)) == ([("refused", None)], [])
    assert json.loads(desk.row()["broken"]) == [["VaultWrongNonce", "VaultWrongNonce(expected=0, given=7)"]]
    assert desk.place().is_sent, "and the nonce is still there"


def test_one_order_that_is_refused_does_not_hold_up_the_others(two: Desk) -> None:
    wrong, right = two.outgoing(0, nonce=3), two.outgoing(1)
    refused, placed = two.outbox.place([wrong, right], two.head())
    assert (refused.row, refused.is_sent, placed.row, placed.is_sent) == (wrong.row, False, right.row, True)
    two.lab.settle()
    two.finish()
    assert (len(two.entries(0)), len(two.entries(1))) == (0, 1)


def test_gas_that_costs_more_than_is_allowed_is_not_paid(desk: Desk) -> None:
    desk.congest(MAX_FEE_WEI + 1)
    desk.lab.set_base_fee(MAX_FEE_WEI + 1)
    desk.lab.mine()
    with pytest.raises(FeeTooHigh, match="MARKETFLOW_MAX_FEE_WEI"):
        desk.place()
    assert (desk.ends(), desk.journal.in_flight(0)) == ([("refused", None)], set())
    assert json.loads(desk.row()["broken"])[0][0] == "fee"


def test_an_account_that_can_not_pay_signs_nothing(desk: Desk) -> None:
    """Else a transaction that nobody takes would be in the way of all that comes later."""
    desk.world.evm.set_balance(desk.account, GWEI)
    placed = desk.place()
    assert placed.waits_because.startswith(f"{desk.account} has {GWEI} wei, gas may cost ")
    assert desk.ends() == [("refused", None)]


def test_what_the_signer_refuses_is_refused_and_nothing_else_is(two: Desk) -> None:
    two.restart(vaults=[two.strategies[1].vault.address])
    refused, placed = two.outbox.place([two.outgoing(0), two.outgoing(1)], two.head())
    assert refused.refused is not None
    assert "is none of this agent's vaults" in str(refused.refused)
    assert placed.is_sent
    two.lab.settle()
    assert [row["account_nonce"] for row in two.journal.rows()] == [None, two.nonce() - 1]


class Contradicting(Node):
    """A digit of its answer is wrong: more was mined than was ever sent."""

    def accounts(self, accounts: Sequence[str]) -> dict[str, AccountState]:
        return {name: replace(state, nonce=state.nonce + 64) for name, state in super().accounts(accounts).items()}


def test_a_nonce_that_can_not_be_right_is_not_used(desk: Desk) -> None:
    """Else dozens of nonces before it would have to be used up."""
    desk.restart(node=Contradicting(desk.node.w3))
    assert "says that" in desk.place().waits_because
    assert desk.ends() == [("refused", None)]


class Silent(Node):
    """A node that answers nothing any more to questions with that method in them."""

    def __init__(self, node: Node, method: str) -> None:
        super().__init__(node.w3)
        self.method = method

    def ask(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        if any(method == self.method for method, _ in calls):
            raise Retryable(f"no answer to {self.method}")
        return super().ask(calls)


@pytest.mark.parametrize(
    "method", ["eth_estimateGas", "eth_maxPriorityFeePerGas", "eth_getTransactionCount", "eth_getBalance"]
)
def test_without_an_answer_nothing_is_signed_and_the_decision_is_over(desk: Desk, method: str) -> None:
    desk.restart(node=Silent(desk.node, method))
    with pytest.raises(Retryable, match=method):
        desk.place()
    assert (desk.ends(), desk.lab.pool()) == ([("refused", None)], ())


def test_a_node_that_dies_when_something_is_sent_leaves_it_to_be_sent_later(desk: Desk) -> None:
    good = desk.node
    desk.restart(node=Silent(good, "eth_sendRawTransaction"))
    with pytest.raises(Retryable):
        desk.place()
    assert desk.ends() == [("signed", None)]
    desk.restart(node=good)
    assert desk.follow().rebroadcast == 1
    desk.finish()
    desk.only_trade()


# How it goes


@pytest.fixture(params=["localnet", "pool"])
def provider(request: pytest.FixtureRequest, world: World) -> Iterator[Node]:
    if request.param == "localnet":
        yield Node(world.w3)
        return
    with EndpointPool([world.evm.url or ""], chain_id=CHAIN_ID) as pool:
        yield Node(Web3(pool))


def test_an_order_is_signed_sent_mined_and_final_and_only_then(desk: Desk, provider: Node) -> None:
    desk.restart(node=provider)
    placed = desk.place()
    assert desk.row()["state"] == "sent"
    first = desk.head()
    followed = desk.follow()
    assert [(row, outcome.ended) for row, _, outcome in followed.ended] == [(placed.row, Ended.TRADED)]
    for _ in range(FINALITY - 1):
        desk.lab.mine()
        assert desk.follow().finalised == 0
        assert desk.row()["state"] == "mined"
    assert desk.journal.fact("checkpoint") is None
    desk.lab.mine()
    followed = desk.follow()
    assert (followed.finalised, followed.ended) == (1, []), "its end is told once"
    assert desk.ends() == [("final", "traded")]
    assert desk.journal.fact("checkpoint") == {"number": first.number, "hash": first.hash}
    assert desk.only_trade().transaction_hash == placed.transaction_hash


def test_on_py_evm_it_goes_the_same_way(tmp_path: Path) -> None:
    with start_evm("py-evm") as evm:
        world = World(evm)
        head = Node(evm.w3).head()
        assert Node(evm.w3).blocks([head.number, head.number + 1]) == [head, None]
        signer = VaultSigner(
            PrivateKey(bytes(world.signer.key)), chain_id=CHAIN_ID, vaults=[world.d.ledger],
            max_fee_per_gas_wei=MAX_FEE_WEI, max_gas=MAX_GAS,
        )  # fmt: skip
        with Journal(tmp_path / "journal.sqlite") as journal:
            outbox = Outbox(
                chain_id=CHAIN_ID, node=Node(evm.w3), journal=journal, signers={signer.address: signer},
                rules=replace(RULES, simulate=False),
            )  # fmt: skip
            row = journal.open_filler(vault=world.d.ledger, block=head.number, at_s=head.timestamp_s)
            order = Outgoing(row=row, vault=world.d.ledger, account=signer.address, data=bytes.fromhex("18178358"))
            [placed] = outbox.place([order], head)
            assert placed.is_sent
            outbox.follow(Node(evm.w3).head())
            evm.mine(FINALITY)
            outbox.follow(Node(evm.w3).head())
            assert [(row["state"], row["outcome"]) for row in journal.rows()] == [("final", "reverted")]


class Catch:
    """As an execution: takes the order that a cycle gives, for the outbox."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.caught = agent, []

    def submit(self, order: Order, *, journal_row: int) -> Outcome:
        vault, account = self.agent.strategy.vault.address, self.agent.world.signer.address
        self.caught.append(Outgoing(row=journal_row, vault=vault, account=account, data=call_data(order)))
        return Outcome(ended=Ended.TRADED)


def test_the_order_of_a_real_cycle_is_traded_and_audited(agent: Agent, desk: Desk) -> None:
    agent.bars(2010, 2030)
    desk.strategies = [agent.strategy]
    desk.restart()
    catch = Catch(agent)
    agent.cycle(execution=catch, journal=desk.journal).run(agent.block())
    [placed] = desk.outbox.place(catch.caught, desk.head())
    assert placed.is_sent
    desk.lab.settle()
    desk.finish()
    entry = desk.only_trade()
    assert agent.audit(entry) == []


def test_what_the_vault_refuses_and_what_reverts_is_told_by_its_name(desk: Desk) -> None:
    desk.lab.hold_mining()
    desk.place()
    world, stop = desk.world, desk.world.constitution.functions.stopVault
    raw = desk.lab.sign(
        bytes(world.guardian.key), nonce=desk.lab.nonce(world.guardian.address), to=world.constitution.address,
        data=bytes.fromhex(stop(desk.strategies[0].vault.address, HOUR_S)._encode_transaction_data()[2:]),
        gas=500_000, fee_wei=400 * GWEI, tip_wei=400 * GWEI,
    )  # fmt: skip
    desk.lab.send_raw(raw)
    desk.lab.mine()
    [(_, _, outcome)] = desk.follow().ended
    assert (outcome.ended, outcome.detail) == (Ended.REFUSED, "GUARDIAN")
    desk.restart(rules=replace(RULES, simulate=False))
    desk.place(nonce=5)
    desk.lab.mine()
    [(_, _, outcome)] = desk.follow().ended
    assert (outcome.ended, outcome.detail) == (Ended.REVERTED, "VaultWrongNonce(expected=0, given=5)")
    assert desk.ends() == [("mined", "refused"), ("mined", "reverted")]


def test_several_agents_on_one_key_get_consecutive_nonces_in_one_batch(two: Desk) -> None:
    two.strategies.append(two.world.deploy_strategy())
    two.restart()
    first = two.nonce()
    placed = two.outbox.place([two.outgoing(which) for which in (2, 0, 1)], two.head())
    assert all(one.is_sent for one in placed)
    assert [row["account_nonce"] for row in two.journal.rows()] == [first, first + 1, first + 2]
    two.lab.settle()
    two.finish()
    assert [len(two.entries(which)) for which in range(3)] == [1, 1, 1]
    assert two.ends() == [("final", "traded")] * 3


# A crash at any point

PLACING = (
    "before signed", "after signed", "signed, not sent", "sent, not journalled", "before sent", "after sent",
)  # fmt: skip
FOLLOWING = (
    "sent again, not journalled", "before mined", "after mined", "before bumped", "after bumped", "bumped, not sent",
    "bump sent, not journalled", "before unmined", "after unmined", "before final", "after final",
)  # fmt: skip
INTENDING = ("before intent", "after intent", "before reviewed", "after reviewed")


def survive(desk: Desk, *steps: Callable[[Desk], object]) -> None:
    """Each step until it is through, with a restart after each death."""
    for step in steps:
        while True:
            try:
                step(desk)
                break
            except Crash:
                desk.lab.settle()
                recover(desk)
        desk.lab.settle()


def recover(desk: Desk) -> None:
    """As a daemon starts."""
    while True:
        try:
            desk.restart()
            desk.journal.abandon_unsigned(at_s=desk.head().timestamp_s)
            desk.outbox.follow(desk.head())
            return
        except Crash:
            desk.lab.settle()


def decide(desk: Desk) -> None:
    """What a daemon does at a head: follow, then decide if nothing is under way; one trade is what it wants."""
    head = desk.head()
    desk.outbox.follow(head)
    vault = desk.strategies[0].vault
    if vault.address not in desk.journal.in_flight(head.number) and not desk.world.view(vault.functions.guard()).nonce:
        desk.outbox.place([desk.outgoing()], head)


def look(desk: Desk) -> None:
    desk.outbox.follow(desk.head())


def story(desk: Desk) -> None:
    """Placed, stuck, bumped, mined, taken back by a reorg, mined again, final."""
    desk.lab.hold_mining()
    survive(desk, decide)
    desk.congest(1)
    desk.wait(RULES.bump_after_s)
    survive(desk, look)
    desk.lab.mine()
    survive(desk, decide)
    desk.reorg(1, Fate.DROPPED)
    survive(desk, decide)
    desk.lab.mine()
    survive(desk, decide)
    desk.lab.mine(FINALITY)
    survive(desk, decide)


@pytest.fixture
def census(desk: Desk) -> CrashPoints:
    points = CrashPoints()
    desk.restart(at=points)
    story(desk)
    desk.only_trade()
    assert desk.ends() == [("final", "traded")]
    return points


def test_the_story_comes_by_every_point(census: CrashPoints) -> None:
    assert set(census.visits) == {*INTENDING, *PLACING, *FOLLOWING}


@pytest.mark.parametrize("visit", [1, 2])
@pytest.mark.parametrize("point", [*INTENDING, *PLACING, *FOLLOWING])
def test_a_death_at_any_point_ends_in_exactly_one_trade(desk: Desk, point: str, visit: int) -> None:
    """Twice in a row, where the second visit comes after the restart."""
    points = CrashPoints([(point, 1), (point, visit)])
    desk.restart(at=points)
    story(desk)
    assert (point, 1) in points.crashed
    desk.only_trade()
    ends = desk.ends()
    assert ends.count(("final", "traded")) == 1
    assert set(ends) <= {("final", "traded"), ("abandoned", None)}
    desk.follow()


@pytest.mark.parametrize("point", [*PLACING, "after reviewed"])
def test_a_death_with_a_mempool_that_is_lost_ends_in_exactly_one_trade(desk: Desk, point: str) -> None:
    desk.lab.hold_mining()
    desk.restart(at=CrashPoints([(point, 1)]))
    with pytest.raises(Crash):
        decide(desk)
    desk.lab.drop_all()
    signed = [desk.raws(row["id"]) for row in desk.journal.rows() if row["state"] in ("signed", "sent")]
    recover(desk)
    decide(desk)
    if signed:
        assert [[tx.raw for tx in desk.lab.pool()]] == signed, "the same bytes"
    desk.lab.release_mining()
    desk.finish()
    desk.only_trade()


def test_nothing_is_sent_that_is_not_on_disk(desk: Desk) -> None:
    """A crash before it is on disk: the node has never heard of it."""
    desk.lab.hold_mining()
    desk.restart(at=CrashPoints([("before signed", 1)]))
    with pytest.raises(Crash):
        desk.place()
    desk.restart(at=nothing)
    assert (desk.lab.pool(), desk.ends()) == ((), [("reviewed", None)])


# What waits


def test_the_same_bytes_are_sent_again_after_a_restart_and_after_the_mempool_dropped_them(two: Desk) -> None:
    two.lab.hold_mining()
    rows = [two.place(which).row for which in (0, 1)]
    signed = [raw for row in rows for raw in two.raws(row)]
    for _ in range(2):
        two.lab.drop_all()
        two.restart()
        assert two.follow().rebroadcast == 2
        assert [tx.raw for tx in two.lab.pool()] == signed
    assert two.follow().rebroadcast == 0
    two.lab.release_mining()
    two.finish()
    assert [two.raws(row) for row in rows] == [[raw] for raw in signed]
    assert [len(two.entries(which)) for which in (0, 1)] == [1, 1]


def stuck(desk: Desk) -> Placed:
    """An order that offers less than what the next blocks take."""
    desk.lab.hold_mining()
    desk.lab.set_base_fee(GWEI)
    desk.lab.mine()
    placed = desk.place(lifetime_s=10 * HOUR_S)
    desk.congest(10 * GWEI)
    return placed


def test_nothing_is_offered_more_before_its_time(desk: Desk) -> None:
    stuck(desk)
    assert desk.follow().bumped == 0
    desk.wait(RULES.bump_after_s)
    assert desk.follow().bumped == 1
    assert desk.follow().bumped == 0


def test_a_bump_has_the_same_nonce_and_call_and_takes_the_place(desk: Desk) -> None:
    placed = stuck(desk)
    desk.wait(RULES.bump_after_s)
    desk.lab.set_base_fee(10 * GWEI)
    desk.follow()
    first, second = desk.journal.attempts(placed.row)
    [waiting] = desk.lab.pool()
    assert (waiting.hash, waiting.nonce, waiting.raw) == (second.hash, desk.nonce(), second.raw)
    assert 100 * second.max_fee_wei >= 112 * first.max_fee_wei
    assert second.max_fee_wei <= MAX_FEE_WEI
    desk.lab.set_base_fee(10 * GWEI)
    desk.lab.release_mining()
    desk.finish()
    entry = desk.only_trade()
    assert entry.transaction_hash == second.hash
    assert desk.journal.note_counts() == {"bumped": 1}


@pytest.mark.parametrize("which", [0, 1])
def test_whichever_of_the_two_is_mined_ends_the_decision(desk: Desk, which: int) -> None:
    """The first: a miner had it before the second came."""
    placed = stuck(desk)
    desk.wait(RULES.bump_after_s)
    desk.follow()
    attempts = desk.journal.attempts(placed.row)
    desk.lab.drop_all()
    desk.lab.set_base_fee(0)
    desk.lab.send_raw(attempts[which].raw)
    desk.lab.mine()
    desk.finish()
    assert desk.only_trade().transaction_hash == attempts[which].hash
    assert desk.ends() == [("final", "traded")]


def test_a_bump_stops_at_the_ceiling_and_the_transaction_waits(desk: Desk) -> None:
    desk.restart(fees=FeePolicy(max_fee_wei=4 * GWEI))
    placed = stuck(desk)
    for _ in range(12):
        desk.wait(RULES.bump_after_s)
        followed = desk.follow()
    assert (followed.bumped, desk.row()["state"]) == (0, "sent")
    offers = [attempt.max_fee_wei for attempt in desk.journal.attempts(placed.row)]
    assert 1 < len(offers) < 12
    assert offers == sorted(offers)
    assert max(offers) <= 4 * GWEI
    assert placed.transaction_hash not in followed.stuck[desk.account]
    assert desk.journal.attempts(placed.row)[-1].hash in followed.stuck[desk.account]


def test_a_lost_bump_is_sent_again_with_what_came_before_it(desk: Desk) -> None:
    """If the node does not take the dearer one any more, it has the other."""
    placed = stuck(desk)
    desk.wait(RULES.bump_after_s)
    desk.follow()
    first, second = desk.journal.attempts(placed.row)
    desk.lab.drop_all()
    desk.follow()
    assert [tx.hash for tx in desk.lab.pool()] == [second.hash]
    desk.lab.drop_all()
    desk.lab.set_base_fee(GWEI)
    desk.world.evm.set_balance(desk.account, 2_000_000 * first.max_fee_wei)
    desk.follow()
    assert [tx.hash for tx in desk.lab.pool()] == [first.hash]


def test_a_bump_that_the_signer_refuses_is_told_and_stops_nothing(desk: Desk) -> None:
    """The vault is another operator's now; what was signed before may still be mined."""
    stuck(desk)
    desk.restart(vaults=["0x" + "1" * 40])
    desk.wait(RULES.bump_after_s)
    followed = desk.follow()
    assert followed.bumped == 0
    assert "none of this agent's vaults" in followed.stuck[desk.account]


def test_an_operator_is_told_of_what_waits_too_long(desk: Desk) -> None:
    stuck(desk)
    assert desk.follow().stuck == {}
    desk.wait(RULES.stuck_after_s)
    assert list(desk.follow().stuck) == [desk.account]


# Foreign use of the key


def replaced(desk: Desk) -> Placed:
    """An order whose nonce somebody else has used."""
    desk.lab.hold_mining()
    placed = desk.place()
    desk.lab.replace_pending(placed.transaction_hash, desk.key)
    desk.lab.mine()
    return placed


def test_a_foreign_transaction_with_the_nonce_ends_the_decision_and_the_next_one_trades(desk: Desk) -> None:
    placed = replaced(desk)
    followed = desk.follow()
    assert (followed.replaced, [outcome.ended for *_, outcome in followed.ended]) == (1, [Ended.REPLACED])
    assert desk.row(placed.row)["outcome"] == "replaced"
    assert desk.journal.in_flight(desk.head().number) == set()
    assert desk.entries() == []
    desk.lab.release_mining()
    assert desk.place().is_sent
    desk.finish()
    desk.only_trade()
    desk.lab.mine()
    desk.follow()
    assert desk.ends() == [("final", "replaced"), ("final", "traded")]


def test_what_seemed_replaced_and_was_mined_after_all_is_corrected(desk: Desk) -> None:
    """One of the nodes behind an address answers from an older block: a used nonce, and no receipt yet."""
    desk.place()
    good = desk.node
    desk.restart(node=Forgetful(good))
    followed = desk.follow()
    assert (followed.replaced, desk.ends()) == (1, [("mined", "replaced")])
    desk.restart(node=good)
    [(_, _, outcome)] = desk.follow().ended
    assert outcome.ended is Ended.TRADED
    desk.finish()
    desk.only_trade()
    assert desk.ends() == [("final", "traded")]


class Forgetful(Node):
    """Knows no receipts, the first so many times, or ever."""

    def __init__(self, node: Node, times: int = 10**9) -> None:
        super().__init__(node.w3)
        self.times = times

    def ask(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        answers = super().ask(calls)
        if any(method == "eth_getTransactionReceipt" for method, _ in calls) and self.times:
            self.times -= 1
            return [
                None if method == "eth_getTransactionReceipt" else answer
                for (method, _), answer in zip(calls, answers, strict=True)
            ]
        return answers


def test_one_wrong_answer_replaces_nothing(desk: Desk) -> None:
    desk.place()
    desk.restart(node=Forgetful(desk.node, times=1))
    assert desk.outbox.follow(desk.head()).replaced == 0
    desk.finish()
    desk.only_trade()


def test_what_can_not_be_read_once_more_is_not_final(desk: Desk) -> None:
    desk.place()
    desk.follow()
    desk.lab.mine(FINALITY)
    good = desk.node
    desk.restart(node=Forgetful(good))
    assert desk.follow().finalised == 0
    desk.restart(node=good)
    assert desk.follow().finalised == 1


class Lying(Node):
    """Tells of what succeeded that it reverted."""

    def look(self, *asked: Any) -> Any:
        used, receipts = super().look(*asked)
        return used, [receipt and {**receipt, "status": 0, "logs": []} for receipt in receipts]


def test_an_end_that_was_read_wrongly_is_corrected_before_it_is_final(desk: Desk) -> None:
    desk.place()
    good = desk.node
    desk.restart(node=Lying(good.w3))
    desk.follow()
    assert desk.ends() == [("mined", "reverted")]
    desk.restart(node=good)
    desk.lab.mine(FINALITY)
    [(_, _, outcome)] = desk.follow().ended
    assert (outcome.ended, desk.ends()) == (Ended.TRADED, [("final", "traded")])
    desk.only_trade()


def gap(desk: Desk) -> Placed:
    """An order behind a foreign transaction that is gone."""
    desk.lab.hold_mining()
    desk.lab.foreign_transaction(desk.key)
    desk.lab.mine()
    placed = desk.place(lifetime_s=10 * HOUR_S)
    desk.lab.mine()
    desk.follow()
    desk.reorg(2, lambda tx: Fate.DROPPED)
    return placed


def test_a_gap_that_a_foreign_transaction_left_is_filled_by_a_poke(desk: Desk) -> None:
    placed = gap(desk)
    first = desk.nonce()
    assert desk.follow().reorged == 1
    desk.wait(RULES.stuck_after_s - 10)
    desk.follow()
    assert len(desk.journal.rows()) == 1, "not yet"
    desk.wait(10)
    followed = desk.follow()
    assert "was never used" in followed.stuck[desk.account]
    filler = desk.row()
    assert (filler["kind"], filler["account_nonce"]) == ("filler", first)
    assert desk.row(placed.row)["account_nonce"] == first + 1
    desk.lab.release_mining()
    desk.finish()
    assert desk.ends() == [("final", "traded"), ("final", "filled")]
    desk.only_trade()


@pytest.mark.parametrize("point", ["before signed", "after signed", "filler signed, not sent", "before sent"])
def test_a_death_while_a_gap_is_filled_fills_it_once(desk: Desk, point: str) -> None:
    gap(desk)
    desk.follow()
    desk.wait(RULES.stuck_after_s)
    points = CrashPoints([(point, 1)])
    desk.restart(at=points)
    survive(desk, look)
    assert points.crashed == [(point, 1)]
    desk.lab.release_mining()
    desk.finish()
    assert desk.ends() == [("final", "traded"), ("final", "filled")]


def test_a_gap_is_not_filled_while_somebodys_transaction_waits_for_it(desk: Desk) -> None:
    gap(desk)
    desk.follow()
    desk.lab.foreign_transaction(desk.key, nonce=desk.nonce())
    desk.wait(RULES.stuck_after_s)
    desk.follow()
    assert len(desk.journal.rows()) == 1
    desk.lab.release_mining()
    desk.finish()
    desk.only_trade()


def test_a_gap_waits_while_gas_is_too_dear(desk: Desk) -> None:
    gap(desk)
    desk.follow()
    desk.restart(fees=FeePolicy(max_fee_wei=GWEI))
    desk.wait(RULES.stuck_after_s)
    desk.congest(2 * GWEI, 2)
    followed = desk.follow()
    assert "can't be used up" in followed.stuck[desk.account]
    assert len(desk.journal.rows()) == 1


# Reorgs


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize("fate", [Fate.DROPPED, Fate.LATER, Fate.RETURNED])
def test_a_reorg_takes_back_what_was_mined_and_it_is_mined_again_elsewhere(desk: Desk, depth: int, fate: Fate) -> None:
    placed = desk.place()
    desk.lab.mine(depth - 1)
    desk.follow()
    before = desk.only_trade()
    old = desk.row()["block_hash"]
    desk.lab.hold_mining()
    desk.reorg(depth, fate)
    followed = desk.follow()
    assert followed.reorged == 1
    if fate is not Fate.LATER:
        assert (desk.row()["state"], desk.entries()) == ("sent", [])
        assert desk.journal.in_flight(desk.head().number)
        assert [tx.hash for tx in desk.lab.pool()] == [placed.transaction_hash]
    desk.lab.release_mining()
    desk.finish()
    after = desk.only_trade()
    assert (after.id, desk.row()["block_hash"] != old) == (before.id, True)
    assert (len(desk.raws(placed.row)), desk.ends()) == (1, [("final", "traded")])
    assert desk.journal.note_counts() == {"reorged": 1}


def test_after_a_reorg_it_may_end_otherwise(desk: Desk) -> None:
    """Mined again after its deadline, it reverts."""
    desk.place(lifetime_s=60)
    desk.wait(100)
    desk.follow()
    assert desk.ends() == [("mined", "traded")]
    desk.reorg(2, Fate.LATER)
    followed = desk.follow()
    assert [outcome.error for *_, outcome in followed.ended] == ["VaultDeadlinePassed"]
    assert (desk.ends(), desk.entries()) == ([("mined", "reverted")], [])
    assert desk.row()["trade_id"] is None
    desk.finish()
    assert desk.place().is_sent, "the vault decides again"
    desk.finish()
    desk.only_trade()


def test_a_reorg_that_puts_a_foreign_transaction_in_its_place_ends_it_as_replaced(desk: Desk) -> None:
    nonce = desk.nonce()
    desk.place()
    desk.follow()
    rival = desk.lab.sign(desk.key, nonce=nonce)
    desk.reorg(1, Fate.DROPPED, insert=[rival])
    assert desk.follow().replaced == 1
    desk.place()
    desk.finish()
    desk.only_trade()


def test_a_reorg_that_takes_the_foreign_transaction_brings_the_order_back_and_there_is_one_trade(desk: Desk) -> None:
    """The next decision was sent already: it has the vault's nonce of the first, and reverts."""
    replaced(desk)
    desk.follow()
    desk.place()
    desk.lab.mine()
    desk.follow()
    assert desk.ends() == [("mined", "replaced"), ("mined", "traded")]
    desk.reorg(2, Fate.DROPPED)
    desk.follow()
    assert desk.ends() == [("sent", None), ("sent", None)]
    desk.lab.release_mining()
    desk.finish()
    assert sorted(str(outcome) for _, outcome in desk.ends()) == ["reverted", "traded"]
    desk.only_trade()


def test_an_adopted_trade_vanishes_with_its_block(desk: Desk) -> None:
    desk.world.buy(desk.strategies[0], usd(1000))
    [entry] = desk.entries()
    desk.journal.adopt(
        vault=entry.vault, sequence=0, block=entry.block, block_hash=desk.lab.block_hash(entry.block),
        explanation_hash="0x", trade_id=entry.id, transaction_hash=entry.transaction_hash, at_s=1,
    )  # fmt: skip
    desk.follow()
    desk.only_trade()
    desk.reorg(1, Fate.DROPPED)
    assert desk.follow().reorged == 1
    assert desk.journal.rows() == []
    desk.place()
    desk.finish()
    desk.only_trade()


def test_an_adopted_trade_becomes_final(desk: Desk) -> None:
    desk.world.buy(desk.strategies[0], usd(1000))
    [entry] = desk.entries()
    desk.journal.adopt(
        vault=entry.vault, sequence=0, block=entry.block, block_hash=desk.lab.block_hash(entry.block),
        explanation_hash="0x", trade_id=entry.id, transaction_hash=entry.transaction_hash, at_s=1,
    )  # fmt: skip
    desk.finish()
    assert desk.ends() == [("final", "traded")]


def deep(desk: Desk) -> None:
    """Two trades that were final, and the second was taken by a reorg that is deeper than expected."""
    desk.place()
    desk.finish()
    desk.place()
    desk.finish()
    desk.lab.mine(2)
    desk.lab.hold_mining()
    desk.reorg(FINALITY + 3, Fate.DROPPED)


def test_a_reorg_that_is_deeper_than_finality_halts(desk: Desk) -> None:
    deep(desk)
    before = desk.dump()
    for _ in range(2):
        with pytest.raises(Halted, match=r"was final and is not part of the chain any more.*`marketflow agent repair`"):
            desk.outbox.follow(desk.head())
        assert desk.dump() == before
        desk.restart()


def test_a_repair_goes_back_and_reads_everything_again(desk: Desk) -> None:
    deep(desk)
    assert desk.journal.reopen(0, at_s=1) == 2
    assert desk.follow().reorged == 1
    assert [row["state"] for row in desk.journal.rows()] == ["final", "sent"]
    desk.lab.release_mining()
    desk.finish()
    assert desk.ends() == [("final", "traded")] * 2
    assert [row["trade_id"] for row in desk.journal.rows()] == [entry.id for entry in desk.entries()]


# Nodes that are behind


def test_a_head_that_is_behind_undoes_nothing(desk: Desk) -> None:
    desk.place()
    desk.finish()
    desk.place()
    desk.lab.mine(3)
    desk.follow()
    kept = desk.dump()
    head = desk.head().number
    for behind in (1, 3, 4, FINALITY, FINALITY + 6):
        [past] = desk.node.blocks([head - behind])
        assert desk.follow(past) == Followed()
        assert desk.dump() == kept


class EmptyPool(Node):
    """Has nothing pending: what it was sent went elsewhere."""

    def nonces(self, accounts: Sequence[str], block: int | str) -> dict[str, int]:
        return super().nonces(accounts, "latest" if block == "pending" else block)


def test_a_node_that_is_behind_undoes_nothing_and_fills_no_nonce_that_was_used(two: Desk) -> None:
    """It knows the head of before our first transaction; the second waits, and for long."""
    desk = two
    desk.restart(rules=replace(RULES, bump_after_s=10**9))
    desk.lab.hold_mining()
    first, second = desk.place(0), desk.place(1, lifetime_s=10 * HOUR_S)
    desk.wait(RULES.stuck_after_s)
    behind = desk.lab.head()
    desk.lab.drop_all()
    desk.lab.send_raw(desk.raws(first.row)[0])
    desk.lab.mine(2)
    desk.lab.drop_all()
    assert desk.outbox.follow(desk.head()).ended
    kept = desk.journal.rows(id=first.row)
    with ChaosProxy(desk.world.evm.url or "", 1) as proxy, EndpointPool([proxy.url], chain_id=CHAIN_ID) as pool:
        proxy.lag(desk.lab.head() - behind)
        desk.restart(node=EmptyPool(Web3(pool)))
        assert desk.head().number == behind
        assert desk.node.nonces([desk.account], "pending") == {desk.account: desk.row(first.row)["account_nonce"]}
        followed = desk.outbox.follow(desk.head())
    assert (followed.reorged, followed.replaced, followed.finalised) == (0, 0, 0)
    assert desk.journal.rows(id=first.row) == kept
    assert [row["kind"] for row in desk.journal.rows()] == ["trade", "trade"]
    assert desk.row(second.row)["state"] == "sent"


def test_a_node_that_is_behind_what_was_final_is_no_reason_to_halt(desk: Desk) -> None:
    desk.place()
    desk.finish()
    kept = desk.dump()
    with ChaosProxy(desk.world.evm.url or "", 1) as proxy, EndpointPool([proxy.url], chain_id=CHAIN_ID) as pool:
        proxy.lag(FINALITY + 3)
        desk.restart(node=Node(Web3(pool)))
        assert desk.follow() == Followed()
    assert desk.dump() == kept


def test_a_node_that_is_not_at_the_head_that_was_seen_is_asked_later(desk: Desk) -> None:
    desk.place()
    head = desk.head()
    kept = desk.dump()
    for elsewhere in (replace(head, hash="0x" + "0" * 64), replace(head, number=head.number + 1)):
        with pytest.raises(Retryable):
            desk.outbox.follow(elsewhere)
        assert desk.dump() == kept
    desk.follow()
    kept = desk.dump()
    for elsewhere in (replace(head, hash="0x" + "0" * 64), replace(head, number=head.number + 1)):
        with pytest.raises(Retryable):
            desk.outbox.follow(elsewhere)
        assert desk.dump() == kept, "what was mined stays so"
    desk.finish()
    desk.only_trade()


# An old journal, and a disk that is full


def test_what_an_older_signer_signed_is_sent_again_and_not_bumped(desk: Desk) -> None:
    """A transaction that is not of EIP-1559, as the local chain's own way of trading signs them."""
    desk.lab.hold_mining()
    outgoing = desk.outgoing()
    call = {"to": outgoing.vault, "data": outgoing.data}
    raw, transaction_hash, nonce = desk.world.evm.sign(call, desk.world.signer)
    desk.journal.sign(
        outgoing.row, account=desk.account, account_nonce=nonce, raw=raw, transaction_hash=transaction_hash
    )
    followed = desk.follow()
    assert (followed.rebroadcast, followed.bumped, list(followed.stuck)) == (1, 0, [desk.account])
    desk.lab.release_mining()
    desk.finish()
    desk.only_trade()


def test_a_full_disk_stops_the_outbox_and_nothing_is_sent(desk: Desk) -> None:
    outgoing = desk.outgoing()
    assert desk.journal._db is not None
    desk.journal._db.execute("PRAGMA max_page_count = 1")
    big = Attempt(hash="0x1", raw=b"x" * 100_000)
    real = desk.outbox._attempt
    desk.outbox._attempt = lambda *given: replace(real(*given), raw=big.raw)  # type: ignore[method-assign]
    desk.lab.hold_mining()
    with pytest.raises(Halted, match="full"):
        desk.outbox.place([outgoing], desk.head())
    assert (desk.lab.pool(), desk.ends()) == ((), [("reviewed", None)])


def test_the_selector_of_poke() -> None:
    from agents.outbox import POKE

    assert Web3.keccak(text="poke()")[:4] == POKE


