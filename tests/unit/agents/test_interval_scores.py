"""What explanations promised about the next return, by the rounds that came after them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from agents.interval_scores import score_explanations, score_lines, score_view, stored_interval
from offchain_rl.calibration import ENOUGH_ROWS, METHOD, BadInterval, Verdict, return_q24
from oracle.chainlink import Round
from tests.unit.oracle.readings import BTC, ETH

START_S, BAR_S = 1_700_000_000, 1800
DECIMALS = {ETH: 8, BTC: 18}
# Two per cent in q24, so three per cent is outside.
TWO_PERCENT = return_q24(10**8, 102 * 10**6)
THREE_PERCENT = return_q24(10**8, 103 * 10**6)


class Feeds:
    """A round of each feed every ten minutes, with the prices given, in whole dollars."""

    def __init__(self, **prices: list[int]) -> None:
        tokens = {"eth": ETH, "btc": BTC}
        self.asked: Counter[str] = Counter()
        self.rounds = {
            tokens[name]: [
                Round(token=tokens[name], round_id=i + 1, answer=price * 10 ** DECIMALS[tokens[name]],
                      updated_at_s=START_S + 600 * i)
                for i, price in enumerate(listed)
            ]
            for name, listed in prices.items()
        }  # fmt: skip

    @property
    def latest(self) -> dict[str, Round]:
        return {token: rounds[-1] for token, rounds in self.rounds.items()}

    def fetch_since(self, last: Round, since_s: int) -> tuple[Round, ...]:
        self.asked[last.token] += 1
        rounds = self.rounds[last.token]
        first = max((i for i, r in enumerate(rounds) if r.updated_at_s < since_s), default=0)
        return tuple(rounds[first:])

    def score(self, *documents: Any, now_s: int | None = None, **over: Any) -> Any:
        end_s = START_S + 600 * (len(next(iter(self.rounds.values()))) - 1) if now_s is None else now_s
        options: dict[str, Any] = {"latest": self.latest, "decimals": DECIMALS} | over
        return score_explanations(documents, self, options.pop("latest"), now_s=end_s, **options)


def document(round_: Round, **over: Any) -> dict[str, Any]:
    """What matters of an explanation made at the block of a round."""
    interval = {
        "horizon_s": str(BAR_S), "low_q24": str(-TWO_PERCENT), "high_q24": str(TWO_PERCENT), "coverage_bps": "9000",
        "method": METHOD,
    }  # fmt: skip
    return {
        "format": "marketflow/explanation/2",
        "vault": {"block": {"timestamp_s": str(round_.updated_at_s)}},
        "observation": {"asset": round_.token, "last_round": {"answer": str(round_.answer)}},
        "interval": interval | over,
    }


# What is refused, and what can not be scored


@pytest.mark.parametrize(
    "spoilt",
    [
        {"interval": {"low_q24": "1"}}, {"interval": "wide"}, {"interval": [1]}, {"observation": {}}, {"vault": None},
        {"vault": {"block": {"timestamp_s": "soon"}}}, {"observation": {"asset": ETH, "last_round": {"answer": None}}},
    ],
)  # fmt: skip
def test_an_explanation_with_a_damaged_interval_is_refused(spoilt: dict[str, Any]) -> None:
    feeds = Feeds(eth=[2000] * 5)
    with pytest.raises(BadInterval):
        feeds.score(document(feeds.rounds[ETH][0]) | spoilt)


@pytest.mark.parametrize("none", [{}, {"interval": {}}, {"format": "marketflow/explanation/1", "text": "because"}])
def test_an_explanation_without_an_interval_is_counted_and_not_scored(none: dict[str, Any]) -> None:
    assert stored_interval(none) is None
    found = Feeds(eth=[2000] * 5).score(none)
    assert (found.explanations, found.without, found.score) == (1, 1, None)


def test_nothing_to_score_is_said_in_one_line() -> None:
    view = score_view(Feeds(eth=[2000]).score())
    assert list(score_lines(view)) == ["intervals   0 scored of 0 explanations"]
    assert view["score"] is None


def test_what_is_not_over_yet_waits() -> None:
    feeds = Feeds(eth=[2000] * 5)
    told = document(feeds.rounds[ETH][1])
    ends_at_s = feeds.rounds[ETH][1].updated_at_s + BAR_S
    assert feeds.score(told, now_s=ends_at_s - 1).pending == 1
    assert feeds.score(told, now_s=ends_at_s).score.rows == 1


def test_an_asset_without_a_feed_or_a_price_is_counted_and_not_scored() -> None:
    feeds = Feeds(eth=[2000, 2000, 2000, 0, 0])
    told = document(feeds.rounds[ETH][0])
    assert feeds.score(told).unpriced == 1
    good = Feeds(eth=[2000] * 5)
    assert good.score(told, latest={}).unpriced == 1
    assert good.score(told, decimals={}).unpriced == 1
    assert good.score(told, now_s=START_S + 9000).score.rows == 1


def test_two_vaults_that_promise_the_same_are_one_forecast() -> None:
    feeds = Feeds(eth=[2000] * 5)
    first, other = document(feeds.rounds[ETH][0]), document(feeds.rounds[ETH][0], high_q24=str(2 * TWO_PERCENT))
    found = feeds.score(first, dict(first), other)
    assert (found.explanations, found.repeated, found.score.rows) == (3, 1, 2)


# The score


def test_an_outcome_is_the_answer_in_force_when_the_horizon_ends() -> None:
    """Up three per cent in the bar, and back by one at its last second: inside. A second round after it is not seen."""
    feeds = Feeds(eth=[2000, 2060, 2060, 2040, 3000])
    told = document(feeds.rounds[ETH][0])
    found = feeds.score(told)
    assert found.score.coverage == 1.0
    late = Feeds(eth=[2000, 2060, 2060, 2060, 2000])
    assert late.score(document(late.rounds[ETH][0])).score.coverage == 0.0


def test_a_score_says_how_far_outside_outcomes_were() -> None:
    feeds = Feeds(eth=[100, 100, 100, 103, 103])
    score = feeds.score(document(feeds.rounds[ETH][0])).score
    width, outside = 2 * TWO_PERCENT, THREE_PERCENT - TWO_PERCENT
    per_bps = score.mean_width_bps / width
    assert score.interval_score_bps == pytest.approx((width + 20 * outside) * per_bps, rel=1e-5)


def test_assets_with_other_decimals_are_scored_together_and_each_feed_is_read_once() -> None:
    feeds = Feeds(eth=[2000] * 9, btc=[60_000, 60_000, 60_000, 90_000, *[90_000] * 5])
    told = [document(feeds.rounds[token][i]) for token in (ETH, BTC) for i in (0, 1, 2, 4)]
    found = feeds.score(*told)
    assert (found.score.rows, found.score.coverage) == (8, 5 / 8)
    assert feeds.asked == {ETH: 1, BTC: 1}


def test_few_decisions_are_not_called_calibrated() -> None:
    feeds = Feeds(eth=[2000] * 40)
    found = feeds.score(*(document(r) for r in feeds.rounds[ETH][:30]))
    assert found.score.verdict is Verdict.NOT_ENOUGH_DATA
    assert f"{ENOUGH_ROWS} are needed" in "\n".join(score_lines(score_view(found)))


def test_an_operator_who_stores_intervals_that_are_too_narrow_is_told() -> None:
    feeds = Feeds(eth=[2000 + 50 * (i % 3 == 0) for i in range(60)])
    narrow = [document(r, low_q24="-5", high_q24="5", horizon_s="600") for r in feeds.rounds[ETH][:50]]
    view = score_view(feeds.score(*narrow))
    assert view["score"]["verdict"] == "FAIL"
    assert "FAIL" in "\n".join(score_lines(view))


def test_an_operator_who_stores_intervals_that_cover_everything_is_told() -> None:
    feeds = Feeds(eth=[2000 + i % 7 for i in range(320)])
    wide = [document(r, low_q24=str(-(2**40)), high_q24=str(2**40), horizon_s="600") for r in feeds.rounds[ETH][:300]]
    view = score_view(feeds.score(*wide))
    assert any("says nothing" in line for line in score_lines(view))
    assert view["score"]["verdict"] == "FAIL"


def test_a_view_is_json_and_the_same_twice() -> None:
    feeds = Feeds(eth=[2000, 2001, 2060, 2003, 2004, 2005])
    made = [score_view(feeds.score(document(feeds.rounds[ETH][0]), document(feeds.rounds[ETH][2]))) for _ in range(2)]
    assert json.dumps(made[0], allow_nan=False) == json.dumps(made[1], allow_nan=False)
