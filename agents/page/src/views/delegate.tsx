/** Who votes with one's tokens, and how to change it. */

import type { JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { getAddress, isAddress, type Address } from "viem";

import { sameAddress, useApp, useLoad, useTokens } from "../components/app-state";
import { explainFailure, Facts, Hash, LoadError, Loading, Notice, PageHeading, Section, useMoney } from "../components/pieces";
import { useWords } from "../i18n";
import type { VoterStatus } from "../model";

type Step =
  | { step: "idle" } | { step: "wallet" } | { step: "mined"; block: bigint }
  | { step: "counted"; delegate: Address } | { step: "failed"; error: unknown };

export function DelegateView(): JSX.Element {
  const { services, wallet, tick, openWallets, connecting } = useApp();
  const { t } = useWords();
  const account = wallet?.account ?? null;
  const voter = useLoad(async () => (account ? services.reader.fetchVoter(account) : null), [account], tick);
  return (
    <>
      <PageHeading title={t("delegate.heading")}>{t("delegate.heading")}</PageHeading>
      <p class="lead">{t("delegate.lead")}</p>
      <Notice tone="info"><p>{t("delegate.when")}</p></Notice>
      {!wallet && (
        <>
          <p>{t("delegate.connect")}</p>
          <p><button type="button" class="primary" onClick={openWallets} disabled={connecting}>{t("wallet.connect")}</button></p>
        </>
      )}
      {wallet && !voter.data && voter.error === null && <Loading />}
      {voter.error !== null && <LoadError error={voter.error} reload={voter.reload} />}
      {wallet && voter.data && <Mine key={wallet.account} status={voter.data} reload={voter.reload} />}
    </>
  );
}

function Mine({ status, reload }: { status: VoterStatus; reload(): void }): JSX.Element {
  const { wallet, services, config } = useApp();
  const words = useWords();
  const { t } = words;
  const money = useMoney();
  const { token } = useTokens();
  const id = useId();
  const [text, setText] = useState("");
  const [isBad, setIsBad] = useState(false);
  const [state, setState] = useState<Step>({ step: "idle" });
  const alive = useRef(true);
  useEffect(() => () => { alive.current = false; }, []);
  const account = wallet!.account;
  const busy = state.step === "wallet" || state.step === "mined";
  const blocked = busy || wallet!.chainId !== config.chain_id;
  const delegate = async (to: Address): Promise<void> => {
    setState({ step: "wallet" });
    try {
      const sent = await wallet!.delegate(to);
      if (sent.status === "reverted") throw new Error(sent.reason);
      setState({ step: "mined", block: sent.block });
      // Only what the chain says afterwards is told as done.
      while (alive.current) {
        const now = await services.reader.fetchVoter(account).catch(() => null);
        if (sameAddress(now?.delegate, to)) break;
        await new Promise((done) => setTimeout(done, 1000));
      }
      setState({ step: "counted", delegate: to });
      reload();
    } catch (error) {
      setState({ step: "failed", error });
    }
  };
  const toOther = (): void => {
    const typed = text.trim();
    setIsBad(!isAddress(typed));
    if (isAddress(typed)) void delegate(getAddress(typed));
  };
  return (
    <>
      <Section title={t("delegate.now")}>
        <p data-testid="delegate-current">
          {status.delegate === null ? <strong>{t("delegate.nobody", { amount: money.tokenOnly(status.balanceWei), symbol: token.symbol })}</strong>
            : sameAddress(status.delegate, account) ? <strong>{t("delegate.self")}</strong>
            : <>{t("delegate.to")} <Hash value={status.delegate} kind="address" /></>}
        </p>
        <Facts rows={[
          [t("voter.balance"), money.token(status.balanceWei)],
          [t("voter.votesNow"), <span data-testid="voter-power">{money.token(status.votesNowWei)}</span>],
        ]} />
        {status.balanceWei === 0n && <Notice tone="warn"><p>{t("delegate.noTokens", { symbol: token.symbol })}</p></Notice>}
        {!sameAddress(status.delegate, account) && (
          <p><button type="button" class="primary" disabled={blocked} onClick={() => void delegate(account)}>{t("delegate.selfButton")}</button></p>
        )}
        <p class="small">{t("delegate.costs")}</p>
      </Section>
      <Section title={t("delegate.other")} lead={t("delegate.warnOther")}>
        <form onSubmit={(event) => { event.preventDefault(); toOther(); }}>
          <div class="field">
            <label for={id}>{t("delegate.address")}</label>
            <input id={id} class="mono" value={text} spellcheck={false} autocomplete="off" aria-invalid={isBad} disabled={busy}
              aria-describedby={isBad ? `${id}-error` : undefined} onInput={(event) => setText(event.currentTarget.value)} />
            {isBad && <span id={`${id}-error`} role="alert" class="field-error">{t("safe.badAddress")}</span>}
          </div>
          <button type="submit" disabled={blocked}>{t("delegate.button")}</button>
        </form>
      </Section>
      <div role="status" aria-live="polite" class={`progress ${state.step}`} data-testid="delegate-status" data-step={state.step}
        data-code={state.step === "failed" ? explainFailure(words, state.error).code : undefined}>
        {state.step === "wallet" && <p class="progress-text">{t("delegate.stepWallet")}</p>}
        {state.step === "mined" && <p class="progress-text">{t("delegate.stepMined", { block: words.number(state.block) })}</p>}
        {state.step === "counted" && (
          <p class="progress-text">{words.rich("delegate.stepCounted", { delegate: <Hash value={state.delegate} kind="address" /> })}</p>
        )}
        {state.step === "failed" && <p class="progress-text">{t("delegate.stepFailed", { why: explainFailure(words, state.error).text })}</p>}
      </div>
    </>
  );
}
