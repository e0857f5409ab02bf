"""ape run propose: asks the DAO for a strategy, for a change of one, for its capital back, or for its end.

    ape run propose strategy.toml --account alice --network …     a new strategy; --example prints such a file
    ape run propose strategy.toml --update STRATEGY_ID …          another artefact or other limits for a running one
    ape run propose --recall STRATEGY_ID --item MUSD=100000 …     capital back to the treasury, in kind
    ape run propose --retire STRATEGY_ID …                        halted for good, and sold
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agents.commands._chain import (
    Connection,
    amount,
    at,
    on_chain,
    parse_amount,
    parse_hash,
    parse_id,
    say,
    sending,
    show,
    tokens,
    warn,
)
from agents.contracts import decode_logs
from agents.deployments import NetworkDeployment
from agents.errors import Misconfigured
from agents.genesis import TOKEN_DECIMALS, read_toml
from agents.localnet.market import AddressBook
from agents.manifest import (
    EXAMPLE,
    NEW_STRATEGY,
    Manifest,
    build_manifest,
    load_artefact,
    read_request,
    report_warnings,
)

WAD_DECIMALS = 18
_TEXTS = ("artefact", "artefact_hash", "capital", "reward_rate", "reward_cap", "description")


def _print_example(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(EXAMPLE, nl=False)
        context.exit()


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--example", is_flag=True, is_eager=True, expose_value=False, callback=_print_example, help="Print one.")
@click.option("--artefact", default="", help="Artefact file; this and the next options replace what FILE says.")
@click.option("--artefact-hash", default="", help="Refuse an artefact with another hash.")
@click.option("--agent", default="", help="Id of the agent that is to trade.")
@click.option("--asset", "assets", multiple=True, help="Symbol of the network's market; may be repeated.")
@click.option("--limit", "limits", multiple=True, help="NAME=NUMBER, such as max_position_bps=6000; may be repeated.")
@click.option("--capital", default="", help="Whole quote tokens from the treasury.")
@click.option("--reward-rate", default="", help="Tokens for one quote token of profit.")
@click.option("--reward-cap", default="", help="Tokens an epoch.")
@click.option("--description", default="", help="What voters read.")
@click.option("--update", default="", metavar="STRATEGY_ID", help="Change this running strategy.")
@click.option("--recall", default="", metavar="STRATEGY_ID", help="Take capital of this strategy back; see --item.")
@click.option("--item", "items", multiple=True, help="SYMBOL=AMOUNT[@PRICE]: PRICE serves where a feed is dead.")
@click.option("--retire", default="", metavar="STRATEGY_ID", help="End this strategy.")
@sending
@on_chain
def cli(
    here: Connection,
    file: Path | None,
    update: str,
    recall: str,
    items: tuple[str, ...],
    retire: str,
    account: str,
    dry_run: bool,
    as_json: bool,
    **told: Any,
) -> None:
    """Propose the strategy in FILE, or a change of a running one."""
    if sum(map(bool, (update, recall, retire))) > 1:
        raise Misconfigured("--update, --recall and --retire are three proposals: make one at a time")
    if items and not recall:
        raise Misconfigured("--item says what to recall: add --recall STRATEGY_ID")
    found, signer = here.deployed(), here.signer(account, unlock=not dry_run)
    dao = found.protocol.contract(here.chain, "dao")
    if recall or retire:
        strategy_id = parse_hash(recall or retire, "strategy")
        here.chain.call(found.protocol.contract(here.chain, "strategies").functions.vaultOf(strategy_id))
        description = told["description"] or f"{'Recall from' if recall else 'Retire'} strategy 0x{strategy_id.hex()}"
        if recall:
            wanted = parse_items(items, found.market)
            call = dao.functions.proposeRecall(strategy_id, wanted, description)
        else:
            call = dao.functions.proposeRetirement(strategy_id, description)
        answer: dict[str, Any] = {"strategy": "0x" + strategy_id.hex(), "description": description}
        answer |= {"items": list(items)} if recall else {}
    else:
        manifest, answer = read_strategy(here, found, file, told, update)
        call = dao.functions.proposeStrategy(manifest.as_tuple(), answer["description"])
        answer |= check_manifest(here, found, manifest, signer.address)
    require_votes(here, dao, signer.address)
    proposal_id = here.chain.call(call, signer)
    answer = {"dry_run": dry_run, "proposal": str(proposal_id), **answer}
    if dry_run:
        say("dry run: nothing was sent")
    else:
        events = decode_logs(here.chain.send(call, signer))
        created = next(event.args for event in events if event.name == "ProposalCreated")
        answer |= {
            "proposal": str(created["proposalId"]),
            "voting_begins": at(created["voteStart"]),
            "voting_ends": at(created["voteEnd"]),
        }
    show(answer, as_json=as_json)


def read_strategy(
    here: Connection, found: NetworkDeployment, file: Path | None, told: dict[str, Any], update: str
) -> tuple[Manifest, dict[str, Any]]:
    """The manifest that file and options describe, and what of it to show."""
    raw: dict[str, Any] = read_toml(file, "strategy file") if file else {}
    folder = file.parent if file else Path()
    raw |= {name: told[name] for name in _TEXTS if told[name]}
    if told["artefact"]:
        raw["artefact"] = str(Path(told["artefact"]).absolute())
    if told["agent"]:
        raw["agent"] = parse_id(told["agent"], "agent")
    if told["assets"]:
        raw["assets"] = list(told["assets"])
    if told["limits"]:
        raw["limits"] = {**raw.get("limits", {}), **dict(map(parse_limit, told["limits"]))}
    if not raw:
        raise Misconfigured("nothing to propose: name a strategy file (`--example` prints one), --recall or --retire")
    request = read_request(raw, folder=folder, where=str(file or "the strategy"))
    artefact = load_artefact(request.artefact, request.artefact_hash)
    warn(report_warnings(artefact))
    updates = "0x" + parse_hash(update, "strategy").hex() if update else NEW_STRATEGY
    manifest = build_manifest(
        here.chain, found.protocol, artefact_hash=artefact.artefact_hash, updates=updates,
        **request.amounts(found.market),
    )  # fmt: skip
    shown = {
        "artefact": artefact.name,
        "artefact_hash": artefact.artefact_hash,
        "kind": artefact.kind,
        "agent": request.agent,
        "assets": list(request.assets),
        "capital": amount(manifest.capital, found.market.quote_decimals),
        "reward_rate": request.reward_rate,
        "reward_cap": amount(manifest.reward_cap_wei, TOKEN_DECIMALS),
        "limits": raw["limits"],
        "description": request.description,
    }
    return manifest, shown | ({"updates": updates} if update else {})


def check_manifest(here: Connection, found: NetworkDeployment, manifest: Manifest, proposer: str) -> dict[str, Any]:
    """Manifest hash and needed stake. Raises CallReverted with what the registry has against the manifest now."""
    registry = found.protocol.contract(here.chain, "strategies").functions
    manifest_hash = here.chain.call(registry.submit(manifest.as_tuple()), proposer)
    bond = here.chain.call(registry.bondNeeded(manifest.as_tuple()))
    agents = found.protocol.contract(here.chain, "agents").functions
    deposit, decimals = here.chain.call(agents.agentOf(manifest.agent_id)).deposit, found.market.quote_decimals
    needed = amount(manifest.deposit_needed, decimals)
    if deposit < manifest.deposit_needed:
        warn(
            [
                f"agent {manifest.agent_id} has a deposit of {amount(deposit, decimals)}, below {needed} the vault "
                f"only sells: `ape run register_agent --agent {manifest.agent_id} --deposit` adds to it"
            ]
        )
    return {"manifest_hash": "0x" + bytes(manifest_hash).hex(), "bond_needed": tokens(bond), "deposit_needed": needed}


def require_votes(here: Connection, dao: Any, proposer: str) -> None:
    """Raises Misconfigured when the proposer has too few votes: at the last block's time, as the Governor counts."""
    votes = here.chain.call(dao.functions.getVotes(proposer, here.chain.now_s() - 1))
    threshold = here.chain.call(dao.functions.proposalThreshold())
    if votes < threshold:
        raise Misconfigured(
            f"{proposer} has {tokens(votes)} votes, {tokens(threshold)} are needed to propose: get tokens, and "
            "delegate them with `ape run delegate`"
        )


