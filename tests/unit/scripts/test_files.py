"""Files that people write: genesis, market, strategy, ballot, artefact. Each fault is named with its place."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from eth_account import Account

from agents.ballots import Ballot, Support, check_ballot, sign_ballot
from agents.commands._local import local_people
from agents.commands.propose import parse_items, parse_limit
from agents.commands.vote import read_ballot
from agents.deployments import load_market
from agents.errors import Misconfigured
from agents.genesis import load_genesis
from agents.localnet.market import AddressBook, AssetAddresses
from agents.manifest import EXAMPLE, load_artefact, read_request
from offchain_rl.artefact import ActionSpec, Artefact, save
from offchain_rl.observation import ObservationSpec

GENESIS = Path(__file__).resolve().parents[3] / "deployments" / "genesis" / "local.toml"


def address(number: int) -> str:
    return Account.from_key(number.to_bytes(32, "big")).address


MARKET = AddressBook(
    chain_id=31337, quote=address(1), quote_symbol="MUSD", quote_decimals=6, quote_feed=address(2), weth=address(3),
    factory=address(4), router=address(5), positions=address(6), quoter=address(7), multicall=address(8),
    pool_init_code_hash="0x" + "11" * 32,
    assets=(
        AssetAddresses(
            symbol="ETH", token=address(3), decimals=18, feed=address(9), pool=address(10), pool_fee=500
        ),
    ),
)  # fmt: skip


# Genesis


def read_genesis(path: Path, people: dict[str, str] | None = None) -> Any:
    return load_genesis(path, market=MARKET, people=local_people() if people is None else people, now_s=1000)


def test_the_local_genesis_is_read_to_the_wei():
    genesis = read_genesis(GENESIS)
    assert genesis.holders[local_people()["alice"]] == 900_000 * 10**18
    assert genesis.rules.max_reward_rate == 10**12
    assert genesis.ceilings.max_daily_turnover_bps == 40_000


@pytest.mark.parametrize(
    ("line", "instead", "says"),
    [
        ('supply = "10000000"', "supply = [1]", r"\[1\] is not an amount"),
        ('supply = "10000000"', 'supply = "lots"', "'lots' is not an amount"),
        ('supply = "10000000"', 'supply = "1e-19"', "'1e-19' is not an amount, as text, with at most 18 decimals"),
        ('supply = "10000000"', "supply = 0.5", "0.5 is not an amount"),
        ('supply = "10000000"', "", "lacks 'supply'"),
        ('alice = "900000"', 'nobody = "900000"', "'nobody' is no address, and no role of deployer, alice"),
        ('alice = "900000"', 'alice = "-1"', "'-1' is not an amount"),
        ('bob = "800000"', f'{local_people()["alice"]} = "800000"', "which is named already"),
        ("duration_s = 63072000", 'duration_s = "two years"', "'two years', not a whole number"),
        ("voting_period_s = 86400", "", r"\[governance\] lacks voting_period_s"),
        ("voting_period_s = 86400", "voting_period_s = -1", r"\[governance\] voting_period_s is -1, not a whole"),
        ("quorum_bps = 400", "quorum_bps = true", r"\[governance\] quorum_bps is True, not a whole number"),
        ("max_position_bps = 9000", 'max_position_bps = "9000"', "max_position_bps is '9000', not a whole number"),
        ("max_position_bps = 9000", "max_positions = 9000", r"\[ceilings\] lacks max_position_bps"),
        ("quorum_bps = 400", "quorum_bps = 400\nveto = 1", r"\[governance\] has the unknown veto"),
        ("term_s = 15552000", "", "lacks 'term_s'"),
        ("[rules]", "[roles]", "lacks 'rules'"),
        ("[token]", "[token", "can't be read"),
    ],
)
def test_a_malformed_genesis_names_the_place(line: str, instead: str, says: str, tmp_path: Path):
    text = GENESIS.read_text()
    assert line in text
    path = tmp_path / "genesis.toml"
    path.write_text(text.replace(line, instead))
    with pytest.raises(Misconfigured, match=f"genesis configuration {path}.*{says}"):
        read_genesis(path)


def test_a_section_is_a_table(tmp_path: Path):
    path = tmp_path / "genesis.toml"
    path.write_text("guardian = 5\n" + GENESIS.read_text().replace("[guardian]", "[other]"))
    with pytest.raises(Misconfigured, match="guardian is 5, not a table"):
        read_genesis(path)


def test_a_genesis_that_is_missing_or_no_text_is_named(tmp_path: Path):
    with pytest.raises(Misconfigured, match=r"nowhere.toml does not exist: check the path"):
        read_genesis(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Misconfigured, match=r"binary.toml can't be read"):
        read_genesis(tmp_path / "binary.toml")


def test_on_a_public_network_roles_are_addresses():
    with pytest.raises(Misconfigured, match="'alice' is no address: on a public network a name is an address"):
        read_genesis(GENESIS, people={})


# Market


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw.pop("quote"), "malformed"),
        (lambda raw: raw.update(extra=1), "malformed"),
        (lambda raw: raw.update(quote="0x12"), "0x12 is no checksummed address"),
        (lambda raw: raw.update(quote_feed=MARKET.quote_feed.lower()), "is no checksummed address"),
        (lambda raw: raw["assets"][0].pop("feed"), "malformed"),
        (lambda raw: raw.update(assets=3), "malformed"),
        (lambda raw: raw.update(chain_id=1), "is of chain 1, the node is on chain 31337"),
    ],
)
def test_a_malformed_market_file_is_named(change: Any, says: str, tmp_path: Path):
    raw, path = json.loads(json.dumps(MARKET.to_dict())), tmp_path / "market.json"
    path.write_text(json.dumps(raw))
    assert load_market(path, chain_id=31337) == MARKET
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(Misconfigured, match=f"market file {path} .*{says}"):
        load_market(path, chain_id=31337)


def test_a_missing_market_file_is_named(tmp_path: Path):
    with pytest.raises(Misconfigured, match=r"none.json does not exist: write one, or name it with --market"):
        load_market(tmp_path / "none.json", chain_id=1)


# Strategies


def request(**changes: Any) -> Any:
    raw = tomllib.loads(EXAMPLE) | changes
    return read_request({k: v for k, v in raw.items() if v is not None}, folder=Path("x"), where="s.toml")


def test_the_example_is_a_strategy():
    wanted = request()
    assert wanted.artefact == Path("x/eth.artefact.json")
    assert wanted.amounts(MARKET) == {
        "agent_id": 1, "assets": [(MARKET.assets[0].token, 500)], "limits": wanted.limits, "reward_rate": 10**11,
        "reward_cap_wei": 8000 * 10**18, "capital": 500_000 * 10**6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"agent": None}, "s.toml lacks agent"),
        ({"agent": "one"}, "s.toml: agent is 'one', expected is a whole number"),
        ({"agent": True}, "agent is True"),
        ({"assets": "ETH"}, "assets is 'ETH', expected is a list"),
        ({"capital": 5}, "capital is 5, expected is a text"),
        ({"wallet": "x"}, "s.toml has the unknown wallet"),
        ({"limits": 3}, "limits is 3, expected is a table"),
        ({"limits": {}}, r"\[limits\] lacks hard_drawdown_bps"),
        ({"limits": asdict(request().limits) | {"max_leverage": 3}}, "has the unknown max_leverage"),
        ({"limits": asdict(request().limits) | {"max_position_bps": -1}}, "limit max_position_bps is -1"),
        ({"limits": asdict(request().limits) | {"max_position_bps": 70_000}}, "limit max_position_bps is 70000"),
    ],
)
def test_a_malformed_strategy_names_the_value(changes: dict[str, Any], says: str):
    with pytest.raises(Misconfigured, match=says):
        request(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"capital": "0.0000001"}, "'0.0000001' is not an amount, as text, with at most 6 decimals"),
        ({"reward_cap": "x"}, "'x' is not an amount"),
        ({"reward_rate": "0.0000000000000000001"}, "is not an amount"),
        ({"reward_rate": "0.0000000000001"}, "is finer than a wei for a base unit of quote"),
    ],
)
def test_amounts_of_a_strategy_are_exact(changes: dict[str, Any], says: str):
    with pytest.raises(Misconfigured, match=says):
        request(**changes).amounts(MARKET)


def test_an_asset_that_the_market_does_not_have_is_named():
    with pytest.raises(KeyError, match="no asset 'DOGE'; there are: ETH"):
        request(assets=["DOGE"]).amounts(MARKET)


@pytest.mark.parametrize("text", ["", "max_position_bps", "max_position_bps=x", "max_position_bps=-1"])
def test_a_limit_on_the_command_line_is_a_name_and_a_number(text: str):
    with pytest.raises(Misconfigured, match="give NAME=NUMBER"):
        parse_limit(text)


def test_what_to_recall_is_read_in_whole_tokens():
    assert parse_items(("MUSD=1000.5", "ETH=2@1800.25"), MARKET) == [
        (MARKET.quote, 1_000_500_000, 0),
        (MARKET.assets[0].token, 2 * 10**18, 180_025 * 10**16),
    ]


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ((), "recall what"),
        (("ETH",), "SYMBOL one of MUSD, ETH"),
        (("DOGE=1",), "'DOGE=1' is none"),
        (("ETH=x",), "--item: 'x' is not an amount"),
        (("MUSD=0.0000001",), "at most 6 decimals"),
    ],
)
def test_what_to_recall_has_to_be_said(items: tuple[str, ...], says: str):
    with pytest.raises(Misconfigured, match=says):
        parse_items(items, MARKET)


# Artefacts


def artefact(**report: Any) -> Artefact:
    return Artefact(
        name="still", kind="hold", observation=ObservationSpec(lookback=2, vol_window=1, features=("return_z:1",)),
        action=ActionSpec(), report=report,
    )  # fmt: skip


def test_an_artefact_is_the_one_that_was_meant_or_refused(tmp_path: Path):
    path = tmp_path / "a.json"
    name = save(artefact(), path)
    assert load_artefact(path, name) == artefact()
    with pytest.raises(Misconfigured, match=f"{path} has the hash {name}, expected is 0x1111.*was changed"):
        load_artefact(path, "0x" + "11" * 32)
    with pytest.raises(Misconfigured, match="an artefact hash is 32 bytes"):
        load_artefact(path, "0x12")
    with pytest.raises(Misconfigured, match=r"nowhere.json can't be read \(No such file"):
        load_artefact(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"{" * 99, b'{"format":"marketflow/artefact"}'])
def test_a_malformed_artefact_says_how_to_get_one(content: bytes, tmp_path: Path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(Misconfigured, match=r"a.json is no artefact \(.*\): train one with `ape run train`"):
        load_artefact(tmp_path / "a.json")


# Ballots


class _Governor:
    """A chain on which everybody's next nonce is 3, and nobody has code."""

    def __init__(self, nonce: int = 3, code: bytes = b"") -> None:
        self._nonce = nonce
        self.w3 = SimpleNamespace(eth=SimpleNamespace(get_code=lambda _: code))

    def at(self, *_: Any) -> Any:
        return SimpleNamespace(functions=SimpleNamespace(nonces=lambda voter: voter))

    def call(self, _: Any) -> int:
        return self._nonce


