#!/usr/bin/env node
/**
 * The `solc` npm package (the compiler as WebAssembly) behind the command line of the native compiler.
 *
 * ape and brownie (through py-solc-x) and forge start a program called solc. Where the native one can't be downloaded,
 * `.solcx/solc-v0.8.30` starts this file instead; the byte code is the same. The package's own command, solcjs, does
 * not serve: it prints a line about SMT solvers before the JSON, and cuts a long answer at the size of a pipe's buffer.
 *
 *   solc.js --version
 *   solc.js --standard-json [--base-path DIR] [--include-path DIR]... [--allow-paths ...] < input.json > output.json
 *
 * --allow-paths is accepted and not enforced: whoever chose the sources also chose what they import.
 */
"use strict";
const fs = require("fs");
const path = require("path");

/** Loading the compiler costs about a second, and ape asks for the version several times a run: keep it. */
function version() {
  const kept = path.join(path.dirname(require.resolve("solc/package.json")), ".version");
  if (fs.existsSync(kept)) return fs.readFileSync(kept, "utf8");
  const found = require("solc").version();
  try {
    fs.writeFileSync(kept, found);
  } catch {
    // A read-only node_modules only makes the next call slower.
  }
  return found;
}

/** Options as {name: [values]}; the tools write both `--name value` and `--name=value`. */
function parse(args) {
  const flags = new Set(["--version", "--standard-json"]);
  const options = {};
  for (let i = 0; i < args.length; i++) {
    const [, name, inline] = args[i].match(/^(--[a-z-]+)(?:=(.*))?$/) ?? [];
    if (!name) continue; // py-solc-x ends its arguments with "-" for standard input
    const value = flags.has(name) ? true : inline ?? args[++i];
    (options[name] ??= []).push(value);
  }
  return options;
}

function compile(options) {
  const bases = [...(options["--base-path"] ?? ["."]), ...(options["--include-path"] ?? [])];
  const readImport = (name) => {
    const file = bases.map((base) => path.resolve(base, name)).find((candidate) => fs.existsSync(candidate));
    return file ? { contents: fs.readFileSync(file, "utf8") } : { error: `File not found in ${bases.join(", ")}` };
  };
  const solc = require("solc");
  process.removeAllListeners("uncaughtException"); // Emscripten's would print its whole source with the error
  return solc.compile(fs.readFileSync(0, "utf8"), { import: readImport });
}

const options = parse(process.argv.slice(2));
if (options["--version"]) {
  console.log(`solc, the solidity compiler commandline interface\nVersion: ${version()}`);
} else if (options["--standard-json"]) {
  process.stdout.write(compile(options)); // and no process.exit(): it would drop what the pipe has not taken yet
} else {
  console.error("solc.js: only --version and --standard-json are supported");
  process.exitCode = 1;
}
