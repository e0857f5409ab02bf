"""Many worlds at once, a process each, with a bar for each on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import Manager, get_context
from time import sleep
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.economy.paths import Source
from benchmarks.economy.simulate import Config, Outcome, simulate


def play(config: Config, source: Source, seeds: list[int], *, workers: int) -> list[Outcome]:
    """Everybody's outcome in all worlds, in the order of the seeds, whoever is quicker."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool, Manager() as manager:
        said = manager.dict()
        running = [pool.submit(_simulate, config, source, seed, said) for seed in seeds]
        with _progress(seeds, config.epochs + 2) as update:
            while not all(future.done() for future in running):
                update(dict(said))
                sleep(0.5)
            update(dict(said))
        return [outcome for future in running for outcome in future.result()]


def _simulate(config: Config, source: Source, seed: int, said: Any) -> list[Outcome]:
    steps = config.epochs + 2

    def tell(step: str) -> None:
        done, _ = said.get(seed, (-1, ""))
        said[seed] = (done + 1, step)

    outcomes = simulate(config, source, seed, tell)
    said[seed] = (steps, "done")
    return outcomes


@contextmanager
def _progress(seeds: list[int], steps: int) -> Iterator[Callable[[dict[int, tuple[int, str]]], None]]:
    """A bar for each world, on the terminal only."""
    says = (TextColumn("world {task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*says, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        tasks = {seed: progress.add_task(str(index + 1), total=None, said="waits") for index, seed in enumerate(seeds)}

        def update(said: dict[int, tuple[int, str]]) -> None:
            for seed, (done, step) in said.items():
                progress.update(tasks[seed], completed=done, total=steps, said=step)

        yield update
