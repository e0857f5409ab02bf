"""The commands as people run them, on an anvil of their own: from the deployment to the reward, and what they refuse.

The story is told through `ape run` in processes of their own, where it is about what people see. The rest runs in this
process, which is the same code and takes a tenth of the time.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from eth_account import Account as Keys

# Before anything imports ape, which looks for its folder once.
if "APE_DATA_FOLDER" not in os.environ:
    os.environ["APE_DATA_FOLDER"] = tempfile.mkdtemp(prefix="ape-")
    atexit.register(shutil.rmtree, os.environ["APE_DATA_FOLDER"], ignore_errors=True)

from agents.commands import audit, delegate, deploy, deploy_approved, propose, register_agent, reward, travel, vote
from agents.commands._local import make_market
from agents.cycle import Cycle
from agents.demo import PEOPLE
from agents.deployments import NetworkDeployment, load_deployment
from agents.explanation import DocumentStore
from agents.journal import Journal
from agents.localnet.anvil import AnvilProcess, AnvilProvider, find_anvil
from agents.localnet.evm import GENESIS_S, MNEMONIC, Account, LocalEvm, mnemonic_accounts, start_evm
from agents.localnet.market import LocalMarket
from agents.manifest import EXAMPLE
from agents.vault_execution import VaultExecution
from offchain_rl.artefact import ActionSpec, Artefact, save
from offchain_rl.observation import ObservationSpec
from oracle.chain import fetch_block
from oracle.chainlink import ChainlinkReader
from oracle.vault_state import VaultReader

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")

ROOT = Path(__file__).resolve().parents[2]
APE = Path(sys.executable).with_name("ape")
BAR_S = 600
SPEC = ObservationSpec(bar_s=BAR_S, lookback=4, vol_window=3, features=("return_z:1", "weight"))
NOBODY = "0x" + "11" * 32


def account(name: str) -> str:
    """The alias under which ape has that person's account."""
    return f"TEST::{PEOPLE.index(name)}"


