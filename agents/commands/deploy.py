"""ape run deploy: puts the protocol on a chain, after saying what that decides.

On a local chain it first deploys a market, gives the treasury quote, and has the holders' votes delegated; on any
other it uses the tokens, feeds and Uniswap of a market file, shaped like `market` in `deployments/<network>.json`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import click
from web3.exceptions import Web3Exception

from agents.chain import RemoteChain
from agents.commands._chain import Connection, amount, at, explain_revert, on_chain, say, sending, show, tokens
from agents.commands._local import MARKET_MAKER, Local, local_people, make_market
from agents.deployment import Deployment, Genesis, deploy_protocol
from agents.deployments import NetworkDeployment, check_market, find_faults, load_market, predict_addresses
from agents.errors import AgentError, Misconfigured
from agents.genesis import FEED_DECIMALS, load_genesis
from agents.localnet.evm import CallReverted, LocalEvm, TransactionReverted, start_evm
from agents.localnet.feeds import fetch_price
from agents.localnet.market import AddressBook, LocalMarket


class Rehearsal(NamedTuple):
    """What a deployment on a throw-away chain took. No dataclass: those can't be in a file that `ape run` runs."""

    gas: int
    transactions: int
    genesis: Genesis


@click.command()
@click.option("--genesis", type=click.Path(path_type=Path), help="Default: deployments/genesis/<network>.toml.")
@click.option("--market", type=click.Path(path_type=Path), help="Default: deployments/market/<network>.json.")
@click.option("--again", is_flag=True, help="Replace the deployment that deployments/<network>.json names.")
@sending
@on_chain
def cli(
    here: Connection,
    genesis: Path | None,
    market: Path | None,
    again: bool,
    account: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Deploy the protocol, and write down where it is."""
    if here.file.exists() and not again and not dry_run:
        raise Misconfigured(f"{here.file} exists already: --again deploys anew and replaces it, or move the file away")
    genesis = genesis or here.configuration("genesis", ".toml")
    sender = here.signer(account, unlock=not dry_run)
    book = find_market(here, market)
    people = local_people() if here.is_local else {}
    rehearsal = rehearse(here, genesis, book, people, sender.address)
    nonce = here.chain.w3.eth.get_transaction_count(sender.address)
    predicted = predict_addresses(sender.address, nonce, grants=len(rehearsal.genesis.grants))
    plan = describe(here, rehearsal, book, predicted, sender.address, genesis)
    say(*plan_lines(plan, rehearsal.genesis, book, people))
    if dry_run:
        say("", "dry run: nothing was sent")
        show({"dry_run": True, **plan}, as_json=as_json)
        return
    require_writable(here.file)
    here.chain.require_ether(sender.address, rehearsal.gas * here.chain.fees()[1])
    with Local.attach(here) as local:
        book = book or local.deploy_market()
        decided = load_genesis(genesis, market=book, people=people, now_s=here.chain.now_s())
        deployment = send(here, decided, sender, rehearsal.transactions)
        keep(NetworkDeployment(protocol=deployment, market=book), here.file)
        if faults := find_faults(here.chain, deployment, decided):
            raise AgentError(f"the deployment in {here.file} is not as it has to be: {'; '.join(faults)}")
        local.furnish(deployment, book, decided, people)
    say(f"deployed and verified: {here.file}")
    show({"file": str(here.file), **deployment.to_dict()}, as_json=as_json)


# Before anything is sent


def find_market(here: Connection, path: Path | None) -> AddressBook | None:
    """The market to deploy on, checked; None when a local one is to be made.

    On a local chain the market of an earlier deployment is used again while the chain still has it.
    """
    if path is None and here.is_local:
        try:
            book = here.deployed().market
        except Misconfigured:
            return None
    else:
        book = load_market(path or here.configuration("market", ".json"), chain_id=here.chain.chain_id)
    check_market(here.chain, book)
    return book


def rehearse(
    here: Connection, path: Path, book: AddressBook | None, people: Mapping[str, str], deployer: str
) -> Rehearsal:
    """The same deployment on a chain of its own: what it takes, and that no contract refuses the configuration halfway.

    Raises Misconfigured naming the configuration. Gas is that of Ethereum; an L2's fee for data comes on top.
    """
    with start_evm() as evm:
        market = _stand_in(here, evm, book)
        genesis = load_genesis(path, market=market.book, people=people, now_s=evm.now_s())
        evm.impersonate(deployer)
        before = evm.w3.eth.block_number
        try:
            deploy_protocol(evm, genesis, sender=deployer)
        except (TransactionReverted, CallReverted) as error:
            problem = explain_revert(error.reason)
            raise Misconfigured(f"genesis configuration {path} can't be deployed: {problem}") from error
        except (ValueError, TypeError, RuntimeError) as error:
            raise Misconfigured(f"genesis configuration {path} can't be deployed: {error}") from error
        blocks = range(before + 1, evm.w3.eth.block_number + 1)
        gas = sum(evm.w3.eth.get_block(number)["gasUsed"] for number in blocks)
        return Rehearsal(gas=gas, transactions=len(blocks), genesis=genesis)


def _stand_in(here: Connection, evm: LocalEvm, book: AddressBook | None) -> LocalMarket:
    """A market of the same shape and at the same prices."""
    maker = evm.accounts[MARKET_MAKER]
    if book is None:
        return make_market(evm)
    prices = {asset.symbol: fetch_price(here.chain, asset.feed) for asset in book.assets}
    first, *others = book.assets
    market = LocalMarket.deploy(
        evm, base_price_usd=prices[first.symbol], quote_price_usd=fetch_price(here.chain, book.quote_feed),
        symbol=first.symbol, base=f"W{first.symbol}", base_decimals=first.decimals, quote_decimals=book.quote_decimals,
        deployer=maker,
    )  # fmt: skip
    for asset in others:
        market.add_asset(asset.symbol, price_usd=prices[asset.symbol], decimals=asset.decimals)
    return market


def require_writable(path: Path) -> None:
    """Raises Misconfigured when the file could not be written afterwards: now it costs nothing."""
    probe = path.with_suffix(".probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(b"\0" * 65_536)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Misconfigured(
            f"{path} can't be written ({error.strerror}): free space there, or name another folder with --deployments"
        ) from error
    finally:
        if probe.is_file():
            probe.unlink()


# The plan


def describe(
    here: Connection, rehearsal: Rehearsal, book: AddressBook | None, predicted: Any, deployer: str, path: Path
) -> dict[str, Any]:
    """The plan as plain values. Amounts are whole tokens, as text."""
    genesis, (_, max_fee_wei) = rehearsal.genesis, here.chain.fees()
    return {
        "network": here.name,
        "chain_id": here.chain.chain_id,
        "genesis": str(path),
        "deployer": deployer,
        "market": "a local one, made first" if book is None else book.quote,
        "token": {"name": genesis.token_name, "symbol": genesis.token_symbol, "supply": tokens(genesis.supply_wei)},
        "holders": {holder: tokens(wei) for holder, wei in genesis.holders.items()},
        "grants": {grant.beneficiary: tokens(grant.amount_wei) for grant in genesis.grants},
        "rewards": {"fund": tokens(genesis.reward_fund_wei), "bounties": tokens(genesis.bounty_fund_wei)},
        "treasury": tokens(to_treasury(genesis)),
        "ceilings": asdict(genesis.ceilings),
        "addresses": predicted,
        "transactions": rehearsal.transactions,
        "gas": rehearsal.gas,
        "ether_at_most": amount(rehearsal.gas * max_fee_wei, 18),
    }


def to_treasury(genesis: Genesis) -> int:
    """Token wei that nobody else gets."""
    given = sum(genesis.holders.values()) + sum(grant.amount_wei for grant in genesis.grants)
    return genesis.supply_wei - given - genesis.reward_fund_wei - genesis.bounty_fund_wei


def plan_lines(
    plan: Mapping[str, Any], genesis: Genesis, book: AddressBook | None, people: Mapping[str, str]
) -> list[str]:
    """The plan for people: who gets what, and what limits everybody."""
    names = {address: name for name, address in people.items()}
    who: Callable[[str], str] = lambda address: f"{names.get(address, '')} {address}".strip()  # noqa: E731
    g, r, rules = genesis.governance, genesis.rewards, genesis.rules
    quote_decimals = 6 if book is None else book.quote_decimals
    shares = [
        *((who(holder), wei, "") for holder, wei in genesis.holders.items()),
        *(
            (who(grant.beneficiary), grant.amount_wei, f", vests from {at(grant.start_s)} for {days(grant.duration_s)}")
            for grant in genesis.grants
        ),
        ("reward pool", genesis.reward_fund_wei, ""),
        ("bounties", genesis.bounty_fund_wei, ""),
        ("treasury", to_treasury(genesis), ", all that is left"),
    ]
    limits = ", ".join(f"{n.removesuffix('_bps')} {v}" for n, v in asdict(genesis.ceilings).items())
    caps = ", ".join(
        f"{amount(cap, 18 if token is None else quote_decimals)} {'of the token' if token is None else 'of quote'}"
        for token, cap in genesis.outflow_caps.items()
    )
    return [
        f"network     {plan['network']}, chain {plan['chain_id']}",
        f"deployer    {who(plan['deployer'])}",
        f"market      {plan['market']}",
        f"token       {genesis.token_name} ({genesis.token_symbol}), supply {tokens(genesis.supply_wei)}, fixed",
        *(f"  {share / genesis.supply_wei:>7.2%}  {tokens(share):>14}  {name}{more}" for name, share, more in shares),
        f"governance  vote {days(g.voting_delay_s)} after the proposal, for {days(g.voting_period_s)}; then "
        f"{days(g.timelock_delay_s)} of timelock",
        f"            {tokens(g.proposal_threshold_wei)} votes to propose; quorum {g.quorum_bps / 100:g} % of what "
        f"circulates, at least {tokens(g.quorum_floor_wei)}",
        f"guardian    {who(genesis.guardian)}, for {days(genesis.guardian_term_s)}",
        f"ceilings    basis points: {limits}",
        f"agents      bond at least {tokens(rules.min_bond_wei)}, reward at most "
        f"{tokens(rules.max_reward_rate * 10**quote_decimals)} for one quote token of profit",
        f"rewards     epochs of {days(r.epoch_length_s)}, windows of {days(r.window_length_s)}, vesting "
        f"{days(r.vesting_s)}, at most {tokens(r.budget_per_epoch_wei)} an epoch",
        f"outflow     in 30 days at most {caps}",
        *(
            f"feed        {feed.aggregator}: at most {days(feed.max_age_s)} old, between "
            f"{amount(feed.min_answer, FEED_DECIMALS)} and {amount(feed.max_answer, FEED_DECIMALS)} dollars"
            for feed in genesis.feeds
            if book is not None
        ),
        f"DAO         will be {plan['addresses']['dao']}",
        f"cost        {plan['transactions']} transactions, {plan['gas']:,} gas as rehearsed, at most "
        f"{plan['ether_at_most']} ether now",
    ]


def days(seconds: int) -> str:
    """A duration in the largest unit that it is a whole number of."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length} {unit}" if seconds > length else f"one {unit[:-1]}"
    return f"{seconds} seconds"


# Sending


class _CountedChain(RemoteChain):
    """Says how far it is."""

    def __init__(self, chain: RemoteChain, total: int) -> None:
        super().__init__(chain.w3)
        self.sent, self._total = 0, total

    def send(self, what: Any, sender: Any, *, value: int = 0) -> Any:
        receipt = super().send(what, sender, value=value)
        self.sent += 1
        say(f"  {self.sent}/{self._total} {bytes(receipt['transactionHash']).hex()[:16]}…")
        return receipt


def send(here: Connection, genesis: Genesis, sender: Any, total: int) -> Deployment:
    """Deploys. Raises AgentError saying what a failure halfway means."""
    chain = _CountedChain(here.chain, total)
    try:
        return deploy_protocol(chain, genesis, sender=sender)
    except (CallReverted, TransactionReverted) as error:
        problem = explain_revert(error.reason)
    except (AgentError, OSError, RuntimeError, Web3Exception) as error:
        problem = str(error)
    raise AgentError(
        f"{problem}; {chain.sent} of {total} transactions were mined, and what they made is of no use to anybody: "
        "run the command again, it starts anew at other addresses"
    )


def keep(deployment: NetworkDeployment, path: Path) -> None:
    """Writes the file; when that fails after all, the content goes to standard error, so that it is not lost."""
    try:
        deployment.save(path)
    except OSError as error:
        say(deployment.to_json())
        raise Misconfigured(
            f"the protocol is deployed, but {path} can't be written ({error.strerror}): save what is printed above"
        ) from error
