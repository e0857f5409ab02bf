/**
 * What the page knows, between what reads the chain (`chain/`) and what shows it (`views/`).
 *
 * Amounts are bigint in base units: `Wei` of the protocol's token, `quote` units of its quote token, `bps` 1/10,000,
 * times unix seconds. Nothing here is a float. Text that people wrote (descriptions, reasons, URIs) is untrusted:
 * it is shown as text, never as HTML or as a link that runs.
 */

import type { Address, Hex } from "viem";

export interface PageConfig {
  format: "marketflow/page/1";
  network: string;
  chain_id: number;
  chain_name: string;
  rpc: string[];
  graph: string | null;
  relayer: string | null;
  artefacts: string | null;
  explanations: string | null;
  explorer: string | null;
  deployment: { protocol: Record<string, unknown>; market: Record<string, unknown> };
}

export type ProposalState =
  | "pending" | "active" | "canceled" | "defeated" | "succeeded" | "queued" | "expired" | "executed";

export type Support = "against" | "for" | "abstain";

/** A limit of a vault: its value, the constitution's ceiling, and the value of the version that runs (null: none). */
export interface LimitRow {
  name: string; // as in Types.sol, such as maxPositionBps
  value: bigint;
  ceiling: bigint;
  running: bigint | null;
}

/** One call of a proposal, decoded from its call data against our own ABIs; never from the description. */
export interface Action {
  target: Address;
  targetName: string | null; // "treasury", "strategies", ...; null: not a contract of the protocol
  valueWei: bigint;
  calldata: Hex;
  // What it does: `kind` chooses the sentence (i18n key), `args` fill it. kind "unknown": nobody can say; warn loudly.
  // Else `kind` is targetName + "." + the function's name, such as "strategies.approve", "factory.deployVault",
  // "treasury.allocate", "treasury.recall", "treasury.pay", "constitution.setCeilings", "quote.transfer", "vault.resume";
  // `args` are by the names of the ABI (addresses checksummed, numbers bigint). "ether.send": no data, only ether.
  kind: string;
  args: Record<string, unknown>;
  // What a call hides that makes another call (dao.relay, timelock.execute...): decoded the same way.
  inner: Action[];
}

export interface ManifestDetails {
  hash: Hex;
  artefactHash: Hex;
  agentId: bigint;
  updates: Hex | null;
  limits: LimitRow[];
  assets: { token: Address; symbol: string | null; running: boolean | null }[];
  capitalQuote: bigint;
  rewardRate: bigint; // token wei for a base unit of quote
  rewardCapWei: bigint;
  venue: Address;
  venueCodeMatches: boolean; // code on the chain has the hash that the manifest names
  vaultImplementation: Address;
  vaultCodeMatches: boolean;
  runningArtefactHash: Hex | null; // of the version that it would change
}

export interface VoteRow {
  voter: Address;
  support: Support;
  weightWei: bigint;
  reason: string;
  atS: number;
  transaction: Hex;
}

export interface ProposalSummary {
  id: bigint;
  title: string;
  proposer: Address;
  state: ProposalState;
  voteStartS: number;
  voteEndS: number;
  objectionEndsS: number | null; // a late flip opened it: only Against counts until then
  etaS: number | null;
  expiresS: number | null; // when succeeded or queued
  forWei: bigint;
  againstWei: bigint;
  abstainWei: bigint;
  quorumWei: bigint;
  createdS: number;
}

export interface Proposal extends ProposalSummary {
  description: string;
  actions: Action[];
  // The call data is exactly what the registry builds for this manifest (callsOf). null: no strategy proposal.
  manifest: ManifestDetails | null;
  manifestMatchesCalls: boolean | null;
  votes: VoteRow[];
  transaction: Hex;
}

export interface VoterStatus {
  balanceWei: bigint;
  delegate: Address | null; // null: nobody, so its tokens do not vote
  votesNowWei: bigint;
  nonce: bigint;
  isContract: boolean;
}

export interface VoterOnProposal {
  weightWei: bigint; // at the snapshot; before it, as of now
  hasVoted: boolean;
  voted: VoteRow | null;
}

