// Builds the page and compares it with the committed files. Compressed files are compared by their content,
// since zlib's output differs between Node versions.

import { readdir, readFile } from "node:fs/promises"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"

import { assets, bundle, COMPRESSED } from "./bundle.mjs"

const built = await bundle()
const wrong = []
const kept = await readdir(assets)
for (const file of kept) {
  const bytes = await readFile(join(assets, file))
  const [name, content] = file.endsWith(".gz") ? [file.slice(0, -3), gunzipSync(bytes)] : [file, bytes]
  if (file.endsWith(".gz") !== COMPRESSED.includes(name)) wrong.push(`${file} should ${COMPRESSED.includes(name) ? "" : "not "}be compressed`)
  else if (!built[name]) wrong.push(`${file} is not part of the page`)
  else if (!built[name].equals(content)) wrong.push(`${file} differs from what the sources build`)
  delete built[name]
}
wrong.push(...Object.keys(built).map(name => `${name} is missing`))
if (wrong.length > 0) {
  console.error(wrong.map(line => `server/assets: ${line}`).join("\n"))
  console.error("run: npm ci --prefix server/playground && node server/playground/build.mjs")
  process.exit(1)
}
console.log(`server/assets: ${kept.length} files match the sources`)
