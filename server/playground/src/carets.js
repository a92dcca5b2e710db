// The carets and selections of others, drawn over an editor. They are decoration and not
// part of the text: the page also lists the other users as text.

import { EditorSelection, StateEffect, StateField } from "@codemirror/state"
import { layer, RectangleMarker } from "@codemirror/view"

/** Sets the others' carets: `{ peer, name, hue, anchor, head }`, in the editor's positions. */
export const showCarets = StateEffect.define()

const others = StateField.define({
  create: () => [],
  update(shown, transaction) {
    for (const effect of transaction.effects) if (effect.is(showCarets)) return effect.value
    if (!transaction.docChanged || shown.length === 0) return shown
    // Until their next report, carets move with the surrounding text.
    const moved = place => transaction.changes.mapPos(place)
    return shown.map(other => ({ ...other, anchor: moved(other.anchor), head: moved(other.head) }))
  },
})

/** A caret, labelled with its owner's name. */
class Caret {
  constructor(rectangle, { name, hue }) {
    this.rectangle = rectangle
    this.name = name
    this.hue = hue
  }

  eq(other) {
    const { left, top, height } = this.rectangle
    const { rectangle } = other
    const stays = rectangle.left === left && rectangle.top === top && rectangle.height === height
    return stays && other.name === this.name && other.hue === this.hue
  }

  draw() {
    const caret = document.createElement("div")
    caret.append(document.createElement("span"))
    this.#adjust(caret)
    return caret
  }

  update(caret) {
    const again = caret.classList.contains("again")
    this.#adjust(caret)
    // A moved caret shows its name again for a while.
    caret.classList.toggle("again", !again)
    return true
  }

  #adjust(caret) {
    const { left, top, height } = this.rectangle
    caret.className = "other-caret"
    caret.dataset.hue = this.hue
    // In the first line there is no room for the name above the caret.
    caret.classList.toggle("first", top < height / 2)
    caret.firstChild.textContent = this.name
    Object.assign(caret.style, { left: `${left}px`, top: `${top}px`, height: `${height}px` })
  }
}

/** A part of a selection. */
class Selection {
  constructor(rectangle, hue) {
    this.rectangle = rectangle
    this.hue = hue
  }

  eq(other) {
    return other.hue === this.hue && this.rectangle.eq(other.rectangle)
  }

  draw() {
    const part = this.rectangle.draw()
    part.dataset.hue = this.hue
    return part
  }

  update(part, before) {
    part.dataset.hue = this.hue
    return this.rectangle.update(part, before.rectangle)
  }
}

const moves = update =>
  update.docChanged ||
  update.viewportChanged ||
  update.geometryChanged ||
  update.startState.field(others) !== update.state.field(others)

const rectangles = (view, name, anchor, head) =>
  RectangleMarker.forRange(view, name, EditorSelection.range(anchor, head))

const selections = layer({
  above: false,
  class: "other-selections",
  update: moves,
  markers: view =>
    view.state.field(others).flatMap(({ anchor, head, hue }) => {
      if (anchor === head) return []
      return rectangles(view, "other-selection", anchor, head).map(part => new Selection(part, hue))
    }),
})

const heads = layer({
  above: true,
  class: "other-carets",
  update: moves,
  markers: view =>
    view.state.field(others).flatMap(other =>
      rectangles(view, "", other.head, other.head).map(place => new Caret(place, other))
    ),
})

export const carets = [others, selections, heads]
