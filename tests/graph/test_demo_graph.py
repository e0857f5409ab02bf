"""The demo with a graph-node beside it: what the subgraph says is what the contracts say."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.test_demo import run_demo, write_prices


def test_a_demo_that_is_indexed_needs_a_chain_that_others_can_ask(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "out", write_prices(tmp_path / "prices.csv"), "--graph", "--evm", "py-evm")
    assert result.exit_code == 1
    assert "--graph needs a chain that others can ask" in result.output


def test_the_subgraph_s_totals_are_those_of_the_report(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "out", write_prices(tmp_path / "prices.csv"), "--graph")
    assert result.exit_code == 0, result.output
    assert "subgraph: http://127.0.0.1:" in result.output
    [trades] = [line for line in result.output.splitlines() if line.strip().startswith("tradeCount")]
    assert int(trades.split()[1]) > 0
