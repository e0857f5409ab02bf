"""The Grafana dashboard of the agent daemon, from the table of metrics: agents/operations/dashboard.json.

    python tools/dashboard.py            write it
    python tools/dashboard.py --check    say whether it is what this file makes

Grafana imports the file as it is, and asks for the Prometheus to read from.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, VisibilityMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableOption, VariableRefresh, VariableSort

TARGET: Final = Path(__file__).resolve().parent.parent / "agents" / "operations" / "dashboard.json"
BASIS_POINTS: Final = "suffix: bps"
QUOTE: Final = "suffix: quote"
_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="$datasource")
_HERE: Final = 'instance=~"$instance"'
_VAULTS: Final = f'{_HERE},vault=~"$vault"'
# Grafana's grid is 24 wide.
_WIDTH, _HEIGHT, _STAT_WIDTH, _STAT_HEIGHT = 8, 8, 4, 4
_MOST: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture. `queries`: PromQL and the legend of each. `is_stat`: a number, not a line over time."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    help: str = ""
    is_stat: bool = False


def _now(title: str, unit: str, query: str, help: str = "") -> Panel:
    return Panel(title=title, unit=unit, queries=((query, ""),), help=help, is_stat=True)


def _line(title: str, unit: str, *queries: tuple[str, str], help: str = "") -> Panel:
    return Panel(title=title, unit=unit, queries=queries, help=help)


def _quantiles(metric: str, by: str = "") -> tuple[tuple[str, str], ...]:
    """Median and the slowest hundredth, for each value of a label."""
    labels, name = (f"le, {by}", f"{{{{{by}}}}} ") if by else ("le", "")
    rate = f"sum by ({labels}) (rate({metric}_bucket{{{_HERE}}}[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {rate})", f"{name}p{round(100 * q)}") for q in (0.5, 0.99))


ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    ("Is all well?", (
        _now("Operator needed", units.BoolYesNo, f"max(marketflow_operator_needed{{{_HERE}}})",
             "Yes: a person has to act; `marketflow agent status` says what."),
        _now("Heartbeat", units.Seconds, f"max(time() - marketflow_heartbeat_timestamp_seconds{{{_HERE}}})",
             "How long ago the slowest daemon said that it lives."),
        _now("Breaker open", units.BoolYesNo, f"max(marketflow_circuit_open{{{_HERE}}})"),
        _now("Paused", units.BoolYesNo, f"max(marketflow_paused{{{_HERE}}})"),
        _now("Nodes that answer", units.Short, f"min(sum by (instance) (marketflow_rpc_up{{{_HERE}}}))"),
        _now("Profit", QUOTE, f"sum(marketflow_profit_quote{{{_VAULTS}}})"),
    )),
    ("Trading", (
        _line("Decisions", units.Short,
              (f"sum(increase(marketflow_decisions_total{{{_VAULTS}}}[$__rate_interval]))", "decisions")),
        _line("Held back, by clause", units.Short,
              (f"sum by (clause) (increase(marketflow_refusals_total{{{_VAULTS}}}[$__rate_interval]))", "{{clause}}")),
        _line("Orders that ended", units.Short,
              (f"sum by (outcome) (increase(marketflow_trades_total{{{_VAULTS}}}[$__rate_interval]))", "{{outcome}}")),
        _line("Cycles", units.Short,
              (f"sum by (outcome) (increase(marketflow_cycles_total{{{_HERE}}}[$__rate_interval]))", "{{outcome}}")),
        _line("Decisions that are not final", units.Short,
              (f"sum by (state) (marketflow_queue_depth{{{_HERE}}})", "{{state}}"),
              help="By their state in the journal. `mined` wait for depth; the others should not stay."),
    )),
    ("Latency", (
        _line("Steps of a cycle", units.Seconds, *_quantiles("marketflow_step_seconds", "step")),
        _line("From decision to signed", units.Seconds, *_quantiles("marketflow_decision_to_signed_seconds")),
        _line("Where the time goes", units.Seconds,
              (f"sum by (step) (rate(marketflow_step_seconds_sum{{{_HERE}}}[$__rate_interval]))", "{{step}}"),
              help="Seconds spent in each step, per second."),
    )),
    ("Chain", (
        _line("Head", units.NoUnit, (f"marketflow_head_number{{{_HERE}}}", "{{instance}}")),
        _line("Age of the head", units.Seconds, (f"marketflow_head_lag_seconds{{{_HERE}}}", "{{instance}}")),
        _line("Age of the rounds", units.Seconds,
              (f"max by (asset) (marketflow_oracle_age_seconds{{{_HERE}}})", "{{asset}}"),
              (f"max by (asset) (marketflow_oracle_max_age_seconds{{{_HERE}}})", "{{asset}} allowed")),
        _line("Nonce gaps", units.Short, (f"marketflow_nonce_gap{{{_HERE}}} != 0", "{{account}}"),
              help="Nothing to see is good."),
        _line("Reorgs, fee bumps, replaced", units.Short,
              (f"sum(increase(marketflow_reorgs_total{{{_HERE}}}[$__rate_interval]))", "reorgs"),
              (f"sum(increase(marketflow_fee_bumps_total{{{_HERE}}}[$__rate_interval]))", "fee bumps"),
              (f"sum(increase(marketflow_replaced_total{{{_HERE}}}[$__rate_interval]))", "replaced")),
    )),
    ("Nodes", (
        _line("Requests", units.RequestsPerSecond,
              (f"sum by (host, outcome) (rate(marketflow_rpc_requests_total{{{_HERE}}}[$__rate_interval]))",
               "{{host}} {{outcome}}")),
        _line("Requests by method", units.RequestsPerSecond,
              (f"sum by (method) (rate(marketflow_rpc_requests_total{{{_HERE}}}[$__rate_interval]))", "{{method}}")),
        _line("Answers", units.Seconds, *_quantiles("marketflow_rpc_latency_seconds", "host")),
        _line("Which answer", units.BoolYesNo, (f"marketflow_rpc_up{{{_HERE}}}", "{{host}}")),
    )),
    ("Money", (
        _line("Profit", QUOTE, (f"topk({_MOST}, marketflow_profit_quote{{{_VAULTS}}})", "{{agent}} {{vault}}"),
              help=f"The best {_MOST} of the chosen vaults."),
        _line("Least profit", QUOTE,
              (f"bottomk({_MOST}, marketflow_profit_quote{{{_VAULTS}}})", "{{agent}} {{vault}}")),
        _line("Drawdown", BASIS_POINTS,
              (f"topk({_MOST}, marketflow_drawdown_bps{{{_VAULTS}}})", "{{agent}} {{vault}}"),
              (f"min(marketflow_drawdown_limit_bps{{{_VAULTS}}})", "the lowest limit")),
        _line("Unit price", units.NoUnit,
              (f"topk({_MOST}, marketflow_unit_price{{{_VAULTS}}})", "{{agent}} {{vault}}")),
    )),
    ("Process", (
        _line("Memory", units.BytesIEC, (f"marketflow_resident_bytes{{{_HERE}}}", "{{instance}}")),
        _line("Open files", units.Short, (f"marketflow_open_files{{{_HERE}}}", "{{instance}}")),
        _line("Journal", units.BytesIEC, (f"marketflow_journal_bytes{{{_HERE}}}", "{{instance}}")),
        _line("Clock skew", units.Seconds, (f"marketflow_clock_skew_seconds{{{_HERE}}}", "{{instance}}"),
              help="The machine's clock less the chain's; far below 0 it judges wrongly what is late."),
    )),
)  # fmt: skip


def make() -> str:
    """The dashboard as JSON."""
    made = (
        dashboard.Dashboard("MarketFlow agents")
        .uid("marketflow-agents")
        .description("Generated by tools/dashboard.py. Change that, not this.")
        .tags(["marketflow"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("utc")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("instance", "label_values(marketflow_heartbeat_timestamp_seconds, instance)"))
        .with_variable(_variable("vault", 'label_values(marketflow_decisions_total{instance=~"$instance"}, vault)'))
    )
    ids = count(1)
    for title, panels in ROWS:
        made = made.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            made = made.with_panel(_picture(panel).id(next(ids)))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .query(query)
        .datasource(_SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _picture(panel: Panel) -> stat.Panel | timeseries.Panel:
    picture = _stat() if panel.is_stat else _timeseries()
    picture = picture.title(panel.title).unit(panel.unit).datasource(_SOURCE)
    if panel.help:
        picture = picture.description(panel.help)
    for number, (query, legend) in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query).ref_id(chr(ord("A") + number))
        picture = picture.with_target(target.instant() if panel.is_stat else target.range().legend_format(legend))
    return picture


def _stat() -> stat.Panel:
    return stat.Panel().span(_STAT_WIDTH).height(_STAT_HEIGHT)


def _timeseries() -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    )
    return timeseries.Panel().span(_WIDTH).height(_HEIGHT).show_points(VisibilityMode.NEVER).legend(legend)


def main() -> None:
    """Writes the file, or with --check ends with 1 when it differs."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true", help="only compare")
    made = make()
    if not options.parse_args().check:
        TARGET.write_text(made)
    elif TARGET.read_text() != made:
        sys.exit(f"{TARGET.name} is not what tools/dashboard.py makes: run it")


if __name__ == "__main__":
    main()
