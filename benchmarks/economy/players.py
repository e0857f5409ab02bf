"""Who plays: honest agents, gamblers, and each kind of cheat beside the honest twin that it is compared with.

A twin wishes for the same positions at the same moments on the same price path. What differs is the cheat.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmarks.economy.stage import BPS, CAPITAL, USD, WAD, Stage, Vault

LONG = 0.55  # of the vault's value, below the limit of 0.6
# The desk's wishes are decided once a day.
CHANGES_A_DAY = 1 / 3
# What an attacker aims at, below the vault's limits of 60 and 200 basis points.
TAKE_BPS, TAKE_REDUCING_BPS = 55, 190
GIFT = 500 * USD


@dataclass(slots=True, kw_only=True)
class Player:
    """One agent: what it wishes, and what it does besides. Honest until a subclass says otherwise."""

    kind: str
    vault: Vault
    seed: int
    # Target weight for each day of the simulation; what the twin has, too.
    wishes: np.ndarray
    bond_wei: int
    deposit: int
    # Base units of quote that went to the attacker's other pockets, or came from them.
    pocket: float = 0.0
    # The position's gain from price moves alone, base units of quote: a martingale in a fair market.
    market_gain: float = 0.0
    transactions: dict[str, int] = field(default_factory=dict)
    left: bool = False
    retired: bool = False

    # Whether the DAO's keeper observes its windows, and whether anybody but itself closes them.
    observed = True
    settled = True
    private_pool = False
    watched = False

    def count(self, what: str) -> None:
        self.transactions[what] = self.transactions.get(what, 0) + 1

    def daily(self, stage: Stage, day: int) -> None:
        """Once a day, outside windows."""
        if not self.left:
            self.rebalance(stage, float(self.wishes[day]))

    def before_window(self, stage: Stage, last: bool) -> None:
        """Shortly before a window opens; whether it is the simulation's last."""

    def in_window(self, stage: Stage, last: bool) -> None:
        """At each of the window's observations, before the keeper's."""

    def after_window(self, stage: Stage) -> None:
        """The window has ended and nobody has closed it yet."""

    def after_settlement(self, stage: Stage, epoch: int) -> None:
        """The keeper has closed and applied."""

    def when_stopped(self, stage: Stage) -> None:
        """The guardian has stopped its vault: it only reduces."""

    def rebalance(self, stage: Stage, weight: float) -> None:
        """Trades towards the weight when it is far from it."""
        vault = self.vault
        wanted = weight * vault.value - vault.held_value
        if abs(wanted) < 0.05 * vault.value:
            return
        if wanted > 0:
            self.trade(stage, min(int(wanted), vault.quote), buy=True)
        else:
            share = 1.0 if weight == 0 else -wanted / vault.held_value
            self.trade(stage, vault.held if share >= 1 else int(vault.held * share), buy=False)

    def trade(self, stage: Stage, amount_in: int, *, buy: bool) -> int:
        self.count("trade")
        return stage.trade(self.vault, amount_in, buy=buy)

    def worth(self, amount_in: int, *, buy: bool) -> float:
        """What goes in, in base units of quote."""
        return amount_in if buy else amount_in * self.vault.asset.price * USD / WAD


class Lucky(Player):
    """One of many of one person: after half the time those with a loss stop, the winners go on."""

    def after_settlement(self, stage: Stage, epoch: int) -> None:
        if epoch == 4 and stage.account(self.vault).credited <= 0:
            self.rebalance(stage, 0.0)
            self.left = True


class Doubler(Player):
    """A gambler on volatility: all in by the coin, and all in for good after a loss, to win it back."""

    def daily(self, stage: Stage, day: int) -> None:
        losing = self.vault.value < 0.98 * CAPITAL
        self.rebalance(stage, LONG if losing else float(self.wishes[day]))


