import { Address, BigInt, Bytes, ethereum } from "@graphprotocol/graph-ts";
import { Agent, Protocol, ProtocolDaySnapshot } from "../generated/schema";

export const ZERO = BigInt.zero();
export const ZERO_ADDRESS = Address.zero();

const DAY_S = BigInt.fromI32(86400);
const PROTOCOL_ID = "marketflow";

/** The id of an immutable entity: which log it came from. */
export function eventId(event: ethereum.Event): Bytes {
  return event.transaction.hash.concatI32(event.logIndex.toI32());
}

/** The totals, dated with this event; the caller changes and saves them. */
export function loadProtocol(event: ethereum.Event): Protocol {
  let protocol = Protocol.load(PROTOCOL_ID);
  if (protocol === null) {
    protocol = new Protocol(PROTOCOL_ID);
    protocol.proposalCount = 0;
    protocol.voteCount = 0;
    protocol.agentCount = 0;
    protocol.strategyCount = 0;
    protocol.vaultCount = 0;
    protocol.tradeCount = 0;
    protocol.refusalCount = 0;
    protocol.volume = ZERO;
    protocol.shortfall = ZERO;
    protocol.allocated = ZERO;
    protocol.recalled = ZERO;
    protocol.rewarded = ZERO;
    protocol.clawedBack = ZERO;
    protocol.clawedBackFromBonds = ZERO;
    protocol.claimed = ZERO;
  }
  protocol.updatedAt = event.block.timestamp;
  protocol.updatedAtBlock = event.block.number;
  return protocol;
}

/** The totals of this event's day; the caller changes and saves them. */
export function loadProtocolDay(protocol: Protocol, event: ethereum.Event): ProtocolDaySnapshot {
  const number = event.block.timestamp.div(DAY_S);
  let day = ProtocolDaySnapshot.load(number.toString());
  if (day === null) {
    day = new ProtocolDaySnapshot(number.toString());
    day.periodStart = number.times(DAY_S);
    day.tradeCount = 0;
    day.refusalCount = 0;
    day.voteCount = 0;
    day.volume = ZERO;
    day.shortfall = ZERO;
    day.rewarded = ZERO;
    day.clawedBack = ZERO;
    day.cumulativeTradeCount = protocol.tradeCount;
    day.cumulativeVolume = protocol.volume;
  }
  return day;
}

/** An agent that the registry has announced before. */
export function loadAgent(agentId: BigInt): Agent {
  return Agent.load(agentId.toString())!;
}
