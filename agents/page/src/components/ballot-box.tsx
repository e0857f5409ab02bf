/** Where a token holder votes. Nothing here is said to be counted before it was read back from the chain. */

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useState } from "preact/hooks";

import { useWords, type Words } from "../i18n";
import { type Proposal, type Support, type VoterOnProposal, type VoterStatus } from "../model";
import { useApp, useChainNow, useLoad, useTokens } from "./app-state";
import { explainFailure, Hash, Notice, Section, Untrusted, useMoney } from "./pieces";
import { phaseOf } from "./proposal-bits";
import { isBusy, supports, useSending, type BallotStep, type Sending } from "./sending";

/** As agents/ballots.py has it: a longer one is refused by the relayer. */
const maxReasonBytes = 1_000;

export function BallotBox({ proposal, reload }: { proposal: Proposal; reload(): void }): JSX.Element {
  const { t } = useWords();
  return (
    <div data-testid="ballot">
      <Section title={t("voter.heading")} tone="ballot">
        <Ballot proposal={proposal} reload={reload} />
      </Section>
    </div>
  );
}

function Ballot({ proposal, reload }: { proposal: Proposal; reload(): void }): JSX.Element {
  const { services, wallet, tick, openWallets, connecting, config, switchChain } = useApp();
  const { t } = useWords();
  const nowS = useChainNow();
  const voter = wallet?.account ?? null;
  const onProposal = useLoad(
    async () => (voter ? services.reader.fetchVoterOnProposal(voter, proposal.id) : null), [voter, proposal.id], tick,
  );
  const general = useLoad(async () => (voter ? services.reader.fetchVoter(voter) : null), [voter], tick);
  const sending = useSending(services, proposal.id, voter, () => { onProposal.reload(); reload(); });
  const phase = phaseOf(proposal, nowS);
  if (!wallet) {
    return (
      <>
        <WhenClosed proposal={proposal} phase={phase} nowS={nowS} />
        <p>{t("voter.connectFirst")}</p>
        <p><button type="button" class="primary" onClick={openWallets} disabled={connecting}>{t("wallet.connect")}</button></p>
      </>
    );
  }
  const seen = sending.state.step === "counted" ? sending.state.seen : onProposal.data;
  return (
    <>
      {seen && <Power proposal={proposal} seen={seen} phase={phase} />}
      {general.data?.isContract && <Notice tone="info"><p>{t("wallet.contract")}</p></Notice>}
      {onProposal.error !== null && !seen && (
        <Notice tone="danger" role="alert"><p>{t("error.unreachable")}</p>
          <p><button type="button" onClick={onProposal.reload}>{t("app.reload")}</button></p></Notice>
      )}
      {wallet.chainId !== config.chain_id && phase === "active" && (
        <Notice tone="warn">
          <p>{t("voter.switchFirst", { chain: config.chain_name })}</p>
          <p><button type="button" onClick={switchChain}>{t("wallet.switch", { chain: config.chain_name })}</button></p>
        </Notice>
      )}
      {!seen?.hasVoted && <WhenClosed proposal={proposal} phase={phase} nowS={nowS} />}
      {seen && !seen.hasVoted && (phase === "active" || phase === "objection") && seen.weightWei > 0n && general.data && (
        <Form proposal={proposal} sending={sending} status={general.data} onlyAgainst={phase === "objection"} />
      )}
      <Progress proposal={proposal} sending={sending} />
    </>
  );
}

function WhenClosed({ proposal, phase, nowS }: { proposal: Proposal; phase: string; nowS: number }): JSX.Element | null {
  const { t, duration } = useWords();
  if (phase === "active") return null;
  if (phase === "objection") return <p><strong>{t("voter.objectionOnly")}</strong></p>;
  const text = phase === "pending" ? t("voter.notOpen", { left: duration(proposal.voteStartS - nowS) }) : t("voter.closed");
  return <p><strong>{text}</strong></p>;
}

