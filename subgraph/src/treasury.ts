import { Address, BigInt, Bytes, ethereum } from "@graphprotocol/graph-ts";
import { OutflowCap, TreasuryFlow } from "../generated/schema";
import { CapitalAllocated, CapitalRecalled, OutflowCapSet, Paid, Treasury } from "../generated/Treasury/Treasury";
import { ZERO, eventId } from "./common";

export function handleCapitalAllocated(event: CapitalAllocated): void {
  const quote = Treasury.bind(event.address).quote();
  const flow = newFlow("ALLOCATED", quote, event.params.amount, event);
  flow.strategyId = event.params.strategyId;
  flow.to = event.params.vault;
  flow.save();
}

export function handleCapitalRecalled(event: CapitalRecalled): void {
  const flow = newFlow("RECALLED", event.params.token, event.params.amount, event);
  flow.strategyId = event.params.strategyId;
  flow.save();
}

export function handlePaid(event: Paid): void {
  const flow = newFlow("PAID", event.params.token, event.params.amount, event);
  flow.to = event.params.to;
  flow.save();
}

/** A lower cap is in force at once, a higher one later: until then the old one is. */
export function handleOutflowCapSet(event: OutflowCapSet): void {
  const now = event.block.timestamp;
  let cap = OutflowCap.load(event.params.token);
  if (cap == null) {
    cap = new OutflowCap(event.params.token);
    cap.cap = ZERO;
  }
  const nextCapAt = cap.nextCapAt;
  if (nextCapAt !== null && nextCapAt.le(now)) cap.cap = cap.nextCap!;
  if (event.params.effectiveAt.gt(now)) {
    cap.nextCap = event.params.cap;
    cap.nextCapAt = event.params.effectiveAt;
  } else {
    cap.cap = event.params.cap;
    cap.nextCap = null;
    cap.nextCapAt = null;
  }
  cap.save();
}

/** Not saved. */
function newFlow(kind: string, token: Address, amount: BigInt, event: ethereum.Event): TreasuryFlow {
  const flow = new TreasuryFlow(eventId(event));
  flow.kind = kind;
  flow.token = token;
  flow.amount = amount;
  flow.timestamp = event.block.timestamp;
  flow.block = event.block.number;
  flow.transaction = event.transaction.hash;
  return flow;
}
