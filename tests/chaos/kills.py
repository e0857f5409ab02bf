"""Real daemons that are really killed: at a transition of the journal, or at any moment, again and again.

Each round starts a daemon on the journal that the last one left, moves the market while it lives, kills it, may
reorganise the chain or empty the node's pool meanwhile, and then looks: what is left must be brought to an end by the
next start, with nothing lost and nothing doubled.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.errors import Retryable
from agents.journal import Journal
from agents.ledger import fetch_entries
from offchain_rl.artefact import ActionSpec, Artefact
from tests.chaos.chainlab import ChainLab, Fate, LabError
from tests.chaos.lives import PATIENCE, POINTS, Broken, Story
from tests.contracts.world import CEILINGS, LIMITS, World, usd
from tests.e2e.conftest import BAR_S, SPEC
from tests.e2e.daemons import settings_for, start, write_files

# How long a daemon may live; most are killed before.
LONGEST_S = 4.0
# Rounds before the chain begins anew: within an epoch, and within the past that a node remembers.
ROUNDS = 60
PRICES_USD = (1940, 1965, 1990, 2000, 2015, 2040, 2065)


class Zygote:
    """The process that forks daemons."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def fork(self, **wanted: Any) -> int:
        """The process id of a new daemon."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({name: str(value) for name, value in wanted.items()}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=10)


class Street:
    """A chain with agents that trade in every bar, and the files of their operator.

    Their vaults may trade as often as the constitution allows, with a week before the next settlement and deposits that
    a profit does not make too small: a vault that lacks either only sells.
    """

    def __init__(self, world: World, *, agents: int = 3) -> None:
        self.world, self.lab = world, ChainLab(world.evm)
        world.to_next_window()
        world.to_window_end()
        limits = replace(LIMITS, max_trades_per_day=CEILINGS.max_trades_per_day, max_cumulative_slippage_bps=300)
        keys = [world.signer, *[world.other_signer, world.signer] * (agents // 2)][:agents]
        self.agents = []
        for number, key in enumerate(keys):
            controller = world.other_controller if number else world.controller
            agent = world.register_agent(controller, key, deposit=usd(200_000))
            artefact = rebalancer(800 * (number + 1))
            strategy = world.deploy_strategy(
                artefactHash=bytes.fromhex(artefact.artefact_hash[2:]), agent_id=agent, limits=limits
            )
            self.agents.append((f"agent {number}", strategy.vault, artefact, key))
        for _ in range(SPEC.lookback):
            self.bar(2000)
        self._visits = 0
        self._snapshot = world.evm.snapshot()

    def bar(self, price_usd: int) -> None:
        """The next bar: time passes, every feed publishes, the pool follows."""
        self.world.travel(BAR_S)
        self.world.set_price("ETH", price_usd)

    @contextmanager
    def visit(self, folder: Path, zygote: Zygote | None = None) -> Iterator[Visit]:
        """The chain as it was, and an operator's empty folder."""
        self.world.evm.revert(self._snapshot)
        self._visits += 1
        self.world.evm.travel(self._visits)
        self.world.evm.mine(8)
        write_files(self.world, folder, self.agents)
        yield Visit(self, folder, zygote)
        self.lab.drop_all()