class Node:
    """An anvil, a folder of deployments, and ape with a home of its own."""

    def __init__(self, evm: LocalEvm, folder: Path, *, deployments: Path | None = None) -> None:
        self.evm, self.folder = evm, folder
        self.deployments = deployments or folder / "deployments"
        (folder / "home").mkdir(parents=True)

    @property
    def where(self) -> list[str]:
        return ["--network", str(self.evm.url), "--deployments", str(self.deployments)]

    def ape(self, name: str, *arguments: str) -> dict[str, Any]:
        """`ape run name …` in a process; its JSON answer."""
        environment = {**os.environ, "HOME": str(self.folder / "home")}
        environment.pop("APE_DATA_FOLDER", None)
        command = [str(APE), "run", name, *arguments, *self.where, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr and "ERROR" not in done.stderr, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def run(self, command: Any, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
        """The command in this process; its JSON answer."""
        result = CliRunner(mix_stderr=False).invoke(command, [*arguments, *self.where, "--json"])
        assert result.exit_code == exit_code, result.stderr + repr(result.exception)
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    def refuse(self, command: Any, *arguments: str, where: list[str] | None = None) -> str:
        """The one sentence in which the command ends, having sent nothing."""
        before = self.evm.w3.eth.block_number
        options = [*arguments, *(self.where if where is None else where)]
        result = CliRunner(mix_stderr=False).invoke(command, options)
        assert result.exit_code == 1, result.output + result.stderr + repr(result.exception)
        *said, sentence = result.stderr.strip().splitlines()
        assert sentence.startswith("error: ")
        assert all(line.startswith(("warning: ", "note: ")) for line in said)
        assert self.evm.w3.eth.block_number == before
        return sentence.removeprefix("error: ")

    @property
    def deployed(self) -> NetworkDeployment:
        return load_deployment(self.deployments / "local.json", chain_id=31337)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with start_evm("anvil") as evm:
        yield Node(evm, tmp_path_factory.mktemp("node"))


def make_artefact(name: str = "steady", weight_bps: int = 3000) -> Artefact:
    return Artefact(
        name=name, kind="constant", observation=SPEC, parameters={"weight_bps": weight_bps},
        action=ActionSpec(max_weight_bps=weight_bps, deadband_bps=500),
    )  # fmt: skip


def write_strategy(folder: Path, artefact: Artefact) -> Path:
    save(artefact, folder / f"{artefact.name}.json")
    path = folder / f"{artefact.name}.toml"
    path.write_text(EXAMPLE.replace("eth.artefact.json", f"{artefact.name}.json"))
    return path


@pytest.fixture(scope="module")
def story(node: Node) -> SimpleNamespace:
    """From an empty chain to a strategy in office, every step a command; what each of them answered."""
    told = SimpleNamespace(artefact=make_artefact())
    told.file = write_strategy(node.folder, told.artefact)
    told.plan = node.run(deploy.cli, "--account", account("deployer"), "--dry-run")
    told.blocks_before = node.evm.w3.eth.block_number
    told.deployed = node.ape("deploy", "--account", account("deployer"))
    stake = ["--uri", "marketflow:steady", "--bond", "120000", "--deposit", "30000"]
    key = mnemonic_accounts(20)[PEOPLE.index("key_a")].address
    told.agent = node.ape("register_agent", *stake, "--signing-key", key, "--account", account("operator_a"))
    told.thin = CliRunner(mix_stderr=False).invoke(
        propose.cli, [str(told.file), "--account", account("alice"), "--dry-run", *node.where]
    )
    more = ["--agent", "1", "--deposit", "10000"]
    told.thicker = node.run(register_agent.cli, *more, "--account", account("operator_a"))
    told.rehearsed = node.run(propose.cli, str(told.file), "--account", account("alice"), "--dry-run")
    told.proposed = node.ape("propose", str(told.file), "--account", account("alice"))
    told.id = told.proposed["proposal"]
    told.early = node.refuse(vote.cli, told.id, "--for", "--account", account("alice"))
    node.run(travel.cli, "61m")
    told.direct = node.ape("vote", told.id, "--for", "--account", account("alice"))
    told.file_of_ballot = node.folder / "ballot.json"
    to_file = ["--sign-only", "--out", str(told.file_of_ballot)]
    told.ballot = node.run(vote.cli, told.id, "--for", *to_file, "--account", account("bob"))
    told.relayed = node.ape("vote", "--submit", str(told.file_of_ballot), "--account", account("relayer"))
    told.open = node.refuse(deploy_approved.cli, told.id, "--account", account("keeper"))
    node.run(travel.cli, "25h")
    told.queued = node.ape("deploy_approved", told.id, "--account", account("keeper"))
    told.locked = node.refuse(deploy_approved.cli, told.id, "--account", account("keeper"))
    node.run(travel.cli, "6h")
    told.executed = node.ape("deploy_approved", told.id, "--account", account("keeper"))
    told.strategy = told.executed["strategy_id"]
    told.audited = node.ape("audit", told.strategy)
    told.rewarded = node.ape("reward", str(told.agent["agent"]), "--account", account("keeper"))
    return told


# The story


def test_a_dry_run_sends_nothing_and_knows_every_address(story: SimpleNamespace):
    assert story.plan["dry_run"] is True
    assert story.blocks_before == 0
    predicted = story.plan["addresses"]
    assert {name: story.deployed[name] for name in predicted} == predicted
    assert story.plan["transactions"] == 28
    assert story.plan["gas"] > 20_000_000


def test_the_file_says_where_everything_is(story: SimpleNamespace, node: Node):
    assert node.deployed.protocol.to_dict() == {k: v for k, v in story.deployed.items() if k != "file"}


def test_an_agent_has_what_was_posted(story: SimpleNamespace):
    assert story.agent["agent"] == 1
    assert (story.agent["bond"], story.agent["deposit"]) == ("120,000", "30,000")
    assert (story.thicker["bond"], story.thicker["deposit"]) == ("120,000", "40,000")


def test_a_proposer_is_warned_of_a_deposit_with_which_nothing_could_be_bought(story: SimpleNamespace):
    assert "warning: agent 1 has a deposit of 30,000, below 37,500 the vault only sells" in story.thin.stderr
    assert "warning: artefact steady has no report" in story.thin.stderr


def test_a_proposal_is_known_before_it_is_sent(story: SimpleNamespace):
    assert story.rehearsed["proposal"] == story.proposed["proposal"]
    assert story.rehearsed["manifest_hash"] == story.proposed["manifest_hash"] == story.strategy
    assert story.proposed["artefact_hash"] == story.artefact.artefact_hash


def test_votes_count_sent_or_signed(story: SimpleNamespace, node: Node):
    assert (story.direct["votes"], story.relayed["votes"]) == ("900,000", "800,000")
    assert json.loads(story.file_of_ballot.read_text()) == story.ballot
    dao = node.deployed.protocol.contract(node.evm, "dao")
    assert node.evm.call(dao.functions.proposalVotes(int(story.id))).forVotes == 1_700_000 * 10**18


def test_each_step_comes_in_its_time(story: SimpleNamespace):
    assert f"proposal {story.id} can't be voted on yet: voting begins after 20" in story.early
    assert f"proposal {story.id} is being voted on, until 20" in story.open
    assert f"proposal {story.id} is in the timelock: it can be executed from 20" in story.locked
    assert (story.queued["step"], story.queued["state"]) == ("queue", "queued")
    assert (story.executed["step"], story.executed["state"]) == ("execute", "executed")
    assert story.executed["amount"] == str(500_000 * 10**6)


def test_an_empty_ledger_is_whole_and_there_is_nothing_to_reward(story: SimpleNamespace):
    assert story.audited == {
        "vault": story.executed["vault"], "trades": 0, "checked": 0, "failed": 0, "ledger": "whole", "verdicts": [],
    }  # fmt: skip
    assert (story.rewarded["due"], story.rewarded["settled"]) == ("nothing", [])


# What is refused: nothing is sent


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (deploy.cli, [], "local.json exists already: --again deploys anew and replaces it, or move the file away"),
        (deploy.cli, ["--again"], "whose account signs? add --account ALIAS"),
        (deploy.cli, ["--again", "--account", "nobody"], "there is no account 'nobody'"),
        (deploy.cli, ["--again", "--account", "TEST::0", "--genesis", "no.toml"], "no.toml does not exist"),
        (deploy.cli, ["--again", "--account", "TEST::0", "--market", "no.json"], "no.json does not exist: write one"),
        (reward.cli, ["9", "--account", "TEST::6"], "there is no agent 9: `ape run register_agent` makes one"),
        (reward.cli, ["one", "--account", "TEST::6"], "'one' is no agent: give its whole number"),
        (vote.cli, ["12345", "--for", "--account", "TEST::1"], "there is no proposal 12345"),
        (vote.cli, ["12345", "--for", "--account", "nobody"], "there is no account 'nobody'"),
        (deploy_approved.cli, ["12345", "--account", "TEST::1"], "there is no proposal 12345"),
        (audit.cli, [NOBODY], f"there is no strategy and no trade {NOBODY}: check the id, and --network"),
        (audit.cli, ["7"], "'7' is no strategy or trade"),
        (propose.cli, ["--retire", NOBODY, "--account", "TEST::1"], f"there is no strategy {NOBODY}"),
        (propose.cli, ["--recall", NOBODY, "--account", "TEST::1"], f"there is no strategy {NOBODY}"),
        (propose.cli, ["--account", "TEST::1"], "nothing to propose: name a strategy file"),
        (propose.cli, ["no.toml", "--account", "TEST::1"], "strategy file no.toml does not exist"),
        (register_agent.cli, ["--agent", "9", "--account", "TEST::10"], "there is no agent 9"),
        (register_agent.cli, ["--bond", "1000000", "--account", "TEST::10"], "--bond: 0x.* has 30,000 of 0x"),
        (register_agent.cli, ["--deposit", "1e9", "--account", "TEST::10"], "--deposit: 0x.* has 60,000 of 0x"),
        (register_agent.cli, ["--bond", "some", "--account", "TEST::10"], "--bond: 'some' is not an amount"),
        (travel.cli, ["a while"], "'a while' is no duration"),
        (travel.cli, ["0", "--price", "DOGE=1"], "--price 'DOGE=1' is none: give one such as BTC=2000"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    story: SimpleNamespace, node: Node, command: Any, arguments: list[str], says: str
):
    del story
    sentence = node.refuse(command, *arguments)
    assert re.search(says if ".*" in says else re.escape(says), sentence), sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--artefact-hash", NOBODY], "expected is 0x1111"),
        (["--artefact", "no.json"], "no.json can't be read (No such file or directory)"),
        (["--asset", "DOGE"], "no asset 'DOGE'; there are: ETH, BTC"),
        (["--agent", "9"], "there is no agent 9"),
        ([], "agent 1 runs strategy 0x"),
        (["--limit", "max_drawdown_bps=2600"], "limit maxDrawdownBps is 2600, the constitution allows 2500"),
        (["--limit", "max_drawdown_bps=3000"], "limit max"),
        (["--reward-rate", "2"], "the reward rate is 2000000000000 token wei"),
        (["--update", NOBODY], f"strategy {NOBODY} is none"),
    ],
)
def test_a_strategy_that_can_not_be_is_refused_before_anything_is_sent(
    story: SimpleNamespace, node: Node, arguments: list[str], says: str
):
    sentence = node.refuse(propose.cli, str(story.file), "--account", account("alice"), *arguments)
    assert says in sentence


