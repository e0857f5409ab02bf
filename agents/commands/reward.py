"""ape run reward: keeps an agent settled. Observes in a window, closes it afterwards, applies the frozen result.

Anybody may do each of these; the contracts compute the amounts.
"""

from __future__ import annotations

from typing import Any

import click

from agents.commands._chain import Connection, amount, at, on_chain, parse_id, sending, show, tokens
from agents.deployment import ZERO_ADDRESS
from agents.deployments import NetworkDeployment
from agents.errors import Misconfigured
from agents.settlement import Act, Due, Settlement, Settler

# Apply what is frozen, then close what is due and apply that.
MOST_STEPS = 3


@click.command()
@click.argument("agent")
@click.option("--claim", is_flag=True, help="Then pay what has vested to the agent's controller.")
@sending
@on_chain
def cli(here: Connection, agent: str, claim: bool, account: str, dry_run: bool, as_json: bool) -> None:
    """Do what is due for AGENT's vault."""
    found, agent_id = here.deployed(), parse_id(agent, "agent")
    chain, pool = here.chain, found.protocol.contract(here.chain, "pool")
    vault = vault_of(here, found, agent_id)
    signer = here.signer(account, unlock=not dry_run)
    settler = Settler(chain, found.protocol, found.protocol.vault(chain, vault), signer)
    due = settler.due(chain.now_s())
    answer: dict[str, Any] = {"dry_run": dry_run, "agent": agent_id, "vault": vault, "due": str(due.act)}
    answer |= describe(here, found, settler, due, vault)
    if not dry_run:
        settled = [plain(s, found.market.quote_decimals) for s in settle(here, settler)]
        claimed = 0
        if claim and chain.call(pool.functions.vestedOf(vault))[0]:
            claimed = chain.call(pool.functions.claim(vault), signer)
            chain.send(pool.functions.claim(vault), signer)
        answer |= {"settled": settled, "claimed": tokens(claimed)}
    vested, unvested = chain.call(pool.functions.vestedOf(vault))
    show({**answer, "vested": tokens(vested), "unvested": tokens(unvested)}, as_json=as_json)


def vault_of(here: Connection, found: NetworkDeployment, agent_id: int) -> str:
    """The agent's vault. Raises CallReverted for an unknown agent, Misconfigured for one without a vault."""
    here.chain.call(found.protocol.contract(here.chain, "agents").functions.controllerOf(agent_id))
    vault = str(here.chain.call(found.protocol.contract(here.chain, "pool").functions.vaultOf(agent_id)))
    if vault == ZERO_ADDRESS:
        raise Misconfigured(f"agent {agent_id} has no vault yet: propose a strategy for it with `ape run propose`")
    return vault


def settle(here: Connection, settler: Settler) -> list[Settlement]:
    """Everything that is due now, done."""
    settled = []
    for _ in range(MOST_STEPS):
        if settler.due(here.chain.now_s()).act in (Act.NOTHING, Act.MISSED):
            break
        settlement = settler.step(here.chain.now_s())
        if settlement is None:  # an observation
            break
        settled.append(settlement)
    return settled


def describe(
    here: Connection, found: NetworkDeployment, settler: Settler, due: Due, vault: str
) -> dict[str, Any]:
    """What is due in words and figures."""
    pool, decimals = found.protocol.contract(here.chain, "pool"), found.market.quote_decimals
    next_s = settler.next_window_s(here.chain.now_s())
    figures: dict[str, Any] = {} if due.epoch is None else {"epoch": due.epoch}
    if due.act is Act.APPLY:
        return figures | {"result": amount(due.pnl, decimals)}
    if due.act is Act.CLOSE:
        return figures | {"result": amount(here.chain.call(pool.functions.closeWindow(vault)), decimals)}
    if due.act is Act.OBSERVE:
        profit = here.chain.call(found.protocol.vault(here.chain, vault).functions.status()).profit
        return figures | {"profit_now": amount(profit, decimals)}
    if due.act is Act.MISSED:
        figures["note"] = "nobody observed the window; the next one makes up for it, down but never up"
    return figures | {"next_window": at(next_s)}


def plain(settlement: Settlement, quote_decimals: int) -> dict[str, Any]:
    """A settlement in whole tokens, as text."""
    return {
        "epoch": settlement.epoch,
        "result": amount(settlement.pnl, quote_decimals),
        "reward": tokens(settlement.reward_wei),
        "clawed_back": tokens(settlement.clawed_back_wei),
    }
