"""`ape run status`: what is going on, where that was read, and what happens when the subgraph is not to be had."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from agents.commands.status import cli, print_table
from agents.deployments import NetworkDeployment
from agents.localnet.evm import start_evm
from tests.contracts import story
from tests.contracts.world import World

CLOSED = "http://127.0.0.1:1/subgraphs/name/subgraph-0"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    """After the story, on a node that others can reach, with the file that says where things are."""
    folder = tmp_path_factory.mktemp("deployments")
    with start_evm("anvil") as evm:
        world = World(evm)
        story.tell(world)
        NetworkDeployment(protocol=world.d, market=world.book).save(folder / "local.json")
        yield world, folder


def run(told: tuple[World, Path], *options: str) -> Result:
    world, folder = told
    where = ["--network", str(world.evm.url), "--deployments", str(folder)]
    return CliRunner(mix_stderr=False).invoke(cli, [*where, *options])


def test_a_proposal_s_title_can_not_rewrite_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Console(markup=False), "proposals", ("title",), [("harmless\x1b[2A\x1b[2Kforged",)])
    assert "\x1b" not in capsys.readouterr().out


def test_an_address_with_a_key_in_it_ends_in_one_sentence(told: tuple[World, Path]) -> None:
    result = run(told, "--graph", "https://gateway.thegraph.com/api/0123456789abcdef/subgraphs/id/x")
    assert result.exit_code == 1
    assert "put the key into MARKETFLOW_GRAPH_KEY" in result.stderr
    assert "0123456789abcdef" not in result.stderr


def test_a_subgraph_that_does_not_answer_is_said_and_the_events_are_read(told: tuple[World, Path]) -> None:
    result = run(told, "--json", "--graph", CLOSED)
    assert result.exit_code == 0, result.stderr
    assert "warning: the subgraph gave no answer" in result.stderr
    assert json.loads(result.stdout)["source"] == "the contracts' events"


def test_json_has_every_number_with_states_by_name_and_ids_as_text(told: tuple[World, Path]) -> None:
    world, _ = told
    answer = json.loads(run(told, "--json").stdout)
    assert answer["block"]["number"] == world.w3.eth.block_number
    assert answer["totals"]["proposal_count"] == len(answer["proposals"]) == 7
    for proposal in answer["proposals"]:
        assert proposal["state"].title() == world.state(int(proposal["id"]))
    assert {strategy["stage"] for strategy in answer["strategies"]} == {"LIVE", "RETIRED"}
    assert [vault["quote_held"] for vault in answer["vaults"]] == [
        world.view(world.d.vault(world.evm, vault["address"]).functions.book()).quoteHeld for vault in answer["vaults"]
    ]


def test_tables_say_the_block_the_source_and_what_people_look_for_first(told: tuple[World, Path]) -> None:
    world, _ = told
    result = run(told)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"block {world.w3.eth.block_number} (")
    assert "read from the contracts' events" in result.stdout
    for expected in ("proposal 2", "defeated", "retired", "halted, UNSETTLED, HALTED", world.controller.address):
        assert expected in result.stdout
