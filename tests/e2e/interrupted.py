"""Deployments that are killed: real processes, a chain with a network's quirks, and a gate between the two.

The gate forwards JSON-RPC. It knows when the n-th transaction is about to be sent, has been sent, has been mined, and
kills the process there: from outside, with nothing in the code that knows of it.

    python -m tests.e2e.interrupted      reads commands, forks a process for each: the imports are done once
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self

from eth_account import Account as Keys
from eth_utils import keccak, to_checksum_address

from agents.commands._local import make_market
from agents.demo import PEOPLE
from agents.deployment import CONTRACTS, CREATE2_PROXY, CREATE2_PROXY_CODE
from agents.localnet.anvil import AnvilProcess, AnvilProvider
from agents.localnet.evm import GENESIS_S, MNEMONIC, LocalEvm, mnemonic_accounts
from agents.localnet.market import AddressBook

ROOT = Path(__file__).resolve().parents[2]
ALIAS, WORD = "founder", "word"
FOUNDER = Keys.from_key("0x" + "5a" * 32)
ETHER = 10**18

Point = Literal["before-signing", "before-send", "after-send", "after-receipt"]
# Where in the life of a transaction a process dies: nothing is written down yet; it is, but no node has it; a node has
# it, nobody has heard of it; it is mined, and the next step not begun.
POINTS: tuple[Point, ...] = ("before-signing", "before-send", "after-send", "after-receipt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """What a network has that others have not."""

    name: str
    chain_id: int
    gas_limit: int = 30_000_000
    base_fee_wei: int = 10**9
    # Whether the CREATE2 proxy is there.
    has_proxy: bool = True
    # Block headers with more extra data than Ethereum allows, as Bor's validators sign there.
    has_long_headers: bool = False
    # What the node says a tip has to be.
    tip_wei: int | None = None


NETWORKS = {
    network.name: network
    for network in (
        Quirks(name="ethereum-sepolia", chain_id=11_155_111, gas_limit=60_000_000),
        Quirks(
            name="polygon-amoy", chain_id=80_002, base_fee_wei=30 * 10**9, has_long_headers=True, tip_wei=25 * 10**9
        ),
        Quirks(name="arbitrum-sepolia", chain_id=421_614, gas_limit=2**50, base_fee_wei=10**8, tip_wei=0),
        Quirks(name="base-sepolia", chain_id=84_532, gas_limit=150_000_000, base_fee_wei=250, tip_wei=0),
        Quirks(
            name="optimism-sepolia", chain_id=11_155_420, gas_limit=40_000_000, base_fee_wei=250, tip_wei=0,
            has_proxy=False,
        ),
    )
}  # fmt: skip


# Between the process and the node


@dataclass(slots=True)
class Kill:
    """Where the process dies next: at that point of its `number`-th transaction, counted from 1 in this process."""

    point: Point
    number: int


@dataclass(slots=True)
class Watch:
    """What one process has asked for so far."""

    pid: int = 0
    kill: Kill | None = None
    signed: int = 0
    sent: list[str] = field(default_factory=list)
    estimates: int = 0
    is_due: bool = False
    # Whether transactions reach the node; a node that is gone answers nothing at all.
    is_down: bool = False


class Gate:
    """Forwards JSON-RPC to an anvil, and kills at the moment it is told."""

    def __init__(self, port: int, quirks: Quirks) -> None:
        self.watch, self.quirks = Watch(), quirks
        self.answers: dict[str, Callable[[list[Any]], Any]] = {}
        self._provider = AnvilProvider("127.0.0.1", port)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._provider.close()

    def answer(self, request: Mapping[str, Any]) -> Any:
        """The answer, or None when the process that asked is dead."""
        method, watch = request["method"], self.watch
        if watch.is_due or watch.is_down:
            return self._die()
        if method == "eth_estimateGas":
            watch.estimates += 1
            if self._dies_at("before-signing", watch.estimates):
                return self._die()
        if method == "eth_sendRawTransaction":
            watch.sent.append("0x" + keccak(hexstr=request["params"][0]).hex())
            if self._dies_at("before-send", len(watch.sent)):
                return self._die()
        if method in self.answers:
            return {"jsonrpc": "2.0", "id": request["id"], "result": self.answers[method](request["params"])}
        answer = {**self._provider.request_raw(method, request["params"]), "id": request["id"]}
        if method == "eth_sendRawTransaction" and self._dies_at("after-send", len(watch.sent)):
            return self._die()
        if method == "eth_getTransactionReceipt" and answer.get("result") and request["params"][0] in watch.sent:
            number = watch.sent.index(request["params"][0]) + 1
            watch.is_due = self._dies_at("after-receipt", number)
        return self._with_quirks(method, answer)

    def _dies_at(self, point: Point, number: int) -> bool:
        kill = self.watch.kill
        return kill is not None and (kill.point, kill.number) == (point, number)

    def _die(self) -> None:
        if self.watch.pid and not self.watch.is_down:
            os.kill(self.watch.pid, signal.SIGKILL)

    def _with_quirks(self, method: str, answer: dict[str, Any]) -> dict[str, Any]:
        result = answer.get("result")
        if method == "eth_maxPriorityFeePerGas" and self.quirks.tip_wei is not None:
            return {**answer, "result": hex(self.quirks.tip_wei)}
        if method.startswith("eth_getBlockBy") and result and self.quirks.has_long_headers:
            return {**answer, "result": {**result, "extraData": "0x" + 97 * "d8"}}
        if method == "web3_clientVersion":
            return {**answer, "result": "bor/v2.0.0" if self.quirks.has_long_headers else "Geth/v1.16.0"}
        return answer

    def _handler(gate) -> type[BaseHTTPRequestHandler]:  # noqa: N805 -- `self` is the handler's, below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # One packet for an answer, at once: else each of thousands of questions takes 40 ms more.
            disable_nagle_algorithm, wbufsize = True, -1

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = gate.answer(body)
                if answer is None:
                    self.close_connection = True
                    return
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


# Processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: its exit code, or minus the signal that killed it."""

    code: int
    output: str


