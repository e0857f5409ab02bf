"""Does a ledger entry hold? Decided again from the chain and the artefact, and compared field by field.

A failure is reported under the name of what does not hold: a field of the entry (`agentId` … `prices`), or a part of
the explanation (`explanation` when it is missing or forged, `chain_id`, `vault`, `artefact`, `observation`, `decision`,
`intent`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agents.cycle import RoundSource, VaultSource, explain, observe
from agents.explanation import DocumentStore, ExplanationForged, ExplanationMissing, plain
from agents.intent import plan_intent
from agents.ledger import LedgerEntry
from offchain_rl.artefact import Artefact
from offchain_rl.policy import policy_from_artefact
from offchain_rl.prices import BadPriceData
from oracle.chain import BlockRef
from oracle.chainlink import Round
from oracle.errors import OracleError
from oracle.vault_state import VaultReading

WAD = 10**18
# Parts of an explanation that follow from the block, the artefact and the rounds alone.
_DERIVED = ("chain_id", "vault", "artefact", "observation", "decision", "intent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that does not hold."""

    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, found {self.found}"


class PublishedRounds(RoundSource):
    """What an audit needs of `oracle.chainlink.ChainlinkReader`."""

    def fetch_rounds(self, token: str, round_ids: list[int]) -> tuple[Round, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Auditor:
    """Audits the trades of one vault. `decimals`: of each feed, by token; `artefacts` by 0x-hash."""

    chain_id: int
    artefacts: Mapping[str, Artefact]
    vaults: VaultSource
    rounds: PublishedRounds
    documents: DocumentStore
    decimals: Mapping[str, int]
    fetch_block: Callable[[int], BlockRef]

    def audit(self, entry: LedgerEntry, claimed: Mapping[str, Any] | None = None) -> list[Finding]:
        """Everything about a trade that does not hold; an empty list when it does.

        `entry` is the chain's; `claimed` the fields as somebody else tells them (an export, an indexer).
        """
        told = plain(entry.fields)
        findings = [] if claimed is None else _differences(told, plain(claimed))
        findings += self._published(entry) + self._settled(entry)
        try:
            document = self.documents.get(told["explanationHash"])
        except (ExplanationMissing, ExplanationForged) as error:
            return [*findings, Finding(field="explanation", expected=told["explanationHash"], found=str(error))]
        findings += [f for f in _differences(told, document.get("entry", {}), known_only=True) if f.field != "prices"]
        artefact = self.artefacts.get(told["artefactHash"])
        if artefact is None or artefact.artefact_hash != told["artefactHash"]:
            found = None if artefact is None else artefact.artefact_hash
            return [*findings, Finding(field="artefactHash", expected=told["artefactHash"], found=found)]
        return _first_of_each(findings + self._decide_again(told, document, artefact))

    def _decide_again(self, told: Mapping[str, Any], document: Mapping[str, Any], artefact: Artefact) -> list[Finding]:
        """From the block that the explanation names to the trade that follows from it."""
        vault = self.vaults.fetch(self.fetch_block(int(document["vault"]["block"]["number"])))
        is_buy = told["tokenIn"] == vault.quote_round.token
        asset = told["tokenOut"] if is_buy else told["tokenIn"]
        try:
            observation, last = observe(artefact, self.rounds, vault, asset, self.decimals[asset])
        except (BadPriceData, OracleError, KeyError) as error:
            return [Finding(field="observation", expected="public rounds", found=str(error))]
        decision = policy_from_artefact(artefact).decide(observation)
        intent = plan_intent(vault, asset, decision)
        if intent is None:
            return [Finding(field="intent", expected=None, found=document.get("intent"))]
        again = explain(self.chain_id, artefact, vault, observation, last, decision, intent, ())
        findings = [
            Finding(field=part, expected=again[part], found=document.get(part))
            for part in _DERIVED
            if again[part] != document.get(part)
        ]
        return findings + [f for f in _differences(again["entry"], told, known_only=True) if f.field != "prices"]

    def _published(self, entry: LedgerEntry) -> list[Finding]:
        """Every price in the entry is a round that the feed published."""
        for point in entry.fields["prices"]:
            if point["roundId"] == 0:
                continue
            try:
                [published] = self.rounds.fetch_rounds(point["token"], [point["roundId"]])
                answer = published.answer
            except OracleError as error:
                return [Finding(field="prices", expected=f"round {point['roundId']}", found=str(error))]
            if answer != point["answer"]:
                return [Finding(field="prices", expected=answer, found=point["answer"])]
        return []

    def _settled(self, entry: LedgerEntry) -> list[Finding]:
        """Shortfall and net asset value follow from the amounts, the recorded prices and the vault after the trade."""
        vault, fields = self.vaults.fetch(self.fetch_block(entry.block)), entry.fields
        findings = []
        expected = self._shortfall(fields, vault)
        if expected != fields["shortfall"]:
            findings.append(Finding(field="shortfall", expected=expected, found=fields["shortfall"]))
        rounds = [vault.quote_round.round_id, *(p.round.round_id for p in vault.positions)]
        # Another transaction of the same block may have come after the trade; then its end says nothing about it.
        undisturbed = vault.nonce == fields["sequence"] + 1 and rounds == [p["roundId"] for p in fields["prices"]]
        if undisturbed and vault.value != fields["netAssetValue"]:
            findings.append(Finding(field="netAssetValue", expected=vault.value, found=fields["netAssetValue"]))
        return findings

    def _shortfall(self, fields: Mapping[str, Any], vault: VaultReading) -> int:
        answers = {point["token"]: point["answer"] for point in fields["prices"]}
        quote = vault.quote_round.token
        is_buy = fields["tokenIn"] == quote
        asset = fields["tokenOut"] if is_buy else fields["tokenIn"]
        usd = {token: answers[token] * WAD // 10 ** self.decimals[token] for token in (asset, quote)}
        price = usd[asset] * WAD // usd[quote] * vault.quote_unit
        scale = WAD * vault.position(asset).unit
        if is_buy:
            return int(fields["amountIn"] - fields["amountOut"] * price // scale)
        return int(-(-fields["amountIn"] * price // scale) - fields["amountOut"])


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any], *, known_only: bool = False) -> list[Finding]:
    """Fields that differ; with `known_only` those that `found` does not have are not missed."""
    names = [name for name in expected if name in found] if known_only else list(expected)
    return [
        Finding(field=name, expected=expected[name], found=found.get(name))
        for name in names
        if expected[name] != found.get(name)
    ]


def _first_of_each(findings: list[Finding]) -> list[Finding]:
    """One finding for each field, the first."""
    return list({finding.field: finding for finding in reversed(findings)}.values())[::-1]
