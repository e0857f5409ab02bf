/** What happens to a vote after the button, as states that can be told in plain words. */

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { Hex } from "viem";

import type { RelayedBallot, Services, SignedBallot, Support, VoterOnProposal } from "../model";
import { RelayerRefused } from "../model";

export type BallotStep =
  | { step: "idle" }
  | { step: "wallet"; direct: boolean }
  | { step: "relayer" }
  | { step: "queued" | "sent" | "unsure"; transaction: Hex | null }
  | { step: "mined"; transaction: Hex | null; block: bigint | null; waited: boolean }
  | { step: "counted"; transaction: Hex | null; seen: VoterOnProposal }
  | { step: "failed"; error: unknown; transaction: Hex | null };

export const isBusy = ({ step }: BallotStep): boolean => !["idle", "counted", "failed"].includes(step);

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** A ballot that the relayer has is remembered, so that closing the page loses nothing. */
const keyOf = (chainId: number, proposal: bigint, voter: string): string =>
  `marketflow.ballot.${chainId}.${proposal}.${voter.toLowerCase()}`;

function remember(key: string, id: Hex | null): void {
  try {
    if (id === null) localStorage.removeItem(key);
    else localStorage.setItem(key, id);
  } catch {
    // Without storage the vote goes on; only a reload forgets where it was.
  }
}

function recall(key: string): Hex | null {
  try {
    const id = localStorage.getItem(key);
    return id && /^0x[0-9a-fA-F]+$/.test(id) ? (id as Hex) : null;
  } catch {
    return null;
  }
}

/** An answer that was lost may mean that the ballot arrived. Handing in the same one again is harmless, so it is asked again. */
async function submitPatiently(services: Services, ballot: SignedBallot, goOn: () => boolean): Promise<RelayedBallot> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await services.relayer!.submit(ballot);
    } catch (error) {
      const isLost = error instanceof RelayerRefused && error.code === "unreachable";
      if (!isLost || tries >= 3 || !goOn()) throw error;
      await pause(1500);
    }
  }
}

export interface Sending {
  state: BallotStep;
  signed: SignedBallot | null;
  direct(
    send: (sent: (transaction: Hex) => void) => Promise<{ transaction: Hex; block: bigint | null; failed: string | null }>,
  ): Promise<void>;
  relay(sign: () => Promise<SignedBallot>): Promise<void>;
  reset(): void;
}

/** Follows one voter's ballot on one proposal until the chain itself shows it. */
export function useSending(services: Services, proposal: bigint, voter: `0x${string}` | null, done: () => void): Sending {
  const [state, setState] = useState<BallotStep>({ step: "idle" });
  const [signed, setSigned] = useState<SignedBallot | null>(null);
  // A new turn makes the loops of the one before stop.
  const turn = useRef(0);
  const key = keyOf(services.reader.config.chain_id, proposal, voter ?? "");

  const confirm = useCallback(async (mine: number, transaction: Hex | null, block: bigint | null): Promise<void> => {
    if (!voter) return;
    for (let tries = 0; turn.current === mine; tries += 1) {
      setState({ step: "mined", transaction, block, waited: tries > 5 });
      const seen = await services.reader.fetchVoterOnProposal(voter, proposal).catch(() => null);
      if (turn.current !== mine) return;
      if (seen?.hasVoted) {
        remember(key, null);
        setState({ step: "counted", transaction, seen });
        done();
        return;
      }
      await pause(1000);
    }
  }, [services, proposal, voter, key]);

  const follow = useCallback(async (mine: number, first: RelayedBallot | Hex): Promise<void> => {
    const relayer = services.relayer;
    if (!relayer) return;
    const id = typeof first === "string" ? first : first.id;
    let known: RelayedBallot | null = typeof first === "string" ? null : first;
    let misses = 0;
    for (; turn.current === mine;) {
      if (known?.status === "mined") {
        await confirm(mine, known.transaction, known.block === null ? null : BigInt(known.block));
        return;
      }
      if (known?.status === "failed") {
        remember(key, null);
        const why = known.reason ?? "failed";
        setState({ step: "failed", error: new RelayerRefused("other", why), transaction: known.transaction });
        return;
      }
      if (misses > 2) setState({ step: "unsure", transaction: known?.transaction ?? null });
      else if (known) setState({ step: known.status, transaction: known.transaction });
      await pause(1000);
      try {
        known = await relayer.fetch(id);
        misses = 0;
      } catch (error) {
        misses += 1;
        // Only an answer that it was never there ends this; silence does not.
        if (error instanceof RelayerRefused && error.code === "not_found") {
          remember(key, null);
          setState({ step: "idle" });
          return;
        }
      }
    }
  }, [services, confirm, key]);

  useEffect(() => {
    const mine = ++turn.current;
    setState({ step: "idle" });
    setSigned(null);
    const id = voter ? recall(key) : null;
    if (id) void follow(mine, id);
    return () => {
      turn.current += 1;
    };
  }, [key, voter]);

  const direct: Sending["direct"] = async (send) => {
    const mine = ++turn.current;
    setState({ step: "wallet", direct: true });
    try {
      const { transaction, block, failed } = await send((hash) => {
        if (turn.current === mine) setState({ step: "sent", transaction: hash });
      });
      if (turn.current !== mine) return;
      if (failed !== null) setState({ step: "failed", error: new RelayerRefused("other", failed), transaction });
      else await confirm(mine, transaction, block);
    } catch (error) {
      if (turn.current === mine) setState({ step: "failed", error, transaction: null });
    }
  };

  const relay: Sending["relay"] = async (sign) => {
    const mine = ++turn.current;
    setState({ step: "wallet", direct: false });
    try {
      const ballot = await sign();
      if (turn.current !== mine) return;
      setSigned(ballot);
      setState({ step: "relayer" });
      const answer = await submitPatiently(services, ballot, () => turn.current === mine);
      remember(key, answer.id);
      if (turn.current === mine) await follow(mine, answer);
    } catch (error) {
      if (turn.current === mine) setState({ step: "failed", error, transaction: null });
    }
  };

  const reset = (): void => {
    turn.current += 1;
    setState({ step: "idle" });
  };
  return { state, signed, direct, relay, reset };
}

export const supports: Support[] = ["for", "against", "abstain"];
