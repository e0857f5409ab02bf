"""A champion falls to the gate and to nothing else: not to luck, not to a kill, not to a second run, not to old age."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offchain_rl.artefact import ActionSpec, Artefact, load
from offchain_rl.canaries import MarketSize, bars_of, known_trend, planted, random_walk
from offchain_rl.continual import (
    CHAMPION_FILE,
    EXPIRED,
    FOUNDED,
    HISTORY,
    KEPT,
    REPLACED,
    RESTORED,
    ROLLED_BACK,
    TRIED,
    TRYING,
    Job,
    Lesson,
    Refused,
    RetrainConfig,
    Store,
    choose_by_past,
    current,
    describe,
    hold_artefact,
    main,
    plan_window,
    roll_back,
    run_alone,
)
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.policy import policy_from_artefact
from offchain_rl.prices import Bars, PriceDataUnavailable
from offchain_rl.verdict import DAY_S, NOT_ENOUGH_DATA, PASS, read_verdict

ROOT = Path(__file__).resolve().parents[3]
SPEC = ObservationSpec(bar_s=4 * 3600, lookback=43, vol_window=42, features=("ma_cross_z:2:12", "weight"))
ACTION = ActionSpec(max_weight_bps=5000, deadband_bps=300)
CONFIG = RetrainConfig(train_days=150, window_days=240, lookback=43)
SIZE = MarketSize(days=420)


def rule(top_bps: int, *, is_contrary: bool = True, spec: ObservationSpec = SPEC) -> Artefact:
    """Holds that much while prices have fallen; the planted market takes back what it has done."""
    low, high = (0, top_bps) if is_contrary else (top_bps, 0)
    return Artefact(
        name="rule", kind="moving_average", observation=spec, action=ACTION,
        parameters={"feature": "ma_cross_z:2:12", "weight_above_bps": low, "weight_below_bps": high},
    )  # fmt: skip


def good(lesson: Lesson) -> Artefact:
    return rule(5000 - 100 * lesson.seed)


def bad(lesson: Lesson) -> Artefact:
    return rule(5000 - 100 * lesson.seed, is_contrary=False)


@pytest.fixture(scope="module")
def market() -> Bars:
    """A signal that one can hardly miss."""
    return planted(1, 0.4, SIZE)


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(market: Bars, tmp_path: Path) -> MakeJob:
    """A factory of runs in one folder, on the planted market unless told."""

    def build(**over: Any) -> Job:
        bars = over.pop("bars", market)
        fields: dict[str, Any] = {
            "store": Store(tmp_path / "champions"), "config": CONFIG, "trainer": good, "fetch": lambda: (bars, ()),
            "now_s": bars.end_s, "say": lambda line: None,
        }  # fmt: skip
        return Job(**fields | over)

    return build


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder but the lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def names(store: Store) -> list[str]:
    """What was decided, without the trials."""
    return [event["event"] for event in store.events() if event["event"] not in (TRYING, TRIED)]


# Refusals


@pytest.mark.parametrize("name", ["train_days", "window_days", "seeds", "max_age_s", "budget_s", "lookback"])
def test_an_impossible_configuration_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, expected at least 1"):
        RetrainConfig(**{name: 0})
    with pytest.raises(ValueError, match="are not negative"):
        RetrainConfig(trials_before=-1)


def test_prices_that_end_long_ago_or_in_the_future_are_refused(make_job: MakeJob, market: Bars) -> None:
    with pytest.raises(Refused, match=r"planted 0\.4 1 ends at \d+, after the clock's \d+: set the clock right"):
        make_job(now_s=market.end_s - 1).run()
    with pytest.raises(Refused, match=r"ends 2\.0 days before now, at most 1\.0 are allowed: give newer prices"):
        make_job(now_s=market.end_s + 2 * DAY_S).run()


def test_too_few_bars_are_refused(make_job: MakeJob, market: Bars) -> None:
    with pytest.raises(BadObservation, match="150 days of training and a window of 240 days need 2431"):
        make_job(bars=market.slice(0, 2430)).run()


def test_challengers_that_observe_different_things_are_refused(make_job: MakeJob) -> None:
    specs = {1: SPEC, 2: SPEC, 3: replace(SPEC, vol_window=24)}
    with pytest.raises(Refused, match="challengers of one run observe the same"):
        make_job(trainer=lambda lesson: rule(5000, spec=specs[lesson.seed])).run()


def test_a_folder_without_a_champion_has_none(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="has no champion yet: a first run makes one"):
        current(tmp_path)


def test_a_clock_that_went_back_is_refused(make_job: MakeJob, market: Bars) -> None:
    make_job().run()
    earlier = market.slice(0, len(market) - 1)
    before = contents(make_job().store.folder)
    for refused in (make_job(bars=earlier).run, lambda: roll_back(make_job().store, earlier.end_s, CONFIG)):
        with pytest.raises(Refused, match=r"the clock says \d+, and .* has a run on prices up to \d+: set the clock"):
            refused()
    assert contents(make_job().store.folder) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[1]],
        lambda lines: lines[::-1],
        lambda lines: [lines[0].replace(b"founded", b"faunded"), lines[1]],
        lambda lines: [lines[0], b"{}", lines[1]],
        lambda lines: [lines[0], b"[1]"],
        lambda lines: [lines[0], lines[0]],
    ],
)
def test_a_history_that_was_changed_is_refused_by_line(make_job: MakeJob, change: Any) -> None:
    job = make_job()
    job.run()
    path = job.store.folder / HISTORY
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    for read in (lambda: current(job.store.folder), make_job().run):
        with pytest.raises(Refused, match=r"history\.jsonl, line [12]: the history was changed or cut here"):
            read()


def test_a_champion_whose_file_is_gone_or_another_is_refused(make_job: MakeJob) -> None:
    job = make_job()
    path = job.store.path_of(job.run()["champion"])
    path.write_bytes(rule(1).to_bytes())
    with pytest.raises(Refused, match="restore the file from a copy"):
        current(job.store.folder)
    path.unlink()
    with pytest.raises(Refused, match="can't be had"):
        current(job.store.folder)


def test_a_second_run_meanwhile_is_refused(make_job: MakeJob) -> None:
    job = make_job()
    with job.store.locked(), pytest.raises(Refused, match=f"is being worked on by process {os.getpid()}: wait"):
        make_job().run()
    assert make_job().run()["decision"] == REPLACED


def test_a_roll_back_to_nobody_is_refused(make_job: MakeJob, market: Bars) -> None:
    job = make_job(trainer=bad)
    job.run()
    with pytest.raises(Refused, match="has no champion before the present one"):
        roll_back(job.store, market.end_s, CONFIG)


# The gate


def test_a_null_market_makes_no_champion(make_job: MakeJob) -> None:
    for seed in range(2):
        answer = make_job(bars=random_walk(seed, SIZE), store=Store(make_job().store.folder / str(seed))).run()
        assert (answer["decision"], answer["champion_kind"]) == (KEPT, "hold")
        assert "next" not in answer


def test_a_challenger_that_passes_replaces_hold_and_carries_its_verdict(make_job: MakeJob) -> None:
    job = make_job()
    answer = job.run()
    champion = current(job.store.folder)
    assert (answer["decision"], answer["champion"]) == (REPLACED, champion.artefact_hash)
    verdict = read_verdict(champion.report)
    assert verdict is not None
    assert verdict.outcome == PASS
    assert champion.report["train_bars"] == 150 * 6
    assert load(job.store.folder / CHAMPION_FILE).artefact_hash == champion.artefact_hash
    assert names(job.store) == [FOUNDED, REPLACED]
    assert [event["event"] for event in job.store.events()] == [FOUNDED, *[TRYING] * 3, TRIED, REPLACED]
    assert str(job.store.path_of(champion.artefact_hash)) in answer["next"]
    assert "no chain was touched" in answer["next"]
    assert json.loads(json.dumps(answer)) == answer


def test_the_same_run_gives_the_same_history(make_job: MakeJob, tmp_path: Path) -> None:
    one, two = (make_job(store=Store(tmp_path / name)) for name in "ab")
    for job in (one, two):
        job.run()
    assert contents(one.store.folder) == contents(two.store.folder)


def test_a_tie_keeps_the_champion(make_job: MakeJob) -> None:
    job = make_job()
    first = job.run()
    again = make_job().run()
    assert (again["decision"], again["champion"]) == (KEPT, first["champion"])
    assert again["reason"] == "the challenger decides as the champion does: a tie keeps the champion"


def test_a_challenger_that_passes_and_is_not_clearly_better_does_not_replace(make_job: MakeJob) -> None:
    first = make_job().run()
    again = make_job(config=replace(CONFIG, seed=4)).run()
    assert again["verdict"]["outcome"] == PASS
    assert (again["decision"], again["champion"]) == (KEPT, first["champion"])
    assert "not above 0.10 for sure, so the champion stays" in again["reason"]
    assert again["champion_verdict"]["figures"]["days"] == 240


def test_a_clearly_better_challenger_replaces_a_champion_that_trades(make_job: MakeJob) -> None:
    answer = make_job(founder=rule(4000, is_contrary=False)).run()
    assert answer["decision"] == REPLACED
    assert answer["champion_verdict"]["outcome"] != PASS
    assert 0 < answer["excess_sharpe_e2"][0] < answer["excess_sharpe_e2"][1]


def test_a_worse_challenger_never_replaces(make_job: MakeJob) -> None:
    founder = rule(4000)
    answer = make_job(founder=founder, trainer=bad).run()
    assert (answer["decision"], answer["champion"]) == (KEPT, founder.artefact_hash)
    assert answer["reason"].startswith("the challenger's verdict is FAIL")


def test_too_few_seeds_are_no_verdict(make_job: MakeJob) -> None:
    answer = make_job(config=replace(CONFIG, seeds=2)).run()
    assert (answer["decision"], answer["verdict"]["outcome"]) == (KEPT, NOT_ENOUGH_DATA)


def test_every_challenger_tried_on_days_of_the_window_counts_as_a_trial(make_job: MakeJob, market: Bars) -> None:
    longer = planted(1, 0.4, MarketSize(days=1000))
    early = longer.slice(0, len(market))
    tries = [make_job(bars=early, trainer=bad, config=replace(CONFIG, seed=seed)).run() for seed in (1, 4, 4, 5)]
    assert [answer["trials_made"] for answer in tries] == [3, 6, 6, 7], "one that comes again is no new trial"
    assert make_job(bars=longer, trainer=bad).run()["trials_made"] == 3, "none of those days is in this window"
    assert make_job(bars=longer, trainer=bad, config=replace(CONFIG, trials_before=20)).run()["trials_made"] == 23


def test_dry_runs_count_as_trials(make_job: MakeJob) -> None:
    """Else a seed that luck is with could be looked for dry, and then run."""
    dry = [make_job(is_dry=True, trainer=bad, config=replace(CONFIG, seed=seed)).run() for seed in (1, 4, 7, 7)]
    assert [answer["trials_made"] for answer in dry] == [3, 6, 9, 9]
    assert make_job(trainer=bad, config=replace(CONFIG, seed=10)).run()["trials_made"] == 12


def test_a_trial_is_on_disk_before_its_training_begins(make_job: MakeJob) -> None:
    seen: list[list[int]] = []

    def trainer(lesson: Lesson) -> Artefact:
        seen.append([event["seed"] for event in make_job().store.events() if event["event"] == TRYING])
        return good(lesson)

    make_job(trainer=trainer).run()
    assert seen == [[1], [1, 2], [1, 2, 3]]


def test_challengers_of_a_run_that_was_killed_count_as_trials(make_job: MakeJob) -> None:
    def interrupted(lesson: Lesson) -> Artefact:
        if lesson.seed == 2:
            raise KeyboardInterrupt
        return bad(lesson)

    with pytest.raises(KeyboardInterrupt):
        make_job(trainer=interrupted).run()
    assert make_job(trainer=bad, config=replace(CONFIG, seed=4)).run()["trials_made"] == 2 + 3


def test_wherever_a_dry_run_is_killed_its_trials_are_counted(make_job: MakeJob, tmp_path: Path) -> None:
    """SIGKILL at each fsync: a trial more for each challenger that was begun, and never less for dying later."""
    make_job(trainer=bad).run()
    counts, founded = [], make_job().store.folder
    while True:
        folder = tmp_path / f"killed {len(counts)}"
        shutil.copytree(founded, folder)
        job = make_job(store=Store(folder), trainer=bad, is_dry=True, config=replace(CONFIG, seed=4))
        was_killed = run_and_be_killed(job, len(counts) + 1)
        counts.append(make_job(store=Store(folder), trainer=bad, is_dry=True).run()["trials_made"])
        if not was_killed:
            break
    assert counts[0] in (3, 4), "the first was not begun, or its line is there"
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert len(counts) >= 8


def test_a_challenger_that_was_not_made_is_no_trial(make_job: MakeJob) -> None:
    def absent(lesson: Lesson) -> Artefact:
        raise ImportError("no torch")

    with pytest.raises(ImportError):
        make_job(trainer=absent).run()
    assert make_job(trainer=bad, config=replace(CONFIG, seed=4)).run()["trials_made"] == 3


def test_the_window_has_no_say_in_which_challenger_is_chosen(market: Bars) -> None:
    """Of two, the one that was better before is chosen, though it does worse in the window."""
    fold = plan_window(market, CONFIG)
    before, after = (np.diff(np.log(bars.close_e8)) for bars in (market, known_trend(1, 0.3, SIZE)))
    turned = bars_of(np.concatenate([before[: fold.train_end], after[fold.train_end - 1 :]]), source="turned")
    rules = {"contrary": rule(5000), "trend": rule(5000, is_contrary=False)}
    policies = {name: policy_from_artefact(artefact) for name, artefact in rules.items()}
    past = turned.slice(fold.train_start, fold.train_end)
    assert choose_by_past(policies, past, CONFIG.backtest) == "contrary"
    figures = {name: run_alone(name, policy, turned, fold, CONFIG.backtest) for name, policy in policies.items()}
    assert figures["trend"].performance.sharpe_e2 > figures["contrary"].performance.sharpe_e2
    assert fold.test_start - fold.train_end == CONFIG.embargo_bars + CONFIG.lookback - 1
    assert fold.test_end == len(market) == len(turned)


def test_challengers_see_nothing_of_the_window(make_job: MakeJob, market: Bars) -> None:
    seen: list[Lesson] = []

    def trainer(lesson: Lesson) -> Artefact:
        seen.append(lesson)
        return good(lesson)

    companion = replace(random_walk(1, SIZE), timestamps_s=market.timestamps_s)
    answer = make_job(trainer=trainer, fetch=lambda: (market, (companion,))).run()
    gap_s = (CONFIG.embargo_bars + CONFIG.lookback - 1) * market.bar_s
    assert [lesson.seed for lesson in seen] == [1, 2, 3]
    for lesson in seen:
        assert lesson.bars.end_s + gap_s <= answer["window_start_s"]
        assert lesson.companions[0].end_s <= lesson.bars.end_s
        assert len(lesson.bars) == 150 * 6


def test_a_champion_that_was_trained_on_the_window_is_told_of(make_job: MakeJob, market: Bars) -> None:
    knowing = replace(rule(4000), provenance={"data": [{"end_s": market.end_s}]})
    assert make_job(founder=knowing).run()["champion_saw_window"] is True
    other = Store(make_job().store.folder / "other")
    assert make_job(founder=rule(4000), store=other).run()["champion_saw_window"] is False


# Old age


def test_an_old_champion_is_demoted_to_hold_with_the_reason(make_job: MakeJob, market: Bars) -> None:
    founder = rule(4000)
    young = make_job(founder=founder, trainer=bad, config=replace(CONFIG, max_age_s=5 * DAY_S))
    start = market.slice(0, len(market) - 6 * 6)
    replace(young, fetch=lambda: (start, ()), now_s=start.end_s).run()
    answer = young.run()
    assert (answer["expired"], answer["champion_kind"]) == (founder.artefact_hash, "hold")
    held = current(young.store.folder)
    assert held.provenance["reason"] == "trained 6.0 days ago, at most 5.0 are allowed"
    assert (held.kind, held.observation, held.action) == ("hold", SPEC, ACTION)
    assert "next" in answer
    assert names(young.store) == [FOUNDED, KEPT, EXPIRED, KEPT]


def test_an_old_champion_is_demoted_even_where_prices_can_not_be_had(make_job: MakeJob, market: Bars) -> None:
    def fetch() -> Any:
        raise PriceDataUnavailable("no network")

    job = make_job(founder=rule(4000), trainer=bad)
    job.run()
    with pytest.raises(PriceDataUnavailable):
        make_job(fetch=fetch, now_s=market.end_s + 31 * DAY_S).run()
    assert current(job.store.folder).kind == "hold"
    with pytest.raises(PriceDataUnavailable):
        make_job(fetch=fetch, now_s=market.end_s + 91 * DAY_S).run()
    assert names(job.store) == [FOUNDED, KEPT, EXPIRED], "hold does not grow old"


# A wrong clock


def expired_by_a_wrong_clock(make_job: MakeJob, ahead_s: int, **over: Any) -> Job:
    """A champion that trades, demoted by a clock that is so far ahead, with prices that know nothing of it."""
    job = make_job(founder=rule(4000), trainer=bad, **over)
    job.run()
    with pytest.raises(Refused, match="days before now"):
        replace(job, now_s=job.now_s + ahead_s).run()
    assert current(job.store.folder).kind == "hold"
    return job


@pytest.mark.parametrize("ahead_s", [31 * DAY_S, 20 * 365 * DAY_S])
def test_a_champion_that_a_wrong_clock_demoted_is_back_with_the_right_one(make_job: MakeJob, ahead_s: int) -> None:
    said: list[str] = []
    job = expired_by_a_wrong_clock(make_job, ahead_s, say=said.append)
    founder = rule(4000).artefact_hash
    assert any("if the clock is ahead, set it right and run again" in line for line in said)
    answer = replace(job, now_s=job.now_s + 5).run()
    assert (answer["decision"], answer["champion"], answer["restored"]) == (KEPT, founder, founder)
    assert current(job.store.folder).artefact_hash == founder
    assert load(job.store.folder / CHAMPION_FILE).artefact_hash == founder
    assert names(job.store) == [FOUNDED, KEPT, EXPIRED, RESTORED, KEPT]
    assert any("is in office again: it was demoted by a clock that showed" in line for line in said)
    assert f"in office again: {founder}" in describe(answer)
    assert str(job.store.path_of(founder)) in answer["next"]
    assert [reign.artefact_hash for reign in job.store.reigns()] == [founder]
    assert replace(job, now_s=job.now_s + 6).run()["restored"] == ""


def test_a_dry_run_tells_that_a_champion_would_be_back(make_job: MakeJob) -> None:
    job = expired_by_a_wrong_clock(make_job, 31 * DAY_S)
    answer = replace(job, is_dry=True).run()
    assert (answer["champion_kind"], answer["restored"]) == ("moving_average", rule(4000).artefact_hash)
    assert current(job.store.folder).kind == "hold"


def test_a_roll_back_by_the_right_clock_works_after_a_wrong_one(make_job: MakeJob, market: Bars) -> None:
    job = expired_by_a_wrong_clock(make_job, 20 * 365 * DAY_S)
    answer = roll_back(job.store, market.end_s + 5, CONFIG)
    assert answer["champion"] == current(job.store.folder).artefact_hash == rule(4000).artefact_hash


def test_a_roll_back_by_a_wrong_clock_stays_and_does_not_lock_the_folder(make_job: MakeJob, market: Bars) -> None:
    make_job().run()
    store = make_job().store
    roll_back(store, market.end_s + 20 * 365 * DAY_S, CONFIG)
    assert make_job(trainer=bad).run()["champion_kind"] == "hold", "the operator asked for it, not the clock"


def test_a_champion_that_is_too_old_by_the_right_clock_too_stays_demoted(make_job: MakeJob, market: Bars) -> None:
    """Ten days ahead at 25 days of age, set right after ten more."""
    job = expired_by_a_wrong_clock(make_job, 41 * DAY_S)
    late = replace(CONFIG, max_data_age_s=90 * DAY_S)
    answer = replace(job, config=late, now_s=market.end_s + 35 * DAY_S).run()
    assert (answer["champion_kind"], answer["restored"]) == ("hold", "")
    assert names(job.store) == [FOUNDED, KEPT, EXPIRED, KEPT]


# Bars of another length


@pytest.mark.parametrize("founder", [rule(4000, spec=replace(SPEC, bar_s=1800)), hold_artefact("no reason")])
def test_a_founder_for_bars_of_another_length_is_refused_before_training(make_job: MakeJob, founder: Artefact) -> None:
    def never(lesson: Lesson) -> Artefact:
        raise AssertionError("trained")

    job = make_job(founder=founder, trainer=never)
    with pytest.raises(BadObservation, match=r"the champion to begin with, 0x\w+, observes bars of 1800 s, and"):
        job.run()
    assert job.store.events() == []


@pytest.mark.parametrize("founder", [rule(4000), None])
def test_a_champion_for_bars_of_another_length_is_refused_before_training(
    make_job: MakeJob, market: Bars, founder: Artefact | None
) -> None:
    job = make_job(founder=founder, trainer=bad)
    job.run()
    before = contents(job.store.folder)
    others = replace(market, timestamps_s=market.timestamps_s[0] + 7200 * np.arange(len(market)), bar_s=7200)

    def never(lesson: Lesson) -> Artefact:
        raise AssertionError("trained")

    again = make_job(bars=others, trainer=never, now_s=market.end_s, config=replace(CONFIG, max_data_age_s=10**9))
    with pytest.raises(BadObservation, match=r"observes bars of 14400 s, and .* has bars of 7200 s: give prices"):
        again.run()
    assert contents(job.store.folder) == before


# Back again


def test_a_roll_back_puts_the_champion_before_in_office_again(make_job: MakeJob, market: Bars) -> None:
    founder = rule(4000, is_contrary=False)
    job = make_job(founder=founder)
    replaced = job.run()["champion"]
    answer = roll_back(job.store, market.end_s + 5, CONFIG)
    assert (answer["decision"], answer["champion_before"]) == (ROLLED_BACK, replaced)
    assert answer["champion"] == current(job.store.folder).artefact_hash == founder.artefact_hash
    assert load(job.store.folder / CHAMPION_FILE).artefact_hash == founder.artefact_hash
    assert [reign.artefact_hash for reign in job.store.reigns()] == [founder.artefact_hash]
    with pytest.raises(Refused, match="no champion before"):
        roll_back(job.store, market.end_s + 6, CONFIG)


def test_a_roll_back_to_one_that_is_too_old_is_refused(make_job: MakeJob, market: Bars) -> None:
    job = make_job(founder=rule(4000, is_contrary=False))
    job.run()
    with pytest.raises(Refused, match=r"was trained 31\.0 days ago and would be demoted at once"):
        roll_back(job.store, market.end_s + 31 * DAY_S, CONFIG)


def nearly_as_good(lesson: Lesson) -> Artefact:
    """As the same seed comes out with a few bars more."""
    return rule(4999 - 100 * lesson.seed)


def good_by_other_seeds(lesson: Lesson) -> Artefact:
    """What seeds 1 to 3 made, by seeds 4 to 6."""
    return rule(5000 - 100 * (lesson.seed - 3))


@pytest.mark.parametrize(("trainer", "seed"), [(good, 1), (nearly_as_good, 1), (good_by_other_seeds, 4)])
def test_what_was_rolled_back_does_not_come_straight_back(
    make_job: MakeJob, market: Bars, trainer: Any, seed: int
) -> None:
    founder = rule(4000, is_contrary=False)
    job = make_job(founder=founder)
    job.run()
    roll_back(job.store, market.end_s, CONFIG)
    config = replace(CONFIG, seed=seed)
    for hours in (0, 1):
        answer = make_job(trainer=trainer, config=config, now_s=market.end_s + 3600 * hours).run()
        assert (answer["decision"], answer["champion"]) == (KEPT, founder.artefact_hash)
        assert answer["verdict"]["outcome"] == PASS
        assert "was rolled back when days of this window were known: try other seeds" in answer["reason"]
    assert make_job(config=replace(CONFIG, seed=4)).run()["decision"] == REPLACED, "another may come"


def test_what_was_rolled_back_may_come_again_when_the_window_has_moved_past(make_job: MakeJob) -> None:
    longer = planted(1, 0.4, MarketSize(days=1000))
    early, config = longer.slice(0, 420 * 6), replace(CONFIG, max_age_s=10**9)
    founder = rule(4000, is_contrary=False)
    job = make_job(bars=early, founder=founder, config=config)
    champion = job.run()["champion"]
    roll_back(job.store, early.end_s, config)
    assert make_job(bars=longer.slice(0, 650 * 6), config=config).run()["decision"] == KEPT
    assert make_job(bars=longer.slice(0, 661 * 6), config=config).run()["decision"] == REPLACED
    now = current(job.store.folder)
    assert now.parameters == job.store.artefact(champion).parameters


# Dry, and in time


def test_a_dry_run_decides_and_writes_nothing_but_its_trials(make_job: MakeJob, market: Bars) -> None:
    dry = make_job(is_dry=True)
    answer = dry.run()
    assert answer["decision"] == REPLACED
    assert "dry run: nothing was written but that its challengers were tried" in describe(answer)
    assert set(contents(dry.store.folder)) == {HISTORY}
    assert names(dry.store) == []
    with pytest.raises(Refused, match="has no champion yet"):
        current(dry.store.folder)
    make_job(founder=rule(4000, is_contrary=False), trainer=bad).run()
    before = contents(dry.store.folder)
    answer = make_job(is_dry=True, now_s=market.end_s + DAY_S).run()
    assert (answer["decision"], answer["is_dry_run"]) == (REPLACED, True)
    late = replace(CONFIG, max_data_age_s=90 * DAY_S)
    assert make_job(is_dry=True, config=late, now_s=market.end_s + 60 * DAY_S).run()["expired"]
    with pytest.raises(Refused, match="no champion before"):
        roll_back(dry.store, market.end_s, CONFIG, is_dry=True)
    after = contents(dry.store.folder)
    lines = after.pop(HISTORY).removeprefix(before.pop(HISTORY)).splitlines()
    assert after == before
    assert [json.loads(line)["event"] for line in lines] == [*[TRYING] * 3, TRIED] * 2


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_training_ends_with_the_budget_and_nobody_is_judged_by_half_of_the_seeds(make_job: MakeJob) -> None:
    clock, trained = Clock(), []

    def slow(lesson: Lesson) -> Artefact:
        clock.now_s += 40
        lesson.check_budget()
        trained.append(lesson.seed)
        return good(lesson)

    def run(budget_s: int, folder: str) -> dict[str, Any]:
        trained.clear()
        clock.now_s = 0.0
        job = make_job(trainer=slow, clock=clock, config=replace(CONFIG, budget_s=budget_s))
        return replace(job, store=Store(job.store.folder / folder)).run()

    assert (run(120, "all")["decision"], trained) == (REPLACED, [1, 2, 3])
    two = run(100, "two")
    assert (two["decision"], trained, two["took_s"]) == (KEPT, [1, 2], 80.0), "the third had no time left"
    assert two["verdict"]["outcome"] == NOT_ENOUGH_DATA
    none = run(30, "none")
    assert (none["decision"], trained) == (KEPT, [])
    assert none["reason"] == "no challenger was trained within 30 s"


def test_the_budget_is_over_for_the_trainer_itself(make_job: MakeJob) -> None:
    clock = Clock()

    def endless(lesson: Lesson) -> Artefact:
        while True:
            clock.now_s += 1
            lesson.check_budget()

    assert make_job(trainer=endless, clock=clock).run()["decision"] == KEPT
    assert clock.now_s - CONFIG.budget_s < 3


# Killed


def run_and_be_killed(job: Job, at: int) -> bool:
    """Whether the run, in a process of its own, was killed at its n-th write to disk; else it ended well."""
    child = os.fork()
    if child == 0:
        count, fsync = 0, os.fsync

        def die_at(descriptor: int) -> None:
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

        os.fsync = die_at
        try:
            job.run()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_any_write_the_old_champion_or_the_new_one_is_in_office(make_job: MakeJob, tmp_path: Path) -> None:
    """SIGKILL at each fsync of a run that replaces the champion; then the next run goes on as if nothing had been."""
    founder = rule(4000, is_contrary=False)
    make_job(founder=founder, trainer=bad).run()
    founded, kills, kinds = make_job().store.folder, 0, set()
    while True:
        folder = tmp_path / f"killed {kills}"
        shutil.copytree(founded, folder)
        job = make_job(store=Store(folder))
        if not run_and_be_killed(job, kills + 1):
            break
        kills += 1
        in_office = current(folder)
        kinds.add(in_office.artefact_hash == founder.artefact_hash)
        assert load(folder / CHAMPION_FILE).kind == "moving_average", "the copy is whole"
        job.run()
        assert current(folder).parameters["weight_below_bps"] == 4900
        assert load(folder / CHAMPION_FILE).artefact_hash == current(folder).artefact_hash
        assert not list(folder.rglob("*.partial"))
    assert kills >= 6
    assert kinds == {True, False}


def test_half_a_line_is_no_line(make_job: MakeJob) -> None:
    job = make_job(founder=rule(4000, is_contrary=False), trainer=bad)
    job.run()
    whole = (job.store.folder / HISTORY).read_bytes()
    replaced = make_job(store=Store(job.store.folder)).run()["champion"]
    line = (job.store.folder / HISTORY).read_bytes()[len(whole) :]
    for cut in (1, len(line) - 1):
        (job.store.folder / HISTORY).write_bytes(whole + line[:cut])
        assert current(job.store.folder).parameters["weight_above_bps"] == 4000
        assert make_job().run()["champion"] == replaced


PROGRAM = """
import sys, time
from pathlib import Path
from offchain_rl.canaries import MarketSize, planted
from offchain_rl.continual import Job, RetrainConfig, Store
bars = planted(1, 0.4, MarketSize(days=420))
def trainer(lesson):
    print("training", flush=True)
    time.sleep(600)
