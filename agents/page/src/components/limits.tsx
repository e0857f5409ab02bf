/** Limits beside the constitution's ceilings, and beside those of the version that runs. Every limit is an upper bound. */

import type { ComponentChildren, JSX } from "preact";

import { useWords, type Words } from "../i18n";
import type { LimitRow } from "../model";
import { CardTable } from "./pieces";

export const isAbove = (row: LimitRow): boolean => row.value > row.ceiling;

const show = (words: Words, name: string, value: bigint): string =>
  name.endsWith("Bps") ? words.percent(value) : words.number(value);

function changeOf(words: Words, row: LimitRow): ComponentChildren {
  if (row.running === null) return words.t("limits.firstVersion");
  const by = row.value - row.running;
  if (by === 0n) return words.t("limits.same");
  const text = words.t(by > 0n ? "limits.looser" : "limits.stricter", { by: show(words, row.name, by > 0n ? by : -by) });
  return <strong class={by > 0n ? "looser" : "stricter"}>{by > 0n ? "▲" : "▼"} {text}</strong>;
}

export function LimitsTable({ rows, ofVault = false }: { rows: LimitRow[]; ofVault?: boolean }): JSX.Element {
  const words = useWords();
  const { t } = words;
  const isUpdate = !ofVault && rows.some((row) => row.running !== null);
  const head = [t("limits.name"), t(ofVault ? "limits.valueVault" : "limits.value"), t("limits.ceiling")];
  if (isUpdate) head.push(t("limits.running"), t("limits.change"));
  const cells = rows.map((row) => [
    words.maybe(`limit.${row.name}`) ?? row.name,
    <>
      <strong>{show(words, row.name, row.value)}</strong>
      {isAbove(row) && <em class="above"> ! {t("limits.above")}</em>}
    </>,
    <>
      {show(words, row.name, row.ceiling)}{" "}
      <svg class="mini-bar" aria-hidden="true" preserveAspectRatio="none">
        <rect class="bar-track" width="100%" height="100%" />
        <rect class={isAbove(row) ? "bar-fill against" : "bar-fill plain"} height="100%"
          width={`${row.ceiling > 0n ? Math.min(100, Number((row.value * 100n) / row.ceiling)) : 100}%`} />
      </svg>
    </>,
    ...(isUpdate ? [row.running === null ? "–" : show(words, row.name, row.running), changeOf(words, row)] : []),
  ]);
  return (
    <CardTable caption={t("limits.heading")} head={head} rows={cells}
      rowProps={(index) => ({ "data-testid": "limit-row", "data-limit": rows[index]?.name ?? "" })} />
  );
}
