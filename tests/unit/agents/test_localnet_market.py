"""A market with real Uniswap v3 pools follows its feeds, on both EVMs alike."""

from collections.abc import Iterator
from decimal import Decimal

import pytest
from eth_account import Account as Keys

from agents.contracts import third_party
from agents.localnet import feeds, uniswap
from agents.localnet.anvil import find_anvil
from agents.localnet.evm import CallReverted, LocalEvm, TransactionReverted, start_evm
from agents.localnet.market import MULTICALL3, AddressBook, Bar, LocalMarket

KINDS = [
    pytest.param("anvil", marks=pytest.mark.skipif(find_anvil() is None, reason="anvil is not installed")),
    "py-evm",
]
ETHER = 10**18
# Hash of the official pool's creation code, as in the periphery's PoolAddress.sol.
POOL_INIT_CODE_HASH = "0xe34f199b19b2b4f47f68442619d555527d244f78a3297ea89325f843f87b8b54"
ETH_USD = Decimal("3000.5")


@pytest.fixture(scope="module", params=KINDS)
def deployed(request: pytest.FixtureRequest) -> Iterator[LocalMarket]:
    with start_evm(request.param) as evm:
        market = LocalMarket.deploy(evm, base_price_usd=ETH_USD, pool_fee=500, has_sequencer=True)
        market.add_asset("BTC", price_usd=Decimal(60_000), decimals=8, pool_fee=3000)
        yield market


@pytest.fixture
def market(deployed: LocalMarket) -> Iterator[LocalMarket]:
    snapshot, book = deployed.evm.snapshot(), deployed.book
    yield deployed
    deployed.evm.revert(snapshot)
    deployed.book = book


@pytest.fixture
def trader(market: LocalMarket):
    account = market.evm.accounts[5]
    market.give_quote(account, 10**12)
    return account


def distance(market: LocalMarket, symbol: str) -> Decimal:
    """How far the pool is from the oracle, as a share of the oracle's price."""
    return abs(market.pool_price(symbol) / market.oracle_price(symbol) - 1)


# Refusals


def test_an_unknown_asset_is_refused_with_those_there_are(market: LocalMarket):
    for ask in (market.pool_price, market.arbitrage, market.oracle_price):
        with pytest.raises(KeyError, match="ETH, BTC"):
            ask("DOGE")


def test_only_the_publisher_can_publish(market: LocalMarket):
    feed = market.book.asset("ETH").feed
    with pytest.raises(TransactionReverted) as caught:
        feeds.publish(market.evm, feed, 1, transmitter=market.arbitrageur)
    assert caught.value.reason.name == "FeedAggregatorUnauthorized"


@pytest.mark.parametrize("offset_s", [-1, 100])
def test_a_round_from_before_the_last_or_from_the_future_is_refused(market: LocalMarket, offset_s: int):
    market.publish("ETH", Decimal(3000))
    with pytest.raises(TransactionReverted) as caught:
        market.publish("ETH", Decimal(3000), at_s=market.evm.now_s() + offset_s)
    assert caught.value.reason.name == "FeedAggregatorTimestampOutOfOrder"


def test_only_the_owner_can_change_the_aggregator(market: LocalMarket):
    with pytest.raises(TransactionReverted) as caught:
        feeds.begin_phase(
            market.evm, market.book.asset("ETH").feed, owner=market.publisher, transmitter=market.publisher
        )
    assert caught.value.reason.name == "FeedProxyUnauthorized"


def test_an_aggregator_that_was_not_proposed_is_not_confirmed(market: LocalMarket):
    feed = market.evm.at("FeedProxy", market.book.asset("ETH").feed)
    with pytest.raises(TransactionReverted) as caught:
        market.evm.send(feed.functions.confirmAggregator(market.book.quote_feed), market.deployer)
    assert caught.value.reason.name == "FeedProxyNotProposed"


def test_a_round_of_a_phase_that_never_was_reverts(market: LocalMarket):
    with pytest.raises(CallReverted):
        feeds.fetch_round(market.evm, market.book.asset("ETH").feed, (9 << 64) | 1)


def test_nobody_arbitrages_towards_no_price(market: LocalMarket):
    market.begin_phase("ETH")
    with pytest.raises(ValueError, match="no price"):
        market.arbitrage("ETH")


def test_a_swap_below_its_minimum_reverts_with_the_routers_words(market: LocalMarket, trader):
    with pytest.raises(TransactionReverted, match="Too little received"):
        market.buy("ETH", 3000 * 10**6, sender=trader, min_out=ETHER)


