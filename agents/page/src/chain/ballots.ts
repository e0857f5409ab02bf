/** What is signed: OpenZeppelin's ballots (EIP-712), as they are or as a Safe's message. */

import { encodeAbiParameters, hashTypedData, type Address, type Hex } from "viem";
import type { Support } from "../model";

export const SUPPORT_NUMBER: Record<Support, 0 | 1 | 2> = { against: 0, for: 1, abstain: 2 };

const BALLOT = [
  { name: "proposalId", type: "uint256" },
  { name: "support", type: "uint8" },
  { name: "voter", type: "address" },
  { name: "nonce", type: "uint256" },
] as const;
const REASONED = [...BALLOT, { name: "reason", type: "string" }, { name: "params", type: "bytes" }] as const;
const DOMAIN_TYPES = {
  name: { name: "name", type: "string" }, version: { name: "version", type: "string" },
  chainId: { name: "chainId", type: "uint256" }, verifyingContract: { name: "verifyingContract", type: "address" },
} as const;

export interface Vote {
  chainId: number;
  dao: Address;
  proposalId: bigint;
  support: Support;
  voter: Address;
  nonce: bigint;
  reason: string;
}

export interface TypedData {
  domain: Record<string, unknown>;
  types: Record<string, readonly { name: string; type: string }[]>;
  primaryType: string;
  message: Record<string, unknown>;
}

export function typedBallot({ chainId, dao, proposalId, support, voter, nonce, reason }: Vote): TypedData {
  const plain = { proposalId, support: SUPPORT_NUMBER[support], voter, nonce };
  return {
    domain: { name: "MARKETFLOW_DAO", version: "1", chainId, verifyingContract: dao },
    types: reason ? { ExtendedBallot: REASONED } : { Ballot: BALLOT },
    primaryType: reason ? "ExtendedBallot" : "Ballot",
    message: reason ? { ...plain, reason, params: "0x" } : plain,
  };
}

/** The message by which a Safe (1.3, 1.4) stands for a ballot: CompatibilityFallbackHandler.isValidSignature(bytes32). */
export function typedSafeMessage(safe: Address, vote: Vote): TypedData {
  const ballot = hashTypedData(typedBallot(vote) as never);
  return {
    domain: { chainId: vote.chainId, verifyingContract: safe },
    types: { SafeMessage: [{ name: "message", type: "bytes" }] },
    primaryType: "SafeMessage",
    message: { message: encodeAbiParameters([{ type: "bytes32" }], [ballot]) },
  };
}

/** As `eth_signTypedData_v4` takes it: with the domain's type, and every number as decimal text, which loses no digit. */
export function toJson(typed: TypedData): string {
  const domainType = Object.keys(typed.domain).map((name) => DOMAIN_TYPES[name as keyof typeof DOMAIN_TYPES]);
  return JSON.stringify({ ...typed, types: { EIP712Domain: domainType, ...typed.types } }, (_, value: unknown) =>
    typeof value === "bigint" ? value.toString() : value,
  );
}

export const hashOfTyped = (typed: TypedData): Hex => hashTypedData(typed as never);
