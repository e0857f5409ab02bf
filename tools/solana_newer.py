"""Deploys the Solana programs to newer runtimes, as a validator would take them, and tells one story on each.

    python tools/solana_newer.py                     Agave 3.0, 4.0 and 4.1 (`make solana-newer`)
    python tools/solana_newer.py --solders 0.29.0    one of them

What `make test` runs is the runtime of solders 0.26, Agave 2.2: the newest that anchorpy takes. Here a story is told on
that one and noted down: every signed transaction, every account and clock that were set. Each newer runtime gets the
programs through the upgradeable loader (buffer, writes, deployment: its own verifier reads the ELF file), then the very
same transactions. Errors, events and all bytes of the accounts must be the same; compute units are put side by side.
Each solders is installed alone, in .venv-solana-newer/.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 -- the root must be on the path before
from rich.table import Table  # noqa: E402
from solders.keypair import Keypair  # noqa: E402
from solders.litesvm import LiteSVM  # noqa: E402
from solders.pubkey import Pubkey  # noqa: E402
from solders.transaction import Transaction  # noqa: E402

from agents.solana_program import Ledger, Pool  # noqa: E402
from tests.solana import world as worlds  # noqa: E402
from tools.solana_replay import outcome  # noqa: E402

# By version of solders: Agave's, as the name of its crate in the library says.
RUNTIMES: Final = {"0.27.1": "3.0.4", "0.28.0": "4.0.0", "0.29.0": "4.1.2"}
OWN_RUNTIME: Final = "2.2.0"
ENVIRONMENTS: Final = ROOT / ".venv-solana-newer"
SYSVARS: Final = Pubkey.from_string("Sysvar1111111111111111111111111111111111111")
# A loader wants the signature of a new program's address, so here it is a key's.
PROGRAM_KEYS: Final = {
    name: Keypair.from_seed(hashlib.sha256(f"deployed {name}".encode()).digest()) for name in ("ledger", "pool")
}


class Recorder:
    """A LiteSVM that notes down what it is told, and what came of it."""

    def __init__(self) -> None:
        self._svm = LiteSVM().with_blockhash_check(False).with_transaction_history(0)
        self.story: list[dict[str, Any]] = []
        self.touched: set[Pubkey] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._svm, name)

    def with_blockhash_check(self, check: bool) -> Recorder:
        assert not check, "the story's transactions are sent again on other chains"
        return self

    def with_transaction_history(self, capacity: int) -> Recorder:
        return self

    def add_program(self, address: Pubkey, program: bytes) -> None:
        [key] = [key for key in PROGRAM_KEYS.values() if key.pubkey() == address]
        self.story.append({"does": "deploy", "seed": key.secret().hex(), "program": _text(program)})
        self._svm.add_program(address, program)

    def airdrop(self, address: Pubkey, lamports: int) -> Any:
        self.story.append({"does": "airdrop", "to": str(address), "lamports": lamports})
        return self._svm.airdrop(address, lamports)

    def set_clock(self, clock: Any) -> None:
        self.story.append({"does": "clock", "slot": clock.slot, "now_s": clock.unix_timestamp})
        self._svm.set_clock(clock)

    def set_account(self, address: Pubkey, account: Any) -> None:
        fields = {"lamports": account.lamports, "data": _text(bytes(account.data)), "owner": str(account.owner)}
        self.story.append({"does": "account", "address": str(address), **fields})
        self.touched.add(address)
        self._svm.set_account(address, account)

    def send_transaction(self, transaction: Transaction) -> Any:
        result = self._svm.send_transaction(transaction)
        self.touched.update(transaction.message.account_keys)
        told = {"does": "send", "name": instruction_name(transaction), "transaction": _text(bytes(transaction))}
        self.story.append(told | outcome(result))
        return result

    def end(self) -> dict[str, Any]:
        """What every account holds that the story touched, but for programs and the runtime's own numbers."""
        found = {address: self._svm.get_account(address) for address in self.touched}
        return {
            str(address): {"lamports": account.lamports, "data": _text(bytes(account.data))}
            for address, account in found.items()
            if account is not None and not account.executable and account.owner != SYSVARS
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--solders", choices=RUNTIMES, action="append", help="only this version (can be repeated)")
    versions = parser.parse_args().solders or list(RUNTIMES)
    story, end = record()
    results = {version: replay(version, story, end) for version in versions}
    Console(width=110).print(table(story, results))
    wrong = [f"solders {version}: {line}" for version, result in results.items() for line in result["wrong"]]
    print("\n".join(wrong) or f"{len(end)} accounts, all errors and all events are the same on every runtime.")
    return 1 if wrong else 0


def record() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The story as the runtime of the tests told it, and the accounts at its end."""
    worlds.LiteSVM = Recorder
    worlds.Ledger = lambda _: Ledger(PROGRAM_KEYS["ledger"].pubkey())
    worlds.Pool = lambda _: Pool(PROGRAM_KEYS["pool"].pubkey())
    svm = tell().svm
    return svm.story, svm.end()


def tell() -> worlds.World:
    """A vault from its protocol's first transaction to its agent's paid reward and its own retirement."""
    world = worlds.World.trading()
    expect(world.trade(4_000 * worlds.QUOTE, is_buy=True))
    expect(world.trade(9_000 * worlds.QUOTE, is_buy=True), refused=True)
    expect(world.trade(100 * worlds.QUOTE, is_buy=True, signer=world.controller), refused=True)
    world.publish(base_e8=2_040 * 10**8)
    world.move_market()
    expect(world.trade(10**9 // 2, is_buy=False))
    expect(world.call("claim", destination=world.wallet("reward", world.controller.pubkey())), refused=True)
    settle(world)
    world.wait(worlds.VESTING_S // 2)
    settle(world)
    expect(world.call("claim", destination=world.wallet("reward", world.controller.pubkey())))
    # The price falls: what was credited is taken back, and the guard stops buying.
    world.publish(base_e8=1_500 * 10**8)
    world.move_market()
    expect(stopped := world.trade(100 * worlds.QUOTE, is_buy=True))
    assert stopped.event("TradeRefused")
    settle(world)
    expect(world.decide("halt"))
    expect(world.decide("retire"))
    expect(world.recall("base"))
    expect(world.recall("quote"))
    settle(world)
    expect(world.call("finish_retirement"))
    return world


def settle(world: worlds.World) -> None:
    """The epoch ends; its window is observed and closed, its result applied."""
    epochs = (world.now_s - worlds.GENESIS_S) // worlds.EPOCH_S + 1
    world.set_clock(worlds.GENESIS_S + epochs * worlds.EPOCH_S + 1)
    world.publish()
    expect(world.call("observe"))
    world.wait(worlds.WINDOW_S)
    expect(world.call("close_window"))
    if world.state("vault").reward.is_pending:
        expect(world.call("reward_agent", world.state("vault").reward.pending_move))


def expect(sent: worlds.Sent, *, refused: bool = False) -> None:
    if bool(sent.error) != refused:
        raise SystemExit(f"the story went another way: {sent.error or 'not refused'}\n" + "\n".join(sent.logs))


def replay(version: str, story: list[dict[str, Any]], end: dict[str, Any]) -> dict[str, Any]:
    """What the runtime of that solders made of it: see tools/solana_replay.py."""
    folder = ENVIRONMENTS / f"solders-{version}"
    if not (folder / "marketflow.stamp").exists():
        install(version, folder)
    with tempfile.TemporaryDirectory(prefix="solana-newer-") as temporary:
        told, answer = Path(temporary) / "story.json", Path(temporary) / "answer.json"
        told.write_text(json.dumps({"story": story, "end": end}))
        # Without `site`: nothing of .venv, which has another solders, can be imported there.
        command = [sys.executable, "-S", str(ROOT / "tools/solana_replay.py"), str(told), str(answer)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(folder)})
        if done.returncode:
            raise SystemExit(f"solders {version} (Agave {RUNTIMES[version]}) did not get to the story's end")
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


def install(version: str, folder: Path) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    needs = [f"solders=={version}"] + [f"{name}=={pins[name]}" for name in ("jsonalias", "typing_extensions")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--upgrade", "--target", str(folder), *needs], check=True)
    (folder / "marketflow.stamp").touch()


def table(story: list[dict[str, Any]], results: dict[str, dict[str, Any]]) -> Table:
    """Compute units of each step on each runtime; those of deploying are the newer ones' alone."""
    made = Table("", f"Agave {OWN_RUNTIME}", *(f"Agave {RUNTIMES[v]}" for v in results), title="Compute units")
    for column in made.columns[1:]:
        column.justify = "right"
    for name in PROGRAM_KEYS:
        deployed = [result["deployed"][str(PROGRAM_KEYS[name].pubkey())] for result in results.values()]
        made.add_row(f"deploy {name}", "", *(f"{units:,} in {count}" for units, count in deployed))
    sends = [step for step in story if step["does"] == "send"]
    for number, step in enumerate(sends):
        if step["name"]:
            name = step["name"] + (f" ({step['error']})" if step["error"] else "")
            made.add_row(name, f"{step['units']:,}", *(f"{r['units'][number]:,}" for r in results.values()))
    return made


def instruction_name(transaction: Transaction) -> str:
    """Of the last instruction, if it is one of ours; else ""."""
    message = transaction.message
    last = message.instructions[-1]
    for name, key in PROGRAM_KEYS.items():
        if message.account_keys[last.program_id_index] == key.pubkey():
            return _NAMES[name].get(bytes(last.data)[:8], "unknown")
    return ""


def _names(program: Callable[[Pubkey], Ledger | Pool]) -> dict[bytes, str]:
    """Names of a program's instructions by what they begin with."""
    names = program(Pubkey.default())._accounts
    return {hashlib.sha256(f"global:{name}".encode()).digest()[:8]: name for name in names}


_NAMES: Final = {"ledger": _names(Ledger), "pool": _names(Pool)}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


if __name__ == "__main__":
    sys.exit(main())
