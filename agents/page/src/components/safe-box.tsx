/** A Safe's vote: its owners sign the same ballot one after the other and pass the text on. */

import type { JSX } from "preact";
import { useEffect, useId, useState } from "preact/hooks";
import { getAddress, isAddress } from "viem";

import { useWords } from "../i18n";
import type { Proposal, Safe, SafeBallot, Support, VoterOnProposal } from "../model";
import { sameAddress, useApp, useTokens } from "./app-state";
import { isReasonTooLong, ReasonField, Save, SupportChoice } from "./ballot-box";
import { explainFailure, explainRead, Hash, Notice, Section, Untrusted, useMoney } from "./pieces";
import { isBusy, useSending } from "./sending";

type Found = { safe: Safe; seen: VoterOnProposal };

export function SafeBox({ proposal, reload }: { proposal: Proposal; reload(): void }): JSX.Element {
  const { services } = useApp();
  const words = useWords();
  const { t } = words;
  const id = useId();
  const [text, setText] = useState("");
  const [found, setFound] = useState<Found | null>(null);
  const [message, setMessage] = useState<string | null>(null);
  const lookUp = async (): Promise<void> => {
    setFound(null);
    const typed = text.trim();
    if (!isAddress(typed)) return setMessage(t("safe.badAddress"));
    setMessage(t("safe.looking"));
    try {
      const safe = await services.fetchSafe(getAddress(typed));
      if (!safe) return setMessage(t("safe.none"));
      setFound({ safe, seen: await services.reader.fetchVoterOnProposal(safe.address, proposal.id) });
      setMessage(null);
    } catch (error) {
      setMessage(explainRead(words, error).text);
    }
  };
  return (
    <Section title={t("safe.heading")}>
      <details>
        <summary>{t("safe.heading")}</summary>
        <p class="small">{t("safe.lead")}</p>
        <form onSubmit={(event) => { event.preventDefault(); void lookUp(); }}>
          <div class="field">
            <label for={id}>{t("safe.address")}</label>
            <input id={id} class="mono" value={text} spellcheck={false} autocomplete="off" onInput={(event) => setText(event.currentTarget.value)} />
          </div>
          <button type="submit">{t("safe.lookUp")}</button>
        </form>
        <p role="status" aria-live="polite">{message}</p>
        {found && <SafeVote key={found.safe.address} found={found} proposal={proposal} reload={reload} />}
      </details>
    </Section>
  );
}

