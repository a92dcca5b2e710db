// Builds the files that the relay serves from the sources here and the packages pinned in package-lock.json.
// Deterministic: no dates, no paths, no compression.

import { createHash } from "node:crypto"
import { readFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

import { build } from "esbuild"

const here = dirname(fileURLToPath(import.meta.url))
const modules = join(here, "node_modules")

/** Files that are committed and sent compressed; every browser accepts that. */
export const COMPRESSED = ["automerge.wasm", "licences.txt", "playground.js", "style.css"]

/** The folder of the committed build. */
export const assets = join(here, "..", "assets")

/** The files of the page by name, before compression. */
export async function bundle() {
  const built = await build({
    absWorkingDir: here,
    entryPoints: { playground: "src/main.js", style: "src/style.css" },
    outdir: "out",
    write: false,
    bundle: true,
    minify: true,
    format: "esm",
    platform: "browser",
    target: ["chrome123", "firefox121", "safari17.5"],
    charset: "utf8",
    legalComments: "none",
    logLevel: "warning",
    metafile: true,
    // Its other build makes functions of strings, which the page's security policy forbids.
    // CodeMirror's styles: as <style> elements the policy forbids them.
    alias: { "cbor-x": "cbor-x/index-no-eval", "style-mod": join(here, "src", "styles.js") },
  })
  const code = ending => Buffer.from(built.outputFiles.find(file => file.path.endsWith(ending)).contents)
  const files = {
    "playground.js": code("playground.js"),
    "style.css": code("style.css"),
    "icon.svg": await readFile(join(here, "src", "icon.svg")),
    "automerge.wasm": withoutNames(await readFile(join(modules, "@automerge/automerge/dist/automerge.wasm"))),
    "licences.txt": Buffer.from(await licences(Object.keys(built.metafile.inputs))),
  }
  const named = {}
  for (const name of ["index.html", "worker.js"]) named[name] = await readFile(join(here, "src", name))
  const version = digest({ ...files, ...named })
  for (const [name, text] of Object.entries(named)) {
    files[name] = Buffer.from(text.toString("utf8").replaceAll("{{version}}", version))
  }
  files["version.txt"] = Buffer.from(version)
  return files
}

/** One short name for all that a browser may keep for ever: another byte, another name. */
function digest(files) {
  const hash = createHash("sha256")
  for (const name of Object.keys(files).sort()) {
    hash.update(`${name} ${files[name].length}\n`).update(files[name])
  }
  return hash.digest("hex").slice(0, 16)
}

/** A WebAssembly module without its custom sections: names for debuggers are a fifth of it. */
function withoutNames(module) {
  const kept = [module.subarray(0, 8)]
  for (let at = 8; at < module.length; ) {
    const [bytes, body] = leb128(module, at + 1)
    if (module[at] !== 0) kept.push(module.subarray(at, body + bytes))
    at = body + bytes
  }
  return Buffer.concat(kept)
}

/** The unsigned number at a place, and the place behind it. */
function leb128(bytes, at) {
  let value = 0
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++]
    value += (byte & 127) * 2 ** shift
    if (byte < 128) return [value, at]
  }
}

/** The licences of all packages whose code is in the bundle, as their authors ask for. */
async function licences(inputs) {
  const folders = new Map([["@automerge/automerge", join(modules, "@automerge/automerge")]])
  for (const path of inputs) {
    const [, folder, name] = /^(.*node_modules\/((?:@[^/]+\/)?[^/]+))\//.exec(path) ?? []
    if (name) folders.set(name, join(here, folder))
  }
  const texts = ["The playground's page contains these packages, unmodified except for bundling.\n"]
  for (const [name, folder] of [...folders].sort()) {
    const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"))
    texts.push(`${"=".repeat(72)}\n${name} ${version} (${license})\n\n${await licence(folder)}\n`)
  }
  return texts.join("\n")
}

async function licence(folder) {
  for (const name of ["LICENSE", "LICENSE.md", "license.md"]) {
    const text = await readFile(join(folder, name), "utf8").catch(() => null)
    if (text !== null) return text.replaceAll("\r\n", "\n").trim()
  }
  throw new Error(`no licence in ${folder}`)
}
