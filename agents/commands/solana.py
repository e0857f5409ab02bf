"""marketflow solana: the DAO's vaults, ledger and rewards on Solana, from a terminal.

The node is named by MARKETFLOW_SOLANA_RPC_URL or --url, whoever signs and pays by MARKETFLOW_SOLANA_KEY_FILE, and the
protocol by a file such as deployments/solana.json, which `solana begin` writes. Amounts are whole tokens.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

import click
from construct import ConstructError
from eth_abi import encode
from eth_utils import keccak, to_checksum_address
from solana.rpc.api import Client
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token.instructions import get_associated_token_address

from agents.errors import AgentError, Misconfigured
from agents.solana_decisions import (
    OF_GUARDIANS,
    OF_THE_DAO,
    Attestation,
    Decision,
    combine,
    describe,
    payload_of,
    plain,
    read_decision,
    sign,
    to_json,
)  # fmt: skip
from agents.solana_execution import (
    Courier,
    FeePayer,
    Landed,
    SendRules,
    SolanaExecution,
    SolanaKeeper,
    fetch_accounts,
)  # fmt: skip
from agents.solana_loader import PROGRAM_SIZE, data_address, deployment, upgrade_authority
from agents.solana_program import Event, Ledger, LedgerBroken, Pool, verify_chain
from agents.solana_rpc import Rpc
from agents.solana_settlement import SolanaSettler
from agents.solana_signer import TradeSigner, load_key_file
from oracle.errors import OracleError
from oracle.vault_state import reason_names

DEFAULT_URL = "http://127.0.0.1:8899"
_FILE = click.Path(path_type=Path)
# Of quote and of most tokens here; those of a mint are read from it.
LAMPORTS_PER_SOL = 10**9


@dataclass(frozen=True, slots=True)
class Here:
    """The node, and the protocol on it."""

    rpc: Rpc
    client: Client
    ledger: Ledger
    protocol: Pubkey
    known: Mapping[str, Pubkey]

    def state(self, key: Pubkey, what: str) -> Any:
        """One of the program's accounts. Raises Misconfigured when it is none of that kind."""
        data = self.rpc.account(key)
        try:
            if data is not None and self.ledger.kind_of(data) == what:
                return self.ledger.decode(data)
        except KeyError:
            pass
        raise Misconfigured(f"{key} is no {what.lower()} of program {self.ledger.id}: check the address and --url")

    def config(self) -> Any:
        """The protocol's configuration."""
        return self.state(self.protocol, "Protocol").config

    def decimals(self, mint: Pubkey) -> int:
        """Of a token."""
        data = self.rpc.account(mint)
        if data is None or len(data) < 82:
            raise Misconfigured(f"{mint} is no token of this cluster")
        return data[44]

    def units(self, amount: str, mint: Pubkey) -> int:
        """Whole tokens as base units."""
        return units(amount, self.decimals(mint))


def units(amount: str, decimals: int) -> int:
    """Whole tokens as base units. Raises Misconfigured for what is no amount, or is finer than the token."""
    try:
        exact = Decimal(amount).scaleb(decimals)
    except InvalidOperation:
        raise Misconfigured(f"{amount!r} is no amount: give whole tokens, such as 1000 or 0.5") from None
    if not exact.is_finite() or exact <= 0 or exact != exact.to_integral_value() or exact >= 2**64:
        raise Misconfigured(f"{amount} is no amount of a token with {decimals} decimals")
    return int(exact)


def address(text: str, what: str) -> Pubkey:
    """A key in base58. Raises Misconfigured."""
    try:
        return Pubkey.from_string(text)
    except ValueError:
        raise Misconfigured(f"{what} {text!r} is no address on Solana: 32 bytes in base58") from None


# What every command shares


def _fail(text: str) -> NoReturn:
    click.echo(f"marketflow solana: {text}", err=True)
    sys.exit(1)


def in_a_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """What a person can put right ends a command with a sentence."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except BrokenPipeError:
            raise
        except (AgentError, OracleError, LedgerBroken, ValueError, OSError) as error:
            _fail(str(error))

    return run


def show(values: Mapping[str, Any], as_json: bool) -> None:
    """As JSON, or a line for each."""
    if as_json:
        click.echo(json.dumps(values, indent=2, default=str))
        return
    width = max(map(len, values), default=0)
    for name, value in values.items():
        text = json.dumps(value, default=str) if isinstance(value, dict | list) else value
        click.echo(f"{name:<{width}}  {text}".rstrip())


_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
_url = click.option(
    "--url", envvar="MARKETFLOW_SOLANA_RPC_URL", default=DEFAULT_URL, help=f"The node; {DEFAULT_URL} unless it is set."
)


def on_solana(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command `here`: the node, and the protocol that the file names."""

    @_url
    @click.option("--file", "file", type=_FILE, default=Path("deployments/solana.json"), show_default=True,
                  help="Where the protocol is.")  # fmt: skip
    @functools.wraps(command)
    def run(url: str, file: Path, **options: Any) -> None:
        command(here=open_protocol(url, file), **options)

    return in_a_sentence(run)


def connect(url: str) -> tuple[Client, Rpc]:
    """A node. Raises NodeFault when it does not answer."""
    client = Client(url, timeout=30)
    click.get_current_context().call_on_close(client._provider.session.close)
    rpc = Rpc(client)
    rpc.genesis()
    return client, rpc


