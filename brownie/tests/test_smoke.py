"""Brownie deploys the contracts and talks to them: `make brownie`. What they promise is tested in tests/contracts."""

import brownie
import pytest

DAY_S = 24 * 60 * 60
USD_E8 = 10**8


@pytest.fixture
def transmitter(accounts):
    return accounts[1]


@pytest.fixture
def timelock(accounts):
    return accounts[2]


@pytest.fixture
def create_feed(accounts, transmitter, FeedAggregator, FeedProxy):
    def create(description, answer_e8):
        aggregator = accounts[0].deploy(FeedAggregator, 8, description, transmitter)
        aggregator.transmit(answer_e8, 0, {"from": transmitter})
        return accounts[0].deploy(FeedProxy, aggregator, accounts[0])

    return create


@pytest.fixture
def oracle(accounts, timelock, create_feed, QuoteToken, PriceOracle):
    quote = accounts[0].deploy(QuoteToken, 6)
    listing = (quote, create_feed("MUSD / USD", USD_E8), DAY_S, USD_E8 // 2, 2 * USD_E8)
    return accounts[0].deploy(PriceOracle, timelock, quote, [listing], brownie.ZERO_ADDRESS, 0)


def test_oracle_lists_a_token_for_the_timelock_alone(oracle, timelock, accounts, create_feed, MockToken):
    token = accounts[0].deploy(MockToken, "Ether", "ETH", 18)
    feed = create_feed("ETH / USD", 2_000 * USD_E8)
    listing = (token, feed, DAY_S, USD_E8, 10_000 * USD_E8)
    with brownie.reverts():
        oracle.setFeed(*listing, {"from": accounts[0]})
    oracle.setFeed(*listing, {"from": timelock})
    status, _round, answer, _updated_at, price_wad = oracle.read(token)
    assert (status, answer, price_wad) == (0, 2_000 * USD_E8, 2_000 * 10**18)


def test_oracle_has_no_price_once_the_feed_is_silent(oracle, chain):
    assert oracle.read(oracle.quote())[4] == 10**18
    chain.sleep(2 * DAY_S)
    chain.mine()
    status, *_, price_wad = oracle.read(oracle.quote())
    assert (status, price_wad) == (5, 0)


def test_votes_delegated_to_the_token_stay_there(accounts, MarketFlowToken):
    treasury, supply = accounts[3], 10**24
    token = accounts[0].deploy(MarketFlowToken, "MarketFlow", "MFLOW", treasury, supply)
    token.delegate(token, {"from": treasury})
    with brownie.reverts():
        token.delegate(treasury, {"from": treasury})
    assert (token.getVotes(token), token.totalSupply()) == (supply, supply)
