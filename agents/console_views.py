"""What the console shows: amounts, and tables of proposals, vaults, agents, trades and limits.

Everything is a picture of one block. The fields of `oracle.protocol` (raw integers) are attributes of each; properties
here give the same as `Amount`. All text from the chain is other people's: nothing of it can steer the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal, localcontext
from typing import Any, Self

from agents.commands._chain import amount, at, printable
from agents.console_errors import Refused, plainly
from oracle.protocol import ProposalState
from oracle.vault_state import EffectiveLimits, VaultReading, reason_names

BPS = 10_000
# Digits that no amount on a chain has: whole tokens are exact.
_EXACT = 100
_PLAIN_WIDTH, _RICH_WIDTH = 120, 150
# More than a screen has: what is left out is counted.
_MOST_ROWS = 40


class Amount(Decimal):
    """Whole tokens, exactly; `raw`: the same in base units, which is what contracts take; `symbol`: of what."""

    raw: int
    decimals: int
    symbol: str

    def __new__(cls, raw: int, decimals: int, symbol: str) -> Self:
        with localcontext(prec=_EXACT):
            found = super().__new__(cls, Decimal(raw).scaleb(-decimals))
        found.raw, found.symbol, found.decimals = raw, symbol, decimals
        return found

    def __reduce__(self) -> Any:
        return type(self), (self.raw, self.decimals, self.symbol)

    def __repr__(self) -> str:
        return f"{amount(self.raw, self.decimals)} {printable(self.symbol)}"

    __str__ = __repr__

    def __format__(self, spec: str, *more: Any) -> str:
        return super().__format__(spec, *more) if spec else repr(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of text. Without columns each row is a name and its value."""

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]]

    def plain(self) -> str:
        """In columns, for files, pipes and tests."""
        rows = [[_line(cell) for cell in row] for row in (*([self.columns] if self.columns else []), *self.rows)]
        count = max(map(len, rows), default=0)
        widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(count)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows]
        return "\n".join([_line(self.title), *(f"  {line}" for line in lines)])

    def rich(self) -> Any:
        """For a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=_line(self.title), title_justify="left", show_header=bool(self.columns))
        for i in range(max((len(row) for row in (self.columns, *self.rows)), default=0)):
            table.add_column(self.columns[i] if self.columns else "", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(_line(cell)) for cell in row))
        return table


def _line(text: str) -> str:
    return printable(" ".join(str(text).split()))


class Shown:
    """Has grids, which a terminal gets as rich tables and everybody else as text."""

    def grids(self) -> Iterable[Grid]:
        raise NotImplementedError

    def __repr__(self) -> str:
        try:
            return "\n".join(grid.plain() for grid in plainly(lambda: list(self.grids()))())
        except Refused as error:
            return f"error: {error}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text("…" if cycle else self._rich() if sys.stdout.isatty() else repr(self))

    def _rich(self) -> str:
        from rich.console import Console

        try:
            grids = plainly(lambda: list(self.grids()))()
        except Refused as error:
            return f"error: {error}"
        console = Console(highlight=False, markup=False, emoji=False)
        with console.capture() as captured:
            for grid in grids:
                console.print(grid.rich() if grid.rows else _line(grid.title))
        return captured.get().rstrip("\n")


class Answer(dict[str, Any], Shown):
    """What a command answers: a dictionary that reads well."""

    __repr__ = Shown.__repr__

    def grids(self) -> Iterable[Grid]:
        title = "dry run: nothing was sent" if self.get("dry_run") else "done"
        yield Grid(title=title, rows=[(k, _value(v)) for k, v in self.items() if k != "dry_run"])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


class View(Shown):
    """One thing of the protocol: the attributes of its `data`, and what a subclass adds."""

    def __init__(self, session: Any, data: Any, block: Any) -> None:
        self._session, self.data, self.block = session, data, block

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "data":
            raise AttributeError(name)
        return getattr(self.data, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(field.name for field in fields(self.data))})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)

    def summary(self) -> Sequence[str]:
        """A row in the table of all."""
        raise NotImplementedError

    def _quote(self, units: int | None) -> Amount | None:
        return None if units is None else self._session.quote(units)

    def _tokens(self, wei: int) -> Amount:
        return self._session.tokens(wei)  # type: ignore[no-any-return]


def _or_none(value: Any) -> str:
    return "not measured" if value is None else str(value)


class ProposalView(View):
    """A proposal: its votes, its times, and what it would do, decoded from the call data."""

    columns = ("id", "title", "state", "for", "against", "quorum", "vote ends")

    @property
    def state(self) -> ProposalState:
        found: ProposalState = self.data.state_at(self.block.timestamp_s)
        return found

    @property
    def title(self) -> str:
        return printable(str(self.data.description).split("#proposer=")[0].partition("\n")[0])

    @property
    def calls(self) -> list[str]:
        """What execution would call, in words: contract, function, arguments."""
        parts = zip(self.data.targets, self.data.values_wei, self.data.calldatas, strict=True)
        return [self._session.describe_call(target, wei, calldata) for target, wei, calldata in parts]

    @property
    def votes_for(self) -> Amount:
        return self._tokens(self.data.for_votes_wei)

    @property
    def votes_against(self) -> Amount:
        return self._tokens(self.data.against_votes_wei)

    @property
    def votes_abstaining(self) -> Amount:
        return self._tokens(self.data.abstain_votes_wei)

    @property
    def quorum(self) -> Amount:
        return self._tokens(self.data.quorum_wei)

    @property
    def manifest(self) -> ManifestView | None:
        """What is voted on, when it is a strategy."""
        return self._session.manifest(self.data.manifest_hash) if self.data.manifest_hash else None

    @property
    def next(self) -> str:
        """What can happen next, and when."""
        now_s, data = self.block.timestamp_s, self.data
        later = {
            ProposalState.PENDING: ("voting begins", data.vote_start_s),
            ProposalState.ACTIVE: (
                "voting ends" if data.objection_ends_at_s is None else "a late flip: only votes against count until",
                data.deadline_s,
            ),
            ProposalState.QUEUED: ("can be executed from", data.eta_s),
            ProposalState.SUCCEEDED: ("to be queued before", data.deadline_s + data.grace_s),
        }
        if self.state not in later:
            return "nothing"
        what, when_s = later[self.state]
        return f"{what} {at(when_s)}{f', in {_span(when_s - now_s)}' if when_s > now_s else ''}"

    def summary(self) -> Sequence[str]:
        votes = (self.votes_for, self.votes_against, self.quorum)
        return (str(self.data.id), self.title, self.state.name.lower(), *map(str, votes), at(self.data.deadline_s))

    def grids(self) -> Iterable[Grid]:
        rows = [
            ("id", str(self.data.id)), ("state", self.state.name.lower()), ("next", self.next),
            ("proposer", self.data.proposer), ("for", str(self.votes_for)), ("against", str(self.votes_against)),
            ("abstaining", str(self.votes_abstaining)), ("quorum", str(self.quorum)),
        ]  # fmt: skip
        rows += [("would do" if self.data.executed_at_s is None else "did", call) for call in self.calls]
        yield Grid(title=f"proposal: {self.title}", rows=rows)
        if (manifest := self.manifest) is not None:
            yield from manifest.grids()


def _span(seconds: int) -> str:
    """Roughly how long, in the two largest units."""
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            parts.append(f"{seconds // size} {unit}")
            seconds %= size
    return " ".join(parts[:2])


class ManifestView(View):
    """A version of a strategy, as it is voted on: limits beside the constitution's ceilings."""

    columns = ("hash", "agent", "stage", "capital", "artefact")

    @property
    def capital(self) -> Amount | None:
        return self._quote(self.data.capital)

    @property
    def reward_cap(self) -> Amount:
        return self._tokens(self.data.reward_cap_wei)

    @property
    def reward_rate(self) -> Amount:
        """Tokens for a whole quote token of profit."""
        return self._tokens(self.data.reward_rate * self._session.quote_unit)

    def summary(self) -> Sequence[str]:
        data = self.data
        return (data.hash, str(data.agent_id), data.stage.name.lower(), str(self.capital), data.artefact_hash)

    def grids(self) -> Iterable[Grid]:
        data = self.data
        rows = [
            ("manifest", data.hash), ("artefact", data.artefact_hash), ("agent", str(data.agent_id)),
            ("stage", data.stage.name.lower()), ("changes", data.updates or "nothing: it is a new strategy"),
            ("assets", ", ".join(map(self._session.symbol, data.assets))), ("capital", str(self.capital)),
            ("reward", f"{self.reward_rate} for a {self._session.quote_symbol} of profit, "
                       f"{self.reward_cap} an epoch at most"),
        ]  # fmt: skip
        yield Grid(title="what was voted on, or is", rows=rows)
        yield from LimitsView(own=data.limits, ceilings=self._session.ceilings(self.block.number)).grids()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LimitsView(Shown):
    """Limits beside the constitution's ceilings; the stricter binds. In basis points, `max_trades_per_day` a count."""

    ceilings: EffectiveLimits
    own: EffectiveLimits | None = None
    now: Mapping[str, int] | None = None

    @property
    def in_force(self) -> EffectiveLimits:
        """The stricter of both."""
        own = self.own or self.ceilings
        names = [field.name for field in fields(EffectiveLimits)]
        return EffectiveLimits(**{name: min(getattr(own, name), getattr(self.ceilings, name)) for name in names})

    def grids(self) -> Iterable[Grid]:
        columns: dict[str, Callable[[str], Any]] = {"limit": str}
        columns |= {"own": lambda name: getattr(self.own, name)} if self.own else {}
        columns |= {"ceiling": lambda name: getattr(self.ceilings, name)}
        columns |= {"in force": lambda name: getattr(self.in_force, name)} if self.own else {}
        if (now := self.now) is not None:
            columns["now"] = lambda name: now.get(name, "")
        names = [field.name for field in fields(EffectiveLimits)]
        yield Grid(
            title="limits" if self.own else "the constitution's ceilings", columns=list(columns),
            rows=[[str(read(name)) for read in columns.values()] for name in names],
        )  # fmt: skip


