import { Address, BigInt, Bytes, ethereum } from "@graphprotocol/graph-ts";
import {
  MARKETFLOW_DAO,
  ObjectionPeriodOpened,
  ProposalCanceled,
  ProposalCreated,
  ProposalExecuted,
  ProposalQueued,
  ProposalThresholdSet,
  StrategyProposed,
  VoteCast,
  VoteCastWithParams,
  VotingDelaySet,
  VotingPeriodSet,
} from "../generated/MARKETFLOW_DAO/MARKETFLOW_DAO";
import { MarketFlowToken } from "../generated/MARKETFLOW_DAO/MarketFlowToken";
import { Timelock } from "../generated/MARKETFLOW_DAO/Timelock";
import { Governance, Proposal, ProposalChange, Vote } from "../generated/schema";
import { ZERO, eventId, loadProtocol, loadProtocolDay } from "./common";
import { loadDelegate } from "./token";

// In the order of GovernorCountingSimple's VoteType.
const SUPPORT = ["AGAINST", "FOR", "ABSTAIN"];
const CAST_VOTE_BY_SIG = "0x8ff262e3";
const VOTE_STRATEGY_BY_SIG = "0x0f28f798";
const CAST_VOTE_WITH_PARAMS_BY_SIG = "0x5b8d0e0d";

export function handleVotingDelaySet(event: VotingDelaySet): void {
  const governance = loadGovernance(event.address);
  governance.votingDelay = event.params.newVotingDelay;
  governance.save();
  // The constructor's, because it can't become zero later: a protocol in which nothing has happened has totals, too.
  if (event.params.oldVotingDelay.isZero()) loadProtocol(event).save();
}

export function handleVotingPeriodSet(event: VotingPeriodSet): void {
  const governance = loadGovernance(event.address);
  governance.votingPeriod = event.params.newVotingPeriod;
  governance.save();
}

export function handleProposalThresholdSet(event: ProposalThresholdSet): void {
  const governance = loadGovernance(event.address);
  governance.proposalThreshold = event.params.newProposalThreshold;
  governance.save();
}

export function handleProposalCreated(event: ProposalCreated): void {
  const proposal = new Proposal(event.params.proposalId.toString());
  proposal.governance = event.address;
  proposal.proposer = event.params.proposer;
  proposal.targets = event.params.targets.map<Bytes>((target: Address) => target);
  proposal.values = event.params.values;
  proposal.calldatas = event.params.calldatas;
  proposal.description = event.params.description;
  proposal.voteStart = event.params.voteStart;
  proposal.voteEnd = event.params.voteEnd;
  proposal.forVotes = ZERO;
  proposal.againstVotes = ZERO;
  proposal.abstainVotes = ZERO;
  proposal.voteCount = 0;
  proposal.createdAt = event.block.timestamp;
  proposal.createdAtBlock = event.block.number;
  proposal.transaction = event.transaction.hash;
  changeState(proposal, "PENDING", event);
  proposal.save();

  const protocol = loadProtocol(event);
  protocol.proposalCount += 1;
  protocol.save();
}

/** Comes after ProposalCreated, and after the manifest was submitted, in the same transaction. */
export function handleStrategyProposed(event: StrategyProposed): void {
  const proposal = loadProposal(event.params.proposalId);
  proposal.manifest = event.params.manifestHash;
  proposal.save();
}

export function handleVoteCast(event: VoteCast): void {
  const p = event.params;
  countVote(event, p.voter, p.proposalId, p.support, p.weight, p.reason, null);
}

export function handleVoteCastWithParams(event: VoteCastWithParams): void {
  const p = event.params;
  countVote(event, p.voter, p.proposalId, p.support, p.weight, p.reason, p.params);
}

export function handleObjectionPeriodOpened(event: ObjectionPeriodOpened): void {
  const proposal = loadProposal(event.params.proposalId);
  proposal.objectionEndsAt = event.params.endsAt;
  changeState(proposal, "OBJECTION", event);
  proposal.save();
}

export function handleProposalQueued(event: ProposalQueued): void {
  const proposal = loadProposal(event.params.proposalId);
  proposal.queuedAt = event.block.timestamp;
  proposal.eta = event.params.etaSeconds;
  changeState(proposal, "QUEUED", event);
  proposal.save();
}

export function handleProposalExecuted(event: ProposalExecuted): void {
  const proposal = loadProposal(event.params.proposalId);
  proposal.executedAt = event.block.timestamp;
  changeState(proposal, "EXECUTED", event);
  proposal.save();
}

