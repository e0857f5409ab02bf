"""What the commands share: the chain that `--network` names, signers from ape's accounts, one way to end in an error.

A command that needs a chain is decorated with `on_chain` and gets a `Connection`; one that sends also with `sending`.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import ape
import click
from ape.exceptions import AccountsError, ApeException
from ape.logging import LogLevel, logger
from ape_accounts.accounts import InvalidPasswordError, KeyfileAccount
from eth_abi.exceptions import DecodingError
from evmchains import PUBLIC_CHAIN_META
from requests import RequestException
from web3 import HTTPProvider, Web3
from web3.exceptions import Web3Exception
from web3.middleware import ExtraDataToPOAMiddleware

from agents.ballots import PROPOSAL_STATES, utc
from agents.chain import ApeSigner, RemoteChain
from agents.commands._program import in_this_program
from agents.contracts import ArtifactMissing, RevertReason
from agents.deployments import NetworkDeployment, load_deployment
from agents.errors import AgentError, Misconfigured
from agents.genesis import TOKEN_DECIMALS, to_units
from agents.localnet.evm import CHAIN_ID, CallReverted, TransactionRefused, TransactionReverted
from oracle.errors import OracleError

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
# anvil's and ape's own chain: gone when their process ends, and its keys are public.
LOCAL_CHAINS = (CHAIN_ID, 1337)
NODE_TIMEOUT_S = 60
# IStrategyRegistry.Stage, in its order.
STAGES = "none submitted approved live superseded retiring retired".split()
# IPriceOracle.PriceStatus, in its order.
PRICE_STATES = (
    "fine", "without a feed", "not answering", "invalid", "from the future", "too old", "out of bounds",
    "in other decimals", "behind a sequencer that is down", "behind a sequencer that is just up", "without a quote",
)  # fmt: skip

ANOTHER_NETWORK = "such as ethereum:sepolia:node, or http://127.0.0.1:8545 for the one that `ape run node` starts"
NEED_AGENT = "`ape run register_agent` makes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """The chain a command runs on. `folder`: where `<network>.json` is."""

    chain: RemoteChain
    provider: Any
    folder: Path

    @property
    def is_local(self) -> bool:
        return self.chain.chain_id in LOCAL_CHAINS

    @property
    def name(self) -> str:
        """What files of this network are called."""
        network = self.provider.network
        named = network.name not in ("custom", "local", "adhoc")
        return f"{network.ecosystem.name}-{network.name}" if named else network_name(self.chain.chain_id)

    @property
    def url(self) -> str:
        """Where the node listens; empty for one inside this process."""
        return str(getattr(self.provider, "connection_str", "") or "")

    @property
    def file(self) -> Path:
        """Where the protocol of this network is written down."""
        return self.folder / f"{self.name}.json"

    def configuration(self, folder: str, suffix: str) -> Path:
        """This network's file in a subfolder: where deployments are written, else in the repository's own."""
        own, common = (at / folder / f"{self.name}{suffix}" for at in (self.folder, DEPLOYMENTS))
        return own if own.exists() else common

    def deployed(self) -> NetworkDeployment:
        """Where the protocol is. Raises Misconfigured when it is nowhere, or this chain has forgotten it."""
        found = load_deployment(self.file, chain_id=self.chain.chain_id)
        if not self.chain.w3.eth.get_code(found.protocol.dao):
            raise Misconfigured(
                f"{self.file} names contracts that are not on this chain: a local node forgets them when it ends; "
                "`ape run deploy --again` deploys anew, or check --network"
            )
        return found

    def signer(self, alias: str, *, unlock: bool = True) -> ApeSigner:
        """An account of ape's by alias, or TEST::n of the test mnemonic on a local chain. Locked, it can't sign."""
        if not alias:
            raise Misconfigured("whose account signs? add --account ALIAS: `ape accounts list` shows those there are")
        if alias.upper().startswith("TEST::"):
            return ApeSigner(self._test_account(alias), self.provider)
        try:
            account = ape.accounts.load(alias)
        except (KeyError, ValueError):
            raise Misconfigured(
                f"there is no account {alias!r}: `ape accounts list` shows those there are, "
                f"`ape accounts generate {alias}` makes one"
            ) from None
        if unlock and isinstance(account, KeyfileAccount):
            _unlock(account)
        return ApeSigner(account, self.provider)

    def _test_account(self, alias: str) -> Any:
        if not self.is_local:
            chain_id = self.chain.chain_id
            raise Misconfigured(f"everybody has the key of {alias}, and this is chain {chain_id}: use one of your own")
        if not alias[6:].isdecimal():
            raise Misconfigured(f"there is no account {alias!r}: test accounts are TEST::0, TEST::1 and so on")
        return ape.accounts.test_accounts.containers["test"].generate_account(index=int(alias[6:]))


def network_name(chain_id: int) -> str:
    """The name of a chain that is known by its id only."""
    if chain_id in LOCAL_CHAINS:
        return "local"
    for ecosystem, networks in PUBLIC_CHAIN_META.items():
        for network, meta in networks.items():
            if int(meta["chainId"]) == chain_id:
                return f"{ecosystem}-{network}"
    return f"chain-{chain_id}"


@contextmanager
def connect(network: str, folder: Path) -> Iterator[Connection]:
    """Connected to what `--network` says. Raises Misconfigured naming the way out."""
    if not network:
        raise Misconfigured(f"no network: add --network NETWORK, {ANOTHER_NETWORK}")
    logger.set_level(LogLevel.ERROR)  # ape warns of every key it keeps, and every node it does not know
    opened = ExitStack()
    try:
        if network.startswith(("http://", "https://")):
            chain, provider = _open_url(network)
        else:
            provider = opened.enter_context(ape.networks.parse_network_choice(network))
            chain = RemoteChain(provider.web3)
    except (ApeException, ValueError, OSError, Web3Exception) as error:
        problem = f"--network {network}: {_first_sentence(error)}"
        raise Misconfigured(f"{problem}; name another, {ANOTHER_NETWORK}") from error
    with opened:
        yield Connection(chain=chain, provider=provider, folder=folder)


def _open_url(url: str) -> tuple[RemoteChain, Any]:
    """A node at exactly this URL: ape would take a geth of this machine before it, if it finds one's socket."""
    w3 = Web3(HTTPProvider(url, request_kwargs={"timeout": NODE_TIMEOUT_S}))
    if not w3.is_connected():
        raise OSError(f"no node answers at {url}")
    w3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)  # some chains' blocks have longer extra data
    return RemoteChain(w3), ape.networks.create_custom_provider(url)


