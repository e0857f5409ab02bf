import { BigDecimal, BigInt, ethereum } from "@graphprotocol/graph-ts";

import { Pool, PoolDayData, PoolHourData } from "../generated/schema";

const HOUR_S = 3600;
const DAY_S = 86400;

/** Brings the hour and the day of an event to the state that it left the pool in. */
export function updateIntervals(
  pool: Pool,
  event: ethereum.Event,
  transactions: i32,
  volume0: BigDecimal,
  volume1: BigDecimal,
): void {
  const hour = loadHour(pool, event.block.timestamp.toI32() / HOUR_S);
  update(hour, pool, transactions, volume0, volume1);
  hour.save();

  const day = loadDay(pool, event.block.timestamp.toI32() / DAY_S);
  update(day, pool, transactions, volume0, volume1);
  day.save();
}

function loadHour(pool: Pool, index: i32): PoolHourData {
  const id = pool.id + "-" + index.toString();
  let hour = PoolHourData.load(id);
  if (hour === null) {
    hour = new PoolHourData(id);
    hour.periodStartUnix = index * HOUR_S;
    begin<PoolHourData>(hour, pool);
  }
  return hour;
}

function loadDay(pool: Pool, index: i32): PoolDayData {
  const id = pool.id + "-" + index.toString();
  let day = PoolDayData.load(id);
  if (day === null) {
    day = new PoolDayData(id);
    day.date = index * DAY_S;
    begin<PoolDayData>(day, pool);
  }
  return day;
}

// Hours and days share their fields but no class; the compiler makes one of these for each.

function begin<T>(interval: T, pool: Pool): void {
  interval.pool = pool.id;
  interval.volumeToken0 = BigDecimal.zero();
  interval.volumeToken1 = BigDecimal.zero();
  interval.txCount = BigInt.zero();
  interval.open = pool.token0Price;
  interval.high = pool.token0Price;
  interval.low = pool.token0Price;
}

function update<T>(interval: T, pool: Pool, transactions: i32, volume0: BigDecimal, volume1: BigDecimal): void {
  interval.liquidity = pool.liquidity;
  interval.sqrtPrice = pool.sqrtPrice;
  interval.tick = pool.tick;
  interval.token0Price = pool.token0Price;
  interval.token1Price = pool.token1Price;
  interval.volumeToken0 = interval.volumeToken0.plus(volume0);
  interval.volumeToken1 = interval.volumeToken1.plus(volume1);
  interval.txCount = interval.txCount.plus(BigInt.fromI32(transactions));
  if (pool.token0Price.gt(interval.high)) interval.high = pool.token0Price;
  if (pool.token0Price.lt(interval.low)) interval.low = pool.token0Price;
  interval.close = pool.token0Price;
}
