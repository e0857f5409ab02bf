"""ape run deploy: puts the protocol on a chain, after saying what that decides.

On a local chain it first deploys a market, gives the treasury quote, and has the holders' votes delegated; on any
other it uses the tokens, feeds and Uniswap of a market file, `deployments/market/<network>.json`. Interrupted at any
moment, the same command goes on: see `agents.deploying`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import click
from eth_utils import keccak, to_checksum_address
from requests import RequestException
from web3.exceptions import Web3Exception

from agents.commands._chain import Connection, amount, at, explain_revert, on_chain, say, sending, show, tokens
from agents.commands._local import MARKET_MAKER, Local, local_people, make_market
from agents.config_check import find_differences
from agents.deploying import (
    Begun,
    Deploying,
    NonceTaken,
    Patience,
    Progress,
    ProgressFile,
    begin,
    code_hashes,
    differences,
    fetch_handed_out,
    find_begun,
    moved,
    next_run,
    plain,
)
from agents.deployment import Deployment, Genesis, deploy_protocol, deployer_contract_at, has_create2_proxy, to_treasury
from agents.deployments import (
    NetworkDeployment,
    check_market,
    find_faults,
    load_deployment,
    load_market,
    predict_addresses,
    predict_from,
)
from agents.errors import AgentError, Misconfigured
from agents.genesis import FEED_DECIMALS, load_genesis
from agents.localnet.evm import CallReverted, LocalEvm, TransactionReverted, start_evm
from agents.localnet.feeds import fetch_price
from agents.localnet.market import AddressBook, LocalMarket

# Blocks after which a public network is not expected to take a transaction back.
CONFIRMATIONS = 2
# Chains that charge for data on top of gas. https://docs.optimism.io/concepts/transactions/fees and
# https://docs.arbitrum.io/how-arbitrum-works/deep-dives/gas-and-fees
OP_STACK, ARBITRUM = (10, 8453, 84_532, 11_155_420), (42_161, 421_614)
GAS_PRICE_ORACLE = "0x420000000000000000000000000000000000000F"
# Of a transaction that is not call data: signature, nonce, fees.
ENVELOPE_BYTES = 120
# Of what differs, no more is listed.
SHOWN_DIFFERENCES = 6


class Rehearsal(NamedTuple):
    """What a deployment on a throw-away chain took, transaction by transaction."""

    gas_by_step: tuple[int, ...]
    data_bytes: int
    genesis: Genesis

    @property
    def gas(self) -> int:
        return sum(self.gas_by_step)

    @property
    def transactions(self) -> int:
        return len(self.gas_by_step)


@click.command()
@click.option("--genesis", type=click.Path(path_type=Path), help="Default: deployments/genesis/<network>.toml.")
@click.option("--market", type=click.Path(path_type=Path), help="Default: deployments/market/<network>.json.")
@click.option("--again", is_flag=True, help="Replace the deployment that deployments/<network>.json names.")
@click.option(
    "--confirmations", type=click.IntRange(0, 128), help=f"Blocks on top of the last transaction. [{CONFIRMATIONS}]"
)
@click.option(
    "--patience", type=click.FloatRange(min=0.1), default=60, show_default=True,
    help="Seconds after which a transaction that no block takes is offered more for.",
)  # fmt: skip
@sending
@on_chain
def cli(
    here: Connection,
    genesis: Path | None,
    market: Path | None,
    again: bool,
    confirmations: int | None,
    patience: float,
    account: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Deploy the protocol, and write down where it is. Interrupted, the same command goes on where it was."""
    file = progress_file(here)
    begun = find_progress(here, file)
    if here.file.exists() and not again and not dry_run and not is_nearly_done(here, begun):
        raise Misconfigured(f"{here.file} exists already: --again deploys anew and replaces it, or move the file away")
    path = genesis or here.configuration("genesis", ".toml")
    sender = here.signer(account, unlock=not dry_run)
    people = local_people() if here.is_local else {}
    if begun and not is_same(here, file, begun, path, market, people, sender.address, again=again):
        begun = None
    if begun:
        resume(here, file, begun, path, people, sender, dry_run=dry_run, as_json=as_json, **waiting(
            here, confirmations, patience
        ))
        return
    book = find_market(here, market)
    rehearsal = rehearse(here, path, book, people, sender.address)
    found = None if again else find_on_chain(here, path, book, people, sender.address)
    run = None if not has_create2_proxy(here.chain) else found.run if found else free_run(here, file, sender.address)
    predicted = predict(here, rehearsal, sender.address, run)
    plan = describe(here, rehearsal, book, predicted, sender.address, path)
    plan["deterministic"] = run is not None
    say(*plan_lines(plan, rehearsal.genesis, book, people))
    if dry_run:
        say("", "dry run: nothing was sent")
        show({"dry_run": True, **plan}, as_json=as_json)
        return
    require_writable(here.file)
    if not found:
        here.chain.require_ether(sender.address, rehearsal.gas * here.chain.fees()[1])
    with Local.attach(here) as local, file.locked():
        book = book or local.deploy_market()
        decided_at_s = found.decided_at_s if found else here.chain.now_s()
        decided = load_genesis(path, market=book, people=people, now_s=decided_at_s)
        progress = begin(
            here.chain, deployer=sender.address, genesis=decided, book=book, decided_at_s=decided_at_s,
            gas=rehearsal.gas_by_step, run=run, nonce=next_nonce(here, sender.address),
        )  # fmt: skip
        if found:
            progress = replace(progress, started_at_block=found.started_at_block)
        if file.path.exists():
            file.set_aside()
        file.save(progress)
        answer = finish(here, local, file, progress, decided, people, sender, **waiting(here, confirmations, patience))
    show(answer, as_json=as_json)