def test_who_has_too_few_votes_proposes_nothing(story: SimpleNamespace, node: Node):
    sentence = node.refuse(propose.cli, "--retire", story.strategy, "--account", account("key_a"))
    assert "has 0 votes, 10,000 are needed to propose: get tokens, and delegate them" in sentence


def test_a_malformed_artefact_is_refused(story: SimpleNamespace, node: Node, tmp_path: Path):
    (tmp_path / "a.json").write_text("{}")
    arguments = [str(story.file), "--artefact", str(tmp_path / "a.json"), "--account", "TEST::1"]
    assert "is no artefact" in node.refuse(propose.cli, *arguments)


def test_nobody_votes_twice_or_too_late(story: SimpleNamespace, node: Node):
    over = node.refuse(vote.cli, story.id, "--for", "--account", account("carol"))
    assert over == f"proposal {story.id} is executed: voting is over"
    used = node.refuse(vote.cli, "--submit", str(story.file_of_ballot), "--account", account("relayer"))
    assert "the ballot has nonce 0, the next one of" in used
    done = node.refuse(deploy_approved.cli, story.id, "--account", account("keeper"))
    assert done == f"proposal {story.id} is executed: there is nothing left to do"


def test_a_key_without_funds_is_named_with_what_it_lacks(story: SimpleNamespace, node: Node):
    del story
    poor = mnemonic_accounts(31)[30].address
    sentence = node.refuse(delegate.cli, "--account", "TEST::30")
    assert sentence.startswith(f"account {poor} has 0 ether on chain 31337, up to 0.0")
    assert sentence.endswith("are needed: send it some")
    plan = CliRunner(mix_stderr=False).invoke(deploy.cli, ["--again", "--account", "TEST::30", *node.where])
    assert plan.exit_code == 1
    assert f"error: account {poor} has 0 ether on chain 31337" in plan.stderr


