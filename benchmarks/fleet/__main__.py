"""A thousand agents in one process, each with its own key and vault, all deciding at once: from a new price to signed.

    python -m benchmarks.fleet                    1,000 agents; some minutes to deploy them on a local node
    python -m benchmarks.fleet --agents 100

In each bar a round is published; what is measured is the time from the moment at which its block is there until all
orders are signed and on disk, and until the node has them. Beside it, in the same run: how many of these transactions
the node itself mines in a second, and what an agent costs in memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from pydantic import SecretStr
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agents.assembly import Assembly, assemble
from agents.deployments import NetworkDeployment
from agents.localnet.evm import LocalEvm, start_evm
from agents.settings import Settings
from agents.signer import Keyring, address_of, create_keyfile
from benchmarks.fleet.decide import SPEC, network
from offchain_rl.artefact import Artefact, save
from tests.contracts.world import LIMITS, RULES, World, tokens, usd

PASSPHRASE = SecretStr("a thousand agents")
ARTEFACTS = 4
LIMITS_OF_DAY = replace(LIMITS, max_trades_per_day=50)
Figures = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--bars", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    with start_evm("anvil", history_blocks=64, block_gas_limit=10**9) as evm, tempfile.TemporaryDirectory() as folder:
        figures = measure(evm, Path(folder), asked.agents, asked.bars)
    if asked.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
    Console(highlight=False).print(table)


def measure(evm: LocalEvm, folder: Path, count: int, bars: int) -> Figures:
    """Milliseconds, transactions a second, megabytes."""
    world = World(evm, rules=replace(RULES, min_bond_wei=tokens(100)))
    artefacts = [network(seed) for seed in range(ARTEFACTS)]
    ring = Keyring(PrivateKey(b"\x07" * 32))
    accounts = [address_of(ring.key(index)) for index in range(count)]
    fill_history(world)
    settings = write_files(world, folder, deploy(world, accounts, artefacts), artefacts)
    before_mb = resident_mb()
    assembly = assemble(settings)
    try:
        assembly.fleet.reconcile(assembly.node.head())
        figures = run(world, assembly, bars)
        gc.collect()
        figures["MB for each agent, everything shared included"] = (resident_mb() - before_mb) / count
    finally:
        assembly.close()
    return {"agents": count, "bars": bars, **figures}


def run(world: World, assembly: Assembly, bars: int) -> Figures:
    signed_ms, sent_ms, mined_ms, ready = [], [], [], 0
    gc.collect()
    gc.freeze()
    for bar in track(range(bars), description="bars"):
        world.evm.travel(SPEC.bar_s)
        world.set_price("ETH", 2000 + 7 * (bar % 5) - 3 * (bar % 2))
        world.evm._rpc("evm_setAutomine", False)
        gc.disable()
        begun = time.perf_counter()
        tick = assembly.fleet.tick(assembly.node.head())
        done = time.perf_counter()
        gc.enable()
        orders = sum(1 for placed in tick.placed if placed.transaction_hash)
        ready += orders
        if orders:
            signed_ms += [(assembly.marks.times["signed, not sent"] - begun) * 1000] * orders
            sent_ms.append((done - begun) * 1000)
            begun = time.perf_counter()
            world.evm.mine()
            mined_ms.append((time.perf_counter() - begun) * 1000 / orders)
        world.evm._rpc("evm_setAutomine", True)
        settle(world, assembly)
    quantiles = statistics.quantiles(signed_ms, n=100)
    return {
        "orders signed": ready,
        "price to signed, ms, p50": quantiles[49],
        "price to signed, ms, p99": quantiles[98],
        "price to sent, ms, median of bars": statistics.median(sent_ms),
        "orders signed a second": 1000 * ready / bars / statistics.median(signed_ms),
        "orders the node mines a second": 1000 / statistics.median(mined_ms),
        "trades in the ledger": sum(assembly.journal.trades(up_to_block=assembly.node.head().number).values()),
    }


def settle(world: World, assembly: Assembly) -> None:
    """Heads without a new price, as they come between two: what was sent is followed to its end."""
    for _ in range(assembly.settings.finality_blocks + 2):
        world.evm.mine()
        assembly.fleet.tick(assembly.node.head())


def deploy(world: World, accounts: list[str], artefacts: list[Artefact]) -> list[str]:
    """A vault with a thousand dollars for each account, put there without a vote."""
    evm, agents = world.evm, world.agents.functions
    world.market.give_quote(world.controller, usd(200) * len(accounts))
    for token in (world.token, world.quote):
        evm.send(token.functions.approve(world.d.agents, 2**255), world.controller)
    vaults = []
    for index, account in enumerate(track(accounts, description="vaults")):
        if index % 100 == 0:
            world.refresh()  # each block is a second: prices grow old meanwhile
        agent_id, artefact = index + 1, artefacts[index % len(artefacts)]
        evm.set_balance(account, 10**20)
        evm.send(agents.register("ipfs://agent", account), world.controller)
        evm.send(agents.postBond(agent_id, tokens(100)), world.controller)
        evm.send(agents.postDeposit(agent_id, usd(100)), world.controller)
        approved = bytes.fromhex(artefact.artefact_hash[2:])
        manifest = world.manifest(
            agent_id, capital=usd(1000), rewardCap=tokens(10), artefactHash=approved, limits=LIMITS_OF_DAY
        )
        strategy_id = world.submit(manifest)
        evm.send(world.strategies.functions.approve(strategy_id), world.d.timelock)
        evm.send(world.factory.functions.deployVault(strategy_id), world.d.timelock)
        evm.send(world.treasury.functions.allocate(strategy_id, manifest["capital"]), world.d.timelock)
        vaults.append(str(world.view(world.strategies.functions.vaultOf(strategy_id))))
    return vaults


def write_files(world: World, folder: Path, vaults: list[str], artefacts: list[Artefact]) -> Settings:
    """What an operator of that many agents would have: one keyring, one file of agents."""
    NetworkDeployment(protocol=world.d, market=world.book).save(folder / "deployment.json")
    for artefact in artefacts:
        save(artefact, folder / f"{artefact.name}.json")
    create_keyfile(folder / "ring.json", PASSPHRASE, key=PrivateKey(b"\x07" * 32), scrypt_n=2)
    entries = [
        f'[[agent]]\nname = "agent {index}"\nvault = "{vault}"\nkey = "ring.json#{index}"\n'
        f'artefact = "{artefacts[index % len(artefacts)].name}.json"'
        for index, vault in enumerate(vaults)
    ]
    (folder / "agents.toml").write_text("\n".join(entries), encoding="utf-8")
    return Settings(
        rpc_urls=(SecretStr(str(world.evm.url)),), chain_id=world.d.chain_id, deployment=folder / "deployment.json",
        agents=folder / "agents.toml", journal=folder / "journal.sqlite", keyfile_passphrase=PASSPHRASE,
        http_port=None, finality_blocks=3, simulate=False, consensus=False,
    )  # fmt: skip


def fill_history(world: World) -> None:
    """As many rounds as the networks look back on."""
    for index in track(range(SPEC.lookback), description="rounds"):
        world.evm.travel(SPEC.bar_s)
        world.set_price("ETH", 1950 + index % 97, pool_follows=False)
    world.market.arbitrage("ETH")


def resident_mb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
