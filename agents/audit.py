"""Does a ledger entry hold? Decided again from the chain and the artefact, and compared field by field.

A failure is reported under the name of what does not hold: a field of the entry (`agentId` … `prices`), or a part of
the explanation: `explanation` itself when it is missing or forged, `block` when it names none of which the decision
can be, and `format`, `chain_id`, `vault`, `artefact`, `observation`, `decision`, `intent`, `interval`, `consensus`,
`review`, `text`. What the explanation says about a field of the entry is reported under the entry's name, wherever it
says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agents.constitution import consensus_clauses
from agents.cycle import ORDER_LIFETIME_S, RoundSource, VaultSource, explain, observe
from agents.explanation import (
    FORMAT,
    FORMAT_WITHOUT_INTERVAL,
    DocumentStore,
    ExplanationForged,
    ExplanationMissing,
    plain,
)
from agents.intent import Intent, plan_intent
from agents.ledger import LedgerEntry
from offchain_rl.artefact import Artefact
from offchain_rl.observation import BadObservation
from offchain_rl.policy import policy_from_artefact
from offchain_rl.prices import BadPriceData
from oracle.chain import BlockRef
from oracle.chainlink import PHASE_SHIFT, Round
from oracle.consensus import Consensus, ConsensusRules, ConsensusSource
from oracle.errors import FeedMismatch, NothingThere
from oracle.vault_state import VaultReading

WAD = 10**18
# Where an explanation says what a field of the ledger entry says.
_ENTRY_FIELDS = {
    "vault.agent_id": "agentId",
    "vault.nonce": "sequence",
    "vault.reasons": "reasons",
    "vault.strategy_id": "strategyId",
    "vault.artefact_hash": "artefactHash",
    "artefact.hash": "artefactHash",
    "observation.hash": "observationHash",
    "intent.amount_in": "amountIn",
}
# What may be newer when the trade is made than when it was decided; the chain is asked about both.
_AT_EXECUTION = ("prices", "reasons")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that does not hold."""

    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, found {self.found}"


