import { BigInt } from "@graphprotocol/graph-ts";
import { Governance } from "../generated/schema";
import { MinDelayChange, Timelock } from "../generated/Timelock/Timelock";

export function handleMinDelayChange(event: MinDelayChange): void {
  // The constructor's comes before the DAO is there, which then asks for the delay.
  const governance = Governance.load(Timelock.bind(event.address).governor());
  if (governance == null) return;
  governance.timelockDelay = delayInForce(event.params.newDuration);
  governance.save();
}

/** `Timelock.MAX_DELAY_S`: more can be voted, but is not in force. */
function delayInForce(voted: BigInt): BigInt {
  const longest = BigInt.fromI32(30 * 86400);
  return voted.gt(longest) ? longest : voted;
}
