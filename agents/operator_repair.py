"""`marketflow agent repair`: brings a journal back to what the chain says, after what a start does not put right.

    plan       looks at everything, changes nothing, refuses with the reason when it could not end well
    carry_out  reopens what a deep reorg took, reads the ledger from its first block, follows until nothing changes

The journal is held by this process alone from before the plan until after the repair, so that what was planned is what
is done. Repeated, it finds nothing to do. Not promised: that orders that wait are mined; they are followed on by the
daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.assembly import Assembly
from agents.errors import Halted, Misconfigured, Retryable
from agents.fees import FeeTooHigh
from agents.journal import Journal
from agents.ledger import LedgerEntry
from agents.operator_checks import (
    ETHER_DECIMALS,
    broken_ledgers,
    entries_by_vault,
    journal_mismatch,
    nonces_waiting,
    trade_cost,
)
from agents.operator_look import journal_rows, require_seen
from agents.operator_view import amount, count
from agents.outbox import Followed
from agents.rpc import RpcError
from oracle.chain import BlockRef

# After so many looks the rest is left to the daemon.
MAX_ROUNDS = 20
_BLOCKS_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a repair would do. `reopen_after`: the last block that journal and chain have in common, None when they
    share all; `gaps`: nonces that nobody uses, by account."""

    head: BlockRef
    reopen_after: int | None
    reopened: int
    abandoned: int
    followed: int
    adopted: tuple[str, ...]
    gaps: Mapping[str, int]

    @property
    def is_empty(self) -> bool:
        return self.reopen_after is None and not (self.abandoned or self.followed or self.adopted or self.gaps)

    def view(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "block": self.head.number, "reopen_after": self.reopen_after, "reopened": self.reopened,
            "abandoned": self.abandoned, "followed": self.followed, "adopted": list(self.adopted),
            "gaps": dict(self.gaps),
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """The same, for people."""
        if self.reopen_after is not None:
            yield (
                f"reopen {count(self.reopened, 'decision')} after block {self.reopen_after}, the last one that the "
                "journal and the chain have in common"
            )
        if self.abandoned:
            yield f"abandon {count(self.abandoned, 'decision')} that were never signed"
        if self.adopted:
            yield f"take {count(len(self.adopted), 'trade')} over from the ledger, which the journal does not have"
        if self.followed:
            yield f"follow {count(self.followed, 'order')}: read what became of each, or send the same bytes again"
        for account, nonce in self.gaps.items():
            yield f"use up nonce {nonce} of {account} with a poke of its vault, so that what waits behind it is mined"


@dataclass(slots=True, kw_only=True)
class Repaired:
    """What was done. `waiting`: orders that no block has taken yet; they are the daemon's."""

    reopened: int = 0
    abandoned: int = 0
    adopted: int = 0
    ended: int = 0
    reorged: int = 0
    waiting: int = 0


# Looking


def plan_repair(assembly: Assembly) -> Plan:
    """What is to be done; nothing is changed. The assembly has the keys, and the journal exclusively.

    Raises Misconfigured, Halted or Retryable with the precondition that does not hold and the way out.
    """
    _require_sound(assembly)
    seen = require_seen(assembly)
    assert seen.head is not None
    wrong = _blocks_not_on_chain(assembly, seen.head)
    entries = entries_by_vault(assembly, seen.head)
    _require_true_ledger(assembly, entries, seen.head)
    reopen_after = min(wrong) - 1 if wrong else None
    unknown = _unknown(assembly, entries)
    _require_explained(assembly, entries, seen.head, reopen_after)
    gaps = _gaps(assembly)
    _require_means(assembly, gaps)
    journal = assembly.journal
    return Plan(
        head=seen.head, reopen_after=reopen_after, reopened=_reopened(assembly, reopen_after),
        abandoned=len(journal.rows(state="intent")) + len(journal.rows(state="reviewed")),
        followed=len(journal.unfinished()), adopted=tuple(unknown), gaps=gaps,
    )  # fmt: skip


def _require_sound(assembly: Assembly) -> None:
    """The file is whole, about this chain, and the node knows as much of it as the journal."""
    assembly.journal.check()
    if said := journal_mismatch(assembly):
        raise Misconfigured(f"{said}: name the journal of this chain with MARKETFLOW_JOURNAL")
    [syncing] = assembly.node.ask([("eth_syncing", [])])
    if syncing and not isinstance(syncing, RpcError):
        raise Retryable("the node is still syncing: wait, or name another with MARKETFLOW_RPC_URLS")
    head, newest = assembly.node.head(), _newest_block(assembly)
    if head.number < newest:
        raise Retryable(
            f"the node is behind: its head is block {head.number}, the journal has seen block {newest}: wait, "
            "or name another with MARKETFLOW_RPC_URLS"
        )


def _newest_block(assembly: Assembly) -> int:
    checkpoint = assembly.journal.fact("checkpoint")
    seen = (max(row["block"], row["block_number"] or 0) for row in journal_rows(assembly.journal))
    return max(seen, default=0) if checkpoint is None else max(checkpoint["number"], max(seen, default=0))


def _blocks_not_on_chain(assembly: Assembly, head: BlockRef) -> set[int]:
    """Heights at which the journal remembers another block than the chain has."""
    remembered = {
        (row["block_number"], row["block_hash"])
        for row in journal_rows(assembly.journal)
        if row["state"] in ("mined", "final") and row["block_number"] is not None and row["block_hash"]
    }
    if checkpoint := assembly.journal.fact("checkpoint"):
        remembered.add((checkpoint["number"], checkpoint["hash"]))
    numbers = sorted({number for number, _ in remembered if number <= head.number})
    chain: dict[int, str] = {}
    for start in range(0, len(numbers), _BLOCKS_AT_ONCE):
        part = numbers[start : start + _BLOCKS_AT_ONCE]
        found = assembly.node.blocks(part)
        chain |= {number: block.hash for number, block in zip(part, found, strict=True) if block}
    return {number for number, block_hash in remembered if chain.get(number) != block_hash}


def _require_true_ledger(
    assembly: Assembly, entries: Mapping[str, Sequence[LedgerEntry]], head: BlockRef
) -> None:
    for said in broken_ledgers(assembly, entries, head).values():
        raise Halted(f"{said}: the node leaves events out or invents them, name another with MARKETFLOW_RPC_URLS")


def _unknown(assembly: Assembly, entries: Mapping[str, Sequence[LedgerEntry]]) -> list[str]:
    """Trades of the ledger that the journal has not, or takes for something else."""
    journal = assembly.journal
    known = journal.known_trades(entry.id for found in entries.values() for entry in found)
    return [
        entry.id
        for found in entries.values()
        for entry in found
        if entry.id not in known and not _is_under_way(journal, entry)
    ]


def _is_under_way(journal: Journal, entry: LedgerEntry) -> bool:
    """Whether the trade is of a decision of ours whose end is not known yet: following it will tell."""
    row = journal.decision_of(entry.transaction_hash)
    return row is not None and journal.rows(id=row)[0]["state"] in ("signed", "sent")


def _require_explained(
    assembly: Assembly, entries: Mapping[str, Sequence[LedgerEntry]], head: BlockRef, reopen_after: int | None
) -> None:
    """A trade that the journal has in a block of this chain must be in the ledger; what a reorg took need not."""
    there = {entry.id for found in entries.values() for entry in found}
    for row in journal_rows(assembly.journal):
        place = row["block_number"]
        if row["outcome"] != "traded" or row["account"] == "paper" or row["vault"] not in entries:
            continue
        is_settled = place is None or place <= (head.number if reopen_after is None else reopen_after)
        if is_settled and row["trade_id"] not in there:
            raise Halted(
                f"decision {row['id']} is a trade of vault {row['vault']} in block {place}, and the ledger has no such "
                "entry: that can't be repaired; begin a new journal with MARKETFLOW_JOURNAL, the ledger is taken over"
            )


def _reopened(assembly: Assembly, after: int | None) -> int:
    if after is None:
        return 0
    rows = journal_rows(assembly.journal)
    return sum(row["state"] in ("mined", "final") and (row["block_number"] or 0) > after for row in rows)


def _gaps(assembly: Assembly) -> dict[str, int]:
    """Nonces that the chain waits for and nobody has used, by account. One that the journal gave out is no gap: its
    own transaction is sent again."""
    waiting, journal = nonces_waiting(assembly.journal), assembly.journal
    latest, pending = (assembly.node.nonces(sorted(waiting), block) for block in ("latest", "pending"))
    return {
        account: latest[account]
        for account, nonces in waiting.items()
        if min(nonces) > latest[account] >= pending[account] and not journal.gave_out(account, latest[account])
    }


def _require_means(assembly: Assembly, gaps: Mapping[str, int]) -> None:
    """Who fills a gap needs the key and ether."""
    if not gaps:
        return
    cost_wei = trade_cost(assembly)
    if isinstance(cost_wei, FeeTooHigh):
        raise cost_wei
    balances = assembly.node.balances(sorted(gaps))
    for account, nonce in gaps.items():
        if account not in assembly.outbox.signers:
            raise Misconfigured(
                f"nonce {nonce} of {account} has to be used up, and no agent has that key: name it in MARKETFLOW_AGENTS"
            )
        if balances[account] < cost_wei:
            has, needed = (amount(wei, ETHER_DECIMALS) for wei in (balances[account], cost_wei))
            raise Misconfigured(f"account {account} has {has} ether, up to {needed} are needed: send it some")


# Doing


def carry_out(assembly: Assembly, plan: Plan, *, pause: Callable[[], None]) -> Repaired:
    """Does it. `pause` waits for a block. Raises Halted when journal and vaults still differ afterwards, Retryable when
    the node stops answering: both leave a journal that can be repaired again."""
    done, journal, at_s = Repaired(), assembly.journal, plan.head.timestamp_s
    if plan.is_empty:
        return done
    assembly.reconciler.identify()
    after = plan.head.number if plan.reopen_after is None else plan.reopen_after
    done.reopened = journal.reopen(after, at_s=at_s)
    done.abandoned = journal.abandon_unsigned(at_s=at_s)
    rules = assembly.outbox.rules
    assembly.outbox.rules = replace(rules, stuck_after_s=0)  # a gap is filled now, not when it has been one for long
    try:
        _converge(assembly, done, pause)
    finally:
        assembly.outbox.rules = rules
    done.waiting = len(journal.unfinished())
    return done


def _converge(assembly: Assembly, done: Repaired, pause: Callable[[], None]) -> None:
    """Looks until a look changes nothing, then compares."""
    for turn in range(MAX_ROUNDS):
        seen = require_seen(assembly)
        assert seen.head is not None
        followed = assembly.outbox.follow(seen.head)
        adopted = assembly.reconciler.adopt(seen.head)
        done.ended += len(followed.ended)
        done.reorged += followed.reorged
        done.adopted += adopted
        if turn and not adopted and not _has_changed(followed):
            break
        if assembly.journal.unfinished():
            pause()
    nonces = {vault: reading.nonce for vault, reading in seen.readings.items() if not isinstance(reading, str)}
    if assembly.reconciler.strange(seen.head, nonces):
        done.adopted += assembly.reconciler.adopt(seen.head, from_the_beginning=True)
    for vault, (theirs, ours) in assembly.reconciler.strange(seen.head, nonces).items():
        raise Halted(f"vault {vault} has made {theirs} trades, the journal has {ours}, after all that could be done")


def _has_changed(followed: Followed) -> bool:
    return bool(followed.ended or followed.reorged or followed.replaced or followed.rebroadcast or followed.bumped)
