// What the relay lists of a space: read whole once, then followed. It must not know notes.

import { listing } from "./relay.js"

/** How long until a relay is asked again that was never reached: no link would tell that it is there. */
const AGAIN_MS = 2_000

export class Log {
  /** Up to where it was read: `{ epoch, head }`; null if all of it is to be read. */
  cursor = null
  /** The relay did not answer when it was asked last. */
  deaf = false
  #place
  #tell
  #looking = null
  #again = false

  /**
   * `tell` has `meet(relay)`, called before anything of an answer; `listed(id, offset)` and `deleted(id)`;
   * `whole(ids)`, when all of the list was read; `read()`, when the cursor has moved; `page()` and
   * `looked()` after an answer and after the last; `first()` after the first of many. What they return is waited for.
   */
  constructor(place, tell) {
    this.#place = place
    this.#tell = tell
  }

  /** Asks the relay what is new; once more if that is asked for meanwhile. */
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
        // It is tried again: when the link comes up, or the relay has news.
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
    // What was lost with a deletion is kept first: until then the cursor stays where it is.
    await Promise.all(waits)
    this.cursor = { epoch, head }
    await this.#tell.read()
  }

  /**
   * Notes that were edited while the list was read are in front of where it began. Nothing can be missed
   * once all that is new fits into one answer.
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

  /** An answer of the relay: is it the one that we know, and the same log? */
  async #meet({ relay, epoch }, cursor) {
    await this.#tell.meet(relay)
    // In the first answer of all, it is known only now what was read before.
    const known = cursor ?? this.cursor
    if (!known || known.epoch === epoch) return
    this.cursor = null
    this.#again = true
    throw new Error("the relay's log was replaced")
  }
}
