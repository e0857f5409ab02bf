"""The files of `deployments/market` against the networks themselves, where somebody has a node.

    MARKETFLOW_FORK_RPC_BASE_SEPOLIA=https://… pytest tests/fork

One variable for each network. Nothing is sent, no account needs ether; a test of a network without one is skipped.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from eth_account import Account as Keys
from web3 import HTTPProvider, Web3
from web3.middleware import ExtraDataToPOAMiddleware

# Before anything imports ape, which looks for its folder once.
if "APE_DATA_FOLDER" not in os.environ:
    os.environ["APE_DATA_FOLDER"] = tempfile.mkdtemp(prefix="ape-")
    atexit.register(shutil.rmtree, os.environ["APE_DATA_FOLDER"], ignore_errors=True)

from agents.chain import RemoteChain
from agents.commands import deploy
from agents.contracts import third_party
from agents.deployment import has_create2_proxy
from agents.deployments import check_market, load_market
from agents.errors import Misconfigured
from agents.localnet.evm import mnemonic_accounts
from agents.localnet.market import AddressBook

pytestmark = pytest.mark.fork

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = sorted(path.stem for path in (ROOT / "deployments" / "market").glob("*.json"))
NOBODY = Keys.from_key("0x" + "5b" * 32)


def variable(network: str) -> str:
    return f"MARKETFLOW_FORK_RPC_{network.upper().replace('-', '_')}"


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    if not os.environ.get(variable(request.param)):
        pytest.skip(f"{variable(request.param)} is not set")
    return request.param


@pytest.fixture(scope="module")
def chain(network: str) -> RemoteChain:
    w3 = Web3(HTTPProvider(os.environ[variable(network)], request_kwargs={"timeout": 60}))
    w3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
    raw = json.loads((ROOT / "deployments" / "market" / f"{network}.json").read_text())
    return RemoteChain(w3, chain_id=raw["chain_id"])


@pytest.fixture(scope="module")
def book(network: str, chain: RemoteChain) -> AddressBook:
    try:
        return load_market(ROOT / "deployments" / "market" / f"{network}.json", chain_id=chain.chain_id)
    except Misconfigured as error:
        pytest.skip(str(error))


def test_the_tokens_and_feeds_are_what_the_market_file_says(chain: RemoteChain, book: AddressBook):
    described = {book.quote_feed: f"{book.quote_symbol} / USD"}
    described |= {asset.feed: f"{asset.symbol} / USD" for asset in book.assets}
    for feed, description in described.items():
        proxy = chain.at("FeedProxy", feed).functions
        assert chain.call(proxy.description()) == description
        assert chain.call(proxy.decimals()) == 8
        assert chain.call(proxy.latestRoundData()).answer > 0
    assert chain.call(chain.at("MockToken", book.quote).functions.symbol()) == book.quote_symbol


def test_the_market_is_as_it_is_written_down(chain: RemoteChain, book: AddressBook):
    """Its pools among it: where nobody has made one, this says so."""
    check_market(chain, book)


def test_a_pool_is_where_its_code_hash_says(chain: RemoteChain, book: AddressBook):
    """The venue computes addresses of pools; a fork of Uniswap with other code would have them elsewhere."""
    factory = chain.at(third_party("UniswapV3Factory"), book.factory).functions
    for asset in book.assets:
        assert chain.call(factory.feeAmountTickSpacing(asset.pool_fee)) > 0
        pool = chain.call(factory.getPool(asset.token, book.quote, asset.pool_fee))
        assert pool in (asset.pool, "0x" + 40 * "0")


def test_addresses_do_not_depend_on_the_nonce(chain: RemoteChain):
    """On each of these networks somebody has deployed the CREATE2 proxy."""
    assert has_create2_proxy(chain)


@pytest.fixture
def deployments(network: str, tmp_path: Path) -> Path:
    """A folder with a genesis configuration of the template, everybody in it an account that nobody uses."""
    template = (ROOT / "deployments" / "genesis" / "testnet.toml").read_text()
    addresses = iter(account.address for account in mnemonic_accounts(20))
    (tmp_path / "genesis").mkdir()
    path = tmp_path / "genesis" / f"{network}.toml"
    path.write_text(re.sub(r'"[A-Z0-9-]+: 0x[^"]*"', lambda _: f'"{next(addresses)}"', template))
    return tmp_path


def test_a_deployment_can_be_planned(network: str, book: AddressBook, chain: RemoteChain, deployments: Path):
    accounts = Path(os.environ["APE_DATA_FOLDER"]) / "accounts"
    accounts.mkdir(parents=True, exist_ok=True)
    (accounts / "nobody.json").write_text(json.dumps(Keys.encrypt(NOBODY.key, "word", kdf="pbkdf2", iterations=1)))
    where = ["--network", os.environ[variable(network)], "--deployments", str(deployments)]
    arguments = ["--account", "nobody", "--dry-run", "--json", *where]
    result = CliRunner(mix_stderr=False).invoke(deploy.cli, arguments)
    assert result.exit_code == 0, result.stderr
    plan: dict[str, Any] = json.loads(result.stdout)
    assert (plan["network"], plan["market"], plan["dry_run"]) == (network, book.quote, True)
    assert plan["deterministic"] is True
    for address in (plan["addresses"]["dao"], plan["addresses"]["deployer_contract"]):
        assert not chain.w3.eth.get_code(address)
    assert float(plan["ether_at_most"].replace(",", "")) > 0
