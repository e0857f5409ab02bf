import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { SignedBallot } from "../model";
import { HttpRelayer } from "./relayer";
import { at } from "./testing";

const BALLOT: SignedBallot = {
  format: "marketflow/ballot/1", chain_id: 31337, dao: at(1), proposal_id: "7", support: "for", voter: at(2), nonce: 0, signature: "0x11",
};
const answers: Record<string, [status: number, body: string]> = {};
const got: { path: string; body: string }[] = [];
let server: Server;
let relayer: HttpRelayer;

beforeAll(async () => {
  server = createServer((request, response) => {
    let body = "";
    request.on("data", (part: Buffer) => (body += part.toString()));
    request.on("end", () => {
      got.push({ path: `${request.method} ${request.url}`, body });
      const [status, text] = answers[`${request.method} ${request.url}`] ?? [404, "{}"];
      response.writeHead(status, { "content-type": "application/json" }).end(text);
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  relayer = new HttpRelayer(`http://127.0.0.1:${port}/api/`, { chainId: 31337, dao: at(1) });
});
afterAll(() => void server.close());

describe("a relayer", () => {
  it("that refuses is quoted, with its code", async () => {
    answers["POST /api/ballots"] = [422, JSON.stringify({ error: { code: "powerless", message: "no votes at the snapshot" } })];
    await expect(relayer.submit(BALLOT)).rejects.toMatchObject({ code: "powerless", message: "no votes at the snapshot" });
  });
  it("that answers nonsense has not taken the ballot", async () => {
    answers["POST /api/ballots"] = [202, "<html>"];
    await expect(relayer.submit(BALLOT)).rejects.toMatchObject({ code: "failed" });
    answers["POST /api/ballots"] = [202, JSON.stringify({ id: "0x1", status: "perhaps" })];
    await expect(relayer.submit(BALLOT)).rejects.toMatchObject({ code: "failed" });
  });
  it("that is away is said to be", async () => {
    await expect(new HttpRelayer("http://127.0.0.1:9", { chainId: 1, dao: at(1) }).status()).rejects.toMatchObject({ code: "unreachable" });
  });
  it("of another DAO accepts nothing", async () => {
    answers["GET /api/status"] = [200, JSON.stringify({ chain_id: 31337, dao: at(5), relayer: at(6), accepting: true, why_not: null })];
    expect(await relayer.status()).toMatchObject({ accepting: false, relayer: at(6) });
  });
  it("is given the ballot as it was signed, and says what became of it", async () => {
    answers["POST /api/ballots"] = [202, JSON.stringify({ id: "0xab", status: "queued" })];
    expect(await relayer.submit(BALLOT)).toEqual({ id: "0xab", status: "queued", transaction: null, block: null, reason: null });
    expect(JSON.parse(got.at(-1)!.body)).toEqual(BALLOT);
    answers["GET /api/ballots/0xab"] = [200, JSON.stringify({ id: "0xab", status: "mined", transaction: "0xcd", block: 9, reason: null })];
    expect(await relayer.fetch("0xab")).toMatchObject({ status: "mined", transaction: "0xcd", block: 9 });
  });
});
