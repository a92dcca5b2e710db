// The notes of one space and their order; connects the modules that load, delete and store them. It depends on
// the relay and on automerge-repo, and must not depend on the page.

import { Repo } from "@automerge/automerge-repo/slim"
import { IndexedDBStorageAdapter } from "@automerge/automerge-repo-storage-indexeddb"

import { Deletions } from "./deletions.js"
import { Documents, Note } from "./documents.js"
import { kept } from "./kept.js"
import { Link } from "./link.js"
import { Log } from "./log.js"
import { inOrder } from "./note.js"
import { News } from "./relay.js"
import { Fact, Ids, Owed, Shelf } from "./stored.js"
import { Titles } from "./titles.js"

export class Notebook {
  /** All known notes, by id. */
  notes = new Map()
  /** Whether the relay's list has been read completely. */
  complete = false
  /** The link to the relay, once the relay's identity is known. */
  link = null
  #place
  #automerge
  #tell
  #repo
  #shelf
  #news
  #titles
  #documents
  #deletions
  #owed
  #offline
  #lastRelay
  #relay = null
  #log
  #read
  #order = null

  /**
   * `automerge` resolves when automerge is loaded; meanwhile the notebook requests the relay's list.
   * `tell(what, note)` is called on events: `begun`, `notes`, `link`, `heard` from the relay, `undeleted`.
   */
  constructor(place, automerge, tell) {
    this.#place = place
    this.#automerge = automerge
    this.#tell = tell
    this.#lastRelay = new Fact(`landfall-relay/${place.relay}`)
    this.#log = new Log(place, {
      meet: relay => this.#meet(relay),
      listed: (id, offset) => this.#heard(this.note(id), offset),
      deleted: id => this.notes.has(id) && this.#deletions.lost(this.note(id)),
      whole: found => this.#wholeRead(found),
      read: () => this.#logRead(),
      page: () => tell("notes"),
      // The visible notes load before all others.
      first: () => this.#titles.shown(),
      looked: () => {
        tell("notes")
        return Boolean(this.link)
      },
    })
  }

  /** Whether the last request to the relay failed. */
  get deaf() {
    return this.#log.deaf
  }

  /** Starts with the notes stored in this browser; the relay need not be reachable. */
  async start() {
    const relay = this.#lastRelay.value
    if (relay) await this.#begin(relay)
    if (!this.link || this.link.online) await this.look()
  }

  /** Opens the notebook of one relay and one space: each relay has a separate notebook. */
  async #begin(relay) {
    this.#relay = relay
    this.#lastRelay.value = relay
    const name = `landfall/${relay}/${this.#place.space}`
    this.#owed = new Owed(`${name}/owed/`)
    const deleting = new Ids(`${name}/deleting/`)
    this.#offline = new Fact(`${name}/offline`)
    this.#read = new Fact(`${name}/read`)
    this.#shelf = new Shelf(`${name}/page`)
    await this.#automerge
    this.#repo = new Repo({ storage: new IndexedDBStorageAdapter(name) })
    this.#repo.on("doc-metrics", event => {
      if (event.type === "receive-sync-message") this.#tell("heard", this.notes.get(event.documentId))
    })
    const refused = id => void this.#refused(id)
    const link = new Link(this.#repo, this.#place.socket, () => this.#linkChanged(), refused)
    this.#news = new News(this.#place, () => void this.look())
    this.#titles = new Titles(this.#repo, this.#shelf, this)
    const shared = { repo: this.#repo, owed: this.#owed, titles: this.#titles, notebook: this }
    this.#documents = new Documents(shared)
    this.#deletions = new Deletions({ ...shared, shelf: this.#shelf, place: this.#place, deleting })
    await this.#recall()
    this.link = link
    for (const id of this.#owed.all()) this.#documents.help(id)
    if (this.#offline.value === null) this.link.connect()
    this.#tell("begun")
  }

  /** Loads the notes stored in this browser. */
  async #recall() {
    try {
      const [titles, rescued] = await Promise.all([this.#shelf.titles(), this.#shelf.kept()])
      for (const { id, ...known } of titles) Object.assign(this.note(id), known)
      for (const row of rescued) {
        const note = Object.assign(this.note(row.id), kept(row))
        // The page may have been closed between the two writes.
        this.#titles.forget(note)
      }
      this.#log.cursor = JSON.parse(this.#read.value)
    } catch {
      // A browser without storage: request the whole list.
      this.#log.cursor = null
    }
    this.complete = this.#log.cursor !== null
    this.#order = null
  }

  #linkChanged() {
    const { up } = this.link
    this.#news.listen(up)
    if (up) {
      void this.look()
      this.#deletions.goOn()
      this.#documents.tryAgain()
    } else this.#documents.disconnected()
    this.#titles.run(up)
    this.#tell("link")
  }

  /** All listed notes, in order. */
  list() {
    this.#order ??= this.#inOrder()
    return this.#order
  }

  #inOrder() {
    const deleting = this.#deletions?.all() ?? new Set()
    // A note that was only requested by a link has no rank.
    const isThere = note => (note.rank > 0 || note.state === "ready") && !deleting.has(note.id)
    const isShown = note => (note.state === "gone" ? note.orphan : isThere(note))
    return [...this.notes.values()].filter(isShown).sort(inOrder)
  }

  /** The number of notes with changes that the relay has not confirmed. */
  get owing() {
    if (!this.#deletions) return 0
    const deleting = this.#deletions.all()
    const counts = id => this.notes.get(id)?.state !== "gone" && !deleting.has(id)
    return this.#owed.all().filter(counts).length
  }

  create(content) {
    return this.#documents.create(content)
  }

  /** Opens a note by its id, whether the relay listed it or not. */
  get(id) {
    const note = this.note(id)
    this.#documents.look(note)
    return note
  }

  /** Loads the titles of these notes first. */
  want(notes) {
    this.#titles?.want(notes)
  }

  goOffline() {
    this.#offline.value = ""
    this.link.disconnect()
  }

  goOnline() {
    this.#offline.value = null
    this.link.connect()
    void this.look()
  }

  /** Writes unsaved changes to the browser's storage. */
  flush() {
    return this.#documents?.flush()
  }

  // Deletion, here and elsewhere.

  /** Deletes a note after a delay, unless the deletion is undone. */
  delete(note) {
    this.#deletions.delete(note)
  }

  undelete(note) {
    this.#deletions.undelete(note)
  }

  /** Creates a new note from a deleted one. */
  saveAsNew(note) {
    return this.#deletions.saveAsNew(note)
  }

  /** Discards the orphaned edits of a deleted note. */
  discard(note) {
    return this.#deletions.discard(note)
  }

  /** The page is left. */
  leave() {
    if (!this.link) return
    this.#deletions.leave()
    void this.#titles.save().catch(() => {})
    void this.flush()
  }

  /** The relay reported a note as unavailable: it was deleted, or the relay cannot read it. */
  async #refused(id) {
    const note = this.notes.get(id)
    if (note?.state !== "ready") return
    await this.look()
    if (note.state === "ready" && note.offset === 0) await this.#deletions.lost(note)
  }

  // Queries and callbacks of the notebook's modules.

  /** The note of an id; creates an entry if it is unknown. */
  note(id) {
    if (!this.notes.has(id)) this.notes.set(id, new Note(id))
    return this.notes.get(id)
  }

  /** Whether the link is up. */
  get isUp() {
    return Boolean(this.link?.up)
  }

  /** The relay's storage id, once connected. */
  get storageId() {
    return this.link?.storageId
  }

  /** The offset up to which the relay's log has been read. */
  get head() {
    return this.#log.cursor?.head ?? 0
  }

  isSafe(handle) {
    return this.#documents.isSafe(handle)
  }

  dropWithCopy(note) {
    this.#deletions.dropWithCopy(note)
  }

  /** The relay refused to delete a note. */
  notDeleted(note) {
    this.#tell("undeleted", note)
  }

  /** The note's place in the list may have changed. */
  changed(note) {
    this.#order = null
    this.toDraw(note)
  }

  toDraw(note) {
    this.#tell("notes", note)
  }

  // The relay's list.

  /** Requests news from the relay. */
  look() {
    return this.#log.look()
  }

  /** Checks that the answering relay is the known one; else reloads the page. */
  async #meet(relay) {
    if (!this.link) await this.#begin(relay)
    if (relay === this.#relay) return
    this.#lastRelay.value = relay
    location.reload()
    throw new Error("the address leads to another relay")
  }

  /** The relay's list was read completely: notes that it lacks were deleted. */
  #wholeRead(found) {
    const notes = [...this.notes.values()].filter(note => note.offset > 0 && !found.has(note.id))
    this.complete = true
    return Promise.all(notes.map(note => this.#deletions.lost(note)))
  }

  async #logRead() {
    try {
      await this.#titles.save()
      this.#read.value = JSON.stringify(this.#log.cursor)
    } catch {
      // A browser without storage requests the whole list the next time.
    }
    this.#titles.run(this.link.up)
  }

  /** The relay lists the note, with its last entry at an offset. */
  #heard(note, offset) {
    if (note.orphan || (note.offset === offset && note.state !== "gone")) return
    // Deletions are permanent: a listed note was not deleted.
    if (note.state === "gone") Object.assign(note, { state: "listed", handle: null, view: null })
    note.rank = this.#owed.has(note.id) ? Math.max(note.rank, offset) : offset
    note.offset = offset
    // An open document receives its changes through automerge-repo.
    if (note.state === "ready") note.seen = offset
    if (note.state === "missing") note.state = "listed"
    this.#documents.heard(note)
    this.#titles.changed(note)
    this.#order = null
  }
}
