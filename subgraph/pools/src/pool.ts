import { Address, BigDecimal, BigInt, ethereum } from "@graphprotocol/graph-ts";

import { Burn, Collect, Mint, Pool, Swap, Token } from "../generated/schema";
import {
  Burn as BurnEvent,
  Collect as CollectEvent,
  CollectProtocol,
  Flash,
  Initialize,
  Mint as MintEvent,
  Swap as SwapEvent,
} from "../generated/templates/UniswapV3Pool/UniswapV3Pool";
import { updateIntervals } from "./intervals";
import { abs, scale, token0Price, token1Price } from "./numbers";

/** A pool and the decimals of its tokens. */
class Market {
  pool: Pool;
  decimals0: i32;
  decimals1: i32;

  constructor(address: Address) {
    this.pool = Pool.load(address.toHexString())!;
    this.decimals0 = Token.load(this.pool.token0)!.decimals.toI32();
    this.decimals1 = Token.load(this.pool.token1)!.decimals.toI32();
  }

  amount0(units: BigInt): BigDecimal {
    return scale(units, this.decimals0);
  }

  amount1(units: BigInt): BigDecimal {
    return scale(units, this.decimals1);
  }

  setPrice(sqrtPrice: BigInt, tick: i32): void {
    this.pool.sqrtPrice = sqrtPrice;
    this.pool.tick = BigInt.fromI32(tick);
    this.pool.token0Price = token0Price(sqrtPrice, this.decimals0, this.decimals1);
    this.pool.token1Price = token1Price(sqrtPrice, this.decimals0, this.decimals1);
  }

  /** Liquidity counts only while the price is in its range. */
  addLiquidity(amount: BigInt, tickLower: i32, tickUpper: i32): void {
    const tick = this.pool.tick!.toI32();
    if (tickLower <= tick && tick < tickUpper) this.pool.liquidity = this.pool.liquidity.plus(amount);
  }

  /** Amounts that the pool gained; negative ones it paid out. */
  hold(amount0: BigDecimal, amount1: BigDecimal): void {
    this.pool.totalValueLockedToken0 = this.pool.totalValueLockedToken0.plus(amount0);
    this.pool.totalValueLockedToken1 = this.pool.totalValueLockedToken1.plus(amount1);
  }

  /** Counts the event that did all of this, and saves. */
  record(event: ethereum.Event, volume0: BigDecimal, volume1: BigDecimal): void {
    this.pool.txCount = this.pool.txCount.plus(BigInt.fromI32(1));
    this.pool.volumeToken0 = this.pool.volumeToken0.plus(volume0);
    this.pool.volumeToken1 = this.pool.volumeToken1.plus(volume1);
    this.pool.save();
    updateIntervals(this.pool, event, 1, volume0, volume1);
  }
}

export function handleInitialize(event: Initialize): void {
  const market = new Market(event.address);
  market.setPrice(event.params.sqrtPriceX96, event.params.tick);
  market.pool.save();
  updateIntervals(market.pool, event, 0, BigDecimal.zero(), BigDecimal.zero());
}

export function handleMint(event: MintEvent): void {
  const market = new Market(event.address);
  const mint = new Mint(eventId(event));
  mint.timestamp = event.block.timestamp;
  mint.pool = market.pool.id;
  mint.owner = event.params.owner;
  mint.amount = event.params.amount;
  mint.amount0 = market.amount0(event.params.amount0);
  mint.amount1 = market.amount1(event.params.amount1);
  mint.tickLower = BigInt.fromI32(event.params.tickLower);
  mint.tickUpper = BigInt.fromI32(event.params.tickUpper);
  mint.logIndex = event.logIndex;
  mint.save();

  market.addLiquidity(mint.amount, event.params.tickLower, event.params.tickUpper);
  market.hold(mint.amount0, mint.amount1);
  market.record(event, BigDecimal.zero(), BigDecimal.zero());
}

export function handleBurn(event: BurnEvent): void {
  const market = new Market(event.address);
  const burn = new Burn(eventId(event));
  burn.timestamp = event.block.timestamp;
  burn.pool = market.pool.id;
  burn.owner = event.params.owner;
  burn.amount = event.params.amount;
  burn.amount0 = market.amount0(event.params.amount0);
  burn.amount1 = market.amount1(event.params.amount1);
  burn.tickLower = BigInt.fromI32(event.params.tickLower);
  burn.tickUpper = BigInt.fromI32(event.params.tickUpper);
  burn.logIndex = event.logIndex;
  burn.save();

  market.addLiquidity(burn.amount.neg(), event.params.tickLower, event.params.tickUpper);
  market.record(event, BigDecimal.zero(), BigDecimal.zero());
}

export function handleCollect(event: CollectEvent): void {
  const market = new Market(event.address);
  const collect = new Collect(eventId(event));
  collect.timestamp = event.block.timestamp;
  collect.pool = market.pool.id;
  collect.owner = event.params.owner;
  collect.amount0 = market.amount0(event.params.amount0);
  collect.amount1 = market.amount1(event.params.amount1);
  collect.tickLower = BigInt.fromI32(event.params.tickLower);
  collect.tickUpper = BigInt.fromI32(event.params.tickUpper);
  collect.logIndex = event.logIndex;
  collect.save();

  market.hold(collect.amount0.neg(), collect.amount1.neg());
  market.record(event, BigDecimal.zero(), BigDecimal.zero());
}

export function handleSwap(event: SwapEvent): void {
  const market = new Market(event.address);
  const swap = new Swap(eventId(event));
  swap.timestamp = event.block.timestamp;
  swap.pool = market.pool.id;
  swap.sender = event.params.sender;
  swap.recipient = event.params.recipient;
  swap.amount0 = market.amount0(event.params.amount0);
  swap.amount1 = market.amount1(event.params.amount1);
  swap.sqrtPriceX96 = event.params.sqrtPriceX96;
  swap.tick = BigInt.fromI32(event.params.tick);
  swap.logIndex = event.logIndex;
  swap.save();

  market.setPrice(swap.sqrtPriceX96, event.params.tick);
  market.pool.liquidity = event.params.liquidity;
  market.hold(swap.amount0, swap.amount1);
  market.record(event, abs(swap.amount0), abs(swap.amount1));
}

/** The fee of a loan stays in the pool; there is no trade and no new price. */
export function handleFlash(event: Flash): void {
  const market = new Market(event.address);
  market.hold(market.amount0(event.params.paid0), market.amount1(event.params.paid1));
  market.pool.save();
}

/** The factory's owner takes the protocol's share of the fees. */
export function handleCollectProtocol(event: CollectProtocol): void {
  const market = new Market(event.address);
  market.hold(market.amount0(event.params.amount0).neg(), market.amount1(event.params.amount1).neg());
  market.pool.save();
}

function eventId(event: ethereum.Event): string {
  return event.transaction.hash.toHexString() + "#" + event.logIndex.toString();
}
