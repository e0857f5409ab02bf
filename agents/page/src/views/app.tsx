/** The frame around every view: header, wallet, route, and the place where a screen reader is told what happened. */

import type { JSX } from "preact";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { isAddress } from "viem";

import { AppContext, useApp, useChainNow, type AppState } from "../components/app-state";
import { explainFailure, Hash, LoadError, Mark, Notice, PageHeading } from "../components/pieces";
import { languages, preferredLanguage, rememberLanguage, useWords, wordsOf, WordsContext, type Language } from "../i18n";
import type { Overview, Services, Wallet, WalletOffer } from "../model";
import { AgentsView } from "./agents";
import { DelegateView } from "./delegate";
import { ProposalView } from "./proposal";
import { ProposalsView } from "./proposals";
import { OneVaultView, VaultsView } from "./vaults";

const sections = [["#/", "proposals"], ["#/vaults", "vaults"], ["#/agents", "agents"], ["#/delegate", "delegate"]] as const;

export function App({ services }: { services: Services }): JSX.Element {
  const [language, setLanguage] = useState<Language>(preferredLanguage);
  const words = useMemo(() => wordsOf(language), [language]);
  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  const choose = (next: Language): void => {
    rememberLanguage(next);
    setLanguage(next);
  };
  return (
    <WordsContext.Provider value={words}>
      <WithState services={services}><Frame language={language} choose={choose} /></WithState>
    </WordsContext.Provider>
  );
}

interface OverviewState { overview: Overview | null; error: unknown; progress: number | null }

/** Reads the overview after each block, one reading at a time: a slow node is not asked faster than it answers. */
function useOverview(services: Services): OverviewState & { tick: number; refresh(): void } {
  const [state, setState] = useState<OverviewState>({ overview: null, error: null, progress: null });
  const [tick, setTick] = useState(0);
  const running = useRef(false);
  const again = useRef(false);
  const refresh = useCallback((): void => {
    if (running.current) {
      again.current = true;
      return;
    }
    running.current = true;
    services.reader
      .fetchOverview((progress) => setState((old) => (old.overview ? old : { ...old, progress })))
      .then(
        (overview) => setState({ overview, error: null, progress: null }),
        (error: unknown) => setState((old) => ({ ...old, error, progress: null })),
      )
      .finally(() => {
        running.current = false;
        setTick((n) => n + 1);
        if (again.current) {
          again.current = false;
          setTimeout(refresh, 500);
        }
      });
  }, [services]);
  useEffect(() => {
    refresh();
    return services.reader.watch(refresh);
  }, [services, refresh]);
  return { ...state, tick, refresh };
}

function WithState({ services, children }: { services: Services; children: JSX.Element }): JSX.Element {
  const words = useWords();
  const { overview, error, progress, tick, refresh } = useOverview(services);
  const [wallet, setWallet] = useState<{ wallet: Wallet | null }>({ wallet: null });
  const [offers, setOffers] = useState<WalletOffer[]>([]);
  const [connecting, setConnecting] = useState(false);
  const [walletError, setWalletError] = useState<unknown>(null);
  const [spoken, setSpoken] = useState("");
  const dialog = useRef<HTMLDialogElement>(null);
  // The wallet may be the same object with another account or chain: so it is wrapped anew.
  const changed = useCallback((next: Wallet | null): void => setWallet({ wallet: next }), []);
  useEffect(() => services.watchWallets((found) => setOffers([...found])), [services]);
  useEffect(() => {
    services.reconnect(changed).then((found) => found && changed(found), () => undefined);
  }, [services, changed]);
  const connect = async (offer: WalletOffer): Promise<void> => {
    dialog.current?.close();
    setConnecting(true);
    setWalletError(null);
    try {
      changed(await services.connect(offer.id, changed));
    } catch (failure) {
      setWalletError(failure);
    }
    setConnecting(false);
  };
  const state: AppState = {
    services, config: services.reader.config, overview, overviewError: error, progress, tick, refresh,
    wallet: wallet.wallet, offers, connecting, walletError,
    openWallets: () => {
      const [only] = offers;
      if (only && offers.length === 1) void connect(only);
      else dialog.current?.showModal();
    },
    switchChain: () => {
      setWalletError(null);
      wallet.wallet?.switchChain().catch(setWalletError);
    },
    disconnect: () => {
      wallet.wallet?.disconnect();
      changed(null);
    },
    announce: setSpoken,
  };
  return (
    <AppContext.Provider value={state}>
      {children}
      <p class="visually-hidden" role="status" aria-live="polite">{spoken}</p>
      <dialog ref={dialog} aria-labelledby="wallets-title" class="wallets">
        <h2 id="wallets-title">{words.t("wallet.choose")}</h2>
        {offers.length === 0 && <p data-testid="no-wallet">{words.t("wallet.none")}</p>}
        <ul>
          {offers.map((offer) => (
            <li key={offer.id}>
              <button type="button" onClick={() => void connect(offer)}>
                {offer.icon && <img src={offer.icon} alt="" width="24" height="24" />} <bdi>{offer.name}</bdi>
              </button>
            </li>
          ))}
        </ul>
        <button type="button" onClick={() => dialog.current?.close()}>{words.t("wallet.close")}</button>
      </dialog>
    </AppContext.Provider>
  );
}

