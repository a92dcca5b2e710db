// The notes whose documents are in memory: their content, and whether this browser and the relay have stored
// all of it. This module must not depend on the page, nor on which notes the relay lists.

import { takeStored } from "./kept.js"
import { fresh, read, summary } from "./note.js"
import { LINGER_MS } from "./titles.js"

/** Pause in the typing after which the page checks whether everything is stored. */
const KEEP_AFTER_MS = 250
/** How long another page of this notebook may take to send its changes before this page sends them. */
const HELP_AFTER_MS = 5_000
/** Maximum number of documents that stay in memory after they were shown. */
const OPEN_MOST = 8

/**
 * A note. `state` is `listed` (its document is not in memory), `loading`, `ready`, `missing` (unavailable
 * from the relay) or `gone` (deleted elsewhere). `offset`: the place of its last entry in the relay's log, 0
 * while the relay lists none. `rank`: its place in the list. `summary`: what the list shows, as of the offset
 * `seen`. `view`: its content. `kept`: this browser has stored all of it; `safe`: the relay has. `orphan`: it
 * is deleted and has edits that only this browser has; `isKept`: those are stored.
 */
export class Note {
  state = "listed"
  offset = 0
  rank = 0
  edited = 0
  summary = null
  seen = 0
  view = null
  kept = true
  safe = false
  orphan = false
  isKept = false
  isDeletedHere = false
  handle = null

  constructor(id) {
    this.id = id
  }
}

export class Documents {
  #repo
  #owed
  #titles
  #notebook
  /** Open notes, least recently shown first. */
  #recent = []
  /** The heads that the relay reported to be on its disk in this connection, by document id. */
  #onDisk = new Map()

  /**
   * `owed`: the ids of notes with local edits that the relay has not confirmed. `notebook` has `notes`,
   * `note(id)`, `storageId` and `head` of the relay, and is called back: `changed(note)` if the note's place in
   * the list may have changed, `toDraw(note)` if not, `dropWithCopy(note)` if a deleted note was read.
   */
  constructor({ repo, owed, titles, notebook }) {
    this.#repo = repo
    this.#owed = owed
    this.#titles = titles
    this.#notebook = notebook
    owed.listen((id, isThere) => this.#owedElsewhere(id, isThere))
  }

  create(content = fresh()) {
    const handle = this.#repo.create(content)
    this.#owed.add(handle.documentId)
    const note = this.#notebook.note(handle.documentId)
    this.#edited(note)
    this.#ready(note, handle)
    this.#keep(note)
    // The list must contain it even if the page is closed immediately.
    void this.#titles.save().catch(() => {})
    return note
  }

  /** The user opens it: its document stays in memory for a while. */
  look(note) {
    if (note.state === "listed") this.open(note)
    this.#recent = [...this.#recent.filter(other => other !== note), note]
    this.#shrink()
  }

  /** The relay lists it: opens it if the user waits for it. */
  heard(note) {
    if (note.state === "listed" && this.#recent.includes(note)) this.open(note)
  }

  /** The relay is reachable: it may have documents that it did not have before. */
  tryAgain() {
    for (const note of this.#recent) if (note.state === "missing") this.open(note)
  }

  /** Writes unsaved changes to the browser's storage. */
  flush() {
    return this.#repo.flush().catch(() => {})
  }

  open(note) {
    note.state = "loading"
    this.#repo.find(note.id).then(
      handle => this.#ready(note, handle),
      () => {
        if (note.state === "loading") note.state = "missing"
        this.#notebook.changed(note)
      }
    )
  }

  #ready(note, handle) {
    if (note.handle) return
    note.handle = handle
    if (note.state === "gone") {
      // The deletion was received before the document was read. Unconfirmed edits are being kept.
      if (!note.orphan) this.#notebook.dropWithCopy(note)
      return
    }
    note.state = "ready"
    this.#notebook.changed(note)
    note.onChange = ({ patchInfo }) => {
      if (patchInfo.source !== "receiveSyncMessage") {
        this.#owed.add(note.id)
        this.#edited(note)
      }
      this.#keep(note)
      this.#refresh(note)
    }
    note.onHeads = () => this.#refresh(note)
    handle.on("change", note.onChange)
    handle.on("remote-heads", note.onHeads)
    this.#refresh(note)
  }

  /** The note was edited locally: it is listed first until the relay reports its place. */
  #edited(note) {
    note.edited = Date.now()
    const rank = this.#notebook.head + 0.5
    if (note.rank >= rank) return
    note.rank = rank
    this.#notebook.changed(note)
  }

