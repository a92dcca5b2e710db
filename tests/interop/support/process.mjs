// Child processes: started, awaited until they print their address, ended by their handles.
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createInterface } from "node:readline"

/**
 * Starts a server that prints a line ending in its `ws://` address.
 *
 * @returns {Promise<{url: string, port: number, pid: number, kill: (signal?: string) => Promise<void>}>}
 */
export async function startServer(command, args, { quiet = false } = {}) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", quiet ? "ignore" : "inherit"] })
  const gone = once(child, "exit")
  // No child outlives this process, however it ends.
  const reap = () => child.kill("SIGKILL")
  process.once("exit", reap)
  gone.then(() => process.removeListener("exit", reap))
  const kill = async (signal = "SIGKILL") => {
    child.kill(signal)
    await gone
  }
  const lines = createInterface({ input: child.stdout })
  const url = await Promise.race([
    firstAddress(lines),
    gone.then(([code]) => Promise.reject(new Error(`${command} ended with ${code}`))),
  ])
  // Later lines are read and dropped, so that a full pipe never blocks the child.
  child.stdout.resume()
  return { url, port: Number(new URL(url).port), pid: child.pid, kill }
}

async function firstAddress(lines) {
  for await (const line of lines) {
    const address = line.match(/ws:\/\/[0-9.]+:\d+/)
    if (address) return address[0]
  }
  throw new Error("it closed its output before it printed its address")
}
