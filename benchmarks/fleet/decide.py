"""What a fleet's reading and deciding cost: on a real anvil with real vaults, the node's share and ours apart.

    python -m benchmarks.fleet.decide --vaults 100      ten seconds on two cores
    python -m benchmarks.fleet.decide --vaults 1000     five minutes: anvil's blocks get slower as its state grows

Milliseconds for the whole fleet, median and best of REPEATS; "ours" is processor time of this process.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from agents.fleet_decisions import FleetAgent, FleetDecider, LoadedArtefact
from agents.localnet.evm import LocalEvm, start_evm
from offchain_rl.artefact import ActionSpec, Artefact
from offchain_rl.observation import ObservationSpec
from oracle.chain import fetch_block
from oracle.chainlink import Round
from oracle.fleet_state import FleetReader
from oracle.vault_state import VaultReader, VaultReading
from tests.contracts.world import RULES, World, tokens, usd

REPEATS, QUOTE_UNIT = 15, 10**6
SPEC = ObservationSpec()
WIDTHS = (len(SPEC.features), 64, 64, 1)
ROUNDS, ROUND_S = 1100, 1200
Figures = dict[str, tuple[float, float]]


class Recorder:
    """A chain that keeps what it was asked."""

    def __init__(self, evm: LocalEvm) -> None:
        self.w3, self._evm = evm.w3, evm
        self.asked: list[Any] = []

    def call(self, what: Any, sender: Any = None, *, block: int | str = "latest") -> Any:
        self.asked.append([what, hex(int(block))])
        return self._evm.call(what, block=block)


@dataclass(frozen=True, slots=True)
class Feed:
    """One asset's rounds for two weeks, made up; the last is whichever the vault has read."""

    rounds: tuple[Round, ...]

    def fetch_since(self, last: Round, since_s: int) -> tuple[Round, ...]:
        return (*self.rounds, last)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vaults", type=int, default=100)
    parser.add_argument("--artefacts", type=int, default=4, help="how many different networks the agents run")
    asked = parser.parse_args(arguments)
    with start_evm("anvil", history_blocks=4) as evm:
        figures = measure(evm, asked.vaults, asked.artefacts)
    table = Table(f"{asked.vaults} vaults", "ms, median", "ms, best", "µs a vault, best")
    for name, (middle, best) in figures.items():
        table.add_row(name, f"{middle:.1f}", f"{best:.1f}", f"{best / asked.vaults * 1000:.0f}")
    Console(highlight=False).print(table)


def measure(evm: LocalEvm, count: int, artefacts: int) -> Figures:
    """Milliseconds by stage: median and best."""
    world = World(evm, rules=replace(RULES, min_bond_wei=tokens(100)))
    approved = world.manifest(0)["artefactHash"]
    vaults, recorder, block = deploy(world, count), Recorder(evm), fetch_block(evm)
    options = {
        "constitution": world.constitution, "oracle": world.oracle, "quote": world.book.quote, "quote_unit": QUOTE_UNIT
    }  # fmt: skip
    reader = FleetReader(recorder, vaults, **options)
    readings = [reading for reading in reader.fetch(block) if isinstance(reading, VaultReading)]
    assert len(readings) == count
    alone = VaultReader(evm, vault=world.d.vault(evm, vaults[-1]), **options)
    assert alone.fetch(block) == readings[-1]
    recorder.asked.clear()
    reader.fetch(block)
    asked = list(recorder.asked)
    feed = Feed(history(readings[0]))
    minds = [LoadedArtefact.of(network(seed)) for seed in range(artefacts)]
    holds = LoadedArtefact.of(Artefact(name="hold", kind="hold", observation=SPEC))
    assert "0x" + approved.hex() == readings[0].artefact_hash

    def decider() -> FleetDecider:
        return FleetDecider(world.d.chain_id, rounds=feed, decimals={world.token_of("ETH"): 8})

    trading, holding = crew(readings, minds), crew(readings, [holds])
    acted = [decision.steps[0] for decision in decider().decide(trading)]

    def overlapped() -> None:
        fleet, mind = decider(), cycle(minds)
        for part in reader.fetch_parts(block):
            fleet.decide(crew([r for r in part.values() if isinstance(r, VaultReading)], [next(mind)]))

    figures = {
        "read: one vault, by its own reader": timed(lambda: alone.fetch(block)),
        "read: all, wall": timed(lambda: reader.fetch(block)),
        "read: all, ours": timed(lambda: reader.fetch(block), time.process_time),
        "read: the node alone, one request after the other": timed(lambda: replay(str(evm.url), asked)),
        "decide: all of it, ours": timed(lambda: decider().decide(trading), time.process_time),
        "decide: only to observe and hold, ours": timed(lambda: decider().decide(holding), time.process_time),
        "read and decide, one after the other": timed(lambda: decider().decide(crew(reader.fetch(block), minds))),
        "read and decide, overlapped": timed(overlapped),
    }
    reader.close()
    Console(highlight=False).print(f"{sum(s.order is not None for s in acted)} of {count} agents have an order ready")
    return figures


