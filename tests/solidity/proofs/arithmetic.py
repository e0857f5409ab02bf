"""What the vault's, the pool's and the oracle's arithmetic promises, proved on the compiled code.

Each property is a function of `Calls` that yields (constraints, claim, products): all of them must hold. A path that
reverts and a range in which nothing may revert make the claim `False`: the path must be impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import z3
from words import WORD, Path, Word, constant, run, variable

BPS = 10_000
WAD = 10**18
SCALE = WAD * 10**12  # units of one base unit of quote, x 1e18
AMOUNT = 2**128 - 1
PRICE_6 = 10**12 * WAD * 10**6 * 100 // 98  # the oracle's highest, in a quote token of 6 decimals
PRICE_18 = 10**12 * WAD * 10**18 * 100 // 98
Claim = tuple[Sequence[z3.BoolRef], z3.BoolRef, Sequence]
IMPOSSIBLE = z3.BoolVal(False)


class Calls:
    """Symbolic calls of compiled functions, found by name."""

    def __init__(self, artefacts: Sequence[dict]) -> None:
        self._functions: dict[str, tuple[bytes, bytes]] = {}
        for artefact in artefacts:
            code = bytes.fromhex(artefact["deployedBytecode"]["object"].removeprefix("0x"))
            for signature, selector in artefact["methodIdentifiers"].items():
                self._functions[signature.split("(")[0]] = (code, bytes.fromhex(selector))
        self.paths = 0

    def __call__(
        self, name: str, *arguments: Word, assuming: Sequence[z3.BoolRef] = (), after: Path | None = None
    ) -> list[Path]:
        paths = run(*self._functions[name], arguments, assuming, after)
        self.paths += len(paths)
        return paths


@dataclass(frozen=True)
class Property:
    name: str
    range: str
    claims: Callable[[Calls], Iterator[Claim]]
    fast: bool


PROPERTIES: list[Property] = []


def proves(name: str, over: str, fast: bool = True) -> Callable:
    def keep(claims: Callable[[Calls], Iterator[Claim]]) -> Callable[[Calls], Iterator[Claim]]:
        PROPERTIES.append(Property(name, over, claims, fast))
        return claims

    return keep


def returning(paths: Sequence[Path], claim: Callable[[z3.ArithRef | int], z3.BoolRef]) -> Iterator[Claim]:
    """No path reverts, and what is returned satisfies `claim`."""
    if not paths:
        raise AssertionError("no path at all: the range is empty")
    for path in paths:
        if path.returned is None:
            yield path.constraints, IMPOSSIBLE, path.products
        else:
            yield path.constraints, claim(path.returned[0].value), path.products


def reverting_only(paths: Sequence[Path], code: str, condition: z3.BoolRef) -> Iterator[Claim]:
    """A path that reverts does so with `code` where `condition` holds, and one that returns where it does not."""
    for path in paths:
        if path.returned is None:
            yield path.constraints, z3.And(z3.BoolVal(path.reverted == code), condition), path.products
        else:
            yield path.constraints, z3.Not(condition), path.products


def is_floor(result, dividend, divisor) -> z3.BoolRef:
    return z3.And(result * divisor <= dividend, dividend < result * divisor + divisor)


def is_ceil(result, dividend, divisor) -> z3.BoolRef:
    return z3.And(result * divisor >= dividend, dividend > result * divisor - divisor)


def product_of(path: Path, x: Word, y: Word) -> z3.ArithRef:
    """The term that stands for x y in this path."""
    for left, right, term in path.products:
        if {left.get_id(), right.get_id()} == {x.value.get_id(), y.value.get_id()}:
            return term
    return x.value * y.value


# Conversions of amounts


def _values(calls: Calls, most_amount: int, most_price: int) -> Iterator[Claim]:
    amount, price = variable("amount", most_amount), variable("price", most_price)
    for decimals in range(25):
        unit = 10 ** (18 + decimals)
        for down in calls("valueDown", amount, price, constant(decimals)):
            if down.returned is None:
                yield down.constraints, IMPOSSIBLE, down.products
                continue
            low = down.returned[0].value
            worth = product_of(down, amount, price)
            yield down.constraints, is_floor(low, worth, unit), down.products
            for up in calls("valueUp", amount, price, constant(decimals), after=down):
                if up.returned is None:
                    yield up.constraints, IMPOSSIBLE, up.products
                    continue
                high = up.returned[0].value
                top = z3.Int("top")
                same = [*up.constraints, top == high]
                yield same, is_ceil(top, worth, unit), up.products
                yield same, z3.And(top >= low, top <= low + 1), up.products


@proves(
    "valueDown rounds down, valueUp up, never reverting, and they differ by at most 1",
    "amount < 2^128, every price of the oracle, quote of 6 decimals, token of 0 to 24",
)
def values_6(calls: Calls) -> Iterator[Claim]:
    yield from _values(calls, AMOUNT, PRICE_6)


@proves(
    "the same with a quote token of 18 decimals",
    "amount < 2^96, every price of the oracle, quote of 18 decimals, token of 0 to 24",
    fast=False,
)
def values_18(calls: Calls) -> Iterator[Claim]:
    yield from _values(calls, 2**96 - 1, PRICE_18)


@proves(
    "decimals beyond 59 revert, none below do for want of range",
    "decimals 0, 24, 58 to 61, 77, 78, 237, 238, 255 (boundaries, not all)",
)
def decimals(calls: Calls) -> Iterator[Claim]:
    for digits in (0, 24, 58, 59, 60, 61, 77, 78, 237, 238, 255):
        for path in calls("valueDown", constant(1), constant(1), constant(digits)):
            yield path.constraints, z3.BoolVal((path.returned is not None) == (digits <= 59)), path.products


@proves("parts are never worth more than the whole, and at most 1 less", "amounts < 2^127, price < 2^120, token of 18")
def parts(calls: Calls) -> Iterator[Claim]:
    a, b = variable("a", 2**127 - 1), variable("b", 2**127 - 1)
    price, whole = variable("price", PRICE_6), variable("whole", 2**128 - 2)
    digits = constant(18)
    for first in calls("valueDown", a, price, digits, assuming=[whole.value == a.value + b.value]):
        for second in calls("valueDown", b, price, digits, after=first):
            for third in calls("valueDown", whole, price, digits, after=second):
                apart = first.returned[0].value + second.returned[0].value
                whole_value = third.returned[0].value
                distributes = product_of(third, whole, price) == product_of(third, a, price) + product_of(
                    third, b, price
                )
                yield (
                    [whole.value == a.value + b.value],
                    (whole.value * price.value == a.value * price.value + b.value * price.value),
                    (),
                )
                together = z3.And(apart <= whole_value, whole_value <= apart + 1)
                yield [*third.constraints, distributes], together, ()


# Units


@proves("unitPriceDown is the floor of value / units, 1 without units, never reverting", "value < 2^156, units < 2^128")
def unit_price(calls: Calls) -> Iterator[Claim]:
    value, units = variable("value", 2**156 - 1), variable("units", AMOUNT, 1)
    yield from returning(calls("unitPriceDown", value, constant(0)), lambda got: z3.BoolVal(got == WAD))
    yield from returning(
        calls("unitPriceDown", value, units), lambda got: is_floor(got, value.value * SCALE, units.value)
    )


@proves(
    "unitsDown is the floor of value / unit price; it reverts at a unit price of 0 only",
    "value < 2^156, any unit price",
)
def units_of(calls: Calls) -> Iterator[Claim]:
    value, price = variable("value", 2**156 - 1), variable("unitPrice", WORD - 1)
    paths = calls("unitsDown", value, price)
    yield from reverting_only(paths, "Panic(0x12)", price.value == 0)
    for path in paths:
        if path.returned is not None:
            yield path.constraints, is_floor(path.returned[0].value, value.value * SCALE, price.value), path.products


@proves("unitsValueDown is the floor of units x unit price, never reverting", "units and unit price < 2^128")
def units_value(calls: Calls) -> Iterator[Claim]:
    units, price = variable("units", AMOUNT), variable("unitPrice", AMOUNT)
    for path in calls("unitsValueDown", units, price):
        if path.returned is None:
            yield path.constraints, IMPOSSIBLE, path.products
        else:
            yield (
                path.constraints,
                is_floor(path.returned[0].value, product_of(path, units, price), SCALE),
                path.products,
            )


@proves(
    "what is paid in is worth no more in units, and less by at most one unit's price and 1",
    "value < 2^88, unit price 1 to 2^128 - 1",
)
def round_trip(calls: Calls) -> Iterator[Claim]:
    value, price = variable("value", 2**88 - 1), variable("unitPrice", AMOUNT, 1)
    for minted in calls("unitsDown", value, price):
        if minted.returned is None:
            yield minted.constraints, IMPOSSIBLE, minted.products
            continue
        for back in calls("unitsValueDown", minted.returned[0], price, after=minted):
            if back.returned is None:
                yield back.constraints, IMPOSSIBLE, back.products
                continue
            worth = back.returned[0].value
            claim = z3.And(worth <= value.value, (value.value - worth) * SCALE < price.value + SCALE)
            yield back.constraints, claim, back.products


@proves(
    "new capital never lowers the unit price",
    "value, amount < 2^100, units 1 to 2^128 - 1, where the unit price is not 0",
)
def new_capital(calls: Calls) -> Iterator[Claim]:
    value, amount = variable("value", 2**100 - 1), variable("amount", 2**100 - 1)
    units = variable("units", AMOUNT, 1)
    for before in calls("unitPriceDown", value, units):
        price = before.returned[0]
        before.constraints.append(price.value >= 1)
        for minted in calls("unitsDown", amount, price, after=before):
            if minted.returned is None:
                yield minted.constraints, IMPOSSIBLE, minted.products
                continue
            new = minted.returned[0]
            total = variable("total", units.hi + new.hi, 1)
            summed = [total.value == units.value + new.value]
            worth = variable("worth", 2**101)
            summed.append(worth.value == value.value + amount.value)
            # price x units <= value x SCALE and price x new <= amount x SCALE, so price x total <= worth x SCALE: the
            # floor of worth x SCALE / total is at least the price.
            for x, y, top in ((price, units, value), (price, new, amount)):
                yield minted.constraints, product_of(minted, x, y) <= top.value * SCALE, minted.products
            p, u, n, t, w, v, a, q = z3.Ints("p u n t w v a q")
            given = [p >= 1, u >= 1, n >= 0, t == u + n, w == v + a, p * u <= v * SCALE, p * n <= a * SCALE]
            yield [*given], p * t <= w * SCALE, ()
            yield [p * t <= w * SCALE, t >= 1, q * t <= w * SCALE, w * SCALE < q * t + t], q >= p, ()


# Shares, limits, decay


def _share_range(calls: Calls, most_value: int, most_bps: int) -> Iterator[Claim]:
    value, bps = variable("value", most_value), variable("bps", most_bps)
    for name, rounded in (("shareDown", is_floor), ("shareUp", is_ceil)):
        for path in calls(name, value, bps):
            if path.returned is None:
                yield path.constraints, IMPOSSIBLE, path.products
            else:
                yield (
                    path.constraints,
                    rounded(path.returned[0].value, product_of(path, value, bps), BPS),
                    path.products,
                )


@proves(
    "shareDown rounds down, shareUp up, never reverting", "value < 2^224 with uint32 bps, value < 2^240 with uint16"
)
def shares(calls: Calls) -> Iterator[Claim]:
    yield from _share_range(calls, 2**224 - 1, 2**32 - 1)
    yield from _share_range(calls, 2**240 - 1, 2**16 - 1)


@proves("shareDown and shareUp revert exactly where value x bps does not fit 256 bits", "every value and bps")
def share_overflow(calls: Calls) -> Iterator[Claim]:
    value, bps = variable("value", WORD - 1), variable("bps", WORD - 1)
    for name in ("shareDown", "shareUp"):
        for path in calls(name, value, bps):
            overflow = product_of(path, value, bps) >= WORD
            if path.returned is None:
                yield path.constraints, z3.And(overflow, z3.BoolVal(path.reverted == "Panic(0x11)")), path.products
            else:
                yield path.constraints, z3.Not(overflow), path.products


@proves(
    "isBelowBy is base - current > base x bps / 10,000, false from 10,000 on, never reverting",
    "amounts < 2^242, any bps",
)
def below(calls: Calls) -> Iterator[Claim]:
    current, base, share = variable("current", 2**242 - 1), variable("base", 2**242 - 1), variable("bps", BPS)
    for path in calls("isBelowBy", current, base, share):
        if path.returned is None:
            yield path.constraints, IMPOSSIBLE, path.products
            continue
        exact = (base.value - current.value) * BPS > base.value * share.value
        yield path.constraints, (path.returned[0].value == 1) == exact, path.products
    more = variable("bps", WORD - 1, BPS)
    yield from returning(calls("isBelowBy", current, base, more), lambda got: got == 0)


@proves("isBelowBy overflows only where current or base x 10,000 does not fit 256 bits", "every current, base and bps")
def below_overflow(calls: Calls) -> Iterator[Claim]:
    current, base, share = variable("current", WORD - 1), variable("base", WORD - 1), variable("bps", WORD - 1)
    for path in calls("isBelowBy", current, base, share):
        if path.returned is None:
            large = z3.Or(current.value * BPS >= WORD, base.value * BPS >= WORD)
            yield path.constraints, z3.And(z3.BoolVal(path.reverted == "Panic(0x11)"), large), path.products


def _decay_words() -> tuple[Word, Word, Word]:
    return variable("level", WORD - 1), variable("cap", 2**224 - 1), variable("duration", 2**32 - 1, 1)


@proves(
    "a decaying sum never grows, loses at most its cap, is empty after its time, never reverting",
    "any level, cap < 2^224, any time",
)
def decay_bounds(calls: Calls) -> Iterator[Claim]:
    level, cap, duration = _decay_words()
    elapsed, long = variable("elapsed", 2**32 - 1), variable("elapsed", WORD - 1, 2**32)

    def bounded(got) -> z3.BoolRef:
        kept = z3.And(got <= level.value, z3.Or(elapsed.value >= duration.value, got >= level.value - cap.value))
        return z3.And(kept, z3.Implies(elapsed.value >= duration.value, got == 0))

    yield from returning(calls("decayed", level, cap, elapsed, duration), bounded)
    yield from returning(calls("decayed", level, cap, long, duration), lambda got: z3.BoolVal(got == 0))


@proves(
    "a decaying sum loses exactly floor(cap x elapsed / duration)",
    "any level, cap < 2^224, any time below the duration",
)
def decay_exact(calls: Calls) -> Iterator[Claim]:
    level, cap, duration = _decay_words()
    elapsed = variable("elapsed", 2**32 - 1)
    for path in calls("decayed", level, cap, elapsed, duration, assuming=[elapsed.value < duration.value]):
        if path.returned is None:
            yield path.constraints, IMPOSSIBLE, path.products
            continue
        lost = z3.Int("lost")
        floor = is_floor(lost, product_of(path, cap, elapsed), duration.value)
        exact = path.returned[0].value == z3.If(level.value > lost, level.value - lost, 0)
        yield [*path.constraints, floor], exact, path.products


@proves(
    "waiting longer never leaves more, and counting in between never leaves less",
    "any level, cap < 2^224, any two times",
    fast=False,
)
def decay_monotone(_calls: Calls) -> Iterator[Claim]:
    """From the exact loss, proved of the code above: lost(t) = floor(cap t / duration), all of it from duration on."""
    cap, d, s, t, q, r, u, level = z3.Ints("cap d s t q r u level")
    given = [cap >= 0, d >= 1, 0 <= s, s <= t, level >= 0]

    def floor_of(result, elapsed) -> z3.BoolRef:
        return is_floor(result, cap * elapsed, d)

    # s <= t: cap s <= cap t, and a floor follows
    yield given, cap * s <= cap * t, ()
    x, y = z3.Ints("x y")
    yield [d >= 1, x <= y, is_floor(q, x, d), is_floor(r, y, d)], q <= r, ()
    # two steps x and y lose together no more than one of x + y
    yield [d >= 1, is_floor(q, x, d), is_floor(r, y, d), is_floor(u, x + y, d)], q + r <= u, ()


@proves(
    "the worst value is at most the value, never reverting", "value < 2^240, shares as the constitution admits them"
)
def worst(calls: Calls) -> Iterator[Claim]:
    value, hard = variable("value", 2**240 - 1), variable("hard", 2**16 - 1)
    discount, gap = variable("discount", BPS - 1), variable("gap", BPS - 1)
    for path in calls("worstValueDown", value, hard, discount, gap):
        if path.returned is None:
            yield path.constraints, IMPOSSIBLE, path.products
            continue
        yield path.constraints, path.returned[0].value <= value.value, path.products


@proves("the worst value reverts exactly for a discount or a gap above 10,000", "value < 2^240, any uint16 shares")
def worst_reverts(calls: Calls) -> Iterator[Claim]:
    value, hard = variable("value", 2**240 - 1), variable("hard", 2**16 - 1)
    discount, gap = variable("discount", 2**16 - 1), variable("gap", 2**16 - 1)
    paths = calls("worstValueDown", value, hard, discount, gap)
    yield from reverting_only(paths, "Panic(0x11)", z3.Or(discount.value > BPS, gap.value > BPS))


# Prices


@proves(
    "a price in USD is the floor of the answer at 18 decimals, at most 1e30, never reverting",
    "0 < answer < its bound <= 1e12 USD, feeds of 0 to 26 decimals",
)
def price_usd(calls: Calls) -> Iterator[Claim]:
    for digits in range(27):
        answer = variable("answer", min(2**128 - 1, 10 ** (12 + digits)) - 1, 1)
        for path in calls("priceUsd", answer, constant(digits)):
            if path.returned is None:
                yield path.constraints, IMPOSSIBLE, path.products
                continue
            got = path.returned[0].value
            exact = is_floor(got, answer.value * WAD, 10**digits)
            yield path.constraints, z3.And(exact, got <= 10**30, z3.Implies(digits <= 18, got > 0)), path.products


@proves(
    "a price in quote is the floor of the quotient, within 2.1 % of the price in USD, never reverting",
    "price <= 1e30, quote within its peg",
)
def price_in_quote(calls: Calls) -> Iterator[Claim]:
    price, quote = variable("price", 10**30), variable("quote", 102 * 10**16, 98 * 10**16)
    for path in calls("priceInQuote", price, quote):
        if path.returned is None:
            yield path.constraints, IMPOSSIBLE, path.products
            continue
        got = path.returned[0].value
        near = z3.And(got * 98 <= price.value * 100, got * 102 + 102 > price.value * 100)
        yield path.constraints, is_floor(got, price.value * WAD, quote.value), path.products
        yield path.constraints, near, path.products


# Expressions in private functions


@proves("what vests newly is at most what is unvested, never reverting", "unvested < 2^128, times < 2^64")
def vesting(calls: Calls) -> Iterator[Claim]:
    unvested, span = variable("unvested", AMOUNT), variable("span", 2**64 - 1, 1)
    elapsed = variable("elapsed", 2**64 - 1)
    paths = calls("newlyVested", unvested, elapsed, span, assuming=[elapsed.value < span.value])
    yield from returning(paths, lambda got: got <= unvested.value)


@proves(
    "the auction's discount is at most its largest, never reverting",
    "any uint16 discount, elapsed up to any uint32 duration above 0",
)
def discount(calls: Calls) -> Iterator[Claim]:
    most, duration = variable("most", 2**16 - 1), variable("duration", 2**32 - 1, 1)
    elapsed = variable("elapsed", 2**32 - 1)
    paths = calls("discountBps", most, elapsed, duration, assuming=[elapsed.value <= duration.value])
    yield from returning(paths, lambda got: got <= most.value)


@proves(
    "a lot is rounded up, so that the last lot empties the position, never reverting", "held < 2^240, any uint16 share"
)
def lot(calls: Calls) -> Iterator[Claim]:
    held, share = variable("held", 2**240 - 1), variable("share", 2**16 - 1)
    for path in calls("lot", held, share):
        if path.returned is None:
            yield path.constraints, IMPOSSIBLE, path.products
        else:
            got = path.returned[0].value
            yield path.constraints, is_ceil(got, product_of(path, held, share), BPS), path.products


@proves(
    "a recall burns at most all units and at most its share, never reverting",
    "units < 2^128, 0 < total < 2^128, value up to total",
)
def burned(calls: Calls) -> Iterator[Claim]:
    units, value, total = variable("units", AMOUNT), variable("value", AMOUNT), variable("total", AMOUNT, 1)
    for path in calls("burned", units, value, total, assuming=[value.value <= total.value]):
        if path.returned is None:
            yield path.constraints, IMPOSSIBLE, path.products
            continue
        got = path.returned[0]
        yield path.constraints, is_floor(got.value, product_of(path, units, value), total.value), path.products
        yield path.constraints, got.value <= units.value, path.products


# What lemmas/Math.sol assumes


@proves(
    "mulDiv is x y / d where x y fits 256 bits, and reverts at d = 0 only",
    "x < 2^192, y < 2^64; x < 2^128, y < 2^128; any d",
)
def mul_div(calls: Calls) -> Iterator[Claim]:
    for most_x, most_y in ((2**192 - 1, 2**64 - 1), (AMOUNT, AMOUNT)):
        x, y, d = variable("x", most_x), variable("y", most_y), variable("d", WORD - 1)
        paths = calls("mulDiv", x, y, d)
        yield from reverting_only(paths, "Panic(0x12)", d.value == 0)
        for path in paths:
            if path.returned is not None:
                yield path.constraints, is_floor(path.returned[0].value, product_of(path, x, y), d.value), path.products


@proves("ceilDiv is the ceiling, and reverts at b = 0 only", "every a and b")
def ceil_div(calls: Calls) -> Iterator[Claim]:
    a, b = variable("a", WORD - 1), variable("b", WORD - 1)
    paths = calls("ceilDiv", a, b)
    yield from reverting_only(paths, "Panic(0x12)", b.value == 0)
    for path in paths:
        if path.returned is not None:
            yield path.constraints, is_ceil(path.returned[0].value, a.value, b.value), path.products


@proves("min, max and saturatingSub are what they are called", "every a and b")
def small_functions(calls: Calls) -> Iterator[Claim]:
    a, b = variable("a", WORD - 1), variable("b", WORD - 1)
    less = a.value < b.value
    yield from returning(calls("minimum", a, b), lambda got: got == z3.If(less, a.value, b.value))
    yield from returning(calls("maximum", a, b), lambda got: got == z3.If(less, b.value, a.value))
    yield from returning(calls("saturatingSub", a, b), lambda got: got == z3.If(less, 0, a.value - b.value))
