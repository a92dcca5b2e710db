// The list of notes, and its search. Creates rows as the user scrolls.

import { SEARCHED } from "./note.js"

/** Rows created at first, and at each further step. */
const STEP = 50

export class List {
  #at
  #list
  #end
  #notebook
  #selected = null
  #shown = STEP
  #wanted = ""
  #inSight = new Set()
  #observer
  #rows = new Map()

  /** `at` finds the page's elements; `changed()` requests a redraw. */
  constructor(at, changed) {
    this.#list = at("list")
    this.#end = at("list-end")
    this.#at = at
    const root = at("notes")
    this.#observer = new IntersectionObserver(entries => this.#seen(entries), { root, rootMargin: "100px" })
    new IntersectionObserver(
      ([entry]) => {
        if (!entry.isIntersecting || this.#shown > this.#rows.size) return
        this.#shown += STEP
        changed()
      },
      { root, rootMargin: "600px" }
    ).observe(this.#end)
    at("search").addEventListener("input", () => {
      this.#wanted = at("search").value.trim().toLowerCase()
      this.#shown = STEP
      root.scrollTop = 0
      changed()
    })
  }

  draw(notebook, selected) {
    this.#notebook = notebook
    this.#selected = selected
    const all = notebook.list()
    const found = this.#wanted ? all.filter(note => matches(note, this.#wanted)) : all
    const focused = document.activeElement?.closest?.("#list li")?.dataset.id
    const before = this.#rows
    this.#rows = new Map()
    found.slice(0, this.#shown).forEach((note, index) => {
      const row = before.get(note.id) ?? this.#newRow(note.id)
      before.delete(note.id)
      this.#rows.set(note.id, row)
      this.#drawRow(row, note)
      if (this.#list.children[index] !== row) this.#list.insertBefore(row, this.#list.children[index] ?? null)
    })
    for (const row of before.values()) {
      this.#observer.unobserve(row)
      row.remove()
    }
    for (const id of before.keys()) this.#inSight.delete(id)
    // A moved row loses the focus.
    if (focused && document.activeElement === document.body) this.#rows.get(focused)?.firstElementChild.focus()
    this.#end.hidden = found.length <= this.#shown
    this.#tell(all, found)
    this.#want()
  }

  #tell(all, found) {
    const at = this.#at
    at("count").textContent = all.length > 0 ? String(all.length) : ""
    at("empty").hidden = all.length > 0 || !this.#notebook.complete
    at("finding").hidden = all.length < 2 && !this.#wanted
    const text = this.#wanted ? `${found.length || "Nothing"} found. ${this.#covered(all)}` : ""
    if (at("found").textContent !== text) at("found").textContent = text
  }

  /** How many notes were searched: only those with a stored title can be. */
  #covered(all) {
    const { complete, isUp } = this.#notebook
    const known = all.filter(note => note.summary).length
    const of = complete ? all.length : `at least ${all.length}`
    const what = `Searched: title and first ${SEARCHED} characters of`
    if (complete && known === all.length) return `${what} all ${known} notes.`
    return `${what} ${known} of ${of} notes. ${isUp ? "The others are being read." : "The others are not in this browser."}`
  }

  #newRow(id) {
    const row = document.createElement("li")
    row.dataset.id = id
    const link = document.createElement("a")
    link.href = `#${id}`
    for (const className of ["row-title", "row-line"]) {
      link.append(Object.assign(document.createElement("span"), { className, dir: "auto" }))
    }
    row.append(link)
    this.#observer.observe(row)
    return row
  }

  #drawRow(row, note) {
    const link = row.firstElementChild
    const [title, line] = link.children
    const { summary, orphan } = note
    const waiting = note.state === "missing" ? "Not available from the relay" : "Not loaded yet"
    const text = summary ? summary.title || (summary.problem ? "Not a note" : "Untitled") : "…"
    const rest = orphan ? "Deleted elsewhere · your edits are only here" : (summary?.line ?? waiting)
    if (title.textContent !== text) title.textContent = text
    if (line.textContent !== rest) line.textContent = rest
    const owed = note.state === "ready" && !note.safe
    const className = [(!summary || summary.problem) && "odd", owed && "owed", orphan && "orphan"].filter(Boolean).join(" ")
    if (row.className !== className) row.className = className
    link.title = owed ? "Some edits are not on the relay yet" : ""
    if (note === this.#selected) link.setAttribute("aria-current", "page")
    else link.removeAttribute("aria-current")
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.#inSight.add(target.dataset.id)
      else this.#inSight.delete(target.dataset.id)
    }
    this.#want()
  }

  #want() {
    const notes = [...this.#rows.keys()].filter(id => this.#inSight.has(id))
    this.#notebook?.want(notes.map(id => this.#notebook.notes.get(id)))
  }
}

const matches = ({ summary }, wanted) =>
  Boolean(summary) && (summary.title.toLowerCase().includes(wanted) || summary.text.toLowerCase().includes(wanted))
