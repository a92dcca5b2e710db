// A note's shape, as docs/notebook.md fixes it.

const VERSION = 1

/** How long a title in the list may be. */
const LINE = 120

/** The contents of a new note. Strings are text objects, the date is a timestamp. */
export const fresh = () => ({ landfallNotebook: VERSION, created: new Date(), title: "", body: "" })

/** What a document holds as a note, or `{ problem }` in words for a person. */
export function read(doc) {
  const version = doc.landfallNotebook
  if (version === undefined) return { problem: "This document is no note." }
  if (typeof version !== "number" || version < 1) return { problem: "This document is no note." }
  if (version > VERSION) return { problem: `This note has the shape of version ${version}; this page knows ${VERSION}.` }
  for (const key of ["title", "body"]) {
    if (typeof doc[key] !== "string") return { problem: `The note's ${key} is not a text that can be edited.` }
  }
  return {
    title: doc.title,
    body: doc.body,
    created: doc.created instanceof Date ? doc.created : null,
    votes: typeof doc.votes?.value === "number" ? doc.votes.value : null,
    items: Array.isArray(doc.items) ? doc.items.map(String) : [],
  }
}

/** The first line that says something. */
export function firstLine(text) {
  const line = text.split(/\r\n?|\n/).find(line => line.trim()) ?? ""
  return line.trim().slice(0, LINE)
}

/** The order of the list: the newest first, those without a date behind them by title. */
export function inOrder(a, b) {
  const date = note => note.view?.created?.getTime() ?? -Infinity
  const title = note => (note.view?.title ?? "").toLowerCase()
  const dates = date(b) - date(a)
  // Two without a date differ by NaN.
  if (dates) return dates
  return title(a).localeCompare(title(b)) || (a.id < b.id ? -1 : 1)
}
