import { Address, BigInt, Bytes } from "@graphprotocol/graph-ts";

import {
  Claim,
  ObservationWindow,
  Observer,
  ProfitObservation,
  RewardAccount,
  RewardPool,
  Settlement,
  Vault,
} from "../generated/schema";
import {
  BountyClaimed,
  BountyEarned,
  BountyFunded,
  BudgetSet,
  CapSet,
  Claimed,
  ClawedBack,
  Funded,
  ProfitObserved,
  Rewarded,
  RewardPool as RewardPoolContract,
  VaultRegistered,
  VaultReleased,
  WindowClosed,
  Withdrawn,
} from "../generated/RewardPool/RewardPool";
import { eventId, loadAgent, loadProtocol, loadProtocolDay, ZERO, ZERO_ADDRESS } from "./common";
import { isMeasurable, max, measure, min } from "./snapshots";
import { accrue, vest } from "./vesting";

// ------------------------------------------------------------------------------------------------------------ the pool

/** The first is the constructor's. */
export function handleBudgetSet(event: BudgetSet): void {
  let pool = RewardPool.load(event.address);
  if (pool === null) pool = newPool(event.address);
  pool.budgetPerEpoch = event.params.budgetPerEpoch;
  pool.save();
}

export function handleFunded(event: Funded): void {
  const pool = RewardPool.load(event.address)!;
  pool.funded = pool.funded.plus(event.params.amount);
  pool.save();
}

export function handleWithdrawn(event: Withdrawn): void {
  const pool = RewardPool.load(event.address)!;
  pool.withdrawn = pool.withdrawn.plus(event.params.amount);
  pool.save();
}

export function handleBountyFunded(event: BountyFunded): void {
  const pool = RewardPool.load(event.address)!;
  pool.bountyFund = pool.bountyFund.plus(event.params.amount);
  pool.save();
}

export function handleBountyEarned(event: BountyEarned): void {
  const pool = RewardPool.load(event.address)!;
  pool.bountyFund = pool.bountyFund.minus(event.params.amount);
  pool.bountiesEarned = pool.bountiesEarned.plus(event.params.amount);
  pool.save();

  const observer = loadObserver(event.params.observer);
  observer.earned = observer.earned.plus(event.params.amount);
  observer.save();
}

export function handleBountyClaimed(event: BountyClaimed): void {
  const pool = RewardPool.load(event.address)!;
  pool.bountiesClaimed = pool.bountiesClaimed.plus(event.params.amount);
  pool.save();

  const observer = loadObserver(event.params.observer);
  observer.claimed = observer.claimed.plus(event.params.amount);
  observer.save();
}

// ----------------------------------------------------------------------------------------------------- a vault's place

export function handleVaultRegistered(event: VaultRegistered): void {
  const pool = RewardPool.load(event.address)!;
  const account = new RewardAccount(event.params.vault);
  account.vault = event.params.vault;
  account.agent = event.params.agentId.toString();
  account.rate = event.params.rate;
  account.credited = ZERO;
  account.unvested = ZERO;
  account.vested = ZERO;
  account.vestUpdatedAt = ZERO;
  account.vestEndsAt = ZERO;
  account.nextEpoch = epochAt(pool, event.block.timestamp);
  account.isLive = true;
  account.rewarded = ZERO;
  account.clawedBack = ZERO;
  account.clawedBackFromBond = ZERO;
  account.claimed = ZERO;
  account.cap = ZERO;
  setCap(pool, account, event.params.cap);

  const agent = loadAgent(event.params.agentId);
  agent.vault = event.params.vault;
  agent.save();
}

export function handleCapSet(event: CapSet): void {
  setCap(RewardPool.load(event.address)!, RewardAccount.load(event.params.vault)!, event.params.cap);
}

export function handleVaultReleased(event: VaultReleased): void {
  const account = RewardAccount.load(event.params.vault)!;
  account.isLive = false;
  setCap(RewardPool.load(event.address)!, account, ZERO);
}

