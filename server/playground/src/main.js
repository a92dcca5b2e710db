// The page: the open note and the user's actions. This module must not depend on automerge.

import { initializeWasm } from "@automerge/automerge-repo/slim"

import { UNDO_MS } from "./deletions.js"
import { List } from "./list.js"
import { Notebook } from "./notebook.js"
import { People } from "./people.js"
import { named, place, terminal } from "./place.js"
import { say, Sheet } from "./sheet.js"

const at = id => document.getElementById(id)
const WIDE = matchMedia("(min-width: 46rem)")

let notebook
let people
let list
let sheet
let selected = null
/** Whether the presence message has been sent since the link came up. */
let greeted = false
/** Whether the first note has been shown at the start, or none had to be. */
let shown = false
let drawing = false
/** The undo function of the current notice. */
let takeBack = null
let noticeTimer = null

/** Draws once per frame, however many changes there were. */
function draw() {
  if (drawing) return
  drawing = true
  // A background page has no frames.
  const soon = document.hidden ? callback => setTimeout(callback) : requestAnimationFrame
  soon(() => {
    drawing = false
    drawNow()
  })
}

function drawNow() {
  drawStatus()
  list.draw(notebook, selected)
  sheet.draw(notebook, selected)
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
  else if (link?.lost || notebook.deaf) say(status, "bad", owing ? `Relay unreachable · ${notes} not on it yet` : "Relay unreachable")
  else if (!link?.up) say(status, "wait", "Connecting…")
  else if (owing) say(status, "wait", `Connected · sending ${notes}`)
  else say(status, "good", "Connected · all on the relay")
}

/** Shows a notice at the bottom of the page for a while, with an undo button if `back` is given. */
function notice(text, back = null) {
  clearTimeout(noticeTimer)
  takeBack = back
  at("notice-text").textContent = text
  at("take-back").hidden = !back
  at("notice").hidden = false
  noticeTimer = setTimeout(endNotice, UNDO_MS)
}

function endNotice() {
  clearTimeout(noticeTimer)
  takeBack = null
  at("notice").hidden = true
}

/** Selects the note that the address names. */
function follow() {
  const id = named(location)
  try {
    selected = id && notebook.link ? notebook.get(id) : null
  } catch {
    // An invalid id counts as none.
    selected = null
  }
  meet()
  draw()
}

/** Announces presence in the selected note while the link is up. */
function meet() {
  const handle = notebook.link?.up && selected?.state === "ready" ? selected.handle : null
  people.enter(handle, () => sheet.caret())
}

function hear(what, note) {
  if (what === "heard") {
    // The relay has answered for this note, so it now forwards its ephemeral messages.
    if (note && note === selected && !greeted) {
      greeted = true
      people.greet()
    }
    return
  }
  if (what === "link") greeted = false
  if (what === "begun") follow()
  if (what === "notes") showFirst()
  if (what === "undeleted") notice("The relay did not delete the note: it is still there.")
  meet()
  draw()
}

/** On a wide page, opens the first note at the start. */
function showFirst() {
  if (shown || !notebook.link) return
  const [first] = notebook.list()
  if (!first || !(notebook.complete || first.summary)) return
  shown = true
  if (WIDE.matches && !location.hash) location.replace(`#${first.id}`)
}

/** Goes to a note, or to none. */
function show(note) {
  location.hash = note ? note.id : ""
  follow()
  drawNow()
}

function deleteSelected() {
  const note = selected
  notebook.delete(note)
  show(null)
  // The focused element was removed.
  at(at("finding").hidden ? "new" : "search").focus()
  const title = note.summary?.title || "Untitled"
  notice(`“${title}” will be deleted for everyone.`, () => {
    notebook.undelete(note)
    show(note)
  })
}

function listen() {
  addEventListener("hashchange", () => {
    greeted = false
    follow()
  })
  at("new").addEventListener("click", () => {
    show(notebook.create())
    sheet.begin()
  })
  at("switch").addEventListener("click", () => {
    if (!notebook.link.online) return notebook.goOnline()
    // The last presence message needs the connection.
    people.enter(null)
    notebook.goOffline()
  })
  at("delete").addEventListener("click", deleteSelected)
  at("take-back").addEventListener("click", () => {
    takeBack?.()
    endNotice()
  })
  at("notice-end").addEventListener("click", endNotice)
  at("save-new").addEventListener("click", () => show(notebook.saveAsNew(selected)))
  at("discard").addEventListener("click", () => {
    if (!confirm("Discard the edits of this note that only this browser has?")) return
    void notebook.discard(selected)
    show(null)
  })
  listenToPerson()
  addEventListener("pagehide", () => {
    people.enter(null)
    endNotice()
    notebook.leave()
  })
  addEventListener("pageshow", () => meet())
  document.addEventListener("visibilitychange", () => void notebook.flush())
}

function listenToPerson() {
  at("name").addEventListener("keydown", event => {
    if (event.key === "Enter") at("name").blur()
  })
  at("name").addEventListener("change", () => {
    people.rename(at("name").value)
    at("name").value = people.name
  })
}

async function start() {
  const here = place(location)
  at("space").textContent = here.space
  at("terminal").open = WIDE.matches
  at("commands").textContent = terminal(here)
  // Meanwhile the notebook requests the relay's list.
  const automerge = initializeWasm(fetch(new URL("automerge.wasm", import.meta.url)))
  people = new People(draw)
  notebook = new Notebook(here, automerge, hear)
  list = new List(at, draw)
  sheet = new Sheet(at, people)
  at("name").value = people.name
  listen()
  draw()
  await Promise.all([automerge, notebook.start()])
  // If the browser supports service workers, the page opens without the relay from the next time on. The
  // worker reads the page's files once more, so it is registered last.
  navigator.serviceWorker?.register("/playground/worker.js", { scope: "/" }).catch(() => {})
}

start().catch(error => {
  say(at("status"), "bad", "This page could not start")
  console.error(error)
})
