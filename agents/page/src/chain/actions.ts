/** What a proposal's calls do, from their call data alone. */

import { decodeFunctionData, encodeFunctionData, getAddress, isAddressEqual, type Abi, type AbiFunction, type Address, type Hex } from "viem";
import { abis } from "virtual:contracts";
import type { Action } from "../model";
import type { Places } from "./config";
import type { ContractKey } from "./calls";

/** Addresses that we have an ABI for, with the name that they are shown by. */
export type Known = Map<string, { name: string; abi: ContractKey }>;

export interface RawCall {
  target: Address;
  valueWei: bigint;
  calldata: Hex;
}

export function knownContracts(
  places: Places, extra: { vaults: Address[]; grants: Address[]; assets: Iterable<string> },
): Known {
  const known: Known = new Map();
  for (const asset of extra.assets) known.set(asset.toLowerCase(), { name: "asset", abi: "token" });
  for (const grant of extra.grants) known.set(grant.toLowerCase(), { name: "grant", abi: "grant" });
  for (const vault of extra.vaults) known.set(vault.toLowerCase(), { name: "vault", abi: "vault" });
  const { quote, vault_implementation, ...ours } = places;
  known.set(quote.toLowerCase(), { name: "quote", abi: "token" });
  known.set(vault_implementation.toLowerCase(), { name: "vaultImplementation", abi: "vault" });
  for (const [name, address] of Object.entries(ours)) known.set(address.toLowerCase(), { name, abi: name as ContractKey });
  return known;
}

// Of a token that is not ours only this is known.
const ERC20 = new Set(["transfer", "transferFrom", "approve"]);
const MAX_DEPTH = 3;

/** The call in words' parts. Kind "unknown" when it is of no contract of ours, of no function there, or has odd bytes. */
export function decodeAction(call: RawCall, known: Known, depth = 0): Action {
  const at = known.get(call.target.toLowerCase());
  const base = { ...call, target: getAddress(call.target), targetName: at?.name ?? null, inner: [] as Action[] };
  if (call.calldata === "0x" && call.valueWei > 0n) {
    return { ...base, kind: "ether.send", args: { to: base.target, amount: call.valueWei } };
  }
  const found = at && decodeCall(at.abi, call.calldata);
  if (!at || !found || (isForeign(at.name) && !ERC20.has(found.name))) return { ...base, kind: "unknown", args: {} };
  const inner = depth < MAX_DEPTH ? innerCalls(found.name, found.args) : [];
  return {
    ...base, kind: `${at.name}.${found.name}`, args: found.args,
    inner: inner.map((one) => decodeAction(one, known, depth + 1)),
  };
}

const isForeign = (name: string): boolean => name === "quote" || name === "asset";

/** Null when the bytes are no call of the contract, or not exactly the one that they look like. */
export function decodeCall(key: ContractKey, calldata: Hex): { name: string; args: Record<string, unknown> } | null {
  const abi = abis[key] as Abi;
  try {
    const { functionName, args } = decodeFunctionData({ abi, data: calldata });
    const entry = functionOf(abi, functionName, calldata);
    if (!entry || entry.stateMutability === "view" || entry.stateMutability === "pure") return null;
    // Bytes that decode and are not what encoding gives hide something.
    const again = encodeFunctionData({ abi: [entry], functionName, args } as never);
    if (again.toLowerCase() !== calldata.toLowerCase()) return null;
    return { name: functionName, args: nameArguments(entry, (args ?? []) as readonly unknown[]) };
  } catch {
    return null;
  }
}

function functionOf(abi: Abi, name: string, calldata: Hex): AbiFunction | null {
  const overloads = abi.filter((entry): entry is AbiFunction => entry.type === "function" && entry.name === name);
  if (overloads.length <= 1) return overloads[0] ?? null;
  return overloads.find((entry) => {
    try {
      return decodeFunctionData({ abi: [entry], data: calldata }).functionName === name;
    } catch {
      return false;
    }
  }) ?? null;
}

function nameArguments(entry: AbiFunction, args: readonly unknown[]): Record<string, unknown> {
  return Object.fromEntries(entry.inputs.map((input, index) => [input.name?.replace(/_+$/, "") || `arg${index}`, args[index]]));
}

/** The calls that a call makes when all it does is to make others. */
function innerCalls(name: string, args: Record<string, unknown>): RawCall[] {
  const { target, targets, value, values, data, payload, payloads, calldatas } = args;
  if (typeof target === "string" && ["relay", "schedule", "execute"].includes(name)) {
    return [{ target: target as Address, valueWei: BigInt((value ?? 0n) as bigint), calldata: (data ?? payload ?? "0x") as Hex }];
  }
  if (!Array.isArray(targets)) return [];
  const datas = (payloads ?? calldatas) as Hex[];
  return targets.map((one: Address, index) => ({
    target: one, valueWei: (values as bigint[])[index] ?? 0n, calldata: datas[index] ?? "0x",
  }));
}

/** Whether two lists of calls are the same, byte for byte and in order. */
export function sameCalls(mine: RawCall[], built: readonly [readonly Address[], readonly bigint[], readonly Hex[]]): boolean {
  const [targets, values, calldatas] = built;
  return (
    mine.length === targets.length && mine.length === calldatas.length &&
    mine.every(
      (call, index) =>
        isAddressEqual(call.target, targets[index]!) &&
        call.valueWei === values[index] &&
        call.calldata.toLowerCase() === calldatas[index]!.toLowerCase(),
    )
  );
}
