// What the browser keeps of a notebook beside its documents: small facts at once (localStorage), what
// is known of all notes and what must not be lost in a database of its own. No automerge here.

/** This page, among others of the same notebook. */
const PAGE = crypto.getRandomValues(new Uint32Array(2)).join("-")

/** A value of the page, by a name. */
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
 * A value for some notes that survives a reload at once: what is put is there before the call returns. All
 * pages of the same notebook share it.
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

  /** Hears what other pages put and drop: `heard(id, isThere)`. */
  listen(heard) {
    addEventListener("storage", ({ key, newValue }) => {
      if (key?.startsWith(this.#prefix)) heard(key.slice(this.#prefix.length), newValue !== null)
    })
  }
}

/** Notes that hold something for the relay, each with the page that has it. */
export class Owed extends Ids {
  /** This page has something. */
  add(id) {
    this.put(id, PAGE)
  }

  /** This page has what another one had. */
  take(id) {
    if (this.has(id)) this.add(id)
  }

  /** The relay has all that this page has. Another one may have more. */
  remove(id) {
    if (this.value(id) === PAGE) this.drop(id)
  }
}

/** Rows that are put at a time: a browser does nothing else meanwhile. */
const PUT_AT_ONCE = 200
/** What the list shows of each note. */
const TITLES = "titles"
/** Deleted notes with work of this browser that nobody else has: `{ id, bytes, title, body }`. */
const KEPT = "kept"

/** The page's own database of a notebook. */
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

  /** Puts what is known of some notes, and takes others out. */
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

  /** Resolves once it is on the browser's disk. */
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
