"""The protocol of the connected network for `agents.console`: its contracts, what it reads, and what it sends.

A session belongs to one connection of ape's and one deployments file; when either changes, the next use has a new one.
Whatever sends says first what it would do. It sends with `dry_run=False`, or when a terminal's user answers yes.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import IntEnum
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import ape
import click
from ape_accounts.accounts import KeyfileAccount
from eth_utils import to_checksum_address
from web3.exceptions import Web3Exception

from agents.ballots import Support
from agents.commands._chain import PRICE_STATES, STAGES, amount
from agents.console_connection import ConsoleConnection, connected
from agents.console_errors import Refused, plainly
from agents.console_views import (
    AgentView,
    Amount,
    Answer,
    Collection,
    ExplanationView,
    Grid,
    LimitsView,
    ManifestView,
    ProposalView,
    Shown,
    StrategyView,
    TradeView,
    VaultView,
)
from agents.contracts import RevertReason, decode_arguments, decode_logs, load_artifact, signature
from agents.deployment import CONTRACTS
from agents.deployments import NetworkDeployment
from agents.errors import Misconfigured
from agents.genesis import TOKEN_DECIMALS
from oracle.chain import BlockRef
from oracle.protocol import Agent, Manifest, Proposal, ProposalState, Strategy, Trade, Vault
from oracle.protocol_events import EventProtocolReader
from oracle.vault_state import EffectiveLimits, VaultReader, VaultReading, VaultState

EXPLANATIONS_VARIABLE = "MARKETFLOW_EXPLANATIONS"
# Explanations are some kilobytes.
_MAX_EXPLANATION_BYTES, _DAEMON_TIMEOUT_S = 1 << 20, 10
# What names that are numbers in the contracts are called, by the type that the compiler wrote into the ABI.
_ENUMS: dict[str, Any] = {
    "enum IGovernor.ProposalState": ProposalState,
    "enum VaultState": VaultState,
    "enum IStrategyRegistry.Stage": IntEnum("Stage", [name.upper() for name in STAGES], start=0),  # type: ignore[misc]
    "enum IPriceOracle.PriceStatus": IntEnum(  # type: ignore[misc]
        "PriceStatus", [name.replace(" ", "_").upper() for name in PRICE_STATES], start=0
    ),
}
_READS = ("view", "pure")


# Which session


_open: dict[tuple[Any, ...], Session] = {}


@plainly
def session() -> Session:
    """That of the connected network. Raises Refused saying what to do where it has no protocol."""
    here = connected()
    written = here.file.stat().st_mtime_ns if here.file.exists() else None
    key = (id(here.provider.web3), here.chain.chain_id, here.file, written)
    if key not in _open:
        found = here.deployed()
        _open.clear()
        _open[key] = Session(here, found)
    return _open[key]


class Session:
    """The protocol of one network."""

    def __init__(self, here: ConsoleConnection, found: NetworkDeployment) -> None:
        self.here, self.found, self.sender = here, found, None
        self._vaults: dict[str, VaultReader] = {}

    @plainly
    def get(self, name: str) -> Any:
        """What a name of `agents.console.NAMES` stands for."""
        own: dict[str, Callable[[], Any]] = {
            "agents": self._agents, "strategies": self._strategies, "vaults": self._all_vaults,
            "proposals": self._proposals, "ledger": self.trades, "trades": self.trades, "limits": self._limits,
            "deployment": lambda: Answer(self.found.protocol.to_dict()), "me": self._me,
        }  # fmt: skip
        return own[name]() if name in own else self.contract(name)

    # Amounts

    @property
    def quote_symbol(self) -> str:
        return self.found.market.quote_symbol

    @property
    def quote_unit(self) -> int:
        """One whole quote token in base units."""
        return int(10**self.found.market.quote_decimals)

    @cached_property
    def token_symbol(self) -> str:
        return str(self.here.chain.call(self._bound("token").functions.symbol()))

    def tokens(self, wei: int) -> Amount:
        return Amount(wei, TOKEN_DECIMALS, self.token_symbol)

    def quote(self, units: int) -> Amount:
        return Amount(units, self.found.market.quote_decimals, self.quote_symbol)

    def symbol(self, token: str) -> str:
        """As the market has it; of others the address."""
        known = {asset.token: asset.symbol for asset in self.found.market.assets}
        return {self.found.market.quote: self.quote_symbol, **known}.get(token, token)

    def of(self, token: str, units: int) -> Amount:
        """An amount of one of the market's tokens; of others in base units."""
        decimals = {asset.token: asset.decimals for asset in self.found.market.assets}
        decimals[self.found.market.quote] = self.found.market.quote_decimals
        return Amount(units, decimals.get(token, 0), self.symbol(token))

    # Contracts

    def contract(self, name: str) -> ConsoleContract:
        return ConsoleContract(self, name, self._bound(name))

    def vault_contract(self, address: str) -> ConsoleContract:
        bound = self.found.protocol.vault(self.here.chain, to_checksum_address(address))
        return ConsoleContract(self, "vault", bound)

    def _bound(self, name: str) -> Any:
        return self.found.protocol.contract(self.here.chain, name)

    # Reading

    @cached_property
    def reader(self) -> EventProtocolReader:
        from agents.commands.status import tell_progress

        contracts = {name: self._bound(name) for name in CONTRACTS}
        return EventProtocolReader(
            self.here.chain, contracts, from_block=self.found.protocol.deployed_at_block, decode=decode_logs,
            progress=tell_progress,
        )  # fmt: skip

    def _all(self, kind: type[Any], view: type[Any]) -> list[Any]:
        block = self.reader.fetch_head()
        return [view(self, item, block) for item in self.reader.fetch(kind, block).items]

    def _agents(self) -> Collection:
        return Collection(
            "agent", lambda: self._all(Agent, AgentView), AgentView, "id", contract=self.contract("agents"),
            is_numbered=True,
        )  # fmt: skip

    def _strategies(self) -> Collection:
        return Collection(
            "strategy", lambda: self._all(Strategy, StrategyView), StrategyView, "id", also=("vault",),
            contract=self.contract("strategies"),
        )  # fmt: skip

    def _all_vaults(self) -> Collection:
        return Collection(
            "vault", lambda: self._all(Vault, VaultView), VaultView, "address", also=("strategy_id",),
            contract=self.contract("factory"),
        )  # fmt: skip

    def _proposals(self) -> Collection:
        return Collection("proposal", lambda: self._all(Proposal, ProposalView), ProposalView, "id")

    def trades(self, *, vault: str | None = None) -> Collection:
        """Of all vaults, or of one."""

        def fetch() -> list[TradeView]:
            return [trade for trade in self._all(Trade, TradeView) if vault in (None, trade.data.vault)]

        return Collection("trade", fetch, TradeView, "id", contract=self.contract("ledger"))

    def manifest(self, manifest_hash: str) -> ManifestView:
        """Raises Refused when there is none of that hash."""
        collection = Collection("manifest", lambda: self._all(Manifest, ManifestView), ManifestView, "hash")
        return collection[manifest_hash]  # type: ignore[no-any-return]

    def ceilings(self, block: int | str = "latest") -> EffectiveLimits:
        found = self.here.chain.call(self._bound("constitution").functions.ceilings(), block=block)
        return EffectiveLimits(**dict(zip(EffectiveLimits.__dataclass_fields__, found, strict=True)))

    def _limits(self) -> LimitsView:
        return LimitsView(ceilings=self.ceilings())

    def reading(self, vault: str, block: BlockRef) -> VaultReading:
        """A vault at a block. Raises Refused."""
        if vault not in self._vaults:
            self._vaults[vault] = VaultReader(
                self.here.chain, vault=self.found.protocol.vault(self.here.chain, vault),
                constitution=self._bound("constitution"), oracle=self._bound("oracle"),
                quote=self.found.market.quote, quote_unit=self.quote_unit,
            )  # fmt: skip
        return plainly(self._vaults[vault].fetch)(block)

    @plainly
    def print_status(self) -> None:
        """As `ape run status`."""
        from agents.commands import status

        status.print_tables(status.read(self.reader), self.found)

    # Explaining

    def describe_call(self, target: str, value_wei: int, calldata: str) -> str:
        """A call in words. What can't be decoded is said to be unknown, with its bytes."""
        names = {getattr(self.found.protocol, name): name for name in CONTRACTS}
        name, data = names.get(to_checksum_address(target)), bytes.fromhex(calldata.removeprefix("0x"))
        paid = f", with {amount(value_wei, 18)} ether" if value_wei else ""
        said = _decode_call(CONTRACTS[name], data) if name else None
        return f"{name or target}.{said}{paid}" if said else f"{name or target}: unknown call 0x{data.hex()}{paid}"

    @plainly
    def explain(self, what: Any, explanations: str | Path = "") -> Any:
        """One explanation for a trade; a list of them, oldest first, for a vault or a strategy."""
        source = str(explanations or os.environ.get(EXPLANATIONS_VARIABLE, ""))
        if isinstance(what, TradeView):
            return self._explain_trade(what, source)
        if isinstance(what, VaultView | StrategyView):
            address = what.data.address if isinstance(what, VaultView) else what.data.vault
            return Explanations(self._explain_trade(trade, source) for trade in self.trades(vault=address))
        if not isinstance(what, str | bytes):
            raise Misconfigured(f"{what!r} can't be explained: give a trade, its id, or a vault")
        for collection in (self.trades(), self._all_vaults(), self._strategies()):
            try:
                return self.explain(collection[what], explanations)
            except Refused as error:
                if not str(error).startswith(("there is no ", "there are no ")):
                    raise
        named = f"0x{what.hex()}" if isinstance(what, bytes) else what
        raise Misconfigured(f"there is no trade, no vault and no strategy {named}: check it, and the network")

    def _explain_trade(self, trade: TradeView, source: str) -> ExplanationView:
        from agents.explanation import ExplanationForged, ExplanationMissing

        if not source:
            way = f"give explain(…, FOLDER) the agent's folder or its daemon's URL, or set {EXPLANATIONS_VARIABLE}"
            return ExplanationView(trade=trade, verdict="unexplained", problem=f"nobody said where they are: {way}")
        try:
            document = fetch_document(source, trade.data.explanation_hash)
            self._require_about(document, trade)
        except ExplanationMissing as error:
            return ExplanationView(trade=trade, verdict="unexplained", problem=str(error))
        except ExplanationForged as error:
            return ExplanationView(trade=trade, verdict="forged", problem=str(error))
        return ExplanationView(trade=trade, verdict="explained", document=document)

    def _require_about(self, document: Mapping[str, Any], trade: TradeView) -> None:
        """Raises ExplanationForged when the document is about another trade than the one that names it."""
        from agents.explanation import ExplanationForged, plain
        from agents.ledger import fetch_entries

        data = trade.data
        entries = fetch_entries(
            self.here.chain, self._bound("ledger"), data.vault, from_block=data.block, to_block=data.block
        )
        told = next((plain(entry.fields) for entry in entries if entry.id == data.id), {})
        said = document.get("entry")
        # What may be newer when the trade is made than when it was decided.
        fixed = {n: v for n, v in said.items() if n not in ("prices", "reasons")} if isinstance(said, Mapping) else {}
        wrong = sorted(name for name, value in fixed.items() if told.get(name) != value)
        if wrong or not fixed:
            other = ", ".join(wrong) or "which trade it is"
            raise ExplanationForged(f"the hash matches, but it is not about this trade: it has another {other}")

    # Sending

    def _me(self) -> Any:
        if self.sender is None:
            raise Misconfigured('nobody yet: use("ALIAS") says who signs, or give sender= each time')
        return Me(self, self.here.signer(self.sender, unlock=False).address, self.sender)

    @plainly
    def account(self, alias: Any) -> Me:
        return Me(self, self.here.signer(alias, unlock=False).address, alias)

    @plainly
    def use(self, sender: Any) -> Me:
        """Sets who signs. Raises Refused for an account that there is not."""
        sender = sender.sender if isinstance(sender, Me) else sender
        found = self.account(sender)
        self.sender = sender
        return found

    def signs(self, sender: Any) -> Any:
        """An alias, or an account of ape's. Raises Misconfigured when nobody was named."""
        sender = self.sender if sender is None else sender
        if sender is None:
            raise Misconfigured('who signs? give sender="ALIAS", or use("ALIAS") once: accounts shows those there are')
        return sender.sender if isinstance(sender, Me) else sender

    @plainly
    def vote(self, proposal: Any, support: Any, *, reason: str, sender: Any, dry_run: bool | None) -> Answer:
        name = support.name.lower() if isinstance(support, Support) else str(support).lower()
        if name not in ("for", "against", "abstain"):
            raise Misconfigured(f'vote how? {support!r} is none of "for", "against" and "abstain"')
        said = [f"--{name}", *([f"--reason={reason}"] if reason else [])]
        return self.run("vote", [*said, "--", str(getattr(proposal, "id", proposal))], sender=sender, dry_run=dry_run)

    @plainly
    def run(self, name: str, arguments: Sequence[str], *, sender: Any, dry_run: bool | None) -> Answer:
        """A command that sends: what it would do, then what it did if it was let."""
        account = self.signs(sender)

        if dry_run is not False:
            plan = Answer(self._command(name, arguments, account=account, dry_run=True))
            if dry_run or not is_wanted(plan):
                return plan
        with relocked(account):
            return Answer(self._command(name, arguments, account=account, dry_run=False))

    @plainly
    def run_free(self, name: str, arguments: Sequence[str]) -> Answer:
        """A command that nobody signs."""
        return Answer(self._command(name, arguments))

    def _command(self, name: str, arguments: Sequence[str], **more: Any) -> Any:
        """The command itself with this connection: its options parsed as a command line's, its answer as JSON."""
        command = import_module(f"agents.commands.{name}").cli
        with command.make_context(name, list(arguments)) as context:
            options = {k: v for k, v in context.params.items() if k not in ("network", "folder")}
        said = io.StringIO()
        with redirect_stdout(said):
            inspect.unwrap(command.callback)(self.here, **{**options, **more, "as_json": True})
        return json.loads(said.getvalue())


