// A bit of the relay's store flips. The client that has the document heals it, and a new client then
// receives it.
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { expect, test } from "vitest"
import { Relay, client, onServer, until } from "../support/world.mjs"

const MARKER = "a text that is nowhere else in the store"

test("a client that has a damaged document heals it, and other clients find it", async () => {
  const relay = await Relay.start()
  const alice = client(relay.url, { peerId: "alice" })
  const mine = alice.repo.create({ text: MARKER })
  await onServer(alice, mine)
  await relay.stop()
  flipBitOf(join(relay.data, "relay.db"), MARKER)
  await relay.restart()

  const bob = client(relay.url, { peerId: "bob" })
  // The relay detects the damage when it reads the document for bob's request; until the repair the
  // document is unavailable.
  const theirs = await until("bob finds the document", () => bob.repo.find(mine.url).catch(() => null))
  expect(theirs.doc()).toEqual({ text: MARKER })
  const metrics = await (await fetch(new URL("/metrics", relay.url.replace("ws:", "http:")))).text()
  expect(metrics).toMatch(/^landfall_relay_repaired_documents_total 1$/m)
})

/** Flips one bit in the middle of a text that occurs once in a file. */
function flipBitOf(path, text) {
  const bytes = readFileSync(path)
  const at = bytes.indexOf(text)
  expect(at, "the text is in the file").toBeGreaterThan(0)
  expect(bytes.indexOf(text, at + 1), "it occurs once").toBe(-1)
  bytes[at + text.length / 2] ^= 1
  writeFileSync(path, bytes)
}
