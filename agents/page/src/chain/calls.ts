/** Many contract reads at one block: through Multicall3 where the chain has it, else as a JSON-RPC batch. */

import { decodeFunctionResult, encodeFunctionData, numberToHex, type Abi, type Address, type Hex } from "viem";
import { abis } from "virtual:contracts";
import { ReadError } from "../model";
import { NodeError, type Rpc } from "./rpc";

export type ContractKey = keyof typeof abis;

export interface Call {
  to: Address;
  abi: ContractKey;
  name: string;
  args?: readonly unknown[];
}

export interface Block {
  number: bigint;
  timestampS: number;
  hash: Hex;
}

// Where the canonical Multicall3 lies on every public chain (https://www.multicall3.com/deployments).
const MULTICALL3: Address = "0xcA11bde05977b3631167028862bE2a173976CA11";
const CHUNK = 150;

type Returned = { success: boolean; returnData: Hex };

export class Caller {
  private multicall: Promise<Address | null> | null = null;

  constructor(private readonly rpc: Rpc, private readonly known: Address | null) {}

  async fetchBlock(tag: "latest" | bigint = "latest"): Promise<Block> {
    const at = tag === "latest" ? tag : numberToHex(tag);
    const raw = await this.rpc.request<{ number: Hex; timestamp: Hex; hash: Hex } | null>("eth_getBlockByNumber", [at, false]);
    if (!raw) throw new ReadError("bad_answer", `the node has no block ${at}`);
    return { number: BigInt(raw.number), timestampS: Number(raw.timestamp), hash: raw.hash };
  }

  /** What each call returns; null for one that reverts. Values are as viem decodes them. */
  async readMany(calls: Call[], block: bigint): Promise<unknown[]> {
    const datas = calls.map(({ abi, name, args }) => encode(abi, name, args));
    const returned: (Hex | null)[] = [];
    for (let start = 0; start < calls.length; start += CHUNK) {
      returned.push(...(await this.run(calls.slice(start, start + CHUNK), datas.slice(start, start + CHUNK), block)));
    }
    return returned.map((data, index) => (data === null ? null : decode(calls[index]!, data)));
  }

  /** The same, where none may revert. Throws ReadError naming the one that did. */
  async readAll(calls: Call[], block: bigint): Promise<unknown[]> {
    const found = await this.readMany(calls, block);
    const missing = found.indexOf(null);
    if (missing >= 0) throw new ReadError("bad_answer", `${calls[missing]!.name} of ${calls[missing]!.to} gives no answer`);
    return found;
  }

  async readOne<T>(call: Call, block: bigint): Promise<T> {
    return (await this.readAll([call], block))[0] as T;
  }

  private async run(calls: Call[], datas: Hex[], block: bigint): Promise<(Hex | null)[]> {
    const at = await (this.multicall ??= this.findMulticall());
    if (!at || calls.length === 1) return this.runInBatch(calls, datas, block);
    const wrapped = calls.map((call, index) => ({ target: call.to, allowFailure: true, callData: datas[index] }));
    try {
      const data = await this.rpc.request<Hex>("eth_call", [
        { to: at, data: encode("multicall", "aggregate3", [wrapped]) }, numberToHex(block),
      ]);
      const found = decode({ to: at, abi: "multicall", name: "aggregate3" }, data) as Returned[];
      return found.map(({ success, returnData }) => (success ? returnData : null));
    } catch (error) {
      // Some nodes allow one call less gas than so many need together.
      if (error instanceof NodeError) return this.runInBatch(calls, datas, block);
      throw error;
    }
  }

  private async runInBatch(calls: Call[], datas: Hex[], block: bigint): Promise<(Hex | null)[]> {
    const tag = numberToHex(block);
    const answers = await this.rpc.settleAll(
      calls.map(({ to }, index) => ({ method: "eth_call", params: [{ to, data: datas[index] }, tag] })),
    );
    return answers.map((answer) => {
      if ("result" in answer) return answer.result as Hex;
      if (isRevert(answer.error)) return null;
      throw new ReadError("bad_answer", `the node refuses a call: ${answer.error.message}`);
    });
  }

  private async findMulticall(): Promise<Address | null> {
    const candidates = this.known ? [this.known, MULTICALL3] : [MULTICALL3];
    for (const candidate of candidates) {
      const code = await this.rpc.request<Hex>("eth_getCode", [candidate, "latest"]);
      if (code && code !== "0x") return candidate;
    }
    return null;
  }
}

export function isRevert(error: NodeError): boolean {
  return error.code === 3 || /revert|invalid opcode|out of gas|execution/i.test(error.message);
}

export function encode(abi: ContractKey, functionName: string, args: readonly unknown[] = []): Hex {
  return encodeFunctionData({ abi: abis[abi] as Abi, functionName, args } as never);
}

/** Null when what came back is not what the function returns, as from an address without its code. */
function decode({ abi, name, args }: Call, data: Hex): unknown {
  try {
    return decodeFunctionResult({ abi: abis[abi] as Abi, functionName: name, args: args ?? [], data } as never);
  } catch {
    return null;
  }
}
