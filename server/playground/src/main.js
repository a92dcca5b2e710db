// The page: what is shown, and what a click does. It must not know automerge.

import { initializeWasm } from "@automerge/automerge-repo/slim"

import { Field } from "./field.js"
import { firstLine } from "./note.js"
import { Notebook } from "./notebook.js"
import { People } from "./people.js"
import { place, terminal } from "./place.js"

const at = id => document.getElementById(id)
const WIDE = matchMedia("(min-width: 46rem)")

let notebook
let people
let title
let body
let selected = null
/** Whether the others have been told who is here, since the link came up. */
let greeted = false
/** Whether a note has been shown at the start, or none was to be. */
let shown = false
let drawing = false
const hues = new Map()

/** What changed is drawn once for each frame, however much it was. */
function draw() {
  if (drawing) return
  drawing = true
  // A page in the background has no frames.
  const soon = document.hidden ? callback => setTimeout(callback) : requestAnimationFrame
  soon(() => {
    drawing = false
    drawStatus()
    drawList()
    drawNote()
    drawPeople()
  })
}

function say(element, tone, text) {
  if (element.dataset.tone !== tone) element.dataset.tone = tone
  if (element.textContent !== text) element.textContent = text
}

function drawStatus() {
  const { link, owing } = notebook
  const online = link?.online ?? true
  at("switch").disabled = !link
  at("new").disabled = !link
  at("switch").setAttribute("aria-checked", String(online))
  const notes = owing === 1 ? "1 note" : `${owing} notes`
  const status = at("status")
  if (!online) say(status, owing ? "wait" : "off", owing ? `Offline · ${notes} not on the relay yet` : "Offline")
  else if (link?.lost || notebook.deaf) say(status, "bad", owing ? `Relay not reached · ${notes} not there yet` : "Relay not reached")
  else if (!link?.up) say(status, "wait", "Connecting…")
  else if (owing) say(status, "wait", `Connected · ${notes} on the way`)
  else say(status, "good", "Connected · all on the relay")
}

function drawList() {
  const list = at("list")
  const notes = notebook.list()
  const rows = new Map([...list.children].map(row => [row.dataset.id, row]))
  notes.forEach((note, index) => {
    const row = rows.get(note.id) ?? newRow(note.id)
    rows.delete(note.id)
    drawRow(row, note)
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null)
  })
  for (const row of rows.values()) row.remove()
  at("count").textContent = notes.length > 0 ? String(notes.length) : ""
  at("empty").hidden = notes.length > 0 || !notebook.link
  at("more").hidden = notebook.unopened === 0
  at("more").textContent = `Show more (${notebook.unopened} left)`
}

function newRow(id) {
  const row = document.createElement("li")
  row.dataset.id = id
  const link = document.createElement("a")
  link.href = `#${id}`
  for (const name of ["row-title", "row-line"]) {
    link.append(Object.assign(document.createElement("span"), { className: name }))
  }
  row.append(link)
  return row
}

function drawRow(row, note) {
  const link = row.firstElementChild
  const [titleOf, line] = link.children
  const heading = note.view ? firstLine(note.view.title ?? "") : ""
  const waiting = note.state === "missing" ? "The relay does not give it." : "Loading…"
  const rest = note.view ? (note.view.problem ?? firstLine(note.view.body)) : waiting
  const text = heading || (note.view?.problem ? "No note" : "Untitled")
  if (titleOf.textContent !== text) titleOf.textContent = text
  if (line.textContent !== rest) line.textContent = rest
  row.classList.toggle("odd", !note.view || Boolean(note.view.problem))
  const owed = note.state === "ready" && !note.safe
  row.classList.toggle("owed", owed)
  link.title = owed ? "Not all of it is on the relay yet" : ""
  if (note === selected) link.setAttribute("aria-current", "page")
  else link.removeAttribute("aria-current")
}

function drawNote() {
  document.body.dataset.view = selected ? "note" : "list"
  at("note").hidden = !selected
  at("nothing").hidden = Boolean(selected)
  document.title = selected?.view?.title ? `${firstLine(selected.view.title)} · Landfall` : "Landfall notebook"
  if (!selected) return
  const { state, view } = selected
  const problem = whatIsWrong(state, view)
  at("problem").hidden = !problem
  at("problem").textContent = problem
  const editable = state === "ready" && view && !view.problem
  for (const [element, field] of [[at("title"), title], [at("body"), body]]) {
    if (editable) field.bind(selected.handle)
    else if (state !== "gone") field.bind(null)
    element.readOnly = !editable
  }
  drawSaved(state)
  drawFacts(editable ? view : null)
}

function whatIsWrong(state, view) {
  if (state === "gone") return "Somebody deleted this note, for good. What you see is a last copy, which is not kept."
  if (state === "missing") return "The relay does not have this note. It appears here as soon as it does."
  return view?.problem ?? ""
}

