import { describe, expect, it } from "vitest";
import { parseConfig } from "./config";
import { CONFIG } from "./testing";

describe("marketflow.json", () => {
  const { deployment } = CONFIG;
  it.each([
    ["is not an object", null],
    ["has the format x", { ...CONFIG, format: "x" }],
    ["has no chain_id", { ...CONFIG, chain_id: "1" }],
    ["has no list of rpc addresses", { ...CONFIG, rpc: "http://node" }],
    ["as relayer", { ...CONFIG, relayer: 7 }],
    ["has an explorer that is no http address", { ...CONFIG, explorer: "javascript:alert(1)" }],
    ["has no deployment", { ...CONFIG, deployment: undefined }],
    ["its deployment is of chain 5", { ...CONFIG, deployment: { ...deployment, protocol: { ...deployment.protocol, chain_id: 5 } } }],
    ["has no valid address of dao", { ...CONFIG, deployment: { ...deployment, protocol: { ...deployment.protocol, dao: "0x12" } } }],
    // Mixed capitals are a checksum, and this one is wrong.
    ["has no valid address of dao", {
      ...CONFIG,
      deployment: { ...deployment, protocol: { ...deployment.protocol, dao: "0x70997970c51812dc3A010C7d01b50e0d17dc79C8" } },
    }],
  ])("is refused when it %s", (says, raw) => {
    expect(() => parseConfig(raw)).toThrow(says);
  });

  it("is taken when it is whole; what it leaves out is null", () => {
    const { graph: _graph, ...rest } = CONFIG;
    expect(parseConfig({ ...rest }).graph).toBeNull();
  });
});