export interface ArtefactReport {
  status: "matches" | "differs" | "absent" | "unreadable";
  hash: Hex | null; // computed here, from the bytes
  name: string | null;
  kind: string | null;
  features: string[];
  maxWeightBps: number | null;
  verdict: { outcome: "PASS" | "FAIL" | "NOT ENOUGH DATA" | "NONE"; reasons: string[] } | null;
  // The evaluation's figures, as in the artefact's report, labelled; and series to draw, when it has any.
  figures: { name: string; value: string }[];
  folds: { from: number; to: number; returnBps: number; benchmarkBps: number | null; drawdownBps: number | null }[];
}

export interface Trade {
  vault: Address;
  sequence: number;
  id: Hex;
  atS: number;
  isBuy: boolean;
  asset: Address;
  assetSymbol: string | null;
  amountIn: bigint;
  amountOut: bigint;
  shortfallQuote: bigint;
  valueAfterQuote: bigint;
  unitPriceWad: bigint | null;
  explanationHash: Hex;
  artefactHash: Hex;
  transaction: Hex;
}

export interface Explanation {
  status: "matches" | "differs" | "absent" | "unreadable"; // anything but "matches" is shown as unexplained
  text: string | null;
  document: unknown;
}

export interface VaultView {
  address: Address;
  strategyId: Hex;
  agentId: bigint;
  state: "active" | "reducing" | "halted";
  reasons: string[]; // names of Reasons.sol bits
  valueQuote: bigint | null; // null: something has no price
  profitQuote: bigint | null;
  allocatedQuote: bigint;
  recalledQuote: bigint;
  unitPriceWad: bigint | null;
  peakWad: bigint | null;
  drawdownBps: number | null;
  limits: LimitRow[];
  artefactHash: Hex;
  positions: { token: Address; symbol: string | null; amount: bigint; decimals: number; valueQuote: bigint | null }[];
  quoteHeld: bigint;
  tradeCount: number;
  refusalCount: number;
  // Unit price at each trade and observation, oldest first: what the equity and drawdown pictures are drawn from.
  history: { atS: number; unitPriceWad: bigint }[];
  account: {
    rate: bigint;
    creditedQuote: bigint;
    unvestedWei: bigint;
    claimableWei: bigint;
    vestEndsS: number | null;
    rewardedWei: bigint;
    clawedBackWei: bigint;
    claimedWei: bigint;
  };
}

export interface AgentView {
  id: bigint;
  controller: Address;
  signingKey: Address;
  uri: string;
  bondWei: bigint;
  depositQuote: bigint;
  unclaimedWei: bigint;
  rewardedWei: bigint;
  clawedBackWei: bigint;
  vault: Address | null;
  tradeCount: number;
}

export interface Overview {
  block: { number: bigint; timestampS: number };
  source: "chain" | "graph";
  token: { symbol: string; decimals: number; supplyWei: bigint };
  quote: { symbol: string; decimals: number };
  governance: {
    votingDelayS: number; votingPeriodS: number; timelockDelayS: number; graceS: number; proposalThresholdWei: bigint;
  };
  treasuryQuote: bigint;
  proposals: ProposalSummary[];
  vaults: VaultView[];
  agents: AgentView[];
}

/** Everything that is read. Throws `ReadError`. `progress` is told how far a scan of events is, 0 to 1. */
export interface Reader {
  config: PageConfig;
  fetchOverview(progress?: (done: number) => void): Promise<Overview>;
  fetchProposal(id: bigint): Promise<Proposal>;
  fetchVoter(voter: Address): Promise<VoterStatus>;
  fetchVoterOnProposal(voter: Address, proposalId: bigint): Promise<VoterOnProposal>;
  fetchVault(address: Address): Promise<VaultView>;
  fetchTrades(vault: Address): Promise<Trade[]>;
  fetchArtefact(expected: Hex): Promise<ArtefactReport>;
  checkArtefactFile(bytes: Uint8Array, expected: Hex): ArtefactReport; // a file that the voter has
  fetchExplanation(hash: Hex): Promise<Explanation>;
  /** Calls back after each new block; returns what stops it. */
  watch(changed: () => void): () => void;
}

