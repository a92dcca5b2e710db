// An editor bound to a text of a document: local typing becomes splices; remote edits are shown, and are not
// part of the undo history. This module must not depend on notes.

import { Automerge } from "@automerge/automerge-repo/slim"
import { history, historyKeymap, redo, redoDepth, standardKeymap, undo, undoDepth } from "@codemirror/commands"
import { Annotation, ChangeSet, Compartment, EditorState, Transaction } from "@codemirror/state"
import { EditorView, keymap, placeholder } from "@codemirror/view"

import { carets, showCarets } from "./carets.js"
import { directions } from "./directions.js"
import { difference, shown, toShown, toText } from "./text.js"

/** Marks transactions that come from the document and must not be written back to it. */
const fromDocument = Annotation.define()
/** How long after the end of a composition its last input may still arrive. */
const COMPOSED_MS = 60

export class Field {
  #view
  #key
  #options
  #handle = null
  /** The document's text at `#heads`; the editor shows it plus `#pending`. */
  #text = ""
  #heads = []
  /** The text of an unfinished composition, not in the document yet. */
  #pending = null
  #composing = false
  #timer = null
  #writing = false
  #locked = new Compartment()
  #onChange = () => !this.#writing && this.#pull()
  /** The others' carets, as cursors of the document. */
  #others = []

  /** `options`: `label`, `hint`, `onCaret()`, `onHistory()`, and for one line `onEnter()`. */
  constructor(parent, key, options) {
    this.#key = key
    this.#options = options
    this.#view = new EditorView({ parent, state: this.#state("") })
  }

  #state(text) {
    const { label, hint, onEnter } = this.#options
    const enter = { key: "Enter", run: () => (onEnter(), true) }
    const oneLine = EditorState.transactionFilter.of(tr => (tr.annotation(fromDocument) ? tr : joined(tr)))
    return EditorState.create({
      doc: text,
      extensions: [
        onEnter ? [keymap.of([enter]), oneLine] : [],
        history(),
        keymap.of([...historyKeymap, ...standardKeymap]),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ id: this.#key, "aria-label": label, spellcheck: "true", autocapitalize: "sentences" }),
        placeholder(hint),
        directions,
        carets,
        this.#locked.of(this.#lock(!this.#handle)),
        EditorView.updateListener.of(update => this.#updated(update)),
        EditorView.domEventHandlers({
          compositionstart: () => this.#compositionBegins(),
          compositionend: () => this.#compositionEnds(),
        }),
      ],
    })
  }