class StrategyView(View):
    """A strategy that was voted in."""

    columns = ("id", "agent", "stage", "versions", "vault")

    @property
    def manifest(self) -> ManifestView:
        """The version that runs."""
        found: ManifestView = self._session.manifest(self.data.version)
        return found

    def summary(self) -> Sequence[str]:
        data = self.data
        return (data.id, str(data.agent_id), data.stage.name.lower(), str(len(data.versions)), data.vault)

    def grids(self) -> Iterable[Grid]:
        data = self.data
        rows = [
            ("id", data.id), ("agent", str(data.agent_id)), ("vault", data.vault), ("stage", data.stage.name.lower()),
            ("versions", str(len(data.versions))), ("deployed", at(data.deployed_at_s)),
        ]  # fmt: skip
        yield Grid(title="strategy", rows=rows)
        yield from self.manifest.grids()


class AgentView(View):
    """An agent: its keys, its stake, what it earned."""

    columns = ("agent", "controller", "bond", "deposit", "unclaimed", "trades")

    @property
    def bond(self) -> Amount:
        return self._tokens(self.data.bond_wei)

    @property
    def deposit(self) -> Amount | None:
        return self._quote(self.data.deposit)

    @property
    def unclaimed(self) -> Amount:
        return self._tokens(self.data.unclaimed_wei)

    def summary(self) -> Sequence[str]:
        money = map(str, (self.bond, self.deposit, self.unclaimed))
        return (str(self.data.id), self.data.controller, *money, str(self.data.trade_count))

    def grids(self) -> Iterable[Grid]:
        data = self.data
        rows = [
            ("id", str(data.id)), ("controller", data.controller), ("signing key", data.signing_key),
            ("uri", data.uri), ("bond", str(self.bond)), ("deposit", str(self.deposit)),
            ("rewarded", str(self._tokens(data.rewarded_wei))),
            ("clawed back", str(self._tokens(data.clawed_back_wei))), ("claimed", str(self._tokens(data.claimed_wei))),
            ("unclaimed", str(self.unclaimed)), ("vault", data.vault or "none"), ("trades", str(data.trade_count)),
        ]  # fmt: skip
        yield Grid(title=f"agent {data.id}", rows=rows)