# Going on


def progress_file(here: Connection) -> ProgressFile:
    """Where a deployment that was interrupted is written down."""
    return ProgressFile(here.folder / f"{here.name}.partial.json")


def find_progress(here: Connection, file: ProgressFile) -> Progress | None:
    """What was begun; on a local chain only when it is still the same chain."""
    begun = file.load()
    if begun is None or not here.is_local or here.chain.w3.eth.get_code(to_checksum_address(begun.market["quote"])):
        return begun
    say(f"{file.path} is of a local chain that is gone: beginning anew")
    return None


def is_nearly_done(here: Connection, begun: Progress | None) -> bool:
    """Whether the deployment that is written down is the one that was interrupted, at its very end."""
    if begun is None:
        return False
    return load_deployment(here.file, chain_id=None).protocol.deployer_contract == begun.deployer_contract


def is_same(
    here: Connection, file: ProgressFile, begun: Progress, path: Path, market: Path | None,
    people: Mapping[str, str], deployer: str, *, again: bool,
) -> bool:  # fmt: skip
    """Whether what was begun is what is wanted now. Raises Misconfigured saying what differs, unless `again`."""
    if begun.chain_id != here.chain.chain_id:
        raise Misconfigured(f"{file.path} is of chain {begun.chain_id}, the node is on chain {here.chain.chain_id}")
    book = begun.book
    if not here.is_local or market is not None:
        book = load_market(market or here.configuration("market", ".json"), chain_id=here.chain.chain_id)
    genesis = load_genesis(path, market=book, people=people, now_s=begun.decided_at_s)
    changed = [
        *differences(begun.deployer, deployer, "deployer"),
        *differences(begun.genesis, plain(genesis), "genesis"),
        *differences(begun.market, book.to_dict(), "market"),
        *(f"the byte code of {name} has changed" for name in _changed_code(begun, genesis)),
    ]
    if changed and not again:
        more = [f"and {len(changed) - SHOWN_DIFFERENCES} more"] if len(changed) > SHOWN_DIFFERENCES else []
        raise Misconfigured(
            f"{file.path} is of a deployment that has begun, and since then: "
            f"{'; '.join([*changed[:SHOWN_DIFFERENCES], *more])}. Put that back to finish it, or add --again to begin "
            "anew"
        )
    return not changed


def _changed_code(begun: Progress, genesis: Genesis) -> list[str]:
    now = code_hashes(genesis)
    return [name for name in dict.fromkeys((*begun.code, *now)) if begun.code.get(name) != now.get(name)]


def resume(
    here: Connection, file: ProgressFile, begun: Progress, path: Path, people: Mapping[str, str], sender: Any,
    *, dry_run: bool, as_json: bool, patience: Patience,
) -> None:  # fmt: skip
    """Carries out what is left."""
    decided = load_genesis(path, market=begun.book, people=people, now_s=begun.decided_at_s)
    left = gas_left(here, file, begun, decided, sender)
    say(f"{file.path}: {len(begun.gas) - len(left)} of {len(begun.gas)} transactions are done; going on")
    if dry_run:
        say("", "dry run: nothing was sent")
        predicted = predict_from(begun.deployer_contract, begun.deployer, grants=len(decided.grants))
        show({"dry_run": True, "resumes": str(file.path), "left": len(left), "addresses": predicted}, as_json=as_json)
        return
    require_writable(here.file)
    here.chain.require_ether(sender.address, sum(left) * here.chain.fees()[1])
    with Local.attach(here) as local, file.locked():
        answer = finish(here, local, file, begun, decided, people, sender, patience=patience)
    show(answer, as_json=as_json)


