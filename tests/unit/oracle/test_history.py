"""A history on disk is what the feed published, to the last digit, however often its download was cut."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import requests
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from web3 import HTTPProvider, Web3
from web3.providers.rpc.utils import ExceptionRetryConfiguration

from agents.chain import RemoteChain
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import LocalEvm, start_evm
from agents.localnet.feeds import begin_phase, fetch_round, publish
from benchmarks.oracle.history import as_phases, publish_many, read_real_rounds, replay
from offchain_rl.prices import BadPriceData, load_bars
from oracle import history
from oracle.chain import BlockRef, fetch_block
from oracle.chainlink import PHASE_SHIFT
from oracle.errors import FeedMismatch, HistoryDamaged, ReadingFailed, WrongChain
from oracle.feeds import Feed
from oracle.history import History, PublishedRound, download_history, load_history
from oracle.multicall import MULTICALL3
from tests.unit.oracle.misbehaving import Asked, MisbehavingServer, Reply

ROOT = Path(__file__).resolve().parents[3]
START_S = 1_700_000_000
HOUR_S = 3600
# Two phases that overlap, one between them that never published, numbers left out, and an answer of zero.
OLD = [(2000_00000000 + n, START_S + HOUR_S * n) for n in range(12)]
NEW = [(2100_00000000 + n, START_S + HOUR_S * n + 60) for n in range(9, 30)]
PHASES: list[list[tuple[int, int] | None]] = [
    [*OLD[:3], None, *OLD[3:]],
    [],
    [*NEW[:7], None, None, *NEW[7:14], (0, NEW[14][1]), *NEW[15:]],
]

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")


@pytest.fixture(scope="module")
def chain() -> Iterator[LocalEvm]:
    with start_evm("anvil") as evm:
        yield evm


@pytest.fixture(scope="module")
def replayed(chain: LocalEvm) -> Feed:
    return replay(chain, "ETH / USD", PHASES)


@pytest.fixture
def feed(chain: LocalEvm, replayed: Feed) -> Iterator[Feed]:
    """A feed with PHASES; what a test does to the chain is undone."""
    snapshot = chain.snapshot()
    yield replayed
    chain.revert(snapshot)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some requests, and some states on disk, for a few rounds."""
    monkeypatch.setattr(history, "BATCH", 4)
    monkeypatch.setattr(history, "SAVE_EVERY", 8)


@pytest.fixture
def halfway(chain: LocalEvm, feed: Feed, tmp_path_factory: pytest.TempPathFactory, small_batches: None) -> int:
    """The request of a download by which some rounds are read, and some are not."""
    counted = Interfered(chain, lambda _: None)
    download_history(counted, feed, tmp_path_factory.mktemp("halfway") / "h.parquet")
    return counted.requests - 4


def published(phases: list[list[tuple[int, int] | None]]) -> tuple[PublishedRound, ...]:
    return tuple(
        PublishedRound(
            round_id=(phase << PHASE_SHIFT) + number, answer=each[0], started_at_s=each[1], updated_at_s=each[1]
        )
        for phase, rounds in enumerate(phases, start=1)
        for number, each in enumerate(rounds, start=1)
        if each
    )


class Interfered:
    """A chain that calls `before` with the number of each request."""

    def __init__(self, chain: Any, before: Callable[[int], None]) -> None:
        self.w3, self._chain, self._before, self.requests = chain.w3, chain, before, 0

    def call(self, what: Any, sender: Any = None, *, block: int | str = "latest") -> Any:
        self.requests += 1
        self._before(self.requests)
        return self._chain.call(what, sender, block=block)


def described(feed: Feed, **over: Any) -> Feed:
    values = {name: getattr(feed, name) for name in ("chain_id", "address", "description", "decimals")}
    return Feed(**{**values, **over})


# Refusals


