// The open note: its text, its problems, and the other users who have it open.

import { Field } from "./field.js"
import { asFile, firstLine } from "./note.js"
import { addressOf } from "./place.js"

/** How long a button shows its success message. */
const DONE_MS = 1_500

/** Sets the text of an element, and its colour by `tone`. */
export function say(element, tone, text) {
  if (element.dataset.tone !== tone) element.dataset.tone = tone
  if (element.textContent !== text) element.textContent = text
}

export class Sheet {
  #at
  #people
  #fields
  #note = null
  /** The field edited last: the undo buttons use its history. */
  #lastField

  /** `at` finds the page's elements. */
  constructor(at, people) {
    this.#at = at
    this.#people = people
    const shared = { onCaret: () => people.moved(), onHistory: () => this.#drawHistory() }
    const title = { ...shared, label: "Title", hint: "Untitled", onEnter: () => this.#fields.body.focus() }
    const body = { ...shared, label: "Text", hint: "Write something. Others see it as you type." }
    // Both fields call back while they are created, so they are assigned one by one.
    this.#fields = { title: new Field(at("title-field"), "title", title) }
    this.#fields.body = new Field(at("body-field"), "body", body)
    this.#lastField = this.#fields.body
    this.#listen()
  }

  #listen() {
    const at = this.#at
    for (const [id, field] of [["title-field", "title"], ["body-field", "body"]]) {
      at(id).addEventListener("focusin", () => {
        this.#lastField = this.#fields[field]
        this.#drawHistory()
      })
    }
    at("undo").addEventListener("click", () => this.#lastField.undo())
    at("redo").addEventListener("click", () => this.#lastField.redo())
    at("copy").addEventListener("click", () => void this.#copy())
    at("download").addEventListener("click", () => download(asFile(this.#note.view)))
  }

  /** Focuses the title of a new note. */
  begin() {
    this.#fields.title.focus()
  }

  draw(notebook, note) {
    const at = this.#at
    this.#note = note
    document.body.dataset.view = note ? "note" : "list"
    at("note").hidden = !note
    at("nothing").hidden = Boolean(note)
    const title = note?.view?.title || note?.summary?.title
    document.title = title ? `${firstLine(title)} · Landfall` : "Landfall notebook"
    if (!note) return
    this.#drawText(note)
    this.#drawProblem(note)
    this.#drawSaved(notebook, note)
    this.#drawPeople(notebook)
    this.#drawHistory()
  }

  #drawText(note) {
    const { state, view } = note
    const isNote = view && !view.problem
    for (const [key, field] of Object.entries(this.#fields)) {
      if (state === "ready" && isNote) field.bind(note.handle)
      else if (state === "gone" && isNote && field.isOf(note.handle)) field.freeze()
      else field.show(isNote ? view[key] : "")
    }
    const items = isNote ? view.items : []
    const list = this.#at("items")
    list.hidden = items.length === 0
    const made = text => Object.assign(document.createElement("li"), { textContent: text, dir: "auto" })
    if (list.dataset.now !== JSON.stringify(items)) list.replaceChildren(...items.map(made))
    list.dataset.now = JSON.stringify(items)
    const facts = []
    if (view?.created) facts.push(`Created ${view.created.toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}`)
    if (view?.votes != null) facts.push(view.votes === 1 ? "1 vote" : `${view.votes} votes`)
    this.#at("facts").textContent = facts.join(" · ")
  }

  #drawProblem(note) {
    const at = this.#at
    const problem = whatIsWrong(note)
    at("problem").hidden = !problem
    if (at("problem-text").textContent !== problem) at("problem-text").textContent = problem
    const isGone = note.state === "gone"
    const isNote = Boolean(note.view) && !note.view.problem
    at("rescue").hidden = !isGone || !isNote
    at("discard").hidden = !note.orphan
    at("delete").hidden = isGone
    at("copy").hidden = isGone
  }

  #drawSaved(notebook, { state, orphan, isKept, safe, kept }) {
    const saved = this.#at("saved")
    const where = isKept ? "Deleted · kept in this browser" : "Deleted · being stored in this browser"
    if (state === "gone") say(saved, orphan ? "wait" : "off", orphan ? where : "Deleted")
    else if (state === "loading") say(saved, "off", "Loading…")
    else if (state !== "ready") say(saved, "off", "")
    else if (safe) say(saved, "good", "On the relay’s disk")
    else if (notebook.link.up) say(saved, "wait", "Being sent to the relay")
    else if (!kept) say(saved, "wait", "Being stored in this browser")
    else say(saved, "wait", "In this browser, not on the relay yet")
  }

  #drawHistory() {
    const { undo, redo } = this.#lastField?.history ?? {}
    this.#at("undo").disabled = !undo
    this.#at("redo").disabled = !redo
  }

  #drawPeople(notebook) {
    const at = this.#at
    const others = this.#people.others()
    at("self").dataset.hue = String(this.#people.hue)
    at("nobody").hidden = others.length > 0
    say(at("nobody"), "", notebook.link?.up ? "No one else is here" : "Others are not visible offline")
    for (const [key, field] of Object.entries(this.#fields)) {
      field.place(others.filter(({ caret }) => caret?.field === key).map(({ caret, ...who }) => ({ ...who, ...caret })))
    }
    const shown = JSON.stringify(others.map(({ peer, name, hue, isSelf }) => [peer, name, hue, isSelf]))
    if (at("others").dataset.now === shown) return
    at("others").dataset.now = shown
    at("others").replaceChildren(...others.map(personOf))
  }

  /** The user's caret, to report to others. */
  caret() {
    for (const [field, editor] of Object.entries(this.#fields)) {
      const caret = editor.caret
      if (caret) return { field, ...caret }
    }
    return null
  }

  async #copy() {
    const { id } = this.#note
    const address = addressOf(location, id)
    const button = this.#at("copy")
    try {
      await navigator.clipboard.writeText(address)
      button.textContent = "Copied"
    } catch {
      // Browsers deny the clipboard to pages that have neither TLS nor a loopback address.
      prompt("The note's address", address)
    }
    setTimeout(() => (button.textContent = "Copy link"), DONE_MS)
  }
}

function personOf({ name, hue, isSelf }) {
  const person = document.createElement("li")
  person.className = "person"
  person.dataset.hue = String(hue)
  const label = Object.assign(document.createElement("span"), { textContent: name, dir: "auto" })
  person.append(Object.assign(document.createElement("span"), { className: "dot" }), label)
  if (isSelf) person.append(Object.assign(document.createElement("span"), { className: "you", textContent: "you, in another window" }))
  return person
}

function whatIsWrong({ state, orphan, isKept, view }) {
  if (state === "gone" && orphan) {
    const where = isKept
      ? "they are kept in this browser until you save or discard them."
      : "and this browser has not stored them yet. Save them as a new note, or download them."
    return `This note was permanently deleted elsewhere. Your edits had not reached the relay${isKept ? ":" : ","} ${where}`
  }
  if (state === "gone") return "This note was permanently deleted elsewhere. This is a last copy, which is not stored."
  if (state === "missing") return "The relay does not have this note. It appears here once the relay receives it."
  return view?.problem ?? ""
}

function download({ name, text }) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/markdown" }))
  Object.assign(document.createElement("a"), { href: address, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(address), DONE_MS)
}
