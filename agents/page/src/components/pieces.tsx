/** Small things that views are made of. */

import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";

import { useWords, type TextKey, type Words } from "../i18n";
import { ReadError, RelayerRefused, WalletError } from "../model";
import { useApp, useTokens } from "./app-state";

/** The heading of a page; gets the focus when the route changes, so that a screen reader begins here. */
export function PageHeading({ children, title }: { children: ComponentChildren; title: string }): JSX.Element {
  const { t } = useWords();
  useEffect(() => {
    document.title = `${title} · ${t("app.title")}`;
  }, [title, t]);
  return <h1 tabIndex={-1} class="page-heading" dir="auto">{children}</h1>;
}

export function Section(
  { title, lead, children, tone }: { title: string; lead?: string; children: ComponentChildren; tone?: string },
): JSX.Element {
  const id = useId();
  return (
    <section aria-labelledby={id} class={`section ${tone ?? ""}`}>
      <h2 id={id}>{title}</h2>
      {lead && <p class="lead">{lead}</p>}
      {children}
    </section>
  );
}

export function Notice(
  { tone, title, children, testId, role }:
    { tone: "warn" | "danger" | "good" | "info"; title?: string; children: ComponentChildren; testId?: string; role?: "alert" | "status" },
): JSX.Element {
  return (
    <div class={`notice ${tone}`} data-testid={testId} role={role}>
      <span class="notice-sign" aria-hidden="true">{{ warn: "!", danger: "!!", good: "✓", info: "i" }[tone]}</span>
      <div class="notice-body">
        {title && <p class="notice-title">{title}</p>}
        {children}
      </div>
    </div>
  );
}

const shorten = (text: string): string => (text.length > 14 ? `${text.slice(0, 6)}…${text.slice(-4)}` : text);

/** A hash or an address: shortened to read, whole to copy, linked to the explorer when there is one. */
export function Hash(
  { value, kind = "hash", whole = false }: { value: string; kind?: "hash" | "address" | "tx"; whole?: boolean },
): JSX.Element {
  const { config, wallet, announce } = useApp();
  const { t } = useWords();
  const [copied, setCopied] = useState(false);
  const path = { hash: null, address: "address", tx: "tx" }[kind];
  const explorer = path && config.explorer && /^https?:\/\//.test(config.explorer)
    ? `${config.explorer.replace(/\/$/, "")}/${path}/${value}` : null;
  const isYou = kind === "address" && wallet?.account.toLowerCase() === value.toLowerCase();
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(value);
      setCopied(true);
      announce(t("app.copied"));
      setTimeout(() => setCopied(false), 1500);
    } catch {
      announce(t("app.copyFailed"));
    }
  };
  return (
    <span class="hash">
      <code title={value}>{whole ? value : shorten(value)}</code>
      {isYou && <span class="you">{t("app.you")}</span>}
      <button type="button" class="icon-button" onClick={copy} aria-label={t("app.copyWhat", { what: shorten(value) })}>
        <svg viewBox="0 0 16 16" aria-hidden="true">
          {copied ? <path d="M3 8.5l3.2 3.2L13 4.8" /> : <path d="M5.5 5.5h7v8h-7zM3.5 10.5v-8h7" />}
        </svg>
      </button>
      {explorer && (
        <a class="icon-button" href={explorer} target="_blank" rel="noopener noreferrer"
          aria-label={`${shorten(value)} ${t("app.inExplorer")} (${t("app.newWindow")})`}>
          <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M6 3.5H3.5v9h9V10M8.5 3h4.5v4.5M13 3L7.5 8.5" /></svg>
        </a>
      )}
    </span>
  );
}

/** Text that somebody wrote: only ever text, in its own direction, never wider than the screen. */
export function Untrusted({ text, class: name = "" }: { text: string; class?: string }): JSX.Element {
  return <bdi class={`untrusted ${name}`} dir="auto">{text}</bdi>;
}

export function Facts({ rows }: { rows: (readonly [string, ComponentChildren] | null | false)[] }): JSX.Element {
  return (
    <dl class="facts">
      {rows.filter((row) => row !== null && row !== false).map(([name, value]) => (
        <div key={name}><dt>{name}</dt><dd>{value}</dd></div>
      ))}
    </dl>
  );
}