function Power({ proposal, seen, phase }: { proposal: Proposal; seen: VoterOnProposal; phase: string }): JSX.Element {
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const { token } = useTokens();
  const amount = money.tokenOnly(seen.weightWei);
  const voted = seen.voted;
  return (
    <>
      <p data-testid="voter-power">{t(phase === "pending" ? "voter.powerNow" : "voter.power", { amount, symbol: token.symbol })}</p>
      {seen.hasVoted && (
        <Notice tone="good" testId="already-voted">
          <p>{voted ? t("voter.already", {
            support: t(`support.${voted.support}`), amount: money.tokenOnly(voted.weightWei), symbol: token.symbol,
          }) : t("voter.alreadyShort")}</p>
          {voted?.reason && <p>{words.rich("voter.reason", { reason: <Untrusted text={voted.reason} /> })}</p>}
        </Notice>
      )}
      {!seen.hasVoted && seen.weightWei === 0n && ["pending", "active", "objection"].includes(phase) && (
        <Notice tone="warn" testId="no-power">
          <p>{t(phase === "pending" ? "voter.nonePending" : "voter.noneAtSnapshot")}</p>
          <p><a href="#/delegate">{t("voter.howToGet")}</a></p>
        </Notice>
      )}
    </>
  );
}

export function SupportChoice(
  { value, choose, onlyAgainst, disabled, testIds = true }:
    { value: Support | null; choose(support: Support): void; onlyAgainst: boolean; disabled: boolean; testIds?: boolean },
): JSX.Element {
  const { t } = useWords();
  const name = useId();
  return (
    <fieldset class="choice" role="radiogroup" aria-label={t("voter.heading")}>
      {supports.map((support) => (
        <label key={support} class={`choice-item ${support} ${value === support ? "chosen" : ""}`}>
          <input type="radio" name={name} checked={value === support} onChange={() => choose(support)}
            disabled={disabled || (onlyAgainst && support !== "against")} data-testid={testIds ? `vote-${support}` : undefined} />
          <span><strong>{t(`support.${support}`)}</strong> <small>{t(`supportHint.${support}`)}</small></span>
        </label>
      ))}
    </fieldset>
  );
}

export function ReasonField(
  { value, change, disabled, testId }: { value: string; change(text: string): void; disabled: boolean; testId?: string },
): JSX.Element {
  const { t, number } = useWords();
  const id = useId();
  const have = new TextEncoder().encode(value).length;
  return (
    <div class="field">
      <label for={id}>{t("ballot.reason")}</label>
      <textarea id={id} rows={2} dir="auto" value={value} disabled={disabled} data-testid={testId}
        aria-describedby={`${id}-hint`} onInput={(event) => change(event.currentTarget.value)} />
      <span id={`${id}-hint`} class="small">
        {have > maxReasonBytes
          ? <strong>{t("ballot.reasonLong", { most: number(maxReasonBytes), have: number(have) })}</strong> : t("ballot.reasonHint")}
      </span>
    </div>
  );
}

export const isReasonTooLong = (text: string): boolean => new TextEncoder().encode(text).length > maxReasonBytes;

function useRelayerState(): string | null | undefined {
  const { services, tick } = useApp();
  const words = useWords();
  const [state, setState] = useState<string | null | undefined>(undefined);
  useEffect(() => {
    let isNewest = true;
    const set = (text: string | null): void => void (isNewest && setState(text));
    if (!services.relayer) set(words.t("ballot.noRelayer"));
    else {
      services.relayer.status().then(
        ({ accepting, whyNot }) => set(accepting ? null : words.t("ballot.notAccepting", { why: whyNot ?? "" })),
        () => set(words.t("ballot.relayerDown")),
      );
    }
    return () => {
      isNewest = false;
    };
  }, [services, words, Math.floor(tick / 5)]);
  return state;
}

function Form(
  { proposal, sending, status, onlyAgainst }:
    { proposal: Proposal; sending: Sending; status: VoterStatus; onlyAgainst: boolean },
): JSX.Element {
  const { wallet, config, services } = useApp();
  const { t } = useWords();
  const [support, setSupport] = useState<Support | null>(onlyAgainst ? "against" : null);
  const [reason, setReason] = useState("");
  const [missing, setMissing] = useState(false);
  const whyNoRelay = useRelayerState();
  const busy = isBusy(sending.state);
  const isWrongChain = wallet?.chainId !== config.chain_id;
  const blocked = busy || isWrongChain || isReasonTooLong(reason);
  const withChoice = (act: (chosen: Support) => void): void => {
    setMissing(support === null);
    if (support !== null) act(support);
  };
  const sign = (): void => withChoice((chosen) => void sending.relay(async () => {
    // Read again: another ballot may have used the number that was known.
    const { nonce } = await services.reader.fetchVoter(wallet!.account);
    return wallet!.signBallot(proposal.id, chosen, reason.trim(), nonce);
  }));
  const direct = (): void => withChoice((chosen) => void sending.direct(async (tell) => {
    const sent = await wallet!.voteDirectly(proposal.id, chosen, reason.trim(), tell);
    return {
      transaction: sent.transaction, block: sent.status === "mined" ? sent.block : null,
      failed: sent.status === "reverted" ? sent.reason : null,
    };
  }));
  return (
    <form class="ballot-form" onSubmit={(event) => event.preventDefault()}>
      <SupportChoice value={support} choose={setSupport} onlyAgainst={onlyAgainst} disabled={busy} />
      <ReasonField value={reason} change={setReason} disabled={busy} testId="ballot-reason" />
      {missing && support === null && <p role="alert" class="field-error">{t("ballot.choose")}</p>}
      <div class="ways">
        <div>
          <button type="button" class="primary" onClick={sign}
            disabled={blocked || whyNoRelay !== null || status.isContract}>{t("ballot.sign")}</button>
          <p class="small" data-testid="relayer-state">{whyNoRelay ?? t("ballot.signHint")}</p>
        </div>
        <div>
          <button type="button" onClick={direct} disabled={blocked}>{t("ballot.direct")}</button>
          <p class="small">{t("ballot.directHint")}</p>
        </div>
      </div>
    </form>
  );
}

