/** What every view needs: the services, what was read last, the wallet, the clock of the chain, and where we are. */

import { createContext } from "preact";
import { useCallback, useContext, useEffect, useRef, useState } from "preact/hooks";

import type { Overview, PageConfig, Services, Wallet, WalletOffer } from "../model";

export interface AppState {
  services: Services;
  config: PageConfig;
  overview: Overview | null;
  overviewError: unknown;
  progress: number | null;
  /** Counts the times that something new may be on the chain. */
  tick: number;
  refresh(): void;
  wallet: Wallet | null;
  offers: WalletOffer[];
  connecting: boolean;
  walletError: unknown;
  openWallets(): void;
  switchChain(): void;
  disconnect(): void;
  /** Says it to a screen reader too. */
  announce(text: string): void;
}

export const AppContext = createContext<AppState | null>(null);

export function useApp(): AppState {
  const state = useContext(AppContext);
  if (!state) throw new Error("used outside of the app");
  return state;
}

export interface Loaded<T> {
  data: T | null;
  error: unknown;
  reload(): void;
}

/** Loads again when `keys` or the chain change. What was read before stays until something newer is there. */
export function useLoad<T>(load: () => Promise<T>, keys: readonly unknown[], tick: unknown): Loaded<T> {
  const [state, setState] = useState<{ key: string; data: T | null; error: unknown }>({ key: "", data: null, error: null });
  const [again, setAgain] = useState(0);
  const key = keys.map(String).join("|");
  const newest = useRef(0);
  useEffect(() => {
    const turn = ++newest.current;
    load().then(
      (data) => turn === newest.current && setState({ key, data, error: null }),
      (error: unknown) =>
        turn === newest.current && setState((old) => ({ key, data: old.key === key ? old.data : null, error })),
    );
  }, [key, tick, again]);
  const isCurrent = state.key === key;
  return {
    data: isCurrent ? state.data : null,
    error: isCurrent ? state.error : null,
    reload: useCallback(() => setAgain((n) => n + 1), []),
  };
}

/** Unix seconds by the chain's clock, which may differ from this computer's; goes on every second. */
export function useChainNow(): number {
  const { overview } = useApp();
  const [elapsedS, setElapsedS] = useState(0);
  const blockTime = overview?.block.timestampS ?? null;
  useEffect(() => {
    const since = performance.now();
    setElapsedS(0);
    const timer = setInterval(() => setElapsedS(Math.floor((performance.now() - since) / 1000)), 1000);
    return () => clearInterval(timer);
  }, [blockTime]);
  return (blockTime ?? Math.floor(Date.now() / 1000)) + elapsedS;
}

export const sameAddress = (a: string | null | undefined, b: string | null | undefined): boolean =>
  Boolean(a && b && a.toLowerCase() === b.toLowerCase());

export type Tokens = { symbol: string; decimals: number };
const someToken: Tokens = { symbol: "", decimals: 18 };
const someQuote: Tokens = { symbol: "", decimals: 6 };

export function useTokens(): { token: Tokens; quote: Tokens } {
  const { overview } = useApp();
  return { token: overview?.token ?? someToken, quote: overview?.quote ?? someQuote };
}
