// A note's shape, as docs/notebook.md fixes it, and what the list keeps of one.

const VERSION = 1

/** How long a title in the list may be. */
const LINE = 120
/** Where a first line is looked for: a text may have a million characters. */
const LOOKED_AT = 2_000
/** Characters of a body that the search looks at: kept for each note of a space. */
export const SEARCHED = 500

/** The contents of a new note. Strings are text objects, the date is a timestamp. */
export const fresh = () => ({ landfallNotebook: VERSION, created: new Date(), title: "", body: "" })

/** What a document holds as a note, or `{ problem }` in words for a person. */
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

/** What the list shows of a note and the search looks at. */
export function summary(view) {
  if (view.problem) return { problem: view.problem, title: "", line: view.problem, text: "" }
  const title = firstLine(view.title)
  return { title, line: firstLine(view.body, title), text: view.body.slice(0, SEARCHED) }
}

/** The first line that says something; in Markdown, other than the title. */
export function firstLine(text, title = "") {
  const lines = text.slice(0, LOOKED_AT).split(/\r\n?|\n/).map(line => line.trim())
  const says = line => line && !(title && line.replace(/^#+\s*/, "") === title && line.startsWith("#"))
  return (lines.find(says) ?? "").slice(0, LINE)
}

/** The order of the list: what was changed last comes first. */
export function inOrder(a, b) {
  return b.rank - a.rank || b.edited - a.edited || (a.id < b.id ? -1 : 1)
}

/** As what a note is downloaded: `{ name, text }`. */
export function asFile({ title, body }) {
  const name = firstLine(title).replace(/[\\/:*?"<>|\p{Cc}]+/gu, " ").trim() || "note"
  const heading = title.trim() ? `# ${title.trim()}\n\n` : ""
  return { name: `${name.slice(0, 80)}.md`, text: heading + body }
}

/** The contents of a new note that has what another one has. `plain` is that as plain values. */
export function copyOf(plain) {
  const { title, body, ...rest } = plain
  const text = value => (typeof value === "string" ? value : "")
  return { ...rest, landfallNotebook: VERSION, created: new Date(), title: text(title), body: text(body) }
}
