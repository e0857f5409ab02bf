"""The trades of a ledger as steps to learn from: what was observed, what was wanted, and what became of the vault.

The ledger says that a trade happened and what the vault was worth after it; the explanation that it names says what was
observed and decided. Joined, they are `offchain_rl.logged_steps`, ready for `offchain_rl.train_offline`.

A ledger lacks much. It has executed trades only: refused orders and decisions to do nothing are not in it. So a step
lasts from one trade of an asset to the vault's next trade of it, and the reward covers that time. It is computed from
what the chain recorded: the net asset value after each trade, to which the trade's own shortfall is added back, so that
a trade is charged with its own cost and not with the next one's. Capital that came or went in between is taken out by
the number of units, which only the explanation tells. Where a vault holds several assets, the others move the reward
too: noise, not a lie.

Nothing is guessed. A trade whose explanation is missing, forged, about another trade, or not what its artefact decides
on that observation is left out and counted, and the steps before and after it are not joined over it. Without `audit`
the vault's reading in the explanation is only the agent's word: pass `Auditor.audit` where the chain can be asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.explanation import FORMAT, DocumentStore, ExplanationForged, ExplanationMissing, plain
from agents.ledger import LedgerEntry
from offchain_rl.artefact import Artefact
from offchain_rl.logged_steps import SUFFIX, BadSteps, LoggedSteps, vector_of
from offchain_rl.observation import BPS, BadObservation
from offchain_rl.policy import policy_from_artefact
from offchain_rl.reward import RewardConfig, step_reward
from oracle.vault_state import reason_names

WAD = 10**18
UNEXPLAINED = "unexplained"
FORGED = "forged"
UNKNOWN_ARTEFACT = "unknown artefact"
NOT_HELD = "does not hold"
PAST_DRAWDOWN = "past the drawdown"
# Where the vault buys no more, a policy's wish has no effect.
_STOPPED = ("DRAWDOWN", "HALTED")
# What may be newer when the trade is made than when it was decided.
_AT_EXECUTION = ("prices", "reasons")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedTrades:
    """Steps, and what was left out of them."""

    steps: LoggedSteps
    trades: int
    # How many trades were left out, by reason: UNEXPLAINED, FORGED, UNKNOWN_ARTEFACT, NOT_HELD, PAST_DRAWDOWN.
    left_out: Mapping[str, int]
    # Whether each trade was decided again from the chain.
    is_audited: bool

    def __str__(self) -> str:
        out = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items())) or "none"
        word = "audited" if self.is_audited else "explanations taken at their word"
        return (
            f"{len(self.steps)} steps of {self.trades} trades ({word}); left out: {out}. A ledger has executed trades "
            "only: each step lasts until the next trade, and what was decided in between is not known."
        )

    def save(self, folder: Path, name: str) -> str:
        """The data hash, after the steps were written where `train_offline --behaviour ledger FOLDER` looks."""
        folder.mkdir(parents=True, exist_ok=True)
        return self.steps.save(folder / f"{name}{SUFFIX}")


def log_trades(
    entries: Iterable[LedgerEntry],
    documents: DocumentStore,
    artefacts: Mapping[str, Artefact],
    *,
    reward: RewardConfig | None = None,
    step_s: int | None = None,
    audit: Callable[[LedgerEntry], Sequence[Any]] | None = None,
) -> LoggedTrades:
    """The steps of one or more vaults' trades, each vault's oldest first, as `ledger.fetch_entries` gives them.

    `artefacts`: by 0x-hash, those that decided. `step_s`: the usual time between two decisions, a bar of the artefact
    unless given. `audit` answers with what does not hold. Raises BadSteps when trades are out of order, when artefacts
    observed different things, or when nothing is left to learn from.
    """
    found, left_out = _read(list(entries), documents, artefacts, audit)
    trades = sum(len(chain) for chain in found.values())
    used = [artefacts[t.artefact_hash] for chain in found.values() for t in chain if isinstance(t, _Trade)]
    if not used:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items())) or "there are none"
        raise BadSteps(f"not one of {trades} trades can be learnt from ({why})")
    _require_one_kind(used)
    spec = used[0].observation
    rows = _Rows(reward=reward or RewardConfig())
    for vault, chain in found.items():
        rows.add_vault(vault, chain)
    steps = LoggedSteps(
        source=f"ledger, {len(found)} vault{'s' if len(found) > 1 else ''}",
        spec=spec,
        action=used[0].action,
        step_s=step_s or spec.bar_s,
        **rows.arrays(),
    )
    return LoggedTrades(steps=steps, trades=trades, left_out=dict(left_out), is_audited=audit is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trade:
    """One trade and its decision. Values in base units of quote, unit prices x 1e18."""

    asset: str
    artefact_hash: str
    decided_s: int
    vector: list[int]
    wanted_bps: int
    # Before the trade, at the prices at which it was made.
    value: int
    units: float
    drawdown: float
    is_stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Broken:
    """A trade about which nothing is known that could be learnt from."""

    reason: str


class _DoesNotFollow(ValueError):
    """The explanation is not of this trade, or does not say what its artefact decides."""


def _read(
    entries: Sequence[LedgerEntry],
    documents: DocumentStore,
    artefacts: Mapping[str, Artefact],
    audit: Callable[[LedgerEntry], Sequence[Any]] | None,
) -> tuple[dict[str, list[_Trade | _Broken]], Counter[str]]:
    """Each vault's trades in order, and how many can't be used."""
    chains: dict[str, list[_Trade | _Broken]] = {}
    sequences: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    for entry in entries:
        sequence, last = int(entry.fields["sequence"]), sequences.get(entry.vault, -1)
        if sequence <= last:
            raise BadSteps(f"vault {entry.vault}: trade {sequence} comes after trade {last}; give each once, in order")
        chain = chains.setdefault(entry.vault, [])
        if sequence > last + 1 and chain:
            chain.append(_Broken(reason="not given"))
        sequences[entry.vault] = sequence
        trade = _read_trade(entry, documents, artefacts, audit)
        if isinstance(trade, _Broken):
            left_out[trade.reason] += 1
        elif trade.is_stopped:
            left_out[PAST_DRAWDOWN] += 1
        chain.append(trade)
    return chains, left_out


def _read_trade(
    entry: LedgerEntry,
    documents: DocumentStore,
    artefacts: Mapping[str, Artefact],
    audit: Callable[[LedgerEntry], Sequence[Any]] | None,
) -> _Trade | _Broken:
    told = plain(entry.fields)
    try:
        document = documents.get(told["explanationHash"])
    except ExplanationMissing:
        return _Broken(reason=UNEXPLAINED)
    except ExplanationForged:
        return _Broken(reason=FORGED)
    artefact = artefacts.get(told["artefactHash"])
    if artefact is None or artefact.artefact_hash != told["artefactHash"]:
        return _Broken(reason=UNKNOWN_ARTEFACT)
    try:
        trade = _parse_trade(entry, told, document, artefact)
    except (_DoesNotFollow, BadSteps, BadObservation, KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        return _Broken(reason=FORGED)
    if audit is not None and audit(entry):
        return _Broken(reason=NOT_HELD)
    return trade


def _parse_trade(
    entry: LedgerEntry, told: Mapping[str, Any], document: Mapping[str, Any], artefact: Artefact
) -> _Trade:
    """The trade as its explanation tells it, as far as ledger and artefact say the same."""
    vault, observed, decision = document["vault"], document["observation"], document["decision"]
    said = {name: value for name, value in document["entry"].items() if name not in _AT_EXECUTION}
    _require(document["format"] == FORMAT, "another format")
    _require(vault["address"].lower() == entry.vault.lower(), "another vault")
    _require(all(told[name] == value for name, value in said.items()), "another trade")
    _require({"sequence", "artefactHash", "observationHash", "tokenIn", "tokenOut", "amountIn"} <= set(said), "which")
    _require(observed["hash"] == told["observationHash"], "another observation")
    _require(document["artefact"]["hash"] == told["artefactHash"], "another artefact")
    asset = observed["asset"]
    _require(asset in (told["tokenIn"], told["tokenOut"]), "another asset")
    vector = vector_of(observed["features"], artefact.observation, "explanation")
    wanted_bps = int(decision["wanted_weight_bps"])
    again = policy_from_artefact(artefact).decide_vector(vector, _held_bps(vault, asset))
    _require(again.wanted_weight_bps == wanted_bps, "another decision")
    unit_price, value = int(vault["unit_price_wad"]), int(vault["value"])
    before = int(entry.fields["netAssetValue"]) + int(entry.fields["shortfall"])
    _require(min(unit_price, value, before) > 0, "an empty vault")
    return _Trade(
        asset=asset,
        artefact_hash=told["artefactHash"],
        decided_s=int(vault["block"]["timestamp_s"]),
        vector=vector,
        wanted_bps=wanted_bps,
        value=before,
        units=value * WAD / unit_price,
        drawdown=1 - unit_price / max(int(vault["peak_wad"]), unit_price),
        is_stopped=any(name in _STOPPED for name in reason_names(int(vault["reasons"]))),
    )


def _held_bps(vault: Mapping[str, Any], asset: str) -> int:
    """Share of the vault's value in the asset, as `intent.weight_bps` computes it."""
    [held] = [position for position in vault["positions"] if position["token"] == asset]
    amount, price_wad, unit = (int(held[name]) for name in ("amount", "price_wad", "unit"))
    value = int(vault["value"])
    return amount * price_wad * int(vault["quote_unit"]) // (WAD * unit) * BPS // value if value else 0


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _DoesNotFollow(what)


