// The page of the browser test: automerge-repo as an application would bundle it, with its own
// storage and network adapters. The test uses it through `window.app`.
import { splice } from "@automerge/automerge/slim"
import { automergeWasmBase64 } from "@automerge/automerge/automerge.wasm.base64"
import { Repo, initializeBase64Wasm } from "@automerge/automerge-repo/slim"
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket"
import { IndexedDBStorageAdapter } from "@automerge/automerge-repo-storage-indexeddb"

let adapter, repo, handle

window.app = {
  async open(server, url) {
    await initializeBase64Wasm(automergeWasmBase64)
    adapter = new WebSocketClientAdapter(server, 200)
    repo = new Repo({ network: [adapter], storage: new IndexedDBStorageAdapter("landfall") })
    handle = await repo.find(url)
  },
  body: () => handle.doc().body,
  title: () => handle.doc().title,
  insert: (position, text) => handle.change(doc => splice(doc, ["body"], position, 0, text)),
  append: text => handle.change(doc => splice(doc, ["body"], doc.body.length, 0, text)),
  connected: () => adapter.socket?.readyState === WebSocket.OPEN,
  /** The page's switch: closes the socket until `goOnline`. */
  goOffline: () => adapter.disconnect(),
  goOnline: () => adapter.connect(repo.networkSubsystem.peerId, adapter.peerMetadata),
  flush: () => repo.flush(),
}
