declare module "virtual:contracts" {
  import type { Abi } from "viem";
  export const abis: Record<
    | "token" | "timelock" | "dao" | "treasury" | "constitution" | "oracle" | "agents" | "strategies" | "factory"
    | "ledger" | "pool" | "vault" | "venue" | "grant" | "multicall" | "safe",
    Abi
  >;
  export const errors: Abi;
}
