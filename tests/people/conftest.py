"""A protocol with something to vote on, its voting page and relayer as processes, and wallets in a real Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account as Keys
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from web3 import Web3

from agents.contracts import Artifact
from agents.deployments import NetworkDeployment
from agents.localnet.evm import start_evm
from offchain_rl.artefact import save
from tests.contracts.world import LIMITS, World, tokens, usd
from tests.e2e.conftest import SPEC, Agent, moving_average, put_in_office

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "out" / "people"
HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script> \u202ereversed"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--headless=shell", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run",
]  # fmt: skip
# People who vote; each votes in one test, so that tests do not depend on each other.
VOTERS = tuple(Keys.from_key(bytes([11, *[0] * 30, index + 1])) for index in range(12))
PENNILESS = Keys.from_key(b"\x0c" * 32)


def find_chromium() -> str:
    """MARKETFLOW_CHROMIUM, or one on the path, or the one that the page's own packages bring."""
    if named := os.environ.get("MARKETFLOW_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser"):
        return named
    program = "import c from '@sparticuz/chromium'; console.log(await c.executablePath())"
    if shutil.which("node") is None:
        pytest.fail("no Chromium, and no node to unpack one: MARKETFLOW_CHROMIUM names a browser")
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program], cwd=ROOT / "agents" / "page", capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"no Chromium: `make page-tools` installs one, MARKETFLOW_CHROMIUM names another ({done.stderr})")
    return done.stdout.strip()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Town:
    """What the page shows, and where it is."""

    world: World
    agent: Agent
    folder: Path
    proposals: dict[str, int]
    safe: str = ""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    url: str = ""

    @property
    def dao(self) -> Any:
        return self.world.dao.functions

    def vote_of(self, name: str, voter: str) -> dict[str, Any] | None:
        """What the chain counted, read past the page."""
        for event in self.world.history(self.world.dao):
            is_theirs = event.name.startswith("VoteCast") and event.args["voter"] == voter
            if is_theirs and event.args["proposalId"] == self.proposals[name]:
                return dict(event.args)
        return None

    def serve(self, *options: str) -> str:
        """`marketflow page` in a process of its own; its URL."""
        command = [
            sys.executable, "-c", "from agents.cli import run; run()", "page", "--port", "0", "--json",
            "--network", str(self.world.evm.url), "--deployments", str(self.folder / "deployments"),
            "--artefacts", str(self.folder / "artefacts"),
            "--explanations", str(self.agent.folder / "explanations"), *options,
        ]  # fmt: skip
        environment = {**os.environ, "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        self.processes.append(process)
        assert process.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            line = process.stdout.readline()
            assert line, f"the page did not start: {said}"
            said += line
        return str(json.loads(said)["url"])


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    with start_evm("anvil") as evm:
        world = World(evm)
        _give_votes(world)
        safe = _make_safe(world)
        agent = put_in_office(world, folder / "agent")
        _trade(agent)
        proposals = _propose(world, agent, folder)
        town = Town(world=world, agent=agent, folder=folder, proposals=proposals, safe=safe)
        NetworkDeployment(protocol=world.d, market=world.book).save(folder / "deployments" / "local.json")
        try:
            town.url = town.serve("--relay", "--account", "TEST::9")
            yield town
        finally:
            for process in town.processes:
                process.terminate()
            for process in town.processes:
                process.wait(timeout=30)
                assert process.stdout is not None
                process.stdout.close()
            agent.journal.close()


def _give_votes(world: World) -> None:
    for voter in VOTERS:
        world.evm.set_balance(voter.address, 10**18)
        world.send(world.token.functions.transfer(voter.address, tokens(1_000)), world.voter_a)
        world.evm.impersonate(voter.address)
        if voter is not VOTERS[-1]:  # who has tokens that do not vote
            world.send(world.token.functions.delegate(voter.address), voter.address)
    world.evm.set_balance(PENNILESS.address, 10**18)


def _make_safe(world: World) -> str:
    """A real Safe 1.4.1 of VOTERS[8:11], two of whom have to sign; it has votes."""
    singleton, handler, factory = (
        world.evm.deploy(_of_safe(name), sender=world.voter_a)
        for name in ("Safe", "handler/CompatibilityFallbackHandler", "proxies/SafeProxyFactory")
    )
    owners, zero = [voter.address for voter in VOTERS[8:11]], "0x" + 40 * "0"
    setup = singleton.functions.setup(owners, 2, zero, b"", handler.address, zero, 0, zero)
    create = factory.functions.createProxyWithNonce(singleton.address, setup._encode_transaction_data(), 1)
    safe = str(world.evm.call(create, world.voter_a))
    world.send(create, world.voter_a)
    world.send(world.token.functions.transfer(safe, tokens(2_000)), world.voter_a)
    world.evm.set_balance(safe, 10**18)
    world.evm.impersonate(safe)
    world.send(world.token.functions.delegate(safe), safe)
    return safe


def _of_safe(path: str) -> Artifact:
    """Byte code of the Safe's own package."""
    name = path.rsplit("/", 1)[-1]
    built = ROOT / "agents/page/node_modules/@safe-global/safe-contracts/build/artifacts/contracts"
    raw = json.loads((built / f"{path}.sol" / f"{name}.json").read_text())
    return Artifact(name, raw["abi"], bytes.fromhex(raw["bytecode"][2:]), bytes.fromhex(raw["deployedBytecode"][2:]))


def _trade(agent: Agent) -> None:
    """Bars after which it has bought, sold, and explained why; one explanation is lost, one is forged."""
    agent.bars(*[2000] * SPEC.lookback)
    for price_usd in (2010, 2040, 2080, 2000, 1950, 1960, 2020, 2060):
        agent.bar(price_usd)
        agent.run()
    trades = agent.entries()
    assert len(trades) >= 3
    names = ["0x" + bytes(entry.fields["explanationHash"]).hex() for entry in trades]
    (agent.folder / "explanations" / f"{names[0]}.json").unlink()
    (agent.folder / "explanations" / f"{names[1]}.json").write_text('{"text": "a better story"}')


def _propose(world: World, agent: Agent, folder: Path) -> dict[str, int]:
    (folder / "artefacts").mkdir()
    save(agent.artefact, folder / "artefacts" / "running.json")
    better = moving_average(3000, name="better")
    save(better, folder / "artefacts" / "better.json")
    limits = replace(LIMITS, max_position_bps=5000, max_daily_loss_bps=LIMITS.max_daily_loss_bps // 2)
    update = world.manifest(
        agent.strategy.agent_id, limits=limits, updates=agent.strategy.id, capital=0,
        artefactHash=bytes.fromhex(better.artefact_hash[2:]),
    )  # fmt: skip
    world.refresh()
    proposals = {"update": world.propose_strategy(update, "Smaller limits\n\nHalf of the daily loss.")}
    recall = world.dao.functions.proposeRecall(agent.strategy.id, [(world.book.quote, usd(1000), 0)], "Some money back")
    proposals["recall"] = int(world.evm.call(recall, world.proposer))
    world.send(recall, world.proposer)
    proposals["hostile"] = _propose_hostile(world)
    for name in ("phone", "russian", "keyboard", "direct", "safe", "reload"):
        proposals[name] = world.propose([world.pool.functions.setBudget(tokens(21_000))], f"A budget: {name}")
    world.to_voting(proposals["reload"])
    proposals["later"] = world.propose([world.pool.functions.setBudget(tokens(22_000))], "Not open yet")
    return proposals


def _propose_hostile(world: World) -> int:
    """Calls that nobody can read, and ether, under a title that would like to be a program."""
    targets, values = [world.stranger.address, world.bidder.address], [0, 10**18]
    data, text = ["0xdeadbeef" + "00" * 32, "0x"], HOSTILE + " " + "very long " * 40
    call = world.dao.functions.propose(targets, values, data, text)
    found = world.view(world.dao.functions.getProposalId(targets, values, data, Web3.keccak(text=text)))
    world.send(call, world.proposer)
    return int(found)


@dataclass
class Wallet:
    """Keys behind EIP-1193, outside of the page; what it was shown, and how it misbehaves."""

    town: Town
    key: Any
    chain_id: int = 31337
    is_rejecting: bool = False
    signed: list[dict[str, Any]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def request(self, method: str, params: list[Any]) -> dict[str, Any]:
        try:
            return {"result": self._answer(method, params)}
        except _Rpc as error:
            return {"error": {"code": error.code, "message": str(error), "data": error.data}}

    def _answer(self, method: str, params: list[Any]) -> Any:
        if method in ("eth_requestAccounts", "eth_accounts"):
            self._maybe_reject(method == "eth_requestAccounts")
            return [self.key.address]
        if method == "eth_chainId":
            return hex(self.chain_id)
        if method == "wallet_switchEthereumChain":
            self.chain_id = int(params[0]["chainId"], 16)
            return None
        if method == "eth_signTypedData_v4":
            self._maybe_reject(True)
            document = json.loads(params[1]) if isinstance(params[1], str) else params[1]
            self.signed.append(document)
            return "0x" + bytes(Keys.sign_typed_data(self.key.key, full_message=document).signature).hex()
        if method == "eth_sendTransaction":
            self._maybe_reject(True)
            return self._send(params[0])
        return self._forward(method, params)

    def _maybe_reject(self, is_asked: bool) -> None:
        if is_asked and self.is_rejecting:
            raise _Rpc(4001, "User rejected the request.")

    def _send(self, wanted: dict[str, Any]) -> str:
        eth = self.town.world.w3.eth
        transaction = {
            "to": Web3.to_checksum_address(wanted["to"]), "data": wanted.get("data", "0x"), "gas": 1_000_000,
            "value": int(wanted.get("value", "0x0"), 16), "nonce": eth.get_transaction_count(self.key.address),
            "chainId": 31337, "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9,
        }  # fmt: skip
        raw = self.key.sign_transaction(transaction).raw_transaction
        self.sent.append(Web3.to_hex(eth.send_raw_transaction(raw)))
        return self.sent[-1]

    def _forward(self, method: str, params: list[Any]) -> Any:
        answer = self.town.world.w3.provider.make_request(method, params)  # type: ignore[arg-type]
        if "error" in answer:
            problem: Any = answer["error"]
            raise _Rpc(problem.get("code", -32000), problem.get("message", ""), problem.get("data"))
        return answer["result"]


class _Rpc(Exception):
    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data


_PROVIDER = """(() => {
  const listeners = {};
  const provider = {
    request: async ({ method, params }) => {
      const answer = await window.walletRequest(method, params ?? []);
      if (answer.error) throw Object.assign(new Error(answer.error.message), answer.error);
      if (method === "wallet_switchEthereumChain") (listeners.chainChanged ?? []).forEach((f) => f(params[0].chainId));
      return answer.result;
    },
    on: (event, listener) => void (listeners[event] ??= []).push(listener),
    removeListener: (event, listener) => { listeners[event] = (listeners[event] ?? []).filter((f) => f !== listener); },
  };
  window.__walletEmit = (event, value) => (listeners[event] ?? []).forEach((f) => f(value));
  const uuid = "9f1c7a52-0000-4000-8000-000000000001";
  const detail = { info: { uuid, name: "Test wallet", rdns: "test.wallet", icon: "" }, provider };
  const announce = () => window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail }));
  window.addEventListener("eip6963:requestProvider", announce);
  announce();
})();"""


@dataclass
class Visit:
    """A page that somebody has open. `problems`: what its console or its policy complained about."""

    page: Page
    town: Town
    wallet: Wallet | None
    problems: list[str]

    def open(self, route: str = "#/") -> Visit:
        self.page.goto(f"{self.town.url}/{route}")
        return self

    def proposal(self, name: str) -> Visit:
        return self.open(f"#/proposal/{self.town.proposals[name]}")

    def connect(self) -> Visit:
        self.page.get_by_role("button", name="Connect wallet").first.click()
        self.page.get_by_test_id("wallet-account").wait_for()
        return self

    def by(self, test_id: str) -> Any:
        return self.page.get_by_test_id(test_id)

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def _is_problem(message: ConsoleMessage) -> bool:
    """An explanation that nobody has is answered with 404, which the browser reports."""
    is_missing = "/explanations/" in message.location.get("url", "") and "404" in message.text
    return message.type == "error" and not is_missing


@pytest.fixture
def visit(browser: Browser, town: Town) -> Iterator[Callable[..., Visit]]:
    """A factory of visits; at the end none of them may have had a problem, unless the test took it out of the list."""
    visits: list[Visit] = []

    def make(key: Any = None, *, chain_id: int = 31337, **context: Any) -> Visit:
        options: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB"} | context
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(15_000)
        wallet = Wallet(town, key, chain_id=chain_id) if key else None
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if _is_problem(message) else None)
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        if wallet:
            page.expose_function("walletRequest", wallet.request)
            page.add_init_script(_PROVIDER)
        visits.append(Visit(page, town, wallet, problems))
        return visits[-1]

    yield make
    for each in visits:
        each.page.context.close()
    assert [problem for each in visits for problem in each.problems] == []
