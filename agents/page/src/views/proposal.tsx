/** One proposal: what it would do, what is known about it, and the ballot. */

import type { JSX } from "preact";

import { ActionList, flatten, isPowerful, isUnknown, sendsValue } from "../components/actions";
import { useApp, useLoad, useTokens, type Loaded } from "../components/app-state";
import { ArtefactPanel } from "../components/artefact";
import { BallotBox } from "../components/ballot-box";
import { isAbove, LimitsTable } from "../components/limits";
import { Facts, Hash, LoadError, Loading, Notice, PageHeading, Section, Untrusted, useMoney } from "../components/pieces";
import { isOpen, PhaseLine, StateBadge, Tally } from "../components/proposal-bits";
import { SafeBox } from "../components/safe-box";
import { useWords } from "../i18n";
import type { ArtefactReport, ManifestDetails, Proposal } from "../model";

export function ProposalView({ id }: { id: bigint }): JSX.Element {
  const { services, tick } = useApp();
  const { t } = useWords();
  const loaded = useLoad(() => services.reader.fetchProposal(id), [id], tick);
  const title = t("proposal.number", { id: shortId(id) });
  return (
    <>
      <p class="crumb"><a href="#/">← {t("app.backToProposals")}</a></p>
      {loaded.data
        ? <Shown proposal={loaded.data} reload={loaded.reload} />
        : <PageHeading title={title}>{title}</PageHeading>}
      {!loaded.data && loaded.error === null && <Loading />}
      {loaded.error !== null && <LoadError error={loaded.error} reload={loaded.reload} />}
    </>
  );
}

function goToBallot(): void {
  const heading = document.querySelector<HTMLElement>("[data-testid=ballot] h2");
  heading?.setAttribute("tabindex", "-1");
  heading?.focus();
  heading?.scrollIntoView({ block: "start" });
}

const shortId = (id: bigint): string => {
  const text = String(id);
  return text.length > 12 ? `${text.slice(0, 6)}…${text.slice(-4)}` : text;
};

function Shown({ proposal, reload }: { proposal: Proposal; reload(): void }): JSX.Element {
  const { services } = useApp();
  const words = useWords();
  const { t } = words;
  const manifest = proposal.manifest;
  const artefact = useLoad<ArtefactReport | null>(
    async () => (manifest ? services.reader.fetchArtefact(manifest.artefactHash) : null), [manifest?.artefactHash], 0,
  );
  const title = proposal.title.trim() || t("proposal.untitled");
  return (
    <>
      <div class="title-line"><StateBadge proposal={proposal} /></div>
      <PageHeading title={title}><Untrusted text={title} /></PageHeading>
      <PhaseLine proposal={proposal} />
      <p class="byline">{t("proposal.by")} <Hash value={proposal.proposer} kind="address" /> · {words.date(proposal.createdS)}</p>
      {/* On a narrow screen the ballot comes after a long page. */}
      <p class="jump"><button type="button" onClick={goToBallot}>{t("voter.heading")} ↓</button></p>
      <div class="columns">
        <div class="column-main">
          <Warnings proposal={proposal} artefact={manifest ? artefact.data : null} />
          <Section title={t("proposal.does")} lead={t("proposal.doesLead")}><ActionList actions={proposal.actions} /></Section>
          {manifest && <Strategy manifest={manifest} artefact={artefact as Loaded<ArtefactReport>} />}
          <Section title={t("proposal.words")} lead={t("proposal.wordsLead")}>
            {proposal.description.trim()
              ? <div class="quote"><Untrusted text={proposal.description} class="prose" /></div> : <p>{t("proposal.noWords")}</p>}
          </Section>
          <Votes proposal={proposal} />
        </div>
        <div class="column-side">
          <BallotBox proposal={proposal} reload={reload} />
          <Section title={t(isOpen(proposal) ? "tally.heading" : "tally.final")}><Tally proposal={proposal} /></Section>
          {proposal.state === "active" && <SafeBox proposal={proposal} reload={reload} />}
          <Section title={t("proposal.facts")}>
            <Facts rows={[
              [t("proposal.number", { id: "" }).trim(), <Hash value={String(proposal.id)} />],
              [t("proposal.opens"), words.date(proposal.voteStartS)],
              [t("proposal.closes"), words.date(proposal.voteEndS)],
              proposal.objectionEndsS !== null && [t("proposal.objectionEnds"), words.date(proposal.objectionEndsS)],
              proposal.etaS !== null && [t("proposal.eta"), words.date(proposal.etaS)],
              proposal.expiresS !== null && [t("proposal.expires"), words.date(proposal.expiresS)],
              [t("proposal.transaction"), <Hash value={proposal.transaction} kind="tx" />],
            ]} />
          </Section>
        </div>
      </div>
    </>
  );
}

