import { encodeFunctionData, zeroHash, type Abi } from "viem";
import { abis } from "virtual:contracts";
import { describe, expect, it } from "vitest";
import { decodeAction, knownContracts, sameCalls } from "./actions";
import { encode } from "./calls";
import type { Places } from "./config";
import { at, PLACES } from "./testing";

const places = PLACES as unknown as Places;
const vault = at(50);
const known = knownContracts(places, { vaults: [vault], grants: [], assets: [] });
const HASH = `0x${"ab".repeat(32)}` as const;
const approve = encode("strategies", "approve", [HASH]);
const call = (target: `0x${string}`, calldata: `0x${string}`, valueWei = 0n) => ({ target, calldata, valueWei });
/** The same call with an upper byte of its first argument set, which Solidity refuses and some decoders overlook. */
const dirty = (data: `0x${string}`) => `${data.slice(0, 10)}ff${data.slice(12)}` as `0x${string}`;

describe("a call of a proposal is unknown", () => {
  it.each([
    ["when the target is not ours", call(at(99), approve)],
    ["when the target has no such function", call(places.treasury, approve)],
    ["when bytes follow that nothing reads", call(places.strategies, `${approve}00`)],
    ["when the bytes end too soon", call(places.strategies, approve.slice(0, -2) as `0x${string}`)],
    ["when there is nothing to call and nothing to send", call(places.strategies, "0x")],
    ["when an address has dirty upper bytes", call(places.token, dirty(encode("token", "delegate", [at(1)])))],
    ["when it only reads", call(places.dao, encode("dao", "votingDelay"))],
    ["when a foreign token has a function that only ours is known to have", call(places.quote, encode("token", "delegate", [at(1)]))],
  ])("%s", (_, raw) => {
    expect(decodeAction(raw, known)).toMatchObject({ kind: "unknown", args: {}, calldata: raw.calldata });
  });
});

describe("a call of a proposal is told from its call data", () => {
  it("with the contract's name and the arguments' names", () => {
    expect(decodeAction(call(places.strategies, approve), known)).toMatchObject({
      kind: "strategies.approve", targetName: "strategies", args: { manifestHash: HASH },
    });
    const huge = 2n ** 200n + 1n;
    expect(decodeAction(call(places.treasury, encode("treasury", "allocate", [zeroHash, huge])), known).args.amount).toBe(huge);
    expect(decodeAction(call(vault, encode("vault", "resume")), known).kind).toBe("vault.resume");
    expect(decodeAction(call(places.quote, encode("token", "transfer", [at(1), 5n])), known).kind).toBe("quote.transfer");
    expect(decodeAction(call(at(99), "0x", 5n), known)).toMatchObject({ kind: "ether.send", args: { amount: 5n } });
  });

  it("of overloaded functions by the one that is called", () => {
    const abi = (abis.dao as Abi).filter((entry) => entry.type === "function" && entry.name === "cancel" && entry.inputs.length === 1);
    const data = encodeFunctionData({ abi, functionName: "cancel", args: [7n] });
    expect(decodeAction(call(places.dao, data), known)).toMatchObject({ kind: "dao.cancel", args: { proposalId: 7n } });
  });

  it("together with the calls that it hides", () => {
    const hidden = encode("dao", "relay", [at(99), 3n, "0x12345678"]);
    const [inner] = decodeAction(call(places.dao, hidden), known).inner;
    expect(inner).toMatchObject({ kind: "unknown", target: at(99), valueWei: 3n, calldata: "0x12345678" });
    const batch = encode("timelock", "executeBatch", [[places.strategies, at(99)], [0n, 1n], [approve, "0x"], zeroHash, zeroHash]);
    expect(decodeAction(call(places.timelock, batch), known).inner.map((one) => one.kind)).toEqual(["strategies.approve", "ether.send"]);
  });
});

describe("calls are those that the registry builds", () => {
  const mine = [call(places.strategies, approve), call(places.factory, encode("factory", "deployVault", [HASH]))];
  const built = [mine.map((one) => one.target), [0n, 0n], mine.map((one) => one.calldata)] as const;
  it("only when all of each is the same, in the same order", () => {
    expect(sameCalls(mine, built)).toBe(true);
    expect(sameCalls([...mine].reverse(), built)).toBe(false);
    expect(sameCalls(mine.slice(0, 1), built)).toBe(false);
    expect(sameCalls([...mine, mine[0]!], built)).toBe(false);
    expect(sameCalls([{ ...mine[0]!, valueWei: 1n }, mine[1]!], built)).toBe(false);
    expect(sameCalls([{ ...mine[0]!, calldata: `${approve}00` }, mine[1]!], built)).toBe(false);
  });
});
