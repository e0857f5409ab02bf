"""ape run travel: lets time pass on a local chain, where it passes only when told, and publishes every price anew."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import click

from agents.commands._chain import Connection, at, on_chain, show
from agents.commands._local import MARKET_MAKER
from agents.errors import Misconfigured
from agents.localnet.evm import attach_evm
from agents.localnet.feeds import fetch_price
from agents.localnet.market import LocalMarket

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command()
@click.argument("duration")
@click.option("--price", multiple=True, help="SYMBOL=DOLLARS to publish instead of the last price; may be repeated.")
@on_chain
def cli(here: Connection, duration: str, price: tuple[str, ...], as_json: bool) -> None:
    """Let DURATION pass (90, 10m, 6h, 2d; 0 publishes prices only); an arbitrageur brings the pools to the prices."""
    if not here.is_local:
        raise Misconfigured(f"nobody moves the clock of chain {here.chain.chain_id}: use a local chain, `ape run node`")
    seconds, book = parse_duration_s(duration), here.deployed().market
    symbols = {book.quote_symbol: book.quote_feed, **{asset.symbol: asset.feed for asset in book.assets}}
    told = dict(parse_price(text, symbols) for text in price)
    evm = attach_evm(here.url)
    try:
        market = LocalMarket(evm, book, deployer=evm.accounts[MARKET_MAKER])
        if seconds:
            evm.travel(seconds)
        prices = {symbol: told.get(symbol, fetch_price(evm, feed)) for symbol, feed in symbols.items()}
        for symbol, price_usd in prices.items():
            market.publish(symbol, price_usd)
        for asset in book.assets:
            market.arbitrage(asset.symbol)
        now_s = evm.now_s()
    finally:
        evm.close()
    show({"now": now_s, "time": at(now_s), "prices": {s: str(p) for s, p in prices.items()}}, as_json=as_json)


def parse_duration_s(text: str) -> int:
    """Seconds in a text such as 90, 10m, 6h or 2d. Raises Misconfigured."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS_S else (text, "s")
    if not number.isdecimal():
        raise Misconfigured(f"{text!r} is no duration: 90, 10m, 6h or 2d are")
    return int(number) * _UNITS_S[unit]


def parse_price(text: str, symbols: dict[str, str]) -> tuple[str, Decimal]:
    """Symbol and dollars. Raises Misconfigured."""
    symbol, _, dollars = text.partition("=")
    try:
        if symbol not in symbols or not (price_usd := Decimal(dollars)) > 0 or not price_usd.is_finite():
            raise ValueError
    except (InvalidOperation, ValueError):
        example = f"{list(symbols)[-1]}=2000"
        raise Misconfigured(f"--price {text!r} is none: give one such as {example}, of {', '.join(symbols)}") from None
    return symbol, price_usd
