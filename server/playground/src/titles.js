// The list's rows of notes that are not open: loads each document once, visible rows first, and stores its
// title in the browser. A document leaves memory as soon as its title is known.

import { read, summary } from "./note.js"

/** Documents that are loaded concurrently for visible notes, and in the background. */
const IN_SIGHT = 16
const BEHIND = 2
/** How long the background waits for the visible notes. */
const GIVE_WAY_MS = 1_000
/** How long the relay may take to report that it has no more of a document than this browser. */
const SETTLED_MS = 5_000
/** How long a document stays in memory afterwards: automerge-repo may be about to answer the relay. */
export const LINGER_MS = 500
/** New titles are stored together after this delay. */
const SAVE_AFTER_MS = 500

export class Titles {
  #repo
  #shelf
  #notebook
  #inSight = []
  #running = 0
  #up = false
  /** Notes to store, and ids to delete. */
  #dirty = new Set()
  #gone = new Set()
  #timer = null
  /** Loaded notes with their offsets: none is loaded twice for the same offset. */
  #tried = new Map()
  /** The background's position in the list. */
  #next = 0
  /** Resolved when all visible notes have their titles. */
  #waiting = []

  constructor(repo, shelf, notebook) {
    this.#repo = repo
    this.#shelf = shelf
    this.#notebook = notebook
  }

  /** Sets the visible notes. */
  want(notes) {
    this.#inSight = notes
    this.#pump()
  }

  /** Resolves once all visible notes have their titles, or after a time limit. */
  shown() {
    return new Promise(resolve => {
      this.#waiting.push(resolve)
      setTimeout(() => this.#endWaiting(), GIVE_WAY_MS)
    })
  }

  #endWaiting() {
    this.#waiting.splice(0).forEach(resolve => resolve())
    this.#pump()
  }

  /** The link went up or down, or the relay's list changed. */
  run(up) {
    if (up && !this.#up) this.#tryAgain()
    this.#up = up
    this.#next = 0
    this.#pump()
  }

  /** The relay may now have notes that were unavailable before. */
  #tryAgain() {
    this.#tried.clear()
    for (const note of this.#notebook.list()) if (note.state === "missing" && note.offset > 0) note.state = "listed"
  }

  /** The summary of a note changed. */
  changed(note) {
    this.#gone.delete(note.id)
    this.#dirty.add(note)
    this.#schedule()
  }

  forget(note) {
    this.#dirty.delete(note)
    this.#gone.add(note.id)
    this.#schedule()
  }

  #schedule() {
    this.#timer ??= setTimeout(() => void this.save().catch(() => {}), SAVE_AFTER_MS)
  }

  /** Stores the changed titles. */
  async save() {
    clearTimeout(this.#timer)
    this.#timer = null
    const kept = [...this.#dirty].filter(note => note.state !== "gone")
    const rows = kept.map(({ id, offset, rank, edited, seen, summary }) => ({ id, offset, rank, edited, seen, summary }))
    const gone = [...this.#gone]
    this.#dirty.clear()
    this.#gone.clear()
    if (rows.length + gone.length > 0) await this.#shelf.putTitles(rows, gone)
  }

  #isWanted(note) {
    if (note.state === "listed") return note.seen < note.offset && this.#tried.get(note) !== note.offset
    return false
  }

  #pump() {
    while (this.#up) {
      const note = this.#pick()
      if (!note && this.#waiting.length > 0 && this.#inSight.length > 0 && this.#running === 0) return this.#endWaiting()
      if (!note) return
      this.#tried.set(note, note.offset)
      this.#running++
      void this.#load(note).finally(() => {
        this.#running--
        this.#pump()
      })
    }
  }

  #pick() {
    if (this.#running >= IN_SIGHT) return null
    const note = this.#inSight.find(note => this.#isWanted(note))
    if (note || this.#running >= BEHIND || this.#waiting.length > 0) return note ?? null
    // Of the others, those without a summary, which the search does not cover yet.
    const list = this.#notebook.list()
    while (this.#next < list.length) {
      const other = list[this.#next++]
      if (!other.summary && this.#isWanted(other)) return other
    }
    return null
  }

  async #load(note) {
    const { offset } = note
    let handle
    try {
      handle = await this.#repo.find(note.id)
    } catch {
      if (note.state === "listed") note.state = "missing"
      return this.#notebook.toDraw(note)
    }
    // The relay may have more of it; show the local content first.
    if (!this.#notebook.isSafe(handle)) this.#learn(note, handle)
    if (await this.#settled(handle)) note.seen = offset
    if (!this.#learn(note, handle)) return
    // Not awaited, so that the next documents load.
    setTimeout(() => void this.#close(note), LINGER_MS)
  }

  #learn(note, handle) {
    if (note.state === "gone" || !handle.isReady()) return false
    note.summary = summary(read(handle.doc()))
    this.changed(note)
    this.#notebook.toDraw(note)
    return true
  }

  /** Waits until the relay has no more of it. An earlier state may be an older copy. */
  #settled(handle) {
    const isSafe = () => this.#notebook.isSafe(handle)
    if (isSafe()) return true
    return new Promise(resolve => {
      const end = settled => {
        clearTimeout(timer)
        handle.off("remote-heads", look)
        handle.off("change", look)
        resolve(settled)
      }
      const look = () => isSafe() && end(true)
      const timer = setTimeout(() => end(false), SETTLED_MS)
      handle.on("remote-heads", look)
      handle.on("change", look)
    })
  }

  async #close(note) {
    if (note.state !== "listed") return
    await this.#repo.flush([note.id]).catch(() => {})
    if (note.state === "listed") await this.#repo.removeFromCache(note.id)
  }
}
