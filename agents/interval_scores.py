"""What the intervals in explanations were worth: each against the round that was in force when its horizon ended.

An interval is said before the move and kept with the decision, and the rounds are public, so whoever has the documents
gets the same score. Whether an interval is the one that follows from its observation is `agents.audit`'s to say.

Decisions are not made at random: a policy trades when prices move, and two decisions within one horizon share a move.
So the coverage of few decisions may differ from nine of ten by more than chance; that of all bars is what
`python -m benchmarks.calibration` measures.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agents.cycle import RoundSource, to_e8
from agents.operator_view import count
from offchain_rl.calibration import (
    COVERAGE_BPS,
    ENOUGH_ROWS,
    BadInterval,
    IntervalScore,
    ReturnInterval,
    return_q24,
    score_intervals,
)
from offchain_rl.prices import MAX_PRICE_E8
from oracle.chainlink import Round

# Of figures in a report: equal runs give equal texts.
_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInterval:
    """What one explanation promised. `answer`: in force at its block, in the feed's own decimals."""

    asset: str
    decided_at_s: int
    answer: int
    interval: ReturnInterval

    @property
    def ends_at_s(self) -> int:
        return self.decided_at_s + self.interval.horizon_s


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredScore:
    """The score of all intervals that could be scored, and what became of the others."""

    explanations: int
    # Of an older format, or of a policy that looks at too little history for an interval.
    without: int
    # Promised the same about the same asset at the same time as another: one forecast, counted once.
    repeated: int
    # The horizon ends after the last block that was looked at.
    pending: int
    # No usable round at the end of the horizon.
    unpriced: int
    # None when nothing can be scored yet.
    score: IntervalScore | None


def stored_interval(document: Mapping[str, Any]) -> StoredInterval | None:
    """The interval of an explanation; None when it has none. Raises BadInterval for one that is damaged."""
    if not (said := document.get("interval")):
        return None
    interval = ReturnInterval.from_dict(said)
    try:
        observed = document["observation"]
        return StoredInterval(
            asset=str(observed["asset"]), decided_at_s=int(document["vault"]["block"]["timestamp_s"]),
            answer=int(observed["last_round"]["answer"]), interval=interval,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise BadInterval(f"an explanation does not say what its interval is about: {error!r}") from error


def score_explanations(
    documents: Iterable[Mapping[str, Any]], rounds: RoundSource, latest: Mapping[str, Round], *,
    decimals: Mapping[str, int], now_s: int,
) -> StoredScore:  # fmt: skip
    """What explanations promised, by what happened up to `now_s`, the time of the last block that is looked at.

    `latest`: the round in force then, by token; `decimals`: of each feed. A token that either does not know has no
    price. Raises BadInterval for a damaged explanation, and what `rounds` raises.
    """
    found = [stored_interval(document) for document in documents]
    distinct = list(dict.fromkeys(interval for interval in found if interval))
    over = [interval for interval in distinct if interval.ends_at_s <= now_s]
    outcomes = _outcomes(over, rounds, latest, decimals)
    scored = [(kept.interval, outcome) for kept, outcome in zip(over, outcomes, strict=True) if outcome is not None]
    return StoredScore(
        explanations=len(found), without=found.count(None), pending=len(distinct) - len(over),
        repeated=len(found) - found.count(None) - len(distinct), unpriced=len(over) - len(scored),
        score=_score(scored) if scored else None,
    )  # fmt: skip


def _score(scored: list[tuple[ReturnInterval, int]]) -> IntervalScore:
    low, high = ([getattr(kept, name) for kept, _ in scored] for name in ("low_q24", "high_q24"))
    return score_intervals(low, high, [outcome for _, outcome in scored])


def _outcomes(
    intervals: list[StoredInterval], rounds: RoundSource, latest: Mapping[str, Round], decimals: Mapping[str, int]
) -> list[int | None]:
    """The return of each in q24; None without a price. Each feed is read once."""
    since_s: dict[str, int] = {}
    for kept in intervals:
        since_s[kept.asset] = min(kept.decided_at_s, since_s.get(kept.asset, kept.decided_at_s))
    histories = {
        asset: rounds.fetch_since(latest[asset], first_s)
        for asset, first_s in since_s.items()
        if asset in latest and asset in decimals
    }
    return [
        _outcome(kept, histories[kept.asset], decimals[kept.asset]) if kept.asset in histories else None
        for kept in intervals
    ]


def _outcome(kept: StoredInterval, history: tuple[Round, ...], decimals: int) -> int | None:
    """As an observation samples: what a block at that second knows."""
    index = bisect_right(history, kept.ends_at_s, key=lambda published: published.updated_at_s) - 1
    after = history[index].answer if index >= 0 else 0
    before_e8, after_e8 = to_e8(kept.answer, decimals), to_e8(after, decimals)
    if not (0 < before_e8 <= MAX_PRICE_E8 and 0 < after_e8 <= MAX_PRICE_E8):
        return None
    return return_q24(before_e8, after_e8)


# For people and for JSON


def score_view(found: StoredScore) -> dict[str, Any]:
    """As JSON has it. Shares are of one, widths and scores basis points."""
    view: dict[str, Any] = {
        name: getattr(found, name) for name in ("explanations", "without", "repeated", "pending", "unpriced")
    }
    view |= {"promised": COVERAGE_BPS / 10_000, "needed": ENOUGH_ROWS, "score": None}
    if found.score:
        own = found.score.to_dict()
        view["score"] = {name: round(v, _DIGITS) if isinstance(v, float) else v for name, v in own.items()}
    return view


def score_lines(view: Mapping[str, Any]) -> Iterator[str]:
    """What `marketflow agent intervals` says, and the demo's report."""
    score = view["score"]
    left_out = {
        "without one": view["without"], "said twice": view["repeated"], "not over yet": view["pending"],
        "without a price at the end": view["unpriced"],
    }  # fmt: skip
    rest = ", ".join(f"{number} {what}" for what, number in left_out.items() if number)
    scored = score["rows"] if score else 0
    yield f"intervals   {scored} scored of {count(view['explanations'], 'explanation')}{f' ({rest})' if rest else ''}"
    if not score:
        return
    between = f"{score['coverage_low']:.1%} to {score['coverage_high']:.1%} by chance"
    few = f", {view['needed']} are needed to tell" if score["verdict"] == "NOT ENOUGH DATA" else ""
    yield f"coverage    {score['coverage']:.1%} ({between}), promised {view['promised']:.0%}: {score['verdict']}{few}"
    yield f"width       {_bps(score['mean_width_bps'])} on average, interval score {_bps(score['interval_score_bps'])}"
    yield from (f"fault       {fault}" for fault in score["faults"])


def _bps(value: float | None) -> str:
    return "without an end" if value is None else f"{value:.1f} bps"