def gas_left(here: Connection, file: ProgressFile, begun: Progress, genesis: Genesis, sender: Any) -> list[int]:
    """Of each transaction that is to be sent yet, as rehearsed."""
    deploying = Deploying(here.chain, sender, file, begun, genesis)
    try:
        left = deploying.left()
    except NonceTaken:
        return list(begun.gas)
    return [gas for step, gas in zip(deploying.steps, begun.gas, strict=True) if step in left]


def find_on_chain(
    here: Connection, path: Path, book: AddressBook | None, people: Mapping[str, str], deployer: str
) -> Begun | None:
    """A deployment of this account that the chain has begun, though nothing is written down here.

    Raises Misconfigured when it is of another configuration.
    """
    if book is None or not has_create2_proxy(here.chain):
        return None
    genesis_at: Callable[[int], Genesis] = lambda now_s: load_genesis(  # noqa: E731
        path, market=book, people=people, now_s=now_s
    )
    found = find_begun(here.chain, deployer, genesis_at)
    if found is None:
        return None
    genesis = genesis_at(found.decided_at_s)
    addresses = predict_from(deployer_contract_at(deployer, found.run), deployer, grants=len(genesis.grants))
    d = Deployment(
        chain_id=here.chain.chain_id, deployed_at_block=found.started_at_block, deployer=deployer, quote=book.quote,
        **{**addresses, "grants": tuple(addresses["grants"])},
    )  # fmt: skip
    wrong = find_differences(here.chain, d, genesis, decided_at_s=found.decided_at_s, present_only=True)
    if wrong:
        raise Misconfigured(
            f"the chain has a deployment of {deployer} that was begun with another configuration: "
            f"{'; '.join(map(str, wrong[:SHOWN_DIFFERENCES]))}. Restore that to finish it, or begin anew with --again"
        )
    say("the chain has a deployment that this account began: going on with it")
    return found


def free_run(here: Connection, file: ProgressFile, deployer: str) -> int:
    """A number of a deployment that nothing was ever signed for."""
    aside = [ProgressFile(path).load() for path in file.path.parent.glob(f"{here.name}.partial*.json")]
    signed = [begun.run for begun in aside if begun and begun.run is not None and begun.deployer == deployer]
    return max([next_run(here.chain, deployer), *(run + 1 for run in signed)])


def waiting(here: Connection, confirmations: int | None, patience_s: float) -> dict[str, Patience]:
    """A node that mines only when something is sent would never confirm it."""
    if confirmations is None:
        confirmations = 0 if here.is_local or "anvil" in here.chain.w3.client_version.lower() else CONFIRMATIONS
    return {"patience": Patience(bump_after_s=patience_s, confirmations=confirmations)}


def finish(
    here: Connection, local: Local, file: ProgressFile, progress: Progress, genesis: Genesis,
    people: Mapping[str, str], sender: Any, *, patience: Patience,
) -> dict[str, Any]:  # fmt: skip
    """Sends what is left, writes the deployment down, and verifies it."""
    deployment = send(here, file, progress, genesis, sender, patience)
    keep(NetworkDeployment(protocol=deployment, market=progress.book), here.file)
    if faults := faults_of(here, deployment, genesis):
        raise AgentError(f"the deployment in {here.file} is not as it has to be: {'; '.join(faults)}")
    say("roles: the DAO alone proposes, executes and cancels; the timelock administers itself; the deployer has none")
    if not is_furnished(here, deployment):
        local.furnish(deployment, progress.book, genesis, people)
    file.remove()
    say(f"deployed and verified: {here.file}")
    return {"file": str(here.file), **deployment.to_dict()}


def faults_of(here: Connection, deployment: Deployment, genesis: Genesis) -> list[str]:
    """Faults, but for shares that were handed out and that their holders have moved since."""
    faults = find_faults(here.chain, deployment, genesis)
    if not faults:
        return []
    return find_faults(here.chain, deployment, genesis, handed_out=fetch_handed_out(here.chain, deployment).shares)


