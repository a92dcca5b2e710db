// Deletion, here and elsewhere: what the user deletes can be taken back for a while, and what somebody else
// deletes takes nothing along that only this browser has. It must not know the page.

import { contentOf, copy, keep } from "./kept.js"
import { remove } from "./relay.js"

/** How long a deletion can be taken back. */
export const UNDO_MS = 10_000

export class Deletions {
  #repo
  #shelf
  #place
  #titles
  #owed
  /** Notes that the user deleted here and that the relay is still to delete, each with the time when. */
  #deleting
  #notebook

  /**
   * `notebook` has `notes`, `note(id)`, `create(content)` and `isUp`, and hears of a note: `changed(note)`, and
   * `notDeleted(note)` if the relay did not do it.
   */
  constructor({ repo, shelf, place, titles, owed, deleting, notebook }) {
    this.#repo = repo
    this.#shelf = shelf
    this.#place = place
    this.#titles = titles
    this.#owed = owed
    this.#deleting = deleting
    this.#notebook = notebook
  }

  /** The ids of what the user has deleted here. */
  all() {
    return new Set(this.#deleting.all())
  }

  /** Deletes a note after a while, unless that is taken back. */
  delete(note) {
    this.#deleting.put(note.id, String(Date.now() + UNDO_MS))
    note.isDeletedHere = true
    this.#deleteSoon(note)
    this.#notebook.changed(note)
  }

  #deleteSoon(note) {
    clearTimeout(note.undo)
    const due = Number(this.#deleting.value(note.id)) - Date.now()
    note.undo = setTimeout(() => void this.#deleteNow(note.id), Math.max(0, due))
  }

  /** Takes a deletion back. */
  undelete(note) {
    clearTimeout(note.undo)
    this.#deleting.drop(note.id)
    this.#notebook.changed(note)
  }

  /** What can still be taken back is done now: the page is left. */
  leave() {
    for (const id of this.#deleting.all()) {
      // Those of another page of this notebook can still be taken back there.
      if (!this.#notebook.notes.get(id)?.isDeletedHere) continue
      this.#deleting.put(id, "0")
      if (this.#notebook.isUp) void remove(this.#place, id, true).catch(() => {})
    }
  }

  /** The relay is there: what waits for it is done. */
  goOn() {
    for (const id of this.#deleting.all()) this.#deleteSoon(this.#notebook.note(id))
  }

  async #deleteNow(id) {
    // Taken back, here or on another page of this notebook.
    if (!this.#notebook.isUp || !this.#deleting.has(id)) return
    try {
      await remove(this.#place, id)
      if (this.#deleting.has(id)) this.#forget(id)
    } catch {
      // Without the relay it waits; a relay that does not want to is told.
      if (!this.#notebook.isUp || !this.#deleting.has(id)) return
      this.#deleting.drop(id)
      this.#notebook.changed(this.#notebook.note(id))
      this.#notebook.notDeleted(this.#notebook.note(id))
    }
  }

  /** The user let go of a note: nothing of it stays. */
  #forget(id) {
    const note = this.#notebook.note(id)
    this.#deleting.drop(id)
    this.#owed.drop(id)
    note.state = "gone"
    this.#drop(note)
  }

  /** The relay had it and has it no more: somebody deleted it, for good. */
  async lost(note) {
    const owed = this.#owed.has(note.id)
    // What could not be kept before is kept now.
    if (note.state === "gone" && !owed) return
    if (this.#deleting.has(note.id)) return this.#forget(note.id)
    if (note.state === "listed" && !owed) {
      note.state = "gone"
      return this.#drop(note)
    }
    note.state = "gone"
    note.orphan = owed
    this.#notebook.changed(note)
    if (owed) return this.#shelve(note)
    if (note.handle) this.dropWithCopy(note)
  }

  /** Nothing is lost with it: but while it is on the screen, it can still be saved. */
  dropWithCopy(note) {
    Object.assign(note, copy(note.handle.doc()))
    this.#drop(note)
  }

  /** Puts what only this browser has of a deleted note where no other page of it can lose it. */
  async #shelve(note) {
    note.handle ??= await this.#repo.find(note.id).catch(() => null)
    // If nothing was stored here, there is nothing to lose.
    if (note.handle) await keep(this.#repo, this.#shelf, note)
    else note.orphan = false
    this.#owed.drop(note.id)
    this.#drop(note)
  }

  /** Makes a new note of one that is gone. */
  saveAsNew(note) {
    const made = this.#notebook.create(contentOf(note))
    note.orphan = false
    // Only once the new one is stored.
    this.#repo.flush([made.id]).then(() => this.discard(note), () => {})
    return made
  }

  /** Lets go of what was kept of a note that is gone. */
  async discard(note) {
    note.orphan = false
    this.#notebook.changed(note)
    await this.#shelf.letGo(note.id).catch(() => {})
  }

  /** The document is of no use any more. What is shown of it may stay. */
  #drop(note) {
    this.#titles.forget(note)
    this.#repo.delete(note.id)
    this.#notebook.changed(note)
  }
}