/** A table that scrolls by itself on a narrow screen is a trap for the keyboard; so each row becomes a card there. */
export function CardTable(
  { caption, head, rows, rowProps }:
    { caption: string; head: string[]; rows: ComponentChildren[][]; rowProps?: (index: number) => Record<string, string> },
): JSX.Element {
  return (
    <table class="card-table">
      <caption class="visually-hidden">{caption}</caption>
      <thead><tr>{head.map((name) => <th scope="col" key={name}>{name}</th>)}</tr></thead>
      <tbody>
        {rows.map((cells, index) => (
          <tr key={index} {...rowProps?.(index)}>
            {cells.map((cell, at) => at === 0
              ? <th scope="row" key={at}>{cell}</th>
              : <td key={at}><span class="cell-name" aria-hidden="true">{head[at]}</span><span>{cell}</span></td>)}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Words for what went wrong, with the detail kept for those who can use it. */
export function explainRead(words: Words, error: unknown): { text: string; detail: string | null } {
  const code = error instanceof ReadError ? error.code : "unexpected";
  return { text: words.t(`error.${code}` as TextKey), detail: error instanceof Error ? error.message : String(error) };
}

export function explainFailure(words: Words, error: unknown): { code: string; text: string } {
  const detail = error instanceof Error ? error.message : String(error);
  if (error instanceof WalletError) return { code: error.code, text: words.t(`fail.${error.code}`, { detail }) };
  if (error instanceof RelayerRefused) {
    const text = words.maybe(`refused.${error.code}`) ?? words.t("refused.other", { detail });
    return { code: error.code, text };
  }
  if (error instanceof ReadError) return { code: error.code, text: explainRead(words, error).text };
  return { code: "unexpected", text: words.t("fail.unexpected", { detail }) };
}

export function LoadError({ error, reload }: { error: unknown; reload(): void }): JSX.Element {
  const words = useWords();
  const { text, detail } = explainRead(words, error);
  return (
    <Notice tone="danger" role="alert" testId="node-error">
      <p>{text}</p>
      {detail && <p class="small">{words.rich("error.detail", { detail: <Untrusted text={detail} /> })}</p>}
      <p><button type="button" onClick={reload}>{words.t("app.reload")}</button></p>
    </Notice>
  );
}

export function Loading(): JSX.Element {
  const { progress } = useApp();
  const { t, percent } = useWords();
  return (
    <p class="loading" role="status">
      <span class="pulse" aria-hidden="true" />
      {progress !== null && progress > 0 && progress < 1
        ? t("app.scanning", { percent: percent(Math.round(progress * 10_000), 0) }) : t("app.loading")}
    </p>
  );
}

/** Amounts with their symbol, in the protocol's token and in its quote token. */
export function useMoney(): {
  token(amount: bigint): string; quote(amount: bigint): string; tokenOnly(amount: bigint): string; wad(amount: bigint): string;
} {
  const { units } = useWords();
  const { token, quote } = useTokens();
  const unit = (decimals: number): bigint => 10n ** BigInt(decimals);
  const tokenOnly = (amount: bigint): string =>
    units(amount, token.decimals, amount >= 1000n * unit(token.decimals) ? 0 : 4);
  return {
    tokenOnly,
    token: (amount) => `${tokenOnly(amount)} ${token.symbol}`,
    quote: (amount) => `${units(amount, quote.decimals, 2)} ${quote.symbol}`,
    wad: (amount) => units(amount, 18, 4),
  };
}

export function Mark(): JSX.Element {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" />
      <path d="M5 9c9 0 9 7 13 7s4 0 9 0M5 16h22M5 23c9 0 9-7 13-7" />
    </svg>
  );
}

export function useFocusOn(ready: unknown): { current: HTMLElement | null } {
  const ref = useRef<HTMLElement | null>(null);
  useEffect(() => {
    if (ready) ref.current?.focus();
  }, [ready]);
  return ref;
}