class Explanations(list[ExplanationView], Shown):
    """Of a vault's trades, oldest first."""

    __repr__ = Shown.__repr__

    def grids(self) -> Iterator[Grid]:
        rows = [(str(e.trade.data.sequence), e.trade.data.id, e.verdict, e.problem) for e in self]
        yield Grid(
            title=f"{len(rows)} trades, {sum(e.verdict == 'explained' for e in self)} explained",
            columns=("number", "trade", "verdict", "why") if rows else (), rows=rows,
        )  # fmt: skip


def fetch_document(source: str, name: str) -> dict[str, Any]:
    """The document of that hash, from a folder or a daemon. Raises ExplanationMissing, ExplanationForged, and
    Misconfigured when there is no such folder."""
    from agents.explanation import DocumentStore, ExplanationForged, ExplanationMissing
    from offchain_rl.artefact import hash_bytes

    if not source.startswith(("http://", "https://")):
        if not Path(source).is_dir():
            raise Misconfigured(f"{source} is no folder of explanations: name the one where the agent kept them")
        return DocumentStore(Path(source)).get(name)
    content = _download(f"{source.rstrip('/')}/explanations/{name}")
    if content is None:
        raise ExplanationMissing(f"no document {name} at {source}")
    if (found := hash_bytes(content)) != name:
        raise ExplanationForged(f"what {source} has as {name} hashes to {found}")
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ExplanationForged(f"what {source} has as {name} is no document")
    return document