  /** The repo stores changes itself; this detects when it has done so. */
  #keep(note) {
    note.kept = false
    clearTimeout(note.keeping)
    note.keeping = setTimeout(async () => {
      if (note.state !== "ready") return
      const stored = String(note.handle.heads())
      const flushed = this.#repo.flush([note.id])
      const done = await flushed.then(() => true, () => false)
      note.kept = done && note.state === "ready" && String(note.handle.heads()) === stored
      this.#notebook.toDraw(note)
    }, KEEP_AFTER_MS)
  }

  #refresh(note) {
    if (note.state !== "ready") return
    note.view = read(note.handle.doc())
    note.summary = summary(note.view)
    note.safe = this.isSafe(note.handle)
    if (note.safe) this.#owed.remove(note.id)
    this.#titles.changed(note)
    this.#notebook.toDraw(note)
  }

  /**
   * Whether the relay has all of a document: it reports only heads that are on its disk. It reports them once
   * per connection, so this remembers them for documents that leave memory.
   */
  isSafe(handle) {
    const { storageId } = this.#notebook
    const theirs = storageId && handle.getSyncInfo(storageId)?.lastHeads
    const ours = handle.heads()
    const isSafe = Boolean(theirs) && theirs.length === ours.length && ours.every(head => theirs.includes(head))
    const all = [...ours].sort().join()
    if (isSafe && this.#notebook.isUp) this.#onDisk.set(handle.documentId, all)
    return isSafe || this.#onDisk.get(handle.documentId) === all
  }

  /** The connection ended: in the next one the relay reports its heads again. */
  disconnected() {
    this.#onDisk.clear()
  }

  /** Another page of this notebook has changes for the relay, or considers them confirmed. */
  #owedElsewhere(id, isThere) {
    const note = this.#notebook.notes.get(id)
    if (!isThere && note?.state === "ready" && !note.safe && note.edited > 0) this.#owed.add(id)
    // That page may be closed before it has sent them.
    if (isThere) setTimeout(() => this.#owed.has(id) && this.help(id), HELP_AFTER_MS)
    this.#notebook.toDraw()
  }

  /** Sends changes that another page of this browser has stored for the relay. */
  help(id) {
    const note = this.#notebook.note(id)
    this.#owed.take(id)
    if (note.state === "listed" || note.state === "missing") this.open(note)
    else if (note.state === "ready") void takeStored(this.#repo, note.handle).then(() => this.#refresh(note))
  }

  /** Removes documents from memory that are not shown and that the relay has. */
  #shrink() {
    const idle = this.#recent.filter(note => note.state !== "ready" || (note.safe && note.kept))
    for (const note of idle.slice(0, Math.max(0, this.#recent.length - OPEN_MOST))) {
      this.#recent = this.#recent.filter(other => other !== note)
      if (note.state === "ready") void this.#close(note)
    }
  }

  async #close(note) {
    const { handle } = note
    await new Promise(resolve => setTimeout(resolve, LINGER_MS))
    await this.flush()
    if (this.#recent.includes(note) || !note.safe || note.state !== "ready") return
    handle.off("change", note.onChange)
    handle.off("remote-heads", note.onHeads)
    note.state = "listed"
    note.handle = note.view = null
    await this.#repo.removeFromCache(note.id)
  }
}
