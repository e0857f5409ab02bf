/**
 * A warm compiler: one request of JSON a line on standard input, one answer a line on standard output.
 *
 *   {id, sources: [files], replace: {file: text}, settings of solc}  ->  {id, output of solc's standard JSON}
 *
 * Loading the compiler costs a second and each file is read once, so a mutant costs only its own compilation.
 */
"use strict";
const fs = require("fs");
const path = require("path");
const readline = require("readline");

const root = process.argv[2];
const solc = require("solc");
process.removeAllListeners("uncaughtException"); // Emscripten's would print its whole source with the error
const files = new Map();

function read(name) {
  if (!files.has(name)) {
    const found = [root, path.join(root, "node_modules")].map((b) => path.join(b, name)).find((f) => fs.existsSync(f));
    files.set(name, found ? { contents: fs.readFileSync(found, "utf8") } : { error: "File not found" });
  }
  return files.get(name);
}

function compile({ sources, replace, settings }) {
  const load = (name) => (name in replace ? { contents: replace[name] } : read(name));
  const given = Object.fromEntries(sources.map((name) => [name, { content: load(name).contents }]));
  return JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources: given, settings }), { import: load }));
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const request = JSON.parse(line);
  process.stdout.write(JSON.stringify({ id: request.id, output: compile(request) }) + "\n");
});
