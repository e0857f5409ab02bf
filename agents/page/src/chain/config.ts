/** `marketflow.json` beside the page: where everything is. Checked, because people edit it. */

import { getAddress, isAddress, type Address } from "viem";
import { ReadError, type PageConfig } from "../model";

/** Contracts of the protocol by name, as in `deployments/`. */
export interface Places {
  token: Address;
  quote: Address;
  timelock: Address;
  dao: Address;
  treasury: Address;
  constitution: Address;
  oracle: Address;
  agents: Address;
  strategies: Address;
  factory: Address;
  ledger: Address;
  pool: Address;
  vault_implementation: Address;
  venue: Address;
}

const NAMES: readonly (keyof Places)[] = [
  "token", "quote", "timelock", "dao", "treasury", "constitution", "oracle", "agents", "strategies", "factory", "ledger",
  "pool", "vault_implementation", "venue",
];

export interface Market {
  multicall: Address | null;
  quoteSymbol: string;
  quoteDecimals: number;
  // By address in lower case.
  assets: Map<string, { symbol: string; decimals: number }>;
}

const refuse = (why: string): never => {
  throw new ReadError("rejected_config", `marketflow.json ${why}`);
};

const isText = (value: unknown): value is string => typeof value === "string";
const isTextOrNull = (value: unknown): value is string | null => value === null || value === undefined || isText(value);

/** Throws ReadError "rejected_config" that names what is wrong. */
export function parseConfig(raw: unknown): PageConfig {
  if (typeof raw !== "object" || raw === null) return refuse("is not an object");
  const config = raw as PageConfig;
  if (config.format !== "marketflow/page/1") refuse(`has the format ${String(config.format)}, not marketflow/page/1`);
  if (!Number.isSafeInteger(config.chain_id) || config.chain_id < 1) refuse("has no chain_id");
  if (!isText(config.network) || !isText(config.chain_name)) refuse("has no name of its network");
  if (!Array.isArray(config.rpc) || !config.rpc.every(isText)) refuse("has no list of rpc addresses; it may be empty");
  for (const key of ["graph", "relayer", "artefacts", "explanations", "explorer"] as const) {
    if (!isTextOrNull(config[key])) refuse(`has something else than text or null as ${key}`);
    config[key] ??= null;
  }
  if (config.explorer && !/^https?:\/\//.test(config.explorer)) refuse("has an explorer that is no http address");
  placesOf(config);
  marketOf(config);
  return config;
}

export function placesOf(config: PageConfig): Places {
  const protocol = config.deployment?.protocol;
  if (typeof protocol !== "object" || protocol === null) return refuse("has no deployment");
  if (protocol.chain_id !== config.chain_id) {
    refuse(`is for chain ${config.chain_id}, its deployment is of chain ${String(protocol.chain_id)}`);
  }
  const found = {} as Record<keyof Places, Address>;
  for (const name of NAMES) {
    const address = protocol[name];
    if (!isText(address) || !isAddress(address)) return refuse(`has no valid address of ${name}`);
    found[name] = getAddress(address);
  }
  return found;
}

/** First block that can have an event. */
export function firstBlockOf(config: PageConfig): bigint {
  const at = config.deployment.protocol.deployed_at_block;
  return typeof at === "number" && Number.isSafeInteger(at) && at > 0 ? BigInt(at) : 0n;
}

export function grantsOf(config: PageConfig): Address[] {
  const grants = config.deployment.protocol.grants;
  return Array.isArray(grants) ? grants.filter((one) => isText(one) && isAddress(one)).map((one) => getAddress(one)) : [];
}

export function marketOf(config: PageConfig): Market {
  const market = config.deployment.market;
  if (typeof market !== "object" || market === null) return refuse("has no market");
  const assets = Array.isArray(market.assets) ? market.assets : [];
  return {
    multicall: isText(market.multicall) && isAddress(market.multicall) ? market.multicall : null,
    quoteSymbol: isText(market.quote_symbol) ? market.quote_symbol : "quote",
    quoteDecimals: Number.isSafeInteger(market.quote_decimals) ? (market.quote_decimals as number) : 6,
    assets: new Map(
      assets
        .filter((asset) => isText(asset?.token) && isText(asset?.symbol))
        .map((asset) => [asset.token.toLowerCase(), { symbol: asset.symbol, decimals: Number(asset.decimals) }]),
    ),
  };
}

/** An address of the configuration, as seen from the page. */
export function resolve(address: string): string {
  const base = typeof document === "undefined" ? "http://localhost/" : document.baseURI;
  return new URL(address, base).href;
}

export async function loadConfig(url = "./marketflow.json"): Promise<PageConfig> {
  let raw: unknown;
  try {
    const response = await fetch(url, { cache: "no-cache" });
    if (!response.ok) return refuse(`can't be had: ${response.status}`);
    raw = await response.json();
  } catch (error) {
    if (error instanceof ReadError) throw error;
    return refuse("can't be had, or is not JSON");
  }
  return parseConfig(raw);
}
