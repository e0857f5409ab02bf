"""RewardPool against a model in integers: whatever happens in whatever order, contract and model agree to the wei.

Two vaults share a pool that is too small for both, one of them with hardly any bond: gaps, empty earmarks, missed
windows and frozen results all occur. After every step each vault's account, each bond and what is free must be what the
model says, and the pool's books must balance. P itself is the vault's affair: the model takes it as observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from oracle.vault_state import Reason
from tests.contracts.world import (
    DAY_S,
    EPOCH_S,
    HOUR_S,
    REWARD_RATE,
    RULES,
    WINDOW_S,
    EventLog,
    Strategy,
    World,
    none_of,
    one,
    tokens,
    usd,
)

MAX_UNSETTLED = 3
SEQUENCES, STEPS = 25, 12
VESTING_S = 5 * DAY_S  # short, so that there is something to claim


class Refused(Exception):
    """The model expects this error."""

    def __init__(self, error: str, **arguments: Any) -> None:
        super().__init__(error)
        self.error, self.arguments = error, arguments


@dataclass
class AccountModel:
    """One vault's account, and its agent's bond. A and P in base units of quote, the rest in token wei."""

    vault: str
    agent_id: int
    cap: int
    bond: int
    next_epoch: int
    credited: int = 0
    earmark: int = 0
    unvested: int = 0
    vested: int = 0
    updated_s: int = 0
    ends_s: int = 0
    pending: int = 0
    observed_epoch: int = -1
    profits: list[int] = field(default_factory=list)
    # The highest P of the window that the pending result comes from; None after a vote.
    highest: int | None = None


@dataclass
class PoolModel:
    """What all accounts share."""

    free: int
    # The cases of CASES that have occurred.
    reached: set[str]
    accounts: list[AccountModel] = field(default_factory=list)

    def register(self, account: AccountModel) -> None:
        self.accounts.append(account)
        self.top_up(account)

    def top_up(self, a: AccountModel) -> None:
        amount = min(a.cap - a.earmark, self.free)
        self.free, a.earmark = self.free - amount, a.earmark + amount

    def observe(self, a: AccountModel, epoch: int, profit: int) -> None:
        if a.observed_epoch != epoch:
            a.observed_epoch, a.profits = epoch, []
        a.profits.append(profit)

    def close(self, a: AccountModel, due: int) -> int:
        self._check_due(a, due)
        if a.observed_epoch != due:
            raise Refused("RewardPoolWindowMissed", vault=a.vault, epoch=due)
        self.top_up(a)
        lowest, a.highest = min(a.profits), max(a.profits)
        missed = a.next_epoch < due
        move = 0
        if lowest > a.credited and missed:
            self.reached.add("not up after a missed window")
        elif lowest > a.credited:
            move = min(lowest - a.credited, min(a.cap, a.earmark) // REWARD_RATE)
            cut = f", cut by the {'cap' if a.earmark == a.cap else 'earmark'}" if move < lowest - a.credited else ""
            self.reached.add(f"up{cut}")
        elif a.highest < a.credited:
            move = a.highest - a.credited
            self.reached.add("down after a missed window" if missed else "down")
        else:
            self.reached.add("flat")
        a.next_epoch, a.pending = due + 1, move
        return move

    def close_by_vote(self, a: AccountModel, due: int, move: int) -> None:
        self._check_due(a, due)
        if (missed := due + 1 - a.next_epoch) < MAX_UNSETTLED or a.observed_epoch == due:
            raise Refused("RewardPoolNotOverdue", vault=a.vault, missed=missed, needed=MAX_UNSETTLED)
        a.next_epoch, a.pending, a.highest = due + 1, move, None
        self.reached.add("closed by vote")

    def _check_due(self, a: AccountModel, due: int) -> None:
        if a.pending:
            raise Refused("RewardPoolResultPending", vault=a.vault, move=a.pending)
        if due < a.next_epoch:
            raise Refused("RewardPoolNothingToClose", vault=a.vault, nextEpoch=a.next_epoch)

    def apply(self, a: AccountModel, now_s: int) -> None:
        if not a.pending:
            raise Refused("RewardPoolNoResult", agentId=a.agent_id)
        move, a.pending = a.pending, 0
        if move > 0:
            reward = move * REWARD_RATE
            a.credited, a.earmark = a.credited + move, a.earmark - reward
            self._vest(a, reward, now_s)
        else:
            self._collect(a, -move, now_s)
        self.top_up(a)

    def _vest(self, a: AccountModel, reward: int, now_s: int) -> None:
        self._accrue(a, now_s)
        total = a.unvested + reward
        a.ends_s = now_s - -(a.unvested * max(0, a.ends_s - now_s) + reward * VESTING_S) // total
        a.unvested = total

    def _collect(self, a: AccountModel, units: int, now_s: int) -> None:
        self._accrue(a, now_s)
        if units > (collectable := (a.unvested + a.vested + a.bond) // REWARD_RATE):
            units = collectable
            self.reached.add("gap beyond the collateral")
        a.credited -= units
        left = units * REWARD_RATE
        self.free += left
        for source in ("unvested", "vested", "bond"):
            taken = min(left, getattr(a, source))
            setattr(a, source, getattr(a, source) - taken)
            left -= taken
        assert left == 0

    def _accrue(self, a: AccountModel, now_s: int) -> None:
        span_s = a.ends_s - a.updated_s
        newly = a.unvested if now_s >= a.ends_s else a.unvested * (now_s - a.updated_s) // span_s
        a.vested, a.unvested, a.updated_s = a.vested + newly, a.unvested - newly, now_s

    def claim(self, a: AccountModel, due: int, now_s: int, worst_profit: int | None) -> int:
        """`worst_profit` None: the vault has no price."""
        if a.pending or due >= a.next_epoch:
            raise Refused("RewardPoolUnsettled", vault=a.vault)
        before = (a.vested, a.unvested, a.updated_s)
        self._accrue(a, now_s)
        if (amount := min(a.vested, self.excess(a, worst_profit))) == 0:
            a.vested, a.unvested, a.updated_s = before
            raise Refused("RewardPoolNothingToClaim", vault=a.vault)
        a.vested -= amount
        self.reached.add("claimed in part" if a.vested else "claimed")
        return amount


    def excess(self, a: AccountModel, worst_profit: int | None) -> int:
        if worst_profit is None:
            return 0
        return max(0, a.unvested + a.vested + a.bond - REWARD_RATE * max(0, a.credited - worst_profit))

    def releasable(self, a: AccountModel, due: int, worst_profit: int | None) -> int:
        if a.pending or due >= a.next_epoch:
            raise Refused("AgentRegistryUnsettled", agentId=a.agent_id)
        return min(self.excess(a, worst_profit), max(0, a.bond - RULES.min_bond_wei))


class Run:
    """Contract and model side by side."""

    def __init__(self, world: World, reached: set[str]) -> None:
        self.world = world
        self.model = PoolModel(free=tokens(13_000), reached=reached)
        self.strategies = [
            self._deploy(world.register_agent(), tokens(50_000), invest=usd(500_000)),
            self._deploy(
                world.register_agent(world.other_controller, world.other_signer, bond_wei=tokens(23_300)),
                tokens(23_300),
                invest=usd(550_000),
            ),
        ]
        self.check()

    def _deploy(self, agent_id: int, bond: int, *, invest: int) -> Strategy:
        s = self.world.deploy_strategy(agent_id)
        signer = self.world.signer if agent_id == 1 else self.world.other_signer
        self.world.buy(s, invest, sender=signer)
        account = AccountModel(s.vault.address, agent_id, tokens(5_000), bond, self.world.current_epoch())
        self.model.register(account)
        return s

    def pairs(self, chosen: int) -> list[tuple[Strategy, AccountModel]]:
        """`chosen` 0 or 1: that vault; 2: both."""
        both = list(zip(self.strategies, self.model.accounts, strict=True))
        return both if chosen == 2 else [both[chosen]]

    def due(self) -> int:
        """The last epoch whose window has ended; negative when there is none."""
        epoch, second = divmod(self.world.now_s() - self.world.first_epoch_s, EPOCH_S)
        return epoch - 1 - (second < WINDOW_S)

    def note(self, events: list[EventLog]) -> list[EventLog]:
        """Tells the model what the vaults have observed."""
        for event in events:
            if event.name == "ProfitObserved":
                [account] = [a for a in self.model.accounts if a.vault == event.args["vault"]]
                assert event.args["epoch"] == self.due() + 1 >= account.next_epoch
                self.model.observe(account, event.args["epoch"], event.args["profit"])
        return events

    def both_refuse(self, refused: Refused, call: Any, sender: Any) -> None:
        self.model.reached.add(refused.error)
        with self.world.reverts(refused.error, **refused.arguments):
            self.world.send(call, sender)

    # Steps

    def price(self, price_usd: int) -> None:
        self.world.set_price("ETH", price_usd, pool_follows=False)

    def flow(self, chosen: int, kind: str, amount: int) -> None:
        world, treasury = self.world, self.world.treasury.functions
        for s, _ in self.pairs(chosen):
            if kind == "allocate":
                status = world.status(s)
                if status.priced and status.reasons & Reason.HALTED:
                    self.note(world.as_timelock(world.strategies.functions.resume(s.id)))
                if status.priced:
                    self.note(world.as_timelock(treasury.allocate(s.id, usd(amount))))
            elif kind == "recall quote":
                world.as_timelock(treasury.recall(s.id, world.book.quote, usd(amount), 0))
            else:
                world.as_timelock(treasury.recall(s.id, world.token_of("ETH"), amount * 10**15 + 1, 0))

    def epoch(self, prices: list[int], observe: int, close: int, apply: int) -> None:
        """The next window, observed at each price; after it, some are closed and some results applied."""
        self.world.to_next_window()
        for price_usd in prices:
            self.price(price_usd)
            for s, _ in self.pairs(observe):
                assert not none_of(self.note(self.world.poke(s)), "ProfitObserved")
        self.world.to_window_end()
        self.close(close)
        self.apply(apply)

    def close(self, chosen: int) -> None:
        for s, account in self.pairs(chosen):
            call = self.world.pool.functions.closeWindow(s.vault.address)
            try:
                move = self.model.close(account, self.due())
            except Refused as refused:
                self.both_refuse(refused, call, self.world.stranger)
            else:
                assert one(self.world.send(call, self.world.stranger), "WindowClosed")["move"] == move

    def vote(self, missed: int, chosen: int, loss: int) -> None:
        """So many windows that nobody observes, and a vote to close the last of them."""
        for _ in range(missed):
            self.world.to_next_window()
        if missed:
            self.world.to_window_end()
        for s, account in self.pairs(chosen):
            call = self.world.pool.functions.closeByVote(s.vault.address, -usd(loss))
            try:
                self.model.close_by_vote(account, self.due(), -usd(loss))
            except Refused as refused:
                self.both_refuse(refused, call, self.world.d.timelock)
            else:
                self.world.as_timelock(call)

    def apply(self, chosen: int) -> None:
        for _, account in self.pairs(chosen):
            pending = account.pending
            call = self.world.dao.functions.rewardAgent(account.agent_id, pending)
            if not pending:
                with pytest.raises(Refused) as caught:
                    self.model.apply(account, 0)
                self.both_refuse(caught.value, call, self.world.stranger)
                continue
            for wrong in (pending - 1, pending + 1):
                mismatch = Refused("RewardPnlMismatch", claimed=wrong, settled=pending)
                wrong_call = self.world.dao.functions.rewardAgent(account.agent_id, wrong)
                self.both_refuse(mismatch, wrong_call, self.world.stranger)
            self.world.send(call, self.world.stranger)
            self.model.apply(account, self.world.now_s())
            collateral = account.unvested + account.vested + account.bond
            if pending < 0 and account.highest is not None and collateral >= REWARD_RATE:
                assert account.credited <= account.highest, "fully collected, yet above the highest P"

    def claim(self, chosen: int) -> None:
        for s, account in self.pairs(chosen):
            call = self.world.pool.functions.claim(s.vault.address)
            try:
                amount = self.model.claim(account, self.due(), self.world.now_s() + 1, self.worst_profit(s))
            except Refused as refused:
                self.both_refuse(refused, call, self.world.relayer)
            else:
                assert one(self.world.send(call, self.world.relayer), "Claimed")["amount"] == amount

    def worst_profit(self, s: Strategy) -> int | None:
        status = self.world.status(s)
        return min(self.world.view(s.vault.functions.worstProfit()), status.profit) if status.priced else None

    def withdraw_bond(self, chosen: int) -> None:
        """All that is releasable, and not a wei more."""
        for s, account in self.pairs(chosen):
            withdraw = self.world.agents.functions.withdrawBond
            controller = self.world.controller if s is self.strategies[0] else self.world.other_controller
            try:
                amount = self.model.releasable(account, self.due(), self.worst_profit(s))
            except Refused as refused:
                self.both_refuse(refused, withdraw(account.agent_id, 0), controller)
                continue
            too_much = Refused(
                "AgentRegistryNotReleasable", agentId=account.agent_id, requested=amount + 1, releasable=amount
            )
            self.both_refuse(too_much, withdraw(account.agent_id, amount + 1), controller)
            self.world.send(withdraw(account.agent_id, amount), controller)
            account.bond -= amount

    def post_bond(self, chosen: int, amount: int) -> None:
        for _, account in self.pairs(chosen):
            self.world.post_bond(account.agent_id, amount, self.world.voter_a)
            account.bond += amount

    def fund(self, amount: int) -> None:
        self.world.send(self.world.token.functions.approve(self.world.d.pool, tokens(amount)), self.world.voter_a)
        self.world.send(self.world.pool.functions.fund(tokens(amount)), self.world.voter_a)
        self.model.free += tokens(amount)

    def withdraw(self) -> None:
        self.world.as_timelock(self.world.pool.functions.withdraw(self.model.free))
        self.model.free = 0

    def wait(self, days: int) -> None:
        self.world.travel(days * DAY_S)

    def go_stale(self) -> None:
        self.world.evm.travel(3 * HOUR_S)

    # What must hold

    def check(self) -> None:
        world, due = self.world, self.due()
        assert world.view(world.pool.functions.free()) == self.model.free
        for s, account in self.pairs(2):
            assert world.account(s) == (
                REWARD_RATE, account.credited, account.cap, account.earmark, account.unvested, account.vested,
                account.updated_s, account.ends_s, account.agent_id, account.next_epoch, True, account.pending != 0,
                account.pending,
            )  # fmt: skip
            assert world.bond_of(account.agent_id) == account.bond
            settled = not account.pending and due < account.next_epoch
            assert world.view(world.pool.functions.isSettled(account.agent_id)) == settled
        world.assert_books_balance()


# What the sequences must have reached, or they prove nothing.
CASES = {
    "up", "up, cut by the cap", "up, cut by the earmark", "not up after a missed window", "flat", "down",
    "down after a missed window", "gap beyond the collateral", "closed by vote", "claimed", "claimed in part",
    "AgentRegistryNotReleasable", "AgentRegistryUnsettled", "RewardPnlMismatch", "RewardPoolNoResult",
    "RewardPoolNothingToClaim", "RewardPoolNothingToClose", "RewardPoolNotOverdue", "RewardPoolResultPending",
    "RewardPoolUnsettled", "RewardPoolWindowMissed",
}  # fmt: skip


# For a case that chance hardly ever reaches: a gain that may be claimed only in part.
CLAIMED_IN_PART = [("withdraw_bond", (2,)), ("epoch", ([2100], 2, 2, 2)), ("wait", (5,)), ("claim", (2,))]


def random_steps(seed: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Name and arguments of the steps of one sequence."""
    rng = Random(seed)
    price_usd = 2000

    def some_vaults() -> int:
        return rng.choices([0, 1, 2], weights=[1, 1, 8])[0]

    def next_price() -> int:
        nonlocal price_usd
        percent = rng.choices([rng.randint(96, 107), rng.choice([40, 70, 130, 200])], weights=[8, 1])[0]
        price_usd = min(6000, max(300, price_usd * percent // 100))
        return price_usd

    def epoch(observations: int) -> tuple[Any, ...]:
        return [next_price() for _ in range(observations)], some_vaults(), some_vaults(), some_vaults()

    kinds: dict[str, tuple[float, Callable[[], tuple[Any, ...]]]] = {
        "epoch": (11, lambda: epoch(rng.choices([0, 1, 2, 3], weights=[2, 6, 3, 1])[0])),
        "flow": (3, lambda: (
            some_vaults(), rng.choice(["allocate", "recall quote", "recall ETH"]), rng.randint(1, 60_000)
        )),
        "price": (1, lambda: (next_price(),)),
        "close": (1, lambda: (some_vaults(),)),
        "apply": (1, lambda: (some_vaults(),)),
        "claim": (4, lambda: (some_vaults(),)),
        "vote": (1.5, lambda: (rng.randint(0, 4), some_vaults(), rng.choice([0, 1_000, 900_000]))),
        "withdraw_bond": (1, lambda: (some_vaults(),)),
        "post_bond": (1, lambda: (some_vaults(), rng.randint(1, tokens(5_000)))),
        "fund": (1, lambda: (rng.randint(1, 3_000),)),
        "withdraw": (1, tuple),
        "wait": (1, lambda: (rng.randint(1, 20),)),
        "go_stale": (1, tuple),
    }  # fmt: skip
    for _ in range(STEPS):
        [name] = rng.choices(list(kinds), weights=[weight for weight, _ in kinds.values()])
        yield name, kinds[name][1]()


@pytest.fixture
def small_pool(world: World) -> World:
    """Reward money for two caps and a little more."""
    return World(
        world.evm, reward_fund_wei=tokens(13_000), rewards=replace(world.genesis.rewards, vesting_s=VESTING_S)
    )


def test_contract_and_model_agree_whatever_happens(small_pool: World) -> None:
    reached: set[str] = set()
    start = small_pool.evm.snapshot()
    sequences = [CLAIMED_IN_PART, *(list(random_steps(seed)) for seed in range(SEQUENCES))]
    for number, steps in enumerate(sequences):
        run, done = Run(small_pool, reached), []
        try:
            for name, arguments in steps:
                done.append((name, *arguments))
                getattr(run, name)(*arguments)
                run.check()
        except BaseException as error:
            error.add_note(f"sequence {number}: {done}")
            raise
        small_pool.evm.revert(start)
    assert reached == CASES