def test_a_deployment_that_the_chain_has_forgotten_is_named(story: SimpleNamespace, node: Node, tmp_path: Path):
    del story
    raw = json.loads((node.deployments / "local.json").read_text())
    raw["protocol"]["dao"] = mnemonic_accounts(31)[30].address
    (tmp_path / "local.json").write_text(json.dumps(raw))
    where = ["--network", str(node.evm.url), "--deployments", str(tmp_path)]
    assert "names contracts that are not on this chain" in node.refuse(reward.cli, "1", where=where)
    raw["protocol"]["chain_id"] = 5
    (tmp_path / "local.json").write_text(json.dumps(raw))
    assert "is of chain 5, the node is on chain 31337: check --network" in node.refuse(reward.cli, "1", where=where)


def test_a_folder_that_can_not_be_written_stops_a_deployment_before_it_costs_anything(
    story: SimpleNamespace, node: Node, tmp_path: Path
):
    del story
    (tmp_path / "file").write_text("")
    before = node.evm.w3.eth.block_number
    where = ["--network", str(node.evm.url), "--deployments", str(tmp_path / "file")]
    result = CliRunner(mix_stderr=False).invoke(deploy.cli, ["--account", "TEST::0", *where])
    assert result.exit_code == 1
    assert re.search(r"can't be written \(.*\): free space there", result.stderr.splitlines()[-1])
    assert node.evm.w3.eth.block_number == before