class Visit:
    """Rounds of one journal."""

    def __init__(self, street: Street, folder: Path, zygote: Zygote | None) -> None:
        self.street, self.folder, self.zygote = street, folder, zygote
        self.world, self.lab = street.world, street.lab
        self.rounds = self.trades = 0

    def round(self, seed: int) -> Story:
        """One daemon's life and what it left. Raises Broken, with the story."""
        rng, story = random.Random(f"round:{seed}"), Story(seed=seed)
        self.rounds += 1
        plan = ""
        if rng.random() < 0.6:
            plan = f"{POINTS[seed % len(POINTS)]}:{rng.randint(1, 2)},{rng.choice(POINTS)}:{rng.randint(1, 3)}"
        try:
            self._live(rng, plan, story)
            self._disturb(rng, story)
            self._look(story)
        except Broken as error:
            tail = (self.folder / "daemon.log").read_text(errors="replace")[-3000:]
            raise Broken(f"seed {seed}, round {self.rounds}: {error}; {'; '.join(story.said)}\n{tail}") from error
        return story

    def _live(self, rng: random.Random, plan: str, story: Story) -> None:
        assert self.zygote is not None
        pid = self.zygote.fork(
            folder=self.folder, url=self.world.evm.url, chain_id=self.world.d.chain_id, plan=plan,
            log=self.folder / "daemon.log",
        )  # fmt: skip
        begun = time.monotonic()
        until = begun + (LONGEST_S if plan else rng.uniform(0.2, 2.5))
        while time.monotonic() < until and _is_alive(pid):
            self.street.bar(rng.choice(PRICES_USD))
            time.sleep(rng.uniform(0.02, 0.25))
        if _is_alive(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            story.tell(f"killed: after {time.monotonic() - begun:.2f} s")
        else:
            story.tell(f"died: of {plan}")
        while _is_alive(pid):
            time.sleep(0.002)

    def _disturb(self, rng: random.Random, story: Story) -> None:
        self.lab.settle()
        ours = {key.address.lower() for *_, key in self.street.agents}
        if rng.random() < 0.3:
            depth, fates = rng.randint(1, 6), [Fate.KEPT, Fate.LATER, Fate.DROPPED, Fate.RETURNED]
            self.lab.reorg(depth, lambda tx: rng.choice(fates) if tx.sender.lower() in ours else Fate.KEPT)
            story.tell(f"reorg: {depth} blocks")
        if rng.random() < 0.1:
            with suppress(LabError):
                self.lab.foreign_transaction(bytes(self.world.signer.key))
                story.tell("foreign use of the key")

    def _look(self, story: Story) -> None:
        """As the next start of the daemon would: catch up, follow to the end, compare."""
        settings = settings_for(
            self.folder, self.world.evm.url or "", self.world.d.chain_id, finality_blocks=8, bump_after_s=20,
            stuck_after_s=120,
        )
        assembly = start(settings)
        try:
            head = assembly.node.head()
            assembly.fleet.reconcile(head)
            for _ in range(PATIENCE):
                if not assembly.journal.unfinished() and not self.lab.executable():
                    break
                self.world.evm.travel(25)
                self.lab.settle()
                with suppress(Retryable):
                    assembly.fleet.follow(assembly.node.head())
            else:
                raise Broken(f"{len(assembly.journal.unfinished())} decisions have no end after {PATIENCE} blocks")
            head = assembly.node.head()
            assembly.fleet.reconcile(head)
            self._hold(assembly.journal)
            trades = sum(assembly.journal.trades(up_to_block=head.number).values())
            story.tell(f"holds: {trades} trades")
            story.faults["trades"] += trades - self.trades
            self.trades = trades
        finally:
            assembly.close()

    def _hold(self, journal: Journal) -> None:
        for _, vault, _, _ in self.street.agents:
            entries = fetch_entries(
                self.world.evm, self.world.ledger, vault.address, from_block=self.world.d.deployed_at_block
            )
            rows = [row for row in journal.rows(vault=vault.address) if row["outcome"] == "traded"]
            if sorted(e.id for e in entries) != sorted(row["trade_id"] for row in rows):
                raise Broken(f"the ledger has {len(entries)} trades of {vault.address}, the journal {len(rows)}")
            named = Counter((e.fields["sequence"], bytes(e.fields["explanationHash"])) for e in entries)
            if any(times > 1 for times in named.values()):
                raise Broken(f"a decision of {vault.address} was traded twice")
            for row in rows:
                if row["account"] is not None and journal.document(row["explanation_hash"]) is None:
                    raise Broken(f"decision {row['id']} was traded and has no explanation")


def rebalancer(weight_bps: int) -> Artefact:
    return Artefact(
        name=f"rebalance-{weight_bps}", kind="constant", observation=SPEC, parameters={"weight_bps": weight_bps},
        action=ActionSpec(max_weight_bps=weight_bps, deadband_bps=1),
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
