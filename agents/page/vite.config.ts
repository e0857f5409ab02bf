import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { contracts } from "./plugins/contracts.ts";

export default defineConfig({
  // Relative, so that any folder of any static host will do.
  base: "./",
  plugins: [contracts()],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: fileURLToPath(new URL("../voting_page", import.meta.url)),
    emptyOutDir: true,
    target: "es2022",
    // A strict Content-Security-Policy forbids inline code: nothing becomes a data: address or an inline script.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    cssCodeSplit: false,
    sourcemap: false,
    chunkSizeWarningLimit: 400,
  },
});
