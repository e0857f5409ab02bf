"""Pays for other people's votes: takes signed ballots, checks them against the chain, sends many in one transaction.

A ballot is checked before it is taken and again before it is paid for. Nonce, ballots and signed bytes are on disk
before a node sees a transaction (`relayer_store`): a restart sends the same bytes again, and one vote is never in two
transactions that can both be mined. What became of each ballot is read from the receipt, not assumed.

    submit     one ballot: queued, or refused with a code and a sentence
    step       follow what was sent, undo what a reorganisation took, send what waits; called again and again
    status     whether it takes ballots now and, if not, why

Where Multicall3 is (https://www.multicall3.com), ballots share a transaction; elsewhere each has its own. So always has
the ballot of a voter with code: what a contract does when it is asked about a signature could use up the others' gas.
And so has one that failed among others for no reason that can be found.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eth_utils import to_checksum_address
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3Exception, Web3RPCError

from agents.ballots import (
    PENDING,
    Ballot,
    BallotRefused,
    ballot_call,
    ballot_digest,
    check_ballot,
    is_out_of_gas,
    voting_weight,
)
from agents.chain import RemoteChain
from agents.contracts import EventLog, decode_logs
from agents.deployment import Deployment
from agents.errors import Misconfigured
from agents.fees import FeePolicy, Fees, FeeTooHigh
from agents.localnet.evm import CallReverted
from agents.relayer_store import QUEUED, SENT, Batch, RelayerStore, SignedTransaction, StoredBallot
from oracle.abi import CODEC
from oracle.multicall import MULTICALL3

log = logging.getLogger("marketflow.relayer")

DAY_S: Final = 86_400
# aggregate3((address,bool,bytes)[]) of Multicall3.
_AGGREGATE3: Final = bytes.fromhex("82ad56cb")
# A vote by signature takes 97,000 gas at most (tests/contracts/gas_snapshot.json); a node's estimate is no help for
# calls that may fail: it finds the least gas with which the whole succeeds, and all of them fail.
_GAS_OF_BATCH, _GAS_OF_BALLOT, _GAS_OF_BYTE = 60_000, 160_000, 40
# An account's first vote in a block finds checkpoints to write; other contracts' signatures are estimated.
_GAS_MARGIN_PERCENT = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayerRules:
    """What the relayer's owner allows."""

    # Ballots in one transaction, and transactions that wait for a block at the same time.
    batch_size: int = 50
    max_in_flight: int = 4
    # After which a transaction that no block took is replaced by a dearer one.
    replace_after_s: int = 45
    # For how long a nonce may be used and the receipt not be there: nodes behind one address do not agree at once.
    missing_for_s: int = 60
    # Blocks in which a reorganisation is looked for.
    reorg_depth: int = 64
    max_spend_per_day_wei: int = 10**18
    # Below it no ballots are taken: enough for a few transactions must be left.
    min_balance_wei: int = 10**15
    # How often a ballot is tried that the chain should have counted, and did not.
    max_attempts: int = 3
    # What is paid for the ballot of a voter whose contract judges the signature.
    max_contract_gas: int = 1_000_000
    max_queued: int = 10_000
    fees: FeePolicy = field(default_factory=FeePolicy)


