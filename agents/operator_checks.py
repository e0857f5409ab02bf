"""`marketflow agent check-accounts`: whether each agent can trade, and whether chain and journal tell the same story.

Looks only. Every line is ok, a note (nothing to repair, but something to know), or a problem with what helps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from agents.assembly import Assembly
from agents.errors import Misconfigured
from agents.fees import FeeTooHigh
from agents.journal import Journal
from agents.ledger import LedgerBroken, LedgerEntry, verify_chain
from agents.operator_look import Seen, journal_rows, ledger_entries, require_seen
from agents.operator_view import Verdict, amount, check, count, nonce_check
from agents.settings import AgentEntry
from agents.signer import Ask, Keystore, address_of
from oracle.chain import BlockRef
from oracle.multicall import fetch_many
from oracle.vault_state import VaultReading

ETHER_DECIMALS = 18
Line = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What all checks share. `accounts`: of each vault's key, or what is wrong with it; `signing`: what the registry
    says; `nonces`: latest and pending, by account."""

    assembly: Assembly
    head: BlockRef
    accounts: Mapping[str, str | Misconfigured]
    signing: Mapping[str, str]
    nonces: Mapping[str, tuple[int, int]]
    balances_wei: Mapping[str, int]
    given: Mapping[str, Sequence[int]]
    waiting: Mapping[str, Sequence[int]]
    trades: Mapping[str, int]
    in_flight: Collection[str]
    entries: Mapping[str, Sequence[LedgerEntry]]
    # Of vaults whose entries are not what the ledger hashed.
    broken: Mapping[str, str]
    # What one trade may cost, wei; or why it costs too much.
    cost_wei: int | FeeTooHigh


def check_accounts(assembly: Assembly, ask: Ask | None) -> list[Line]:
    """The lines of all agents, those of the journal first. Raises AgentError and what reading raises when the chain
    can't be read at all."""
    seen = require_seen(assembly)
    assert seen.head is not None
    known = _know(assembly, seen, seen.head, ask)
    lines = list(journal_checks(assembly))
    for entry in assembly.file.agents:
        reading = seen.readings[entry.vault]
        assert isinstance(reading, VaultReading)
        lines += [*_key_checks(known, entry), *_account_checks(known, entry), *_vault_checks(known, entry, reading)]
    return lines


def journal_mismatch(assembly: Assembly) -> str:
    """What the journal is about that the node is not; empty when it is the same, or nothing yet."""
    [genesis] = assembly.node.blocks([0])
    here = {
        "chain id": assembly.chain.chain_id, "genesis": genesis.hash if genesis else None,
        "ledger": assembly.deployment.protocol.ledger,
    }  # fmt: skip
    for name, value in here.items():
        known = assembly.journal.fact(name)
        if known not in (None, value):
            return f"the journal is about the {name} {known}, the node is about {value}"
    return ""


def journal_checks(assembly: Assembly) -> Iterator[Line]:
    """Whole, and about this chain."""
    try:
        assembly.journal.check()
    except Misconfigured as error:
        yield check("journal", "file", Verdict.PROBLEM, str(error))
    else:
        decisions = count(sum(assembly.journal.counts().values()), "decision")
        yield check("journal", "file", Verdict.OK, f"{decisions}, whole")
    found = journal_mismatch(assembly)
    way_out = "name the journal of this chain with MARKETFLOW_JOURNAL" if found else ""
    same = f"chain {assembly.chain.chain_id}, the same as the node's"
    yield check("journal", "chain", Verdict.PROBLEM if found else Verdict.OK, found or same, way_out)


# What is looked up


def _know(assembly: Assembly, seen: Seen, head: BlockRef, ask: Ask | None) -> _Known:
    settings = assembly.settings
    accounts = load_accounts(
        assembly.file.agents, settings.keyfile_passphrase, ask, ape_folder=settings.ape_data_folder
    )
    names = sorted({account for account in accounts.values() if isinstance(account, str)})
    latest, pending = (assembly.node.nonces(names, block) for block in ("latest", "pending"))
    entries, journal = entries_by_vault(assembly, head), assembly.journal
    return _Known(
        assembly=assembly, head=head, accounts=accounts, signing=_signing_keys(assembly, seen, head),
        nonces={name: (latest[name], pending[name]) for name in names}, balances_wei=assembly.node.balances(names),
        given=nonces_given(journal), waiting=nonces_waiting(journal),
        trades=journal.trades(up_to_block=head.number), in_flight=journal.in_flight(head.number), entries=entries,
        broken=broken_ledgers(assembly, entries, head), cost_wei=trade_cost(assembly),
    )  # fmt: skip