def _require_one_kind(used: Sequence[Artefact]) -> None:
    for artefact in used:
        if artefact.observation != used[0].observation or artefact.action != used[0].action:
            raise BadSteps(
                f"artefacts {used[0].artefact_hash} and {artefact.artefact_hash} observe or act differently: "
                "log the trades of one of them at a time"
            )


@dataclass(slots=True, kw_only=True)
class _Rows:
    """The arrays of the steps, while they are collected."""

    reward: RewardConfig
    vaults: list[str] = field(default_factory=list)
    vault_of: list[int] = field(default_factory=list)
    times_s: list[int] = field(default_factory=list)
    observations: list[list[int]] = field(default_factory=list)
    weights_bps: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    is_terminal: list[bool] = field(default_factory=list)
    is_timeout: list[bool] = field(default_factory=list)

    def add_vault(self, vault: str, chain: Sequence[_Trade | _Broken]) -> None:
        """The steps of each asset of a vault. A trade that can't be used ends what came before it."""
        assets = sorted({trade.asset for trade in chain if isinstance(trade, _Trade) and not trade.is_stopped})
        for asset in assets:
            own = [t for t in chain if isinstance(t, _Broken) or t.asset == asset or t.is_stopped]
            self.vaults.append(f"{vault} {asset}")
            for trade, following in zip(own, [*own[1:], None], strict=True):
                if isinstance(trade, _Trade) and not trade.is_stopped:
                    self._add(trade, following if isinstance(following, _Trade) else None)

    def _add(self, trade: _Trade, following: _Trade | None) -> None:
        self.vault_of.append(len(self.vaults) - 1)
        self.times_s.append(trade.decided_s)
        self.observations.append(trade.vector)
        self.weights_bps.append(trade.wanted_bps)
        self.rewards.append(0.0 if following is None else self._reward(trade, following))
        self.is_terminal.append(following is not None and following.is_stopped)
        self.is_timeout.append(following is None)

    def _reward(self, trade: _Trade, following: _Trade) -> float:
        """From before this trade to before the next one, for one unit of the vault."""
        grown = following.value * (trade.units / following.units)
        weights = (self.reward.drawdown_weight, self.reward.ruin_price)
        return step_reward(trade.value, grown, trade.drawdown, following.drawdown, following.is_stopped, *weights)

    def arrays(self) -> dict[str, Any]:
        return {
            "vaults": tuple(self.vaults),
            "vault_of": np.array(self.vault_of, dtype=np.int32),
            "times_s": np.array(self.times_s, dtype=np.int64),
            "observations": np.array(self.observations, dtype=np.int64),
            "weights_bps": np.array(self.weights_bps, dtype=np.int64),
            "rewards": np.array(self.rewards, dtype=np.float64),
            "is_terminal": np.array(self.is_terminal, dtype=np.bool_),
            "is_timeout": np.array(self.is_timeout, dtype=np.bool_),
        }