@pytest.mark.parametrize(
    ("over", "error", "says"),
    [
        ({"chain_id": 1}, WrongChain, "feed ETH / USD is of chain 1, the node is on chain 31337"),
        ({"decimals": 18}, FeedMismatch, "its decimals should be 18 and is 8"),
        ({"description": "BTC / USD"}, FeedMismatch, "its description should be 'BTC / USD' and is 'ETH / USD'"),
    ],
)
def test_a_feed_that_is_not_the_one_described_leaves_no_file(
    chain: LocalEvm, feed: Feed, tmp_path: Path, over: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        download_history(chain, described(feed, **over), tmp_path / "h.parquet")
    assert not list(tmp_path.iterdir())


def test_a_feed_whose_decimals_changed_has_no_history_of_both(chain: LocalEvm, feed: Feed, tmp_path: Path) -> None:
    """The proxy answers with those of its last aggregator; an earlier one had others."""
    path = tmp_path / "h.parquet"
    download_history(chain, feed, path)
    owner = chain.accounts[0]
    proxy = chain.at("FeedProxy", feed.address)
    other = chain.deploy("FeedAggregator", 18, feed.description, MULTICALL3, sender=owner)
    chain.send(proxy.functions.proposeAggregator(other.address), owner)
    chain.send(proxy.functions.confirmAggregator(other.address), owner)
    publish_many(chain, feed.address, [(2200 * 10**18, START_S + 40 * HOUR_S)])
    with pytest.raises(FeedMismatch, match="its decimals should be 8 and is 18"):
        download_history(chain, feed, path)
    with pytest.raises(FeedMismatch, match="aggregator of phase 1 has 8 decimals, the feed has 18"):
        download_history(chain, described(feed, decimals=18), tmp_path / "another.parquet")
    assert load_history(path).rounds == published(PHASES), "what was there stays"


@pytest.mark.parametrize(
    ("over", "error", "says"),
    [
        ({"address": "0x" + "11" * 20}, FeedMismatch, "is of a feed whose address is"),
        ({"description": "BTC / USD"}, FeedMismatch, "whose description is 'ETH / USD', not 'BTC / USD': name another"),
    ],
)
def test_a_file_of_another_feed_is_not_gone_on_with(
    chain: LocalEvm, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: Any, error: Any, says: str
) -> None:
    download_history(chain, feed, tmp_path / "h.parquet")
    monkeypatch.setattr(history, "check_feeds", lambda *_, **__: None)
    with pytest.raises(error, match=says):
        download_history(chain, described(feed, **over), tmp_path / "h.parquet")


def test_a_file_of_another_chain_is_not_gone_on_with(
    chain: LocalEvm, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.parquet"
    download_history(chain, feed, path)
    monkeypatch.setattr(history, "check_feeds", lambda *_, **__: None)
    with pytest.raises(WrongChain, match=r"h.parquet is of chain 31337, the feed is on chain 1"):
        download_history(chain, described(feed, chain_id=1), path)


def test_a_file_since_another_moment_is_not_gone_on_with(chain: LocalEvm, feed: Feed, tmp_path: Path) -> None:
    download_history(chain, feed, tmp_path / "h.parquet", since_s=START_S)
    with pytest.raises(ValueError, match=f"is since {START_S} s, not 0 s: ask for that, or name another file"):
        download_history(chain, feed, tmp_path / "h.parquet")


def test_a_full_disk_is_said_and_leaves_what_was_there(
    chain: LocalEvm, feed: Feed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("oracle.history.os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*h\.parquet"):
        download_history(chain, feed, tmp_path / "h.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "nothing in it", "text", "another table", "out of order"])
def test_a_damaged_file_is_named(chain: LocalEvm, feed: Feed, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "h.parquet"
    download_history(chain, feed, path)
    whole, table = path.read_bytes(), pq.read_table(path)
    if damage == "another table":
        pq.write_table(table.replace_schema_metadata({}), path)
    elif damage == "out of order":
        pq.write_table(table.take([1, 0, 2]), path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "nothing in it": b"", "text": b"roundId,answer\n"}[damage])
    with pytest.raises(HistoryDamaged, match=r"h\.parquet.*name another file"):
        download_history(chain, feed, path)


def test_rounds_that_the_feed_no_longer_has_are_a_damaged_history(
    chain: LocalEvm, feed: Feed, tmp_path: Path
) -> None:
    """As after a reorg that goes back behind what was read."""
    snapshot = chain.snapshot()
    publish_many(chain, feed.address, [(2200_00000000, START_S + 40 * HOUR_S)])
    download_history(chain, feed, tmp_path / "h.parquet")
    chain.revert(snapshot)
    publish_many(chain, feed.address, [(2201_00000000, START_S + 40 * HOUR_S)])
    with pytest.raises(HistoryDamaged, match=r"=220000000000,.* in the file, and .*=220100000000,.* on the chain"):
        download_history(chain, feed, tmp_path / "h.parquet")


def test_a_node_that_is_behind_the_file_is_no_reorg(chain: LocalEvm, feed: Feed, tmp_path: Path) -> None:
    behind = chain.w3.eth.block_number
    chain.mine(2)
    download_history(chain, feed, tmp_path / "h.parquet")
    with pytest.raises(ReadingFailed, match=f"is of block {behind + 2}, and the node has only come to {behind}"):
        download_history(chain, feed, tmp_path / "h.parquet", block=behind)


def test_without_multicall_silence_is_not_taken_for_numbers_left_out(
    chain: LocalEvm, feed: Feed, tmp_path: Path
) -> None:
    chain.set_code(MULTICALL3, b"")
    with pytest.raises(ReadingFailed, match="there is no Multicall3"):
        download_history(chain, feed, tmp_path / "h.parquet")


@pytest.mark.parametrize("lie", ["another id", "from the future", "no number"])
def test_a_round_that_can_not_be_is_refused(
    chain: LocalEvm, feed: Feed, tmp_path: Path, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = history.try_many

    def lying(chain: Any, calls: Any, *, block: Any) -> Any:
        over = {"another id": {"roundId": 7}, "from the future": {"updatedAt": 2**40}, "no number": {"answer": 2**255}}
        answers = honest(chain, calls, block=block)
        return [a._replace(**over[lie]) if hasattr(a, "answer") and a.updatedAt else a for a in answers]

    monkeypatch.setattr(history, "try_many", lying)
    with pytest.raises(HistoryDamaged, match=r"answers for round .* what can't be"):
        download_history(chain, feed, tmp_path / "h.parquet")


# What is in it


def test_a_history_is_every_round_of_every_phase_as_it_was_published(
    chain: LocalEvm, feed: Feed, tmp_path: Path
) -> None:
    path = tmp_path / "h.parquet"
    told: list[tuple[int, int]] = []
    found = download_history(chain, feed, path, progress=lambda done, total: told.append((done, total)))
    assert found.rounds == published(PHASES)
    assert found.silent_phases == (2,)
    assert found.block == fetch_block(chain)
    assert load_history(path) == found
    assert 0 in [round_.answer for round_ in found.rounds], "an answer of zero was published, and is kept"
    numbers = sum(map(len, PHASES))
    assert told[0] == (0, numbers) and told[-1] == (numbers, numbers) and told == sorted(told)
    assert list(tmp_path.iterdir()) == [path]


def test_a_round_in_the_file_is_what_the_feed_answers(chain: LocalEvm, feed: Feed, tmp_path: Path) -> None:
    for round_ in download_history(chain, feed, tmp_path / "h.parquet").rounds:
        answer = fetch_round(chain, feed.address, round_.round_id)
        assert answer[:4] == (round_.round_id, round_.answer, round_.started_at_s, round_.updated_at_s)


@pytest.mark.parametrize("since_s", [0, START_S, START_S + 1, START_S + 9 * HOUR_S + 60, START_S + 10**7])
def test_a_history_begins_with_what_was_published_at_the_moment_asked_for(
    chain: LocalEvm, feed: Feed, tmp_path: Path, since_s: int
) -> None:
    found = download_history(chain, feed, tmp_path / "h.parquet", since_s=since_s)
    assert found.rounds == tuple(r for r in published(PHASES) if r.updated_at_s >= since_s)


def test_a_finished_history_goes_on_with_what_was_published_since(
    chain: LocalEvm, feed: Feed, tmp_path: Path
) -> None:
    path = tmp_path / "h.parquet"
    before = download_history(chain, feed, path)
    later = [(2300_00000000 + n, START_S + HOUR_S * (50 + n)) for n in range(3)]
    publish_many(chain, feed.address, later)
    begin_phase(chain, feed.address, owner=chain.accounts[0], transmitter=chain.accounts[0])
    counted = Interfered(chain, lambda _: None)
    after = download_history(counted, feed, path)
    assert after.rounds == published([*PHASES[:2], PHASES[2] + later])
    assert after.rounds[: len(before.rounds)] == before.rounds
    assert after.silent_phases == (2, 4)
    download_history(chain, feed, tmp_path / "uncut.parquet")
    assert path.read_bytes() == (tmp_path / "uncut.parquet").read_bytes()


@pytest.mark.shared_data
def test_real_rounds_come_back_to_the_last_digit(chain: LocalEvm, tmp_path: Path, shared_data: Path) -> None:
    """All 11,106 are compared by `python -m benchmarks.oracle`: publishing them takes longer than a test should."""
    real = read_real_rounds(shared_data)
    assert len(real) == 11_106
    some = real[:1500]
    feed = replay(chain, "ETH / USD", as_phases(some))
    path = tmp_path / "h.parquet"
    assert download_history(chain, feed, path).rounds == tuple(some)
    as_csv = tmp_path / "h.csv"
    lines = (f"{r.round_id},{r.answer},{r.updated_at_s}\n" for r in some)
    as_csv.write_text("roundId,answer,updatedAt\n" + "".join(lines))
    assert load_bars(path).data_hash() == load_bars(as_csv).data_hash()


# Cut, and gone on with


def test_a_download_cut_at_any_request_becomes_the_file_of_an_uncut_one(
    chain: LocalEvm, feed: Feed, tmp_path: Path, small_batches: None
) -> None:
    uncut, path = tmp_path / "uncut.parquet", tmp_path / "h.parquet"
    counted = Interfered(chain, lambda _: None)
    download_history(counted, feed, uncut)
    for cut in range(1, counted.requests + 1):

        def fail(request: int, cut: int = cut) -> None:
            if request == cut:
                raise ConnectionError("cut")

        with pytest.raises((ReadingFailed, ConnectionError), match="cut"):
            download_history(Interfered(chain, fail), feed, path)
        assert not path.exists(), "a file that is there is whole"
        assert download_history(chain, feed, path).rounds == published(PHASES)
        assert path.read_bytes() == uncut.read_bytes()
        assert not (tmp_path / "h.parquet.partial").exists()
        path.unlink()


def test_a_download_that_is_cut_again_and_again_ends(
    chain: LocalEvm, feed: Feed, tmp_path: Path, halfway: int
) -> None:
    path = tmp_path / "h.parquet"

    def fail(request: int) -> None:
        if request > halfway:
            raise ConnectionError("cut")

    for attempt in itertools.count(1):
        try:
            assert download_history(Interfered(chain, fail), feed, path).rounds == published(PHASES)
            break
        except ReadingFailed:
            assert attempt < 20
    assert attempt > 1


@pytest.mark.parametrize("moment", ["while reading", "before a state is in place", "before the last one is"])
def test_a_download_that_is_killed_goes_on_to_the_file_of_an_uncut_one(
    chain: LocalEvm, feed: Feed, tmp_path: Path, moment: str, small_batches: None
) -> None:
    path = tmp_path / "h.parquet"
    program = """
import os, signal, sys
from pathlib import Path
from web3 import HTTPProvider, Web3
from agents.chain import RemoteChain
from oracle import history
from oracle.feeds import Feed
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
history.BATCH, history.SAVE_EVERY = 4, 8
moment, path, url, address = sys.argv[1:]
replace = Path.replace
def replace_or_die(self, target):
    if moment != "while reading" and str(target).endswith("partial") == (moment == "before a state is in place"):
        kill()
    return replace(self, target)
Path.replace = replace_or_die
def progress(done, total):
    if moment == "while reading" and done > total // 2:
        kill()
feed = Feed(chain_id=31337, address=address, description="ETH / USD", decimals=8)
history.download_history(RemoteChain(Web3(HTTPProvider(url))), feed, Path(path), progress=progress)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, moment, str(path), str(chain.url), feed.address],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not path.exists()
    assert (tmp_path / "h.parquet.partial").exists() == (moment != "before a state is in place")
    download_history(chain, feed, path)
    download_history(chain, feed, tmp_path / "uncut.parquet")
    assert path.read_bytes() == (tmp_path / "uncut.parquet").read_bytes()
    assert not (tmp_path / "h.parquet.partial").exists()


def test_a_phase_that_begins_during_a_download_is_the_next_ones(
    chain: LocalEvm, feed: Feed, tmp_path: Path, halfway: int
) -> None:
    path, later = tmp_path / "h.parquet", [(2300_00000000, START_S + 50 * HOUR_S)]

    def move_on(request: int) -> None:
        if request == halfway:
            owner = chain.accounts[0]
            begin_phase(chain, feed.address, owner=owner, transmitter=owner)
            publish(chain, feed.address, later[0][0], transmitter=owner, at_s=later[0][1])

    counted = Interfered(chain, move_on)
    assert download_history(counted, feed, path).rounds == published(PHASES), "all of it is of one block"
    assert counted.requests > halfway
    assert download_history(chain, feed, path).rounds == published([*PHASES, [*later]])
    download_history(chain, feed, tmp_path / "uncut.parquet")
    assert path.read_bytes() == (tmp_path / "uncut.parquet").read_bytes()


# A node that misbehaves


Misbehave = Callable[[Callable[[int], Reply | None]], RemoteChain]


@pytest.fixture
def through(chain: LocalEvm) -> Iterator[Misbehave]:
    """The chain through a proxy; `reply(n)` says how the n-th `eth_call` is answered, None as the chain does."""
    servers: list[MisbehavingServer] = []

    def connect(reply: Callable[[int], Reply | None]) -> RemoteChain:
        calls = itertools.count(1)

        def answer(asked: Asked) -> Reply:
            bad = reply(next(calls)) if asked.body["method"] == "eth_call" else None
            return bad or Reply(body=chain.w3.provider.request_raw(asked.body["method"], asked.body["params"]))

        servers.append(MisbehavingServer(answer))
        # As web3 does it, but without its pauses.
        errors = (requests.ConnectionError, requests.HTTPError, requests.Timeout)
        retries = ExceptionRetryConfiguration(errors=errors, retries=3, backoff_factor=0.01)
        provider = HTTPProvider(
            servers[-1].url, request_kwargs={"timeout": 0.3}, exception_retry_configuration=retries
        )
        return RemoteChain(Web3(provider))

    yield connect
    for server in servers:
        server.close()


BAD_REPLIES = {
    "429": Reply(status=429, reason="Too Many Requests", headers={"Retry-After": "1"}),
    "503": Reply(status=503),
    "timeout": Reply(delay_s=0.6),
    "hung up": Reply(hangs_up=True),
}


@pytest.mark.parametrize("kind", list(BAD_REPLIES))
def test_a_node_that_fails_once_is_asked_again(
    through: Misbehave, feed: Feed, tmp_path: Path, kind: str, halfway: int
) -> None:
    remote = through(lambda n: BAD_REPLIES[kind] if n == halfway else None)
    assert download_history(remote, feed, tmp_path / "h.parquet").rounds == published(PHASES)


@pytest.mark.parametrize("kind", [*BAD_REPLIES, "half an answer", "an error"])
def test_what_was_read_before_a_node_failed_for_good_is_kept(
    chain: LocalEvm, through: Misbehave, feed: Feed, tmp_path: Path, kind: str, halfway: int
) -> None:
    path, more = tmp_path / "h.parquet", {
        "half an answer": Reply(body='{"jsonrpc": "2.0", "id": 1, "result": "0x00', cut_at=20),
        "an error": Reply(body={"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": "limit exceeded"}}),
    }  # fmt: skip
    remote = through(lambda n: {**BAD_REPLIES, **more}[kind] if n >= halfway else None)
    with pytest.raises(ReadingFailed):
        download_history(remote, feed, path)
    kept = load_history(tmp_path / "h.parquet.partial").rounds
    assert kept and kept == published(PHASES)[: len(kept)]
    assert download_history(chain, feed, path).rounds == published(PHASES)


# Bars


def test_a_history_with_an_answer_of_zero_makes_no_bars(chain: LocalEvm, feed: Feed, tmp_path: Path) -> None:
    download_history(chain, feed, tmp_path / "h.parquet")
    with pytest.raises(BadPriceData, match=r"h.parquet, round \d+: the answer is 0, and prices lie between"):
        load_bars(tmp_path / "h.parquet")


@pytest.mark.parametrize("text", ["", "roundId,answer"])
def test_a_file_that_is_no_history_makes_no_bars(tmp_path: Path, text: str) -> None:
    path = tmp_path / "h.parquet"
    with pytest.raises(BadPriceData, match="No such file"):
        load_bars(path)
    path.write_text(text)
    with pytest.raises(BadPriceData, match="is no history of a feed"):
        load_bars(path)


@pytest.mark.parametrize(("decimals", "answer", "close_e8"), [(18, 15 * 10**9, 2), (18, 25 * 10**9, 2), (6, 7, 700)])
def test_answers_in_other_decimals_become_prices_rounded_half_even(
    tmp_path: Path, decimals: int, answer: int, close_e8: int
) -> None:
    rounds = tuple(round_at(number, answer, START_S + HOUR_S * number) for number in range(1, 5))
    assert set(bars_of(tmp_path, rounds, decimals).close_e8.tolist()) == {close_e8}


def round_at(number: int, answer: int, updated_at_s: int, *, phase: int = 1, took_s: int = 0) -> PublishedRound:
    return PublishedRound(
        round_id=(phase << PHASE_SHIFT) + number, answer=answer,
        started_at_s=updated_at_s - took_s, updated_at_s=updated_at_s,
    )  # fmt: skip


def bars_of(folder: Path, rounds: tuple[PublishedRound, ...], decimals: int = 8) -> Any:
    feed = Feed(chain_id=1, address="0x" + "11" * 20, description="ETH / USD", decimals=decimals)
    block = BlockRef(number=1, hash="0x00", timestamp_s=2**40)
    path = folder / "made.parquet"
    history._write(History(feed=feed, since_s=0, block=block, silent_phases=(), rounds=rounds), path)
    return load_bars(path, bar_s=1800, max_round_age_s=10**9, min_bars=0)


# Times on a grid that bars begin and end on.
STEP_S = 600
GRID_S = START_S // 1800 * 1800


@st.composite
def feeds_and_moments(draw: st.DrawFn) -> tuple[tuple[PublishedRound, ...], int]:
    """One to three phases that begin when they like and overlap, and a moment at which some of it is known."""
    rounds: list[PublishedRound] = []
    for phase in range(1, draw(st.integers(1, 3)) + 1):
        at_s = GRID_S + STEP_S * draw(st.integers(0, 30))
        for number in range(1, draw(st.integers(2, 10)) + 1):
            took_s, answer = draw(st.integers(0, 7000)), draw(st.integers(1, 10**12))
            rounds.append(round_at(number, answer, at_s, phase=phase, took_s=took_s))
            at_s += STEP_S * draw(st.sampled_from([0, 1, 2, 3, 9]))
    moment = draw(st.sampled_from(sorted(r.updated_at_s for r in rounds)[1:])) + draw(st.sampled_from([-1, 0, 1, 1800]))
    return tuple(rounds), moment


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=feeds_and_moments())
def test_no_bar_changes_when_more_is_published(tmp_path: Path, made: tuple[tuple[PublishedRound, ...], int]) -> None:
    """What was known at a moment makes the bars that had closed by then, as they are with all that came later."""
    rounds, now_s = made
    known = tuple(r for r in rounds if r.updated_at_s <= now_s)
    now = bars_of(tmp_path, rounds)
    try:
        then = bars_of(tmp_path, known)
    except BadPriceData as error:
        assume("at least 2 are needed" not in str(error))
        raise
    assert len(then) <= len(now)
    for name in ("timestamps_s", "open_e8", "high_e8", "low_e8", "close_e8"):
        assert getattr(then, name).tolist() == getattr(now, name)[: len(then)].tolist()
    for open_s, *prices in zip(now.timestamps_s, now.open_e8, now.high_e8, now.low_e8, now.close_e8, strict=True):
        published_by_then = {r.answer for r in rounds if r.updated_at_s < open_s + now.bar_s}
        assert set(map(int, prices)) <= published_by_then
