/** JSON-RPC over HTTP, from one node to the next when one fails, and through the wallet's provider last. */

import type { Hex } from "viem";
import { ReadError } from "../model";

export interface Provider {
  request(args: { method: string; params?: unknown }): Promise<unknown>;
}

export interface Request {
  method: string;
  params: unknown[];
}

/** What a node answered instead of a result. Another node would say the same, so nobody else is asked. */
export class NodeError extends Error {
  constructor(public readonly code: number, message: string, public readonly data: unknown) {
    super(message);
  }
}

const TIMEOUT_MS = 15_000;
const BATCH = 50;

type Answer = { id: number; result?: unknown; error?: { code: number; message: string; data?: unknown } };
type Settled = { result: unknown } | { error: NodeError };

interface Endpoint {
  ask(requests: Request[]): Promise<Settled[]>;
  // The chain and the DAO's code were looked at.
  checked: boolean;
}

const overHttp = (url: string, fetcher: typeof fetch): Endpoint => ({
  checked: false,
  async ask(requests) {
    const body = requests.map((request, id) => ({ jsonrpc: "2.0", id, ...request }));
    const response = await fetcher(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body.length === 1 ? body[0] : body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const raw: unknown = await response.json();
    const answers = (Array.isArray(raw) ? raw : [raw]) as Answer[];
    const byId = new Map(answers.map((answer) => [answer.id, answer]));
    if (!response.ok && !answers.every((answer) => answer?.error)) throw new Error(`the node answers ${response.status}`);
    // Some nodes answer a batch that they don't take with one error that has no id.
    if (requests.length > 1 && answers.length !== requests.length) throw new BatchRefused(url);
    return requests.map((_, id) => settle(byId.get(id) ?? (requests.length === 1 ? answers[0] : undefined)));
  },
});

const overWallet = (find: () => Provider | null): Endpoint => ({
  checked: false,
  async ask(requests) {
    const provider = find();
    if (!provider) throw new Error("no wallet");
    return Promise.all(
      requests.map(async (request) => {
        try {
          return { result: await provider.request(request) };
        } catch (error) {
          const { code, message, data } = error as { code?: number; message?: string; data?: unknown };
          return { error: new NodeError(code ?? 0, message ?? String(error), data) };
        }
      }),
    );
  },
});

class BatchRefused extends Error {}

function settle(answer: Answer | undefined): Settled {
  if (!answer || typeof answer !== "object") throw new Error("the node's answer is none");
  if (answer.error) return { error: new NodeError(answer.error.code, answer.error.message, answer.error.data) };
  if (!("result" in answer)) throw new Error("the node's answer has no result");
  return { result: answer.result };
}

// What a node says when it is too busy for us; another may be less so.
const BUSY = new Set([429, -32005, -32029, -32097]);

export class Rpc {
  private readonly endpoints: Endpoint[];
  private wallet: Provider | null = null;
  private current = 0;
  private takesBatches = true;

  constructor(
    private readonly options: { urls: string[]; chainId: number; dao: Hex; fetcher?: typeof fetch },
  ) {
    const fetcher = options.fetcher ?? ((...args) => globalThis.fetch(...args));
    this.endpoints = [...options.urls.map((url) => overHttp(url, fetcher)), overWallet(() => this.wallet)];
  }

  /** The wallet through which is read when no node answers. */
  useWallet(provider: Provider | null): void {
    this.wallet = provider;
    this.endpoints[this.endpoints.length - 1]!.checked = false;
  }

  /** One result. Throws NodeError for a node's refusal, ReadError when nobody answers. */
  async request<T>(method: string, params: unknown[] = []): Promise<T> {
    const [answer] = await this.settleAll([{ method, params }]);
    if ("error" in answer!) throw answer.error;
    return answer!.result as T;
  }

  /** Results in the order of the requests, each a value or the node's refusal. */
  async settleAll(requests: Request[]): Promise<Settled[]> {
    const found: Settled[] = [];
    for (let start = 0; start < requests.length; start += BATCH) {
      found.push(...(await this.fromAny(requests.slice(start, start + BATCH))));
    }
    return found;
  }

  private async fromAny(requests: Request[]): Promise<Settled[]> {
    let last: unknown = null;
    for (let tried = 0; tried < this.endpoints.length; tried += 1) {
      const at = (this.current + tried) % this.endpoints.length;
      const endpoint = this.endpoints[at]!;
      try {
        if (!endpoint.checked) await this.check(endpoint);
        const answers = await this.ask(endpoint, requests);
        const busy = answers.find((answer) => "error" in answer && BUSY.has(answer.error.code));
        if (busy && "error" in busy && !isRange(busy.error)) throw busy.error;
        this.current = at;
        return answers;
      } catch (error) {
        // Being on another chain says more than being away.
        if (!(last instanceof ReadError) || error instanceof ReadError) last = error;
      }
    }
    if (last instanceof ReadError) throw last;
    throw new ReadError("unreachable", "no node answers, and no wallet is connected to read through");
  }

  private async ask(endpoint: Endpoint, requests: Request[]): Promise<Settled[]> {
    if (this.takesBatches || requests.length === 1) {
      try {
        return await endpoint.ask(requests);
      } catch (error) {
        if (!(error instanceof BatchRefused)) throw error;
        this.takesBatches = false;
      }
    }
    const found: Settled[] = [];
    for (const request of requests) found.push(...(await endpoint.ask([request])));
    return found;
  }

  private async check(endpoint: Endpoint): Promise<void> {
    const [chain, code] = await this.ask(endpoint, [
      { method: "eth_chainId", params: [] },
      { method: "eth_getCode", params: [this.options.dao, "latest"] },
    ]);
    if ("error" in chain!) throw chain.error;
    const id = Number(chain!.result);
    if (id !== this.options.chainId) {
      throw new ReadError("wrong_chain", `the node is on chain ${id}, this page is for chain ${this.options.chainId}`);
    }
    if ("error" in code!) throw code.error;
    if (!code!.result || code!.result === "0x") {
      throw new ReadError("not_deployed", `there is no DAO at ${this.options.dao} on chain ${id}`);
    }
    endpoint.checked = true;
  }
}

/** Whether a node refuses a stretch of events because it is too long or finds too many. */
export function isRange(error: NodeError): boolean {
  return /range|too many|limit|exceed|more than|response size|timeout|timed out/i.test(error.message);
}
