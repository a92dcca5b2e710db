// A raw client of the native protocol: it sends a hello, and reads whether the relay welcomes it.
import { once } from "node:events"
import { onTestFinished } from "vitest"
import { WebSocket } from "ws"

const HELLO = 1
const WELCOME = 2
const ERROR = 3

/** "welcome", or the code of the error with which the relay answers a hello with this token. */
export async function hello(url, token) {
  const socket = new WebSocket(url, "landfall.v1")
  onTestFinished(() => socket.terminate())
  await once(socket, "open")
  const answer = new Promise((resolve, reject) => {
    // Other frames, such as the relay's features, may precede the answer.
    const answers = bytes => frames(bytes).find(({ kind }) => kind === WELCOME || kind === ERROR)
    socket.on("message", bytes => answers(bytes) && resolve(answers(bytes)))
    socket.on("close", () => reject(new Error("closed without an answer")))
  })
  socket.send(frame(HELLO, [u64(1), u16(1), Buffer.alloc(16, 7), option(token), text("interop")]))
  const { kind, body } = await answer
  return kind === WELCOME ? "welcome" : body.readUInt16LE(0)
}

function frames(message) {
  const found = []
  for (let at = 0; at < message.length; ) {
    const end = at + 8 + message.readUInt32LE(at + 4)
    found.push({ kind: message.readUInt16LE(at), body: message.subarray(at + 8, end) })
    at = end
  }
  return found
}

function frame(kind, fields) {
  const body = Buffer.concat(fields)
  const head = Buffer.alloc(8)
  head.writeUInt16LE(kind, 0)
  head.writeUInt32LE(body.length, 4)
  return Buffer.concat([head, body])
}

function u16(value) {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16LE(value)
  return bytes
}

function u64(value) {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function text(value) {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(bytes.length), bytes])
}

function option(value) {
  return value === undefined ? Buffer.of(0) : Buffer.concat([Buffer.of(1), text(value)])
}
