/** What tests of several modules use. Not part of the page. */

import { getAddress, numberToHex, type Address } from "viem";
import type { PageConfig } from "../model";

export const at = (number: number): Address => getAddress(numberToHex(0x1000 + number, { size: 20 }));

const NAMES = [
  "token", "quote", "timelock", "dao", "treasury", "constitution", "oracle", "agents", "strategies", "factory", "ledger",
  "pool", "vault_implementation", "venue",
];
export const PLACES = Object.fromEntries(NAMES.map((name, index) => [name, at(index)])) as Record<string, Address>;

export const CONFIG: PageConfig = {
  format: "marketflow/page/1", network: "local", chain_id: 31337, chain_name: "Local", rpc: [], graph: null, relayer: null,
  artefacts: null, explanations: null, explorer: null,
  deployment: { protocol: { chain_id: 31337, deployed_at_block: 1, ...PLACES }, market: { assets: [] } },
};
