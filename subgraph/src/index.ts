// The one entry of all data sources: compiled once, where a file for each contract would be compiled a dozen times.
export * from "./agents";
export * from "./constitution";
export * from "./dao";
export * from "./factory";
export * from "./ledger";
export * from "./oracle";
export * from "./rewards";
export * from "./strategies";
export * from "./timelock";
export * from "./token";
export * from "./treasury";
export * from "./vault";
