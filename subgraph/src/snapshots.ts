import { BigInt, ethereum } from "@graphprotocol/graph-ts";

import { Vault, VaultDaySnapshot, VaultHourSnapshot } from "../generated/schema";
import { ZERO } from "./common";

const HOUR_S = 3600;
const DAY_S = 86400;
const WAD = BigInt.fromI32(10).pow(18);
// WAD x UNITS_PER_QUOTE of GuardMath.sol.
const UNIT_PRICE_SCALE = BigInt.fromI32(10).pow(30);

/**
 * In the block of its creation a vault's own events, and with them its flows, are handled after all others of that
 * block: what it is worth can be told only later.
 */
export function isMeasurable(vault: Vault, event: ethereum.Event): boolean {
  return event.block.number.notEqual(vault.createdAtBlock);
}

/** GuardMath.unitPriceDown. */
export function unitPriceDown(value: BigInt, units: BigInt): BigInt {
  return units.isZero() ? WAD : value.times(UNIT_PRICE_SCALE).div(units);
}

/** Everything that a vault holds had a price, and was worth `value`; the caller saves the vault. */
export function measure(vault: Vault, value: BigInt, event: ethereum.Event): void {
  const unitPrice = unitPriceDown(value, vault.units);
  vault.netAssetValue = value;
  vault.profit = value.plus(vault.netFlow);
  vault.unitPrice = unitPrice;
  vault.highestUnitPrice = max(vault.highestUnitPrice, unitPrice);
  vault.measuredAt = event.block.timestamp;
  vault.measuredAtBlock = event.block.number;

  const hour = loadHour(vault, event);
  takeMeasure<VaultHourSnapshot>(hour, vault, unitPrice);
  hour.save();
  const day = loadDay(vault, event);
  takeMeasure<VaultDaySnapshot>(day, vault, unitPrice);
  day.save();
}

export function countTrade(vault: Vault, quoteAmount: BigInt, shortfall: BigInt, event: ethereum.Event): void {
  const hour = loadHour(vault, event);
  takeTrade<VaultHourSnapshot>(hour, quoteAmount, shortfall);
  hour.save();
  const day = loadDay(vault, event);
  takeTrade<VaultDaySnapshot>(day, quoteAmount, shortfall);
  day.save();
}

function loadHour(vault: Vault, event: ethereum.Event): VaultHourSnapshot {
  const index = event.block.timestamp.toI64() / HOUR_S;
  const id = vault.id.concatI32(index as i32);
  let hour = VaultHourSnapshot.load(id);
  if (hour === null) {
    hour = new VaultHourSnapshot(id);
    begin<VaultHourSnapshot>(hour, vault, index * HOUR_S);
  }
  return hour;
}

function loadDay(vault: Vault, event: ethereum.Event): VaultDaySnapshot {
  const index = event.block.timestamp.toI64() / DAY_S;
  const id = vault.id.concatI32(index as i32);
  let day = VaultDaySnapshot.load(id);
  if (day === null) {
    day = new VaultDaySnapshot(id);
    begin<VaultDaySnapshot>(day, vault, index * DAY_S);
  }
  return day;
}

// Hours and days share their fields but no class; the compiler makes one of these for each.

function begin<T>(snapshot: T, vault: Vault, start: i64): void {
  snapshot.vault = vault.id;
  snapshot.periodStart = BigInt.fromI64(start);
  snapshot.tradeCount = 0;
  snapshot.volume = ZERO;
  snapshot.shortfall = ZERO;
}

function takeMeasure<T>(snapshot: T, vault: Vault, unitPrice: BigInt): void {
  if (snapshot.openUnitPrice === null) snapshot.openUnitPrice = unitPrice;
  snapshot.highUnitPrice = max(snapshot.highUnitPrice, unitPrice);
  snapshot.lowUnitPrice = min(snapshot.lowUnitPrice, unitPrice);
  snapshot.closeUnitPrice = unitPrice;
  snapshot.netAssetValue = vault.netAssetValue;
  snapshot.profit = vault.profit;
}

function takeTrade<T>(snapshot: T, quoteAmount: BigInt, shortfall: BigInt): void {
  snapshot.tradeCount += 1;
  snapshot.volume = snapshot.volume.plus(quoteAmount);
  snapshot.shortfall = snapshot.shortfall.plus(shortfall);
}

export function max(known: BigInt | null, other: BigInt): BigInt {
  return known !== null && known.gt(other) ? known : other;
}

export function min(known: BigInt | null, other: BigInt): BigInt {
  return known !== null && known.lt(other) ? known : other;
}
