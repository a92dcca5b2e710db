// Many documents on one connection, and a large one.
import { randomBytes } from "node:crypto"
import { decodeSyncMessage, ImmutableString } from "@automerge/automerge"
import { expect, test } from "vitest"
import { isReference } from "../support/server.mjs"
import { Relay, client, converged, onServer, proxy, until } from "../support/world.mjs"

const DOCUMENTS = 1000
const MEGABYTE = 1 << 20

test("1,000 documents on one connection, read on another", async () => {
  const relay = await Relay.start()
  const maker = client(relay.url, { peerId: "maker" })
  const made = Array.from({ length: DOCUMENTS }, (_, at) => maker.repo.create({ at }))
  await Promise.all(made.map(handle => onServer(maker, handle)))

  const reader = client(relay.url, { peerId: "reader" })
  const copies = await Promise.all(made.map(({ url }) => reader.repo.find(url)))
  expect(copies.map(copy => copy.doc().at)).toEqual(made.map((_, at) => at))

  // And in the other direction, in each of them.
  copies.forEach(copy => copy.change(doc => (doc.seen = true)))
  await until("all were seen", () => made.every(handle => handle.doc().seen))
})

test("a document of 30 MB, uploaded at once and read by another client", async () => {
  const relay = await Relay.start()
  const between = await proxy(relay.url)
  const author = client(between.url, { peerId: "author" })
  author.adapter.connect = () => {}
  const handle = author.repo.create({ parts: [] })
  // Random, so that compression has no effect; and each a single value, not a text of a million
  // characters, which would measure automerge and not the transport.
  for (let part = 0; part < 30; part++) {
    const text = randomBytes((MEGABYTE * 3) / 4).toString("base64")
    handle.change(doc => doc.parts.push(new ImmutableString(text)))
  }
  delete author.adapter.connect
  author.adapter.connect("author", { isEphemeral: true })
  await onServer(author, handle)
  const largest = Math.max(...between.frames.map(({ bytes }) => bytes.length))
  console.log(`the largest frame had ${largest} bytes`)

  const reader = client(relay.url, { peerId: "reader" })
  const copy = await reader.repo.find(handle.url)
  await until("the reader has it all", () => copy.doc().parts.length === 30)
  await converged(handle, copy)
  expect(copy.doc().parts.map(({ val }) => val.length)).toEqual(Array(30).fill(MEGABYTE))
})

// A browser applies it in four times the time of loading the relay's snapshot of it.
test.skipIf(isReference)("a long pasted text is served as a saved document right away", async () => {
  const relay = await Relay.start()
  const author = client(relay.url, { peerId: "author" })
  const handle = author.repo.create({ body: "" })
  const text = randomBytes(60_000).toString("base64")
  handle.change(doc => (doc.body = text))
  await onServer(author, handle)
  await until("the relay has compacted it", async () => {
    const metrics = await (await fetch(`${relay.url.replace(/^ws/, "http")}/metrics`)).text()
    return metrics.includes('landfall_relay_compactions_total{outcome="compacted"} 1')
  })

  const between = await proxy(relay.url)
  const reader = client(between.url, { peerId: "reader" })
  const copy = await reader.repo.find(handle.url)
  expect(copy.doc().body).toBe(text)
  const messages = between.frames.map(({ message }) => message).filter(message => message?.type === "sync")
  const chunks = messages.flatMap(({ data }) => decodeSyncMessage(data).changes)
  expect(chunks.map(kind)).toContain(DOCUMENT)
  expect(chunks.map(kind)).not.toContain(CHANGE)
})

/** The type of an automerge chunk, which follows a magic number and a checksum. */
const kind = chunk => chunk[8]
const DOCUMENT = 0
const CHANGE = 1