// ------------------------------------------------------------------------------------------------- windows and results

/** A vault tells its profit before it changes its books, so the books here are those that it was measured with. */
export function handleProfitObserved(event: ProfitObserved): void {
  const profit = event.params.profit;
  const window = loadWindow(event.params.vault, event.params.epoch);
  window.observationCount += 1;
  window.lowestProfit = min(window.lowestProfit, profit);
  window.highestProfit = max(window.highestProfit, profit);
  window.save();

  const observation = new ProfitObservation(eventId(event));
  observation.window = window.id;
  observation.vault = event.params.vault;
  observation.profit = profit;
  observation.observer = event.params.observer;
  observation.timestamp = event.block.timestamp;
  observation.block = event.block.number;
  observation.transaction = event.transaction.hash;
  observation.save();

  if (event.params.observer != ZERO_ADDRESS) {
    const observer = loadObserver(event.params.observer);
    observer.observationCount += 1;
    observer.save();
  }
  const vault = Vault.load(event.params.vault)!;
  if (isMeasurable(vault, event)) {
    measure(vault, profit.minus(vault.netFlow), event);
    vault.save();
  }
}

export function handleWindowClosed(event: WindowClosed): void {
  const window = loadWindow(event.params.vault, event.params.epoch);
  window.closedAt = event.block.timestamp;
  window.move = event.params.move;
  window.missedBefore = event.params.missedBefore;
  window.byVote = event.params.byVote;
  window.save();

  const account = RewardAccount.load(event.params.vault)!;
  account.nextEpoch = event.params.epoch.plus(BigInt.fromI32(1));
  // A result of zero needs no application.
  account.pendingMove = event.params.move.isZero() ? null : event.params.move;
  account.save();
}

export function handleRewarded(event: Rewarded): void {
  const reward = event.params.reward;
  const pool = RewardPool.load(event.address)!;
  const account = RewardAccount.load(event.params.vault)!;
  vest(account, reward, pool.vesting, event.block.timestamp);
  account.credited = event.params.credited;
  account.pendingMove = null;
  account.rewarded = account.rewarded.plus(reward);
  account.save();

  const settlement = new Settlement(eventId(event));
  settlement.account = account.id;
  settlement.vault = account.vault;
  settlement.agent = account.agent;
  settlement.pnl = event.params.pnl;
  settlement.reward = reward;
  settlement.fromUnclaimed = ZERO;
  settlement.fromBond = ZERO;
  settlement.credited = event.params.credited;
  settlement.timestamp = event.block.timestamp;
  settlement.block = event.block.number;
  settlement.transaction = event.transaction.hash;
  settlement.save();

  const agent = loadAgent(event.params.agentId);
  agent.rewarded = agent.rewarded.plus(reward);
  agent.unclaimed = agent.unclaimed.plus(reward);
  agent.save();

  const protocol = loadProtocol(event);
  protocol.rewarded = protocol.rewarded.plus(reward);
  protocol.save();

  const day = loadProtocolDay(protocol, event);
  day.rewarded = day.rewarded.plus(reward);
  day.save();
}

