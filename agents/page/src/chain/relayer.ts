/** The relayer, which brings signed ballots to the chain and pays for it. */

import { isAddress, type Address, type Hex } from "viem";
import { RelayerRefused, type RelayedBallot, type Relayer, type SignedBallot } from "../model";
import { resolve } from "./config";

const TIMEOUT_MS = 30_000;
const STATUSES = ["queued", "sent", "mined", "failed"];

// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Row = Record<string, any>;

export class HttpRelayer implements Relayer {
  private readonly base: string;

  constructor(
    address: string,
    private readonly expected: { chainId: number; dao: Address },
    private readonly fetcher: typeof fetch = (...args) => globalThis.fetch(...args),
  ) {
    this.base = resolve(address).replace(/\/+$/, "");
  }

  async status(): Promise<{ accepting: boolean; whyNot: string | null; relayer: Address | null }> {
    const found = await this.ask("/status");
    const relayer = isAddress(found.relayer ?? "") ? (found.relayer as Address) : null;
    if (found.chain_id !== this.expected.chainId || String(found.dao).toLowerCase() !== this.expected.dao.toLowerCase()) {
      return { accepting: false, whyNot: "the relayer is for another DAO or chain", relayer };
    }
    return { accepting: found.accepting === true, whyNot: found.why_not ?? null, relayer };
  }

  async submit(ballot: SignedBallot): Promise<RelayedBallot> {
    return parse(await this.ask("/ballots", ballot));
  }

  async fetch(id: Hex): Promise<RelayedBallot> {
    return parse(await this.ask(`/ballots/${encodeURIComponent(id)}`));
  }

  private async ask(path: string, body?: unknown): Promise<Row> {
    let response: Response;
    try {
      response = await this.fetcher(this.base + path, {
        ...(body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch {
      throw new RelayerRefused("unreachable", "the relayer can't be reached");
    }
    const found = (await response.json().catch(() => null)) as Row | null;
    if (response.ok && found) return found;
    const { code, message } = (found?.error ?? {}) as Row;
    throw new RelayerRefused(String(code ?? "failed"), String(message ?? `the relayer answers ${response.status}`));
  }
}

function parse(raw: Row): RelayedBallot {
  if (typeof raw.id !== "string" || !STATUSES.includes(raw.status)) {
    throw new RelayerRefused("failed", "the relayer's answer is none");
  }
  return {
    id: raw.id as Hex, status: raw.status, transaction: raw.transaction ?? null, block: raw.block ?? null, reason: raw.reason ?? null,
  };
}
