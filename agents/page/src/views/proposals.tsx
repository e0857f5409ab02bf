/** The first page: the treasury at a glance, and every proposal. */

import type { JSX } from "preact";

import { isOpen, isWaiting, PhaseLine, StateBadge, Tally } from "../components/proposal-bits";
import { useApp } from "../components/app-state";
import { Loading, PageHeading, Untrusted, useMoney } from "../components/pieces";
import { useWords } from "../i18n";
import type { Overview, ProposalSummary } from "../model";

export function ProposalsView(): JSX.Element {
  const { overview, overviewError } = useApp();
  const { t, duration } = useWords();
  const newestFirst = [...(overview?.proposals ?? [])].sort((a, b) => b.createdS - a.createdS);
  const past = newestFirst.filter((one) => !isOpen(one) && !isWaiting(one));
  return (
    <>
      <PageHeading title={t("overview.heading")}>{t("overview.heading")}</PageHeading>
      <p class="lead">{t("overview.lead")}</p>
      {!overview && overviewError === null && <Loading />}
      {overview && (
        <>
          <Figures overview={overview} />
          {newestFirst.length === 0 && <p>{t("overview.empty")}</p>}
          <Group title={t("overview.groupOpen")} proposals={newestFirst.filter(isOpen)} />
          <Group title={t("overview.groupSoon")} proposals={newestFirst.filter(isWaiting)} />
          <Group title={t("overview.groupPast")} proposals={past} />
          <p class="small rules">
            {t("overview.rules", {
              delay: duration(overview.governance.votingDelayS), period: duration(overview.governance.votingPeriodS),
              timelock: duration(overview.governance.timelockDelayS),
            })}
          </p>
        </>
      )}
    </>
  );
}

function Figures({ overview }: { overview: Overview }): JSX.Element {
  const { t, number } = useWords();
  const money = useMoney();
  const active = overview.vaults.filter((vault) => vault.state === "active").length;
  const inVaults = overview.vaults.some((vault) => vault.valueQuote === null)
    ? t("app.unknown") : money.quote(overview.vaults.reduce((sum, vault) => sum + (vault.valueQuote ?? 0n), 0n));
  const rows = [
    [t("overview.treasury"), money.quote(overview.treasuryQuote)],
    [t("overview.inVaults"), inVaults],
    [t("overview.vaults"), t("overview.vaultsOf", { active: number(active), all: number(overview.vaults.length) })],
    [t("overview.open"), number(overview.proposals.filter((one) => one.state === "active").length)],
    [t("overview.supply"), money.token(overview.token.supplyWei)],
  ];
  return (
    <section aria-label={t("overview.figures")}>
      <dl class="strip">{rows.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
    </section>
  );
}

function Group({ title, proposals }: { title: string; proposals: ProposalSummary[] }): JSX.Element | null {
  if (proposals.length === 0) return null;
  return (
    <section class="group">
      <h2>{title}</h2>
      <ul class="proposals">{proposals.map((one) => <Row key={String(one.id)} proposal={one} />)}</ul>
    </section>
  );
}

function Row({ proposal }: { proposal: ProposalSummary }): JSX.Element {
  const { t } = useWords();
  return (
    <li class="proposal-row" data-testid="proposal-row" data-id={String(proposal.id)}>
      <div class="proposal-top">
        <h3><a href={`#/proposal/${proposal.id}`}><Untrusted text={proposal.title.trim() || t("proposal.untitled")} /></a></h3>
        <StateBadge proposal={proposal} />
      </div>
      <PhaseLine proposal={proposal} />
      <Tally proposal={proposal} compact />
    </li>
  );
}
