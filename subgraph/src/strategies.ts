import { BigInt, Bytes, ethereum } from "@graphprotocol/graph-ts";
import { Manifest, Strategy } from "../generated/schema";
import {
  ManifestApproved,
  ManifestSubmitted,
  StrategyDeployed,
  StrategyRegistry,
  StrategyRetired,
  StrategyRetiring,
  StrategyUpdated,
} from "../generated/StrategyRegistry/StrategyRegistry";
import { loadProtocol } from "./common";
import { saveLimits } from "./constitution";

const NONE = Bytes.fromHexString("0x" + "00".repeat(32));

export function handleManifestSubmitted(event: ManifestSubmitted): void {
  const hash = event.params.manifestHash;
  const submitted = StrategyRegistry.bind(event.address).manifestOf(hash);

  const manifest = new Manifest(hash);
  manifest.artefactHash = event.params.artefactHash;
  manifest.agent = event.params.agentId.toString();
  manifest.updates = submitted.updates.equals(NONE) ? null : submitted.updates;
  manifest.stage = "SUBMITTED";
  manifest.limits = saveLimits(hash, submitted.limits);
  manifest.assets = submitted.assets.map<Bytes>((asset) => asset.token);
  manifest.routes = submitted.assets.map<BigInt>((asset) => asset.route);
  manifest.venue = submitted.venue;
  manifest.venueCodeHash = submitted.venueCodeHash;
  manifest.vaultImplementation = submitted.vaultImplementation;
  manifest.vaultCodeHash = submitted.vaultCodeHash;
  manifest.rewardRate = submitted.rewardRate;
  manifest.rewardCap = submitted.rewardCap;
  manifest.capital = submitted.capital;
  manifest.salt = submitted.salt;
  manifest.submitter = event.params.submitter;
  manifest.submittedAt = event.block.timestamp;
  manifest.submittedAtBlock = event.block.number;
  manifest.transaction = event.transaction.hash;
  manifest.save();
}

export function handleManifestApproved(event: ManifestApproved): void {
  const manifest = Manifest.load(event.params.manifestHash)!;
  manifest.stage = "APPROVED";
  manifest.save();
}

export function handleStrategyDeployed(event: StrategyDeployed): void {
  const strategy = new Strategy(event.params.strategyId);
  strategy.agent = event.params.agentId.toString();
  strategy.vault = event.params.vault;
  strategy.versionCount = 0;
  strategy.deployedAt = event.block.timestamp;
  run(strategy, event.params.strategyId, event);

  const protocol = loadProtocol(event);
  protocol.strategyCount += 1;
  protocol.save();
}

export function handleStrategyUpdated(event: StrategyUpdated): void {
  const strategy = Strategy.load(event.params.strategyId)!;
  const replaced = Manifest.load(strategy.version)!;
  replaced.stage = "SUPERSEDED";
  replaced.save();
  run(strategy, event.params.version, event);
}

export function handleStrategyRetiring(event: StrategyRetiring): void {
  changeStage(event.params.strategyId, "RETIRING", event);
}

export function handleStrategyRetired(event: StrategyRetired): void {
  changeStage(event.params.strategyId, "RETIRED", event);
}

function run(strategy: Strategy, version: Bytes, event: ethereum.Event): void {
  strategy.version = version;
  strategy.versionCount += 1;
  strategy.stage = "LIVE";
  strategy.updatedAt = event.block.timestamp;
  strategy.save();

  const manifest = Manifest.load(version)!;
  manifest.strategy = strategy.id;
  manifest.stage = "LIVE";
  manifest.save();
}

/** Of a strategy, and of the version that it runs. */
function changeStage(strategyId: Bytes, stage: string, event: ethereum.Event): void {
  const strategy = Strategy.load(strategyId)!;
  strategy.stage = stage;
  strategy.updatedAt = event.block.timestamp;
  strategy.save();

  const manifest = Manifest.load(strategy.version)!;
  manifest.stage = stage;
  manifest.save();
}
