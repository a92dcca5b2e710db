// A WebSocket proxy on loopback that records every frame with its direction: for golden captures and
// for counting bytes on the wire.
import { decode } from "cbor-x"
import { WebSocket, WebSocketServer } from "ws"

/**
 * @typedef {object} Frame
 * @property {"client" | "server"} from the sender
 * @property {Buffer} bytes as sent
 * @property {any} message the decoded CBOR, if it is CBOR
 */

/**
 * Forwards between clients and `target`. `frames` records all frames; `cut()` drops all connections;
 * `close()` ends the proxy. `rewrite` may change the server's frames.
 *
 * @param {string} target
 * @param {(bytes: Buffer) => Buffer} rewrite
 */
export async function startProxy(target, rewrite = bytes => bytes) {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, maxPayload: 1 << 28 })
  await new Promise(resolve => server.once("listening", resolve))
  /** @type {Frame[]} */
  const frames = []
  server.on("connection", inner => forward(inner, target, frames, rewrite))
  const cut = () => server.clients.forEach(client => client.terminate())
  return {
    url: `ws://127.0.0.1:${server.address().port}`,
    frames,
    cut,
    close: () => {
      cut()
      return new Promise(resolve => server.close(resolve))
    },
  }
}

function forward(inner, target, frames, rewrite) {
  const outer = new WebSocket(target, { maxPayload: 1 << 28 })
  const early = []
  inner.on("message", bytes => {
    frames.push(frame("client", bytes))
    if (outer.readyState === WebSocket.OPEN) outer.send(bytes)
    else early.push(bytes)
  })
  outer.on("open", () => early.splice(0).forEach(bytes => outer.send(bytes)))
  outer.on("message", original => {
    const bytes = rewrite(original)
    frames.push(frame("server", bytes))
    if (inner.readyState === WebSocket.OPEN) inner.send(bytes)
  })
  outer.on("close", () => inner.terminate())
  outer.on("error", () => inner.terminate())
  inner.on("close", () => outer.terminate())
}

function frame(from, bytes) {
  let message
  try {
    message = decode(bytes)
  } catch {
    // Not CBOR: only the bytes are recorded.
  }
  return { from, bytes, message }
}
