/** Everything that the page shows, read at one block. What has happened comes from `history`, what is from the contracts. */

import { getAddress, keccak256, numberToHex, zeroAddress, zeroHash, type Address, type Hex } from "viem";
import {
  ReadError, type Action, type AgentView, type ArtefactReport, type Explanation, type LimitRow, type ManifestDetails, type Overview, type PageConfig,
  type Proposal, type ProposalState, type ProposalSummary, type Reader, type Trade, type VaultView, type VoterOnProposal,
  type VoterStatus,
} from "../model";
import { decodeAction, knownContracts, sameCalls } from "./actions";
import { Caller, encode, type Block, type Call } from "./calls";
import { firstBlockOf, grantsOf, marketOf, placesOf, resolve, type Market, type Places } from "./config";
import { checkArtefact, fetchArtefact, fetchExplanation } from "./documents";
import { EventHistory, GraphHistory, PreferGraph, type History, type HistoryReader, type ProposalRecord, type VaultRecord } from "./history";
import type { Rpc } from "./rpc";

const STATES: readonly ProposalState[] = [
  "pending", "active", "canceled", "defeated", "succeeded", "queued", "expired", "executed",
];
const VAULT_STATES = ["active", "reducing", "halted"] as const;
// Bits of Reasons.sol, lowest first.
const REASONS = [
  "DAY_LOSS", "DRAWDOWN", "COLLATERAL", "DEPOSIT", "PRICE_MISSING", "UNSETTLED", "GUARDIAN", "HALTED", "QUOTE_UNHEALTHY",
];
const BPS = 10_000n;
const POLL_MS = 4_000;
const TITLE_LENGTH = 140;

// What viem gives for a struct: small integers are numbers, others bigint.
type Struct = Record<string, bigint | number>;
interface Manifest {
  artefactHash: Hex;
  agentId: bigint;
  updates: Hex;
  vaultImplementation: Address;
  vaultCodeHash: Hex;
  venue: Address;
  venueCodeHash: Hex;
  assets: readonly { token: Address; route: bigint }[];
  limits: Struct;
  rewardRate: bigint;
  rewardCap: bigint;
  capital: bigint;
  salt: Hex;
}
type Calls = readonly [readonly Address[], readonly bigint[], readonly Hex[]];

