import { Address, BigInt, Bytes, ethereum } from "@graphprotocol/graph-ts";
import {
  AgentRegistry,
  BondPosted,
  BondSeized,
  BondWithdrawn,
  DepositAwarded,
  DepositPosted,
  DepositWithdrawn,
  MetadataUpdate,
  Registered,
  SigningKeySet,
  Transfer,
} from "../generated/AgentRegistry/AgentRegistry";
import { Agent, StakeChange } from "../generated/schema";
import { ZERO, ZERO_ADDRESS, eventId, loadAgent, loadProtocol } from "./common";

/** The first of the four events of a registration: key, owner and URI come again in the others. */
export function handleRegistered(event: Registered): void {
  const agent = new Agent(event.params.agentId.toString());
  agent.controller = event.params.owner;
  agent.signingKey = ZERO_ADDRESS;
  agent.uri = event.params.agentURI;
  agent.bond = ZERO;
  agent.deposit = ZERO;
  agent.unclaimed = ZERO;
  agent.rewarded = ZERO;
  agent.clawedBack = ZERO;
  agent.claimed = ZERO;
  agent.tradeCount = 0;
  agent.registeredAt = event.block.timestamp;
  agent.transaction = event.transaction.hash;
  agent.save();

  const protocol = loadProtocol(event);
  protocol.agentCount += 1;
  protocol.save();
}

export function handleSigningKeySet(event: SigningKeySet): void {
  const agent = loadAgent(event.params.agentId);
  agent.signingKey = event.params.signingKey;
  agent.save();
}

export function handleAgentTransfer(event: Transfer): void {
  const agent = loadAgent(event.params.tokenId);
  agent.controller = event.params.to;
  agent.save();
}

/** ERC-4906: says that the URI has changed, not to what. One that is too long to be read stays as it was. */
export function handleMetadataUpdate(event: MetadataUpdate): void {
  const agent = loadAgent(event.params._tokenId);
  const uri = AgentRegistry.bind(event.address).try_tokenURI(event.params._tokenId);
  if (!uri.reverted) agent.uri = uri.value;
  agent.save();
}

export function handleBondPosted(event: BondPosted): void {
  changeBond("BOND_POSTED", event.params.agentId, event.params.from, event.params.amount, event);
}

export function handleBondWithdrawn(event: BondWithdrawn): void {
  changeBond("BOND_WITHDRAWN", event.params.agentId, event.params.to, event.params.amount, event);
}

export function handleBondSeized(event: BondSeized): void {
  changeBond("BOND_SEIZED", event.params.agentId, event.params.to, event.params.amount, event);
}

export function handleDepositPosted(event: DepositPosted): void {
  changeDeposit("DEPOSIT_POSTED", event.params.agentId, event.params.from, event.params.amount, event);
}

export function handleDepositWithdrawn(event: DepositWithdrawn): void {
  changeDeposit("DEPOSIT_WITHDRAWN", event.params.agentId, event.params.to, event.params.amount, event);
}

export function handleDepositAwarded(event: DepositAwarded): void {
  changeDeposit("DEPOSIT_AWARDED", event.params.agentId, event.params.to, event.params.amount, event);
}

function changeBond(kind: string, agentId: BigInt, account: Bytes, amount: BigInt, event: ethereum.Event): void {
  const agent = loadAgent(agentId);
  agent.bond = agent.bond.plus(signed(kind, amount));
  agent.save();
  saveChange(kind, agent, account, amount, event);
}

function changeDeposit(kind: string, agentId: BigInt, account: Bytes, amount: BigInt, event: ethereum.Event): void {
  const agent = loadAgent(agentId);
  agent.deposit = agent.deposit.plus(signed(kind, amount));
  agent.save();
  saveChange(kind, agent, account, amount, event);
}

function signed(kind: string, amount: BigInt): BigInt {
  return kind.endsWith("_POSTED") ? amount : amount.neg();
}

function saveChange(kind: string, agent: Agent, account: Bytes, amount: BigInt, event: ethereum.Event): void {
  const change = new StakeChange(eventId(event));
  change.agent = agent.id;
  change.kind = kind;
  change.account = account;
  change.amount = amount;
  change.timestamp = event.block.timestamp;
  change.block = event.block.number;
  change.transaction = event.transaction.hash;
  change.save();
}
