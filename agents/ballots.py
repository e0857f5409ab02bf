"""Votes signed in a wallet: the EIP-712 ballot of OpenZeppelin's Governor, for somebody else to submit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import to_bytes, to_checksum_address

from agents.deployment import Chain, Deployment
from agents.errors import Misconfigured

FORMAT = "marketflow/ballot/1"

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
    """A signed vote. It is good for one proposal of one DAO on one chain, once."""

    chain_id: int
    dao: str
    proposal_id: int
    support: Support
    voter: str
    nonce: int
    signature: bytes

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; the id as text, because JSON readers lose digits of large numbers."""
        return {
            "format": FORMAT,
            "chain_id": self.chain_id,
            "dao": self.dao,
            "proposal_id": str(self.proposal_id),
            "support": self.support.name.lower(),
            "voter": self.voter,
            "nonce": self.nonce,
            "signature": "0x" + self.signature.hex(),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises Misconfigured for anything else."""
        try:
            if raw["format"] != FORMAT:
                raise ValueError(f"format is {raw['format']!r}, not {FORMAT!r}")
            return cls(
                chain_id=int(raw["chain_id"]),
                dao=to_checksum_address(raw["dao"]),
                proposal_id=int(raw["proposal_id"]),
                support=Support[str(raw["support"]).upper()],
                voter=to_checksum_address(raw["voter"]),
                nonce=int(raw["nonce"]),
                signature=to_bytes(hexstr=raw["signature"]),
            )
        except KeyError as error:
            raise Misconfigured(f"a ballot has no {error}, or it is none of those there are") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise Misconfigured(f"not a ballot: {error}") from error


def typed_ballot(
    deployment: Deployment, *, proposal_id: int, support: Support, voter: str, nonce: int
) -> dict[str, Any]:
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


def sign_ballot(
    chain: Chain,
    deployment: Deployment,
    *,
    proposal_id: int,
    support: Support,
    key: bytes | None = None,
    signer: Any = None,
) -> Ballot:
    """A ballot signed with a private key, or by anything with `address` and `sign_typed_data` (an eth-account, an
    `ApeSigner`), with the voter's next nonce as the chain has it."""
    signer = signer or Account.from_key(key)
    voter = str(signer.address)
    nonce = chain.call(deployment.contract(chain, "dao").functions.nonces(voter))
    document = typed_ballot(deployment, proposal_id=proposal_id, support=support, voter=voter, nonce=nonce)
    signed = signer.sign_typed_data(document["domain"], document["types"], document["message"])
    return Ballot(
        chain_id=deployment.chain_id, dao=deployment.dao, proposal_id=proposal_id, support=support, voter=voter,
        nonce=nonce, signature=bytes(signed.signature),
    )  # fmt: skip


def check_ballot(chain: Chain, deployment: Deployment, ballot: Ballot) -> None:
    """Raises Misconfigured when the chain would not take the ballot, saying why; costs nothing.

    The signature of a voter with code (ERC-1271) is left for the chain to judge.
    """
    if (ballot.chain_id, ballot.dao) != (deployment.chain_id, deployment.dao):
        raise Misconfigured(
            f"the ballot is for DAO {ballot.dao} on chain {ballot.chain_id}, this is {deployment.dao} on chain "
            f"{deployment.chain_id}: check --network"
        )
    nonce = chain.call(deployment.contract(chain, "dao").functions.nonces(ballot.voter))
    if nonce != ballot.nonce:
        raise Misconfigured(
            f"the ballot has nonce {ballot.nonce}, the next one of {ballot.voter} is {nonce}: it was used, or another "
            "one before it was not; have it signed again"
        )
    if chain.w3.eth.get_code(to_checksum_address(ballot.voter)):
        return
    document = typed_ballot(
        deployment, proposal_id=ballot.proposal_id, support=ballot.support, voter=ballot.voter, nonce=ballot.nonce
    )
    signable = encode_typed_data(document["domain"], document["types"], document["message"])
    try:
        signed_by = Account.recover_message(signable, signature=ballot.signature)
    except Exception:  # eth-keys raises several kinds for bytes that are no signature
        signed_by = "nobody"
    if signed_by != ballot.voter:
        raise Misconfigured(f"the ballot of {ballot.voter} was signed by {signed_by}, or changed after it was signed")


def submit_ballot(chain: Chain, deployment: Deployment, ballot: Ballot, *, sender: Any) -> Any:
    """Casts somebody's signed vote; the receipt. Raises TransactionReverted when the chain does not take it."""
    dao = deployment.contract(chain, "dao")
    call = dao.functions.voteStrategyBySig(ballot.proposal_id, int(ballot.support), ballot.voter, ballot.signature)
    return chain.send(call, sender)
