// The fixtures of a test: a server, its clients, scratch folders. All of them end with the test, also if it
// fails.
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Repo } from "@automerge/automerge-repo"
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket"
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs"
import { onTestFinished } from "vitest"
import { bearCutHandshakes } from "./adapter.mjs"
import { startProxy } from "./proxy.mjs"
import { startRelay } from "./server.mjs"

/** Time limit for what should happen immediately. Not a measurement: a machine may be slow. */
const PATIENCE_MS = 120_000

/** A folder that is removed when the test ends. */
export function scratch() {
  const folder = mkdtempSync(join(tmpdir(), "landfall-interop-"))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  return folder
}

/** A server that can be killed and restarted on the same port and data. */
export class Relay {
  #data
  #more
  #server

  static async start(...more) {
    const relay = new Relay()
    relay.#data = join(scratch(), "data")
    relay.#more = more
    relay.#server = await startRelay(relay.#data, 0, more)
    onTestFinished(() => relay.#server.kill())
    return relay
  }

  get url() {
    return this.#server.url
  }

  /** SIGKILL: nothing of the process runs afterwards. */
  kill() {
    return this.#server.kill("SIGKILL")
  }

  /** SIGTERM: the store is closed, and `relay.db` contains all of it. */
  stop() {
    return this.#server.kill("SIGTERM")
  }

  /** The folder of its store. */
  get data() {
    return this.#data
  }

  /** On the same port and data. */
  async restart() {
    this.#server = await startRelay(this.#data, this.#server.port, this.#more)
  }
}

/**
 * A client of the server at `url`: automerge-repo's Repo over its own WebSocket adapter.
 *
 * @param {string} url
 * @param {object} options of the Repo; `folder` is its storage, if it has one
 */
export function client(url, { folder, retry = 200, ...options } = {}) {
  const adapter = bearCutHandshakes(new WebSocketClientAdapter(url, retry))
  const storage = folder && new NodeFSStorageAdapter(folder)
  const repo = new Repo({ network: [adapter], storage, ...options })
  onTestFinished(async () => {
    await leave({ repo, adapter })
    // A pending throttled save would run after the test's folder is removed.
    if (storage) storage.save = async () => {}
  })
  return { repo, adapter }
}

/** Ends a client like a closed program: it saves, and does not reconnect. */
export async function leave({ repo, adapter }) {
  // An already scheduled reconnection would connect it again.
  adapter.connect = () => {}
  if (adapter.socket) await repo.shutdown()
}

/** A proxy before a server; it ends with the test. */
export async function proxy(url) {
  const between = await startProxy(url)
  onTestFinished(() => between.close())
  return between
}

/** Waits until a condition returns a truthy value, and returns that. */
export async function until(what, condition) {
  const deadline = performance.now() + PATIENCE_MS
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > deadline) throw new Error(`timed out waiting until ${what}`)
    await pause(20)
  }
}

export const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))

/** The heads of a document as a text, to compare two of them. */
export const heads = handle => [...handle.heads()].sort().join(" ")

/** Waits until several handles of a document have equal heads. */
export function converged(...handles) {
  return until("all hold the same heads", () => new Set(handles.map(heads)).size === 1)
}

/** The storage id that a server sent to a client in its handshake. */
export function serverStorage({ repo, adapter }) {
  return until("the server sent its storage id", () => {
    const metadata = adapter.remotePeerId && repo.peerMetadataByPeerId[adapter.remotePeerId]
    return metadata?.storageId
  })
}

/** Waits until the server has confirmed to a client that it has all of the client's document. */
export async function onServer(peer, handle) {
  const storageId = await serverStorage(peer)
  await until("the server holds it all", () => {
    const told = handle.getSyncInfo(storageId)?.lastHeads
    return told && [...told].sort().join(" ") === heads(handle)
  })
}
