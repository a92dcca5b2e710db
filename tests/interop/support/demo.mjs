// `landfall-demo` as the Landfall engine: one store, and commands on it.
import { execFile, spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { promisify } from "node:util"
import { onTestFinished } from "vitest"
import { binary } from "./server.mjs"
import { scratch } from "./world.mjs"

const run = promisify(execFile)

export class Demo {
  #options

  constructor(url) {
    this.#options = ["--store", join(scratch(), "notes.landfall"), "--relay", url, "--quiet"]
  }

  /** Runs a command and returns its output. */
  async command(...args) {
    const { stdout } = await run(binary("landfall-demo"), [...this.#options, ...args])
    return stdout.trimEnd()
  }

  new(title, text) {
    return this.command("notes", "new", title, "--text", text)
  }

  append(id, text, ...more) {
    return this.command("notes", "append", id, text, ...more)
  }

  /** A note's title and text, after a sync with the relay. */
  async show(id) {
    await this.command("sync")
    return this.command("notes", "show", id)
  }

  /** Runs `watch` until the test ends; its lines are appended to the returned list. */
  watch() {
    const options = this.#options.filter(option => option !== "--quiet")
    const child = spawn(binary("landfall-demo"), [...options, "watch"], {
      stdio: ["ignore", "pipe", "inherit"],
    })
    const gone = once(child, "exit")
    onTestFinished(() => {
      child.kill("SIGKILL")
      return gone
    })
    const lines = []
    createInterface({ input: child.stdout }).on("line", line => lines.push(line))
    return lines
  }
}
