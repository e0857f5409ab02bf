"""ape run deploy_approved: takes a proposal that was voted in one step on: into the timelock, and out of it."""

from __future__ import annotations

from typing import Any

import click

from agents.commands._chain import PROPOSAL_STATES, Connection, at, on_chain, parse_id, sending, show
from agents.contracts import decode_logs
from agents.deployment import Deployment
from agents.errors import Misconfigured

# What execution did, by the event that says so.
_DONE = {
    "StrategyDeployed": ("strategyId", "vault"),
    "StrategyUpdated": ("strategyId", "version"),
    "StrategyRetiring": ("strategyId",),
    "CapitalAllocated": ("strategyId", "amount"),
    "CapitalRecalled": ("strategyId", "token", "amount"),
}


@click.command()
@click.argument("proposal")
@sending
@on_chain
def cli(here: Connection, proposal: str, account: str, dry_run: bool, as_json: bool) -> None:
    """Queue PROPOSAL when it has succeeded; execute it when its timelock has passed."""
    protocol, proposal_id = here.deployed().protocol, parse_id(proposal, "proposal")
    dao = protocol.contract(here.chain, "dao")
    step = next_step(here, protocol, proposal_id)
    signer = here.signer(account, unlock=not dry_run)
    call = dao.functions.deployApproved(proposal_id)
    answer: dict[str, Any] = {"dry_run": dry_run, "proposal": str(proposal_id), "step": step}
    if dry_run:
        here.chain.call(call, signer)
        show(answer, as_json=as_json)
        return
    events = decode_logs(here.chain.send(call, signer))
    answer["state"] = PROPOSAL_STATES[here.chain.call(dao.functions.state(proposal_id))]
    if step == "queue":
        answer["executable_from"] = at(here.chain.call(dao.functions.proposalEta(proposal_id)))
    for event in events:
        for name in _DONE.get(event.name, ()):
            value = event.args[name]
            answer[_snake(name)] = f"0x{value.hex()}" if isinstance(value, bytes) else str(value)
    show(answer, as_json=as_json)


def next_step(here: Connection, protocol: Deployment, proposal_id: int) -> str:
    """`queue` or `execute`. Raises Misconfigured saying when, or why never."""
    dao = protocol.contract(here.chain, "dao").functions
    state = PROPOSAL_STATES[here.chain.call(dao.state(proposal_id))]
    if state == "succeeded":
        return "queue"
    if state == "queued":
        if here.chain.now_s() < (due_s := here.chain.call(dao.proposalEta(proposal_id))):
            raise Misconfigured(f"proposal {proposal_id} is in the timelock: it can be executed from {at(due_s)} on")
        return "execute"
    if state == "pending":
        begins_s = here.chain.call(dao.proposalSnapshot(proposal_id))
        raise Misconfigured(f"proposal {proposal_id} is pending: voting begins after {at(begins_s)}")
    if state == "active":
        ends_s = here.chain.call(dao.proposalDeadline(proposal_id))
        raise Misconfigured(f"proposal {proposal_id} is being voted on, until {at(ends_s)}: come back then")
    ways_out = {"executed": "there is nothing left to do", "expired": "propose it again", "defeated": "propose another"}
    raise Misconfigured(f"proposal {proposal_id} is {state}: {ways_out.get(state, 'propose it again')}")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
