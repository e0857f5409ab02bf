"""What the outcomes say: expected values with their intervals, a table, JSON, and a picture.

A cheat is compared with its honest twin on the same path, in three coins: tokens (reward), dollars (custody: deposit
lost, gifts, what an accomplice gained) and gas. A gambler's expected value is absolute. In a fair market the gain from
price moves on what one holds has expectation zero, whatever one does, so it is taken out (a control variate): what is
left is what the rules give or take. The interval is Student's over paths, at 95 %.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.economy.simulate import TWINS, Outcome
from benchmarks.economy.stage import CAPITAL, REWARD_RATE, USD, WAD

# Assumptions, printed with every table.
TOKEN_USD = 1.0
GAS_PRICE_GWEI, ETH_USD = 1.0, 2000.0
# Whole transactions, rounded from tests/contracts/gas_snapshot.json.
GAS = {
    "trade": 320_000, "swap": 110_000, "poke": 210_000, "settle": 150_000, "claim": 260_000, "withdraw": 260_000,
    "transfer": 60_000,
}  # fmt: skip
RATE = REWARD_RATE * USD / WAD  # tokens for a dollar of profit
# Tokens (or dollars) that are shown as zero.
DUST = 0.05
# Known limitations, which docs/security.md describes: these are expected to pay.
KNOWN_TO_PAY = frozenset({"self-dealing, nobody looks", "gap gambler"})
GAMBLERS = ("random long", "random short", "doubles after losses", "many, the lucky one kept")
PAIR = "long and short twins, together"
HONEST = ("buy and hold", "random long", "random short", "some skill")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over paths and half the width of its interval."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind. `against`: the twin it is compared with, or what its own figures are."""

    kind: str
    against: str
    paths: int
    agents: int
    tokens: Estimate
    dollars: Estimate
    gas_usd: float
    # Tokens at TOKEN_USD, dollars, gas.
    total_usd: Estimate
    dao_usd: Estimate
    # The total, less the voted rate on what the DAO gained: who only traded less, at less cost, has earned that.
    beyond_fee_usd: Estimate
    break_even: str

    @property
    def pays(self) -> bool:
        """It gains, more than its fee for what the DAO gained, and more than noise can explain."""
        return self.total_usd.low > 0 and self.beyond_fee_usd.low > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    cheats: list[Row]
    gamblers: list[Row]
    honest: list[Row]
    facts: dict[str, Any]

    def surprises(self) -> list[str]:
        """Kinds that pay and were not known to."""
        rows = self.cheats + self.gamblers
        return [row.kind for row in rows if row.pays and row.kind not in KNOWN_TO_PAY]


def estimate(values: Sequence[float]) -> Estimate:
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, math.inf)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, _student(n - 1) * deviation / math.sqrt(n))


def compute_report(outcomes: Sequence[Outcome]) -> Report:
    """Rows in a fixed order; the same outcomes give the same report."""
    fair = [o for o in outcomes if o.market == "fair"]
    honest = {(o.kind, o.path, o.seed): o for o in fair}
    cheats = []
    for kind, twin in TWINS.items():
        of_kind = [o for o in fair if o.kind == kind]
        pairs = [(o, honest[twin, o.path, o.seed]) for o in of_kind]
        cheats.append(_row(kind, f"against {twin}", of_kind, [_less(_coins(a), _coins(b)) for a, b in pairs]))
    gamblers = [_absolute(kind, [o for o in fair if o.kind == kind]) for kind in GAMBLERS]
    gamblers.insert(2, _absolute(PAIR, [o for o in fair if o.kind in GAMBLERS[:2]], each=2))
    gamblers.append(_absolute("gap gambler", [o for o in outcomes if o.kind == "gap gambler"]))
    rows = []
    for market in ("fair", "drift"):
        for kind in HONEST:
            of_kind = [o for o in outcomes if o.market == market and o.kind == kind]
            if of_kind:
                rows.append(_row(kind, f"{market} market", of_kind, [_coins(o, adjusted=False) for o in of_kind]))
    return Report(cheats=cheats, gamblers=gamblers, honest=rows, facts=_facts(outcomes))


