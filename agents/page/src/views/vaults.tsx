/** All vaults, and one of them: what it is worth, what it may do, what it did and why. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { sameAddress, useApp, useLoad, useTokens } from "../components/app-state";
import { VaultCharts } from "../components/chart";
import { LimitsTable } from "../components/limits";
import {
  CardTable, explainFailure, Facts, Hash, LoadError, Loading, Notice, PageHeading, Section, Untrusted, useMoney,
} from "../components/pieces";
import { useWords } from "../i18n";
import type { Trade, VaultView } from "../model";

const stateSigns = { active: "●", reducing: "◐", halted: "■" } as const;

function VaultState({ vault }: { vault: VaultView }): JSX.Element {
  const { t } = useWords();
  return (
    <span class={`badge vault-${vault.state}`} data-testid="vault-state" data-state={vault.state}>
      <span aria-hidden="true">{stateSigns[vault.state]}</span> {t(`vault.${vault.state}`)}
    </span>
  );
}

function useDrawdown(): (vault: VaultView) => string {
  const { t, percent } = useWords();
  return (vault) => {
    const row = vault.limits.find((one) => one.name === "maxDrawdownBps");
    if (vault.drawdownBps === null) return t("vault.noValue");
    if (!row) return percent(vault.drawdownBps);
    return t("vault.drawdownOf", {
      now: percent(vault.drawdownBps), limit: percent(row.value < row.ceiling ? row.value : row.ceiling),
    });
  };
}

export function VaultsView(): JSX.Element {
  const { overview, overviewError } = useApp();
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const drawdown = useDrawdown();
  return (
    <>
      <PageHeading title={t("vaults.heading")}>{t("vaults.heading")}</PageHeading>
      <p class="lead">{t("vaults.lead")}</p>
      {!overview && overviewError === null && <Loading />}
      {overview?.vaults.length === 0 && <p>{t("vaults.empty")}</p>}
      <ul class="cards">
        {overview?.vaults.map((vault) => (
          <li key={vault.address} class="card" data-testid="vault-row">
            <div class="proposal-top">
              <h2><a href={`#/vault/${vault.address}`}>{t("vault.heading", { address: `${vault.address.slice(0, 6)}…${vault.address.slice(-4)}` })}</a></h2>
              <VaultState vault={vault} />
            </div>
            <Facts rows={[
              [t("vault.agent"), t("agent.name", { id: words.number(vault.agentId) })],
              [t("vault.value"), vault.valueQuote === null ? t("vault.noValue") : money.quote(vault.valueQuote)],
              [t("vault.profit"), vault.profitQuote === null ? t("vault.noValue") : money.quote(vault.profitQuote)],
              [t("vault.drawdown"), drawdown(vault)],
            ]} />
            <p class="small">{words.plural("vault.trades", vault.tradeCount)}</p>
          </li>
        ))}
      </ul>
    </>
  );
}

export function OneVaultView({ address }: { address: `0x${string}` }): JSX.Element {
  const { services, tick } = useApp();
  const { t } = useWords();
  const loaded = useLoad(() => services.reader.fetchVault(address), [address], tick);
  const title = t("vault.heading", { address: `${address.slice(0, 6)}…${address.slice(-4)}` });
  return (
    <>
      <p class="crumb"><a href="#/vaults">← {t("vaults.heading")}</a></p>
      <PageHeading title={title}>{title}</PageHeading>
      {!loaded.data && loaded.error === null && <Loading />}
      {loaded.error !== null && <LoadError error={loaded.error} reload={loaded.reload} />}
      {loaded.data && <Vault vault={loaded.data} reload={loaded.reload} />}
    </>
  );
}

function Vault({ vault, reload }: { vault: VaultView; reload(): void }): JSX.Element {
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const { quote } = useTokens();
  const drawdown = useDrawdown();
  const share = (value: bigint | null): string =>
    value === null || !vault.valueQuote ? "–" : words.percent(Number((value * 10_000n) / vault.valueQuote), 1);
  return (
    <>
      <div class="title-line"><VaultState vault={vault} /></div>
      {vault.state !== "active" && (
        <Notice tone={vault.state === "halted" ? "danger" : "warn"} title={t("vault.why")}>
          {vault.reasons.length === 0 ? <p>{t("vault.noReason")}</p> : (
            <ul>{vault.reasons.map((reason) => <li key={reason}>{words.maybe(`reason.${reason}`) ?? reason}</li>)}</ul>
          )}
        </Notice>
      )}
      <dl class="strip">
        {([
          [t("vault.value"), vault.valueQuote === null ? t("vault.noValue") : money.quote(vault.valueQuote)],
          [t("vault.profit"), vault.profitQuote === null ? t("vault.noValue") : money.quote(vault.profitQuote)],
          [t("vault.drawdown"), drawdown(vault)],
          [t("vault.allocated"), money.quote(vault.allocatedQuote)],
          [t("vault.recalled"), money.quote(vault.recalledQuote)],
        ] as const).map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
      </dl>
      <Section title={t("chart.heading")}><VaultCharts vault={vault} /></Section>
      <Section title={t("vault.positions")}>
        <CardTable caption={t("vault.positions")} head={[t("vault.asset"), t("vault.amount"), t("vault.worth"), t("vault.share")]}
          rows={[
            ...vault.positions.map((one) => [
              one.symbol !== null ? <Untrusted text={one.symbol} /> : <Hash value={one.token} kind="address" />,
              words.units(one.amount, one.decimals, 6),
              one.valueQuote === null ? t("vault.noValue") : money.quote(one.valueQuote), share(one.valueQuote),
            ]),
            [`${quote.symbol} (${t("vault.cash")})`, words.units(vault.quoteHeld, quote.decimals, 2), money.quote(vault.quoteHeld), share(vault.quoteHeld)],
          ]} />
      </Section>
      <Section title={t("limits.heading")} lead={t("limits.leadVault")}><LimitsTable rows={vault.limits} ofVault /></Section>
      <Trades vault={vault} />
      <Account vault={vault} reload={reload} />
      <Section title={t("manifest.heading")}>
        <Facts rows={[
          [t("vault.agent"), <a href="#/agents">{t("agent.name", { id: words.number(vault.agentId) })}</a>],
          [t("proposal.target"), <Hash value={vault.address} kind="address" whole />],
          [t("vault.strategy"), <Hash value={vault.strategyId} />],
          [t("vault.artefact"), <Hash value={vault.artefactHash} />],
          [t("vault.unitPrice"), vault.unitPriceWad === null ? t("vault.noValue") : money.wad(vault.unitPriceWad)],
          [t("vault.peak"), vault.peakWad === null ? t("app.unknown") : money.wad(vault.peakWad)],
        ]} />
        <p class="small">{words.plural("vault.trades", vault.tradeCount)} · {words.plural("vault.refusals", vault.refusalCount)}</p>
      </Section>
    </>
  );
}

const pageOfTrades = 20;

function Trades({ vault }: { vault: VaultView }): JSX.Element {
  const { services } = useApp();
  const { t } = useWords();
  const [shown, setShown] = useState(pageOfTrades);
  const loaded = useLoad(() => services.reader.fetchTrades(vault.address), [vault.address], vault.tradeCount);
  const newestFirst = [...(loaded.data ?? [])].sort((a, b) => b.sequence - a.sequence);
  return (
    <Section title={t("trades.heading")} lead={t("trades.lead")}>
      {!loaded.data && loaded.error === null && <Loading />}
      {loaded.error !== null && <LoadError error={loaded.error} reload={loaded.reload} />}
      {loaded.data?.length === 0 && <p>{t("trades.empty")}</p>}
      <ul class="trades">
        {newestFirst.slice(0, shown).map((trade) => <TradeRow key={trade.id} trade={trade} vault={vault} />)}
      </ul>
      {newestFirst.length > shown && <button type="button" onClick={() => setShown(shown + pageOfTrades)}>{t("trades.more")}</button>}
    </Section>
  );
}

function TradeRow({ trade, vault }: { trade: Trade; vault: VaultView }): JSX.Element {
  const { services } = useApp();
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const explanation = useLoad(() => services.reader.fetchExplanation(trade.explanationHash), [trade.explanationHash], 0);
  const decimals = vault.positions.find((one) => sameAddress(one.token, trade.asset))?.decimals ?? 18;
  const status = explanation.data?.status ?? (explanation.error !== null ? "absent" : "loading");
  const [asset, paid] = trade.isBuy ? [trade.amountOut, trade.amountIn] : [trade.amountIn, trade.amountOut];
  const short = trade.shortfallQuote;
  return (
    <li class="trade" data-testid="trade-row" data-sequence={trade.sequence}>
      <p class="trade-head">
        <span class="trade-number">{trade.sequence}</span>
        <strong>{words.rich(trade.isBuy ? "trades.buy" : "trades.sell", {
          amount: words.units(asset, decimals, 6), asset: <Untrusted text={trade.assetSymbol ?? trade.asset} />, quote: money.quote(paid),
        })}</strong>
      </p>
      <p class="small">
        {words.date(trade.atS)} · {short > 0n ? t("trades.shortfall", { amount: money.quote(short) })
          : short < 0n ? t("trades.better", { amount: money.quote(-short) }) : t("trades.exact")}
        {" · "}{t("trades.after", { amount: money.quote(trade.valueAfterQuote) })} · <Hash value={trade.transaction} kind="tx" />
      </p>
      <p class={status === "matches" ? "check-good" : status === "loading" ? "small" : "check-bad"}
        data-testid="explanation-status" data-status={status}>
        <span aria-hidden="true">{status === "matches" ? "✓ " : status === "loading" ? "" : "! "}</span>{t(`explanation.${status}`)}
      </p>
      {status === "matches" && explanation.data && (
        <>
          {explanation.data.text && <Untrusted text={explanation.data.text} class="prose" />}
          <details>
            <summary>{t("explanation.document")}</summary>
            <pre class="document">{JSON.stringify(explanation.data.document, null, 2)}</pre>
          </details>
        </>
      )}
    </li>
  );
}

function Account({ vault, reload }: { vault: VaultView; reload(): void }): JSX.Element {
  const { overview, wallet, services, config } = useApp();
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const { token } = useTokens();
  const { account } = vault;
  const [message, setMessage] = useState("");
  const [busy, setBusy] = useState(false);
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const controller = overview?.agents.find((agent) => agent.id === vault.agentId)?.controller;
  const isController = sameAddress(controller, wallet?.account);
  const claim = async (): Promise<void> => {
    setBusy(true);
    setMessage(t("delegate.stepWallet"));
    try {
      const sent = await wallet!.claim(vault.address);
      if (sent.status === "reverted") throw new Error(sent.reason);
      setMessage(t("delegate.stepMined", { block: words.number(sent.block) }));
      while (alive.current) {
        const after = await services.reader.fetchVault(vault.address).catch(() => null);
        if (after && after.account.claimedWei > account.claimedWei) {
          setMessage(t("claim.stepCounted", { amount: money.tokenOnly(after.account.claimedWei), symbol: token.symbol }));
          break;
        }
        await new Promise((done) => setTimeout(done, 1000));
      }
      reload();
    } catch (error) {
      setMessage(t("claim.stepFailed", { why: explainFailure(words, error).text }));
    }
    setBusy(false);
  };
  return (
    <Section title={t("account.heading")} lead={t("account.lead")}>
      <Facts rows={[
        [t("account.credited"), money.quote(account.creditedQuote)],
        [t("account.rewarded"), money.token(account.rewardedWei)],
        [t("account.clawedBack"), money.token(account.clawedBackWei)],
        [t("account.unvested"), money.token(account.unvestedWei)],
        account.vestEndsS !== null && account.unvestedWei > 0n && [t("account.vestEnds"), words.date(account.vestEndsS)],
        [t("account.claimable"), <strong>{money.token(account.claimableWei)}</strong>],
        [t("account.claimed"), money.token(account.claimedWei)],
      ]} />
      <p>
        <button type="button" disabled={busy || !isController || account.claimableWei === 0n || wallet?.chainId !== config.chain_id}
          onClick={() => void claim()}>{t("account.claim")}</button>{" "}
        <span class="small">{!isController ? t("account.onlyController") : account.claimableWei === 0n ? t("account.nothing") : ""}</span>
      </p>
      <p role="status" aria-live="polite" data-testid="claim-status">{message}</p>
    </Section>
  );
}
