// What the page asks of the relay by HTTP: which notes there are, and to delete one. It must not know
// what a note is.

/** Ids of the first answer: a screen of them, at once. */
const FIRST_PAGE = 100
/** Ids of each further answer; the relay gives no more. */
const PAGE = 1_000
/** What stands before an id in a document's address. Their checksums are looked at by whoever opens one. */
const SCHEME = "automerge:"
/** How long until the stream of news is tried again. */
const AGAIN_MS = 3_000

/**
 * What was changed behind an offset, newest first: `page(found)` for each answer, with
 * `found.documents` as `{ id, offset, deleted }`. Resolves to the first answer, which says how far
 * the log reached.
 */
export async function listing({ documents, space }, since, page) {
  let [before, first, limit] = [null, null, FIRST_PAGE]
  do {
    const query = new URLSearchParams({ space, limit, ...(since && { since }), ...(before && { before }) })
    const answer = await fetch(`${documents}?${query}`, { cache: "no-store" })
    if (!answer.ok) throw new Error(await answer.text())
    const found = await answer.json()
    found.documents = found.documents.map(({ url, ...rest }) => ({ id: url.slice(SCHEME.length), ...rest }))
    first ??= found
    // Another log meanwhile: what was read does not fit together.
    if (found.relay !== first.relay || found.epoch !== first.epoch) throw new Error("the relay's log was replaced")
    await page(found)
    before = found.next
    limit = PAGE
  } while (before !== null)
  return first
}

/** Has the relay delete a note, for good. With `leaving`, also if the page is closed meanwhile. */
export async function remove({ documents, space }, id, leaving = false) {
  const query = new URLSearchParams({ space })
  const answer = await fetch(`${documents}/${id}?${query}`, { method: "DELETE", keepalive: leaving })
  // One that never came there is as good as deleted.
  if (!answer.ok && answer.status !== 404) throw new Error(await answer.text())
}

/** Hears that the log has grown, while the page can be seen and the relay is there. */
export class News {
  #address
  #tell
  #stream = null
  #wanted = false
  #timer = null

  /** `tell()` is called when there may be something new: also after each interruption. */
  constructor({ live, space }, tell) {
    this.#address = `${live}?${new URLSearchParams({ space })}`
    this.#tell = tell
    // A browser opens six connections to a relay: pages that nobody sees leave them to others.
    document.addEventListener("visibilitychange", () => this.#turn())
  }

  listen(wanted) {
    this.#wanted = wanted
    this.#turn()
  }

  #turn() {
    const wanted = this.#wanted && !document.hidden
    if (wanted === Boolean(this.#stream)) return
    clearTimeout(this.#timer)
    if (wanted) return this.#open()
    this.#stream.close()
    this.#stream = null
  }

  #open() {
    this.#stream = new EventSource(this.#address)
    this.#stream.onopen = this.#stream.onmessage = () => this.#tell()
    this.#stream.onerror = () => {
      // The relay ends it now and then, and the browser opens it again by itself.
      if (this.#stream?.readyState !== EventSource.CLOSED) return
      this.#stream = null
      this.#timer = setTimeout(() => {
        this.#tell()
        this.#turn()
      }, AGAIN_MS)
    }
  }
}