export class ReadError extends Error {
  constructor(
    public readonly code: "unreachable" | "wrong_chain" | "not_deployed" | "not_found" | "rejected_config" | "bad_answer",
    message: string,
  ) {
    super(message);
  }
}

export interface WalletOffer {
  id: string; // EIP-6963 rdns + uuid, or "injected"
  name: string;
  icon: string | null; // a data: URI, checked
}

export interface Safe {
  address: Address;
  owners: Address[];
  threshold: number;
}

/** Signatures of a Safe's owners on one ballot, collected until there are enough; JSON to be passed from owner to owner. */
export interface SafeBallot {
  format: "marketflow/safe-ballot/1";
  chain_id: number;
  dao: Address;
  safe: Address;
  proposal_id: string;
  support: Support;
  nonce: string;
  reason: string;
  signatures: { owner: Address; signature: Hex }[];
}

export type Sent =
  | { status: "mined"; transaction: Hex; block: bigint }
  | { status: "reverted"; transaction: Hex; reason: string };

export type RelayedBallot = {
  id: Hex;
  status: "queued" | "sent" | "mined" | "failed";
  transaction: Hex | null;
  block: number | null;
  reason: string | null;
};

/** A wallet that is connected, on the configured chain or not. Throws `WalletError`. */
export interface Wallet {
  offer: WalletOffer;
  account: Address;
  chainId: number;
  switchChain(): Promise<void>;
  delegate(to: Address): Promise<Sent>;
  /** `sent` is told the hash as soon as the wallet has sent it, before a block has it. */
  voteDirectly(proposalId: bigint, support: Support, reason: string, sent?: (transaction: Hex) => void): Promise<Sent>;
  /** Signs the ballot that the relayer takes. A contract account's signature is checked by the contract (ERC-1271). */
  signBallot(proposalId: bigint, support: Support, reason: string, nonce: bigint): Promise<SignedBallot>;
  /** One owner's signature for a Safe's ballot, added to those there are. */
  signForSafe(ballot: SafeBallot): Promise<SafeBallot>;
  claim(vault: Address): Promise<Sent>;
  disconnect(): void;
}

export interface SignedBallot {
  format: "marketflow/ballot/1";
  chain_id: number;
  dao: Address;
  proposal_id: string;
  support: Support;
  voter: Address;
  nonce: number;
  signature: Hex;
  reason?: string;
}

export interface Relayer {
  status(): Promise<{ accepting: boolean; whyNot: string | null; relayer: Address | null }>;
  submit(ballot: SignedBallot): Promise<RelayedBallot>; // throws RelayerRefused
  fetch(id: Hex): Promise<RelayedBallot>;
}

export class RelayerRefused extends Error {
  constructor(public readonly code: string, message: string) {
    super(message);
  }
}

export class WalletError extends Error {
  constructor(
    public readonly code:
      "rejected" | "no_wallet" | "wrong_chain" | "no_account" | "reverted" | "unsupported" | "no_funds" | "failed",
    message: string,
  ) {
    super(message);
  }
}

/** Made by `chain/index.ts`. */
export interface Services {
  reader: Reader;
  relayer: Relayer | null;
  /** Wallets as they announce themselves (EIP-6963), and window.ethereum; calls back when one is added. */
  watchWallets(found: (offers: WalletOffer[]) => void): () => void;
  connect(offerId: string, changed: (wallet: Wallet | null) => void): Promise<Wallet>;
  /** The connection of last time, without asking; null when the wallet has forgotten it. */
  reconnect(changed: (wallet: Wallet | null) => void): Promise<Wallet | null>;
  /** Who owns a Safe, null when the address is none. */
  fetchSafe(address: Address): Promise<Safe | null>;
  /** A Safe's ballot as its owners pass it on. Throws WalletError for what is none, is foreign, or has a wrong signature. */
  readSafeBallot(text: string, safe: Safe): Promise<SafeBallot>;
  /** When enough owners have signed: the ballot that the relayer takes, or that anybody submits. */
  assembleSafeBallot(ballot: SafeBallot, safe: Safe): SignedBallot | null;
}
