import { encodeAbiParameters, numberToHex } from "viem";
import { describe, expect, it } from "vitest";
import { EventScan } from "./events";
import { NodeError, Rpc, type Request } from "./rpc";
import { at } from "./testing";

type Node = (request: Request) => unknown;
const healthy: Node = ({ method }) => (method === "eth_chainId" ? "0x7a69" : method === "eth_getCode" ? "0x60" : "0x1");
const asked: string[] = [];

/** Nodes as functions: faults that a real one shows only when it pleases. */
function rpcOf(nodes: Record<string, Node>, { batches = true } = {}): Rpc {
  asked.length = 0;
  const fetcher = async (input: unknown, init?: RequestInit) => {
    const node = nodes[String(input)]!;
    const body = JSON.parse(String(init!.body)) as (Request & { id: number }) | (Request & { id: number })[];
    const answer = (request: Request & { id: number }) => {
      asked.push(`${String(input)} ${request.method}`);
      const result = node(request);
      return result instanceof NodeError ? { id: request.id, error: { code: result.code, message: result.message } } : { id: request.id, result };
    };
    if (Array.isArray(body) && !batches) return Response.json({ id: null, error: { code: -32600, message: "no batches" } });
    return Response.json(Array.isArray(body) ? body.map(answer) : answer(body));
  };
  return new Rpc({ urls: Object.keys(nodes), chainId: 31337, dao: at(1), fetcher: fetcher as typeof fetch });
}

const away: Node = () => {
  throw new Error("connection refused");
};

describe("a node", () => {
  it("of another chain is not read from, and named when there is no other", async () => {
    const foreign: Node = (request) => (request.method === "eth_chainId" ? "0x1" : healthy(request));
    await expect(rpcOf({ a: foreign, b: away }).request("eth_blockNumber")).rejects.toMatchObject({ code: "wrong_chain" });
    expect(await rpcOf({ a: foreign, b: healthy }).request("eth_blockNumber")).toBe("0x1");
    expect(asked).not.toContain("a eth_blockNumber");
  });
  it("without the DAO is not read from", async () => {
    const empty: Node = (request) => (request.method === "eth_getCode" ? "0x" : healthy(request));
    await expect(rpcOf({ a: empty }).request("eth_blockNumber")).rejects.toMatchObject({ code: "not_deployed" });
  });
  it("that is away or busy is followed by the next", async () => {
    const busy: Node = (request) => (request.method === "eth_blockNumber" ? new NodeError(429, "slow down", null) : healthy(request));
    await expect(rpcOf({ a: away }).request("eth_blockNumber")).rejects.toMatchObject({ code: "unreachable" });
    expect(await rpcOf({ a: away, b: busy, c: healthy }).request("eth_blockNumber")).toBe("0x1");
  });
  it("that refuses is believed: no other is asked", async () => {
    const refusing: Node = (request) => (request.method === "eth_call" ? new NodeError(3, "execution reverted", "0x") : healthy(request));
    await expect(rpcOf({ a: refusing, b: healthy }).request("eth_call")).rejects.toBeInstanceOf(NodeError);
    expect(asked.filter((one) => one.startsWith("b"))).toEqual([]);
  });
  it("that takes no batches is asked one by one", async () => {
    const requests = ["eth_a", "eth_b"].map((method) => ({ method, params: [] }));
    expect(await rpcOf({ a: healthy }, { batches: false }).settleAll(requests)).toEqual([{ result: "0x1" }, { result: "0x1" }]);
  });
});

describe("events", () => {
  const log = (block: number) => ({
    address: at(1), data: encodeAbiParameters([{ type: "uint256" }], [BigInt(block)]), blockNumber: numberToHex(block),
    logIndex: "0x0", transactionHash: `0x${"11".repeat(32)}`, blockTimestamp: numberToHex(block * 10),
  });
  const nodeOf = (largest: number, ranges: number[][]): Node => (request) => {
    if (request.method !== "eth_getLogs") return healthy(request);
    const [{ fromBlock, toBlock, topics }] = request.params as [{ fromBlock: string; toBlock: string; topics: string[][] }];
    const [from, to] = [Number(fromBlock), Number(toBlock)];
    if (to - from + 1 > largest) return new NodeError(-32005, "query returned more than 10000 results", null);
    ranges.push([from, to]);
    const blocks = [100, 5_000, 90_000].filter((block) => from <= block && block <= to);
    return blocks.map((block) => ({ ...log(block), topics: [topics[0]![0]] }));
  };

  it("are read in stretches that shrink until the node takes them, and none is lost or told twice", async () => {
    const ranges: number[][] = [];
    const scan = new EventScan(rpcOf({ a: nodeOf(3_000, ranges) }), [at(1)], { dao: ["ProposalExecuted"] }, 0n);
    const events = await scan.readUntil(100_000n);
    expect(events.map((event) => [event.args.proposalId, event.atS])).toEqual([[100n, 1000], [5000n, 50000], [90000n, 900000]]);
    expect(ranges[0]![0]).toBe(0);
    for (let index = 1; index < ranges.length; index += 1) expect(ranges[index]![0]).toBe(ranges[index - 1]![1]! + 1);
    expect((await scan.readUntil(100_010n)).length).toBe(3);
    expect(ranges.at(-1)).toEqual([99_937, 100_010]);
  });
  it("that a node gives of no stretch at all are an error, not an empty list", async () => {
    const scan = new EventScan(rpcOf({ a: nodeOf(0, []) }), [at(1)], { dao: ["ProposalExecuted"] }, 0n);
    await expect(scan.readUntil(10n)).rejects.toMatchObject({ code: "bad_answer" });
  });
});