def open_protocol(url: str, file: Path) -> Here:
    """The protocol of a file on a node. Raises Misconfigured."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        ledger = Ledger(address(raw["program"], f"{file}: program"))
        protocol = address(raw["protocol"], f"{file}: protocol")
    except FileNotFoundError:
        raise Misconfigured(
            f"{file} does not exist: `marketflow solana begin` writes it, or name one with --file"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise Misconfigured(f"{file} is malformed ({error}): correct it") from error
    client, rpc = connect(url)
    if raw.get("genesis") not in (None, rpc.genesis()):
        raise Misconfigured(f"{file} is of cluster {raw['genesis']}, the node is of {rpc.genesis()}: check --url")
    here = Here(rpc, client, ledger, protocol, ledger.known(protocol))
    if str(here.config().cluster) != rpc.genesis():
        raise Misconfigured(f"protocol {protocol} was begun for another cluster: check --url and {file}")
    return here


def own_key() -> Keypair:
    """The key that MARKETFLOW_SOLANA_KEY_FILE names."""
    name = os.environ.get("MARKETFLOW_SOLANA_KEY_FILE")
    return load_key_file(Path(name) if name else None)


def keeper(here: Here, known: Mapping[str, Pubkey], key: Keypair) -> SolanaKeeper:
    """Sends what that key may."""
    courier = Courier(here.rpc, here.ledger, rules=SendRules(poll_s=0.4))
    return SolanaKeeper(courier, known={**here.known, **known}, payer=FeePayer(key))


def sent(landed: Landed) -> dict[str, Any]:
    """What became of it. Raises AgentError with the program's sentence when it refused."""
    if landed.refusal:
        raise AgentError(f"{landed.refusal.name}: {landed.refusal.message}")
    return {"transaction": landed.signature, "slot": landed.slot, "events": [_told(event) for event in landed.events]}


def _told(event: Event) -> dict[str, Any]:
    fields = {k: v.hex() if isinstance(v, bytes) else plain(v) for k, v in event.fields.items() if k != "reserved"}
    return {"event": event.name, **fields}


@click.group()
def cli() -> None:
    """Vaults, ledger and rewards on Solana."""


# A local chain


@cli.command()
@click.option("--port", default=8899, show_default=True, help="On this machine only; 0 for any that is free.")
@click.option("--price", default="2000", show_default=True, help="Of the base token, dollars.")
@click.option("--keys", type=_FILE, default=Path("solana-keys"), show_default=True, help="Where its people's keys go.")
@_json
@in_a_sentence
def node(port: int, price: str, keys: Path, as_json: bool) -> None:
    """Start a local chain with the programs, tokens, feeds and a market, and wait to be interrupted. It forgets all."""
    from agents.localnet.solana import LocalSolana
    from agents.solana_node import SolanaNode

    clock_ms = lambda: time.time_ns() // 10**6  # noqa: E731
    chain = LocalSolana(
        SolanaNode(start_s=clock_ms() // 1000 - 1, clock_ms=clock_ms), base_price_e8=units(price, 8), liquidity=10**14
    )
    people = {name: chain.person(name) for name in ("authority", "controller", "signing-key")}
    keys.mkdir(parents=True, exist_ok=True)
    for name, key in people.items():
        _write_key(keys / f"{name}.json", key)
        for mint, amount in ((chain.quote, 10**13), (chain.token, 10**15)):
            account = _own_account(chain, key, mint)
            chain.give(mint, account, amount)
    chain.publish(base_e8=units(price, 8), at_s=chain.node.time_s)
    with chain.node.serve(port) as url:
        places = {
            "quote_mint": chain.quote, "base_mint": chain.base, "reward_mint": chain.token,
            "base_feed": chain.feeds["base"], "quote_feed": chain.feeds["quote"], "venue": chain.market.id,
            "pool": chain.pool["pool"], "program": chain.ledger.id,
        }  # fmt: skip
        told = {
            "url": url,
            **{k: str(v) for k, v in places.items()},
            "keys": {n: str(keys / f"{n}.json") for n in people},
        }
        show(told, as_json)
        sys.stdout.flush()
        try:
            while not threading.Event().wait(20):
                chain.publish(base_e8=chain.price_e8, at_s=chain.node.time_s)
        except KeyboardInterrupt:
            click.echo("ended", err=True)


def _write_key(path: Path, key: Keypair) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps(list(bytes(key))))


def _own_account(chain: Any, key: Keypair, mint: Pubkey) -> Pubkey:
    from spl.token.instructions import create_associated_token_account

    owner = key.pubkey()
    chain.send(create_associated_token_account(key.pubkey(), owner, mint), signers=[key])
    return get_associated_token_address(owner, mint)


@cli.command()
@click.option("--bars", default=400, show_default=True, help="Bars to trade.")
@click.option("--train-steps", default=32_768, show_default=True, help="Decisions to train on.")
@click.option("--out", type=_FILE, default=Path("out/demo-solana"), show_default=True)
@_json
@in_a_sentence
def demo(bars: int, train_steps: int, out: Path, as_json: bool) -> None:
    """The demo with a vault on both chains: voted on the EVM, carried over, traded, settled and paid on Solana."""
    from rich.console import Console

    from agents.commands.demo import run

    run(
        Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True),
        bars=bars, data=(), start=None, kind="auto", seed=1, train_steps=train_steps, chains="evm,solana",
        with_graph=False, keep=False, out=out, as_json=as_json,
    )  # fmt: skip


# Deploying


