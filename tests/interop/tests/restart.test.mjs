// The relay is killed and restarted while clients continue to edit.
import { expect, test } from "vitest"
import { Relay, client, converged, leave, onServer, pause, until } from "../support/world.mjs"

const PEERS = 3
const KILLS = 3
const EDITS = 20

test("nothing is lost and all clients converge when the relay is killed", async () => {
  const relay = await Relay.start()
  const peers = Array.from({ length: PEERS }, (_, at) => client(relay.url, { peerId: `peer-${at}` }))
  const first = peers[0].repo.create({ marks: {} })
  const handles = [first]
  await onServer(peers[0], first)
  for (const { repo } of peers.slice(1)) handles.push(await repo.find(first.url))

  for (let kill = 0; kill < KILLS; kill++) {
    const editing = handles.map((handle, at) => edit(handle, `${at}-${kill}`))
    // Somewhere within the edits: neither before the first nor after the last.
    await until("edits are in progress", () => Object.keys(first.doc().marks).length % EDITS > 5)
    await relay.kill()
    await Promise.all(editing)
    const made = first.doc()
    first.change(doc => (doc.marks[`down-${kill}`] = Object.keys(made.marks).length))
    await relay.restart()
  }

  const expected = PEERS * KILLS * EDITS + KILLS
  await until("every mark is everywhere", () =>
    handles.every(handle => Object.keys(handle.doc().marks).length === expected)
  )
  await converged(...handles)
  for (const [at, peer] of peers.entries()) await onServer(peer, handles[at])

  // The relay has everything that it confirmed: with all clients gone, and after one more kill.
  for (const peer of peers) await leave(peer)
  await relay.kill()
  await relay.restart()
  const last = client(relay.url, { peerId: "last" })
  const copy = await last.repo.find(first.url)
  await until("the last reader has it all", () => Object.keys(copy.doc().marks).length === expected)
  expect(copy.doc()).toEqual(first.doc())
})

async function edit(handle, name) {
  for (let at = 0; at < EDITS; at++) {
    handle.change(doc => (doc.marks[`${name}-${at}`] = at))
    // At typing speed, so that the kill falls between edits.
    await pause(10)
  }
}