def test_a_market_without_a_sequencer_says_so(market: LocalMarket):
    with start_evm("py-evm") as evm:
        plain = LocalMarket.deploy(evm, base_price_usd=ETH_USD)
        with pytest.raises(ValueError, match="sequencer"):
            plain.publish_sequencer(is_up=False)


@pytest.mark.parametrize("close_at_s", [0, 1])
def test_bars_out_of_order_are_refused(market: LocalMarket, close_at_s: int):
    with pytest.raises(ValueError, match="cannot travel"):
        next(market.replay([Bar(close_at_s=close_at_s, prices_usd={})]))


# What was deployed


def test_the_pools_are_the_official_ones_at_the_feed_price(market: LocalMarket):
    assert market.book.pool_init_code_hash == POOL_INIT_CODE_HASH
    for asset in market.book.assets:
        assert distance(market, asset.symbol) < Decimal("1e-15")
        code = market.evm.w3.eth.get_code(asset.pool)
        assert 20_000 < len(code) <= 24_576


def test_feeds_look_like_chainlinks(market: LocalMarket):
    evm, feed = market.evm, market.evm.at("FeedProxy", market.book.asset("ETH").feed)
    assert evm.call(feed.functions.description()) == "ETH / USD"
    assert evm.call(feed.functions.decimals()) == 8
    assert evm.call(feed.functions.phaseId()) == 1
    latest = feeds.fetch_round(evm, feed.address)
    assert latest.round_id == latest.answered_in_round == (1 << 64) | 1
    assert latest.answer == 300_050_000_000
    assert latest.started_at_s == latest.updated_at_s
    assert feeds.fetch_round(evm, market.book.sequencer_feed).answer == feeds.SEQUENCER_UP


def test_the_address_book_survives_json(market: LocalMarket):
    assert AddressBook.from_dict(market.book.to_dict()) == market.book
    with pytest.raises(TypeError):
        AddressBook.from_dict({**market.book.to_dict(), "surprise": 1})


def test_multicall_is_where_public_chains_have_it(market: LocalMarket):
    multicall = market.evm.at("LocalMulticall", MULTICALL3)
    token = uniswap.erc20(market.evm, market.book.quote)
    calls = [(token.address, False, token.encode_abi("decimals")), (token.address, True, "0xdeadbeef")]
    first, second = market.evm.call(multicall.functions.aggregate3(calls))
    assert (first.success, int.from_bytes(first.returnData, "big")) == (True, 6)
    assert second.success is False


# Publishing


def test_rounds_are_numbered_and_kept_with_their_times(market: LocalMarket):
    feed = market.book.asset("BTC").feed
    first = market.publish("BTC", Decimal("61000.12345678"))
    at_s = market.evm.now_s()
    market.evm.travel(3600)
    second = market.publish("BTC", Decimal(62_000), at_s=at_s + 1800)
    assert second == first + 1 == (1 << 64) | 3
    assert feeds.fetch_round(market.evm, feed, first)[1:4] == (6_100_012_345_678, at_s, at_s)
    assert feeds.fetch_round(market.evm, feed)[1:4] == (6_200_000_000_000, at_s + 1800, at_s + 1800)
    assert feeds.fetch_round(market.evm, feed, second + 1)[1:4] == (0, 0, 0)


def test_a_new_phase_keeps_history_by_round_id(market: LocalMarket):
    feed = market.book.asset("ETH").feed
    old = market.publish("ETH", Decimal(3100))
    before = feeds.fetch_round(market.evm, feed, old)
    market.begin_phase("ETH")
    assert feeds.fetch_round(market.evm, feed).updated_at_s == 0
    new = market.publish("ETH", Decimal(3200))
    assert new == (2 << 64) | 1
    assert feeds.fetch_round(market.evm, feed, old) == before
    assert feeds.fetch_round(market.evm, feed, new).answer == 320_000_000_000
    assert feeds.fetch_round(market.evm, feed).round_id == new


def test_the_sequencer_can_go_down_and_come_back(market: LocalMarket):
    for is_up, answer in ((False, 1), (True, 0)):
        market.publish_sequencer(is_up=is_up)
        assert feeds.fetch_round(market.evm, market.book.sequencer_feed)[1:3] == (answer, market.evm.now_s())


@pytest.mark.parametrize(
    ("price", "decimals", "answer"),
    [("3000.5", 8, 300_050_000_000), ("0.000000015", 8, 2), ("0.000000025", 8, 2), ("-1", 0, -1), ("1", 18, ETHER)],
)
def test_answers_round_half_to_even(price: str, decimals: int, answer: int):
    assert feeds.to_answer(Decimal(price), decimals) == answer


