// The page's HTTP requests to the relay: the list of notes, and deletion. Must not depend on the content of
// notes.

/** Ids in the first answer: about a screen, for a fast start. */
const FIRST_PAGE = 100
/** Ids in each further answer, the relay's maximum. */
const PAGE = 1_000
/** The prefix of a document's URL. Opening a document checks the id's checksum. */
const SCHEME = "automerge:"
/** How long until the event stream is opened again. */
const AGAIN_MS = 3_000

/**
 * Lists the documents changed after an offset, newest first: calls `page(found)` for each answer, with
 * `found.documents` as `{ id, offset, deleted }`. Resolves to the first answer, which contains the head
 * of the log.
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
    // The log was replaced between two answers: they do not belong together.
    if (found.relay !== first.relay || found.epoch !== first.epoch) throw new Error("the relay's log was replaced")
    await page(found)
    before = found.next
    limit = PAGE
  } while (before !== null)
  return first
}

/** Permanently deletes a note at the relay. With `leaving`, the request survives the page. */
export async function remove({ documents, space }, id, leaving = false) {
  const query = new URLSearchParams({ space })
  const answer = await fetch(`${documents}/${id}?${query}`, { method: "DELETE", keepalive: leaving })
  // A note that never reached the relay counts as deleted.
  if (!answer.ok && answer.status !== 404) throw new Error(await answer.text())
}

/** Watches for growth of the log, while the page is visible and the link is up. */
export class News {
  #address
  #tell
  #stream = null
  #wanted = false
  #timer = null

  /** Calls `tell()` when there may be news, also after each interruption. */
  constructor({ live, space }, tell) {
    this.#address = `${live}?${new URLSearchParams({ space })}`
    this.#tell = tell
    // A browser opens at most six connections to a relay: hidden pages release theirs.
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
      // The relay ends the stream now and then, and the browser reopens it.
      if (this.#stream?.readyState !== EventSource.CLOSED) return
      this.#stream = null
      this.#timer = setTimeout(() => {
        this.#tell()
        this.#turn()
      }, AGAIN_MS)
    }
  }
}
