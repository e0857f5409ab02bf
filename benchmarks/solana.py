"""Transactions a second on a local Solana chain: the program's own beside bare SPL transfers, in the same run.

    python -m benchmarks.solana [--count 400] [--rounds 5] [--json]

Each kind is signed before, then sent one after the other: to the SVM in the process, and to the JSON-RPC node.
The kinds take turns, so that what else the machine does meets all of them; the median of the rounds counts.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence

import click
from solana.rpc.api import Client
from solana.rpc.types import TxOpts
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.transaction import Transaction
from spl.token.instructions import TransferCheckedParams, transfer_checked

from agents.solana_node import SolanaNode
from agents.solana_program import TOKEN_PROGRAM
from tests.solana.world import QUOTE, World

KINDS = ("SPL transfer", "observe", "trade")


def sign(world: World, kind: str, number: int, blockhash: Hash) -> Transaction:
    """The transaction of that number: no two are alike, or the chain would take only one."""
    instruction, keys = _instruction(world, kind, number)
    message = Message.new_with_blockhash([instruction], world.payer.pubkey(), blockhash)
    return Transaction([world.payer, *keys], message, blockhash)


def _instruction(world: World, kind: str, number: int) -> tuple[Instruction, Sequence[Keypair]]:
    if kind == "trade":
        order = world.order(QUOTE, is_buy=True, nonce=world.state("vault").nonce + number)
        return world.ledger.instruction("trade", world.known, order), [world.signer]
    if kind == "observe":
        return world.ledger.instruction("observe", world.known), []
    owner = world.payer.pubkey()
    params = TransferCheckedParams(
        program_id=TOKEN_PROGRAM,
        source=world.wallet("quote", owner),
        mint=world.quote_mint,
        dest=world.wallet("quote", world.controller.pubkey()),
        owner=owner,
        amount=1,
        decimals=6,
    )
    return transfer_checked(params), []


def prepare(svm: object | None = None) -> World:
    """A vault that may trade all day, and wallets for the transfers."""
    roomy = {"max_trades_per_day": 10**9, "max_daily_turnover_bps": 10**9, "max_cumulative_slippage_bps": 8000}
    world = World(**({} if svm is None else {"svm": svm}))
    world.config.ceilings = world.types["Limits"](**(vars(world.config.ceilings) | roomy))
    world.protocol = world.ledger.protocol(world.config)
    world.known |= world.ledger.known(world.protocol)
    world.known["agent"] = world.ledger.agent(world.protocol, world.controller.pubkey())
    steps: tuple[Callable[[], object], ...] = (
        world.initialise,
        lambda: world.register(10**7 * 10**9),
        lambda: world.fund_rewards(10**14),
        lambda: world.open_vault(limits=roomy),
        lambda: world.allocate(10**6 * QUOTE),
        lambda: world.make_market(10**9 * QUOTE),
    )
    for step in steps:
        assert step().error == ""
    world.wallet("quote", world.payer.pubkey(), 10**12)
    world.wallet("quote", world.controller.pubkey())
    return world


def in_process(world: World, kind: str, count: int) -> float:
    """Transactions a second, handed to the SVM."""
    signed = []
    for number in range(count):
        world.svm.expire_blockhash()
        signed.append(sign(world, kind, number, world.svm.latest_blockhash()))
    begun = time.perf_counter()
    for transaction in signed:
        sent = world.svm.send_transaction(transaction)
    seconds = time.perf_counter() - begun
    assert not hasattr(sent, "err"), sent
    return count / seconds


def over_http(world: World, client: Client, kind: str, count: int) -> float:
    """Transactions a second, sent as JSON-RPC and not looked at before."""
    options = TxOpts(skip_preflight=True, skip_confirmation=True)
    signed = []
    for number in range(count):
        world.svm.expire_blockhash()
        signed.append(bytes(sign(world, kind, number, client.get_latest_blockhash().value.blockhash)))
    begun = time.perf_counter()
    for raw in signed:
        last = client.send_raw_transaction(raw, options)
    seconds = time.perf_counter() - begun
    [status] = client.get_signature_statuses([last.value]).value
    assert status is not None
    assert status.err is None, status
    return count / seconds


@click.command()
@click.option("--count", default=400, show_default=True, help="Transactions of a kind in a round.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(count: int, rounds: int, as_json: bool) -> None:
    """Measure, and print what was measured."""
    world, node = prepare(), SolanaNode()
    served = prepare(node._svm)  # set up directly, traded with over HTTP
    per_s: dict[str, dict[str, list[float]]] = {door: {kind: [] for kind in KINDS} for door in ("process", "HTTP")}
    with node.serve() as url:
        client = Client(url)
        for _ in range(rounds):
            for kind in KINDS:
                per_s["process"][kind].append(in_process(world, kind, count))
                per_s["HTTP"][kind].append(over_http(served, client, kind, count // 4))
    medians = {door: {kind: statistics.median(v) for kind, v in kinds.items()} for door, kinds in per_s.items()}
    if as_json:
        click.echo(json.dumps({"per_s": per_s, "median_per_s": medians}, indent=2))
        return
    for door, kinds in medians.items():
        for kind, rate in kinds.items():
            ratio = rate / kinds["SPL transfer"]
            spread = f"{min(per_s[door][kind]):,.0f} to {max(per_s[door][kind]):,.0f}"
            click.echo(f"{door:<8}{kind:<14}{rate:8,.0f} a second ({spread}), {ratio:.2f} x a bare transfer")


if __name__ == "__main__":
    main()
