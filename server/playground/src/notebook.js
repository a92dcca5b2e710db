// The notes of one space: which there are, what they hold, and what of them the relay has. It
// knows the relay and automerge-repo; it must not know the page.

import { Repo } from "@automerge/automerge-repo/slim"
import { IndexedDBStorageAdapter } from "@automerge/automerge-repo-storage-indexeddb"

import { contentOf, copy, keep, kept, takeStored } from "./kept.js"
import { Link } from "./link.js"
import { Log } from "./log.js"
import { fresh, inOrder, read, summary } from "./note.js"
import { News, remove } from "./relay.js"
import { Fact, Ids, Owed, Shelf } from "./stored.js"
import { LINGER_MS, Titles } from "./titles.js"

/** How long a deletion can be taken back. */
export const UNDO_MS = 10_000
/** How long somebody who types must rest before it is looked whether all is stored. */
const KEEP_AFTER_MS = 250
/** How long another page of this notebook may take to send what it has, before this one helps. */
const HELP_AFTER_MS = 5_000
/** Notes whose documents stay in memory after they were looked at. */
const OPEN_MOST = 8

/**
 * A note. `state` is `listed` (its document is not in memory), `loading`, `ready`, `missing` (the relay
 * did not give it) or `gone` (deleted by somebody); `offset` the place of its last entry in the relay's
 * log, 0 while the relay lists none; `rank` its place in the list; `summary` what the list shows, as of the
 * offset `seen`; `view` what it holds; `kept` whether this browser has stored all of it, `safe` whether the
 * relay has; `orphan` whether it is gone and holds work that only this browser has, `isKept` whether that is stored.
 */
class Note {
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

export class Notebook {
  /** All notes that are known of, by id. */
  notes = new Map()
  /** Whether the relay has said which notes there are, all of them. */
  complete = false
  /** The way to the relay, once it is known which relay that is. */
  link = null
  #place
  #tell
  #repo
  #shelf
  #news
  #titles
  /** Notes that were edited here and that the relay is not known to have: they are opened at the start. */
  #owed
  /** Notes that the user deleted here and that the relay is still to delete. */
  #deleting
  #offline
  #lastRelay
  #relay = null
  #log
  #read
  /** Notes that are open, those that were looked at last at the end. */
  #recent = []
  #order = null

