// One document, edited by a Rust program with typed access and by JavaScript programs, without losing edits.
import { ImmutableString, getConflicts, getObjectId } from "@automerge/automerge"
import { updateText } from "@automerge/automerge-repo"
import { expect, test } from "vitest"
import { Todo } from "../support/todo.mjs"
import { Relay, client, onServer, until } from "../support/world.mjs"

/** A list as a JavaScript program creates it: no `note`, an integer for the float. */
const LIST = {
  title: "Shopping",
  tags: ["home", "food"],
  items: [
    { id: 1, what: "milk", state: "open" },
    { id: 2, what: "bread", state: "open" },
  ],
  weight: 2,
  count: 3,
}

async function world() {
  const relay = await Relay.start()
  const peer = client(relay.url, { peerId: "javascript" })
  return { relay, peer, todo: new Todo(relay.url) }
}

/** The object ids of the texts and items of a list: they change if something was replaced. */
function objects(doc) {
  const texts = [doc.tags, doc.items, ...doc.items]
  return texts.map(object => getObjectId(object))
}

/** Every string of a list is a string for JavaScript, and no value has a conflict. */
function expectPlain(doc) {
  const check = (value, holder, key) => {
    expect(value).not.toBeInstanceOf(ImmutableString)
    expect(typeof value).not.toBe("bigint")
    if (!Array.isArray(holder)) expect(getConflicts(holder, key)).toBeUndefined()
    if (value !== null && typeof value === "object") {
      Object.entries(value).forEach(([inner, of]) => check(of, value, inner))
    }
  }
  Object.entries(doc).forEach(([key, value]) => check(value, doc, key))
}

test("Rust reads and edits a list created by JavaScript", async () => {
  const { peer, todo } = await world()
  const handle = peer.repo.create(structuredClone(LIST))
  await onServer(peer, handle)
  const before = objects(handle.doc())
  const heads = handle.heads().join()

  const shown = await todo.command(handle.url, "show")
  expect(shown).toContain('title: "Shopping"')
  expect(shown).toContain('tags: ["home", "food"]')
  expect(shown).toContain('Item { id: 2, what: "bread", state: Open }')
  expect(shown).toContain("weight: 2.0, count: 3, note: None")
  expect(await todo.command(handle.url, "same")).toBe("true")
  expect(handle.heads().join()).toBe(heads)

  await todo.command(handle.url, "title", " for May")
  await todo.command(handle.url, "add", "3", "tea")
  await todo.command(handle.url, "done", "2")
  await todo.command(handle.url, "tag", "soon")
  await todo.command(handle.url, "count", "4")
  await until("the document has all of Rust's edits", () => handle.doc().count === 4)
  expect(handle.doc()).toEqual({
    ...LIST,
    title: "Shopping for May",
    tags: ["home", "food", "soon"],
    items: [
      { id: 1, what: "milk", state: "open" },
      { id: 2, what: "bread", state: "done" },
      { id: 3, what: "tea", state: "open" },
    ],
    count: 4,
  })
  expectPlain(handle.doc())
  // The previous objects are still there, not copies of them.
  const after = objects(handle.doc())
  expect(after.slice(0, before.length)).toEqual(before)
})

test("both edit the same texts, and a Rust form keeps JavaScript's edits", async () => {
  const { peer, todo } = await world()
  const handle = peer.repo.create(structuredClone(LIST))
  await onServer(peer, handle)

  const submit = await todo.form(handle.url)
  // While the form is open, JavaScript edits the shown fields and all others.
  handle.change(doc => {
    updateText(doc, ["title"], "Our Shopping")
    updateText(doc, ["items", 1, "what"], "brown bread")
    doc.items.push({ id: 3, what: "eggs", state: "open" })
    doc.tags.splice(0, 1)
    doc.count += 1
    doc.note = "by noon"
  })
  await onServer(peer, handle)
  await submit(" list")

  await until("it has the form", () => handle.doc().title.endsWith(" list"))
  expect(handle.doc()).toEqual({
    ...LIST,
    title: "Our Shopping list",
    tags: ["food"],
    items: [LIST.items[0], { id: 2, what: "brown bread", state: "open" }, { id: 3, what: "eggs", state: "open" }],
    count: 4,
    note: "by noon",
  })
  expectPlain(handle.doc())
  expect(await todo.command(handle.url, "same")).toBe("true")
  expect(await todo.command(handle.url, "show")).toContain('note: Some("by noon")')
})

test("JavaScript reads and edits a list created by Rust, and Rust continues it", async () => {
  const { peer, todo } = await world()
  const url = await todo.command("new", "Garden")
  const handle = await peer.repo.find(url)
  // A `String` of Rust is a value of its own for JavaScript, a `Text` a string that merges.
  expect(handle.doc().title).toEqual(new ImmutableString("Garden"))
  expect(handle.doc().items[0]).toEqual({ id: 1, what: "first", state: new ImmutableString("open") })
  expect(handle.doc().note).toBeNull()
  handle.change(doc => {
    doc.title = "Gardening"
    updateText(doc, ["items", 0, "what"], "first, water")
    doc.items.push({ id: 2, what: "weed", state: "open" })
    doc.weight = 3
    doc.count += 1
  })
  await onServer(peer, handle)

  const shown = await todo.command(url, "show")
  expect(shown).toContain('title: "Gardening"')
  expect(shown).toContain('what: "first, water"')
  expect(shown).toContain('Item { id: 2, what: "weed", state: Open }')
  expect(shown).toContain("weight: 3.0, count: 1")
  expect(await todo.command(url, "same")).toBe("true")
  await todo.command(url, "title", " plans")
  await todo.command(url, "done", "2")
  await until("it has both", () => handle.doc().items[1].state === "done")
  expect(handle.doc().title).toBe("Gardening plans")
  expect(handle.doc().items[0].what).toBe("first, water")
})
