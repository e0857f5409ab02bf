"""How long a daemon takes from its start to trading, when its journal is long: a real process on a real node.

    python -m benchmarks.fleet.cold_start                    100,000 trades
    python -m benchmarks.fleet.cold_start --trades 1000      to compare with

The trades in the journal are of a vault that is not traded any more, each with its transaction and its explanation.
What is measured ends when `/readyz` says that the daemon is reconciled and trades; imports and opening the keyfile are
part of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from coincurve import PrivateKey
from eth_utils import keccak
from pydantic import SecretStr

from agents.journal import Journal
from agents.localnet.evm import LocalEvm, start_evm
from agents.localnet.process import free_port
from agents.signer import create_keyfile
from tests.contracts.world import World
from tests.e2e.conftest import SPEC, constant
from tests.e2e.daemons import PASSPHRASE, write_files

OLD_VAULT = "0x" + "11" * 20
PATIENCE_S = 120.0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trades", type=int, default=100_000)
    asked = parser.parse_args(arguments)
    with start_evm("anvil") as evm, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(evm, folder)
        fill(folder / "journal.sqlite", asked.trades)
        took_s = start(evm, folder)
    sys.stdout.write(f"{asked.trades:,} trades in the journal: {took_s:.2f} s from start to trading\n")


def prepare(evm: LocalEvm, folder: Path) -> None:
    """A vault, and the files of its operator; the keyfile is encrypted as strongly as any."""
    world = World(evm)
    artefact = constant(2000)
    strategy = world.deploy_strategy(artefactHash=bytes.fromhex(artefact.artefact_hash[2:]))
    for _ in range(SPEC.lookback):
        world.travel(SPEC.bar_s)
        world.set_price("ETH", 2000)
    write_files(world, folder, [("agent", strategy.vault, artefact, None)])
    create_keyfile(folder / "key.json", SecretStr(PASSPHRASE), key=PrivateKey(bytes(world.signer.key)))
    with (folder / "agents.toml").open("a", encoding="utf-8") as file:
        file.write('\nkey = "key.json"\n')


def fill(path: Path, trades: int) -> None:
    """As many final trades, with the transactions and documents of each."""
    with Journal(path) as journal, journal.transaction():
        for number in range(trades):
            name = "0x" + keccak(number.to_bytes(8, "big")).hex()
            journal._execute("INSERT INTO documents (hash, content) VALUES (?, ?)", (name, b"x" * 3000))
            journal._execute(
                "INSERT INTO decisions (id, vault, sequence, block, decided_at_s, explanation_hash, state, account,"
                " account_nonce, transaction_hash, block_number, block_hash, outcome, trade_id)"
                " VALUES (?, ?, ?, 1, 1, ?, 'final', ?, ?, ?, 1, ?, 'traded', ?)",
                (number + 1, OLD_VAULT, number, name, OLD_VAULT, number, name, name, name),
            )
            journal._execute(
                "INSERT INTO transactions (hash, decision, raw) VALUES (?, ?, ?)", (name, number + 1, b"x" * 420)
            )


def start(evm: LocalEvm, folder: Path) -> float:
    """Seconds from the start of the process to its being ready."""
    port = free_port()
    settings = {
        "RPC_URLS": evm.url, "CHAIN_ID": "31337", "DEPLOYMENT": folder / "deployment.json",
        "AGENTS": folder / "agents.toml", "JOURNAL": folder / "journal.sqlite", "KEYFILE_PASSPHRASE": PASSPHRASE,
        "HTTP_PORT": port, "POLL_S": "0.1", "CONSENSUS": "false",
    }  # fmt: skip
    environment = os.environ | {f"MARKETFLOW_{name}": str(value) for name, value in settings.items()}
    command = [str(Path(sys.executable).with_name("marketflow")), "agent", "run"]
    begun = time.perf_counter()
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            while not is_ready(port):
                if process.poll() is not None or time.perf_counter() - begun > PATIENCE_S:
                    raise SystemExit(f"the daemon did not begin to trade (exit code {process.poll()})")
                time.sleep(0.01)
            return time.perf_counter() - begun
        finally:
            process.terminate()


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    main()
