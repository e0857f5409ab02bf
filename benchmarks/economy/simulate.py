"""One world: some weeks of many agents on one chain, from the votes that let them in to the last claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.economy import players as play
from benchmarks.economy.crowd import FOR
from benchmarks.economy.paths import Source, draw
from benchmarks.economy.players import LONG, Player
from benchmarks.economy.stage import (
    DAY_S,
    EPOCH_S,
    GUARDIAN,
    HOUR_S,
    KEEPER,
    MAX_UINT128,
    REWARD_RATE,
    USD,
    VESTING_S,
    VOTER,
    WAD,
    WINDOW_S,
    Asset,
    Stage,
    Vault,
)
from benchmarks.economy.wire import encode

BOND_WEI, DEPOSIT = 5_000 * WAD, 8_000 * USD
SELF_DEALERS_DEPOSIT = 4_800 * USD
# Hours of an epoch. The window of the epoch before comes first; the rest are days.
OBSERVATIONS_H = (0.1, 2.0, 4.0, 5.9)
WINDOW_ENDS_H = WINDOW_S / HOUR_S + 0.1
DAYS_H = (12, 36, 60, 84, 108, 132, 156)
BEFORE_WINDOW_H = 167.5
HOURS = EPOCH_S // HOUR_S
# The keeper's own pokes, so that no vault stays quiet for long: on these days of an epoch.
POKED_DAYS = (1, 3, 5)
FLOW = 20_000 * USD
# What the watcher calls suspicious: a net shortfall in a week, as a share of the vault's value.
ALARM_BPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How large a world is. `seeds`: how many of each cheat, with its own wishes, for each price path."""

    epochs: int = 6
    fair_assets: int = 12
    gap_assets: int = 4
    drift_assets: int = 6
    seeds: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one agent. Tokens and dollars are whole; `path` names the price path it lived on."""

    kind: str
    market: str
    path: str
    seed: int
    # Reward that ended in the controller's hands, less what was taken from the bond.
    tokens: float
    # Dollars of the attacker: deposit lost, gifts, what the accomplice gained.
    dollars: float
    # Dollars of the DAO: the vault's profit, and the deposit it was awarded.
    dao: float
    # The part of the vault's profit that is the price's moves on what was held.
    market_gain: float
    # Profit the agent was paid for and lost again, which nobody could collect: base of the gap option, in dollars.
    uncollected: float
    # Days until what was lost to the oracle exceeded the agent's deposit; none when it never did.
    covered_days: float | None
    transactions: dict[str, int]
    refused: dict[str, int]


ROLES: dict[str, type[Player]] = {
    "self-dealing, watched": play.WatchedSelfDealer,
    "self-dealing, nobody looks": play.SelfDealer,
    "sandwich of its own vault": play.Sandwicher,
    "buys reward with own money": play.Buyer,
    "lends a profit for the window": play.Spiker,
    "donates before the window": play.Donor,
    "its only observer": play.SoleObserver,
    "observes gains only": play.Skipper,
    "settles losses late": play.LateSettler,
    "takes its bond out": play.Dodger,
    "times the DAO's flows": play.FlowTimer,
}
TWIN = "random long"
TWINS = dict.fromkeys(ROLES, TWIN) | {"times the DAO's flows": "flows by the coin"}


def simulate(config: Config, source: Source, seed: int, progress: Callable[[str], None]) -> list[Outcome]:
    """Everybody's outcome. The same arguments give the same outcomes."""
    return Run(config, source, seed, progress).play()


