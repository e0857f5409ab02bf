import { decodeFunctionData, encodeErrorResult, type Abi } from "viem";
import { abis, errors } from "virtual:contracts";
import { describe, expect, it } from "vitest";
import type { Wallet } from "../model";
import { parseConfig } from "./config";
import { ChainReader } from "./reader";
import { Rpc } from "./rpc";
import { at, CONFIG, PLACES } from "./testing";
import { BrowserWallet, toWalletError, type EventfulProvider } from "./wallet";

const ACCOUNT = at(77);

/** A wallet that answers as told; by itself on the right chain, with one account, willing. */
class Told implements EventfulProvider {
  readonly asked: { method: string; params: unknown }[] = [];
  private readonly listeners = new Map<string, (value: never) => void>();
  constructor(private readonly answers: Record<string, (params: unknown[]) => unknown> = {}) {}

  async request({ method, params }: { method: string; params?: unknown }): Promise<unknown> {
    this.asked.push({ method, params });
    const usual: Record<string, unknown> = {
      eth_requestAccounts: [ACCOUNT], eth_accounts: [ACCOUNT], eth_chainId: "0x7a69", eth_getCode: "0x60", eth_call: "0x",
      eth_sendTransaction: `0x${"22".repeat(32)}`, eth_getTransactionReceipt: { status: "0x1", blockNumber: "0x9" },
      eth_signTypedData_v4: `0x${"11".repeat(64)}1b`,
    };
    const answer = this.answers[method];
    return answer ? answer(params as unknown[]) : usual[method];
  }
  on(event: string, listener: (value: never) => void): void {
    this.listeners.set(event, listener);
  }
  removeListener(event: string): void {
    this.listeners.delete(event);
  }
  emit(event: string, value: unknown): void {
    this.listeners.get(event)?.(value as never);
  }
  count(method: string): number {
    return this.asked.filter((one) => one.method === method).length;
  }
}

async function open(provider: Told, changed: (wallet: Wallet | null) => void = () => {}): Promise<BrowserWallet> {
  const config = parseConfig({ ...CONFIG, rpc: [] });
  const reader = new ChainReader({ ...config, rpc: ["https://node.example"] }, new Rpc({ urls: [], chainId: 31337, dao: PLACES.dao! }));
  return (await BrowserWallet.open({ id: "injected", name: "told", icon: null }, provider, reader, changed, true))!;
}

const fail = (code: number, message: string, data?: unknown) => () => {
  throw Object.assign(new Error(message), { code, data });
};

describe("a wallet that does not do it", () => {
  it("says no to connecting", async () => {
    await expect(open(new Told({ eth_requestAccounts: fail(4001, "User rejected") }))).rejects.toMatchObject({ code: "rejected" });
    await expect(open(new Told({ eth_requestAccounts: () => [] }))).rejects.toMatchObject({ code: "no_account" });
  });
  it("says no to signing and to sending", async () => {
    const wallet = await open(new Told({ eth_signTypedData_v4: fail(4001, "no"), eth_sendTransaction: fail(4001, "no") }));
    await expect(wallet.signBallot(1n, "for", "", 0n)).rejects.toMatchObject({ code: "rejected" });
    await expect(wallet.voteDirectly(1n, "for", "")).rejects.toMatchObject({ code: "rejected" });
  });
  it("is on another chain: nothing is signed or sent there", async () => {
    const provider = new Told({ eth_chainId: () => "0x1" });
    const wallet = await open(provider);
    await expect(wallet.signBallot(1n, "for", "", 0n)).rejects.toMatchObject({ code: "wrong_chain" });
    await expect(wallet.delegate(at(1))).rejects.toMatchObject({ code: "wrong_chain" });
    expect(provider.count("eth_signTypedData_v4") + provider.count("eth_sendTransaction")).toBe(0);
  });
  it("is never asked to send what the chain would refuse, which is told by name", async () => {
    const data = encodeErrorResult({ abi: errors as Abi, errorName: "GovernorAlreadyCastVote", args: [ACCOUNT] });
    const provider = new Told({ eth_call: fail(3, "execution reverted", data) });
    const wallet = await open(provider);
    await expect(wallet.voteDirectly(1n, "for", "")).rejects.toMatchObject({
      code: "reverted", message: `GovernorAlreadyCastVote(voter=${ACCOUNT})`,
    });
    expect(provider.count("eth_sendTransaction")).toBe(0);
  });
  it("can't pay", () => {
    expect(toWalletError({ code: -32000, message: "insufficient funds for gas * price + value" }).code).toBe("no_funds");
    expect(toWalletError({ code: -32603, message: "Internal", data: { originalError: { code: 4001, message: "denied" } } }).code).toBe("rejected");
    expect(toWalletError({ code: 4200, message: "no such method" }).code).toBe("unsupported");
  });
  it("tells when a transaction reverts in its block", async () => {
    const wallet = await open(new Told({ eth_getTransactionReceipt: () => ({ status: "0x0", blockNumber: "0x9" }) }));
    expect(await wallet.voteDirectly(1n, "for", "")).toMatchObject({ status: "reverted" });
  });
});