def _download(url: str) -> bytes | None:
    """None where it is not. Raises requests' errors, and Misconfigured for more bytes than any explanation has."""
    import requests

    with requests.get(url, timeout=_DAEMON_TIMEOUT_S, stream=True) as answer:
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        content = b""
        for part in answer.iter_content(1 << 16):
            content += part
            if len(content) > _MAX_EXPLANATION_BYTES:
                raise Misconfigured(f"{url} gives more than {_MAX_EXPLANATION_BYTES} bytes: that is no explanation")
    return content


def _decode_call(contract: str, data: bytes) -> str | None:
    """`function(argument=value)` of call data; None when the contract has no such function."""
    from eth_abi.exceptions import DecodingError
    from eth_utils import keccak

    for abi in load_artifact(contract).abi:
        if abi["type"] == "function" and keccak(text=signature(abi))[:4] == data[:4]:
            try:
                return str(RevertReason(abi["name"], decode_arguments(abi["inputs"], data[4:])))
            except DecodingError:
                return None
    return None


# Accounts


@contextmanager
def relocked(sender: Any) -> Iterator[None]:
    """An account is locked after each call that sends: unlocked, it would sign anything without a question."""
    held = _keyfile(sender)
    try:
        yield
    finally:
        if held is not None and not held.locked:
            held.set_autosign(False)


