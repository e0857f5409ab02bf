"""The relayer on a real node: what it refuses, that one vote is sent once whatever happens, what becomes of each."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from eth_account import Account as Keys
from fastapi import FastAPI
from web3 import HTTPProvider, Web3

from agents.ballots import Ballot, Support, ballot_digest, sign_ballot
from agents.chain import RemoteChain
from agents.fees import FeePolicy
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import start_evm
from agents.localnet.market import MULTICALL3
from agents.relayer import Relayer, RelayerRules
from agents.relayer_app import create_relayer_app
from agents.relayer_store import RelayerStore
from tests.contracts.world import World, tokens

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")

VOTERS = [Keys.from_key(bytes([7, *[0] * 30, index + 1])) for index in range(24)]
PAYER = Keys.from_key(b"\x09" * 32)


@pytest.fixture(scope="module")
def deployed() -> Iterator[World]:
    with start_evm("anvil") as evm:
        world = World(evm)
        for voter in VOTERS:
            world.send(world.token.functions.transfer(voter.address, tokens(1_000)), world.voter_a)
            evm.set_balance(voter.address, 10**18)
            evm.impersonate(voter.address)
            world.send(world.token.functions.delegate(voter.address), voter.address)
        evm.set_balance(PAYER.address, 10**19)
        world.travel(60)
        yield world


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    snapshot = deployed.evm.snapshot()
    yield deployed
    deployed.evm.revert(snapshot)


class Client:
    """An app on a real socket."""

    def __init__(self, url: str) -> None:
        self.url, self._session = url, requests.Session()

    def get(self, path: str) -> requests.Response:
        return self._session.get(self.url + path, timeout=30)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self._session.post(self.url + path, timeout=30, **options)


@contextmanager
def serve(app: FastAPI) -> Iterator[Client]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@dataclass
class Office:
    """A relayer, its file, its API, and how to start it anew."""

    world: World
    chain: RemoteChain
    folder: Path
    clock_s: int = 1_000

    def __post_init__(self) -> None:
        self.open()

    def open(self, **rules: Any) -> Relayer:
        self.store = RelayerStore(
            self.folder / "relayer.db", chain_id=self.chain.chain_id, dao=self.world.d.dao, account=PAYER.address
        )
        self.relayer = Relayer(
            self.chain, self.world.d, PAYER, self.store, now_s=lambda: self.clock_s,
            rules=RelayerRules(**{"max_spend_per_day_wei": 10**19, **rules}),
        )  # fmt: skip
        self._serving = serve(create_relayer_app(self.relayer, per_minute=1_000))
        self.client = self._serving.__enter__()
        return self.relayer

    def close(self) -> None:
        self._serving.__exit__(None, None, None)
        self.store.close()

    def restart(self, **rules: Any) -> Relayer:
        self.close()
        return self.open(**rules)

    def post(self, ballot: Ballot, **over: Any) -> Any:
        return self.client.post("/ballots", json=ballot.to_dict() | over)

    def refusal(self, ballot: Ballot, **over: Any) -> str:
        answer = self.post(ballot, **over)
        assert answer.status_code >= 400, answer.text
        assert answer.json()["error"]["message"]
        return str(answer.json()["error"]["code"])

    def fate(self, ballot: Ballot) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/ballots/{self.id_of(ballot)}").json()
        return found

    def id_of(self, ballot: Ballot) -> str:
        return "0x" + ballot_digest(self.world.d, ballot).hex()

    def steps(self) -> None:
        for _ in range(3):
            self.relayer.step()

    def settle(self) -> None:
        """Steps until nothing is on its way: a node may answer before its block is there."""
        for _ in range(50):
            self.relayer.step()
            if not self.store.batches("open"):
                return
            time.sleep(0.02)

    def sent(self) -> int:
        return int(self.world.w3.eth.get_transaction_count(PAYER.address))


@pytest.fixture
def office(world: World, tmp_path: Path) -> Iterator[Office]:
    office = Office(world, RemoteChain(Web3(HTTPProvider(str(world.evm.url)))), tmp_path)
    yield office
    office.close()


@pytest.fixture
def proposal(world: World) -> int:
    made = world.propose([world.pool.functions.setBudget(tokens(21_000))], "renew")
    world.to_voting(made)
    return made


@pytest.fixture
def sign(office: Office, proposal: int) -> Callable[..., Ballot]:
    def make(voter: Any = VOTERS[0], support: Support = Support.FOR, reason: str = "", **over: Any) -> Ballot:
        fields = {"proposal_id": proposal, "support": support, "signer": voter, "reason": reason} | over
        return sign_ballot(office.chain, office.world.d, **fields)

    return make


def weight_of(world: World, proposal: int) -> tuple[int, int, int]:
    return tuple(world.view(world.dao.functions.proposalVotes(proposal)))


@pytest.fixture
def waiting(world: World, proposal: int) -> Iterator[None]:
    """Nothing is mined until `world.evm.mine()`; after the proposal was made."""
    world.evm._rpc("evm_setAutomine", False)
    yield
    world.evm._rpc("evm_setAutomine", True)
    world.evm._rpc("anvil_dropAllTransactions")


# What is refused costs nothing


def test_a_ballot_that_another_signed_is_refused(office: Office, sign: Callable[..., Ballot]) -> None:
    forged = replace(sign(VOTERS[1]), voter=VOTERS[0].address)
    assert office.refusal(forged) == "forged"
    assert office.sent() == 0


@pytest.mark.parametrize("change", [{"support": "against"}, {"reason": "because"}, {"proposal_id": "1"}])
def test_a_ballot_that_was_changed_after_it_was_signed_is_refused(
    office: Office, sign: Callable[..., Ballot], change: dict[str, str]
) -> None:
    assert office.refusal(sign(), **change) in ("forged", "unknown_proposal")


def test_a_ballot_of_another_chain_or_dao_is_refused(office: Office, sign: Callable[..., Ballot]) -> None:
    assert office.refusal(sign(), chain_id=1) == "foreign"
    assert office.refusal(sign(), dao=office.world.d.treasury) == "foreign"


def test_a_voter_without_votes_at_the_snapshot_is_refused(office: Office, sign: Callable[..., Ballot]) -> None:
    assert office.refusal(sign(Keys.from_key(b"\x05" * 32))) == "powerless"


def test_a_nonce_that_was_used_is_refused(office: Office, sign: Callable[..., Ballot], proposal: int) -> None:
    first = sign()
    office.post(first)
    office.relayer.step()
    assert office.refusal(replace(first, support=Support.AGAINST)) == "replayed"


def test_a_second_vote_on_the_same_proposal_is_refused(office: Office, sign: Callable[..., Ballot]) -> None:
    office.post(sign())
    office.relayer.step()
    assert office.refusal(sign(support=Support.AGAINST)) == "already_voted"


def test_a_second_ballot_while_the_first_is_on_its_way_is_refused(office: Office, sign: Callable[..., Ballot]) -> None:
    office.post(sign())
    assert office.refusal(sign(support=Support.AGAINST)) == "replayed"


def test_a_vote_that_is_over_takes_no_ballots(office: Office, sign: Callable[..., Ballot], proposal: int) -> None:
    ballot = sign()
    office.world.to_deadline(proposal)
    assert office.refusal(ballot) == "expired"


def test_a_proposal_that_is_not_there_is_named(office: Office, sign: Callable[..., Ballot]) -> None:
    assert office.refusal(sign(proposal_id=12345)) == "unknown_proposal"


@pytest.mark.parametrize(
    "change",
    [
        {"signature": "0x12"}, {"signature": "0x"}, {"signature": "0x" + "ff" * 65},
    ],
)  # fmt: skip
def test_bytes_that_are_no_signature_are_a_forgery(
    office: Office, sign: Callable[..., Ballot], change: dict[str, str]
) -> None:
    assert office.refusal(sign(), **change) == "forged"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "ballot"}, {"chain_id": "31337"}, {"chain_id": True}, {"dao": "0x12"}, {"proposal_id": 5},
        {"proposal_id": "-1"}, {"support": "yes"}, {"nonce": -1}, {"nonce": 0.0}, {"signature": "0xzz"},
        {"reason": "x" * 1001}, {"reason": 5}, {"surprise": 1},
    ],
)  # fmt: skip
def test_what_is_no_ballot_is_malformed(office: Office, sign: Callable[..., Ballot], change: dict[str, Any]) -> None:
    assert office.refusal(sign(), **change) == "malformed"


def test_a_body_that_is_too_large_is_not_read(office: Office) -> None:
    answer = office.client.post("/ballots", data=b"x" * 20_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_one_caller_gets_so_many_ballots_a_minute(office: Office, sign: Callable[..., Ballot]) -> None:
    clock = [0.0]
    with serve(create_relayer_app(office.relayer, per_minute=2, now_s=lambda: clock[0])) as client:
        codes = [client.post("/ballots", json=sign().to_dict()).status_code for _ in range(3)]
        assert codes == [202, 200, 429]
        clock[0] = 61.0
        assert client.post("/ballots", json=sign().to_dict()).status_code == 200


def test_without_ether_it_says_so_before_it_takes_a_ballot(office: Office, sign: Callable[..., Ballot]) -> None:
    office.world.evm.set_balance(PAYER.address, 10**12)
    assert office.refusal(sign()) == "not_accepting"
    status = office.client.get("/status").json()
    assert (status["accepting"], status["why_not"]) == (False, "its account has too little ether")


def test_gas_that_is_too_dear_keeps_ballots_waiting(office: Office, sign: Callable[..., Ballot]) -> None:
    office.restart(fees=FeePolicy(max_fee_wei=1, max_tip_wei=1))
    ballot = sign()
    office.post(ballot)
    office.world.evm._rpc("anvil_setNextBlockBaseFeePerGas", hex(10**9))
    office.world.evm.mine()
    office.relayer.step()
    assert office.fate(ballot)["status"] == "queued"
    assert office.client.get("/status").json()["why_not"] == "gas costs more than it may pay"
    office.restart()
    office.world.evm._rpc("anvil_setNextBlockBaseFeePerGas", "0x0")
    office.world.evm.mine()
    office.relayer.step()
    office.settle()
    assert office.fate(ballot)["status"] == "mined"


def test_no_more_than_the_day_s_ether_is_spent(office: Office, sign: Callable[..., Ballot]) -> None:
    office.restart(max_spend_per_day_wei=1)
    ballot = sign()
    office.post(ballot)
    office.relayer.step()
    assert (office.fate(ballot)["status"], office.sent()) == ("queued", 0)
    assert "may spend" in office.client.get("/status").json()["why_not"]


def test_a_file_of_another_account_or_dao_is_refused(office: Office) -> None:
    office.close()
    for other in ({"account": VOTERS[0].address}, {"dao": office.world.d.treasury}, {"chain_id": 1}):
        owner = {"chain_id": office.chain.chain_id, "dao": office.world.d.dao, "account": PAYER.address}
        with pytest.raises(Exception, match=r"belongs to a relayer of DAO .*--store"):
            RelayerStore(office.folder / "relayer.db", **owner | other)
    office.open()


def test_two_relayers_can_t_have_one_file(office: Office) -> None:
    with pytest.raises(Exception, match="another relayer may have it"):
        RelayerStore(
            office.folder / "relayer.db", chain_id=office.chain.chain_id, dao=office.world.d.dao, account=PAYER.address
        )


def test_whatever_the_document_allows_or_not_is_answered_as_it_says(office: Office) -> None:
    with serve(create_relayer_app(office.relayer, per_minute=100_000)) as client:
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{client.url}/openapi.json",
            "--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color",
            "--generation-database", "none", "--checks", checks,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=office.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "Tested: 3" in done.stdout
    assert office.sent() == 0


# What is counted


def test_a_relayed_vote_is_counted_with_its_reason(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    ballot = sign(support=Support.AGAINST, reason="слишком рискованно: <b>no</b>")
    answer = office.post(ballot)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    office.relayer.step()
    office.settle()
    fate = office.fate(ballot)
    assert fate["status"] == "mined"
    assert weight_of(world, proposal) == (tokens(1_000), 0, 0)
    [cast] = [e for e in world.history(world.dao) if e.name.startswith("VoteCast") and e.args["proposalId"] == proposal]
    assert (cast.args["voter"], cast.args["reason"]) == (ballot.voter, ballot.reason)
    receipt = world.w3.eth.get_transaction_receipt(fate["transaction"])
    assert receipt["blockNumber"] == fate["block"]


def test_many_ballots_share_a_transaction(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    ballots = [sign(voter, reason="" if index % 2 else f"reason {index}") for index, voter in enumerate(VOTERS)]
    for ballot in ballots:
        assert office.post(ballot).status_code == 202
    office.relayer.step()
    office.settle()
    assert {office.fate(ballot)["status"] for ballot in ballots} == {"mined"}
    assert office.sent() == 1
    assert weight_of(world, proposal) == (0, len(VOTERS) * tokens(1_000), 0)


def test_without_multicall_each_ballot_has_its_own_transaction(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    world.evm.set_code(MULTICALL3, b"")
    office.restart()
    ballots = [sign(voter) for voter in VOTERS[:6]]
    for ballot in ballots:
        office.post(ballot)
    office.relayer.step()
    office.settle()
    assert {office.fate(ballot)["status"] for ballot in ballots} == {"mined"}
    assert (office.sent(), weight_of(world, proposal)[1]) == (6, tokens(6_000))


def test_one_bad_ballot_does_not_take_the_others_with_it(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    good, bad = sign(VOTERS[0]), sign(VOTERS[1])
    office.post(good)
    office.post(bad)
    world.send(world.dao.functions.castVote(proposal, 0), VOTERS[1].address)
    office.relayer.step()
    office.settle()
    assert office.fate(good)["status"] == "mined"
    assert (office.fate(bad)["status"], "has voted" in office.fate(bad)["reason"]) == ("failed", True)


@pytest.mark.usefixtures("waiting")
def test_a_ballot_that_is_overtaken_in_the_block_fails_alone(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    good, bad = sign(VOTERS[0]), sign(VOTERS[1])
    office.post(good)
    office.post(bad)
    first = world.w3.eth.send_transaction(
        {
            "from": VOTERS[1].address, "to": world.d.dao, "gas": 300_000, "maxPriorityFeePerGas": 10**11,
            "maxFeePerGas": 10**12, "data": world.dao.functions.castVote(proposal, 0)._encode_transaction_data(),
        }
    )  # fmt: skip
    office.relayer.step()
    world.evm.mine()
    office.relayer.step()
    assert world.w3.eth.get_transaction_receipt(first)["status"] == 1
    assert (office.fate(good)["status"], office.fate(bad)["status"]) == ("mined", "failed")
    assert "has voted" in office.fate(bad)["reason"]


def test_a_ballot_that_is_early_waits_for_the_vote(office: Office, world: World) -> None:
    early = world.propose([world.pool.functions.setBudget(tokens(21_000))], "early")
    ballot = sign_ballot(office.chain, world.d, proposal_id=early, support=Support.FOR, signer=VOTERS[0])
    assert office.post(ballot).status_code == 202
    office.relayer.step()
    assert office.fate(ballot)["status"] == "queued"
    world.to_voting(early)
    office.relayer.step()
    office.settle()
    assert office.fate(ballot)["status"] == "mined"


def test_a_contract_s_vote_is_judged_by_its_code(office: Office, world: World) -> None:
    wallet = world.evm.deploy("SmartWallet", VOTERS[0].address, sender=world.voter_a)
    world.send(world.token.functions.transfer(wallet.address, tokens(500)), world.voter_a)
    data = world.token.functions.delegate(wallet.address)._encode_transaction_data()
    world.send(wallet.functions.execute(world.d.token, bytes.fromhex(data[2:])), VOTERS[0].address)
    world.travel(60)
    made = world.propose([world.pool.functions.setBudget(tokens(21_000))], "wallet")
    world.to_voting(made)

    class Owner:
        address = wallet.address

        def __init__(self, key: Any) -> None:
            self.sign_typed_data = key.sign_typed_data

    def sign(owner: Any) -> Ballot:
        return sign_ballot(office.chain, world.d, proposal_id=made, support=Support.FOR, signer=Owner(owner))

    assert office.refusal(sign(VOTERS[1])) == "forged"
    good = sign(VOTERS[0])
    assert office.post(good).status_code == 202
    office.relayer.step()
    office.settle()
    assert (office.fate(good)["status"], weight_of(world, made)[1]) == ("mined", tokens(500))


def test_a_contract_that_burns_gas_when_asked_takes_no_other_vote_with_it(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    burner = Keys.from_key(b"\x0d" * 32)
    world.send(world.token.functions.transfer(burner.address, tokens(10)), world.voter_a)
    world.evm.set_balance(burner.address, 10**18)
    world.evm.impersonate(burner.address)
    world.send(world.token.functions.delegate(burner.address), burner.address)
    world.travel(60)
    made = world.propose([world.pool.functions.setBudget(tokens(23_000))], "burning")
    world.to_voting(made)
    bad = sign(burner, proposal_id=made)
    good = [sign(voter, proposal_id=made) for voter in VOTERS[:5]]
    for ballot in [bad, *good]:
        assert office.post(ballot).status_code == 202
    world.evm.set_code(burner.address, bytes.fromhex("5b600056"))  # after it was taken: loops until the gas is gone
    office.steps()
    office.settle()
    assert {office.fate(ballot)["status"] for ballot in good} == {"mined"}
    assert office.fate(bad)["status"] == "failed"
    assert (office.sent(), weight_of(world, made)[1]) == (1, 5 * tokens(1_000))


# Once, whatever happens


def test_the_same_ballot_fifty_times_at_once_is_one_vote_in_one_transaction(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    ballot, answers = sign(), []
    threads = [threading.Thread(target=lambda: answers.append(office.post(ballot).status_code)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    office.relayer.step()
    office.settle()
    assert set(answers) <= {200, 202}
    assert (office.sent(), weight_of(world, proposal)[1]) == (1, tokens(1_000))
    again = office.post(ballot)
    assert (again.status_code, again.json()["status"]) == (200, "mined")


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["open_batch", "_broadcast", "settle"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_relayer_that_dies_anywhere_neither_loses_nor_doubles_a_vote(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int, monkeypatch: pytest.MonkeyPatch,
    where: str, before: bool,
) -> None:  # fmt: skip
    ballots = [sign(voter) for voter in VOTERS[:3]]
    for ballot in ballots:
        office.post(ballot)
    owner = RelayerStore if where != "_broadcast" else Relayer
    real = getattr(owner, where)

    def dies(self: Any, *arguments: Any, **options: Any) -> None:
        if not before:
            real(self, *arguments, **options)
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, where, dies)
        with pytest.raises(_Killed):
            office.steps()
    office.restart()
    office.steps()
    office.settle()
    assert {office.fate(ballot)["status"] for ballot in ballots} == {"mined"}
    assert (office.sent(), weight_of(world, proposal)[1]) == (1, tokens(3_000))


@pytest.mark.usefixtures("waiting")
def test_a_transaction_that_no_block_takes_is_replaced_and_mined_once(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    ballot = sign()
    office.post(ballot)
    office.relayer.step()
    office.clock_s += 60
    office.relayer.step()
    [batch] = office.store.batches("open")
    first, second = batch.transactions
    assert second.max_fee_wei >= first.max_fee_wei * 110 // 100
    world.evm.mine()
    office.relayer.step()
    assert office.fate(ballot) | {"status": "mined", "transaction": second.hash} == office.fate(ballot)
    assert (office.sent(), weight_of(world, proposal)[1]) == (1, tokens(1_000))


@pytest.mark.usefixtures("waiting")
def test_a_nonce_that_something_else_used_costs_no_vote(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    ballot = sign()
    office.post(ballot)
    office.relayer.step()
    foreign = {
        "to": PAYER.address, "value": 0, "nonce": 0, "gas": 21_000, "maxFeePerGas": 10**13,
        "maxPriorityFeePerGas": 10**12, "chainId": office.chain.chain_id,
    }  # fmt: skip
    world.w3.eth.send_raw_transaction(PAYER.sign_transaction(foreign).raw_transaction)
    world.evm.mine()
    office.relayer.step()
    assert office.fate(ballot)["status"] == "sent"  # the receipt may only be late
    office.clock_s += 60
    office.relayer.step()
    world.evm.mine()
    office.relayer.step()
    assert (office.fate(ballot)["status"], weight_of(world, proposal)[1]) == ("mined", tokens(1_000))


def test_a_vote_whose_receipt_comes_late_is_not_called_failed(
    office: Office, sign: Callable[..., Ballot], monkeypatch: pytest.MonkeyPatch
) -> None:
    ballot = sign()
    office.post(ballot)
    office.relayer.step()
    with monkeypatch.context() as patched:
        patched.setattr(Relayer, "_receipt_of", lambda *_: None)
        for _ in range(3):
            office.clock_s += 10
            office.relayer.step()
        assert office.fate(ballot)["status"] == "sent"
    office.settle()
    assert (office.fate(ballot)["status"], office.sent()) == ("mined", 1)


def test_a_reorganisation_that_takes_a_vote_has_it_sent_again(
    office: Office, sign: Callable[..., Ballot], world: World, proposal: int
) -> None:
    ballot = sign()
    office.post(ballot)
    before = world.evm.snapshot()
    office.relayer.step()
    office.settle()
    assert office.fate(ballot)["status"] == "mined"
    world.evm.revert(before)
    world.evm.mine()
    assert weight_of(world, proposal)[1] == 0
    office.relayer.step()
    assert office.fate(ballot)["status"] == "sent"
    office.relayer.step()
    assert (office.fate(ballot)["status"], weight_of(world, proposal)[1]) == ("mined", tokens(1_000))