function drawSaved(state) {
  const saved = at("saved")
  if (state !== "ready") say(saved, "off", state === "gone" ? "Deleted" : "")
  else if (selected.safe) say(saved, "good", "On the relay’s disk")
  else if (notebook.link.up) say(saved, "wait", "On its way to the relay")
  else if (!selected.kept) say(saved, "wait", "Being stored in this browser")
  else say(saved, "wait", "In this browser, not on the relay yet")
}

function drawFacts(view) {
  const items = at("items")
  items.hidden = !view?.items.length
  items.replaceChildren(...(view?.items ?? []).map(text => Object.assign(document.createElement("li"), { textContent: text })))
  const facts = []
  if (view?.created) facts.push(`Made ${view.created.toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })}`)
  if (view?.votes != null) facts.push(view.votes === 1 ? "1 vote" : `${view.votes} votes`)
  at("facts").textContent = facts.join(" · ")
}

function drawPeople() {
  const others = people.others()
  at("nobody").hidden = others.length > 0
  at("nobody").textContent = notebook.link?.up ? "Nobody else is here" : "Others are out of sight"
  const now = JSON.stringify(others)
  if (at("others").dataset.now === now) return
  at("others").dataset.now = now
  at("others").replaceChildren(...others.map(({ peer, name }) => {
    const person = document.createElement("li")
    person.className = "person"
    person.dataset.hue = String(hueOf(peer))
    person.append(Object.assign(document.createElement("span"), { className: "dot" }), name)
    return person
  }))
}

/** One of eight colours for each, in the order in which they came. */
function hueOf(peer) {
  if (!hues.has(peer)) hues.set(peer, hues.size % 8)
  return hues.get(peer)
}

/** Selects what the address names. */
function follow() {
  const id = location.hash.slice(1).replace(/^automerge:/, "")
  try {
    selected = id && notebook.link ? notebook.get(id) : null
  } catch {
    // No id at all: as if nothing were named.
    selected = null
  }
  meet()
  draw()
}

/** Enters the selected note while the relay is there, so that others see who has it open. */
function meet() {
  const handle = notebook.link?.up && selected?.state === "ready" ? selected.handle : null
  people.enter(handle)
}

function hear(what, note) {
  if (what === "heard") {
    // The relay answered for this note, so it forwards now what is said about it.
    if (note && note === selected && !greeted) {
      greeted = true
      people.greet()
    }
    return
  }
  if (what === "link") greeted = false
  if (what === "begun") follow()
  if (what === "notes") showFirst()
  meet()
  draw()
}

/** On a wide page a note is open from the start. */
function showFirst() {
  const notes = notebook.list()
  if (shown || notes.length === 0 || notes.some(note => note.state === "loading")) return
  shown = true
  const first = notes.find(note => note.view && !note.view.problem)
  if (first && WIDE.matches && !location.hash) location.replace(`#${first.id}`)
}

async function copy() {
  const url = `automerge:${selected.id}`
  try {
    await navigator.clipboard.writeText(url)
    at("copy").textContent = "Copied"
  } catch {
    // Without TLS, and not on this machine, browsers keep the clipboard shut.
    prompt("The note's URL", url)
  }
  setTimeout(() => (at("copy").textContent = "Copy URL"), 1_500)
}

function listen() {
  addEventListener("hashchange", () => {
    greeted = false
    follow()
  })
  at("new").addEventListener("click", () => {
    location.hash = notebook.create().id
    follow()
    drawNote()
    at("title").focus()
  })
  at("switch").addEventListener("click", () => {
    if (!notebook.link.online) return notebook.goOnline()
    // The goodbye still needs the connection.
    people.enter(null)
    notebook.goOffline()
  })
  at("title").addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.isComposing) return
    event.preventDefault()
    at("body").focus()
  })
  at("name").addEventListener("keydown", event => {
    if (event.key === "Enter") at("name").blur()
  })
  at("name").addEventListener("change", () => {
    people.rename(at("name").value)
    at("name").value = people.name
  })
  at("more").addEventListener("click", () => notebook.more())
  at("copy").addEventListener("click", () => void copy())
  addEventListener("pagehide", () => people.enter(null))
  addEventListener("pageshow", () => meet())
  document.addEventListener("visibilitychange", () => void notebook.flush())
}

async function start() {
  const here = place(location)
  at("space").textContent = here.space
  at("terminal").open = WIDE.matches
  at("commands").textContent = terminal(here)
  await initializeWasm(fetch(new URL("automerge.wasm", import.meta.url)))
  people = new People(draw)
  title = new Field(at("title"), "title")
  body = new Field(at("body"), "body")
  at("name").value = people.name
  notebook = new Notebook(here, hear)
  listen()
  draw()
}

start().catch(error => {
  say(at("status"), "bad", "This page could not start")
  console.error(error)
})
