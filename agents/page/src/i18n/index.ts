/** Words and numbers in the reader's language. Nothing here is HTML: every message is text. */

import { createContext, type ComponentChildren } from "preact";
import { useContext } from "preact/hooks";

import { en } from "./en";
import type { Plural } from "./plural";
import { ru } from "./ru";

export type Language = "en" | "ru";
export type Messages = typeof en;
type KeysOf<Kind> = { [Key in keyof Messages]: Messages[Key] extends Kind ? Key : never }[keyof Messages];
export type TextKey = KeysOf<string>;
export type PluralKey = KeysOf<Plural>;
export type Fill = Record<string, string | number>;

export const languages: Record<Language, string> = { en: "English", ru: "Русский" };
const dictionaries: Record<Language, Messages> = { en, ru };
const storageKey = "marketflow.language";

/** The one chosen before, else the browser's, else English. */
export function preferredLanguage(): Language {
  const wanted = [readStored(), ...navigator.languages].filter((tag): tag is string => Boolean(tag));
  for (const tag of wanted) {
    const base = tag.toLowerCase().split("-")[0];
    if (base === "en" || base === "ru") return base;
  }
  return "en";
}

export function rememberLanguage(language: Language): void {
  try {
    localStorage.setItem(storageKey, language);
  } catch {
    // Storage may be switched off; then the language is forgotten, and nothing else.
  }
}

function readStored(): string | null {
  try {
    return localStorage.getItem(storageKey);
  } catch {
    return null;
  }
}

export interface Words {
  language: Language;
  t(key: TextKey, fill?: Fill): string;
  /** A message that exists only perhaps, such as one named by what the chain answered. */
  maybe(key: string, fill?: Fill): string | null;
  /** A sentence in which something else than text stands, such as an address with its button. */
  rich(key: TextKey, fill: Record<string, ComponentChildren>): ComponentChildren[];
  plural(key: PluralKey, n: number, fill?: Fill): string;
  number(value: number | bigint, digits?: number): string;
  /** Rounds towards zero; an amount too small to show is shown as "< 0.01", never as 0. */
  units(amount: bigint, decimals: number, digits: number): string;
  percent(bps: bigint | number, digits?: number): string;
  date(atS: number): string;
  day(atS: number): string;
  duration(seconds: number): string;
  bytes(size: number): string;
}

export function wordsOf(language: Language): Words {
  const messages = dictionaries[language];
  const rules = new Intl.PluralRules(language);
  const dateTime = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
  const dateOnly = new Intl.DateTimeFormat(language, { dateStyle: "medium" });
  const number: Words["number"] = (value, digits = 0) =>
    new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
  const maybe: Words["maybe"] = (key, given) => {
    const message = Object.hasOwn(messages, key) ? (messages as Record<string, string | Plural>)[key] : undefined;
    return typeof message === "string" ? fill(message, given) : null;
  };
  return {
    language,
    t: (key, given) => fill(messages[key], given),
    maybe,
    rich: (key, given) => fillRich(messages[key], given),
    plural: (key, n, given) => {
      const forms: Plural = messages[key];
      return fill(forms[rules.select(n)] ?? forms.other, { n: number(n), ...given });
    },
    number,
    units: (amount, decimals, digits) => formatUnits(language, amount, decimals, digits),
    percent: (bps, digits = 2) =>
      new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: digits }).format(Number(bps) / 10_000),
    date: (atS) => dateTime.format(atS * 1000),
    day: (atS) => dateOnly.format(atS * 1000),
    duration: (seconds) => formatDuration(language, seconds),
    bytes: (size) => formatBytes(language, size),
  };
}

function fill(message: string, given: Fill = {}): string {
  return message.replace(/\{(\w+)\}/g, (whole, name: string) => (name in given ? String(given[name]) : whole));
}

function fillRich(message: string, given: Record<string, ComponentChildren>): ComponentChildren[] {
  return message
    .split(/\{(\w+)\}/)
    .map((part, index) => (index % 2 === 0 ? part : part in given ? given[part] : `{${part}}`));
}

function formatUnits(language: Language, amount: bigint, decimals: number, digits: number): string {
  const kept = Math.min(digits, decimals);
  const size = amount < 0n ? -amount : amount;
  const scaled = size / 10n ** BigInt(decimals - kept);
  const format = new Intl.NumberFormat(language, { maximumFractionDigits: kept, signDisplay: "negative" });
  const sign = amount < 0n ? "-" : "";
  // Decimal text keeps every digit; a number would not.
  const text = (value: bigint): string => {
    const padded = value.toString().padStart(kept + 1, "0");
    const whole = padded.slice(0, padded.length - kept);
    return kept > 0 ? `${whole}.${padded.slice(padded.length - kept)}` : whole;
  };
  const show = (value: bigint): string => format.format(`${sign}${text(value)}` as unknown as number);
  if (scaled === 0n && size > 0n) return `${amount < 0n ? "> " : "< "}${show(1n)}`;
  return show(scaled);
}

const durationUnits = [["day", 86_400], ["hour", 3_600], ["minute", 60], ["second", 1]] as const;

function formatDuration(language: Language, seconds: number): string {
  let rest = Math.max(0, Math.floor(seconds));
  const first = durationUnits.findIndex(([, size]) => rest >= size);
  const start = first < 0 ? durationUnits.length - 1 : first;
  const parts = durationUnits.slice(start, start + 2).flatMap(([unit, size], index) => {
    const count = Math.floor(rest / size);
    rest -= count * size;
    const format = new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "long" });
    return index > 0 && count === 0 ? [] : [format.format(count)];
  });
  return parts.join(" ");
}

function formatBytes(language: Language, size: number): string {
  const [unit, divisor] = size >= 1_000_000 ? (["megabyte", 1_000_000] as const) : (["kilobyte", 1_000] as const);
  const format = new Intl.NumberFormat(language, { style: "unit", unit, maximumFractionDigits: 1 });
  return format.format(size / divisor);
}

export const WordsContext = createContext<Words>(wordsOf("en"));
export const useWords = (): Words => useContext(WordsContext);
