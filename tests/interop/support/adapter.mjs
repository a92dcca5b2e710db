// The published WebSocket adapter throws, out of an event handler, errors that an application cannot
// catch and that end a Node process. The tests cut connections on purpose, also in a handshake.

/** The errors of a server that ends during a handshake. */
const CUT = ["ECONNRESET", "EPIPE"]

/** The sockets that a test closed itself: their later errors are expected. */
const closed = new WeakSet()

/**
 * Makes an adapter of any generation tolerate an interrupted handshake.
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

/** Ends an adapter's connection permanently, in any state. */
export function cut(adapter) {
  // An already scheduled reconnection would connect it again.
  adapter.connect = () => {}
  expectError(adapter.socket)
  adapter.socket?.close()
}

/**
 * A socket that is closed while it is still connecting emits an error; the current adapter removes its
 * listener before, and an error without a listener ends the process.
 */
function expectError(socket) {
  if (!socket) return
  closed.add(socket)
  socket.addEventListener("error", () => {})
}
