// What only this browser has of a note that somebody deleted: put where nothing can lose it, and made a
// note of again.

import { Automerge } from "@automerge/automerge-repo/slim"

import { copyOf, read, summary } from "./note.js"

/** What a handle lacks of what other pages of this browser have stored. */
export async function takeStored(repo, handle) {
  const stored = await repo.storageSubsystem.loadDoc(handle.documentId).catch(() => null)
  if (!stored || !handle.isReady()) return
  const mine = Automerge.getHeads(handle.doc())
  const isThere = Automerge.getHeads(stored).every(head => mine.includes(head))
  if (!isThere) handle.update(doc => Automerge.merge(doc, stored))
}

/** What a note holds, for when its document is gone: `{ view, summary, bytes }`. */
export function copy(doc) {
  const view = read(doc)
  return { view, summary: summary(view), bytes: Automerge.save(doc) }
}

/** Resolves once all that a note's handle holds is on the browser's disk, also what is typed meanwhile. */
export async function keep(repo, shelf, note) {
  await takeStored(repo, note.handle)
  for (let heads = null; heads !== String(note.handle.heads()); ) {
    heads = String(note.handle.heads())
    Object.assign(note, copy(note.handle.doc()))
    const { title = "", body = "" } = note.view
    await shelf.keep({ id: note.id, bytes: note.bytes, title, body })
  }
  note.isKept = true
}

/** What a row of the shelf says of a note. */
export function kept({ bytes, title, body }) {
  let view = { title, body, items: [], created: null, votes: null }
  try {
    view = read(Automerge.load(bytes))
  } catch {
    // What it says is kept beside it, for a version that cannot read it.
  }
  return { state: "gone", orphan: true, isKept: true, rank: Number.MAX_VALUE, bytes, view, summary: summary(view) }
}

/** The contents of a new note that has what was kept of another. */
export const contentOf = ({ bytes, view }) => copyOf(bytes ? Automerge.toJS(Automerge.load(bytes)) : view)
