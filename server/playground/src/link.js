// The way to the relay: automerge-repo's WebSocket adapter, made so that it can be switched off.

import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket"

/** How long to wait before the relay is tried again. Not all pages at once. */
const retryAfter = () => 1_500 + Math.random() * 1_000

/**
 * The published adapter may connect again after `disconnect`, when its connection had been lost
 * before; and once disconnected it stops trying. So one of these is used once: it ends for good.
 */
class Connection extends WebSocketClientAdapter {
  #ended = false

  connect(peerId, metadata) {
    if (!this.#ended) super.connect(peerId, metadata)
  }

  disconnect() {
    if (this.#ended) return
    this.#ended = true
    if (this.socket) super.disconnect()
  }
}

/** `online` is what the user wants, `up` what is. */
export class Link {
  online = false
  up = false
  /** The relay's name for its storage, as automerge-repo keeps heads by it. */
  storageId = null
  #repo
  #url
  #tell
  #connection = null

  constructor(repo, url, tell) {
    this.#repo = repo
    this.#url = url
    this.#tell = tell
  }

  connect() {
    if (this.online) return
    this.online = true
    const connection = new Connection(this.#url, retryAfter())
    connection.on("peer-candidate", ({ peerMetadata }) => {
      this.storageId = peerMetadata?.storageId ?? null
      this.#is(connection, true)
    })
    connection.on("peer-disconnected", () => this.#is(connection, false))
    this.#connection = connection
    this.#repo.networkSubsystem.addNetworkAdapter(connection)
    this.#tell()
  }

  disconnect() {
    if (!this.online) return
    this.online = false
    this.#repo.networkSubsystem.removeNetworkAdapter(this.#connection)
    this.#is(this.#connection, false)
    this.#connection = null
  }

  #is(connection, up) {
    if (connection !== this.#connection) return
    this.up = up
    this.#tell()
  }
}
