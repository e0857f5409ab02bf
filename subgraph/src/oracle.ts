import { FeedPhaseSynced, FeedRemoved, FeedSet, PriceOracle } from "../generated/PriceOracle/PriceOracle";
import { PriceFeed } from "../generated/schema";

export function handleFeedSet(event: FeedSet): void {
  const feed = new PriceFeed(event.params.token);
  feed.aggregator = event.params.aggregator;
  feed.maxAge = event.params.maxAgeS;
  feed.minAnswer = event.params.minAnswer;
  feed.maxAnswer = event.params.maxAnswer;
  const checked = PriceOracle.bind(event.address).feedOf(event.params.token);
  feed.decimals = checked.feedDecimals;
  feed.phaseId = checked.phaseId;
  feed.isListed = true;
  feed.updatedAt = event.block.timestamp;
  feed.save();
}

export function handleFeedRemoved(event: FeedRemoved): void {
  const feed = PriceFeed.load(event.params.token);
  if (feed == null) return; // what was never listed can be removed
  feed.isListed = false;
  feed.updatedAt = event.block.timestamp;
  feed.save();
}

export function handleFeedPhaseSynced(event: FeedPhaseSynced): void {
  const feed = PriceFeed.load(event.params.token)!;
  feed.phaseId = event.params.phaseId;
  feed.updatedAt = event.block.timestamp;
  feed.save();
}
