import { defineConfig } from "vitest/config";

export default defineConfig({
  base: "./",
  build: {
    target: "es2022",
    // The directory is kept, for its .gitignore: `npm run clean` empties it.
    emptyOutDir: false,
    // One script and one style sheet: a gateway is often looked at over a thin line.
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    modulePreload: false,
    reportCompressedSize: false,
  },
  test: { include: ["test/**/*.test.ts"] },
});
