/** A wallet in the browser (EIP-1193): asks it to sign and to send, and says in its own words what went wrong. */

import { getAddress, isAddress, numberToHex, type Address, type Hex } from "viem";
import {
  ReadError, WalletError, type SafeBallot, type Sent, type SignedBallot, type Support, type Wallet, type WalletOffer,
} from "../model";
import { SUPPORT_NUMBER, toJson, typedBallot, type TypedData } from "./ballots";
import type { Places } from "./config";
import type { ChainReader } from "./reader";
import { describeRevert, findRevertData } from "./reverts";
import { NodeError, type Provider } from "./rpc";
import { fetchSafe, messageOf, requireSigned, signedBallot, withV27 } from "./safe";

export interface EventfulProvider extends Provider {
  on?(event: string, listener: (value: never) => void): void;
  removeListener?(event: string, listener: (value: never) => void): void;
}

const POLL_MS = 1_000;
// Longer than any block of the networks that there are; a wallet's "replaced" transaction never comes.
const WAIT_MS = 10 * 60_000;

type Receipt = { status: Hex; blockNumber: Hex; transactionHash: Hex };

/** The page's word for what a wallet or node said. */
export function toWalletError(error: unknown): WalletError {
  if (error instanceof WalletError) return error;
  const { code, message } = codeOf(error);
  if (findRevertData(error) || error instanceof NodeError && error.code === 3) return new WalletError("reverted", describeRevert(error));
  if (code === 4001 || code === "ACTION_REJECTED") return new WalletError("rejected", "the wallet's owner said no");
  if (code === 4100) return new WalletError("no_account", message);
  if (code === 4200 || code === -32601) return new WalletError("unsupported", message);
  if (code === 4900 || code === 4901) return new WalletError("wrong_chain", message);
  if (/insufficient funds|exceeds (the )?balance/i.test(message)) return new WalletError("no_funds", message);
  if (/user (rejected|denied|cancel)/i.test(message)) return new WalletError("rejected", "the wallet's owner said no");
  if (/revert/i.test(message)) return new WalletError("reverted", describeRevert(error));
  return new WalletError("failed", message.slice(0, 300));
}

function codeOf(error: unknown): { code: unknown; message: string } {
  const found = (typeof error === "object" && error !== null ? error : {}) as { code?: unknown; message?: unknown; data?: { originalError?: unknown } };
  // Some wallets wrap what they mean.
  if (found.code === -32603 && found.data?.originalError) return codeOf(found.data.originalError);
  return { code: found.code, message: String(found.message ?? error) };
}

export class BrowserWallet implements Wallet {
  account: Address;
  chainId: number;
  private readonly places: Places;
  private readonly stop: () => void;

  private constructor(
    readonly offer: WalletOffer, private readonly provider: EventfulProvider, private readonly reader: ChainReader,
    account: Address, chainId: number, private readonly changed: (wallet: Wallet | null) => void,
  ) {
    this.account = account;
    this.chainId = chainId;
    this.places = reader.places;
    this.stop = this.listen();
  }

  /** Throws WalletError. `ask`: whether its owner is asked; else only what was allowed before is taken. */
  static async open(
    offer: WalletOffer, provider: EventfulProvider, reader: ChainReader, changed: (wallet: Wallet | null) => void, ask: boolean,
  ): Promise<BrowserWallet | null> {
    try {
      const method = ask ? "eth_requestAccounts" : "eth_accounts";
      const account = firstAccount(await provider.request({ method, params: [] }));
      if (!account && !ask) return null;
      if (!account) throw new WalletError("no_account", "the wallet shows no account");
      const chainId = Number(await provider.request({ method: "eth_chainId", params: [] }));
      const wallet = new BrowserWallet(offer, provider, reader, account, chainId, changed);
      wallet.lendToReader();
      return wallet;
    } catch (error) {
      throw toWalletError(error);
    }
  }

  /** Only on the right chain: its answers are of the chain that it is on. */
  private lendToReader(): void {
    this.reader.rpc.useWallet(this.chainId === this.reader.config.chain_id ? this.provider : null);
  }

  private listen(): () => void {
    const onAccounts = (accounts: unknown) => {
      const account = firstAccount(accounts);
      if (!account) {
        this.disconnect();
        return this.changed(null);
      }
      this.account = account;
      this.changed(this);
    };
    const onChain = (chain: unknown) => {
      this.chainId = Number(chain);
      this.lendToReader();
      this.changed(this);
    };
    this.provider.on?.("accountsChanged", onAccounts);
    this.provider.on?.("chainChanged", onChain);
    return () => {
      this.provider.removeListener?.("accountsChanged", onAccounts);
      this.provider.removeListener?.("chainChanged", onChain);
    };
  }

  disconnect(): void {
    this.stop();
    this.reader.rpc.useWallet(null);
  }

