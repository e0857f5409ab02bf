"""Before anything is done: is this the chain the journal is about, and does the journal know what the chain does?

    identify   same chain, same ledger, same genesis as last time
    abandon    what was decided and never signed is over
    follow     what was signed is sent, mined, or was replaced
    adopt      trades of our vaults that the ledger has and the journal has not are taken over: made by a daemon whose
               journal was lost, or by hand
    compare    each vault's own count of trades is the journal's

Whatever can be put right is; what can't be stops the daemon with what was found and the command that helps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hexbytes import HexBytes

from agents.errors import Halted, Misconfigured, Retryable
from agents.journal import Journal, Note
from agents.ledger import LedgerEntry, entries_in, trade_topic
from agents.node import Node
from agents.outbox import Followed, Outbox
from agents.rpc import NoAnswer, RpcError
from oracle.chain import BlockRef

log = logging.getLogger("marketflow.reconcile")

# What public nodes answer at once; fewer where one refuses.
BLOCKS_PER_REQUEST = 5_000
_CURSOR, _VAULTS = "ledger cursor", "ledger vaults"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What a start found."""

    abandoned: int
    adopted: int
    followed: Followed


class Reconciler:
    """Compares one journal with one chain. `ledger`: address of the TradeLedger; `first_block`: of the deployment."""

    def __init__(
        self, *, chain_id: int, node: Node, journal: Journal, outbox: Outbox, ledger: str, first_block: int,
        vaults: Sequence[str],
    ) -> None:  # fmt: skip
        self._chain_id, self._node, self._journal, self._outbox = chain_id, node, journal, outbox
        self._ledger, self._first_block, self._vaults = ledger, first_block, frozenset(vaults)

    def run(self, head: BlockRef, vault_nonces: Mapping[str, int]) -> Reconciled:
        """Brings the journal to where the chain is at `head`. `vault_nonces`: the trades each vault counts at `head`.

        Raises Misconfigured for a journal of another chain, Halted when what is found can't be put right, Retryable
        when the node does not answer. Can be run again at any time.
        """
        self.identify()
        abandoned = self._journal.abandon_unsigned(at_s=head.timestamp_s)
        followed = self._outbox.follow(head)
        adopted = self.adopt(head)
        if self.strange(head, vault_nonces):
            adopted += self.adopt(head, from_the_beginning=True)
        self.compare(head, vault_nonces)
        if abandoned or adopted or followed.ended:
            detail = f"{abandoned} abandoned, {adopted} adopted, {len(followed.ended)} ended, at block {head.number}"
            self._journal.note(Note.RECONCILED, "", detail, at_s=head.timestamp_s)
        return Reconciled(abandoned=abandoned, adopted=adopted, followed=followed)

    def identify(self) -> None:
        """Raises Misconfigured when the journal is about another chain or another deployment."""
        [genesis] = self._node.blocks([0])
        if genesis is None:
            raise Retryable("the node has no genesis block")
        here = {"chain id": self._chain_id, "genesis": genesis.hash, "ledger": self._ledger}
        for name, value in here.items():
            known = self._journal.fact(name)
            if known is None:
                self._journal.set_fact(name, value)
            elif known != value:
                raise Misconfigured(
                    f"the journal is about the {name} {known}, the node is about {value}: name the journal of this "
                    "chain with MARKETFLOW_JOURNAL, or begin a new one"
                )

    def adopt(self, head: BlockRef, *, from_the_beginning: bool = False) -> int:
        """Takes over trades that the ledger has and the journal has not; how many. What is final is asked only once."""
        start = first = self._first_block if from_the_beginning else self._first_unread()
        adopted, size = 0, BLOCKS_PER_REQUEST
        while first <= head.number:
            last = min(first + size - 1, head.number)
            told = self._entries(first, last)
            if told is None:
                size = (last - first + 1) // 2
                continue
            entries = [entry for entry in told if entry.vault in self._vaults]
            blocks = self._blocks_of(entries)
            with self._journal.transaction():
                adopted += self._take(entries, blocks)
                settled = min(last, head.number - self._outbox.rules.finality_blocks)
                if settled >= start:
                    self._journal.set_fact(_CURSOR, settled)
                    self._journal.set_fact(_VAULTS, sorted(self._vaults))
            first = last + 1
        return adopted

    def _first_unread(self) -> int:
        """After the cursor; from the beginning when a vault is new here, whose trades were passed over so far."""
        cursor = self._journal.fact(_CURSOR)
        if cursor is None or not self._vaults <= set(self._journal.fact(_VAULTS) or ()):
            return self._first_block
        return int(cursor) + 1

    def _take(self, entries: Sequence[LedgerEntry], blocks: Mapping[int, BlockRef]) -> int:
        known = self._journal.known_trades([entry.id for entry in entries])
        taken = 0
        for entry in entries:
            if entry.id in known:
                continue
            block = blocks[entry.block]
            if (row := self._journal.decision_of(entry.transaction_hash)) is not None:
                taken += self._journal.put_right(
                    row, trade_id=entry.id, transaction_hash=entry.transaction_hash, block_number=entry.block,
                    block_hash=block.hash, at_s=block.timestamp_s,
                )  # fmt: skip
                continue
            self._journal.adopt(
                vault=entry.vault, sequence=entry.fields["sequence"], block=entry.block, block_hash=block.hash,
                explanation_hash="0x" + bytes(entry.fields["explanationHash"]).hex(), trade_id=entry.id,
                transaction_hash=entry.transaction_hash, at_s=block.timestamp_s,
            )  # fmt: skip
            taken += 1
        return taken

    def _blocks_of(self, entries: Sequence[LedgerEntry]) -> dict[int, BlockRef]:
        """The blocks of the trades that the journal has not. Raises Retryable when the node has one no longer."""
        known = self._journal.known_trades([entry.id for entry in entries])
        numbers = sorted({entry.block for entry in entries if entry.id not in known})
        found = dict(zip(numbers, self._node.blocks(numbers), strict=True))
        if missing := [number for number, block in found.items() if block is None]:
            raise Retryable(f"the node has no block {missing[0]}, whose trade it told")
        return {number: block for number, block in found.items() if block is not None}

    def _entries(self, first: int, last: int) -> list[LedgerEntry] | None:
        """None where a node may answer for fewer blocks."""
        topics = ["0x" + trade_topic().hex()]
        query = {"address": self._ledger, "fromBlock": hex(first), "toBlock": hex(last), "topics": topics}
        [answer] = self._node.ask([("eth_getLogs", [query])])
        if isinstance(answer, RpcError):
            if last > first and not isinstance(answer, NoAnswer):
                return None
            raise Retryable(f"the node refused the ledger's events of blocks {first} to {last}: {answer.message}")
        return list(entries_in({"logs": [_log(raw) for raw in answer]}))

    def compare(self, head: BlockRef, vault_nonces: Mapping[str, int]) -> None:
        """Raises Halted when the vaults have made other trades than the journal knows, after all that could be done.
        While others agree, the one that does not is only parked, at each head."""
        strange = self.strange(head, vault_nonces)
        for vault, (nonce, ours) in strange.items():
            said = f"vault {vault} has made {nonce} trades, the journal has {ours}"
            if len(strange) == len(vault_nonces):
                raise Halted(
                    f"{said}: nothing is traded until they agree; `marketflow agent repair` reads the ledger from its "
                    "first block"
                )
            log.error("%s: it is not traded", said)

    def strange(self, head: BlockRef, vault_nonces: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Vaults that count other trades than the journal: theirs, ours."""
        ours = self._journal.trades(up_to_block=head.number)
        return {v: (nonce, ours.get(v, 0)) for v, nonce in vault_nonces.items() if ours.get(v, 0) != nonce}


def _log(raw: Any) -> dict[str, Any]:
    try:
        number, transaction = int(raw["blockNumber"], 16), HexBytes(raw["transactionHash"])
        return {**raw, "blockNumber": number, "transactionHash": transaction}
    except (KeyError, TypeError, ValueError) as error:
        raise Retryable(f"the node's log makes no sense: {error!r}") from error