export function handleProposalCanceled(event: ProposalCanceled): void {
  const proposal = loadProposal(event.params.proposalId);
  proposal.canceledAt = event.block.timestamp;
  changeState(proposal, "CANCELED", event);
  proposal.save();
}

/** Made by the first event of the DAO's constructor, which says the first of its settings. */
function loadGovernance(address: Address): Governance {
  let governance = Governance.load(address);
  if (governance == null) {
    const dao = MARKETFLOW_DAO.bind(address);
    governance = new Governance(address);
    governance.token = dao.token();
    governance.timelock = dao.timelock();
    governance.votingDelay = ZERO;
    governance.votingPeriod = ZERO;
    governance.proposalThreshold = ZERO;
    governance.quorumFloor = dao.quorumFloor();
    governance.quorumBps = BigInt.fromI32(dao.quorumBps());
    governance.grace = dao.graceS();
    // A timelock that is deployed later says it in its own constructor.
    const delay = Timelock.bind(dao.timelock()).try_getMinDelay();
    governance.timelockDelay = delay.reverted ? ZERO : delay.value;
    governance.totalSupply = MarketFlowToken.bind(dao.token()).totalSupply();
  }
  return governance;
}

function loadProposal(id: BigInt): Proposal {
  return Proposal.load(id.toString())!;
}

/** Does not save the proposal. */
function changeState(proposal: Proposal, state: string, event: ethereum.Event): void {
  proposal.state = state;
  const change = new ProposalChange(eventId(event));
  change.proposal = proposal.id;
  change.state = state;
  change.timestamp = event.block.timestamp;
  change.block = event.block.number;
  change.transaction = event.transaction.hash;
  change.save();
}

function countVote(
  event: ethereum.Event,
  voter: Address,
  proposalId: BigInt,
  support: i32,
  weight: BigInt,
  reason: string,
  params: Bytes | null,
): void {
  const proposal = loadProposal(proposalId);
  if (support == 0) proposal.againstVotes = proposal.againstVotes.plus(weight);
  else if (support == 1) proposal.forVotes = proposal.forVotes.plus(weight);
  else proposal.abstainVotes = proposal.abstainVotes.plus(weight);
  proposal.voteCount += 1;
  if (proposal.state == "PENDING") changeState(proposal, "ACTIVE", event);
  proposal.save();

  const delegate = loadDelegate(voter);
  delegate.voteCount += 1;
  delegate.save();

  const protocol = loadProtocol(event);
  protocol.voteCount += 1;
  protocol.save();
  const day = loadProtocolDay(protocol, event);
  day.voteCount += 1;
  day.save();

  const vote = new Vote(eventId(event));
  vote.proposal = proposal.id;
  vote.delegate = delegate.id;
  vote.voter = voter;
  vote.support = SUPPORT[support];
  vote.weight = weight;
  vote.reason = reason;
  vote.submitter = event.transaction.from;
  vote.signature = signatureOf(event);
  vote.params = params;
  vote.timestamp = event.block.timestamp;
  vote.block = event.block.number;
  vote.transaction = event.transaction.hash;
  vote.save();
}

/** Signature in the call of the DAO that the transaction is; null when it is another call, or one of another contract. */
function signatureOf(event: ethereum.Event): Bytes | null {
  const to = event.transaction.to;
  const input = event.transaction.input;
  if (to === null || !to.equals(event.address) || input.length < 4) return null;
  const selector = input.toHexString().slice(0, 10);
  if (selector == CAST_VOTE_BY_SIG || selector == VOTE_STRATEGY_BY_SIG) {
    return lastArgument("(uint256,uint8,address,bytes)", input);
  }
  if (selector == CAST_VOTE_WITH_PARAMS_BY_SIG) {
    return lastArgument("(uint256,uint8,address,string,bytes,bytes)", input);
  }
  return null;
}

/** Arguments are encoded like a dynamic tuple, but without the offset that comes before one. */
function lastArgument(types: string, input: Bytes): Bytes | null {
  const offset = Bytes.fromHexString("0x" + "20".padStart(64, "0"));
  const decoded = ethereum.decode(types, offset.concat(Bytes.fromUint8Array(input.subarray(4))));
  if (decoded === null) return null;
  const values = decoded.toTuple();
  return values[values.length - 1].toBytes();
}