def _absolute(kind: str, outcomes: Sequence[Outcome], each: float = 1) -> Row:
    coins = [tuple(each * coin for coin in _coins(o)) for o in outcomes]
    return _row(kind, "in a gap market" if kind == "gap gambler" else "in a fair market", outcomes, coins)


def _coins(o: Outcome, *, adjusted: bool = True) -> tuple[float, float, float, float]:
    """Tokens, dollars, gas in dollars, and the DAO's dollars."""
    moves = o.market_gain if adjusted else 0.0
    gas = sum(GAS[what] * count for what, count in o.transactions.items()) * GAS_PRICE_GWEI * 1e-9 * ETH_USD
    return o.tokens - RATE * moves, o.dollars, gas, o.dao - moves


def _less(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(x - y for x, y in zip(a, b, strict=True))


def _row(kind: str, against: str, outcomes: Sequence[Outcome], coins: Sequence[tuple[float, ...]]) -> Row:
    by_path: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for outcome, each in zip(outcomes, coins, strict=True):
        by_path[outcome.path].append(each)
    means = [[math.fsum(column) / len(column) for column in zip(*lived, strict=True)] for lived in by_path.values()]
    tokens, dollars, gas, dao = (estimate([mean[i] for mean in means]) for i in range(4))
    total = estimate([t * TOKEN_USD + d - g for t, d, g, _ in means])
    beyond = estimate([(t - RATE * p) * TOKEN_USD + d - g for t, d, g, p in means])
    unearned = estimate([t - RATE * p for t, _, _, p in means])
    only_its_fee = dollars.mean == 0 and unearned.low < DUST
    return Row(
        kind=kind,
        against=against,
        paths=len(means),
        agents=len(outcomes),
        tokens=tokens,
        dollars=dollars,
        gas_usd=gas.mean,
        total_usd=total,
        dao_usd=dao,
        beyond_fee_usd=beyond,
        break_even=break_even(
            Estimate(0.0, 0.0) if only_its_fee else tokens, Estimate(dollars.mean - gas.mean, dollars.half)
        ),
    )


def break_even(tokens: Estimate, money: Estimate) -> str:
    """For which price of a token the kind gains, from the means; what is within noise of zero counts as zero."""
    t, m = (each.mean if abs(each.mean) > each.half else 0.0 for each in (tokens, money))
    if t <= 0 and m <= 0:
        return "never"
    if t >= 0 and m >= 0:
        return "always"
    return f"{'below' if t < 0 else 'above'} ${abs(m / t):,.2f}"


def _facts(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    covered = [o.covered_days for o in outcomes if o.kind == "self-dealing, nobody looks"]
    gaps = [o for o in outcomes if o.kind == "gap gambler"]
    return {
        "agents": len(outcomes),
        "paths": len({o.path for o in outcomes}),
        "agents_with_uncollected_loss": sum(o.uncollected > 1 for o in outcomes),
        "gap_uncollected_usd": math.fsum(o.uncollected for o in gaps) / max(1, len(gaps)),
        "first_day_deposit_did_not_cover": min((days for days in covered if days is not None), default=None),
        "refused": _sum(o.refused for o in outcomes),
    }


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for each in counts:
        for name, count in each.items():
            total[name] += count
    return dict(sorted(total.items()))


def _student(freedom: int) -> float:
    """The 97.5 % quantile, to 1 % from 4 on: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5."""
    z, n = 1.959964, freedom
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


# For people


def assumptions() -> str:
    return (
        f"a token is worth ${TOKEN_USD:g}, gas {GAS_PRICE_GWEI:g} gwei, ether ${ETH_USD:,.0f}; "
        f"capital ${CAPITAL / USD:,.0f} an agent, reward {RATE:g} token for a dollar of profit"
    )


def format_table(report: Report) -> str:
    """The table for people: means with half their 95 % interval."""
    lines = [
        f"Per agent. Assumed: {assumptions()}.",
        "At the end of a line: for which price of a token it would gain, more than its fee.",
    ]
    lines += ["", "Cheats, against their honest twins in a fair market", _HEAD, *map(_line, report.cheats)]
    lines += ["", "Gamblers, beyond the market's moves", _HEAD, *map(_line, report.gamblers)]
    lines += ["", "Honest agents as they are, the market's moves included: beta is not skill", _HEAD[: -len(_JUDGED)]]
    lines += [_line(row, judged=False) for row in report.honest]
    gap, day = report.facts["gap_uncollected_usd"], report.facts["first_day_deposit_did_not_cover"]
    lines += ["", f"Of a gap gambler's loss ${gap:,.0f} could not be collected, on average."]
    if day is not None:
        lines += [
            f"Self-dealing that nobody stops has taken more than the deposit after {day:.0f} days at the earliest."
        ]
    return "\n".join(lines)


_JUDGED = f"{'beyond its fee, $':>18}"
_HEAD = f"{'':<30}{'paths':>5}{'tokens':>18}{'custody, $':>17}{'gas, $':>7}{'in all, $':>17}{'DAO, $':>19}{_JUDGED}"


def _line(row: Row, judged: bool = True) -> str:
    name = row.kind if row.against.startswith(("against", "in a")) else f"{row.kind}, {row.against}"
    return (
        f"{name:<30}{row.paths:>5}{_show(row.tokens):>18}{_show(row.dollars):>17}{row.gas_usd:>7,.0f}"
        f"{_show(row.total_usd):>17}{_show(row.dao_usd):>19}"
        + (f"{_show(row.beyond_fee_usd):>18}  {row.break_even}{', PAYS' if row.pays else ''}" if judged else "")
    )


def _show(e: Estimate) -> str:
    if abs(e.mean) < DUST and e.half < DUST:
        return "0"
    digits = 0 if abs(e.mean) >= 100 else 1
    return f"{e.mean:+,.{digits}f} ± {e.half:,.{digits}f}"


def summary(report: Report) -> str:
    """One line."""
    judged = report.cheats + report.gamblers
    paying = [row.kind for row in judged if row.pays]
    surprises = report.surprises()
    return (
        f"economy: {report.facts['agents']:,} agents on {report.facts['paths']} price paths; "
        f"of {len(report.cheats)} cheats and {len(report.gamblers)} gambles {len(judged) - len(paying)} do not pay; "
        f"known to pay: {', '.join(kind for kind in paying if kind in KNOWN_TO_PAY) or 'none'}; "
        f"not known: {', '.join(surprises) or 'none'}"
    )


def to_json(report: Report, config: dict[str, Any]) -> str:
    """Sorted, so that two equal runs give equal bytes."""
    raw = {"config": config, "assumptions": assumptions(), "known_to_pay": sorted(KNOWN_TO_PAY), **asdict(report)}
    return json.dumps(raw, indent=1, sort_keys=True) + "\n"


def draw_picture(report: Report, path: Path) -> None:
    """Expected values with their intervals, and how they depend on the token's price."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = report.cheats + report.gamblers
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 7), width_ratios=(3, 2), layout="constrained")
    for y, row in enumerate(reversed(rows)):
        color = "tab:red" if row.pays else "tab:blue"
        left.errorbar(row.total_usd.mean, y, xerr=row.total_usd.half, fmt="o", color=color, markersize=5, capsize=3)
        left.plot(row.beyond_fee_usd.mean, y, "o", markerfacecolor="none", color=color, markersize=9)
    left.set_yticks(range(len(rows)), [row.kind for row in reversed(rows)])
    left.axvline(0, color="black", linewidth=0.8)
    left.set_xscale("symlog", linthresh=10)
    left.margins(x=0.08)
    left.set_xlabel("dollars an agent, log beyond ±10; 95 % interval; ○ beyond its fee for what the DAO gained")
    left.set_title(f"What a cheat or a gamble adds, gas paid, at ${TOKEN_USD:g} a token (red: it pays)", fontsize=11)
    prices = [10 ** (exponent / 20) for exponent in range(-40, 41)]
    for row in rows:
        if row.break_even not in ("never", "always"):
            fixed = row.dollars.mean - row.gas_usd
            right.plot(prices, [row.tokens.mean * price + fixed for price in prices], label=row.kind)
    right.axhline(0, color="black", linewidth=0.8)
    right.axvline(TOKEN_USD, color="black", linewidth=0.8, linestyle=":")
    right.set_xscale("log")
    right.set_yscale("symlog", linthresh=10)
    right.set_xlabel("dollars for a token (dotted: assumed on the left)")
    right.set_title("What depends on the token's price", fontsize=11)
    right.legend(loc="lower left", fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)
