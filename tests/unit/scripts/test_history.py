"""`ape run history` and `ape run feeds`: what a person may type, and what comes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from agents.commands import feeds, history
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import LocalEvm, start_evm
from agents.localnet.feeds import deploy_feed, publish
from benchmarks.oracle.history import publish_many, replay
from oracle.feeds import Feed, SequencerFeed
from oracle.history import load_history
from tests.unit.scripts.conftest import Refuse

pytestmark = pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")
DAY_S = 86_400


@pytest.fixture(scope="module")
def chain() -> Iterator[LocalEvm]:
    with start_evm("anvil") as evm:
        yield evm


@pytest.fixture(scope="module")
def feed(chain: LocalEvm) -> Feed:
    first, second = [(2000_00000000, DAY_S), (2001_00000000, 2 * DAY_S)], [(1999_00000000, 3 * DAY_S)]
    return replay(chain, "ETH / USD", [first, second])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ETH / USD", "--out", "h.parquet"], "no feeds are known on chain 31337; known are those of 1 (ethereum), "),
        (["0x" + "11" * 20, "--out", "h.parquet"], "description of 0x1111111111111111111111111111111111111111 gave no"),
        (["FEED", "--out", "h.csv"], "--out h.csv is no parquet file: name it .parquet, so that it is known as one"),
        (["FEED", "--out", "/dev/null/h.parquet"], "--out /dev/null/h.parquet can't be written"),
        (["FEED", "--out", "h.parquet", "--since", "yesterday"], "--since 'yesterday' is no day: write it as 2024"),
    ],
)
def test_what_can_not_be_downloaded_is_one_sentence(
    chain: LocalEvm, feed: Feed, refuse: Refuse, arguments: list[str], says: str
) -> None:
    given = [feed.address if each == "FEED" else each for each in arguments]
    assert says in refuse(history.cli, *given, "--network", str(chain.url))


def test_a_feed_is_downloaded_and_gone_on_with(chain: LocalEvm, feed: Feed, tmp_path: Path) -> None:
    out = tmp_path / "new" / "h.parquet"
    arguments = [feed.address, "--out", str(out), "--network", str(chain.url), "--json", "--since", "1970-01-03"]
    answers = []
    for _ in range(2):
        result = CliRunner(mix_stderr=False).invoke(history.cli, arguments)
        assert result.exit_code == 0, result.stderr
        assert "ETH / USD" in result.stderr, "the progress bar is no part of the answer"
        answers.append(json.loads(result.stdout))
        publish_many(chain, feed.address, [(1998_00000000, 4 * DAY_S)])
    assert [answer["rounds"] for answer in answers] == [2, 3]
    assert answers[0]["first"] == "1970-01-03 00:00:00 UTC"
    assert answers[1]["last"] == "1970-01-05 00:00:00 UTC"
    assert [r.answer for r in load_history(out).rounds] == [2001_00000000, 1999_00000000, 1998_00000000]


def test_feeds_are_shown_after_they_were_checked(
    chain: LocalEvm, feed: Feed, monkeypatch: pytest.MonkeyPatch, refuse: Refuse
) -> None:
    owner, now_s = chain.accounts[0], chain.now_s()
    uptime = deploy_feed(chain, "L2 Sequencer Uptime Status Feed", 0, owner=owner, transmitter=owner)
    publish(chain, uptime, 0, transmitter=owner, at_s=now_s - 7200)
    sequencer = SequencerFeed(chain_id=feed.chain_id, address=uptime, grace_s=3600)
    monkeypatch.setattr(feeds, "load_feeds", lambda _: (feed,))
    monkeypatch.setattr(feeds, "find_sequencer", lambda _: sequencer)
    arguments = ["--network", str(chain.url)]
    shown = CliRunner(mix_stderr=False).invoke(feeds.cli, arguments)
    assert shown.exit_code == 0, shown.stderr
    assert "1 feeds, all as they should be" in shown.stdout and feed.address in shown.stdout
    answer = json.loads(CliRunner(mix_stderr=False).invoke(feeds.cli, [*arguments, "--json"]).stdout)
    assert answer["feeds"][0]["address"] == feed.address
    publish(chain, uptime, 1, transmitter=owner)
    assert "the sequencer is down since" in refuse(feeds.cli, *arguments)


def test_a_network_without_known_feeds_is_named(chain: LocalEvm, refuse: Refuse) -> None:
    assert "no feeds are known on chain 31337" in refuse(feeds.cli, "--network", str(chain.url))