@cli.command()
@click.argument("program", type=click.Choice(["ledger", "pool"]))
@click.option("--program-key", type=_FILE, required=True, help="The new program's key: its address. It signs once.")
@click.option("--buffer-key", type=_FILE, help="Of the buffer, to go on after an interruption; else a new one.")
@click.option(
    "--upgradeable", is_flag=True, help="Keep the right to replace the code. Who has it, can take everything."
)
@_url
@_dry_run
@_json
@in_a_sentence
def deploy(
    program: str, program_key: Path, buffer_key: Path | None, upgradeable: bool, url: str, dry_run: bool, as_json: bool
) -> None:
    """Put PROGRAM on a cluster, and give up the right to replace it."""
    client, rpc = connect(url)
    key, payer = load_key_file(program_key), own_key()
    buffer = load_key_file(buffer_key) if buffer_key else Keypair()
    found = Ledger(key.pubkey()) if program == "ledger" else Pool(key.pubkey())
    if rpc.account(key.pubkey()) is not None:
        raise Misconfigured(f"there is a program at {key.pubkey()} already: choose another --program-key")
    rent = lambda size: int(rpc.ask("getMinimumBalanceForRentExemption", size))  # noqa: E731
    written = rpc.account(buffer.pubkey())
    steps = list(
        deployment(
            found.binary,
            payer=payer.pubkey(),
            program=key.pubkey(),
            buffer=buffer.pubkey(),
            rent_lamports=rent,
            is_final=not upgradeable,
            written=written,
        )
    )
    size = len(found.binary)
    cost = rent(PROGRAM_SIZE) + rent(45 + size) + 5000 * sum(1 + len(step.signers) for step in steps)
    plan = {
        "program": str(key.pubkey()), "bytes": size, "transactions": len(steps), "buffer": str(buffer.pubkey()),
        "costs_sol": str(Decimal(cost).scaleb(-9)), "has_sol": str(Decimal(rpc.balance(payer.pubkey())).scaleb(-9)),
        "can_be_replaced_by": str(payer.pubkey()) if upgradeable else "nobody",
    }  # fmt: skip
    if dry_run:
        return show(plan | {"dry_run": True}, as_json)
    if rpc.balance(payer.pubkey()) < cost:
        raise Misconfigured(f"{payer.pubkey()} has {plan['has_sol']} SOL, {plan['costs_sol']} are needed: send it some")
    keys = {"buffer": buffer, "program": key}
    with click.progressbar(steps, label="deploying", file=sys.stderr) as bar:
        for step in bar:
            _send_step(client, step.instructions, [payer, *(keys[name] for name in step.signers)])
    return show(plan, as_json)


def _send_step(client: Client, instructions: list[Any], signers: list[Keypair]) -> None:
    from solana.rpc.types import TxOpts
    from solders.message import Message
    from solders.transaction import VersionedTransaction

    latest = client.get_latest_blockhash().value
    message = Message.new_with_blockhash(instructions, signers[0].pubkey(), latest.blockhash)
    transaction = VersionedTransaction(message, signers)
    try:
        client.send_transaction(transaction, TxOpts(skip_confirmation=False, preflight_commitment="confirmed"))
    except Exception as error:  # solana-py's own, whose texts are JSON
        raise AgentError(
            f"a transaction of the deployment failed: {str(error)[:400]}; go on with --buffer-key"
        ) from error


@cli.command()
@click.argument("configuration", type=_FILE)
@click.option("--program", required=True, help="Where marketflow_ledger is deployed.")
@click.option(
    "--out", type=_FILE, default=Path("deployments/solana.json"), show_default=True, help="The protocol's file."
)
@_url
@_dry_run
@_json
@in_a_sentence
def begin(configuration: Path, program: str, out: Path, url: str, dry_run: bool, as_json: bool) -> None:
    """Begin a protocol by a CONFIGURATION file: deployments/genesis/solana.toml is an example."""
    client, rpc = connect(url)
    ledger = Ledger(address(program, "--program"))
    config = read_config(configuration, ledger, rpc.genesis())
    protocol = ledger.protocol(config)
    told = {"program": str(ledger.id), "protocol": str(protocol), "genesis": rpc.genesis()}
    if dry_run:
        return show(told | {"configuration": plain(config), "dry_run": True}, as_json)
    if rpc.account(protocol) is None:
        key = own_key()
        here = Here(rpc, client, ledger, protocol, ledger.known(protocol))
        mints = {"quote_mint": config.quote_mint, "reward_mint": config.reward_mint, "payer": key.pubkey()}
        sent(keeper(here, mints, key).ask("initialise", config))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return show(told | {"file": str(out)}, as_json)


