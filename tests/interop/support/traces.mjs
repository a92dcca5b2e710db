// Recorded editing sessions, found through LANDFALL_TRACES (default: ../shared/data beside the
// repository). Where they are absent, a test prints that and skips.
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gunzipSync } from "node:zlib"

const repository = fileURLToPath(new URL("../../..", import.meta.url))
const folder = process.env.LANDFALL_TRACES ?? join(repository, "../shared/data")

/** A trace, or undefined if absent. Its positions are in code points; both traces are ASCII. */
export function load(name) {
  const path = join(folder, name)
  if (!existsSync(path)) {
    console.log(`SKIPPED: no trace at ${path}; set LANDFALL_TRACES to its folder`)
    return undefined
  }
  return JSON.parse(gunzipSync(readFileSync(path)).toString())
}
