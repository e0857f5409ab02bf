"""A deployment that may be interrupted at any moment, and goes on where it was.

Two things make that safe. Everything that is sent is written down first, signed: what may be on its way is known after
a crash, and is waited for, or sent again, never made a second time with another nonce. And the chain has the last word:
a step is done when its code, transfer or allowance is there, whatever the file says; a reorg undoes it for both.

Not promised: that somebody else who holds the deployer's key does not interfere. A nonce of theirs in place of ours is
noticed, and the step is signed anew once no reorg of `confirmations` blocks can bring the first back.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from eth_utils import keccak, to_bytes, to_checksum_address
from web3.exceptions import TransactionNotFound, Web3RPCError
from web3.utils.address import get_create_address

from agents.chain import GAS_MARGIN, GAS_MARGIN_PERCENT, RemoteChain
from agents.contracts import load_artifact
from agents.deployment import (
    CONTRACTS,
    Chain,
    Deployment,
    Genesis,
    Step,
    deployer_contract_at,
    deployer_step,
    deployment_steps,
    locate,
)
from agents.errors import Misconfigured, Retryable
from agents.localnet.evm import CallReverted, Receipt, TransactionReverted
from agents.localnet.market import AddressBook
from agents.logs import fetch_logs

FORMAT = "marketflow/deploying/1"
# Nodes take a replacement that offers a tenth more for everything.
BUMP_PERCENT = 25
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 2.0
# An account that has deployed this often is a test's.
MAX_RUNS = 1000
_TRANSFER, _FUNDED, _BOUNTY_FUNDED = (
    "0x" + keccak(text=event).hex()
    for event in ("Transfer(address,address,uint256)", "Funded(address,uint256)", "BountyFunded(address,uint256)")
)
# What nodes say of a transaction that they have, had, or do not take for what it offers now: waiting helps, or more.
_TAKEN = (
    "already known", "already imported", "known transaction", "nonce too low", "underpriced",
    "less than block base fee",
)  # fmt: skip


class NonceTaken(Retryable):
    """The nonce that was to create the `Deployer` made something else: everything will be at other addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A signed transaction. Those of one step with one nonce replace each other: one of them is mined at most."""

    step: str
    nonce: int
    hash: str
    raw: str
    gas: int
    tip_wei: int
    max_fee_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A deployment that has begun: all it was decided on, and all that was signed for it."""

    chain_id: int
    deployer: str
    deployer_contract: str
    # Number of this account's deployment through the CREATE2 proxy; None where there is no proxy.
    run: int | None
    # What then creates the `Deployer`.
    creation_nonce: int | None
    # All times in constructor arguments count from here.
    decided_at_s: int
    started_at_block: int
    # Plain values, as `plain` makes them.
    genesis: Mapping[str, Any]
    market: Mapping[str, Any]
    # keccak of each contract's creation code, without arguments.
    code: Mapping[str, str]
    # Gas of each step as rehearsed, the `Deployer`'s first.
    gas: tuple[int, ...]
    attempts: tuple[Attempt, ...] = ()

    def of(self, step: Step) -> list[Attempt]:
        """What was signed for a step, oldest first."""
        return [attempt for attempt in self.attempts if attempt.step == step.name]

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        raw = json.loads(text)
        if raw.pop("format") != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        attempts = tuple(Attempt(**attempt) for attempt in raw.pop("attempts"))
        return cls(**raw | {"gas": tuple(raw["gas"]), "attempts": attempts})

    @property
    def book(self) -> AddressBook:
        """The market that it is deployed on."""
        return AddressBook.from_dict(self.market)


