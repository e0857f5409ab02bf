"""Two daemons of one fleet on one chain: each key is used by one of them, and what a killed one leaves goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.journal import Journal
from agents.ledger import fetch_entries
from agents.localnet.evm import LocalEvm
from agents.localnet.nats import LocalNats
from tests.contracts.world import World
from tests.e2e.conftest import SPEC, Hire, constant
from tests.e2e.daemons import write_files

LEASE_S = 2.0
PATIENCE_S = 60.0
_DAEMON = """
import json, sys
from pathlib import Path
from agents.service import run
from tests.e2e.daemons import settings_for
wanted = json.loads(sys.argv[1])
folder, journal = Path(wanted["folder"]), Path(wanted["journal"])
sys.exit(run(settings_for(
    folder, wanted["url"], wanted["chain_id"], journal=journal, node_name=wanted["name"], poll_s=0.05,
    placement_servers=wanted["nats"], lease_s=wanted["lease_s"],
)))
"""


class Machine:
    """One daemon process with a journal of its own."""

    def __init__(self, name: str, folder: Path, world: World, nats: LocalNats) -> None:
        self.journal, self.log = folder / f"{name}.sqlite", folder / f"{name}.log"
        wanted = {
            "folder": str(folder), "journal": str(self.journal), "url": world.evm.url, "chain_id": world.d.chain_id,
            "name": name, "nats": nats.url, "lease_s": LEASE_S,
        }  # fmt: skip
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen([sys.executable, "-c", _DAEMON, json.dumps(wanted)], stderr=log)

    def accounts_signed_with(self) -> set[str]:
        """By its journal."""
        with Journal(self.journal) as journal:
            return {row["account"] for row in journal.rows() if row["account"]}

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture
def nats() -> Iterator[LocalNats]:
    with LocalNats() as server:
        yield server


def wait_for(happened: Callable[[], bool], what: str, machines: list[Machine], meanwhile: Callable[[], None]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > until:
            logs = "\n".join(machine.log.read_text()[-2000:] for machine in machines)
            raise AssertionError(f"{what} did not happen in {PATIENCE_S:.0f} s:\n{logs}")
        meanwhile()
        time.sleep(0.2)


def test_a_killed_daemons_keys_are_traded_with_by_the_other_and_nothing_is_traded_twice(
    world: World, evm: LocalEvm, hire: Hire, nats: LocalNats, tmp_path: Path
) -> None:
    first = hire(constant(2000, deadband_bps=1))
    other_key = world.other_signer
    second = hire(constant(3000, deadband_bps=1), agent_id=world.register_agent(world.other_controller, other_key))
    first.bars(*[2000] * SPEC.lookback)
    agents = [
        ("first", first.strategy.vault, first.artefact, world.signer),
        ("second", second.strategy.vault, second.artefact, other_key),
    ]
    write_files(world, tmp_path, agents)
    machines = [Machine(name, tmp_path, world, nats) for name in ("one", "two")]
    prices = iter(range(2000, 10_000, 15))

    def bar() -> None:
        first.bar(next(prices))

    def trades(agent: object) -> int:
        return len(agent.entries())  # type: ignore[attr-defined]

    try:
        wait_for(lambda: bool(trades(first) and trades(second)), "a trade of both agents", machines, bar)
        signed = [machine.accounts_signed_with() for machine in machines]
        assert not signed[0] & signed[1], "each key was used by one of them"
        victim = machines[0] if world.signer.address in signed[0] else machines[1]
        heir = machines[1] if victim is machines[0] else machines[0]
        victim.kill()
        before = trades(first)
        wait_for(lambda: trades(first) > before, "a trade of the killed daemon's agent", [heir], bar)
        assert world.signer.address in heir.accounts_signed_with()
        assert heir.stop() == 0
    finally:
        for machine in machines:
            if machine.process.poll() is None:
                machine.kill()
    for agent in (first, second):
        entries = fetch_entries(evm, world.ledger, agent.strategy.vault.address)
        assert [entry.fields["sequence"] for entry in entries] == list(range(len(entries)))
        names = [bytes(entry.fields["explanationHash"]) for entry in entries]
        assert len(set(names)) == len(names)
