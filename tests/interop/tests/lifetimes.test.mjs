// Several repos that connect to one relay at different times.
import { generateAutomergeUrl, parseAutomergeUrl } from "@automerge/automerge-repo"
import * as A from "@automerge/automerge"
import { expect, test } from "vitest"
import { Relay, client, converged, leave, onServer, scratch, until } from "../support/world.mjs"

test("a document outlives its author and all its readers", async () => {
  const relay = await Relay.start()
  const alice = client(relay.url, { peerId: "alice" })
  const original = alice.repo.create({ title: "kept", by: ["alice"] })
  await onServer(alice, original)
  await leave(alice)

  for (const name of ["bob", "carol", "dave"]) {
    const reader = client(relay.url, { peerId: name })
    const handle = await reader.repo.find(original.url)
    handle.change(doc => doc.by.push(name))
    await onServer(reader, handle)
    await leave(reader)
  }

  const last = client(relay.url, { peerId: "erin" })
  const handle = await last.repo.find(original.url)
  expect(handle.doc()).toEqual({ title: "kept", by: ["alice", "bob", "carol", "dave"] })
})

test("repos that edit one document concurrently converge", async () => {
  const relay = await Relay.start()
  const peers = ["a", "b", "c", "d"].map(peerId => client(relay.url, { peerId }))
  const first = peers[0].repo.create({ marks: {} })
  const handles = [first]
  for (const { repo } of peers.slice(1)) handles.push(await repo.find(first.url))
  for (let round = 0; round < 25; round++) {
    handles.forEach((handle, at) => handle.change(doc => (doc.marks[`${at}-${round}`] = round)))
    await new Promise(setImmediate)
  }
  await until("all marks are everywhere", () =>
    handles.every(handle => Object.keys(handle.doc().marks).length === 100)
  )
  await converged(...handles)
})

test("a client with storage pushes its offline edits when it returns", async () => {
  const relay = await Relay.start()
  const folder = scratch()
  const before = client(relay.url, { peerId: "stored", folder })
  const mine = before.repo.create({ count: 0 })
  const { url } = mine
  await onServer(before, mine)
  const other = client(relay.url, { peerId: "other" })
  const theirs = await other.repo.find(url)
  await leave(before)

  // The same program again, without a reachable peer.
  const offline = client("ws://127.0.0.1:9", { peerId: "stored", folder })
  const kept = await offline.repo.find(url)
  kept.change(doc => (doc.offline = true))
  await offline.repo.flush()
  await leave(offline)
  theirs.change(doc => (doc.online = true))
  await onServer(other, theirs)

  const after = client(relay.url, { peerId: "stored", folder })
  const again = await after.repo.find(url)
  await until("both edits are on both sides", () =>
    [again, theirs].every(handle => handle.doc().offline && handle.doc().online)
  )
  await converged(again, theirs)
})

test("find of an unknown document ends, and the document appears once it is created", async () => {
  const relay = await Relay.start()
  const waiting = client(relay.url, { peerId: "waiting" })
  const url = generateAutomergeUrl()
  await expect(waiting.repo.find(url)).rejects.toThrow(/unavailable/)
  const handle = await waiting.repo.find(url, { allowableStates: ["unavailable"] })
  expect(handle.state).toBe("unavailable")

  const maker = client(relay.url, { peerId: "maker" })
  const { documentId } = parseAutomergeUrl(url)
  maker.repo.import(A.save(A.from({ title: "late" })), { docId: documentId })
  await until("the document appeared", () => handle.isReady() && handle.doc().title === "late")
})

test("a request is not answered `unavailable` if a peer has the document a moment later", async () => {
  const relay = await Relay.start()
  const url = generateAutomergeUrl()
  const { documentId } = parseAutomergeUrl(url)
  const waiting = client(relay.url, { peerId: "waiting" })
  const maker = client(relay.url, { peerId: "maker" })
  await until("both are connected", () =>
    [waiting, maker].every(({ adapter }) => adapter.remotePeerId)
  )
  const found = waiting.repo.find(url)
  maker.repo.import(A.save(A.from({ title: "at once" })), { docId: documentId })
  expect((await found).doc().title).toBe("at once")
})

test("ephemeral messages reach all other peers that have the document open, and are not stored", async () => {
  const relay = await Relay.start()
  const [alice, bob, carol] = ["alice", "bob", "carol"].map(peerId => client(relay.url, { peerId }))
  const hers = alice.repo.create({ title: "talk" })
  const his = await bob.repo.find(hers.url)
  const third = await carol.repo.find(hers.url)
  const heard = { alice: [], bob: [], carol: [] }
  hers.on("ephemeral-message", ({ message, senderId }) => heard.alice.push([senderId, message]))
  his.on("ephemeral-message", ({ message, senderId }) => heard.bob.push([senderId, message]))
  third.on("ephemeral-message", ({ message, senderId }) => heard.carol.push([senderId, message]))

  for (let at = 1; at <= 5; at++) hers.broadcast({ at })
  const expected = [1, 2, 3, 4, 5].map(at => ["alice", { at }])
  await until("both received them", () => heard.bob.length >= 5 && heard.carol.length >= 5)
  his.broadcast(["any", "value"])
  await until("the answer arrived", () => heard.alice.length && heard.carol.length >= 6)
  expect(heard.bob).toEqual(expected)
  expect(heard.alice).toEqual([["bob", ["any", "value"]]])
  expect(heard.carol).toEqual([...expected, ["bob", ["any", "value"]]])

  const late = client(relay.url, { peerId: "late" })
  const lateHandle = await late.repo.find(hers.url)
  const heardLate = []
  lateHandle.on("ephemeral-message", ({ message }) => heardLate.push(message))
  hers.broadcast("now")
  await until("the late client receives a message", () => heardLate.length)
  expect(heardLate).toEqual(["now"])
})
