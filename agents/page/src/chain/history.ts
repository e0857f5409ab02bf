/** What has happened: proposals, votes, trades, vaults' measurements. From the contracts' events, or from the subgraph. */

import {
  encodeAbiParameters, getAddress, keccak256, parseAbiParameters, stringToHex, type Address, type Hex,
} from "viem";
import { ReadError, type Support, type VoteRow } from "../model";
import type { RawCall } from "./actions";
import type { Block } from "./calls";
import type { Places } from "./config";
import { EventScan, type Event } from "./events";
import type { Rpc } from "./rpc";

export interface ProposalRecord {
  id: bigint;
  proposer: Address;
  calls: RawCall[];
  description: string;
  voteStartS: number;
  voteEndS: number;
  createdS: number;
  transaction: Hex;
  votes: VoteRow[];
}

export interface TradeRecord {
  vault: Address;
  agentId: bigint;
  sequence: number;
  id: Hex;
  atS: number;
  tokenIn: Address;
  tokenOut: Address;
  amountIn: bigint;
  amountOut: bigint;
  shortfallQuote: bigint;
  valueAfterQuote: bigint;
  unitPriceWad: bigint | null;
  explanationHash: Hex;
  artefactHash: Hex;
  transaction: Hex;
}

export interface VaultRecord {
  address: Address;
  strategyId: Hex;
  agentId: bigint;
  allocatedQuote: bigint;
  recalledQuote: bigint;
  refusalCount: number;
  rewardedWei: bigint;
  clawedBackWei: bigint;
  claimedWei: bigint;
  trades: TradeRecord[];
  history: { atS: number; unitPriceWad: bigint }[];
}

export interface History {
  source: "chain" | "graph";
  proposals: ProposalRecord[];
  vaults: VaultRecord[];
}

export interface HistoryReader {
  fetch(block: Block, progress: (done: number) => void): Promise<History>;
}

export const SUPPORTS: readonly Support[] = ["against", "for", "abstain"];
// A vault's first unit is worth 1e-12 of a base unit of quote: its price is value x 1e30 / units.
const PRICE_SCALE = 10n ** 30n;
const PRICE_MISSING = 16;

/** A proposal's id is the hash of what it does: nobody can show other calls, or another text, under it. */
export function hashProposal(calls: RawCall[], description: string): bigint {
  const encoded = encodeAbiParameters(parseAbiParameters("address[], uint256[], bytes[], bytes32"), [
    calls.map((call) => call.target), calls.map((call) => call.valueWei), calls.map((call) => call.calldata),
    keccak256(stringToHex(description)),
  ]);
  return BigInt(keccak256(encoded));
}

/** The same, of text as the chain has it: bytes that need not be UTF-8. */
function requireOwnId(record: ProposalRecord): ProposalRecord {
  if (hashProposal(record.calls, record.description) !== record.id) {
    throw new ReadError("bad_answer", `what is said of proposal ${record.id} is not what its id was made of`);
  }
  return record;
}

// From events

const GOVERNANCE = { dao: ["ProposalCreated", "VoteCast", "VoteCastWithParams"] } as const;
const PROTOCOL = {
  factory: ["VaultCreated"], ledger: ["TradeRecorded"],
  pool: ["VaultRegistered", "Rewarded", "ClawedBack", "Claimed", "ProfitObserved"],
} as const;
const VAULT = { vault: ["Allocated", "Recalled", "WrittenOff", "StateChanged", "TradeRefused", "Resumed"] } as const;

export class EventHistory implements HistoryReader {
  private readonly protocol: EventScan;
  private vaults: { at: string; scan: EventScan } | null = null;
  private readonly from: bigint;

  constructor(private readonly rpc: Rpc, places: Places, from: bigint) {
    this.from = from;
    this.protocol = new EventScan(
      rpc, [places.dao, places.factory, places.ledger, places.pool], { ...GOVERNANCE, ...PROTOCOL }, from,
    );
  }