def load_accounts(
    entries: Sequence[AgentEntry], passphrase: SecretStr | None, ask: Ask | None, *, ape_folder: Path | None = None
) -> dict[str, str | Misconfigured]:
    """The account of each vault's key, or why it can't be opened; those on paper left out."""
    keys, found = Keystore(passphrase, ask, ape_folder=ape_folder), dict[str, str | Misconfigured]()
    for name in dict.fromkeys(entry.key for entry in entries if entry.key):
        try:
            account: str | Misconfigured = address_of(keys.key(name))
        except Misconfigured as error:
            account = error
        found |= {entry.vault: account for entry in entries if entry.key == name}
    return found


def _signing_keys(assembly: Assembly, seen: Seen, head: BlockRef) -> dict[str, str]:
    registry = assembly.deployment.protocol.contract(assembly.chain, "agents")
    readings = [reading for reading in seen.readings.values() if isinstance(reading, VaultReading)]
    calls = [registry.functions.agentOf(reading.agent_id) for reading in readings]
    found = fetch_many(assembly.chain, calls, block=head.number)
    return {reading.address: agent.signingKey for reading, agent in zip(readings, found, strict=True)}


def nonces_given(journal: Journal) -> dict[str, list[int]]:
    """Every nonce that the journal gave out, by account."""
    found: dict[str, list[int]] = {}
    for row in journal_rows(journal):
        if row["account_nonce"] is not None:
            found.setdefault(row["account"], []).append(row["account_nonce"])
    return found


def nonces_waiting(journal: Journal) -> dict[str, list[int]]:
    """Those whose transaction is not mined."""
    found: dict[str, list[int]] = {}
    for row in journal.unfinished():
        found.setdefault(row.account, []).append(row.account_nonce)
    return found


def entries_by_vault(assembly: Assembly, head: BlockRef) -> dict[str, list[LedgerEntry]]:
    """The ledger's entries of our vaults, oldest first."""
    found: dict[str, list[LedgerEntry]] = {agent.vault: [] for agent in assembly.agents}
    for entry in ledger_entries(assembly, head.number):
        if entry.vault in found:
            found[entry.vault].append(entry)
    return found


def trade_cost(assembly: Assembly) -> int | FeeTooHigh:
    """What a trade may cost at the fees of now, wei: what a node wants to see in the account."""
    try:
        fees = assembly.outbox.fees.first(*assembly.node.fees())
    except FeeTooHigh as error:
        return error
    return assembly.outbox.rules.gas * fees.max_fee_wei


def broken_ledgers(assembly: Assembly, entries: Mapping[str, Sequence[LedgerEntry]], head: BlockRef) -> dict[str, str]:
    """Vaults whose events do not hash to the ledger's head, and what is wrong with them."""
    f, vaults = assembly.deployment.protocol.contract(assembly.chain, "ledger").functions, list(entries)
    calls = [call(vault) for vault in vaults for call in (f.genesisOf, f.headOf)]
    hashes = [bytes(found) for found in fetch_many(assembly.chain, calls, block=head.number)]
    broken = {}
    for vault, genesis, newest in zip(vaults, hashes[::2], hashes[1::2], strict=True):
        try:
            verify_chain(entries[vault], genesis=genesis, head=newest)
        except LedgerBroken as error:
            broken[vault] = str(error)
    return broken


# The lines


def _key_checks(known: _Known, entry: AgentEntry) -> Iterator[Line]:
    account, expected = known.accounts.get(entry.vault), known.signing[entry.vault]
    if account is None:
        yield check(entry.name, "key", Verdict.OK, "on paper: nothing is signed")
    elif isinstance(account, Misconfigured):
        yield check(entry.name, "key", Verdict.PROBLEM, str(account))
    else:
        yield check(entry.name, "key", Verdict.OK, f"opens, account {account}")
        if account == expected:
            yield check(entry.name, "signing key", Verdict.OK, "the vault's, by the registry")
        else:
            found = f"the registry has {expected}, the key is {account}'s"
            way_out = "the agent's controller calls setSigningKey, or name the right key in MARKETFLOW_AGENTS"
            yield check(entry.name, "signing key", Verdict.PROBLEM, found, way_out)