const shortNumber = (id: bigint): string => (String(id).length > 12 ? `${String(id).slice(0, 8)}…` : String(id));

/** Which of the four steps is reached: wallet, sent, in a block, counted. */
const reached: Record<BallotStep["step"], number> = {
  idle: 0, wallet: 1, relayer: 2, queued: 2, sent: 2, unsure: 2, mined: 3, counted: 4, failed: 0,
};

function tell(words: Words, state: BallotStep, proposal: Proposal, amount: (wei: bigint) => string, symbol: string): string {
  const { t } = words;
  switch (state.step) {
    case "idle": return "";
    case "wallet": return t("ballot.stepWalletDirect");
    case "relayer": return t("ballot.stepRelayer");
    case "queued": return t("ballot.stepQueued");
    case "sent": return t("ballot.stepSent");
    case "unsure": return t("ballot.stepUnsure");
    case "mined":
      return state.waited || state.block === null
        ? t("ballot.stepMinedWait") : t("ballot.stepMined", { block: words.number(state.block) });
    case "counted": {
      const voted = state.seen.voted;
      return voted ? t("ballot.stepCounted", {
        support: t(`support.${voted.support}`), amount: amount(voted.weightWei), symbol,
      }) : t("voter.alreadyShort");
    }
    case "failed": return t("ballot.stepFailed", { why: explainFailure(words, state.error).text });
  }
}

export function Steps({ at }: { at: number }): JSX.Element {
  const { t } = useWords();
  return (
    <ol class="steps" aria-label={t("ballot.steps")}>
      {([1, 2, 3, 4] as const).map((n) => (
        <li key={n} class={n < at || at === 4 ? "done" : n === at ? "now" : ""} aria-current={n === at ? "step" : undefined}>
          {t(`ballot.step${n}`)}
        </li>
      ))}
    </ol>
  );
}

function Progress({ proposal, sending }: { proposal: Proposal; sending: Sending }): JSX.Element {
  const words = useWords();
  const money = useMoney();
  const { token } = useTokens();
  const { state } = sending;
  const transaction = "transaction" in state ? state.transaction : null;
  const text = state.step === "wallet" && !state.direct
    ? words.t("ballot.stepWallet", { id: shortNumber(proposal.id) })
    : tell(words, state, proposal, money.tokenOnly, token.symbol);
  return (
    <div class={`progress ${state.step}`} data-testid="ballot-status" data-step={state.step} role="status" aria-live="polite"
      data-code={state.step === "failed" ? explainFailure(words, state.error).code : undefined}>
      {state.step !== "idle" && (
        <>
          {state.step !== "failed" && <Steps at={reached[state.step]} />}
          <p class="progress-text">{text}</p>
          {transaction && (
            <p data-testid="ballot-transaction">{words.t("ballot.transaction")}: <Hash value={transaction} kind="tx" /></p>
          )}
          {state.step === "failed" && (
            <p class="buttons">
              <button type="button" onClick={sending.reset}>{words.t("ballot.again")}</button>
              {sending.signed && <Save name="ballot.json" text={JSON.stringify(sending.signed, null, 2)}>{words.t("ballot.keep")}</Save>}
            </p>
          )}
        </>
      )}
    </div>
  );
}

export function Save({ name, text, children }: { name: string; text: string; children: ComponentChildren }): JSX.Element {
  const save = (): void => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  return <button type="button" onClick={save}>{children}</button>;
}

