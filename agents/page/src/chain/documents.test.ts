import { keccak256, bytesToHex } from "viem";
import { describe, expect, it } from "vitest";
import { checkArtefact, checkExplanation, hashOf, readVerdict } from "./documents";

const bytesOf = (value: unknown) => new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
const CHECKS = ["drawdown", "days", "trades", "seeds", "deflated", "overfitting", "cash", "baselines", "seeds_agree", "paths"];
const PASS = {
  outcome: "PASS", procedure: "marketflow/verdict/1", checks: CHECKS.map((name) => ({ name, outcome: "PASS", reason: `${name} is well` })),
  figures: { days: 200, trades: 40, dsr_bps: 9600, pbo_bps: 100 },
};
const ARTEFACT = {
  format: "marketflow/artefact", version: 1, name: "steady", kind: "constant", observation: { features: ["weight"] },
  action: { max_weight_bps: 3000, deadband_bps: 500 }, parameters: {}, provenance: {},
  report: { verdict: PASS, policy: { total_return_bps: 12 }, folds: [{ start_s: 1, end_s: 2, policy_bps: 5, buy_and_hold_bps: -3 }] },
};

describe("an artefact", () => {
  it("that is another's tells nothing", () => {
    const found = checkArtefact(bytesOf(ARTEFACT), hashOf(bytesOf("else")));
    expect(found).toMatchObject({ status: "differs", name: null, verdict: null, figures: [] });
  });
  it("differs by one blank", () => {
    const bytes = bytesOf(ARTEFACT);
    expect(checkArtefact(bytesOf(`${JSON.stringify(ARTEFACT)} `), hashOf(bytes)).status).toBe("differs");
  });
  it.each([["not JSON", "{"], ["another document", { format: "x" }], ["a list", []], ["bytes that are no text", "\u0000"]])(
    "that is %s is unreadable, whatever its hash", (_, content) => {
      const bytes = bytesOf(content);
      expect(checkArtefact(bytes, hashOf(bytes)).status).toBe("unreadable");
    });
  it("too large is not even hashed", () => {
    expect(checkArtefact(new Uint8Array((1 << 20) + 1), hashOf(new Uint8Array(1)))).toMatchObject({ status: "unreadable", hash: null });
  });
  it("that matches is told", () => {
    const bytes = bytesOf(ARTEFACT);
    expect(checkArtefact(bytes, keccak256(bytesToHex(bytes)))).toMatchObject({
      status: "matches", name: "steady", features: ["weight"], maxWeightBps: 3000, verdict: { outcome: "PASS" },
      folds: [{ from: 1, to: 2, returnBps: 5, benchmarkBps: -3, drawdownBps: null }],
    });
  });
});

describe("a verdict", () => {
  it.each([
    ["nobody has asked", {}],
    ["has not the form", { verdict: "PASS" }],
    ["has not the form", { verdict: { ...PASS, checks: [{ name: 1 }] } }],
    ["the procedure other", { verdict: { ...PASS, procedure: "other" } }],
    ["is GREAT", { verdict: { ...PASS, outcome: "GREAT" } }],
    ["its own check cash did not pass", { verdict: { ...PASS, checks: PASS.checks.map((c) => (c.name === "cash" ? { ...c, outcome: "FAIL" } : c)) } }],
    ["its own check paths did not pass", { verdict: { ...PASS, checks: PASS.checks.slice(0, -1) } }],
    ["each once", { verdict: { ...PASS, checks: [...PASS.checks, PASS.checks[0]!] } }],
    ["its own figure days is 100", { verdict: { ...PASS, figures: { ...PASS.figures, days: 100 } } }],
    ["its own figure pbo_bps is undefined", { verdict: { ...PASS, figures: { ...PASS.figures, pbo_bps: undefined } } }],
  ])("is none when it is doubtful: %s", (says, report) => {
    const verdict = readVerdict(report)!;
    expect(verdict.outcome).toBe("NONE");
    expect(verdict.reasons[0]).toContain(says);
  });
  it("that is not a PASS tells only why", () => {
    const checks = PASS.checks.map((check) => (check.name === "days" ? { ...check, outcome: "NOT ENOUGH DATA", reason: "too short" } : check));
    expect(readVerdict({ verdict: { ...PASS, outcome: "NOT ENOUGH DATA", checks } })).toEqual({ outcome: "NOT ENOUGH DATA", reasons: ["too short"] });
  });
});

describe("an explanation", () => {
  it("of other bytes is not told", () => {
    expect(checkExplanation(bytesOf({ text: "all is fine" }), hashOf(bytesOf("x")))).toEqual({ status: "differs", text: null, document: null });
  });
  it("of the same bytes is", () => {
    const bytes = bytesOf({ text: "the average crossed" });
    expect(checkExplanation(bytes, hashOf(bytes))).toMatchObject({ status: "matches", text: "the average crossed" });
  });
});
