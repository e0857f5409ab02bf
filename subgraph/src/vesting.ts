import { BigInt } from "@graphprotocol/graph-ts";

import { RewardAccount } from "../generated/schema";
import { ZERO } from "./common";

/** RewardPool.sol's `_accrue`: moves what has vested since it last looked. */
export function accrue(account: RewardAccount, now: BigInt): void {
  const newly = newlyVested(account, now);
  account.vested = account.vested.plus(newly);
  account.unvested = account.unvested.minus(newly);
  account.vestUpdatedAt = now;
}

/** RewardPool.sol's `_vest`: the new end is the mean of the two ends, weighted by amount and rounded up. */
export function vest(account: RewardAccount, amount: BigInt, vestingS: BigInt, now: BigInt): void {
  accrue(account, now);
  const remainingS = account.vestEndsAt.gt(now) ? account.vestEndsAt.minus(now) : ZERO;
  const total = account.unvested.plus(amount);
  const weighted = account.unvested.times(remainingS).plus(amount.times(vestingS));
  account.unvested = total;
  account.vestEndsAt = now.plus(weighted.plus(total).minus(BigInt.fromI32(1)).div(total));
}

function newlyVested(account: RewardAccount, now: BigInt): BigInt {
  if (now.ge(account.vestEndsAt)) return account.unvested;
  const elapsedS = now.minus(account.vestUpdatedAt);
  return account.unvested.times(elapsedS).div(account.vestEndsAt.minus(account.vestUpdatedAt));
}
