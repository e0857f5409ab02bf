"""Votes signed in a wallet: the EIP-712 ballot of OpenZeppelin's Governor, for somebody else to submit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from eth_account import Account

from agents.deployment import Chain, Deployment

_TYPES = {
    "Ballot": [
        {"name": "proposalId", "type": "uint256"},
        {"name": "support", "type": "uint8"},
        {"name": "voter", "type": "address"},
        {"name": "nonce", "type": "uint256"},
    ]
}


class Support(IntEnum):
    """`VoteType` of OpenZeppelin's Governor."""

    AGAINST = 0
    FOR = 1
    ABSTAIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """A signed vote. It is good for one proposal on one chain, once."""

    proposal_id: int
    support: Support
    voter: str
    signature: bytes


def typed_ballot(deployment: Deployment, *, proposal_id: int, support: Support, voter: str, nonce: int) -> dict[str, Any]:
    """The EIP-712 document that a wallet shows and signs."""
    return {
        "domain": {
            "name": "MARKETFLOW_DAO",
            "version": "1",
            "chainId": deployment.chain_id,
            "verifyingContract": deployment.dao,
        },
        "types": _TYPES,
        "primaryType": "Ballot",
        "message": {"proposalId": proposal_id, "support": int(support), "voter": voter, "nonce": nonce},
    }


def sign_ballot(chain: Chain, deployment: Deployment, *, proposal_id: int, support: Support, key: bytes) -> Ballot:
    """A ballot signed with a private key, with the voter's next nonce as the chain has it."""
    voter = Account.from_key(key).address
    dao = deployment.contract(chain, "dao")
    nonce = chain.call(dao.functions.nonces(voter))
    document = typed_ballot(deployment, proposal_id=proposal_id, support=support, voter=voter, nonce=nonce)
    signed = Account.sign_typed_data(key, document["domain"], document["types"], document["message"])
    return Ballot(proposal_id=proposal_id, support=support, voter=voter, signature=bytes(signed.signature))


def submit_ballot(chain: Chain, deployment: Deployment, ballot: Ballot, *, sender: Any) -> Any:
    """Casts somebody's signed vote; the receipt. Raises TransactionReverted when the chain does not take it."""
    dao = deployment.contract(chain, "dao")
    call = dao.functions.voteStrategyBySig(ballot.proposal_id, int(ballot.support), ballot.voter, ballot.signature)
    return chain.send(call, sender)