function Warnings({ proposal, artefact }: { proposal: Proposal; artefact: ArtefactReport | null }): JSX.Element | null {
  const { t, plural } = useWords();
  const { manifest } = proposal;
  const calls = flatten(proposal.actions);
  const [unknown, value, power] = [isUnknown, sendsValue, isPowerful].map((test) => calls.filter(test).length) as [number, number, number];
  const above = manifest?.limits.filter(isAbove).length ?? 0;
  const outcome = artefact?.status === "matches" ? artefact.verdict?.outcome ?? "NONE" : null;
  const grave = [
    unknown > 0 && plural("warn.unknown", unknown),
    value > 0 && plural("warn.value", value),
    manifest && !manifest.venueCodeMatches && t("warn.venueCode"),
    manifest && !manifest.vaultCodeMatches && t("warn.vaultCode"),
    artefact?.status === "differs" && t("warn.artefact"),
  ].filter((text): text is string => Boolean(text));
  const lesser = [
    power > 0 && plural("warn.power", power),
    above > 0 && plural("warn.ceiling", above),
    outcome !== null && outcome !== "PASS" && t("warn.verdict"),
    manifest && artefact !== null && outcome === null && artefact.status !== "differs" && t("warn.noVerdict"),
  ].filter((text): text is string => Boolean(text));
  const isMismatch = proposal.manifestMatchesCalls === false;
  if (!isMismatch && grave.length + lesser.length === 0) return null;
  return (
    <Notice tone={isMismatch || grave.length > 0 ? "danger" : "warn"} title={t("warn.heading")} testId="warnings">
      <ul>
        {isMismatch && <li data-testid="manifest-mismatch"><strong>{t("warn.mismatch")}</strong></li>}
        {grave.map((text) => <li key={text}><strong>{text}</strong></li>)}
        {lesser.map((text) => <li key={text}>{text}</li>)}
      </ul>
    </Notice>
  );
}

function Strategy({ manifest, artefact }: { manifest: ManifestDetails; artefact: Loaded<ArtefactReport> }): JSX.Element {
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const { quote, token } = useTokens();
  const code = (matches: boolean): JSX.Element =>
    <span class={matches ? "check-good" : "check-bad"}>{matches ? "✓" : "!!"} {t(matches ? "manifest.codeMatches" : "manifest.codeDiffers")}</span>;
  const perQuote = manifest.rewardRate * 10n ** BigInt(quote.decimals);
  const isSame = manifest.runningArtefactHash === manifest.artefactHash;
  return (
    <>
      <Section title={t("manifest.heading")} lead={t(manifest.updates ? "manifest.update" : "manifest.new")}>
        <Facts rows={[
          [t("manifest.agent"), <a href="#/agents">{t("agent.name", { id: words.number(manifest.agentId) })}</a>],
          [t("manifest.capital"), <strong>{money.quote(manifest.capitalQuote)}</strong>],
          [t("manifest.rate"), t("manifest.rateValue", {
            token: `${words.units(perQuote, token.decimals, 4)} ${token.symbol}`, quote: quote.symbol,
          })],
          [t("manifest.cap"), money.token(manifest.rewardCapWei)],
          [t("manifest.assets"), (
            <ul class="inline-list">
              {manifest.assets.map((asset) => (
                <li key={asset.token}>
                  {asset.symbol !== null && <Untrusted text={asset.symbol} />} <Hash value={asset.token} kind="address" />{" "}
                  {asset.running !== null && <small>({t(asset.running ? "manifest.assetKept" : "manifest.assetNew")})</small>}
                </li>
              ))}
            </ul>
          )],
          [t("manifest.venue"), <><Hash value={manifest.venue} kind="address" /> {code(manifest.venueCodeMatches)}</>],
          [t("manifest.vault"), <><Hash value={manifest.vaultImplementation} kind="address" /> {code(manifest.vaultCodeMatches)}</>],
          [t("manifest.hash"), <Hash value={manifest.hash} />],
          manifest.updates !== null && [t("manifest.updates"), <Hash value={manifest.updates} />],
          manifest.runningArtefactHash !== null && [t("manifest.runningArtefact"), (
            <><Hash value={manifest.runningArtefactHash} /> {t(isSame ? "manifest.sameArtefact" : "manifest.otherArtefact")}</>
          )],
        ]} />
      </Section>
      <Section title={t("limits.heading")} lead={t("limits.lead")}><LimitsTable rows={manifest.limits} /></Section>
      <Section title={t("artefact.heading")} lead={t("artefact.lead")}>
        <ArtefactPanel expected={manifest.artefactHash} fetched={artefact} />
      </Section>
    </>
  );
}

function Votes({ proposal }: { proposal: Proposal }): JSX.Element {
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const heaviest = [...proposal.votes].sort((a, b) => (a.weightWei < b.weightWei ? 1 : -1));
  return (
    <Section title={t("proposal.votes")}>
      {heaviest.length === 0 && <p>{t("proposal.noVotes")}</p>}
      <ul class="votes">
        {heaviest.map((vote) => (
          <li key={vote.voter} class={`vote ${vote.support}`} data-testid="vote-row" data-support={vote.support}>
            <p class="vote-head">
              <strong class={`tag ${vote.support}`}>{t(`support.${vote.support}`)}</strong>{" "}
              {money.token(vote.weightWei)} · <Hash value={vote.voter} kind="address" /> · <span class="small">{words.date(vote.atS)}</span>
            </p>
            {vote.reason ? <Untrusted text={vote.reason} class="prose" /> : <span class="small">{t("proposal.noReason")}</span>}
          </li>
        ))}
      </ul>
    </Section>
  );
}
