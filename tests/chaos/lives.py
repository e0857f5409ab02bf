"""Lives of a journal: orders of several agents on a real chain, with everything that can go wrong, and what must hold.

A life is a fresh journal on the same chain. In each of its runs a few agents order, while the process dies at the
journal's transitions and between them, the node drops what it is asked or what it answers, blocks are reorganised,
transactions are dropped, outbid or stuck, the key is used by somebody else, the journal is lost. Then everybody is left
alone, and what is left must converge:

    nothing lost        every signed decision has one end, every trade in the ledger is in the journal
    nothing doubled     no decision has two trades
    nothing outside     the vault has counted no more than its limits allow, and holds what its books say
    nothing moves       looking again changes nothing

A run is a function of its seed and of how many came before it in its life; `replay` makes the same again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from eth_utils import keccak
from web3 import Web3
from web3.providers import JSONBaseProvider

from agents.errors import Halted, Retryable
from agents.execution import Order, call_data
from agents.fees import FeePolicy
from agents.intent import Intent
from agents.journal import Journal, NewDecision
from agents.ledger import fetch_entries
from agents.localnet.evm import Account
from agents.node import Node
from agents.outbox import Outbox, OutboxRules, Outgoing
from agents.reconcile import Reconciler
from agents.signer import VaultSigner
from oracle.chain import BlockRef, fetch_block
from oracle.multicall import fetch_many
from tests.chaos.chainlab import ChainLab, Fate, LabError
from tests.chaos.faults import Crash, CrashPoints
from tests.contracts.world import CEILINGS, LIMITS, Strategy, World, usd

FINALITY_BLOCKS = 8
ORDER_LIFETIME_S = 600
# Looks at the chain that a run may need until it has converged, at one block each.
PATIENCE = 60
# Runs in one life: as many orders as a vault's day allows, one for each run at most.
RUNS = 30
POINTS = [
    f"{when} {what}" for when in ("before", "after")
    for what in ("intent", "reviewed", "refused", "signed", "sent", "mined", "final", "bumped", "unmined", "adopted")
] + ["signed, not sent", "sent, not journalled", "bumped, not sent"]  # fmt: skip
EVENTS = (
    "held", "drop", "outbid", "foreign", "foreign pending", "reorg", "second reorg", "stuck", "late", "node",
    "lost journal", "crash again",
)  # fmt: skip


class Broken(AssertionError):
    """Something that must hold does not."""


class FaultyProvider(JSONBaseProvider):
    """A node that sometimes does not hear what it is asked, or is not heard."""

    def __init__(self, provider: Any) -> None:
        super().__init__()
        self._provider = provider
        self.rng: random.Random | None = None
        self.one_in = 12

    def make_request(self, method: Any, params: Any) -> Any:
        if self.rng and self.rng.randrange(self.one_in) == 0:
            if self.rng.random() < 0.5:
                self._provider.make_request(method, params)
            raise OSError("the node was not heard")
        return self._provider.make_request(method, params)


@dataclass(slots=True, kw_only=True)
class Story:
    """What happened in a run, for whoever reads why it failed."""

    seed: int
    said: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def tell(self, what: str) -> None:
        self.said.append(what)
        self.faults[what.split(":")[0]] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trader:
    """A vault and its key."""

    strategy: Strategy
    key: Account


class Stage:
    """A world with traders, to which each life returns."""

    def __init__(self, world: World) -> None:
        self.world, self.lab = world, ChainLab(world.evm)
        limits = replace(LIMITS, max_trades_per_day=CEILINGS.max_trades_per_day)
        first = world.deploy_strategy(limits=limits)
        other_agent = world.register_agent(world.other_controller, world.signer)
        third_agent = world.register_agent(world.other_controller, world.other_signer)
        self.traders = (
            Trader(strategy=first, key=world.signer),
            Trader(strategy=world.deploy_strategy(agent_id=other_agent, limits=limits), key=world.signer),
            Trader(strategy=world.deploy_strategy(agent_id=third_agent, limits=limits), key=world.other_signer),
        )
        self._lives = 0
        self._snapshot = world.evm.snapshot()

    @contextmanager
    def life(self, folder: Path) -> Iterator[Life]:
        """The chain as it was, and a journal that does not exist yet."""
        self.world.evm.revert(self._snapshot)
        self._lives += 1
        self.lab.set_base_fee(0)
        self.world.evm.travel(self._lives)  # no two blocks have one hash
        self.world.evm.mine(FINALITY_BLOCKS)  # no reorg reaches what the lives have in common
        life = Life(self, folder)
        try:
            yield life
        finally:
            life.close()
            self.lab.drop_all()
            self.lab.release_mining()


class Life:
    """A journal on a stage."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.world, self.lab, self.folder = stage, stage.world, stage.lab, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.crashes = CrashPoints()
        self.provider = FaultyProvider(self.world.w3.provider)
        self.w3 = Web3(self.provider)
        self.runs = self.trades = self._explanations = 0
        self._open()

    def _open(self) -> None:
        world = self.world
        self.journal = Journal(self.folder / "journal.sqlite", exclusive=True, at=self.crashes)
        by_key: dict[str, list[str]] = {}
        keys = {trader.key.address: trader.key for trader in self.stage.traders}
        for trader in self.stage.traders:
            by_key.setdefault(trader.key.address, []).append(trader.strategy.vault.address)
        signers = {
            address: VaultSigner(
                PrivateKey(bytes(keys[address].key)), chain_id=world.d.chain_id, vaults=vaults,
                max_fee_per_gas_wei=10**13, max_gas=5_000_000,
            )
            for address, vaults in by_key.items()
        }  # fmt: skip
        self.node = Node(self.w3)
        self.outbox = Outbox(
            chain_id=world.d.chain_id, node=self.node, journal=self.journal, signers=signers, at=self.crashes,
            fees=FeePolicy(max_fee_wei=10**12, min_tip_wei=10**9),
            rules=OutboxRules(finality_blocks=FINALITY_BLOCKS, bump_after_s=20, stuck_after_s=120),
        )  # fmt: skip
        self.reconciler = Reconciler(
            chain_id=world.d.chain_id, node=self.node, journal=self.journal, outbox=self.outbox, ledger=world.d.ledger,
            first_block=world.d.deployed_at_block, vaults=[t.strategy.vault.address for t in self.stage.traders],
        )  # fmt: skip
        self.is_reconciled = False

    def close(self) -> None:
        self.journal.close()

    def head(self) -> BlockRef:
        return fetch_block(self.world.evm)

    # One run

    def run(self, seed: int) -> Story:
        """Raises Broken, with the story, when something does not hold at the end."""
        rng, story = random.Random(f"run:{seed}"), Story(seed=seed)
        self.runs += 1
        events = [event for event in EVENTS if rng.random() < 0.18]
        self._plan_crashes(rng, twice="crash again" in events)
        try:
            self._survive(lambda: self._order(rng, events, story), story)
            self._happen(rng, events, story)
            self.provider.rng = None
            self.lab.set_base_fee(0)
            self.lab.release_mining()
            self._converge(story)
            self.crashes._left.clear()
            self._hold()
            trades = sum(self.journal.trades(up_to_block=self.head().number).values())
            story.faults["trades"] += trades - self.trades
            self.trades = trades
        except Broken as error:
            raise Broken(f"seed {seed}, run {self.runs} of its life: {error}; {'; '.join(story.said)}") from error
        finally:
            self.provider.rng = None
            for point, times in Counter(point for point, _ in self.crashes.crashed).items():
                story.faults[point] += times
            self.crashes.crashed.clear()
        return story

    def _plan_crashes(self, rng: random.Random, *, twice: bool) -> None:
        self.crashes.visits.clear()
        """Every point has its turn, whatever else is drawn."""
        plan = {(POINTS[self.runs % len(POINTS)], 1)}
        plan |= {(rng.choice(POINTS), rng.randint(1, 3)) for _ in range(3 if twice else 1)}
        self.crashes._left |= plan

    def _survive(self, act: Callable[[], Any], story: Story) -> None:
        """Acts once; whoever dies is started again, and a restart catches up before it does anything else."""
        with self._dying(story):
            if not self.is_reconciled:
                self._reconcile(story)
            act()

    @contextmanager
    def _dying(self, story: Story) -> Iterator[None]:
        try:
            yield
        except Crash as crash:
            story.tell(f"crash: {crash}")
            self.journal.close()
            self._open()
        except Retryable as error:
            story.tell(f"retry: {error}")
        except Halted as error:
            story.tell(f"halt: {error}")
            self.is_reconciled = False

    def _reconcile(self, story: Story) -> None:
        head = self.head()
        vaults = [trader.strategy.vault for trader in self.stage.traders]
        guards = fetch_many(self.world.evm, [vault.functions.guard() for vault in vaults], block=head.number)
        nonces = {vault.address: guard.nonce for vault, guard in zip(vaults, guards, strict=True)}
        self.reconciler.run(head, nonces)
        self.is_reconciled = True
        story.tell("reconciled")

    def _order(self, rng: random.Random, events: list[str], story: Story) -> None:
        """Some of the traders decide at one head, as a fleet does."""
        if "node" in events:
            self.provider.rng = random.Random(rng.random())
            story.tell("node: does not hear everything")
        if "foreign pending" in events or "held" in events or "drop" in events or "outbid" in events:
            self.lab.hold_mining()
            story.tell("mining is held")
        if "foreign pending" in events:
            self._foreign(rng, story)
        head = self.head()
        self.outbox.follow(head)
        busy = self.journal.in_flight(head.number)
        traders = [t for t in self.stage.traders if rng.random() < 0.5 and t.strategy.vault.address not in busy]
        with self.journal.transaction():
            orders = [self._order_of(trader, head, rng) for trader in traders]
            rows = self.journal.record([new for new, _, _ in orders])
        outgoing = [
            Outgoing(row=row, vault=new.vault, account=account, data=data)
            for row, (new, account, data) in zip(rows, orders, strict=True)
        ]
        story.tell(f"orders: {len(outgoing)} at block {head.number}")
        self.outbox.place(outgoing, head)

    def _order_of(self, trader: Trader, head: BlockRef, rng: random.Random) -> tuple[NewDecision, str, bytes]:
        vault, [asset] = trader.strategy.vault, [a for a in self.world.book.assets if a.symbol == "ETH"]
        guard, position, artefact = fetch_many(
            self.world.evm,
            [vault.functions.guard(), vault.functions.positionOf(asset.token), vault.functions.artefactHash()],
            block=head.number,
        )
        is_buy = position.amount == 0 or rng.random() < 0.6
        amount = usd(rng.randint(50, 500)) if is_buy else max(position.amount // rng.randint(1, 4), 1)
        intent = Intent(asset=asset.token, is_buy=is_buy, amount_in=amount, min_amount_out=1, value=amount)
        self._explanations += 1
        name = "0x" + keccak(text=f"{self.folder} {self._explanations}").hex()
        order = Order(
            intent=intent, nonce=guard.nonce, deadline_s=head.timestamp_s + ORDER_LIFETIME_S,
            artefact_hash="0x" + bytes(artefact).hex(), explanation_hash=name,
            observation_hash=name,
        )  # fmt: skip
        new = NewDecision(
            vault=vault.address, sequence=guard.nonce, block=head.number, decided_at_s=head.timestamp_s,
            explanation_hash=name, deadline_s=order.deadline_s,
        )  # fmt: skip
        return new, trader.key.address, call_data(order)

    # What happens meanwhile

    def _happen(self, rng: random.Random, events: list[str], story: Story) -> None:
        for event in rng.sample(events, len(events)):
            act = {
                "drop": self._drop, "outbid": self._outbid, "foreign": self._foreign, "reorg": self._reorg,
                "second reorg": self._reorg, "stuck": self._stuck, "late": self._late,
                "lost journal": self._lose_journal,
            }.get(event)  # fmt: skip
            if act is None:
                continue
            act(rng, story)
            self._survive(lambda: self.outbox.follow(self.head()), story)

    def _drop(self, rng: random.Random, story: Story) -> None:
        waiting = self.lab.pool()
        if waiting:
            self.lab.drop_transaction(rng.choice(waiting).hash)
            story.tell("dropped from the pool")

    def _outbid(self, rng: random.Random, story: Story) -> None:
        keys = {trader.key.address.lower(): trader.key.key for trader in self.stage.traders}
        waiting = [pending for pending in self.lab.pool() if pending.sender.lower() in keys]
        if waiting:
            victim = rng.choice(waiting)
            with suppress(LabError):  # below the base fee
                self.lab.replace_pending(victim.hash, bytes(keys[victim.sender.lower()]))
                story.tell("outbid by a foreign transaction")

    def _foreign(self, rng: random.Random, story: Story) -> None:
        key = rng.choice(self.stage.traders).key
        with suppress(LabError):
            self.lab.foreign_transaction(bytes(key.key))
            story.tell("foreign use of the key")

    def _reorg(self, rng: random.Random, story: Story) -> None:
        self.lab.release_mining()
        depth = rng.randint(1, 6)
        fates = [Fate.KEPT, Fate.LATER, Fate.SOONER, Fate.DROPPED, Fate.RETURNED]
        ours = {trader.key.address.lower() for trader in self.stage.traders}
        self.lab.reorg(depth, lambda tx: rng.choice(fates) if tx.sender.lower() in ours else Fate.KEPT)
        story.tell(f"reorg: {depth} blocks")

    def _stuck(self, rng: random.Random, story: Story) -> None:
        self.lab.hold_mining()
        self.lab.set_base_fee(rng.randint(2, 40) * 10**9)
        story.tell("the base fee rises")

    def _late(self, rng: random.Random, story: Story) -> None:
        self.world.evm.travel(rng.choice((30, 90, 200, 700)))
        story.tell("time passes")

    def _lose_journal(self, _: random.Random, story: Story) -> None:
        self.journal.close()
        for path in self.folder.glob("journal.sqlite*"):
            path.unlink()
        self._open()
        story.tell("the journal is lost")

    # What must hold

    def _converge(self, story: Story) -> None:
        for _ in range(PATIENCE):
            self._survive(lambda: self.outbox.follow(self.head()), story)
            self.world.evm.travel(25)
            self.lab.settle()
            if self.is_reconciled and not self.journal.unfinished() and not self.lab.executable():
                break
        else:
            left = [(row.state, row.account_nonce, row.last.hash) for row in self.journal.unfinished()]
            raise Broken(f"after {PATIENCE} blocks there is still {left}, pool {self.lab.pool()}")
        self.is_reconciled = False
        for _ in range(6):  # planned crashes may still come
            self._survive(lambda: None, story)
            if self.is_reconciled:
                return
        raise Broken("a reconciliation of a quiet chain does not end")

    def _hold(self) -> None:
        head = self.head()
        before = self.journal.rows()
        again = self.outbox.follow(head)
        if again.ended or again.rebroadcast or again.bumped or again.reorged or again.replaced:
            raise Broken(f"looking again changed something: {again}")
        if before != self.journal.rows() and not again.finalised:
            raise Broken("looking again changed the journal")
        for row in before:
            if row["state"] in ("signed", "sent", "intent", "reviewed"):
                raise Broken(f"decision {row['id']} has no end: {row['state']}")
        for trader in self.stage.traders:
            self._hold_for(trader, head)
        for account in {trader.key.address for trader in self.stage.traders}:
            chain = self.lab.nonce(account)
            if self.journal.next_nonce(account, chain) != chain:
                raise Broken(f"{account} is at nonce {chain}, the journal's next is higher")

    def _hold_for(self, trader: Trader, head: BlockRef) -> None:
        vault, evm = trader.strategy.vault, self.world.evm
        entries = fetch_entries(evm, self.world.ledger, vault.address, from_block=self.world.d.deployed_at_block)
        rows = [row for row in self.journal.rows(vault=vault.address) if row["outcome"] == "traded"]
        if sorted(e.id for e in entries) != sorted(row["trade_id"] for row in rows):
            raise Broken(f"the ledger has {len(entries)} trades of {vault.address}, the journal {len(rows)}")
        names = Counter(bytes(entry.fields["explanationHash"]) for entry in entries)
        if doubled := [name.hex() for name, times in names.items() if times > 1]:
            raise Broken(f"decision {doubled[0]} was traded twice")
        hashes = {entry.id: entry.transaction_hash for entry in entries}
        for row in rows:
            if hashes[row["trade_id"]] != row["transaction_hash"]:
                raise Broken(f"decision {row['id']} names another transaction than the ledger")
        tokens = {a.token: vault.functions.positionOf(a.token) for a in self.world.book.assets}
        guard, book, limits, *held = fetch_many(
            evm, [vault.functions.guard(), vault.functions.book(), vault.functions.limits(), *tokens.values()],
            block=head.number,
        )  # fmt: skip
        if guard.nonce != len(entries):
            raise Broken(f"{vault.address} has counted {guard.nonce} trades, the ledger has {len(entries)}")
        if guard.tradesToday > limits.maxTradesPerDay:
            raise Broken(f"{guard.tradesToday} trades in a day, {limits.maxTradesPerDay} are allowed")
        booked = {self.world.book.quote: book.quoteHeld, **{t: p.amount for t, p in zip(tokens, held, strict=True)}}
        for token, amount in booked.items():
            balance = evm.call(evm.at("QuoteToken", token).functions.balanceOf(vault.address))
            if balance != amount:
                raise Broken(f"{vault.address} has {balance} of {token}, its books say {amount}")