class VaultView(View):
    """A vault, measured at its block. `contract`, and every name that is no field here, are its contract's."""

    columns = ("vault", "state", "worth", "profit", "drawdown", "limit", "trades")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "data":
                raise
            return getattr(self.contract, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.contract)})

    @property
    def contract(self) -> Any:
        return self._session.vault_contract(self.data.address)

    @property
    def reading(self) -> VaultReading:
        """Everything that a decision about it depends on, at its block."""
        found: VaultReading = self._session.reading(self.data.address, self.block)
        return found

    @property
    def state(self) -> Any:
        return self.reading.state

    @property
    def reasons(self) -> list[str]:
        """Why it is not ACTIVE."""
        return reason_names(self.reading.reasons)

    @property
    def value(self) -> Amount | None:
        return self._quote(self.reading.value)

    @property
    def profit(self) -> Amount | None:
        return self._quote(self.reading.profit)

    @property
    def drawdown_bps(self) -> int:
        """How far the unit price is below its peak."""
        return fall_bps(self.reading.peak_wad, self.reading.unit_price_wad)

    @property
    def daily_loss_bps(self) -> int:
        return fall_bps(self.reading.reference_wad, self.reading.unit_price_wad)

    @property
    def limits(self) -> LimitsView:
        """As voted, beside the ceilings, and how much of each is used."""
        reading, ceilings = self.reading, self._session.ceilings(self.block.number)
        used = {
            "max_trades_per_day": reading.trades_today, "max_daily_loss_bps": self.daily_loss_bps,
            "max_drawdown_bps": self.drawdown_bps, "hard_drawdown_bps": self.drawdown_bps,
        }  # fmt: skip
        if reading.value:
            used["max_daily_turnover_bps"] = reading.turnover_today * BPS // reading.value
            largest = max((reading.asset_value(p.token) for p in reading.positions), default=0)
            used["max_position_bps"] = largest * BPS // reading.value
        return LimitsView(own=self.data.limits, ceilings=ceilings, now=used)

    @property
    def trades(self) -> Any:
        """Its own, oldest first."""
        return self._session.trades(vault=self.data.address)

    @property
    def holdings(self) -> list[Amount]:
        """What it has of each token, by its books."""
        reading = self.reading
        held = [self._session.of(p.token, p.amount) for p in reading.positions if p.amount]
        return [self._session.quote(reading.quote_held), *held]

    def summary(self) -> Sequence[str]:
        reading, quote = self.reading, self._quote
        state = ", ".join([reading.state.name.lower(), *self.reasons])
        drawdown = (str(self.drawdown_bps), str(self.limits.in_force.max_drawdown_bps))
        money = (_or_none(quote(reading.value)), _or_none(quote(reading.profit)))
        return (self.data.address, state, *money, *drawdown, str(self.data.trade_count))

    def grids(self) -> Iterable[Grid]:
        data, limits = self.data, self.limits
        rows = [
            ("address", data.address), ("strategy", data.strategy_id), ("agent", str(data.agent_id)),
            ("state", self.reading.state.name.lower()), ("because", ", ".join(self.reasons) or "all is well"),
            ("worth", str(self.value)), ("profit", str(self.profit)), ("holds", ", ".join(map(str, self.holdings))),
            ("drawdown", f"{self.drawdown_bps} bps of {limits.in_force.max_drawdown_bps}, sold for good at "
                         f"{limits.in_force.hard_drawdown_bps}"),
            ("trades", f"{data.trade_count}, {data.refusal_count} refused"), ("block", str(self.block.number)),
        ]  # fmt: skip
        yield Grid(title=f"vault {data.address}", rows=rows)
        yield from limits.grids()