def _keyfile(sender: Any) -> KeyfileAccount | None:
    """The one that `ape.accounts` has of that alias, which is the one that was unlocked."""
    alias = sender if isinstance(sender, str) else getattr(sender, "alias", None)
    try:
        found = ape.accounts.load(alias) if alias and not alias.upper().startswith("TEST::") else None
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, KeyfileAccount) else None


class Me(Shown):
    """An account, and what it has."""

    def __init__(self, session: Session, address: str, sender: Any) -> None:
        self._session, self.address, self.sender = session, address, sender

    @property
    def ether(self) -> Amount:
        return Amount(self._session.here.chain.w3.eth.get_balance(to_checksum_address(self.address)), 18, "ether")

    @property
    def tokens(self) -> Amount:
        return self._ask("balanceOf")

    @property
    def votes(self) -> Amount:
        """Delegated to it, by itself or by others."""
        return self._ask("getVotes")

    def _ask(self, name: str) -> Amount:
        return self._session.tokens(self._session.contract("token").method(name).call(self.address))

    def grids(self) -> Iterator[Grid]:
        rows = [("address", self.address), ("ether", str(self.ether)), ("tokens", str(self.tokens))]
        yield Grid(title="account", rows=[*rows, ("votes", str(self.votes))])


# Contracts