def read_config(path: Path, ledger: Ledger, cluster: str) -> Any:
    """`Config` of the program by a TOML file. Raises Misconfigured naming the key."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        guardians = [bytes.fromhex(a.removeprefix("0x")) for a in raw["guardians"]["addresses"]]
        if any(len(a) != 20 for a in guardians) or not 1 <= len(guardians) <= 16:
            raise ValueError("guardians.addresses: 1 to 16 addresses of Ethereum")
        feed, rewards = raw["quote_feed"], raw["rewards"]
        reward_unit = 10 ** raw["tokens"]["reward_decimals"]
        whole = lambda amount: int(Decimal(str(amount)) * reward_unit)  # noqa: E731
        config = ledger.types["Config"](
            cluster=Pubkey.from_string(cluster),
            evm_chain_id=raw["dao"]["chain_id"],
            outbox=list(bytes.fromhex(raw["dao"]["outbox"].removeprefix("0x"))),
            threshold=raw["guardians"]["threshold"], guardian_count=len(guardians), reserved=[0, 0],
            guardians=[list(a) for a in guardians] + [[0] * 20] * (16 - len(guardians)),
            quote_mint=address(raw["tokens"]["quote_mint"], "tokens.quote_mint"),
            reward_mint=address(raw["tokens"]["reward_mint"], "tokens.reward_mint"),
            chainlink=address(raw["oracles"]["chainlink"], "oracles.chainlink"),
            pyth=address(raw["oracles"]["pyth"], "oracles.pyth"), quote_feed=feed_of(feed, ledger),
            genesis_s=rewards["genesis_s"], epoch_length_s=rewards["epoch_length_s"],
            window_length_s=rewards["window_length_s"], vesting_s=rewards["vesting_s"],
            max_unsettled=rewards["max_unsettled"], budget_per_epoch=whole(rewards["budget_per_epoch"]),
            max_reward_rate=rewards["max_reward_rate"], min_bond=whole(rewards["min_bond"]),
            slippage_decay_s=raw["guard"]["slippage_decay_s"], gap_allowance_bps=raw["guard"]["gap_allowance_bps"],
            ceilings=ledger.types["Limits"](**raw["ceilings"]),
        )  # fmt: skip
        ledger.encode("Config", config)
        return config
    except FileNotFoundError:
        raise Misconfigured(f"{path} does not exist: deployments/genesis/solana.toml is an example") from None
    except (KeyError, ValueError, TypeError, InvalidOperation, ConstructError) as error:
        raise Misconfigured(f"{path}: {error}: deployments/genesis/solana.toml has all there are") from error


def feed_of(raw: Mapping[str, Any], ledger: Ledger) -> Any:
    """`Feed` of the program by a table: kind "chainlink" or "pyth", and the address of its account."""
    kinds = {"chainlink": 1, "pyth": 2}
    if raw["kind"] not in kinds:
        raise ValueError(f"kind {raw['kind']!r}: choose chainlink or pyth")
    return ledger.types["Feed"](
        source=address(raw["source"], "source"), kind=kinds[raw["kind"]], max_age_s=raw["max_age_s"],
        max_confidence_bps=raw.get("max_confidence_bps", 0), decimals=raw.get("decimals", 8),
        least_e8=int(Decimal(str(raw["min_usd"])).scaleb(8)), most_e8=int(Decimal(str(raw["max_usd"])).scaleb(8)),
    )  # fmt: skip


# Agents


@cli.command()
@click.option("--signing-key", required=True, help="Who trades: an address. Its key stays with the agent.")
@click.option("--bond", help="Whole reward tokens to put at stake at once.")
@_dry_run
@_json
@on_solana
def register(here: Here, signing_key: str, bond: str | None, dry_run: bool, as_json: bool) -> None:
    """Register the key file's owner as an agent's controller, or replace the agent's signing key."""
    trader, controller = address(signing_key, "--signing-key"), own_key()
    agent = here.ledger.agent(here.protocol, controller.pubkey())
    known = {"controller": controller.pubkey(), "agent": agent, "owner": controller.pubkey()}
    answer: dict[str, Any] = {"agent": str(agent), "controller": str(controller.pubkey()), "dry_run": dry_run}
    amount = here.units(bond, here.config().reward_mint) if bond else 0
    if not dry_run:
        send = keeper(here, known, controller)
        verb = "register_agent" if here.rpc.account(agent) is None else "set_signing_key"
        answer |= sent(send.ask(verb, trader))
        if amount:
            source = get_associated_token_address(controller.pubkey(), here.config().reward_mint)
            answer["bond"] = sent(send.ask("deposit_bond", amount, source=source))["transaction"]
    show(answer, as_json)


# What the DAO decides


@cli.command()
@click.argument("instruction")
@click.option("--about", help="The vault, or where a payment goes; else the protocol.")
@click.option("--manifest", type=_FILE, help="Of open-vault: like deployments/genesis/solana_strategy.toml.")
@click.option("--arg", "given", multiple=True, metavar="NAME=VALUE", help="Base units, or an address; once for each.")
@click.option("--ttl", type=int, default=3600, show_default=True, help="Seconds in which it may be carried out.")
@_json
@on_solana
def draft(
    here: Here, instruction: str, about: str | None, manifest: Path | None, given: tuple[str, ...], ttl: int,
    as_json: bool,
) -> None:
    """Write INSTRUCTION as a call of the DAO's outbox, for a proposal; and what it says."""
    name = instruction.replace("-", "_")
    if instruction.replace("_", "-") not in decidable(here.ledger):
        raise Misconfigured(f"the DAO can't decide {instruction!r}: one of {', '.join(decidable(here.ledger))}")
    subject = address(about, "--about") if about else here.protocol
    arguments = dict(part.partition("=")[::2] for part in given)
    if name == "open_vault":
        if manifest is None:
            raise Misconfigured("open-vault needs --manifest FILE")
        values: list[Any] = [read_manifest(manifest, here.ledger)]
        subject = here.ledger.vault(here.protocol, values[0])
    else:
        values = [_value(arguments, key) for key in here.ledger.arguments_of(name) if key != "decision"]
    known = dict.fromkeys(here.ledger.accounts_of(name), subject)
    built = here.ledger.instruction(name, known, *values, here.ledger.decision(0))
    payload = payload_of(bytes(built.data), bytes(subject))
    words = [bytes(here.ledger.id), bytes(here.protocol), ttl, payload]
    call = encode(["bytes32", "bytes32", "uint64", "bytes"], words)
    show(
        {
            "to": to_checksum_address(bytes(here.config().outbox)),
            "data": "0x" + (keccak(text="send(bytes32,bytes32,uint64,bytes)")[:4] + call).hex(),
            **describe(payload, here.ledger),
        },
        as_json,
    )


