"""Tells a noted story again on the runtime of whichever solders is installed: see tools/solana_newer.py.

    python tools/solana_replay.py story.json answer.json

Imports solders, the loader's steps and the standard library alone: anchorpy and solana don't work with its newer
versions.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any, Final

from solders.account import Account
from solders.clock import Clock
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agents.solana_loader import data_address, deployment, upgrade_authority  # noqa: E402

DEPLOYER: Final = Keypair.from_seed(b"deployer of programs, for replay")


class Replay:
    """One chain; `wrong` says in what it differs from the story."""

    def __init__(self) -> None:
        self.svm = LiteSVM()
        if hasattr(self.svm, "with_mainnet_features"):
            # What is active on mainnet, not everything that is in the program code; the programs after it.
            self.svm = self.svm.with_mainnet_features().with_builtins().with_default_programs()
        self.svm = self.svm.with_blockhash_check(False).with_transaction_history(0)
        self.units: list[int] = []
        self.deployed: dict[str, tuple[int, int]] = {}
        self.wrong: list[str] = []

    def tell(self, story: list[dict[str, Any]]) -> None:
        for step in story:
            getattr(self, step["does"])(step)

    def airdrop(self, step: dict[str, Any]) -> None:
        self.svm.airdrop(Pubkey.from_string(step["to"]), step["lamports"])

    def clock(self, step: dict[str, Any]) -> None:
        self.svm.set_clock(Clock(step["slot"], 0, 0, 0, step["now_s"]))

    def account(self, step: dict[str, Any]) -> None:
        owner = Pubkey.from_string(step["owner"])
        account = Account(step["lamports"], base64.b64decode(step["data"]), owner, False, 0)
        self.svm.set_account(Pubkey.from_string(step["address"]), account)

    def send(self, step: dict[str, Any]) -> None:
        """The same bytes, signatures included."""
        result = self.svm.send_transaction(Transaction.from_bytes(base64.b64decode(step["transaction"])))
        came = outcome(result)
        self.units.append(came["units"])
        for key in ("error", "events"):
            if came[key] != step[key]:
                number = len(self.units)
                self.wrong.append(f"transaction {number} {step['name']}: {key} {came[key]!r}, not {step[key]!r}")

    def deploy(self, step: dict[str, Any]) -> None:
        """Buffer, writes, DeployWithMaxDataLen: the runtime's verifier reads it. Then nobody can replace it."""
        program, key = base64.b64decode(step["program"]), Keypair.from_seed(bytes.fromhex(step["seed"]))
        payer, buffer = DEPLOYER, Keypair.from_seed(key.secret()[::-1])
        self.svm.airdrop(payer.pubkey(), 10**12)
        keys = {"buffer": buffer, "program": key}
        steps = deployment(
            program, payer=payer.pubkey(), program=key.pubkey(), buffer=buffer.pubkey(),
            rent_lamports=self.svm.minimum_balance_for_rent_exemption,
        )  # fmt: skip
        sent = [self._must(one.instructions, payer, *(keys[name] for name in one.signers)) for one in steps]
        data = self.svm.get_account(data_address(key.pubkey()))
        if upgrade_authority(bytes(data.data)) is not None:
            self.wrong.append(f"program {key.pubkey()} can still be upgraded")
        self.deployed[str(key.pubkey())] = (sum(sent), len(sent))

    def _must(self, instructions: list[Instruction], payer: Keypair, *signers: Keypair) -> int:
        """Compute units of a transaction that must succeed."""
        self.svm.expire_blockhash()
        message = Message(instructions, payer.pubkey())
        result = self.svm.send_transaction(Transaction([payer, *signers], message, self.svm.latest_blockhash()))
        if isinstance(result, FailedTransactionMetadata):
            sys.exit(f"not deployed: {result.err()}\n" + "\n".join(result.meta().logs()))
        return int(result.compute_units_consumed())

    def compare(self, end: dict[str, dict[str, Any]]) -> None:
        for address, expected in sorted(end.items()):
            found = self.svm.get_account(Pubkey.from_string(address))
            if found is None or bytes(found.data) != base64.b64decode(expected["data"]):
                self.wrong.append(f"account {address} holds something else at the end")
            elif found.lamports != expected["lamports"]:
                self.wrong.append(f"account {address} has {found.lamports} lamports, not {expected['lamports']}")


def outcome(result: Any) -> dict[str, Any]:
    """What became of a transaction, in words that every version says alike."""
    failed = isinstance(result, FailedTransactionMetadata)
    meta = result.meta() if failed else result
    events = [line for line in meta.logs() if line.startswith("Program data: ")]
    error = ""
    if failed:
        inner = getattr(result.err(), "err", result.err())
        code = getattr(inner, "code", None)
        error = str(inner) if code is None else f"error {code}"
    return {"error": error, "events": events, "units": meta.compute_units_consumed()}


def main() -> None:
    story_file, answer_file = map(Path, sys.argv[1:])
    told = json.loads(story_file.read_text())
    replay = Replay()
    replay.tell(told["story"])
    replay.compare(told["end"])
    answer = {"units": replay.units, "deployed": replay.deployed, "wrong": replay.wrong}
    answer_file.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
