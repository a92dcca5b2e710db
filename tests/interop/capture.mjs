// Records the messages of the real clients and servers, as golden bytes for the protocol's own tests:
//   node capture.mjs [FOLDER]        (default: ../../protocol/tests/golden/automerge_repo)
// With SAMOD_PEER naming the program of examples/samod_peer.rs, samod is recorded too.
// Each frame is a file <sender>-<type>-<what>.hex, sixteen bytes per line.
import { execFile } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { Presence, Repo, cbor, generateAutomergeUrl } from "@automerge/automerge-repo"
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket"
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs"
import { WebSocket } from "ws"
import { startServer } from "./support/process.mjs"
import { startProxy } from "./support/proxy.mjs"

const here = fileURLToPath(new URL(".", import.meta.url))
const folder = process.argv[2] ?? join(here, "../../protocol/tests/golden/automerge_repo")
const samod = process.env.SAMOD_PEER
const scratch = mkdtempSync(join(tmpdir(), "landfall-capture-"))
mkdirSync(folder, { recursive: true })

const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))
// Longer than automerge-repo's own throttle of 100 ms, several times over.
const settle = () => pause(700)

function save(name, frame) {
  if (!frame) throw new Error(`no frame was sent that could be ${name}`)
  const pairs = [...frame.bytes].map(byte => byte.toString(16).padStart(2, "0"))
  const lines = []
  for (let at = 0; at < pairs.length; at += 16) lines.push(pairs.slice(at, at + 16).join(" "))
  writeFileSync(join(folder, `${name}.hex`), lines.join("\n") + "\n")
  console.log(`${name}: ${frame.bytes.length} bytes`)
}

/** The frames of one side, of one type if given. */
const sent = (frames, from, type) =>
  frames.filter(frame => frame.from === from && frame.message?.type === type)

const largest = frames => frames.reduce((a, b) => (b.bytes.length > a.bytes.length ? b : a))

/** Returns the frames recorded so far, and clears the record. */
const take = proxy => proxy.frames.splice(0)

async function withServer(args, run, { command = process.execPath, rewrite } = {}) {
  const server = await startServer(command, args)
  const proxy = await startProxy(server.url, rewrite)
  try {
    await run(proxy, server)
  } finally {
    await proxy.close()
    await server.kill()
  }
}

const reference = (data, ...more) => [
  join(here, "reference-server.mjs"),
  "serve",
  ...(data ? ["--data", join(scratch, data)] : []),
  ...more,
]

function client(proxy, peerId, options = {}) {
  const adapter = new WebSocketClientAdapter(proxy.url, 100_000)
  const repo = new Repo({ network: [adapter], peerId, ...options })
  return { repo, adapter }
}

const stored = name => ({ storage: new NodeFSStorageAdapter(join(scratch, name)) })

async function shareAndEdit(proxy) {
  const alice = client(proxy, "alice", stored("alice"))
  await settle()
  const hello = take(proxy)
  save("js-join-storage", sent(hello, "client", "join")[0])
  save("js-peer-storage", sent(hello, "server", "peer")[0])

  const handle = alice.repo.create({ title: "golden" })
  await settle()
  const first = take(proxy)
  const announced = sent(first, "client", "sync")
  save("js-sync-first", announced[0])
  save("js-sync-reply-empty", sent(first, "server", "sync")[0])
  save("js-sync-first-change", announced[1])
  save("js-sync-reply-heads", sent(first, "server", "sync").at(-1))

  handle.change(doc => (doc.title = "edited"))
  await settle()
  save("js-sync-one-change", sent(take(proxy), "client", "sync")[0])
  return { alice, handle }
}