class ProgressFile:
    """`<network>.partial.json`: written whole or not at all, and on the disk before anything is sent."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Progress | None:
        """None when no deployment has begun. Raises Misconfigured when what is there can't be read."""
        try:
            return Progress.from_json(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Misconfigured(
                f"{self.path} is not the progress of a deployment ({error}): restore it, or move it away; "
                "what is on the chain already is found there"
            ) from error

    def save(self, progress: Progress) -> None:
        """Raises Misconfigured when it can't: nothing may be sent then."""
        temporary = self.path.with_suffix(".json.new")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(progress.to_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise Misconfigured(
                f"{self.path} can't be written ({error.strerror}), so nothing more was sent: free space there, and run "
                "the command again"
            ) from error

    def set_aside(self) -> None:
        """Keeps what was signed for an abandoned deployment: some of it may be mined yet."""
        for number in range(1, MAX_RUNS):
            kept = self.path.with_suffix(f".{number}.json")
            if not kept.exists():
                self.path.rename(kept)
                return

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raises Misconfigured while another process deploys from this folder."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise Misconfigured(f"another process deploys from {self.path.parent}: wait for it") from None
        finally:
            os.close(folder)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def plain(genesis: Genesis) -> dict[str, Any]:
    """A configuration as JSON keeps it."""
    caps = {token or "token": cap for token, cap in genesis.outflow_caps.items()}
    found: dict[str, Any] = json.loads(json.dumps({**asdict(replace(genesis, outflow_caps={})), "outflow_caps": caps}))
    return found


def code_hashes(genesis: Genesis) -> dict[str, str]:
    """What the repository's byte code is, by contract."""
    names = ["Deployer", *CONTRACTS.values(), *(["TokenGrant"] if genesis.grants else [])]
    return {name: "0x" + keccak(load_artifact(name).bytecode).hex() for name in names}


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Which leaves of two plain values differ, one sentence each."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            yield from differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif before != now:
        yield f"{where} was {json.dumps(before)}, is {json.dumps(now)}"


# What to send


def begin(
    chain: Chain, *, deployer: str, genesis: Genesis, book: AddressBook, decided_at_s: int, gas: Sequence[int],
    run: int | None, nonce: int,
) -> Progress:  # fmt: skip
    """A deployment that nothing was sent for. `run`: see `Progress`; `nonce`: the account's next."""
    created = get_create_address(to_checksum_address(deployer), nonce)
    return Progress(
        chain_id=chain.w3.eth.chain_id,
        deployer=deployer,
        deployer_contract=to_checksum_address(created) if run is None else deployer_contract_at(deployer, run),
        run=run,
        creation_nonce=nonce if run is None else None,
        decided_at_s=decided_at_s,
        started_at_block=chain.w3.eth.block_number,
        genesis=plain(genesis),
        market=book.to_dict(),
        code=code_hashes(genesis),
        gas=tuple(gas),
    )


def plan(chain: Chain, progress: Progress, genesis: Genesis) -> tuple[Deployment, list[Step]]:
    """Where everything will be, and every transaction that puts it there."""
    deployment = locate(
        chain_id=progress.chain_id, at_block=progress.started_at_block, deployer=progress.deployer,
        deployer_contract=progress.deployer_contract, genesis=genesis,
    )  # fmt: skip
    first = deployer_step(deployer=progress.deployer, run=progress.run, address=progress.deployer_contract)
    return deployment, [first, *deployment_steps(chain, genesis, deployment, decided_at_s=progress.decided_at_s)]


def moved(chain: Chain, progress: Progress) -> Progress:
    """The same at other addresses, after the nonce of its `Deployer` was taken. Nothing of it is on the chain."""
    nonce = int(chain.w3.eth.get_transaction_count(to_checksum_address(progress.deployer), "pending"))
    created = to_checksum_address(get_create_address(to_checksum_address(progress.deployer), nonce))
    return replace(progress, creation_nonce=nonce, deployer_contract=created, attempts=())


# What is there


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOut:
    """What the deployer has given away, as the chain's events have it. Holders may have passed it on since."""

    # Token wei by receiver.
    shares: Mapping[str, int]
    fund_wei: int
    bounties_wei: int


def fetch_handed_out(chain: Chain, d: Deployment) -> HandedOut:
    """Of the deployer's transfers and payments since the deployment began."""
    deployer = "0x" + d.deployer[2:].lower().rjust(64, "0")
    received: dict[str, int] = {}
    for log in fetch_logs(chain, d.token, [_TRANSFER, deployer], from_block=d.deployed_at_block):
        receiver = to_checksum_address(bytes(log["topics"][2])[12:])
        received[receiver] = received.get(receiver, 0) + int.from_bytes(log["data"], "big")
    paid = {
        event: sum(
            int.from_bytes(log["data"], "big")
            for log in fetch_logs(chain, d.pool, [event, deployer], from_block=d.deployed_at_block)
        )
        for event in (_FUNDED, _BOUNTY_FUNDED)
    }
    return HandedOut(shares=received, fund_wei=paid[_FUNDED], bounties_wei=paid[_BOUNTY_FUNDED])


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A deployment that the chain shows though no file does."""

    run: int
    decided_at_s: int
    started_at_block: int


def next_run(chain: Chain, deployer: str) -> int:
    """The first of the account's deployments through the CREATE2 proxy that has no `Deployer` yet."""
    for run in range(MAX_RUNS):
        if not _has_code(chain, deployer_contract_at(deployer, run)):
            return run
    raise Misconfigured(f"account {deployer} has deployed {MAX_RUNS} times: use another")


def find_begun(chain: Chain, deployer: str, genesis_at: Callable[[int], Genesis]) -> Begun | None:
    """The account's last deployment, when a contract of it is there. `genesis_at`: the configuration, decided then."""
    run = next_run(chain, deployer) - 1
    if run < 0:
        return None
    now_s = chain.now_s()
    genesis = genesis_at(now_s)
    d = locate(
        chain_id=chain.w3.eth.chain_id, at_block=0, deployer=deployer,
        deployer_contract=deployer_contract_at(deployer, run), genesis=genesis,
    )  # fmt: skip
    if not _has_code(chain, d.token):
        return Begun(run=run, decided_at_s=now_s, started_at_block=chain.w3.eth.block_number)
    nobody = "0x" + 64 * "0"
    minted = fetch_logs(chain, d.token, [_TRANSFER, nobody], from_block=None)
    return Begun(run=run, decided_at_s=_decided_at(chain, d, genesis, now_s), started_at_block=minted[0]["blockNumber"])


def _decided_at(chain: Chain, d: Deployment, genesis: Genesis, now_s: int) -> int:
    """The moment that what is there was made with; now, when nothing that depends on it is there."""
    if _has_code(chain, d.pool):
        return int(chain.call(d.contract(chain, "pool").functions.genesis()))
    if _has_code(chain, d.constitution):
        until_s = int(chain.call(d.contract(chain, "constitution").functions.guardianExpiresAt()))
        return until_s - genesis.guardian_term_s
    return now_s


def _has_code(chain: Chain, address: str) -> bool:
    return bool(chain.w3.eth.get_code(to_checksum_address(address)))


# Sending


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait. Seconds of this machine's clock; blocks."""

    # A transaction that no block took for so long is offered more.
    bump_after_s: float = 60
    give_up_after_s: float = 1800
    # Blocks after which what was mined is taken to stay.
    confirmations: int = 0


class Deploying:
    """Carries out the steps of a deployment, from wherever it is to its end.

    `say` gets one line for each transaction. `sender` is a signer as `RemoteChain` takes them.
    """

    def __init__(
        self, chain: RemoteChain, sender: Any, file: ProgressFile, progress: Progress, genesis: Genesis,
        *, patience: Patience = Patience(), say: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._chain, self._sender, self._file, self._patience, self._say = chain, sender, file, patience, say
        self.progress = progress
        self.deployment, self.steps = plan(chain, progress, genesis)
        self._handed_out: HandedOut | None = None

    def run(self) -> Deployment:
        """Until every step is done, and `confirmations` blocks lie on the last.

        Raises NonceTaken, Misconfigured (there is no ether), CallReverted, TransactionReverted, Retryable; whatever it
        raises, the same again goes on from there.
        """
        while True:
            for number, step in enumerate(self.steps, start=1):
                if not self.is_done(step):
                    self._carry_out(step)
                    self._say(f"  {number}/{len(self.steps)} {step.name}")
            self._wait_for_confirmations()
            self._handed_out = None
            if all(map(self.is_done, self.steps)):
                return self.deployment
            self._say("  the chain has taken back some of it: again")

    def left(self) -> list[Step]:
        """The steps that are not done."""
        self._handed_out = None
        return [step for step in self.steps if not self.is_done(step)]

    def is_done(self, step: Step) -> bool:
        """Whether the chain shows what the step is for."""
        if step.kind == "deployer":
            return self._is_deployer_there(step)
        if step.address:
            return _has_code(self._chain, step.address)
        if any((receipt := self._receipt(a)) and receipt["status"] == 1 for a in self.progress.of(step)):
            return True
        if step.kind == "allowance":
            return self._is_allowed(step)
        return self._given(step) >= step.amount_wei

    def _is_deployer_there(self, step: Step) -> bool:
        """Raises NonceTaken when other code is there: an account's nonce makes one address, whatever it creates."""
        code = bytes(self._chain.w3.eth.get_code(to_checksum_address(step.address)))
        if code and code != load_artifact("Deployer").deployed_bytecode:
            raise NonceTaken(f"nonce {self.progress.creation_nonce} has created another contract at {step.address}")
        return bool(code)

    def _is_allowed(self, step: Step) -> bool:
        """Or was, and is used up."""
        left_wei = sum(other.amount_wei for other in self.steps if other.kind in ("fund", "bounties"))
        left_wei -= sum(self._given(other) for other in self.steps if other.kind in ("fund", "bounties"))
        if left_wei <= 0:
            return True
        if not _has_code(self._chain, self.deployment.token):
            return False
        token = self.deployment.contract(self._chain, "token").functions
        return int(self._chain.call(token.allowance(self.deployment.deployer, step.receiver))) >= left_wei

    def _given(self, step: Step) -> int:
        if self._handed_out is None:
            self._handed_out = fetch_handed_out(self._chain, self.deployment)
        found = self._handed_out
        return {"fund": found.fund_wei, "bounties": found.bounties_wei}.get(
            step.kind, found.shares.get(step.receiver, 0)
        )

    # One step

    def _carry_out(self, step: Step) -> None:
        """Until it is mined. What may be on its way already is waited for."""
        while True:
            if any((receipt := self._receipt(a)) and receipt["status"] == 1 for a in self.progress.of(step)):
                self._wait_until_seen(step)
                return
            group = self._on_their_way(step)
            if not group:
                group = [self._sign(step, self._next_nonce(step))]
            elif group[-1].max_fee_wei < self._base_fee_wei():
                group.append(self._replace(group[-1], step))
            self._submit(group[-1])
            if self._await(step, group):
                return
            self._say(f"  {step.name}: another transaction of {self._sender.address} has taken nonce {group[-1].nonce}")

    def _wait_until_seen(self, step: Step) -> None:
        """A node behind others has the receipt before it has the code: nothing is signed again for that."""
        started_s = time.monotonic()
        while not self.is_done(step):
            if time.monotonic() - started_s > self._patience.bump_after_s:
                raise Retryable(f"{step.name} was mined, but the node does not show it at {step.address}")
            time.sleep(LONGEST_PAUSE_S / 4)

    def _on_their_way(self, step: Step) -> list[Attempt]:
        """Signed for the step and possibly mined yet: nothing that reverted, or whose nonce is used for good."""
        attempts = self.progress.of(step)
        group = [attempt for attempt in attempts if attempt.nonce == attempts[-1].nonce]
        if not group or any(self._receipt(attempt) for attempt in group):
            return []
        return [] if self._is_used_for_good(group[-1].nonce) else group

    def _await(self, step: Step, group: list[Attempt]) -> bool:
        """Whether one of them was mined; False when something else was in their place. Raises TransactionReverted."""
        started_s = bumped_s = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            is_used = self._is_used_for_good(group[-1].nonce)  # asked before the receipts, which may come in between
            for attempt in group:
                if receipt := self._receipt(attempt):
                    self._require_success(step, attempt, receipt)
                    return True
            now_s = time.monotonic()
            if is_used:
                return False
            if now_s - started_s > self._patience.give_up_after_s:
                raise Retryable(self._why_it_waits(step, group[-1]))
            if now_s - bumped_s > self._patience.bump_after_s:
                bumped_s = now_s
                self._say(f"  {step.name}: {self._why_it_waits(step, group[-1])}; offering more")
                group.append(self._replace(group[-1], step))
                self._submit(group[-1])
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _why_it_waits(self, step: Step, attempt: Attempt) -> str:
        if self._count("latest") < attempt.nonce:
            return f"transaction {attempt.hash} waits for another one of the account, which has an earlier nonce"
        return f"no block took transaction {attempt.hash}"

    def _require_success(self, step: Step, attempt: Attempt, receipt: Receipt) -> None:
        if receipt["status"] == 1:
            return
        try:
            self._chain.call(step.call, self._sender, block=receipt["blockNumber"] - 1)
        except CallReverted as error:
            raise TransactionReverted(error.reason, receipt, gas_limit=attempt.gas) from None
        raise Retryable(f"transaction {attempt.hash} failed for want of gas, or of what was before it in its block")

    # Signing and sending: never the second before it is written down

    def _next_nonce(self, step: Step) -> int:
        """Behind everything of the account that a node knows of."""
        nonce = max(self._count("latest"), self._count("pending"))
        if step.kind == "deployer" and self.progress.creation_nonce not in (None, nonce):
            raise NonceTaken(f"nonce {self.progress.creation_nonce} is used, {nonce} is the next")
        return nonce

    def _sign(self, step: Step, nonce: int) -> Attempt:
        tip_wei, max_fee_wei = self._chain.fees()
        self._chain.call(step.call, self._sender)  # says why, if it would revert
        try:
            estimate = self._chain.w3.eth.estimate_gas({**step.call, "from": self._sender.address})
        except Web3RPCError as error:
            if "insufficient funds" in str(error).lower():
                raise Misconfigured(f"account {self._sender.address} has no ether for gas: send it some") from error
            raise
        gas = estimate * (100 + GAS_MARGIN_PERCENT) // 100 + GAS_MARGIN
        return self._keep(step, nonce, gas, tip_wei, max_fee_wei)

    def _replace(self, attempt: Attempt, step: Step) -> Attempt:
        """The same with a higher fee and the same nonce."""
        tip_wei, max_fee_wei = self._chain.fees()
        more = (attempt.tip_wei * (100 + BUMP_PERCENT) // 100, attempt.max_fee_wei * (100 + BUMP_PERCENT) // 100 + 1)
        return self._keep(step, attempt.nonce, attempt.gas, max(tip_wei, more[0]), max(max_fee_wei, more[1]))

    def _keep(self, step: Step, nonce: int, gas: int, tip_wei: int, max_fee_wei: int) -> Attempt:
        self._chain.require_ether(self._sender.address, gas * max_fee_wei)
        fees = {"gas": gas, "maxPriorityFeePerGas": tip_wei, "maxFeePerGas": max_fee_wei}
        whose = {"from": self._sender.address, "nonce": nonce, "chainId": self._chain.chain_id}
        signed = self._sender.sign_transaction({**whose, "value": 0, **step.call, **fees})
        attempt = Attempt(
            step=step.name, nonce=nonce, hash="0x" + bytes(signed.hash).hex(),
            raw="0x" + bytes(signed.raw_transaction).hex(), gas=gas, tip_wei=tip_wei, max_fee_wei=max_fee_wei,
        )  # fmt: skip
        self.progress = replace(self.progress, attempts=(*self.progress.attempts, attempt))
        self._file.save(self.progress)
        return attempt

    def _submit(self, attempt: Attempt) -> None:
        """Raises Misconfigured without ether, Retryable when the node refuses it for a reason that is no news of it."""
        try:
            self._chain.w3.eth.send_raw_transaction(to_bytes(hexstr=attempt.raw))
        except Web3RPCError as error:
            said = str(error).lower()
            if "insufficient funds" in said:
                raise Misconfigured(f"account {self._sender.address} has not enough ether: send it some") from error
            if not any(phrase in said for phrase in _TAKEN):
                raise Retryable(f"the node refused transaction {attempt.hash}: {error}") from error

    # The chain

    def _wait_for_confirmations(self) -> None:
        blocks = [r["blockNumber"] for a in self.progress.attempts if (r := self._receipt(a))]
        last = max(blocks, default=0) + self._patience.confirmations
        if self._chain.w3.eth.block_number < last:
            self._say(f"  waiting for block {last}, after which a reorg is not expected")
        while self._chain.w3.eth.block_number < last:
            time.sleep(LONGEST_PAUSE_S / 4)

    def _is_used_for_good(self, nonce: int) -> bool:
        if self._count("latest") <= nonce:
            return False
        return self._count(max(0, self._chain.w3.eth.block_number - self._patience.confirmations)) > nonce

    def _count(self, block: int | str) -> int:
        return int(self._chain.w3.eth.get_transaction_count(self._sender.address, block))

    def _base_fee_wei(self) -> int:
        return int(self._chain.w3.eth.get_block("latest").get("baseFeePerGas", 0))

    def _receipt(self, attempt: Attempt) -> Receipt | None:
        try:
            return self._chain.w3.eth.get_transaction_receipt(attempt.hash)
        except TransactionNotFound:
            return None
