/** Who trades: the registered agents, with what each has at stake. */

import type { JSX } from "preact";

import { useApp } from "../components/app-state";
import { Facts, Hash, Loading, PageHeading, Untrusted, useMoney } from "../components/pieces";
import { useWords } from "../i18n";

export function AgentsView(): JSX.Element {
  const { overview, overviewError } = useApp();
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  return (
    <>
      <PageHeading title={t("agents.heading")}>{t("agents.heading")}</PageHeading>
      <p class="lead">{t("agents.lead")}</p>
      {!overview && overviewError === null && <Loading />}
      {overview?.agents.length === 0 && <p>{t("agents.empty")}</p>}
      <ul class="cards">
        {overview?.agents.map((agent) => (
          <li key={String(agent.id)} class="card" data-testid="agent-row">
            <h2>{t("agent.name", { id: words.number(agent.id) })}</h2>
            <Facts rows={[
              [t("agent.controller"), <Hash value={agent.controller} kind="address" />],
              [t("agent.key"), <Hash value={agent.signingKey} kind="address" />],
              [t("agent.bond"), <strong>{money.token(agent.bondWei)}</strong>],
              [t("agent.deposit"), money.quote(agent.depositQuote)],
              [t("agent.rewarded"), money.token(agent.rewardedWei)],
              [t("agent.clawedBack"), money.token(agent.clawedBackWei)],
              [t("agent.unclaimed"), money.token(agent.unclaimedWei)],
              [t("agent.vault"), agent.vault
                ? <a href={`#/vault/${agent.vault}`}>{t("vault.heading", { address: `${agent.vault.slice(0, 6)}…${agent.vault.slice(-4)}` })}</a>
                : t("agent.noVault")],
              agent.uri !== "" && [t("agent.uri"), <Untrusted text={agent.uri} />],
            ]} />
            <p class="small">{words.plural("vault.trades", agent.tradeCount)}</p>
          </li>
        ))}
      </ul>
    </>
  );
}