async function readAndSay(proxy, handle) {
  const bob = client(proxy, "bob")
  await settle()
  save("js-join-ephemeral", sent(take(proxy), "client", "join")[0])
  const copy = await bob.repo.find(handle.url)
  await settle()
  const found = take(proxy)
  save("js-request-first", sent(found, "client", "request")[0])
  save("js-sync-reply-document", sent(found, "server", "sync")[0])
  save("js-sync-after-document", sent(found, "client", "sync")[0])

  copy.change(doc => (doc.by = "bob"))
  await settle()
  save("js-sync-forwarded-change", largest(sent(take(proxy), "server", "sync")))

  copy.broadcast({ hello: "from bob" })
  await settle()
  const said = take(proxy)
  save("js-ephemeral-broadcast", sent(said, "client", "ephemeral")[0])
  save("js-ephemeral-forwarded", sent(said, "server", "ephemeral")[0])
  const presence = new Presence({ handle: copy })
  presence.start({ initialState: { cursor: 3 }, heartbeatMs: 300 })
  await settle()
  presence.stop()
  await settle()
  const shown = sent(take(proxy), "client", "ephemeral")
  save("js-ephemeral-presence", shown[0])

  await bob.repo.find(generateAutomergeUrl()).catch(() => {})
  await settle()
  save("js-doc-unavailable-server", sent(take(proxy), "server", "doc-unavailable")[0])
  bob.adapter.disconnect()
}

async function comeBack(proxy, url) {
  const again = client(proxy, "alice", stored("alice"))
  const reopened = await again.repo.find(url)
  await settle()
  const back = take(proxy)
  save("js-sync-returning", sent(back, "client", "sync")[0])
  save("js-sync-reply-returning", sent(back, "server", "sync")[0])
  again.adapter.disconnect()
  await settle()
  reopened.change(doc => (doc.offline = true))
  await again.repo.flush()
  take(proxy)
  again.adapter.connect("alice", again.adapter.peerMetadata)
  await settle()
  const later = take(proxy)
  save("js-sync-returning-ahead", sent(later, "client", "sync")[0])
  save("js-sync-returning-ahead-change", sent(later, "client", "sync")[1])
  again.adapter.disconnect()
}

async function wholeDocument(proxy) {
  const { repo, adapter } = client(proxy, "carol")
  await settle()
  adapter.disconnect()
  const handle = repo.create({ text: "" })
  for (let at = 0; at < 200; at++) handle.change(doc => (doc.text += "ab "[at % 3]))
  take(proxy)
  adapter.connect("carol", adapter.peerMetadata)
  await settle()
  const frames = take(proxy)
  save("js-sync-whole-document", largest(sent(frames, "client", "sync")))
  save("js-sync-whole-document-reply", sent(frames, "server", "sync").at(-1))
  adapter.disconnect()
}

async function gossip(proxy) {
  const options = { enableRemoteHeadsGossiping: true }
  const dave = client(proxy, "dave", { ...stored("dave"), ...options })
  await settle()
  const handle = dave.repo.create({ title: "gossip" })
  await settle()
  const storageId = await dave.repo.storageId()
  // A client reports remote heads when it connects to a server with open documents.
  dave.adapter.disconnect()
  dave.adapter.connect("dave", dave.adapter.peerMetadata)
  await settle()
  save("js-remote-heads-changed-client", sent(take(proxy), "client", "remote-heads-changed")[0])
  const erin = client(proxy, "erin", { ...stored("erin"), ...options })
  await erin.repo.find(handle.url)
  await settle()
  take(proxy)
  erin.repo.subscribeToRemotes([storageId])
  await settle()
  save("js-remote-subscription-change-add", sent(take(proxy), "client", "remote-subscription-change")[0])
  handle.change(doc => (doc.title = "news"))
  await settle()
  save("js-remote-heads-changed-server", sent(take(proxy), "server", "remote-heads-changed")[0])
  erin.repo.networkSubsystem.send({ type: "remote-subscription-change", targetId: "reference-server", remove: [storageId] })
  await settle()
  save("js-remote-subscription-change-remove", sent(take(proxy), "client", "remote-subscription-change")[0])
  dave.adapter.disconnect()
  erin.adapter.disconnect()
}

/** A server that does not announce that it accepts whole documents: its sync messages end without flags. */
async function firstVersion(proxy) {
  const { repo, adapter } = client(proxy, "ivan")
  await settle()
  const handle = repo.create({ title: "golden" })
  handle.change(doc => (doc.title = "twice"))
  await settle()
  save("js-sync-first-changes-v1", largest(sent(take(proxy), "client", "sync")))
  handle.change(doc => (doc.title = "edited"))
  await settle()
  save("js-sync-one-change-v1", largest(sent(take(proxy), "client", "sync")))
  adapter.disconnect()
  if (!samod) return
  await runSamod("create", "sol", proxy.url, "3")
  const syncs = sent(take(proxy), "client", "sync")
  save("samod-sync-first-changes-v1", syncs[1])
  save("samod-sync-one-change-v1", syncs.at(-1))
}

