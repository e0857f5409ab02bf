"""Votes signed in a wallet: the EIP-712 ballots of OpenZeppelin's Governor, for somebody else to submit.

A ballot with a reason is the Governor's `ExtendedBallot` with empty parameters, one without its plain `Ballot`. The
signature of a voter with code is judged by that code (ERC-1271).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Self

from eth_abi.exceptions import DecodingError
from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from eth_utils import keccak, to_bytes, to_checksum_address
from web3.exceptions import Web3RPCError

from agents.contracts import load_artifact
from agents.deployment import Chain, Deployment
from agents.errors import Misconfigured
from agents.localnet.evm import CallReverted

FORMAT = "marketflow/ballot/1"
# IGovernor.ProposalState, in its order.
PROPOSAL_STATES = "pending active canceled defeated succeeded queued expired executed".split()
PENDING, ACTIVE = 0, 1
# What a transaction may carry of a voter's words.
MAX_REASON_BYTES = 1_000
# A wallet's signature is 65 bytes, a Safe's 65 for each owner, and some wallets wrap theirs.
MAX_SIGNATURE_BYTES = 4_096
# bytes4(keccak256("isValidSignature(bytes32,bytes)")): what ERC-1271 answers with for yes.
_VALID_1271 = bytes.fromhex("1626ba7e")

_BALLOT = [
    {"name": "proposalId", "type": "uint256"},
    {"name": "support", "type": "uint8"},
    {"name": "voter", "type": "address"},
    {"name": "nonce", "type": "uint256"},
]
_REASONED = [*_BALLOT, {"name": "reason", "type": "string"}, {"name": "params", "type": "bytes"}]


class BallotRefused(Misconfigured):
    """The chain would not count the ballot. `code` is for machines: foreign, replayed, forged, not_open, expired,
    already_voted, powerless, unknown_proposal."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


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
    reason: str = ""

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
            **({"reason": self.reason} if self.reason else {}),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises Misconfigured for anything else."""
        try:
            if raw["format"] != FORMAT:
                raise ValueError(f"format is {raw['format']!r}, not {FORMAT!r}")
            found = cls(
                chain_id=int(raw["chain_id"]),
                dao=to_checksum_address(raw["dao"]),
                proposal_id=int(raw["proposal_id"]),
                support=Support[str(raw["support"]).upper()],
                voter=to_checksum_address(raw["voter"]),
                nonce=int(raw["nonce"]),
                signature=to_bytes(hexstr=raw["signature"]),
                reason=raw.get("reason", ""),
            )
            found._check_sizes()
            return found
        except KeyError as error:
            raise Misconfigured(f"a ballot has no {error}, or it is none of those there are") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise Misconfigured(f"not a ballot: {error}") from error

    def _check_sizes(self) -> None:
        if not isinstance(self.reason, str) or len(self.reason.encode()) > MAX_REASON_BYTES:
            raise ValueError(f"its reason is no text of at most {MAX_REASON_BYTES} bytes")
        if len(self.signature) > MAX_SIGNATURE_BYTES:
            raise ValueError(f"its signature has {len(self.signature)} bytes, more than {MAX_SIGNATURE_BYTES}")
        if not (0 <= self.proposal_id < 1 << 256 and 0 <= self.nonce < 1 << 256):
            raise ValueError("its proposal or its nonce is no number of 256 bits")


def typed_ballot(
    deployment: Deployment, *, proposal_id: int, support: Support, voter: str, nonce: int, reason: str = ""
) -> dict[str, Any]:
    """The EIP-712 document that a wallet shows and signs."""
    message: dict[str, Any] = {"proposalId": proposal_id, "support": int(support), "voter": voter, "nonce": nonce}
    return {
        "domain": {
            "name": "MARKETFLOW_DAO",
            "version": "1",
            "chainId": deployment.chain_id,
            "verifyingContract": deployment.dao,
        },
        "types": {"ExtendedBallot": _REASONED} if reason else {"Ballot": _BALLOT},
        "primaryType": "ExtendedBallot" if reason else "Ballot",
        "message": message | ({"reason": reason, "params": b""} if reason else {}),
    }


def sign_ballot(
    chain: Chain,
    deployment: Deployment,
    *,
    proposal_id: int,
    support: Support,
    key: bytes | None = None,
    signer: Any = None,
    reason: str = "",
) -> Ballot:
    """A ballot signed with a private key, or by anything with `address` and `sign_typed_data` (an eth-account, an
    `ApeSigner`), with the voter's next nonce as the chain has it."""
    signer = signer or Account.from_key(key)
    voter = str(signer.address)
    nonce = chain.call(deployment.contract(chain, "dao").functions.nonces(voter))
    document = typed_ballot(
        deployment, proposal_id=proposal_id, support=support, voter=voter, nonce=nonce, reason=reason
    )
    signed = signer.sign_typed_data(document["domain"], document["types"], document["message"])
    return Ballot(
        chain_id=deployment.chain_id, dao=deployment.dao, proposal_id=proposal_id, support=support, voter=voter,
        nonce=nonce, signature=bytes(signed.signature), reason=reason,
    )  # fmt: skip


