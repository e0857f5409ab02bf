/**
 * The readers and the wallet on a real chain. MARKETFLOW_PAGE_CONFIG names a `marketflow.json` of a local chain on which
 * accounts are unlocked and a strategy is in office; without it there is nothing to read, and nothing is tested.
 */

import { readFileSync } from "node:fs";
import { encodeDeployData, encodeFunctionData, hashTypedData, zeroAddress, type Abi, type Address, type Hex } from "viem";
import { describe, expect, it } from "vitest";
import { ReadError, WalletError, type PageConfig } from "../model";
import { parseConfig } from "./config";
import { ChainReader } from "./reader";
import { Rpc, type Provider } from "./rpc";
import { typedBallot } from "./ballots";
import { assembleSafeBallot, fetchSafe, readSafeBallot, voteOf } from "./safe";
import { BrowserWallet } from "./wallet";

const file = process.env.MARKETFLOW_PAGE_CONFIG;

function servicesOf(over: Partial<PageConfig> = {}) {
  const config = { ...parseConfig(JSON.parse(readFileSync(file!, "utf8"))), ...over };
  const rpc = new Rpc({ urls: config.rpc, chainId: config.chain_id, dao: config.deployment.protocol.dao as `0x${string}` });
  return { config, rpc, reader: new ChainReader(config, rpc) };
}

/** What a wallet does, by a node that has the account's key. */
function nodeWallet(url: string, account: string): Provider {
  return {
    async request({ method, params }) {
      if (method === "eth_requestAccounts" || method === "eth_accounts") return [account];
      const response = await fetch(url, {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
      });
      const answer = (await response.json()) as { result?: unknown; error?: object };
      if (answer.error) throw answer.error;
      return answer.result;
    },
  };
}

const PEOPLE = {
  alice: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", carol: "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
  bob: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", nobody: "0x000000000000000000000000000000000000dEaD",
} as const;

