// A raw client: it sends a valid `join`, and then any bytes that a test gives.
import { cbor } from "@automerge/automerge-repo"
import { onTestFinished } from "vitest"
import { WebSocket } from "ws"
import { until } from "./world.mjs"

export class Raw {
  /** The received messages, decoded, oldest first. */
  messages = []
  closed = false
  #socket

  /** Connects and joins under a peer id. */
  static async join(url, peerId) {
    const raw = await Raw.connect(url)
    raw.peerId = peerId
    raw.send({
      type: "join",
      senderId: peerId,
      peerMetadata: { isEphemeral: true },
      supportedProtocolVersions: ["1"],
    })
    const peer = await raw.next("peer")
    raw.server = peer.senderId
    return raw
  }

  static async connect(url) {
    const raw = new Raw()
    const socket = new WebSocket(url)
    raw.#socket = socket
    onTestFinished(() => socket.terminate())
    socket.on("message", bytes => raw.messages.push(cbor.decode(bytes)))
    socket.on("close", () => (raw.closed = true))
    // A reset connection counts as closed too.
    socket.on("error", () => {})
    await until("the socket is open", () => socket.readyState === WebSocket.OPEN || raw.closed)
    return raw
  }

  /** Sends a message as CBOR, or bytes and text as they are. */
  send(message) {
    const plain = typeof message === "string" || message instanceof Uint8Array
    this.#socket.send(plain ? message : cbor.encode(message))
  }

  /** Sends a message about a document, with this connection's ids. */
  say(type, documentId, data, more = {}) {
    this.send({ type, documentId, senderId: this.peerId, targetId: this.server, data, ...more })
  }

  /** Waits for the next message of a type, and removes it and all before it. */
  async next(type, documentId) {
    const wanted = message =>
      message.type === type && (!documentId || message.documentId === documentId)
    const at = await until(`${type} came`, () => {
      const found = this.messages.findIndex(wanted)
      return found >= 0 ? { found } : this.closed && { found: -1 }
    })
    if (at.found < 0) throw new Error(`closed before ${type} arrived`)
    return this.messages.splice(0, at.found + 1).at(-1)
  }

  untilClosed() {
    return until("the server closed the connection", () => this.closed)
  }
}