def on_chain(command: Callable[..., None]) -> Callable[..., None]:
    """A command that gets a `Connection` first, and `as_json` among its options."""

    @click.option(
        "--network", default="", envvar="MARKETFLOW_NETWORK",
        help="ecosystem:network:provider as ape has it, or a node's URL; else MARKETFLOW_NETWORK.",
    )
    @click.option(
        "--deployments", "folder", type=click.Path(path_type=Path), default=DEPLOYMENTS, show_default="deployments",
        envvar="MARKETFLOW_DEPLOYMENTS_DIR",
        help="Folder of the files that say where things are; else MARKETFLOW_DEPLOYMENTS_DIR.",
    )  # fmt: skip
    @click.option("--json", "as_json", is_flag=True, help="JSON on standard output; the rest on standard error.")
    @in_one_sentence
    @functools.wraps(command)
    def run(network: str, folder: Path, **options: Any) -> None:
        with connect(network, folder) as connection:
            command(connection, **options)

    return run


def sending(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that sends transactions: `account` and `dry_run`."""
    command = click.option("--dry-run", is_flag=True, help="Say what would be done, and send nothing.")(command)
    return account_option("Alias of the ape account that signs and pays; TEST::0, TEST::1 … on a local chain.")(command)


def account_option(help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--account, or MARKETFLOW_ACCOUNT."""
    told = f"{help_text.removesuffix('.')}; else MARKETFLOW_ACCOUNT."
    return click.option("--account", default="", envvar="MARKETFLOW_ACCOUNT", help=told)


# Ending


def in_one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Ends a command with one sentence and exit code 1 when something is wrong that a person can put right."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except BrokenPipeError:
            raise  # whoever read us has gone; nothing is wrong
        except (CallReverted, TransactionReverted) as error:
            fail(explain_revert(error.reason))
        except RequestException as error:
            fail(f"the node does not answer ({type(error).__name__}): is it running? check --network")
        except Web3Exception as error:
            fail(f"the node answered with an error: {_first_sentence(error)}")
        except DecodingError as error:
            fail(f"a contract gave no answer that can be read ({error}): check --network and the deployment")
        except (
            AgentError, OracleError, ApeException, TransactionRefused, ArtifactMissing,
            ValueError, OSError, LookupError, RuntimeError,
        ) as error:  # fmt: skip
            fail(str(error.args[0]) if isinstance(error, LookupError) and error.args else str(error))

    return run


def fail(sentence: str) -> None:
    """Exit code 1 after one sentence on stderr."""
    click.echo(f"error: {printable(in_this_program(' '.join(sentence.split())))}", err=True)
    sys.exit(1)


def explain_revert(reason: RevertReason) -> str:
    """Why the chain refuses, and what to do about it where that is known."""
    known = {key: f"0x{value.hex()}" if isinstance(value, bytes) else value for key, value in reason.args.items()}
    hint = _WAYS_OUT.get(reason.name)
    return f"the chain refuses: {reason}" if hint is None else f"{hint(known)} [{reason.name}]"


_WAYS_OUT: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "NoReason": lambda _: "the chain refuses and gives no reason, as when gas runs out or a contract is not there",
    "GovernorNonexistentProposal": lambda a: (
        f"there is no proposal {a['proposalId']}: `ape run propose` printed its id; check --network too"
    ),
    "GovernorAlreadyCastVote": lambda a: f"{a['voter']} has voted on it already: a vote counts once",
    "GovernorInvalidSignature": lambda a: f"the ballot is not signed by {a['voter']}: have it signed again",
    "GovernorUnexpectedProposalState": lambda a: (
        f"proposal {a['proposalId']} is {PROPOSAL_STATES[a['current']]}: this is not the time for it"
    ),
    "GovernorInsufficientProposerVotes": lambda a: (
        f"{a['proposer']} has {tokens(a['votes'])} votes, {tokens(a['threshold'])} are needed to propose: "
        "get tokens and delegate them with `ape run delegate`"
    ),
    "StrategyRegistryUnknownManifest": lambda a: (
        f"there is no strategy {a['manifestHash']}: `ape run deploy_approved` printed its id; check --network too"
    ),
    "StrategyRegistryUnknownAgent": lambda a: f"there is no agent {a['agentId']}: {NEED_AGENT}",
    "AgentRegistryUnknownAgent": lambda a: f"there is no agent {a['agentId']}: {NEED_AGENT}",
    "StrategyRegistryAgentBusy": lambda a: (
        f"agent {a['agentId']} runs strategy {a['strategyId']} already: propose with --update, or another agent"
    ),
    "StrategyRegistryBondTooSmall": lambda a: (
        f"agent {a['agentId']} has a bond of {tokens(a['bond'])} tokens, {tokens(a['needed'])} are needed: "
        f"`ape run register_agent --agent {a['agentId']} --bond` adds to it"
    ),
    "StrategyRegistryNoPrice": lambda a: (
        f"the price of {a['token']} is {PRICE_STATES[a['status']]}: wait for its feed's next round "
        "(`ape run travel 0` publishes on a local chain)"
    ),
    "StrategyRegistryWrongStage": lambda a: f"strategy {a['id']} is {STAGES[a['stage']]}: this needs another stage",
    "StrategyRegistryRateTooHigh": lambda a: (
        f"the reward rate is {a['rate']} token wei for a base unit of quote, the constitution "
        f"allows 1 to {a['highest']}: propose one of those"
    ),
    "ConstitutionLimitTooLoose": lambda a: (
        f"limit {a['field']} is {a['value']}, the constitution allows {a['ceiling']}: tighten it"
    ),
    "ConstitutionLimitsInconsistent": lambda a: f"the limits contradict each other ({a['what']}): correct them",
    "RewardPoolBudgetExceeded": lambda a: (
        f"live reward caps would be {tokens(a['caps'])} tokens, an epoch's budget is {tokens(a['budget'])}: "
        "propose a smaller cap"
    ),
}


