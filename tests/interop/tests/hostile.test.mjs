// Frames that no real client sends. The relay closes the session that sent one, or ignores the frame where
// a peer of another version could send it, and continues to serve all other sessions.
import { createHash } from "node:crypto"
import { generateAutomergeUrl, parseAutomergeUrl } from "@automerge/automerge-repo"
import * as A from "@automerge/automerge"
import { beforeEach, describe, expect, test } from "vitest"
import { Raw } from "../support/raw.mjs"
import { isReference } from "../support/server.mjs"
import { Relay, client, onServer, until } from "../support/world.mjs"

/** An empty sync message with a bloom filter of these bytes. */
const withFilter = (...bloom) => Uint8Array.of(0x42, 0, 0, 1, 0, bloom.length, ...bloom, 0)

/** A sync message with one chunk of a type, with a valid checksum. */
function withChunk(type, body) {
  const typed = Buffer.concat([Buffer.from([type]), leb128(body.length), body])
  const checksum = createHash("sha256").update(typed).digest().subarray(0, 4)
  const chunk = Buffer.concat([Buffer.from([0x85, 0x6f, 0x4a, 0x83]), checksum, typed])
  return Buffer.concat([Buffer.from([0x42, 0, 0, 0, 1]), leb128(chunk.length), chunk])
}

function leb128(value) {
  const bytes = []
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80)
  return Buffer.from([...bytes, value])
}

/** Pseudo-random bytes, the same in each run. */
function noise(length, seed) {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    bytes[at] = seed >>> 24
  }
  return bytes
}

/** A sync message of a real document, with some bytes changed. */
function mutated(seed) {
  let doc = A.from({ text: "" })
  for (let at = 0; at < 50; at++) doc = A.change(doc, doc => A.splice(doc, ["text"], at, 0, "x"))
  const bytes = Buffer.from(A.save(doc)).subarray(9)
  const changes = noise(8, seed)
  for (let at = 0; at < 8; at += 2) bytes[(changes[at] * 7) % bytes.length] ^= changes[at + 1]
  return bytes
}

const closing = {
  "ten bytes: a filter with an entry and no bits": withFilter(1, 0, 7),
  "a filter of 2^32 - 1 probes": withFilter(1, 10, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0),
  "a filter of 2^32 - 1 entries": withFilter(0xff, 0xff, 0xff, 0xff, 0x0f, 10, 7, 0, 0),
  "no sync message": Uint8Array.of(1, 2, 3),
  "an unknown version": Uint8Array.of(0x49, 0, 0, 0, 0),
  "a chunk of an unknown type": withChunk(9, noise(64, 1)),
  "a change of noise": withChunk(1, noise(200, 2)),
}

/** Lists beyond the relay's limits: they affect their document only. */
const refused = {
  "more heads than are synced": Uint8Array.of(0x42, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3),
  "a thousand filters": Buffer.concat([
    Buffer.from([0x42, 0, 0]),
    leb128(1000),
    ...Array(1000).fill(Buffer.from([0, 5, 1, 10, 7, 0xff, 0xff])),
    Buffer.from([0]),
  ]),
}

const hidden = {
  "a bundle of noise": withChunk(3, noise(1200, 3)),
  "a document of noise": withChunk(0, noise(1200, 4)),
  "a document with bytes changed": withChunk(0, mutated(5)),
  "another document with bytes changed": withChunk(0, mutated(6)),
}

