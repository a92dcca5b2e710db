// What the list shows of notes that nobody has open: loaded once, those in sight first, and kept in the
// browser. A document is let go of as soon as its title is known.

import { read, summary } from "./note.js"

/** Documents that are loaded at a time for notes in sight, and in the background. */
const IN_SIGHT = 16
const BEHIND = 2
/** How long what is not in sight waits for what is. */
const GIVE_WAY_MS = 1_000
/** How long the relay may take to say that it has no more of a document than this browser. */
const SETTLED_MS = 5_000
/** How long a document is still kept: automerge-repo may be about to answer the relay of it. */
export const LINGER_MS = 500
/** What became known is stored together. */
const SAVE_AFTER_MS = 500

export class Titles {
  #repo
  #shelf
  #notebook
  #inSight = []
  #running = 0
  #up = false
  /** Notes to store, and ids to take out. */
  #dirty = new Set()
  #gone = new Set()
  #timer = null
  /** Notes that were tried, with the offset: none is tried twice for the same. */
  #tried = new Map()
  /** Where the background has got to in the list. */
  #next = 0
  /** Told when nothing in sight waits for its title any more. */
  #waiting = []

  constructor(repo, shelf, notebook) {
    this.#repo = repo
    this.#shelf = shelf
    this.#notebook = notebook
  }

  /** These are in sight. */
  want(notes) {
    this.#inSight = notes
    this.#pump()
  }

  /** Resolves once nothing in sight waits for its title, or after a while. */
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

  /** The relay is there, or not; or its list has changed. */
  run(up) {
    if (up && !this.#up) this.#tryAgain()
    this.#up = up
    this.#next = 0
    this.#pump()
  }

  /** What the relay did not give before it may give now. */
  #tryAgain() {
    this.#tried.clear()
    for (const note of this.#notebook.list()) if (note.state === "missing" && note.offset > 0) note.state = "listed"
  }

  /** What is known of a note is another thing now. */
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

  /** Stores what has changed. */
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
    // Of the others, those of which nothing is known: what the search does not cover yet.
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
    // The relay may have more of it; this much can be shown.
    if (!this.#notebook.isSafe(handle)) this.#learn(note, handle)
    if (await this.#settled(handle)) note.seen = offset
    if (!this.#learn(note, handle)) return
    // Not waited for: others have their turn.
    setTimeout(() => void this.#close(note), LINGER_MS)
  }

  #learn(note, handle) {
    if (note.state === "gone" || !handle.isReady()) return false
    note.summary = summary(read(handle.doc()))
    this.changed(note)
    this.#notebook.toDraw(note)
    return true
  }

  /** Waits until the relay has nothing more of it. What came before that may be an older copy. */
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
