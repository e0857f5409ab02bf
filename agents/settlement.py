"""What an agent earned: observing windows, closing them, applying results, claiming. Anybody may do each of these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agents.contracts import decode_logs
from agents.deployment import Chain, Deployment
from oracle.multicall import fetch_many


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One applied result. Amounts in token wei; `pnl` in base units of quote."""

    agent_id: int
    vault: str
    epoch: int
    pnl: int
    reward_wei: int = 0
    clawed_back_wei: int = 0


class Act(StrEnum):
    """What settling a vault can ask for."""

    # The window is open: its profit counts.
    OBSERVE = "observe"
    # The window has ended, and was observed.
    CLOSE = "close"
    # A result is frozen.
    APPLY = "apply"
    # The window has ended and nobody observed it: the next one makes up for it, down but never up.
    MISSED = "missed"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What there is to do for one vault. `pnl`: the frozen result, base units of quote, when there is one to apply."""

    act: Act
    agent_id: int
    epoch: int | None = None
    pnl: int = 0


class Settler:
    """Keeps one vault settled: observes inside windows, closes and applies after them."""

    def __init__(self, chain: Chain, deployment: Deployment, vault: Any, sender: Any) -> None:
        self._chain, self._vault, self._sender = chain, vault, sender
        self._pool = deployment.contract(chain, "pool")
        self._dao = deployment.contract(chain, "dao")
        f = self._pool.functions
        self._genesis_s, self._epoch_s, self._window_s = fetch_many(
            chain, [f.genesis(), f.epochLengthS(), f.windowLengthS()]
        )

    def in_window(self, now_s: int) -> bool:
        """Whether an observation window is open."""
        return now_s >= self._genesis_s + self._epoch_s and (now_s - self._genesis_s) % self._epoch_s < self._window_s

    def last_ended(self, now_s: int) -> int | None:
        """The last epoch whose window has ended; None before the first has."""
        ended = (now_s - self._genesis_s - self._window_s) // self._epoch_s - 1
        return ended if ended >= 0 else None

    def due(self, now_s: int) -> Due:
        """What there is to do at `now_s`, and nothing done. A frozen result comes first: no window can close before it
        is applied."""
        pool, vault = self._pool.functions, self._vault.address
        account, window = fetch_many(self._chain, [pool.accountOf(vault), pool.windowOf(vault)])
        if account.pending:
            return Due(act=Act.APPLY, agent_id=account.agentId, epoch=account.nextEpoch - 1, pnl=account.pendingMove)
        if self.in_window(now_s):
            return Due(act=Act.OBSERVE, agent_id=account.agentId, epoch=(now_s - self._genesis_s) // self._epoch_s - 1)
        ended = self.last_ended(now_s)
        if ended is None or account.nextEpoch > ended:
            return Due(act=Act.NOTHING, agent_id=account.agentId)
        seen = window.epoch == ended and window.observations > 0
        return Due(act=Act.CLOSE if seen else Act.MISSED, agent_id=account.agentId, epoch=ended)

    def next_window_s(self, now_s: int) -> int:
        """When the next observation window opens, unix seconds."""
        epochs = max((now_s - self._genesis_s) // self._epoch_s, 0)
        return int(self._genesis_s + (epochs + 1) * self._epoch_s)

    def step(self, now_s: int) -> Settlement | None:
        """Does what is due at `now_s`: an observation in a window; after it, closing and applying. None if nothing was
        applied."""
        due = self.due(now_s)
        if due.act is Act.OBSERVE:
            self._chain.send(self._vault.functions.poke(), self._sender)
            return None
        if due.act is Act.APPLY:
            return self._apply(due.agent_id, due.pnl, due.epoch)
        if due.act is not Act.CLOSE:
            return None
        close = self._pool.functions.closeWindow(self._vault.address)
        events = decode_logs(self._chain.send(close, self._sender))
        move = next(event.args["move"] for event in events if event.name == "WindowClosed")
        if move == 0:
            return Settlement(agent_id=due.agent_id, vault=self._vault.address, epoch=due.epoch, pnl=0)
        return self._apply(due.agent_id, move, due.epoch)

    def _apply(self, agent_id: int, pnl: int, epoch: int) -> Settlement:
        events = decode_logs(self._chain.send(self._dao.functions.rewardAgent(agent_id, pnl), self._sender))
        vault = self._vault.address
        for event in events:
            if event.name == "Rewarded":
                return Settlement(
                    agent_id=agent_id, vault=vault, epoch=epoch, pnl=pnl, reward_wei=event.args["reward"]
                )
            if event.name == "ClawedBack":
                taken = event.args["fromUnclaimed"] + event.args["fromBond"]
                return Settlement(agent_id=agent_id, vault=vault, epoch=epoch, pnl=pnl, clawed_back_wei=taken)
        raise AssertionError("applying a result says what was paid or taken")