const frames = {
  "a text frame": "hello",
  "an empty frame": new Uint8Array(),
  "one byte": Uint8Array.of(0),
  "a null": Uint8Array.of(0xf6),
  "noise": noise(500, 7),
  "a map of the largest declared length": Uint8Array.of(0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
  "lists a hundred thousand deep": Buffer.alloc(100_000, 0x81),
  "a text of 2^60 bytes": Buffer.from([0xa1, 0x7b, 0x10, 0, 0, 0, 0, 0, 0, 0]),
}

describe.skipIf(isReference)("hostile frames (automerge-repo's own server does not survive them)", () => {
  let relay, alice, bob, hers, his

  beforeEach(async () => {
    relay = await Relay.start()
    alice = client(relay.url, { peerId: "alice" })
    bob = client(relay.url, { peerId: "bob" })
    hers = alice.repo.create({ count: 0 })
    await onServer(alice, hers)
    his = await bob.repo.find(hers.url)
    // They detect a crash of the relay: their reconnection would be another handshake.
    for (const { adapter } of [alice, bob]) adapter.on("peer-disconnected", () => (fallen = true))
    fallen = false
  })
  let fallen

  /** The two honest clients still sync, over their original connections. */
  async function othersAreServed() {
    const next = hers.doc().count + 1
    hers.change(doc => (doc.count = next))
    await until("the edit came through", () => his.doc().count === next)
    expect(fallen).toBe(false)
  }

  test("sync messages out of bounds close their own session", async () => {
    for (const [what, data] of Object.entries(closing)) {
      const raw = await Raw.join(relay.url, `hostile`)
      raw.say("sync", hers.documentId, data)
      await raw.untilClosed().catch(() => expect.fail(`not closed: ${what}`))
      await othersAreServed()
    }
  })

  test("lists beyond their limits refuse their document, and the session continues", async () => {
    const raw = await Raw.join(relay.url, "hostile")
    for (const data of Object.values(refused)) {
      raw.say("sync", hers.documentId, data)
      await raw.next("doc-unavailable", hers.documentId)
      await othersAreServed()
    }
    expect(raw.closed).toBe(false)
  })

  test("malicious compressed chunks, opened in a child process, harm no session", async () => {
    for (const [what, data] of Object.entries(hidden)) {
      const raw = await Raw.join(relay.url, "hostile")
      const { documentId } = parseAutomergeUrl(generateAutomergeUrl())
      raw.say("sync", documentId, data)
      await raw.untilClosed().catch(() => expect.fail(`not closed: ${what}`))
      await othersAreServed()
    }
  })

  test("frames that are not messages close their own session, joined or not", async () => {
    for (const [what, bytes] of Object.entries(frames)) {
      for (const joined of [false, true]) {
        const raw = await (joined ? Raw.join(relay.url, "hostile") : Raw.connect(relay.url))
        raw.send(bytes)
        await raw.untilClosed().catch(() => expect.fail(`not closed: ${what}, joined: ${joined}`))
      }
      await othersAreServed()
    }
  })

  test("unknown types and messages for other peers are ignored", async () => {
    const raw = await Raw.join(relay.url, "modern")
    raw.send({ type: "of-the-future", senderId: "modern", targetId: raw.server, data: 1 })
    const { documentId } = hers
    const request = Uint8Array.of(0x42, 0, 0, 1, 0, 0, 0)
    raw.say("request", documentId, request, { targetId: "another-peer" })
    raw.say("request", documentId, request, { senderId: "another-peer" })
    // Then a valid request: its answer is the first to arrive.
    const unknown = parseAutomergeUrl(generateAutomergeUrl()).documentId
    raw.say("request", unknown, request)
    await raw.next("doc-unavailable", unknown)
    expect(raw.messages).toEqual([])
    raw.say("request", documentId, request)
    const answer = await raw.next("sync", documentId)
    expect(answer.targetId).toBe("modern")
    expect(A.decodeSyncMessage(answer.data).heads).toHaveLength(1)
    await othersAreServed()
  })

  test("a message before `join`, and an unknown version, end the session", async () => {
    const early = await Raw.connect(relay.url)
    early.send({
      type: "request",
      documentId: hers.documentId,
      senderId: "early",
      targetId: "relay",
      data: Uint8Array.of(0x42, 0, 0, 1, 0, 0, 0),
    })
    const later = await Raw.connect(relay.url)
    later.send({ type: "join", senderId: "later", peerMetadata: {}, supportedProtocolVersions: ["9"] })
    const { message } = await later.next("error")
    expect(message).toMatch(/version/)
    await later.untilClosed()
    await othersAreServed()
    // The first socket received nothing about the document.
    expect(early.messages.filter(({ type }) => type === "sync")).toEqual([])
  })
})

test("a second socket with a peer id takes it over, and is served from the start", async () => {
  const relay = await Relay.start()
  const alice = client(relay.url, { peerId: "alice" })
  const handle = alice.repo.create({ count: 0 })
  await onServer(alice, handle)
  const { documentId } = handle
  const request = Uint8Array.of(0x42, 0, 0, 1, 0, 0, 0)

  const first = await Raw.join(relay.url, "twin")
  first.say("request", documentId, request)
  const before = await first.next("sync", documentId)
  const second = await Raw.join(relay.url, "twin")
  await first.untilClosed()
  // The relay sends the whole document again: the sync state of the first socket does not apply.
  second.say("request", documentId, request)
  const again = await second.next("sync", documentId)
  expect(A.decodeSyncMessage(again.data).heads).toEqual(A.decodeSyncMessage(before.data).heads)
  expect(A.decodeSyncMessage(again.data).changes).not.toHaveLength(0)

  // Another `join` on the same socket resets the sync state too.
  second.send({
    type: "join",
    senderId: "twin",
    peerMetadata: { isEphemeral: true },
    supportedProtocolVersions: ["1"],
  })
  await second.next("peer")
  second.say("request", documentId, request)
  const third = await second.next("sync", documentId)
  expect(A.decodeSyncMessage(third.data).changes).not.toHaveLength(0)

  handle.change(doc => (doc.count = 1))
  await onServer(alice, handle)
})

test("two real clients with one peer id alternate, and no edit is lost", async () => {
  const relay = await Relay.start()
  const reader = client(relay.url, { peerId: "reader" })
  const handle = reader.repo.create({})
  await onServer(reader, handle)
  for (const name of ["first", "second", "third"]) {
    // A replaced client does not reconnect by itself.
    const twin = client(relay.url, { peerId: "twin", retry: 1 << 30 })
    const copy = await twin.repo.find(handle.url)
    copy.change(doc => (doc[name] = true))
    await until("the edit came", () => handle.doc()[name])
  }
  expect(handle.doc()).toEqual({ first: true, second: true, third: true })
})