function withoutFlags(bytes) {
  const message = cbor.decode(bytes)
  if (message.type !== "sync") return bytes
  // The trailing section: its length, and two flags.
  const flags = message.data.subarray(-3)
  if (!Buffer.from([2, 2, 0x84]).equals(flags)) throw new Error(`unknown flags ${flags}`)
  const data = Uint8Array.from(message.data.subarray(0, -3))
  data[0] = 0x42
  return cbor.encode({ ...message, data })
}

/** A server without storage, which requests missing documents from its clients. */
async function announcing(proxy) {
  const asked = client(proxy, "asked")
  await settle()
  save("js-peer-ephemeral", sent(take(proxy), "server", "peer")[0])
  const asking = client(proxy, "asking")
  await asking.repo.find(generateAutomergeUrl()).catch(() => {})
  await settle()
  const frames = take(proxy)
  save("js-request-server", sent(frames, "server", "request")[0])
  save("js-doc-unavailable-client", sent(frames, "client", "doc-unavailable")[0])
  asked.adapter.disconnect()
  asking.adapter.disconnect()
}

async function refused(proxy) {
  const socket = new WebSocket(proxy.url)
  await new Promise(resolve => socket.once("open", resolve))
  socket.send(
    cbor.encode({
      type: "join",
      senderId: "frank",
      peerMetadata: {},
      supportedProtocolVersions: ["9"],
    })
  )
  await settle()
  save("js-error-version", sent(take(proxy), "server", "error")[0])
  socket.terminate()
}

const runSamod = (...args) => promisify(execFile)(samod, args)

async function samodClient(proxy) {
  const { stdout } = await runSamod("create", "sam", proxy.url, "3")
  const made = take(proxy)
  save("samod-join-client", sent(made, "client", "join")[0])
  const syncs = sent(made, "client", "sync")
  save("samod-sync-first", syncs[0])
  save("samod-sync-changes", syncs[1])
  save("samod-sync-one-change", syncs.at(-1))
  save("samod-ephemeral-broadcast", sent(made, "client", "ephemeral")[0])
  const url = stdout.trim()
  await runSamod("find", "sue", proxy.url, url)
  const found = take(proxy)
  save("samod-request-first", sent(found, "client", "request")[0])
  save("samod-sync-after-document", sent(found, "client", "sync")[0])
  await runSamod("create", "sid", proxy.url, "200")
  save("samod-sync-many-changes", largest(sent(take(proxy), "client", "sync")))
}

async function samodServer(proxy) {
  const { repo, adapter } = client(proxy, "grace")
  await settle()
  save("samod-peer-server", sent(take(proxy), "server", "peer")[0])
  const handle = repo.create({ title: "golden" })
  await settle()
  const frames = sent(take(proxy), "server", "sync")
  save("samod-sync-reply-empty", frames[0])
  save("samod-sync-reply-heads", frames.at(-1))
  const heidi = client(proxy, "heidi")
  await heidi.repo.find(handle.url)
  await settle()
  save("samod-sync-reply-document", largest(sent(take(proxy), "server", "sync")))
  await heidi.repo.find(generateAutomergeUrl()).catch(() => {})
  await settle()
  const missing = take(proxy)
  save("samod-doc-unavailable-server", sent(missing, "server", "doc-unavailable")[0])
  save("samod-request-server", sent(missing, "server", "request")[0])
  adapter.disconnect()
  heidi.adapter.disconnect()
}

try {
  let url
  await withServer(reference("one"), async proxy => {
    const { alice, handle } = await shareAndEdit(proxy)
    await readAndSay(proxy, handle)
    await alice.repo.flush()
    alice.adapter.disconnect()
    url = handle.url
  })
  await withServer(reference("one"), async proxy => {
    // The same client again, at a restarted server: without a restart the server remembers what it sent on
    // the last connection, and sends nothing.
    await comeBack(proxy, url)
    await wholeDocument(proxy)
    await gossip(proxy)
    await refused(proxy)
  })
  await withServer(reference(null, "--announce"), announcing)
  await withServer(reference(null), firstVersion, { rewrite: withoutFlags })
  if (samod) {
    await withServer(reference("two"), samodClient)
    await withServer(["serve", "samod-server"], samodServer, { command: samod })
  }
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
process.exit(0)
