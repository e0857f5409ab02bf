import { Address, BigDecimal, BigInt, log } from "@graphprotocol/graph-ts";

import { PoolCreated } from "../generated/UniswapV3Factory/UniswapV3Factory";
import { IERC20Metadata } from "../generated/UniswapV3Factory/IERC20Metadata";
import { Factory, Pool, Token } from "../generated/schema";
import { UniswapV3Pool } from "../generated/templates";

export function handlePoolCreated(event: PoolCreated): void {
  const factory = getOrCreateFactory(event.address);
  factory.poolCount = factory.poolCount.plus(BigInt.fromI32(1));
  factory.save();

  const token0 = getOrCreateToken(event.params.token0);
  const token1 = getOrCreateToken(event.params.token1);
  if (token0 === null || token1 === null) {
    log.warning("pool {} is not followed: a token does not say its decimals", [event.params.pool.toHexString()]);
    return;
  }

  const pool = new Pool(event.params.pool.toHexString());
  pool.createdAtTimestamp = event.block.timestamp;
  pool.createdAtBlockNumber = event.block.number;
  pool.token0 = token0.id;
  pool.token1 = token1.id;
  pool.feeTier = BigInt.fromI32(event.params.fee);
  pool.liquidity = BigInt.zero();
  pool.sqrtPrice = BigInt.zero();
  pool.token0Price = BigDecimal.zero();
  pool.token1Price = BigDecimal.zero();
  pool.volumeToken0 = BigDecimal.zero();
  pool.volumeToken1 = BigDecimal.zero();
  pool.txCount = BigInt.zero();
  pool.totalValueLockedToken0 = BigDecimal.zero();
  pool.totalValueLockedToken1 = BigDecimal.zero();
  pool.save();
  UniswapV3Pool.create(event.params.pool);
}

function getOrCreateFactory(address: Address): Factory {
  const id = address.toHexString();
  let factory = Factory.load(id);
  if (factory === null) {
    factory = new Factory(id);
    factory.poolCount = BigInt.zero();
  }
  return factory;
}

/** Null when the token does not say its decimals: its amounts could not be told in whole tokens. */
function getOrCreateToken(address: Address): Token | null {
  const id = address.toHexString();
  const known = Token.load(id);
  if (known !== null) return known;

  const contract = IERC20Metadata.bind(address);
  const decimals = contract.try_decimals();
  if (decimals.reverted) return null;
  const symbol = contract.try_symbol();
  const name = contract.try_name();

  const token = new Token(id);
  token.symbol = symbol.reverted ? "unknown" : symbol.value;
  token.name = name.reverted ? "unknown" : name.value;
  token.decimals = BigInt.fromI32(decimals.value);
  token.save();
  return token;
}
