// The notes of one space: which there are, what they hold, and what of them the relay has. It
// knows the relay and automerge-repo; it must not know the page.

import { parseAutomergeUrl, Repo } from "@automerge/automerge-repo/slim"
import { IndexedDBStorageAdapter } from "@automerge/automerge-repo-storage-indexeddb"

import { Link } from "./link.js"
import { fresh, inOrder, read } from "./note.js"

/** Ids asked for at once; the relay gives no more. */
const PAGE = 1_000
/** More notes are not looked for: a playground is no archive. */
const NOTES_MOST = 10_000
/** Notes that are opened without being asked for. */
const OPEN_FIRST = 100
/** How often the relay is asked which notes there are: it announces none by itself. */
const LOOK_EVERY_MS = 2_000

/** How long somebody who types must rest before it is looked whether all is stored. */
const KEEP_AFTER_MS = 250

/**
 * A note: `state` is `loading`, `ready`, `missing` (the relay did not give it) or `gone` (deleted
 * by somebody); `view` what it holds; `kept` whether this browser has stored all of it, `safe` whether
 * the relay has.
 */
class Note {
  state = "loading"
  view = null
  kept = true
  safe = false
  handle = null

  constructor(id) {
    this.id = id
  }
}

export class Notebook {
  /** Ids that the relay lists, notes or not. */
  known = new Set()
  /** Those that are open, by id. */
  notes = new Map()
  #place
  #tell
  #repo
  #owed
  #limit = OPEN_FIRST
  #timer = null
  #relay = null

  /** The relay did not answer when it was asked last. */
  deaf = false
  /** The way to the relay, once it has been reached for the first time. */
  link = null

  /** `tell(what, note)` hears of what changed: `begun`, `notes`, `link`, `heard` from the relay. */
  constructor(place, tell) {
    this.#place = place
    this.#tell = tell
    void this.#look()
  }