def _account_checks(known: _Known, entry: AgentEntry) -> Iterator[Line]:
    account = known.accounts.get(entry.vault)
    if not isinstance(account, str):
        return
    yield _ether_check(known, entry.name, account)
    latest, pending = known.nonces[account]
    yield from nonce_check(
        entry.name, latest=latest, pending=pending, given=known.given.get(account, ()),
        waiting=known.waiting.get(account, ()),
    )  # fmt: skip


def _ether_check(known: _Known, name: str, account: str) -> Line:
    if isinstance(known.cost_wei, FeeTooHigh):
        return check(name, "ether", Verdict.PROBLEM, str(known.cost_wei))
    balance_wei = known.balances_wei[account]
    trades = balance_wei // known.cost_wei if known.cost_wei else 0
    found = f"{amount(balance_wei, ETHER_DECIMALS)} ether, enough for {count(trades, 'trade')} at the fees of now"
    if trades or not known.cost_wei:
        return check(name, "ether", Verdict.OK, found)
    return check(name, "ether", Verdict.PROBLEM, found, f"send some to {account}")


def _vault_checks(known: _Known, entry: AgentEntry, reading: VaultReading) -> Iterator[Line]:
    yield _artefact_check(known, entry, reading)
    yield _count_check(known, entry, reading)
    if said := known.broken.get(entry.vault):
        way_out = "the node leaves events out or invents them: name another in MARKETFLOW_RPC_URLS"
        yield check(entry.name, "ledger", Verdict.PROBLEM, said, way_out)
    else:
        yield check(entry.name, "ledger", Verdict.OK, f"hash chain of {len(known.entries[entry.vault])} verified")
    yield from _book_checks(known, entry, reading)


def _artefact_check(known: _Known, entry: AgentEntry, reading: VaultReading) -> Line:
    loaded = next(agent.artefact for agent in known.assembly.agents if agent.vault == entry.vault).artefact_hash
    if loaded == reading.artefact_hash:
        return check(entry.name, "artefact", Verdict.OK, f"{loaded}, as the DAO approved")
    found = f"{entry.artefact} is {loaded}, the DAO approved {reading.artefact_hash}"
    return check(entry.name, "artefact", Verdict.PROBLEM, found, "name the approved file in MARKETFLOW_AGENTS")


def _count_check(known: _Known, entry: AgentEntry, reading: VaultReading) -> Line:
    ours = known.trades.get(entry.vault, 0)
    ledger = len(known.entries[entry.vault])
    figures = f"vault {reading.nonce}, ledger {ledger}, journal {ours}"
    if reading.nonce == ledger == ours:
        return check(entry.name, "trades", Verdict.OK, figures)
    if reading.nonce == ledger and entry.vault in known.in_flight:
        return check(entry.name, "trades", Verdict.NOTE, figures, "an order is under way: ask again")
    if reading.nonce == ledger and not entry.key:
        return check(entry.name, "trades", Verdict.NOTE, figures, "somebody trades for this vault, not this journal")
    return check(entry.name, "trades", Verdict.PROBLEM, figures, "`marketflow agent repair` reads the ledger again")


def _book_checks(known: _Known, entry: AgentEntry, reading: VaultReading) -> Iterator[Line]:
    """What the vault counts as its own must be there; more may be, because anybody can send it tokens."""
    booked = {reading.quote_round.token: reading.quote_held} | {p.token: p.amount for p in reading.positions}
    chain = known.assembly.chain
    calls = [chain.at("MockToken", token).functions.balanceOf(entry.vault) for token in booked]
    held = dict(zip(booked, fetch_many(chain, calls, block=known.head.number), strict=True))
    short = [f"{token}: {booked[token]} booked, {held[token]} there" for token in booked if held[token] < booked[token]]
    if short:
        way_out = "a token took balances away: tell the guardian, and `marketflow agent pause`"
        yield check(entry.name, "books", Verdict.PROBLEM, "; ".join(short), way_out)
    else:
        yield check(entry.name, "books", Verdict.OK, f"{count(len(booked), 'token')}, none short")
