// The bytes that a returning client costs on the wire, and the remote heads that it receives.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as A from "@automerge/automerge"
import { expect, test } from "vitest"
import { isReference } from "../support/server.mjs"
import {
  Relay,
  client,
  converged,
  leave,
  onServer,
  pause,
  proxy,
  scratch,
  serverStorage,
  until,
} from "../support/world.mjs"

const CHANGES = 20_000
/** An unchanged return exchanges heads only. */
const RETURN_BYTES = 1024

test("reopening an unchanged long document costs next to nothing", async () => {
  const relay = await Relay.start()
  const folder = scratch()
  const before = client(relay.url, { peerId: "returning", folder })
  let doc = A.from({ count: 0 })
  for (let at = 1; at < CHANGES; at++) doc = A.change(doc, doc => (doc.count = at))
  const handle = before.repo.import(A.save(doc))
  await onServer(before, handle)
  const storageId = await serverStorage(before)
  await until("the sync state is on disk", () =>
    sharedHeads(folder, handle.documentId, storageId).includes(A.getHeads(doc)[0])
  )
  await syncStateIsWritten()
  await leave(before)

  const between = await proxy(relay.url)
  // automerge-repo's own server answers nothing to a peer id that it saw before it was restarted.
  for (const restarted of isReference ? [true] : [false, true]) {
    if (restarted) {
      await relay.kill()
      await relay.restart()
    }
    between.frames.length = 0
    const after = client(between.url, { peerId: "returning", folder })
    const again = await after.repo.find(handle.url)
    await onServer(after, again)
    await syncStateIsWritten()
    await leave(after)
    const sizes = count(between.frames)
    console.log(`reopened unchanged, ${CHANGES} changes:`, sizes)
    expect(sizes.client).toBeLessThan(RETURN_BYTES)
    expect(sizes.server).toBeLessThan(RETURN_BYTES)
  }

  // With one edit on each side, only those travel.
  const other = client(relay.url, { peerId: "other" })
  const theirs = await other.repo.find(handle.url)
  theirs.change(doc => (doc.other = true))
  await onServer(other, theirs)
  between.frames.length = 0
  const third = client(between.url, { peerId: "returning", folder })
  const last = await third.repo.find(handle.url)
  last.change(doc => (doc.mine = true))
  await until("both edits are on both sides", () =>
    [last, theirs].every(side => side.doc().mine && side.doc().other)
  )
  await converged(last, theirs)
  const edited = count(between.frames)
  console.log("reopened with an edit on each side:", edited)
  expect(edited.client).toBeLessThan(4 * RETURN_BYTES)
  expect(edited.server).toBeLessThan(4 * RETURN_BYTES)
})

test("the relay forwards the heads of another client's storage", async () => {
  const relay = await Relay.start()
  const gossip = { enableRemoteHeadsGossiping: true }
  const alice = client(relay.url, { peerId: "alice", folder: scratch(), ...gossip })
  const bob = client(relay.url, { peerId: "bob", folder: scratch(), ...gossip })
  const hers = alice.repo.create({ title: "one" })
  await onServer(alice, hers)
  const his = await bob.repo.find(hers.url)
  const storageId = await alice.repo.storageId()
  const heard = []
  his.on("remote-heads", said => said.storageId === storageId && heard.push(said))
  bob.repo.subscribeToRemotes([storageId])

  hers.change(doc => (doc.title = "two"))
  await until("the new heads were received", () =>
    heard.some(({ heads }) => heads.join() === hers.heads().join())
  )
  const latest = heard.at(-1)
  expect(latest.timestamp).toBeTypeOf("number")
  expect(his.getSyncInfo(storageId).lastHeads).toEqual(hers.heads())
})

/**
 * A client writes its sync state 100 ms after the last message, in place over the old one, without an event:
 * a client that ends just then leaves a truncated file, and starts with a bloom filter again.
 */
const syncStateIsWritten = () => pause(500)

/** Bytes of whole messages in each direction. */
function count(frames) {
  const sizes = { client: 0, server: 0 }
  for (const { from, bytes } of frames) sizes[from] += bytes.length
  return sizes
}

/** The shared heads that a client's file storage keeps for a document and a storage id. */
function sharedHeads(folder, documentId, storageId) {
  const path = join(folder, documentId.slice(0, 2), documentId.slice(2), "sync-state", storageId)
  try {
    return A.decodeSyncState(readFileSync(path)).sharedHeads
  } catch {
    // Not written yet, or truncated.
    return []
  }
}