# Arbitrage


@pytest.mark.parametrize("symbol", ["ETH", "BTC"])
@pytest.mark.parametrize("move", ["0.5", "0.97", "1.005", "1.04", "3"])
def test_one_swap_brings_the_pool_to_the_oracle(market: LocalMarket, symbol: str, move: str):
    before = market.oracle_price(symbol)
    market.publish(symbol, before * Decimal(move))
    made = market.arbitrage(symbol)
    assert made is not None
    assert made.is_buy == (Decimal(move) > 1)
    assert made.amount_out > 0
    assert distance(market, symbol) < Decimal("1e-12")
    assert market.arbitrage(symbol) is None


@pytest.mark.parametrize(("symbol", "inside", "outside"), [("ETH", "1.0004", "1.0006"), ("BTC", "0.9975", "0.9965")])
def test_within_the_pools_fee_there_is_nothing_to_earn(market: LocalMarket, symbol: str, inside: str, outside: str):
    price = market.oracle_price(symbol)
    market.publish(symbol, price * Decimal(inside))
    assert market.arbitrage(symbol) is None
    market.publish(symbol, price * Decimal(outside))
    assert market.arbitrage(symbol) is not None


def test_a_trade_moves_the_pool_and_the_arbitrageur_moves_it_back(market: LocalMarket, trader):
    bought = market.buy("ETH", 10**12, sender=trader)
    assert market.balance(market.book.weth, trader) == bought
    # 1,000,000 less 0.05 % against 10,000,000 on each side: x·y = k.
    assert bought == pytest.approx(int(10**7 / Decimal("3000.5") * ETHER) * 999_500 // 10_999_500, rel=1e-9)
    assert market.pool_price("ETH") > Decimal("1.2") * ETH_USD
    made = market.arbitrage("ETH")
    assert made is not None
    assert not made.is_buy
    assert distance(market, "ETH") < Decimal("1e-12")
    assert market.sell("ETH", bought, sender=trader) < 10**12


def test_the_quote_tokens_own_price_counts(market: LocalMarket):
    market.publish("MUSD", Decimal("0.98"))
    assert market.oracle_price("ETH") == ETH_USD / Decimal("0.98")
    market.arbitrage("ETH")
    assert distance(market, "ETH") < Decimal("1e-12")


# Replay


def bars(market: LocalMarket, count: int = 6) -> list[Bar]:
    start_s = market.evm.now_s() + 500
    prices = [Decimal(3000) + 37 * (index * 7 % 5) for index in range(count)]
    return [
        Bar(close_at_s=start_s + 3600 * index, prices_usd={"ETH": price, "BTC": 20 * price})
        for index, price in enumerate(prices)
    ]


def test_a_replay_is_at_each_close_with_fresh_rounds_and_pools_within_their_fees(market: LocalMarket):
    called: list[Bar] = []
    planned = bars(market)
    yielded = []
    for bar in market.replay(planned, called.append):
        yielded.append(bar)
        for symbol in ("ETH", "BTC", "MUSD"):
            feed = market.book.quote_feed if symbol == "MUSD" else market.book.asset(symbol).feed
            assert feeds.fetch_round(market.evm, feed).updated_at_s == bar.close_at_s
        for asset in market.book.assets:
            assert distance(market, asset.symbol) * 1_000_000 <= asset.pool_fee
        assert 0 <= market.evm.now_s() - bar.close_at_s < 60
    assert yielded == called == planned


def test_an_asset_left_out_of_a_bar_publishes_nothing(market: LocalMarket):
    before = feeds.fetch_round(market.evm, market.book.asset("BTC").feed)
    for _ in market.replay([Bar(close_at_s=market.evm.now_s() + 60, prices_usd={"ETH": Decimal(4000)})]):
        pass
    assert feeds.fetch_round(market.evm, market.book.asset("BTC").feed) == before
    assert distance(market, "ETH") < Decimal("1e-12")


def replayed(market: LocalMarket) -> list[object]:
    told: list[object] = []
    for bar in market.replay(bars(market)):
        symbols = [asset.symbol for asset in market.book.assets]
        told.append([(bar.close_at_s, market.pool_price(each), market.oracle_price(each)) for each in symbols])
    return [*told, market.evm.now_s(), market.evm.w3.eth.block_number]


def test_after_a_revert_the_same_replay_gives_the_same(market: LocalMarket):
    snapshot = market.evm.snapshot()
    first = replayed(market)
    market.evm.revert(snapshot)
    assert replayed(market) == first


@pytest.mark.parametrize("kind", KINDS[:1])
def test_both_evms_deploy_and_replay_the_same(kind: str):
    told = []
    for each in (kind, "py-evm"):
        with start_evm(each) as evm:
            market = LocalMarket.deploy(evm, base_price_usd=ETH_USD)
            market.add_asset("BTC", price_usd=Decimal(60_000), decimals=8)
            told.append((market.book, replayed(market), every_receipt(evm)))
    assert told[0] == told[1]


def every_receipt(evm: LocalEvm) -> list[tuple[object, ...]]:
    found = []
    for number in range(evm.w3.eth.block_number + 1):
        block = evm.w3.eth.get_block(number)
        for transaction_hash in block["transactions"]:
            receipt = evm.w3.eth.get_transaction_receipt(transaction_hash)
            logs = [(log["address"], log["topics"], log["data"]) for log in receipt["logs"]]
            found.append((block["timestamp"], transaction_hash, receipt["status"], receipt["gasUsed"], logs))
    return found


@pytest.mark.parametrize(
    ("decimals", "quote_decimals", "price"), [(6, 18, "1.5"), (18, 6, "0.00002"), (8, 8, "100000"), (18, 18, "1")]
)
def test_any_decimals_and_prices_work_in_either_token_order(decimals: int, quote_decimals: int, price: str):
    with start_evm("py-evm") as evm:
        market = LocalMarket.deploy(
            evm,
            base_price_usd=Decimal(price),
            symbol="XYZ",
            base="XYZ",
            base_decimals=decimals,
            quote_decimals=quote_decimals,
        )
        for index in range(6):  # addresses are as good as random: some are below the quote token's, some above
            symbol = f"X{index}"
            market.add_asset(symbol, price_usd=Decimal(price), decimals=decimals)
            market.publish(symbol, Decimal(price) * 2)
            market.arbitrage(symbol)
            assert distance(market, symbol) < Decimal("1e-6")
        orders = {int(asset.token, 16) < int(market.book.quote, 16) for asset in market.book.assets}
        assert orders == {True, False}


# Mocks that misbehave


@pytest.fixture
def faulty_feed(market: LocalMarket):
    return market.evm.deploy("FaultyFeed", 8, "ETH / USD", sender=market.deployer)


def test_a_faulty_feed_fails_in_each_way_it_is_told(market: LocalMarket, faulty_feed):
    evm, someone = market.evm, market.evm.accounts[1]
    evm.send(faulty_feed.functions.setRound(((1 << 64) | 7, -5, 1, 2, 3)), someone)
    read = faulty_feed.functions.latestRoundData()
    assert tuple(evm.call(read)) == ((1 << 64) | 7, -5, 1, 2, 3)
    raw = {"to": faulty_feed.address, "data": faulty_feed.encode_abi("latestRoundData")}
    expected_bytes = {3: 4 * 32, 4: 5 * 32, 5: 0}
    for mode in range(1, 6):
        evm.send(faulty_feed.functions.setMode(mode), someone)
        if mode in expected_bytes:
            assert len(evm.call(raw)) == expected_bytes[mode]
        else:
            with pytest.raises(CallReverted, match="FaultyFeedDown" if mode == 1 else "NoReason"):
                evm.call(raw)
    evm.send(faulty_feed.functions.setDecimals(20), someone)
    assert evm.call(faulty_feed.functions.decimals()) == 20


def test_burning_all_gas_leaves_a_sixty_fourth_to_the_caller(market: LocalMarket, faulty_feed):
    evm, someone = market.evm, market.evm.accounts[1]
    evm.send(faulty_feed.functions.setMode(2), someone)
    multicall = evm.at("LocalMulticall", MULTICALL3)
    call = multicall.functions.aggregate3([(faulty_feed.address, True, faulty_feed.encode_abi("latestRoundData"))])
    receipt = evm.send(call, someone, gas=3_000_000)
    assert receipt.gasUsed > 2_900_000


def test_a_faulty_token_fails_in_each_way_it_is_told(market: LocalMarket):
    evm, owner, other = market.evm, market.evm.accounts[1], market.evm.accounts[2]
    token = evm.deploy("FaultyToken", "Faulty", "FLT", 8, sender=owner)
    functions = token.functions
    evm.send(functions.mint(owner.address, 10_000), owner)
    evm.send(functions.setFeeBps(100), owner)
    evm.send(functions.transfer(other.address, 1000), owner)
    assert evm.call(functions.balanceOf(other.address)) == 990
    evm.send(functions.setFeeBps(0), owner)
    evm.send(functions.setRefusing(True), owner)
    assert evm.call(functions.transfer(other.address, 1), owner) is False
    evm.send(functions.setRefusing(False), owner)
    evm.send(functions.setHook(token.address, token.encode_abi("mint", [other.address, 7])), owner)
    evm.send(functions.transfer(other.address, 10), owner)
    assert evm.call(functions.balanceOf(other.address)) == 1007
    evm.send(functions.setDead(True), owner)
    with pytest.raises(TransactionReverted, match="FaultyTokenDead"):
        evm.send(functions.transfer(other.address, 1), owner)
    evm.send(functions.setBalanceHidden(True), owner)
    with pytest.raises(CallReverted, match="FaultyTokenBalanceHidden"):
        evm.call(functions.balanceOf(owner.address))


def test_a_token_that_returns_nothing_and_one_that_rebases(market: LocalMarket):
    evm, owner, other = market.evm, market.evm.accounts[1], market.evm.accounts[2]
    silent = evm.deploy("NoReturnToken", 6, sender=owner)
    evm.send(silent.functions.mint(owner.address, 10), owner)
    transfer = {"to": silent.address, "data": silent.encode_abi("transfer", [other.address, 3])}
    assert evm.call(transfer, owner) == b""
    evm.send(silent.functions.approve(other.address, 1), owner)
    with pytest.raises(TransactionReverted, match="NoReturnTokenAllowanceNotZero"):
        evm.send(silent.functions.approve(other.address, 2), owner)
    rebasing = evm.deploy("RebasingToken", 18, sender=owner)
    evm.send(rebasing.functions.mint(other.address, 1000), owner)
    evm.send(rebasing.functions.rebase(9 * 10**17), owner)
    assert evm.call(rebasing.functions.balanceOf(other.address)) == 900
    with pytest.raises(TransactionReverted, match="RebasingTokenUnauthorized"):
        evm.send(rebasing.functions.rebase(1), other)


def test_a_smart_wallet_signs_and_acts_for_its_owner_only(market: LocalMarket):
    evm, owner, other = market.evm, market.evm.accounts[1], market.evm.accounts[2]
    wallet = evm.deploy("SmartWallet", owner.address, sender=other)
    digest = b"\x07" * 32
    signed = {who.address: Keys.unsafe_sign_hash(digest, who.key).signature for who in (owner, other)}
    check = wallet.functions.isValidSignature
    assert evm.call(check(digest, signed[owner.address])).hex() == "1626ba7e"
    for wrong in (signed[other.address], b"", bytes(65)):
        assert evm.call(check(digest, wrong)).hex() == "ffffffff"
    market.give_quote(wallet.address, 5)
    token = uniswap.erc20(evm, market.book.quote)
    evm.send(wallet.functions.execute(token.address, token.encode_abi("transfer", [other.address, 5])), owner)
    assert market.balance(token.address, other) == 5
    with pytest.raises(TransactionReverted, match="ERC20InsufficientBalance"):
        evm.send(wallet.functions.execute(token.address, token.encode_abi("transfer", [other.address, 5])), owner)


def test_the_quote_token_takes_permits(market: LocalMarket):
    evm, owner, spender = market.evm, market.evm.accounts[1], market.evm.accounts[2]
    token = evm.at("QuoteToken", market.book.quote)
    assert (evm.call(token.functions.name()), evm.call(token.functions.symbol())) == ("Market Dollar", "MUSD")
    numbers = [(name, "uint256") for name in ("value", "nonce", "deadline")]
    fields = [("owner", "address"), ("spender", "address"), *numbers]
    signed = Keys.sign_typed_data(
        owner.key,
        domain_data={"name": "Market Dollar", "version": "1", "chainId": 31337, "verifyingContract": token.address},
        message_types={"Permit": [{"name": name, "type": kind} for name, kind in fields]},
        message_data={"owner": owner.address, "spender": spender.address, "value": 9, "nonce": 0, "deadline": 2**40},
    )
    r, s = (number.to_bytes(32, "big") for number in (signed.r, signed.s))
    evm.send(token.functions.permit(owner.address, spender.address, 9, 2**40, signed.v, r, s), spender)
    assert evm.call(token.functions.allowance(owner.address, spender.address)) == 9


def test_uniswap_is_untouched(market: LocalMarket):
    pool = market.evm.at(third_party("UniswapV3Pool"), market.book.asset("ETH").pool)
    factory = market.evm.at(third_party("UniswapV3Factory"), market.book.factory)
    assert market.evm.call(pool.functions.factory()) == factory.address
    tokens = uniswap.sort_tokens(market.book.weth, market.book.quote)
    assert market.evm.call(factory.functions.getPool(*tokens, 500)) == pool.address
