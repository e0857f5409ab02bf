"""`marketflow solana …` on a local chain over HTTP: from nothing to a vault that trades, is settled, and is audited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from eth_abi import decode
from eth_utils import keccak
from solders.account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from agents.commands.solana import Here, cli, stopping_word, units
from agents.demo import buy_and_hold
from agents.errors import Misconfigured
from agents.localnet.solana import LocalSolana
from agents.solana_decisions import Decision, describe, payload_of, sign, to_json
from agents.solana_node import SolanaNode
from agents.solana_rpc import Rpc
from offchain_rl.artefact import save
from tests.solana.world import guardian_keys

START_S = 1_790_000_000
PRICE = 2_000 * 10**8
QUOTE, TOKEN = 10**6, 10**9


@dataclass
class Desk:
    """A chain behind a URL, people with key files, and the command."""

    chain: LocalSolana
    url: str
    folder: Path

    def __post_init__(self) -> None:
        self.guardians = guardian_keys(3)
        self.people = {name: self.chain.person(name) for name in ("authority", "controller", "trader")}
        for name, key in self.people.items():
            path = self.folder / f"{name}.json"
            path.touch(mode=0o600)
            path.write_text(json.dumps(list(bytes(key))))
        self.file = self.folder / "solana.json"

    def run(self, *arguments: str, who: str = "authority", url: str | None = None, ok: bool = True) -> Any:
        """JSON of a command that must succeed; else its error."""
        environment = {
            "MARKETFLOW_SOLANA_KEY_FILE": str(self.folder / f"{who}.json"),
            "MARKETFLOW_SOLANA_RPC_URL": url or self.url,
        }
        done = CliRunner(mix_stderr=False).invoke(cli, list(arguments), env=environment, catch_exceptions=False)
        if not ok:
            assert done.exit_code == 1, done.output
            return done.stderr
        assert done.exit_code == 0, (arguments, done.output, done.stderr)
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def on(self, command: str, *arguments: str, **how: Any) -> Any:
        """A command on the protocol."""
        return self.run(command, *arguments, "--file", str(self.file), "--json", **how)

    def begin(self) -> Path:
        """The configuration file of a protocol here."""
        example = (Path(__file__).parents[2] / "deployments/genesis/solana.toml").read_text()
        chain = self.chain
        changes = {
            'kind = "pyth"': 'kind = "chainlink"',
            "Dpw1EAVrSB1ibxiDQyTAW6Zip3J4Btk2x4SgApQCeFbX": str(chain.feeds["quote"]),
            "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v": str(chain.quote),
            "So11111111111111111111111111111111111111112": str(chain.token),
            "chain_id = 11155111": "chain_id = 31337",
            "genesis_s = 1790000000": f"genesis_s = {START_S - 10}",
        } | {f"0x{number:040x}": key.address for number, key in zip((2, 3, 4), self.guardians, strict=True)}
        for old, new in changes.items():
            assert old in example, old
            example = example.replace(old, new)
        path = self.folder / "protocol.toml"
        path.write_text(example)
        return path

    def decide(self, name: str, known: dict[str, Pubkey], *args: Any, subject: Pubkey, count: int = 2) -> list[str]:
        """Attestations of a decision in files."""
        ledger = self.chain.ledger
        told = json.loads(self.file.read_text())
        protocol = Pubkey.from_string(told["protocol"])
        state = self.chain.state(protocol)
        instruction = ledger.instruction(name, known, *args, ledger.decision(0))
        decision = Decision(
            program=bytes(ledger.id), protocol=bytes(protocol), evm_chain_id=31337,
            outbox="0x" + bytes(state.config.outbox).hex(), nonce=state.nonce, expires_s=START_S + 10**6,
            payload=payload_of(bytes(instruction.data), bytes(subject)),
        )  # fmt: skip
        files = []
        for key in self.guardians[:count]:
            path = self.folder / f"{name}-{key.address}.json"
            path.write_text(to_json(sign(decision, key), decision))
            files.append(str(path))
        return files


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    chain = LocalSolana(SolanaNode(start_s=START_S), base_price_e8=PRICE, liquidity=10**14)
    for minute in range(0, 100, 20):
        chain.publish(base_e8=PRICE, at_s=START_S + 1 + 60 * minute)
    with chain.node.serve() as url:
        yield Desk(chain, url, tmp_path)


def give(desk: Desk, who: str, mint: Pubkey, amount: int) -> None:
    from spl.token.instructions import create_associated_token_account, get_associated_token_address

    key = desk.people[who]
    owned = get_associated_token_address(key.pubkey(), mint)
    if desk.chain.node.get_account(owned) is None:
        desk.chain.send(create_associated_token_account(key.pubkey(), key.pubkey(), mint), signers=[key])
    desk.chain.give(mint, owned, amount)


def test_from_nothing_to_a_vault_that_trades_is_settled_claimed_and_audited(desk: Desk) -> None:
    chain, ledger = desk.chain, desk.chain.ledger
    configuration = str(desk.begin())
    planned = desk.run("begin", configuration, "--program", str(ledger.id), "--dry-run", "--json")
    assert planned["dry_run"]
    assert chain.node.get_account(Pubkey.from_string(planned["protocol"])) is None
    begun = desk.run("begin", configuration, "--program", str(ledger.id), "--out", str(desk.file), "--json")
    assert begun["protocol"] == planned["protocol"]
    again = desk.run("begin", configuration, "--program", str(ledger.id), "--out", str(desk.file), "--json")
    assert again == begun

    give(desk, "controller", chain.token, 50_000 * TOKEN)
    trader = str(desk.people["trader"].pubkey())
    agent = desk.on("register", "--signing-key", trader, "--bond", "50000", who="controller")["agent"]
    protocol = Pubkey.from_string(begun["protocol"])
    known = ledger.known(protocol)
    purse = chain.wallet(chain.token, chain.authority.pubkey())
    chain.give(chain.token, purse, 10**5 * TOKEN)
    fund = {"funder": chain.authority.pubkey(), "source": purse}
    chain.send(ledger.instruction("fund_rewards", known | fund, 10**5 * TOKEN), signers=[chain.authority])
    chain.give(chain.quote, known["treasury"], 10**12)

    artefact = buy_and_hold(4000)
    save(artefact, desk.folder / "hold.json")
    state = chain.state(protocol)
    feed = ledger.types["Feed"](source=chain.feeds["base"], kind=1, max_age_s=3600, max_confidence_bps=0, decimals=8,
                                least_e8=10**8, most_e8=10**14)  # fmt: skip
    manifest = ledger.types["Manifest"](
        artefact_hash=list(bytes.fromhex(artefact.artefact_hash[2:])), agent=Pubkey.from_string(agent),
        base_mint=chain.base, feed=feed, venue=chain.market.id, pool=chain.pool["pool"],
        limits=state.config.ceilings, reward_rate=100, reward_cap=1000 * TOKEN, salt=0,
    )  # fmt: skip
    vault = ledger.vault(protocol, manifest)
    known |= ledger.known(protocol, vault=vault) | {
        "payer": chain.authority.pubkey(), "agent": Pubkey.from_string(agent), "last_vault": ledger.id,
        "quote_mint": chain.quote, "base_mint": chain.base, "base_feed": chain.feeds["base"],
        "quote_feed": chain.feeds["quote"],
    }  # fmt: skip
    one = desk.decide("open_vault", known, manifest, subject=vault, count=1)
    assert "1 of 2 guardians" in desk.on("carry-out", *one, ok=False)
    files = desk.decide("open_vault", known, manifest, subject=vault)
    words = desk.on("carry-out", *files, "--dry-run")
    assert (words["instruction"], words["about"]) == ("open_vault", str(vault))
    assert words["arguments"]["manifest"]["artefact_hash"] == artefact.artefact_hash
    desk.on("carry-out", *files)
    assert "not due" in desk.on("carry-out", *files, ok=False)
    desk.on("carry-out", *desk.decide("allocate", known, 10**11, subject=vault))

    decided = desk.on("trade", str(vault), "--artefact", str(desk.folder / "hold.json"), "--folder",
                      str(desk.folder / "agent"), who="trader")  # fmt: skip
    assert decided["outcome"] == "traded", str(decided)
    [row] = desk.on("status")["vaults"]
    assert (row["trades"], row["state"], row["head"]) == (1, "ACTIVE", decided["trade"][2:])

    audited = desk.on("audit", str(vault), "--explanations", str(desk.folder / "agent/explanations"))
    assert (audited["entries"], audited["holds"], audited["unexplained"]) == (1, True, [])

    config = state.config
    chain.publish(base_e8=PRICE * 11 // 10, at_s=config.genesis_s + config.epoch_length_s + 1)
    assert desk.on("settle", str(vault), "--dry-run")["due"] == "observe"
    desk.on("settle", str(vault))
    chain.publish(base_e8=PRICE * 11 // 10, at_s=config.genesis_s + config.epoch_length_s + config.window_length_s)
    [settled] = desk.on("settle", str(vault))["settled"]
    assert settled["pnl"] > 3_900 * QUOTE
    assert settled["reward"] == min(settled["pnl"] * 100, 1000 * TOKEN)
    chain.publish(base_e8=PRICE * 11 // 10, at_s=chain.node.time_s + 86_400)
    claimed = desk.on("claim", str(vault), who="controller")["events"]
    assert [event["event"] for event in claimed] == ["Claimed"]
    assert "NothingToClaim" in desk.on("claim", str(vault), who="controller", ok=False)

    here = open_protocol_of(desk)
    halt = stopping_word(here, vault, None)
    files = []
    for guardian in desk.guardians[:2]:
        files.append(desk.folder / f"halt-{guardian.address}.json")
        files[-1].write_text(to_json(sign(halt, guardian), halt))
    assert desk.on("carry-out", *map(str, files), "--dry-run")["instruction"] == "halt"
    desk.on("carry-out", *map(str, files))
    assert desk.on("status")["vaults"][0]["state"] == "HALTED"
    assert "name a vault" in desk.run("stop", "--file", str(desk.file), ok=False)


def test_a_decision_is_drafted_as_a_call_of_the_outbox_that_says_what_it_does(desk: Desk) -> None:
    """What a proposer puts into a proposal is what guardians will read."""
    desk.run("begin", str(desk.begin()), "--program", str(desk.chain.ledger.id), "--out", str(desk.file), "--json")
    vault = str(Pubkey.new_unique())
    told = desk.on("draft", "allocate", "--about", vault, "--arg", "amount=1000")
    assert (told["instruction"], told["about"], told["arguments"]) == ("allocate", vault, {"amount": 1000})
    selector, body = bytes.fromhex(told["data"][2:10]), bytes.fromhex(told["data"][10:])
    assert selector == keccak(text="send(bytes32,bytes32,uint64,bytes)")[:4]
    program, protocol, ttl_s, payload = decode(["bytes32", "bytes32", "uint64", "bytes"], body)
    assert program == bytes(desk.chain.ledger.id)
    assert str(Pubkey.from_bytes(protocol)) == json.loads(desk.file.read_text())["protocol"]
    assert ttl_s == 3600
    assert describe(payload, desk.chain.ledger)["arguments"] == {"amount": 1000}
    example = Path(__file__).parents[2] / "deployments/genesis/solana_strategy.toml"
    opened = desk.on("draft", "open-vault", "--manifest", str(example))
    assert opened["arguments"]["manifest"]["reward_rate"] == 100
    assert "amount" in desk.on("draft", "allocate", "--about", vault, ok=False)
    assert "--manifest" in desk.on("draft", "open-vault", ok=False)
    for name in ("trade", "halt", "nothing"):
        assert "set-budget" in desk.on("draft", name, ok=False)


def test_rewards_are_funded_from_one_s_own_account(desk: Desk) -> None:
    desk.run("begin", str(desk.begin()), "--program", str(desk.chain.ledger.id), "--out", str(desk.file), "--json")
    give(desk, "controller", desk.chain.token, 500 * TOKEN)
    assert desk.on("fund", "500", "--dry-run", who="controller")["amount"] == 500 * TOKEN
    assert desk.on("status")["free_rewards"] == 0
    desk.on("fund", "500", who="controller")
    assert desk.on("status")["free_rewards"] == 500 * TOKEN


def open_protocol_of(desk: Desk) -> Here:
    """What a command on the protocol is given."""
    ledger = desk.chain.ledger
    protocol = Pubkey.from_string(json.loads(desk.file.read_text())["protocol"])
    return Here(Rpc(desk.chain.client), desk.chain.client, ledger, protocol, ledger.known(protocol))


def test_an_entry_without_its_explanation_is_shown_as_unexplained(desk: Desk, tmp_path: Path) -> None:
    test_from_nothing_to_a_vault_that_trades_is_settled_claimed_and_audited(desk)
    vault = desk.on("status")["vaults"][0]["vault"]
    (tmp_path / "empty").mkdir()
    told = CliRunner(mix_stderr=False).invoke(
        cli,
        [
            "audit",
            vault,
            "--explanations",
            str(tmp_path / "empty"),
            "--file",
            str(desk.file),
            "--url",
            desk.url,
            "--json",
        ],
    )
    assert told.exit_code == 1
    assert json.loads(told.stdout)["unexplained"] == [0]


def test_a_protocol_s_file_that_is_missing_malformed_or_of_another_cluster_is_refused(desk: Desk) -> None:
    assert "solana begin" in desk.on("status", ok=False)
    desk.file.write_text("{")
    assert "malformed" in desk.on("status", ok=False)
    desk.file.write_text(json.dumps({"program": "x", "protocol": "y"}))
    assert "no address on Solana" in desk.on("status", ok=False)
    desk.run("begin", str(desk.begin()), "--program", str(desk.chain.ledger.id), "--out", str(desk.file), "--json")
    told = json.loads(desk.file.read_text())
    desk.file.write_text(json.dumps(told | {"genesis": "another"}))
    assert "cluster" in desk.on("status", ok=False)
    desk.file.write_text(json.dumps(told))
    assert "did not answer" in desk.on("status", ok=False, url="http://127.0.0.1:1")


def test_a_configuration_s_mistake_is_named(desk: Desk) -> None:
    good = desk.begin().read_text()
    for old, new, said in (
        ("threshold = 2", "threshold = 0", "BadConfig"),
        ('kind = "chainlink"', 'kind = "oracle"', "choose chainlink or pyth"),
        ("[guard]", "[gard]", "guard"),
        ("slippage_decay_s = 604800", 'slippage_decay_s = "a week"', "solana.toml"),
        ("0x0000000000000000000000000000000000000001", "0x01", "solana.toml"),
    ):
        assert old in good
        path = desk.folder / "wrong.toml"
        path.write_text(good.replace(old, new))
        error = desk.run("begin", str(path), "--program", str(desk.chain.ledger.id), "--out", str(desk.file), ok=False)
        assert said in error, error
    assert "no address" in desk.run("begin", str(desk.begin()), "--program", "0x12", ok=False)


def test_without_a_key_file_of_one_s_own_nothing_is_signed(desk: Desk) -> None:
    desk.run("begin", str(desk.begin()), "--program", str(desk.chain.ledger.id), "--out", str(desk.file), "--json")
    trader = str(desk.people["trader"].pubkey())
    assert "nobody.json" in desk.on("register", "--signing-key", trader, who="nobody", ok=False)
    (desk.folder / "controller.json").chmod(0o644)
    assert "controller.json" in desk.on("register", "--signing-key", trader, who="controller", ok=False)


def test_a_deployment_is_planned_and_what_is_there_is_not_overwritten(desk: Desk) -> None:
    key = desk.folder / "program.json"
    key.touch(mode=0o600)
    fresh = Keypair()
    key.write_text(json.dumps(list(bytes(fresh))))
    plan = desk.run("deploy", "ledger", "--program-key", str(key), "--dry-run", "--json")
    assert plan["program"] == str(fresh.pubkey())
    assert plan["can_be_replaced_by"] == "nobody"
    assert plan["transactions"] == 1 + -(-plan["bytes"] // 900) + 2
    assert float(plan["costs_sol"]) > 0.4
    desk.chain.node.set_account(fresh.pubkey(), Account(1, b"", Pubkey.default(), False, 0))
    assert "already" in desk.run("deploy", "ledger", "--program-key", str(key), "--dry-run", ok=False)


@pytest.mark.parametrize("amount", ["", "abc", "-1", "0", "NaN", "1e30", "0.0000001"])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(Misconfigured):
        units(amount, 6)


def test_amounts_are_exact() -> None:
    assert (units("0.000001", 6), units("1000", 9), units("18446744073.709551615", 9)) == (1, 10**12, 2**64 - 1)
