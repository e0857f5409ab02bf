"""PASS, FAIL or NOT ENOUGH DATA: whether a strategy's record out of sample is more than luck, and why.

`judge` reads `Evidence`: the daily returns, out of sample and after costs, of *every* trial that was made
and of the simple things to do instead. A PASS needs every check to pass; the checks are in the order of
`CHECKS`. First those that ask whether there is enough to judge, then those that judge:

    drawdown      the largest loss from a peak is within the limit that the vault would enforce
    days          MIN_DAYS days of record
    trades        MIN_TRADES trades
    seeds         a trained strategy was trained with MIN_SEEDS seeds at least
    deflated      the Sharpe ratio is above what the best of all trials shows by luck (MIN_DSR_BPS)
    overfitting   the best on one half of the record stays above the median on the other (MAX_PBO_BPS)
    cash          the interval of the mean return is above zero
    baselines     the interval of the Sharpe ratio less each baseline's is above zero, for every baseline
    seeds_agree   no seed has less than MIN_SEED_SHARE_BPS of the judged one's Sharpe ratio
    paths         of the paths of combinatorial cross-validation, MIN_PATHS_BPS beat every baseline

A strategy that keeps within the drawdown but has too short a record, too few trades or seeds is not
judged: NOT ENOUGH DATA. So is one that only `deflated`, `cash` and `baselines` refuse, is on the right
side of each of them, and would pass on a record of at most MAX_STRETCH times the length. Everything else
that does not pass is a FAIL.

Excess over a baseline is measured as a difference of Sharpe ratios, which is the excess return over the
baseline brought to the same risk: in a rising market half of a coin earns less than a whole one, and is
not a worse idea for it.

What is kept is integers and texts, so that it goes into an artefact. What this can't know: trials that
nobody recorded. `trials_made` is the author's word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import Any, Final

import numpy as np
from eth_utils import keccak

from offchain_rl.statistics import (
    BadRecord,
    FloatArray,
    Interval,
    Moments,
    Resampling,
    Trials,
    deflated_sharpe,
    expected_max_sharpe,
    min_track_record,
    moments,
    overfitting_probability,
    probabilistic_sharpe,
    resample,
    sharpe,
    variance_of_sharpes,
    yearly,
)

PASS: Final = "PASS"
FAIL: Final = "FAIL"
NOT_ENOUGH_DATA: Final = "NOT ENOUGH DATA"
PROCEDURE: Final = "marketflow/verdict/1"
CHECKS: Final = (
    "drawdown", "days", "trades", "seeds", "deflated", "overfitting", "cash", "baselines", "seeds_agree", "paths",
)  # fmt: skip

CASH: Final = "cash"
BPS: Final = 10_000
DAY_S: Final = 86_400
YEAR_S: Final = 365 * DAY_S

# Half a year: shorter, one regime of the market is all there is, and kurtosis is anybody's guess.
MIN_DAYS: Final = 180
# The mean of fewer trades is hardly normal; thirty is the rule of thumb.
MIN_TRADES: Final = 30
# With two there is a better and a worse; with three there is a spread.
MIN_SEEDS: Final = 3
# One in twenty strategies without any skill gets past this check alone.
MIN_DSR_BPS: Final = 9_500
# Without skill the probability of overfitting is near a half; with skill that one can choose by it is near zero.
MAX_PBO_BPS: Final = 2_000
# Two-sided, so that each lower end is crossed by luck once in forty times.
CONFIDENCE: Final = 0.95
# A result that another seed halves is the seed's.
MIN_SEED_SHARE_BPS: Final = 5_000
# Paths share most of their days, so they should nearly all agree.
MIN_PATHS_BPS: Final = 8_000
# A sample variance of fewer trials' Sharpe ratios may be small by chance.
MIN_RECORDED_TRIALS: Final = 10
# A record that needs more than double its length says little about what the other half will be.
MAX_STRETCH: Final = 2
REPETITIONS: Final = 2_000
# What the figures of a PASS lie between.
_BOUNDS: Final = {
    "days": (MIN_DAYS, 1 << 53),
    "trades": (MIN_TRADES, 1 << 53),
    "dsr_bps": (MIN_DSR_BPS, 10_000),
    "pbo_bps": (0, MAX_PBO_BPS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a strategy is judged by. All returns are of days, out of sample and after costs."""

    source: str
    # Every trial with a record: the judged one, its other seeds, other configurations.
    trials: Trials
    chosen: str
    # Names in `trials` of the same configuration with each of its seeds; empty where chance has no part.
    seeds: tuple[str, ...] = ()
    is_trained: bool = True
    # Buy-and-hold and other rules; cash need not be among them.
    baselines: Trials
    # All trials ever made on this or similar data, with and without a record.
    trials_made: int
    trades: int
    max_drawdown_bps: int
    drawdown_limit_bps: int
    # Yearly Sharpe ratios of the paths of combinatorial cross-validation less those of the best baseline.
    paths: tuple[float, ...] = ()
    # Whether the strategy can be cross-validated, so that a verdict without paths would hide something.
    needs_paths: bool = False
    seed: int = 1
    period_s: int = DAY_S

    def __post_init__(self) -> None:
        self.trials.column(self.chosen)
        for name in self.seeds:
            self.trials.column(name)
        if self.seeds and self.chosen not in self.seeds:
            raise BadRecord(f"{self.chosen!r} is judged and is not one of its own seeds")
        if not all(map(isfinite, self.paths)):
            raise BadRecord("the Sharpe ratio of a path is not a number")
        if min(self.trades, self.max_drawdown_bps) < 0 or self.trials_made >= 1 << 53:
            raise BadRecord("trades, drawdown and trials are counts, none of them negative or beyond counting")
        if self.trials_made < len(self.trials.names):
            raise BadRecord(f"{self.trials_made} trials made, and {len(self.trials.names)} have a record: count again")
        if len(self.baselines.names) < 1 or not np.array_equal(self.trials.times_s, self.baselines.times_s):
            raise BadRecord("the baselines have a record of the same periods as the trials")

    @property
    def periods_a_year(self) -> float:
        """Periods of the record in a year."""
        return YEAR_S / self.period_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question and its answer: PASS, FAIL or NOT ENOUGH DATA."""

    name: str
    outcome: str
    # A sentence with the figures.
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome, and all that it rests on."""

    outcome: str
    checks: tuple[Check, ...]
    # Basis points (`_bps`), hundredths (`_e2`) or counts.
    figures: Mapping[str, int]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not a PASS; for a PASS, what it rests on."""
        return tuple(check.reason for check in self.checks if self.outcome == PASS or check.outcome != PASS)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as it stands in an artefact: integers and texts."""
        return {
            "checks": [{"name": c.name, "outcome": c.outcome, "reason": c.reason} for c in self.checks],
            "figures": dict(self.figures),
            "outcome": self.outcome,
            "procedure": PROCEDURE,
            "reasons": list(self.reasons),
        }


