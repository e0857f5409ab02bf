"""One process, many agents: what happens at each new head.

    follow    what was sent before: mined, undone by a reorg, stuck
    read      prices once for all; the vaults, when a price has moved or a bar has ended
    decide    all agents whose bar has ended, and those whose vault may only reduce
    record    explanations and decisions, in one transaction
    place     nonces, signatures and bytes, in one transaction; then they are sent

A single agent is a fleet of one. An agent that can't go on is parked with the reason; the others don't notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

from agents.constitution import OperatorLimits
from agents.cycle import ORDER_LIFETIME_S
from agents.execution import Ended, call_data
from agents.fleet_decisions import AgentDecision, DecidedStep, FleetAgent, FleetDecider, LoadedArtefact
from agents.journal import PAPER, Journal, NewDecision, nothing
from agents.outbox import Followed, Outbox, Outgoing, Placed
from agents.reconcile import Reconciled, Reconciler
from offchain_rl.policy import Decision, HoldPolicy
from oracle.chain import BlockRef
from oracle.consensus import ConsensusSource
from oracle.errors import ReadingFailed
from oracle.vault_state import VaultReading

# When a decision is made again that something passing was in the way of: no ether, a foreign transaction.
RETRY_AFTER_S = 60
_PASSING = ("NoEther", "LeaseLost")
# What an operator may ask for: a reason, true, a list of vaults.
PAUSED, CLOSE_ALL, CLOSE_VAULTS = "paused", "close all", "close vaults"
CLOSING = "the operator closes the position"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent of the fleet. `account`: of its signing key; empty when it trades on paper."""

    name: str
    vault: str
    artefact: LoadedArtefact
    account: str = ""


class Readings(Protocol):
    """`oracle.fleet_state.FleetReader`."""

    def fetch(self, block: BlockRef) -> list[Any]: ...
    def fetch_parts(self, block: BlockRef) -> Iterator[Mapping[str, Any]]: ...


class Meter(Protocol):
    """`agents.telemetry.Telemetry`."""

    def step(self, name: str) -> AbstractContextManager[Any]: ...
    def observe(self, name: str, seconds: float, **labels: str) -> None: ...


