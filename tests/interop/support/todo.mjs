// `landfall-todo`, a Rust program with typed access to a document that JavaScript has open too.
import { execFile, spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { promisify } from "node:util"
import { onTestFinished } from "vitest"
import { binary } from "./server.mjs"
import { scratch } from "./world.mjs"

const run = promisify(execFile)

export class Todo {
  #arguments

  constructor(url) {
    this.#arguments = [join(scratch(), "todo.landfall"), url]
  }

  /** Runs a command, waits until the relay has its changes, and returns its output. */
  async command(...args) {
    const { stdout } = await run(binary("landfall-todo"), [...this.#arguments, ...args])
    return stdout.trimEnd()
  }

  /** Opens a form on a list: the returned function submits it with a text appended to the title. */
  async form(id) {
    const child = spawn(binary("landfall-todo"), [...this.#arguments, id, "form"], {
      stdio: ["pipe", "pipe", "inherit"],
    })
    const gone = once(child, "exit")
    onTestFinished(() => {
      child.kill("SIGKILL")
      return gone
    })
    await once(createInterface({ input: child.stdout }), "line")
    return async text => {
      child.stdin.end(`${text}\n`)
      const [code] = await gone
      if (code !== 0) throw new Error(`the form exited with ${code}`)
    }
  }
}
