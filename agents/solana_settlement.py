"""What an agent earned on Solana: observing windows, closing them, applying results. Anybody may do each of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from solders.pubkey import Pubkey

from agents.errors import Misconfigured, Retryable
from agents.settlement import Act
from agents.solana_execution import Landed, SolanaKeeper
from agents.solana_program import Ledger
from agents.solana_rpc import Rpc


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """One applied result. `pnl` in base units of quote; tokens of the reward mint in base units."""

    epoch: int
    pnl: int
    reward: int = 0
    taken: int = 0


class SolanaSettler:
    """Keeps one vault settled.

    Args:
        known: The accounts of the vault's instructions, by the IDL's names.
    """

    def __init__(self, rpc: Rpc, ledger: Ledger, known: Mapping[str, Pubkey], keeper: SolanaKeeper) -> None:
        self._rpc, self._ledger, self._known, self._keeper = rpc, ledger, known, keeper

    def due(self, now_s: int) -> Act:
        """What is to be done at that time."""
        config, reward = self._state("protocol").config, self._state("vault").reward
        return due(config, reward, now_s)

    def step(self, now_s: int) -> list[Settled]:
        """Does all that is due: applies what is frozen, closes what has ended and applies that, observes what is open.

        Raises Retryable when the program refuses what was due: somebody else was quicker, or the node is behind.
        """
        settled: list[Settled] = []
        for _ in range(4):
            act = self.due(now_s)
            if act is Act.APPLY:
                settled.append(self._apply())
            elif act is Act.CLOSE:
                landed = _done(self._keeper.close_window())
                [closed] = [event.fields for event in landed.events if event.name == "WindowClosed"]
                if closed["move"] == 0:
                    settled.append(Settled(epoch=closed["epoch"], pnl=0))
            else:
                if act is Act.OBSERVE:
                    self.observe()
                break
        return settled

    def observe(self) -> None:
        """Derives the vault's state and keeps it; inside a window also the profit."""
        _done(self._keeper.observe())

    def _apply(self) -> Settled:
        reward = self._state("vault").reward
        landed = _done(self._keeper.reward(reward.pending_move))
        told = {event.name: event.fields for event in landed.events}
        taken = told.get("ClawedBack", {})
        return Settled(
            epoch=reward.next_epoch - 1,
            pnl=reward.pending_move,
            reward=told.get("Rewarded", {}).get("reward", 0),
            taken=taken.get("from_unclaimed", 0) + taken.get("from_bond", 0),
        )

    def _state(self, name: str) -> Any:
        data = self._rpc.account(self._known[name])
        if data is None:
            raise Misconfigured(f"there is no {name} {self._known[name]} on this cluster: correct the address")
        return self._ledger.decode(data)


def due(config: Any, reward: Any, now_s: int) -> Act:
    """What a vault's reward account asks for at a time: the arithmetic of `reward.h`."""
    if reward.is_pending:
        return Act.APPLY
    since_s = now_s - config.genesis_s
    current = since_s // config.epoch_length_s if since_s > 0 else 0
    is_open = current > 0 and since_s - current * config.epoch_length_s < config.window_length_s
    ended = current - 1 if is_open else current
    if reward.next_epoch < ended:
        is_observed = reward.window_observations > 0 and reward.window_epoch == ended - 1
        if is_observed:
            return Act.CLOSE
        if not is_open:
            return Act.MISSED
    return Act.OBSERVE if is_open else Act.NOTHING


def _done(landed: Landed) -> Landed:
    if landed.refusal:
        raise Retryable(f"{landed.refusal.name}: {landed.refusal.message}")
    return landed
