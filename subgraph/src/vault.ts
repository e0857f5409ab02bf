import { Address, BigInt, Bytes, ethereum } from "@graphprotocol/graph-ts";

import { AuctionFill, CapitalFlow, Position, TradeRefusal, Vault, VaultStateChange } from "../generated/schema";
import {
  Allocated,
  AuctionFilled,
  Recalled,
  Resumed,
  Skimmed,
  StateChanged,
  StrategyVault,
  TradeRefused,
  VaultInitialised,
  VaultUpdated,
  WrittenOff,
} from "../generated/templates/StrategyVault/StrategyVault";
import { eventId, loadProtocol, loadProtocolDay, ZERO } from "./common";
import { saveLimits } from "./constitution";

// In the order of Types.sol.
const STATES = ["ACTIVE", "REDUCING", "HALTED"];

export function handleVaultInitialised(event: VaultInitialised): void {
  const vault = Vault.load(event.address)!;
  vault.agent = event.params.agentId.toString();
  vault.artefactHash = event.params.artefactHash;
  vault.save();
}

export function handleVaultUpdated(event: VaultUpdated): void {
  const vault = Vault.load(event.address)!;
  vault.artefactHash = event.params.artefactHash;
  vault.limits = saveLimits(eventId(event), event.params.limits);
  vault.save();
}

export function handleStateChanged(event: StateChanged): void {
  const change = new VaultStateChange(eventId(event));
  change.vault = event.address;
  change.state = STATES[event.params.state];
  change.reasons = event.params.reasons;
  change.unitPrice = event.params.unitPriceWad;
  change.timestamp = event.block.timestamp;
  change.block = event.block.number;
  change.transaction = event.transaction.hash;
  change.save();

  const vault = Vault.load(event.address)!;
  vault.state = change.state;
  vault.reasons = change.reasons;
  vault.save();
}

export function handleResumed(event: Resumed): void {
  const vault = Vault.load(event.address)!;
  vault.resumedAt = event.block.timestamp;
  vault.resumedUnitPrice = event.params.peakWad;
  vault.save();
}

export function handleTradeRefused(event: TradeRefused): void {
  const refusal = new TradeRefusal(eventId(event));
  refusal.vault = event.address;
  refusal.nonce = event.params.nonce;
  refusal.asset = event.params.asset;
  refusal.isBuy = event.params.buy;
  refusal.reasons = event.params.reasons;
  refusal.explanationHash = event.params.explanationHash;
  refusal.timestamp = event.block.timestamp;
  refusal.block = event.block.number;
  refusal.transaction = event.transaction.hash;
  refusal.save();

  const vault = Vault.load(event.address)!;
  vault.refusalCount += 1;
  vault.save();

  const protocol = loadProtocol(event);
  protocol.refusalCount += 1;
  protocol.save();

  const day = loadProtocolDay(protocol, event);
  day.refusalCount += 1;
  day.save();
}

/** What is allocated is always the quote token, which the event does not name. */
export function handleAllocated(event: Allocated): void {
  const amount = event.params.amount;
  const vault = Vault.load(event.address)!;
  vault.units = vault.units.plus(event.params.units);
  vault.quoteHeld = vault.quoteHeld.plus(amount);
  vault.netFlow = vault.netFlow.minus(amount);
  vault.allocated = vault.allocated.plus(amount);
  vault.save();

  const flow = newFlow("ALLOCATED", StrategyVault.bind(event.address).quote(), amount, event);
  flow.value = amount;
  flow.units = event.params.units;
  flow.unitPrice = event.params.unitPriceWad;
  flow.save();

  const protocol = loadProtocol(event);
  protocol.allocated = protocol.allocated.plus(amount);
  protocol.save();
}

export function handleRecalled(event: Recalled): void {
  const value = event.params.value;
  const vault = Vault.load(event.address)!;
  // What is recalled was held, so every token but the quote token has a position.
  if (Position.load(positionId(vault.id, event.params.token)) === null) {
    vault.quoteHeld = vault.quoteHeld.minus(event.params.amount);
  } else {
    addToPosition(vault.id, event.params.token, event.params.amount.neg(), event.block.timestamp);
  }
  vault.units = vault.units.minus(event.params.units);
  vault.netFlow = vault.netFlow.plus(value);
  vault.recalled = vault.recalled.plus(value);
  vault.save();

  const flow = newFlow("RECALLED", event.params.token, event.params.amount, event);
  flow.value = value;
  flow.units = event.params.units;
  flow.save();

  const protocol = loadProtocol(event);
  protocol.recalled = protocol.recalled.plus(value);
  protocol.save();
}

/** A vault that holds nothing any more loses its units with it. */
export function handleWrittenOff(event: WrittenOff): void {
  addToPosition(event.address, event.params.token, event.params.amount.neg(), event.block.timestamp);
  const vault = Vault.load(event.address)!;
  const burnt = isEmpty(vault) ? vault.units : ZERO;
  vault.units = vault.units.minus(burnt);
  vault.save();

  const flow = newFlow("WRITTEN_OFF", event.params.token, event.params.amount, event);
  flow.units = burnt;
  flow.save();
}

/** What was never in the books changes nothing in them. */
export function handleSkimmed(event: Skimmed): void {
  newFlow("SKIMMED", event.params.token, event.params.amount, event).save();
}

export function handleAuctionFilled(event: AuctionFilled): void {
  const fill = new AuctionFill(eventId(event));
  fill.vault = event.address;
  fill.asset = event.params.asset;
  fill.buyer = event.params.buyer;
  fill.amount = event.params.amount;
  fill.quoteIn = event.params.quoteIn;
  fill.discountBps = event.params.discountBps;
  fill.timestamp = event.block.timestamp;
  fill.block = event.block.number;
  fill.transaction = event.transaction.hash;
  fill.save();

  addToPosition(event.address, fill.asset, fill.amount.neg(), fill.timestamp);
  const vault = Vault.load(event.address)!;
  vault.quoteHeld = vault.quoteHeld.plus(fill.quoteIn);
  vault.save();
}

export function addToPosition(vault: Bytes, token: Bytes, amount: BigInt, timestamp: BigInt): void {
  const id = positionId(vault, token);
  let position = Position.load(id);
  if (position === null) {
    position = new Position(id);
    position.vault = vault;
    position.token = token;
    position.amount = ZERO;
  }
  position.amount = position.amount.plus(amount);
  position.updatedAt = timestamp;
  position.save();
}

function positionId(vault: Bytes, token: Bytes): Bytes {
  return vault.concat(token);
}

function isEmpty(vault: Vault): boolean {
  const positions = vault.positions.load();
  for (let i = 0; i < positions.length; i++) {
    if (!positions[i].amount.isZero()) return false;
  }
  return vault.quoteHeld.isZero();
}

function newFlow(kind: string, token: Address, amount: BigInt, event: ethereum.Event): CapitalFlow {
  const flow = new CapitalFlow(eventId(event));
  flow.vault = event.address;
  flow.kind = kind;
  flow.token = token;
  flow.amount = amount;
  flow.timestamp = event.block.timestamp;
  flow.block = event.block.number;
  flow.transaction = event.transaction.hash;
  return flow;
}