describe.skipIf(!file)("on a real chain", () => {
  it("refuses a node of another chain, and a chain without the DAO", async () => {
    const { config } = servicesOf();
    const elsewhere = new Rpc({ urls: config.rpc, chainId: 5, dao: PEOPLE.nobody });
    await expect(elsewhere.request("eth_blockNumber")).rejects.toMatchObject({ code: "wrong_chain" });
    const bare = new Rpc({ urls: config.rpc, chainId: config.chain_id, dao: PEOPLE.nobody });
    await expect(bare.request("eth_blockNumber")).rejects.toMatchObject({ code: "not_deployed" });
  });

  it("goes on to the next node when the first is away, then to the wallet", async () => {
    const { config, reader } = servicesOf({ rpc: ["http://127.0.0.1:9/", ...servicesOf().config.rpc] });
    expect((await reader.fetchOverview()).proposals.length).toBeGreaterThan(0);
    const walletOnly = servicesOf({ rpc: [] });
    await expect(walletOnly.reader.fetchOverview()).rejects.toMatchObject({ code: "unreachable" });
    walletOnly.rpc.useWallet(nodeWallet(config.rpc[1]!, PEOPLE.alice));
    expect((await walletOnly.reader.fetchOverview()).proposals.length).toBeGreaterThan(0);
  });

  it("reads the same without Multicall3", async () => {
    const { config, reader } = servicesOf();
    const market = { ...config.deployment.market, multicall: null };
    const without = servicesOf({ deployment: { ...config.deployment, market } });
    expect(await without.reader.fetchOverview()).toEqual(await reader.fetchOverview());
  });

  it("falls back to the chain when the subgraph does not answer, and says so", async () => {
    const { reader } = servicesOf({ graph: "http://127.0.0.1:9/" });
    expect((await reader.fetchOverview()).source).toBe("chain");
  });

  it("shows proposals by their call data", async () => {
    const { reader } = servicesOf();
    const overview = await reader.fetchOverview();
    expect(overview.governance.votingPeriodS).toBe(86_400);
    const all = await Promise.all(overview.proposals.map((one) => reader.fetchProposal(one.id)));
    const byKind = (kind: string) => all.find((one) => one.actions.some((action) => action.kind === kind))!;
    const deploy = byKind("factory.deployVault");
    expect(deploy.state).toBe("executed");
    expect(deploy.manifestMatchesCalls).toBe(true);
    expect(deploy.votes.length).toBeGreaterThan(0);
    expect(deploy.manifest).toMatchObject({ venueCodeMatches: true, vaultCodeMatches: true, updates: null });
    expect(deploy.manifest!.limits.find((row) => row.name === "maxDrawdownBps")).toMatchObject({ value: 2000n, ceiling: 2500n });
    const update = byKind("strategies.applyUpdate");
    expect(update.manifest!.runningArtefactHash).toBe(deploy.manifest!.artefactHash);
    expect(update.manifest!.limits[0]!.running).not.toBeNull();
    const retire = byKind("strategies.retire");
    expect([retire.manifest, retire.manifestMatchesCalls]).toEqual([null, true]);
    await expect(reader.fetchProposal(12345n)).rejects.toBeInstanceOf(ReadError);
  });

  it("shows vaults and agents", async () => {
    const { reader } = servicesOf();
    const { vaults, agents } = await reader.fetchOverview();
    const vault = await reader.fetchVault(vaults[0]!.address);
    expect(vault.allocatedQuote).toBe(500_000_000_000n);
    expect(vault.valueQuote === null ? vault.reasons : vault.valueQuote).toBeTruthy();
    expect(vault.history.length).toBeGreaterThan(0);
    expect(agents[0]).toMatchObject({ id: 1n, vault: vault.address, uri: "marketflow:steady", bondWei: 120_000n * 10n ** 18n });
    expect(await reader.fetchTrades(vault.address)).toEqual([]);
  });

  it("votes with a wallet: delegates, casts once, and is refused by name the second time", async () => {
    const { config, rpc, reader } = servicesOf();
    // The chain is as it was afterwards, so that this can be run again.
    const before = await rpc.request("evm_snapshot");
    const wallet = (await BrowserWallet.open(
      { id: "injected", name: "node", icon: null }, nodeWallet(config.rpc[0]!, PEOPLE.bob), reader, () => {}, true,
    ))!;
    const active = (await reader.fetchOverview()).proposals.filter((one) => one.state === "active");
    const open = [];
    for (const one of active) if (!(await reader.fetchVoterOnProposal(PEOPLE.bob, one.id)).hasVoted) open.push(one);
    expect(open.length, "an open proposal that bob has not voted on").toBeGreaterThan(0);
    const id = open[0]!.id;
    expect(await wallet.voteDirectly(id, "against", "too <b>risky</b>")).toMatchObject({ status: "mined" });
    const after = await reader.fetchVoterOnProposal(PEOPLE.bob, id);
    expect(after.voted).toMatchObject({ support: "against", reason: "too <b>risky</b>", weightWei: after.weightWei });
    const again = await wallet.voteDirectly(id, "for", "").catch((error: unknown) => error);
    expect(again).toBeInstanceOf(WalletError);
    expect(again).toMatchObject({ code: "reverted", message: `GovernorAlreadyCastVote(voter=${PEOPLE.bob})` });
    expect(await wallet.delegate(PEOPLE.bob)).toMatchObject({ status: "mined" });
    expect((await reader.fetchVoter(PEOPLE.bob)).delegate).toBe(PEOPLE.bob);
    wallet.disconnect();
    expect(await rpc.request("evm_revert", [before])).toBe(true);
  });

  it("puts a real Safe's signatures together as the Safe checks them", async () => {
    const { config, rpc, reader } = servicesOf();
    const url = config.rpc[0]!;
    const address = await deploySafe(rpc, [PEOPLE.carol, PEOPLE.alice], 2n);
    const safe = (await fetchSafe(reader, address))!;
    expect(safe).toMatchObject({ threshold: 2, address });
    expect(await fetchSafe(reader, PEOPLE.alice)).toBeNull();
    expect(await fetchSafe(reader, reader.places.dao)).toBeNull();
    const wallets = await Promise.all([PEOPLE.alice, PEOPLE.carol, PEOPLE.bob].map((account) =>
      BrowserWallet.open({ id: "injected", name: "node", icon: null }, nodeWallet(url, account), reader, () => {}, true)));
    const [alice, carol, bob] = wallets as [BrowserWallet, BrowserWallet, BrowserWallet];
    const proposal = (await reader.fetchOverview()).proposals.find((one) => one.state === "active")!;
    for (const reason of ["", "we agree"]) {
      const empty = {
        format: "marketflow/safe-ballot/1", chain_id: config.chain_id, dao: reader.places.dao, safe: address,
        proposal_id: proposal.id.toString(), support: "for", nonce: "0", reason, signatures: [],
      } as const;
      const ballot = { ...empty, signatures: [] };
      await expect(bob.signForSafe(ballot)).rejects.toMatchObject({ code: "no_account" });
      const once = await alice.signForSafe(ballot);
      expect(assembleSafeBallot(once, safe)).toBeNull();
      const passedOn = await readSafeBallot(JSON.stringify(once), safe, { chainId: config.chain_id, dao: reader.places.dao });
      const signed = assembleSafeBallot(await carol.signForSafe(passedOn), safe)!;
      const { chainId: _id, ...vote } = { ...voteOf(ballot) };
      const hash = hashTypedData(typedBallot({ ...vote, chainId: config.chain_id }) as never);
      const { abi } = artefact("handler/CompatibilityFallbackHandler");
      const data = encodeFunctionData({ abi: abi.filter((item) => "inputs" in item && item.inputs?.[0]?.type === "bytes32"), functionName: "isValidSignature", args: [hash, signed.signature] });
      expect((await rpc.request<Hex>("eth_call", [{ to: address, data }, "latest"])).slice(0, 10)).toBe("0x1626ba7e");
      const cast = reason
        ? reader.dataOf("dao", "castVoteWithReasonAndParamsBySig", [proposal.id, 1, address, reason, "0x", signed.signature])
        : reader.dataOf("dao", "castVoteBySig", [proposal.id, 1, address, signed.signature]);
      expect(await reader.simulate(PEOPLE.bob, reader.places.dao, cast)).toMatch(/^0x0*$/);
      const forged = reader.dataOf("dao", "castVoteBySig", [proposal.id, 0, address, signed.signature]);
      await expect(reader.simulate(PEOPLE.bob, reader.places.dao, forged)).rejects.toThrow();
    }
  });
});