  async fetch(block: Block, progress: (done: number) => void): Promise<History> {
    const events = await this.protocol.readUntil(block.number, (done) => progress(done * 0.8));
    const vaults = events.filter((event) => event.name === "VaultCreated").map((event) => event.args.vault as Address);
    const own = vaults.length ? await this.scanOf(vaults).readUntil(block.number, (done) => progress(0.8 + done * 0.2)) : [];
    progress(1);
    const all = [...events, ...own].sort((a, b) => (a.block === b.block ? a.index - b.index : a.block < b.block ? -1 : 1));
    return { source: "chain", proposals: foldProposals(events), vaults: foldVaults(all) };
  }

  private scanOf(vaults: Address[]): EventScan {
    const at = vaults.join();
    if (this.vaults?.at !== at) this.vaults = { at, scan: new EventScan(this.rpc, vaults, VAULT, this.from) };
    return this.vaults.scan;
  }
}

export function foldProposals(events: Event[]): ProposalRecord[] {
  const found = new Map<bigint, ProposalRecord>();
  for (const { name, args, atS, transaction } of events) {
    if (name === "ProposalCreated") {
      const calls = (args.targets as Address[]).map((target, index) => ({
        target, valueWei: args.values[index] as bigint, calldata: args.calldatas[index] as Hex,
      }));
      found.set(args.proposalId, {
        id: args.proposalId, proposer: args.proposer, calls, description: args.description,
        voteStartS: Number(args.voteStart), voteEndS: Number(args.voteEnd), createdS: atS, transaction, votes: [],
      });
    } else if (name === "VoteCast" || name === "VoteCastWithParams") {
      found.get(args.proposalId)?.votes.push({
        voter: args.voter, support: SUPPORTS[args.support as number]!, weightWei: args.weight, reason: args.reason, atS, transaction,
      });
    }
  }
  return [...found.values()];
}

type Book = VaultRecord & { units: bigint; netFlow: bigint; worth: bigint | null };

export function foldVaults(events: Event[]): VaultRecord[] {
  const books = new Map<string, Book>();
  const bookOf = (address: string) => books.get(address.toLowerCase());
  for (const event of events) {
    if (event.name === "VaultCreated") books.set(event.args.vault.toLowerCase(), newBook(event));
    else applyTo(bookOf(event.args.vault ?? event.address), event);
  }
  return [...books.values()].map(({ units: _units, netFlow: _flow, worth: _worth, ...record }) => record);
}

const newBook = ({ args }: Event): Book => ({
  address: getAddress(args.vault), strategyId: args.strategyId, agentId: 0n, allocatedQuote: 0n, recalledQuote: 0n,
  refusalCount: 0, rewardedWei: 0n, clawedBackWei: 0n, claimedWei: 0n, trades: [], history: [], units: 0n, netFlow: 0n, worth: null,
});

function applyTo(book: Book | undefined, event: Event): void {
  const { name, args, atS } = event;
  if (!book) return;
  const mark = (unitPriceWad: bigint) => void book.history.push({ atS, unitPriceWad });
  if (name === "VaultRegistered") book.agentId = BigInt(args.agentId);
  else if (name === "Allocated") {
    book.units += args.units;
    book.netFlow -= args.amount;
    book.allocatedQuote += args.amount;
    if (args.unitPriceWad > 0n) mark(args.unitPriceWad);
  } else if (name === "Recalled") {
    book.units -= args.units;
    book.netFlow += args.value;
    book.recalledQuote += args.value;
  } else if (name === "StateChanged") {
    if (args.unitPriceWad > 0n && !(args.reasons & PRICE_MISSING)) mark(args.unitPriceWad);
  } else if (name === "TradeRefused") book.refusalCount += 1;
  else if (name === "Rewarded") book.rewardedWei += args.reward;
  else if (name === "ClawedBack") book.clawedBackWei += args.fromUnclaimed + args.fromBond;
  else if (name === "Claimed") book.claimedWei += args.amount;
  else if (name === "ProfitObserved" && book.units > 0n) mark(((args.profit - book.netFlow) * PRICE_SCALE) / book.units);
  else if (name === "TradeRecorded") book.trades.push(tradeOf(book, event, mark));
}

