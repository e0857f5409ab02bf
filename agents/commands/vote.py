"""ape run vote: votes on a proposal; or signs a ballot that somebody else submits; or submits somebody's.

    ape run vote PROPOSAL --for --account alice --network …
    ape run vote PROPOSAL --for --sign-only --out ballot.json --account bob --network …     costs nothing
    ape run vote --submit ballot.json --account relayer --network …
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agents.ballots import Ballot, Support, check_ballot, sign_ballot, submit_ballot, voting_weight
from agents.commands._chain import Connection, on_chain, parse_id, say, sending, show, tokens
from agents.deployment import Deployment
from agents.errors import Misconfigured


def support_options(command: Callable[..., None]) -> Callable[..., None]:
    """--for, --against and --abstain, of which `chosen_support` wants one."""
    command = click.option("--abstain", "is_abstention", is_flag=True, help="Count for the quorum only.")(command)
    command = click.option("--against", "is_against", is_flag=True, help="It must not happen.")(command)
    return click.option("--for", "is_for", is_flag=True, help="It may happen.")(command)


def chosen_support(is_against: bool, is_for: bool, is_abstention: bool) -> Support:
    """Raises Misconfigured unless it is exactly one."""
    chosen = [s for s, given in zip(Support, (is_against, is_for, is_abstention), strict=True) if given]
    if len(chosen) != 1:
        raise Misconfigured("vote how? give one of --for, --against, --abstain")
    return chosen[0]


@click.command()
@click.argument("proposal", required=False, default="")
@support_options
@click.option("--reason", default="", help="Why, for everybody to read; it is kept on the chain.")
@click.option("--sign-only", is_flag=True, help="Print the signed ballot instead of sending a vote.")
@click.option("--out", type=click.Path(path_type=Path), help="With --sign-only: write it to this file too.")
@click.option("--submit", type=click.Path(path_type=Path), help="Relay the ballot in this file.")
@sending
@on_chain
def cli(
    here: Connection,
    proposal: str,
    is_for: bool,
    is_against: bool,
    is_abstention: bool,
    reason: str,
    sign_only: bool,
    out: Path | None,
    submit: Path | None,
    account: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Vote on PROPOSAL, with a transaction that --account pays for."""
    if submit and any((proposal, is_for, is_against, is_abstention, reason, sign_only, out)):
        rest = "PROPOSAL, the vote, --reason, --sign-only and --out"
        raise Misconfigured(f"--submit relays what the ballot says: leave out {rest}")
    if not submit and not proposal:
        raise Misconfigured("vote on what? name a proposal's id, or a ballot's file with --submit")
    support = None if submit else chosen_support(is_against, is_for, is_abstention)
    protocol = here.deployed().protocol
    signer = here.signer(account, unlock=not dry_run)
    if submit or support is None:
        assert submit is not None
        show(relay(here, protocol, read_ballot(submit), signer, dry_run=dry_run), as_json=as_json)
        return
    proposal_id = parse_id(proposal, "proposal")
    weight = voting_weight(here.chain, protocol, proposal_id, signer.address, is_early_ok=sign_only)
    answer: dict[str, Any] = {
        "dry_run": dry_run, "proposal": str(proposal_id), "voter": signer.address,
        "support": support.name.lower(), "votes": tokens(weight),
    }  # fmt: skip
    if dry_run:
        show(answer, as_json=as_json)
    elif sign_only:
        ballot = sign_ballot(
            here.chain, protocol, proposal_id=proposal_id, support=support, signer=signer, reason=reason
        )
        document = json.dumps(ballot.to_dict(), indent=2)
        if out:
            write(out, document + "\n")
        click.echo(document)
    else:
        dao = protocol.contract(here.chain, "dao").functions
        plain = dao.voteStrategy(proposal_id, int(support))
        here.chain.send(dao.castVoteWithReason(proposal_id, int(support), reason) if reason else plain, signer)
        show(answer, as_json=as_json)


def relay(here: Connection, protocol: Deployment, ballot: Ballot, signer: Any, *, dry_run: bool) -> dict[str, Any]:
    """Submits somebody's ballot after checking what can be checked for nothing."""
    check_ballot(here.chain, protocol, ballot)
    weight = voting_weight(here.chain, protocol, ballot.proposal_id, ballot.voter)
    if not dry_run:
        submit_ballot(here.chain, protocol, ballot, sender=signer)
    return {
        "dry_run": dry_run, "proposal": str(ballot.proposal_id), "voter": ballot.voter,
        "support": ballot.support.name.lower(), "votes": tokens(weight), "relayer": signer.address,
    }  # fmt: skip


def read_ballot(path: Path) -> Ballot:
    """The ballot in a file. Raises Misconfigured naming it."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Misconfigured(f"ballot {path} can't be read ({error}): `ape run sign` writes one") from error
    try:
        return Ballot.from_dict(raw)
    except Misconfigured as error:
        raise Misconfigured(f"{path}: {error}: `ape run sign` writes one") from error


def write(path: Path, text: str) -> None:
    """Raises Misconfigured naming the file."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{path} can't be written ({error.strerror}): name another with --out") from error
    say(f"written to {path}")
