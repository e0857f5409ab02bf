"""What benchmarks.rl does by itself, without any of the peers it compares with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.rl import bounds, contest, measure, ours, peers, plain_ppo, sections
from benchmarks.rl.__main__ import main
from benchmarks.rl.measure import Aim, Figure, Request
from offchain_rl.backtest import run_targets
from offchain_rl.env import VectorTradingEnv
from offchain_rl.episode import build_market
from offchain_rl.observation import ObservationSpec

ROOT = Path(__file__).resolve().parents[3]
SMALL = contest.PpoSizes(num_envs=32, rollout_steps=16, minibatch=128, epochs=4, hidden=16)
REQUEST = Request(prices="", bar_s=3600, repetitions=1, least_s=0.0)


def figure(name: str = "ours", *rates: float, **changes: Any) -> Figure:
    return Figure(**{"section": "env", "name": name, "unit": "steps", "rates": rates or (1.0,), **changes})


def rising_market(bars: int = 2000) -> Any:
    """Up in the mean, so that there is something to learn: hold as much as you may."""
    rng = np.random.default_rng(3)
    return contest.market_of(1000.0 * np.exp(np.cumsum(rng.normal(0.002, 0.003, bars))), 1800)


# Refusals


def test_a_ratio_of_different_units_is_refused() -> None:
    with pytest.raises(ValueError, match="ours counts steps, vectorbt counts bars"):
        measure.ratio(figure(), figure("vectorbt", unit="bars"))


def test_a_ratio_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="did nothing"):
        measure.ratio(figure(), figure("idle", 0.0))


def test_an_unknown_section_is_refused_with_the_ones_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "env,gpu"])
    assert "choose from env, ppo, backtest" in capsys.readouterr().err


def test_a_peer_that_cannot_be_run_is_missing_with_the_reason(tmp_path: Path) -> None:
    absent = peers.Home(venv=tmp_path / "nowhere", requirements=tmp_path / "none.txt")
    found, outcomes, missing = sections.ask_all(
        [sections.Contender(name="gym-anytrading", home=absent)], replace(REQUEST, sizes=(2,)), lambda text: None
    )
    assert (found, outcomes) == ((), {})
    assert len(missing) == 1 and missing[0].startswith("gym-anytrading: ") and "No such file" in missing[0]


def test_our_own_failure_is_not_taken_for_a_missing_peer() -> None:
    with pytest.raises(peers.PeerMissing, match="no such part"):
        sections.ask_all([sections.Contender(name="no such part")], replace(REQUEST, sizes=(2,)), lambda text: None)


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [(1, "", "vectorbt failed .1.: ImportError: plotly"), (0, "", "failed"), (0, "hello", "not figures")],
)
def test_an_answer_that_is_none_says_why(code: int, said: str, reason: str) -> None:
    with pytest.raises(peers.PeerMissing, match=reason):
        peers.parse_answer("vectorbt", code, said, "Traceback\nImportError: plotly\n")


def test_without_a_compiler_the_c_environments_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(peers.PeerMissing, match="need a C compiler on PATH"):
        peers.build_c_environments(peers.Home(venv=tmp_path, requirements=tmp_path / "none.txt"))


def test_two_backtests_of_one_rule_that_end_apart_make_the_run_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert main(["--only", "backtest", "--resume", "--json", str(_measured(out, final=100.0))]) == 0
    assert main(["--only", "backtest", "--resume", "--json", str(_measured(out, final=100.1))]) == 1
    assert "disagree: 1.00e-03 apart" in capsys.readouterr().out


def _measured(path: Path, *, final: float) -> Path:
    """A finished backtest section as the command keeps it."""
    outcome = {"final": 100.0, "round_trips": 3}
    figures = [figure("vectorbt", 2.0, unit="bars"), figure("ours", 40.0, 60.0, unit="bars", is_ours=True)]
    section = {
        "at": "2026-01-01", "on": "x86_64", "load_average": [[1.0, 1.0, 1.0]], "missing": ["backtesting.py: no wheel"],
        "figures": [asdict(each) for each in figures],
        "machine": {"clock_GHz": 3.0, **{f"copy_GBps_{n}": 10.0 for n in bounds.COPIED_BYTES}},
        "outcomes": {"backtest, pool fee": {**outcome, "final": final}, "vectorbt, pool fee": outcome},
    }  # fmt: skip
    path.write_text(json.dumps({"backtest": section}), encoding="utf-8")
    return path


# What is measured


def test_a_rate_is_work_over_processor_time_and_the_first_call_does_not_count() -> None:
    calls = []

    def work() -> int:
        calls.append(1)
        sum(range(20_000))
        return 5

    rates = measure.measure_rates(work, repetitions=3, least_s=0.002)
    assert len(rates) == 3 and min(rates) > 0
    assert len(calls) > 1 + 3


def test_rounds_of_one_contender_are_joined_and_keep_their_order() -> None:
    joined = measure.join_rounds([[figure("a", 1.0), figure("b", 5.0)], [figure("a", 3.0, 2.0), figure("b", 7.0)]])
    assert [(each.name, each.rates) for each in joined] == [("a", (1.0, 3.0, 2.0)), ("b", (5.0, 7.0))]
    assert (joined[0].median, joined[0].spread) == (2.0, 0.5)


def test_an_aim_is_judged_by_the_best_of_each_and_a_missing_peer_is_not_a_miss() -> None:
    figures = [figure("peer, N = 1", 2.0), figure("peer, N = 2", 10.0), figure("ours, N = 1", 85.0)]
    aims = [Aim(ours="ours", base=base, times=times) for base, times in (("peer", 8), ("peer", 9), ("absent", 1))]
    judged = measure.judge(figures, aims)
    assert [each.verdict for each in judged] == ["reached", "missed", "not measured"]
    assert (judged[0].reached, judged[0].base) == (8.5, "peer, N = 2")


def test_the_table_goes_from_slow_to_fast_with_ratios_to_its_base() -> None:
    rows = measure.rows_of([figure("ours", 80_000.0, 120_000.0), figure("base", 2_000.0)], "base")
    assert rows == [("base", "2,000", "± 0%", "1 x", ""), ("ours", "100,000", "± 20%", "50 x", "")]
    assert measure.rows_of([figure("ours", 3.0)], "base") == [("ours", "3", "± 0%", "", "")]


@pytest.mark.parametrize(("value", "text"), [(0.00012, "0.00012"), (0.0437, "0.0437"), (7.05, "7.05"), (341.6, "342")])
def test_ratios_have_no_exponents(value: float, text: str) -> None:
    assert measure.format_ratio(value) == text


def test_what_was_measured_is_shown_with_bounds_and_who_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--only", "backtest", "--resume", "--json", str(_measured(tmp_path / "bench.json", final=100.0))])
    shown = capsys.readouterr().out
    for part in ("25 x: reached", "not measured: backtesting.py: no wheel", "cycles at 3.00 GHz", "kept"):
        assert part in shown


def test_peers_run_on_the_numpy_and_torch_that_ours_runs_on() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for home in (peers.BENCH, peers.TORCHTRADE):
        asked = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", home.requirements.read_text(), re.MULTILINE))
        shared = {"numpy", "numba", "torch", "gymnasium", "pandas"} & asked.keys() & pinned.keys()
        assert {"numpy", "torch"} <= shared
        assert {name: asked[name] for name in shared} == {name: pinned[name] for name in shared}


# Bounds


def test_the_operations_of_a_step_are_those_of_its_matrix_products() -> None:
    # 10 inputs: 640 + 4096 + 64 weights. Forward 2 x 4800; backward 2 x (9600 - 640). Both networks, four epochs.
    assert contest.flops_per_step(10) == 2 * (9_600 + 4 * (9_600 + 17_920)) == 239_360


def test_the_copy_rate_is_that_of_the_smallest_working_set_that_holds_the_data() -> None:
    rates = {f"copy_GBps_{size}": float(at) for at, size in enumerate(bounds.COPIED_BYTES)}
    asked = (1, bounds.COPIED_BYTES[0], bounds.COPIED_BYTES[0] + 1, 1 << 40)
    assert [bounds.copy_rate(rates, size) for size in asked] == [0.0, 0.0, 1.0, 2.0]


def test_a_step_touches_at_least_the_vault_twice_and_both_observations() -> None:
    assert ours.touched_bytes() > 2 * 8 * 10 + 2 * 2 * 10


# The rule and the fills of the backtests


def slow_cross(close_e8: list[int]) -> list[int]:
    """The rule as a sentence says it."""
    targets, is_in, was_above = [], False, True
    for t in range(len(close_e8) - 1):
        if t >= contest.SLOW - 1:
            fast, slow = close_e8[t + 1 - contest.FAST : t + 1], close_e8[t + 1 - contest.SLOW : t + 1]
            is_above = sum(fast) * contest.SLOW > sum(slow) * contest.FAST
            is_in = is_above and (is_in or not was_above)
            was_above = is_above
        targets.append(10_000 if is_in else 0)
    return targets


@pytest.mark.parametrize("seed", range(6))
def test_the_vectorised_rule_is_the_rule(seed: int) -> None:
    close_e8 = np.rint(contest.random_walk(700, seed) * 1e8).astype(np.int64)
    if seed == 5:
        close_e8[:99] = np.arange(99) * 10**9 + 10**11  # begins above, which is no crossing
    assert ours.cross_targets(close_e8).tolist() == slow_cross(close_e8.tolist())


def test_a_market_that_never_falls_is_never_entered() -> None:
    assert not ours.cross_targets(np.arange(1, 400, dtype=np.int64) * 10**8).any()


def test_the_same_fills_are_a_fee_on_what_is_paid_in_at_the_close() -> None:
    bars = contest.market_of(contest.random_walk(6_000, 4), 3600)
    spec = ObservationSpec(bar_s=3600, lookback=2, vol_window=1, features=("weight",))
    targets = ours.cross_targets(bars.close_e8)
    run = run_targets(targets, build_market([bars], spec), 3600, ours._same_fills(REQUEST), deadband_bps=5_000)
    cash, asset, orders = float(contest.START_USD), 0.0, 0
    for target, price in zip(targets.tolist(), (bars.close_e8 / 1e8).tolist(), strict=False):
        if target and not asset:
            cash, asset, orders = 0.0, cash * 0.999 / price, orders + 1
        elif not target and asset:
            cash, asset, orders = asset * price * 0.999, 0.0, orders + 1
    assert orders > 50 and run.vault.trades == orders
    assert int(run.values[-1]) / 1e6 == pytest.approx(cash + asset * float(bars.close_e8[-1]) / 1e8, rel=1e-5)


def test_agreement_needs_the_equity_and_the_number_of_round_trips() -> None:
    theirs = {"final": 44.0, "round_trips": 10}

    def holds(**mine: float) -> bool:
        outcomes = {"backtest, pool fee": {**theirs, **mine}, "vectorbt, pool fee": theirs}
        return sections.compare_outcomes(outcomes)[0].holds

    assert holds() and holds(final=44.004)
    assert not holds(final=44.005) and not holds(round_trips=11)
    assert sections.compare_outcomes({"vectorbt, pool fee": theirs}) == []


# The environment as float trainers take it


def test_the_shared_environment_is_ours_in_floats() -> None:
    market, config = rising_market(), contest.env_config()
    shared, bare = contest.SharedEnv(market, config, SMALL), VectorTradingEnv(market, config, SMALL.num_envs)
    scale = 1 << config.observation.scale_bits
    np.testing.assert_array_equal(shared.start(7), bare.start(7) / np.float32(scale))
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.uniform(-1.5, 1.5, SMALL.num_envs).astype(np.float32)
        wanted = np.floor((np.clip(actions, -1, 1) + 1) / 2 * config.action.max_weight_bps + 0.5)
        step, expected = shared.advance(actions), bare.advance(wanted.astype(np.int32))
        np.testing.assert_array_equal(step.observations, expected.observations / np.float32(scale))
        np.testing.assert_allclose(step.rewards, expected.rewards * SMALL.reward_scale, rtol=1e-6)
        np.testing.assert_array_equal(step.is_terminated, expected.is_terminated)


def test_a_step_of_the_shared_environment_stays_as_it_was() -> None:
    shared = contest.SharedEnv(rising_market(), contest.env_config(), SMALL)
    first = shared.start(1)
    step = shared.advance(np.ones((SMALL.num_envs, 1), dtype=np.float32))
    kept = {name: getattr(step, name).copy() for name in step.__dataclass_fields__} | {"first": first.copy()}
    for _ in range(5):
        shared.advance(np.full(SMALL.num_envs, -1.0, dtype=np.float32))
    np.testing.assert_array_equal(first, kept.pop("first"))
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(step, name), value)


def test_the_accelerator_is_measured_by_the_wall_and_divided_by_nobody(tmp_path: Path) -> None:
    np.save(tmp_path / "prices.npy", rising_market(1_800).close_e8 / 1e8)
    request = replace(REQUEST, prices=str(tmp_path / "prices.npy"), bar_s=1800, sizes=(8,))
    [on_tensors] = [measure.figure_from(each) for each in ours.accelerator(request, device="cpu")]
    assert on_tensors.median > 0 and on_tensors.name == "ours on tensors, cpu, N = 8"
    assert measure.rows_of([on_tensors, figure("base", 1.0)], "base")[1][3] == ""
    with pytest.raises(ValueError, match="there is no ratio"):
        measure.ratio(on_tensors, figure("base"))


def test_without_an_accelerator_nothing_is_said_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ours.accelerator(REQUEST) == []


# The CleanRL-style trainer


def test_advantages_are_discounted_errors_up_to_the_end_of_the_episode() -> None:
    sizes = replace(SMALL, gamma=0.9, gae_lambda=0.8)
    rewards, values = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.5], [0.25], [0.125]])
    ended, last = torch.tensor([[0.0], [1.0], [0.0]]), torch.tensor([4.0])
    third = 3.0 + 0.9 * 4.0 - 0.125
    second = 2.0 - 0.25
    first = 1.0 + 0.9 * 0.25 - 0.5 + 0.9 * 0.8 * second
    found = plain_ppo.advantages_of(rewards, values, ended, last, sizes)
    torch.testing.assert_close(found, torch.tensor([[first], [second], [third]]))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums of several threads come in any order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_the_plain_trainer_learns_to_hold_what_rises_and_repeats_itself() -> None:
    def train() -> tuple[plain_ppo.ActorCritic, list[float]]:
        rewards: list[float] = []
        env = contest.SharedEnv(rising_market(), contest.env_config(episode_steps=100), SMALL)
        agent = plain_ppo.train(env, 25, sizes=replace(SMALL, learning_rate=3e-3), seed=2, on_update=rewards.append)
        return agent, rewards

    agent, rewards = train()
    assert np.mean(rewards[-5:]) > 1.3 * np.mean(rewards[:3]) > 0
    again, repeated = train()
    assert repeated == rewards
    for one, other in zip(agent.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_every_peer_that_is_asked_for_exists() -> None:
    from benchmarks.rl import peer

    for section in sections.SECTIONS.values():
        for contender in section.contenders:
            assert contender.name in (peer.PEERS if contender.home else ours.PARTS)
