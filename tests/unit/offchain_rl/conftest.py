"""Price series for tests: random walks of integers, the same on every machine."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from offchain_rl.prices import Bars

# A Sunday, midnight UTC.
START_S = 1_700_352_000

CreateBars = Callable[..., Bars]


@pytest.fixture(scope="session")
def create_bars() -> CreateBars:
    """A factory: `create_bars(count, seed=…, step_bps=…, drift_bps=…, bar_s=…)`."""

    def create_bars(
        count: int,
        *,
        seed: int = 1,
        step_bps: int = 50,
        drift_bps: int = 0,
        bar_s: int = 1800,
        start_e8: int = 2000 * 10**8,
    ) -> Bars:
        rng = random.Random(seed)
        close_e8, opens, closes = 2000 * 10**8, [], []
        for _ in range(count):
            opens.append(close_e8)
            close_e8 = max(close_e8 * (10_000 + drift_bps + rng.randint(-step_bps, step_bps)) // 10_000, 1)
            closes.append(close_e8)
        highs, lows = map(max, opens, closes), map(min, opens, closes)
        return Bars(
            source="random walk",
            bar_s=bar_s,
            timestamps_s=START_S + bar_s * np.arange(count),
            open_e8=np.array(opens),
            high_e8=np.array(list(highs)),
            low_e8=np.array(list(lows)),
            close_e8=np.array(closes),
        )

    return create_bars


@pytest.fixture
def shared_data() -> Path:
    """The folder of real market data, or a skip where there is none."""
    folder = os.environ.get("MARKETFLOW_DATA_DIR")
    if not folder:
        pytest.skip("MARKETFLOW_DATA_DIR is not set")
    return Path(folder)
