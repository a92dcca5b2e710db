// What a test has to hand: a server, clients of it, scratch folders. All of it ends with the test,
// also with one that fails.
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

/** How long a test waits for what should happen at once. Not a figure: a machine may be slow. */
const PATIENCE_MS = 120_000

/** A folder that is removed when the test ends. */
export function scratch() {
  const folder = mkdtempSync(join(tmpdir(), "landfall-interop-"))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  return folder
}

/** A server that can be killed and started again where it was. */
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

  /** SIGTERM: its store is closed, and `relay.db` holds all of it. */
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
 * @param {object} options of the Repo; `folder` is where it stores, if anywhere
 */
export function client(url, { folder, retry = 200, ...options } = {}) {
  const adapter = bearCutHandshakes(new WebSocketClientAdapter(url, retry))
  const storage = folder && new NodeFSStorageAdapter(folder)
  const repo = new Repo({ network: [adapter], storage, ...options })
  onTestFinished(async () => {
    await leave({ repo, adapter })
    // A throttled save that is still due would find the test's folder gone.
    if (storage) storage.save = async () => {}
  })
  return { repo, adapter }
}

/** A client goes, as a closed program would: it writes what it holds, and does not come back. */
export async function leave({ repo, adapter }) {
  // A reconnection that the adapter has already scheduled would bring it back.
  adapter.connect = () => {}
  if (adapter.socket) await repo.shutdown()
}

/** A proxy before a server, which ends with the test. */
export async function proxy(url) {
  const between = await startProxy(url)
  onTestFinished(() => between.close())
  return between
}

/** Waits until a condition holds, and gives what it gave. */
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

/** Waits until several handles of a document hold the same. */
export function converged(...handles) {
  return until("all hold the same heads", () => new Set(handles.map(heads)).size === 1)
}

/** The storage id that a server told a client in its handshake. */
export function serverStorage({ repo, adapter }) {
  return until("the server said who it is", () => {
    const metadata = adapter.remotePeerId && repo.peerMetadataByPeerId[adapter.remotePeerId]
    return metadata?.storageId
  })
}

/** Waits until the server has told a client that it holds all that the client has of a document. */
export async function onServer(peer, handle) {
  const storageId = await serverStorage(peer)
  await until("the server holds it all", () => {
    const told = handle.getSyncInfo(storageId)?.lastHeads
    return told && [...told].sort().join(" ") === heads(handle)
  })
}
