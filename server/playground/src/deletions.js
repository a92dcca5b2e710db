// Deletion, here and elsewhere: the user can undo a deletion for a while, and a deletion elsewhere does not
// remove edits that only this browser has. This module must not depend on the page.

import { contentOf, copy, keep } from "./kept.js"
import { remove } from "./relay.js"

/** How long a deletion can be undone. */
export const UNDO_MS = 10_000

export class Deletions {
  #repo
  #shelf
  #place
  #titles
  #owed
  /** Notes that the user deleted here and the relay has not deleted yet, each with its due time. */
  #deleting
  #notebook

  /**
   * `notebook` has `notes`, `note(id)`, `create(content)` and `isUp`, and is called back: `changed(note)`, and
   * `notDeleted(note)` if the relay refused the deletion.
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

  /** The ids of the notes that the user has deleted here. */
  all() {
    return new Set(this.#deleting.all())
  }

  /** Deletes a note after a delay, unless the deletion is undone. */
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

  /** Undoes a deletion. */
  undelete(note) {
    clearTimeout(note.undo)
    this.#deleting.drop(note.id)
    this.#notebook.changed(note)
  }

  /** The page is left: performs the deletions that could still be undone. */
  leave() {
    for (const id of this.#deleting.all()) {
      // Deletions made on another page of this notebook can still be undone there.
      if (!this.#notebook.notes.get(id)?.isDeletedHere) continue
      this.#deleting.put(id, "0")
      if (this.#notebook.isUp) void remove(this.#place, id, true).catch(() => {})
    }
  }

  /** The relay is reachable: performs the deletions that wait for it. */
  goOn() {
    for (const id of this.#deleting.all()) this.#deleteSoon(this.#notebook.note(id))
  }

  async #deleteNow(id) {
    // Undone, here or on another page of this notebook.
    if (!this.#notebook.isUp || !this.#deleting.has(id)) return
    try {
      await remove(this.#place, id)
      if (this.#deleting.has(id)) this.#forget(id)
    } catch {
      // Without the relay it waits; a refusal by the relay is reported to the user.
      if (!this.#notebook.isUp || !this.#deleting.has(id)) return
      this.#deleting.drop(id)
      this.#notebook.changed(this.#notebook.note(id))
      this.#notebook.notDeleted(this.#notebook.note(id))
    }
  }

  /** The user deleted a note: removes everything of it. */
  #forget(id) {
    const note = this.#notebook.note(id)
    this.#deleting.drop(id)
    this.#owed.drop(id)
    note.state = "gone"
    this.#drop(note)
  }

  /** The relay no longer lists a note that it had: it was permanently deleted elsewhere. */
  async lost(note) {
    const owed = this.#owed.has(note.id)
    // Edits that could not be kept before are kept now.
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

  /** Drops a note without orphaned edits. While it is shown, the user can still save its last copy. */
  dropWithCopy(note) {
    Object.assign(note, copy(note.handle.doc()))
    this.#drop(note)
  }

  /** Stores the orphaned edits of a deleted note where no other page of this browser can lose them. */
  async #shelve(note) {
    note.handle ??= await this.#repo.find(note.id).catch(() => null)
    // Without a stored document there are no orphaned edits.
    if (note.handle) await keep(this.#repo, this.#shelf, note)
    else note.orphan = false
    this.#owed.drop(note.id)
    this.#drop(note)
  }

  /** Creates a new note from a deleted one. */
  saveAsNew(note) {
    const made = this.#notebook.create(contentOf(note))
    note.orphan = false
    // Only after the new note is stored.
    this.#repo.flush([made.id]).then(() => this.discard(note), () => {})
    return made
  }

  /** Discards the orphaned edits of a deleted note. */
  async discard(note) {
    note.orphan = false
    this.#notebook.changed(note)
    await this.#shelf.letGo(note.id).catch(() => {})
  }

  /** Deletes the document. Its last view may stay on the screen. */
  #drop(note) {
    this.#titles.forget(note)
    this.#repo.delete(note.id)
    this.#notebook.changed(note)
  }
}