function tradeOf(book: Book, { args, atS, transaction }: Event, mark: (price: bigint) => void): TradeRecord {
  const trade = args.trade;
  const isPriced = !(trade.reasons & PRICE_MISSING) && book.units > 0n;
  const unitPriceWad = isPriced ? ((trade.netAssetValue as bigint) * PRICE_SCALE) / book.units : null;
  if (unitPriceWad !== null) mark(unitPriceWad);
  return {
    vault: book.address, agentId: BigInt(trade.agentId), sequence: Number(trade.sequence), id: args.id, atS,
    tokenIn: trade.tokenIn, tokenOut: trade.tokenOut, amountIn: trade.amountIn, amountOut: trade.amountOut,
    shortfallQuote: trade.shortfall, valueAfterQuote: trade.netAssetValue, unitPriceWad,
    explanationHash: trade.explanationHash, artefactHash: trade.artefactHash, transaction,
  };
}

// From the subgraph

const PAGE_SIZE = 1000;
// A graph that is further behind than this tells an old story.
const MAX_BEHIND_S = 120;

const QUERIES = {
  proposals: "proposer targets values calldatas description voteStart voteEnd createdAt transaction",
  votes: "proposal { id } voter support weight reason timestamp transaction",
  vaults: `strategy { id } agent { id } allocated recalled refusalCount account { rewarded clawedBack claimed }`,
  trades: `vault { id } agent { id } sequence tokenIn tokenOut amountIn amountOut shortfall netAssetValue unitPrice
    explanationHash artefactHash timestamp transaction`,
  vaultStateChanges: "vault { id } reasons unitPrice timestamp",
  vaultHourSnapshots: "vault { id } periodStart closeUnitPrice",
} as const;

// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Row = Record<string, any>;

export class GraphHistory implements HistoryReader {
  constructor(
    private readonly url: string,
    private readonly dao: Address,
    private readonly fetcher: typeof fetch = (...args) => globalThis.fetch(...args),
  ) {}

  /** Throws whatever goes wrong: the chain is asked then. */
  async fetch(block: Block, progress: (done: number) => void): Promise<History> {
    const meta = await this.query("{ _meta { block { number hash timestamp } hasIndexingErrors } governances { id } }");
    if (meta._meta.hasIndexingErrors) throw new Error("the subgraph has failed");
    if (!meta.governances.some((row: Row) => row.id.toLowerCase() === this.dao.toLowerCase())) {
      throw new Error("the subgraph is of another DAO");
    }
    const at = meta._meta.block as { number: number; timestamp: number | null };
    const missing = block.number - BigInt(at.number);
    if (missing > 0n && !(at.timestamp && block.timestampS - at.timestamp <= MAX_BEHIND_S)) throw new Error("the subgraph is behind");
    const rows = {} as Record<keyof typeof QUERIES, Row[]>;
    const fields = Object.keys(QUERIES) as (keyof typeof QUERIES)[];
    await Promise.all(fields.map(async (field, index) => {
      rows[field] = await this.fetchAll(field, at.number);
      progress((index + 1) / fields.length);
    }));
    return { source: "graph", proposals: graphProposals(rows), vaults: graphVaults(rows) };
  }

  private async fetchAll(field: keyof typeof QUERIES, block: number): Promise<Row[]> {
    const found: Row[] = [];
    for (let last = ""; ; ) {
      const where = `first: ${PAGE_SIZE}, orderBy: id, where: { id_gt: ${JSON.stringify(last)} }, block: { number: ${block} }`;
      const first = `first: ${PAGE_SIZE}, orderBy: id, block: { number: ${block} }`;
      const page = (await this.query(`{ ${field}(${last ? where : first}) { id ${QUERIES[field]} } }`))[field] as Row[];
      found.push(...page);
      if (page.length < PAGE_SIZE) return found;
      last = page[page.length - 1]!.id;
    }
  }

  private async query(query: string): Promise<Row> {
    const response = await this.fetcher(this.url, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ query }),
      signal: AbortSignal.timeout(10_000),
    });
    const answer = (await response.json()) as { data?: Row; errors?: { message: string }[] };
    if (!response.ok || answer.errors?.length || !answer.data) throw new Error(answer.errors?.[0]?.message ?? "no answer");
    return answer.data;
  }
}

/** `Map.groupBy`, which browsers of last year do not have. */
function groupBy(rows: Row[], keyOf: (row: Row) => string): Map<string, Row[]> {
  const found = new Map<string, Row[]>();
  for (const row of rows) {
    const key = keyOf(row);
    const group = found.get(key);
    if (group) group.push(row);
    else found.set(key, [row]);
  }
  return found;
}

