// A minimal automerge-repo server: its own WebSocket server and file-storage adapters, and nothing
// else. The tests run against it with LANDFALL_INTEROP_SERVER=reference, to distinguish
// faults of the relay from faults of a test. It accepts the relay's arguments
// (`serve --listen HOST:PORT --data FOLDER`) and prints a last line of the same form.
import { mkdirSync } from "node:fs"
import { parseArgs } from "node:util"
import { Repo } from "@automerge/automerge-repo"
import { WebSocketServerAdapter } from "@automerge/automerge-repo-network-websocket"
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs"
import { WebSocketServer } from "ws"

const { values } = parseArgs({
  allowPositionals: true,
  options: {
    listen: { type: "string", default: "127.0.0.1:0" },
    data: { type: "string" },
    "peer-id": { type: "string", default: "reference-server" },
    // Requests missing documents from the connected clients, as automerge-repo does by default.
    announce: { type: "boolean", default: false },
  },
})
const [host, port] = values.listen.split(":")
if (values.data) mkdirSync(values.data, { recursive: true })

const sockets = new WebSocketServer({ host, port: Number(port) })
new Repo({
  network: [new WebSocketServerAdapter(sockets)],
  storage: values.data ? new NodeFSStorageAdapter(values.data) : undefined,
  peerId: values["peer-id"],
  // A server sends documents on request, and announces none.
  sharePolicy: async () => values.announce,
  enableRemoteHeadsGossiping: true,
})
sockets.on("listening", () => {
  console.log(`listening on ws://${host}:${sockets.address().port}`)
})
