/** Artefacts and explanations: files named by the hash of their bytes, which is computed here. */

import { bytesToHex, keccak256, type Hex } from "viem";
import type { ArtefactReport, Explanation } from "../model";
import { resolve } from "./config";

// As offchain_rl/artefact.py has it; an explanation has no more to say.
const MAX_BYTES = 1 << 20;
const PROCEDURE = "marketflow/verdict/1";
const CHECKS = [
  "drawdown", "days", "trades", "seeds", "deflated", "overfitting", "cash", "baselines", "seeds_agree", "paths",
];
// What the figures of a PASS lie between.
const BOUNDS: Record<string, [number, number]> = {
  days: [180, 2 ** 53], trades: [30, 2 ** 53], dsr_bps: [9_500, 10_000], pbo_bps: [0, 2_000],
};

type Row = Record<string, unknown>;
const isRow = (value: unknown): value is Row => typeof value === "object" && value !== null && !Array.isArray(value);

export function hashOf(bytes: Uint8Array): Hex {
  return keccak256(bytesToHex(bytes));
}

/** The file's bytes; null when it can't be had. Never more than MAX_BYTES + 1 of a file that has no end. */
async function download(base: string, hash: Hex): Promise<Uint8Array | null> {
  if (!/^0x[0-9a-f]{64}$/.test(hash.toLowerCase())) return null;
  const folder = base.endsWith("/") ? base : `${base}/`;
  try {
    const response = await fetch(new URL(`${hash.toLowerCase()}.json`, resolve(folder)), { signal: AbortSignal.timeout(15_000) });
    if (!response.ok || !response.body) return null;
    return await readLimited(response.body.getReader());
  } catch {
    return null;
  }
}

