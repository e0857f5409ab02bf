"""ape run audit: decides every trade again, from the chain and the artefact, and says what does not hold.

Exit code 1 when something does not. A trade whose explanation or artefact can't be had does not hold: what nobody can
check is not fine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from eth_utils import is_address, keccak, to_checksum_address
from web3.exceptions import Web3Exception

from agents.audit import Auditor
from agents.commands._chain import Connection, on_chain, parse_hash, say
from agents.contracts import load_artifact
from agents.deployment import ZERO_ADDRESS
from agents.deployments import NetworkDeployment
from agents.errors import Misconfigured
from agents.explanation import DocumentStore, plain
from agents.ledger import LedgerBroken, LedgerEntry, entries_in, fetch_entries, verify_chain
from agents.localnet.market import pool_readers
from agents.logged_trades import LoggedTrades, log_trades
from agents.manifest import load_artefact
from offchain_rl.artefact import Artefact
from offchain_rl.logged_steps import BadSteps
from oracle.abi import type_signature
from oracle.chain import fetch_block
from oracle.chainlink import ChainlinkReader
from oracle.consensus import ConsensusReader
from oracle.vault_state import VaultReader

# What public nodes answer at once.
BLOCKS_PER_REQUEST = 10_000


@click.command()
@click.argument("what")
@click.option("--artefact", "artefacts", multiple=True, type=click.Path(path_type=Path), help="File; may be repeated.")
@click.option("--explanations", type=click.Path(path_type=Path), help="Folder of the agent's explanations.")
@click.option("--steps", type=click.Path(path_type=Path), help="Write the trades that hold here, to be learnt from.")
@on_chain
def cli(
    here: Connection,
    what: str,
    artefacts: tuple[Path, ...],
    explanations: Path | None,
    steps: Path | None,
    as_json: bool,
) -> None:
    """Audit the trades of a strategy, or one trade: WHAT is the id of either, or a vault's address."""
    found = here.deployed()
    loaded = {a.artefact_hash: a for a in map(load_artefact, artefacts)}
    vault, only = find(here, found, what)
    entries = fetch_all(here, found, vault)
    audited = [entry for entry in entries if only is None or entry.id == only]
    if audited and not explanations:
        raise Misconfigured("trades name explanations by hash: add --explanations FOLDER, where the agent kept them")
    if explanations and not explanations.is_dir():
        raise Misconfigured(f"--explanations {explanations} is no folder: name the one where the agent kept them")
    broken = chain_faults(here, found, vault, entries)
    auditor = make_auditor(here, found, vault, loaded, explanations) if audited and explanations else None
    verdicts = []
    for entry in audited:
        assert auditor is not None
        findings = audit(auditor, entry)
        verdicts.append({"trade": entry.id, "sequence": entry.fields["sequence"], "findings": findings})
    failed = sum(1 for verdict in verdicts if verdict["findings"])
    answer: dict[str, Any] = {"vault": vault, "trades": len(entries), "checked": len(audited), "failed": failed}
    answer["ledger"] = broken or "whole"
    if steps and explanations:
        findings_of = {verdict["trade"]: verdict["findings"] for verdict in verdicts}
        logged = log_steps(audited, explanations, loaded, findings_of)
        answer["steps_hash"] = logged.save(steps, vault)
        say(f"{logged}; learn from them with python -m offchain_rl.train_offline --behaviour ledger {steps}")
    report(answer, verdicts, as_json=as_json)
    if failed or broken:
        sys.exit(1)


def log_steps(
    entries: list[LedgerEntry], explanations: Path, artefacts: dict[str, Artefact], findings_of: dict[str, list[Any]]
) -> LoggedTrades:
    """The audited trades as steps, without those that do not hold. Raises Misconfigured when none is left."""
    try:
        return log_trades(entries, DocumentStore(explanations), artefacts, audit=lambda entry: findings_of[entry.id])
    except BadSteps as error:
        raise Misconfigured(f"--steps: {error}") from error