def judge(evidence: Evidence) -> Verdict:
    """The verdict on `evidence.chosen`. The same evidence gives the same verdict in every process."""
    drawdown = _check_drawdown(evidence)
    enough = (drawdown, _check_days(evidence), _check_trades(evidence), _check_seeds(evidence))
    if any(check.outcome == NOT_ENOUGH_DATA for check in enough):
        outcome = NOT_ENOUGH_DATA if drawdown.outcome == PASS else FAIL
        return Verdict(outcome=outcome, checks=enough, figures=_count(evidence))
    found = _measure(evidence)
    judged = (
        _check_deflated(found),
        _check_overfitting(found),
        _check_cash(found),
        _check_baselines(found),
        _check_seeds_agree(found),
        _check_paths(found),
    )
    outcome = _decide((drawdown, *judged), found)
    return Verdict(outcome=outcome, checks=(*enough, *judged), figures=_figures(found))


# Whether there is enough


def _check_drawdown(evidence: Evidence) -> Check:
    worst, limit = evidence.max_drawdown_bps, evidence.drawdown_limit_bps
    return _check(
        "drawdown",
        worst <= limit,
        f"the largest loss from a peak is {_percent(worst)}, the limit is {_percent(limit)}",
    )


def _check_days(evidence: Evidence) -> Check:
    days = len(evidence.trials) * evidence.period_s // DAY_S
    return _check(
        "days", days >= MIN_DAYS, f"the record out of sample has {days} days, {MIN_DAYS} are needed", NOT_ENOUGH_DATA
    )


