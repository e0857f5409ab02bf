import { BigInt, Bytes, ethereum } from "@graphprotocol/graph-ts";
import {
  CeilingsSet,
  CeilingsSetCeilingsStruct,
  ClaimsStopLifted,
  ClaimsStopped,
  GuardianAppointed,
  RulesSet,
  VaultStopLifted,
  VaultStopped,
} from "../generated/Constitution/Constitution";
import { Constitution, ConstitutionChange, Limits, Rules, VaultStop } from "../generated/schema";
import { eventId } from "./common";

export function handleCeilingsSet(event: CeilingsSet): void {
  const change = newChange("CEILINGS", event);
  change.ceilings = saveLimits(eventId(event), event.params.ceilings);
  change.save();

  const constitution = loadConstitution(event);
  constitution.ceilings = change.ceilings;
  constitution.save();
}

export function handleRulesSet(event: RulesSet): void {
  const set = event.params.rules;
  const rules = new Rules(eventId(event));
  rules.minBond = set.minBond;
  rules.slippageDecay = set.slippageDecayS;
  rules.auctionDuration = set.auctionDurationS;
  rules.auctionMaxDiscountBps = set.auctionMaxDiscountBps;
  rules.auctionLotBps = set.auctionLotBps;
  rules.gapAllowanceBps = set.gapAllowanceBps;
  rules.maxRewardRate = set.maxRewardRate;
  rules.save();

  const change = newChange("RULES", event);
  change.rules = rules.id;
  change.save();

  const constitution = loadConstitution(event);
  constitution.rules = rules.id;
  constitution.save();
}

export function handleGuardianAppointed(event: GuardianAppointed): void {
  const change = newChange("GUARDIAN", event);
  change.guardian = event.params.guardian;
  change.guardianExpiresAt = event.params.expiresAt;
  change.save();

  const constitution = loadConstitution(event);
  constitution.guardian = event.params.guardian;
  constitution.guardianExpiresAt = event.params.expiresAt;
  constitution.save();
}

export function handleVaultStopped(event: VaultStopped): void {
  const stop = new VaultStop(event.params.vault);
  stop.vault = event.params.vault;
  stop.until = event.params.until;
  stop.save();
}

export function handleVaultStopLifted(event: VaultStopLifted): void {
  const stop = VaultStop.load(event.params.vault);
  if (stop == null) return; // what was never stopped can be lifted
  stop.until = earlier(stop.until, event.block.timestamp);
  stop.save();
}

export function handleClaimsStopped(event: ClaimsStopped): void {
  const constitution = loadConstitution(event);
  constitution.claimsStoppedUntil = event.params.until;
  constitution.save();
}

export function handleClaimsStopLifted(event: ClaimsStopLifted): void {
  const constitution = loadConstitution(event);
  const until = constitution.claimsStoppedUntil;
  if (until === null) return; // what was never stopped can be lifted
  constitution.claimsStoppedUntil = earlier(until, event.block.timestamp);
  constitution.save();
}

/** Any of the structs that codegen makes of `Limits`, one for each place where it is used. */
export function saveLimits(id: Bytes, struct: ethereum.Tuple): Bytes {
  const set = changetype<CeilingsSetCeilingsStruct>(struct);
  const limits = new Limits(id);
  limits.maxPositionBps = set.maxPositionBps;
  limits.maxTradeSlippageBps = set.maxTradeSlippageBps;
  limits.maxCumulativeSlippageBps = set.maxCumulativeSlippageBps;
  limits.maxReduceSlippageBps = set.maxReduceSlippageBps;
  limits.maxReduceCumulativeSlippageBps = set.maxReduceCumulativeSlippageBps;
  limits.maxTradesPerDay = set.maxTradesPerDay;
  limits.maxDailyTurnoverBps = set.maxDailyTurnoverBps;
  limits.maxDailyLossBps = set.maxDailyLossBps;
  limits.maxDrawdownBps = set.maxDrawdownBps;
  limits.hardDrawdownBps = set.hardDrawdownBps;
  limits.save();
  return id;
}

function loadConstitution(event: ethereum.Event): Constitution {
  const constitution = Constitution.load(event.address);
  return constitution == null ? new Constitution(event.address) : constitution;
}

/** Not saved. */
function newChange(kind: string, event: ethereum.Event): ConstitutionChange {
  const change = new ConstitutionChange(eventId(event));
  change.kind = kind;
  change.timestamp = event.block.timestamp;
  change.block = event.block.number;
  change.transaction = event.transaction.hash;
  return change;
}

function earlier(a: BigInt, b: BigInt): BigInt {
  return a.lt(b) ? a : b;
}
