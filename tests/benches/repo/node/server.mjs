// A minimal server on automerge-repo: its WebSocket server adapter and its file storage, all else
// as it comes. Arguments: port, folder.
import { Repo } from "@automerge/automerge-repo"
import { WebSocketServerAdapter } from "@automerge/automerge-repo-network-websocket"
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs"
import { WebSocketServer } from "ws"

const [port, folder] = process.argv.slice(2)
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  maxPayload: 256 * 1024 * 1024,
})
new Repo({
  network: [new WebSocketServerAdapter(server)],
  storage: new NodeFSStorageAdapter(folder),
  // As the published sync server: a document goes to those who ask for it.
  sharePolicy: async () => false,
})
