// Sets the writing direction of each line from its text.

import { RangeSetBuilder } from "@codemirror/state"
import { Decoration, EditorView, ViewPlugin } from "@codemirror/view"

const automatic = Decoration.line({ attributes: { dir: "auto" } })

/** The directions of the drawn lines: others have no element. */
function drawn(view) {
  const lines = new RangeSetBuilder()
  for (const { from, to } of view.visibleRanges) {
    for (let at = from; at <= to; ) {
      const line = view.state.doc.lineAt(at)
      lines.add(line.from, line.from, automatic)
      at = line.to + 1
    }
  }
  return lines.finish()
}

class Directions {
  constructor(view) {
    this.decorations = drawn(view)
  }

  update(update) {
    if (update.docChanged || update.viewportChanged) this.decorations = drawn(update.view)
  }
}

export const directions = [
  EditorView.perLineTextDirection.of(true),
  ViewPlugin.fromClass(Directions, { decorations: plugin => plugin.decorations }),
]
