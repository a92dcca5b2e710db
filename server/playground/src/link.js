// The link to the relay: automerge-repo's WebSocket adapter, extended so that it can be switched off.

import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket"

/** The delay before a reconnect, randomised so that not all pages reconnect at once. */
const retryAfter = () => 1_500 + Math.random() * 1_000

/**
 * The published adapter may reconnect after `disconnect` if its connection was lost before, and cannot be
 * reused after `disconnect`. So each instance is used for one period online.
 */
class Connection extends WebSocketClientAdapter {
  #ended = false
  #onLost

  constructor(url, onLost) {
    super(url, retryAfter())
    this.#onLost = onLost
  }

  connect(peerId, metadata) {
    if (this.#ended) return
    super.connect(peerId, metadata)
    this.socket.addEventListener("close", this.#onLost)
  }

  /** Drops messages without an open socket, where the adapter would throw; a handshake repeats them. */
  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) super.send(message)
  }

  disconnect() {
    if (this.#ended) return
    this.#ended = true
    if (this.socket) super.disconnect()
  }
}

/** `online`: the user wants a connection; `up`: there is one; `lost`: the last attempt failed. */
export class Link {
  online = false
  up = false
  lost = false
  /** The relay's storage id, under which automerge-repo stores the relay's heads. */
  storageId = null
  #repo
  #url
  #tell
  #refused
  #connection = null

  /** Calls `refused(id)` for documents that the relay reports as unavailable. */
  constructor(repo, url, tell, refused) {
    this.#repo = repo
    this.#url = url
    this.#tell = tell
    this.#refused = refused
  }

  connect() {
    if (this.online) return
    this.online = true
    this.lost = false
    const connection = new Connection(this.#url, () => this.#is(connection, false, true))
    this.#connection = connection
    // The repo's listeners are added first, so that it knows the relay before ours run.
    this.#repo.networkSubsystem.addNetworkAdapter(connection)
    connection.on("peer-candidate", ({ peerMetadata }) => {
      this.storageId = peerMetadata?.storageId ?? null
      this.#is(connection, true)
    })
    connection.on("message", ({ type, documentId }) => {
      if (type === "doc-unavailable") this.#refused(documentId)
    })
    this.#tell()
  }

  disconnect() {
    if (!this.online) return
    this.online = false
    this.#repo.networkSubsystem.removeNetworkAdapter(this.#connection)
    this.#is(this.#connection, false)
    this.#connection = null
  }

  #is(connection, up, lost = false) {
    if (connection !== this.#connection) return
    this.up = up
    this.lost = lost
    this.#tell()
  }
}
