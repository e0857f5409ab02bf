"""ape run sign: a ballot, signed for somebody else to submit; or the document for a wallet that signs elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from eth_utils import is_address, to_bytes, to_checksum_address

from agents.ballots import Ballot, Support, check_ballot, sign_ballot, typed_ballot, voting_weight
from agents.commands._chain import Connection, account_option, on_chain, parse_id, say
from agents.commands.vote import chosen_support, support_options, write
from agents.deployment import Deployment
from agents.errors import Misconfigured

# What wallets want beside the types of the message itself.
_DOMAIN = [
    {"name": "name", "type": "string"}, {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"}, {"name": "verifyingContract", "type": "address"},
]  # fmt: skip


@click.command()
@click.argument("proposal")
@support_options
@click.option("--reason", default="", help="Why, for everybody to read; it is kept on the chain.")
@click.option("--out", type=click.Path(path_type=Path), help="Write it to this file too.")
@click.option("--typed-data", is_flag=True, help="Print the EIP-712 document for --voter's wallet instead of signing.")
@click.option("--voter", default="", help="Who votes, where it is signed elsewhere; it may be a contract.")
@click.option("--signature", default="", help="What the voter's wallet answered: it is checked and put into a ballot.")
@account_option("Alias of the ape account that signs; TEST::0, TEST::1 … on a local chain.")
@on_chain
def cli(
    here: Connection,
    proposal: str,
    is_for: bool,
    is_against: bool,
    is_abstention: bool,
    reason: str,
    out: Path | None,
    typed_data: bool,
    voter: str,
    signature: str,
    account: str,
    as_json: bool,
) -> None:
    """Sign a ballot on PROPOSAL: nothing is sent, and it costs nothing."""
    support = chosen_support(is_against, is_for, is_abstention)
    if bool(typed_data or signature) != bool(voter) or (typed_data and signature):
        raise Misconfigured("--voter goes with one of --typed-data and --signature; without them --account signs")
    if voter and not is_address(voter):
        raise Misconfigured(f"--voter {voter} is no address")
    protocol, proposal_id = here.deployed().protocol, parse_id(proposal, "proposal")
    signer = None if voter else here.signer(account)
    address = to_checksum_address(voter) if voter else str(signer.address)  # type: ignore[union-attr]
    voting_weight(here.chain, protocol, proposal_id, address, is_early_ok=True)
    if typed_data:
        document = _for_wallets(here, protocol, proposal_id, support, address, reason)
    elif signature:
        document = _sealed(here, protocol, proposal_id, support, address, reason, signature).to_dict()
    else:
        document = sign_ballot(
            here.chain, protocol, proposal_id=proposal_id, support=support, signer=signer, reason=reason
        ).to_dict()
    text = json.dumps(document, indent=2)
    if out:
        write(out, text + "\n")
    click.echo(text)
    if not typed_data:
        say("submit it with `ape run vote --submit FILE`, or send it to a relayer; it is good once")


def _next_nonce(here: Connection, protocol: Deployment, voter: str) -> int:
    return int(here.chain.call(protocol.contract(here.chain, "dao").functions.nonces(voter)))


def _for_wallets(
    here: Connection, protocol: Deployment, proposal_id: int, support: Support, voter: str, reason: str
) -> dict[str, Any]:
    """As `eth_signTypedData_v4` takes it: large numbers are text."""
    nonce = _next_nonce(here, protocol, voter)
    document = typed_ballot(
        protocol, proposal_id=proposal_id, support=support, voter=voter, nonce=nonce, reason=reason
    )
    message = document["message"] | {"proposalId": str(proposal_id), "nonce": str(nonce)}
    if reason:
        message["params"] = "0x"
    return document | {"types": {"EIP712Domain": _DOMAIN, **document["types"]}, "message": message}


def _sealed(
    here: Connection, protocol: Deployment, proposal_id: int, support: Support, voter: str, reason: str, signature: str
) -> Ballot:
    """A ballot with a signature that was made elsewhere. Raises Misconfigured when it is not the voter's."""
    try:
        raw = to_bytes(hexstr=signature)
    except ValueError:
        raise Misconfigured("--signature is no hexadecimal text: give what the wallet answered") from None
    ballot = Ballot(
        chain_id=protocol.chain_id, dao=protocol.dao, proposal_id=proposal_id, support=support, voter=voter,
        nonce=_next_nonce(here, protocol, voter), signature=raw, reason=reason,
    )  # fmt: skip
    check_ballot(here.chain, protocol, ballot)
    return ballot
