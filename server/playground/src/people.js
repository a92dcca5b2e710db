// Who has a note open: automerge-repo's presence, one note at a time.

import { Presence } from "@automerge/automerge-repo/slim"

const NAME_KEY = "landfall-name"
/** More is no name. */
export const NAME_LENGTH = 24

const FIRST = ["Amber", "Blue", "Brisk", "Calm", "Coral", "Dusky", "Gentle", "Golden", "Keen", "Misty", "Quiet", "Silver"]
const SECOND = ["Avocet", "Curlew", "Dunlin", "Eider", "Fulmar", "Gannet", "Heron", "Osprey", "Petrel", "Plover", "Puffin", "Tern"]
const any = list => list[Math.floor(Math.random() * list.length)]

export class People {
  name
  #presence = null
  #handle = null
  #tell

  constructor(tell) {
    this.#tell = tell
    this.name = localStorage.getItem(NAME_KEY) ?? `${any(FIRST)} ${any(SECOND)}`
    localStorage.setItem(NAME_KEY, this.name)
  }

  /** Those who have the same note open, by name. */
  others() {
    const states = this.#presence ? Object.entries(this.#presence.getPeerStates().value ?? {}) : []
    const others = states.map(([peer, { value }]) => ({ peer, name: nameOf(value) }))
    return others.sort((a, b) => a.name.localeCompare(b.name) || (a.peer < b.peer ? -1 : 1))
  }

  rename(name) {
    this.name = name.trim().slice(0, NAME_LENGTH) || this.name
    localStorage.setItem(NAME_KEY, this.name)
    this.#presence?.broadcast("name", this.name)
  }

  /** Enters a note, leaves the one before; with null, only leaves. */
  enter(handle) {
    if (handle === this.#handle) return
    this.#presence?.stop()
    this.#presence?.removeAllListeners()
    this.#presence = null
    this.#handle = handle
    if (handle) {
      this.#presence = new Presence({ handle })
      for (const event of ["update", "snapshot", "heartbeat", "goodbye", "pruning"]) {
        this.#presence.on(event, this.#tell)
      }
      this.#presence.start({ initialState: { name: this.name } })
    }
    this.#tell()
  }

  /** Says again who is here: whoever came meanwhile has not heard it. */
  greet() {
    this.#presence?.broadcast("name", this.name)
  }
}

/** A stranger's state may be anything. */
function nameOf(state) {
  const name = typeof state?.name === "string" ? state.name.trim().slice(0, NAME_LENGTH) : ""
  return name || "Somebody"
}
