"""`marketflow sign` and `marketflow explain` on a real chain: what is refused, and what a voter and a reader get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from eth_account import Account as Keys
from eth_utils import to_checksum_address

from agents.commands import explain, sign, vote
from agents.deployments import NetworkDeployment
from agents.journal import Journal, NewDecision
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import MNEMONIC
from tests.contracts.world import World
from tests.e2e.conftest import Agent, Hire, constant

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")

# Who has which account of the test mnemonic in `World`.
VOTER_A, VOTER_B, STRANGER = "TEST::3", "TEST::4", "TEST::8"
NOBODY = "0x" + 64 * "1"


class People:
    """The commands on the world's chain."""

    def __init__(self, world: World, folder: Path) -> None:
        NetworkDeployment(protocol=world.d, market=world.book).save(folder / "local.json")
        self.where = ["--network", str(world.evm.url), "--deployments", str(folder)]

    def run(self, command: Any, *arguments: str) -> Result:
        return CliRunner(mix_stderr=False).invoke(command, [*arguments, *self.where])

    def get(self, command: Any, *arguments: str) -> dict[str, Any]:
        result = self.run(command, *arguments, "--json")
        assert result.exit_code == 0, result.stderr + repr(result.exception)
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def refuse(self, command: Any, *arguments: str) -> str:
        result = self.run(command, *arguments)
        assert result.exit_code == 1 and not result.stdout, result.output + repr(result.exception)
        [sentence] = result.stderr.strip().splitlines()
        return sentence


@pytest.fixture
def people(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    monkeypatch.delenv("MARKETFLOW_EXPLANATIONS", raising=False)
    return People(world, tmp_path / "deployments")


@pytest.fixture
def proposal(world: World) -> str:
    """One that can be voted on."""
    found = world.propose([world.pool.functions.setBudget(10**22)], "A budget")
    world.to_voting(found)
    return str(found)


def wallet(alias: str) -> Any:
    """The key of a test account, as a wallet elsewhere has it."""
    Keys.enable_unaudited_hdwallet_features()
    return Keys.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{alias[6:]}")


# What can't be signed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "vote how? give one of --for, --against, --abstain"),
        (["--for", "--against"], "vote how?"),
        (["--for", "--typed-data"], "--voter goes with one of --typed-data and --signature"),
        (["--for", "--voter", "0x" + 40 * "1"], "--voter goes with one of --typed-data and --signature"),
        (["--for", "--voter", "bob", "--typed-data"], "--voter bob is no address"),
        (["--for"], "whose account signs? add --account ALIAS"),
        (["--for", "--account", STRANGER], "had no votes when voting on proposal"),
    ],
)
def test_what_can_not_be_signed_is_said_in_a_sentence(
    arguments: list[str], says: str, people: People, proposal: str
):
    assert says in people.refuse(sign.cli, proposal, *arguments)


def test_a_signature_of_somebody_else_makes_no_ballot(people: People, proposal: str, tmp_path: Path):
    voter = wallet(VOTER_A).address
    document = json.loads(people.run(sign.cli, proposal, "--for", "--typed-data", "--voter", voter).stdout)
    forged = Keys.sign_typed_data(wallet(VOTER_B).key, full_message=document).signature.hex()
    arguments = [proposal, "--for", "--voter", voter, "--out", str(tmp_path / "b.json")]
    sentence = people.refuse(sign.cli, *arguments, "--signature", forged)
    assert f"the ballot of {voter} was signed by {wallet(VOTER_B).address}, or changed" in sentence
    assert "--signature is no hexadecimal text" in people.refuse(sign.cli, *arguments, "--signature", "0xzz")
    assert not (tmp_path / "b.json").exists()


def test_a_signature_is_good_for_what_was_signed_only(people: People, proposal: str):
    voter = wallet(VOTER_A)
    document = json.loads(people.run(sign.cli, proposal, "--for", "--typed-data", "--voter", voter.address).stdout)
    signature = Keys.sign_typed_data(voter.key, full_message=document).signature.hex()
    for other in (["--against"], ["--for", "--reason", "because"]):
        arguments = [proposal, *other, "--voter", voter.address, "--signature", signature]
        assert f"the ballot of {voter.address} was signed by 0x" in people.refuse(sign.cli, *arguments)


# What signing is for


@pytest.mark.parametrize("reason", ["", "small limits: всё ясно"])
def test_a_ballot_that_a_wallet_signed_elsewhere_counts(
    reason: str, people: People, proposal: str, world: World, tmp_path: Path
):
    voter, path = wallet(VOTER_A), tmp_path / "ballot.json"
    how = [proposal, "--against", "--reason", reason, "--voter", voter.address]
    document = json.loads(people.run(sign.cli, *how, "--typed-data").stdout)
    assert document["primaryType"] == ("ExtendedBallot" if reason else "Ballot")
    signature = Keys.sign_typed_data(voter.key, full_message=document).signature.hex()
    people.run(sign.cli, *how, "--signature", signature, "--out", str(path))
    sent = people.get(vote.cli, "--submit", str(path), "--account", STRANGER)
    assert sent["voter"] == voter.address
    assert world.view(world.dao.functions.hasVoted(int(proposal), voter.address))
    assert world.view(world.dao.functions.proposalVotes(int(proposal))).againstVotes > 0