/** First line of what the proposer wrote, without the marks of a heading and without the proposer's own mark. */
export function titleOf(description: string): string {
  const text = description.replace(/#proposer=0x[0-9a-fA-F]{40}$/, "");
  const line = text.split("\n").map((one) => one.replace(/^#+\s*/, "").trim()).find((one) => one !== "") ?? "";
  const letters = [...line];
  return letters.length > TITLE_LENGTH ? `${letters.slice(0, TITLE_LENGTH - 1).join("")}…` : line;
}

export function reasonNames(bits: number): string[] {
  return REASONS.filter((_, index) => bits & (1 << index));
}

export function limitRows(limits: Struct, ceilings: Struct, running: Struct | null): LimitRow[] {
  return Object.entries(limits).map(([name, value]) => ({
    name, value: BigInt(value), ceiling: BigInt(ceilings[name] ?? 0), running: running ? BigInt(running[name] ?? 0) : null,
  }));
}

export class ChainReader implements Reader {
  readonly places: Places;
  private readonly market: Market;
  private readonly history: HistoryReader;
  private readonly caller: Caller;
  private seen: { block: bigint; history: Promise<History> } | null = null;
  private decimals = new Map<string, { symbol: string | null; decimals: number }>();

  constructor(readonly config: PageConfig, readonly rpc: Rpc) {
    this.places = placesOf(config);
    this.market = marketOf(config);
    this.caller = new Caller(rpc, this.market.multicall);
    const graph = config.graph ? new GraphHistory(resolve(config.graph), this.places.dao) : null;
    this.history = new PreferGraph(graph, new EventHistory(rpc, this.places, firstBlockOf(config)));
  }

  private call(name: keyof Places, fn: string, args: readonly unknown[] = []): Call {
    const abi = name === "quote" ? "token" : name === "vault_implementation" ? "vault" : name;
    return { to: this.places[name], abi, name: fn, args };
  }

  /** The events up to the block: read once, however many views ask. */
  private async historyAt(block: Block, progress: (done: number) => void = () => {}): Promise<History> {
    if (this.seen?.block !== block.number) {
      this.seen = { block: block.number, history: this.history.fetch(block, progress) };
    }
    const { history } = this.seen;
    try {
      return await history;
    } catch (error) {
      if (this.seen?.history === history) this.seen = null;
      throw error;
    }
  }

  async fetchOverview(progress?: (done: number) => void): Promise<Overview> {
    const block = await this.caller.fetchBlock();
    const [history, fixed] = await Promise.all([this.historyAt(block, progress), this.fetchFixed(block)]);
    const [proposals, vaults, agents] = await Promise.all([
      this.fetchSummaries(history.proposals, block),
      Promise.all(history.vaults.map((vault) => this.viewVault(vault, block))),
      this.fetchAgents(history, block),
    ]);
    proposals.sort((a, b) => b.createdS - a.createdS);
    return { block: { number: block.number, timestampS: block.timestampS }, source: history.source, ...fixed, proposals, vaults, agents };
  }

  private async fetchFixed(block: Block): Promise<Pick<Overview, "token" | "quote" | "governance" | "treasuryQuote">> {
    const [symbol, decimals, supply, delay, period, timelock, grace, threshold, treasury, quoteSymbol, quoteDecimals] =
      (await this.caller.readAll([
        this.call("token", "symbol"), this.call("token", "decimals"), this.call("token", "totalSupply"),
        this.call("dao", "votingDelay"), this.call("dao", "votingPeriod"), this.call("timelock", "getMinDelay"),
        this.call("dao", "graceS"), this.call("dao", "proposalThreshold"),
        this.call("quote", "balanceOf", [this.places.treasury]), this.call("quote", "symbol"), this.call("quote", "decimals"),
      ], block.number)) as [string, number, bigint, bigint, bigint, bigint, number, bigint, bigint, string, number];
    return {
      token: { symbol, decimals, supplyWei: supply },
      quote: { symbol: quoteSymbol, decimals: quoteDecimals },
      governance: {
        votingDelayS: Number(delay), votingPeriodS: Number(period), timelockDelayS: Number(timelock), graceS: Number(grace),
        proposalThresholdWei: threshold,
      },
      treasuryQuote: treasury,
    };
  }

  // Proposals

  private async fetchSummaries(records: ProposalRecord[], block: Block): Promise<ProposalSummary[]> {
    const each = ["state", "proposalVotes", "proposalDeadline", "objectionDeadline", "proposalEta"];
    const calls = records.flatMap((record) => [
      ...each.map((name) => this.call("dao", name, [record.id])),
      // Of a snapshot that is not past yet: as it would be if no more votes moved.
      this.call("dao", "quorum", [BigInt(Math.min(record.voteStartS, block.timestampS - 1))]),
    ]);
    const found = await this.caller.readAll([this.call("dao", "graceS"), ...calls], block.number);
    const graceS = Number(found[0]);
    return records.map((record, index) => {
      const start = 1 + index * (each.length + 1);
      return summarise(record, found.slice(start, start + each.length + 1), graceS);
    });
  }

  private async recordOf(id: bigint, block: Block): Promise<{ record: ProposalRecord; history: History }> {
    const history = await this.historyAt(block);
    const record = history.proposals.find((one) => one.id === id);
    if (!record) throw new ReadError("not_found", `there is no proposal ${id}`);
    return { record, history };
  }

  async fetchProposal(id: bigint): Promise<Proposal> {
    const block = await this.caller.fetchBlock();
    const { record, history } = await this.recordOf(id, block);
    const known = knownContracts(this.places, {
      vaults: history.vaults.map((vault) => vault.address), grants: grantsOf(this.config), assets: this.market.assets.keys(),
    });
    const actions = record.calls.map((call) => decodeAction(call, known));
    const [[summary], { hash, matches }] = await Promise.all([
      this.fetchSummaries([record], block), this.compareCalls(record, actions, block),
    ]);
    const manifest = hash ? await this.fetchManifest(hash, block) : null;
    return {
      ...summary!, description: record.description, actions, manifest, manifestMatchesCalls: matches, votes: record.votes,
      transaction: record.transaction,
    };
  }

  /** The manifest that a proposal is about, and whether its calls are exactly those that the registry builds. */
  private async compareCalls(
    record: ProposalRecord, actions: Action[], block: Block,
  ): Promise<{ hash: Hex | null; matches: boolean | null }> {
    const noted = await this.caller.readOne<Hex>(this.call("dao", "manifestOf", [record.id]), block.number);
    const approved = actions.find((action) => action.kind === "strategies.approve")?.args.manifestHash as Hex | undefined;
    const hash = noted !== zeroHash ? noted : (approved ?? null);
    if (hash) {
      const built = await this.build("callsOf", [hash], block);
      return { hash, matches: built !== null && sameCalls(record.calls, built) };
    }
    const built = await this.rebuild(actions, block);
    return { hash: null, matches: built === undefined ? null : built !== null && sameCalls(record.calls, built) };
  }

  /** The calls of a recall or a retirement as the registry builds them; undefined when it is neither. */
  private async rebuild(actions: Action[], block: Block): Promise<Calls | null | undefined> {
    const first = actions[0];
    if (first?.kind === "strategies.retire") return this.build("retireCalls", [first.args.strategyId], block);
    if (first?.kind !== "treasury.recall") return undefined;
    const items = actions.filter((action) => action.kind === "treasury.recall").map(({ args }) => ({
      token: args.asset ?? args.token, amount: args.amount, fallbackPriceWad: args.fallbackPriceWad,
    }));
    return this.build("recallCalls", [first.args.strategyId, items], block);
  }

  private async build(name: string, args: readonly unknown[], block: Block): Promise<Calls | null> {
    const [calls] = await this.caller.readMany([this.call("strategies", name, args)], block.number);
    return calls as Calls | null;
  }

  private async fetchManifest(hash: Hex, block: Block): Promise<ManifestDetails | null> {
    const [found, ceilings] = (await this.caller.readMany(
      [this.call("strategies", "manifestOf", [hash]), this.call("constitution", "ceilings")], block.number,
    )) as [Manifest | null, Struct | null];
    if (!found || !ceilings || found.artefactHash === zeroHash) return null;
    const [running, venue, vault, assets] = await Promise.all([
      this.fetchRunning(found.updates, block), this.codeHash(found.venue, block), this.codeHash(found.vaultImplementation, block),
      this.fetchTokens(found.assets.map((asset) => asset.token), block),
    ]);
    const held = running && new Set(running.assets.map((asset) => asset.token.toLowerCase()));
    return {
      hash, artefactHash: found.artefactHash, agentId: found.agentId, updates: found.updates === zeroHash ? null : found.updates,
      limits: limitRows(found.limits, ceilings, running?.limits ?? null),
      assets: found.assets.map(({ token }, index) => ({
        token, symbol: assets[index]!.symbol, running: held ? held.has(token.toLowerCase()) : null,
      })),
      capitalQuote: found.capital, rewardRate: found.rewardRate, rewardCapWei: found.rewardCap,
      venue: found.venue, venueCodeMatches: venue === found.venueCodeHash,
      vaultImplementation: found.vaultImplementation, vaultCodeMatches: vault === found.vaultCodeHash,
      runningArtefactHash: running?.artefactHash ?? null,
    };
  }

  private async fetchRunning(updates: Hex, block: Block): Promise<Manifest | null> {
    if (updates === zeroHash) return null;
    const [strategy] = (await this.caller.readMany([this.call("strategies", "strategyOf", [updates])], block.number)) as [{ version: Hex } | null];
    if (!strategy || strategy.version === zeroHash) return null;
    const [found] = await this.caller.readMany([this.call("strategies", "manifestOf", [strategy.version])], block.number);
    return found as Manifest | null;
  }

  /** Of the code that is there now; null when there is none. */
  private async codeHash(address: Address, block: Block): Promise<Hex | null> {
    const code = await this.rpc.request<Hex>("eth_getCode", [address, numberToHex(block.number)]);
    return code && code !== "0x" ? keccak256(code) : null;
  }

  // Voters

  async fetchVoter(voter: Address): Promise<VoterStatus> {
    const block = await this.caller.fetchBlock();
    const [[balance, delegate, votes, nonce], code] = await Promise.all([
      this.caller.readAll([
        this.call("token", "balanceOf", [voter]), this.call("token", "delegates", [voter]),
        this.call("token", "getVotes", [voter]), this.call("dao", "nonces", [voter]),
      ], block.number) as Promise<[bigint, Address, bigint, bigint]>,
      this.rpc.request<Hex>("eth_getCode", [voter, "latest"]),
    ]);
    return {
      balanceWei: balance, delegate: delegate === zeroAddress ? null : delegate, votesNowWei: votes, nonce, isContract: code !== "0x",
    };
  }

  async fetchVoterOnProposal(voter: Address, proposalId: bigint): Promise<VoterOnProposal> {
    const block = await this.caller.fetchBlock();
    const { record } = await this.recordOf(proposalId, block);
    const isPast = record.voteStartS < block.timestampS;
    const [weight, hasVoted] = (await this.caller.readAll([
      isPast ? this.call("dao", "getVotes", [voter, BigInt(record.voteStartS)]) : this.call("token", "getVotes", [voter]),
      this.call("dao", "hasVoted", [proposalId, voter]),
    ], block.number)) as [bigint, boolean];
    const voted = record.votes.find((vote) => vote.voter.toLowerCase() === voter.toLowerCase()) ?? null;
    return { weightWei: weight, hasVoted, voted };
  }

  // Vaults and agents

  async fetchVault(address: Address): Promise<VaultView> {
    const block = await this.caller.fetchBlock();
    return this.viewVault(await this.vaultRecord(address, block), block);
  }

  async fetchTrades(vault: Address): Promise<Trade[]> {
    const block = await this.caller.fetchBlock();
    const { trades } = await this.vaultRecord(vault, block);
    const quote = this.places.quote.toLowerCase();
    const assets = trades.map((trade) => (trade.tokenIn.toLowerCase() === quote ? trade.tokenOut : trade.tokenIn));
    const tokens = await this.fetchTokens(assets, block);
    return trades.map(({ tokenIn, tokenOut: _out, agentId: _agent, ...trade }, index) => ({
      ...trade, isBuy: tokenIn.toLowerCase() === quote, asset: getAddress(assets[index]!), assetSymbol: tokens[index]!.symbol,
    }));
  }

  private async vaultRecord(address: Address, block: Block): Promise<VaultRecord> {
    const { vaults } = await this.historyAt(block);
    const found = vaults.find((vault) => vault.address.toLowerCase() === address.toLowerCase());
    if (!found) throw new ReadError("not_found", `there is no vault ${address}`);
    return found;
  }

  private async viewVault(record: VaultRecord, block: Block): Promise<VaultView> {
    const own = (name: string, args: readonly unknown[] = []): Call => ({ to: record.address, abi: "vault", name, args });
    const [status, limits, guard, book, assets, artefact, ceilings, account, vested, stopped] = (await this.caller.readMany([
      own("status"), own("limits"), own("guard"), own("book"), own("assets"), own("artefactHash"), this.call("constitution", "ceilings"),
      this.call("pool", "accountOf", [record.address]), this.call("pool", "vestedOf", [record.address]),
      this.call("constitution", "claimsStopped"),
    ], block.number)) as [
      { state: number; reasons: number; priced: boolean; value: bigint; unitPriceWad: bigint; profit: bigint } | null, Struct,
      { peak: bigint; reasons: number; haltedAt: number }, { quoteHeld: bigint }, { token: Address; decimals: number }[], Hex, Struct,
      { rate: bigint; credited: bigint; vestEndsAt: bigint; agentId: bigint }, readonly [bigint, bigint] | null, boolean,
    ];
    if (!limits || !guard || !book || !assets || !ceilings || !account) {
      throw new ReadError("bad_answer", `vault ${record.address} gives no answer`);
    }
    const isPriced = status?.priced ?? false;
    const [positions, claimableWei] = await Promise.all([
      this.fetchPositions(record.address, assets, block),
      stopped ? 0n : this.fetchClaimable(record.address, block),
    ]);
    const peak = BigInt(guard.peak);
    const price = isPriced ? status!.unitPriceWad : null;
    return {
      address: record.address, strategyId: record.strategyId, agentId: BigInt(account.agentId),
      state: VAULT_STATES[status?.state ?? (guard.haltedAt ? 2 : 1)] ?? "reducing",
      reasons: reasonNames(status?.reasons ?? guard.reasons),
      valueQuote: isPriced ? status!.value : null, profitQuote: isPriced ? status!.profit : null,
      allocatedQuote: record.allocatedQuote, recalledQuote: record.recalledQuote, unitPriceWad: price,
      peakWad: peak > 0n ? peak : null,
      drawdownBps: price === null || peak === 0n ? null : Number(peak > price ? ((peak - price) * BPS) / peak : 0n),
      limits: limitRows(limits, ceilings, null), artefactHash: artefact, positions, quoteHeld: book.quoteHeld,
      tradeCount: record.trades.length, refusalCount: record.refusalCount, history: record.history,
      account: {
        rate: account.rate, creditedQuote: account.credited, unvestedWei: vested?.[1] ?? 0n, claimableWei,
        vestEndsS: account.vestEndsAt > 0n ? Number(account.vestEndsAt) : null,
        rewardedWei: record.rewardedWei, clawedBackWei: record.clawedBackWei, claimedWei: record.claimedWei,
      },
    };
  }

  /** What `claim` would pay now: the pool's own answer, nothing where it refuses. */
  private async fetchClaimable(vault: Address, block: Block): Promise<bigint> {
    const [amount] = await this.caller.readMany([this.call("pool", "claim", [vault])], block.number);
    return (amount as bigint | null) ?? 0n;
  }

  private async fetchPositions(
    vault: Address, assets: { token: Address; decimals: number }[], block: Block,
  ): Promise<VaultView["positions"]> {
    const tokens = assets.map((asset) => asset.token);
    const [prices, ...held] = (await this.caller.readMany([
      this.call("oracle", "readMany", [tokens]),
      ...tokens.map((token): Call => ({ to: vault, abi: "vault", name: "positionOf", args: [token] })),
    ], block.number)) as [readonly [unknown, readonly { status: number; priceWad: bigint }[]] | null, ...(readonly [bigint, bigint] | { amount: bigint } | null)[]];
    const named = await this.fetchTokens(tokens, block);
    const quoteUnit = 10n ** BigInt(this.market.quoteDecimals);
    return assets.map(({ token, decimals }, index) => {
      const line = held[index];
      const amount = line ? ("amount" in line ? line.amount : line[0]) : 0n;
      const reading = prices?.[1][index];
      const value = reading?.status === 0 ? (amount * reading.priceWad * quoteUnit) / 10n ** BigInt(18 + decimals) : null;
      return { token, symbol: named[index]!.symbol, amount, decimals, valueQuote: amount === 0n ? 0n : value };
    });
  }

  /** Symbols as the configuration has them, else as the tokens call themselves. */
  private async fetchTokens(tokens: Address[], block: Block): Promise<{ symbol: string | null; decimals: number }[]> {
    const known = (token: Address) => this.market.assets.get(token.toLowerCase()) ?? this.decimals.get(token.toLowerCase());
    const missing = [...new Set(tokens.filter((token) => !known(token)))];
    const found = await this.caller.readMany(
      missing.flatMap((to): Call[] => [{ to, abi: "token", name: "symbol" }, { to, abi: "token", name: "decimals" }]), block.number,
    );
    missing.forEach((token, index) => {
      const symbol = found[2 * index] as string | null;
      this.decimals.set(token.toLowerCase(), { symbol: symbol?.slice(0, 20) ?? null, decimals: Number(found[2 * index + 1] ?? 18) });
    });
    return tokens.map((token) => known(token)!);
  }

  private async fetchAgents(history: History, block: Block): Promise<AgentView[]> {
    const count = await this.caller.readOne<bigint>(this.call("agents", "agentCount"), block.number);
    const ids = Array.from({ length: Number(count) }, (_, index) => BigInt(index + 1));
    const found = await this.caller.readMany([
      ...ids.flatMap((id) => [
        this.call("agents", "agentOf", [id]), this.call("agents", "controllerOf", [id]), this.call("agents", "tokenURI", [id]),
        this.call("pool", "vaultOf", [id]),
      ]),
      ...history.vaults.map((vault) => this.call("pool", "vestedOf", [vault.address])),
    ], block.number);
    const vested = found.slice(ids.length * 4) as (readonly [bigint, bigint] | null)[];
    return ids.map((id, index) => {
      const [agent, controller, uri, vault] = found.slice(index * 4, index * 4 + 4) as [
        { signingKey: Address; bond: bigint; deposit: bigint }, Address, string | null, Address,
      ];
      const own = history.vaults.map((one, at) => ({ ...one, owed: vested[at] })).filter((one) => one.agentId === id);
      const sum = (of: (one: (typeof own)[number]) => bigint) => own.reduce((total, one) => total + of(one), 0n);
      return {
        id, controller, signingKey: agent.signingKey, uri: uri ?? "", bondWei: agent.bond, depositQuote: agent.deposit,
        unclaimedWei: sum((one) => (one.owed?.[0] ?? 0n) + (one.owed?.[1] ?? 0n)), rewardedWei: sum((one) => one.rewardedWei),
        clawedBackWei: sum((one) => one.clawedBackWei), vault: vault === zeroAddress ? null : vault,
        tradeCount: own.reduce((total, one) => total + one.trades.length, 0),
      };
    });
  }

  // Documents

  fetchArtefact(expected: Hex): Promise<ArtefactReport> {
    return fetchArtefact(this.config.artefacts, expected);
  }

  checkArtefactFile(bytes: Uint8Array, expected: Hex): ArtefactReport {
    return checkArtefact(bytes, expected);
  }

  fetchExplanation(hash: Hex): Promise<Explanation> {
    return fetchExplanation(this.config.explanations, hash);
  }

  watch(changed: () => void): () => void {
    let last: string | null = null;
    const look = async () => {
      if (typeof document !== "undefined" && document.hidden) return;
      const now = await this.rpc.request<Hex>("eth_blockNumber").catch(() => null);
      if (now !== null && last !== null && now !== last) changed();
      last = now ?? last;
    };
    void look();
    const timer = setInterval(() => void look(), POLL_MS);
    return () => clearInterval(timer);
  }

  /** A call as an account would make it: what it returns. Throws what the node throws. */
  async simulate(from: Address, to: Address, data: Hex): Promise<Hex> {
    return this.rpc.request<Hex>("eth_call", [{ from, to, data }, "latest"]);
  }

  dataOf(name: keyof Places, fn: string, args: readonly unknown[]): Hex {
    const call = this.call(name, fn, args);
    return encode(call.abi, fn, args);
  }

  /** What a call returns now; null when it reverts, or when there is no such function. */
  async tryOne(call: Call): Promise<unknown> {
    const block = await this.caller.fetchBlock();
    return (await this.caller.readMany([call], block.number))[0] ?? null;
  }
}

function summarise(record: ProposalRecord, found: unknown[], graceS: number): ProposalSummary {
  const [state, votes, deadline, objection, eta, quorum] = found as [
    number, readonly [bigint, bigint, bigint], bigint, bigint, bigint, bigint,
  ];
  const named = STATES[state];
  if (!named) throw new ReadError("bad_answer", `proposal ${record.id} has the state ${state}, which is none`);
  const due = named === "succeeded" ? Number(deadline) : named === "queued" ? Number(eta) : null;
  return {
    id: record.id, title: titleOf(record.description), proposer: record.proposer, state: named,
    voteStartS: record.voteStartS, voteEndS: record.voteEndS, objectionEndsS: objection > 0n ? Number(objection) : null,
    etaS: eta > 0n ? Number(eta) : null, expiresS: due === null ? null : due + graceS,
    againstWei: votes[0], forWei: votes[1], abstainWei: votes[2], quorumWei: quorum, createdS: record.createdS,
  };
}
