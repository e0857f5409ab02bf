"""A round is a price only if it is positive, published, not from the future, and young enough."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle.chainlink import Round, parse_round, price_of
from oracle.errors import NoPrice, OracleError, StalePrice

NOW_S, MAX_AGE_S = 1_750_000_000, 3600


def parse(**over: Any) -> Round:
    arguments: dict[str, Any] = {"round_id": 5, "answer": 2000_00000000, "updated_at_s": NOW_S - 10}
    arguments |= {"now_s": NOW_S, "max_age_s": MAX_AGE_S} | over
    round_id, answer, updated_at_s = (arguments.pop(key) for key in ("round_id", "answer", "updated_at_s"))
    return parse_round("ETH", round_id, answer, updated_at_s, **arguments)


@pytest.mark.parametrize("answer", [0, -1, -(2**255)])
def test_an_answer_that_is_not_positive_is_no_price(answer: int) -> None:
    with pytest.raises(NoPrice, match=rf"ETH: the answer of round 5 is {answer}$"):
        parse(answer=answer)


@pytest.mark.parametrize(
    "missing", [{"round_id": 0}, {"updated_at_s": 0}, {"round_id": 0, "answer": 0, "updated_at_s": 0}]
)
def test_a_feed_without_rounds_has_no_price(missing: dict[str, int]) -> None:
    with pytest.raises(NoPrice, match="ETH: no round has been published"):
        parse(**missing)


def test_a_round_from_the_future_is_no_price() -> None:
    with pytest.raises(NoPrice, match="ETH: round 5 is 1 s in the future"):
        parse(updated_at_s=NOW_S + 1)


def test_a_price_one_second_too_old_is_stale_and_says_how_old() -> None:
    with pytest.raises(StalePrice, match="ETH: the last round is 3601 s old, 3600 s are allowed") as caught:
        parse(updated_at_s=NOW_S - MAX_AGE_S - 1)
    assert (caught.value.feed, caught.value.age_s, caught.value.max_age_s) == ("ETH", 3601, 3600)


@pytest.mark.parametrize("age_s", [0, 1, MAX_AGE_S])
def test_a_price_within_its_age_is_taken_as_it_was_published(age_s: int) -> None:
    parsed = parse(updated_at_s=NOW_S - age_s)
    assert parsed == Round(token="ETH", round_id=5, answer=2000_00000000, updated_at_s=NOW_S - age_s)


@given(
    round_id=st.integers(0, 2**80 - 1),
    answer=st.integers(-(2**255), 2**255 - 1),
    age_s=st.integers(-NOW_S, NOW_S),
    max_age_s=st.integers(1, NOW_S),
)
def test_whatever_is_taken_is_positive_and_of_a_time_that_is_allowed(
    round_id: int, answer: int, age_s: int, max_age_s: int
) -> None:
    is_price = answer > 0 and round_id > 0 and age_s < NOW_S and 0 <= age_s <= max_age_s
    try:
        parsed = parse(round_id=round_id, answer=answer, updated_at_s=NOW_S - age_s, max_age_s=max_age_s)
    except OracleError:
        assert not is_price
    else:
        assert is_price
        assert parsed.answer == answer


def test_a_price_is_the_answer_in_whole_units_exactly() -> None:
    big = Round(token="ETH", round_id=1, answer=123_456_789_012_345_678_901, updated_at_s=1)
    assert price_of(big, 8) == Decimal("1234567890123.45678901")
    assert price_of(big, 18) == Decimal("123.456789012345678901")
