// Writes server/assets. Run `npm ci` first; cargo never runs this.

import { mkdir, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { gzipSync } from "node:zlib"

import { assets, bundle, COMPRESSED } from "./bundle.mjs"

await mkdir(assets, { recursive: true })
for (const [name, bytes] of Object.entries(await bundle())) {
  const compressed = COMPRESSED.includes(name)
  const content = compressed ? gzipSync(bytes, { level: 9 }) : bytes
  await writeFile(join(assets, compressed ? `${name}.gz` : name), content)
  console.log(`${name}: ${bytes.length} bytes${compressed ? `, ${content.length} compressed` : ""}`)
}
