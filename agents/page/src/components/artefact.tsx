/** The artefact behind the hash that the DAO approves: fetched, or the voter's own file; hashed here. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";

import { useWords } from "../i18n";
import type { ArtefactReport } from "../model";
import { useApp, type Loaded } from "./app-state";
import { CardTable, Facts, Hash, LoadError, Notice, Untrusted } from "./pieces";

const maxBytes = 1 << 20;

type Dropped = { name: string; report: ArtefactReport } | { name: string; tooLarge: number };

export function ArtefactPanel({ expected, fetched }: { expected: `0x${string}`; fetched: Loaded<ArtefactReport> }): JSX.Element {
  const { services, announce } = useApp();
  const words = useWords();
  const { t } = words;
  const [dropped, setDropped] = useState<Dropped | null>(null);
  const [isOver, setIsOver] = useState(false);
  const check = async (file: File | undefined): Promise<void> => {
    if (!file) return;
    // Its size is known without reading it, so a huge one costs nothing.
    if (file.size > maxBytes) {
      setDropped({ name: file.name, tooLarge: file.size });
      return;
    }
    const report = services.reader.checkArtefactFile(new Uint8Array(await file.arrayBuffer()), expected);
    setDropped({ name: file.name, report });
    announce(t(`artefact.${report.status}`));
  };
  const tooLarge = dropped && "tooLarge" in dropped ? dropped : null;
  const report = dropped && "report" in dropped ? dropped.report : tooLarge ? null : fetched.data;
  return (
    <div>
      {fetched.error !== null && !dropped && <LoadError error={fetched.error} reload={fetched.reload} />}
      {!report && !tooLarge && fetched.error === null && (
        <p data-testid="artefact-status" data-status="loading" role="status">{t("artefact.loading")}</p>
      )}
      {tooLarge && (
        <Notice tone="warn" role="alert">
          <p data-testid="artefact-status" data-status="too-large">
            {t("artefact.tooLarge", { size: words.bytes(tooLarge.tooLarge), most: words.bytes(maxBytes) })}
          </p>
        </Notice>
      )}
      {report && (
        <Notice tone={report.status === "matches" ? "good" : report.status === "absent" ? "info" : "danger"} role="status">
          <p data-testid="artefact-status" data-status={report.status}>{t(`artefact.${report.status}`)}</p>
          {report.status !== "absent" && (
            <p class="small">{dropped
              ? words.rich("artefact.fromFile", { name: <Untrusted text={dropped.name} /> }) : t("artefact.fetched")}</p>
          )}
        </Notice>
      )}
      <Facts rows={[
        [t("artefact.expected"), <Hash value={expected} whole />],
        report?.hash ? [t("artefact.computed"), <Hash value={report.hash} whole />] : null,
      ]} />
      {report?.status === "matches" && <ArtefactDetails report={report} />}
      <label class={isOver ? "drop over" : "drop"}
        onDragOver={(event) => { event.preventDefault(); setIsOver(true); }}
        onDragLeave={() => setIsOver(false)}
        onDrop={(event) => { event.preventDefault(); setIsOver(false); void check(event.dataTransfer?.files[0]); }}>
        <strong>{t("artefact.file")}</strong>
        <span class="small">{t("artefact.fileHint")}</span>
        <input type="file" accept=".json,application/json" onChange={(event) => void check(event.currentTarget.files?.[0])} />
      </label>
    </div>
  );
}

function ArtefactDetails({ report }: { report: ArtefactReport }): JSX.Element {
  const words = useWords();
  const { t } = words;
  const outcome = report.verdict?.outcome ?? "NONE";
  return (
    <div>
      <Notice tone={outcome === "PASS" ? "good" : "warn"}>
        <p data-testid="verdict" data-outcome={outcome}>
          {t("verdict.label")}: <strong>{t(`verdict.${outcome}`)}</strong>. {t(`verdictWhy.${outcome}`)}
        </p>
        {report.verdict && report.verdict.reasons.length > 0 && (
          <ul>{report.verdict.reasons.map((reason, index) => <li key={index}><Untrusted text={reason} /></li>)}</ul>
        )}
      </Notice>
      <Facts rows={[
        report.name !== null && [t("artefact.name"), <Untrusted text={report.name} />],
        report.kind !== null && [t("artefact.kind"), <Untrusted text={report.kind} />],
        report.features.length > 0 && [t("artefact.features"), <Untrusted text={report.features.join(", ")} />],
        report.maxWeightBps !== null && [t("artefact.maxWeight"), words.percent(report.maxWeightBps)],
      ]} />
      {report.folds.length > 0 && <Folds folds={report.folds} />}
      {report.figures.length > 0 && (
        <details>
          <summary>{t("artefact.figures")} ({report.figures.length})</summary>
          <p class="small">{t("artefact.figuresNote")}</p>
          <dl class="figures">
            {report.figures.map(({ name, value }) => (
              <div key={name}><dt><Untrusted text={name} /></dt><dd><Untrusted text={value} /></dd></div>
            ))}
          </dl>
        </details>
      )}
    </div>
  );
}

const high = 140;

/** Bars of each fold around the zero line; the table below has the numbers. */
function Folds({ folds }: { folds: ArtefactReport["folds"] }): JSX.Element {
  const words = useWords();
  const { t, percent } = words;
  const all = folds.flatMap(({ returnBps, benchmarkBps }) => [returnBps, benchmarkBps ?? 0]);
  const [top, bottom] = [Math.max(0, ...all), Math.min(0, ...all)];
  const scale = high / Math.max(1, top - bottom);
  const zero = top * scale;
  const wide = Math.max(320, folds.length * 26);
  const step = wide / folds.length;
  const bar = (value: number): { y: number; height: number } =>
    value >= 0 ? { y: zero - value * scale, height: value * scale } : { y: zero, height: -value * scale };
  return (
    <figure class="folds">
      <figcaption>
        <strong>{t("folds.heading")}</strong>
        <span class="key"><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="fold-own" width="10" height="10" /></svg> {t("folds.strategy")}</span>
        <span class="key"><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="fold-bench" width="10" height="10" /></svg> {t("folds.benchmark")}</span>
      </figcaption>
      <svg viewBox={`0 -4 ${wide} ${high + 8}`} role="img" aria-label={t("folds.picture", { n: folds.length })}>
        {folds.map((fold, index) => (
          <g key={index}>
            <rect class="fold-own" x={index * step + step * 0.12} width={step * 0.36} {...bar(fold.returnBps)} />
            {fold.benchmarkBps !== null && (
              <rect class="fold-bench" x={index * step + step * 0.52} width={step * 0.36} {...bar(fold.benchmarkBps)} />
            )}
          </g>
        ))}
        <line class="axis" x1="0" x2={wide} y1={zero} y2={zero} />
        <text class="axis-text" x="2" y="8">{percent(top, 1)}</text>
        {bottom < 0 && <text class="axis-text" x="2" y={high}>{percent(bottom, 1)}</text>}
      </svg>
      <details>
        <summary>{t("folds.table")}</summary>
        <CardTable caption={t("folds.heading")}
          head={[t("folds.period"), t("folds.return"), t("folds.benchmark"), t("folds.drawdown")]}
          rows={folds.map((fold) => [
            `${words.day(fold.from)} – ${words.day(fold.to)}`, percent(fold.returnBps),
            fold.benchmarkBps === null ? "–" : percent(fold.benchmarkBps),
            fold.drawdownBps === null ? "–" : percent(fold.drawdownBps),
          ])} />
      </details>
    </figure>
  );
}
