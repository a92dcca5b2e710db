// Positions of local and remote edits in a text.

import assert from "node:assert/strict"
import { test } from "node:test"

import { difference, shown, toShown, toText } from "../src/text.js"

const apply = (text, { at, remove, insert }) => text.slice(0, at) + insert + text.slice(at + remove)

test("a difference turns one text into the other", () => {
  const alphabet = ["a", "b", "\n", "🏝", "🏞", "é"]
  // A seeded generator, so that failures are reproducible.
  let state = 7
  const next = below => (state = (state * 48271) % 0x7fffffff) % below
  const word = () => Array.from({ length: next(8) }, () => alphabet[next(alphabet.length)]).join("")
  for (let round = 0; round < 5_000; round++) {
    const [before, after] = [word(), word()]
    const edit = difference(before, after, next(after.length + 1))
    assert.equal(apply(before, edit), after, JSON.stringify([before, after, edit]))
    for (const at of [edit.at, edit.at + edit.remove]) {
      const cut = before.slice(0, at)
      assert.ok(cut.isWellFormed(), `half a character: ${JSON.stringify([before, after, edit])}`)
    }
    assert.ok(edit.insert.isWellFormed())
  }
})

test("the caret decides which of two equal letters is new", () => {
  assert.deepEqual(difference("aa", "aaa", 1), { at: 0, remove: 0, insert: "a" })
  assert.deepEqual(difference("aa", "aaa", 2), { at: 1, remove: 0, insert: "a" })
  assert.deepEqual(difference("aa", "aaa", 3), { at: 2, remove: 0, insert: "a" })
})

test("an edit away from the caret stays small", () => {
  assert.deepEqual(difference("one two three", "one 2 three", 11), { at: 4, remove: 3, insert: "2" })
})

test("a two-character line end is one in an editor", () => {
  const text = "a\r\nb\rc\nd\r\n"
  assert.equal(shown(text), "a\nb\nc\nd\n")
  const places = [...shown(text)].map((_, at) => toText(text, at))
  assert.deepEqual(places, [0, 1, 3, 4, 5, 6, 7, 8])
  assert.equal(toText(text, shown(text).length), text.length)
  for (const [at, place] of places.entries()) assert.equal(toShown(text, place), at)
})

test("positions in a long text with two-character line ends are found quickly", () => {
  const text = "line\r\n".repeat(100_000)
  assert.equal(toText(text, 0), 0)
  assert.equal(toText(text, 4), 4)
  assert.equal(toText(text, 5), 6)
  assert.equal(toText(text, shown(text).length), text.length)
  assert.equal(toShown(text, text.length), shown(text).length)
})