describe("a wallet", () => {
  it("shows a ballot's fields, with numbers that lose no digit", async () => {
    const provider = new Told();
    const wallet = await open(provider);
    const id = 2n ** 255n + 1n;
    const signed = await wallet.signBallot(id, "abstain", "because", 3n);
    expect(signed).toMatchObject({ proposal_id: id.toString(), support: "abstain", voter: ACCOUNT, nonce: 3, reason: "because" });
    const [account, json] = provider.asked.find((one) => one.method === "eth_signTypedData_v4")!.params as [string, string];
    const typed = JSON.parse(json);
    expect(account).toBe(ACCOUNT);
    expect(typed.primaryType).toBe("ExtendedBallot");
    expect(typed.message).toEqual({ proposalId: id.toString(), support: 2, voter: ACCOUNT, nonce: "3", reason: "because", params: "0x" });
    expect(typed.domain).toEqual({ name: "MARKETFLOW_DAO", version: "1", chainId: 31337, verifyingContract: PLACES.dao });
    expect(typed.types.EIP712Domain.map((one: { name: string }) => one.name)).toEqual(Object.keys(typed.domain));
    const plain = await wallet.signBallot(id, "for", "", 4n);
    expect(plain).not.toHaveProperty("reason");
  });
  it("sends a vote with its reason to the DAO", async () => {
    const provider = new Told();
    await (await open(provider)).voteDirectly(5n, "against", "no");
    const [tx] = provider.asked.find((one) => one.method === "eth_sendTransaction")!.params as [{ from: string; to: string; data: `0x${string}` }];
    expect(tx).toMatchObject({ from: ACCOUNT, to: PLACES.dao });
    expect(decodeFunctionData({ abi: abis.dao as Abi, data: tx.data })).toMatchObject({ functionName: "castVoteWithReason", args: [5n, 0, "no"] });
  });
  it("is given the chain when it does not know it", async () => {
    let chain = "0x1";
    let switches = 0;
    const provider = new Told({
      eth_chainId: () => chain,
      wallet_switchEthereumChain: () => {
        if (switches++ === 0) fail(4902, "Unrecognized chain ID")();
        chain = "0x7a69";
        return null;
      },
      wallet_addEthereumChain: () => null,
    });
    const wallet = await open(provider);
    await wallet.switchChain();
    expect(wallet.chainId).toBe(31337);
    const [added] = provider.asked.find((one) => one.method === "wallet_addEthereumChain")!.params as [object];
    expect(added).toMatchObject({ chainId: "0x7a69", chainName: "Local", rpcUrls: ["https://node.example"] });
  });
  it("that is switched or locked elsewhere is followed", async () => {
    const seen: (string | null)[] = [];
    const provider = new Told();
    const wallet = await open(provider, (now) => seen.push(now && `${now.account} ${now.chainId}`));
    provider.emit("accountsChanged", [at(78)]);
    provider.emit("chainChanged", "0x1");
    provider.emit("accountsChanged", []);
    provider.emit("chainChanged", "0x7a69");
    expect(seen).toEqual([`${at(78)} 31337`, `${at(78)} 1`, null]);
    expect(wallet.account).toBe(at(78));
  });
});