class Processes:
    """Runs commands of this project, each in a process of its own that can be killed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        environment = {
            **os.environ, "APE_DATA_FOLDER": str(home / "ape"), "HOME": str(home), "PYTHONPATH": str(ROOT),
            f"APE_ACCOUNTS_{ALIAS}_PASSPHRASE": WORD,
        }  # fmt: skip
        accounts = home / "ape" / "accounts"
        accounts.mkdir(parents=True)
        keyfile = Keys.encrypt(FOUNDER.key, WORD, kdf="pbkdf2", iterations=1)
        (accounts / f"{ALIAS}.json").write_text(json.dumps(keyfile))
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.interrupted"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, cwd=ROOT,
        )  # fmt: skip

    def close(self) -> None:
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait()
        self._zygote.stdout.close()

    def run(self, command: str, *arguments: str, started: Callable[[int], None] = lambda _: None) -> Ended:
        """One command to its end. `started` gets the process id before anything else happens."""
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        log = self.home / "output.txt"
        log.write_text("")
        self._tell({"command": command, "arguments": arguments, "log": str(log)})
        started(int(self._zygote.stdout.readline()))
        self._tell({"go": True})
        code = int(self._zygote.stdout.readline())
        return Ended(code=code, output=log.read_text())

    def _tell(self, what: Mapping[str, Any]) -> None:
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(what) + "\n")
        self._zygote.stdin.flush()


def main() -> None:
    """The zygote: until standard input ends."""
    from agents.commands import check_config, deploy

    commands = {"deploy": deploy.cli, "check_config": check_config.cli}
    for line in sys.stdin:
        wanted = json.loads(line)
        ready, go = os.pipe()
        if not (pid := os.fork()):
            os.close(go)
            os.read(ready, 1)
            _be(commands[wanted["command"]], wanted)
        os.close(ready)
        print(pid, flush=True)
        sys.stdin.readline()
        os.write(go, b"!")
        os.close(go)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be(command: Any, wanted: Mapping[str, Any]) -> None:
    code = 70
    try:
        with Path(wanted["log"]).open("a", encoding="utf-8", buffering=1) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                command.main(list(wanted["arguments"]), standalone_mode=False)
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)


# A network of one's own


class Network:
    """A chain that says it is a public network, with a market on it, and a folder of deployments."""

    def __init__(self, quirks: Quirks, folder: Path) -> None:
        self.quirks, self.folder = quirks, folder
        self._open = ExitStack()
        process = AnvilProcess(
            mnemonic=MNEMONIC, accounts=20, chain_id=quirks.chain_id, timestamp_s=GENESIS_S,
            block_gas_limit=quirks.gas_limit, history_blocks=1000, port=None,
        )  # fmt: skip
        provider = AnvilProvider("127.0.0.1", process.port)
        self.evm = self._open.enter_context(
            LocalEvm("anvil", provider, mnemonic_accounts(20), block_gas_limit=30_000_000, process=process)
        )
        self.rpc = self.evm._rpc
        self.book: AddressBook = make_market(self.evm).book
        if quirks.has_proxy:
            self.evm.set_code(CREATE2_PROXY, CREATE2_PROXY_CODE)
        self.evm.set_balance(FOUNDER.address, 100 * ETHER)
        self.gate = Gate(process.port, quirks)
        self._open.callback(self.gate.close)
        self._configure()
        self._start = self.evm.snapshot()
        self.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def restart(self) -> None:
        """As it was before anything was deployed."""
        self.evm.revert(self._start)
        self.rpc("anvil_setNextBlockBaseFeePerGas", hex(self.quirks.base_fee_wei))
        self.evm.mine()
        for path in self.folder.glob("*.json*"):
            path.unlink()
        self.gate.watch = Watch()

    def _configure(self) -> None:
        for name in ("market", "genesis"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "market" / f"{self.quirks.name}.json").write_text(json.dumps(self.book.to_dict()))
        genesis = (ROOT / "deployments" / "genesis" / "local.toml").read_text()
        for name, account in zip(PEOPLE, self.evm.accounts, strict=False):
            genesis = re.sub(rf'(?m)^{name} = |"{name}"', lambda m, a=account.address: m[0].replace(
                m[0].strip('" ='), a), genesis)  # fmt: skip
        (self.folder / "genesis" / f"{self.quirks.name}.toml").write_text(genesis)

    @property
    def where(self) -> list[str]:
        return ["--network", self.gate.url, "--deployments", str(self.folder)]

    @property
    def file(self) -> Path:
        return self.folder / f"{self.quirks.name}.json"

    @property
    def partial(self) -> Path:
        return self.folder / f"{self.quirks.name}.partial.json"

    def deploy(self, processes: Processes, *options: str, kill: Kill | None = None) -> Ended:
        """`deploy` in a process, killed where that says."""

        def started(pid: int) -> None:
            self.gate.watch = Watch(pid=pid, kill=kill)

        arguments = ["--account", ALIAS, "--confirmations", "0", *self.where, *options]
        return processes.run("deploy", *arguments, started=started)

    def check(self, processes: Processes) -> Ended:
        """`check_config` in a process."""
        self.gate.watch = Watch()
        return processes.run("check_config", *self.where)

    # What is there

    def state(self) -> dict[str, Any]:
        """All of the deployment that can be told apart: the file, each contract's code, storage and nonce, the
        transactions that its account has sent, and how many contracts the `Deployer` made for it."""
        written = json.loads(self.file.read_text())
        protocol = written["protocol"]
        places = {name: protocol[name] for name in ("deployer_contract", *CONTRACTS)}
        places |= {f"grant-{i}": address for i, address in enumerate(protocol["grants"])}
        proofs = {name: self.rpc("eth_getProof", address, [], "latest") for name, address in places.items()}
        made = {"address": protocol["deployer_contract"], "fromBlock": "0x0", "toBlock": "latest"}
        return {
            "file": written,
            "contracts": {n: [p["codeHash"], p["storageHash"], p["nonce"]] for n, p in proofs.items()},
            "transactions": self.rpc("eth_getTransactionCount", FOUNDER.address, "latest"),
            "made": len(self.rpc("eth_getLogs", made)),
            "deployers": self._deployers(protocol["deployer_contract"]),
        }

    def _deployers(self, address: str) -> int:
        """How many contracts on the chain have the `Deployer`'s code: those that the account's nonces or runs made."""
        from web3.utils.address import get_create_address

        from agents.deployment import deployer_contract_at

        code = self.rpc("eth_getCode", address, "latest")
        nonces = range(int(self.rpc("eth_getTransactionCount", FOUNDER.address, "latest"), 16))
        places = {to_checksum_address(get_create_address(FOUNDER.address, nonce)) for nonce in nonces}
        places |= {deployer_contract_at(FOUNDER.address, run) for run in range(4)}
        return sum(self.rpc("eth_getCode", place, "latest") == code for place in places)


if __name__ == "__main__":
    main()
