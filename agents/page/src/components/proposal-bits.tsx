/** State, time left and tally of a proposal, as the list and its own page show them. */

import type { JSX } from "preact";

import { useWords, type Words } from "../i18n";
import type { ProposalSummary } from "../model";
import { useChainNow, useTokens } from "./app-state";
import { useMoney } from "./pieces";

/** "objection": the governor still says active, but a late flip opened the time in which only Against counts. */
export type Phase = ProposalSummary["state"] | "objection";

export function phaseOf(proposal: ProposalSummary, nowS: number): Phase {
  const objecting = proposal.state === "active" && proposal.objectionEndsS !== null && nowS > proposal.voteEndS;
  return objecting ? "objection" : proposal.state;
}

export const isOpen = (proposal: ProposalSummary): boolean => proposal.state === "active" || proposal.state === "pending";
export const isWaiting = (proposal: ProposalSummary): boolean =>
  proposal.state === "succeeded" || proposal.state === "queued";

export function explainPhase(words: Words, proposal: ProposalSummary, nowS: number): string {
  const left = (untilS: number): string => words.duration(untilS - nowS);
  const phase = phaseOf(proposal, nowS);
  switch (phase) {
    case "pending":
      return proposal.voteStartS > nowS
        ? words.t("stateWhy.pending", { left: left(proposal.voteStartS) }) : words.t("stateWhy.opening");
    case "active":
      return proposal.voteEndS > nowS
        ? words.t("stateWhy.active", { left: left(proposal.voteEndS) }) : words.t("stateWhy.closing");
    case "objection":
      return (proposal.objectionEndsS ?? 0) > nowS
        ? words.t("stateWhy.objection", { left: left(proposal.objectionEndsS ?? 0) }) : words.t("stateWhy.closing");
    case "queued":
      if (proposal.etaS !== null && proposal.etaS > nowS) return words.t("stateWhy.queued", { left: left(proposal.etaS) });
      return proposal.expiresS !== null
        ? words.t("stateWhy.queuedReady", { left: left(proposal.expiresS) }) : words.t("stateWhy.queuedOpen");
    case "succeeded":
      return proposal.expiresS !== null
        ? words.t("stateWhy.succeeded", { left: left(proposal.expiresS) }) : words.t("stateWhy.succeededOpen");
    default:
      return words.t(`stateWhy.${phase}`);
  }
}

const phaseSigns: Record<Phase, string> = {
  pending: "○", active: "●", objection: "◐", canceled: "✕", defeated: "✕", succeeded: "✓", queued: "✓", expired: "–", executed: "✓",
};

export function StateBadge({ proposal }: { proposal: ProposalSummary }): JSX.Element {
  const { t } = useWords();
  const phase = phaseOf(proposal, useChainNow());
  return (
    <span class={`badge ${phase}`} data-testid="proposal-state" data-state={phase}>
      <span aria-hidden="true">{phaseSigns[phase]}</span> {t(`state.${phase}`)}
    </span>
  );
}

export function PhaseLine({ proposal }: { proposal: ProposalSummary }): JSX.Element {
  const words = useWords();
  return <p class="phase-line">{explainPhase(words, proposal, useChainNow())}</p>;
}

const share = (part: bigint, whole: bigint): number => (whole > 0n ? Number((part * 10_000n) / whole) : 0);

/** Bars for the eye; the numbers beside them say the same. */
export function Tally({ proposal, compact = false }: { proposal: ProposalSummary; compact?: boolean }): JSX.Element {
  const { t, percent } = useWords();
  const { tokenOnly } = useMoney();
  const { token } = useTokens();
  const all = proposal.forWei + proposal.againstWei + proposal.abstainWei;
  const present = proposal.forWei + proposal.abstainWei;
  const rows = [["for", proposal.forWei], ["against", proposal.againstWei], ["abstain", proposal.abstainWei]] as const;
  const missing = proposal.quorumWei - present;
  return (
    <div class={compact ? "tally compact" : "tally"}>
      {rows.map(([name, amount]) => (compact && name === "abstain" && amount === 0n ? null : (
        <div class={`tally-row ${name}`} key={name}>
          <span class="tally-name">{t(`tally.${name}`)}</span>
          <svg class="bar" aria-hidden="true" preserveAspectRatio="none">
            <rect class="bar-track" width="100%" height="100%" />
            <rect class={`bar-fill ${name}`} width={`${share(amount, all) / 100}%`} height="100%" />
          </svg>
          <span class="tally-number">
            {amount === 0n ? t("tally.none")
              : t("tally.share", { amount: tokenOnly(amount), symbol: token.symbol, percent: percent(share(amount, all), 1) })}
          </span>
        </div>
      )))}
      {proposal.quorumWei > 0n && (
        <p class="quorum">
          {t("tally.quorum", { have: tokenOnly(present), need: tokenOnly(proposal.quorumWei), symbol: token.symbol })}
          {" · "}
          <strong>
            {missing <= 0n ? `✓ ${t("tally.quorumMet")}`
              : t("tally.quorumMissing", { missing: tokenOnly(missing), symbol: token.symbol })}
          </strong>
        </p>
      )}
      {!compact && <p class="small">{t("tally.quorumNote")}</p>}
    </div>
  );
}
