import { BigInt } from "@graphprotocol/graph-ts";

import { Trade, TradePrice, Vault } from "../generated/schema";
import { BookOpened, TradeRecorded } from "../generated/TradeLedger/TradeLedger";
import { loadAgent, loadProtocol, loadProtocolDay } from "./common";
import { countTrade, isMeasurable, measure } from "./snapshots";
import { addToPosition } from "./vault";

const PRICE_MISSING = 16; // Reasons.sol

export function handleBookOpened(event: BookOpened): void {
  const vault = Vault.load(event.params.vault)!;
  vault.head = event.params.genesis;
  vault.save();
}

export function handleTradeRecorded(event: TradeRecorded): void {
  const recorded = event.params.trade;
  const vault = Vault.load(event.params.vault)!;
  const trade = new Trade(event.params.id);
  trade.vault = vault.id;
  trade.agent = recorded.agentId.toString();
  trade.strategyId = recorded.strategyId;
  trade.sequence = recorded.sequence;
  trade.reasons = recorded.reasons;
  trade.artefactHash = recorded.artefactHash;
  trade.explanationHash = recorded.explanationHash;
  trade.observationHash = recorded.observationHash;
  trade.tokenIn = recorded.tokenIn;
  trade.tokenOut = recorded.tokenOut;
  trade.amountIn = recorded.amountIn;
  trade.amountOut = recorded.amountOut;
  // The first price is always that of the quote token.
  trade.isBuy = recorded.tokenIn == recorded.prices[0].token;
  trade.shortfall = recorded.shortfall;
  trade.netAssetValue = recorded.netAssetValue;
  trade.timestamp = event.block.timestamp;
  trade.block = event.block.number;
  trade.transaction = event.transaction.hash;
  for (let i = 0; i < recorded.prices.length; i++) {
    const price = new TradePrice(trade.id.concatI32(i));
    price.trade = trade.id;
    price.token = recorded.prices[i].token;
    price.roundId = recorded.prices[i].roundId;
    price.answer = recorded.prices[i].answer;
    price.save();
  }

  book(vault, trade);
  vault.nonce = trade.sequence.plus(BigInt.fromI32(1));
  vault.head = trade.id;
  if ((trade.reasons & PRICE_MISSING) == 0 && isMeasurable(vault, event)) {
    measure(vault, trade.netAssetValue, event);
    trade.profit = vault.profit;
    trade.unitPrice = vault.unitPrice;
  }
  trade.save();
  count(vault, trade, event);
}

function book(vault: Vault, trade: Trade): void {
  if (trade.isBuy) {
    vault.quoteHeld = vault.quoteHeld.minus(trade.amountIn);
    addToPosition(vault.id, trade.tokenOut, trade.amountOut, trade.timestamp);
  } else {
    vault.quoteHeld = vault.quoteHeld.plus(trade.amountOut);
    addToPosition(vault.id, trade.tokenIn, trade.amountIn.neg(), trade.timestamp);
  }
}

/** Counts a trade wherever trades are counted, and saves the vault. */
function count(vault: Vault, trade: Trade, event: TradeRecorded): void {
  const quoteAmount = trade.isBuy ? trade.amountIn : trade.amountOut;
  vault.tradeCount += 1;
  vault.volume = vault.volume.plus(quoteAmount);
  vault.shortfall = vault.shortfall.plus(trade.shortfall);
  vault.save();
  countTrade(vault, quoteAmount, trade.shortfall, event);

  const agent = loadAgent(event.params.agentId);
  agent.tradeCount += 1;
  agent.save();

  const protocol = loadProtocol(event);
  protocol.tradeCount += 1;
  protocol.volume = protocol.volume.plus(quoteAmount);
  protocol.shortfall = protocol.shortfall.plus(trade.shortfall);
  protocol.save();

  const day = loadProtocolDay(protocol, event);
  day.tradeCount += 1;
  day.volume = day.volume.plus(quoteAmount);
  day.shortfall = day.shortfall.plus(trade.shortfall);
  day.cumulativeTradeCount = protocol.tradeCount;
  day.cumulativeVolume = protocol.volume;
  day.save();
}
