"""The console as an engineer has it: the names of a deployed protocol, what they say, what they send, what they refuse.

The stories run in this process, on the session's chain; what ape and IPython do with them, in processes of their own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.lib.pretty import pretty

# Before anything imports ape, which looks for its folder once.
if "APE_DATA_FOLDER" not in os.environ:
    os.environ["APE_DATA_FOLDER"] = tempfile.mkdtemp(prefix="ape-")
    atexit.register(shutil.rmtree, os.environ["APE_DATA_FOLDER"], ignore_errors=True)

import ape

from agents import console, console_session
from agents.commands._chain import connect
from agents.console_errors import Refused
from agents.console_views import Amount
from agents.deployments import NetworkDeployment
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import LocalEvm
from oracle.protocol import ProposalState
from tests.contracts.world import World
from tests.e2e.conftest import Agent, Hire, constant

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")

ROOT = Path(__file__).resolve().parents[2]
APE = Path(sys.executable).with_name("ape")
# Who has which account of the test mnemonic in `World`.
PROPOSER, VOTER, STRANGER = "TEST::2", "TEST::3", "TEST::8"
NOBODY = "0x" + 64 * "1"


@pytest.fixture
def deployments(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "deployments"
    NetworkDeployment(protocol=world.d, market=world.book).save(folder / "local.json")
    monkeypatch.setenv("MARKETFLOW_DEPLOYMENTS_DIR", str(folder))
    monkeypatch.delenv("MARKETFLOW_EXPLANATIONS", raising=False)
    return folder


@pytest.fixture
def space(world: World, deployments: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The names that ape gets, connected to the world's chain. ape's own connecting leaves sockets open."""
    with connect(str(world.evm.url), deployments) as here:
        here.provider._web3 = here.chain.w3
        monkeypatch.setattr(ape.networks, "active_provider", here.provider)
        yield SimpleNamespace(**console.ape_init_extras())
    console_session._open.clear()


@pytest.fixture
def trader(hire: Hire) -> Agent:
    """An agent that has made one trade."""
    hired = hire(constant(3000))
    hired.bars(*[2000] * hired.artefact.observation.lookback)
    hired.run()
    assert len(hired.entries()) == 1
    return hired


def blocks(world: World) -> int:
    return int(world.evm.w3.eth.block_number)


def proposed(world: World) -> int:
    """A proposal that the voters can vote on."""
    text = "Pay nobody\x1b[2J nothing"
    call = world.dao.functions.propose(
        [world.d.token], [0], [world.token.functions.approve(world.d.dao, 5)._encode_transaction_data()], text
    )
    [created] = [e for e in world.send(call, world.proposer) if e.name == "ProposalCreated"]
    world.travel(int(created.args["voteStart"]) - world.evm.now_s() + 1)
    return int(created.args["proposalId"])


# Refusals


def test_a_network_without_a_deployment_says_in_a_line_what_to_do(space: SimpleNamespace, deployments: Path):
    (deployments / "local.json").unlink()
    assert repr(space.dao).startswith("error: ") and "run `ape run deploy` on this network first" in repr(space.dao)
    with pytest.raises(Refused, match="does not exist: run `ape run deploy`"):
        space.dao.state(1)
    assert dir(space.vaults) == []
    assert space.vaults._ipython_key_completions_() == []


def test_a_chain_that_forgot_its_contracts_is_told_apart_from_one_without_any(
    space: SimpleNamespace, world: World, deployments: Path
):
    elsewhere = replace(world.d, dao="0x00000000000000000000000000000000000000AA")
    NetworkDeployment(protocol=elsewhere, market=world.book).save(deployments / "local.json")
    assert "a local node forgets them when it ends; `ape run deploy --again`" in repr(space.dao)


def test_the_file_of_another_chain_is_refused(space: SimpleNamespace, world: World, deployments: Path):
    NetworkDeployment(protocol=replace(world.d, chain_id=5), market=world.book).save(deployments / "local.json")
    assert "is of chain 5, the node is on chain 31337: check --network" in repr(space.dao)


def test_what_the_chain_refuses_is_said_with_the_way_out_and_the_name_of_the_error(space: SimpleNamespace):
    with pytest.raises(Refused, match=r"there is no proposal 7: .* \[GovernorNonexistentProposal\]") as refused:
        space.dao.state(7)
    assert (refused.value.reason.name, refused.value.reason.args) == ("GovernorNonexistentProposal", {"proposalId": 7})
    assert refused.value._render_traceback_() == [f"error: {refused.value}"]
    assert refused.value.__suppress_context__