class SelfDealer(Player):
    """Its strategy's market is a pool that only its accomplice provides for: takes what slippage lets, every day.

    When the window has ended and nobody has closed it, the vault only reduces, with an allowance of its own: then it
    sells everything at that. What the accomplice is left with it hedges in the public pool."""

    private_pool = True

    def daily(self, stage: Stage, day: int) -> None:
        Player.daily(self, stage, day)
        left = stage.slippage_left(self.vault)
        share = min(0.3, left / self.vault.value / (2 * TAKE_BPS / BPS))
        if not self.left and share > 0.005:
            self.round_trip(stage, share, TAKE_BPS)

    def after_window(self, stage: Stage) -> None:
        if not self.left:
            self.when_stopped(stage)

    def when_stopped(self, stage: Stage) -> None:
        if self.vault.held:
            self.hedged(stage, self.vault.held, buy=False, bps=TAKE_REDUCING_BPS)

    def trade(self, stage: Stage, amount_in: int, *, buy: bool) -> int:
        """Takes what is left of the allowance; without any the price is the oracle's."""
        base = self.worth(amount_in, buy=buy)
        if base < USD:
            return 0
        affordable = stage.slippage_left(self.vault) / base * BPS
        return self.hedged(stage, amount_in, buy=buy, bps=min(TAKE_BPS, 0.95 * affordable))

    def round_trip(self, stage: Stage, share: float, bps: float) -> None:
        """Sells a share of the vault's value and buys it back, or the other way round; each way loses `bps`."""
        vault, size = self.vault, share * self.vault.value
        if vault.held_value > size:
            received = self.deal(stage, int(vault.held * size / vault.held_value), buy=False, bps=bps)
            self.deal(stage, received, buy=True, bps=bps)
        elif vault.quote > size:
            before = vault.held
            self.deal(stage, int(size), buy=True, bps=bps)
            self.deal(stage, vault.held - before, buy=False, bps=bps)

    def hedged(self, stage: Stage, amount_in: int, *, buy: bool, bps: float) -> int:
        """A deal whose other side does not stay with the accomplice."""
        received = self.deal(stage, amount_in, buy=buy, bps=bps)
        if received:
            asset = self.vault.asset
            before = stage.wealth_of_accomplice(asset)
            stage.swap(asset, asset.accomplice, amount_in, buy=buy)
            self.pocket += stage.wealth_of_accomplice(asset) - before
            self.count("swap")
        return received

    def deal(self, stage: Stage, amount_in: int, *, buy: bool, bps: float) -> int:
        """One trade that loses about `bps` to the accomplice; negative: wins."""
        if amount_in <= 0:
            return 0
        vault, asset = self.vault, self.vault.asset
        loss = bps / BPS - vault.pool.fee / 1e6 - self.worth(amount_in, buy=buy) / vault.pool.depth
        before = stage.wealth_of_accomplice(asset)
        stage.move_pool(asset, vault.pool, 1 + loss if buy else 1 - loss, asset.accomplice)
        received = Player.trade(self, stage, amount_in, buy=buy)
        stage.move_pool(asset, vault.pool, 1.0, asset.accomplice)
        self.count("swap")
        self.count("swap")
        self.pocket += stage.wealth_of_accomplice(asset) - before
        return received


class WatchedSelfDealer(SelfDealer):
    """The same where somebody reads the ledger: see `simulate.Watch`."""

    watched = True


class Sandwicher(Player):
    """Sandwiches its own vault's trades in the public pool, through an accomplice, within the slippage limit."""

    watched = True

    def trade(self, stage: Stage, amount_in: int, *, buy: bool) -> int:
        vault, asset = self.vault, self.vault.asset
        push = TAKE_BPS / BPS - vault.pool.fee / 1e6 - self.worth(amount_in, buy=buy) / vault.pool.depth
        before = stage.wealth_of_accomplice(asset)
        stage.move_pool(asset, vault.pool, 1 + push if buy else 1 - push, asset.accomplice)
        self.count("trade")
        received = stage.trade(vault, amount_in, buy=buy, arbitraged=False)
        stage.move_pool(asset, vault.pool, 1.0, asset.accomplice)
        self.count("swap")
        self.count("swap")
        self.pocket += stage.wealth_of_accomplice(asset) - before
        return received


