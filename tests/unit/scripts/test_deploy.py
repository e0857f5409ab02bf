"""What `deploy` knows before it sends, and what it checks afterwards, on a chain in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
from web3 import Web3

from agents.commands import deploy
from agents.commands._local import local_people, make_market
from agents.contracts import RevertReason
from agents.deploying import Patience, ProgressFile
from agents.deployment import Deployment, Genesis, deploy_protocol, to_treasury
from agents.deployments import NetworkDeployment, check_market, find_faults, load_deployment, predict_addresses
from agents.errors import AgentError, Misconfigured
from agents.genesis import load_genesis
from agents.localnet.evm import Account, LocalEvm, TransactionReverted, start_evm
from agents.localnet.market import AddressBook

GENESIS = Path(__file__).resolve().parents[3] / "deployments" / "genesis" / "local.toml"


class Deployed:
    """A local market and the protocol on it."""

    def __init__(self, evm: LocalEvm) -> None:
        self.evm, self.market = evm, make_market(evm).book
        self.deployer: Account = evm.accounts[0]
        self.genesis: Genesis = load_genesis(GENESIS, market=self.market, people=local_people(), now_s=evm.now_s())
        nonce = evm.w3.eth.get_transaction_count(self.deployer.address)
        self.predicted = predict_addresses(self.deployer.address, nonce, grants=1)
        self.protocol: Deployment = deploy_protocol(evm, self.genesis, sender=self.deployer)


@pytest.fixture(scope="module")
def shared() -> Iterator[Deployed]:
    with start_evm("py-evm") as evm:
        yield Deployed(evm)


@pytest.fixture
def world(shared: Deployed) -> Iterator[Deployed]:
    snapshot = shared.evm.snapshot()
    yield shared
    shared.evm.revert(snapshot)


# Afterwards


def test_everything_is_where_it_was_predicted(world: Deployed):
    there = world.protocol.to_dict()
    assert {name: there[name] for name in world.predicted} == world.predicted


def test_a_deployment_as_it_has_to_be_has_no_faults(world: Deployed):
    assert find_faults(world.evm, world.protocol, world.genesis) == []


def test_missing_code_is_a_fault(world: Deployed):
    moved = replace(world.protocol, pool=world.evm.accounts[5].address, grants=(world.evm.accounts[6].address,))
    found = find_faults(world.evm, moved, world.genesis)
    assert f"pool has no code at {moved.pool}" in found
    assert f"grant 0 has no code at {moved.grants[0]}" in found


def test_a_share_that_is_not_there_is_a_fault(world: Deployed):
    token, alice = world.protocol.contract(world.evm, "token"), world.evm.accounts[1]
    world.evm.send(token.functions.transfer(world.deployer.address, 5), alice)
    assert find_faults(world.evm, world.protocol, world.genesis) == [
        f"{world.deployer.address} has 5 wei of the token, its share is 0",
        f"{alice.address} has {900_000 * 10**18 - 5} wei of the token, its share is {900_000 * 10**18}",
    ]


def test_a_role_of_anybody_but_the_dao_is_a_fault(world: Deployed):
    timelock, stranger = world.protocol.contract(world.evm, "timelock"), world.evm.accounts[7].address
    proposer = world.evm.call(timelock.functions.PROPOSER_ROLE())
    world.evm.impersonate(timelock.address)
    world.evm.send(timelock.functions.grantRole(proposer, stranger), timelock.address)
    assert find_faults(world.evm, world.protocol, world.genesis) == [f"{stranger} has the timelock's PROPOSER_ROLE"]


def test_a_timelock_of_another_dao_is_a_fault(world: Deployed):
    evm, others = world.evm, world.evm.accounts[7].address
    foreign = evm.deploy("Timelock", world.genesis.governance.timelock_delay_s, others, sender=evm.accounts[0])
    evm.set_code(world.protocol.timelock, bytes(evm.w3.eth.get_code(foreign.address)))
    timelock, proposer = world.protocol.contract(evm, "timelock"), bytes(Web3.keccak(text="PROPOSER_ROLE"))
    evm.impersonate(timelock.address)
    evm.send(timelock.functions.revokeRole(proposer, world.protocol.dao), timelock.address)
    assert f"{world.protocol.dao} lacks the timelock's PROPOSER_ROLE" in find_faults(evm, world.protocol, world.genesis)


# Before


def test_a_market_as_it_is_written_down_is_accepted(world: Deployed):
    check_market(world.evm, world.market)


def other_asset(book: AddressBook, **changes: Any) -> AddressBook:
    return replace(book, assets=(replace(book.assets[0], **changes), *book.assets[1:]))


def test_a_market_that_is_not_as_it_is_written_down_is_refused(world: Deployed):
    book, nobody = world.market, world.evm.accounts[3].address
    for wrong, says in (
        (replace(book, quote=nobody), "the market's quote .* has no code"),
        (replace(book, factory=nobody), "the market's factory .* has no code"),
        (replace(book, quote_decimals=18), "has 6 decimals, expected are 18"),
        (other_asset(book, feed=nobody), "ETH's feed .* has no code"),
        (other_asset(book, feed=book.quote), "has 6 decimals, expected are 8"),
        (other_asset(book, decimals=8), "has 18 decimals, expected are 8"),
        (other_asset(book, pool_fee=3000), "the factory's pool of ETH, fee 3000: there is none"),
    ):
        with pytest.raises(Misconfigured, match=says):
            check_market(world.evm, wrong)


@pytest.mark.parametrize(
    ("line", "instead", "says"),
    [
        ("voting_delay_s = 3600", "voting_delay_s = 0", "DaoInvalidSettings"),
        ("window_length_s = 7200", "window_length_s = 172800", "RewardPoolInvalidSchedule"),
        ("hard_drawdown_bps = 3500", "hard_drawdown_bps = 100", "limits contradict each other"),
        ('max_usd = "10"', 'max_usd = "0.5"', "PriceOracleInvalidFeed"),
        ('alice = "900000"', 'alice = "9000000"', "genesis hands out .* wei more than the supply"),
        ("term_s = 15552000", "term_s = 1555200000", "ConstitutionTermTooLong"),
        ("max_position_bps = 9000", "max_position_bps = 70000", "can't be deployed"),
    ],
)
def test_what_a_contract_would_refuse_halfway_is_refused_in_rehearsal(
    line: str, instead: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(deploy, "start_evm", lambda: start_evm("py-evm"))
    text, path = GENESIS.read_text(), tmp_path / "genesis.toml"
    assert line in text
    path.write_text(text.replace(line, instead))
    with pytest.raises(Misconfigured, match=f"genesis configuration {path}.*{says}"):
        deploy.rehearse(None, path, None, local_people(), "0x" + "11" * 20)  # type: ignore[arg-type]


# The file


def test_a_place_that_can_not_be_written_is_refused_while_it_costs_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "local.json"
    with pytest.raises(Misconfigured, match=f"{path} can't be written .* name another folder with --deployments"):
        deploy.require_writable(path)
    deploy.require_writable(tmp_path / "new" / "local.json")
    assert not list((tmp_path / "new").iterdir())


def test_a_full_disk_after_all_does_not_lose_the_addresses(
    world: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    found = NetworkDeployment(protocol=world.protocol, market=world.market)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Misconfigured, match=r"No space left on device.*save what is printed above"):
        deploy.keep(found, tmp_path / "local.json")
    monkeypatch.undo()
    (tmp_path / "saved.json").write_text(capsys.readouterr().err)
    assert load_deployment(tmp_path / "saved.json", chain_id=31337) == found
    with pytest.raises(Misconfigured, match="is of chain 31337, the node is on chain 1"):
        load_deployment(tmp_path / "saved.json", chain_id=1)


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (TransactionReverted(RevertReason("Odd"), {"gasUsed": 1}, gas_limit=1), r"the chain refuses: Odd\(\)"),
        (requests.ConnectionError("refused"), r"the node does not answer \(ConnectionError\)"),
        (Misconfigured("account 0x1 has no ether: send it some"), "has no ether: send it some"),
    ],
)
def test_a_failure_halfway_says_what_it_means(raised: Exception, says: str, monkeypatch: pytest.MonkeyPatch):
    def run(_: Any) -> None:
        raise raised

    monkeypatch.setattr(deploy, "Deploying", lambda *_, **__: SimpleNamespace(run=lambda: run(None)))
    file, nothing = ProgressFile(Path("sepolia.partial.json")), cast(Any, None)
    with pytest.raises(AgentError, match=f"{says}; .* in sepolia.partial.json: .* run the same command again"):
        deploy.send(cast(Any, SimpleNamespace(chain=None)), file, nothing, nothing, nothing, Patience())


def test_the_plan_says_who_gets_what(world: Deployed):
    plan = {
        "network": "local", "chain_id": 31337, "deployer": world.deployer.address, "market": "x", "transactions": 28,
        "gas": 1, "ether_at_most": "0", "addresses": world.predicted,
    }  # fmt: skip
    text = "\n".join(deploy.plan_lines(plan, world.genesis, world.market, local_people()))
    for line in ("9.00%         900,000  alice 0x", "56.35%       5,635,000  treasury", "quorum 4 % of", "vests from"):
        assert line in text
    assert to_treasury(world.genesis) == 5_635_000 * 10**18


# What an L2 charges for data


def l2(chain_id: int, answer: Callable[[Any], bytes]) -> Any:
    return SimpleNamespace(chain=SimpleNamespace(chain_id=chain_id, call=answer))


def test_the_fee_for_data_is_asked_where_a_contract_knows_it():
    asked: list[Any] = []

    def answer(call: Any) -> bytes:
        asked.append(call)
        return (10**12).to_bytes(32, "big")

    wei, note = deploy.data_fee(l2(84_532, answer), 56_000, 28)
    assert (wei, asked[0]["to"]) == (28 * 10**12, "0x420000000000000000000000000000000000000F")
    assert int(asked[0]["data"][-64:], 16) == 2000
    assert note == "of that at most 0.000028 ether for 56,000 bytes of data on L1"


def test_a_fee_for_data_that_is_not_known_is_said_to_come_on_top():
    assert deploy.data_fee(l2(84_532, lambda _: b""), 56_000, 28) == (
        0, "a fee for 56,000 bytes of data on L1 comes on top; this node does not say how much",
    )  # fmt: skip
    assert "count the fee for data on L1 as gas" in deploy.data_fee(l2(421_614, lambda _: b""), 1, 1)[1]
    assert deploy.data_fee(l2(11_155_111, lambda _: b""), 1, 1) == (0, "")