def test_arguments_that_are_none_are_answered_with_those_it_has(space: SimpleNamespace):
    with pytest.raises(Refused, match="these are no arguments of it: 'seven'; it is state\\(uint256 proposalId\\)"):
        space.dao.state("seven")
    with pytest.raises(Refused, match="these are no arguments of it: Decimal"):
        space.dao.state(Decimal(7))
    with pytest.raises(AttributeError, match="dao has no stat"):
        space.dao.stat(7)


def test_nobody_sends_without_saying_who_they_are(space: SimpleNamespace, world: World):
    before = blocks(world)
    with pytest.raises(Refused, match="who signs\\?"):
        space.delegate()
    with pytest.raises(Refused, match="who signs\\?"):
        space.token.transfer(world.stranger.address, 1, dry_run=False)
    with pytest.raises(Refused, match="there is no account 'nobody'"):
        space.use("nobody")
    with pytest.raises(Refused, match="7 is no account"):
        space.use(7)
    assert blocks(world) == before


def test_a_transfer_of_what_is_not_there_is_refused_before_it_is_sent(space: SimpleNamespace, world: World):
    before = blocks(world)
    with pytest.raises(Refused, match="ERC20InsufficientBalance") as refused:
        space.token.transfer(world.proposer.address, 1, sender=STRANGER, dry_run=False)
    assert refused.value.reason.args["needed"] == 1
    assert blocks(world) == before


@pytest.mark.parametrize("dry_run", [None, True])
def test_nothing_is_sent_unless_it_is_asked_for(space: SimpleNamespace, world: World, dry_run: bool | None):
    proposal = proposed(world)
    before = blocks(world)
    plan = space.token.transfer(world.stranger.address, 5, sender=VOTER, dry_run=dry_run)
    assert f"would send  token.transfer(to={world.stranger.address}, value=5)" in repr(plan)
    answer = space.vote(proposal, "for", sender=VOTER, dry_run=dry_run)
    assert answer["dry_run"] is True
    assert "dry run: nothing was sent" in repr(answer)
    space.delegate(sender=STRANGER, dry_run=dry_run)
    assert blocks(world) == before


@pytest.mark.parametrize("says_yes", [False, True])
def test_in_a_terminal_somebody_is_asked_first(
    space: SimpleNamespace, world: World, monkeypatch: pytest.MonkeyPatch, says_yes: bool
):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    asked: list[str] = []

    def answer(question: str, default: bool) -> bool:
        asked.append(question)
        return says_yes and not default

    monkeypatch.setattr("click.confirm", answer)
    space.token.transfer(world.stranger.address, 5, sender=VOTER)
    assert asked == ["Send it?"]
    assert world.view(world.token.functions.balanceOf(world.stranger.address)) == (5 if says_yes else 0)


def test_a_vote_is_the_commands_with_all_its_checks(space: SimpleNamespace, world: World):
    proposal = proposed(world)
    with pytest.raises(Refused, match="had no votes when voting on proposal"):
        space.vote(proposal, "for", sender=STRANGER, dry_run=False)
    with pytest.raises(Refused, match="vote how\\? 'yes' is none of"):
        space.vote(proposal, "yes", sender=VOTER, dry_run=False)
    with pytest.raises(Refused, match="'--sign-only' is no proposal"):
        space.vote("--sign-only", "for", sender=VOTER, dry_run=False)
    space.use(VOTER)
    answer = space.vote(space.proposals[proposal], "for", reason="--against", dry_run=False)
    assert answer["votes"] == "1,000,000"
    assert world.view(world.dao.functions.proposalVotes(proposal)).forVotes == 10**24
    [ballot] = space.proposals[proposal].votes
    assert ballot.reason == "--against"
    with pytest.raises(Refused, match=r"has voted on proposal \d+ already"):
        space.vote(proposal, "for", dry_run=False)