def _check_trades(evidence: Evidence) -> Check:
    return _check(
        "trades",
        evidence.trades >= MIN_TRADES,
        f"the strategy made {evidence.trades} trades, {MIN_TRADES} are needed",
        NOT_ENOUGH_DATA,
    )


def _check_seeds(evidence: Evidence) -> Check:
    if not evidence.is_trained:
        return _check("seeds", True, "the strategy is a rule: no seed has a part in it")
    return _check(
        "seeds",
        len(evidence.seeds) >= MIN_SEEDS,
        f"the strategy was trained with {len(evidence.seeds)} seeds, {MIN_SEEDS} are needed",
        NOT_ENOUGH_DATA,
    )


# Judging


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Everything that the checks look at; Sharpe ratios of one period."""

    evidence: Evidence
    record: Moments
    # Of the trials' Sharpe ratios, and whether it was measured or assumed.
    variance: float
    is_measured: bool
    pbo_bps: int
    loss_probability_bps: int
    mean: Interval
    block: float
    # By baseline: the difference of Sharpe ratios.
    excess: Mapping[str, Interval]
    # The difference of mean returns a period, for information.
    mean_excess: Mapping[str, Interval]
    seed_sharpes: tuple[float, ...]

    @property
    def hardest(self) -> str:
        """The baseline that is the hardest to be told from."""
        return min(self.excess, key=lambda name: (self.excess[name].low, name))

    @property
    def benchmark(self) -> float:
        """What the best of all trials shows by luck."""
        return expected_max_sharpe(self.evidence.trials_made, self.variance)

    @property
    def dsr_bps(self) -> int:
        """The deflated Sharpe ratio, rounded down."""
        return floor(deflated_sharpe(self.record, trials=self.evidence.trials_made, variance=self.variance) * BPS)

    def yearly_e2(self, sharpe_of_period: float) -> int:
        """A Sharpe ratio, yearly, in hundredths, rounded down."""
        return floor(yearly(sharpe_of_period, self.evidence.periods_a_year) * 100)


def _measure(evidence: Evidence) -> _Measured:
    returns = evidence.trials.column(evidence.chosen)
    draws = resample(returns, seed=evidence.seed, repetitions=REPETITIONS, confidence=CONFIDENCE)
    variance, is_measured = trial_variance(evidence)
    over = overfitting_probability(_choices(evidence))
    rivals = {name: evidence.baselines.column(name) for name in evidence.baselines.names if name != CASH}
    return _Measured(
        evidence=evidence,
        record=moments(returns),
        variance=variance,
        is_measured=is_measured,
        pbo_bps=ceil(over.probability * BPS),
        loss_probability_bps=ceil(over.loss_probability * BPS),
        mean=draws.mean(returns),
        block=draws.block,
        excess=_against(draws, returns, rivals, "sharpe_difference"),
        mean_excess=_against(draws, returns, rivals, "mean_difference"),
        seed_sharpes=tuple(sharpe(evidence.trials.column(name)) for name in evidence.seeds),
    )


def _against(draws: Resampling, returns: Any, rivals: Mapping[str, Any], how: str) -> dict[str, Interval]:
    return {name: getattr(draws, how)(returns, rival) for name, rival in rivals.items()}


def trial_variance(evidence: Evidence) -> tuple[float, bool]:
    """The variance of the trials' Sharpe ratios, and whether it was measured.

    It is measured when every trial that was made has a record and there are enough of them. It is never
    below that of independent trials without skill, 1 / (periods - 1): nobody gains by leaving trials out,
    or by recording many that are alike and do nothing.
    """
    recorded = len(evidence.trials.names)
    sample = variance_of_sharpes(evidence.trials) if recorded > 1 else 0.0
    is_measured = recorded >= MIN_RECORDED_TRIALS and recorded == evidence.trials_made
    return max(sample, 1 / (len(evidence.trials) - 1)), is_measured


def _choices(evidence: Evidence) -> Trials:
    """What one could have chosen from: the judged strategy (the mean of its seeds), the others, the baselines."""
    others = [name for name in evidence.trials.names if name not in evidence.seeds and name != evidence.chosen]
    own = [evidence.trials.column(name) for name in evidence.seeds or (evidence.chosen,)]
    columns = {evidence.chosen: np.mean(own, axis=0)} | {name: evidence.trials.column(name) for name in others}
    rest = {f"baseline {name}": evidence.baselines.column(name) for name in evidence.baselines.names if name != CASH}
    nothing = {f"baseline {CASH}": np.zeros(len(evidence.trials))}
    # Records that are alike are one choice: a thousand of nothing would push the median down.
    distinct: dict[bytes, tuple[str, FloatArray]] = {}
    for name, column in (columns | rest | nothing).items():
        distinct.setdefault(column.tobytes(), (name, column))
    return Trials(evidence.trials.times_s, dict(distinct.values()))


def _check_deflated(found: _Measured) -> Check:
    evidence, needed = found.evidence, min_track_record(found.record, found.benchmark)
    made = evidence.trials_made
    tail = f"a record of {ceil(needed):,} days would be needed" if isfinite(needed) else "no length of record would do"
    return _check(
        "deflated",
        found.dsr_bps >= MIN_DSR_BPS,
        f"its yearly Sharpe ratio of {_e2(found.yearly_e2(found.record.sharpe))} is above the "
        f"{_e2(found.yearly_e2(found.benchmark))} that the best of {made} trial{'s' if made > 1 else ''} shows by "
        f"luck with a probability of {_percent(found.dsr_bps)}, {_percent(MIN_DSR_BPS)} is needed; {tail}, "
        f"there are {found.record.periods:,}",
    )


def _check_overfitting(found: _Measured) -> Check:
    return _check(
        "overfitting",
        found.pbo_bps <= MAX_PBO_BPS,
        f"what is best on one half of the record is not above the median on the other half in {_percent(found.pbo_bps)}"
        f" of the ways to halve it, at most {_percent(MAX_PBO_BPS)} is allowed",
    )


def _check_cash(found: _Measured) -> Check:
    low, high = (_yearly_bps(found, end) for end in (found.mean.low, found.mean.high))
    return _check(
        "cash",
        low > 0,
        f"its mean return of {_percent(_yearly_bps(found, found.mean.estimate))} a year may as well be anything from "
        f"{_percent(low)} to {_percent(high)}, cash returns 0.0 %",
    )


def _check_baselines(found: _Measured) -> Check:
    name = found.hardest
    excess = found.excess[name]
    low, high = (found.yearly_e2(end) for end in (excess.low, excess.high))
    return _check(
        "baselines",
        low > 0,
        f"its Sharpe ratio less that of {name} is {_e2(found.yearly_e2(excess.estimate))} and may as well be anything "
        f"from {_e2(low)} to {_e2(high)}; the lower end has to be above zero",
    )


def _check_seeds_agree(found: _Measured) -> Check:
    if not found.seed_sharpes:
        return _check("seeds_agree", True, "the strategy is a rule: no seed has a part in it")
    worst, own = min(found.seed_sharpes), found.record.sharpe
    return _check(
        "seeds_agree",
        own > 0 and worst * BPS >= own * MIN_SEED_SHARE_BPS,
        f"with its worst seed the Sharpe ratio is {_e2(found.yearly_e2(worst))} instead of "
        f"{_e2(found.yearly_e2(own))}, at least {_percent(MIN_SEED_SHARE_BPS)} of it is needed",
    )


def _check_paths(found: _Measured) -> Check:
    paths = found.evidence.paths
    if not paths:
        is_missing = found.evidence.needs_paths
        words = "is missing: the record is too short for it" if is_missing else "was not asked for"
        return _check("paths", not is_missing, f"combinatorial cross-validation {words}", NOT_ENOUGH_DATA)
    share = sum(excess > 0 for excess in paths) * BPS // len(paths)
    return _check(
        "paths",
        share >= MIN_PATHS_BPS,
        f"{_percent(share)} of {len(paths)} paths of combinatorial cross-validation beat every baseline, "
        f"{_percent(MIN_PATHS_BPS)} are needed; the worst is {_e2(floor(min(paths) * 100))} of Sharpe ratio from the "
        "best baseline",
    )


def _decide(judged: Sequence[Check], found: _Measured) -> str:
    refused = {check.name for check in judged if check.outcome == FAIL}
    if not refused:
        return NOT_ENOUGH_DATA if any(check.outcome == NOT_ENOUGH_DATA for check in judged) else PASS
    return NOT_ENOUGH_DATA if refused <= {"deflated", "cash", "baselines"} and _is_promising(found) else FAIL


def _is_promising(found: _Measured) -> bool:
    """Whether twice the record, were it like this one, would pass: an interval shrinks with the root of its length."""
    needed = min_track_record(found.record, found.benchmark)
    intervals = (found.mean, *found.excess.values())
    shrink = MAX_STRETCH**-0.5
    return needed <= MAX_STRETCH * found.record.periods and all(
        one.estimate - (one.estimate - one.low) * shrink > 0 for one in intervals
    )


# Figures


def _count(evidence: Evidence) -> dict[str, int]:
    return {
        "days": len(evidence.trials) * evidence.period_s // DAY_S,
        "drawdown_limit_bps": evidence.drawdown_limit_bps,
        "max_drawdown_bps": evidence.max_drawdown_bps,
        "seeds": len(evidence.seeds),
        "trades": evidence.trades,
        "trials_made": evidence.trials_made,
        "trials_recorded": len(evidence.trials.names),
    }


def _figures(found: _Measured) -> dict[str, int]:
    needed = min_track_record(found.record, found.benchmark)
    figures = _count(found.evidence) | {
        "benchmark_sharpe_e2": found.yearly_e2(found.benchmark),
        "block_days_e2": floor(found.block * found.evidence.period_s * 100 / DAY_S),
        "dsr_bps": found.dsr_bps,
        "is_trial_variance_measured": int(found.is_measured),
        "loss_probability_bps": found.loss_probability_bps,
        "mean_high_bps_a_year": _yearly_bps(found, found.mean.high),
        "mean_low_bps_a_year": _yearly_bps(found, found.mean.low),
        "pbo_bps": found.pbo_bps,
        "psr_bps": floor(probabilistic_sharpe(found.record) * BPS),
        "sharpe_e2": found.yearly_e2(found.record.sharpe),
        "kurtosis_e2": floor(found.record.kurtosis * 100),
        "skew_e2": floor(found.record.skew * 100),
        # -1: no length would do.
        "track_record_needed": ceil(needed) if isfinite(needed) and needed < 1 << 50 else -1,
    }
    for name in sorted(found.excess):
        key, sharpes, means = _key(name), found.excess[name], found.mean_excess[name]
        figures |= {
            f"excess_{key}_sharpe_low_e2": found.yearly_e2(sharpes.low),
            f"excess_{key}_sharpe_e2": found.yearly_e2(sharpes.estimate),
            f"excess_{key}_sharpe_high_e2": found.yearly_e2(sharpes.high),
            f"excess_{key}_mean_low_bps_a_year": _yearly_bps(found, means.low),
            f"excess_{key}_mean_high_bps_a_year": _yearly_bps(found, means.high),
        }
    if found.seed_sharpes:
        figures["worst_seed_sharpe_e2"] = found.yearly_e2(min(found.seed_sharpes))
    if found.evidence.paths:
        figures["paths"] = len(found.evidence.paths)
        figures["worst_path_excess_e2"] = floor(min(found.evidence.paths) * 100)
    return figures


def record_hash(evidence: Evidence) -> str:
    """keccak256 over times and returns of trials and baselines, 0x-hex: which record was judged.

    Returns count in whole 1e-9, rounded down, as big-endian int64.
    """
    both = (evidence.trials, evidence.baselines)
    names = "\n".join(name for record in both for name in record.names).encode()
    body = b"".join(np.floor(record.matrix * 1e9).astype(">i8").tobytes() for record in both)
    return "0x" + keccak(names + b"\0" + evidence.trials.times_s.astype(">i8").tobytes() + body).hex()


# What voters read


def read_verdict(report: Mapping[str, Any]) -> Verdict | None:
    """The verdict in an artefact's report; None where there is none.

    Raises ValueError, in a sentence, for one that this version does not know or that contradicts itself:
    whoever writes an artefact can write PASS into it.
    """
    raw = report.get("verdict")
    if raw is None:
        return None
    try:
        checks = tuple(
            Check(name=_printable(c["name"]), outcome=_printable(c["outcome"]), reason=_printable(c["reason"]))
            for c in raw["checks"]
        )
        outcome, procedure, figures = raw["outcome"], raw["procedure"], dict(raw["figures"])
    except (KeyError, TypeError, ValueError):
        raise ValueError("its verdict has not the form of one") from None
    if procedure != PROCEDURE:
        raise ValueError(f"its verdict comes from the procedure {procedure!r}, this version knows {PROCEDURE!r}")
    if outcome not in (PASS, FAIL, NOT_ENOUGH_DATA):
        raise ValueError(f"its verdict is {outcome!r}, which is none")
    if outcome == PASS:
        _require_consistent(checks, figures)
    return Verdict(outcome=outcome, checks=checks, figures=figures)


def _require_consistent(checks: Sequence[Check], figures: Mapping[str, Any]) -> None:
    """Raises ValueError for a PASS that its own checks or figures contradict."""
    answers = {check.name: check.outcome for check in checks}
    if open_ := [name for name in CHECKS if answers.get(name) != PASS]:
        raise ValueError(f"its verdict says PASS, and its own check {open_[0]!r} did not pass")
    if [check.name for check in checks] != list(CHECKS):
        raise ValueError("its verdict says PASS, and its checks are not those of this version, each once")
    for name, (least, most) in _BOUNDS.items():
        value = figures.get(name)
        if not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"its verdict says PASS, and its own figure {name} is {value!r}")


def _printable(text: str) -> str:
    """What a stranger wrote, without what would steer a terminal. Raises TypeError for what is no text."""
    if not isinstance(text, str):
        raise TypeError
    return "".join(character if character.isprintable() else "?" for character in text)


def verdict_warnings(name: str, report: Mapping[str, Any]) -> list[str]:
    """What voters should know about the verdict on the artefact `name`; empty for a PASS."""
    try:
        verdict = read_verdict(report)
    except ValueError as error:
        return [f"artefact {name}: {error}; do not count on it"]
    if verdict is None:
        return [f"artefact {name} has no verdict: nobody has asked whether its results are more than luck"]
    if verdict.outcome == PASS:
        return []
    return [f"the verdict on artefact {name} is {verdict.outcome}: {'; '.join(verdict.reasons)}"]


# Words


def _check(name: str, is_met: bool, reason: str, otherwise: str = FAIL) -> Check:
    return Check(name=name, outcome=PASS if is_met else otherwise, reason=reason)


def _key(name: str) -> str:
    return name.replace(" ", "_").replace("-", "_")


def _yearly_bps(found: _Measured, mean_of_period: float) -> int:
    return floor(mean_of_period * found.evidence.periods_a_year * BPS)


def _percent(bps: int) -> str:
    # A limit that is missed by a basis point looks missed.
    return f"{bps / 100:.1f} %" if bps % 10 == 0 else f"{bps / 100:.2f} %"


def _e2(number: int) -> str:
    return f"{number / 100:.2f}"
