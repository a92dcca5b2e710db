// A note's format, as docs/notebook.md specifies it, and its row in the list.

const VERSION = 1

/** Maximum length of a title in the list. */
const LINE = 120
/** Characters searched for the first line: a text may have a million. */
const LOOKED_AT = 2_000
/** Characters of a body that the search covers: stored for each note of a space. */
export const SEARCHED = 500

/** The contents of a new note. Strings are text objects, the date is a timestamp. */
export const fresh = () => ({ landfallNotebook: VERSION, created: new Date(), title: "", body: "" })

/** A document's content as a note, or `{ problem }` with a message for the user. */
export function read(doc) {
  const version = doc.landfallNotebook
  if (version === undefined) return { problem: "This document is not a note." }
  if (typeof version !== "number" || version < 1) return { problem: "This document is not a note." }
  if (version > VERSION) return { problem: `This note has format version ${version}; this page supports up to ${VERSION}.` }
  for (const key of ["title", "body"]) {
    if (typeof doc[key] !== "string") return { problem: `The note's ${key} is not an editable text.` }
  }
  return {
    title: doc.title,
    body: doc.body,
    created: doc.created instanceof Date ? doc.created : null,
    votes: typeof doc.votes?.value === "number" ? doc.votes.value : null,
    items: Array.isArray(doc.items) ? doc.items.map(String) : [],
  }
}

/** The parts of a note that the list shows and the search covers. */
export function summary(view) {
  if (view.problem) return { problem: view.problem, title: "", line: view.problem, text: "" }
  const title = firstLine(view.title)
  return { title, line: firstLine(view.body, title), text: view.body.slice(0, SEARCHED) }
}

/** The first line that is not blank; in Markdown, and not the title. */
export function firstLine(text, title = "") {
  const lines = text.slice(0, LOOKED_AT).split(/\r\n?|\n/).map(line => line.trim())
  const says = line => line && !(title && line.replace(/^#+\s*/, "") === title && line.startsWith("#"))
  return (lines.find(says) ?? "").slice(0, LINE)
}

/** The order of the list: most recently changed first. */
export function inOrder(a, b) {
  return b.rank - a.rank || b.edited - a.edited || (a.id < b.id ? -1 : 1)
}

/** A note as a file to download: `{ name, text }`. */
export function asFile({ title, body }) {
  const name = firstLine(title).replace(/[\\/:*?"<>|\p{Cc}]+/gu, " ").trim() || "note"
  const heading = title.trim() ? `# ${title.trim()}\n\n` : ""
  return { name: `${name.slice(0, 80)}.md`, text: heading + body }
}

/** The contents of a new note that copies another, given as plain values. */
export function copyOf(plain) {
  const { title, body, ...rest } = plain
  const text = value => (typeof value === "string" ? value : "")
  return { ...rest, landfallNotebook: VERSION, created: new Date(), title: text(title), body: text(body) }
}
