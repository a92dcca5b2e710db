// The published WebSocket adapter throws, out of an event handler, errors that an application cannot
// catch and that end a Node process. The tests cut connections on purpose, also in a handshake.

/** What a server that dies during a handshake gives. */
const CUT = ["ECONNRESET", "EPIPE"]

/** The sockets that a test closed itself: what they say afterwards is no fault. */
const closed = new WeakSet()

/**
 * Makes an adapter of any generation bear a handshake that is cut, by the server or by itself.
 *
 * @template T
 * @param {T} adapter
 * @returns {T} the same
 */
export function bearCutHandshakes(adapter) {
  const { onError, disconnect } = adapter
  adapter.onError = event => {
    try {
      onError.call(adapter, event)
    } catch (error) {
      if (!closed.has(event.target) && !CUT.includes(error.code)) throw error
    }
  }
  adapter.disconnect = () => {
    expectError(adapter.socket)
    disconnect.call(adapter)
  }
  return adapter
}

/** Ends an adapter's connection for good, whatever state it is in. */
export function cut(adapter) {
  // A reconnection that the adapter has already scheduled would bring it back.
  adapter.connect = () => {}
  expectError(adapter.socket)
  adapter.socket?.close()
}

/**
 * A socket that is closed while it is still connecting emits an error; today's adapter takes its own
 * listener away before, and an error that nobody listens for ends the process.
 */
function expectError(socket) {
  if (!socket) return
  closed.add(socket)
  socket.addEventListener("error", () => {})
}
