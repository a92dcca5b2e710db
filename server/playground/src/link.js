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

  /** What finds no open socket is said again after the next handshake; the adapter would throw. */
  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) super.send(message)
  }

  disconnect() {
    if (this.#ended) return
    this.#ended = true
    if (this.socket) super.disconnect()
  }
}

/** `online` is what the user wants, `up` what is; `lost` says that it was tried in vain. */
export class Link {
  online = false
  up = false
  lost = false
  /** The relay's name for its storage, as automerge-repo keeps heads by it. */
  storageId = null
  #repo
  #url
  #tell
  #refused
  #connection = null

  /** `refused(id)` hears of documents that the relay says it does not have. */
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
    // Its own listeners come first, so that it knows of the relay when others are told.
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
