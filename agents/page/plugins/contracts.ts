/**
 * `virtual:contracts`: ABIs of the protocol's contracts, taken from `agents/abi/` when the page is built, so that they
 * cannot differ from the contracts. Descriptions that the page has no use for are left out (`internalType`).
 */

import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Plugin } from "vite";

const ABI_FOLDER = fileURLToPath(new URL("../../abi/", import.meta.url));
const NAME = "virtual:contracts";

/** What the page reads; call data is decoded with every function of every contract, whether it is here or not. */
export const CONTRACTS: Record<string, string> = {
  token: "MarketFlowToken",
  timelock: "Timelock",
  dao: "MARKETFLOW_DAO",
  treasury: "Treasury",
  constitution: "Constitution",
  oracle: "PriceOracle",
  agents: "AgentRegistry",
  strategies: "StrategyRegistry",
  factory: "VaultFactory",
  ledger: "TradeLedger",
  pool: "RewardPool",
  vault: "StrategyVault",
  venue: "UniswapV3Venue",
  grant: "TokenGrant",
};

/** Others' contracts, of which the page calls these functions only: file of the ABI, and names. */
const OTHERS: Record<string, [file: string, ...names: string[]]> = {
  multicall: ["../../abi/mocks/LocalMulticall.json", "aggregate3"],
  safe: ["../node_modules/@safe-global/safe-contracts/build/artifacts/contracts/Safe.sol/Safe.json", "getOwners", "getThreshold"],
};

type Parameter = { name: string; type: string; indexed?: boolean; components?: Parameter[] };
type Entry = { type: string; name?: string; stateMutability?: string; inputs?: Parameter[]; outputs?: Parameter[] };

const plain = ({ name, type, indexed, components }: Parameter): Parameter => ({
  name,
  type,
  ...(indexed ? { indexed } : {}),
  ...(components ? { components: components.map(plain) } : {}),
});

function slim(entry: Entry): Entry {
  return {
    type: entry.type,
    ...(entry.name === undefined ? {} : { name: entry.name }),
    ...(entry.inputs ? { inputs: entry.inputs.map(plain) } : {}),
    ...(entry.type === "function" ? { outputs: (entry.outputs ?? []).map(plain), stateMutability: entry.stateMutability } : {}),
  };
}

export function readAbi(contract: string): Entry[] {
  const found = JSON.parse(readFileSync(`${ABI_FOLDER}${contract}.json`, "utf8")) as { abi: Entry[] };
  return found.abi.filter((entry) => ["function", "event", "error"].includes(entry.type)).map(slim);
}

/** Each contract's functions and events by key; the errors of all, each once, since any may come up through any call. */
export function collect(): { abis: Record<string, Entry[]>; errors: Entry[] } {
  const errors = new Map<string, Entry>();
  const abis: Record<string, Entry[]> = {};
  for (const [key, contract] of Object.entries(CONTRACTS)) {
    const entries = readAbi(contract);
    abis[key] = entries.filter((entry) => entry.type !== "error");
    for (const error of entries.filter((entry) => entry.type === "error")) errors.set(JSON.stringify(error), error);
  }
  for (const [key, other] of Object.entries(OTHERS)) abis[key] = readOther(other);
  return { abis, errors: [...errors.values()] };
}

/** The chosen functions of a contract that is not ours. */
function readOther([file, ...names]: [string, ...string[]]): Entry[] {
  const found = JSON.parse(readFileSync(fileURLToPath(new URL(file, import.meta.url)), "utf8")) as { abi: Entry[] };
  return found.abi.filter((entry) => entry.type === "function" && names.includes(entry.name ?? "")).map(slim);
}

export function abiFiles(): string[] {
  const wanted = new Set(Object.values(CONTRACTS).map((name) => `${name}.json`));
  return readdirSync(ABI_FOLDER).filter((name) => wanted.has(name)).map((name) => ABI_FOLDER + name);
}

export function contracts(): Plugin {
  return {
    name: "marketflow-contracts",
    resolveId: (id) => (id === NAME ? `\0${NAME}` : null),
    load(id) {
      if (id !== `\0${NAME}`) return null;
      abiFiles().forEach((file) => this.addWatchFile(file));
      const { abis, errors } = collect();
      // A string that is parsed is smaller in memory and quicker to start than the same as source.
      const parse = (value: unknown) => `JSON.parse(${JSON.stringify(JSON.stringify(value))})`;
      return `export const abis = ${parse(abis)};\nexport const errors = ${parse(errors)};`;
    },
  };
}
