import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["tests/*.test.mjs"],
    // A limit for hanging tests, not a measurement: a machine may be slow.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    pool: "forks",
    // Each test has its own server and clients; more parallel tests would only wait for each other.
    maxWorkers: 2,
    reporters: ["verbose"],
  },
})
