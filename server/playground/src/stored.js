// What the browser stores of a notebook beside its documents: small facts synchronously (localStorage), the
// titles of all notes and the orphaned edits in a separate database. Must not use automerge.

/** This page, among others of the same notebook. */
const PAGE = crypto.getRandomValues(new Uint32Array(2)).join("-")

/** A named value in localStorage. */
export class Fact {
  #key

  constructor(key) {
    this.#key = key
  }

  get value() {
    return localStorage.getItem(this.#key)
  }

  set value(value) {
    if (value === null) localStorage.removeItem(this.#key)
    else localStorage.setItem(this.#key, value)
  }
}

/**
 * Values for note ids that survive a reload: `put` is synchronous. All pages of the same notebook share
 * them.
 */
export class Ids {
  #prefix

  constructor(prefix) {
    this.#prefix = prefix
  }

  all() {
    const mine = Object.keys(localStorage).filter(key => key.startsWith(this.#prefix))
    return mine.map(key => key.slice(this.#prefix.length))
  }

  has(id) {
    return this.value(id) !== null
  }

  value(id) {
    return localStorage.getItem(this.#prefix + id)
  }

  put(id, value) {
    if (this.value(id) !== value) localStorage.setItem(this.#prefix + id, value)
  }

  drop(id) {
    localStorage.removeItem(this.#prefix + id)
  }

  /** Calls `heard(id, isThere)` when another page puts or drops an id. */
  listen(heard) {
    addEventListener("storage", ({ key, newValue }) => {
      if (key?.startsWith(this.#prefix)) heard(key.slice(this.#prefix.length), newValue !== null)
    })
  }
}

/** Notes with changes that the relay has not confirmed, each with the page that has them. */
export class Owed extends Ids {
  /** This page has unconfirmed changes of the note. */
  add(id) {
    this.put(id, PAGE)
  }

  /** This page takes over the changes from another page. */
  take(id) {
    if (this.has(id)) this.add(id)
  }

  /** The relay has confirmed this page's changes. Another page may have more. */
  remove(id) {
    if (this.value(id) === PAGE) this.drop(id)
  }
}

/** Rows written per transaction: the browser is blocked during each. */
const PUT_AT_ONCE = 200
/** The list's row of each note. */
const TITLES = "titles"
/** Deleted notes with orphaned edits, which only this browser has: `{ id, bytes, title, body }`. */
const KEPT = "kept"

/** The page's database of a notebook. */
export class Shelf {
  #database

  constructor(name) {
    this.#database = new Promise((resolve, reject) => {
      const request = indexedDB.open(name, 1)
      request.onupgradeneeded = () => {
        for (const store of [TITLES, KEPT]) request.result.createObjectStore(store, { keyPath: "id" })
      }
      request.onsuccess = () => resolve(request.result)
      request.onerror = () => reject(request.error)
    })
    this.#database.catch(() => {})
  }

  titles() {
    return this.#run(TITLES, "readonly", store => store.getAll())
  }

  /** Writes the rows of some notes, and deletes others. */
  async putTitles(rows, gone) {
    await this.#run(TITLES, "readwrite", store => {
      rows.slice(0, PUT_AT_ONCE).forEach(row => store.put(row))
      gone.forEach(id => store.delete(id))
    })
    if (rows.length > PUT_AT_ONCE) await this.putTitles(rows.slice(PUT_AT_ONCE), [])
  }

  kept() {
    return this.#run(KEPT, "readonly", store => store.getAll())
  }

  /** Resolves once the row is on the browser's disk. */
  keep(row) {
    return this.#run(KEPT, "readwrite", store => store.put(row), { durability: "strict" })
  }

  letGo(id) {
    return this.#run(KEPT, "readwrite", store => store.delete(id))
  }

  async #run(name, mode, work, options) {
    const database = await this.#database
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(name, mode, options)
      const request = work(transaction.objectStore(name))
      transaction.oncomplete = () => resolve(request?.result)
      transaction.onerror = transaction.onabort = () => reject(transaction.error)
    })
  }
}
