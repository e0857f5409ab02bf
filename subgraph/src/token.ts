import { Address, BigInt, Bytes } from "@graphprotocol/graph-ts";
import { DelegateChanged, DelegateVotesChanged, Transfer } from "../generated/MarketFlowToken/MarketFlowToken";
import { Delegate, DelegateChange, DelegateVotesChange, TokenHolder } from "../generated/schema";
import { ZERO, ZERO_ADDRESS, eventId } from "./common";

export function handleTransfer(event: Transfer): void {
  changeBalance(event.params.from, event.params.value.neg());
  changeBalance(event.params.to, event.params.value);
}

export function handleDelegateChanged(event: DelegateChanged): void {
  const from = event.params.fromDelegate;
  const to = event.params.toDelegate;
  const change = new DelegateChange(eventId(event));
  change.delegator = event.params.delegator;
  change.fromDelegate = from;
  change.toDelegate = to;
  change.timestamp = event.block.timestamp;
  change.block = event.block.number;
  change.transaction = event.transaction.hash;
  change.save();

  // One after the other: both may be the same.
  changeDelegators(from, -1);
  changeDelegators(to, 1);
  const holder = loadHolder(event.params.delegator);
  holder.delegate = to.equals(ZERO_ADDRESS) ? null : to;
  holder.save();
}

export function handleDelegateVotesChanged(event: DelegateVotesChanged): void {
  const delegate = loadDelegate(event.params.delegate);
  delegate.votes = event.params.newVotes;
  delegate.save();

  const change = new DelegateVotesChange(eventId(event));
  change.delegate = delegate.id;
  change.previousVotes = event.params.previousVotes;
  change.votes = event.params.newVotes;
  change.timestamp = event.block.timestamp;
  change.block = event.block.number;
  change.transaction = event.transaction.hash;
  change.save();
}

export function loadDelegate(address: Bytes): Delegate {
  let delegate = Delegate.load(address);
  if (delegate == null) {
    delegate = new Delegate(address);
    delegate.votes = ZERO;
    delegate.delegatorCount = 0;
    delegate.voteCount = 0;
  }
  return delegate;
}

function loadHolder(address: Bytes): TokenHolder {
  let holder = TokenHolder.load(address);
  if (holder == null) {
    holder = new TokenHolder(address);
    holder.balance = ZERO;
  }
  return holder;
}

/** The zero address, whence tokens are minted, holds none. */
function changeBalance(address: Address, change: BigInt): void {
  if (address.equals(ZERO_ADDRESS)) return;
  const holder = loadHolder(address);
  holder.balance = holder.balance.plus(change);
  holder.save();
}

function changeDelegators(address: Address, change: i32): void {
  if (address.equals(ZERO_ADDRESS)) return;
  const delegate = loadDelegate(address);
  delegate.delegatorCount += change;
  delegate.save();
}