const byTime = (a: { atS: number }, b: { atS: number }) => a.atS - b.atS;

function graphProposals(rows: Record<string, Row[]>): ProposalRecord[] {
  const votes = groupBy(rows.votes!, (row) => row.proposal.id as string);
  return rows.proposals!.map((row) => requireOwnId({
    id: BigInt(row.id), proposer: getAddress(row.proposer),
    calls: row.targets.map((target: Hex, index: number) => ({
      target: getAddress(target), valueWei: BigInt(row.values[index]), calldata: row.calldatas[index],
    })),
    description: row.description, voteStartS: Number(row.voteStart), voteEndS: Number(row.voteEnd),
    createdS: Number(row.createdAt), transaction: row.transaction,
    votes: (votes.get(row.id) ?? []).map((vote) => ({
      voter: getAddress(vote.voter), support: vote.support.toLowerCase() as Support, weightWei: BigInt(vote.weight),
      reason: vote.reason, atS: Number(vote.timestamp), transaction: vote.transaction,
    })).sort(byTime),
  }));
}

function graphVaults(rows: Record<string, Row[]>): VaultRecord[] {
  const of = (field: string) => groupBy(rows[field]!, (row) => row.vault.id as string);
  const [trades, changes, hours] = [of("trades"), of("vaultStateChanges"), of("vaultHourSnapshots")];
  return rows.vaults!.map((row) => {
    const own = (trades.get(row.id) ?? []).map(graphTrade).sort((a, b) => a.sequence - b.sequence);
    const points = [
      ...own.map((trade) => ({ atS: trade.atS, unitPriceWad: trade.unitPriceWad })),
      ...(changes.get(row.id) ?? []).map((change) => ({
        atS: Number(change.timestamp), unitPriceWad: change.reasons & PRICE_MISSING ? null : BigInt(change.unitPrice),
      })),
      // An hour's close is the last of its measurements: placed at its end, and nothing later is lost.
      ...(hours.get(row.id) ?? []).map((hour) => ({
        atS: Number(hour.periodStart) + 3599, unitPriceWad: hour.closeUnitPrice === null ? null : BigInt(hour.closeUnitPrice),
      })),
    ];
    return {
      address: getAddress(row.id), strategyId: row.strategy?.id ?? "0x", agentId: BigInt(row.agent.id),
      allocatedQuote: BigInt(row.allocated), recalledQuote: BigInt(row.recalled), refusalCount: Number(row.refusalCount),
      rewardedWei: BigInt(row.account?.rewarded ?? 0), clawedBackWei: BigInt(row.account?.clawedBack ?? 0),
      claimedWei: BigInt(row.account?.claimed ?? 0), trades: own,
      history: points.filter((point): point is { atS: number; unitPriceWad: bigint } => !!point.unitPriceWad).sort(byTime),
    };
  });
}

const graphTrade = (row: Row): TradeRecord => ({
  vault: getAddress(row.vault.id), agentId: BigInt(row.agent.id), sequence: Number(row.sequence), id: row.id,
  atS: Number(row.timestamp), tokenIn: getAddress(row.tokenIn), tokenOut: getAddress(row.tokenOut),
  amountIn: BigInt(row.amountIn), amountOut: BigInt(row.amountOut), shortfallQuote: BigInt(row.shortfall),
  valueAfterQuote: BigInt(row.netAssetValue), unitPriceWad: row.unitPrice === null ? null : BigInt(row.unitPrice),
  explanationHash: row.explanationHash, artefactHash: row.artefactHash, transaction: row.transaction,
});

/** The subgraph's story when there is one that is whole and fresh, else the events'. */
export class PreferGraph implements HistoryReader {
  constructor(private readonly graph: HistoryReader | null, private readonly events: HistoryReader) {}

  async fetch(block: Block, progress: (done: number) => void): Promise<History> {
    if (this.graph) {
      try {
        return await this.graph.fetch(block, progress);
      } catch {
        // The page works without: the source that is shown says which it was.
      }
    }
    return this.events.fetch(block, progress);
  }
}