def find(here: Connection, found: NetworkDeployment, what: str) -> tuple[str, str | None]:
    """The vault, and the trade's id when it is one that was named. Raises Misconfigured when it is neither."""
    if is_address(what):
        vault = to_checksum_address(what)
        if not any(here.chain.call(found.protocol.contract(here.chain, "ledger").functions.headOf(vault))):
            raise Misconfigured(f"{vault} is no vault of this protocol: `ape run status` lists those there are")
        return vault, None
    identity = parse_hash(what, "strategy or trade")
    strategies = found.protocol.contract(here.chain, "strategies").functions
    vault = str(here.chain.call(strategies.strategyOf(identity)).vault)
    if vault != ZERO_ADDRESS:
        return vault, None
    event = next(item for item in load_artifact("TradeLedger").abi if item.get("name") == "TradeRecorded")
    topic = keccak(text=f"TradeRecorded({','.join(type_signature(item) for item in event['inputs'])})")
    first, last = found.protocol.deployed_at_block, here.chain.w3.eth.block_number
    for start in range(first, last + 1, BLOCKS_PER_REQUEST):
        logs = here.chain.w3.eth.get_logs(
            {
                "address": here.chain.w3.to_checksum_address(found.protocol.ledger),
                "fromBlock": start,
                "toBlock": min(start + BLOCKS_PER_REQUEST - 1, last),
                "topics": ["0x" + topic.hex(), "0x" + identity.hex()],  # type: ignore[list-item]
            }
        )
        for entry in entries_in({"logs": logs}):
            return entry.vault, entry.id
    raise Misconfigured(f"there is no strategy and no trade 0x{identity.hex()}: check the id, and --network")


def fetch_all(here: Connection, found: NetworkDeployment, vault: str) -> list[LedgerEntry]:
    """Every trade of the vault, oldest first."""
    ledger = found.protocol.contract(here.chain, "ledger")
    first, last = found.protocol.deployed_at_block, here.chain.w3.eth.block_number
    entries: list[LedgerEntry] = []
    for start in range(first, last + 1, BLOCKS_PER_REQUEST):
        stop = min(start + BLOCKS_PER_REQUEST - 1, last)
        entries += fetch_entries(here.chain, ledger, vault, from_block=start, to_block=stop)
    return entries


def chain_faults(here: Connection, found: NetworkDeployment, vault: str, entries: list[LedgerEntry]) -> str:
    """Why the events are not those that the ledger's head commits to; empty when they are."""
    ledger = found.protocol.contract(here.chain, "ledger").functions
    genesis, head = (bytes(here.chain.call(read(vault))) for read in (ledger.genesisOf, ledger.headOf))
    try:
        verify_chain(entries, genesis=genesis, head=head)
    except LedgerBroken as error:
        return str(error)
    return ""


def make_auditor(
    here: Connection, found: NetworkDeployment, address: str, artefacts: dict[str, Any], explanations: Path
) -> Auditor:
    """An auditor of one vault, with the feeds that the protocol's oracle reads."""
    chain, protocol, quote = here.chain, found.protocol, found.market.quote
    vault, oracle = protocol.vault(chain, address), protocol.contract(chain, "oracle")
    tokens = [quote, *(asset.token for asset in chain.call(vault.functions.assets()))]
    listed = {token: chain.call(oracle.functions.feedOf(token)) for token in tokens}
    feeds = {token: chain.at("FeedProxy", feed.aggregator) for token, feed in listed.items()}
    return Auditor(
        chain_id=chain.chain_id,
        artefacts=artefacts,
        vaults=VaultReader(
            chain, vault=vault, constitution=protocol.contract(chain, "constitution"), oracle=oracle,
            quote=quote, quote_unit=10**found.market.quote_decimals,
        ),
        rounds=ChainlinkReader(chain, feeds),
        documents=DocumentStore(explanations),
        decimals={token: feed.feedDecimals for token, feed in listed.items()},
        fetch_block=lambda number: fetch_block(chain, number),
        consensus=ConsensusReader(pool_readers(chain, found.market)),
    )  # fmt: skip


def audit(auditor: Auditor, entry: LedgerEntry) -> list[dict[str, Any]]:
    """The findings about one trade as plain values. Raises Misconfigured when the node has forgotten its block."""
    try:
        findings = auditor.audit(entry)
    except Web3Exception as error:
        raise Misconfigured(
            f"the node no longer knows the state around block {entry.block} ({error}): use an archive node"
        ) from error
    return [{"field": f.field, "expected": readable(f.expected), "found": readable(f.found)} for f in findings]


def readable(value: Any) -> Any:
    """A finding's value as JSON has it; whatever is no plain value as text."""
    try:
        return plain(value)
    except TypeError:
        return str(value)


def report(answer: dict[str, Any], verdicts: list[dict[str, Any]], *, as_json: bool) -> None:
    """The whole as JSON, or a line for each trade and each finding."""
    if as_json:
        click.echo(json.dumps({**answer, "verdicts": verdicts}, indent=2))
        return
    for verdict in verdicts:
        holds = "DOES NOT HOLD" if verdict["findings"] else "holds"
        click.echo(f"trade {verdict['sequence']} {verdict['trade']}: {holds}")
        for finding in verdict["findings"]:
            click.echo(f"    {finding['field']}: expected {finding['expected']}, found {finding['found']}")
    if answer["ledger"] != "whole":
        say(f"the ledger is broken: {answer['ledger']}")
    click.echo(f"{answer['checked']} of {answer['trades']} trades checked, {answer['failed']} do not hold")