  /** Everything here is of one relay and one space: another relay is another notebook. */
  #begin(relay) {
    const name = `landfall/${relay}/${this.#place.space}`
    this.#owed = new Owed(`${name}/owed/`)
    this.#repo = new Repo({ storage: new IndexedDBStorageAdapter(name) })
    this.#repo.on("doc-metrics", event => {
      if (event.type === "receive-sync-message") this.#tell("heard", this.notes.get(event.documentId))
    })
    // Of a note that we have, the relay says this only if somebody deleted it.
    const refused = id => this.notes.get(id)?.state === "ready" && this.#lost(id)
    this.link = new Link(this.#repo, this.#place.socket, () => this.#linkChanged(), refused)
    for (const id of this.#owed.ids()) this.#open(id)
    this.link.connect()
    this.#tell("begun")
  }

  #linkChanged() {
    this.#tell("link")
    if (this.link.up) void this.#look()
  }

  /** All open notes, in the list's order. */
  list() {
    const there = note => note.state === "ready" || (note.state !== "gone" && this.known.has(note.id))
    return [...this.notes.values()].filter(there).sort(inOrder)
  }

  /** Notes whose changes the relay is not known to have. */
  get owing() {
    return this.list().filter(note => note.state === "ready" && !note.safe).length
  }

  /** How many notes are known and not open. */
  get unopened() {
    return [...this.known].filter(id => !this.notes.has(id)).length
  }

  more() {
    this.#limit += OPEN_FIRST
    this.#openListed()
  }

  create() {
    const handle = this.#repo.create(fresh())
    this.#owed.add(handle.documentId)
    const note = this.#open(handle.documentId)
    this.#ready(note, handle)
    this.#keep(note)
    return note
  }

  /** Opens one by its id, whether the relay listed it or not. */
  get(id) {
    return this.notes.get(id) ?? this.#open(id)
  }

  goOffline() {
    this.link.disconnect()
  }

  goOnline() {
    this.link.connect()
    void this.#look()
  }

  /** Writes what the browser has not stored yet. */
  flush() {
    return this.#repo?.flush().catch(() => {})
  }

  #open(id) {
    const note = new Note(id)
    this.notes.set(id, note)
    this.#find(note)
    return note
  }

  #find(note) {
    this.#repo.find(note.id).then(
      handle => this.#ready(note, handle),
      () => {
        if (note.state !== "ready") note.state = "missing"
        this.#tell("notes", note)
      }
    )
  }

  #ready(note, handle) {
    if (note.handle) return
    note.handle = handle
    note.state = "ready"
    handle.on("change", ({ patchInfo }) => {
      if (patchInfo.source !== "receiveSyncMessage") this.#owed.add(note.id)
      this.#keep(note)
      this.#refresh(note)
    })
    handle.on("remote-heads", () => this.#refresh(note))
    this.#refresh(note)
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
    note.safe = this.#isSafe(note.handle)
    if (note.safe) this.#owed.remove(note.id)
    this.#tell("notes", note)
  }

  /** The relay tells only heads that are on its disk. */
  #isSafe(handle) {
    const theirs = this.link.storageId && handle.getSyncInfo(this.link.storageId)?.lastHeads
    const ours = handle.heads()
    return Boolean(theirs) && theirs.length === ours.length && ours.every(head => theirs.includes(head))
  }

  /** Asks the relay which notes there are, and opens those that are new. */
  async #look() {
    clearTimeout(this.#timer)
    try {
      if (!this.link || this.link.online) await this.#learn()
      this.deaf = false
    } catch {
      // It is tried again.
      this.deaf = true
    }
    this.#tell("notes")
    const pages = Math.ceil((this.known.size + 1) / PAGE)
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#look(), LOOK_EVERY_MS * pages)
  }

  async #learn() {
    const { relay, documents, complete } = await listing(this.#place)
    if (!this.link) this.#begin(relay)
    // Another relay under the same address is another notebook.
    else if (relay !== this.#relay) location.reload()
    this.#relay = relay
    const before = this.known
    this.known = new Set(documents)
    for (const id of before) if (complete && !this.known.has(id)) this.#lost(id)
    this.#openListed()
  }

  /** The relay had it and has it no more: somebody deleted it, for good. */
  #lost(id) {
    const note = this.notes.get(id)
    if (!note) return
    note.state = "gone"
    this.#owed.remove(id)
    this.#repo.delete(id)
    this.#tell("notes", note)
  }

  #openListed() {
    for (const id of this.known) {
      const note = this.notes.get(id)
      if (!note && this.notes.size < this.#limit) this.#open(id)
      else if (note?.state === "missing" && this.link.up) this.#find(note)
    }
    this.#tell("notes")
  }
}

/** All ids of the space, unless there are too many. */
async function listing({ documents: address, space }) {
  const found = { relay: null, documents: [], complete: false }
  let after = null
  do {
    const query = new URLSearchParams({ space, limit: PAGE, ...(after && { after }) })
    const answer = await fetch(`${address}?${query}`, { cache: "no-store" })
    if (!answer.ok) throw new Error(await answer.text())
    const page = await answer.json()
    found.relay = page.relay
    found.documents.push(...page.documents.map(url => parseAutomergeUrl(url).documentId))
    after = page.next
    found.complete = !after
  } while (after && found.documents.length < NOTES_MOST)
  return found
}

/** Notes that were edited here and that the relay is not known to have: they are opened at the start. */
class Owed {
  #prefix

  constructor(prefix) {
    this.#prefix = prefix
  }

  ids() {
    const mine = Object.keys(localStorage).filter(key => key.startsWith(this.#prefix))
    return mine.map(key => key.slice(this.#prefix.length))
  }

  add(id) {
    localStorage.setItem(this.#prefix + id, "")
  }

  remove(id) {
    localStorage.removeItem(this.#prefix + id)
  }
}