def timed(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    with collected():
        taken = []
        for _ in range(REPEATS):
            start = clock()
            work()
            taken.append((clock() - start) * 1000)
    return statistics.median(taken), min(taken)


@contextmanager
def collected() -> Iterator[None]:
    """Without the collector, which a fleet should run between its cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def replay(url: str, asked: Sequence[Any]) -> None:
    """The requests of one reading, sent as bytes; answers are not looked at."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port)
    for what, block in asked:
        call = {"to": what["to"], "data": what["data"]}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, block]})
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        connection.getresponse().read()
    connection.close()


def crew(readings: Sequence[Any], minds: Sequence[LoadedArtefact]) -> list[FleetAgent]:
    """Agents that run these artefacts in turn, as if the DAO had approved them."""
    turns = cycle(minds)
    return [
        FleetAgent(artefact=mind, vault=replace(reading, artefact_hash=mind.artefact_hash))
        for reading, mind in zip(readings, turns, strict=False)
    ]


def network(seed: int) -> Artefact:
    """Two hidden layers of 64 that have learnt nothing; every wish is worth a trade."""
    rng = random.Random(seed)
    layers = [
        {
            "weights": [[rng.randrange(-900, 900) for _ in range(inputs)] for _ in range(outputs)],
            "biases": [0] * outputs, "weight_bits": 12, "storage": "int16",
        }
        for inputs, outputs in zip(WIDTHS, WIDTHS[1:], strict=False)
    ]  # fmt: skip
    return Artefact(
        name=f"network-{seed}", kind="mlp", observation=SPEC, parameters={"layers": layers},
        action=ActionSpec(max_weight_bps=6000, deadband_bps=1),
    )  # fmt: skip


def history(reading: VaultReading) -> tuple[Round, ...]:
    rng, last = random.Random(7), reading.positions[0].round
    return tuple(
        replace(
            last, round_id=i, answer=last.answer + rng.randrange(10**9),
            updated_at_s=last.updated_at_s - ROUND_S * (ROUNDS - i),
        )
        for i in range(ROUNDS)
    )  # fmt: skip


def deploy(world: World, count: int) -> list[str]:
    """Addresses of that many vaults with a thousand dollars each, of agents of their own, put there without a vote."""
    evm, agents = world.evm, world.agents.functions
    world.market.give_quote(world.controller, usd(200) * count)
    for token in (world.token, world.quote):
        evm.send(token.functions.approve(world.d.agents, 2**255), world.controller)
    vaults = []
    for agent_id in range(1, count + 1):
        evm.send(agents.register("ipfs://agent", world.signer.address), world.controller)
        evm.send(agents.postBond(agent_id, tokens(100)), world.controller)
        evm.send(agents.postDeposit(agent_id, usd(100)), world.controller)
        manifest = world.manifest(agent_id, capital=usd(1000), rewardCap=tokens(10))
        strategy_id = world.submit(manifest)
        evm.send(world.strategies.functions.approve(strategy_id), world.d.timelock)
        evm.send(world.factory.functions.deployVault(strategy_id), world.d.timelock)
        evm.send(world.treasury.functions.allocate(strategy_id, manifest["capital"]), world.d.timelock)
        vaults.append(str(world.view(world.strategies.functions.vaultOf(strategy_id))))
    world.refresh()
    return vaults


if __name__ == "__main__":
    main()
