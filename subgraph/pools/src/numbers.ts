import { BigDecimal, BigInt } from "@graphprotocol/graph-ts";

const Q192 = BigInt.fromI32(2).pow(192);
// Leaves more digits than a BigDecimal keeps in any quotient of prices that a pool can have: 2^±128, 39 digits.
const PLACES = 76;
const SHIFT = BigInt.fromI32(10).pow(PLACES as u8);

/** `units` × 10^-`decimals`, exactly. */
export function scale(units: BigInt, decimals: i32): BigDecimal {
  const scaled = new BigDecimal(units);
  scaled.exp = BigInt.fromI32(-decimals);
  return scaled;
}

/** Whole token0 for one whole token1: 2^192 / sqrtPrice², rounded to 34 digits. */
export function token0Price(sqrtPrice: BigInt, decimals0: i32, decimals1: i32): BigDecimal {
  const quotient = Q192.times(SHIFT).div(sqrtPrice.times(sqrtPrice));
  return scale(quotient, PLACES + decimals0 - decimals1);
}

/** Whole token1 for one whole token0: sqrtPrice² / 2^192, rounded to 34 digits. */
export function token1Price(sqrtPrice: BigInt, decimals0: i32, decimals1: i32): BigDecimal {
  const quotient = sqrtPrice.times(sqrtPrice).times(SHIFT).div(Q192);
  return scale(quotient, PLACES + decimals1 - decimals0);
}

export function abs(amount: BigDecimal): BigDecimal {
  return amount.lt(BigDecimal.zero()) ? amount.neg() : amount;
}
