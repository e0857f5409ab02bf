/** Unit price and drawdown over time, with the limits. The drawing code comes only when there is something to draw. */

import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { useWords } from "../i18n";
import type { VaultView } from "../model";
import { CardTable } from "./pieces";

interface Point { atS: number; unitPriceWad: bigint; drawdownBps: number }

/** Fall of each point below the highest before it. */
export function withDrawdown(history: VaultView["history"]): Point[] {
  let peak = 0n;
  return history.map(({ atS, unitPriceWad }) => {
    if (unitPriceWad > peak) peak = unitPriceWad;
    return { atS, unitPriceWad, drawdownBps: peak > 0n ? Number(((peak - unitPriceWad) * 10_000n) / peak) : 0 };
  });
}

const limitOf = (vault: VaultView, name: string): number | null => {
  const row = vault.limits.find((one) => one.name === name);
  return row ? Number(row.value < row.ceiling ? row.value : row.ceiling) : null;
};

export function VaultCharts({ vault }: { vault: VaultView }): JSX.Element {
  const words = useWords();
  const { t } = words;
  const points = withDrawdown(vault.history);
  const [first, last] = [points[0], points.at(-1)];
  if (!first || !last || points.length < 2) return <p>{t("chart.few")}</p>;
  const worst = Math.max(...points.map((point) => point.drawdownBps));
  const price = (wad: bigint): string => words.units(wad, 18, 4);
  const [soft, hard] = [limitOf(vault, "maxDrawdownBps"), limitOf(vault, "hardDrawdownBps")];
  const alt = t("chart.alt", {
    from: words.date(first.atS), to: words.date(last.atS), first: price(first.unitPriceWad), last: price(last.unitPriceWad),
    worst: words.percent(worst),
  });
  return (
    <figure class="charts">
      <p>{alt}</p>
      <Drawing points={points} soft={soft} hard={hard} label={alt}
        names={[t("chart.equity"), t("chart.drawdown"), t("chart.limit"), t("chart.hard")]} language={words.language} />
      <details>
        <summary>{t("chart.table")}</summary>
        <CardTable caption={t("chart.heading")} head={[t("chart.when"), t("chart.equity"), t("chart.drawdown")]}
          rows={points.slice(-200).reverse().map((point) => [
            words.date(point.atS), price(point.unitPriceWad), words.percent(point.drawdownBps),
          ])} />
      </details>
    </figure>
  );
}

const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function Drawing(
  { points, soft, hard, label, names, language }:
    { points: Point[]; soft: number | null; hard: number | null; label: string; names: [string, string, string, string]; language: string },
): JSX.Element {
  const place = useRef<HTMLDivElement>(null);
  const key = `${points.length}:${points.at(-1)?.atS}:${language}`;
  useEffect(() => {
    let stop = (): void => {};
    let gone = false;
    void Promise.all([import("uplot"), import("uplot/dist/uPlot.min.css")]).then(([{ default: UPlot }]) => {
      const element = place.current;
      if (gone || !element) return;
      const times = points.map((point) => point.atS);
      const line = { grid: { stroke: colour("--line"), width: 1 }, stroke: colour("--muted"), ticks: { stroke: colour("--line") } };
      const flat = (value: number): number[] => times.map(() => -value / 100);
      const format = new Intl.NumberFormat(language, { maximumFractionDigits: 4 });
      const draw = (): { destroy(): void }[] => {
        const width = Math.max(240, element.clientWidth);
        const shared = { width, cursor: { drag: { x: false, y: false } }, legend: { show: false } };
        const dates = new Intl.DateTimeFormat(language, { day: "numeric", month: "short" });
        const times_ = { ...line, values: (_: unknown, ticks: number[]) => ticks.map((at) => dates.format(at * 1000)) };
        return [
          new UPlot({
            ...shared, height: 190, title: names[0], axes: [times_, { ...line, size: 64, values: (_, ticks) => ticks.map((one) => format.format(one)) }],
            series: [{}, { label: names[0], stroke: colour("--accent"), width: 2 }],
          }, [times, points.map((point) => Number(point.unitPriceWad / 10n ** 10n) / 1e8)], element),
          new UPlot({
            ...shared, height: 170, title: names[1],
            axes: [times_, { ...line, size: 64, values: (_, ticks) => ticks.map((one) => `${format.format(one)} %`) }],
            series: [
              {}, { label: names[1], stroke: colour("--against"), width: 2, fill: colour("--against-soft") },
              ...(soft === null ? [] : [{ label: names[2], stroke: colour("--muted"), width: 1.5, dash: [6, 4] }]),
              ...(hard === null ? [] : [{ label: names[3], stroke: colour("--ink"), width: 1.5, dash: [2, 3] }]),
            ],
          }, [
            times, points.map((point) => -point.drawdownBps / 100), ...(soft === null ? [] : [flat(soft)]), ...(hard === null ? [] : [flat(hard)]),
          ] as [number[], ...number[][]], element),
        ];
      };
      let plots = draw();
      const again = (): void => {
        for (const plot of plots) plot.destroy();
        plots = draw();
      };
      const scheme = matchMedia("(prefers-color-scheme: dark)");
      let width = element.clientWidth;
      const resized = new ResizeObserver(() => {
        if (element.clientWidth === width) return;
        width = element.clientWidth;
        again();
      });
      resized.observe(element);
      scheme.addEventListener("change", again);
      stop = () => {
        resized.disconnect();
        scheme.removeEventListener("change", again);
        for (const plot of plots) plot.destroy();
      };
    });
    return () => {
      gone = true;
      stop();
    };
  }, [key]);
  return (
    <div>
      <div ref={place} class="plot" role="img" aria-label={label} />
      <p class="small key-line" aria-hidden="true">
        {soft !== null && <span class="key"><span class="dash soft" /> {names[2]}: −{soft / 100} %</span>}
        {hard !== null && <span class="key"><span class="dash hard" /> {names[3]}: −{hard / 100} %</span>}
      </p>
    </div>
  );
}