function SafeVote({ found, proposal, reload }: { found: Found; proposal: Proposal; reload(): void }): JSX.Element {
  const { services, wallet, config, openWallets } = useApp();
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const { token } = useTokens();
  const { safe, seen } = found;
  const [support, setSupport] = useState<Support | null>(null);
  const [reason, setReason] = useState("");
  const [ballot, setBallot] = useState<SafeBallot | null>(null);
  const [json, setJson] = useState("");
  const [message, setMessage] = useState<string | null>(null);
  const sending = useSending(services, proposal.id, safe.address, reload);
  const [ready, setReady] = useState(false);
  useEffect(() => setReady(ballot !== null && services.assembleSafeBallot(ballot, safe) !== null), [ballot]);
  const isOwner = safe.owners.some((owner) => sameAddress(owner, wallet?.account));
  const keep = (next: SafeBallot): void => {
    setBallot(next);
    setSupport(next.support);
    setReason(next.reason);
    setJson(JSON.stringify(next, null, 2));
  };
  const attempt = async (act: () => Promise<void>): Promise<void> => {
    setMessage(null);
    try {
      await act();
    } catch (error) {
      const detail = error instanceof Error ? error.message : "";
      const failure = explainFailure(words, error);
      setMessage(failure.code === "unsupported" ? detail : failure.text);
    }
  };
  const sign = (): Promise<void> => attempt(async () => {
    if (support === null) return setMessage(t("ballot.choose"));
    const fresh = async (): Promise<SafeBallot> => ({
      format: "marketflow/safe-ballot/1", chain_id: config.chain_id,
      dao: getAddress(String(config.deployment.protocol["dao"])), safe: safe.address, proposal_id: String(proposal.id), support,
      nonce: String((await services.reader.fetchVoter(safe.address)).nonce), reason: reason.trim(), signatures: [],
    });
    keep(await wallet!.signForSafe(ballot ?? (await fresh())));
  });
  const read = (): Promise<void> => attempt(async () => {
    const next = await services.readSafeBallot(json, safe);
    if (next.proposal_id !== String(proposal.id)) return setMessage(t("safe.badJson", { why: t("safe.otherProposal") }));
    keep(next);
  });
  const submit = (): Promise<void> => sending.relay(async () => {
    const signed = ballot && services.assembleSafeBallot(ballot, safe);
    if (!signed) throw new Error(t("ballot.choose"));
    return signed;
  });
  const done = sending.state.step === "counted" || seen.hasVoted;
  const state = sending.state;
  const status = state.step === "failed" ? t("ballot.stepFailed", { why: explainFailure(words, state.error).text })
    : state.step === "counted" && state.seen.voted ? t("ballot.stepCounted", {
      support: t(`support.${state.seen.voted.support}`), amount: money.tokenOnly(state.seen.voted.weightWei), symbol: token.symbol,
    })
    : state.step === "queued" ? t("ballot.stepQueued") : state.step === "sent" ? t("ballot.stepSent")
    : state.step === "mined" ? t("ballot.stepMinedWait") : state.step === "relayer" ? t("ballot.stepRelayer")
    : state.step === "unsure" ? t("ballot.stepUnsure") : "";
  const transaction = "transaction" in state ? state.transaction : null;
  return (
    <div class="safe">
      <p>{t("safe.found", { threshold: safe.threshold, owners: safe.owners.length })}</p>
      <p data-testid="safe-power">{t("safe.votes", { amount: money.tokenOnly(seen.weightWei), symbol: token.symbol })}</p>
      <ul class="inline-list" aria-label={t("safe.owners")}>
        {safe.owners.map((owner) => {
          const has = ballot?.signatures.some((one) => sameAddress(one.owner, owner));
          return <li key={owner}><Hash value={owner} kind="address" /> <small>{has ? `✓ ${t("safe.signed")}` : t("safe.notSigned")}</small></li>;
        })}
      </ul>
      {seen.hasVoted && <Notice tone="good"><p>{t("voter.alreadyShort")}</p></Notice>}
      {!seen.hasVoted && seen.weightWei === 0n && <Notice tone="warn"><p>{t("voter.noneAtSnapshot")}</p></Notice>}
      {!done && seen.weightWei > 0n && (
        <>
          {ballot === null ? (
            <>
              <SupportChoice value={support} choose={setSupport} onlyAgainst={false} disabled={false} testIds={false} />
              <ReasonField value={reason} change={setReason} disabled={false} />
            </>
          ) : (
            <>
              <p><strong>{t("safe.choiceOf", { support: t(`support.${ballot.support}`) })}</strong></p>
              {ballot.reason && <p>{words.rich("voter.reason", { reason: <Untrusted text={ballot.reason} /> })}</p>}
              <p data-testid="safe-signatures">{words.plural("safe.have", ballot.signatures.length, { need: safe.threshold })}</p>
            </>
          )}
          {!wallet && <p><button type="button" onClick={openWallets}>{t("wallet.connect")}</button></p>}
          {wallet && !isOwner && <p>{words.rich("safe.youAreNot", { account: <Hash value={wallet.account} kind="address" /> })}</p>}
          <p class="buttons">
            <button type="button" disabled={!isOwner || isReasonTooLong(reason)} onClick={() => void sign()}>{t("safe.sign")}</button>
          </p>
          <div class="field">
            <label for="safe-json">{t("safe.json")}</label>
            <textarea id="safe-json" class="mono" rows={5} value={json} spellcheck={false} data-testid="safe-json"
              aria-describedby="safe-json-hint" onInput={(event) => setJson(event.currentTarget.value)} />
            <span id="safe-json-hint" class="small">{t("safe.readHint")}</span>
          </div>
          <p class="buttons">
            <button type="button" onClick={() => void read()}>{t("safe.read")}</button>
            {ballot && <Save name="safe-ballot.json" text={JSON.stringify(ballot, null, 2)}>{t("safe.save")}</Save>}
          </p>
          {ready && (
            <>
              <p>{t("safe.ready")}</p>
              {services.relayer
                ? <button type="button" class="primary" disabled={isBusy(state)} onClick={() => void submit()}>{t("safe.submit")}</button>
                : <Save name="ballot.json" text={JSON.stringify(ballot && services.assembleSafeBallot(ballot, safe), null, 2)}>{t("ballot.keep")}</Save>}
            </>
          )}
        </>
      )}
      {message && <p role="alert" class="field-error"><Untrusted text={message} /></p>}
      <div role="status" aria-live="polite" data-testid="safe-status" data-step={state.step}>
        {status}{transaction && <> <Hash value={transaction} kind="tx" /></>}
      </div>
    </div>
  );
}