  async switchChain(): Promise<void> {
    const { config } = this.reader;
    const chainId = numberToHex(config.chain_id);
    try {
      try {
        await this.ask("wallet_switchEthereumChain", [{ chainId }]);
      } catch (error) {
        if (!isUnknownChain(error) || !config.rpc.length) throw error;
        await this.ask("wallet_addEthereumChain", [{
          chainId, chainName: config.chain_name, rpcUrls: config.rpc,
          nativeCurrency: { name: "Ether", symbol: config.network.startsWith("polygon") ? "POL" : "ETH", decimals: 18 },
          ...(config.explorer ? { blockExplorerUrls: [config.explorer] } : {}),
        }]);
        await this.ask("wallet_switchEthereumChain", [{ chainId }]);
      }
      this.chainId = Number(await this.ask("eth_chainId", []));
    } catch (error) {
      throw toWalletError(error);
    }
    this.requireChain();
    this.lendToReader();
  }

  async delegate(to: Address): Promise<Sent> {
    if (!isAddress(to)) throw new WalletError("unsupported", `${String(to)} is no address`);
    return this.send("token", "delegate", [getAddress(to)]);
  }

  async voteDirectly(
    proposalId: bigint, support: Support, reason: string, sent?: (transaction: Hex) => void,
  ): Promise<Sent> {
    const number = SUPPORT_NUMBER[support];
    if (reason) return this.send("dao", "castVoteWithReason", [proposalId, number, reason], sent);
    return this.send("dao", "voteStrategy", [proposalId, number], sent);
  }

  async claim(vault: Address): Promise<Sent> {
    return this.send("pool", "claim", [vault]);
  }

  async signBallot(proposalId: bigint, support: Support, reason: string, nonce: bigint): Promise<SignedBallot> {
    const vote = { chainId: this.reader.config.chain_id, dao: this.places.dao, proposalId, support, voter: this.account, nonce, reason };
    return signedBallot(vote, await this.sign(typedBallot(vote), this.account));
  }

  async signForSafe(ballot: SafeBallot): Promise<SafeBallot> {
    const account = this.account;
    if (ballot.chain_id !== this.reader.config.chain_id || ballot.dao.toLowerCase() !== this.places.dao.toLowerCase()) {
      throw new WalletError("wrong_chain", "the ballot is for another DAO or chain");
    }
    const safe = await fetchSafe(this.reader, ballot.safe);
    if (!safe) throw new WalletError("unsupported", `${ballot.safe} is no Safe`);
    if (!safe.owners.some((owner) => owner.toLowerCase() === account.toLowerCase())) {
      throw new WalletError("no_account", `${account} is no owner of the Safe ${ballot.safe}`);
    }
    const signature = withV27(await this.sign(messageOf(ballot), account));
    await requireSigned(ballot, account, signature);
    const others = ballot.signatures.filter(({ owner }) => owner.toLowerCase() !== account.toLowerCase());
    return { ...ballot, signatures: [...others, { owner: account, signature }] };
  }

  private async sign(typed: TypedData, account: Address): Promise<Hex> {
    this.requireChain();
    try {
      return (await this.ask("eth_signTypedData_v4", [account, toJson(typed)])) as Hex;
    } catch (error) {
      throw toWalletError(error);
    }
  }

  /** Tried first, so that what the chain would refuse costs nothing and is told by its name. */
  private async send(
    name: keyof Places, fn: string, args: readonly unknown[], sent?: (transaction: Hex) => void,
  ): Promise<Sent> {
    this.requireChain();
    const [from, to, data] = [this.account, this.places[name], this.reader.dataOf(name, fn, args)];
    let transaction: Hex;
    try {
      await this.reader.simulate(from, to, data);
      transaction = (await this.ask("eth_sendTransaction", [{ from, to, data }])) as Hex;
    } catch (error) {
      if (error instanceof ReadError) throw error;
      throw toWalletError(error);
    }
    sent?.(transaction);
    return this.waitFor(transaction, { from, to, data });
  }

  private async waitFor(transaction: Hex, call: { from: Address; to: Address; data: Hex }): Promise<Sent> {
    for (const end = Date.now() + WAIT_MS; Date.now() < end; ) {
      const receipt = await this.reader.rpc.request<Receipt | null>("eth_getTransactionReceipt", [transaction]).catch(() => null);
      if (receipt && BigInt(receipt.status) === 1n) return { status: "mined", transaction, block: BigInt(receipt.blockNumber) };
      if (receipt) return { status: "reverted", transaction, reason: await this.whyReverted(call, receipt.blockNumber) };
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
    throw new WalletError("failed", `transaction ${transaction} is not in a block yet: look for it later`);
  }

  private async whyReverted(call: { from: Address; to: Address; data: Hex }, block: Hex): Promise<string> {
    try {
      await this.reader.rpc.request("eth_call", [call, block]);
      return "it was refused in its block and would not be now";
    } catch (error) {
      return describeRevert(error);
    }
  }

  private ask(method: string, params: unknown[]): Promise<unknown> {
    return this.provider.request({ method, params });
  }

  private requireChain(): void {
    const wanted = this.reader.config.chain_id;
    if (this.chainId !== wanted) throw new WalletError("wrong_chain", `the wallet is on chain ${this.chainId}, the DAO on chain ${wanted}`);
  }
}

function isUnknownChain(error: unknown): boolean {
  const { code, message } = codeOf(error);
  return code === 4902 || /unrecognized chain|not been added/i.test(message);
}

function firstAccount(accounts: unknown): Address | null {
  const first: unknown = Array.isArray(accounts) ? accounts[0] : null;
  return typeof first === "string" && isAddress(first, { strict: false }) ? getAddress(first) : null;
}