def ballot_digest(deployment: Deployment, ballot: Ballot) -> bytes:
    """What was signed, the EIP-712 hash: it names a vote, whatever its signature looks like."""
    signable = _signable(deployment, ballot)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def check_ballot(chain: Chain, deployment: Deployment, ballot: Ballot) -> None:
    """Raises BallotRefused when the chain would not take the ballot, saying why; costs nothing.

    Whether the proposal can be voted on, and whether the voter has votes, is `voting_weight`'s.
    """
    if (ballot.chain_id, ballot.dao) != (deployment.chain_id, deployment.dao):
        raise BallotRefused(
            "foreign",
            f"the ballot is for DAO {ballot.dao} on chain {ballot.chain_id}, this is {deployment.dao} on chain "
            f"{deployment.chain_id}: check --network",
        )
    nonce = chain.call(deployment.contract(chain, "dao").functions.nonces(ballot.voter))
    if nonce != ballot.nonce:
        raise BallotRefused(
            "replayed",
            f"the ballot has nonce {ballot.nonce}, the next one of {ballot.voter} is {nonce}: it was used, or another "
            "one before it was not; have it signed again",
        )
    signed_by = _signer_of(chain, deployment, ballot)
    if signed_by != ballot.voter:
        raise BallotRefused(
            "forged", f"the ballot of {ballot.voter} was signed by {signed_by}, or changed after it was signed"
        )


def voting_weight(
    chain: Chain, deployment: Deployment, proposal_id: int, voter: str, *, is_early_ok: bool = False
) -> int:
    """Wei of votes that the voter has on the proposal: at its snapshot or, before it, now.

    Raises BallotRefused when the vote is not open (with `is_early_ok`, when it is over), or would count nothing.
    """
    dao = deployment.contract(chain, "dao").functions
    try:
        state = chain.call(dao.state(proposal_id))
    except CallReverted as error:
        if error.reason.name != "GovernorNonexistentProposal":
            raise
        raise BallotRefused(
            "unknown_proposal", f"there is no proposal {proposal_id}: check its number, and --network"
        ) from error
    snapshot_s = chain.call(dao.proposalSnapshot(proposal_id))
    if state == PENDING and not is_early_ok:
        begins = f"voting begins after {utc(snapshot_s)}"
        raise BallotRefused("not_open", f"proposal {proposal_id} can't be voted on yet: {begins}")
    if state not in (PENDING, ACTIVE):
        raise BallotRefused("expired", f"proposal {proposal_id} is {PROPOSAL_STATES[state]}: voting is over")
    if chain.call(dao.hasVoted(proposal_id, voter)):
        sentence = f"{voter} has voted on proposal {proposal_id} already: a vote counts once"
        raise BallotRefused("already_voted", sentence)
    at_s = chain.now_s() - 1 if state == PENDING else snapshot_s
    weight = int(chain.call(dao.getVotes(voter, at_s)))
    if weight == 0 and state == ACTIVE:
        raise BallotRefused(
            "powerless",
            f"{voter} had no votes when voting on proposal {proposal_id} began ({utc(snapshot_s)}): tokens vote once "
            "they are delegated, `ape run delegate`, in proposals that come after",
        )
    return weight


def utc(at_s: int) -> str:
    """A time for people."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ballot_call(chain: Chain, deployment: Deployment, ballot: Ballot) -> Any:
    """The call that casts a signed vote, whoever sends it."""
    dao = deployment.contract(chain, "dao").functions
    if ballot.reason:
        return dao.castVoteWithReasonAndParamsBySig(
            ballot.proposal_id, int(ballot.support), ballot.voter, ballot.reason, b"", ballot.signature
        )
    return dao.voteStrategyBySig(ballot.proposal_id, int(ballot.support), ballot.voter, ballot.signature)


def submit_ballot(chain: Chain, deployment: Deployment, ballot: Ballot, *, sender: Any) -> Any:
    """Casts somebody's signed vote; the receipt. Raises TransactionReverted when the chain does not take it."""
    return chain.send(ballot_call(chain, deployment, ballot), sender)


def _signable(deployment: Deployment, ballot: Ballot) -> SignableMessage:
    document = typed_ballot(
        deployment, proposal_id=ballot.proposal_id, support=ballot.support, voter=ballot.voter, nonce=ballot.nonce,
        reason=ballot.reason,
    )  # fmt: skip
    return encode_typed_data(document["domain"], document["types"], document["message"])


def _signer_of(chain: Chain, deployment: Deployment, ballot: Ballot) -> str:
    """Who signed: the voter's own code answers for itself."""
    if chain.w3.eth.get_code(to_checksum_address(ballot.voter)):
        return ballot.voter if _is_valid_1271(chain, deployment, ballot) else "nobody that its contract accepts"
    try:
        return str(Account.recover_message(_signable(deployment, ballot), signature=ballot.signature))
    except Exception:  # eth-keys raises several kinds for bytes that are no signature
        return "nobody"


def _is_valid_1271(chain: Chain, deployment: Deployment, ballot: Ballot) -> bool:
    wallet = chain.at(load_artifact("SmartWallet"), ballot.voter).functions
    try:
        answer = chain.call(wallet.isValidSignature(ballot_digest(deployment, ballot), ballot.signature))
    except (CallReverted, DecodingError):
        return False
    except Web3RPCError as error:
        if not is_out_of_gas(error):
            raise
        return False
    return bytes(answer) == _VALID_1271


def is_out_of_gas(error: Web3RPCError) -> bool:
    """Whether a node's error is that the call ran out of gas, which is no fault of the node's."""
    return "out of gas" in str(error).lower() or "outofgas" in str(error).lower()