/** What is unvested goes first, then what has vested, then the bond. */
export function handleClawedBack(event: ClawedBack): void {
  const fromUnclaimed = event.params.fromUnclaimed;
  const fromBond = event.params.fromBond;
  const taken = fromUnclaimed.plus(fromBond);
  const account = RewardAccount.load(event.params.vault)!;
  accrue(account, event.block.timestamp);
  const fromUnvested = min(account.unvested, fromUnclaimed);
  account.unvested = account.unvested.minus(fromUnvested);
  account.vested = account.vested.minus(fromUnclaimed.minus(fromUnvested));
  account.credited = event.params.credited;
  account.pendingMove = null;
  account.clawedBack = account.clawedBack.plus(taken);
  account.clawedBackFromBond = account.clawedBackFromBond.plus(fromBond);
  account.save();

  const settlement = new Settlement(eventId(event));
  settlement.account = account.id;
  settlement.vault = account.vault;
  settlement.agent = account.agent;
  settlement.pnl = event.params.pnl;
  settlement.reward = ZERO;
  settlement.fromUnclaimed = fromUnclaimed;
  settlement.fromBond = fromBond;
  settlement.credited = event.params.credited;
  settlement.timestamp = event.block.timestamp;
  settlement.block = event.block.number;
  settlement.transaction = event.transaction.hash;
  settlement.save();

  const agent = loadAgent(event.params.agentId);
  agent.clawedBack = agent.clawedBack.plus(taken);
  agent.unclaimed = agent.unclaimed.minus(fromUnclaimed);
  agent.save();

  const protocol = loadProtocol(event);
  protocol.clawedBack = protocol.clawedBack.plus(taken);
  protocol.clawedBackFromBonds = protocol.clawedBackFromBonds.plus(fromBond);
  protocol.save();

  const day = loadProtocolDay(protocol, event);
  day.clawedBack = day.clawedBack.plus(taken);
  day.save();
}

export function handleClaimed(event: Claimed): void {
  const amount = event.params.amount;
  const account = RewardAccount.load(event.params.vault)!;
  accrue(account, event.block.timestamp);
  account.vested = account.vested.minus(amount);
  account.claimed = account.claimed.plus(amount);
  account.save();

  const claim = new Claim(eventId(event));
  claim.account = account.id;
  claim.agent = account.agent;
  claim.to = event.params.to;
  claim.amount = amount;
  claim.timestamp = event.block.timestamp;
  claim.block = event.block.number;
  claim.transaction = event.transaction.hash;
  claim.save();

  const agent = loadAgent(event.params.agentId);
  agent.claimed = agent.claimed.plus(amount);
  agent.unclaimed = agent.unclaimed.minus(amount);
  agent.save();

  const protocol = loadProtocol(event);
  protocol.claimed = protocol.claimed.plus(amount);
  protocol.save();
}

// -------------------------------------------------------------------------------------------------------------- helpers

function newPool(address: Address): RewardPool {
  const contract = RewardPoolContract.bind(address);
  const pool = new RewardPool(address);
  pool.genesis = contract.genesis();
  pool.epochLength = contract.epochLengthS();
  pool.windowLength = contract.windowLengthS();
  pool.vesting = contract.vestingS();
  pool.bounty = contract.bounty();
  pool.sumOfCaps = ZERO;
  pool.funded = ZERO;
  pool.withdrawn = ZERO;
  pool.bountyFund = ZERO;
  pool.bountiesEarned = ZERO;
  pool.bountiesClaimed = ZERO;
  return pool;
}

/** RewardPool.sol's `_epochAt`. */
function epochAt(pool: RewardPool, timestamp: BigInt): BigInt {
  return timestamp.lt(pool.genesis) ? ZERO : timestamp.minus(pool.genesis).div(pool.epochLength);
}

/** Changes a cap and the sum of all, and saves both. */
function setCap(pool: RewardPool, account: RewardAccount, cap: BigInt): void {
  pool.sumOfCaps = pool.sumOfCaps.minus(account.cap).plus(cap);
  pool.save();
  account.cap = cap;
  account.save();
}

function loadWindow(vault: Bytes, epoch: BigInt): ObservationWindow {
  const id = vault.concatI32(epoch.toI32());
  let window = ObservationWindow.load(id);
  if (window === null) {
    window = new ObservationWindow(id);
    window.account = vault;
    window.epoch = epoch;
    window.observationCount = 0;
    window.missedBefore = false;
    window.byVote = false;
  }
  return window;
}

function loadObserver(address: Address): Observer {
  let observer = Observer.load(address);
  if (observer === null) {
    observer = new Observer(address);
    observer.observationCount = 0;
    observer.earned = ZERO;
    observer.claimed = ZERO;
  }
  return observer;
}
