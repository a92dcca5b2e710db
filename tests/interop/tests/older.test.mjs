// Clients of older releases beside current ones: an application that was never updated continues to work
// when its server is replaced by a relay.
import { expect, onTestFinished, test } from "vitest"
import { bearCutHandshakes, cut } from "../support/adapter.mjs"
import { Relay, client, onServer, until } from "../support/world.mjs"

const GENERATIONS = ["1", "2.0"]

/** A repo of an older generation, with its own adapter and its own automerge. */
async function older(generation, url, peerId) {
  const { Repo } = await import(`automerge-repo-${generation}`)
  const { BrowserWebSocketClientAdapter, WebSocketClientAdapter = BrowserWebSocketClientAdapter } =
    await import(`automerge-repo-${generation}-websocket`)
  const adapter = bearCutHandshakes(new WebSocketClientAdapter(url, 200))
  const repo = new Repo({ network: [adapter], peerId })
  onTestFinished(() => cut(adapter))
  return repo
}

/** The document of a handle of any generation: the oldest returns a promise. */
const read = async handle => await handle.doc()

test.each(GENERATIONS)("automerge-repo %s shares a document with today's", async generation => {
  const relay = await Relay.start()
  const today = client(relay.url, { peerId: "today" })
  const old = await older(generation, relay.url, "old")

  const mine = today.repo.create({ title: "shared", by: ["today"] })
  await onServer(today, mine)
  const theirs = await old.find(mine.url)
  await theirs.whenReady()
  theirs.change(doc => doc.by.push("old"))
  await until("the old edit is here", () => mine.doc().by.length === 2)
  mine.change(doc => doc.by.push("today again"))
  await until("the new edit is there", async () => (await read(theirs)).by.length === 3)
  expect(await read(theirs)).toEqual(mine.doc())

  const heard = new Promise(resolve => theirs.once("ephemeral-message", resolve))
  mine.broadcast({ cursor: 7 })
  expect((await heard).message).toEqual({ cursor: 7 })

  // And a document created by the older client.
  const made = old.create({ by: "old" })
  await made.whenReady()
  const found = await today.repo.find(made.url, { allowableStates: ["ready", "unavailable"] })
  await until("it came", () => found.state === "ready" && found.doc().by === "old")
})