async function readLimited(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
    if (length > MAX_BYTES) {
      await reader.cancel();
      break;
    }
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const NOTHING: ArtefactReport = {
  status: "absent", hash: null, name: null, kind: null, features: [], maxWeightBps: null, verdict: null, figures: [], folds: [],
};

export async function fetchArtefact(base: string | null, expected: Hex): Promise<ArtefactReport> {
  const bytes = base === null ? null : await download(base, expected);
  return bytes === null ? NOTHING : checkArtefact(bytes, expected);
}

/** Nothing that a file says is told when its hash is another: it is somebody else's. */
export function checkArtefact(bytes: Uint8Array, expected: Hex): ArtefactReport {
  if (bytes.length > MAX_BYTES) return { ...NOTHING, status: "unreadable" };
  const hash = hashOf(bytes);
  if (hash !== expected.toLowerCase()) return { ...NOTHING, status: "differs", hash };
  const document = parse(bytes);
  if (!document || document.format !== "marketflow/artefact" || document.version !== 1) {
    return { ...NOTHING, status: "unreadable", hash };
  }
  return { ...describe(document), hash };
}

function parse(bytes: Uint8Array): Row | null {
  try {
    const found: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    return isRow(found) ? found : null;
  } catch {
    return null;
  }
}

function describe(document: Row): ArtefactReport {
  const observation = isRow(document.observation) ? document.observation : {};
  const action = isRow(document.action) ? document.action : {};
  const report = isRow(document.report) ? document.report : {};
  return {
    status: "matches", hash: null, name: text(document.name), kind: text(document.kind),
    features: Array.isArray(observation.features) ? observation.features.filter((one) => typeof one === "string") : [],
    maxWeightBps: integer(action.max_weight_bps), verdict: readVerdict(report), figures: figuresOf(report), folds: foldsOf(report),
  };
}

const text = (value: unknown): string | null => (typeof value === "string" ? value : null);
const integer = (value: unknown): number | null => (Number.isSafeInteger(value) ? (value as number) : null);

/** The verdict of the report. One that is malformed, or a PASS that its own checks contradict, is no verdict: NONE. */
export function readVerdict(report: Row): ArtefactReport["verdict"] {
  const raw = report.verdict;
  const none = (why: string) => ({ outcome: "NONE" as const, reasons: [why] });
  if (raw === undefined) return none("nobody has asked whether its results are more than luck");
  if (!isRow(raw) || !Array.isArray(raw.checks) || !raw.checks.every(isCheck) || !isRow(raw.figures)) {
    return none("its verdict has not the form of one");
  }
  if (raw.procedure !== PROCEDURE) return none(`its verdict comes from the procedure ${String(raw.procedure)}, which this page does not know`);
  const { outcome, checks, figures } = raw as { outcome: unknown; checks: Check[]; figures: Row };
  if (outcome !== "PASS" && outcome !== "FAIL" && outcome !== "NOT ENOUGH DATA") return none(`its verdict is ${String(outcome)}, which is none`);
  if (outcome === "PASS") {
    const fault = contradiction(checks, figures);
    if (fault) return none(`its verdict says PASS, and ${fault}`);
  }
  const told = checks.filter((check) => outcome === "PASS" || check.outcome !== "PASS");
  return { outcome, reasons: told.map((check) => check.reason) };
}

type Check = { name: string; outcome: string; reason: string };
const isCheck = (value: unknown): value is Check =>
  isRow(value) && ["name", "outcome", "reason"].every((key) => typeof value[key] === "string");

function contradiction(checks: Check[], figures: Row): string | null {
  const open = CHECKS.find((name) => checks.find((check) => check.name === name)?.outcome !== "PASS");
  if (open) return `its own check ${open} did not pass`;
  if (checks.map((check) => check.name).join() !== CHECKS.join()) return "its checks are not those that are known, each once";
  for (const [name, [least, most]] of Object.entries(BOUNDS)) {
    const value = integer(figures[name]);
    if (value === null || value < least || value > most) return `its own figure ${name} is ${String(figures[name])}`;
  }
  return null;
}

const COLUMNS = ["policy", "buy_and_hold", "moving_average", "volatility_target"];

/** Every integer of the report's columns, named "policy.total_return_bps"; and of its verdict's figures. */
function figuresOf(report: Row): { name: string; value: string }[] {
  const rows: { name: string; value: string }[] = [];
  const add = (prefix: string, from: unknown) => {
    if (!isRow(from)) return;
    for (const [name, value] of Object.entries(from)) {
      if (integer(value) !== null) rows.push({ name: `${prefix}.${name}`, value: String(value) });
    }
  };
  for (const column of COLUMNS) add(column, report[column]);
  if (isRow(report.verdict)) add("verdict", report.verdict.figures);
  if (integer(report.trials) !== null) rows.push({ name: "trials", value: String(report.trials) });
  if (text(report.source)) rows.push({ name: "source", value: report.source as string });
  return rows;
}

function foldsOf(report: Row): ArtefactReport["folds"] {
  if (!Array.isArray(report.folds)) return [];
  return report.folds.filter(isRow).flatMap((fold) => {
    const [from, to, returnBps] = [integer(fold.start_s), integer(fold.end_s), integer(fold.policy_bps)];
    if (from === null || to === null || returnBps === null) return [];
    return [{
      from, to, returnBps, benchmarkBps: integer(fold.buy_and_hold_bps),
      drawdownBps: integer(fold.max_drawdown_bps) ?? integer(fold.drawdown_bps),
    }];
  });
}

const UNEXPLAINED: Explanation = { status: "absent", text: null, document: null };

/** keccak256 of the canonical bytes that were served; those of any other document are not told. */
export async function fetchExplanation(base: string | null, hash: Hex): Promise<Explanation> {
  const bytes = base === null ? null : await download(base, hash);
  return bytes === null ? UNEXPLAINED : checkExplanation(bytes, hash);
}

export function checkExplanation(bytes: Uint8Array, hash: Hex): Explanation {
  if (bytes.length > MAX_BYTES) return { ...UNEXPLAINED, status: "unreadable" };
  if (hashOf(bytes) !== hash.toLowerCase()) return { ...UNEXPLAINED, status: "differs" };
  const document = parse(bytes);
  if (!document) return { ...UNEXPLAINED, status: "unreadable" };
  return { status: "matches", text: text(document.text), document };
}
