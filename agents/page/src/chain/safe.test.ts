import { privateKeyToAccount } from "viem/accounts";
import { describe, expect, it } from "vitest";
import type { SafeBallot } from "../model";
import { assembleSafeBallot, messageOf, readSafeBallot } from "./safe";
import { at } from "./testing";

const owners = [1, 2, 3].map((n) => privateKeyToAccount(`0x${String(n).padStart(64, "0")}`));
const safe = { address: at(9), owners: owners.map((one) => one.address), threshold: 2 };
const expected = { chainId: 31337, dao: at(1) };
const BLANK: SafeBallot = {
  format: "marketflow/safe-ballot/1", chain_id: 31337, dao: at(1), safe: at(9), proposal_id: (2n ** 250n).toString(), support: "for",
  nonce: "0", reason: "we agree", signatures: [],
};

async function signedBy(...indices: number[]): Promise<SafeBallot> {
  const signatures = await Promise.all(indices.map(async (index) => ({
    owner: owners[index]!.address, signature: await owners[index]!.signTypedData(messageOf(BLANK) as never),
  })));
  return { ...BLANK, signatures };
}

describe("a Safe's ballot from somebody else", () => {
  it.each([
    ["not JSON", "{"], ["another format", { ...BLANK, format: "x" }], ["for chain 1", { ...BLANK, chain_id: 1 }],
    ["another DAO", { ...BLANK, dao: at(2) }], ["another Safe", { ...BLANK, safe: at(8) }],
    ["its numbers are none", { ...BLANK, proposal_id: "-1" }], ["its numbers are none", { ...BLANK, nonce: 0 }],
    ["does not say what is voted", { ...BLANK, support: "yes" }], ["a part is missing", { ...BLANK, signatures: undefined }],
    ["is no owner", { ...BLANK, signatures: [{ owner: at(5), signature: "0x" }] }],
    ["is not on this ballot", { ...BLANK, signatures: [{ owner: owners[0]!.address, signature: `0x${"11".repeat(64)}1b` }] }],
  ])("is refused: %s", async (says, raw) => {
    const text = typeof raw === "string" ? raw : JSON.stringify(raw);
    await expect(readSafeBallot(text, safe, expected)).rejects.toThrow(says);
  });
  it("is refused when it was changed after it was signed", async () => {
    const changed = { ...(await signedBy(0)), support: "against" };
    await expect(readSafeBallot(JSON.stringify(changed), safe, expected)).rejects.toThrow("is not on this ballot");
  });
  it("is taken when every signature is its owner's", async () => {
    const ballot = await signedBy(2, 0);
    expect(await readSafeBallot(JSON.stringify(ballot), safe, expected)).toEqual(ballot);
  });
});

describe("a Safe's signature", () => {
  it("is not there before enough owners have signed, each once", async () => {
    const once = await signedBy(0);
    expect(assembleSafeBallot(once, safe)).toBeNull();
    expect(assembleSafeBallot({ ...once, signatures: [...once.signatures, ...once.signatures] }, safe)).toBeNull();
  });
  it("has the owners' in the order of their addresses, as many as are wanted", async () => {
    const ballot = await signedBy(0, 1, 2);
    const signed = assembleSafeBallot(ballot, safe)!;
    const sorted = [...ballot.signatures].sort((a, b) => (a.owner.toLowerCase() < b.owner.toLowerCase() ? -1 : 1));
    expect(signed.signature).toBe(`0x${sorted.slice(0, 2).map((one) => one.signature.slice(2)).join("")}`);
    expect(signed).toMatchObject({ voter: at(9), proposal_id: BLANK.proposal_id, nonce: 0, reason: "we agree" });
  });
});