def decidable(ledger: Ledger) -> list[str]:
    """What the DAO can decide, as `draft` names it."""
    alone = ("halt", "stop_claims", "skip_decision")
    return [n.replace("_", "-") for n in ledger.docs if "decision" in ledger.arguments_of(n) and n not in alone]


def _value(arguments: Mapping[str, str], name: str) -> Any:
    text = arguments.get(name, arguments.get(name.replace("_", "-")))
    if text is None:
        raise Misconfigured(f"--arg {name}=… is missing")
    if text.lstrip("-").isdecimal():
        return int(text)
    if text.startswith("0x"):
        return list(bytes.fromhex(text[2:]))
    return address(text, f"--arg {name}")


def read_manifest(path: Path, ledger: Ledger) -> Any:
    """`Manifest` of the program by a TOML file. Raises Misconfigured naming the key."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        found = ledger.types["Manifest"](
            artefact_hash=list(bytes.fromhex(raw["artefact_hash"].removeprefix("0x"))),
            **{name: address(raw[name], name) for name in ("agent", "base_mint", "venue", "pool")},
            feed=feed_of(raw["feed"], ledger), limits=ledger.types["Limits"](**raw["limits"]),
            **{name: raw[name] for name in ("reward_rate", "reward_cap", "salt")},
        )  # fmt: skip
        ledger.encode("Manifest", found)
        return found
    except FileNotFoundError:
        raise Misconfigured(f"{path} does not exist: deployments/genesis/solana_strategy.toml is an example") from None
    except (KeyError, ValueError, TypeError, InvalidOperation, ConstructError) as error:
        raise Misconfigured(f"{path}: {error}: deployments/genesis/solana_strategy.toml has all there are") from error


@cli.command()
@click.argument("amount")
@_dry_run
@_json
@on_solana
def fund(here: Here, amount: str, dry_run: bool, as_json: bool) -> None:
    """Add AMOUNT of the reward token to what rewards are paid from. Anybody may."""
    key, mint = own_key(), here.config().reward_mint
    source = get_associated_token_address(key.pubkey(), mint)
    answer: dict[str, Any] = {"from": str(source), "amount": here.units(amount, mint), "dry_run": dry_run}
    if not dry_run:
        known = {"funder": key.pubkey(), "source": source}
        answer |= sent(keeper(here, known, key).ask("fund_rewards", answer["amount"]))
    show(answer, as_json)


@cli.command()
@click.argument("nonce", type=int)
@click.option("--account", default="", help="The guardian's account in ape.")
@click.option("--network", default="http://127.0.0.1:8545", show_default=True, help="The DAO's chain.")
@click.option("--out", type=_FILE, help="Where the attestation goes; else to standard output.")
@click.option("--latest", is_flag=True, help="Believe the latest block: on a chain of one's own only.")
@_dry_run
@on_solana
def attest(here: Here, nonce: int, account: str, network: str, out: Path | None, latest: bool, dry_run: bool) -> None:
    """Sign decision NONCE of the DAO's outbox, as a guardian, after reading what it does."""
    from agents.commands._chain import DEPLOYMENTS
    from agents.commands._chain import connect as connect_evm

    config = here.config()
    outbox_address = "0x" + bytes(config.outbox).hex()
    with connect_evm(network, DEPLOYMENTS) as evm:
        if evm.chain.chain_id != config.evm_chain_id:
            raise Misconfigured(
                f"--network is chain {evm.chain.chain_id}, the protocol answers to {config.evm_chain_id}"
            )
        outbox = evm.chain.at("DecisionOutbox", evm.chain.w3.to_checksum_address(outbox_address))
        decision = read_decision(
            evm.chain, outbox, program=bytes(here.ledger.id), protocol=bytes(here.protocol), nonce=nonce,
            finality="latest" if latest else "finalized",
        )  # fmt: skip
        click.echo(json.dumps(words_of(here, decision), indent=2), err=True)
        if dry_run:
            return
        signer = evm.signer(account)
        if bytes.fromhex(signer.address[2:]) not in map(bytes, config.guardians):
            raise Misconfigured(f"{signer.address} is no guardian of this protocol: `solana status` names the outbox")
        signed = sign(decision, _EvmAccount(signer))
    _give(signed, decision, out)


class _EvmAccount:
    """An ape account as `solana_decisions.sign` wants it."""

    def __init__(self, signer: Any) -> None:
        self.address, self._account = signer.address, signer._account

    def sign_message(self, message: Any) -> Any:
        signed = self._account.sign_message(message)
        if signed is None:
            raise Misconfigured(f"account {self.address} did not sign: unlock it, or set its passphrase variable")
        return _Signed(int.from_bytes(signed.r, "big"), int.from_bytes(signed.s, "big"), signed.v)


@dataclass(frozen=True, slots=True)
class _Signed:
    r: int
    s: int
    v: int


def words_of(here: Here, decision: Decision) -> dict[str, Any]:
    """What a decision says, for whoever signs it or carries it over."""
    expires = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(decision.expires_s))
    return {"nonce": decision.nonce, "expires": expires, **describe(decision.payload, here.ledger, kind=decision.kind)}


