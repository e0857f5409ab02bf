/** Votes of a Safe: who its owners are, and their signatures put together as the Safe checks them. */

import { concat, getAddress, isAddress, recoverAddress, size, type Address, type Hex } from "viem";
import { WalletError, type Safe, type SafeBallot, type SignedBallot, type Support } from "../model";
import { hashOfTyped, typedSafeMessage, type Vote } from "./ballots";
import type { ChainReader } from "./reader";

const MAX_TEXT = 200_000;

export async function fetchSafe(reader: ChainReader, address: Address): Promise<Safe | null> {
  const code = await reader.rpc.request<Hex>("eth_getCode", [address, "latest"]);
  if (!code || code === "0x") return null;
  const ask = (name: string) => reader.tryOne({ to: address, abi: "safe", name });
  const [owners, threshold] = (await Promise.all([ask("getOwners"), ask("getThreshold")])) as [readonly Address[] | null, bigint | null];
  if (!owners?.length || !threshold || threshold > BigInt(owners.length)) return null;
  return { address: getAddress(address), owners: [...owners], threshold: Number(threshold) };
}

export function voteOf(ballot: SafeBallot): Vote {
  return {
    chainId: ballot.chain_id, dao: ballot.dao, proposalId: BigInt(ballot.proposal_id), support: ballot.support,
    voter: ballot.safe, nonce: BigInt(ballot.nonce), reason: ballot.reason,
  };
}

/** What each owner signs. */
export const messageOf = (ballot: SafeBallot) => typedSafeMessage(ballot.safe, voteOf(ballot));

const malformed = (why: string): WalletError => new WalletError("unsupported", `this is no Safe's ballot for this vote: ${why}`);

/** Checked field by field, and every signature against its owner: it comes from somebody else. */
export async function readSafeBallot(text: string, safe: Safe, expected: { chainId: number; dao: Address }): Promise<SafeBallot> {
  if (text.length > MAX_TEXT) throw malformed("it is too long");
  let raw: SafeBallot;
  try {
    raw = JSON.parse(text) as SafeBallot;
  } catch {
    throw malformed("it is not JSON");
  }
  if (typeof raw !== "object" || raw === null || raw.format !== "marketflow/safe-ballot/1") throw malformed("it has another format");
  if (raw.chain_id !== expected.chainId) throw malformed(`it is for chain ${String(raw.chain_id)}`);
  if (!same(raw.dao, expected.dao)) throw malformed("it is for another DAO");
  if (!same(raw.safe, safe.address)) throw malformed("it is of another Safe");
  if (![raw.proposal_id, raw.nonce].every((one) => typeof one === "string" && /^\d{1,78}$/.test(one))) throw malformed("its numbers are none");
  if (!["against", "for", "abstain"].includes(raw.support)) throw malformed("it does not say what is voted");
  if (typeof raw.reason !== "string" || !Array.isArray(raw.signatures)) throw malformed("a part is missing");
  const ballot: SafeBallot = {
    format: raw.format, chain_id: raw.chain_id, dao: expected.dao, safe: safe.address, proposal_id: raw.proposal_id,
    support: raw.support as Support, nonce: raw.nonce, reason: raw.reason, signatures: [],
  };
  const seen = new Set<string>();
  for (const entry of raw.signatures) {
    const { owner, signature } = entry ?? {};
    if (typeof owner !== "string" || !isAddress(owner)) throw malformed("an owner is no address");
    if (!safe.owners.some((one) => same(one, owner))) throw malformed(`${owner} is no owner`);
    if (seen.has(owner.toLowerCase())) continue;
    seen.add(owner.toLowerCase());
    await requireSigned(ballot, owner, signature);
    ballot.signatures.push({ owner: getAddress(owner), signature });
  }
  return ballot;
}

/** Throws WalletError when the signature is not that owner's on this ballot. */
export async function requireSigned(ballot: SafeBallot, owner: Address, signature: Hex): Promise<void> {
  const by = await recoverAddress({ hash: hashOfTyped(messageOf(ballot)), signature }).catch(() => null);
  if (!by || !same(by, owner)) throw malformed(`the signature of ${owner} is not on this ballot`);
}

/** Owners' signatures in the order of their addresses, as many as the Safe wants; null while there are too few. */
export function assembleSafeBallot(ballot: SafeBallot, safe: Safe): SignedBallot | null {
  const byOwner = new Map<string, Hex>();
  for (const { owner, signature } of ballot.signatures) {
    if (safe.owners.some((one) => same(one, owner)) && size(signature) === 65) byOwner.set(owner.toLowerCase(), signature);
  }
  if (!same(ballot.safe, safe.address) || byOwner.size < safe.threshold) return null;
  const sorted = [...byOwner].sort(([a], [b]) => (BigInt(a) < BigInt(b) ? -1 : 1)).slice(0, safe.threshold);
  return signedBallot(voteOf(ballot), concat(sorted.map(([, signature]) => withV27(signature))));
}

/** v as 27 or 28: a Safe takes 0 and 1 for other kinds of signatures. */
export function withV27(signature: Hex): Hex {
  const v = Number.parseInt(signature.slice(-2), 16);
  return v < 2 ? (`${signature.slice(0, -2)}${(v + 27).toString(16)}` as Hex) : signature;
}

export function signedBallot(vote: Vote, signature: Hex): SignedBallot {
  if (vote.nonce > BigInt(Number.MAX_SAFE_INTEGER)) throw new WalletError("unsupported", "the nonce is beyond counting");
  return {
    format: "marketflow/ballot/1", chain_id: vote.chainId, dao: vote.dao, proposal_id: vote.proposalId.toString(),
    support: vote.support, voter: vote.voter, nonce: Number(vote.nonce), signature, ...(vote.reason ? { reason: vote.reason } : {}),
  };
}

const same = (a: unknown, b: unknown): boolean => typeof a === "string" && typeof b === "string" && a.toLowerCase() === b.toLowerCase();
