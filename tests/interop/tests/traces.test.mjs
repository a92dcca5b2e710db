// Long documents: recorded sessions, typed in one repo and read in another.
import * as A from "@automerge/automerge"
import { expect, test } from "vitest"
import { load } from "../support/traces.mjs"
import { Relay, client, converged, onServer, until } from "../support/world.mjs"

const BREATH = 100

test("a recorded session of one author, typed in one repo and read in another", async context => {
  const trace = load("sveltecomponent.json.gz")
  if (!trace) return context.skip()
  const relay = await Relay.start()
  const typist = client(relay.url, { peerId: "typist" })
  const handle = typist.repo.create({ text: "" })
  await onServer(typist, handle)
  const reader = client(relay.url, { peerId: "reader" })
  const copy = await reader.repo.find(handle.url)

  for (const [at, { patches }] of trace.txns.entries()) {
    handle.change(doc => type(doc, patches))
    // Yields to the network, so that the reader follows during the typing.
    if (at % BREATH === 0) await new Promise(setImmediate)
  }
  await onServer(typist, handle)
  await until("the reader has it all", () => copy.doc().text === trace.endContent)
  await converged(handle, copy)

  const late = client(relay.url, { peerId: "late" })
  const fresh = await late.repo.find(handle.url)
  await until("a late reader has it all", () => fresh.doc().text === trace.endContent)
})

test("a recorded session of two concurrent authors, each in a repo, read in a third", async context => {
  const trace = load("friendsforever.json.gz")
  if (!trace) return context.skip()
  const { base, authors } = replayed(trace)
  const relay = await Relay.start()
  const first = client(relay.url, { peerId: "author-0" })
  const handle = first.repo.import(A.save(base))
  await onServer(first, handle)
  const second = client(relay.url, { peerId: "author-1" })
  const other = await second.repo.find(handle.url)
  const reader = client(relay.url, { peerId: "reader" })
  const copy = await reader.repo.find(handle.url)

  await Promise.all([feed(handle, authors[0]), feed(other, authors[1])])
  await until("the reader has it all", () => copy.doc().text === trace.endContent)
  await converged(handle, other, copy)
})

function type(doc, patches) {
  for (const [position, deleted, inserted] of patches) {
    A.splice(doc, ["text"], position, deleted, inserted)
  }
}

/**
 * Both authors' changes, each made on what its author saw. An author's transactions are totally
 * ordered, so what they saw is all of their own and a prefix of the other's.
 */
function replayed(trace) {
  const base = A.from({ text: "" })
  const docs = [A.clone(base), A.clone(base)]
  const authors = [[], []]
  const seen = [0, 0]
  const rank = []
  for (const { agent, parents, patches } of trace.txns) {
    const other = 1 - agent
    for (const parent of parents) {
      if (trace.txns[parent].agent === agent || rank[parent] < seen[agent]) continue
      const news = authors[other].slice(seen[agent], rank[parent] + 1)
      docs[agent] = A.applyChanges(docs[agent], news)[0]
      seen[agent] = rank[parent] + 1
    }
    docs[agent] = A.change(docs[agent], doc => type(doc, patches))
    rank.push(authors[agent].length)
    authors[agent].push(A.getLastLocalChange(docs[agent]))
  }
  expect(A.merge(docs[0], docs[1]).text).toBe(trace.endContent)
  return { base, authors }
}

/** Applies an author's changes to their repo, a few at a time, as if they were typed there. */
async function feed(handle, changes) {
  for (let at = 0; at < changes.length; at += BREATH) {
    handle.update(doc => A.applyChanges(doc, changes.slice(at, at + BREATH))[0])
    await new Promise(setImmediate)
  }
}
