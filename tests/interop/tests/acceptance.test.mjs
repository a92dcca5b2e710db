// The published acceptance suite for network adapters. It expects servers that are peers; here a relay
// is between the adapters, so some cases do not apply.
import { runNetworkAdapterTests } from "@automerge/automerge-repo/helpers/tests/network-adapter-tests.js"
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket"
import { TestRunner } from "vitest"
import { bearCutHandshakes } from "../support/adapter.mjs"
import { Relay } from "../support/world.mjs"

/** Cases that cannot pass with a hub in between, and why. */
const NOT_WITH_A_HUB = new Map([
  [
    "emits a peer-candidate event with proper peer metadata when a peer connects",
    "an adapter's peer is the hub, not the other adapter",
  ],
  [
    "should emit disconnect events on disconnect",
    "the hub stays connected when the other client leaves",
  ],
  [
    "should not send messages after disconnect",
    "it waits for the other client's disconnection, which a hub does not report",
  ],
])

runNetworkAdapterTests(async () => {
  const test = TestRunner.getCurrentTest()
  const reason = NOT_WITH_A_HUB.get(test.name)
  if (reason) test.context.skip(reason)
  const relay = await Relay.start()
  // A case disconnects an adapter as soon as the other one has a peer: it may still be connecting.
  const adapters = [1, 2, 3].map(() =>
    bearCutHandshakes(new WebSocketClientAdapter(relay.url, 200)))
  // The suite's repos cannot be reached from here: their adapters are disconnected permanently.
  const teardown = () => adapters.forEach(adapter => {
    adapter.connect = () => {}
    if (adapter.socket) adapter.disconnect()
  })
  return { adapters, teardown }
}, "over a hub")
