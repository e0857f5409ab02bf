"""A short demo with a graph-node beside it: every number of the subgraph is the contracts', to the last digit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from eth_utils import to_checksum_address

from agents.demo import Demo, DemoConfig, moving_average
from agents.localnet.evm import start_evm
from agents.localnet.graphnode import LocalGraph
from agents.report import read_report
from agents.subgraph import write_local_manifest
from offchain_rl.prices import Bars
from oracle.chain import BlockRef
from oracle.protocol import Stage
from oracle.protocol_graph import GraphProtocolReader
from oracle.thegraph import GraphClient
from tests.contracts.truth import Truth, assert_true, graph_client
from tests.graph.conftest import Graph

HOUR_S = 3600
# With bars of an hour votes pass, an epoch settles, a vault falls into its auction, and an update is voted in.
HISTORY, BARS = 20, 99
# Blocks of the last bars are taken back later.
KEPT_BARS = BARS - 3
ARTEFACT = moving_average(4, 12)

Row = dict[str, Any]


def prices() -> Bars:
    """A quiet rise and a fall by half."""
    walk, price, closes = random.Random(7), 2000.0, []
    for i in range(HISTORY + BARS):
        price *= 1 + walk.gauss(0.002 if i < 73 else -0.02, 0.004)
        closes.append(int(price * 10**8))
    series = np.array(closes)
    times = 1_600_000_200 // HOUR_S * HOUR_S + HOUR_S * np.arange(HISTORY + BARS)
    return Bars(
        source="walk", bar_s=HOUR_S, timestamps_s=times,
        open_e8=series, high_e8=series, low_e8=series, close_e8=series,
    )  # fmt: skip


class Told:
    """The demo after its last bar, and its subgraph."""

    def __init__(
        self, demo: Demo, graph: Graph, client: GraphClient, report: dict[str, Any], before_last_bars: int
    ) -> None:
        self.demo, self.graph, self._client, self.report = demo, graph, client, report
        self.before_last_bars = before_last_bars
        self.reader = GraphProtocolReader(client, dao=demo.d.dao)

    def fetch_head(self) -> BlockRef:
        self.graph.wait()
        return self.reader.fetch_head()

    def rows(self, field: str, selection: str, block: BlockRef) -> list[Row]:
        found: list[Row] = self._client.fetch_all(field, selection, block=block).data[field]
        return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    series = prices()
    config = DemoConfig(
        series={"A1": series}, first_bar=HISTORY, bars=BARS, artefact=ARTEFACT, out=tmp_path_factory.mktemp("demo"),
        liquidity_usd=Decimal(10**9),
    )  # fmt: skip
    first_s = int(series.timestamps_s[HISTORY - ARTEFACT.observation.lookback])
    with start_evm("anvil", timestamp_s=first_s - HOUR_S) as evm:
        demo = Demo(evm, config, lambda line: None)
        demo.set_up()
        with LocalGraph(str(evm.url), [write_local_manifest(demo.d)]) as node:
            graph, kept = Graph(node, evm), []

            def on_bar(done: int) -> None:
                if done == KEPT_BARS:
                    kept.append(evm.snapshot())
                if done >= KEPT_BARS:
                    # To go back block by block it needs them all: anvil forgets what it takes back, and of more than
                    # a dozen that come at once graph-node keeps only the last.
                    graph.wait()

            demo.run(on_bar)
            report = read_report(demo, evm_name=evm.name, timing_s={})
            with graph_client(graph.endpoint, evm) as client:
                yield Told(demo, graph, client, report, kept[0])
        demo.journal.close()


def tokens_of(told: Told) -> list[str]:
    return [asset.token for asset in told.demo.market.book.assets]


def address(row: Row) -> str:
    return to_checksum_address(row["id"])


# What a `ProtocolReader` does not tell of


def holders(told: Told, truth: Truth, block: BlockRef) -> int:
    token, found = truth.of("token"), told.rows("tokenHolders", "balance delegate { id }", block)
    for row in found:
        truth.expect(token.balanceOf(address(row)), row["balance"])
        delegate = f"0x{40 * '0'}" if row["delegate"] is None else address(row["delegate"])
        truth.expect(token.delegates(address(row)), delegate)
    truth.expect(token.totalSupply(), sum(row["balance"] for row in found))
    delegates = told.rows("delegates", "votes delegatorCount", block)
    for row in delegates:
        truth.expect(token.getVotes(address(row)), row["votes"])
        own = [holder for holder in found if holder["delegate"] and holder["delegate"]["id"] == row["id"]]
        assert row["delegatorCount"] == len(own)
        assert row["votes"] == sum(holder["balance"] for holder in own)
    return len(delegates)


def rewards(told: Told, truth: Truth, block: BlockRef) -> int:
    pool = truth.of("pool")
    [row] = told.rows("rewardPools", "genesis budgetPerEpoch sumOfCaps bountyFund bountiesEarned", block)
    truth.expect(pool.genesis(), row["genesis"])
    truth.expect(pool.budgetPerEpoch(), row["budgetPerEpoch"])
    truth.expect(pool.sumOfCaps(), row["sumOfCaps"])
    truth.expect(pool.bountyFund(), row["bountyFund"])
    observers = told.rows("observers", "earned claimed", block)
    assert row["bountiesEarned"] == sum(observer["earned"] for observer in observers)
    for observer in observers:
        truth.expect(pool.bountyOf(address(observer)), observer["earned"] - observer["claimed"])
    fields = "account { id } epoch observationCount lowestProfit highestProfit"
    windows = [row for row in told.rows("observationWindows", fields, block) if row["observationCount"]]
    last = {row["account"]["id"]: row for row in sorted(windows, key=lambda row: row["epoch"])}
    for vault, window in last.items():
        truth.expect(pool.windowOf(to_checksum_address(vault)), {
            "epoch": window["epoch"], "observations": window["observationCount"],
            "lowest": window["lowestProfit"], "highest": window["highestProfit"],
        })  # fmt: skip
    return len(last)


def rules(told: Told, truth: Truth, block: BlockRef) -> int:
    constitution, treasury, oracle = (truth.of(name) for name in ("constitution", "treasury", "oracle"))
    [row] = told.rows(
        "constitutions", "ceilings { maxPositionBps hardDrawdownBps } rules { minBond maxRewardRate } guardian", block
    )
    truth.expect(constitution.ceilings(), row["ceilings"])
    truth.expect(constitution.rules(), row["rules"])
    truth.expect(constitution.guardian(), to_checksum_address(row["guardian"]))
    caps = told.rows("outflowCaps", "cap", block)
    for cap in caps:
        truth.expect(treasury.outflowOf(address(cap)), {"cap": cap["cap"]})
    feeds = told.rows("priceFeeds", "aggregator maxAge decimals minAnswer maxAnswer phaseId isListed", block)
    for feed in feeds:
        truth.expect(oracle.feedOf(address(feed)), {
            "aggregator": to_checksum_address(feed["aggregator"]), "maxAgeS": feed["maxAge"],
            "feedDecimals": feed["decimals"], "minAnswer": feed["minAnswer"], "maxAnswer": feed["maxAnswer"],
            "phaseId": feed["phaseId"],
        })  # fmt: skip
    return min(len(caps), len(feeds))


def sums(told: Told, truth: Truth, block: BlockRef) -> int:
    """What is told twice is told equally: by the hour, by the day, flow by flow, and in total."""
    totals = told.reader.fetch_totals(block)
    days = told.rows("protocolDaySnapshots", "tradeCount refusalCount voteCount volume shortfall rewarded", block)
    for name, total in (
        ("tradeCount", totals.trade_count), ("refusalCount", totals.refusal_count), ("voteCount", totals.vote_count),
        ("volume", totals.volume), ("shortfall", totals.shortfall), ("rewarded", totals.rewarded_wei),
    ):  # fmt: skip
        assert sum(day[name] for day in days) == total, name
    vaults = told.reader.fetch_vaults(block).items
    for field in ("vaultHourSnapshots", "vaultDaySnapshots"):
        snapshots = told.rows(field, "vault { id } periodStart tradeCount volume shortfall closeUnitPrice", block)
        for vault in vaults:
            own = [row for row in snapshots if address(row["vault"]) == vault.address]
            assert sum(row["tradeCount"] for row in own) == vault.trade_count
            assert sum(row["volume"] for row in own) == vault.volume
            assert sum(row["shortfall"] for row in own) == vault.shortfall
            measured = [row for row in own if row["closeUnitPrice"] is not None]
            if measured:
                last = max(measured, key=lambda row: row["periodStart"])
                assert last["closeUnitPrice"] == vault.unit_price_wad
    flows = told.rows("capitalFlows", "vault { id } kind value units", block)
    for vault in vaults:
        own = [row for row in flows if address(row["vault"]) == vault.address]
        moved = {kind: [row for row in own if row["kind"] == kind] for kind in ("ALLOCATED", "RECALLED")}
        assert sum(row["value"] for row in moved["ALLOCATED"]) == vault.allocated
        assert sum(row["value"] for row in moved["RECALLED"]) == vault.recalled
        units = [sum(row["units"] for row in rows) for rows in moved.values()]
        assert units[0] - units[1] == vault.units
    stakes = told.rows("stakeChanges", "agent { id } kind amount", block)
    for agent in told.reader.fetch_agents(block).items:
        for what, held in (("BOND", agent.bond_wei), ("DEPOSIT", agent.deposit)):
            own = [row for row in stakes if int(row["agent"]["id"]) == agent.id and row["kind"].startswith(what)]
            signed = [row["amount"] if row["kind"].endswith("_POSTED") else -row["amount"] for row in own]
            assert sum(signed) == held
    return len(flows)


REST: tuple[Callable[[Told, Truth, BlockRef], int], ...] = (holders, rewards, rules, sums)


def assert_all_true(told: Told) -> None:
    block = told.fetch_head()
    evm, d = told.demo.evm, told.demo.d
    assert assert_true(evm, d, told.reader, block, tokens_of(told)) > 100
    truth = Truth(evm, d, block)
    for part in REST:
        assert part(told, truth, block) > 0
    assert truth.check() > 40


def test_every_number_is_the_contracts_and_what_is_told_twice_is_told_equally(told: Told) -> None:
    assert_all_true(told)


def test_totals_are_those_of_the_demo_s_report(told: Told) -> None:
    report, block = told.report, told.fetch_head()
    totals = told.reader.fetch_totals(block)
    assert totals.trade_count == report["trades"] > 10
    assert totals.refusal_count == report["refusals"]["TradeRefused"] > 0
    assert totals.vote_count == sum(report["votes"].values()) > 10
    assert totals.proposal_count == len(report["proposals"])
    assert totals.rewarded_wei == sum(settled["reward"] for settled in report["settlements"]) > 0
    assert totals.clawed_back_wei == sum(settled["clawed_back"] for settled in report["settlements"]) > 0
    states = {str(p.id): p.state_at(block.timestamp_s) for p in told.reader.fetch_proposals(block).items}
    assert {p["id"]: p["state"] for p in report["proposals"]} == {i: s.name.title() for i, s in states.items()}
    changes = told.rows("vaultStateChanges", "state", block)
    assert report["halts"] == sum(1 for change in changes if change["state"] == "HALTED") > 0
    assert report["auction_fills"] == len(told.rows("auctionFills", "amount", block)) > 0
    assert report["recalls"] == sum(f["kind"] == "RECALLED" for f in told.rows("treasuryFlows", "kind", block)) > 0
    superseded = [m for m in told.reader.fetch_manifests(block).items if m.stage is Stage.SUPERSEDED]
    assert report["updates"] == len(superseded) > 0
    vaults = {vault.address: vault for vault in told.reader.fetch_vaults(block).items}
    for strategy in report["strategies"]:
        vault = vaults[strategy["vault"]]
        assert (vault.artefact_hash, vault.trade_count) == (strategy["artefact_hash"], strategy["trades"])
        assert (vault.agent_id, vault.account.credited) == (strategy["agent_id"], strategy["account"])


def test_after_a_reorg_of_the_last_bars_every_number_is_the_contracts_again(told: Told) -> None:
    """Another thing happens in their place: the price jumps, and people move their tokens."""
    lost, demo = told.fetch_head(), told.demo
    demo.evm.revert(told.before_last_bars)
    assert 0 < lost.number - demo.evm.w3.eth.block_number < 64
    demo.evm.travel(HOUR_S)
    demo.market.publish("A1", Decimal(1500))
    demo.market.arbitrage("A1")
    for strategy in demo.strategies_by_name.values():
        demo.evm.send(strategy.vault.functions.poke(), demo.people["keeper"])
    demo.evm.send(demo.token.functions.transfer(demo.people["keeper"].address, 10**18), demo.people["alice"])
    demo.evm.send(demo.token.functions.delegate(demo.people["alice"].address), demo.people["keeper"])
    demo.evm.mine(max(1, lost.number + 2 - demo.evm.w3.eth.block_number))
    assert_all_true(told)