  /** `tell(what, note)` hears of what changed: `begun`, `notes`, `link`, `heard` from the relay, `undeleted`. */
  constructor(place, tell) {
    this.#place = place
    this.#tell = tell
    this.#lastRelay = new Fact(`landfall-relay/${place.relay}`)
    this.#log = new Log(place, {
      meet: relay => this.#meet(relay),
      listed: (id, offset) => this.#heard(this.#note(id), offset),
      deleted: id => this.notes.has(id) && this.#lost(this.#note(id)),
      whole: found => this.#wholeRead(found),
      read: () => this.#logRead(),
      page: () => tell("notes"),
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
    this.#owed.listen((id, isThere) => this.#owedElsewhere(id, isThere))
    this.#deleting = new Ids(`${name}/deleting/`)
    this.#offline = new Fact(`${name}/offline`)
    this.#read = new Fact(`${name}/read`)
    this.#shelf = new Shelf(`${name}/page`)
    this.#repo = new Repo({ storage: new IndexedDBStorageAdapter(name) })
    this.#repo.on("doc-metrics", event => {
      if (event.type === "receive-sync-message") this.#tell("heard", this.notes.get(event.documentId))
    })
    const refused = id => void this.#refused(id)
    const link = new Link(this.#repo, this.#place.socket, () => this.#linkChanged(), refused)
    this.#news = new News(this.#place, () => void this.look())
    this.#titles = new Titles(this.#repo, this.#shelf, this)
    await this.#recall()
    this.link = link
    for (const id of this.#owed.all()) this.#help(id)
    if (this.#offline.value === null) this.link.connect()
    this.#tell("begun")
  }

  /** What this browser knows of the notes. */
  async #recall() {
    try {
      const [titles, rescued] = await Promise.all([this.#shelf.titles(), this.#shelf.kept()])
      for (const { id, ...known } of titles) Object.assign(this.#note(id), known)
      for (const row of rescued) {
        const note = Object.assign(this.#note(row.id), kept(row))
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
      for (const id of this.#deleting.all()) this.#deleteSoon(this.#note(id))
      for (const note of this.#recent) if (note.state === "missing") this.#open(note)
    }
    this.#titles.run(up)
    this.#tell("link")
  }

  /** All notes that are shown, in the list's order. */
  list() {
    this.#order ??= [...this.notes.values()].filter(note => this.#isShown(note)).sort(inOrder)
    return this.#order
  }

  #isShown(note) {
    if (note.state === "gone") return note.orphan
    // What was only looked for, by a link, has no rank.
    return (note.rank > 0 || note.state === "ready") && !this.isDeleting(note)
  }

  isDeleting({ id }) {
    return this.#deleting.has(id)
  }

  /** How many notes hold changes that the relay is not known to have. */
  get owing() {
    const counts = id => this.notes.get(id)?.state !== "gone" && !this.#deleting.has(id)
    return this.#owed?.all().filter(counts).length ?? 0
  }

  create(content = fresh()) {
    const handle = this.#repo.create(content)
    this.#owed.add(handle.documentId)
    const note = this.#note(handle.documentId)
    this.#edited(note)
    this.#ready(note, handle)
    this.#keep(note)
    // The list must know of it even if the page is closed at once.
    void this.#titles.save().catch(() => {})
    return note
  }

  /** Opens one by its id, whether the relay listed it or not. */
  get(id) {
    const note = this.#note(id)
    if (note.state === "listed") this.#open(note)
    this.#recent = [...this.#recent.filter(other => other !== note), note]
    this.#shrink()
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
    return this.#repo?.flush().catch(() => {})
  }

  // Deletion, here and elsewhere.

  /** Deletes a note after a while, unless that is taken back. */
  delete(note) {
    this.#deleting.put(note.id, String(Date.now() + UNDO_MS))
    note.isDeletedHere = true
    this.#deleteSoon(note)
    this.#changed(note)
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
    this.#changed(note)
  }

  /** What can still be taken back is done now: the page is left. */
  leave() {
    if (!this.link) return
    for (const id of this.#deleting.all()) {
      // Those of another page of this notebook can still be taken back there.
      if (!this.notes.get(id)?.isDeletedHere) continue
      this.#deleting.put(id, "0")
      if (this.link.up) void remove(this.#place, id, true).catch(() => {})
    }
    void this.#titles.save().catch(() => {})
    void this.flush()
  }

  async #deleteNow(id) {
    // Taken back, here or on another page of this notebook.
    if (!this.link.up || !this.#deleting.has(id)) return
    try {
      await remove(this.#place, id)
      if (this.#deleting.has(id)) this.#forget(id)
    } catch {
      // Without the relay it waits; a relay that does not want to is told.
      if (!this.link.up || !this.#deleting.has(id)) return
      this.#deleting.drop(id)
      this.#changed(this.#note(id))
      this.#tell("undeleted", this.#note(id))
    }
  }

  /** The user let go of a note: nothing of it stays. */
  #forget(id) {
    const note = this.#note(id)
    this.#deleting.drop(id)
    this.#owed.drop(id)
    note.state = "gone"
    this.#drop(note)
  }

  /** The relay had it and has it no more: somebody deleted it, for good. */
  async #lost(note) {
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
    this.#changed(note)
    if (owed) return this.#shelve(note)
    if (note.handle) this.#dropWithCopy(note)
  }

  /** Nothing is lost with it: but while it is on the screen, it can still be saved. */
  #dropWithCopy(note) {
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
    const made = this.create(contentOf(note))
    note.orphan = false
    // Only once the new one is stored.
    this.#repo.flush([made.id]).then(() => this.discard(note), () => {})
    return made
  }

  /** Lets go of what was kept of a note that is gone. */
  async discard(note) {
    note.orphan = false
    this.#changed(note)
    await this.#shelf.letGo(note.id).catch(() => {})
  }

  /** The document is of no use any more. What is shown of it may stay. */
  #drop(note) {
    this.#titles.forget(note)
    this.#repo.delete(note.id)
    this.#changed(note)
  }

  /** Of a note that we have, the relay says so if it was deleted: or if it cannot read it. */
  async #refused(id) {
    const note = this.notes.get(id)
    if (note?.state !== "ready") return
    await this.look()
    if (note.state === "ready" && note.offset === 0) await this.#lost(note)
  }

  // Documents.

  #note(id) {
    if (!this.notes.has(id)) this.notes.set(id, new Note(id))
    return this.notes.get(id)
  }

  #open(note) {
    note.state = "loading"
    this.#repo.find(note.id).then(
      handle => this.#ready(note, handle),
      () => {
        if (note.state === "loading") note.state = "missing"
        this.#changed(note)
      }
    )
  }

  #ready(note, handle) {
    if (note.handle) return
    note.handle = handle
    if (note.state === "gone") {
      // It was heard of before the note was read. What is owed is being kept.
      if (!note.orphan) this.#dropWithCopy(note)
      return
    }
    note.state = "ready"
    this.#order = null
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

  /** Was edited here just now: it comes first until the relay says what its place is. */
  #edited(note) {
    note.edited = Date.now()
    const rank = (this.#log.cursor?.head ?? 0) + 0.5
    if (note.rank >= rank) return
    note.rank = rank
    this.#order = null
  }

  /** The repo stores what changed by itself; this is to know when it has. */
  #keep(note) {
    note.kept = false
    clearTimeout(note.keeping)
    note.keeping = setTimeout(async () => {
      if (note.state !== "ready") return
      const stored = String(note.handle.heads())
      const flushed = this.#repo.flush([note.id])
      const done = await flushed.then(() => true, () => false)
      note.kept = done && note.state === "ready" && String(note.handle.heads()) === stored
      this.#tell("notes", note)
    }, KEEP_AFTER_MS)
  }

  #refresh(note) {
    if (note.state !== "ready") return
    note.view = read(note.handle.doc())
    note.summary = summary(note.view)
    note.safe = this.isSafe(note.handle)
    if (note.safe) this.#owed.remove(note.id)
    this.#titles.changed(note)
    this.#tell("notes", note)
  }

  /** Whether the relay has all of a document: it tells only heads that are on its disk. */
  isSafe(handle) {
    const theirs = this.link?.storageId && handle.getSyncInfo(this.link.storageId)?.lastHeads
    const ours = handle.heads()
    return Boolean(theirs) && theirs.length === ours.length && ours.every(head => theirs.includes(head))
  }

  /** Another page of this notebook has something for the relay, or thinks that it has not. */
  #owedElsewhere(id, isThere) {
    const note = this.notes.get(id)
    if (!isThere && note?.state === "ready" && !note.safe && note.edited > 0) this.#owed.add(id)
    // That page may be closed before it has sent it.
    if (isThere) setTimeout(() => this.#owed.has(id) && this.#help(id), HELP_AFTER_MS)
    this.#tell("notes")
  }

  /** Sends what another page of this browser has stored for the relay. */
  #help(id) {
    const note = this.#note(id)
    this.#owed.take(id)
    if (note.state === "listed" || note.state === "missing") this.#open(note)
    else if (note.state === "ready") void takeStored(this.#repo, note.handle).then(() => this.#refresh(note))
  }

  /** Lets go of documents that nobody looks at and the relay has. */
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

  // The relay's list.

  /** What the list shows of a note has become known. */
  titleLoaded(note) {
    this.#tell("notes", note)
  }

  #changed(note) {
    this.#order = null
    this.#tell("notes", note)
  }

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
    throw new Error("another relay")
  }

  /** The relay has listed all that there is. */
  #wholeRead(found) {
    const notes = [...this.notes.values()].filter(note => note.offset > 0 && !found.has(note.id))
    this.complete = true
    return Promise.all(notes.map(note => this.#lost(note)))
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
    // Somebody looks at it, and waits.
    if (note.state === "listed" && this.#recent.includes(note)) this.#open(note)
    this.#titles.changed(note)
    this.#order = null
  }
}