def fall_bps(from_wad: int, to_wad: int) -> int:
    """How far it fell, rounded down; 0 where it rose."""
    return max(from_wad - to_wad, 0) * BPS // from_wad if from_wad else 0


class TradeView(View):
    """One entry of the ledger. `explain(trade)` says why."""

    columns = ("trade", "vault", "number", "paid", "got", "worth after", "at")

    @property
    def paid(self) -> Amount:
        return self._session.of(self.data.token_in, self.data.amount_in)  # type: ignore[no-any-return]

    @property
    def got(self) -> Amount:
        return self._session.of(self.data.token_out, self.data.amount_out)  # type: ignore[no-any-return]

    @property
    def worth_after(self) -> Amount | None:
        return self._quote(self.data.net_asset_value)

    @property
    def shortfall(self) -> Amount | None:
        """Below the oracle's prices."""
        return self._quote(self.data.shortfall)

    def explain(self, explanations: Any = "") -> Any:
        """See `explain`."""
        return self._session.explain(self, explanations)

    def summary(self) -> Sequence[str]:
        data = self.data
        amounts = map(str, (self.paid, self.got, self.worth_after))
        return (data.id, data.vault, str(data.sequence), *amounts, at(data.at_s))

    def grids(self) -> Iterable[Grid]:
        data = self.data
        rows = [
            ("id", data.id), ("vault", data.vault), ("agent", str(data.agent_id)), ("number", str(data.sequence)),
            ("paid", str(self.paid)), ("got", str(self.got)), ("shortfall", str(self.shortfall)),
            ("worth after", str(self.worth_after)), ("artefact", data.artefact_hash),
            ("explanation", data.explanation_hash), ("at", f"{at(data.at_s)}, block {data.block}"),
            ("transaction", data.transaction),
        ]  # fmt: skip
        yield Grid(title=f"trade {data.sequence}: {'bought' if data.is_buy else 'sold'}", rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExplanationView(Shown):
    """Why a trade was made. `verdict`: `explained`, `unexplained`, or `forged`; of the last two, `problem` says why."""

    trade: TradeView
    verdict: str
    problem: str = ""
    # What it says, only where it hashes to what the ledger names.
    document: Mapping[str, Any] | None = None

    def grids(self) -> Iterable[Grid]:
        data = self.trade.data
        rows = [("trade", data.id), ("paid", str(self.trade.paid)), ("got", str(self.trade.got))]
        rows.append(("explanation", data.explanation_hash))
        if self.verdict == "explained" and self.document is not None:
            rows.append(("hash", "matches the ledger's"))
            rows += [(name, _value(value)) for name, value in _decision(self.document).items()]
        else:
            rows.append((self.verdict.upper(), self.problem))
        yield Grid(title=f"trade {data.sequence} of vault {data.vault}: {self.verdict}", rows=rows)


def _decision(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of an explanation people read first; the rest is in its `document`."""
    found: dict[str, Any] = {}
    for part in ("artefact", "decision", "plan", "interval"):
        content = document.get(part)
        if isinstance(content, Mapping):
            found |= {f"{part} {name}": v for name, v in content.items() if not isinstance(v, Mapping | list)}
    observation = document.get("observation")
    if isinstance(observation, Mapping) and isinstance(observation.get("features"), Mapping | list):
        found["observed"] = observation["features"]
    return found


class Collection(Shown):
    """All there are of a kind at the latest block, oldest first; by number, or by what a key of its own names.

    Names that are no attribute here are calls of `contract`, where the kind has one.
    """

    def __init__(
        self, what: str, fetch: Callable[[], list[Any]], view: type[View], key: str, *, also: Sequence[str] = (),
        contract: Any = None, is_numbered: bool = False,
    ) -> None:  # fmt: skip
        self._what, self._fetch, self._view, self._key, self._also = what, plainly(fetch), view, key, also
        self._contract, self._is_numbered = contract, is_numbered

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self._contract is None:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return getattr(self._contract, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(dir(self._contract) if self._contract is not None else ())})

    def __iter__(self) -> Iterator[Any]:
        return iter(self._fetch())

    def __len__(self) -> int:
        return len(self._fetch())

    def __getitem__(self, key: Any) -> Any:
        items = self._fetch()
        if isinstance(key, slice):
            return items[key]
        wanted = getattr(key, self._key, key)
        for item in items:
            if any(_same(getattr(item.data, name), wanted) for name in (self._key, *self._also)):
                return item
        if type(wanted) is int and not self._is_numbered and -len(items) <= wanted < len(items):
            return items[wanted]
        raise Refused(self._missing(wanted, items))

    def _missing(self, wanted: Any, items: Sequence[Any]) -> str:
        if not items:
            return f"there are no {self._what}s yet"
        there = ", ".join(str(getattr(item.data, self._key)) for item in items[-3:])
        which = "there is" if len(items) == 1 else f"of the {len(items)} the last are"
        return f"there is no {self._what} {printable(str(wanted))}: {which} {there}"

    def _ipython_key_completions_(self) -> list[Any]:
        return [getattr(item.data, self._key) for item in self._fetch()]

    def grids(self) -> Iterable[Grid]:
        items = self._fetch()
        shown = items[-_MOST_ROWS:]
        left_out = f", the last {len(shown)}" if len(shown) < len(items) else ""
        columns = self._view.columns  # type: ignore[attr-defined]
        title = f"{len(items)} {self._what}{'' if len(items) == 1 else 's'}{left_out}"
        yield Grid(title=title, columns=columns if items else (), rows=[item.summary() for item in shown])


def _same(found: Any, wanted: Any) -> bool:
    """Whether both name the same: addresses and hashes in any case, numbers also as text."""
    if isinstance(wanted, bytes):
        wanted = f"0x{wanted.hex()}"
    if isinstance(wanted, bool) or wanted is None:
        return False
    return str(found).lower() == str(wanted).lower()