def _first_sentence(error: BaseException) -> str:
    """What an error says, without the list that some append."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removesuffix("Options:").strip().rstrip(".")


# Accounts


def _unlock(account: KeyfileAccount) -> None:
    """With the passphrase from the environment, else from the terminal. The command itself is the consent to sign."""
    variable = f"APE_ACCOUNTS_{account.alias}_PASSPHRASE"
    passphrase = os.environ.get(variable, "")
    if not passphrase:
        if not sys.stdin.isatty():
            raise Misconfigured(f"account {account.alias} is locked: set {variable}, or run in a terminal to be asked")
        passphrase = click.prompt(f"Passphrase of {account.alias}", hide_input=True, err=True)
    try:
        account.set_autosign(True, passphrase)
    except InvalidPasswordError:
        raise Misconfigured(f"the passphrase does not open account {account.alias}: check {variable}") from None
    except (AccountsError, OSError, ValueError) as error:
        raise Misconfigured(f"account {account.alias} can't be unlocked ({error}): import it again") from error


# Reading what people type


def parse_id(text: str, what: str) -> int:
    """A proposal or an agent by its number. Raises Misconfigured."""
    if not text.isdecimal():
        raise Misconfigured(f"{text!r} is no {what}: give its whole number")
    return int(text)


def parse_hash(text: str, what: str) -> bytes:
    """A strategy or a trade by its id. Raises Misconfigured."""
    try:
        found = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        found = b""
    if len(found) != 32:
        raise Misconfigured(f"{text!r} is no {what}: give its id, 0x and 64 hex digits")
    return found


def parse_amount(text: str, decimals: int, option: str) -> int:
    """Whole tokens as base units. Raises Misconfigured naming the option."""
    try:
        return to_units(text, decimals)
    except TypeError as error:
        raise Misconfigured(f"{option}: {error}") from None


# Showing


def printable(text: str) -> str:
    """Without what a terminal would obey or write from right to left: others' text must not rewrite what is near it."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def say(*lines: str) -> None:
    """To standard error: progress, plans and warnings, which are no part of the answer."""
    for line in lines:
        click.echo(printable(in_this_program(line)), err=True)


def warn(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        click.echo(f"warning: {printable(in_this_program(sentence))}", err=True)


def show(values: Mapping[str, Any], *, as_json: bool) -> None:
    """Values as JSON, or one line for each."""
    if as_json:
        click.echo(json.dumps(values, indent=2, default=str))
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        click.echo(printable(f"{name:<{width}}  {_line(value)}".rstrip()))


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def amount(units: int, decimals: int) -> str:
    """Base units as whole tokens, exactly, with thousands apart."""
    with localcontext(prec=100):
        text = f"{Decimal(units).scaleb(-decimals):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def tokens(wei: int) -> str:
    """An amount of the protocol's token."""
    return amount(wei, TOKEN_DECIMALS)


# A moment as people read it.
at = utc
