"""What the Graph client costs beside a bare request with the same question and answer.

The server is a process of its own that says the same at once, so nothing is measured but the client: its checks of
question, answer and block. A real indexer takes milliseconds more for both.
"""

from __future__ import annotations

import http.server
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import requests

from agents.localnet.evm import start_evm
from oracle.chain import BlockRef, ChainReader, fetch_block
from oracle.thegraph import GraphClient, GraphSettings

_SDL = """
scalar BigInt
scalar BigDecimal
scalar Bytes
input Block_height { hash: Bytes number: Int number_gte: Int }
type Trade { id: Bytes! sequence: BigInt! amountIn: BigInt! amountOut: BigInt! price: BigDecimal! vault: Bytes! }
type _Block_ { hash: Bytes number: Int! timestamp: Int }
type _Meta_ { block: _Block_! deployment: String! hasIndexingErrors: Boolean! }
type Query { trades(first: Int = 100, block: Block_height): [Trade!]!  _meta(block: Block_height): _Meta_ }
"""
_QUESTION = "{ trades(first: 1000) { id sequence amountIn amountOut price vault } }"
# Rows of an answer, and how often it is asked for.
_SIZES = {1: 200, 1000: 20}


def measure() -> dict[str, float]:
    """Medians: milliseconds of a bare request, and how many times as long the client takes, with and without a node."""
    figures: dict[str, float] = {}
    with start_evm() as evm:
        evm.mine(3)
        block = fetch_block(evm)
        for rows, times in _SIZES.items():
            with (
                _serving(_answer(block, rows)) as url,
                requests.Session() as session,
                _client(url, None, evm.now_s()) as alone,
                _client(url, evm, evm.now_s()) as with_node,
            ):
                bare_s, alone_s, with_node_s = _medians_s(
                    times,
                    lambda: session.post(url, json={"query": _QUESTION}, timeout=10).json(),
                    lambda: alone.query(_QUESTION),
                    lambda: with_node.query(_QUESTION),
                )
            figures[f"bare_ms_{rows}_rows"] = bare_s * 1000
            figures[f"client_ratio_{rows}_rows"] = alone_s / bare_s
            figures[f"client_with_node_ratio_{rows}_rows"] = with_node_s / bare_s
    return figures


def _client(url: str, chain: ChainReader | None, now_s: int) -> GraphClient:
    return GraphClient(
        [url], _SDL, chain=chain, max_lag_blocks=0, max_age_s=60, settings=GraphSettings(key=None), now_s=lambda: now_s
    )


def _medians_s(times: int, *asks: Callable[[], object]) -> list[float]:
    """Each in turn, so that what else the machine does slows all of them."""
    taken: list[list[float]] = [[] for _ in asks]
    for _ in range(times + 1):
        for ask, its in zip(asks, taken, strict=True):
            began = time.perf_counter()
            ask()
            its.append(time.perf_counter() - began)
    # The first connects, and prepares the question.
    return [statistics.median(its[1:]) for its in taken]


def _answer(block: BlockRef, rows: int) -> bytes:
    trades = [
        {
            "id": f"0x{number:064x}", "sequence": str(number), "amountIn": str(10**9 + number),
            "amountOut": str(10**18 * number), "price": f"{2000 + number}.123456789", "vault": "0x" + "ab" * 20,
        }
        for number in range(rows)
    ]  # fmt: skip
    at = {"number": block.number, "hash": block.hash, "timestamp": block.timestamp_s}
    indexer = {"block": at, "hasIndexingErrors": False, "deployment": "Qm"}
    return json.dumps({"data": {"trades": trades, "_indexer": indexer}}).encode()


@contextmanager
def _serving(answer: bytes) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(answer, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/subgraphs/name/benchmark"
    finally:
        process.kill()
        process.join()


def _serve(answer: bytes, port: Connection) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # One packet for each answer.
        wbufsize = -1

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()