def test_a_price_that_is_too_old_stops_a_proposal(story: SimpleNamespace, node: Node):
    snapshot = node.evm.snapshot()
    node.evm.travel(3 * 3600)
    sentence = node.refuse(propose.cli, str(story.file), "--update", story.strategy, "--account", account("alice"))
    assert re.match("the price of 0x.* is too old: wait for its feed's next round", sentence)
    node.evm.revert(snapshot)


def test_a_node_that_is_gone_is_a_sentence(story: SimpleNamespace, node: Node, monkeypatch: pytest.MonkeyPatch):
    def gone(*_: Any, **__: Any) -> None:
        raise requests.ConnectionError("HTTPConnectionPool(host='127.0.0.1'): Max retries exceeded")

    monkeypatch.setattr(reward, "vault_of", gone)
    del story
    sentence = node.refuse(reward.cli, "1", "--account", account("keeper"))
    assert sentence == "the node does not answer (ConnectionError): is it running? check --network"


# Changes of what runs, tried dry


def test_an_update_a_recall_and_a_retirement_are_proposals(story: SimpleNamespace, node: Node):
    who = ["--account", "TEST::1", "--dry-run"]
    other = write_strategy(node.folder, make_artefact("steadier", 2000))
    updated = node.run(propose.cli, str(other), "--update", story.strategy, "--capital", "0", *who)
    assert updated["updates"] == story.strategy
    recalled = node.run(propose.cli, "--recall", story.strategy, "--item", "MUSD=100000", *who)
    retired = node.run(propose.cli, "--retire", story.strategy, *who)
    assert len({updated["proposal"], recalled["proposal"], retired["proposal"], story.id}) == 4


def test_votes_are_delegated(story: SimpleNamespace, node: Node):
    del story
    held = node.run(delegate.cli, "--account", account("dave"), "--dry-run")
    assert (held["tokens"], held["delegate"]) == ("60,000", held["account"])


def test_deploying_again_keeps_the_market_and_replaces_the_file(story: SimpleNamespace, node: Node, tmp_path: Path):
    del story
    snapshot = node.evm.snapshot()
    shutil.copy(node.deployments / "local.json", tmp_path)
    again = Node(node.evm, tmp_path / "again", deployments=tmp_path)
    answer = again.run(deploy.cli, "--again", "--account", account("deployer"))
    assert again.deployed.market == node.deployed.market
    assert again.deployed.protocol.dao == answer["dao"] != node.deployed.protocol.dao
    node.evm.revert(snapshot)


# A public chain: the market from a file, the key from ape's keyfile, names as addresses


@pytest.fixture(scope="module")
def public() -> Iterator[LocalEvm]:
    """An anvil that says it is Sepolia."""
    process = AnvilProcess(
        mnemonic=MNEMONIC, accounts=20, chain_id=11_155_111, timestamp_s=GENESIS_S, block_gas_limit=30_000_000,
        history_blocks=1000, port=None,
    )  # fmt: skip
    provider = AnvilProvider("127.0.0.1", process.port)
    with LocalEvm("anvil", provider, mnemonic_accounts(20), block_gas_limit=30_000_000, process=process) as evm:
        yield evm


