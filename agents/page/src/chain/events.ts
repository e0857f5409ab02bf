/** The contracts' events, read once and kept, in stretches that shrink when a node refuses them. */

import { decodeEventLog, encodeEventTopics, numberToHex, type Abi, type AbiEvent, type Address, type Hex } from "viem";
import { abis } from "virtual:contracts";
import { ReadError } from "../model";
import type { ContractKey } from "./calls";
import { isRange, NodeError, type Rpc } from "./rpc";

export interface Event {
  address: Address;
  name: string;
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  args: Record<string, any>;
  block: bigint;
  index: number;
  atS: number;
  transaction: Hex;
}

interface RawLog {
  address: Address;
  topics: [Hex, ...Hex[]];
  data: Hex;
  blockNumber: Hex;
  blockHash: Hex;
  logIndex: Hex;
  transactionHash: Hex;
  blockTimestamp?: Hex;
  removed?: boolean;
}

/** Names of events by contract. */
export type Wanted = Partial<Record<ContractKey, readonly string[]>>;

// A reorganisation deeper than this is not noticed before the page is loaded again.
const UNSETTLED_BLOCKS = 64n;
const FIRST_SPAN = 50_000n;

export class EventScan {
  private events: Event[] = [];
  private next: bigint;
  private span = FIRST_SPAN;
  private readonly byTopic = new Map<Hex, { abi: Abi; name: string }>();
  private running: Promise<Event[]> | null = null;

  constructor(
    private readonly rpc: Rpc,
    private readonly addresses: readonly Address[],
    wanted: Wanted,
    from: bigint,
  ) {
    this.next = from;
    for (const [key, names] of Object.entries(wanted) as [ContractKey, readonly string[]][]) {
      for (const name of names) {
        const entry = (abis[key] as Abi).find((item) => item.type === "event" && item.name === name) as AbiEvent;
        const [topic] = encodeEventTopics({ abi: [entry], eventName: name } as never) as [Hex];
        this.byTopic.set(topic, { abi: [entry], name });
      }
    }
  }

  /** All events up to the block, the oldest first. `progress`: 0 to 1 of what is left to read. */
  async readUntil(last: bigint, progress: (done: number) => void = () => {}): Promise<Event[]> {
    while (this.running) await this.running.catch(() => {});
    this.running = this.scan(last, progress);
    try {
      return await this.running;
    } finally {
      this.running = null;
    }
  }

  private async scan(last: bigint, progress: (done: number) => void): Promise<Event[]> {
    const begin = this.next;
    const found = this.events.filter((event) => event.block < begin);
    let at = begin;
    while (at <= last) {
      const end = at + this.span - 1n < last ? at + this.span - 1n : last;
      const logs = await this.fetch(at, end);
      if (!logs) continue;
      found.push(...(await this.decode(logs)));
      at = end + 1n;
      progress(Number(((at - begin) * 1000n) / (last - begin + 1n)) / 1000);
    }
    found.sort((a, b) => (a.block === b.block ? a.index - b.index : a.block < b.block ? -1 : 1));
    this.events = found;
    const settled = last + 1n - UNSETTLED_BLOCKS;
    if (settled > this.next) this.next = settled;
    return found.filter((event) => event.block <= last);
  }

  /** Null when the node wants a shorter stretch, which the next one is. */
  private async fetch(from: bigint, to: bigint): Promise<RawLog[] | null> {
    const filter = {
      address: this.addresses, topics: [[...this.byTopic.keys()]], fromBlock: numberToHex(from), toBlock: numberToHex(to),
    };
    try {
      return await this.rpc.request<RawLog[]>("eth_getLogs", [filter]);
    } catch (error) {
      if (!(error instanceof NodeError)) throw error;
      if (from === to || !(isRange(error) || this.span > 1n)) {
        throw new ReadError("bad_answer", `the node gives no events of block ${from}: ${error.message}`);
      }
      this.span = (to - from + 1n) / 2n;
      return null;
    }
  }

  private async decode(logs: RawLog[]): Promise<Event[]> {
    const times = await this.fetchTimes(logs);
    return logs.filter((log) => !log.removed).map((log) => {
      const known = this.byTopic.get(log.topics[0]);
      if (!known) throw new ReadError("bad_answer", "the node gave an event that nobody asked for");
      const { args } = decodeEventLog({ abi: known.abi, data: log.data, topics: log.topics }) as { args?: unknown };
      return {
        address: log.address.toLowerCase() as Address, name: known.name, args: (args ?? {}) as Record<string, unknown>,
        block: BigInt(log.blockNumber), index: Number(log.logIndex), atS: times.get(log.blockNumber)!,
        transaction: log.transactionHash,
      };
    });
  }

  /** Unix seconds of each log's block: newer nodes give them with the logs. */
  private async fetchTimes(logs: RawLog[]): Promise<Map<Hex, number>> {
    const times = new Map<Hex, number>();
    for (const log of logs) if (log.blockTimestamp) times.set(log.blockNumber, Number(log.blockTimestamp));
    const missing = [...new Set(logs.map((log) => log.blockNumber))].filter((number) => !times.has(number));
    const answers = await this.rpc.settleAll(
      missing.map((number) => ({ method: "eth_getBlockByNumber", params: [number, false] })),
    );
    answers.forEach((answer, index) => {
      const block = "result" in answer ? (answer.result as { timestamp: Hex } | null) : null;
      if (!block) throw new ReadError("bad_answer", `the node has no block ${missing[index]}`);
      times.set(missing[index]!, Number(block.timestamp));
    });
    return times;
  }
}