def test_a_proposal_that_can_not_be_is_refused_as_by_the_command(space: SimpleNamespace):
    with pytest.raises(Refused, match="make one at a time"):
        space.propose(recall=NOBODY, retire=NOBODY, sender=PROPOSER)
    with pytest.raises(Refused, match="there is no strategy 0x1111"):
        space.propose(retire=NOBODY, sender=PROPOSER)
    with pytest.raises(Refused, match=r"strategy file no\.toml does not exist"):
        space.propose("no.toml", sender=PROPOSER)
    with pytest.raises(Refused, match="there is no proposal 9"):
        space.deploy_approved(9, sender=VOTER)


# What is there


def test_delegating_is_the_tokens_and_not_apes(space: SimpleNamespace, world: World):
    sent = space.token.delegate(world.stranger.address, sender=VOTER, dry_run=False)
    assert "DelegateChanged" in repr(sent)
    assert space.token.getVotes(world.stranger.address) == 10**24
    assert space.account(STRANGER).votes.raw == 10**24
    space.delegate(sender=VOTER, dry_run=False)
    assert space.account(VOTER).votes == Decimal(1_000_000)


def test_a_proposal_says_what_it_would_do_and_nothing_in_it_steers_the_terminal(
    space: SimpleNamespace, world: World, monkeypatch: pytest.MonkeyPatch
):
    found = space.proposals[proposed(world)]
    assert found.state is ProposalState.ACTIVE is space.dao.state(found)
    assert found.calls == [f"token.approve(spender={world.d.dao}, value=5)"]
    assert "next        voting ends 2" in repr(found)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    in_colours = [pretty(found), pretty(space.proposals)]
    assert all("│" in text for text in in_colours)
    for text in (repr(found), repr(space.proposals), *in_colours):
        assert "\x1b[2J" not in text and "Pay nobody" in text
    assert space.proposals._ipython_key_completions_() == [found.id]


def test_call_data_of_nobody_we_know_is_shown_as_it_is(space: SimpleNamespace, world: World):
    here = console_session.session()
    assert here.describe_call(world.stranger.address, 10**18, "0x12345678") == (
        f"{world.stranger.address}: unknown call 0x12345678, with 1 ether"
    )
    assert here.describe_call(world.d.token, 0, "0x095ea7b3" + "00" * 8).startswith("token: unknown call 0x095ea7b3")


def test_a_vault_is_measured_now_and_shown_against_its_limits(space: SimpleNamespace, world: World, trader: Agent):
    [vault] = space.vaults
    assert vault == space.vaults[trader.strategy.vault.address] == space.vaults[0]
    reading = trader.reading()
    assert (vault.value.raw, vault.value.symbol) == (reading.value, "MUSD")
    assert vault.value == Decimal(reading.value).scaleb(-6)
    assert vault.status().value == reading.value
    trader.bar(1900)
    fell = space.vaults[0]
    status = world.view(trader.strategy.vault.functions.status())
    peak = world.view(trader.strategy.vault.functions.guard()).peak
    assert fell.drawdown_bps == (peak - status.unitPriceWad) * 10_000 // peak > 0
    text = repr(fell)
    assert f"drawdown  {fell.drawdown_bps} bps of {fell.limits.in_force.max_drawdown_bps}" in text
    assert "max_drawdown_bps" in text and "ceiling" in text
    assert [amount.symbol for amount in fell.holdings] == ["MUSD", "ETH"]
    assert repr(space.vaults).startswith("1 vault\n")


def test_agents_are_found_by_their_number_and_have_the_registrys_calls(space: SimpleNamespace, trader: Agent):
    agent_id = trader.reading().agent_id
    agent = space.agents[agent_id]
    assert agent.controller == space.agents.controllerOf(agent) == space.agents.controllerOf(agent_id)
    assert space.agents[str(agent_id)] == agent
    with pytest.raises(Refused, match=f"there is no agent {agent_id + 1}: there is {agent_id}"):
        space.agents[agent_id + 1]
    with pytest.raises(Refused, match="there is no agent -1"):
        space.agents[-1]
    assert f"bond         {agent.bond}" in repr(agent)