const readRoute = (): string => location.hash.replace(/^#/, "") || "/";

function useRoute(): string {
  const [route, setRoute] = useState(readRoute);
  useEffect(() => {
    const follow = (): void => setRoute(readRoute());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}

function Frame({ language, choose }: { language: Language; choose(language: Language): void }): JSX.Element {
  const { t } = useWords();
  const { overview, overviewError, refresh, walletError } = useApp();
  const words = useWords();
  const route = useRoute();
  const isFirst = useRef(true);
  useEffect(() => {
    // Not on the first page: there the browser's own place is right.
    if (!isFirst.current) {
      scrollTo(0, 0);
      document.querySelector<HTMLElement>("main h1")?.focus();
    }
    isFirst.current = false;
  }, [route]);
  const skip = (event: Event): void => {
    // The address keeps the route, which a jump to #main would replace.
    event.preventDefault();
    document.querySelector<HTMLElement>("main")?.focus();
  };
  const current = (href: string): boolean =>
    href === "#/" ? route === "/" || route.startsWith("/proposal") : route.startsWith(href.slice(1).replace(/s$/, ""));
  return (
    <>
      <a class="skip" href="#main" onClick={skip}>{t("app.skip")}</a>
      <header class="header">
        <div class="header-inner">
          <a class="brand" href="#/"><Mark /><span>MarketFlow</span></a>
          <nav aria-label={t("nav.label")}>
            <ul>
              {sections.map(([href, name]) => (
                <li key={href}><a href={href} aria-current={current(href) ? "page" : undefined}>{t(`nav.${name}`)}</a></li>
              ))}
            </ul>
          </nav>
          <div class="header-end">
            <label class="language">
              <span class="visually-hidden">{t("app.language")}</span>
              <select data-testid="language-switch" value={language} onChange={(event) => choose(event.currentTarget.value as Language)}>
                {Object.entries(languages).map(([code, name]) => <option key={code} value={code} lang={code}>{name}</option>)}
              </select>
            </label>
            <WalletBox />
          </div>
        </div>
      </header>
      <NetworkBar />
      <main id="main" tabIndex={-1}>
        {walletError !== null && (
          <Notice tone="warn" role="alert" testId="wallet-error"><p>{explainFailure(words, walletError).text}</p></Notice>
        )}
        {overviewError !== null && <LoadError error={overviewError} reload={refresh} />}
        {overviewError !== null && overview && <p>{t("source.stale", { block: words.number(overview.block.number) })}</p>}
        <View route={route} />
      </main>
      <Footer />
    </>
  );
}

function View({ route }: { route: string }): JSX.Element {
  const { t } = useWords();
  const [, name, argument] = route.split("/");
  if (name === "" && argument === undefined) return <ProposalsView />;
  if (name === "proposal" && argument && /^\d{1,78}$/.test(argument)) return <ProposalView key={argument} id={BigInt(argument)} />;
  if (name === "vaults") return <VaultsView />;
  if (name === "vault" && argument && isAddress(argument, { strict: false })) return <OneVaultView key={argument} address={argument} />;
  if (name === "agents") return <AgentsView />;
  if (name === "delegate") return <DelegateView />;
  return (
    <>
      <PageHeading title={t("app.notFound")}>{t("app.notFound")}</PageHeading>
      <p><a href="#/">{t("app.backToProposals")}</a></p>
    </>
  );
}

function WalletBox(): JSX.Element {
  const { wallet, connecting, openWallets, disconnect } = useApp();
  const { t } = useWords();
  if (!wallet) {
    return <button type="button" class="primary" onClick={openWallets} disabled={connecting}>{t(connecting ? "wallet.connecting" : "wallet.connect")}</button>;
  }
  return (
    <span class="wallet">
      <span data-testid="wallet-account" data-account={wallet.account}><span class="visually-hidden">{t("wallet.account")}</span> <Hash value={wallet.account} kind="address" /></span>
      <button type="button" onClick={disconnect}>{t("wallet.disconnect")}</button>
    </span>
  );
}

function NetworkBar(): JSX.Element | null {
  const { wallet, config, switchChain } = useApp();
  const { t } = useWords();
  if (!wallet || wallet.chainId === config.chain_id) return null;
  return (
    <div class="network-bar" role="alert" data-testid="wrong-network">
      <span>{t("wallet.wrongNetwork", { have: String(wallet.chainId), chain: config.chain_name, need: String(config.chain_id) })}</span>
      <button type="button" onClick={switchChain}>{t("wallet.switch", { chain: config.chain_name })}</button>
    </div>
  );
}

const oldAfterS = 600;

function Footer(): JSX.Element {
  const { overview, config } = useApp();
  const words = useWords();
  const { t } = words;
  useChainNow();
  const ageS = overview ? Math.floor(Date.now() / 1000) - overview.block.timestampS : 0;
  return (
    <footer class="footer">
      <p data-testid="source">
        <strong>{config.chain_name}</strong>
        {overview && <> · {t("source.block", { block: words.number(overview.block.number), time: words.date(overview.block.timestampS) })} · {t(`source.${overview.source}`)}</>}
      </p>
      {ageS > oldAfterS && <p class="check-bad">{t("source.old", { age: words.duration(ageS) })}</p>}
      <p>{t("app.footer")}</p>
    </footer>
  );
}