config = RetrainConfig(train_days=150, window_days=240, lookback=43)
Job(store=Store(Path(sys.argv[1])), config=config, trainer=trainer, fetch=lambda: (bars, ()), now_s=bars.end_s).run()
"""


def test_another_process_is_waited_for_and_one_that_is_killed_leaves_the_folder_free(make_job: MakeJob) -> None:
    job = make_job()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(job.store.folder)], stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        assert any("training" in line for line in other.stdout)
        with pytest.raises(Refused, match=f"is being worked on by process {other.pid}"):
            job.run()
        other.kill()
    assert current(job.store.folder).kind == "hold"
    assert job.run()["decision"] == REPLACED


# The command


def write_prices(path: Path, bars: Bars) -> Path:
    rows = zip(bars.timestamps_s, bars.open_e8, bars.high_e8, bars.low_e8, bars.close_e8, strict=True)
    lines = [f"{t},{o / 1e8:.8f},{h / 1e8:.8f},{low / 1e8:.8f},{c / 1e8:.8f}" for t, o, h, low, c in rows]
    path.write_text("timestamp,open,high,low,close\n" + "\n".join(lines) + "\n")
    return path


def test_the_command_trains_judges_and_says_what_it_did_not_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With real networks, hardly trained: they have to fail."""
    bars = random_walk(4, MarketSize(days=670))
    prices, folder = write_prices(tmp_path / "p.csv", bars), tmp_path / "champions"
    arguments = [
        str(folder), "--data", str(prices), "--now", str(bars.end_s), "--train-days", "360", "--window-days", "185",
        "--seeds", "1", "--steps", "8192", "--json",
    ]  # fmt: skip
    code = main(arguments)
    said = capsys.readouterr()
    assert code == 0, said.err
    answer = json.loads(said.out)
    assert (answer["decision"], answer["champion_kind"], answer["challengers"]) == (KEPT, "hold", 1)
    founder = hold_artefact("nobody has passed the gate yet", bar_s=bars.bar_s)
    assert current(folder).artefact_hash == answer["champion"] == founder.artefact_hash
    for more, says in (
        (["--rollback"], "has no champion before the present one"),
        (["--data", str(tmp_path / "absent.csv")], "absent.csv"),
        (["--seeds", "0"], "seeds is 0, expected at least 1"),
        (["--champion", str(tmp_path / "absent.json")], "absent.json"),
    ):
        assert main([*arguments, *more]) == 1
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