class ConsoleContract(Shown):
    """A contract whose functions are methods. Those that read answer; those that change need a `sender`."""

    def __init__(self, session: Session, name: str, bound: Any) -> None:
        self._session, self._name, self._bound = session, name, bound
        self.address, self.abi = bound.address, bound.abi

    def method(self, name: str) -> Method:
        """A function by its name, also where another attribute has it. Raises Refused when there is none."""
        same = [abi for abi in self.abi if abi["type"] == "function" and abi["name"] == name]
        if not same:
            raise Refused(f"{self._name} has no {name}: it has {', '.join(self._functions())}")
        return Method(self, same)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._functions():
            raise AttributeError(f"{self._name} has no {name}: dir({self._name}) shows what it has")
        return self.method(name)

    def _functions(self) -> list[str]:
        return sorted({abi["name"] for abi in self.abi if abi["type"] == "function"})

    def __dir__(self) -> list[str]:
        return sorted({"address", "abi", "method", *self._functions()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConsoleContract) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def grids(self) -> Iterator[Grid]:
        contract = CONTRACTS.get(self._name, "StrategyVault")
        functions = [abi for abi in self.abi if abi["type"] == "function"]
        reads = sorted(abi["name"] for abi in functions if abi["stateMutability"] in _READS)
        sends = sorted({abi["name"] for abi in functions} - set(reads))
        rows = [("address", self.address), ("reads", ", ".join(reads)), ("sends", ", ".join(sends))]
        yield Grid(title=f"{self._name}: {contract}", rows=rows)


class Method:
    """A function of a contract; several where it is overloaded. Call it; or `call` it without sending, or `encode`."""

    def __init__(self, contract: ConsoleContract, overloads: Sequence[Mapping[str, Any]]) -> None:
        self._contract, self._overloads = contract, overloads

    @property
    def is_read(self) -> bool:
        return all(abi["stateMutability"] in _READS for abi in self._overloads)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Of one that reads its answer (`block=` of the past); else as `transact`."""
        return self.call(*arguments, **options) if self.is_read else self.transact(*arguments, **options)

    @plainly
    def call(self, *arguments: Any, sender: Any = None, block: int | str = "latest") -> Any:
        """What it would answer, without sending anything. Raises Refused with the chain's reason."""
        bound, session = self._bind(arguments), self._contract._session
        address = None if sender is None else session.here.signer(session.signs(sender), unlock=False).address
        answer = session.here.chain.call(bound, address, block=block)
        return _named(bound.abi["outputs"], answer)

    @plainly
    def transact(self, *arguments: Any, sender: Any = None, value: int = 0, dry_run: bool | None = None) -> Any:
        """The transaction as it would be; sent with `dry_run=False`, or on a yes. `value` in wei.

        Raises Refused with the chain's reason, before anything is sent where that is known before.
        """
        bound, session = self._bind(arguments), self._contract._session
        account, here = session.signs(sender), session.here
        plan = self._plan(bound, here.signer(account, unlock=False).address, value)
        if dry_run is not False and (dry_run or not is_wanted(plan)):
            return plan
        with relocked(account):
            receipt = here.chain.send(bound, here.signer(account), value=value)
        return Sent(receipt)

    def encode(self, *arguments: Any) -> str:
        """Call data, 0x-hex."""
        return str(plainly(self._bind)(arguments)._encode_transaction_data())

    def _bind(self, arguments: Sequence[Any]) -> Any:
        named = str(self._overloads[0]["name"])
        try:
            return self._contract._bound.functions[named](*map(_argument, arguments))
        except (Web3Exception, TypeError, ValueError, AttributeError):
            raise Misconfigured(
                f"these are no arguments of it: {', '.join(map(_argument_text, arguments)) or 'none'}; "
                f"it is {self._declared()}"
            ) from None

    def _plan(self, bound: Any, sender: str, value: int) -> Plan:
        chain = self._contract._session.here.chain
        data = {"to": bound.address, "data": bound._encode_transaction_data(), "value": value}
        # Refused here with the reason, which the estimate does not always have.
        chain.call(data, sender)
        told = RevertReason(bound.abi["name"], dict(zip(_names(bound.abi), bound.args, strict=True)))
        return Plan(
            what=f"{self._contract._name}.{told}",
            sender=sender, to=bound.address, value_wei=value, data=data["data"],
            gas=int(chain.w3.eth.estimate_gas({**data, "from": sender})),
        )  # fmt: skip

    def _declared(self) -> str:
        return " or ".join(_declaration(abi) for abi in self._overloads)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return self._declared()

    def __repr__(self) -> str:
        return f"{self._contract._name}.{self._declared()}"


def _declaration(abi: Mapping[str, Any]) -> str:
    def listed(items: Sequence[Mapping[str, Any]]) -> str:
        return ", ".join(f"{item['type']} {item['name']}".strip() for item in items)

    answers = f" -> {listed(abi['outputs'])}" if abi["outputs"] else ""
    return f"{abi['name']}({listed(abi['inputs'])}){'' if abi['stateMutability'] in _READS else ', sent'}{answers}"


def _names(abi: Mapping[str, Any]) -> list[str]:
    return [item["name"] or str(i) for i, item in enumerate(abi["inputs"])]


def _argument(value: Any) -> Any:
    """As web3 takes it: amounts in base units, whatever has an address by it, proposals and agents by their id."""
    if isinstance(value, Amount):
        return value.raw
    if isinstance(value, Decimal):
        raise ValueError("contracts take base units")
    if isinstance(value, list | tuple):
        return [_argument(item) for item in value]
    if isinstance(value, IntEnum):
        return int(value)
    if isinstance(value, ProposalView | AgentView | StrategyView | TradeView):
        return value.data.id
    address = None if isinstance(value, str | bytes | int) else getattr(value, "address", None)
    value = value if address is None else str(address)
    if isinstance(value, str) and len(value) == 42 and value.startswith("0x") and value[2:].islower():
        return to_checksum_address(value)
    return value


def _argument_text(value: Any) -> str:
    return value if isinstance(value, str) and value.startswith("0x") else repr(value)


def _named(outputs: Sequence[Mapping[str, Any]], answer: Any) -> Any:
    """Numbers that stand for names as members of their enumeration."""
    if len(outputs) != 1:
        return answer
    known = _ENUMS.get(str(outputs[0].get("internalType")))
    try:
        return answer if known is None else known(answer)
    except ValueError:
        return answer


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(Shown):
    """A transaction that was not sent; the chain would take it as it is now."""

    what: str
    sender: str
    to: str
    value_wei: int
    data: str
    gas: int

    def grids(self) -> Iterator[Grid]:
        told = asdict(self)
        rows = [("would send", self.what), ("from", self.sender), ("to", self.to), ("gas", f"about {told['gas']:,}")]
        rows += [("pays", f"{amount(self.value_wei, 18)} ether")] if self.value_wei else []
        yield Grid(title="dry run: nothing was sent; dry_run=False sends it", rows=rows)


class Sent(Shown):
    """A transaction that a block took: its receipt, and its events decoded."""

    def __init__(self, receipt: Any) -> None:
        self.receipt, self.events = receipt, decode_logs(receipt)

    @property
    def transaction(self) -> str:
        return "0x" + bytes(self.receipt["transactionHash"]).hex()

    def grids(self) -> Iterator[Grid]:
        rows = [("transaction", self.transaction), ("block", str(self.receipt["blockNumber"]))]
        rows.append(("gas used", f"{self.receipt['gasUsed']:,}"))
        yield Grid(title="sent", rows=[*rows, *(("event", str(RevertReason(e.name, e.args))) for e in self.events)])


def is_wanted(plan: Shown) -> bool:
    """Whether the terminal's user says yes to a plan. Without a terminal nobody is asked, and nothing is sent."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    click.echo(plan._rich())
    return click.confirm("Send it?", default=False)