@cli.command("stop")
@click.argument("vault", required=False)
@click.option("--claims-for", type=int, help="Stop claims for so many days instead of halting VAULT.")
@click.option("--account", default="", help="The guardian's account in ape.")
@click.option("--network", default="http://127.0.0.1:8545", show_default=True, help="A chain that ape can connect to.")
@click.option("--out", type=_FILE, help="Where the attestation goes; else to standard output.")
@_dry_run
@on_solana
def stop(
    here: Here, vault: str | None, claims_for: int | None, account: str, network: str, out: Path | None, dry_run: bool
) -> None:
    """Sign, as a guardian, that VAULT is halted or claims are stopped: `carry-out` sends what enough of them signed."""
    if (vault is None) == (claims_for is None):
        raise Misconfigured("name a vault to halt, or --claims-for DAYS")
    decision = stopping_word(here, address(vault, "VAULT") if vault else None, claims_for)
    click.echo(json.dumps(words_of(here, decision), indent=2), err=True)
    if dry_run:
        return
    from agents.commands._chain import DEPLOYMENTS
    from agents.commands._chain import connect as connect_evm

    with connect_evm(network, DEPLOYMENTS) as evm:
        signed = sign(decision, _EvmAccount(evm.signer(account)))
    _give(signed, decision, out)


def stopping_word(here: Here, vault: Pubkey | None, claims_for_days: int | None) -> Decision:
    """What guardians sign alone: a halt of a vault, or a stop of claims for some days from now. Good for a day."""
    now_s, empty = chain_time_s(here), here.ledger.decision(0)
    if vault is not None:
        instruction = here.ledger.instruction("halt", fetch_accounts(here.rpc, here.ledger, vault), empty)
    else:
        until_s = now_s + 86_400 * (claims_for_days or 0)
        instruction = here.ledger.instruction("stop_claims", here.known, until_s, empty)
    protocol = here.state(here.protocol, "Protocol")
    return Decision(
        program=bytes(here.ledger.id), protocol=bytes(here.protocol), evm_chain_id=protocol.config.evm_chain_id,
        outbox=to_checksum_address(bytes(protocol.config.outbox)), nonce=protocol.stops_ended, expires_s=now_s + 86_400,
        payload=payload_of(bytes(instruction.data), bytes(vault or here.protocol)), kind=OF_GUARDIANS,
    )  # fmt: skip


@cli.command()
@click.option("--account", default="", help="Who pays, in ape.")
@click.option("--network", default="http://127.0.0.1:8545", show_default=True, help="The DAO's chain.")
@_dry_run
@_json
@in_a_sentence
def outbox(account: str, network: str, dry_run: bool, as_json: bool) -> None:
    """Put a DecisionOutbox beside the DAO that is deployed on --network."""
    from agents.commands._chain import DEPLOYMENTS
    from agents.commands._chain import connect as connect_evm
    from agents.solana_decisions import deploy_outbox

    with connect_evm(network, DEPLOYMENTS) as evm:
        timelock = evm.deployed().protocol.timelock
        told: dict[str, Any] = {"chain": evm.chain.chain_id, "timelock": timelock, "dry_run": dry_run}
        if not dry_run:
            told["outbox"] = deploy_outbox(evm.chain, timelock, sender=evm.signer(account)).address
    show(told, as_json)


def _give(signed: Attestation, decision: Decision, out: Path | None) -> None:
    text = to_json(signed, decision)
    if out:
        out.write_text(text, encoding="utf-8")
    click.echo(text, nl=False)