/** A contract of @safe-global/safe-contracts: the real one. */
function artefact(name: string): { abi: Abi; bytecode: Hex } {
  const path = new URL(`../../node_modules/@safe-global/safe-contracts/build/artifacts/contracts/${name}.sol/${name.split("/").pop()}.json`, import.meta.url);
  return JSON.parse(readFileSync(path, "utf8")) as { abi: Abi; bytecode: Hex };
}

async function send(rpc: Rpc, tx: { to?: Address; data: Hex }): Promise<Address> {
  const hash = await rpc.request<Hex>("eth_sendTransaction", [{ from: PEOPLE.bob, ...tx }]);
  for (;;) {
    const receipt = await rpc.request<{ contractAddress: Address } | null>("eth_getTransactionReceipt", [hash]);
    if (receipt) return receipt.contractAddress;
  }
}

async function deploySafe(rpc: Rpc, owners: Address[], threshold: bigint): Promise<Address> {
  const singleton = await send(rpc, { data: artefact("Safe").bytecode });
  const handler = await send(rpc, { data: artefact("handler/CompatibilityFallbackHandler").bytecode });
  const proxy = artefact("proxies/SafeProxy");
  const address = await send(rpc, { data: encodeDeployData({ abi: proxy.abi, bytecode: proxy.bytecode, args: [singleton] }) });
  const setup = encodeFunctionData({
    abi: artefact("Safe").abi, functionName: "setup", args: [owners, threshold, zeroAddress, "0x", handler, zeroAddress, 0n, zeroAddress],
  });
  await send(rpc, { to: address, data: setup });
  const { getAddress } = await import("viem");
  return getAddress(address);
}