def test_on_a_public_chain_nothing_comes_from_nowhere(
    public: LocalEvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    node, who = Node(public, tmp_path / "node"), Keys.from_key("0x" + "5a" * 32)
    accounts = Path(os.environ["APE_DATA_FOLDER"]) / "accounts"
    accounts.mkdir(parents=True, exist_ok=True)
    (accounts / "founder.json").write_text(json.dumps(Keys.encrypt(who.key, "word", kdf="pbkdf2", iterations=1)))
    monkeypatch.setenv("APE_ACCOUNTS_founder_PASSPHRASE", "word")
    founder = ["--account", "founder"]

    assert "everybody has the key of TEST::0" in node.refuse(deploy.cli, "--account", "TEST::0")
    assert re.search("the market's quote 0x.* has no code on chain 11155111", node.refuse(deploy.cli, *founder))
    book = make_market(public).book
    for folder in ("market", "genesis"):
        (node.deployments / folder).mkdir(parents=True)
    (node.deployments / "market" / "ethereum-sepolia.json").write_text(json.dumps(book.to_dict()))
    assert "genesis/ethereum-sepolia.toml does not exist" in node.refuse(deploy.cli, *founder)
    genesis = (ROOT / "deployments" / "genesis" / "local.toml").read_text()
    (node.deployments / "genesis" / "ethereum-sepolia.toml").write_text(genesis)
    assert "'alice' is no address: on a public network a name is an address" in node.refuse(deploy.cli, *founder)
    for name, account_ in zip(PEOPLE, public.accounts, strict=False):
        address = who.address if name == "alice" else account_.address
        genesis = genesis.replace(f"\n{name} = ", f"\n{address} = ").replace(f'"{name}"', f'"{address}"')
    (node.deployments / "genesis" / "ethereum-sepolia.toml").write_text(genesis)
    poor = CliRunner(mix_stderr=False).invoke(deploy.cli, [*founder, *node.where])
    assert f"error: account {who.address} has 0 ether on chain 11155111, up to 0." in poor.stderr

    public.set_balance(who.address, 10**18)
    blocks = public.w3.eth.block_number
    plan = node.run(deploy.cli, *founder, "--dry-run")
    assert public.w3.eth.block_number == blocks
    answer = node.run(deploy.cli, *founder)
    assert public.w3.eth.block_number == blocks + plan["transactions"]
    assert answer["file"] == str(node.deployments / "ethereum-sepolia.json")
    assert {name: answer[name] for name in plan["addresses"]} == plan["addresses"]
    token = public.at("MarketFlowToken", answer["token"])
    assert public.call(token.functions.balanceOf(who.address)) == 900_000 * 10**18
    assert "nobody moves the clock of chain 11155111" in node.refuse(travel.cli, "1h")


# Trades, audited by the command; an epoch, settled by the command


Trade = Callable[[], str]


@pytest.fixture
def trade(story: SimpleNamespace, node: Node, tmp_path: Path) -> Iterator[Trade]:
    """Lets the agent trade once, explanations going to `tmp_path/explanations`; the trade's id."""
    found, evm = node.deployed, node.evm
    d, book = found.protocol, found.market
    vault = d.vault(evm, story.executed["vault"])
    market = LocalMarket(evm, book, deployer=evm.accounts[17])
    signer: Account = evm.accounts[PEOPLE.index("key_a")]
    journal = Journal(tmp_path / "journal.sqlite")
    feeds = {book.quote: book.quote_feed, **{a.token: a.feed for a in book.assets}}

    def run() -> str:
        for _ in range(SPEC.lookback):
            evm.travel(BAR_S)
            for symbol, price_usd in (("ETH", 2000), ("BTC", 60_000), ("MUSD", 1)):
                market.publish(symbol, Decimal(price_usd))
        cycle = Cycle(
            chain_id=d.chain_id, artefact=story.artefact,
            vaults=VaultReader(
                evm, vault=vault, constitution=d.contract(evm, "constitution"), oracle=d.contract(evm, "oracle"),
                quote=book.quote, quote_unit=10**6,
            ),
            rounds=ChainlinkReader(evm, {token: evm.at("FeedProxy", feed) for token, feed in feeds.items()}),
            execution=VaultExecution(evm, vault, signer, journal), journal=journal,
            documents=DocumentStore(tmp_path / "explanations"), decimals=dict.fromkeys(feeds, 8),
        )  # fmt: skip
        [step] = cycle.run(fetch_block(evm))
        assert step.outcome and step.outcome.entry, step
        return step.outcome.entry.id

    snapshot = evm.snapshot()
    yield run
    journal.close()
    evm.revert(snapshot)


def test_a_trade_holds_as_long_as_its_explanation_and_its_artefact_do(
    story: SimpleNamespace, node: Node, trade: Trade, tmp_path: Path
):
    trade_id = trade()
    artefact = ["--artefact", str(node.folder / "steady.json")]
    explained = ["--explanations", str(tmp_path / "explanations")]
    fine = node.run(audit.cli, story.strategy, *artefact, *explained)
    assert (fine["trades"], fine["checked"], fine["failed"]) == (1, 1, 0)
    assert node.run(audit.cli, trade_id, *artefact, *explained)["verdicts"][0]["trade"] == trade_id

    unknown = node.run(audit.cli, trade_id, *explained, exit_code=1)
    assert "artefactHash" in [f["field"] for f in unknown["verdicts"][0]["findings"]]
    assert "add --explanations FOLDER" in node.refuse(audit.cli, trade_id, *artefact)
    assert "is no folder" in node.refuse(audit.cli, trade_id, *artefact, "--explanations", str(tmp_path / "nowhere"))

    [document] = (tmp_path / "explanations").glob("*.json")
    document.write_text(document.read_text().replace("steady", "sturdy"))
    forged = node.run(audit.cli, trade_id, *artefact, *explained, exit_code=1)
    assert "explanation" in [f["field"] for f in forged["verdicts"][0]["findings"]]
    document.unlink()
    unexplained = node.run(audit.cli, trade_id, *artefact, *explained, exit_code=1)
    assert [f["field"] for f in unexplained["verdicts"][0]["findings"]] == ["explanation"]


def test_an_epoch_is_observed_closed_and_paid_by_the_same_command(story: SimpleNamespace, node: Node, trade: Trade):
    trade()
    keeper = ["1", "--account", account("keeper")]
    pool = node.deployed.protocol.contract(node.evm, "pool").functions
    epoch_s, genesis_s = node.evm.call(pool.epochLengthS()), node.evm.call(pool.genesis())
    epoch = (node.evm.now_s() - genesis_s) // epoch_s
    opens_s = genesis_s + (epoch + 1) * epoch_s
    node.run(travel.cli, str(opens_s - node.evm.now_s()), "--price", "ETH=2100")

    dry = node.run(reward.cli, *keeper, "--dry-run")
    assert (dry["due"], dry["epoch"]) == ("observe", epoch)
    observed = node.run(reward.cli, *keeper)
    assert (observed["due"], observed["settled"]) == ("observe", [])
    profit = observed["profit_now"]

    node.run(travel.cli, "2h")
    due = node.run(reward.cli, *keeper, "--dry-run")
    assert (due["due"], due["result"]) == ("close", profit)
    assert "settled" not in due
    [settled] = node.run(reward.cli, *keeper)["settled"]
    assert settled["result"] == profit
    assert float(settled["reward"].replace(",", "")) == pytest.approx(float(profit.replace(",", "")) / 10)
    assert node.run(reward.cli, *keeper)["due"] == "nothing"

    node.run(travel.cli, "1d")
    claimed = node.run(reward.cli, *keeper, "--claim")
    assert float(claimed["claimed"]) > 0


def test_a_window_that_nobody_saw_is_said_to_be_missed(story: SimpleNamespace, node: Node, trade: Trade):
    del story, trade
    node.run(travel.cli, "3d")
    missed = node.run(reward.cli, "1", "--account", account("keeper"))
    assert missed["due"] == "missed"
    assert "the next one makes up for it" in missed["note"]