class PublishedRounds(RoundSource, Protocol):
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
    # Needed for trades whose agent compared sources: a comparison that can't be made again does not hold.
    consensus: ConsensusSource | None = None

    def audit(self, entry: LedgerEntry, claimed: Mapping[str, Any] | None = None) -> list[Finding]:
        """Everything about a trade that does not hold; an empty list when it does.

        `entry` is the chain's; `claimed` the fields as somebody else tells them (an export, an indexer).
        """
        told = plain(entry.fields)
        findings = [] if claimed is None else [*_differences(told, _only(plain(claimed), told))]
        findings += [*self._published(entry), *self._settled(entry)]
        artefact = self.artefacts.get(told["artefactHash"])
        if artefact is None or artefact.artefact_hash != told["artefactHash"]:
            found = None if artefact is None else artefact.artefact_hash
            findings.append(Finding(field="artefactHash", expected=told["artefactHash"], found=found))
            artefact = None
        try:
            document: Mapping[str, Any] | None = self.documents.get(told["explanationHash"])
        except (ExplanationMissing, ExplanationForged) as error:
            findings.append(Finding(field="explanation", expected=told["explanationHash"], found=str(error)))
            document = error.document if isinstance(error, ExplanationForged) else None
        if document is not None:
            findings += self._explained(entry, told, document, artefact)
        return list({finding.field: finding for finding in reversed(findings)}.values())[::-1]  # the first of each

    def _explained(
        self, entry: LedgerEntry, told: Mapping[str, Any], document: Mapping[str, Any], artefact: Artefact | None
    ) -> Iterator[Finding]:
        """Whether the trade follows from the explanation, and the explanation from its block and the artefact."""
        said = document.get("entry")
        if isinstance(said, Mapping):
            same = [name for name in said if name in told and name not in _AT_EXECUTION]
            yield from _differences(_only(told, same), _only(said, same))
        try:
            number = int(document["vault"]["block"]["number"])
        except (KeyError, TypeError, ValueError):
            number = -1
        vault = self._decided_on(number, entry.block)
        if vault is None:
            expected = f"a block at most {ORDER_LIFETIME_S} s before block {entry.block}"
            yield Finding(field="block", expected=expected, found=number)
        elif artefact is not None:
            yield from self._decided_again(entry, told, document, artefact, vault)

    def _decided_on(self, number: int, traded_in: int) -> VaultReading | None:
        """The vault at that block; None when no order decided there can have been mined in the other one."""
        if not 0 <= number < traded_in:
            return None
        block = self.fetch_block(number)
        if self.fetch_block(traded_in).timestamp_s - block.timestamp_s > ORDER_LIFETIME_S:
            return None
        try:
            return self.vaults.fetch(block)
        except NothingThere:
            return None

    def _decided_again(
        self,
        entry: LedgerEntry,
        told: Mapping[str, Any],
        document: Mapping[str, Any],
        artefact: Artefact,
        vault: VaultReading,
    ) -> Iterator[Finding]:
        is_buy = told["tokenIn"] == vault.quote_round.token
        asset = told["tokenOut"] if is_buy else told["tokenIn"]
        try:
            observation = observe(artefact, self.rounds, vault, asset, self.decimals[asset])
        except (BadPriceData, BadObservation, NothingThere, KeyError) as error:
            yield Finding(field="observation", expected="public rounds", found=str(error))
            return
        decision = policy_from_artefact(artefact).decide(observation)
        intent = plan_intent(vault, asset, decision)
        if intent is None:
            yield Finding(field="intent", expected=None, found=document.get("intent"))
            return
        consensus = self._compared_again(document, vault, intent)
        broken = consensus_clauses(intent, vault, consensus)
        is_older = document.get("format") == FORMAT_WITHOUT_INTERVAL
        again = explain(
            self.chain_id, artefact, vault, observation, decision, intent, broken, consensus,
            document_format=FORMAT_WITHOUT_INTERVAL if is_older else FORMAT,
        )  # fmt: skip
        yield from _differences(again, document)
        if entry.fields["amountOut"] < intent.min_amount_out:
            expected = f"at least {intent.min_amount_out}"
            yield Finding(field="amountOut", expected=expected, found=entry.fields["amountOut"])

    def _compared_again(self, document: Mapping[str, Any], vault: VaultReading, intent: Intent) -> Consensus | None:
        """By the rules that the agent says it had; None when it compared nothing, or nobody can tell."""
        try:
            rules = ConsensusRules(**{name: int(value) for name, value in document["consensus"]["rules"].items()})
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return self.consensus.fetch(vault, intent.asset, rules) if self.consensus else None

    def _published(self, entry: LedgerEntry) -> Iterator[Finding]:
        """Every price in the entry is a round that the feed published; a feed that had none answers zeros."""
        for point in entry.fields["prices"]:
            answer: int | str = 0
            try:
                if point["roundId"] % 2**PHASE_SHIFT:
                    [published] = self.rounds.fetch_rounds(point["token"], [point["roundId"]])
                    answer = published.answer
            except (NothingThere, FeedMismatch) as error:
                answer = str(error)
            if answer != point["answer"]:
                yield Finding(field="prices", expected=answer, found=point["answer"])

    def _settled(self, entry: LedgerEntry) -> Iterator[Finding]:
        """What follows from the amounts, the recorded prices and the vault as the trade left it."""
        vault, fields = self.vaults.fetch(self.fetch_block(entry.block)), entry.fields
        expected = {"shortfall": self._shortfall(fields, vault)}
        if self._is_as_left(vault, entry):
            expected |= {"netAssetValue": vault.value, "reasons": vault.recorded_reasons}
        yield from _differences(expected, _only(fields, expected))

    def _is_as_left(self, vault: VaultReading, entry: LedgerEntry) -> bool:
        """Whether the end of the block is the end of the trade: other transactions of it can have come after, with
        another trade, a flow, or newer prices."""
        try:
            before, fields = self.vaults.fetch(self.fetch_block(entry.block - 1)), entry.fields
        except NothingThere:
            return False
        traded = {fields["tokenIn"]: -fields["amountIn"], fields["tokenOut"]: fields["amountOut"]}
        expected = {token: amount + traded.get(token, 0) for token, amount in _holdings(before).items()}
        if vault.nonce != fields["sequence"] + 1 or _holdings(vault) != expected:
            return False
        quote = vault.quote_round
        [asset] = traded.keys() - {quote.token}
        rounds = [quote, *(vault.position(p.token).round for p in before.priced_with(asset))]
        return [r.round_id for r in rounds] == [point["roundId"] for point in fields["prices"]]

    def _shortfall(self, fields: Mapping[str, Any], vault: VaultReading) -> int | None:
        """As the guard computes it, rounded as it rounds; None when a price it needs is not in the entry."""
        answers = {point["token"]: point["answer"] for point in fields["prices"]}
        quote = vault.quote_round.token
        is_buy = fields["tokenIn"] == quote
        asset = fields["tokenOut"] if is_buy else fields["tokenIn"]
        if not answers.get(asset) or not answers.get(quote):
            return None
        usd = {token: answers[token] * WAD // 10 ** self.decimals[token] for token in (asset, quote)}
        price = usd[asset] * WAD // usd[quote] * vault.quote_unit
        scale = WAD * vault.position(asset).unit
        if is_buy:
            return int(fields["amountIn"] - fields["amountOut"] * price // scale)
        return int(-(-fields["amountIn"] * price // scale) - fields["amountOut"])


def _holdings(vault: VaultReading) -> dict[str, int]:
    return {vault.quote_round.token: vault.quote_held, **{p.token: p.amount for p in vault.positions}}


def _differences(expected: Any, found: Any, path: str = "") -> Iterator[Finding]:
    """What differs, each under the name of the entry's field that it belongs to, or of the explanation's part."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in {**expected, **found}:
            yield from _differences(expected.get(key), found.get(key), f"{path}.{key}" if path else key)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differences(one, other, f"{path}.{index}")
    elif expected != found:
        yield Finding(field=_field_of(path), expected=expected, found=found)


def _field_of(path: str) -> str:
    """The ledger entry's field that a place in an explanation is about; else the part of the explanation it is in."""
    first, *rest = path.split(".")
    if first == "entry" and rest:
        return rest[0]
    if any(part in ("round", "quote_round", "last_round") for part in rest):
        return "prices"
    return _ENTRY_FIELDS.get(path, first)


def _only(mapping: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: mapping[name] for name in names if name in mapping}
