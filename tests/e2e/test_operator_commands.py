"""What an operator does, at a real node with a journal of real cycles: every refusal, and what each command says."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner
from eth_account import Account as EthAccount
from pydantic import SecretStr

from agents.cli import main
from agents.explanation import explanation_hash
from agents.fleet import CLOSE_ALL, CLOSE_VAULTS, PAUSED
from agents.journal import Journal, Note
from agents.operator_view import exact
from agents.settings import Settings
from agents.signer import Keyring, address_of, load_keyfile
from offchain_rl.calibration import MIN_ANSWERS
from offchain_rl.observation import ObservationSpec
from oracle.chain import BlockRef
from tests.contracts.world import usd
from tests.e2e.conftest import BAR_S, SPEC, Agent, Hire, constant, moving_average
from tests.e2e.daemons import PASSPHRASE, write_files

NAME = "eth-trend"
FINALITY_BLOCKS = 3
# As it is installed.
MARKETFLOW = str(Path(sys.executable).with_name("marketflow"))


@dataclass(slots=True, kw_only=True)
class Operator:
    """Somebody with an agent's files, who types commands. `env`: what is set besides."""

    agent: Agent
    settings: Settings
    env: dict[str, str | None] = field(default_factory=dict)

    def environment(self) -> dict[str, str | None]:
        s = self.settings
        return {
            "MARKETFLOW_RPC_URLS": s.urls()[0], "MARKETFLOW_CHAIN_ID": str(s.chain_id),
            "MARKETFLOW_DEPLOYMENT": str(s.deployment), "MARKETFLOW_AGENTS": str(s.agents),
            "MARKETFLOW_JOURNAL": str(s.journal), "MARKETFLOW_KEYFILE_PASSPHRASE": PASSPHRASE,
            "MARKETFLOW_FINALITY_BLOCKS": str(FINALITY_BLOCKS), "MARKETFLOW_CONSENSUS": "false",
            "MARKETFLOW_HTTP_PORT": "0", "MARKETFLOW_POLL_S": "0.05", "MARKETFLOW_RPC_TIMEOUT_S": "5",
        } | self.env  # fmt: skip

    def run(self, *arguments: Any) -> Any:
        """Types `marketflow agent ...`; the ending, with output and errors apart."""
        typed = ["agent", *(str(argument) for argument in arguments)]
        return CliRunner(env=self.environment(), mix_stderr=False).invoke(main, typed)

    def json(self, *arguments: Any, exit_code: int = 0) -> Any:
        """The same with `--json`, which has to be all of the output."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == exit_code, (result.stdout, result.stderr, result.exception)
        return json.loads(result.stdout)

    def refused(self, *arguments: Any, code: int = 1) -> str:
        """The one sentence on standard error."""
        result = self.run(*arguments)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        sentence = result.stderr.splitlines()[-1]
        assert sentence.startswith("error: ")
        return sentence

    @property
    def vault(self) -> str:
        return str(self.agent.strategy.vault.address)

    @property
    def journal(self) -> Journal:
        return self.agent.journal

    def checks(self, exit_code: int = 0) -> dict[str, dict[str, str]]:
        found = self.json("check-accounts", exit_code=exit_code)["checks"]
        return {line["check"]: line for line in found}

    @property
    def process_environment(self) -> dict[str, str]:
        own = {key: value for key, value in self.environment().items() if value is not None}
        return dict(os.environ) | own


def put_to_work(agent: Agent) -> Operator:
    settings = write_files(
        agent.world, agent.folder, [(NAME, agent.strategy.vault, agent.artefact, agent.key)]
    )
    return Operator(agent=agent, settings=settings)


@pytest.fixture
def operator(agent: Agent) -> Operator:
    """Of an agent that has decided nothing yet."""
    return put_to_work(agent)


@pytest.fixture
def trader(operator: Operator) -> Operator:
    """Of an agent that has bought."""
    operator.agent.bars(2010, 2030)
    [step] = operator.agent.run()
    assert step.outcome
    assert step.outcome.trade_id
    return operator


@pytest.fixture
def held_lock(operator: Operator) -> Iterator[None]:
    """Another process's hold on the journal, as a daemon has it."""
    script = "import sys; from agents.journal import Journal as J; j = J(sys.argv[1], exclusive=True); print(); input()"
    command = [sys.executable, "-c", script, str(operator.settings.journal)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        yield
        process.communicate("\n")


def profit_of(operator: Operator) -> int:
    return int(operator.agent.world.status(operator.agent.strategy).profit)


@contextmanager
def daemon(operator: Operator) -> Iterator[subprocess.Popen[bytes]]:
    """A real one, which has reconciled when the block begins."""
    log = operator.settings.journal.with_name("daemon.log")
    with log.open("wb") as file:
        command = [MARKETFLOW, "agent", "run"]
        process = subprocess.Popen(command, env=operator.process_environment, stdout=file, stderr=file)
    try:
        wait_until(lambda: operator.journal.fact("heartbeat") is not None or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(is_so: Callable[[], bool], *, at_most_s: float = 60) -> None:
    until = time.monotonic() + at_most_s
    while not is_so():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, operator: Operator, *typed: Any) -> None:
        ours, theirs = pty.openpty()
        command = [MARKETFLOW, "agent", *map(str, typed)]
        environment = operator.process_environment | {"TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
        self.process = subprocess.Popen(
            command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self._ours, self.said = ours, ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, text: str, *, times: int = 1) -> None:
        wait_until(lambda: self._read() or self.said.count(text) >= times)

    def end(self) -> int:
        """The exit code."""
        wait_until(lambda: self._read() or self.process.poll() is not None)
        self._read()
        return int(self.process.returncode)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            try:
                found = os.read(self._ours, 65_536)
            except OSError:  # the other end was closed
                return
            self.said += found.decode()


class LyingNode:
    """A node that answers some methods with something else. `lies`: results by method."""

    def __init__(self, url: str, lies: Mapping[str, Any]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = json.loads(body)
                request = Request(url, body, {"Content-Type": "application/json"})
                with urlopen(request, timeout=30) as answer:
                    said = json.load(answer)
                calls, answers = (asked, said) if isinstance(asked, list) else ([asked], [said])
                methods = {call["id"]: call["method"] for call in calls}
                for one in answers:
                    if methods[one["id"]] in lies:
                        one["result"] = lies[methods[one["id"]]]
                content = json.dumps(said).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> str:
        """Its address."""
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def lie(operator: Operator) -> Iterator[Callable[..., None]]:
    """From then on the operator's node lies."""
    with ExitStack() as stack:

        def begin(**lies: Any) -> None:
            url = stack.enter_context(LyingNode(operator.settings.urls()[0], lies))
            operator.env["MARKETFLOW_RPC_URLS"] = url

        yield begin


@pytest.fixture
def terminal(operator: Operator) -> Iterator[Callable[..., Terminal]]:
    """A factory of commands on a terminal."""
    opened: list[Terminal] = []

    def open_terminal(*typed: Any) -> Terminal:
        opened.append(Terminal(operator, *typed))
        return opened[-1]

    yield open_terminal
    for found in opened:
        found.close()


# What every command refuses


LOOKING = [
    "status", "positions", "pnl", "check-accounts", "repair", "close-all", "pause", "resume", "export", "top",
    "intervals",
]  # fmt: skip


@pytest.mark.parametrize(
    "command", ["status", "pnl", "repair", "close-all", "pause", "resume", "export", "top", "intervals"]
)
def test_a_command_that_looks_does_not_begin_a_journal(command: str, operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "journal.sqlite"
    operator.env["MARKETFLOW_JOURNAL"] = str(path)
    assert "MARKETFLOW_JOURNAL" in operator.refused(command, code=78)
    assert not path.parent.exists()


@pytest.mark.parametrize("command", LOOKING)
def test_a_setting_that_is_wrong_is_named_with_exit_code_78(command: str, operator: Operator) -> None:
    operator.env["MARKETFLOW_FINALITY_BLOCKS"] = "none"
    assert "MARKETFLOW_FINALITY_BLOCKS" in operator.refused(command, code=78)


@pytest.mark.parametrize("command", ["positions", "pnl", "check-accounts", "repair", "close-all", "intervals"])
def test_a_node_of_another_chain_is_refused(command: str, operator: Operator) -> None:
    operator.env["MARKETFLOW_CHAIN_ID"] = "1"
    assert "chain 1" in operator.refused(command, code=78)


@pytest.mark.parametrize("command", ["positions", "pnl", "check-accounts", "repair", "intervals"])
def test_a_node_that_is_not_there_ends_in_one_sentence(command: str, operator: Operator) -> None:
    operator.env["MARKETFLOW_RPC_URLS"] = "http://127.0.0.1:9/secret-key-of-a-node"
    assert "secret" not in operator.refused(command)


def test_help_has_an_example_of_every_command_and_loads_no_web3() -> None:
    script = (
        "import sys; from click.testing import CliRunner; from agents.cli import main\n"
        "top = CliRunner().invoke(main, ['--help']).output; assert 'agent' in top, top\n"
        "for name in main.get_command(None, 'agent').commands:\n"
        "    shown = CliRunner().invoke(main, ['agent', name, '-h']).output\n"
        "    assert f'  marketflow agent {name}' in shown, shown\n"
        "print(*sorted({'web3', 'rich', 'aiohttp', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\n", "")


# Status


def test_status_says_what_the_chain_says(trader: Operator) -> None:
    view = trader.json("status")
    [shown] = view["agents"]
    assert view["daemon"]["state"] == "not running"
    assert view["decisions"] == {"mined": 1}
    assert view["head"]["number"] == trader.agent.block().number
    assert (shown["state"], shown["value"]) == ("ACTIVE", trader.agent.reading().value)
    assert (shown["last"]["state"], shown["last"]["outcome"]) == ("mined", "traded")
    assert shown["idle_because"] == ""


def test_status_without_a_node_still_shows_the_journal(trader: Operator) -> None:
    trader.env["MARKETFLOW_RPC_URLS"] = "http://127.0.0.1:9"
    view = trader.json("status")
    assert view["problem"]
    assert view["decisions"] == {"mined": 1}
    assert view["agents"][0]["last"]["outcome"] == "traded"


def test_status_tells_why_a_vault_only_reduces_and_an_agent_waits(trader: Operator) -> None:
    world = trader.agent.world
    world.as_timelock(world.strategies.functions.halt(trader.agent.strategy.id))
    trader.run("pause", "new", "keys")
    said = trader.run("status").stdout
    assert "(HALTED)" in said
    assert "paused: new keys" in said


@pytest.mark.usefixtures("held_lock")
def test_status_knows_a_daemon_by_its_lock_and_its_heartbeat(operator: Operator) -> None:
    assert operator.json("status")["daemon"]["state"] == "starting"
    operator.journal.set_fact("heartbeat", {"at_s": int(time.time()), "block": 5, "pid": 7})
    assert operator.json("status")["daemon"] | {"last_cycle_age_s": 0} == {
        "state": "running", "last_cycle_age_s": 0, "last_block": 5, "pid": 7, "paused": None, "closing": None,
    }  # fmt: skip
    operator.journal.set_fact("heartbeat", {"at_s": int(time.time()) - 1000, "block": 5, "pid": 7})
    assert operator.json("status")["daemon"]["state"] == "quiet"


def test_what_is_under_way_is_shown_with_its_hash(operator: Operator) -> None:
    transaction = sign_in_journal(operator, nonce_ahead=0)
    view = operator.json("status")
    assert [row["transaction_hash"] for row in view["in_flight"]] == [transaction]
    assert view["agents"][0]["idle_because"] == "an order is under way"


def test_top_prints_once_where_there_is_no_terminal(trader: Operator) -> None:
    result = trader.run("top")
    assert result.exit_code == 0
    assert NAME in result.stdout
    assert "not running" in result.stdout


def test_top_on_a_terminal_is_drawn_again_and_ends_with_q(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("top", "--every", "0.2")
    shown.wait_for("decisions", times=2)
    shown.type("q")
    assert shown.end() == 0
    assert NAME in shown.said


def test_top_on_a_terminal_ends_with_ctrl_c(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("top", "--every", "5")
    shown.wait_for("decisions")
    shown.type("\x03")
    assert shown.end() == 0


# Positions and profit


def test_positions_are_the_vaults_books(trader: Operator) -> None:
    [shown] = trader.json("positions")["vaults"]
    reading = trader.agent.reading()
    assert (shown["value"], shown["quote_held"]) == (reading.value, reading.quote_held)
    [held] = shown["positions"]
    assert held["symbol"] == "ETH"
    assert held["amount"] == trader.agent.world.held(trader.agent.strategy)
    assert Decimal(held["worth_exact"]) == Decimal(reading.asset_value(held["token"])) / 10**6


def test_positions_without_a_price_are_shown_and_worth_nothing(trader: Operator) -> None:
    trader.agent.world.evm.travel(10 * 3600)
    [held] = trader.json("positions")["vaults"][0]["positions"]
    assert (held["worth"], held["price"]) == (None, None)
    assert held["amount"] == trader.agent.world.held(trader.agent.strategy)


def test_a_profit_that_a_reorg_could_take_is_not_in_the_final_one(trader: Operator) -> None:
    before = trader.json("pnl")
    assert before["total"]["trades_not_final"] == 1
    trader.agent.world.evm.mine(FINALITY_BLOCKS + 1)
    final = profit_of(trader)
    trader.agent.world.set_price("ETH", 2200)
    view = trader.json("pnl")
    [shown] = view["vaults"]
    assert shown["profit"] == profit_of(trader) > 0
    assert shown["profit_final"] == trader.agent.reader.fetch(trader.agent.block(view["final_block"])).profit
    assert shown["profit_final"] in (final, shown["profit"])
    assert shown["profit_exact"] == exact(shown["profit"], 6)


def test_trades_become_final_with_the_journal(trader: Operator) -> None:
    trader.agent.world.evm.mine(FINALITY_BLOCKS + 1)
    assert trader.run("run", "--once").exit_code == 0
    total = trader.json("pnl")["total"]
    assert (total["trades_final"], total["trades_not_final"]) == (1, 0)
    assert "final" in trader.run("pnl").stdout


# Check accounts


def test_an_agent_in_order_has_no_problem(trader: Operator) -> None:
    checks = trader.checks()
    assert {line["verdict"] for line in checks.values()} == {"ok"}
    assert trader.agent.world.signer.address in checks["key"]["found"]
    assert checks["trades"]["found"] == "vault 1, ledger 1, journal 1"
    assert trader.run("check-accounts").exit_code == 0


def test_accounts_can_be_checked_before_the_first_start(operator: Operator, tmp_path: Path) -> None:
    operator.env["MARKETFLOW_JOURNAL"] = str(tmp_path / "none.sqlite")
    assert operator.checks()["trades"]["verdict"] == "ok"
    assert not (tmp_path / "none.sqlite").exists()


def test_a_wrong_passphrase_is_a_problem_that_is_not_repeated(operator: Operator) -> None:
    operator.env["MARKETFLOW_KEYFILE_PASSPHRASE"] = "another passphrase"
    result = operator.run("check-accounts")
    assert result.exit_code == 1
    assert "MARKETFLOW_KEYFILE_PASSPHRASE" in result.stdout
    assert "another passphrase" not in result.stdout + result.stderr


def test_a_key_that_is_not_the_vaults_is_a_problem(operator: Operator) -> None:
    world = operator.agent.world
    world.send(world.agents.functions.setSigningKey(operator.agent.strategy.agent_id, world.other_signer.address),
               world.controller)  # fmt: skip
    line = operator.checks(exit_code=1)["signing key"]
    assert line["verdict"] == "problem"
    assert world.other_signer.address in line["found"]
    assert "setSigningKey" in line["help"]


def test_an_artefact_that_the_dao_did_not_approve_is_a_problem(operator: Operator) -> None:
    agent = operator.agent
    write_files(agent.world, agent.folder, [(NAME, agent.strategy.vault, constant(100), agent.key)])
    assert operator.checks(exit_code=1)["artefact"]["verdict"] == "problem"


def test_an_account_without_ether_is_a_problem(operator: Operator) -> None:
    evm, address = operator.agent.world.evm, operator.agent.world.signer.address
    before = evm.w3.eth.get_balance(address)
    evm.set_balance(address, 10)
    line = operator.checks(exit_code=1)["ether"]
    evm.set_balance(address, before)
    assert line["verdict"] == "problem"
    assert address in line["help"]


def test_fees_above_the_ceiling_are_a_problem_that_names_the_setting(operator: Operator) -> None:
    operator.env |= {"MARKETFLOW_MAX_FEE_WEI": "1", "MARKETFLOW_MIN_TIP_WEI": "2"}
    line = operator.checks(exit_code=1)["ether"]
    assert "MARKETFLOW_MAX_FEE_WEI" in line["found"]


def test_a_trade_by_hand_is_a_problem_until_it_is_taken_over(trader: Operator) -> None:
    trader.agent.world.buy(trader.agent.strategy, usd(1000))
    line = trader.checks(exit_code=1)["trades"]
    assert line["found"] == "vault 2, ledger 2, journal 1"
    assert "repair" in line["help"]
    assert trader.json("repair", "--yes")["done"]["adopted"] == 1
    assert trader.checks()["trades"]["verdict"] == "ok"


def test_foreign_use_of_the_key_is_noted_with_its_nonces(trader: Operator) -> None:
    world = trader.agent.world
    nonce = world.w3.eth.get_transaction_count(world.signer.address)
    world.evm.send({"to": world.stranger.address, "data": b""}, world.signer, value=1)
    line = trader.checks()["foreign"]
    assert line["verdict"] == "note"
    assert str(nonce) in line["found"]


def test_a_journal_of_another_chain_is_a_problem(operator: Operator) -> None:
    operator.journal.set_fact("genesis", "0x" + 64 * "1")
    line = operator.checks(exit_code=1)["chain"]
    assert "MARKETFLOW_JOURNAL" in line["help"]


def test_a_token_that_took_a_vaults_balance_away_is_a_problem(trader: Operator) -> None:
    world, vault = trader.agent.world, trader.vault
    world.evm.impersonate(vault)
    world.send(world.quote.functions.transfer(world.stranger.address, usd(1)), vault)
    line = trader.checks(exit_code=1)["books"]
    booked = trader.agent.reading().quote_held
    assert f"{booked} booked, {booked - usd(1)} there" in line["found"]


def test_a_node_that_leaves_trades_out_is_a_problem(trader: Operator, lie: Callable[..., None]) -> None:
    lie(eth_getLogs=[])
    line = trader.checks(exit_code=1)["ledger"]
    assert "MARKETFLOW_RPC_URLS" in line["help"]


# Repair


def sign_in_journal(operator: Operator, *, nonce_ahead: int) -> str:
    """A poke that is signed in the journal and was never sent, with a nonce so far after the next."""
    world = operator.agent.world
    nonce = world.w3.eth.get_transaction_count(world.signer.address) + nonce_ahead
    fields = {
        "to": operator.vault, "data": "0x18178358", "nonce": nonce, "gas": 1_500_000, "chainId": world.d.chain_id,
        "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9, "value": 0, "type": 2,
    }  # fmt: skip
    signed = EthAccount.sign_transaction(fields, world.signer.key)
    transaction_hash, head = "0x" + bytes(signed.hash).hex(), operator.agent.block()
    with operator.journal.transaction():
        row = operator.journal.open_filler(vault=operator.vault, block=head.number, at_s=head.timestamp_s)
        operator.journal.sign(
            row, account=world.signer.address, account_nonce=nonce, raw=bytes(signed.raw_transaction),
            transaction_hash=transaction_hash, max_fee_wei=10**10, tip_wei=10**9, signed_at_s=head.timestamp_s,
        )  # fmt: skip
    return transaction_hash


@pytest.mark.usefixtures("held_lock")
def test_repair_refuses_while_a_daemon_runs(operator: Operator) -> None:
    assert "another daemon runs" in operator.refused("repair", "--yes", code=78)


def test_repair_refuses_a_journal_of_another_chain(operator: Operator) -> None:
    operator.journal.set_fact("ledger", operator.vault)
    assert "MARKETFLOW_JOURNAL" in operator.refused("repair", "--yes", code=78)


def test_repair_refuses_a_node_that_is_behind(trader: Operator) -> None:
    head = trader.agent.block()
    trader.journal.finalise(checkpoint=BlockRef(number=head.number + 5, hash=head.hash, timestamp_s=0))
    assert "behind" in trader.refused("repair", "--yes")


def test_repair_refuses_a_node_that_leaves_trades_out(trader: Operator, lie: Callable[..., None]) -> None:
    lie(eth_getLogs=[])
    rows = trader.journal.rows()
    assert "MARKETFLOW_RPC_URLS" in trader.refused("repair", "--yes")
    assert trader.journal.rows() == rows


def test_repair_refuses_a_node_that_is_syncing(trader: Operator, lie: Callable[..., None]) -> None:
    lie(eth_syncing={"startingBlock": "0x0", "currentBlock": "0x1", "highestBlock": "0x9"})
    assert "syncing" in trader.refused("repair", "--yes")


def test_repair_refuses_without_the_key_that_has_to_sign(operator: Operator) -> None:
    sign_in_journal(operator, nonce_ahead=1)
    agent = operator.agent
    write_files(agent.world, agent.folder, [(NAME, agent.strategy.vault, agent.artefact, None)])
    assert "MARKETFLOW_AGENTS" in operator.refused("repair", "--yes", code=78)


def test_repair_refuses_what_the_ledger_contradicts(trader: Operator) -> None:
    head = trader.agent.block()
    with trader.journal.transaction():
        row = trader.journal.adopt(
            vault=trader.vault, sequence=7, block=head.number, block_hash=head.hash, explanation_hash="",
            trade_id="0x" + 64 * "7", transaction_hash="0x" + 64 * "8", at_s=head.timestamp_s,
        )  # fmt: skip
    assert f"decision {row}" in trader.refused("repair", "--yes")


def test_repair_refuses_a_damaged_file(trader: Operator) -> None:
    trader.journal.close()
    path = trader.settings.journal
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 3] = bytes(4096)
    path.write_bytes(content)
    assert "damaged" in trader.refused("repair", "--yes", code=78)


def test_repair_that_would_need_ether_says_so_before_it_changes_anything(operator: Operator) -> None:
    sign_in_journal(operator, nonce_ahead=1)
    evm, address = operator.agent.world.evm, operator.agent.world.signer.address
    before, rows = evm.w3.eth.get_balance(address), operator.journal.rows()
    evm.set_balance(address, 10)
    sentence = operator.refused("repair", "--yes", code=78)
    evm.set_balance(address, before)
    assert address in sentence
    assert operator.journal.rows() == rows
    assert operator.journal.notes() == []


def test_repair_without_consent_changes_nothing(trader: Operator) -> None:
    trader.agent.world.buy(trader.agent.strategy, usd(1000))
    rows = trader.journal.rows()
    found = trader.json("repair")
    assert len(found["plan"]["adopted"]) == 1
    assert found["done"] is None
    assert (trader.journal.rows(), trader.journal.notes()) == (rows, [])


def test_repair_of_what_is_whole_does_nothing(trader: Operator) -> None:
    rows = trader.journal.rows()
    assert trader.json("repair", "--yes")["done"] is None
    assert trader.run("repair").stdout == "nothing to repair: journal and chain agree\n"
    assert (trader.journal.rows(), trader.journal.notes()) == (rows, [])


def test_repair_uses_up_a_nonce_that_nobody_uses_and_then_finds_nothing(operator: Operator) -> None:
    sign_in_journal(operator, nonce_ahead=1)
    assert operator.checks(exit_code=1)["nonce"]["verdict"] == "problem"
    found = operator.json("repair", "--yes")
    assert list(found["plan"]["gaps"]) == [operator.agent.world.signer.address]
    assert found["done"]["waiting"] == 0
    assert [row["state"] for row in operator.journal.rows()] == ["mined", "mined"]
    assert operator.json("repair", "--yes")["done"] is None
    assert operator.checks()["nonce"]["verdict"] == "ok"


def test_repair_ends_what_was_signed_and_abandons_what_was_not(operator: Operator) -> None:
    transaction = sign_in_journal(operator, nonce_ahead=0)
    operator.journal.open_intent(vault=operator.vault, sequence=0, block=1, decided_at_s=1, explanation_hash="0x")
    done = operator.json("repair", "--yes")["done"]
    assert (done["abandoned"], done["ended"], done["waiting"]) == (1, 1, 0)
    assert operator.agent.world.w3.eth.get_transaction_receipt(transaction)["status"] == 1


def test_repair_goes_back_after_a_reorg_that_took_what_was_final(operator: Operator) -> None:
    world = operator.agent.world
    operator.agent.bars(2010, 2030)
    before = world.evm.snapshot()
    operator.agent.run()
    world.evm.mine(FINALITY_BLOCKS + 1)
    assert operator.run("run", "--once").exit_code == 0
    assert operator.journal.counts() == {"final": 1}
    head = operator.agent.block().number
    world.evm.revert(before)
    world.evm.travel(BAR_S)
    world.evm.mine(head + 10 - operator.agent.block().number)

    assert "repair" in operator.refused("run", "--once")
    found = operator.json("repair", "--yes")
    assert found["plan"]["reopened"] == 1
    assert found["done"]["reorged"] == 1
    [row] = operator.journal.rows()
    assert row["outcome"] != "traded" or operator.agent.reading().nonce == 1
    assert operator.checks()["trades"]["verdict"] == "ok"
    assert operator.json("repair", "--yes")["done"] is None


# Asking the daemon


def test_pause_and_resume_are_kept_in_the_journal(operator: Operator) -> None:
    assert operator.json("pause", "new", "keys") == {"paused": "new keys", "in_flight": 0, "daemon_is_running": False}
    assert operator.journal.controls() == {PAUSED: "new keys"}
    assert "no daemon runs" in operator.run("pause").stdout
    assert operator.json("resume")["taken_back"] == {PAUSED: "by the operator"}
    assert operator.journal.controls() == {}
    assert "nothing was paused" in operator.run("resume").stdout


def test_a_paused_agent_orders_nothing_in_a_cycle(operator: Operator) -> None:
    operator.agent.bars(2010, 2030)
    operator.run("pause", "lunch")
    found = operator.json("run", "--once")
    assert found["placed"] == []
    assert found["parked"] == {operator.vault: "paused: lunch"}
    operator.run("resume")
    assert len(operator.json("run", "--once")["placed"]) == 1


def test_close_all_without_consent_asks_for_nothing(trader: Operator) -> None:
    found = trader.json("close-all")
    assert found["asked"] is False
    assert len(found["held"]) == 1
    assert trader.journal.controls() == {}


def test_close_all_refuses_a_vault_that_is_not_ours(trader: Operator) -> None:
    stranger = trader.agent.world.stranger.address
    assert stranger in trader.refused("close-all", "--vault", stranger, "--yes", code=78)


def test_close_all_sells_nothing_for_an_agent_on_paper(trader: Operator) -> None:
    agent = trader.agent
    write_files(agent.world, agent.folder, [(NAME, agent.strategy.vault, agent.artefact, None)])
    for options in ((), ("--vault", trader.vault)):
        assert "MARKETFLOW_AGENTS" in trader.refused("close-all", "--yes", *options, code=78)
    assert trader.journal.controls() == {}


def test_close_all_without_a_daemon_offers_single_cycles_which_sell(trader: Operator) -> None:
    result = trader.run("close-all", "--yes")
    assert result.exit_code == 1
    assert "run --once" in result.stdout
    assert trader.journal.controls() == {CLOSE_ALL: True, PAUSED: "everything is being closed"}
    trader.agent.world.travel(BAR_S)
    assert len(trader.json("run", "--once")["placed"]) == 1
    assert trader.agent.world.held(trader.agent.strategy) == 0
    assert trader.json("close-all", "--yes")["held"] == []


def test_a_running_daemon_closes_everything_and_stays_paused(trader: Operator) -> None:
    world = trader.agent.world
    world.travel(BAR_S)
    with daemon(trader) as process:
        command = [MARKETFLOW, "agent", "close-all", "--yes", "--wait", "60", "--json"]
        with subprocess.Popen(command, env=trader.process_environment, stdout=subprocess.PIPE) as asked:
            while asked.poll() is None:
                world.evm.mine()
                time.sleep(0.2)
            assert asked.stdout
            assert json.load(asked.stdout) == {"asked": True, "daemon_is_running": True, "held": []}
        assert world.held(trader.agent.strategy) == 0
        asked_for = {CLOSE_ALL: True, PAUSED: "everything is being closed"}
        assert trader.journal.controls() == asked_for, "what comes in later is sold too"
        assert trader.json("status")["daemon"]["state"] == "running"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.fixture
def partners(hire: Hire) -> Operator:
    """Two agents with one key, who hold and want to hold more."""
    first, second = hire(constant(4000)), hire(constant(4000))
    first.bars(*[2000] * 5)
    for agent in (first, second):
        agent.world.buy(agent.strategy, usd(10_000))
    world = first.world
    both = (("one", first), ("two", second))
    vaults = [(name, agent.strategy.vault, agent.artefact, world.signer) for name, agent in both]
    return Operator(agent=first, settings=write_files(world, first.folder, vaults))


def test_one_of_two_vaults_is_asked_for_and_nobody_is_paused(partners: Operator) -> None:
    partners.run("close-all", "--vault", partners.vault, "--yes")
    assert partners.journal.controls() == {CLOSE_VAULTS: [partners.vault]}
    assert "closing 1 vault" in partners.run("status").stdout
    assert partners.json("resume")["taken_back"] == {CLOSE_VAULTS: [partners.vault]}


def test_one_of_two_vaults_is_closed_and_the_other_is_not(partners: Operator) -> None:
    partners.run("close-all", "--vault", partners.vault, "--yes")
    partners.json("run", "--once")
    first, second = partners.json("positions")["vaults"]
    assert first["positions"][0]["amount"] == 0
    assert second["positions"][0]["amount"] > 0


# Running


def test_a_dry_run_shows_what_it_would_trade_with_and_changes_nothing(operator: Operator) -> None:
    view = operator.json("run", "--dry-run")
    [shown] = view["agents"]
    address = operator.agent.world.signer.address
    assert (shown["vault"], shown["account"]) == (operator.vault, address)
    assert shown["balance_wei"] == operator.agent.world.w3.eth.get_balance(address)
    assert shown["value"] == operator.agent.reading().value
    assert shown["limits"]["max_position_bps"] == operator.agent.reading().limits.max_position_bps
    assert operator.journal.fact("chain id") is None
    text = operator.run("run", "--dry-run").stdout
    assert address in text
    assert PASSPHRASE not in text


def test_a_dry_run_without_a_passphrase_names_the_setting(operator: Operator) -> None:
    operator.env["MARKETFLOW_KEYFILE_PASSPHRASE"] = None
    assert "MARKETFLOW_KEYFILE_PASSPHRASE" in operator.refused("run", "--dry-run", code=78)


@pytest.mark.usefixtures("held_lock")
def test_a_second_daemon_on_a_journal_is_refused(operator: Operator) -> None:
    assert "another daemon runs" in operator.refused("run", "--once", code=78)


# Explain and export


def test_a_trade_is_explained_by_any_of_its_names(trader: Operator) -> None:
    [entry] = trader.agent.entries()
    [row] = trader.journal.rows()
    view = trader.json("explain", row["id"])
    for name in (entry.id, entry.transaction_hash, row["explanation_hash"], entry.id.upper().replace("0X", "0x")):
        assert trader.json("explain", name) == view
    assert view["ledger_entry"]["id"] == entry.id
    assert view["ledger_entry"]["amountIn"] == str(entry.fields["amountIn"])
    assert view["is_final"] is False
    trader.agent.world.evm.mine(FINALITY_BLOCKS)
    assert trader.json("explain", row["id"])["is_final"] is True


def test_an_explanation_is_told_in_words(trader: Operator) -> None:
    [entry], [row] = trader.agent.entries(), trader.journal.rows()
    document = trader.agent.documents.get(row["explanation_hash"])
    keep_document(trader, document)
    said = trader.run("explain", row["id"]).stdout
    assert document["text"] in said
    assert "ma_cross_z:2:4" in said
    assert "nothing against it" in said
    assert entry.id in said


def test_a_trade_that_only_the_ledger_knows_is_explained_from_there(trader: Operator) -> None:
    trader.agent.world.buy(trader.agent.strategy, usd(1000))
    [_, entry] = trader.agent.entries()
    view = trader.json("explain", entry.id)
    assert view["decision"] is None
    assert view["ledger_entry"]["id"] == entry.id


@pytest.mark.parametrize("name", ["nonsense", "0x12", "99", "9" * 30, "0x" + 64 * "5"])
def test_what_nobody_knows_is_not_explained(name: str, trader: Operator) -> None:
    assert name in trader.refused("explain", name, code=78)


def test_an_explanation_that_was_changed_in_the_journal_is_refused(trader: Operator) -> None:
    [row] = trader.journal.rows()
    trader.journal._execute("INSERT INTO documents VALUES (?, ?)", (row["explanation_hash"], b"{}"))
    assert row["explanation_hash"] in trader.refused("explain", row["id"])


def keep_document(operator: Operator, document: Mapping[str, Any]) -> bytes:
    """Into the journal, where a daemon keeps it; cycles keep it in a folder."""
    from offchain_rl.artefact import canonical_bytes

    content = canonical_bytes(document)
    operator.journal._execute(
        "INSERT OR IGNORE INTO documents VALUES (?, ?)", (explanation_hash(document), content)
    )
    return content


# How well it was foreseen


@pytest.fixture
def foresighted(hire: Hire) -> Operator:
    """Of an agent that looks at enough history for an interval, and has bought after a calm time."""
    spec = ObservationSpec(bar_s=BAR_S // 10, lookback=MIN_ANSWERS + 1, vol_window=120, features=SPEC.features)
    agent = hire(moving_average(observation=spec))
    agent.bars(*[2000, 2002, 1999] * 5, 2004, 2008)
    operator = put_to_work(agent)
    [step] = agent.run()
    assert step.outcome
    keep_document(operator, agent.documents.get(step.explanation_hash))
    return operator


def test_an_interval_waits_for_its_horizon_and_is_then_scored(foresighted: Operator) -> None:
    view = foresighted.json("intervals")
    assert (view["explanations"], view["pending"], view["score"]) == (1, 1, None)
    foresighted.agent.bar(2008)
    view = foresighted.json("intervals")
    assert (view["pending"], view["score"]["rows"], view["score"]["coverage"]) == (0, 1, 1.0)
    assert view["score"]["verdict"] == "NOT ENOUGH DATA"
    said = foresighted.run("intervals").stdout
    assert "1 scored of 1 explanation\n" in said
    assert "NOT ENOUGH DATA" in said


def test_a_move_that_nobody_foresaw_is_outside(foresighted: Operator) -> None:
    """The price falls by a tenth before the horizon ends."""
    world = foresighted.agent.world
    world.travel(BAR_S // 30)
    world.set_price("ETH", 1800)
    foresighted.agent.bar(2008)
    assert foresighted.json("intervals")["score"]["coverage"] == 0.0


def test_only_decisions_since_then_are_scored(foresighted: Operator) -> None:
    foresighted.agent.bar(2008)
    assert foresighted.json("intervals", "--since", "2999-01-01")["explanations"] == 0
    assert "is no time" in foresighted.refused("intervals", "--since", "soon", code=78)


def test_a_decision_without_an_interval_is_counted(trader: Operator) -> None:
    [row] = trader.journal.rows()
    keep_document(trader, trader.agent.documents.get(row["explanation_hash"]))
    view = trader.json("intervals")
    assert (view["explanations"], view["without"], view["score"]) == (1, 1, None)


def test_the_interval_is_told_in_words(foresighted: Operator) -> None:
    [row] = foresighted.journal.rows()
    document = foresighted.json("explain", row["id"])["explanation"]
    said = foresighted.run("explain", row["id"]).stdout
    assert f"within {BAR_S // 10} s, in 90.00 % of all cases" in said
    assert document["interval"]["horizon_s"] == str(BAR_S // 10)


def test_an_interval_that_says_nothing_ends_in_one_sentence(foresighted: Operator) -> None:
    """A document that hashes to its name, as another program may have written it."""
    [row] = foresighted.journal.rows()
    document = foresighted.agent.documents.get(row["explanation_hash"]) | {"interval": {"low_q24": "-1"}}
    keep_document(foresighted, document)
    change = "UPDATE decisions SET explanation_hash = ?"
    foresighted.journal._execute(change, (explanation_hash(document),))
    assert "is no interval" in foresighted.refused("intervals")


def test_an_interval_that_was_changed_in_the_journal_is_refused(foresighted: Operator) -> None:
    [row] = foresighted.journal.rows()
    foresighted.journal._execute("UPDATE documents SET content = ?", (b'{"interval":{}}',))
    assert row["explanation_hash"] in foresighted.refused("intervals")


def test_an_export_has_everything_in_order_and_no_signed_bytes(trader: Operator, tmp_path: Path) -> None:
    [row] = trader.journal.rows()
    content = keep_document(trader, trader.agent.documents.get(row["explanation_hash"]))
    folder = tmp_path / "documents"
    result = trader.run("export", "--documents", folder)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["journal", "decision"]
    assert lines[1]["id"] == row["id"]
    [attempt] = trader.journal.attempts(row["id"])
    assert [a["hash"] for a in lines[1]["attempts"]] == [attempt.hash]
    assert attempt.raw.hex() not in result.stdout
    assert attempt.raw.hex() in trader.run("export", "--raw").stdout
    assert (folder / f"{row['explanation_hash']}.json").read_bytes() == content
    assert trader.run("export").stdout == result.stdout


def test_an_export_into_a_closed_pipe_ends_quietly(trader: Operator) -> None:
    trader.journal.note(Note.FOREIGN, "", "x" * 200_000, at_s=1)
    with subprocess.Popen([MARKETFLOW, "agent", "export"], env=trader.process_environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


def test_an_export_since_a_moment_leaves_out_what_was_before(trader: Operator) -> None:
    [row] = trader.journal.rows()
    since = row["decided_at_s"]
    types = lambda moment: [json.loads(line)["type"] for line in trader.run("export", "--since", moment).stdout.splitlines()]  # noqa: E731, E501
    assert types(since) == ["journal", "decision"]
    assert types(since + 1) == ["journal"]
    assert "yesterday" in trader.refused("export", "--since", "yesterday", code=78)


# Keys


def test_a_key_is_not_made_where_nobody_can_be_asked(operator: Operator, tmp_path: Path) -> None:
    for command in ("new-key", "new-keyring"):
        assert "terminal" in operator.refused(command, tmp_path / "key.json", code=78)
    assert list(tmp_path.glob("*.json")) == []


def test_a_new_key_opens_with_the_passphrase_that_was_typed_twice(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    path = tmp_path / "key.json"
    asked = terminal("new-key", path)
    for times in (1, 2):
        asked.wait_for(": ", times=times)  # what was typed before the space is thrown away
        asked.type(f"{PASSPHRASE}\n")
    assert asked.end() == 0
    address = address_of(load_keyfile(path, SecretStr(PASSPHRASE)))
    assert address in asked.said
    assert PASSPHRASE not in asked.said
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_keyring_shows_the_accounts_that_it_will_have(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    path = tmp_path / "ring.json"
    asked = terminal("new-keyring", path, "--show", "2")
    for times in (1, 2):
        asked.wait_for(": ", times=times)  # what was typed before the space is thrown away
        asked.type(f"{PASSPHRASE}\n")
    assert asked.end() == 0
    ring = Keyring(load_keyfile(path, SecretStr(PASSPHRASE)))
    assert all(f"{path}#{index}  {address_of(ring.key(index))}" in asked.said for index in range(2))
    assert f"{path}#2" not in asked.said


def test_a_key_is_not_overwritten(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("mine")
    assert terminal("new-key", path).end() == 78
    assert path.read_text() == "mine"