def test_a_trade_is_explained_only_by_what_hashes_to_what_the_ledger_names(space: SimpleNamespace, trader: Agent):
    [trade], folder = space.ledger, trader.folder / "explanations"
    assert space.explain(trade).verdict == "unexplained"
    assert "MARKETFLOW_EXPLANATIONS" in repr(space.explain(trade))
    told = space.explain(trade, folder)
    assert (told.verdict, told.document["decision"]["wanted_weight_bps"]) == ("explained", "3000")
    assert "decision wanted_weight_bps  3000" in repr(told)
    for same in (trade.id, bytes.fromhex(trade.id[2:])):
        assert space.explain(same, folder).document == told.document
    for vault in (space.vaults[0], trade.vault, trader.reading().strategy_id):
        assert [e.verdict for e in space.explain(vault, folder)] == ["explained"]

    [document] = folder.glob("*.json")
    whole = document.read_text()
    document.write_text(whole.replace('"3000"', '"2999"'))
    forged = space.explain(trade, folder)
    assert (forged.verdict, forged.document) == ("forged", None)
    assert "hashes to 0x" in repr(forged) and "2999" not in repr(forged)
    document.unlink()
    assert "UNEXPLAINED  no document 0x" in repr(space.explain(trade, folder))
    with pytest.raises(Refused, match="is no folder of explanations"):
        space.explain(trade, folder / "elsewhere")
    with pytest.raises(Refused, match="there is no trade, no vault and no strategy 0x1111"):
        space.explain(NOBODY, folder)


def test_a_document_about_another_trade_explains_nothing(space: SimpleNamespace, trader: Agent):
    from agents.explanation import ExplanationForged

    [trade] = space.trades
    document = dict(trader.documents.get(trade.explanation_hash))
    entry = {**document["entry"], "amountIn": str(int(document["entry"]["amountIn"]) + 1)}
    with pytest.raises(ExplanationForged, match="it is not about this trade: it has another amountIn"):
        console_session.session()._require_about({**document, "entry": entry}, trade)


def test_amounts_are_whole_tokens_with_the_raw_integer_beside(space: SimpleNamespace, world: World):
    held = space.account(VOTER).tokens
    assert (held, held.raw, held.symbol) == (Decimal(1_000_000), 10**24, space.token.symbol())
    space.token.transfer(world.stranger.address, Amount(3, 18, "MFLOW"), sender=VOTER, dry_run=False)
    assert space.token.balanceOf(world.stranger.address) == 3
    assert space.limits.ceilings.max_drawdown_bps == world.view(world.constitution.functions.ceilings()).maxDrawdownBps


# As ape and IPython have it


def ask(evm: LocalEvm, deployments: Path, home: Path, *arguments: str, typed: str | None = None) -> Any:
    """What `ape console` says."""
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "MARKETFLOW_DEPLOYMENTS_DIR": str(deployments)}
    environment.pop("APE_DATA_FOLDER", None)
    command = [str(APE), "console", "--network", str(evm.url), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, input=typed, timeout=120
    )


def test_the_console_of_ape_answers_and_explains_refusals_without_a_traceback(
    world: World, deployments: Path, tmp_path: Path
):
    code = "\n".join(
        [
            "print(token.symbol(), len(vaults))",
            "dao",
            "dao.state(7)",
            "vote(7, 'for', sender='TEST::3')",
            "from IPython.core.completer import provisionalcompleter",
            "with provisionalcompleter(): print([c.text for c in get_ipython().Completer.completions('dao.stat', 8)])",
            "with provisionalcompleter(): print([c.text for c in get_ipython().Completer.completions('treas', 5)])",
            "print(sorted({'torch', 'numba', 'fastapi'} & set(__import__('sys').modules)))",
        ]
    )
    done = ask(world.evm, deployments, tmp_path / "home", "-c", code)
    said = done.stdout
    assert done.returncode == 0, done.stderr
    assert f"{world.view(world.token.functions.symbol())} 0\n" in said
    assert f"address  {world.d.dao}" in said
    assert "error: there is no proposal 7: `ape run propose` printed its id" in said + done.stderr
    assert "['state']" in said
    assert "['treasury']" in said
    assert said.rstrip().endswith("[]")
    assert "Traceback" not in said + done.stderr


def test_what_is_piped_in_is_answered_and_a_chain_without_a_protocol_starts_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("APE_CONSOLE_PLUGINS", '["agents.console"]')
    done = ask(world.evm, tmp_path, tmp_path / "home", typed="print(6 * 7)\ndao\nexit()\n")
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout
    assert done.stderr.count("local.json does not exist: run `ape run deploy` on this network first") == 1
    assert "error: " in done.stdout and "Traceback" not in done.stdout + done.stderr
