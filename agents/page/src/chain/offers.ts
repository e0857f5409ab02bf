/** Wallets as they announce themselves (EIP-6963), and the one that only puts itself on the window. */

import type { WalletOffer } from "../model";
import type { EventfulProvider } from "./wallet";

interface Announcement {
  info: { uuid: string; name: string; icon: string; rdns: string };
  provider: EventfulProvider;
}

const INJECTED: WalletOffer = { id: "injected", name: "Browser wallet", icon: null };
// Only pictures that bring themselves, of kinds that can't run or ask for anything.
const ICON = /^data:image\/(png|jpeg|webp|gif|svg\+xml)[;,]/;
const MAX_ICON = 100_000;

export class Offers {
  private readonly found = new Map<string, { offer: WalletOffer; provider: EventfulProvider }>();
  private readonly listeners = new Set<(offers: WalletOffer[]) => void>();
  private isListening = false;

  watch(listener: (offers: WalletOffer[]) => void): () => void {
    this.listeners.add(listener);
    this.listen();
    listener(this.list());
    return () => this.listeners.delete(listener);
  }

  find(id: string): { offer: WalletOffer; provider: EventfulProvider } | null {
    this.listen();
    const injected = injectedProvider();
    return this.found.get(id) ?? (id === INJECTED.id && injected ? { offer: INJECTED, provider: injected } : null);
  }

  private list(): WalletOffer[] {
    const offers = [...this.found.values()].map(({ offer }) => offer);
    const injected = injectedProvider();
    const isAnnounced = [...this.found.values()].some(({ provider }) => provider === injected);
    // A wallet that announces itself and is on the window too is one wallet.
    return injected && !isAnnounced ? [...offers, INJECTED] : offers;
  }

  private listen(): void {
    if (this.isListening || typeof window === "undefined") return;
    this.isListening = true;
    window.addEventListener("eip6963:announceProvider", (event) => this.add((event as CustomEvent<Announcement>).detail));
    window.addEventListener("ethereum#initialized", () => this.tell());
    window.dispatchEvent(new Event("eip6963:requestProvider"));
  }

  private add(detail: Announcement | undefined): void {
    const info = detail?.info;
    if (!info || typeof info.name !== "string" || typeof detail.provider?.request !== "function") return;
    const id = `${String(info.rdns)} ${String(info.uuid)}`;
    const icon = typeof info.icon === "string" && ICON.test(info.icon) && info.icon.length <= MAX_ICON ? info.icon : null;
    this.found.set(id, { offer: { id, name: info.name.slice(0, 60), icon }, provider: detail.provider });
    this.tell();
  }

  private tell(): void {
    const offers = this.list();
    for (const listener of this.listeners) listener(offers);
  }

  /** The same wallet after a new visit: its uuid is another, its rdns is not. */
  findAgain(id: string): { offer: WalletOffer; provider: EventfulProvider } | null {
    const rdns = id.split(" ")[0]!;
    const again = [...this.found.values()].find(({ offer }) => offer.id.split(" ")[0] === rdns);
    return this.find(id) ?? again ?? null;
  }
}

function injectedProvider(): EventfulProvider | null {
  const found = typeof window === "undefined" ? null : (window as { ethereum?: EventfulProvider }).ethereum;
  return typeof found?.request === "function" ? found : null;
}
