// Writes server/assets. Run `npm ci` first; cargo never runs this.

import { mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { gzipSync } from "node:zlib"

import { assets, bundle } from "./bundle.mjs"

/** The module is three megabytes: kept and sent compressed, which every browser takes. */
const COMPRESSED = "automerge.wasm"

await mkdir(assets, { recursive: true })
for (const [name, bytes] of Object.entries(await bundle())) {
  const compressed = name === COMPRESSED
  const content = compressed ? gzipSync(bytes, { level: 9 }) : bytes
  await writeFile(join(assets, compressed ? `${name}.gz` : name), content)
  console.log(`${name}: ${bytes.length} bytes${compressed ? `, ${content.length} compressed` : ""}`)
}
