"""ape run register_agent: an identity for an agent, its bond and its deposit; or more of those for one there is."""

from __future__ import annotations

from typing import Any

import click
from eth_utils import is_address, to_checksum_address

from agents.commands._chain import Connection, amount, on_chain, parse_amount, parse_id, say, sending, show, tokens
from agents.contracts import decode_logs
from agents.errors import Misconfigured
from agents.genesis import TOKEN_DECIMALS


@click.command()
@click.option("--agent", "agent", default="", help="Add stake to this agent instead of registering one.")
@click.option("--uri", default="", help="What describes the agent: any URI.")
@click.option("--signing-key", default="", help="Address of the key that trades. Default: the account itself.")
@click.option("--bond", default="0", help="Whole tokens that losses are collected from.")
@click.option("--deposit", default="0", help="Whole quote tokens that cover the slippage the limits allow.")
@sending
@on_chain
def cli(
    here: Connection,
    agent: str,
    uri: str,
    signing_key: str,
    bond: str,
    deposit: str,
    account: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Register an agent whose controller is the account, and post its stake."""
    if signing_key and not is_address(signing_key):
        raise Misconfigured(f"--signing-key {signing_key!r} is no address: an address is 0x and 40 hex digits")
    if agent and (uri or signing_key):
        raise Misconfigured("--agent adds stake only: leave out --uri and --signing-key")
    found = here.deployed()
    signer = here.signer(account, unlock=not dry_run)
    chain, protocol, market = here.chain, found.protocol, found.market
    registry = protocol.contract(chain, "agents")
    stakes = [
        ("bond", protocol.contract(chain, "token"), parse_amount(bond, TOKEN_DECIMALS, "--bond"), TOKEN_DECIMALS),
        (
            "deposit", chain.at("QuoteToken", market.quote),
            parse_amount(deposit, market.quote_decimals, "--deposit"), market.quote_decimals,
        ),
    ]  # fmt: skip
    agent_id = parse_id(agent, "agent") if agent else None
    if agent_id is not None:
        chain.call(registry.functions.controllerOf(agent_id))
    for name, token, units, decimals in stakes:
        if (held := chain.call(token.functions.balanceOf(signer.address))) < units:
            raise Misconfigured(
                f"--{name}: {signer.address} has {amount(held, decimals)} of {token.address}, "
                f"{amount(units, decimals)} are asked for: get some, or post less"
            )
    key = to_checksum_address(signing_key or signer.address)
    answer: dict[str, Any] = {"dry_run": dry_run, "controller": signer.address, "bond": bond, "deposit": deposit}
    if agent_id is None:
        answer["signing_key"] = key
        rules = chain.call(protocol.contract(chain, "constitution").functions.rules())
        if stakes[0][2] < rules.minBond:
            say(f"note: a strategy needs a bond of at least {tokens(rules.minBond)} tokens")
    if dry_run:
        show({**answer, "agent": agent or "the next one"}, as_json=as_json)
        return
    if agent_id is None:
        events = decode_logs(chain.send(registry.functions.register(uri, key), signer))
        agent_id = next(int(event.args["agentId"]) for event in events if event.name == "Registered")
        say(f"agent {agent_id} is registered")
    for name, token, units, _ in stakes:
        if units:
            post = registry.functions.postBond if name == "bond" else registry.functions.postDeposit
            chain.send(token.functions.approve(registry.address, units), signer)
            chain.send(post(agent_id, units), signer)
    stake = chain.call(registry.functions.agentOf(agent_id))
    answer |= {
        "agent": agent_id, "bond": tokens(stake.bond), "deposit": amount(stake.deposit, market.quote_decimals),
        "signing_key": stake.signingKey,
    }  # fmt: skip
    show(answer, as_json=as_json)
