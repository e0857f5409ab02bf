/** Why the chain refused: the error's name with its arguments, from whichever depth a wallet or node hides it in. */

import { decodeErrorResult, isHex, type Abi, type Hex } from "viem";
import { errors } from "virtual:contracts";

/** The data of a revert in an error of a node or a wallet; null when there is none. */
export function findRevertData(error: unknown, depth = 0): Hex | null {
  if (depth > 6 || typeof error !== "object" || error === null) return null;
  const { data, error: inner, cause, originalError, result } = error as Record<string, unknown>;
  if (typeof data === "string") {
    const found = /0x[0-9a-fA-F]{8,}/.exec(data)?.[0];
    if (isHex(found) && found.length % 2 === 0) return found;
  }
  for (const next of [data, inner, originalError, cause, result]) {
    const found = findRevertData(next, depth + 1);
    if (found) return found;
  }
  return null;
}

/** "GovernorAlreadyCastVote(voter=0x...)"; text of a `require`; else what the node says. */
export function describeRevert(error: unknown): string {
  const data = findRevertData(error);
  const message = typeof error === "object" && error !== null && "message" in error ? String(error.message) : String(error);
  return (data && decodeRevert(data)) ?? message.slice(0, 300);
}

export function decodeRevert(data: Hex): string | null {
  try {
    const { errorName, args, abiItem } = decodeErrorResult({ abi: errors as Abi, data });
    if (errorName === "Error") return String(args?.[0]);
    const inputs = "inputs" in abiItem ? (abiItem.inputs ?? []) : [];
    const named = inputs.map((input, index) => `${input.name ? `${input.name}=` : ""}${show(args?.[index])}`);
    return `${errorName}(${named.join(", ")})`;
  } catch {
    return null;
  }
}

function show(value: unknown): string {
  return JSON.stringify(value, (_, item: unknown) => (typeof item === "bigint" ? item.toString() : item))?.replace(/^"|"$/g, "") ?? "";
}
