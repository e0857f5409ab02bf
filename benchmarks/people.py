"""What people wait for: the voting page's first paint and weight, and votes that a relayer sends in a second.

    python -m benchmarks.people [--votes 200] [--loads 7] [--json]

The relayer's votes are beside what the node takes of the same kind in the same run: ballots signed before, sent as raw
transactions one by one, and as the relayer's own batches without the relayer. Console start-up: `benchmarks.console`.
"""

from __future__ import annotations

import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import requests
from eth_account import Account as Keys
from playwright.sync_api import sync_playwright
from web3 import HTTPProvider, Web3

from agents.ballots import Ballot, Support, ballot_call, sign_ballot
from agents.chain import RemoteChain
from agents.localnet.evm import start_evm
from agents.page_server import page_folder
from agents.relayer import Relayer, RelayerRules
from agents.relayer_store import RelayerStore
from tests.contracts.world import World, tokens
from tests.people.conftest import CHROMIUM_ARGUMENTS, find_chromium

PAYER, RAW = Keys.from_key(b"\x09" * 32), Keys.from_key(b"\x0a" * 32)


@click.command()
@click.option("--votes", default=200, show_default=True)
@click.option("--loads", default=7, show_default=True, help="Of the page; the median counts.")
@click.option("--json", "as_json", is_flag=True)
def main(votes: int, loads: int, as_json: bool) -> None:
    """Measure, and print what was measured."""
    measured = {"page": weigh_page() | {"first_paint_ms": paint_page(loads)}, "relayer": count_votes(votes)}
    if as_json:
        click.echo(json.dumps(measured, indent=2))
        return
    page, relayer = measured["page"], measured["relayer"]
    ratio = relayer["sent_per_s"] / relayer["raw_per_s"]
    whole_per_s = 1 / (1 / relayer["checked_per_s"] + 1 / relayer["sent_per_s"])
    click.echo(f"first contentful paint       {page['first_paint_ms']:8.0f} ms, median of {loads} cold loads")
    click.echo(f"asked for at once            {page['first_bytes'] / 1e3:8.0f} kB")
    click.echo(f"the same, compressed         {page['first_gzip_bytes'] / 1e3:8.0f} kB")
    click.echo(f"all of the page              {page['all_bytes'] / 1e3:8.0f} kB")
    click.echo(f"ballots checked and taken    {relayer['checked_per_s']:8.0f} a second, of {votes}")
    click.echo(f"from there to counted        {relayer['sent_per_s']:8.0f} a second")
    click.echo(f"both                         {whole_per_s:8.0f} a second, {whole_per_s / relayer['raw_per_s']:.2f} x")
    click.echo(f"single raw transactions      {relayer['raw_per_s']:8.0f} a second that the node takes")
    click.echo(f"counted beside them          {ratio:8.2f} x, without the checks")


def weigh_page() -> dict[str, int]:
    """Bytes of what index.html asks for at once, and of everything."""
    folder = page_folder()
    html = (folder / "index.html").read_text()
    first = [folder / "index.html"]
    first += [path for path in folder.rglob("*") if path.is_file() and f"/{path.name}" in html]
    return {
        "first_bytes": sum(path.stat().st_size for path in first),
        "first_gzip_bytes": sum(len(gzip.compress(path.read_bytes(), 9)) for path in first),
        "all_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def paint_page(loads: int) -> float:
    """Median milliseconds from navigation to the first contentful paint, each in a browser context of its own."""
    from tests.people.conftest import town

    paints = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        made = town.__wrapped__(_Folders(Path(folder)))  # type: ignore[attr-defined]
        place = next(made)
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGUMENTS)
        for _ in range(loads):
            page = browser.new_context().new_page()
            page.goto(place.url)
            page.get_by_test_id("proposal-row").first.wait_for()
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            page.context.close()
        browser.close()
        next(made, None)
    return statistics.median(paints)


class _Folders:
    """What the fixture wants of pytest."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def mktemp(self, name: str) -> Path:
        (self._root / name).mkdir()
        return self._root / name


def count_votes(votes: int) -> dict[str, float]:
    """Votes a second, by relayer and by hand, on the same chain in the same run."""
    keys = [Keys.from_key(index.to_bytes(32, "big")) for index in range(1_000, 1_000 + 2 * votes)]
    with start_evm("anvil") as evm, tempfile.TemporaryDirectory() as folder:
        world = World(evm)
        for key in keys:
            world.send(world.token.functions.transfer(key.address, tokens(1)), world.voter_a)
            evm.set_balance(key.address, 10**18)
            evm.impersonate(key.address)
            world.send(world.token.functions.delegate(key.address), key.address)
        world.travel(60)
        proposal = world.propose([world.pool.functions.setBudget(tokens(21_000))])
        world.to_voting(proposal)
        for payer in (PAYER, RAW):
            evm.set_balance(payer.address, 10**20)
        chain = RemoteChain(Web3(HTTPProvider(str(evm.url))))
        ballots = [
            sign_ballot(chain, world.d, proposal_id=proposal, support=Support.FOR, key=bytes(key.key)) for key in keys
        ]
        raw_per_s = votes / _send_raw(str(evm.url), chain, world, ballots[:votes])
        checked_s, sent_s = _relay(chain, world, ballots[votes:], Path(folder))
        counted = world.view(world.dao.functions.proposalVotes(proposal)).forVotes
        assert counted == 2 * votes * tokens(1), f"{counted} wei of votes were counted"
    return {"raw_per_s": raw_per_s, "checked_per_s": votes / checked_s, "sent_per_s": votes / sent_s}


def _send_raw(url: str, chain: RemoteChain, world: World, ballots: Sequence[Ballot]) -> float:
    """Seconds to send transactions that were signed before, each with a ballot."""
    signed = []
    for nonce, ballot in enumerate(ballots):
        call = ballot_call(chain, world.d, ballot)
        transaction: dict[str, Any] = {
            "to": world.d.dao, "data": call._encode_transaction_data(), "nonce": nonce, "gas": 300_000, "value": 0,
            "chainId": chain.chain_id, "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 1,
        }  # fmt: skip
        signed.append(Web3.to_hex(RAW.sign_transaction(transaction).raw_transaction))
    with requests.Session() as session:
        started = time.perf_counter()
        for raw in signed:
            body = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendRawTransaction", "params": [raw]}
            assert "result" in session.post(url, json=body, timeout=30).json()
        return time.perf_counter() - started


def _relay(chain: RemoteChain, world: World, ballots: Sequence[Ballot], folder: Path) -> tuple[float, float]:
    """Seconds to check and take the ballots, and from there until each is counted."""
    store = RelayerStore(folder / "r.db", chain_id=chain.chain_id, dao=world.d.dao, account=PAYER.address)
    relayer = Relayer(chain, world.d, PAYER, store, rules=RelayerRules(max_spend_per_day_wei=10**20))
    started = time.perf_counter()
    for ballot in ballots:
        relayer.submit(ballot.to_dict())
    taken = time.perf_counter()
    while store.count("mined") < len(ballots):
        relayer.step()
    done = time.perf_counter()
    store.close()
    return taken - started, done - taken


if __name__ == "__main__":
    main()
