// The relay's list of a space: read completely once, then followed. Must not depend on notes.

import { listing } from "./relay.js"

/** Interval of requests to a relay that was never reached: there is no link yet that would detect it. */
const AGAIN_MS = 2_000

export class Log {
  /** The position read so far: `{ epoch, head }`; null to read the whole list. */
  cursor = null
  /** Whether the last request to the relay failed. */
  deaf = false
  #place
  #tell
  #looking = null
  #again = false

  /**
   * `tell` has the callbacks `meet(relay)`, before an answer is processed; `listed(id, offset)` and
   * `deleted(id)`; `whole(ids)`, after the complete list; `read()`, after the cursor moved; `page()` and
   * `looked()`, after each answer and after the last; `first()`, after the first of several. Promises are awaited.
   */
  constructor(place, tell) {
    this.#place = place
    this.#tell = tell
  }

  /** Requests news from the relay; once more if called during a request. */
  look() {
    this.#again = true
    this.#looking ??= this.#lookUntilQuiet().finally(() => (this.#looking = null))
    return this.#looking
  }

  async #lookUntilQuiet() {
    while (this.#again) {
      this.#again = false
      try {
        await this.#learn()
        this.deaf = false
      } catch {
        // Retried when the link comes up, or the relay has news.
        this.deaf = true
      }
      if (this.#tell.looked()) continue
      await new Promise(resolve => setTimeout(resolve, AGAIN_MS))
      this.#again = true
    }
  }

  async #learn() {
    const { cursor } = this
    const found = new Set()
    const waits = []
    let isFirst = !cursor
    const hear = async page => {
      await this.#meet(page, cursor)
      for (const { id, offset, deleted } of page.documents) {
        if (deleted) {
          waits.push(this.#tell.deleted(id))
        } else {
          found.add(id)
          this.#tell.listed(id, offset)
        }
      }
      this.#tell.page()
      if (isFirst && page.next !== null) await this.#tell.first()
      isFirst = false
    }
    const { epoch, head } = await listing(this.#place, cursor?.head, hear)
    if (!cursor) {
      await this.#catchUp(head, hear)
      waits.push(this.#tell.whole(found))
    }
    // The cursor moves only after orphaned edits of deleted notes are stored.
    await Promise.all(waits)
    this.cursor = { epoch, head }
    await this.#tell.read()
  }

  /**
   * Notes that were edited while the list was read are before its beginning. Repeats until all news fits into
   * one answer, so that nothing is missed.
   */
  async #catchUp(since, hear) {
    for (let answers = 0; answers !== 1; ) {
      answers = 0
      const count = page => {
        answers++
        return hear(page)
      }
      since = (await listing(this.#place, since, count)).head
    }
  }

  /** Checks that an answer is from the known relay and from the same log. */
  async #meet({ relay, epoch }, cursor) {
    await this.#tell.meet(relay)
    // With the first answer, the stored cursor has only now been loaded.
    const known = cursor ?? this.cursor
    if (!known || known.epoch === epoch) return
    this.cursor = null
    this.#again = true
    throw new Error("the relay's log was replaced")
  }
}