def test_signing_with_an_account_costs_nothing_and_the_ballot_counts_once(
    people: People, proposal: str, world: World, tmp_path: Path
):
    path, before = tmp_path / "ballot.json", world.evm.w3.eth.block_number
    result = people.run(sign.cli, proposal, "--for", "--account", VOTER_A, "--out", str(path))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(path.read_text())
    assert world.evm.w3.eth.block_number == before
    people.get(vote.cli, "--submit", str(path), "--account", STRANGER)
    assert world.view(world.dao.functions.hasVoted(int(proposal), wallet(VOTER_A).address))
    assert "the ballot has nonce 0" in people.refuse(vote.cli, "--submit", str(path), "--account", STRANGER)


# Why a trade was made


@pytest.fixture
def trader(hire: Hire) -> Agent:
    """An agent that has made one trade."""
    hired = hire(constant(3000))
    hired.bars(*[2000] * hired.artefact.observation.lookback)
    hired.run()
    assert len(hired.entries()) == 1
    return hired


def strategy_of(trader: Agent) -> str:
    return "0x" + bytes(trader.strategy.id).hex()


def test_what_has_no_explanations_says_where_they_may_be(people: People, trader: Agent, tmp_path: Path):
    [entry] = trader.entries()
    assert "give --explanations the folder where the agent kept them" in people.refuse(explain.cli, entry.id)
    (tmp_path / "file").write_text("no journal")
    for source, says in ((tmp_path / "nowhere", "is not there"), (tmp_path / "file", "is no journal")):
        assert f"{source} {says}" in people.refuse(explain.cli, entry.id, "--explanations", str(source))
    folder, nobody = str(trader.folder / "explanations"), wallet(STRANGER).address
    assert f"{nobody} is no vault of this protocol" in people.refuse(explain.cli, nobody, "--explanations", folder)
    assert f"there is no strategy and no trade {NOBODY}" in people.refuse(explain.cli, NOBODY, "--explanations", folder)


def test_a_trade_without_its_document_or_with_another_is_unexplained(people: People, trader: Agent):
    [entry], folder = trader.entries(), trader.folder / "explanations"
    [document] = folder.glob("*.json")
    whole = document.read_text()
    document.write_text(whole.replace('"3000"', '"2999"'))
    forged = people.run(explain.cli, entry.id, "--explanations", str(folder))
    assert forged.exit_code == 1
    assert "UNEXPLAINED" in forged.stdout and "hashes to 0x" in forged.stdout
    assert "2999" not in forged.stdout
    document.unlink()
    absent = people.run(explain.cli, entry.id, "--explanations", str(folder), "--json")
    assert absent.exit_code == 1
    assert [trade["status"] for trade in json.loads(absent.stdout)["trades"]] == ["absent"]


def test_a_trade_and_a_strategy_are_explained_by_documents_that_hash_to_what_the_ledger_has(
    people: People, trader: Agent
):
    [entry], folder = trader.entries(), str(trader.folder / "explanations")
    for what in (entry.id, strategy_of(trader), trader.strategy.vault.address.lower()):
        [told] = people.get(explain.cli, what, "--explanations", folder)["trades"]
        assert (told["trade"], told["status"]) == (entry.id, "matches")
        assert told["document"]["decision"]["wanted_weight_bps"] == "3000"
        assert told["text"] == told["document"]["text"]
    shown = people.run(explain.cli, entry.id, "--explanations", folder).stdout
    assert told["text"] in shown and "UNEXPLAINED" not in shown


def test_the_journal_that_the_daemon_keeps_explains_too(people: People, trader: Agent, tmp_path: Path):
    [entry] = trader.entries()
    name = "0x" + bytes(entry.fields["explanationHash"]).hex()
    content = (trader.folder / "explanations" / f"{name}.json").read_bytes()
    vault = to_checksum_address(trader.strategy.vault.address)
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.record(
            [NewDecision(vault=vault, sequence=1, block=1, decided_at_s=1, explanation_hash=name, document=content)]
        )
    journal_file = str(tmp_path / "journal.sqlite")
    [told] = people.get(explain.cli, entry.id, "--explanations", journal_file)["trades"]
    assert (told["status"], told["explanation"]) == ("matches", name)


def test_a_vault_that_has_not_traded_has_nothing_to_explain(people: People, agent: Agent, tmp_path: Path):
    result = people.run(explain.cli, strategy_of(agent), "--explanations", str(tmp_path))
    assert result.exit_code == 0
    assert "has not traded: there is nothing to explain" in result.stderr
