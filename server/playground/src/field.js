// A textarea that is bound to a text of a document: what is typed becomes splices, what others
// write appears, and the caret stays with the characters that it stood between.

import { Automerge } from "@automerge/automerge-repo/slim"

import { carried, difference, shown, toShown, toText } from "./text.js"

export class Field {
  #element
  #key
  #handle = null
  /** The document's text as the textarea shows it, and the heads that it belongs to. */
  #text = ""
  #heads = []
  /** An input method is in the middle of a character: the textarea must not be touched. */
  #composing = false
  #writing = false
  #onChange = event => this.#changed(event.patches)

  constructor(element, key) {
    this.#element = element
    this.#key = key
    element.addEventListener("input", () => this.#typed())
    element.addEventListener("compositionstart", () => (this.#composing = true))
    element.addEventListener("compositionend", () => {
      this.#composing = false
      this.#typed()
      this.#changed(null)
    })
  }

  /** Shows another document's text; with null, nothing. */
  bind(handle) {
    if (handle === this.#handle) return
    this.#handle?.off("change", this.#onChange)
    this.#handle = handle
    this.#composing = false
    this.#element.value = ""
    this.#text = ""
    if (!handle) return
    handle.on("change", this.#onChange)
    this.#take()
    this.#element.value = shown(this.#text)
    this.#element.setSelectionRange(0, 0)
    this.#element.scrollTop = 0
  }

  #take() {
    const text = this.#handle.doc()[this.#key]
    this.#text = typeof text === "string" ? text : ""
    this.#heads = this.#handle.heads()
  }

  #typed() {
    if (this.#composing || !this.#handle) return
    const { value, selectionEnd } = this.#element
    const edit = difference(shown(this.#text), value, selectionEnd)
    if (edit.remove === 0 && edit.insert === "") return
    const at = toText(this.#text, edit.at)
    const remove = toText(this.#text, edit.at + edit.remove) - at
    const splice = doc => Automerge.splice(doc, [this.#key], at, remove, edit.insert)
    this.#writing = true
    try {
      if (this.#isCurrent()) {
        this.#handle.change(splice)
        this.#take()
        return
      }
      // Others wrote while a character was composed. The edit belongs to what was shown then.
      const caret = toText(this.#text, edit.at) + edit.insert.length
      const made = this.#handle.changeAt(this.#heads, splice)
      this.#show(carried(caret, this.#handle.diff(made, this.#handle.heads()), this.#key))
    } finally {
      this.#writing = false
    }
  }

  #isCurrent() {
    const now = this.#handle.heads()
    return now.length === this.#heads.length && now.every(head => this.#heads.includes(head))
  }

  #changed(patches) {
    if (this.#writing || this.#composing || !this.#handle?.isReady()) return
    if (this.#isCurrent()) return
    const steps = patches ?? this.#handle.diff(this.#heads, this.#handle.heads())
    const place = position => carried(toText(this.#text, position), steps, this.#key)
    const { selectionStart, selectionEnd } = this.#element
    this.#show(place(selectionStart), place(selectionEnd))
  }

  /** Shows the document's text as it is now, with a selection between two of its positions. */
  #show(start, end = start) {
    const { scrollTop } = this.#element
    this.#take()
    const text = shown(this.#text)
    if (text === this.#element.value) return
    this.#element.value = text
    this.#element.setSelectionRange(toShown(this.#text, start), toShown(this.#text, end))
    this.#element.scrollTop = scrollTop
  }
}
