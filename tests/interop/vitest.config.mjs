import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["tests/*.test.mjs"],
    // A bound for a test that hangs, not a figure: a machine may be slow.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    pool: "forks",
    // Each test has a server and clients of its own; more at once would only wait for each other.
    maxWorkers: 2,
    reporters: ["verbose"],
  },
})