class Governance:
    """Proposals on their way: voted for, queued and executed by whoever may, as time passes."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self._pending = stage, list[dict[str, Any]]()
        self._count = 0

    def propose(
        self, calls: list[tuple[str, bytes]], then: Callable[[], None], may_execute: Callable[[], bool] = lambda: True
    ) -> None:
        self._count += 1
        proposal = self.stage.crowd.propose(calls, f"number {self._count}")
        view = lambda name: int(self.stage.wire.view(self.stage.at("dao"), name, proposal))  # noqa: E731
        self._pending.append(
            {"id": proposal, "snapshot": view("proposalSnapshot"), "deadline": view("proposalDeadline"), "eta": None}
            | {"voted": False, "then": then, "may_execute": may_execute}
        )

    def tick(self) -> None:
        """Does what is due now."""
        stage, dao = self.stage, self.stage.at("dao")
        for p in list(self._pending):
            if not p["voted"] and stage.now_s > p["snapshot"]:
                stage.wire.send(VOTER, dao, "castVote", p["id"], FOR)
                p["voted"] = True
            elif p["eta"] is None and stage.now_s > p["deadline"]:
                stage.crowd.advance(p["id"])
                p["eta"] = int(stage.wire.view(dao, "proposalEta", p["id"]))
            elif p["eta"] is not None and stage.now_s > p["eta"] and p["may_execute"]():
                stage.crowd.advance(p["id"])
                p["then"]()
                self._pending.remove(p)

    def pass_now(self, batches: list[list[tuple[str, bytes]]]) -> None:
        """Votes all of these in, and waits for it."""
        proposals = []
        for calls in batches:
            self._count += 1
            proposals.append(self.stage.crowd.propose(calls, f"number {self._count}"))
        self.stage.crowd.pass_all(proposals)


class Watch:
    """Reads the ledger once a week: a vault that lost more to the oracle than trading costs is stopped by the guardian,
    and retired by vote; the agent's deposit restores what was taken, as far as it goes. Its bond could be slashed too,
    and is not."""

    def __init__(self, stage: Stage, governance: Governance) -> None:
        self.stage, self.governance = stage, governance

    def look(self, player: Player) -> None:
        stage, vault = self.stage, player.vault
        since = stage.now_s - 7 * DAY_S
        recent = sum(loss for at_s, loss in vault.shortfalls if at_s > since)
        if player.left or recent * 10_000 < ALARM_BPS * vault.value:
            return
        player.left = True
        stage.attempt(GUARDIAN, stage.at("constitution"), "stopVault", vault.address, 7 * DAY_S)
        player.when_stopped(stage)
        taken = int(sum(loss for _, loss in vault.shortfalls))
        deposit = int(stage.wire.view(stage.at("agents"), "agentOf", vault.agent_id).deposit)
        award = encode("AgentRegistry", "awardDeposit", vault.agent_id, min(taken, deposit))
        retire = encode("StrategyRegistry", "retire", vault.strategy_id)

        def retired() -> None:
            player.retired = True
            stage.refresh(vault)

        self.governance.propose([(stage.d.agents, award), (stage.d.strategies, retire)], retired)


class Run:
    """A world and everybody in it."""

    def __init__(self, config: Config, source: Source, seed: int, progress: Callable[[str], None]) -> None:
        self.config, self.seed, self.progress = config, seed, progress
        self.rng = np.random.default_rng([seed, 1])
        self.markets = ["fair"] * config.fair_assets + ["gap"] * config.gap_assets + ["drift"] * config.drift_assets
        self.days = config.epochs * len(DAYS_H)
        self.cast = [self._cast(market, index) for index, market in enumerate(self.markets)]
        self.paths = [draw(source, market, HOURS * (config.epochs + 1), self.rng) for market in self.markets]
        self.stage = Stage(len(self.markets), sum(map(len, self.cast)))
        self.governance = Governance(self.stage)
        self.watch = Watch(self.stage, self.governance)
        self.players: list[Player] = []

    def play(self) -> list[Outcome]:
        self.progress("votes")
        self.players = list(self._enter())
        pool = self.stage.wire.view(self.stage.at("pool"), "genesis")
        first = (self.stage.now_s - pool) // EPOCH_S + 1
        self.start_s = int(pool + first * EPOCH_S)
        self.epoch = first
        for week in range(self.config.epochs):
            self.progress(f"week {week + 1} of {self.config.epochs}")
            self._week(week)
        self.progress("the end")
        profits = self._retire_all()
        return [self._outcome(player, profit) for player, profit in zip(self.players, profits, strict=True)]

    # Who there is

    def _cast(self, market: str, index: int) -> list[tuple[str, type[Player], int, str]]:
        """(kind, class, seed, wish) of everybody on one asset."""
        seeds = range(self.config.seeds)
        both = [("random long", Player, s, "coin") for s in seeds]
        both += [("random short", Player, s, "anti") for s in seeds]
        hold: list[tuple[str, type[Player], int, str]] = [("buy and hold", Player, 0, "hold")]
        if market == "gap":
            return hold + both + [("gap gambler", play.Dodger, s, "max") for s in seeds]
        if market == "drift":
            return hold + both + [("some skill", Player, s, "skill 0.6") for s in seeds]
        cheats = [(kind, role, s, "coin") for kind, role in ROLES.items() for s in seeds]
        return (
            hold
            + both
            + [("flows by the coin", play.FlowReceiver, s, "coin") for s in seeds]
            + [("some skill", Player, s, "skill 0.6") for s in seeds]
            + [("doubles after losses", play.Doubler, s, "coin") for s in seeds]
            + [("many, the lucky one kept", play.Lucky, 100 + s, "coin") for s in range(2 * self.config.seeds)]
            + cheats
        )

    def _enter(self) -> Iterator[Player]:
        entries = [
            (asset, path, role)
            for asset, path, roles in zip(self.stage.assets, self.paths, self.cast, strict=True)
            for role in roles
        ]
        manifests = (
            self.stage.manifest(asset, asset.private if role[1].private_pool else asset.public, salt)
            for salt, (asset, _, role) in enumerate(entries)
        )
        members = self.stage.crowd.add(manifests, bond_wei=BOND_WEI, deposit=DEPOSIT, first_seed=0)
        for member, (asset, path, (kind, role, seed, wish)) in zip(members, entries, strict=True):
            pool = asset.private if role.private_pool else asset.public
            vault = Vault(member.agent_id, member.controller, member.strategy_id, member.vault, asset, pool)
            self.stage.refresh(vault)
            deposit = SELF_DEALERS_DEPOSIT if role.watched or role is play.SelfDealer else DEPOSIT
            if less := DEPOSIT - deposit:
                agents, me = self.stage.at("agents"), member.controller
                self.stage.wire.send(me, agents, "withdrawDeposit", member.agent_id, less)
                self.stage.wire.send(me, self.stage.quote, "transfer", KEEPER, less)
            yield role(
                kind=kind,
                vault=vault,
                seed=seed,
                wishes=self._wishes(wish, seed, asset, path),
                bond_wei=BOND_WEI,
                deposit=deposit,
            )

    def _wishes(self, wish: str, seed: int, asset: Asset, path: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 2, self.stage.assets.index(asset), seed])
        if wish in ("hold", "max"):
            return np.full(self.days, LONG if wish == "hold" else 0.59)
        if wish in ("coin", "anti"):
            changes, coins = rng.random(self.days) < play.CHANGES_A_DAY, rng.random(self.days) < 0.5
            changes[0] = True
            latest = np.maximum.accumulate(np.where(changes, np.arange(self.days), 0))
            return np.where(coins[latest] == (wish == "coin"), LONG, 0.0)
        accuracy = float(wish.split()[1])
        hours = np.array([week * HOURS + hour for week in range(self.config.epochs) for hour in DAYS_H])
        rises = path[hours + 48] > path[hours]
        rises = rises[np.arange(self.days) // 2 * 2]  # decided every second day
        right = (rng.random(self.days) < accuracy)[np.arange(self.days) // 2 * 2]
        return np.where(rises == right, LONG, 0.0)

    # A week

    def _week(self, week: int) -> None:
        stage = self.stage
        for hour in OBSERVATIONS_H:
            self._go_to(week, hour)
            for player in self.players:
                player.in_window(stage, hour == OBSERVATIONS_H[-1])
                if player.observed:
                    stage.poke(player.vault)
        self._go_to(week, WINDOW_ENDS_H)
        for player in self.players:
            player.after_window(stage)
            if player.settled:
                stage.settle(player.vault)
            player.after_settlement(stage, week)
        for day, hour in enumerate(DAYS_H):
            self._go_to(week, hour)
            for player in self.players:
                before = player.vault.trades
                player.daily(stage, week * len(DAYS_H) + day)
                if day in POKED_DAYS and player.vault.trades == before:
                    stage.poke(player.vault)
            if day == 0:
                self._propose_flows(week)
            self.governance.tick()
        for player in self.players:
            if player.watched:
                self.watch.look(player)
        self._go_to(week, BEFORE_WINDOW_H)
        for player in self.players:
            if not player.left:
                player.before_window(stage, week + 1 == self.config.epochs)

    def _go_to(self, week: int, hour: float) -> None:
        at_h = week * HOURS + hour
        old = [asset.price for asset in self.stage.assets]
        for asset, path in zip(self.stage.assets, self.paths, strict=True):
            asset.price = float(path[int(at_h)])
        self.stage.travel_to(self.start_s + round(at_h * HOUR_S))
        moved = {id(a): (a.price - before) * USD / WAD for a, before in zip(self.stage.assets, old, strict=True)}
        for player in self.players:
            player.market_gain += player.vault.held * moved[id(player.vault.asset)]

    def _propose_flows(self, week: int) -> None:
        """Every other week capital comes, or goes again; it is executed within the grace period, or never."""
        if week % 2 or week + 2 > self.config.epochs:
            return
        adds = week % 4 == 0
        for player in self.players:
            if isinstance(player, play.FlowReceiver):
                self._propose_flow(player, adds)

    def _propose_flow(self, player: play.FlowReceiver, adds: bool) -> None:
        stage, vault = self.stage, player.vault
        strategy = vault.strategy_id
        data = (
            encode("Treasury", "allocate", strategy, FLOW)
            if adds
            else encode("Treasury", "recall", strategy, stage.quote[1], FLOW, 0)
        )
        first_seen: list[tuple[int, float]] = []

        def now_is_good() -> bool:
            """By the sixth day at the latest: after the seventh the vote has expired."""
            first_seen[:] = first_seen or [(stage.now_s, vault.asset.price)]
            since_s, price = first_seen[0]
            if adds and stage.wire.view(vault.at, "status").state == 2:
                return False  # a halted vault takes no capital
            return stage.now_s > since_s + 4 * DAY_S or player.likes(price, adds=adds)

        self.governance.propose([(stage.d.treasury, data)], lambda: stage.refresh(vault), now_is_good)

    # The end

    def _retire_all(self) -> list[int]:
        """Recalls everything by vote, settles, retires, and pays out; each vault's profit when it was recalled."""
        stage = self.stage
        self.governance.pass_now(list(self._recalls()))
        profits = [stage.profit(player.vault) for player in self.players]
        genesis = int(stage.wire.view(stage.at("pool"), "genesis"))
        for _ in range(2):  # the first may have missed windows to make up for
            start_s = genesis + ((stage.now_s - genesis) // EPOCH_S + 1) * EPOCH_S
            stage.travel_to(start_s + HOUR_S)
            for player in self.players:
                stage.poke(player.vault)
            stage.travel_to(start_s + WINDOW_S + HOUR_S)
            for player in self.players:
                stage.settle(player.vault)
        for player in self.players:
            stage.wire.send(KEEPER, stage.at("strategies"), "finishRetirement", player.vault.strategy_id)
        stage.travel_to(stage.now_s + VESTING_S + DAY_S)
        for player in self.players:
            self._pay_out(player)
        return profits

    def _recalls(self) -> Iterator[list[tuple[str, bytes]]]:
        calls: list[tuple[str, bytes]] = []
        for player in self.players:
            strategy = player.vault.strategy_id
            if not player.retired:
                calls.append((self.stage.d.strategies, encode("StrategyRegistry", "retire", strategy)))
            for token in (self.stage.quote[1], player.vault.asset.token):
                recall = encode("Treasury", "recall", strategy, token, MAX_UINT128, 0)
                calls.append((self.stage.d.treasury, recall))
            if len(calls) > 30:
                yield calls
                calls = []
        if calls:
            yield calls

    def _pay_out(self, player: Player) -> None:
        stage, vault, me = self.stage, player.vault, player.vault.controller
        agents, pool = stage.at("agents"), stage.at("pool")
        stage.attempt(me, pool, "claim", vault.address)
        for what, amount in (
            ("withdrawBond", stage.wire.view(pool, "releasableBond", vault.agent_id)),
            ("withdrawDeposit", stage.wire.view(agents, "agentOf", vault.agent_id).deposit),
        ):
            if amount:
                stage.wire.send(me, agents, what, vault.agent_id, amount)

    def _outcome(self, player: Player, profit: int) -> Outcome:
        stage, vault = self.stage, player.vault
        index = stage.assets.index(vault.asset)
        tokens = stage.balance(stage.d.token, vault.controller) - player.bond_wei
        agent = stage.wire.view(stage.at("agents"), "agentOf", vault.agent_id)
        credited = int(stage.account(vault).credited)
        # Whatever happened on the way: paid less taken is rate x account, and no stake is left behind but for a debt.
        if tokens + agent.bond != REWARD_RATE * credited:
            raise AssertionError(f"{player.kind}: {tokens + agent.bond} is not {REWARD_RATE} x {credited}")
        deposit = stage.balance(stage.quote[1], vault.controller) - player.deposit
        return Outcome(
            kind=player.kind,
            market=self.markets[index],
            path=f"{self.seed}.{index}",
            seed=player.seed,
            tokens=tokens / WAD,
            dollars=(deposit + player.pocket) / USD,
            dao=(profit - deposit) / USD,
            market_gain=player.market_gain / USD,
            uncollected=max(0, credited - profit) / USD,
            covered_days=self._covered_days(player),
            transactions=dict(player.transactions),
            refused=dict(vault.refused),
        )

    def _covered_days(self, player: Player) -> float | None:
        taken = 0.0
        for at_s, loss in player.vault.shortfalls:
            taken += loss
            if taken > player.deposit:
                return (at_s - self.start_s) / DAY_S
        return None
