"""A sample of the campaign that `make chaos` runs: nothing is lost, nothing is doubled, and every run converges."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from agents.localnet.evm import LocalEvm, start_evm
from tests.chaos.kills import Street, Zygote
from tests.chaos.lives import Broken, Stage
from tests.contracts.world import World


@pytest.fixture(scope="module")
def evm() -> Iterator[LocalEvm]:
    with start_evm("anvil") as started:
        yield started


@pytest.fixture(scope="module")
def stage(evm: LocalEvm) -> Stage:
    return Stage(World(evm))


def test_runs_with_faults_at_every_transition_of_the_journal_converge(stage: Stage, tmp_path: Path) -> None:
    faults: set[str] = set()
    with stage.life(tmp_path) as life:
        for seed in range(30):
            faults |= set(life.run(seed).faults)
    assert {"crash", "reorg", "reconciled"} <= faults


def test_a_trade_that_the_journal_does_not_know_is_noticed(stage: Stage, tmp_path: Path) -> None:
    """That the campaign can fail."""
    with stage.life(tmp_path) as life:
        for seed in count():
            life.run(seed)
            if life.journal.rows(outcome="traded"):
                break
        life.journal._execute("UPDATE decisions SET outcome = 'reverted', trade_id = NULL WHERE outcome = 'traded'")
        with pytest.raises(Broken, match="the ledger has"):
            life._hold()


def test_killed_daemons_leave_nothing_that_the_next_start_does_not_bring_to_its_end(tmp_path: Path) -> None:
    zygote = Zygote()
    try:
        with start_evm("anvil") as own, Street(World(own)).visit(tmp_path, zygote) as visit:
            for seed in range(6):
                story = visit.round(seed)
                assert any(said.startswith("holds") for said in story.said)
    finally:
        zygote.close()