def parse_limit(text: str) -> tuple[str, int]:
    """A limit's name and number. Raises Misconfigured."""
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise Misconfigured(f"--limit {text!r} is none: give NAME=NUMBER, such as max_position_bps=6000")
    return name, int(number)


def parse_items(items: tuple[str, ...], market: AddressBook) -> list[tuple[str, int, int]]:
    """What to recall as the registry takes it: token, base units, fallback price x 1e18. Raises Misconfigured."""
    decimals = {market.quote_symbol: (market.quote, market.quote_decimals)}
    decimals |= {asset.symbol: (asset.token, asset.decimals) for asset in market.assets}
    if not items:
        raise Misconfigured(f"recall what? add --item SYMBOL=AMOUNT, SYMBOL one of {', '.join(decimals)}")
    parsed = []
    for text in items:
        symbol, _, rest = text.partition("=")
        units, _, price = rest.partition("@")
        if symbol not in decimals or not units:
            raise Misconfigured(f"--item {text!r} is none: give SYMBOL=AMOUNT, SYMBOL one of {', '.join(decimals)}")
        token, places = decimals[symbol]
        fallback = parse_amount(price, WAD_DECIMALS, "--item") if price else 0
        parsed.append((token, parse_amount(units, places, "--item"), fallback))
    return parsed
