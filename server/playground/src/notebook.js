// The notes of one space: which there are, in which order, and who does what with them. It knows the relay
// and automerge-repo; it must not know the page.

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
  /** All notes that are known of, by id. */
  notes = new Map()
  /** Whether the relay has said which notes there are, all of them. */
  complete = false
  /** The way to the relay, once it is known which relay that is. */
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
   * `automerge` resolves when that can be used; until then the relay is asked what there is. `tell(what, note)`
   * hears of what changed: `begun`, `notes`, `link`, `heard` from the relay, `undeleted`.
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
      // The first screen comes before all that nobody sees yet.
      first: () => this.#titles.shown(),
      looked: () => {
        tell("notes")
        return Boolean(this.link)
      },
    })
  }

  /** The relay did not answer when it was asked last. */
  get deaf() {
    return this.#log.deaf
  }

  /** Begins with what this browser knows; the relay need not be there. */
  async start() {
    const relay = this.#lastRelay.value
    if (relay) await this.#begin(relay)
    if (!this.link || this.link.online) await this.look()
  }

  /** Everything here is of one relay and one space: another relay is another notebook. */
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

  /** What this browser knows of the notes. */
  async #recall() {
    try {
      const [titles, rescued] = await Promise.all([this.#shelf.titles(), this.#shelf.kept()])
      for (const { id, ...known } of titles) Object.assign(this.note(id), known)
      for (const row of rescued) {
        const note = Object.assign(this.note(row.id), kept(row))
        // The page may have been closed between the two.
        this.#titles.forget(note)
      }
      this.#log.cursor = JSON.parse(this.#read.value)
    } catch {
      // A browser that keeps nothing: all of it is asked for.
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

  /** All notes that are shown, in the list's order. */
  list() {
    this.#order ??= this.#inOrder()
    return this.#order
  }

  #inOrder() {
    const deleting = this.#deletions?.all() ?? new Set()
    // What was only looked for, by a link, has no rank.
    const isThere = note => (note.rank > 0 || note.state === "ready") && !deleting.has(note.id)
    const isShown = note => (note.state === "gone" ? note.orphan : isThere(note))
    return [...this.notes.values()].filter(isShown).sort(inOrder)
  }

  /** How many notes hold changes that the relay is not known to have. */
  get owing() {
    if (!this.#deletions) return 0
    const deleting = this.#deletions.all()
    const counts = id => this.notes.get(id)?.state !== "gone" && !deleting.has(id)
    return this.#owed.all().filter(counts).length
  }

  create(content) {
    return this.#documents.create(content)
  }

  /** Opens one by its id, whether the relay listed it or not. */
  get(id) {
    const note = this.note(id)
    this.#documents.look(note)
    return note
  }

  /** Loads what the list shows of these first. */
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

  /** Writes what the browser has not stored yet. */
  flush() {
    return this.#documents?.flush()
  }

  // Deletion, here and elsewhere.

  /** Deletes a note after a while, unless that is taken back. */
  delete(note) {
    this.#deletions.delete(note)
  }

  undelete(note) {
    this.#deletions.undelete(note)
  }

  /** Makes a new note of one that is gone. */
  saveAsNew(note) {
    return this.#deletions.saveAsNew(note)
  }

  /** Lets go of what was kept of a note that is gone. */
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

  /** Of a note that we have, the relay says so if it was deleted: or if it cannot read it. */
  async #refused(id) {
    const note = this.notes.get(id)
    if (note?.state !== "ready") return
    await this.look()
    if (note.state === "ready" && note.offset === 0) await this.#deletions.lost(note)
  }

  // What the parts of this ask and tell.

  /** The note of an id, whether or not it was known. */
  note(id) {
    if (!this.notes.has(id)) this.notes.set(id, new Note(id))
    return this.notes.get(id)
  }

  /** Whether the relay is there. */
  get isUp() {
    return Boolean(this.link?.up)
  }

  /** The relay's name for its storage, once it is there. */
  get storageId() {
    return this.link?.storageId
  }

  /** How far the relay's log was read. */
  get head() {
    return this.#log.cursor?.head ?? 0
  }

  isSafe(handle) {
    return this.#documents.isSafe(handle)
  }

  dropWithCopy(note) {
    this.#deletions.dropWithCopy(note)
  }

  /** The relay did not delete a note that it was to delete. */
  notDeleted(note) {
    this.#tell("undeleted", note)
  }

  /** Its place in the list may be another. */
  changed(note) {
    this.#order = null
    this.toDraw(note)
  }

  toDraw(note) {
    this.#tell("notes", note)
  }

  // The relay's list.

  /** Asks the relay what is new. */
  look() {
    return this.#log.look()
  }

  /** The relay that answers is the one that we know. */
  async #meet(relay) {
    if (!this.link) await this.#begin(relay)
    if (relay === this.#relay) return
    this.#lastRelay.value = relay
    location.reload()
    throw new Error("the address leads to another relay")
  }

  /** The relay has listed all that there is. */
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
      // A browser that keeps nothing asks for all of it the next time.
    }
    this.#titles.run(this.link.up)
  }

  /** The relay lists it, with its last entry at an offset. */
  #heard(note, offset) {
    if (note.orphan || (note.offset === offset && note.state !== "gone")) return
    // A deletion is for good: what is listed was not deleted.
    if (note.state === "gone") Object.assign(note, { state: "listed", handle: null, view: null })
    note.rank = this.#owed.has(note.id) ? Math.max(note.rank, offset) : offset
    note.offset = offset
    // What is open hears of each change by itself.
    if (note.state === "ready") note.seen = offset
    if (note.state === "missing") note.state = "listed"
    this.#documents.heard(note)
    this.#titles.changed(note)
    this.#order = null
  }
}