class NoMeter:
    """Measures nothing."""

    def step(self, _name: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def observe(self, _name: str, _seconds: float, **_labels: str) -> None:
        pass


class Marks:
    """When the outbox last came past each of its points, by `perf_counter`; then as `at`, which may die there."""

    def __init__(self, at: Callable[[str], None] = nothing) -> None:
        self._at = at
        self.times: dict[str, float] = {}

    def __call__(self, point: str) -> None:
        self.times[point] = perf_counter()
        self._at(point)


@dataclass(slots=True, kw_only=True)
class Tick:
    """What one head brought. `readings`: by vault, only when they were read."""

    head: BlockRef
    followed: Followed = field(default_factory=Followed)
    readings: dict[str, VaultReading] = field(default_factory=dict)
    # By vault, what its agent decided.
    decisions: dict[str, AgentDecision] = field(default_factory=dict)
    placed: list[Placed] = field(default_factory=list)
    # By vault, why its agent does not trade.
    parked: dict[str, str] = field(default_factory=dict)
    # Names of tokens and the rounds that their prices are of.
    rounds: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Turns:
    """Whose turn it is at one head. `trades`: how many the journal has of each vault."""

    due: set[str]
    closing: set[str]
    # Those of them that were not denied already at this price.
    closing_now: set[str]
    moved: bool
    paused: str | None
    in_flight: set[str]
    trades: Mapping[str, int]
    # Whether a vault has made trades that the journal does not know.
    is_strange: bool = False


class Fleet:
    """The agents of one process with one journal. Used by one thread at a time.

    `round_ids`: the round that each token's price is of at a block; vaults are only read when one has changed, or when
    a bar has ended. `rounds`: an `oracle.chainlink.ChainlinkReader`; `decimals`: of each feed, by token.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        *,
        chain_id: int,
        readings: Readings,
        round_ids: Callable[[BlockRef], Mapping[str, int]],
        rounds: Any,
        decimals: Mapping[str, int],
        journal: Journal,
        outbox: Outbox,
        reconciler: Reconciler,
        operator: OperatorLimits,
        consensus: ConsensusSource | None = None,
        meter: Meter | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.agents = {agent.vault: agent for agent in agents}
        self.operator = operator
        self._chain_id, self._readings, self._round_ids = chain_id, readings, round_ids
        self._rounds, self._decimals = rounds, decimals
        self._journal, self._outbox, self._reconciler = journal, outbox, reconciler
        self._consensus, self._meter, self._marks = consensus, meter or NoMeter(), marks or Marks()
        self._last_rounds: Mapping[str, int] = {}
        # When a vault is decided about again in the same bar.
        self._not_before: dict[str, int] = {}
        # Vaults that are to be closed and were denied it, or refused by the chain, at these prices.
        self._futile: set[str] = set()
        # Of the rows of the last cycle.
        self._vault_of: dict[int, str] = {}
        # Accounts whose keys are this machine's to use; None: all.
        self.held: frozenset[str] | None = None
        # The bar in which each vault was last decided about: a restart does not decide twice in one.
        self._last_bar = {
            vault: decided_at_s // self.agents[vault].artefact.spec.bar_s
            for vault, decided_at_s in journal.last_decided().items()
            if vault in self.agents
        }

    def reconcile(self, head: BlockRef) -> Reconciled:
        """Before the first tick. Raises as `Reconciler.run`."""
        readings = [reading for reading in self._readings.fetch(head) if isinstance(reading, VaultReading)]
        return self._reconciler.run(head, {reading.address: reading.nonce for reading in readings})

    def follow(self, head: BlockRef) -> Followed:
        """Only what was sent before; nothing is decided."""
        return self._outbox.follow(head)

    def tick(self, head: BlockRef) -> Tick:
        """Everything that is due at a head. Raises AgentError for what concerns all agents."""
        tick = Tick(head=head)
        with self._meter.step("follow"):
            tick.followed = self._outbox.follow(head)
        controls = self._journal.controls()
        closing = self._closing(controls)
        tick.rounds = self._round_ids(head)
        moved = tick.rounds != self._last_rounds
        due = {vault for vault in self.agents if self._is_due(vault, head)}
        self._futile |= {vault for _, vault, end in tick.followed.ended if end.ended is not Ended.TRADED}
        closing_now = closing if moved else (closing - self._futile) | (closing & due)
        if not (moved or due or closing_now):
            self._outbox.look_ahead({agent.account for agent in self.agents.values() if agent.account})
            return tick
        turns = _Turns(
            due=due, closing=closing, closing_now=closing_now, moved=moved, paused=controls.get(PAUSED),
            in_flight=self._journal.in_flight(head.number), trades=self._journal.trades(up_to_block=head.number),
        )  # fmt: skip
        began_at = perf_counter()
        self._read_and_decide(tick, turns)
        if turns.is_strange:
            self._reconciler.adopt(head)  # by hand, or by another daemon: the next head goes on
        if tick.decisions:
            with self._meter.step("journal"):
                outgoing = self._record(tick, closing)
            self._place(tick, outgoing, began_at)
        self._remember(tick, closing)
        return tick

    def _closing(self, controls: Mapping[str, Any]) -> set[str]:
        """Vaults that are to hold nothing. On paper nothing is held."""
        asked = self.agents if CLOSE_ALL in controls else controls.get(CLOSE_VAULTS, ())
        return {vault for vault in asked if vault in self.agents and self.agents[vault].account}

    def _is_due(self, vault: str, head: BlockRef) -> bool:
        is_new = self._bar(vault, head) != self._last_bar.get(vault)
        return is_new and head.timestamp_s >= self._not_before.get(vault, 0)

    def _remember(self, tick: Tick, closing: set[str]) -> None:
        """Whose bar is done. What could not be read, or what something passing was in the way of, is tried again."""
        head, passing = tick.head, {self._vault_of[p.row] for p in tick.placed if _is_passing(p)}
        sent = {self._vault_of[p.row] for p in tick.placed if p.transaction_hash}
        for vault, decision in tick.decisions.items():
            if isinstance(decision.error, ReadingFailed):
                continue
            if vault in passing:
                self._not_before[vault] = head.timestamp_s + RETRY_AFTER_S
            else:
                self._last_bar[vault] = self._bar(vault, head)
        self._futile = (self._futile | (tick.decisions.keys() & closing)) - sent
        self._last_rounds = tick.rounds

    def _read_and_decide(self, tick: Tick, turns: _Turns) -> None:
        """Part by part: what is known is decided about while the node works on the rest."""
        decider = FleetDecider(
            self._chain_id, rounds=self._rounds, decimals=self._decimals, consensus=self._consensus
        )
        parts = self._readings.fetch_parts(tick.head)
        while True:
            with self._meter.step("read"):
                part = next(parts, None)
            if part is None:
                return
            wanted = [reading for vault, reading in part.items() if self._may_decide(tick, turns, vault, reading)]
            with self._meter.step("decide"):
                decided = decider.decide([self._asked(reading, turns.closing) for reading in wanted])
            for reading, decision in zip(wanted, decided, strict=True):
                tick.decisions[reading.address] = decision
                if said := _why_silent(decision):
                    tick.parked[reading.address] = said

    def _may_decide(self, tick: Tick, turns: _Turns, vault: str, reading: VaultReading | Exception) -> bool:
        """Whether it is its turn, and nothing is in the way; what is, is said."""
        if not isinstance(reading, VaultReading):
            tick.parked[vault] = f"its vault can't be read: {reading}"
            return False
        tick.readings[vault] = reading
        account, trades = self.agents[vault].account, turns.trades.get(vault, 0)
        if not self._holds(account):
            tick.parked[vault] = "its key is on another machine"
        elif vault in turns.in_flight:
            tick.parked[vault] = "an order is under way"
        elif turns.paused and vault not in turns.closing:
            tick.parked[vault] = f"paused: {turns.paused}"
        elif account and trades != reading.nonce:
            tick.parked[vault] = f"the vault has made {reading.nonce} trades, the journal has {trades}"
            turns.is_strange = True
        else:
            return vault in turns.closing_now or vault in turns.due or (turns.moved and reading.is_reducing)
        return False

    def _place(self, tick: Tick, outgoing: Sequence[Outgoing], decided_from: float) -> None:
        begun = perf_counter()
        tick.placed = self._outbox.place(outgoing, tick.head)
        if any(placed.transaction_hash for placed in tick.placed):
            signed = self._marks.times.get("signed, not sent", begun)
            self._meter.observe("step_seconds", signed - begun, step="sign")
            self._meter.observe("step_seconds", perf_counter() - signed, step="send")
            self._meter.observe("decision_to_signed_seconds", signed - decided_from)

    def _asked(self, reading: VaultReading, closing: set[str]) -> FleetAgent:
        artefact = self.agents[reading.address].artefact
        if reading.address in closing:
            artefact = replace(artefact, policy=_Close(artefact.policy.spec, artefact.policy.action))
            # Who closes everything does not mean to be held up by what he wants of an ordinary trade.
            return FleetAgent(artefact=artefact, vault=reading)
        return FleetAgent(artefact=artefact, vault=reading, operator=self.operator)

    def _record(self, tick: Tick, closing: set[str]) -> list[Outgoing]:
        """Writes down every decision that wants a trade; the orders that may go out. A pause that came since this cycle
        began holds them back."""
        decided = tick.decisions.items()
        wanted = [(vault, step) for vault, decision in decided for step in decision.steps if step.document]
        outgoing = []
        with self._journal.transaction():
            rows = self._journal.record([_written_down(tick.readings[vault], step) for vault, step in wanted])
            paused = self._journal.controls().get(PAUSED)
            self._vault_of = {row: vault for row, (vault, _) in zip(rows, wanted, strict=True)}
            for row, (vault, step) in zip(rows, wanted, strict=True):
                if step.order is None:
                    continue
                if paused and vault not in closing:
                    self._journal.refuse(row, [("paused", str(paused))])
                    continue
                if account := self.agents[vault].account:
                    outgoing.append(Outgoing(row=row, vault=vault, account=account, data=call_data(step.order)))
                else:
                    self._on_paper(row, step.order)
        return outgoing

    def _on_paper(self, row: int, order: Any) -> None:
        self._journal.sign(row, account=PAPER, account_nonce=order.nonce, raw=b"", transaction_hash="")
        self._journal.sent(row)
        detail = f"paper: {order.intent.amount_in} for at least {order.intent.min_amount_out}"
        self._journal.mined(row, Ended.TRADED, detail=detail)
        self._journal.finalise(row)

    def _holds(self, account: str) -> bool:
        return self.held is None or not account or account in self.held

    def at_rest(self) -> set[str]:
        """Accounts that are not this machine's to use, and with which nothing is under way."""
        if self.held is None:
            return set()
        busy = {row.account for row in self._journal.unfinished()}
        return {agent.account for agent in self.agents.values() if agent.account} - self.held - busy

    def _bar(self, vault: str, head: BlockRef) -> int:
        return head.timestamp_s // self.agents[vault].artefact.spec.bar_s


def _written_down(vault: VaultReading, decided: DecidedStep) -> NewDecision:
    return NewDecision(
        vault=vault.address, sequence=vault.nonce, block=vault.block.number, decided_at_s=vault.block.timestamp_s,
        deadline_s=vault.block.timestamp_s + ORDER_LIFETIME_S, explanation_hash=decided.step.explanation_hash,
        document=decided.document, broken=tuple((b.clause, b.detail) for b in decided.step.broken),
    )  # fmt: skip


def _is_passing(placed: Placed) -> bool:
    return bool(placed.waits_because) or (placed.refused is not None and placed.refused.name in _PASSING)


def _why_silent(decision: AgentDecision) -> str:
    """Why there is no decision at all: an error, or too little history; empty when there is one."""
    if decision.error:
        return _said(decision.error)
    silent = [decided.step.silent_because for decided in decision.steps]
    return f"no decision: {'; '.join(dict.fromkeys(silent))}" if silent and all(silent) else ""


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):  # a token without a feed
        return f"asset {error} was listed after this daemon began: start it again"
    return str(error)


class _Close(HoldPolicy):
    """Sells everything, whatever the policy would want. An audit sees that it was not the policy's decision, because it
    was not."""

    def decide_vector(self, vector: Sequence[int], weight_bps: int) -> Decision:
        return Decision(target_weight_bps=0, is_rebalance=True, wanted_weight_bps=0, reason=CLOSING)