class Refused(Exception):
    """The relayer does not take the ballot. `code` is for machines."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Relayer:
    """One account of one DAO. `now_s` is the machine's clock: what the chain's decides is read from the chain."""

    def __init__(
        self, chain: RemoteChain, deployment: Deployment, signer: Any, store: RelayerStore, *,
        rules: RelayerRules | None = None, now_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:  # fmt: skip
        self._chain, self._deployment, self._signer, self._store = chain, deployment, signer, store
        self._rules, self._now_s = rules or RelayerRules(), now_s
        self._taking, self._stepping = threading.Lock(), threading.Lock()
        self._has_multicall = bool(chain.w3.eth.get_code(to_checksum_address(MULTICALL3)))
        self._why_not = ""
        # Of voters, in this step: an account may get code later.
        self._has_code: dict[str, bool] = {}
        # Batches whose nonce is used and whose receipt nobody shows, and since when.
        self._missing_since_s: dict[int, int] = {}

    # Taking ballots

    def submit(self, document: Mapping[str, Any]) -> tuple[StoredBallot, bool]:
        """The ballot as it is kept, and whether it is new. Raises Refused."""
        try:
            ballot = Ballot.from_dict(document)
        except Misconfigured as error:
            raise Refused("malformed", str(error)) from error
        ballot_id = "0x" + ballot_digest(self._deployment, ballot).hex()
        if (known := self._store.ballot(ballot_id)) and known.status != "failed" and self._is_ours(ballot):
            return known, False
        try:
            check_ballot(self._chain, self._deployment, ballot)
            weight = voting_weight(
                self._chain, self._deployment, ballot.proposal_id, ballot.voter, is_early_ok=True
            )
        except BallotRefused as error:
            raise Refused(error.code, str(error)) from error
        if weight == 0:
            raise Refused("powerless", f"{ballot.voter} has no votes: delegate before the vote begins")
        if why := self.why_not():
            raise Refused("not_accepting", f"the relayer takes no ballots now: {why}; vote directly, or try later")
        with self._taking:
            if others := [b for b in self._store.waiting_of(ballot.voter) if b.id != ballot_id]:
                raise Refused(
                    "replayed",
                    f"another ballot of {ballot.voter} is on its way ({others[0].id}): sign this one again when it is "
                    "counted, with the nonce that is next then",
                )
            return self._store.add(ballot_id, ballot.to_dict(), now_s=self._now_s()), True

    def ballot(self, ballot_id: str) -> StoredBallot | None:
        return self._store.ballot(ballot_id)

    def _is_ours(self, ballot: Ballot) -> bool:
        return (ballot.chain_id, ballot.dao) == (self._deployment.chain_id, self._deployment.dao)

    def why_not(self) -> str:
        """Why no ballots are taken now; empty when they are."""
        if self._store.count(QUEUED) >= self._rules.max_queued:
            return "too many wait already"
        balance_wei = self._chain.w3.eth.get_balance(self._signer.address)
        if balance_wei < self._rules.min_balance_wei:
            return "its account has too little ether"
        if self._spent_wei() >= self._rules.max_spend_per_day_wei:
            return "what it may spend in a day is spent"
        return self._why_not

    def status(self) -> dict[str, Any]:
        """As the API answers."""
        why_not = self.why_not()
        return {
            "chain_id": self._deployment.chain_id, "dao": self._deployment.dao, "relayer": self._signer.address,
            "accepting": not why_not, "why_not": why_not or None, "queued": self._store.count(QUEUED),
            "sent": self._store.count(SENT), "batch_size": self._batch_size(),
        }  # fmt: skip

    # Sending

    def step(self) -> None:
        """Raises what the node raises; nothing is lost, the next step goes on."""
        with self._stepping:
            self._has_code.clear()
            self._undo_reorganised()
            for batch in self._store.batches("open"):
                self._follow(batch)
            self._send_waiting()

    def _undo_reorganised(self) -> None:
        head = self._chain.w3.eth.block_number
        for batch in self._store.batches("mined", since_block=max(0, head - self._rules.reorg_depth)):
            receipt = self._receipt_of(batch)
            if receipt is None or bytes(receipt["blockHash"]).hex() != batch.block_hash:
                log.warning("block %s with nonce %s is gone: its ballots wait again", batch.block, batch.nonce)
                self._store.reopen(batch)

    def _follow(self, batch: Batch) -> None:
        # The nonce first: a transaction that is mined between the two questions has a receipt.
        next_nonce = self._chain.w3.eth.get_transaction_count(self._signer.address)
        if (receipt := self._receipt_of(batch)) is not None:
            self._missing_since_s.pop(batch.id, None)
            self._settle(batch, receipt)
        elif next_nonce <= batch.nonce:
            self._missing_since_s.pop(batch.id, None)
            self._send_again(batch)
        elif self._now_s() - self._missing_since_s.setdefault(batch.id, self._now_s()) >= self._rules.missing_for_s:
            log.warning("something else used nonce %s of %s", batch.nonce, self._signer.address)
            del self._missing_since_s[batch.id]
            self._store.abandon(batch)

    def _send_again(self, batch: Batch) -> None:
        newest = batch.transactions[-1]
        if self._now_s() - newest.signed_at_s >= self._rules.replace_after_s:
            before = Fees(tip_wei=newest.tip_wei, max_fee_wei=newest.max_fee_wei)
            fees = self._rules.fees.higher(before, self._base_fee_wei(), self._chain.w3.eth.max_priority_fee)
            if fees is not None:
                ballots = [Ballot.from_dict(b.document) for b in batch.ballots]
                newest = self._sign(batch.nonce, ballots, fees, self._gas_of(ballots))
                self._store.replace(batch, newest)
        self._broadcast(newest)

    def _settle(self, batch: Batch, receipt: Mapping[str, Any]) -> None:
        cast = {(e.args["voter"], e.args["proposalId"]) for e in decode_logs(receipt) if _is_vote(e)}
        counted, failed, again = [], {}, []
        for stored in batch.ballots:
            ballot = Ballot.from_dict(stored.document)
            if (ballot.voter, ballot.proposal_id) in cast:
                counted.append(stored.id)
            elif why := self._problem(ballot):
                failed[stored.id] = why
            elif stored.attempts + 1 >= self._rules.max_attempts:
                failed[stored.id] = "the chain did not count it, and does not say why: vote directly"
            else:
                again.append(stored.id)
        self._store.settle(
            batch, transaction=Web3.to_hex(receipt["transactionHash"]), block=receipt["blockNumber"],
            block_hash=bytes(receipt["blockHash"]).hex(), counted=counted, failed=failed, again=again,
            cost_wei=receipt["gasUsed"] * receipt.get("effectiveGasPrice", 0),
        )  # fmt: skip

    def _problem(self, ballot: Ballot) -> str:
        """Why the chain would refuse the ballot now; empty when it would not."""
        try:
            check_ballot(self._chain, self._deployment, ballot)
            voting_weight(self._chain, self._deployment, ballot.proposal_id, ballot.voter)
        except BallotRefused as error:
            return str(error)
        return ""

    def _send_waiting(self) -> None:
        self._why_not = ""
        while len(in_flight := self._store.batches("open")) < self._rules.max_in_flight:
            if not (ready := self._ready()):
                return
            chosen = self._counted_in_rehearsal(ready)
            if not chosen:
                continue  # those that were not have failed; others may be behind them
            try:
                fees = self._rules.fees.first(self._base_fee_wei(), self._chain.w3.eth.max_priority_fee)
            except FeeTooHigh:
                self._why_not = "gas costs more than it may pay"
                return
            ballots = [Ballot.from_dict(stored.document) for stored in chosen]
            gas = self._gas_of(ballots)
            if self._spent_wei() + gas * fees.max_fee_wei > self._rules.max_spend_per_day_wei:
                self._why_not = "what it may spend in a day would be exceeded"
                return
            nonces = [batch.nonce + 1 for batch in in_flight]
            nonce = max([self._chain.w3.eth.get_transaction_count(self._signer.address), *nonces])
            transaction = self._sign(nonce, ballots, fees, gas)
            self._store.open_batch(nonce, [stored.id for stored in chosen], transaction)
            self._broadcast(transaction)

    def _ready(self) -> list[StoredBallot]:
        """Ballots whose vote is open, as many as may share a transaction."""
        dao = self._deployment.contract(self._chain, "dao").functions
        states: dict[str, int] = {}
        found: list[StoredBallot] = []
        for stored in self._store.queued(self._rules.max_queued):
            proposal = stored.document["proposal_id"]
            if proposal not in states:
                states[proposal] = self._chain.call(dao.state(int(proposal)))
            if states[proposal] == PENDING:
                continue
            if stored.attempts or self._is_contract(stored.document["voter"]):
                if not found:
                    return [stored]
                continue
            found.append(stored)
            if len(found) == self._batch_size():
                break
        return found

    def _counted_in_rehearsal(self, stored: Sequence[StoredBallot]) -> list[StoredBallot]:
        """Those that the chain would count if they were sent now; the others fail with the reason or, when there is
        none, are tried alone."""
        ballots = [Ballot.from_dict(b.document) for b in stored]
        counted = []
        for one, ballot, does_pass in zip(stored, ballots, self._rehearse(ballots), strict=True):
            if does_pass:
                counted.append(one)
            elif (why := self._problem(ballot)) or len(stored) == 1:
                self._store.fail(one.id, why or "the chain refuses it, and does not say why: vote directly")
            else:
                self._store.try_again(one.id)
        return counted

    def _rehearse(self, ballots: Sequence[Ballot]) -> list[bool]:
        sender = self._signer.address
        if not self._has_multicall:
            return [self._does_pass(ballot_call(self._chain, self._deployment, b)) for b in ballots]
        request = {"to": MULTICALL3, "data": self._batch_data(ballots), "gas": self._gas_of(ballots)}
        try:
            answer = self._chain.call(request, sender)
        except Web3RPCError as error:
            if not is_out_of_gas(error):
                raise
            return [False] * len(ballots)
        [results] = CODEC.decode(["(bool,bytes)[]"], answer)
        return [ok for ok, _ in results]

    def _does_pass(self, call: Any) -> bool:
        try:
            self._chain.call(call, self._signer.address)
        except CallReverted:
            return False
        except Web3RPCError as error:
            if not is_out_of_gas(error):
                raise
            return False
        return True

    # Transactions

    def _batch_size(self) -> int:
        return self._rules.batch_size if self._has_multicall else 1

    def _sign(self, nonce: int, ballots: Sequence[Ballot], fees: Fees, gas: int) -> SignedTransaction:
        if self._has_multicall:
            to, data = MULTICALL3, self._batch_data(ballots)
        else:
            to, data = self._deployment.dao, _data(ballot_call(self._chain, self._deployment, ballots[0]))
        signed = self._signer.sign_transaction(
            {
                "from": self._signer.address, "to": to, "data": data, "value": 0, "nonce": nonce,
                "chainId": self._deployment.chain_id, "gas": gas,
                "maxPriorityFeePerGas": fees.tip_wei, "maxFeePerGas": fees.max_fee_wei,
            }
        )  # fmt: skip
        return SignedTransaction(
            hash="0x" + bytes(signed.hash).hex(), raw=bytes(signed.raw_transaction), tip_wei=fees.tip_wei,
            max_fee_wei=fees.max_fee_wei, signed_at_s=self._now_s(),
        )  # fmt: skip

    def _batch_data(self, ballots: Sequence[Ballot]) -> str:
        calls = [ballot_call(self._chain, self._deployment, ballot) for ballot in ballots]
        rows = [(self._deployment.dao, True, bytes.fromhex(_data(call)[2:])) for call in calls]
        return "0x" + (_AGGREGATE3 + CODEC.encode(["(address,bool,bytes)[]"], [rows])).hex()

    def _gas_of(self, ballots: Sequence[Ballot]) -> int:
        return _GAS_OF_BATCH + sum(map(self._gas_of_ballot, ballots))

    def _gas_of_ballot(self, ballot: Ballot) -> int:
        fixed = _GAS_OF_BALLOT + _GAS_OF_BYTE * (len(ballot.reason.encode()) + len(ballot.signature))
        if not self._is_contract(ballot.voter):
            return fixed
        call = ballot_call(self._chain, self._deployment, ballot)
        request = {"from": self._signer.address, "to": self._deployment.dao, "data": _data(call)}
        try:
            estimate = self._chain.w3.eth.estimate_gas(request) * _GAS_MARGIN_PERCENT // 100
        except (Web3Exception, ValueError):  # it reverts: the rehearsal finds out
            return fixed
        return min(max(fixed, estimate), self._rules.max_contract_gas)

    def _is_contract(self, voter: str) -> bool:
        if voter not in self._has_code:
            self._has_code[voter] = bool(self._chain.w3.eth.get_code(to_checksum_address(voter)))
        return self._has_code[voter]

    def _broadcast(self, transaction: SignedTransaction) -> None:
        try:
            self._chain.w3.eth.send_raw_transaction(transaction.raw)
        except Web3RPCError as error:  # known already, or its nonce is used: the next step sees which
            log.info("the node did not take %s: %s", transaction.hash, error)

    def _receipt_of(self, batch: Batch) -> Mapping[str, Any] | None:
        for transaction in reversed(batch.transactions):
            try:
                return self._chain.w3.eth.get_transaction_receipt(transaction.hash)
            except TransactionNotFound:
                continue
        return None

    def _base_fee_wei(self) -> int:
        return int(self._chain.w3.eth.get_block("latest").get("baseFeePerGas", 0))

    def _spent_wei(self) -> int:
        return self._store.spent_since_wei(self._now_s() - DAY_S)


class Worker:
    """Steps in a thread of its own until it is stopped. A node that fails is asked again, less and less often."""

    def __init__(self, relayer: Relayer, *, interval_s: float = 1.0, longest_pause_s: float = 30.0) -> None:
        self._relayer, self._interval_s, self._longest_s = relayer, interval_s, longest_pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relayer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends after the step it is in."""
        self._stop.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        pause_s = self._interval_s
        while not self._stop.wait(pause_s):
            try:
                self._relayer.step()
                pause_s = self._interval_s
            except Exception as error:  # whatever it is, ballots are on disk
                pause_s = min(2 * pause_s, self._longest_s)
                log.warning("could not send now (%s): again in %.0f s", error, pause_s)


def _is_vote(event: EventLog) -> bool:
    return event.name in ("VoteCast", "VoteCastWithParams")


def _data(call: Any) -> str:
    return str(call._encode_transaction_data())