  #lock(is) {
    return [EditorState.readOnly.of(is), EditorView.contentAttributes.of({ "aria-readonly": String(is) })]
  }

  /** Shows a document's text for editing; with null, nothing. */
  bind(handle) {
    if (handle === this.#handle) return
    this.#release()
    this.#handle = handle
    this.#others = []
    if (handle) this.#take()
    this.#view.setState(this.#state(shown(this.#text)))
    handle?.on("change", this.#onChange)
    this.#options.onHistory()
    this.#options.onCaret()
  }

  /** Whether it shows this document's text for editing. */
  isOf(handle) {
    return this.#handle !== null && handle === this.#handle
  }

  /** Shows a read-only text. */
  show(text) {
    this.bind(null)
    const now = shown(text)
    const { doc } = this.#view.state
    if (doc.length === now.length && doc.toString() === now) return
    this.#view.setState(this.#state(now))
    this.#options.onHistory()
  }

  /** Makes the shown text read-only. */
  freeze() {
    if (!this.#handle) return
    this.#release()
    this.#handle = null
    this.#view.dispatch({ effects: this.#locked.reconfigure(this.#lock(true)) })
  }

  #release() {
    clearTimeout(this.#timer)
    this.#push()
    this.#handle?.off("change", this.#onChange)
    this.#text = ""
    this.#pending = null
    this.#composing = false
  }

  focus() {
    this.#view.focus()
  }

  get hasFocus() {
    return this.#view.hasFocus
  }

  undo() {
    undo(this.#view)
    this.#view.focus()
  }

  redo() {
    redo(this.#view)
    this.#view.focus()
  }

  /** Whether there is something to undo, and to redo. */
  get history() {
    const { state } = this.#view
    return { undo: Boolean(this.#handle) && undoDepth(state) > 0, redo: Boolean(this.#handle) && redoDepth(state) > 0 }
  }

  /** The user's selection as cursors of the document: `{ anchor, head }`, or null. */
  get caret() {
    if (!this.#handle || !this.#view.hasFocus || this.#pending) return null
    const doc = this.#handle.doc()
    const { anchor, head } = this.#view.state.selection.main
    const name = position => Automerge.getCursor(doc, [this.#key], toText(this.#text, position))
    const at = name(anchor)
    return { anchor: at, head: head === anchor ? at : name(head) }
  }

  /** Shows the others' carets: `{ peer, name, hue, anchor, head }`. */
  place(others) {
    const now = JSON.stringify(others)
    if (now === JSON.stringify(this.#others)) return
    this.#others = others
    this.#placeOthers()
  }

  #placeOthers() {
    if (!this.#handle) return
    const doc = this.#handle.doc()
    const most = this.#view.state.doc.length
    const find = place => Math.min(most, toShown(this.#text, Automerge.getCursorPosition(doc, [this.#key], place)))
    const found = this.#others.flatMap(({ anchor, head, ...who }) => {
      try {
        return [{ ...who, anchor: find(anchor), head: find(head) }]
      } catch {
        // A cursor in changes that have not arrived yet, or an invalid one.
        return []
      }
    })
    this.#view.dispatch({ effects: showCarets.of(found) })
  }

  #take() {
    const text = this.#handle.doc()[this.#key]
    this.#text = typeof text === "string" ? text : ""
    this.#heads = this.#handle.heads()
  }

  // Local edits.

  #updated(update) {
    for (const transaction of update.transactions) {
      if (!transaction.docChanged || transaction.annotation(fromDocument)) continue
      this.#pending = this.#pending ? this.#pending.compose(transaction.changes) : transaction.changes
    }
    if (update.docChanged) this.#options.onHistory()
    if (!this.#composing) this.#push()
    if (update.selectionSet || update.docChanged || update.focusChanged) this.#options.onCaret()
  }

  #compositionBegins() {
    clearTimeout(this.#timer)
    // An earlier composition.
    if (!this.#composing) this.#push()
    this.#composing = true
  }

  #compositionEnds() {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#composing = false
      this.#push()
      this.#pull()
      this.#options.onCaret()
    }, COMPOSED_MS)
  }

  /** Writes local edits to the document. */
  #push() {
    if (!this.#pending || !this.#handle?.isReady()) return
    const changes = this.#pending
    this.#pending = null
    const splice = doc => this.#splice(doc, changes)
    this.#writing = true
    try {
      if (this.#isCurrent()) {
        this.#handle.change(splice)
        this.#take()
        return
      }
      // Remote edits arrived during a composition. The edit belongs to the state shown then.
      this.#heads = this.#handle.changeAt(this.#heads, splice) ?? this.#heads
      this.#text = this.#handle.view(this.#heads).doc()[this.#key]
    } finally {
      this.#writing = false
    }
    this.#pull()
  }

  #splice(doc, changes) {
    let shift = 0
    changes.iterChanges((from, to, _from, _to, inserted) => {
      const at = toText(this.#text, from)
      const removed = toText(this.#text, to) - at
      const text = inserted.sliceString(0)
      Automerge.splice(doc, [this.#key], at + shift, removed, text)
      shift += text.length - removed
    })
  }

  #isCurrent() {
    const now = this.#handle.heads()
    return now.length === this.#heads.length && now.every(head => this.#heads.includes(head))
  }

  // Remote edits.

  #pull() {
    if (this.#composing || this.#pending || !this.#handle?.isReady() || this.#isCurrent()) return
    const before = this.#text
    const patches = this.#handle.diff(this.#heads, this.#handle.heads())
    this.#take()
    const changes = this.#changesOf(patches, before) ?? this.#replacement()
    const annotations = [fromDocument.of(true), Transaction.addToHistory.of(false), Transaction.remote.of(true)]
    this.#view.dispatch({ changes, annotations })
    this.#placeOthers()
  }

  /** The editor's changes for patches; null if these are not only splices of one text. */
  #changesOf(patches, before) {
    // Patches have positions of the text, which differ from the editor's after a `\r\n`.
    if (before.includes("\r") || this.#text.includes("\r")) return null
    let changes = ChangeSet.empty(before.length)
    for (const { action, path, value, length = 1 } of patches) {
      if (path[0] !== this.#key) continue
      const [, from] = path
      if (path.length !== 2 || typeof from !== "number") return null
      if (action !== "splice" && action !== "del") return null
      const change = action === "splice" ? { from, insert: value } : { from, to: from + length }
      changes = changes.compose(ChangeSet.of(change, changes.newLength, "\n"))
    }
    return changes.newLength === this.#text.length ? changes : null
  }

  /** The single replacement that turns the editor's content into the document's. */
  #replacement() {
    const text = shown(this.#text)
    const edit = difference(this.#view.state.doc.toString(), text, text.length)
    return { from: edit.at, to: edit.at + edit.remove, insert: edit.insert }
  }
}

/** A title is one line: typed or pasted line ends become blanks. */
function joined(transaction) {
  if (!transaction.docChanged || transaction.isUserEvent("undo") || transaction.isUserEvent("redo")) return transaction
  let has = false
  const changes = []
  transaction.changes.iterChanges((from, to, _from, _to, inserted) => {
    has ||= inserted.lines > 1
    changes.push({ from, to, insert: inserted.sliceString(0, undefined, " ") })
  })
  return has ? { changes, userEvent: "input", selection: transaction.selection } : transaction
}
