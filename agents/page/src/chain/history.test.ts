import { describe, expect, it } from "vitest";
import type { Event } from "./events";
import { foldProposals, foldVaults, GraphHistory, hashProposal, PreferGraph, type History } from "./history";
import { limitRows, reasonNames, titleOf } from "./reader";
import { at } from "./testing";

const BLOCK = { number: 100n, timestampS: 5_000, hash: "0x" } as const;
const calls = [{ target: at(2), valueWei: 0n, calldata: "0x1234" }] as const;
const ID = hashProposal([...calls], "a text");
const row = (over: object = {}) => ({
  id: ID.toString(), proposer: at(3), targets: [at(2)], values: ["0"], calldatas: ["0x1234"], description: "a text", voteStart: "10",
  voteEnd: "20", createdAt: "5", transaction: "0x", ...over,
});

/** A subgraph that answers these rows. */
function graphOf(data: Record<string, unknown[]>, meta: object = {}, dao = at(1)): GraphHistory {
  const fetcher = async (_: unknown, init?: RequestInit) => {
    const { query } = JSON.parse(String(init!.body)) as { query: string };
    const block = { number: 100, hash: "0x", timestamp: 5_000, ...meta };
    if (query.includes("_meta")) {
      return Response.json({ data: { _meta: { block, hasIndexingErrors: false, ...meta }, governances: [{ id: dao.toLowerCase() }] } });
    }
    const field = /\{ (\w+)/.exec(query)![1]!;
    return Response.json({ data: { [field]: data[field] ?? [] } });
  };
  return new GraphHistory("https://graph.example", at(1), fetcher as typeof fetch);
}

const chain = { fetch: async () => ({ source: "chain", proposals: [], vaults: [] }) as History };
const sourceWith = async (graph: GraphHistory) => (await new PreferGraph(graph, chain).fetch(BLOCK, () => {})).source;

describe("the subgraph is not believed", () => {
  it.each([
    ["when it is of another DAO", graphOf({}, {}, at(2))],
    ["when it has failed", graphOf({}, { hasIndexingErrors: true })],
    ["when it is behind", graphOf({}, { number: 50, timestamp: 1_000 })],
    ["when it is behind and does not say how far", graphOf({}, { number: 50, timestamp: null })],
    ["when a proposal's calls are not those that its id was made of", graphOf({ proposals: [row({ calldatas: ["0x9999"] })] })],
    ["when a proposal's text is another", graphOf({ proposals: [row({ description: "another" })] })],
    ["when it leaves out a field", graphOf({ proposals: [row({ targets: undefined })] })],
  ])("%s: the chain is read", async (_, graph) => {
    expect(await sourceWith(graph)).toBe("chain");
  });
  it("and is when all that can be checked is right", async () => {
    const graph = graphOf({
      proposals: [row()],
      votes: [{ proposal: { id: ID.toString() }, voter: at(4), support: "AGAINST", weight: (2n ** 80n).toString(), reason: "", timestamp: "12", transaction: "0x" }],
    });
    const found = await new PreferGraph(graph, chain).fetch(BLOCK, () => {});
    expect(found.source).toBe("graph");
    expect(found.proposals[0]).toMatchObject({ id: ID, calls: [...calls], votes: [{ support: "against", weightWei: 2n ** 80n }] });
  });
});

const event = (name: string, args: object, over: Partial<Event> = {}): Event => ({
  address: at(9), name, args, block: 1n, index: 0, atS: 50, transaction: "0x", ...over,
});

describe("events", () => {
  it("give each vote to its proposal", () => {
    const created = event("ProposalCreated", {
      proposalId: ID, proposer: at(3), targets: [at(2)], values: [0n], calldatas: ["0x1234"], voteStart: 10n, voteEnd: 20n, description: "a text",
    });
    const votes = [0, 1, 2].map((support) => event("VoteCast", { voter: at(support), proposalId: ID, support, weight: 5n, reason: "" }));
    const stray = event("VoteCast", { voter: at(1), proposalId: 7n, support: 1, weight: 5n, reason: "" });
    expect(foldProposals([created, ...votes, stray])[0]!.votes.map((vote) => vote.support)).toEqual(["against", "for", "abstain"]);
  });
  it("give a vault's unit price at each trade and observation, and none where a price was missing", () => {
    const vault = at(9);
    const trade = (reasons: number, netAssetValue: bigint) => event("TradeRecorded", {
      id: "0x1", vault, trade: { agentId: 1n, sequence: 0n, reasons, netAssetValue, amountIn: 1n, amountOut: 2n, shortfall: -1n, tokenIn: at(1), tokenOut: at(2) },
    });
    const [book] = foldVaults([
      event("VaultCreated", { vault, strategyId: "0xab" }), event("VaultRegistered", { vault, agentId: 3n }),
      event("Allocated", { amount: 1_000n, units: 1_000n * 10n ** 12n, unitPriceWad: 10n ** 18n }, { address: vault.toLowerCase() as `0x${string}` }),
      trade(0, 1_100n), trade(16, 500n), event("ProfitObserved", { vault, profit: -100n }),
      event("Recalled", { units: 500n * 10n ** 12n, value: 450n }, { address: vault }), event("ClawedBack", { vault, fromUnclaimed: 2n, fromBond: 3n }),
    ]);
    expect(book!.history.map((one) => one.unitPriceWad)).toEqual([10n ** 18n, 11n * 10n ** 17n, 9n * 10n ** 17n]);
    expect(book!.trades.map((one) => one.unitPriceWad)).toEqual([11n * 10n ** 17n, null]);
    expect(book).toMatchObject({ agentId: 3n, allocatedQuote: 1_000n, recalledQuote: 450n, clawedBackWei: 5n });
    expect(book).not.toHaveProperty("units");
  });
});

describe("what people read", () => {
  it("is a title of one line, without marks, and never longer than a line", () => {
    expect(titleOf(`# Trade <b>ETH</b>\n\nMore\n#proposer=${at(1)}`)).toBe("Trade <b>ETH</b>");
    expect(titleOf(`#proposer=${at(1)}`)).toBe("");
    expect([...titleOf("😀".repeat(500))]).toHaveLength(140);
  });
  it("names every reason, and puts a limit beside its ceiling and what runs", () => {
    expect(reasonNames(1 | 16 | 256)).toEqual(["DAY_LOSS", "PRICE_MISSING", "QUOTE_UNHEALTHY"]);
    expect(limitRows({ a: 1 }, { a: 2 }, { a: 3 })).toEqual([{ name: "a", value: 1n, ceiling: 2n, running: 3n }]);
    expect(limitRows({ a: 1 }, { a: 2 }, null)[0]!.running).toBeNull();
  });
});
