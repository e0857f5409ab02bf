"""What an agent earned: observing windows, closing them, applying results, claiming. Anybody may do each of these."""

from __future__ import annotations

from dataclasses import dataclass
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

    def step(self, now_s: int) -> Settlement | None:
        """Does what is due at `now_s`: an observation in a window; after it, closing and applying. None if nothing was
        applied."""
        if self.in_window(now_s):
            self._chain.send(self._vault.functions.poke(), self._sender)
            return None
        pool, vault = self._pool.functions, self._vault.address
        account, window = fetch_many(self._chain, [pool.accountOf(vault), pool.windowOf(vault)])
        due = self.last_ended(now_s)
        if account.pending:
            return self._apply(account.agentId, account.pendingMove, account.nextEpoch - 1)
        if due is None or account.nextEpoch > due or window.epoch != due or window.observations == 0:
            return None
        events = decode_logs(self._chain.send(pool.closeWindow(vault), self._sender))
        move = next(event.args["move"] for event in events if event.name == "WindowClosed")
        if move == 0:
            return Settlement(agent_id=account.agentId, vault=vault, epoch=due, pnl=0)
        return self._apply(account.agentId, move, due)

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
