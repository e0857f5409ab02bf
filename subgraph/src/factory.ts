import { Bytes } from "@graphprotocol/graph-ts";

import { Vault } from "../generated/schema";
import { StrategyVault } from "../generated/templates";
import { VaultCreated } from "../generated/VaultFactory/VaultFactory";
import { loadProtocol, ZERO } from "./common";

/** The vault's agent, artefact and first head follow in the same transaction: VaultInitialised, BookOpened. */
export function handleVaultCreated(event: VaultCreated): void {
  const vault = new Vault(event.params.vault);
  vault.strategy = event.params.strategyId;
  vault.agent = "";
  vault.implementation = event.params.implementation;
  vault.artefactHash = Bytes.empty();
  vault.limits = event.params.strategyId;
  vault.state = "ACTIVE";
  vault.reasons = 0;
  vault.units = ZERO;
  vault.quoteHeld = ZERO;
  vault.netFlow = ZERO;
  vault.allocated = ZERO;
  vault.recalled = ZERO;
  vault.nonce = ZERO;
  vault.tradeCount = 0;
  vault.refusalCount = 0;
  vault.volume = ZERO;
  vault.shortfall = ZERO;
  vault.head = Bytes.empty();
  vault.createdAt = event.block.timestamp;
  vault.createdAtBlock = event.block.number;
  vault.transaction = event.transaction.hash;
  vault.save();
  StrategyVault.create(event.params.vault);

  const protocol = loadProtocol(event);
  protocol.vaultCount += 1;
  protocol.save();
}