DEPLOYMENT: Any = SimpleNamespace(
    chain_id=31337, dao=address(20), contract=lambda chain, name: chain.at(name, address(20))
)
VOTER = Account.from_key("0x" + "07" * 32)


@pytest.fixture
def ballot() -> Ballot:
    chain: Any = _Governor()
    return sign_ballot(chain, DEPLOYMENT, proposal_id=2**255 + 1, support=Support.FOR, signer=VOTER)


def test_a_ballot_survives_its_file_to_the_last_digit(ballot: Ballot, tmp_path: Path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(ballot.to_dict()))
    assert read_ballot(path) == ballot
    check_ballot(_Governor(), DEPLOYMENT, ballot)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chain_id": 1}, "the ballot is for DAO .* on chain 1, this is"),
        ({"dao": address(21)}, "this is .* check --network"),
        ({"nonce": 2}, "the ballot has nonce 2, the next one of .* is 3"),
        ({"support": Support.AGAINST}, "was signed by 0x"),
        ({"proposal_id": 5}, "was signed by 0x"),
        ({"voter": address(22)}, "was signed by 0x"),
        ({"signature": b"\1" * 65}, "was signed by"),
        ({"signature": b""}, "was signed by nobody"),
    ],
)
def test_a_ballot_that_the_chain_would_not_take_is_refused_for_nothing(ballot: Ballot, change: Any, says: str):
    with pytest.raises(Misconfigured, match=says):
        check_ballot(_Governor(), DEPLOYMENT, replace(ballot, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "can't be read"),
        ("[]", "not a ballot"),
        ("{}", "has no 'format'"),
        ('{"format": "x"}', "format is 'x'"),
        ('{"format": "marketflow/ballot/1", "chain_id": 1, "dao": "x"}', "not a ballot"),
    ],
)
def test_a_malformed_ballot_is_named(content: str, says: str, tmp_path: Path):
    path = tmp_path / "b.json"
    path.write_text(content)
    with pytest.raises(Misconfigured, match=f"{path}.*{says}.*`ape run sign` writes one"):
        read_ballot(path)
    with pytest.raises(Misconfigured, match="can't be read"):
        read_ballot(tmp_path / "nowhere.json")


@pytest.mark.parametrize("support", ["maybe", "", 3])
def test_a_ballot_says_for_against_or_abstain(support: Any, ballot: Ballot):
    with pytest.raises(Misconfigured):
        Ballot.from_dict(ballot.to_dict() | {"support": support})
