/** Makes the services of `model.ts`. What only a voter needs (wallet, Safe) is fetched when it is used. */

import { getAddress, isAddress } from "viem";
import { WalletError, type PageConfig, type Services, type Wallet } from "../model";
import { loadConfig, placesOf } from "./config";
import { Offers } from "./offers";
import { ChainReader } from "./reader";
import { HttpRelayer } from "./relayer";
import { Rpc } from "./rpc";
import { assembleSafeBallot, fetchSafe, readSafeBallot } from "./safe";

export { loadConfig, parseConfig } from "./config";

const REMEMBERED = "marketflow/wallet";
// How long announcements of wallets may take after the page has asked.
const ANNOUNCE_MS = 300;

/** Throws ReadError "rejected_config". Nothing is read from the network yet. */
export function createServices(config: PageConfig): Services {
  const { dao } = placesOf(config);
  const rpc = new Rpc({ urls: config.rpc.map((url) => new URL(url, pageAddress()).href), chainId: config.chain_id, dao });
  const reader = new ChainReader(config, rpc);
  const offers = new Offers();
  const expected = { chainId: config.chain_id, dao };

  const open = async (id: string, changed: (wallet: Wallet | null) => void, ask: boolean): Promise<Wallet | null> => {
    const found = ask ? offers.find(id) : offers.findAgain(id);
    if (!found) return null;
    const { BrowserWallet } = await import("./wallet");
    const wallet = await BrowserWallet.open(found.offer, found.provider, reader, changed, ask);
    if (wallet) remember(found.offer.id);
    return wallet && forgetting(wallet);
  };

  return {
    reader,
    relayer: config.relayer === null ? null : new HttpRelayer(config.relayer, expected),
    watchWallets: (found) => offers.watch(found),
    async connect(offerId, changed) {
      const wallet = await open(offerId, changed, true);
      if (!wallet) throw new WalletError("no_wallet", "that wallet is gone: load the page again");
      return wallet;
    },
    async reconnect(changed) {
      const id = recall();
      if (!id) return null;
      const stop = offers.watch(() => {});
      if (!offers.findAgain(id)) await new Promise((done) => setTimeout(done, ANNOUNCE_MS));
      stop();
      return open(id, changed, false).catch(() => null);
    },
    async fetchSafe(address) {
      return isAddress(address) ? fetchSafe(reader, getAddress(address)) : null;
    },
    readSafeBallot: (text, safe) => readSafeBallot(text, safe, expected),
    assembleSafeBallot,
  };
}

/** The configuration beside the page, and everything that follows from it. */
export async function loadServices(url?: string): Promise<Services> {
  return createServices(await loadConfig(url));
}

const pageAddress = (): string => (typeof document === "undefined" ? "http://localhost/" : document.baseURI);

/** The wallet, which is not connected again by itself once somebody has disconnected it. */
function forgetting(wallet: Wallet): Wallet {
  const disconnect = wallet.disconnect.bind(wallet);
  wallet.disconnect = () => {
    remember(null);
    disconnect();
  };
  return wallet;
}

function remember(id: string | null): void {
  try {
    if (id === null) localStorage.removeItem(REMEMBERED);
    else localStorage.setItem(REMEMBERED, id);
  } catch {
    // Storage that is switched off costs a click at the next visit.
  }
}

function recall(): string | null {
  try {
    return localStorage.getItem(REMEMBERED);
  } catch {
    return null;
  }
}