class Buyer(SelfDealer):
    """Buys reward with its own money: every week it trades with its accomplice at a price that favours the vault."""

    def daily(self, stage: Stage, day: int) -> None:
        Player.daily(self, stage, day)

    def trade(self, stage: Stage, amount_in: int, *, buy: bool) -> int:
        return self.hedged(stage, amount_in, buy=buy, bps=0) if amount_in else 0

    def when_stopped(self, stage: Stage) -> None:
        """Nothing: it takes nothing."""

    def before_window(self, stage: Stage, last: bool) -> None:
        self.give(stage, GIFT)

    def give(self, stage: Stage, amount: float) -> None:
        """A round trip in which the vault wins that much; negative: loses."""
        share = 0.4
        self.round_trip(stage, share, -amount / (2 * share * self.vault.value) * BPS)


class Spiker(Buyer):
    """Lends the vault a profit for the window, and takes it back, within the slippage limits, when it has been paid."""

    lent = 0.0

    def before_window(self, stage: Stage, last: bool) -> None:
        if not last:
            self.lent += GIFT * 0.8
            self.give(stage, GIFT * 0.8)

    def after_settlement(self, stage: Stage, epoch: int) -> None:
        takeable = min(self.lent, 0.95 * stage.slippage_left(self.vault), 0.8 * self.vault.value * TAKE_BPS / BPS)
        if takeable > USD:
            before = self.pocket
            self.give(stage, -takeable)
            self.lent -= self.pocket - before


class Donor(Player):
    """Sends quote to the vault before each window, to look profitable."""

    def before_window(self, stage: Stage, last: bool) -> None:
        stage.wire.send(self.vault.asset.accomplice, stage.quote, "transfer", self.vault.address, GIFT)
        self.count("transfer")
        self.pocket -= GIFT


class SoleObserver(Player):
    """Nobody else observes its windows: it observes once, at what looks like the best moment."""

    observed = settled = False
    best, done = 0.0, False

    def before_window(self, stage: Stage, last: bool) -> None:
        self.best, self.done = 0.0, False

    def in_window(self, stage: Stage, last: bool) -> None:
        price, best = self.vault.asset.price, self.best
        self.best = max(best, price)
        if not self.done and (last or (best and price > best)):
            self.done = True
            self.count("poke")
            stage.poke(self.vault, self.vault.controller)

    def after_window(self, stage: Stage) -> None:
        self.count("settle")
        stage.settle(self.vault, self.vault.controller)


class Skipper(SoleObserver):
    """Nobody else observes its windows: it observes those in which it has not lost, and skips the others."""

    def in_window(self, stage: Stage, last: bool) -> None:
        if last and stage.profit(self.vault) >= stage.account(self.vault).credited:
            self.count("poke")
            stage.poke(self.vault, self.vault.controller)


class LateSettler(Player):
    """Everybody observes, but nobody else closes its windows: it closes gains, and lets losses lie."""

    settled = False

    def after_window(self, stage: Stage) -> None:
        window = stage.wire.view(stage.at("pool"), "windowOf", self.vault.address)
        if window.observations and window.highest >= stage.account(self.vault).credited:
            self.count("settle")
            stage.settle(self.vault, self.vault.controller)


class Dodger(Player):
    """Takes out whatever of its bond and reward is not held back, each week, so that less is left to lose."""

    def after_settlement(self, stage: Stage, epoch: int) -> None:
        pool, agents, me = stage.at("pool"), stage.at("agents"), self.vault
        stage.attempt(me.controller, pool, "claim", me.address)
        releasable = stage.wire.view(pool, "releasableBond", me.agent_id)
        if releasable:
            stage.attempt(me.controller, agents, "withdrawBond", me.agent_id, releasable)
        self.count("claim")
        self.count("withdraw")


class FlowReceiver(Player):
    """The DAO adds capital and takes it back by vote; what was voted is executed on a day that the coin chooses."""

    def likes(self, price_at_eta: float, *, adds: bool) -> bool:
        """Whether now is the moment to execute."""
        self.days = getattr(self, "days", 0) + 1
        return bool(np.random.default_rng([self.vault.agent_id, self.days]).random() < 0.5)


class FlowTimer(FlowReceiver):
    """Executes what was voted when the price is low for an allocation, or high for a recall."""

    def likes(self, price_at_eta: float, *, adds: bool) -> bool:
        price = self.vault.asset.price
        return price < price_at_eta if adds else price > price_at_eta
