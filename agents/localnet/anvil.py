"""The anvil process: found, started on a port of its own, and never left behind."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from agents.contracts import node_modules_roots
from agents.localnet.process import OwnedProcess, is_taken

_TIMEOUT_S = 60


class EvmUnavailable(RuntimeError):
    """The wanted EVM cannot be had on this machine; the message says what to do."""


class PortTaken(EvmUnavailable):
    """Something else listens on the wanted port."""


def find_anvil() -> Path | None:
    """The anvil program: from `node_modules` (the native binary first), else from PATH."""
    for root in node_modules_roots():
        for candidate in (*sorted(root.glob("@foundry-rs/anvil-*/bin/anvil")), root / ".bin" / "anvil"):
            if candidate.is_file():
                return candidate
    found = shutil.which("anvil")
    return Path(found) if found else None


class AnvilProcess:
    """A running anvil. `port` is the one it listens on. Raises EvmUnavailable or PortTaken when it does not start."""

    def __init__(
        self,
        *,
        mnemonic: str,
        accounts: int,
        chain_id: int,
        timestamp_s: int,
        block_gas_limit: int,
        history_blocks: int,
        port: int | None,
    ) -> None:
        program = find_anvil()
        if program is None:
            raise EvmUnavailable("anvil is not installed: run `make install`, or use kind='py-evm'")
        if port is not None and is_taken(port):
            raise PortTaken(f"port {port} is taken: choose another, or none to get a free one")
        options = {
            "--host": "127.0.0.1",
            "--port": port or 0,
            "--hardfork": "prague",
            "--chain-id": chain_id,
            "--mnemonic": mnemonic,
            "--accounts": accounts,
            "--timestamp": timestamp_s,
            "--gas-limit": block_gas_limit,
            "--block-base-fee-per-gas": 0,
            # In memory. Without a limit it writes each older block's whole state to a file in the user's home, which
            # makes it several times slower and is left there when it is killed.
            "--prune-history": history_blocks,
        }
        command = [str(program), "--disable-default-create2-deployer"]
        command += [str(part) for option in options.items() for part in option]
        self._process = OwnedProcess(command)
        try:
            self.port = self._wait_until_listening(program)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill anvil and wait until it is gone. Calling it again does nothing."""
        self._process.close()

    def _wait_until_listening(self, program: Path) -> int:
        timer = threading.Timer(_TIMEOUT_S, self._process.stdin.close)
        timer.start()
        said: list[str] = []
        try:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.startswith("Listening on "):
                    return int(line.rsplit(":", 1)[1])
                said.append(line)
        finally:
            timer.cancel()
        text = "".join(said[-20:]).strip()
        if "in use" in text:
            raise PortTaken(f"port is taken: {text}")
        raise EvmUnavailable(f"{program} did not start; use kind='py-evm', or look at what it said: {text}")


class AnvilProvider(JSONBaseProvider):
    """JSON-RPC over one kept-alive connection for each thread: the standard library's, several times faster here."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._host, self._port = host, port
        self._local = threading.local()
        self._connections: list[http.client.HTTPConnection] = []

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The JSON-RPC answer. Raises OSError when anvil is gone."""
        return self.decode_rpc_response(self._post(self.encode_rpc_request(method, params)))

    def request_raw(self, method: str, params: list[Any]) -> Any:
        """The same for plain JSON values, with less ceremony: the whole answer."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        return json.loads(self._post(body.encode()))

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _post(self, body: bytes) -> bytes:
        connection = getattr(self._local, "connection", None) or self._connect()
        try:
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            return connection.getresponse().read()
        except BaseException:
            # Half an exchange must not be taken for the next one's answer.
            connection.close()
            raise

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=600)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._local.connection = connection
        self._connections.append(connection)
        return connection