@cli.command("carry-out")
@click.argument("attestations", type=_FILE, nargs=-1, required=True)
@_dry_run
@_json
@on_solana
def carry_out(here: Here, attestations: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Send a decision with the ATTESTATIONS that enough guardians gave. Anybody may."""
    config = here.config()
    read = [Attestation.read(path) for path in attestations]
    decision = Attestation.read_decision(attestations[0])
    if (decision.program, decision.protocol) != (bytes(here.ledger.id), bytes(here.protocol)):
        raise Misconfigured(f"{attestations[0]} is of another protocol than --file names")
    protocol = here.state(here.protocol, "Protocol")
    due = protocol.nonce if decision.kind == OF_THE_DAO else protocol.stops_ended
    if decision.nonce != due:
        raise Misconfigured(f"decision {decision.nonce} is not due: decisions go in order, and the next is {due}")
    guardians = ["0x" + bytes(one).hex() for one in config.guardians[: config.guardian_count]]
    proof = here.ledger.decision(decision.expires_s, combine(read, decision, guardians, config.threshold))
    words = words_of(here, decision)
    if dry_run:
        return show(words | {"dry_run": True}, as_json)
    key = own_key()
    data = decision.payload[:8] + decision.payload[40:] + bytes(12)
    name, arguments = here.ledger.decode_arguments(data)
    known = accounts_for(here, name, arguments, Pubkey.from_bytes(decision.payload[8:40]), key.pubkey())
    args = [value for argument, value in arguments.items() if argument != "decision"]
    return show(words | sent(keeper(here, known, key).ask(name, *args, proof)), as_json)


def accounts_for(
    here: Here, name: str, arguments: Mapping[str, Any], subject: Pubkey, payer: Pubkey
) -> dict[str, Pubkey]:
    """The accounts of a decided instruction, which follow from what it is about."""
    known: dict[str, Pubkey] = {"payer": payer, "destination": subject}
    config = here.config()
    if name == "open_vault":
        manifest = arguments["manifest"]
        last = here.state(manifest.agent, "Agent").vault
        known |= here.ledger.known(here.protocol, vault=subject)
        return known | {
            "agent": manifest.agent, "last_vault": here.ledger.id if last == Pubkey.default() else last,
            "quote_mint": config.quote_mint, "base_mint": manifest.base_mint,
        }  # fmt: skip
    if "vault" in here.ledger.accounts_of(name):
        known |= fetch_accounts(here.rpc, here.ledger, subject)
        mint = arguments.get("mint")
        if mint is not None:
            is_quote = mint == config.quote_mint
            known["from"] = known["vault_quote" if is_quote else "vault_base"]
            known["to"] = known["treasury"] if is_quote else get_associated_token_address(here.protocol, mint)
    if name == "pay":
        known["source"] = here.known["treasury"]
    return known


# Vaults


@cli.command()
@_json
@on_solana
def status(here: Here, as_json: bool) -> None:
    """The protocol, who may replace its program, and every vault."""
    protocol = here.state(here.protocol, "Protocol")
    config = protocol.config
    vaults = here.rpc.ask(
        "getProgramAccounts", str(here.ledger.id),
        {"encoding": "base64", "commitment": "finalized", "filters": [
            {"memcmp": {"offset": 0, "bytes": _base58(here.ledger.discriminator("Vault"))}},
            {"memcmp": {"offset": 8, "bytes": str(here.protocol)}},
        ]},
    )  # fmt: skip
    show(
        {
            "program": str(here.ledger.id), "replaced_by": _replaced_by(here), "protocol": str(here.protocol),
            "outbox": f"0x{bytes(config.outbox).hex()} on chain {config.evm_chain_id}",
            "guardians": f"{config.threshold} of {config.guardian_count}", "next_decision": protocol.nonce,
            "free_rewards": protocol.free,
            "vaults": [_vault_row(here, Pubkey.from_string(found["pubkey"])) for found in vaults],
        },
        as_json,
    )  # fmt: skip


def _base58(data: bytes) -> str:
    import based58

    return str(based58.b58encode(data).decode())


def _replaced_by(here: Here) -> str:
    data = here.rpc.account(data_address(here.ledger.id))
    if data is None:
        return "not deployed by the upgradeable loader: a local chain's own"
    authority = upgrade_authority(data)
    return "nobody" if authority is None else f"{authority}: it can take everything"


def _vault_row(here: Here, key: Pubkey) -> dict[str, Any]:
    vault = here.state(key, "Vault")
    reward = vault.reward
    return {
        "vault": str(key), "agent": str(vault.manifest.agent),
        "artefact": "0x" + bytes(vault.manifest.artefact_hash).hex(),
        "state": ", ".join(reason_names(vault.guard.reasons)) or "ACTIVE", "quote": vault.quote_held,
        "base": vault.base_held, "unit_price": vault.guard.last_unit_price, "trades": vault.sequence,
        "account": reward.credited, "unvested": reward.unvested, "vested": reward.vested,
        "head": bytes(vault.head).hex(), "is_live": bool(reward.is_live),
    }  # fmt: skip


@cli.command()
@click.argument("vault")
@_json
@on_solana
def observe(here: Here, vault: str, as_json: bool) -> None:
    """Derive VAULT's state and keep it; inside a window also its profit. Anybody may."""
    known = fetch_accounts(here.rpc, here.ledger, address(vault, "VAULT"))
    show(sent(keeper(here, known, own_key()).observe()), as_json)


@cli.command()
@click.argument("vault")
@_dry_run
@_json
@on_solana
def settle(here: Here, vault: str, dry_run: bool, as_json: bool) -> None:
    """Do what is due for VAULT: apply a frozen result, close a window that has ended, observe one that is open."""
    known = fetch_accounts(here.rpc, here.ledger, address(vault, "VAULT"))
    key = own_key()
    settler = SolanaSettler(here.rpc, here.ledger, known, keeper(here, known, key))
    now_s = chain_time_s(here)
    answer: dict[str, Any] = {"due": str(settler.due(now_s)), "dry_run": dry_run}
    if not dry_run:
        answer["settled"] = [
            {"epoch": one.epoch, "pnl": one.pnl, "reward": one.reward, "taken": one.taken}
            for one in settler.step(now_s)
        ]
    show(answer, as_json)


@cli.command()
@click.argument("vault")
@click.option("--to", help="A token account of the controller's; else its associated one.")
@_json
@on_solana
def claim(here: Here, vault: str, to: str | None, as_json: bool) -> None:
    """Pay what has vested of VAULT's rewards to its agent's controller. Anybody may."""
    known = fetch_accounts(here.rpc, here.ledger, address(vault, "VAULT"))
    controller = here.state(known["agent"], "Agent").controller
    own = get_associated_token_address(controller, here.config().reward_mint)
    destination = address(to, "--to") if to else own
    show(sent(keeper(here, known, own_key()).claim(destination)), as_json)


@cli.command()
@click.argument("vault")
@click.option("--artefact", type=_FILE, required=True, help="The strategy that was voted in.")
@click.option("--folder", type=_FILE, default=Path("solana-agent"), show_default=True, help="Journal and explanations.")
@click.option("--every", type=int, help="Seconds between decisions; else one decision.")
@_json
@on_solana
def trade(here: Here, vault: str, artefact: Path, folder: Path, every: int | None, as_json: bool) -> None:
    """Decide for VAULT as its agent, and trade within its limits; what an earlier run left open is ended first."""
    from agents.cycle import Cycle
    from agents.explanation import DocumentStore
    from agents.journal import Journal
    from agents.solana_vault import SolanaVaultReader
    from offchain_rl.artefact import load
    from oracle.chain import BlockRef

    if every is not None and every < 1:
        raise Misconfigured(f"--every {every}: at least one second lies between two decisions")
    at, key = address(vault, "VAULT"), own_key()
    known = fetch_accounts(here.rpc, here.ledger, at)
    state = here.state(at, "Vault")
    found = load(artefact, expected_hash="0x" + bytes(state.manifest.artefact_hash).hex())
    folder.mkdir(parents=True, exist_ok=True)
    journal, rules = Journal(folder / "journal.sqlite", exclusive=True), SendRules(poll_s=0.4)
    click.get_current_context().call_on_close(journal.close)
    courier = Courier(here.rpc, here.ledger, venue=Pool(known["venue"]), rules=rules)
    signer = TradeSigner(
        key, ledger=here.ledger, vault=at, max_priority_fee_micro_lamports=rules.max_priority_fee_micro_lamports
    )
    execution = SolanaExecution(courier, known=known, signer=signer, journal=journal)
    reader = SolanaVaultReader(here.rpc, here.ledger, known, payer=key.pubkey())
    config = here.config()
    cycle = Cycle(
        chain_id=f"solana:{here.rpc.genesis()[:32]}", artefact=found, vaults=reader, rounds=reader, execution=execution,
        journal=journal, documents=DocumentStore(folder / "explanations"),
        decimals={str(state.manifest.base_mint): state.manifest.feed.decimals, str(config.quote_mint): 8},
    )  # fmt: skip
    journal.abandon_unsigned(at_s=int(time.time()))
    execution.recover()
    with stopping() as is_over:
        while True:
            slot, _ = here.rpc.final_block()
            for step in cycle.run(BlockRef(number=slot, hash="", timestamp_s=chain_time_s(here))):
                show(_decided(step), as_json)
                sys.stdout.flush()
            if every is None or is_over(every):
                break


def _decided(step: Any) -> dict[str, Any]:
    outcome = step.outcome
    return {
        "asset": step.asset, "silent_because": step.silent_because,
        "wanted": f"{step.decision.target_weight_bps} bps" if step.decision else "",
        "broken": [clause.clause for clause in step.broken], "explanation": step.explanation_hash,
        "outcome": str(outcome.ended) if outcome else "nothing to trade",
        "detail": (outcome.detail or outcome.error) if outcome else "", "trade": outcome.trade_id if outcome else None,
    }  # fmt: skip


@contextmanager
def stopping() -> Iterator[Callable[[float], bool]]:
    """A wait that an interruption ends at once; what is in flight is in the journal."""
    event = threading.Event()
    try:
        yield event.wait
    except KeyboardInterrupt:
        click.echo("ended; the next run goes on from the journal", err=True)


@cli.command()
@click.argument("vault")
@click.option("--explanations", type=_FILE, help="A folder of explanations, to compare entries with.")
@_json
@on_solana
def audit(here: Here, vault: str, explanations: Path | None, as_json: bool) -> None:
    """Recompute VAULT's ledger from the chain's transactions, and say what does not hold."""
    from agents.explanation import DocumentStore

    at = address(vault, "VAULT")
    known = fetch_accounts(here.rpc, here.ledger, at)
    courier = Courier(here.rpc, here.ledger)
    entries = sorted(ledger_entries(courier, at), key=lambda event: event.fields["sequence"])
    state = here.state(at, "Vault")
    verify_chain(here.ledger, entries, bytes(state.head))
    books = {
        "quote": (_balance(here, known["vault_quote"]), state.quote_held),
        "base": (_balance(here, known["vault_base"]), state.base_held),
    }
    if short := [name for name, (held, booked) in books.items() if held < booked]:
        raise Misconfigured(f"the vault's account has less {short[0]} than its books")
    answer: dict[str, Any] = {"vault": vault, "entries": len(entries), "head": bytes(state.head).hex(), "holds": True}
    if explanations:
        store = DocumentStore(explanations)
        answer["unexplained"] = [e.fields["sequence"] for e in entries if not _is_explained(store, e)]
        answer["holds"] = not answer["unexplained"]
    show(answer, as_json)
    if not answer["holds"]:
        sys.exit(1)


def ledger_entries(courier: Courier, vault: Pubkey) -> Iterator[Event]:
    """A vault's entries, newest first, as far as the node keeps its transactions."""
    before = ""
    while found := courier.rpc.signatures_for(vault, before=before):
        for one in found:
            before = one["signature"]
            if one.get("err") is None:
                for event in courier.read(one["signature"]).events:
                    if event.name == "TradeRecorded" and event.fields["vault"] == vault:
                        yield event


def _is_explained(store: Any, entry: Event) -> bool:
    """The document is there, is the one that was named, and says what the entry says."""
    from agents.explanation import ExplanationForged, ExplanationMissing

    fields = entry.fields
    try:
        document = store.get("0x" + fields["explanation_hash"].hex())
        said = (document["observation"]["hash"], document["artefact"]["hash"], int(document["intent"]["amount_in"]))
    except (ExplanationMissing, ExplanationForged, KeyError, ValueError):
        return False
    return said == (
        "0x" + fields["observation_hash"].hex(), "0x" + fields["artefact_hash"].hex(), fields["amount_in"],
    )  # fmt: skip


def _balance(here: Here, account: Pubkey) -> int:
    data = here.rpc.account(account)
    return int.from_bytes(data[64:72], "little") if data else 0


def chain_time_s(here: Here) -> int:
    """What programs take for the time: the clock's account."""
    data = here.rpc.account(Pubkey.from_string("SysvarC1ock11111111111111111111111111111111"))
    if data is None or len(data) < 40:
        return int(time.time())
    return int.from_bytes(data[32:40], "little", signed=True)
