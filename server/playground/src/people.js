// The users who have a note open, and their carets: automerge-repo's presence, for one note at a time.

import { Presence } from "@automerge/automerge-repo/slim"

const NAME_KEY = "landfall-name"
const PERSON_KEY = "landfall-person"
/** Maximum length of a name. */
export const NAME_LENGTH = 24
/** Maximum length of a person's id, and of a cursor. */
const ID_LENGTH = 64
/** The number of colours in style.css. */
const HUES = 8
/** Minimum interval between two reports of the caret. */
const TELL_EVERY_MS = 80
/** Maximum number of users shown: a hostile peer can claim any number. */
const SHOWN_MOST = 50
const FIELDS = ["title", "body"]

const FIRST = ["Amber", "Blue", "Brisk", "Calm", "Coral", "Dusky", "Gentle", "Golden", "Keen", "Misty", "Quiet", "Silver"]
const SECOND = ["Avocet", "Curlew", "Dunlin", "Eider", "Fulmar", "Gannet", "Heron", "Osprey", "Petrel", "Plover", "Puffin", "Tern"]
const any = list => list[Math.floor(Math.random() * list.length)]

export class People {
  name
  /** The person's id, the same in all pages of this browser, so that a person has one colour everywhere. */
  person
  #presence = null
  #handle = null
  #tell
  #caret = () => null
  #timer = null
  #told = 0

  constructor(tell) {
    this.#tell = tell
    this.name = localStorage.getItem(NAME_KEY) ?? `${any(FIRST)} ${any(SECOND)}`
    localStorage.setItem(NAME_KEY, this.name)
    const drawn = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), byte => byte.toString(16).padStart(2, "0")).join("")
    this.person = localStorage.getItem(PERSON_KEY) ?? drawn()
    localStorage.setItem(PERSON_KEY, this.person)
  }

  get hue() {
    return hueOf(this.person)
  }

  /** The other pages that have the same note open: `{ peer, person, name, hue, caret, isSelf }`. */
  others() {
    const all = this.#presence ? Object.entries(this.#presence.getPeerStates().value ?? {}) : []
    const states = all.slice(0, SHOWN_MOST)
    const others = states.map(([peer, { value }]) => {
      const person = word(value?.person, ID_LENGTH) || peer
      const name = word(value?.name, NAME_LENGTH) || "Somebody"
      return { peer, person, name, hue: hueOf(person), caret: caretOf(value?.caret), isSelf: person === this.person }
    })
    return others.sort((a, b) => a.name.localeCompare(b.name) || (a.peer < b.peer ? -1 : 1))
  }

  rename(name) {
    this.name = name.trim().slice(0, NAME_LENGTH) || this.name
    localStorage.setItem(NAME_KEY, this.name)
    this.#presence?.broadcast("name", this.name)
  }

  /** Leaves the previous note and enters this one, unless it is null. `caret()` returns the user's caret. */
  enter(handle, caret = () => null) {
    if (handle === this.#handle) return
    clearTimeout(this.#timer)
    this.#timer = null
    this.#presence?.stop()
    this.#presence?.removeAllListeners()
    this.#presence = null
    this.#handle = handle
    this.#caret = caret
    if (handle) {
      this.#presence = new Presence({ handle })
      for (const event of ["update", "snapshot", "heartbeat", "goodbye", "pruning"]) {
        this.#presence.on(event, this.#tell)
      }
      this.#presence.start({ initialState: { name: this.name, person: this.person, caret: caret() } })
    }
    this.#tell()
  }

  /** The user's caret may have moved: reports it, at a limited rate. */
  moved() {
    if (!this.#presence || this.#timer) return
    const wait = Math.max(0, this.#told + TELL_EVERY_MS - performance.now())
    this.#timer = setTimeout(() => {
      this.#timer = null
      this.#told = performance.now()
      const caret = this.#caret()
      if (JSON.stringify(caret) !== JSON.stringify(this.#presence?.getLocalState().caret)) {
        this.#presence?.broadcast("caret", caret)
      }
    }, wait)
  }

  /** Repeats the presence message, for peers that joined since the last one. */
  greet() {
    this.#presence?.broadcast("name", this.name)
    this.#presence?.broadcast("person", this.person)
    this.#presence?.broadcast("caret", this.#caret())
  }
}

/** The colour of a person, the same for all viewers. */
function hueOf(person) {
  let hash = 0
  for (const letter of person) hash = (hash * 31 + letter.codePointAt(0)) >>> 0
  return hash % HUES
}

// A peer's presence state is untrusted.

const word = (value, most) => (typeof value === "string" ? value.trim().slice(0, most) : "")

function caretOf(caret) {
  const { field, anchor, head } = caret ?? {}
  const isPlace = place => typeof place === "string" && place.length <= ID_LENGTH * 2
  return FIELDS.includes(field) && isPlace(anchor) && isPlace(head) ? { field, anchor, head } : null
}
