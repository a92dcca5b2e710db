// The server under test: the relay, or automerge-repo's own server with
// LANDFALL_INTEROP_SERVER=reference. Each has its own data folder and a free port.
import { existsSync } from "node:fs"
import { join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { startServer } from "./process.mjs"

const here = fileURLToPath(new URL("..", import.meta.url))
const repository = resolve(here, "../..")
const binaries = resolve(repository, process.env.CARGO_TARGET_DIR ?? "target", "debug")

export const isReference = process.env.LANDFALL_INTEROP_SERVER === "reference"

/** The path of a program of this repository. */
export function binary(name) {
  const path = join(binaries, name)
  if (!existsSync(path)) throw new Error(`${path} is missing: cargo build --workspace --bins`)
  return path
}

/**
 * Starts a server on a data folder, on a free port or a given one.
 * Its standard error is dropped: hostile frames are logged there as expected.
 */
export function startRelay(data, port = 0, more = []) {
  const args = ["serve", "--listen", `127.0.0.1:${port}`, "--data", data, ...more]
  return isReference
    ? startServer(process.execPath, [join(here, "reference-server.mjs"), ...args], { quiet: true })
    : startServer(binary("landfall-relay"), args, { quiet: true })
}