def is_furnished(here: Connection, d: Deployment) -> bool:
    """Whether the treasury has quote: a local one is given some once."""
    return bool(here.chain.call(here.chain.at("MockToken", d.quote).functions.balanceOf(d.treasury)))


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
        blocks = [evm.w3.eth.get_block(n, True) for n in range(before + 1, evm.w3.eth.block_number + 1)]
        sent = [transaction for block in blocks for transaction in block["transactions"]]
        return Rehearsal(
            gas_by_step=tuple(block["gasUsed"] for block in blocks),
            data_bytes=sum(len(bytes(transaction["input"])) + ENVELOPE_BYTES for transaction in sent),
            genesis=genesis,
        )


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


def predict(here: Connection, rehearsal: Rehearsal, deployer: str, run: int | None) -> dict[str, Any]:
    """Where everything will be."""
    grants = len(rehearsal.genesis.grants)
    if run is not None:
        return predict_from(deployer_contract_at(deployer, run), deployer, grants=grants)
    return predict_addresses(deployer, next_nonce(here, deployer), grants=grants)


def next_nonce(here: Connection, account: str) -> int:
    """Behind what the node knows of already."""
    return here.chain.w3.eth.get_transaction_count(to_checksum_address(account), "pending")


def data_fee(here: Connection, data_bytes: int, transactions: int) -> tuple[int, str]:
    """Wei that an L2 charges for data on top, as far as it can be known, and what to say about it."""
    if here.chain.chain_id in ARBITRUM:
        return 0, "its nodes count the fee for data on L1 as gas, so more gas is used than rehearsed"
    if here.chain.chain_id not in OP_STACK:
        return 0, ""
    size = data_bytes // transactions
    call = keccak(text="getL1FeeUpperBound(uint256)")[:4] + size.to_bytes(32, "big")
    try:
        each = here.chain.call({"to": GAS_PRICE_ORACLE, "data": "0x" + call.hex()})
    except (CallReverted, Web3Exception, ValueError):
        each = b""
    if len(each) != 32:
        return 0, f"a fee for {data_bytes:,} bytes of data on L1 comes on top; this node does not say how much"
    wei = int.from_bytes(each, "big") * transactions
    return wei, f"of that at most {amount(wei, 18)} ether for {data_bytes:,} bytes of data on L1"


def describe(
    here: Connection, rehearsal: Rehearsal, book: AddressBook | None, predicted: Any, deployer: str, path: Path
) -> dict[str, Any]:
    """The plan as plain values. Amounts are whole tokens, as text."""
    genesis, (_, max_fee_wei) = rehearsal.genesis, here.chain.fees()
    fee_wei, fee_note = data_fee(here, rehearsal.data_bytes, rehearsal.transactions)
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
        "ether_at_most": amount(rehearsal.gas * max_fee_wei + fee_wei, 18),
        "data_bytes": rehearsal.data_bytes,
        "data_fee": fee_note,
        "roles": "the DAO alone proposes, executes and cancels; the timelock administers itself; the deployer has none",
    }


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
        f"DAO         will be {plan['addresses']['dao']}{_whatever(plan)}",
        f"cost        {plan['transactions']} transactions, {plan['gas']:,} gas as rehearsed, at most "
        f"{plan['ether_at_most']} ether now",
        *([f"            {plan['data_fee']}"] if plan.get("data_fee") else []),
    ]


def _whatever(plan: Mapping[str, Any]) -> str:
    return ", whatever else the account sends before" if plan.get("deterministic") else ""


def days(seconds: int) -> str:
    """A duration in the largest unit that it is a whole number of."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length} {unit}" if seconds > length else f"one {unit[:-1]}"
    return f"{seconds} seconds"


# Sending


def send(
    here: Connection, file: ProgressFile, progress: Progress, genesis: Genesis, sender: Any, patience: Patience
) -> Deployment:
    """Deploys what is not there yet. Raises AgentError saying what a failure halfway means."""
    deploying = Deploying(here.chain, sender, file, progress, genesis, patience=patience, say=say)
    try:
        return deploying.run()
    except NonceTaken as error:
        say(f"{error}: everything will be at other addresses, nothing is there yet")
    except (CallReverted, TransactionReverted) as error:
        raise interrupted(explain_revert(error.reason), file) from error
    except RequestException as error:
        raise interrupted(f"the node does not answer ({type(error).__name__})", file) from error
    except (AgentError, OSError, RuntimeError, Web3Exception) as error:
        raise interrupted(str(error), file) from error
    progress = moved(here.chain, progress)
    file.save(progress)
    return send(here, file, progress, genesis, sender, patience)


def interrupted(problem: str, file: ProgressFile) -> AgentError:
    """What a failure halfway means."""
    return AgentError(
        f"{problem}; what was sent is written down in {file.path}: when that is put right, run the same command again, "
        "it goes on from there"
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
