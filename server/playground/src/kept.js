// Orphaned edits of notes that were deleted elsewhere: stores them durably in this browser, and creates
// new notes from them.

import { Automerge } from "@automerge/automerge-repo/slim"

import { copyOf, read, summary } from "./note.js"

/** Merges changes that other pages of this browser have stored into a handle. */
export async function takeStored(repo, handle) {
  const stored = await repo.storageSubsystem.loadDoc(handle.documentId).catch(() => null)
  if (!stored || !handle.isReady()) return
  const mine = Automerge.getHeads(handle.doc())
  const isThere = Automerge.getHeads(stored).every(head => mine.includes(head))
  if (!isThere) handle.update(doc => Automerge.merge(doc, stored))
}

/** A copy of a note's content that outlives its document: `{ view, summary, bytes }`. */
export function copy(doc) {
  const view = read(doc)
  return { view, summary: summary(view), bytes: Automerge.save(doc) }
}

/** Resolves once all changes of a note's handle are on the browser's disk, including concurrent typing. */
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

/** The note of a row of the shelf. */
export function kept({ bytes, title, body }) {
  let view = { title, body, items: [], created: null, votes: null }
  try {
    view = read(Automerge.load(bytes))
  } catch {
    // Title and body are stored in the row too, for a version that cannot read the bytes.
  }
  return { state: "gone", orphan: true, isKept: true, rank: Number.MAX_VALUE, bytes, view, summary: summary(view) }
}

/** The contents of a new note with the kept content of a deleted one. */
export const contentOf = ({ bytes, view }) => copyOf(bytes ? Automerge.toJS(Automerge.load(bytes)) : view)
